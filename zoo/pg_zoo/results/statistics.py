"""Statistics of scores over seeds: intervals, differences, aggregates over environments. Pure functions of arrays.

Scores are arrays of shape (seeds, environments). The report's conclusions rest on Student's intervals, whose coverage
is correct even with few seeds, except where one algorithm fails rarely and the other never. The aggregates of Agarwal
et al. (2021, "Deep reinforcement learning at the edge of the statistical precipice") need a bootstrap, whose intervals
are too narrow with few seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

MIN_SEEDS = 3  # with fewer, there is no interval
CONFIDENCE = 0.95
EQUIVALENCE_CONFIDENCE = 0.9  # each end of such an interval is a one-sided test at 5 %
N_RESAMPLES = 2000

_QUANTILE = (1 + CONFIDENCE) / 2


class Estimate(NamedTuple):
    """A number or an array of numbers, with the bounds of its 95 % interval; NaN where there is no interval."""

    value: Any
    low: Any
    high: Any


class Difference(NamedTuple):
    """A difference with the bounds of its 95 % interval and the p-value of the null hypothesis "no difference"."""

    value: float
    low: float
    high: float
    p_value: float

    @property
    def conclusion(self) -> str:
        """The verdict on the first of the two: "better", "worse" or "no difference shown"."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests (TOST; Schuirmann 1987) with Welch's degrees of freedom.

    Attributes:
        difference: Our mean minus theirs.
        low: Lower end of its 90 % interval; a one-sided test at 5 % rejects every smaller difference.
        high: Upper end of its 90 % interval.
        margin: The smallest difference that matters.
        n: Number of seeds on either side.
    """

    difference: float
    low: float
    high: float
    margin: float
    n: int

    @property
    def answer(self) -> str:
        """Equivalent if the interval lies within the margin, different if it lies beyond, otherwise not shown."""
        if -self.margin < self.low and self.high < self.margin:
            return "equivalent"
        return "different" if self.low > self.margin or self.high < -self.margin else "not shown"

    @property
    def verdict(self) -> str:
        """The answer as the table shows it."""
        return {"different": "**different**", "not shown": f"not shown with {self.n} seeds"}.get(
            self.answer, self.answer
        )


def mean(scores: np.ndarray) -> Estimate:
    """Mean over seeds, the first axis, with Student's interval; no interval with fewer than `MIN_SEEDS`.

    x̄ ± t(n − 1) s / √n

    Raises:
        ValueError: A score is NaN or infinite.
    """
    scores = _finite(scores)
    n, value = len(scores), scores.mean(axis=0)
    if n < MIN_SEEDS:
        nothing = np.full_like(value, np.nan)
        return Estimate(value, nothing, nothing)
    deviations = scores - scores[0]  # exactly 0 for equal scores; deviations from the mean need not be
    half = stats.t.ppf(_QUANTILE, n - 1) * deviations.std(axis=0, ddof=1) / np.sqrt(n)
    return Estimate(value, value - half, value + half)


def difference(scores: np.ndarray, others: np.ndarray, confidence: float = CONFIDENCE) -> Difference:
    """The mean difference of two sets of scores over seeds and M environments, with Student's interval.

    dₛ = 1/M Σₘ (xₛₘ − yₛₘ),  d̄ ± t(n − 1) s_d / √n

    Scores are paired by seed: both were evaluated on the same episodes, and the trainings may have started alike.
    An interval for independent samples would be too wide if paired scores rise and fall together.

    Args:
        scores: Shape (seeds, environments) or (seeds,).
        others: Scores with the same seeds and environments.
        confidence: Coverage of the interval.

    Raises:
        ValueError: A score is NaN or infinite, there are fewer than `MIN_SEEDS` seeds, or the shapes differ.
    """
    first, second = _columns(scores), _columns(others)
    if first.shape != second.shape:
        raise ValueError(
            f"Both need the same seeds and environments, but the shapes are {first.shape} and {second.shape}."
        )
    n = len(first)
    if n < MIN_SEEDS:
        raise ValueError(f"A difference needs at least {MIN_SEEDS} seeds of each, but has {n}.")
    differences = (first - second).mean(axis=1)
    value, error = float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(n))
    # Averages of equal numbers can differ in their last digit.
    rounding = 1e-12 * max(np.abs(first).max(), np.abs(second).max())
    if error <= rounding:
        value = 0.0 if abs(value) <= rounding else value
        return Difference(value, value, value, float(value == 0))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * error)
    return Difference(value, value - half, value + half, float(2 * stats.t.sf(abs(value) / error, n - 1)))


def welch(means: Sequence[float], deviations: Sequence[float], ns: Sequence[int], confidence: float) -> Estimate:
    """The difference of two independent means, with Welch's interval.

    (x̄ − ȳ) ± t(ν) √(s_x²/n_x + s_y²/n_y),   ν by Welch and Satterthwaite

    Args:
        means: x̄ and ȳ.
        deviations: Standard deviations of the two samples; 0 is allowed.
        ns: Their sizes, at least 2.
        confidence: Coverage of the interval.
    """
    squares = np.square(deviations) / ns
    half = 0.0
    if squares.sum() > 0:
        freedom = squares.sum() ** 2 / (squares**2 / (np.asarray(ns) - 1)).sum()
        half = float(stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(squares.sum()))
    value = float(means[0] - means[1])
    return Estimate(value, value - half, value + half)


def equivalence(ours: Sequence[float], theirs: Sequence[float], margin: float) -> Equivalence:
    """Test whether the means of two independent samples differ by less than a margin, with `welch`'s interval.

    Args:
        ours: x, at least two numbers, which may be equal.
        theirs: y, the same.
        margin: Greater than 0, chosen beforehand.
    """
    samples = (ours, theirs)
    found = welch(
        [float(np.mean(sample)) for sample in samples],
        [float(np.std(sample, ddof=1)) for sample in samples],
        [len(sample) for sample in samples],
        EQUIVALENCE_CONFIDENCE,
    )
    return Equivalence(*found, margin, min(len(ours), len(theirs)))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values corrected for the number of comparisons.

    p̃₍ᵢ₎ = max over j ≤ i of min(1, (m − j + 1) p₍ⱼ₎)   (Holm 1979, "A simple sequentially rejective multiple test
    procedure")
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(np.minimum(1, np.arange(len(values), 0, -1) * values[order]))
    return adjusted


def normalised(scores: np.ndarray, random: float, best: float) -> np.ndarray:
    """(score − random) / (best − random): 0 for random actions, 1 for the best score.

    Raises:
        ValueError: The best score does not exceed that of random actions.
    """
    if not best > random:
        raise ValueError(f"The best score, {best}, must exceed that of random actions, {random}.")
    return (np.asarray(scores) - random) / (best - random)


def iqm(scores: np.ndarray) -> float:
    """Interquartile mean: the mean of the middle half of all runs, pooled over environments."""
    scores = np.sort(scores, axis=None)
    cut = scores.size // 4
    return float(scores[cut : scores.size - cut].mean())


def median(scores: np.ndarray) -> float:
    """The median over environments of the mean over seeds."""
    return float(np.median(scores.mean(axis=0)))


def optimality_gap(scores: np.ndarray) -> float:
    """1 − mean of min(score, 1): the mean shortfall below 1, for which scores above 1 do not compensate."""
    return float(1 - np.minimum(scores, 1).mean())


AGGREGATES: Mapping[str, Callable[[np.ndarray], float]] = {
    "IQM": iqm,
    "median": median,
    "mean": lambda scores: float(scores.mean()),
    "optimality gap": optimality_gap,
}


def aggregates(scores: np.ndarray) -> dict[str, Estimate]:
    """The `AGGREGATES` of normalised scores with their bootstrap intervals, by name."""
    estimates = bootstrap(lambda sample: np.array([measure(sample) for measure in AGGREGATES.values()]), scores)
    return {name: Estimate(*numbers) for name, numbers in zip(AGGREGATES, zip(*estimates, strict=True), strict=True)}


def interquartile_mean(scores: np.ndarray) -> Estimate:
    """The interquartile mean with its bootstrap interval."""
    return _scalar(bootstrap(lambda sample: np.array([iqm(sample)]), scores))


def iqm_difference(scores: np.ndarray, others: np.ndarray) -> Estimate:
    """The difference of two interquartile means, with its bootstrap interval."""
    return _scalar(bootstrap(lambda x, y: np.array([iqm(x) - iqm(y)]), scores, others))


def probability_of_improvement(scores: np.ndarray, others: np.ndarray) -> Estimate:
    """The probability that a run of the first beats one of the second on the same environment, with its interval.

    P(X > Y) = 1/M Σₘ 1/(nₓ nᵧ) Σᵢⱼ [xᵢₘ > yⱼₘ] + ½ [xᵢₘ = yⱼₘ]
    """
    return _scalar(bootstrap(_improvement, scores, others))


def _improvement(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    signs = np.sign(scores[:, None] - others[None])  # (runs of the first, runs of the second, environments)
    return np.array([(1 + signs.mean()) / 2])


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> Estimate:
    """The share of all runs that score above each threshold, with its pointwise bootstrap interval."""
    return bootstrap(lambda sample: (sample[..., None] > thresholds).mean(axis=(0, 1)), scores)


def bootstrap(function: Callable[..., np.ndarray], *scores: np.ndarray) -> Estimate:
    """A statistic with its 2.5 % and 97.5 % percentiles over resampled seeds: rliable's stratified bootstrap.

    Each environment's runs are drawn with replacement, independently of other environments. Runs with the same seed in
    several arrays are drawn together.

    Args:
        function: Maps arrays of scores to an array of numbers.
        *scores: Arrays of one shape, (seeds, environments).

    Raises:
        ValueError: A score is NaN or infinite.
    """
    arrays = [_columns(array) for array in scores]
    if min(map(len, arrays)) < MIN_SEEDS:
        value = function(*arrays)
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    rows = _drawn_rows(arrays[0].shape, N_RESAMPLES)
    resamples = zip(*(array[rows, np.arange(array.shape[1])] for array in arrays), strict=True)
    found = np.stack([function(*resample) for resample in resamples])
    tail = 100 * (1 - CONFIDENCE) / 2
    return Estimate(function(*arrays), *np.percentile(found, [tail, 100 - tail], axis=0))


@lru_cache(maxsize=8)
def _drawn_rows(shape: tuple[int, int], n_resamples: int) -> np.ndarray:
    """The row index of each score in each resample, shape (resamples, seeds, environments); the same in each call."""
    from rliable import library  # an extra that intervals of means do not need

    rows = np.broadcast_to(np.arange(shape[0])[:, None], shape)
    with _same_draws():
        return np.stack([drawn for (drawn,), _ in library.StratifiedBootstrap(rows).bootstrap(n_resamples)])


def learning_curve(curves: Sequence[np.ndarray]) -> tuple[np.ndarray, Estimate]:
    """The mean learning curve over seeds; times are averaged too.

    Args:
        curves: One array for each seed, with a row (time in steps or seconds, mean return) for each evaluation. All
            curves are cut to the length of the shortest.

    Returns:
        Times, and mean returns with an interval for each.
    """
    stacked = np.stack([curve[: min(map(len, curves))] for curve in curves])  # (seeds, evaluations, 2)
    return stacked[..., 0].mean(axis=0), mean(stacked[..., 1])


def time_to(threshold: float, curve: np.ndarray) -> float | None:
    """The time of the first evaluation that reached a threshold; None if none did.

    Args:
        threshold: A mean return.
        curve: One of the `curves` of `learning_curve`.
    """
    reached = curve[curve[:, 1] >= threshold, 0]
    return float(reached[0]) if len(reached) else None


class TimeTo(NamedTuple):
    """The time until a threshold: its mean with the interval, and the numbers of runs that got there, and of all."""

    time: Estimate
    reached: int
    n: int


def mean_time_to(threshold: float, curves: Sequence[np.ndarray]) -> TimeTo:
    """The mean time until the first evaluation that reached a threshold, restricted to the length of the trainings.

    E[min(T, end)], with Student's interval, cut at 0

    A run that never got there is censored: it counts with its last time. The mean is a lower bound then. No time
    lies below 0, so that cutting takes nothing from the interval's coverage.

    Args:
        threshold: A mean return.
        curves: As for `learning_curve`, one for each run.
    """
    times = [time_to(threshold, curve) for curve in curves]
    known = [float(curve[-1, 0]) if time is None else time for time, curve in zip(times, curves, strict=True)]
    value, low, high = mean(np.array(known))
    return TimeTo(Estimate(value, np.maximum(low, 0), high), sum(time is not None for time in times), len(times))


def _scalar(estimate: Estimate) -> Estimate:
    return Estimate(*(float(array[0]) for array in estimate))


def _columns(scores: np.ndarray) -> np.ndarray:
    scores = _finite(scores)
    return scores[:, None] if scores.ndim == 1 else scores


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, dtype=float)
    if not np.isfinite(scores).all():
        raise ValueError(f"Scores must be finite, but one is {scores[~np.isfinite(scores)][0]}.")
    return scores


@contextmanager
def _same_draws() -> Iterator[None]:
    """Make resamples repeatable: rliable draws from NumPy's global generator, even if it is given a `random_state`."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
