"""Spaces as policies take them, and observations and actions on their way between an environment and a policy.

SB3's policies and buffers take categories in one row that count from 0, and draw actions as float32 numbers. What an
environment's space has beyond that is translated where the agent meets the environment:

| the environment's space                                | the policy's           | sent                       |
|--------------------------------------------------------|------------------------|----------------------------|
| `Discrete` with a `start`                              | the same from 0        | counted from `start`       |
| `MultiDiscrete` with a `start` or of several dimensions | one row, from 0        | counted, in the shape      |
| `MultiBinary` of several dimensions (actions)          | one row                | in the shape               |
| `Box` of a type other than float32, float64 (actions)  | the same of float32    | rounded to the type        |
| `Box` of shape `()`                                    | the same of shape (1,) | in the shape               |
| `Box` of integers, normalised (observations)           | the same of float32    |                            |

A Dict of observations is translated part by part. All other spaces are the policy's, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

# float64 holds every integer up to here.
_EXACT = 2.0**53


class Translation:
    """Between the spaces of one environment and those of the policy that acts in it.

    Args:
        observation_space: The environment's.
        action_space: The environment's.
        normalizes: A `VecNormalize` turns observations into fractions, whatever numbers their space has.

    Attributes:
        given: The environment's two spaces.
        observation_space: The policy's.
        action_space: The policy's.
    """

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], *, normalizes: bool = False
    ) -> None:
        self.given = observation_space, action_space
        self._observations, self._actions = observation_space, action_space
        self.observation_space, self.action_space = _observed(observation_space, normalizes), _acted(action_space)
        self._parts: dict[str, spaces.Space[Any]] = {}  # of a Dict, those that are translated
        if isinstance(observation_space, spaces.Dict):
            parts = observation_space.spaces.items()
            self._parts = {key: part for key, part in parts if _observed(part, normalizes) is not part}

    @property
    def is_needed(self) -> bool:
        """The policy's spaces are not the environment's own."""
        return self.observation_space is not self._observations or self.action_space is not self._actions

    def observations(self, observations: Any) -> Any:
        """One observation of the environment, or many, as the policy takes them."""
        if self.observation_space is self._observations:
            return observations
        if not isinstance(self._observations, spaces.Dict):
            return observations if isinstance(observations, tuple) else _in_a_row(observations, self._observations)
        if not isinstance(observations, dict):
            return observations  # which the policy refuses
        parts = self._parts
        return {key: _in_a_row(one, parts[key]) if key in parts else one for key, one in observations.items()}

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """One action of the policy, or many, as the environment takes them; those of a Box are within its bounds."""
        space = self._actions
        if self.action_space is space:
            return actions
        lead = actions.shape[: actions.ndim - len(self.action_space.shape or ())]
        shaped = actions.reshape(lead + (space.shape or ()))
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            shaped = shaped + space.start
        elif isinstance(space, spaces.Box) and space.dtype.kind in "biu":
            shaped = _rounded(shaped, space)
        return np.asarray(shaped, dtype=space.dtype)

    def policy_actions(self, actions: np.ndarray) -> np.ndarray:
        """Many actions of the environment as the policy draws them."""
        if self.action_space is self._actions:
            return actions
        return _in_a_row(actions, self._actions).reshape(len(actions), *(self.action_space.shape or ()))


def _observed(space: spaces.Space[Any], normalizes: bool) -> spaces.Space[Any]:
    """The policy's space of observations in a space of the environment."""
    if isinstance(space, spaces.Dict):
        parts = {key: _observed(part, normalizes) for key, part in space.spaces.items()}
        same = all(parts[key] is part for key, part in space.spaces.items())
        # Pairs, because the order of the keys is that of the network's inputs.
        return space if same else spaces.Dict(list(parts.items()))
    if isinstance(space, spaces.Box):
        kind = np.float32 if normalizes and space.dtype.kind in "biu" and not is_image_space(space) else space.dtype
        return space if space.shape and kind == space.dtype else _box(space, kind)
    return _from_0(space)


def _box(space: spaces.Box, kind: Any) -> spaces.Box:
    """A Box with the same bounds, of another type and of at least one dimension."""
    low, high = (np.atleast_1d(bound.astype(kind)) for bound in (space.low, space.high))
    return spaces.Box(low, high, dtype=kind)


def _acted(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The policy's space of actions in a space of the environment."""
    if isinstance(space, spaces.Box) and (space.shape == () or space.dtype not in (np.float32, np.float64)):
        return _box(space, space.dtype if space.dtype in (np.float32, np.float64) else np.float32)
    if isinstance(space, spaces.MultiBinary) and len(space.shape) > 1:
        return spaces.MultiBinary(int(np.prod(space.shape)))
    return _from_0(space)


def _from_0(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Discrete) and space.start != 0:
        return spaces.Discrete(space.n)
    if isinstance(space, spaces.MultiDiscrete) and (space.nvec.ndim != 1 or space.start.any()):
        return spaces.MultiDiscrete(space.nvec.ravel())
    return space


def _in_a_row(given: Any, space: spaces.Space[Any]) -> np.ndarray:
    """Elements of a space as those of the policy's: categories from 0, each element flat."""
    values: np.ndarray = np.asarray(given)
    if isinstance(space, spaces.Discrete):
        return np.asarray(values - space.start)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        first = space.start if isinstance(space, spaces.MultiDiscrete) else 0
        lead = values.shape[: values.ndim - len(space.shape)]
        return np.reshape(values - first, (*lead, -1))
    if isinstance(space, spaces.Box) and space.shape == ():
        return np.reshape(values, (-1, 1) if values.ndim else (1,))
    return values


def _rounded(actions: np.ndarray, space: spaces.Box) -> np.ndarray:
    """The nearest integers; ends of a space that float64 does not hold are left out, for they would overflow."""
    low, high = (bound.astype(np.float64) for bound in (space.low, space.high))
    low = np.where(low < -_EXACT, np.nextafter(low, 0), low)
    high = np.where(high > _EXACT, np.nextafter(high, 0), high)
    rounded: np.ndarray = np.clip(np.rint(actions.astype(np.float64)), low, high)
    return rounded
