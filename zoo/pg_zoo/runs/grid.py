"""A grid of cells in a results folder: missing cells are run, and each is stored when it finishes."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timezone
from glob import escape
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text
from typing_extensions import Self

from pg_zoo.errors import UserError, one_line
from pg_zoo.results.storage import (
    FORMAT,
    HIDDEN,
    RANDOM,
    RECORD,
    asked_for,
    failure_name,
    is_left_over,
    read_cell,
    read_record,
    resumable,
    write_whole,
    writing,
)
from pg_zoo.runs.backends import BACKENDS, Backend
from pg_zoo.runs.cell import Cell, defaults
from pg_zoo.runs.forecast import Forecast, time_left
from pg_zoo.runs.provenance import command_line


def run_grid(
    cells: Sequence[Cell], folder: Path, *, jobs: int | None = None, backend: str | Backend = "local"
) -> list[Cell]:
    """Run the cells that a results folder lacks, and store each when it finishes.

    Args:
        cells: All cells of the finished folder.
        folder: The results folder, new or from an earlier run.
        jobs: Cells at a time; None for one per core.
        backend: A name in `BACKENDS`, or a function like them.

    Returns:
        The cells that failed; `failed/` has a file with the traceback of each.

    Raises:
        UserError: The folder cannot be written, is damaged, from another version, or in use, or has cells of the same
            algorithm and environment with other hyperparameters, or of the same environment in another kind.
    """
    _check_folders(cells)
    run = BACKENDS[backend] if isinstance(backend, str) else backend
    with one_line(OSError), writing(folder, "-o/--output"):
        if (folder / RECORD).exists():
            read_record(folder)
    failed = []
    with resumable(folder):
        _check_kinds(cells, folder)
        _check_repetitions(cells, folder)
        missing = [cell for cell in cells if not _is_finished(cell, folder)]
        for unfinished in folder.glob(f"cells/*/*/{HIDDEN}seed_*"):
            if is_left_over(unfinished):
                shutil.rmtree(unfinished)
        _write_record(cells, folder)
        at_a_time = jobs or (os.cpu_count() or 1 if backend == "local" else None)
        with _Display(cells, missing, folder, at_a_time) as display, closing(run(missing, folder, jobs)) as outcomes:
            for cell, error in outcomes:
                report = failure_report(cell, folder)
                if error is None:
                    report.unlink(missing_ok=True)
                else:
                    write_whole(report, error)
                    failed.append(cell)
                display.show(cell, error)
    return failed


# The folder


def _check_folders(cells: Sequence[Cell]) -> None:
    """Refuse cells with different names that would share a folder.

    Raises:
        UserError: There are two such cells.
    """
    owners: dict[PurePath, tuple[str, str]] = {}
    for cell in cells:
        owner = owners.setdefault(cell.path.parent, (cell.algo, cell.env))
        if owner != (cell.algo, cell.env):
            raise UserError(
                f"{' on '.join(owner)} and {cell.algo} on {cell.env} would share the folder {cell.path.parent}: use "
                "separate results folders."
            )


def _check_repetitions(cells: Sequence[Cell], folder: Path) -> None:
    """Refuse cells that do not repeat those of the same algorithm and environment in the folder.

    Raises:
        UserError: Hyperparameters or options differ, so no report could average over the seeds.
    """
    for cell in {(cell.algo, cell.env): cell for cell in reversed(cells)}.values():
        for path in sorted((folder / cell.path).parent.glob("seed_*/cell.json")):
            record = read_cell(path, ("hyperparams", "options"))
            made, asked = record.get("defaults", {}), defaults(cell) if "defaults" in record else {}
            _check_same(
                path.parent,
                {**made, **record["hyperparams"], **record["options"]},
                {**asked, **cell.hyperparams, **cell.options},
            )


def _check_kinds(cells: Sequence[Cell], folder: Path) -> None:
    """Refuse cells that would not be trained in the same kind of environments as those in the folder.

    Raises:
        UserError: One algorithm would act in an environment's world and another in single environments, for example.
    """
    for env, kind in sorted({(cell.path.parent.name, cell.vec_env) for cell in cells if cell.algo != RANDOM}):
        for path in sorted(folder.glob(f"cells/*/{escape(env)}/seed_*/cell.json")) if kind != "own" else ():
            record = read_cell(path, ())
            made = record.get("vec_env", kind)
            if record.get("algo") != RANDOM and made != kind:
                remedy = f"give --vec-env {made}, or " if made in ("dummy", "envpool") else ""
                raise UserError(
                    f"{path.parent} was made with vec_env {made!r}, but the algorithms of this command have {kind!r}, "
                    f"and all on one environment need the same: {remedy}choose another -o."
                )


def _check_same(path: Path, made: dict[str, Any], asked: dict[str, Any]) -> None:
    for name in sorted(made.keys() | asked.keys()):
        if made.get(name) != asked.get(name):
            raise UserError(
                f"{path} was made with {name} {made.get(name)!r}, which now is {asked.get(name)!r}: choose another -o."
            )


def _is_finished(cell: Cell, folder: Path) -> bool:
    """Whether the folder has exactly this cell.

    Raises:
        UserError: It has the cell with other hyperparameters or options.
    """
    path = folder / cell.path
    if not path.exists():
        return False
    record = read_cell(path / "cell.json", ("hyperparams", "options", "device"))
    made = {**record["hyperparams"], **record["options"]}
    asked = {**cell.hyperparams, **cell.options}
    if cell.algo != RANDOM:
        made["device"], asked["device"] = record["device"], cell.device
        for name, kept in (("tensorboard", "tensorboard"), ("keep_agent", "agent.zip")):
            # Additional files do no harm.
            made[name], asked[name] = (path / kept).exists() or not getattr(cell, name), True
    _check_same(path, made, asked)
    return True


def _write_record(cells: Sequence[Cell], folder: Path) -> None:
    """Add these cells to the folder's record, which keeps the missing cells of earlier commands."""
    path, command = folder / RECORD, command_line()
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    wanted = {(cell.algo, cell.env, cell.seed) for cell in cells}
    if path.exists():
        record = read_record(folder, ("command", "created"))
        before, commands, created = asked_for(record), str(record["command"]).split("; "), record["created"]
        if not before <= wanted:  # the earlier commands are still needed for all cells
            command = "; ".join(dict.fromkeys([*commands, command]))
        wanted |= before
    asked: dict[str, dict[str, list[int]]] = {}
    for algo, env, seed in sorted(wanted):
        asked.setdefault(algo, {}).setdefault(env, []).append(seed)
    record = {"format": FORMAT, "command": command, "created": created, "cells": asked}
    write_whole(path, json.dumps(record, indent=1) + "\n")


