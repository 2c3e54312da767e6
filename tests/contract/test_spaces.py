"""Spaces that SB3's policies do not know reach the environment and the policy as they should."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
from fakes import RepeatEnv, TinyEnv, short
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pg_agents import A2C, A3C, PPO, REINFORCE, collect_demonstrations, imitate
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.evaluation import evaluate_policy
from pg_agents.spaces import Translation

BOX = spaces.Box(-1, 1, (3,), np.float32)
FROM_5 = spaces.Discrete(3, start=5)
GRID = spaces.MultiDiscrete([[2, 3], [4, 2]])
GRID_FROM = spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, -1], [0, 7]])
ROW_FROM = spaces.MultiDiscrete([2, 3], start=[1, -2])
SWITCHES = spaces.MultiBinary([2, 2])
DICE = spaces.Box(0, 5, (2,), np.int64)
BYTES = spaces.Box(0, 3, (2, 2), np.uint8)
HALF = spaces.Box(-1, 1, (2,), np.float16)
NUMBER = spaces.Box(-1, 1, (), np.float32)
CATEGORIES = [FROM_5, spaces.Discrete(4, start=-2), GRID, GRID_FROM, ROW_FROM, SWITCHES]
SPACES = [*CATEGORIES, DICE, BYTES, HALF, NUMBER]


def policy_for(space):
    return "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"


def repeating(cls, space, n_envs=2, action_space=None, **kwargs):
    env = DummyVecEnv([lambda: RepeatEnv(space, action_space)] * n_envs)
    return cls(policy_for(space), env, seed=0, device="cpu", **kwargs)


def shown(space, n=5):
    """Observations of several environments, as a VecEnv returns them."""
    env = DummyVecEnv([lambda: RepeatEnv(space)] * n)
    env.seed(3)
    return env.reset()


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_actions_are_in_the_environments_space(space, engine):
    """In training and from `predict`, alone and in batches."""
    agent = repeating(A2C, space, n_steps=4, engine=engine).learn(16)
    assert not any(env.unwrapped.outside for env in agent.get_env().envs)
    observations = shown(space)
    for deterministic in (True, False):
        actions, _ = agent.predict(observations, deterministic=deterministic)
        one, _ = agent.predict(observations[0], deterministic=deterministic)
        assert (actions.shape, np.shape(one)) == ((5, *space.shape), space.shape)
        assert actions.dtype == space.dtype
        assert all(space.contains(np.asarray(action)) for action in (*actions, one))


IN_A_ROW = {
    "Discrete": (FROM_5, spaces.Discrete(3)),
    "MultiDiscrete": (GRID, spaces.MultiDiscrete([2, 3, 4, 2])),
    "MultiDiscrete from": (GRID_FROM, spaces.MultiDiscrete([2, 3, 4, 2])),
    "MultiBinary": (SWITCHES, spaces.MultiBinary(4)),
    "Dict": (
        spaces.Dict({"b": BOX, "a": FROM_5, "c": GRID}),
        spaces.Dict({"b": BOX, "a": spaces.Discrete(3), "c": spaces.MultiDiscrete([2, 3, 4, 2])}),
    ),
}


@pytest.mark.parametrize(("space", "in_a_row"), IN_A_ROW.values(), ids=IN_A_ROW)
def test_an_agent_learns_what_sb3_learns_of_the_same_categories_in_a_row_from_0(space, in_a_row):
    """Both spaces draw the same categories from one seed."""
    settings = {"n_steps": 8, "batch_size": 8, "n_epochs": 2}
    ours = repeating(PPO, space, engine="autograd", **settings).learn(48)
    theirs = repeating(stable_baselines3.PPO, in_a_row, **settings).learn(48)
    for (name, one), other in zip(ours.policy.state_dict().items(), theirs.policy.state_dict().values(), strict=True):
        assert th.equal(one, other), name


class RoundingEnv(RepeatEnv):
    """Rounds the actions of a Box of floats itself."""

    def step(self, action):
        return super().step(np.rint(action).astype(np.int64))


def test_rounded_actions_are_learnt_from_as_they_were_drawn():
    """SB3's buffer would keep their integer parts only."""
    settings = {"policy": "MlpPolicy", "seed": 0, "n_steps": 8, "batch_size": 8, "n_epochs": 2}
    ours = PPO(env=RepeatEnv(DICE), engine="autograd", **settings).learn(48)
    rounds = RoundingEnv(DICE, spaces.Box(0, 5, (2,), np.float32))
    theirs = stable_baselines3.PPO(env=rounds, **settings).learn(48)
    for one, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert th.equal(one, other)


