"""How fast is training, beside Stable-Baselines3 in the same run?

    python benchmarks/throughput.py               # writes benchmarks/results/throughput.md

Ours and SB3's agent are trained alternately, in pairs, with equal hyperparameters, seeds and one torch thread;
environment steps per second of `learn`, Monitor included. The table gives medians, and the median of the pairs'
ratios.
"""

from __future__ import annotations

import argparse
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3.common.env_util import make_vec_env

import pg_agents

WORKLOADS = {
    "PPO defaults, CartPole-v1, 1 env": ("PPO", "CartPole-v1", 1, {}),
    "PPO defaults, Pendulum-v1, 1 env": ("PPO", "Pendulum-v1", 1, {}),
    "PPO 8 envs, 256 steps, batch 256, 10 epochs, CartPole-v1": (
        "PPO",
        "CartPole-v1",
        8,
        {"n_steps": 256, "batch_size": 256},
    ),
    "A2C defaults, CartPole-v1, 8 envs": ("A2C", "CartPole-v1", 8, {}),
}


def steps_per_second(module: object, algorithm: str, env_id: str, n_envs: int, kwargs: dict, n_steps: int) -> float:
    env = make_vec_env(env_id, n_envs, seed=0)
    agent = getattr(module, algorithm)("MlpPolicy", env, seed=0, device="cpu", **kwargs)
    start = time.perf_counter()
    agent.learn(n_steps, log_interval=None)
    return agent.num_timesteps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8192, help="environment steps of one training")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "throughput.md")
    args = parser.parse_args()
    th.set_num_threads(1)
    lines = ["| workload | SB3, steps/s | ours, steps/s | ratio |", "|---|---|---|---|"]
    for name, workload in WORKLOADS.items():
        pairs = np.array(
            [
                [steps_per_second(module, *workload, args.steps) for module in (stable_baselines3, pg_agents)]
                for _ in range(args.pairs)
            ]
        )
        theirs, ours = np.median(pairs, axis=0)
        ratio = np.median(pairs[:, 1] / pairs[:, 0])
        lines.append(f"| {name} | {theirs:,.0f} | {ours:,.0f} | {ratio:.2f} |")
        print(lines[-1], flush=True)
    packages = {name: version(name) for name in ("pg-agents", "stable-baselines3", "torch", "numpy")}
    made = ", ".join(f"{name} {number}" for name, number in packages.items())
    args.output.write_text(
        f"# Throughput\n\nMade by `python benchmarks/throughput.py --pairs {args.pairs} --steps {args.steps}` with "
        f"{made}, Python {platform.python_version()}, one thread, engine `autograd`.\n\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
