"""The exact return of a policy without memory against the opponent `"frequency"`: a sum over counts of moves."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np

from pg_envs.games.repeated import Match, best_moves

LARGEST = 25_000  # counts in the sum


class Memoryless:
    """Matches between an agent that always plays the same mixture p and `FrequencyOpponent`.

    J(p) = Σ_t Σ_c P(c | t, p) Σ_b π(b|c) (p A)_b,

    summed over the rounds t, the counts c of the agent's moves before round t (multinomial), and the opponent's moves
    b; π(b|c) is uniform over the best responses to c.

    Args:
        match: The match.

    Raises:
        ValueError: There are more than 25,000 counts.
    """

    def __init__(self, match: Match) -> None:
        if n_counts(match) > LARGEST:
            raise ValueError(f"The match must have at most {LARGEST} counts of moves, but has {n_counts(match)}.")
        from scipy.special import gammaln

        self.payoff = match.payoff
        self.counts = np.concatenate([_counts(t, match.n_actions) for t in range(match.n_rounds)]).astype(np.float64)
        self._logarithms = gammaln(self.counts.sum(axis=1) + 1) - gammaln(self.counts + 1).sum(axis=1)
        self._answers = best_moves(-self.counts @ match.payoff)

    def mean_return(self, p: np.ndarray) -> float:
        """J(p)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            powers = np.where(self.counts > 0, self.counts * np.log(p), 0.0).sum(axis=1)
        return float(np.exp(self._logarithms + powers) @ (self._answers @ (p @ self.payoff)))

    def best(self) -> tuple[np.ndarray, float]:
        """The best p, and J(p): the best of a grid, improved by the Nelder-Mead method."""
        from scipy.optimize import minimize

        n = self.payoff.shape[0]
        grid = _counts(n, n) / n
        first = max(grid, key=self.mean_return)
        found = minimize(
            lambda x: -self.mean_return(_softmax(x)),
            np.log(np.maximum(first, 1e-3)),
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-12},
        )
        return max([(first, self.mean_return(first)), (_softmax(found.x), -float(found.fun))], key=lambda one: one[1])


def n_counts(match: Match) -> int:
    """Number of possible counts of the agent's moves before a round, summed over the rounds."""
    return comb(match.n_rounds - 1 + match.n_actions, match.n_actions)


def _counts(total: int, n: int) -> np.ndarray:
    """All ways to write a total as a sum of n numbers: the gaps between n - 1 bars among total + n - 1 places."""
    bars = np.array(list(combinations(range(total + n - 1), n - 1)))
    edges = np.column_stack([np.full(len(bars), -1), bars, np.full(len(bars), total + n - 1)])
    return np.diff(edges, axis=1) - 1


def _softmax(x: np.ndarray) -> np.ndarray:
    likelihoods = np.exp(x - x.max())
    normed: np.ndarray = likelihoods / likelihoods.sum()
    return normed
