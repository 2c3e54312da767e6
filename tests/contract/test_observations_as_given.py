"""What an environment returns is looked at before arrays of its space hold something else."""

import gymnasium as gym
import numpy as np
import pytest
from fakes import FaultyEnv, TinyEnv
from gymnasium import spaces
from prose import saying
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from pg_agents import A2C, REINFORCE

BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
DICT = spaces.Dict({"a": BOX, "b": spaces.Discrete(3)})
FRACTIONS = np.full(IMAGE.shape, 0.5)
NO_NUMBERS = np.zeros(3, np.float32)

WRONG = {
    "an image of fractions": (IMAGE, FRACTIONS, ["number 0.5", "uint8) would store as 0"]),
    "an image beyond its numbers": (IMAGE, np.full(IMAGE.shape, 300), ["number 300", "store as 44"]),
    "integers of fractions": (spaces.Box(-9, 9, (2,), np.int64), np.array([2.0, 0.5]), ["number 0.5", "store as 0"]),
    "one number for three": (BOX, np.zeros(1, np.float32), ["shape (1,)", "(3,)"]),
    "a number for three": (BOX, 0.5, ["shape ()", "(3,)"]),
    "a column for a row": (BOX, np.zeros((3, 1), np.float32), ["shape (3, 1)", "(3,)"]),
    "four for three": (BOX, np.zeros(4), ["shape (4,)", "(3,)"]),
    "rows of different lengths": (BOX, [[1.0], [2.0, 3.0]], ["different lengths"]),
    "the space itself": (BOX, BOX, ["the type Box"]),
    "a text": (BOX, "abc", ["the type str"]),
    "a category in an array": (spaces.Discrete(3), np.array([1]), ["shape (1,)", "Discrete(3)"]),
    "part of a category": (spaces.Discrete(3), 1.7, ["number 1.7", "Discrete(3) would store as 1"]),
    "two categories": (spaces.Discrete(3), np.array([1, 2]), ["shape (2,)", "Discrete(3)"]),
    "parts of categories": (spaces.MultiDiscrete([3, 3]), np.array([0.5, 1]), ["number 0.5", "store as 0"]),
    "an extra key": (DICT, {"a": NO_NUMBERS, "b": 1, "c": 2}, ["keys ['a', 'b', 'c']"]),
    "a missing key": (DICT, {"a": NO_NUMBERS}, ["keys ['a']"]),
    "no keys": (DICT, NO_NUMBERS, ["shape (3,)", "Dict("]),
    "one number in a part": (DICT, {"a": np.zeros(1), "b": 1}, ["shape (1,)", "(3,)"]),
    "a fraction in a part": (DICT, {"a": NO_NUMBERS, "b": 0.5}, ["number 0.5", "Discrete(3) would store as 0"]),
}


def policy_for(space):
    return "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy" if space is IMAGE else "MlpPolicy"


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(("space", "observation", "facts"), WRONG.values(), ids=WRONG)
def test_the_first_observations_are_refused_if_storing_would_change_them(space, observation, facts, at):
    """Of resets, and of steps after a correct one."""
    right = TinyEnv(None, space)
    wrong = FaultyEnv(None, space, at=at, observation=observation)
    agent = A2C(policy_for(space), DummyVecEnv([lambda: right, lambda: wrong]), n_steps=4)
    message = ["environment 1 does not match its observation space", *facts]
    with pytest.raises(ValueError, match=saying(*message)):
        agent.learn(8)


ACCEPTED = {
    "float64 for float32": (BOX, np.zeros(3)),
    "integers for float32": (BOX, np.zeros(3, int)),
    "a list": (BOX, [0.1, 0.2, 0.3]),
    "a row": (BOX, np.zeros((1, 3), np.float32)),
    "whole numbers for bytes": (IMAGE, np.full(IMAGE.shape, 7.0)),
    "one number for one": (spaces.Box(-1, 1, (1,)), 0.5),
    "an array for a category": (spaces.Discrete(3), np.array(2)),
    "a truth value for a category": (spaces.Discrete(3), True),
    "out of bounds": (BOX, np.full(3, 7.0, np.float32)),
}


@pytest.mark.parametrize(("space", "observation"), ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_stored_as_it_is_passes(space, observation):
    env = FaultyEnv(None, space, at=0, observation=observation)
    REINFORCE(policy_for(space), env, n_episodes=1).learn(5)


class Passing(DummyVecEnv):
    """Hands on what it is given, as a VecEnv with other processes does."""

    def __init__(self, env_fns):
        super().__init__(env_fns)
        self.buf_obs[None] = self.buf_obs[None].astype(np.float64)
        self._save_obs = self._save_obs


@pytest.mark.parametrize("at", [0, 1])
def test_a_vec_env_that_hands_on_what_it_is_given_is_looked_at(at):
    env = Passing([lambda: FaultyEnv(None, IMAGE, at=at, observation=FRACTIONS)])
    with pytest.raises(ValueError, match=saying("does not match its observation space", "number 0.5", "store as 0")):
        A2C("CnnPolicy", env, n_steps=4).learn(4)


def test_a_vector_environment_is_looked_at():
    class Wrong(gym.vector.VectorEnv):
        metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
        num_envs, single_action_space = 2, spaces.Discrete(2)
        single_observation_space = spaces.Box(0, 255, (3,), np.uint8)
        observation_space = gym.vector.utils.batch_space(single_observation_space, 2)
        action_space = gym.vector.utils.batch_space(single_action_space, 2)

        def reset(self, *, seed=None, options=None):
            return np.full((2, 3), 0.5), {}

    with pytest.raises(ValueError, match=saying("the environments", "number 0.5", "store as 0")):
        A2C("MlpPolicy", Wrong()).learn(4)


def test_environments_are_left_as_they_were():
    env = VecFrameStack(DummyVecEnv([lambda: TinyEnv(None, spaces.Dict({"a": BOX}))]), 2)
    agent = A2C("MultiInputPolicy", env, n_steps=4).learn(4)
    assert "_save_obs" not in vars(env.venv)
    agent.learn(4, reset_num_timesteps=False)
