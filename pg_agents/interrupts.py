"""Interrupts that wait until something is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


class _Waiting:
    """How many contexts interrupts wait for, and those that do."""

    def __init__(self) -> None:
        self.contexts = 0
        self.received: list[Callable[[], Any]] = []


_WAITING = _Waiting()
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def deferrable() -> Iterator[None]:
    """Let Ctrl-C, a scheduler's SIGTERM and a closing terminal's SIGHUP wait in a `deferred` context inside this one.

    Only the main thread hears of signals. Handlers that are no Python functions are left alone.
    """
    with _replaced({}):
        yield


@contextmanager
def held() -> Iterator[None]:
    """Hold the signals of `deferrable` back, inside it or not, and let them take effect at the end.

    However many come, all wait, those included that have no handler and would end the process at once.
    """
    with _replaced({signal.SIG_DFL: _by_default}), deferred():
        yield


@contextmanager
def _replaced(stand_ins: dict[Any, Callable[[int, Any], Any]]) -> Iterator[None]:
    """Have handlers that can wait.

    Args:
        stand_ins: What to call in place of handlers that are no functions.
    """
    replaced: dict[int, tuple[Any, Any]] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            before = signal.getsignal(number)
            handler = before if callable(before) else stand_ins.get(before)
            if handler is not None:
                ours = _waiting(handler)
                signal.signal(number, ours)
                replaced[number] = before, ours
    try:
        yield
    finally:
        for replaced_number, (before, ours) in replaced.items():
            if signal.getsignal(replaced_number) is ours:  # nobody else has set another since
                signal.signal(replaced_number, before)


def _waiting(handler: Callable[[int, Any], Any]) -> Callable[[int, Any], None]:
    def handle(number: int, frame: Any) -> None:
        if _WAITING.contexts:
            _WAITING.received.append(lambda: handler(number, frame))
        else:
            handler(number, frame)

    return handle


def _by_default(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


@contextmanager
def deferred() -> Iterator[None]:
    """Hold interrupts back, and let their handlers run at the end of the outermost such context."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _WAITING.contexts += 1
    try:
        yield
    finally:
        _WAITING.contexts -= 1
        if _WAITING.received and not _WAITING.contexts:
            received, _WAITING.received = _WAITING.received, []
            with ExitStack() as stack:  # all of them, whatever the first one raises
                for run in reversed(received):
                    stack.callback(run)
