"""Numba where it is installed, and plain Python where it is not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def has_compiler() -> bool:
    """Whether Numba is installed and not switched off (`NUMBA_DISABLE_JIT`)."""
    if importlib.util.find_spec("numba") is None:
        return False
    import numba

    return not numba.config.DISABLE_JIT  # type: ignore[attr-defined] # set when Numba is imported


def compiled(function: Function) -> Function:
    """A decorator for the functions that a world's functions call: Numba compiles them where it is installed.

    `start`, `step` and `observe` themselves need no decorator.
    """
    if not has_compiler():
        return function
    import numba

    decorated: Function = numba.njit(nogil=True, error_model="numpy")(function)
    return decorated
