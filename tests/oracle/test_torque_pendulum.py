"""TorquePendulum against Gymnasium's Pendulum-v1."""

import gymnasium as gym
import numpy as np
import pytest

import pg_envs  # noqa: F401


def rollout(env, actions, seed):
    """Observations and rewards from a random state that is the same in both environments."""
    env.reset(seed=seed)
    env.unwrapped.state = np.random.default_rng(seed).uniform((-np.pi, -1.0), (np.pi, 1.0))
    observations, rewards = [], []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    assert truncated
    assert not terminated
    return np.array(observations), np.array(rewards)


@pytest.mark.parametrize("seed", range(5))
def test_the_preset_has_the_trajectories_of_gymnasiums_pendulum(seed):
    actions = np.random.default_rng(seed).uniform(-1.2, 1.2, (200, 1)).astype(np.float32)  # some beyond the limit
    ours = rollout(gym.make("pg/TorquePendulum-v0", preset="gymnasium"), actions, seed)
    theirs = rollout(gym.make("Pendulum-v1"), 2 * actions, seed)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-6)  # float32 observations
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-5)


def test_the_preset_has_the_observation_space_of_gymnasiums_pendulum():
    assert (
        gym.make("pg/TorquePendulum-v0", preset="gymnasium").observation_space
        == gym.make("Pendulum-v1").observation_space
    )


def test_without_the_preset_speed_and_reward_are_in_other_units():
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 1)).astype(np.float32)
    ours = rollout(gym.make("pg/TorquePendulum-v0"), actions, seed=0)
    theirs = rollout(gym.make("Pendulum-v1"), 2 * actions, seed=0)
    np.testing.assert_allclose(ours[0] * [1, 1, 8], theirs[0], atol=1e-5)
    # The worst cost is π² + .1 8² + .001 2².
    np.testing.assert_allclose(ours[1] * 16.2736044, theirs[1], atol=1e-4)
    assert ours[1].min() >= -1


def test_the_reference_controller_holds_every_pendulum_upright():
    env = gym.make_vec("pg/TorquePendulum-v0", 500)
    env.reset(seed=0)
    for _ in range(199):
        observations, rewards, *_ = env.step(env.unwrapped.world.controller(env.unwrapped.state))
    assert observations[:, 0].min() > 0.99  # cos θ
    assert rewards.min() > -1e-3


def test_an_unknown_preset_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match=r"`preset` must be one of None, 'gymnasium'.*Did you mean 'gymnasium'"):
        gym.make("pg/TorquePendulum-v0", preset="gymnasum")
