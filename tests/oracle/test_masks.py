"""Masks of actions: an agent that takes them is given them wherever it acts, as sb3-contrib's own evaluation does."""

import csv
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy as theirs
from stable_baselines3.common.env_util import make_vec_env

from pg_agents import A2C, EvalCallback, collect_demonstrations, evaluate_policy
from pg_zoo.cli import main
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.training import run_cell


class Forbidding(gym.Env):
    """Of three actions, which one is allowed depends on the step, and is not seen; a forbidden one costs 5."""

    observation_space, action_space = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}

    def action_masks(self):
        return np.arange(3) == self.t % 3

    def step(self, action):
        reward = 1.0 if self.action_masks()[action] else -5.0
        self.t += 1
        return np.zeros(3, np.float32), reward, self.t == 6, False, {}


@pytest.fixture
def agent():
    return MaskablePPO("MlpPolicy", make_vec_env(Forbidding, 2), n_steps=8, batch_size=8, seed=0, device="cpu")


def test_evaluations_are_those_of_sb3_contrib(agent):
    env = make_vec_env(Forbidding, 3)
    ours = evaluate_policy(agent, env, 4, return_episode_rewards=True)
    assert ours == theirs(agent, env, 4, return_episode_rewards=True) == ([6.0] * 4, [6] * 4)
    seen = []
    evaluate_policy(agent, env, 4, callback=lambda local, _: seen.append(local["reward"]))  # by SB3's loop
    assert set(seen) == {1.0}


def test_the_evaluations_of_a_training_have_masks(agent):
    callback = EvalCallback(make_vec_env(Forbidding, 1), eval_freq=4, n_eval_episodes=2, verbose=0)
    agent.learn(16, callback=callback)
    assert callback.best_mean_reward == 6


def test_an_agent_that_takes_no_masks_acts_as_before():
    agent = A2C("MlpPolicy", make_vec_env(Forbidding, 1), seed=0, device="cpu")
    returns, _ = evaluate_policy(agent, make_vec_env(Forbidding, 1), 1, return_episode_rewards=True)
    assert returns == [2 * 1 - 4 * 5]  # always the same action, which is allowed in every third step


def test_demonstrations_keep_to_the_masks(agent):
    demonstrations = collect_demonstrations(agent, make_vec_env(Forbidding, 1), 2)
    assert demonstrations.actions.ravel().tolist() == [0, 1, 2, 0, 1, 2] * 2


def test_the_command_line_acts_with_masks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(gym.registry, "Forbidding-v0", gym.envs.registration.EnvSpec("Forbidding-v0", Forbidding))
    small = {"policy": "MlpPolicy", "n_steps": 8, "batch_size": 8, "n_epochs": 1, "n_timesteps": 16}
    which = ["--algo", "contrib/maskableppo", "--env", "Forbidding-v0"]
    given = [f"{name}:{value}" for name, value in small.items()]
    assert main(["train", *which, "--eval-freq", "8", "--verbose", "0", "--hyperparams", *given]) == 0
    (evaluations,) = Path("logs").rglob("evaluations.npz")
    assert (np.load(evaluations)["results"] == 6).all()
    assert main(["enjoy", *which, "--no-render", "-n", "12"]) == 0
    assert "Mean reward: 6.00 +/- 0.00" in capsys.readouterr().out
    options = {"eval_points": 1, "eval_episodes": 1, "final_episodes": 2}
    run_cell(Cell("contrib/maskableppo", "Forbidding-v0", 0, small, "a test", **options), tmp_path / "cell")
    with (tmp_path / "cell/evaluation.csv").open() as file:
        assert [float(row["return"]) for row in csv.DictReader(file)] == [6, 6]
