"""Baselines, which are subtracted from the return, without a critic.

E[∇ log π(a|s) b] = 0 for every b that does not depend on the action, so a baseline changes the variance of the
gradient and not its mean (Williams 1992; Greensmith et al. 2004, JMLR 5). Each baseline here sees the returns of a
batch of whole episodes and gives `b` for each step. To stay unbiased, none of them uses an episode's own return for
that episode: `constant` and `time` remember earlier batches, `leave_one_out` looks at the other episodes of this one.

A baseline is a value: `baseline(episodes)` gives b, and `baseline.after(episodes)` the baseline of the batches to come.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np
from typing_extensions import Self

from pg_agents.episodes import Episodes
from pg_agents.estimators import Floats


class Baseline(Protocol):
    """A baseline; it does not change.

    Attributes:
        remembers: `after` gives another baseline.
    """

    remembers: ClassVar[bool]

    def __call__(self, episodes: Episodes) -> Floats:
        """b for each step of each episode, `(n_episodes, T)`."""
        ...

    def after(self, episodes: Episodes) -> Self:
        """The baseline for the batches to come, which remembers this one."""
        ...


@dataclass(frozen=True)
class NoBaseline:
    """b = 0."""

    remembers: ClassVar[bool] = False

    def __call__(self, episodes: Episodes) -> Floats:
        """b for each step of each episode."""
        return np.zeros_like(episodes.returns)

    def after(self, episodes: Episodes) -> Self:
        """The same: nothing is remembered."""
        return self


def _averaging_rate(n_batches: int) -> float:
    """1/k at first, a plain average; then 1/10, so that the baseline follows a policy that improves."""
    return max(1 / n_batches, 0.1)


@dataclass(frozen=True)
class ConstantBaseline:
    """b = running mean of the returns of earlier batches; 0 in the first (Williams 1992, reinforcement comparison)."""

    remembers: ClassVar[bool] = True

    mean: float = 0.0
    n_batches: int = 0

    def __call__(self, episodes: Episodes) -> Floats:
        """b for each step of each episode."""
        return np.full_like(episodes.returns, self.mean)

    def after(self, episodes: Episodes) -> Self:
        """The running mean moved towards this batch's mean return."""
        n_batches = self.n_batches + 1
        error = float(episodes.returns[episodes.alive].mean()) - self.mean
        return replace(self, mean=self.mean + _averaging_rate(n_batches) * error, n_batches=n_batches)


@dataclass(frozen=True)
class TimeBaseline:
    """b(t) = running mean, over earlier batches, of the return from step t of an episode; 0 where none got that far."""

    remembers: ClassVar[bool] = True

    mean: Floats = field(default_factory=lambda: np.zeros(0))
    n_batches: Floats = field(default_factory=lambda: np.zeros(0))

    def __call__(self, episodes: Episodes) -> Floats:
        """b for each step of each episode."""
        baseline = np.zeros_like(episodes.returns)
        known = min(len(self.mean), baseline.shape[1])
        baseline[:, :known] = self.mean[:known]
        return baseline

    def after(self, episodes: Episodes) -> Self:
        """Each step's running mean moved towards this batch's mean return from that step."""
        alive = episodes.alive.sum(axis=0)
        reached = np.flatnonzero(alive)
        missing = max(0, len(reached) - len(self.mean))
        mean, n_batches = np.pad(self.mean, (0, missing)), np.pad(self.n_batches, (0, missing))
        n_batches[reached] += 1
        sums = np.where(episodes.alive, episodes.returns, 0).sum(axis=0)
        for t in reached:
            mean[t] += _averaging_rate(n_batches[t]) * (sums[t] / alive[t] - mean[t])
        return replace(self, mean=mean, n_batches=n_batches)


@dataclass(frozen=True)
class LeaveOneOutBaseline:
    """b_i(t) = mean return from step t of the other episodes of the batch that have a step t; 0 where there is none.

    (Kool et al. 2019; arXiv:2402.14740)
    """

    remembers: ClassVar[bool] = False

    def __call__(self, episodes: Episodes) -> Floats:
        """b for each step of each episode; 0 for a batch of a single one. Of episodes in groups, for each group."""
        returns = np.where(episodes.alive, episodes.returns, 0)
        others = episodes.alive.sum(axis=-2, keepdims=True) - episodes.alive
        baseline: Floats = (returns.sum(axis=-2, keepdims=True) - returns) / np.maximum(others, 1)
        return baseline

    def after(self, episodes: Episodes) -> Self:
        """The same: nothing is remembered."""
        return self


def group_moments(groups: Episodes) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the returns from step t of the episodes of a group that have a step t.

    x̄ = 1/n Σ_i x_i, s = √(1/(n - 1) Σ_i (x_i - x̄)²) over the n(t) such episodes   (arXiv:2402.03300, section 4.1.2)

    Args:
        groups: Episodes in groups.

    Returns:
        Both `(n_groups, 1, T)`; s is 0 where a single episode is left.
    """
    n = np.maximum(groups.alive.sum(axis=-2, keepdims=True), 1)
    mean = np.where(groups.alive, groups.returns, 0).sum(axis=-2, keepdims=True) / n
    squares = np.where(groups.alive, (groups.returns - mean) ** 2, 0).sum(axis=-2, keepdims=True)
    return mean, np.sqrt(squares / np.maximum(n - 1, 1))


BASELINES: dict[str, type[Baseline]] = {
    "none": NoBaseline,
    "constant": ConstantBaseline,
    "time": TimeBaseline,
    "leave_one_out": LeaveOneOutBaseline,
}
