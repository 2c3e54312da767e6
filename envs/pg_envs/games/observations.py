"""A player's observation of the past rounds of a repeated game: `View`."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from gymnasium import spaces

from pg_envs.checks import check_choice

NOT_YET = -1
"""The move of a round that has not been played."""


class View:
    """A player's observation: nothing, the opponent's last move, or the last k rounds.

    | `observation`  | space                          | contents                                              |
    |----------------|--------------------------------|-------------------------------------------------------|
    | `"none"`       | `Box(0, 1, (1,), float32)`     | a constant 1                                          |
    | `"last"`       | `Box(0, 1, (n,), float32)`     | the opponent's last move                              |
    | `"history(k)"` | `Box(0, 1, (2 k n,), float32)` | own and opponent's move of each round, latest first   |

    Moves are one-hot vectors of n entries, all 0 for a round that has not been played.

    Args:
        observation: One of the three names, with a number for k: `"history(3)"`.
        n_actions: Number of moves, n.

    Attributes:
        n_rounds: Number of past rounds in an observation.
        sees_both: Whether it has the player's own moves too.
        space: The observation space.

    Raises:
        ValueError: `observation` is none of the three.
    """

    def __init__(self, observation: str, n_actions: int) -> None:
        history = re.fullmatch(r"history\(([1-9][0-9]*)\)", observation) if isinstance(observation, str) else None
        if history is None:
            check_choice("observation", observation, ("none", "last"), 'a number of rounds such as "history(3)"')
        self.n_rounds = int(history[1]) if history else int(observation == "last")
        self.sees_both = history is not None
        self._seen = slice(0 if self.sees_both else 1, 2)
        self._one_hot = np.eye(n_actions + 1, n_actions, dtype=np.float32)  # the last row is that of NOT_YET
        width = 1 if self.n_rounds == 0 else 2 * self.n_rounds * n_actions if history else n_actions
        self.space: spaces.Box = spaces.Box(0.0, 1.0, (width,), np.float32)

    def start(self, n: int) -> np.ndarray:
        """The past rounds of n players before the first round: integers of shape `(n, n_rounds, 2)`."""
        return np.full((n, self.n_rounds, 2), NOT_YET)

    def after(self, rounds: np.ndarray, own: Any, others: Any) -> np.ndarray:
        """The past rounds after one more round, with these moves of the players and their opponents."""
        if self.n_rounds == 0:
            return rounds
        latest = np.stack([own, others], axis=-1)[:, None]
        return np.concatenate([latest, rounds[:, :-1]], axis=1)

    def __call__(self, rounds: np.ndarray) -> np.ndarray:
        """The observations, of shape `(n, width)`."""
        if self.n_rounds == 0:
            return np.ones((len(rounds), 1), dtype=np.float32)
        seen: np.ndarray = self._one_hot[rounds[:, :, self._seen]].reshape(len(rounds), -1)
        return seen