def failure_report(cell: Cell, folder: Path) -> Path:
    """The path of a failed cell's traceback in a results folder."""
    return folder / "failed" / f"{failure_name(cell.algo, cell.env, cell.seed)}.txt"


# Progress


class _Display(ProgressColumn):
    """The progress of a grid and the time left: a progress bar on a terminal, otherwise one line for each cell."""

    def __init__(self, cells: Sequence[Cell], missing: Sequence[Cell], folder: Path, jobs: int | None) -> None:
        super().__init__()
        self.folder, self.n_cells, self.jobs = folder, len(cells), jobs
        self.left, self.n_failed, self.steps_done = list(missing), 0, 0
        self.started = self.last = time.monotonic()
        self.forecast = None if jobs is None else Forecast(cells, folder, jobs)
        self.ended = threading.Event()
        self.bar = Progress(self, BarColumn())
        self.task = self.bar.add_task("", total=len(cells), completed=len(cells) - len(missing))

    def __enter__(self) -> Self:
        done = self.n_cells - len(self.left)
        first = f"{self._stored()} already in {self.folder}" if done else f"0 of {self.n_cells} cells"
        together = "" if self.jobs is None else f", {min(self.jobs, len(self.left) or 1)} at a time"
        known = self._time_left() if self.left else ""
        print(f"{first}{together}; {known or _MEASURED}." if self.left else f"{first}.", flush=True)
        if self.bar.console.is_terminal:
            self.bar.start()
        elif not known:
            threading.Thread(target=self._tell_once_it_is_known, daemon=True).start()
        return self

    def _tell_once_it_is_known(self) -> None:
        """Print the time that the grid will take, if it is not over before that is known."""
        while not self.ended.wait(_EVERY):
            expected = self._seconds_left()
            if expected is not None:
                if expected > _SHORT:
                    print(f"{self._in_words(expected)}, estimated from the first cells", flush=True)
                return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        if self.bar.console.is_terminal:
            self.bar.stop()
        if isinstance(error, KeyboardInterrupt):
            # Flushed, so that it precedes the messages on stderr.
            print(f"{self._stored()} stored in {self.folder}; the same command continues from there.", flush=True)

    def show(self, cell: Cell, error: str | None) -> None:
        """Show that a cell has ended."""
        self.left.remove(cell)
        self.n_failed += error is not None
        self.steps_done += cell.n_timesteps
        self.last = time.monotonic()
        if self.forecast is not None:
            self.forecast.note(cell)
        if self.bar.console.is_terminal:
            self.bar.advance(self.task)
        else:
            print(f"{self._state()}: {cell} {'done' if error is None else 'failed'}", flush=True)

    def render(self, task: Task) -> Text:
        """The column's text, for rich."""
        return Text(self._state())

    def _stored(self) -> str:
        return f"{self.n_cells - len(self.left) - self.n_failed} of {self.n_cells} cells are"

    def _state(self) -> str:
        parts = [f"{self.n_cells - len(self.left)} of {self.n_cells} cells"]
        if self.n_failed:
            parts.append(f"{self.n_failed} failed")
        if self.left and (known := self._time_left()):
            parts.append(known)
        return ", ".join(parts)

    def _time_left(self) -> str:
        """The time left, in words; empty if it is not known."""
        seconds = self._seconds_left()
        return "" if seconds is None else self._in_words(seconds)

    def _in_words(self, seconds: float) -> str:
        return time_left(seconds, at_least=self.forecast is not None and self.forecast.is_least)

    def _seconds_left(self) -> float | None:
        if self.forecast is not None and (expected := self.forecast.left(self.left)) is not None:
            return expected
        if not self.steps_done:  # random actions take no steps, and next to no time
            return None
        # Estimated when the last cell ended: the progress of running cells is unknown.
        steps_left = sum(cell.n_timesteps for cell in self.left)
        return (self.last - self.started) * steps_left / self.steps_done - (time.monotonic() - self.last)


_MEASURED = "a time estimate follows after the first cells"
_EVERY = 1.0  # seconds between looks at whether that is known
_SHORT = 10.0  # seconds that need no announcement
