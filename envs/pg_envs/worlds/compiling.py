"""Numba where it is installed, and plain Python where it is not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

_undeclared: list[Callable[..., Any]] = []  # so that decorating a function does not import Numba


def has_compiler() -> bool:
    """Whether Numba is installed and not switched off (`NUMBA_DISABLE_JIT`)."""
    if importlib.util.find_spec("numba") is None:
        return False
    import numba

    return not numba.config.DISABLE_JIT  # type: ignore[attr-defined] # set when Numba is imported


def compiled(function: Function) -> Function:
    """A decorator for the functions that a world's functions call: Numba compiles them with their callers.

    The function stays what it is for Python. `start`, `step` and `observe` themselves need no decorator.
    """
    _undeclared.append(function)
    return function


def declare_helpers() -> None:
    """Tell Numba of the functions that `compiled` has decorated: their callers can be compiled from here on."""
    from numba.extending import register_jitable

    while _undeclared:
        register_jitable(nogil=True, error_model="numpy")(_undeclared.pop())
