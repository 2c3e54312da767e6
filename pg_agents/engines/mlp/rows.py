"""Observations as rows of numbers, which the kernels read and turn into the networks' features."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

COPIED = 0  # in place of a number of categories


class Rows:
    """The layout of an observation as a row of float32 numbers: its parts one after the other, each flattened.

    Args:
        space: A Box, Discrete, MultiDiscrete or MultiBinary space, or a Dict of these, in the order of its keys.
            Categories count from 0.

    Attributes:
        is_dict: An observation is a dictionary of parts.
        columns: The columns of each part in a row, by its key; "" is the key of an observation without parts.
        categories: `(n_observation,)`, of each number of a row: the length of the unit vector that it stands for, or
            `COPIED` where it is a feature itself.
        n_observation: Numbers of a row.
        n_features: Features that the networks see.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._space, self.is_dict = space, isinstance(space, spaces.Dict)
        self._parts: dict[str, spaces.Space[Any]] = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        self.columns: dict[str, slice] = {}
        categories: list[int] = []
        for key, part in self._parts.items():
            first = len(categories)
            categories += _categories(part)
            self.columns[key] = slice(first, len(categories))
        self.categories = np.array(categories, dtype=np.int64)
        self.n_observation = len(categories)
        self.n_features = sum(max(size, 1) for size in categories)

    def pack(self, observations: Any, n: int) -> np.ndarray:
        """The rows of `n` observations, `(n, n_observation)` float32, which may share the memory of a single array.

        Args:
            observations: An array, or an array for each key, of any shape whose numbers are in this order.
            n: Number of observations.
        """
        if not self.is_dict:
            return np.ascontiguousarray(observations, dtype=np.float32).reshape(n, self.n_observation)
        rows = np.empty((n, self.n_observation), np.float32)
        for key, columns in self.columns.items():
            rows[:, columns] = np.reshape(observations[key], (n, columns.stop - columns.start))
        return rows

    def pack_batch(self, observations: Any) -> np.ndarray:
        """The rows of a batch of observations, as the policy takes them.

        Raises:
            ValueError: They do not fit the space.
        """
        given = observations if self.is_dict else {"": observations}
        if not isinstance(given, dict) or given.keys() != self._parts.keys():
            kind = f"with the keys {sorted(given)}" if isinstance(given, dict) else f"of type {type(given).__name__}"
            raise ValueError(f"Unexpected observation {kind} for the observation space {self._space}.")
        for key, part in self._parts.items():
            shape = np.shape(given[key])[1:]
            if shape not in (part.shape, (1,) if part.shape == () else None):
                of_key = f" of {key!r}" if key else ""
                raise ValueError(f"Unexpected observation shape {shape}{of_key} for the observation space {part}.")
        return self.pack(observations, len(next(iter(given.values()))))


def _categories(space: spaces.Space[Any]) -> list[int]:
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(size) for size in space.nvec]
    return [COPIED] * int(np.prod(space.shape or ()))
