"""Episodes that a wrapper above `Monitor` ends are recorded."""

import csv

import gymnasium as gym
import pytest
from fakes import ScriptedEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from pg_agents import A2C, evaluate_policy
from pg_agents.envs.stepping import stepper
from pg_zoo.runs.endings import with_recorded_endings


class Lives(gym.Wrapper):
    """Says after every second step that the episode is over, where the environment goes on, as Atari's lives do."""

    def step(self, action):
        *found, _, truncated, info = self.env.step(action)
        self.over = "episode" in info
        self.t += 1
        return *found, self.over or self.t % 2 == 0, truncated, info

    def reset(self, **kwargs):
        self.t = 0
        if getattr(self, "over", True):
            return self.env.reset(**kwargs)
        return self.env.step(0)[0], {}


def limited(n_steps):
    return with_recorded_endings(lambda env: TimeLimit(env, n_steps))


def episodes(wrapper, n_steps=12, folder=None, **kwargs):
    """Return and length of the episodes that are recorded in the infos, one environment after the other."""
    env = make_vec_env(lambda: ScriptedEnv(5), 2, wrapper_class=wrapper, monitor_dir=folder, **kwargs)
    env.reset()
    step, found = stepper(env), [[], []]
    for _ in range(n_steps):
        for episodes_of_one, info in zip(found, step([0, 0])[3], strict=True):
            if "episode" in info:
                episodes_of_one.append((info["episode"]["r"], info["episode"]["l"], info["TimeLimit.truncated"]))
    env.close()
    return found


# Step t pays t: three steps 1 + 2 + 3, five 15.
@pytest.mark.parametrize(
    ("limit", "expected"), [(3, [(6, 3, True)] * 4), (5, [(15, 5, False)] * 2), (99, [(15, 5, False)] * 2)]
)
@pytest.mark.parametrize("processes", [{}, {"vec_env_cls": SubprocVecEnv, "vec_env_kwargs": {"start_method": "fork"}}])
def test_the_first_end_counts_and_is_recorded_once(limit, expected, processes):
    assert episodes(limited(limit), **processes) == [expected, expected]


def test_the_record_goes_into_the_file_of_the_monitor(tmp_path):
    episodes(limited(3), folder=str(tmp_path))
    with (tmp_path / "1.monitor.csv").open() as file:
        file.readline()
        assert [(row["r"], row["l"]) for row in csv.DictReader(file)] == [("6.0", "3")] * 4


def test_a_life_that_is_lost_is_no_end():
    (first, second) = episodes(with_recorded_endings(Lives), n_steps=10)
    assert first == second
    assert {episode[:2] for episode in first} == {(15, 5)}


def test_an_evaluation_and_a_training_see_the_limit():
    env = make_vec_env(lambda: ScriptedEnv(10**9), 2, wrapper_class=limited(4))
    agent = A2C("MlpPolicy", env, device="cpu", engine="autograd").learn(60)
    assert [info["l"] for info in agent.ep_info_buffer] == [4] * len(agent.ep_info_buffer) != []
    assert evaluate_policy(agent, env, 3, return_episode_rewards=True) == ([10, 10, 10], [4, 4, 4])


def test_without_a_wrapper_there_is_none():
    assert with_recorded_endings(None) is None
