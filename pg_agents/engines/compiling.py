"""A line before Numba compiles: it takes seconds, in which nothing else is said, but only once on a machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

LINE = "Compiling for this machine, which takes some seconds. Later trainings find the result."

_open: list[bool] = []  # contexts that would print the line
_printed: list[bool] = []


@contextmanager
def announced(verbose: int) -> Iterator[None]:
    """Print a line if Numba begins to compile meanwhile: the first time in this process.

    Args:
        verbose: At 0, only where stdout is a terminal.
    """
    if not (verbose > 0 or (sys.stdout is not None and sys.stdout.isatty())):
        yield
        return
    _open.append(True)
    try:
        yield
    finally:
        _open.pop()


@cache
def listen() -> None:
    """Hear of Numba's compiling from now on; it is imported, if it is not yet."""
    try:
        from numba.core import event
    except Exception:  # of whatever kind: what needs Numba says what is wrong with it
        return

    class Listener(event.Listener):
        def on_start(self, event: Any) -> None:
            if _open and not _printed:
                _printed.append(True)
                print(LINE, flush=True)

        def on_end(self, event: Any) -> None:
            pass

    register: Any = event.register
    register("numba:compile", Listener())