def test_integers_are_the_nearest_and_within_the_bounds():
    largest = np.iinfo(np.int64).max
    for space, drawn, sent in [
        (DICE, [2.4, 2.6], [2, 3]),
        (DICE, [0.0, 5.0], [0, 5]),
        (BYTES, [[0.2, 0.8], [2.2, 3.0]], [[0, 1], [2, 3]]),
        (spaces.Box(-largest, largest, (2,), np.int64), [-1e19, 2.7], [-largest + 1023, 3]),
    ]:
        actions = Translation(BOX, space).actions(np.array(drawn, np.float32))
        assert (actions.tolist(), actions.dtype) == (sent, space.dtype)
        assert space.contains(actions)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (PPO, {"n_steps": 64, "learning_rate": 3e-3}),
        (A2C, {"learning_rate": 1e-2, "n_steps": 16}),
        (REINFORCE, {"n_episodes": 32, "learning_rate": 1e-2}),
    ],
)
def test_the_number_that_is_shown_is_learnt(cls, settings):
    agent = repeating(cls, FROM_5, gamma=0.0, **settings).learn(6000)
    assert [int(agent.predict(np.array(number), deterministic=True)[0]) for number in (5, 6, 7)] == [5, 6, 7]
    assert evaluate_policy(agent, RepeatEnv(FROM_5), n_eval_episodes=20, warn=False) == (1.0, 0.0)


def test_workers_and_gymnasiums_vector_environments_are_sent_the_same_numbers():
    asynchronous = A3C("MlpPolicy", RepeatEnv(FROM_5), n_steps=4, n_workers=1, seed=0).learn(32)
    assert int(asynchronous.predict(np.array(6))[0]) in (5, 6, 7)
    vector = gym.vector.SyncVectorEnv([lambda: RepeatEnv(GRID_FROM)] * 2, autoreset_mode="SameStep")
    A2C("MlpPolicy", vector, n_steps=4, seed=0).learn(16)
    assert not any(env.outside for env in vector.envs)


@pytest.mark.parametrize("space", [FROM_5, ROW_FROM, DICE], ids=str)
def test_files_go_to_sb3_and_back(space, tmp_path):
    ours = repeating(PPO, space, n_steps=8, batch_size=8, action_space=space).learn(16)
    ours.save(tmp_path / "ours")
    observations = shown(space)
    expected, _ = ours.predict(observations, deterministic=True)
    again = PPO.load(tmp_path / "ours", env=RepeatEnv(space))
    assert (again.observation_space, again.action_space) == (space, space)
    assert np.array_equal(again.predict(observations, deterministic=True)[0], expected)
    theirs = stable_baselines3.PPO.load(tmp_path / "ours", env=RepeatEnv(space))
    theirs.save(tmp_path / "theirs")
    assert np.array_equal(PPO.load(tmp_path / "theirs").predict(observations, deterministic=True)[0], expected)
    if space is FROM_5:  # SB3 counts from 0
        in_a_row = stable_baselines3.PPO("MlpPolicy", RepeatEnv(spaces.Discrete(3)))
        in_a_row.policy.load_state_dict(theirs.policy.state_dict())
        assert np.array_equal(in_a_row.predict(observations - 5, deterministic=True)[0] + 5, expected)


def test_demonstrations_are_imitated_in_the_environments_own_numbers():
    agent = repeating(PPO, GRID_FROM, n_steps=8, batch_size=8)

    class Repeating:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return observation, None

    shown_to_it = collect_demonstrations(Repeating(), RepeatEnv(GRID_FROM), 400, seed=0)
    imitate(agent, shown_to_it, learning_rate=1e-2, n_epochs=40, seed=0)
    observations = shown(GRID_FROM)
    assert np.array_equal(agent.predict(observations, deterministic=True)[0], observations)


def test_normalised_integers_are_learnt_from_as_fractions():
    """SB3's buffer would keep their integer parts only."""
    space = spaces.Box(0, 9, (3,), np.int64)
    envs = VecNormalize(make_vec_env(lambda: TinyEnv(None, space), 2))
    agent = A2C("MlpPolicy", envs, n_steps=4, seed=0)
    stored = agent.rollout().observations
    assert np.any(stored != np.floor(stored))


def test_a_vector_environment_with_a_start_is_adapted():
    vector = gym.vector.SyncVectorEnv([lambda: RepeatEnv(FROM_5)] * 3, autoreset_mode="SameStep")
    env = VectorEnvAdapter(vector)
    env.seed(0)
    assert set(env.reset()) <= {5, 6, 7}


def test_normalising_integers_after_construction_names_the_remedy(tmp_path):
    def envs():
        return make_vec_env(lambda: TinyEnv(None, spaces.Box(0, 10, (3,), np.int64)), 1)

    agent = short(A2C, envs())
    agent.save(tmp_path / "agent")
    agent.set_env(VecNormalize(envs()))
    with pytest.raises(ValueError, match=r"VecNormalize makes fractions.*load\(path, env=\.\.\.\)"):
        agent.learn(8)
    A2C.load(tmp_path / "agent", env=VecNormalize(envs()), device="cpu").learn(8)
