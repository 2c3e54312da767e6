"""Intervals hold the truth as often as they say; aggregates are those of rliable and of the calculator."""

import numpy as np
import pytest
from rliable import library, metrics
from scipy import stats

from pg_zoo.results import statistics

# Scores as trainings give them, each with mean 0 (for `capped`, to three digits).
DRAWS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "wide": lambda rng, shape: 4 * rng.normal(size=shape),
    "skewed": lambda rng, shape: 1 - rng.exponential(size=shape),
    "some fail": lambda rng, shape: (rng.random(shape) < 0.7) - 0.7 + 0.01 * rng.normal(size=shape),
    "capped": lambda rng, shape: np.minimum(rng.normal(size=shape), 0.5) + 0.1978,
}


def test_the_mean_has_students_interval():
    # Of 1, 2, 3: s = 1, and the table's t for two degrees of freedom is 4.3027.
    assert statistics.mean(np.array([1.0, 2.0, 3.0])) == pytest.approx(
        (2, 2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), 1e-4
    )


def test_of_scores_that_are_all_the_same_the_mean_is_certain():
    # Their mean is not 0.1 in its last digit, and seven deviations from it would be a little spread.
    value, low, high = statistics.mean(np.full(7, 0.1))
    assert low == high == value == pytest.approx(0.1)


def test_the_difference_on_one_environment_is_students_of_paired_scores():
    rng = np.random.default_rng(0)
    scores, others = rng.normal(1, 1, 5), rng.normal(0, 3, 5)
    expected = stats.ttest_rel(scores, others)
    difference = statistics.difference(scores, others)
    assert difference.value == pytest.approx(scores.mean() - others.mean())
    assert (difference.low, difference.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert difference.p_value == pytest.approx(expected.pvalue)


def test_the_difference_over_environments_by_hand():
    # Seed by seed, the differences are 0 and 1, 1 and 0, 2 and -1: means 0.5 each; then with 1 more in the last.
    scores = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]])
    others = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    assert statistics.difference(scores, others)[:3] == (0.5, 0.5, 0.5)
    # Means 0.5, 0.5, 1.5 of the seeds: 5/6 with s = 1/√3, so 5/6 ± 4.3027 / 3.
    scores[2] += 1
    half = 4.3027 / 3
    assert statistics.difference(scores, others)[:3] == pytest.approx((5 / 6, 5 / 6 - half, 5 / 6 + half), rel=1e-4)


def test_scores_that_go_up_and_down_together_show_a_small_difference():
    luck = 10 * np.random.default_rng(0).normal(size=10)
    spread = np.arange(10) / np.arange(10).std(ddof=1)
    # s = 1 of the differences: 1 ± 2.2622 / √10.
    difference = statistics.difference(luck + 1 + spread - spread.mean(), luck)
    assert difference[:3] == pytest.approx((1, 1 - 0.71537, 1 + 0.71537), rel=1e-4)


def test_both_need_the_same_seeds():
    with pytest.raises(ValueError, match=r"the same seeds and environments, but the shapes are \(3, 1\) and \(4, 1\)"):
        statistics.difference(np.zeros(3), np.zeros(4))


@pytest.mark.parametrize(
    "kinds", [("normal", "wide"), ("skewed", "skewed"), ("some fail", "some fail"), ("capped",) * 2]
)
@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_of_differences_hold_the_truth_where_scores_spread_alike(n, kinds):
    rng, n_draws = np.random.default_rng(n), 2000
    together = rng.normal(size=(n_draws, n))  # what scores of one seed have in common
    held = [
        difference.low <= 0 <= difference.high
        for groups in zip(*(together + DRAWS[kind](rng, (n_draws, n)) for kind in kinds), strict=True)
        for difference in [statistics.difference(*groups)]
    ]
    # 95 %, and up to 98.4 % for what falls apart; three standard errors of a share of 2000 from either end.
    assert 0.95 - 0.015 < np.mean(held) < 0.984 + 0.0085


def test_percentile_intervals_of_five_seeds_do_not_and_so_decide_nothing():
    rng, n_draws = np.random.default_rng(0), 1000
    groups = rng.normal(size=(2, n_draws, 1, 5))
    drawn = [np.take_along_axis(group, rng.integers(5, size=(n_draws, 500, 5)), 2).mean(axis=2) for group in groups]
    low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.91


@pytest.mark.parametrize(
    ("shift", "conclusion"),
    [(2.0, "better"), (-2.0, "worse"), (0.1, "no difference shown"), (-0.1, "no difference shown")],
)
def test_the_conclusion_is_what_the_interval_says(shift, conclusion):
    # s = 1 with 10 seeds: the interval is shift ± 0.72.
    spread = np.arange(10) / np.arange(10).std(ddof=1)
    difference = statistics.difference(spread + shift, np.full(10, spread.mean()))
    assert difference.conclusion == conclusion
    assert (difference.low > 0, difference.high < 0) == (conclusion == "better", conclusion == "worse")
    assert (difference.p_value < 0.05) == (conclusion != "no difference shown")


