"""Payoffs of rock-paper-scissors and its relatives: `payoff_matrix`, and `move_names`."""

from __future__ import annotations

from typing import Any

import numpy as np

from pg_envs.checks import check_choice, check_number

PAYOFFS = ("standard", "weighted", "rpsls")
# The order in PettingZoo's code, in which the rule of odd steps gives the known game; its page swaps the last two.
NAMES = ("rock", "paper", "scissors", "spock", "lizard")


def payoff_matrix(payoff: Any = "standard", n_actions: int | None = None) -> np.ndarray:
    """The reward of move i against move j: a skew-symmetric matrix, A[i, j] = -A[j, i].

    Args:
        payoff: `"standard"`, n moves in a circle, each of which beats those an odd number of steps behind it;
            `"weighted"`, rock-paper-scissors in which a win with rock pays 2, with the equilibrium (1/4, 1/2, 1/4);
            `"rpsls"`, rock-paper-scissors-spock-lizard; or a skew-symmetric matrix.
        n_actions: Number of moves, which must be odd for `"standard"`. By default 3, or the number in the payoff.

    Returns:
        Float64, of shape `(n_actions, n_actions)`.

    Raises:
        ValueError: The name is unknown, the number of moves is even, or the matrix is not square, finite,
            skew-symmetric and of `n_actions` rows.
    """
    check_number("n_actions", n_actions, at_least=2, integer=True, optional=True)
    if isinstance(payoff, str):
        check_choice("payoff", payoff, PAYOFFS)
        matrix = _circle({"standard": n_actions or 3, "weighted": 3, "rpsls": 5}[payoff])
        if payoff == "weighted":
            matrix[0, 2], matrix[2, 0] = 2.0, -2.0
    else:
        matrix = _checked(payoff)
    if n_actions not in (None, len(matrix)):
        raise ValueError(f"`n_actions` must be {len(matrix)} with this payoff, or None, but is {n_actions!r}.")
    return matrix


def move_names(n_actions: int) -> tuple[str, ...]:
    """The moves' names: rock, paper, scissors, spock, lizard, move 5, move 6, ..."""
    return (*NAMES[:n_actions], *(f"move {i}" for i in range(len(NAMES), n_actions)))


def _circle(n: int) -> np.ndarray:
    if n % 2 == 0:
        raise ValueError(
            f"`n_actions` must be odd, so that each move beats as many others as beat it, but is {n}. "
            "For an even number, give `payoff` as a matrix."
        )
    ahead = (np.arange(n)[:, None] - np.arange(n)) % n
    return np.where(ahead == 0, 0.0, np.where(ahead % 2 == 1, 1.0, -1.0))


def _checked(payoff: Any) -> np.ndarray:
    allowed = f"must be one of {', '.join(map(repr, PAYOFFS))}, or a skew-symmetric matrix,"
    try:
        matrix = np.array(payoff, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"`payoff` {allowed} but is {payoff!r}.") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"`payoff` {allowed} with at least two rows, but has shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise ValueError(f"`payoff` {allowed} of finite numbers, but contains {matrix[~np.isfinite(matrix)][0]}.")
    odd = np.argwhere(matrix != -matrix.T)
    if len(odd):
        i, j = odd[0]
        raise ValueError(
            f"`payoff` {allowed} with A[i, j] = -A[j, i], but A[{i}, {j}] is {matrix[i, j]:g} "
            f"and A[{j}, {i}] is {matrix[j, i]:g}."
        )
    return matrix
