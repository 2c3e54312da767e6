"""Functions in processes of their own: if one crashes, the command goes on; if the command ends, they end with it."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any
from weakref import WeakSet

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_FORKS = "forkserver" in multiprocessing.get_all_start_methods()
_CONTEXT: Any = multiprocessing.get_context("forkserver" if _FORKS else "spawn")
# Loading them takes seconds: processes are forked from one that has.
_LOADED = ["pg_zoo.runs.backends", "pg_zoo.runs.loaded"]
_started: WeakSet[BaseProcess] = WeakSet()


def prepare() -> None:
    """Begin to load what functions of `start` need, in another process, from which theirs will be forked.

    `start` does the same and has to wait for it. Where processes are not forked, each loads what it needs.
    """
    if _FORKS:
        from multiprocessing import forkserver

        _CONTEXT.set_forkserver_preload(_LOADED)
        with _environment(ONE_THREAD), _without_interrupts():
            forkserver.ensure_running()


def start(function: Callable[..., object], *args: Any) -> BaseProcess:
    """Start a process that calls `function(*args)`.

    It has one thread, ignores Ctrl-C, which is for the command, and ends when this process ends, however that happens.

    Args:
        function: A function of a module.
        *args: Its arguments, which must be picklable.
    """
    prepare()
    process: BaseProcess = _CONTEXT.Process(target=_run, args=(function, args))
    with _environment(ONE_THREAD), _without_interrupts():
        process.start()
        _started.add(process)
    return process


@atexit.register
def _end_what_was_started() -> None:
    """Do not let the end of this process wait for others: Ctrl-C may come before anybody knows of one."""
    for process in {*multiprocessing.active_children()} & {*_started}:
        process.kill()


@dataclass(frozen=True)
class Died:
    """The result of a process that ended without one.

    Attributes:
        status: Its exit status; negative if it was ended by a signal.
    """

    status: int | None


def in_order(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], jobs: int | None = None
) -> Generator[Any, None, None]:
    """Call a function for each task, in a process each, and yield the results in the order of the tasks.

    Closing the iterator ends the processes that still run.

    Args:
        function: As for `start`; its result must be picklable.
        tasks: The arguments of each call.
        jobs: Processes at a time; None for as many as there are cores.

    Yields:
        The result of each task, or a `Died`.
    """
    from pg_agents.interrupts import held  # here, so that `prepare` can be called at once

    waiting = deque(enumerate(tasks))
    running: dict[Any, tuple[int, BaseProcess]] = {}
    found: dict[int, Any] = {}
    try:
        for index in range(len(tasks)):
            while index not in found:
                while waiting and len(running) < (jobs or os.cpu_count() or 1):
                    number, task = waiting.popleft()
                    ours, theirs = _CONTEXT.Pipe(duplex=False)
                    with held():  # a process that is not among them would go on
                        running[ours] = number, start(_send_result, theirs, function, *task)
                    theirs.close()  # or the end of the process would not be noticed
                for connection in wait(list(running)):
                    number, process = running[connection]
                    found[number] = _result(connection, process)
                    del running[connection]
            yield found.pop(index)
    finally:
        with held():
            for connection, (_, process) in running.items():
                process.kill()
                process.join()
                process.close()
                connection.close()


def _result(connection: Any, process: BaseProcess) -> Any:
    try:
        result = connection.recv()
    except EOFError:
        process.join()
        result = Died(process.exitcode)
    process.join()
    process.close()
    connection.close()
    return result


def _send_result(connection: Connection[Any, Any], function: Callable[..., Any], *args: Any) -> None:
    connection.send(function(*args))


def _run(function: Callable[..., object], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch as th  # here, so that `prepare` can be called at once

    th.set_num_threads(1)  # several would add in another order, and be slower
    function(*args)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables of the processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block Ctrl-C in this thread and in processes that it starts, which else show a traceback until `_run`."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # otherwise the first process starts it, which lets interrupts through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
