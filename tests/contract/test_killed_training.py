"""A training is killed at 30 random moments, resumed each time, and ends as one that was left alone."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from breaking import in_a_child, in_a_process_of_its_own
from warm import Server

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


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def main(folder: Path) -> None:
    (folder / "whole").mkdir()
    train(folder / "whole")  # here, so that all children find the compiled engine loaded
    rng, n_kills, n_runs, sums = random.Random(0), 0, 0, []
    while n_kills < N_KILLS:
        run = folder / f"run{n_runs}"
        run.mkdir()
        while not in_a_child(partial(train, run), after(rng.uniform(0.0, 0.5) if n_kills < N_KILLS else 600)):
            n_kills += 1
        sums.append((run / "sum").read_text())
        n_runs += 1
    print(json.dumps({"kills": n_kills, "sums": sums, "whole": (folder / "whole" / "sum").read_text()}))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are copies of a process")
def test_a_training_that_is_killed_again_and_again_ends_as_one_that_is_left_alone(tmp_path: Path, warm: Server) -> None:
    status, out, errors = in_a_process_of_its_own(warm, __file__, tmp_path)
    assert status == 0, errors
    found = json.loads(out.splitlines()[-1])
    assert found["kills"] >= N_KILLS
    assert set(found["sums"]) == {found["whole"]}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
