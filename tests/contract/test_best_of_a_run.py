"""Checkpoints keep the best model of a training beside the newest ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from pg_agents import PPO, Checkpoint, EvalCallback, load_normalization


def envs(normalised: bool) -> Any:
    env = make_vec_env("CartPole-v1", 2, seed=5)
    return VecNormalize(env) if normalised else env


def training(folder: Path, normalised: bool) -> tuple[PPO, list[BaseCallback]]:
    agent = PPO(
        "MlpPolicy",
        envs(normalised),
        n_steps=16,
        batch_size=16,
        n_epochs=1,
        learning_rate=0.03,
        seed=0,
        policy_kwargs={"net_arch": [4]},
    )
    return agent, [Checkpoint(folder / "run", 64), evaluation(folder, normalised)]


def evaluation(folder: Path, normalised: bool) -> EvalCallback:
    return EvalCallback(
        envs(normalised), n_eval_episodes=3, eval_freq=16, best_model_save_path=str(folder / "theirs"), verbose=0
    )


def parameters(path: Path) -> dict[str, th.Tensor]:
    return dict(PPO.load(path).policy.state_dict())


@pytest.mark.parametrize("normalised", [False, True])
def test_the_best_model_stays_also_after_an_interruption(normalised: bool, tmp_path: Path) -> None:
    agent, callbacks = training(tmp_path, normalised)
    agent.learn(256, callback=callbacks)
    for total in (None, 512):
        best, theirs = parameters(tmp_path / "run/best/model"), parameters(tmp_path / "theirs/best_model")
        assert best.keys() == theirs.keys()
        for name, value in best.items():
            th.testing.assert_close(value, theirs[name], rtol=0, atol=0)
        files = sorted(path.name for path in (tmp_path / "run/best").iterdir())
        assert files == (["model.zip", "vecnormalize.pkl"] if normalised else ["model.zip"])
        if total is not None:
            PPO.resume(tmp_path / "run").learn_on(total, callback=[evaluation(tmp_path, normalised)])
    if normalised:
        loaded = load_normalization(tmp_path / "run/best/vecnormalize.pkl", make_vec_env("CartPole-v1", 2))
        assert loaded.obs_rms.count > 10
        assert np.isfinite(loaded.obs_rms.mean).all()


def test_without_evaluations_there_is_none_and_another_run_removes_it(tmp_path: Path) -> None:
    agent, callbacks = training(tmp_path, False)
    agent.learn(64, callback=callbacks)
    assert (tmp_path / "run/best").is_dir()
    agent.learn(64, callback=Checkpoint(tmp_path / "run", 64, overwrite=True))
    assert not (tmp_path / "run/best").exists()
