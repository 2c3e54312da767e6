"""Interrupts that wait until something is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred() -> Iterator[None]:
    """Hold back Ctrl-C and a scheduler's SIGTERM, and let their handlers run at the end.

    Only the main thread hears of signals. Handlers that are no Python functions are left alone.
    """
    handlers: dict[int, Callable[[int, Any], Any]] = {}
    for held_back in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(held_back)
        if callable(handler):
            handlers[held_back] = handler
    if not handlers or threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[tuple[int, Any]] = []

    def note(number: int, frame: Any) -> None:
        received.append((number, frame))

    try:
        for number in handlers:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in received:
            handlers[number](number, frame)
