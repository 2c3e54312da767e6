"""Discretizer: which continuous actions the bins stand for, and what is refused."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import pg_envs  # noqa: F401
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_envs import Discretizer, DiscretizerVector


class Echo(gym.Env):
    """Shows the action that arrives."""

    def __init__(self, box):
        self.action_space = self.observation_space = box

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.action_space.shape, self.action_space.dtype), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return action, 0.0, False, False, {}


def echo(low=(-1.0, 0.0), high=(1.0, 4.0)):
    return Echo(spaces.Box(np.array(low, dtype=np.float32), np.array(high, dtype=np.float32)))


def arm(n=20):
    return gym.make("pg/TorqueArm-v0", n_joints=n)


def test_bins_are_evenly_spaced_from_the_lowest_to_the_highest_action():
    env = Discretizer(echo(), bins=5)
    assert env.action_space == spaces.MultiDiscrete([5, 5])
    seen = [env.step(np.array([i, i]))[0].tolist() for i in range(5)]
    assert seen == [[-1, 0], [-0.5, 1], [0, 2], [0.5, 3], [1, 4]]


def test_dimensions_may_have_their_own_numbers_and_values():
    env = Discretizer(echo(), bins=[[-0.3, 0.7, 0.1], 2])
    assert env.action_space == spaces.MultiDiscrete([3, 2])
    np.testing.assert_array_equal(env.step(np.array([1, 1]))[0], np.array([0.7, 4], dtype=np.float32))
    np.testing.assert_array_equal(env.step(np.array([2, 0]))[0], np.array([0.1, 0], dtype=np.float32))


def test_joint_numbers_count_the_last_dimension_fastest():
    env = Discretizer(echo(), bins=[[-1, 1], 3], joint=True)
    assert env.action_space == spaces.Discrete(6)
    seen = [env.step(i)[0].tolist() for i in range(6)]
    assert seen == [[-1, 0], [-1, 2], [-1, 4], [1, 0], [1, 2], [1, 4]]


@pytest.mark.parametrize("joint", [False, True])
def test_an_array_of_actions_keeps_its_shape_and_type(joint):
    box = spaces.Box(-2, 2, (2, 3), np.float64)
    env = Discretizer(Echo(box), bins=3, joint=joint)
    action = env.action(3**5 if joint else np.array([1, 0, 0, 0, 0, 0]))
    np.testing.assert_array_equal(action, [[0, -2, -2], [-2, -2, -2]])
    assert box.contains(action)
    assert action.dtype == box.dtype


@pytest.mark.parametrize("joint", [False, True])
def test_the_vector_version_acts_as_the_single_one(joint):
    bins = [3, [-0.5, 0.25]]
    single = Discretizer(arm(2), bins, joint)
    several = DiscretizerVector(gym.make_vec("pg/TorqueArm-v0", 4, n_joints=2), bins, joint)
    assert several.single_action_space == single.action_space
    assert several.action_space.shape == ((4,) if joint else (4, 2))
    several.action_space.seed(0)
    single.reset(seed=1)
    several.reset(seed=0)
    for _ in range(20):
        actions = several.action_space.sample()
        observations, *_ = several.step(actions)
        observation, *_ = single.step(actions[1])
        np.testing.assert_array_equal(observations[1], observation)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_vector_version_keeps_the_autoreset_mode_for_the_adapter(mode):
    env = gym.make_vec("pg/TorqueArm-v0", 3, autoreset_mode=mode, max_episode_steps=5)
    adapter = VectorEnvAdapter(DiscretizerVector(env, bins=3))
    adapter.reset()
    ends = [adapter.step(np.zeros((3, 2), dtype=np.int64))[2] for _ in range(5)]
    assert adapter.autoreset_mode is mode
    assert [end.all() for end in ends] == [False, False, False, False, True]


def test_a_hundred_bins_on_twenty_joints_are_refused_as_one_space_of_ten_to_the_forty():
    with pytest.raises(ValueError, match=r"`joint` must be False .* 20 dimensions of 100 bins have 10\^40"):
        Discretizer(arm(20), bins=100, joint=True)
    with pytest.raises(ValueError, match=r"6\.7 x 10\^20"):
        DiscretizerVector(gym.make_vec("pg/TorqueArm-v0", 2, n_joints=20), bins=11, joint=True)


def test_a_million_joint_actions_are_allowed_and_one_more_row_is_not():
    assert Discretizer(arm(6), bins=10, joint=True).action_space.n == 10**6
    with pytest.raises(ValueError, match=r"6 dimensions of 10 to 11 bins have 1\.1 x 10\^6"):
        Discretizer(arm(6), bins=[10, 10, 10, 10, 10, 11], joint=True)


@pytest.mark.parametrize(
    ("bins", "message"),
    [
        (1, "`bins` must be .*at least 2.*but is 1 in dimension 0"),
        ([3, 0], "`bins` must be .*at least 2.*but is 0 in dimension 1"),
        (2.5, "`bins` must be .*at least 2.*but is 2.5 in dimension 0"),
        ([[0.5], 3], r"`bins` must be .*at least 2.*but is \[0.5\] in dimension 0"),
        ([3, [0, 5]], r"`bins` must have values from 0.0 to 4.0 in dimension 1, but has \[0, 5\]"),
        ([3, [0, float("nan")]], "`bins` must have values from 0.0 to 4.0"),
        ([3], r"`bins` must be a number or have 2 entries.*but is \[3\]"),
        ("xy", "`bins` must be a number or have 2 entries"),
        (True, "`bins` must be .*at least 2"),
    ],
)
def test_wrong_bins_are_named(bins, message):
    with pytest.raises(ValueError, match=message):
        Discretizer(echo(), bins)


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(0, np.inf, (1,))])
def test_only_a_bounded_box_can_be_discretized(space):
    with pytest.raises(ValueError, match="The action space must be a bounded Box") as error:
        Discretizer(Echo(space))
    assert str(space) in str(error.value)


@pytest.mark.parametrize("action", [np.array([0, 5]), np.array([-1, 0]), np.array([0.0, 1.0]), np.array([1])])
def test_an_action_outside_the_bins_is_refused(action):
    with pytest.raises(ValueError, match="`action` must"):
        Discretizer(echo(), bins=5).step(action)


def test_the_wrapper_can_be_made_again_from_its_spec():
    env = Discretizer(arm(2), bins=[3, [-1.0, 1.0]])
    again = gym.make(env.spec)
    assert again.action_space == env.action_space
