"""Argument checks. Each error names the argument, the value given and the allowed values."""

from __future__ import annotations

import difflib
import math
from typing import Any

import numpy as np
from gymnasium import spaces


def check_number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    integer: bool = False,
    optional: bool = False,
) -> None:
    """Refuse a number outside its range.

    Raises:
        ValueError: The value is out of range or of the wrong kind.
    """
    if optional and value is None:
        return
    kinds = (int, np.integer) if integer else (int, float, np.integer, np.floating)
    fine = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if not (fine and (at_least is None or value >= at_least) and (at_most is None or value <= at_most)):
        bounds = [
            f"{words} {bound}" for words, bound in (("at least", at_least), ("at most", at_most)) if bound is not None
        ]
        kind = "an integer" if integer else "a number"
        allowed = " ".join([kind, " and ".join(bounds)]).strip() + (", or None" if optional else "")
        raise ValueError(f"`{name}` must be {allowed}, but is {value!r}.")


def check_choice(name: str, value: Any, allowed: Any, also: str = "") -> None:
    """Refuse a value that is not one of a few.

    Args:
        name: Name of the argument.
        value: The value given.
        allowed: The allowed values.
        also: Further allowed values in words, which the caller has ruled out.

    Raises:
        ValueError: The value is not allowed. The message suggests the nearest allowed one.
    """
    if not any(value is one or (isinstance(value, str) and value == one) for one in allowed):
        near = difflib.get_close_matches(str(value), [one for one in allowed if isinstance(one, str)], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, allowed))}{also and f' or {also}'}, but is {value!r}.{hint}"
        )


def is_distribution(probabilities: np.ndarray) -> np.ndarray:
    """Whether each row is a probability distribution, up to the rounding of float32. NaN is refused.

    Args:
        probabilities: Array of shape `(..., n)`.

    Returns:
        Bools of shape `(...)`.
    """
    fine: np.ndarray = (probabilities >= 0).all(axis=-1) & (np.abs(probabilities.sum(axis=-1) - 1) < 1e-5)
    return fine


def valid_action(action: Any, space: spaces.Space[Any]) -> np.ndarray:
    """One action, as the only row of `valid_actions`.

    Raises:
        ValueError: As `valid_actions`.
    """
    action = np.asarray(action)
    if action.shape != space.shape:
        raise ValueError(f"`action` must have shape {space.shape}, but has {action.shape}.")
    return valid_actions(action[None], space, 1)


def valid_actions(actions: np.ndarray, space: spaces.Space[Any], n: int) -> np.ndarray:
    """Actions clipped to a Box, or checked against a discrete space.

    Raises:
        ValueError: The actions have the wrong shape, are not numbers, or are outside a discrete space.
    """
    expected = (n, *(space.shape or ()))
    if actions.shape != expected:
        raise ValueError(f"`action` must have shape {expected}, but has {actions.shape}.")
    if isinstance(space, spaces.Box):
        if actions.dtype.kind not in "fiu" or np.isnan(actions).any():
            raise ValueError(f"`action` must be numbers in {space}, but is {actions!r}.")
        clipped: np.ndarray = np.clip(actions, space.low, space.high).astype(np.float64)
        return clipped
    if actions.dtype.kind not in "iu":
        raise ValueError(f"`action` must be in {space}, but is {actions!r}.")
    low, size = (space.start, space.n) if isinstance(space, spaces.Discrete) else (0, space.nvec)  # type: ignore[attr-defined]
    wrong = (actions < low) | (actions >= low + size)
    if wrong.any():
        odd = actions[wrong.reshape(n, -1).any(axis=1)][0]
        raise ValueError(f"`action` must be in {space}, but is {odd!r}.")
    return actions
