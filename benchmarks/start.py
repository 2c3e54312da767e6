"""Time and memory of a short run in a fresh process; `throughput.py` calls it once for each number.

    python benchmarks/start.py pg_agents
    python benchmarks/start.py stable_baselines3

Prints, as JSON, the seconds from the start of this file to the end of a first rollout and update (`start`), and the
process's peak memory in MB after a short run (`memory`).
"""

from __future__ import annotations

import time

START = time.perf_counter()

import importlib  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402


def main() -> None:
    module = importlib.import_module(sys.argv[1])
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env("CartPole-v1", 8, seed=0)
    agent = module.PPO("MlpPolicy", env, n_steps=32, batch_size=256, n_epochs=1, seed=0, device="cpu")
    agent.learn(256)
    start = time.perf_counter() - START
    agent.learn(8192)
    # Not `ru_maxrss`: Linux starts it at the parent's peak.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({"start": start, "memory": int(status["VmHWM"].split()[0]) / 1024}))


if __name__ == "__main__":
    main()
