"""The worlds' generator against its author's, and its distributions."""

import numpy as np
import pytest
from scipy import stats

from pg_envs.worlds import below, standard_normal, uniform
from pg_envs.worlds.random import M_1, M_2, NORM, generator_state

N = 20_000


def test_the_numbers_are_those_of_rngstreams():
    """P. L'Ecuyer's RngStream.c, all six seeds 12345: numbers 1 to 5, 1,000 and 100,000."""
    random = [12345] * 6
    numbers = [uniform(random, 0.0, 1.0) for _ in range(100_000)]
    assert numbers[:3] == [0.12701112204657714, 0.3185275653967945, 0.3091860155832701]
    assert numbers[3:5] == [0.8258468629271136, 0.2216299157820229]
    assert numbers[999] == pytest.approx(0.98607848680213228, abs=1e-16)
    assert numbers[99_999] == pytest.approx(0.69628910995743587, abs=1e-16)


def test_numbers_and_states_are_integers_of_64_bits_throughout():
    """Python's integers have no bounds: NumPy's agree with them, also from the largest state."""
    largest = [M_1 - 1] * 3 + [M_2 - 1] * 3
    array = np.array(largest)
    with np.errstate(over="raise"):
        assert [uniform(array, 0.0, 1.0) for _ in range(1000)] == [uniform(largest, 0.0, 1.0) for _ in range(1000)]
    assert array.tolist() == largest


def test_neither_bound_is_drawn():
    assert NORM > 0.0
    assert M_1 * NORM < 1.0
    assert uniform([0, 0, 0, 0, 0, 0], 0.0, 1.0) == M_1 * NORM  # no seed has this state: the difference is 0


def drawn(function, *arguments, seed=0):
    random = generator_state(seed).tolist()
    return np.array([function(random, *arguments) for _ in range(N)])


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_uniform_is_uniform_and_has_no_memory(seed):
    numbers = drawn(uniform, -2.0, 3.0, seed=seed)
    assert stats.kstest(numbers, stats.uniform(-2, 5).cdf).pvalue > 1e-3  # the seeds are fixed
    for lag in (1, 2, 3, 7):
        assert abs(np.corrcoef(numbers[lag:], numbers[:-lag])[0, 1]) < 4 / np.sqrt(N)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 500])
def test_below_is_uniform(n):
    counts = np.bincount(drawn(below, n), minlength=n)
    assert len(counts) == n
    assert n == 1 or stats.chisquare(counts).pvalue > 1e-3


def test_standard_normal_is_normal():
    numbers = drawn(standard_normal)
    assert stats.kstest(numbers, stats.norm.cdf).pvalue > 1e-3
    moments = [np.mean(numbers**k) for k in (1, 2, 3, 4)]
    variances = [1, 2, 15, 96]  # of x^k: E x^2k - (E x^k)^2
    np.testing.assert_array_less(np.abs(np.array(moments) - [0, 1, 0, 3]), 4 * np.sqrt(np.array(variances) / N))


def test_the_generators_of_neighbouring_seeds_are_unrelated():
    states = np.array([generator_state(seed) for seed in range(500)])
    assert (states > 0).all()
    assert (states < [M_1] * 3 + [M_2] * 3).all()
    assert len(np.unique(states)) == states.size
    first = np.array([[uniform(state, 0.0, 1.0) for _ in range(4)] for state in states.tolist()])
    assert stats.kstest(first.ravel(), stats.uniform.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(first[1:, 0], first[:-1, 0])[0, 1]) < 4 / np.sqrt(500)
