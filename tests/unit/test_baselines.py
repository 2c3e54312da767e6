"""Baselines against averages worked out by hand."""

import numpy as np
import pytest

from pg_agents.baselines import ConstantBaseline, Episodes, LeaveOneOutBaseline, NoBaseline, TimeBaseline

# Three episodes of 3, 2 and 1 steps; 99 stands where an episode was over already.
RETURNS = np.array([[6.0, 4.0, 1.0], [3.0, 2.0, 99.0], [9.0, 99.0, 99.0]])
ALIVE = np.array([[True, True, True], [True, True, False], [True, False, False]])
EPISODES = Episodes(RETURNS, ALIVE)


def test_no_baseline_is_zero():
    assert (NoBaseline()(EPISODES) == 0).all()


def test_constant_baseline_is_the_mean_of_earlier_batches():
    baseline = ConstantBaseline()
    assert (baseline(EPISODES) == 0).all()
    baseline = baseline.after(EPISODES)
    assert baseline(EPISODES)[0, 0] == pytest.approx(25 / 6)
    baseline = baseline.after(Episodes(RETURNS + 6, ALIVE))
    assert baseline(EPISODES)[2, 2] == pytest.approx(25 / 6 + 3)


def test_constant_baseline_forgets_old_batches():
    baseline = ConstantBaseline()
    for _ in range(10):
        baseline = baseline.after(Episodes(np.zeros((1, 1)), np.ones((1, 1), dtype=bool)))
    baseline = baseline.after(Episodes(np.ones((1, 1)), np.ones((1, 1), dtype=bool)))
    assert baseline.mean == pytest.approx(0.1)


def test_time_baseline_is_the_mean_of_those_episodes_that_got_so_far():
    baseline = TimeBaseline()
    assert (baseline(EPISODES) == 0).all()
    baseline = baseline.after(EPISODES)
    np.testing.assert_allclose(baseline(EPISODES), [[6, 3, 1]] * 3)


def test_time_baseline_keeps_what_it_knows_when_a_shorter_batch_comes():
    baseline = TimeBaseline()
    baseline = baseline.after(EPISODES)
    baseline = baseline.after(Episodes(np.array([[8.0]]), np.array([[True]])))
    np.testing.assert_allclose(baseline(EPISODES), [[7, 3, 1]] * 3)


def test_time_baseline_knows_nothing_of_steps_that_no_episode_reached():
    baseline = TimeBaseline()
    baseline = baseline.after(Episodes(np.array([[8.0]]), np.array([[True]])))
    np.testing.assert_allclose(baseline(EPISODES), [[8, 0, 0]] * 3)


def test_leave_one_out_baseline_is_the_mean_of_the_others():
    expected = [[(3 + 9) / 2, 2, 0], [(6 + 9) / 2, 4, 1], [(6 + 3) / 2, 3, 1]]
    np.testing.assert_allclose(LeaveOneOutBaseline()(EPISODES), expected)
