"""The cross-check's equivalence test says what is so, and no more."""

import numpy as np
import pytest
from scipy import stats

from pg_zoo.crosscheck.parameters import ParameterCheck, differences
from pg_zoo.results.statistics import equivalence


@pytest.mark.parametrize(
    ("ours", "theirs", "difference", "half"),
    [
        # Both variances 5/2: standard error 1 with 8 degrees of freedom, of which t is in every table.
        ([1, 2, 3, 4, 5], [2, 3, 4, 5, 6], -1, 1.859548),
        # Variances 2 and 0: standard error 1 with the one degree of freedom of the first.
        ([0, 2], [0, 0, 0, 0], 1, 6.313752),
        # No variance at all, as in deterministic tasks.
        ([500, 500, 500], [500, 500, 500], 0, 0),
        ([-200, -200], [-110, -110], -90, 0),
    ],
)
def test_the_interval_is_welchs(ours, theirs, difference, half):
    found = equivalence(ours, theirs, margin=1.0)
    assert (found.difference, found.low, found.high) == pytest.approx(
        (difference, difference - half, difference + half), abs=1e-6
    )


def test_the_interval_is_scipys():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0, 1, 5), rng.normal(1, 3, 9)
    reference = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.9)
    found = equivalence(ours, theirs, margin=1.0)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))


@pytest.mark.parametrize(
    ("shift", "margin", "verdict"),
    [
        # The interval of half width 1.86 around the shift:
        (0.0, 1.87, "equivalent"),
        (0.0, 1.85, "not shown with 5 seeds"),
        (1.0, 2.87, "equivalent"),
        (-1.0, 2.85, "not shown with 5 seeds"),
        # outside of zero, but not beyond the margin;
        (2.0, 0.2, "not shown with 5 seeds"),
        # beyond the margin, on either side.
        (2.0, 0.1, "**different**"),
        (-2.0, 0.1, "**different**"),
    ],
)
def test_the_verdict_is_what_the_interval_says(shift, margin, verdict):
    theirs = np.arange(5.0)
    assert equivalence(theirs + shift, theirs, margin).verdict == verdict


def test_scores_that_never_vary_have_a_verdict():
    assert equivalence([500.0] * 5, [500.0] * 5, 0.1).verdict == "equivalent"
    assert equivalence([500.0] * 5, [499.0] * 5, 0.1).verdict == "**different**"


def rates(true_difference, spread, n_trials=1000):
    """How often each verdict is given, with 5 seeds, a margin of 1 and normal scores."""
    rng = np.random.default_rng(1)
    verdicts = [
        equivalence(rng.normal(true_difference, spread, 5), rng.normal(0, 2 * spread, 5), 1.0).verdict
        for _ in range(n_trials)
    ]
    return {verdict: verdicts.count(verdict) / n_trials for verdict in ("equivalent", "**different**")}


def test_what_is_just_beyond_the_margin_is_called_equivalent_in_at_most_one_of_twenty_cases():
    # Three standard deviations of a rate of 1/20 in 1000 trials above it; Welch's interval is a little off itself.
    assert rates(1.0, spread=0.1)["equivalent"] < 0.05 + 3 * (0.05 * 0.95 / 1000) ** 0.5
    assert rates(1.0, spread=1.0)["equivalent"] < 0.05


def test_what_is_within_the_margin_is_called_different_in_at_most_one_of_twenty_cases():
    assert rates(1.0, spread=0.1)["**different**"] < 0.05 + 3 * (0.05 * 0.95 / 1000) ** 0.5
    assert rates(0.0, spread=1.0)["**different**"] < 0.01


def test_what_is_clear_is_said():
    assert rates(0.0, spread=0.1)["equivalent"] > 0.99
    assert rates(2.0, spread=0.1)["**different**"] > 0.99


def test_differences_are_of_bits():
    one = {"a": np.array([1.0, 2.0], np.float32), "b": np.array(np.nan), "c": np.array(1.0)}
    assert differences(one, {name: value.copy() for name, value in one.items()}) == {}
    last_bit = np.array([1.0, np.nextafter(np.float32(2), np.float32(3))], np.float32)
    assert differences(one, {**one, "a": last_bit}) == {"a": 2.0**-22}
    assert differences(one, {**one, "b": np.array(1.0), "c": np.array([1.0])}) == {"b": np.inf, "c": np.inf}
    assert differences({**one, "d": np.array(0.0)}, one) == {"d": np.inf}


def test_parameters_say_the_largest_difference():
    assert str(ParameterCheck(3, {})) == "equal"
    assert str(ParameterCheck(3, {"a": 0.5, "b": 2.0})) == "**different**: up to 2 (b)"
    assert [ParameterCheck(3, {}).contradicts, ParameterCheck(3, {"a": 1e-9}).contradicts] == [False, True]