def test_the_same_score_in_all_seeds_of_both_is_no_difference():
    assert statistics.difference(np.full(5, 0.1), np.full(5, 0.1)) == (0, 0, 0, 1)


def test_numbers_that_differ_by_rounding_alone_are_no_difference():
    # Their means are rounded too, by less: without regard to that, they would be eight standard errors apart.
    scores = np.full(3, 0.1)
    others = scores + 8 * np.spacing(0.1)
    assert 0 < others.std() < 1e-16
    assert statistics.difference(scores, others) == (0, 0, 0, 1)


def test_different_scores_without_any_spread_are_different():
    assert statistics.difference(np.full(3, 500.0), np.full(3, 9.0)) == (491, 491, 491, 0)


def test_spread_of_one_algorithm_alone_is_enough_for_an_interval():
    difference = statistics.difference(np.full(3, 500.0), np.array([498.0, 499.0, 500.0]))
    # Student's, of the three that vary.
    assert difference[:3] == pytest.approx((1, 1 - 4.3027 / 3**0.5, 1 + 4.3027 / 3**0.5), rel=1e-4)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_difference_of_independent_means_is_welchs(confidence):
    rng = np.random.default_rng(1)
    samples = rng.normal(1, 1, 5), rng.normal(0, 3, 8)
    found = statistics.welch(
        [sample.mean() for sample in samples], [sample.std(ddof=1) for sample in samples], [5, 8], confidence
    )
    expected = stats.ttest_ind(*samples, equal_var=False).confidence_interval(confidence)
    assert found == pytest.approx((samples[0].mean() - samples[1].mean(), *expected))


def test_independent_means_without_spread_are_as_far_apart_as_they_are():
    assert statistics.welch([500.0, 499.0], [0.0, 0.0], [5, 300], 0.95) == (1, 1, 1)


def test_holms_correction_of_a_table_worked_out_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04, of which none may be below the last.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]).tolist() == [1, 1]
    assert statistics.holm([]).tolist() == []


def test_normalised_scores_are_0_for_random_and_1_for_the_best():
    assert statistics.normalised(np.array([-10.0, 0.0, -5.0, 5.0]), -10, 0).tolist() == [0, 1, 0.5, 1.5]
    with pytest.raises(ValueError, match="must exceed that of random actions"):
        statistics.normalised(np.array([1.0]), 3, 3)


def test_aggregates_by_hand():
    # Sorted: -1, 0, 1, 1, 2, 2, 3, 8; the middle half is 1, 1, 2, 2. Means of the columns: 2.25 and 1.75.
    scores = np.array([[-1.0, 2.0], [0.0, 3.0], [8.0, 1.0], [2.0, 1.0]])
    assert statistics.iqm(scores) == 1.5
    assert statistics.median(scores) == 2.0
    assert statistics.AGGREGATES["mean"](scores) == 2.0
    # min(score, 1) is -1, 0 and six times 1.
    assert statistics.optimality_gap(scores) == 1 - 5 / 8


@pytest.mark.parametrize("shape", [(3, 1), (5, 2), (7, 3), (10, 5)])
def test_aggregates_are_rliables(shape):
    scores = np.random.default_rng(0).normal(0.7, 0.5, shape)
    expected = [
        metrics.aggregate_iqm(scores),
        metrics.aggregate_median(scores),
        metrics.aggregate_mean(scores),
        metrics.aggregate_optimality_gap(scores),
    ]
    assert [measure(scores) for measure in statistics.AGGREGATES.values()] == pytest.approx(expected)


def test_probability_of_improvement_by_hand_and_as_rliable_has_it():
    # 1 beats neither of 2 and 3; 3 beats 2 and ties with 3.
    scores, others = np.array([[1.0], [3.0], [3.0]]), np.array([[2.0], [3.0], [3.0]])
    assert statistics.probability_of_improvement(scores, others).value == pytest.approx((0 + 2 * (1 + 0.5 + 0.5)) / 9)
    scores, others = np.random.default_rng(0).integers(5, size=(2, 6, 4)).astype(float)
    expected = metrics.probability_of_improvement(scores, others)
    assert statistics.probability_of_improvement(scores, others).value == pytest.approx(expected)


