"""A repeated matrix game from one seat: `Match`, and the moves that win most."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pg_envs.games.observations import View

Memory = tuple[Any, ...]
"""The memory of an opponent: arrays whose first axis counts matches, or tuples of such arrays."""

TIE = 1e-9
"""Sums of payoffs that differ by less count as equal: the difference is rounding."""


class Match(NamedTuple):
    """The rules of a match, which opponents know.

    Attributes:
        payoff: The agent's reward: a row for each of its moves, a column for each of the opponent's.
        n_rounds: Number of rounds of a match.
        view: The agent's view of past rounds.
    """

    payoff: np.ndarray
    n_rounds: int
    view: View

    @property
    def n_actions(self) -> int:
        """Number of moves."""
        return len(self.payoff)


def best_moves(won: np.ndarray) -> np.ndarray:
    """Equal probabilities for the moves that win most, of shape `(matches, n_actions)`."""
    best = won >= won.max(axis=1, keepdims=True) - TIE
    probabilities: np.ndarray = best / best.cumsum(axis=1)[:, -1:]
    return probabilities
