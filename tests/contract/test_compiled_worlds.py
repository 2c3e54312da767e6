"""Compiled rollouts refuse by name what is not finite, and evaluation in compiled code is SB3's."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from pg_agents import A2C, PPO, REINFORCE
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.make import make_vec, offers_copies
from pg_envs.worlds import World, WorldVector

pytest.importorskip("numba")


def start(state, random):
    state[0] = 0.0


def step(state, action, random, constants):
    """Count; at the step `constants[0]` the reward is `constants[1]`."""
    state[0] += 1.0
    return (constants[1] if state[0] == constants[0] else 1.0), False


def observe(state, observation, constants):
    observation[0] = constants[2] if state[0] == constants[0] else 0.1 * state[0]


def counting(at, reward=1.0, observation=0.0):
    box = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    return World(start, step, observe, 1, box, spaces.Discrete(2), (at, reward, observation))


def agent_in(world, algorithm=PPO, limit=None, **arguments):
    envs = VectorEnvAdapter(WorldVector(world, 2, max_episode_steps=limit))
    return algorithm("MlpPolicy", envs, seed=0, **arguments)


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (counting(5, reward=np.nan), "The reward of environment 0 is not finite, after 10 steps in all: nan"),
        (
            counting(5, observation=np.inf),
            "The observation of environment 0 is not finite, after 10 steps in all: .*inf",
        ),
    ],
)
def test_a_number_that_is_not_finite_is_named_with_its_step(world, message):
    agent = agent_in(world, n_steps=16, batch_size=32)
    with pytest.raises(ValueError, match=message):
        agent.learn(100)


def test_a_last_value_that_is_not_finite_is_named():
    agent = agent_in(counting(7, observation=np.inf), limit=7, n_steps=16, batch_size=32)
    with pytest.raises(
        ValueError, match=r"last observation of environment 0 is .*, after 14 steps.*The observation: .inf"
    ):
        agent.learn(100)


def test_an_episode_that_does_not_end_is_named():
    agent = agent_in(counting(0), REINFORCE)
    agent.max_episode_steps = 30
    with pytest.raises(ValueError, match="episode of environment 0 has not ended after 30 steps"):
        agent.learn(100)


@pytest.fixture(scope="module")
def agent():
    return PPO("MlpPolicy", make_vec("CartPole-v1", 4, world=True), n_steps=64, batch_size=64, seed=0).learn(2000)


@pytest.mark.parametrize("n_envs", [1, 3, 8])
@pytest.mark.parametrize("n_episodes", [1, 7])
def test_an_evaluation_in_compiled_code_is_that_of_sb3(agent, n_envs, n_episodes):
    def envs():
        return make_vec("CartPole-v1", n_envs, world=True, seed=11)

    returns, lengths = evaluate_policy(agent, envs(), n_episodes, return_episode_rewards=True)
    n_of_each = (n_episodes + np.arange(n_envs)) // n_envs
    assert agent.roll_episodes(envs(), n_of_each) == list(zip(returns, lengths, strict=True))


def test_an_evaluation_normalises_and_changes_no_statistics(agent):
    def envs():
        normalised = VecNormalize(make_vec("CartPole-v1", 2, world=True, seed=11), training=False, norm_reward=False)
        normalised.obs_rms.mean, normalised.obs_rms.var = np.array([0.1, 0, -0.02, 0]), np.array([1, 2.0, 0.1, 1])
        return normalised

    returns, lengths = evaluate_policy(agent, envs(), 4, return_episode_rewards=True)
    own = envs()
    assert agent.roll_episodes(own, np.array([2, 2])) == list(zip(returns, lengths, strict=True))
    np.testing.assert_array_equal(own.obs_rms.var, [1, 2, 0.1, 1])
    assert own.obs_rms.count == envs().obs_rms.count


def test_drawn_actions_repeat_with_torchs_seed(agent):
    def played():
        th.manual_seed(3)
        return agent.roll_episodes(
            make_vec("CartPole-v1", 2, world=True, seed=11), np.array([3, 3]), deterministic=False
        )

    assert played() == played()
    lengths = [length for _, length in played()]
    assert len(set(lengths)) > 1


def test_an_evaluation_leaves_the_training_as_it_is(agent):
    one, other = (A2C("MlpPolicy", make_vec("CartPole-v1", 2, world=True), seed=0).learn(200) for _ in range(2))
    one.roll_episodes(make_vec("CartPole-v1", 2, world=True, seed=11), np.array([3, 3]), deterministic=False)
    for each in (one, other):
        each.learn(200, reset_num_timesteps=False)
    for mine, theirs in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert mine.equal(theirs)


def test_environments_without_copies_are_not_played(agent):
    assert agent.roll_episodes(make_vec("CartPole-v1", 2), np.array([1, 1])) is None
    monkey = make_vec("CartPole-v1", 2, world=True)
    monkey.step_wait = monkey.step_wait
    assert agent.roll_episodes(monkey, np.array([1, 1])) is None


def test_an_entry_point_that_cannot_be_imported_offers_nothing(monkeypatch):
    monkeypatch.setitem(gym.registry, "Lost-v0", EnvSpec("Lost-v0", vector_entry_point="a_module_that_is_lost:Vector"))
    assert not offers_copies("Lost-v0")
    assert not offers_copies("NotRegistered-v0")
