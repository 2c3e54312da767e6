"""What is subtracted from the return: baselines that need no critic.

E[∇ log π(a|s) b] = 0 for every b that does not depend on the action, so a baseline changes the variance of the
gradient and not its mean (Williams 1992; Greensmith et al. 2004, JMLR 5). Each baseline here sees the returns of a
batch of whole episodes and gives `b` for each step. To stay unbiased, none of them uses an episode's own return for
that episode: `constant` and `time` remember earlier batches, `leave_one_out` looks at the other episodes of this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pg_agents.estimators import Bools, Floats


@dataclass(frozen=True)
class Episodes:
    """The returns of a batch of whole episodes, one row each.

    Attributes:
        returns: `(n_episodes, T)`, return of each step; what stands beyond an episode's end is not used.
        alive: `(n_episodes, T)`, whether the episode had a step t.
    """

    returns: Floats
    alive: Bools


class Baseline(Protocol):
    """`baseline(episodes)` gives b as `(n_episodes, T)`; `learn(episodes)` is called once, after that."""

    def __call__(self, episodes: Episodes) -> Floats:
        """B for each step of each episode."""
        ...

    def learn(self, episodes: Episodes) -> None:
        """Take in a batch, for the batches to come."""
        ...


class NoBaseline:
    """b = 0."""

    def __call__(self, episodes: Episodes) -> Floats:
        """B for each step of each episode."""
        return np.zeros_like(episodes.returns)

    def learn(self, episodes: Episodes) -> None:
        """Nothing is remembered."""


def _averaging_rate(n_batches: int) -> float:
    """1/k at first, a plain average; then 1/10, so that the baseline follows a policy that improves."""
    return max(1 / n_batches, 0.1)


class ConstantBaseline:
    """b = running mean of the returns of earlier batches; 0 in the first (Williams 1992, reinforcement comparison)."""

    def __init__(self) -> None:
        self.mean = 0.0
        self.n_batches = 0

    def __call__(self, episodes: Episodes) -> Floats:
        """B for each step of each episode."""
        return np.full_like(episodes.returns, self.mean)

    def learn(self, episodes: Episodes) -> None:
        """Move the running mean towards this batch's mean return."""
        self.n_batches += 1
        self.mean += _averaging_rate(self.n_batches) * (float(episodes.returns[episodes.alive].mean()) - self.mean)


class TimeBaseline:
    """b(t) = running mean, over earlier batches, of the return from step t of an episode; 0 where none got that far."""

    def __init__(self) -> None:
        self.mean = np.zeros(0)
        self.n_batches = np.zeros(0)

    def __call__(self, episodes: Episodes) -> Floats:
        """B for each step of each episode."""
        baseline = np.zeros_like(episodes.returns)
        known = min(len(self.mean), baseline.shape[1])
        baseline[:, :known] = self.mean[:known]
        return baseline

    def learn(self, episodes: Episodes) -> None:
        """Move each step's running mean towards this batch's mean return from that step."""
        alive = episodes.alive.sum(axis=0)
        reached = np.flatnonzero(alive)
        missing = max(0, len(reached) - len(self.mean))
        self.mean = np.pad(self.mean, (0, missing))
        self.n_batches = np.pad(self.n_batches, (0, missing))
        self.n_batches[reached] += 1
        sums = np.where(episodes.alive, episodes.returns, 0).sum(axis=0)
        for t in reached:
            self.mean[t] += _averaging_rate(self.n_batches[t]) * (sums[t] / alive[t] - self.mean[t])


class LeaveOneOutBaseline:
    """b_i(t) = mean return from step t of the other episodes of the batch that have a step t; 0 where there is none.

    (Kool et al. 2019; arXiv:2402.14740)
    """

    def __call__(self, episodes: Episodes) -> Floats:
        """B for each step of each episode; 0 for a batch of a single one."""
        returns = np.where(episodes.alive, episodes.returns, 0)
        others = episodes.alive.sum(axis=0) - episodes.alive
        baseline: Floats = (returns.sum(axis=0) - returns) / np.maximum(others, 1)
        return baseline

    def learn(self, episodes: Episodes) -> None:
        """Nothing is remembered."""


BASELINES: dict[str, type[Baseline]] = {
    "none": NoBaseline,
    "constant": ConstantBaseline,
    "time": TimeBaseline,
    "leave_one_out": LeaveOneOutBaseline,
}
