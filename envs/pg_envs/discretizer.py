"""Continuous actions as bins: `Discretizer`, and `DiscretizerVector` for vector environments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space

from pg_envs.checks import valid_action, valid_actions

Bins = int | Sequence[int | Sequence[float]]
MOST_JOINT_ACTIONS = 10**6


class Discretizer(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Replaces a Box of actions by bins: a MultiDiscrete space, or one Discrete space for all combinations.

    Args:
        env: An environment whose action space is a bounded Box.
        bins: Number of values per dimension, evenly spaced from the lowest to the highest; or a sequence with one entry
            per dimension (in C order), each of which is a number of values or the values themselves.
        joint: Whether one action numbers all combinations, the last dimension fastest, instead of a choice for each
            dimension.

    Raises:
        ValueError: The action space is not a bounded Box, a dimension has fewer than 2 bins or values outside the Box,
            or a joint space has more than 10⁶ combinations.
    """

    def __init__(self, env: gym.Env[Any, Any], bins: Bins = 11, joint: bool = False) -> None:
        RecordConstructorArgs.__init__(self, bins=bins, joint=joint)
        gym.ActionWrapper.__init__(self, env)
        self._grid = _Grid(env.action_space, bins, joint)
        self.action_space = self._grid.space

    def action(self, action: Any) -> np.ndarray:
        """The action in the Box.

        Raises:
            ValueError: The action is not in the discrete space.
        """
        values: np.ndarray = self._grid.values(valid_action(action, self.action_space))[0]
        return values


class DiscretizerVector(VectorActionWrapper[Any, Any, Any, Any]):
    """`Discretizer` for a vector environment, with the same arguments."""

    def __init__(self, env: VectorEnv[Any, Any, Any], bins: Bins = 11, joint: bool = False) -> None:
        super().__init__(env)
        self._grid = _Grid(env.single_action_space, bins, joint)
        self.single_action_space = self._grid.space
        self.action_space = batch_space(self._grid.space, env.num_envs)

    def actions(self, actions: Any) -> np.ndarray:
        """The actions in the Box.

        Raises:
            ValueError: An action is not in the discrete space.
        """
        return self._grid.values(valid_actions(np.asarray(actions), self.single_action_space, self.num_envs))


class _Grid:
    """The values of the bins, and the space of bin numbers."""

    def __init__(self, box: spaces.Space[Any], bins: Bins, joint: bool) -> None:
        if not isinstance(box, spaces.Box) or not box.is_bounded():
            raise ValueError(f"The action space must be a bounded Box, whose ends are the outer bins, but is {box}.")
        self._box = box
        lows, highs = box.low.ravel(), box.high.ravel()
        each = list(bins) if np.iterable(bins) else [bins] * lows.size
        if len(each) != lows.size or isinstance(bins, str):
            raise ValueError(
                f"`bins` must be a number or have {lows.size} entries, one per dimension, but is {bins!r}."
            )
        values = [_values(i, *entry) for i, entry in enumerate(zip(each, lows, highs, strict=True))]
        self._sizes = [len(row) for row in values]
        self._values = np.zeros((lows.size, max(self._sizes)), dtype=box.dtype)
        for i, row in enumerate(values):
            self._values[i, : len(row)] = row
        self.space: spaces.Discrete | spaces.MultiDiscrete = spaces.MultiDiscrete(self._sizes)
        if joint:
            self.space = spaces.Discrete(_checked_size(self._sizes))

    def values(self, actions: np.ndarray) -> np.ndarray:
        """Actions in the Box, `(n, *shape)`, from bin numbers, `(n,)` or `(n, dimensions)`."""
        if isinstance(self.space, spaces.Discrete):
            actions = np.stack(np.unravel_index(actions, self._sizes), axis=1)
        chosen: np.ndarray = self._values[np.arange(len(self._sizes)), actions]
        return chosen.reshape(len(actions), *self._box.shape)


def _values(i: int, bins: Any, low: np.floating[Any], high: np.floating[Any]) -> np.ndarray:
    if isinstance(bins, (int, np.integer)) and bins >= 2 and not isinstance(bins, bool):
        return np.linspace(low, high, int(bins))
    values = np.asarray(bins, dtype=low.dtype)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"`bins` must be an integer of at least 2, or at least 2 values, in each dimension, but is {bins!r} in "
            f"dimension {i}."
        )
    if not ((values >= low) & (values <= high)).all():
        raise ValueError(f"`bins` must have values from {low} to {high} in dimension {i}, but has {bins!r}.")
    return values


def _checked_size(sizes: list[int]) -> int:
    size = math.prod(sizes)
    if size > MOST_JOINT_ACTIONS:
        digits = len(str(size)) - 1
        leading = f"{size / 10**digits:.1f}".removesuffix(".0")
        written = f"10^{digits}" if leading == "1" else f"{leading} x 10^{digits}"
        raise ValueError(
            f"`joint` must be False if there are more than 10^6 combinations of bins, but {len(sizes)} dimensions "
            f"of {min(sizes)}{f' to {max(sizes)}' if max(sizes) > min(sizes) else ''} bins have {written}."
        )
    return size
