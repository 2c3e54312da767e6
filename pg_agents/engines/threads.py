"""The number of threads that torch and the compiled engine use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch as th

SMALL_LAYER = 2**18  # numbers; larger layers gain from several threads

if hasattr(os, "register_at_fork"):
    # A forked process has none of the threads that torch's OpenMP would wait for, for ever.
    os.register_at_fork(after_in_child=lambda: th.set_num_threads(1))

_available = ContextVar("available", default=1)


def available() -> int:
    """The number of threads that an engine may use: torch's, as it was before `for_policy` restricted torch."""
    return _available.get()


@contextmanager
def allowed(n_threads: int) -> Iterator[None]:
    """Set the number of threads that engines may use."""
    token = _available.set(n_threads)
    try:
        yield
    finally:
        _available.reset(token)


@contextmanager
def for_policy(policy: th.nn.Module) -> Iterator[None]:
    """One thread for torch while a small network trains on the CPU: more would wait longer than they compute."""
    before = th.get_num_threads()
    # A convolution has few parameters and much to compute.
    small = all(
        parameter.device.type == "cpu" and parameter.numel() <= SMALL_LAYER and parameter.dim() <= 2
        for parameter in policy.parameters()
    )
    restricts = small and before > 1
    if restricts:
        th.set_num_threads(1)
    try:
        with allowed(before):
            yield
    finally:
        if restricts:
            th.set_num_threads(before)
