"""A training is killed at 30 random moments, resumed each time, and ends as one that was left alone."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

N_KILLS = 30
TOTAL = 3000


def train(folder: Path) -> None:
    """Begin, or go on with what is there, and leave a sum of the results."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    from pg_agents import PPO, Checkpoint
    from pg_agents.resuming.folders import newest_checkpoint

    if newest_checkpoint(folder) is None:
        env = VecNormalize(make_vec_env("CartPole-v1", 2, seed=0))
        agent = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=2, seed=0, policy_kwargs={"net_arch": [8]})
        agent.learn(TOTAL, callback=Checkpoint(folder, 64))
    else:
        agent = PPO.resume(folder).learn_on()
    found = hashlib.sha256()
    for parameter in agent.policy.parameters():
        found.update(parameter.detach().numpy().tobytes())
    for state in agent.policy.optimizer.state.values():
        found.update(state["exp_avg_sq"].numpy().tobytes())
    normaliser = agent.get_vec_normalize_env()
    found.update(normaliser.obs_rms.mean.tobytes() + normaliser.returns.tobytes())
    found.update(repr([*agent.episode_statistics.finished, agent.num_timesteps]).encode())
    (folder / "sum").write_text(found.hexdigest())


def in_a_child(folder: Path, seconds: float) -> bool:
    """Train in a copy of this process, which is killed after some time; whether it has ended before."""
    child = os.fork()
    if child == 0:
        try:
            train(folder)
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"The child ended with {status}.")
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main(folder: Path) -> None:
    (folder / "whole").mkdir()
    train(folder / "whole")  # here, so that all children find the compiled engine loaded
    rng, n_kills, n_runs, sums = random.Random(0), 0, 0, []
    while n_kills < N_KILLS:
        run = folder / f"run{n_runs}"
        run.mkdir()
        while not in_a_child(run, rng.uniform(0.0, 0.5) if n_kills < N_KILLS else 600):
            n_kills += 1
        sums.append((run / "sum").read_text())
        n_runs += 1
    print(json.dumps({"kills": n_kills, "sums": sums, "whole": (folder / "whole" / "sum").read_text()}))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are copies of a process")
def test_a_training_that_is_killed_again_and_again_ends_as_one_that_is_left_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] >= N_KILLS
    assert set(found["sums"]) == {found["whole"]}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
