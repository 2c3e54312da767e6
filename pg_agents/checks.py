"""Checks of arguments: each failure names the argument, its value and what is allowed."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np


class MissingExtraError(ImportError):
    """An optional package is not installed; the message says how to get it."""


def suggestion(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` Did you mean '...'?` for the nearest of the known names, or nothing where none is near.

    Args:
        name: The name given.
        known: The names that exist.
        cutoff: Least similarity, from 0 to 1.
    """
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    integer: bool = False,
    infinite: bool = False,
    optional: bool = False,
    schedule: bool = False,
) -> None:
    """Refuse a number outside its range. Where a schedule may be given, any callable passes: its values come later.

    Raises:
        ValueError: The value is out of range or of the wrong kind.
    """
    if (schedule and callable(value)) or (optional and value is None):
        return
    kinds = (int, np.integer) if integer else (int, float, np.integer, np.floating)
    in_range = (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and (isinstance(value, int) or np.isfinite(value) or (infinite and not np.isnan(value)))
        and (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
    )
    if not in_range:
        bounds = [
            f"{words} {bound}"
            for words, bound in (("at least", at_least), ("greater than", above), ("at most", at_most))
            if bound is not None
        ]
        kind = "an integer" if integer else "a number"
        allowed = " and ".join([" ".join([kind, *bounds[:1]]), *bounds[1:]]) + (", or None" if optional else "")
        raise ValueError(f"`{name}` must be {allowed}, but is {value!r}.")


def check_steps(name: str, value: Any, at_least: int) -> None:
    """Refuse what is no number of steps. Whole numbers of any type will do, `1e6` and infinity among them.

    Raises:
        ValueError: It is none.
    """
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not value >= at_least:
        raise ValueError(f"`{name}` must be a number of steps, at least {at_least}, but is {value!r}.")


def check_boolean(name: str, value: Any) -> None:
    """Refuse all but True and False, also as NumPy has them, and 0 and 1: "False" would mean True, and None False.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, (bool, np.bool_)) and not (isinstance(value, (int, np.integer)) and value in (0, 1)):
        what = f"the text {value!r}" if isinstance(value, str) else repr(value)
        raise ValueError(f"`{name}` must be True or False, but is {what}.")


def check_choice(name: str, value: Any, allowed: Any) -> None:
    """Refuse a value that is not one of a few names.

    Raises:
        ValueError: The value is not among them; the message suggests the nearest.
    """
    if value not in allowed:
        hint = suggestion(str(value), allowed)
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, but is {value!r}.{hint}")


def warn_of_truncated_minibatch(batch_size: int | None, n_steps: int, n_envs: int, stacklevel: int) -> None:
    """Warn, in SB3's words, if the last minibatch of each pass through a rollout is smaller than the others.

    Args:
        batch_size: Size of the others; None for the whole rollout.
        n_steps: Steps of each environment in the rollout.
        n_envs: Number of environments.
        stacklevel: As for `warnings.warn`, from here.
    """
    size = n_steps * n_envs
    if batch_size and size % batch_size > 0:
        warnings.warn(
            f"You have specified a mini-batch size of {batch_size},"
            f" but because the `RolloutBuffer` is of size `n_steps * n_envs = {size}`,"
            f" after every {size // batch_size} untruncated mini-batches,"
            f" there will be a truncated mini-batch of size {size % batch_size}\n"
            f"We recommend using a `batch_size` that is a factor of `n_steps * n_envs`.\n"
            f"Info: (n_steps={n_steps} and n_envs={n_envs})",
            stacklevel=stacklevel,
        )
