"""Estimators against tables worked out by hand.

One environment of the table is an episode that terminates at step 1 and a second that the rollout cuts; the other
has a time limit at step 0 and a termination at step 3. gamma = 0.5 keeps every number a short binary fraction.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pg_agents.estimators import gae, monte_carlo, n_step, reward_to_go, td_error, td_target, total_return

GAMMA = 0.5
REWARDS = np.array([[1, 2], [2, 4], [4, 0], [8, 8]], dtype=float)
VALUES = np.array([[4, 8], [2, 2], [6, 4], [2, 2]], dtype=float)
# Column 0: V(s_1), (terminated), V(s_3), V after the rollout. Column 1: V of the state that the limit cut, V(s_2), ...
NEXT_VALUES = np.array([[2, 6], [100, 4], [2, 2], [10, 100]], dtype=float)
TERMINATED = np.array([[0, 0], [1, 0], [0, 0], [0, 1]], dtype=bool)
TRUNCATED = np.array([[0, 1], [0, 0], [0, 0], [0, 0]], dtype=bool)
ENDS = TERMINATED | TRUNCATED

TD_TARGETS = np.array([[2, 5], [2, 6], [5, 1], [13, 8]], dtype=float)
TD_ERRORS = np.array([[-2, -3], [0, 4], [-1, -3], [11, 6]], dtype=float)


def test_td_target_adds_the_next_value_except_after_a_termination():
    np.testing.assert_array_equal(td_target(REWARDS, NEXT_VALUES, TERMINATED, GAMMA), TD_TARGETS)


def test_td_error_is_the_target_minus_the_value():
    np.testing.assert_array_equal(td_error(REWARDS, VALUES, NEXT_VALUES, TERMINATED, GAMMA), TD_ERRORS)


def test_gae_sums_td_errors_to_the_end_of_the_episode():
    # gamma * lambda = 1/4: column 0 is -2 + 0/4, 0, -1 + 11/4, 11; column 1 is -3, 4 + (-3 + 6/4)/4, -3 + 6/4, 6.
    expected = np.array([[-2, -3], [0, 3.625], [1.75, -1.5], [11, 6]])
    np.testing.assert_array_equal(gae(TD_ERRORS, ENDS, GAMMA, 0.5), expected)


def test_reward_to_go_contains_no_value_and_stops_at_every_end():
    expected = np.array([[2, 2], [2, 6], [8, 4], [8, 8]], dtype=float)
    np.testing.assert_array_equal(reward_to_go(REWARDS, ENDS, GAMMA), expected)


def test_total_return_gives_each_step_its_whole_episodes_return():
    expected = np.array([[2, 2], [2, 6], [8, 6], [8, 6]], dtype=float)
    np.testing.assert_array_equal(total_return(REWARDS, ENDS, GAMMA), expected)


def test_monte_carlo_is_completed_by_the_value_where_the_episode_was_cut():
    # Column 0: 1 + 2/2, 2, 4 + 13/2, 8 + 10/2. Column 1: 2 + 6/2, 4 + 4/2, 0 + 8/2, 8.
    expected = np.array([[2, 5], [2, 6], [10.5, 4], [13, 8]])
    np.testing.assert_array_equal(monte_carlo(REWARDS, NEXT_VALUES, TERMINATED, TRUNCATED, GAMMA), expected)


def test_two_step_return_looks_two_rewards_ahead_and_not_past_an_end():
    # Column 1, step 1: 4 + 0/2 + V(s_3)/4 = 4.5; column 0, step 2: 4 + 8/2 + 10/4 = 10.5.
    expected = np.array([[2, 5], [2, 4.5], [10.5, 4], [13, 8]])
    np.testing.assert_array_equal(n_step(REWARDS, NEXT_VALUES, TERMINATED, TRUNCATED, GAMMA, 2), expected)


def test_n_step_refuses_zero_steps():
    with pytest.raises(ValueError, match=r"`n_steps` must be at least 1, but is 0"):
        n_step(REWARDS, NEXT_VALUES, TERMINATED, TRUNCATED, GAMMA, 0)


def test_estimators_keep_float32():
    rewards = REWARDS.astype(np.float32)
    for result in (
        gae(rewards, ENDS, 0.9, 0.9),
        reward_to_go(rewards, ENDS, 0.9),
        total_return(rewards, ENDS, 0.9),
        td_target(rewards, NEXT_VALUES.astype(np.float32), TERMINATED, 0.9),
        monte_carlo(rewards, NEXT_VALUES.astype(np.float32), TERMINATED, TRUNCATED, 0.9),
        n_step(rewards, NEXT_VALUES.astype(np.float32), TERMINATED, TRUNCATED, 0.9, 3),
    ):
        assert result.dtype == np.float32


def test_integer_rewards_give_real_returns():
    rewards, ends = np.array([[1], [1], [1]]), np.array([[False], [False], [True]])
    assert reward_to_go(rewards, ends, 0.5).flatten().tolist() == [1.75, 1.5, 1]
    assert total_return(rewards, ends, 0.5).flatten().tolist() == [1.75, 1.75, 1.75]
    assert monte_carlo(rewards, rewards, ends, ~ends & ends, 0.5).flatten().tolist() == [1.75, 1.5, 1]


# Identities that hold for every rollout (checked in float64: 1e-9 is far above its rounding and below any mistake).

SHAPE = st.tuples(st.integers(1, 12), st.integers(1, 3))


@st.composite
def rollouts(draw):
    shape = draw(SHAPE)
    number = st.floats(-10, 10, width=32)
    rewards, values, final = (draw(arrays(np.float64, shape, elements=number)) for _ in range(3))
    terminated = draw(arrays(np.bool_, shape))
    truncated = draw(arrays(np.bool_, shape)) & ~terminated
    next_values = np.concatenate([values[1:], final[-1:]])
    return rewards, values, np.where(truncated, final, next_values), terminated, truncated


@given(rollouts(), st.floats(0, 1))
def test_gae_with_lambda_zero_is_the_td_error(rollout, gamma):
    rewards, values, next_values, terminated, truncated = rollout
    errors = td_error(rewards, values, next_values, terminated, gamma)
    np.testing.assert_array_equal(gae(errors, terminated | truncated, gamma, 0.0), errors)


@given(rollouts(), st.floats(0, 1))
def test_gae_with_lambda_one_is_monte_carlo_minus_value(rollout, gamma):
    rewards, values, next_values, terminated, truncated = rollout
    errors = td_error(rewards, values, next_values, terminated, gamma)
    expected = monte_carlo(rewards, next_values, terminated, truncated, gamma) - values
    np.testing.assert_allclose(gae(errors, terminated | truncated, gamma, 1.0), expected, rtol=1e-9, atol=1e-9)


@given(rollouts(), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_exponential_average_of_n_step_advantages(rollout, gamma, lam):
    """(1 - λ) Σ_n λ^{n-1} A^(n), whose last term stands for all longer ones (arXiv:1506.02438, eq. 16)."""
    rewards, values, next_values, terminated, truncated = rollout
    longest = len(rewards)
    advantages = [n_step(rewards, next_values, terminated, truncated, gamma, n) - values for n in range(1, longest + 1)]
    weights = [(1 - lam) * lam ** (n - 1) for n in range(1, longest)] + [lam ** (longest - 1)]
    expected = sum(weight * advantage for weight, advantage in zip(weights, advantages, strict=True))
    errors = td_error(rewards, values, next_values, terminated, gamma)
    np.testing.assert_allclose(gae(errors, terminated | truncated, gamma, lam), expected, rtol=1e-9, atol=1e-9)


@given(rollouts(), st.floats(0, 1))
def test_n_step_of_one_is_the_td_target_and_of_many_is_monte_carlo(rollout, gamma):
    rewards, _, next_values, terminated, truncated = rollout
    one = n_step(rewards, next_values, terminated, truncated, gamma, 1)
    many = n_step(rewards, next_values, terminated, truncated, gamma, len(rewards))
    np.testing.assert_array_equal(one, td_target(rewards, next_values, terminated, gamma))
    expected = monte_carlo(rewards, next_values, terminated, truncated, gamma)
    np.testing.assert_allclose(many, expected, rtol=1e-9, atol=1e-9)


@given(rollouts(), st.floats(0, 1))
def test_total_return_is_the_reward_to_go_of_the_first_step(rollout, gamma):
    rewards, _, _, terminated, truncated = rollout
    ends = terminated | truncated
    total, to_go = total_return(rewards, ends, gamma), reward_to_go(rewards, ends, gamma)
    starts = np.concatenate([np.ones_like(ends[:1]), ends[:-1]])
    np.testing.assert_array_equal(total[starts], to_go[starts])
    assert (total[1:] == total[:-1])[~starts[1:]].all()