def test_performance_profile_by_hand_and_as_rliable_has_it():
    scores = np.array([[0.0, 1.0], [0.5, 1.0], [1.0, 0.5]])
    thresholds = np.array([-0.1, 0.0, 0.5, 0.9, 1.0])
    profile = statistics.performance_profile(scores, thresholds)
    assert profile.value.tolist() == pytest.approx([1, 5 / 6, 3 / 6, 3 / 6, 0])
    assert profile.value.tolist() == pytest.approx(library.score_distributions(scores, thresholds).tolist())


def test_bootstrap_intervals_are_rliables(monkeypatch):
    monkeypatch.setattr(statistics, "N_RESAMPLES", 200)
    scores = np.random.default_rng(0).normal(size=(5, 3))
    np.random.seed(0)  # noqa: NPY002
    values, intervals = library.get_interval_estimates(
        {"x": scores}, lambda x: np.array([metrics.aggregate_iqm(x), metrics.aggregate_mean(x)]), reps=200
    )
    found = statistics.aggregates(scores)
    for name, column in (("IQM", 0), ("mean", 1)):
        assert found[name] == pytest.approx((values["x"][column], *intervals["x"][:, column]))


def test_runs_of_the_same_seed_are_drawn_together():
    scores = np.random.default_rng(0).normal(size=(5, 3))
    assert statistics.iqm_difference(scores + 1, scores) == pytest.approx((1, 1, 1))


def test_the_difference_of_interquartile_means_is_that():
    scores, others = np.random.default_rng(0).normal(size=(2, 6, 3))
    found = statistics.iqm_difference(scores, others)
    assert found.value == pytest.approx(metrics.aggregate_iqm(scores) - metrics.aggregate_iqm(others))
    assert found.low < found.value < found.high


def test_the_same_numbers_give_the_same_intervals_and_leave_numpys_generator_alone():
    scores = np.random.default_rng(0).normal(size=(5, 3))
    np.random.seed(1)  # noqa: NPY002
    first = statistics.aggregates(scores)
    drawn = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert np.random.random() == drawn  # noqa: NPY002
    assert statistics.aggregates(scores) == first


def test_fewer_than_three_seeds_have_no_interval():
    scores = np.array([[1.0, 2.0], [3.0, 4.0]])
    estimates = [statistics.mean(scores[:, 0]), *statistics.aggregates(scores).values()]
    estimates += [statistics.interquartile_mean(scores), statistics.probability_of_improvement(scores, scores)]
    for estimate in estimates:
        assert np.isfinite(estimate.value)
        assert np.isnan([estimate.low, estimate.high]).all()
    with pytest.raises(ValueError, match="at least 3 seeds of each, but has 2"):
        statistics.difference(scores, scores)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "function",
    [
        statistics.mean,
        statistics.aggregates,
        statistics.interquartile_mean,
        lambda scores: statistics.performance_profile(scores, np.zeros(1)),
        lambda scores: statistics.difference(scores, np.zeros((4, 1))),
        lambda scores: statistics.difference(np.zeros((4, 1)), scores),
        lambda scores: statistics.probability_of_improvement(np.zeros((4, 1)), scores),
    ],
)
def test_scores_that_are_not_finite_are_refused(function, wrong):
    with pytest.raises(ValueError, match=f"Scores must be finite, but one is {wrong}"):
        function(np.array([[1.0], [2.0], [wrong], [3.0]]))


def test_a_learning_curve_is_the_mean_of_each_evaluation_at_the_mean_of_its_times():
    curves = [
        np.array([[10.0, 1.0], [20.0, 4.0]]),
        np.array([[12.0, 2.0], [22.0, 4.0]]),
        np.array([[14.0, 3.0], [24.0, 4.0], [99.0, 9.0]]),
    ]
    times, returns = statistics.learning_curve(curves)
    assert times.tolist() == [12, 22]
    assert returns.value.tolist() == [2, 4]
    # Student's interval of 1, 2, 3, and of three times 4.
    assert returns.high.tolist() == pytest.approx([2 + 4.3027 / 3**0.5, 4], rel=1e-4)


def test_the_time_to_a_threshold_is_that_of_the_first_evaluation_that_reached_it():
    curve = np.array([[100.0, 5.0], [200.0, 10.0], [300.0, 7.0], [400.0, 12.0]])
    assert statistics.time_to(10.0, curve) == 200
    assert statistics.time_to(13.0, curve) is None


def test_the_interval_of_a_mean_time_has_no_times_below_0():
    times = [10.0, 20.0, 90.0]
    usual = stats.t.interval(0.95, 2, np.mean(times), stats.sem(times))
    assert usual[0] < 0
    value, low, high = statistics.mean_time_to(10.0, [np.array([[time, 10.0]]) for time in times]).time
    assert (value, low) == (40, 0)
    assert high == pytest.approx(usual[1])
