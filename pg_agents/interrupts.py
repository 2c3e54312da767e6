"""Interrupts that wait until something is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class _Waiting:
    """Whether interrupts wait, and those that do."""

    def __init__(self) -> None:
        self.holds = False
        self.received: list[Callable[[], Any]] = []


_WAITING = _Waiting()


@contextmanager
def deferrable() -> Iterator[None]:
    """Let Ctrl-C and a scheduler's SIGTERM wait while a `deferred` context inside this one is open.

    Only the main thread hears of signals. Handlers that are no Python functions are left alone.
    """
    replaced: dict[int, tuple[Any, Any]] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if callable(before):
                ours = _waiting(before)
                signal.signal(number, ours)
                replaced[number] = before, ours
    try:
        yield
    finally:
        for replaced_number, (before, ours) in replaced.items():
            if signal.getsignal(replaced_number) is ours:  # nobody else has set another since
                signal.signal(replaced_number, before)


def _waiting(handler: Callable[..., Any]) -> Callable[..., None]:
    def handle(number: int, frame: Any) -> None:
        if _WAITING.holds:
            _WAITING.received.append(lambda: handler(number, frame))
        else:
            handler(number, frame)

    return handle


@contextmanager
def deferred() -> Iterator[None]:
    """Hold interrupts back, and let their handlers run at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _WAITING.holds = True
    try:
        yield
    finally:
        _WAITING.holds = False
        if _WAITING.received:
            received, _WAITING.received = _WAITING.received, []
            for run in received:
                run()
