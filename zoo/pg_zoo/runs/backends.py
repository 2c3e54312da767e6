"""Backends that run the cells of a grid, each in a process with one thread: `local`, or `ray` for a Ray cluster."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch as th

from pg_agents.interrupts import held
from pg_zoo.errors import UserError
from pg_zoo.results.storage import NO_ROOM, new_folder
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.processes import ONE_THREAD, start
from pg_zoo.runs.provenance import command_line
from pg_zoo.runs.training import run_cell

Outcome = tuple[Cell, "str | None"]
Backend = Callable[[Sequence[Cell], Path, "int | None"], Generator[Outcome, None, None]]
"""Runs cells into a results folder, a number of them at a time (None: one per core). Yields each cell when it ends,
with its error message or None. Closing the generator ends the cells that still run. An OSError means that results
cannot be stored; errors of single cells are never raised."""


def local(cells: Sequence[Cell], folder: Path, jobs: int | None = None) -> Generator[Outcome, None, None]:
    """Run cells in processes on this machine: see `Backend`."""
    waiting, running = list(cells), dict[Any, tuple[Cell, _Child]]()
    durations: dict[tuple[str, str], float] = {}
    try:
        while waiting or running:
            while waiting and len(running) < (jobs or os.cpu_count() or 1):
                cell = _longest_of_a_seed(waiting, durations)
                waiting.remove(cell)
                with held():  # a process that is not among them would go on
                    child = _Child(cell, folder / cell.path)
                    running[child.process.sentinel] = cell, child
            for sentinel in connection.wait(list(running)):
                cell, child = running.pop(sentinel)
                durations[cell.algo, cell.env] = time.monotonic() - child.started
                yield cell, child.error()
    finally:
        with held():
            for _, child in running.values():
                child.process.kill()
                child.error()


def _longest_of_a_seed(cells: Sequence[Cell], durations: Mapping[tuple[str, str], float]) -> Cell:
    """The cell to begin with: if a long one came last, it would keep one core busy while the others wait.

    Args:
        cells: The remaining cells, seed by seed.
        durations: Durations of cells with other seeds, by algorithm and environment.
    """
    of_a_seed = [cell for cell in cells if cell.seed == cells[0].seed]
    return max(of_a_seed, key=lambda cell: durations.get((cell.algo, cell.env), math.inf))


class _Child:
    """A process that runs one cell."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        descriptor, self.errors = tempfile.mkstemp()
        os.close(descriptor)
        self.process = start(serve, cell, folder, command_line(), self.errors)
        self.started = time.monotonic()  # after `start`, which the first time waits for all libraries

    def error(self) -> str | None:
        """The error message of a process that has ended; None if it succeeded."""
        self.process.join()
        text = Path(self.errors).read_text(errors="replace")
        os.remove(self.errors)
        status = self.process.exitcode
        assert status is not None
        self.process.close()
        if status in NO_ROOM:
            raise OSError(status, os.strerror(status))
        if status < 0:
            text += f"The process was ended by signal {-status} ({signal.Signals(-status).name})."
            text += " It may have run out of memory." * (-status == signal.SIGKILL)
        return text or f"exit status {status}" if status else None


def serve(cell: Cell, folder: Path, command: str, errors: str) -> None:
    """Run a cell for another process.

    Args:
        cell: The cell.
        folder: Its folder.
        command: The command that it is part of.
        errors: A file that receives everything written to stderr.
    """
    with open(errors, "w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    try:
        run_cell(cell, folder, command=command)
    except Exception as error:
        traceback.print_exc()
        sys.exit(error.errno if isinstance(error, OSError) and error.errno in NO_ROOM else 1)


@contextmanager
def connected_to_ray(address: str | None = None) -> Iterator[None]:
    """Connect to a Ray cluster, unless this process is connected already, and disconnect at the end.

    Args:
        address: The address of the cluster. None takes the environment variable RAY_ADDRESS, or starts a cluster on
            this machine.

    Raises:
        UserError: The cluster cannot be reached.
    """
    import ray

    own = not ray.is_initialized()
    if own:
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, SystemExit) as error:
            where = f"--ray-address {address}" if address else "RAY_ADDRESS, or on this machine"
            raise UserError(f"There is no Ray cluster at {where}: {type(error).__name__}: {error}") from error
    try:
        yield
    finally:
        if own:
            ray.shutdown()


def on_ray(cells: Sequence[Cell], folder: Path, jobs: int | None = None) -> Generator[Outcome, None, None]:
    """Run cells on a Ray cluster, whose machines need no shared file system: see `Backend`.

    Args:
        cells: The cells to run.
        folder: The results folder, on this machine.
        jobs: Cells at a time; None for one per core of the cluster, or one per GPU for cells on GPUs.
    """
    import ray

    with connected_to_ray():
        # Each cell gets a fresh process. Ray must not retry: as without Ray, only the user does.
        task = ray.remote(num_cpus=1, max_calls=1, max_retries=0, runtime_env={"env_vars": ONE_THREAD})(_run_there)
        waiting, running = deque(cells), dict[Any, Cell]()
        try:
            while waiting or running:
                while waiting and len(running) < (jobs or len(cells)):
                    cell = waiting.popleft()
                    needed = task.options(num_gpus=int(cell.device.startswith("cuda")))
                    running[needed.remote(cell, command_line())] = cell
                for reference in ray.wait(list(running))[0]:
                    cell = running.pop(reference)
                    try:
                        files, error = ray.get(reference)
                    except ray.exceptions.RayError as lost:
                        files, error = {}, f"{type(lost).__name__}: {lost}"
                    if error is None:
                        _store(files, folder / cell.path)
                    yield cell, error
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _run_there(cell: Cell, command: str) -> tuple[dict[str, bytes], str | None]:
    """The contents of a cell's files by name, or an error message."""
    import pg_zoo.runs.loaded  # noqa: F401 - a cell's memory excludes these libraries, as with `local`

    th.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "cell")
        try:
            run_cell(cell, folder, command=command)
        except Exception:
            return {}, traceback.format_exc()
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}, None


def _store(files: dict[str, bytes], folder: Path) -> None:
    with new_folder(folder) as unfinished:
        for name, contents in files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents)


BACKENDS: dict[str, Backend] = {"local": local, "ray": on_ray}
