"""Cells that go on: checkpoints of a long training, in a folder beside that of its results, until it is complete.

They change no results. Where a checkpoint would have to cut episodes, because the state of the environments cannot be
stored, none is taken, and an interrupted training begins anew.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from pg_agents import Checkpoint
from pg_agents.resuming.environments import keeper_of, makers_of
from pg_agents.resuming.folders import checkpoints
from pg_agents.resuming.state import NotStorableError
from pg_zoo.results.storage import NO_ROOM, partial_folder, write_whole
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.provenance import versions

INTERVAL = 600.0  # seconds between checkpoints
_CELL = "cell.json"


class CannotGoOnError(Exception):
    """What an interrupted training has left does not fit the one that is to go on."""


@contextmanager
def partial_results(cell: Cell, folder: Path) -> Iterator[Path]:
    """The folder of a cell's checkpoints, which need not exist.

    What is in it is of the same cell and code, or removed. At the end it is removed, unless the process was stopped or
    the disk is full.

    Args:
        cell: The cell.
        folder: The folder of its results.
    """
    partial = partial_folder(folder)
    try:
        before = json.loads((partial / _CELL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if before is None or before != _identity(cell) or not checkpoints(partial):
        shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
    except Exception as error:
        if getattr(error, "errno", None) not in NO_ROOM:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(partial, ignore_errors=True)


def _identity(cell: Cell) -> Any:
    return json.loads(json.dumps({"cell": asdict(cell), "versions": versions(cell)}))


class TimedCheckpoint(Checkpoint):
    """Takes a checkpoint at the first moment between two updates after each `INTERVAL`, if that changes nothing.

    Args:
        cell: The cell that is trained.
        partial: The folder of its checkpoints.
        env: Environments of the same kind, which are reset before their next use: a trial shows on them whether their
            state can be stored. It would change the others where it cannot.
        tensorboard: The folder of its log; None without one.
        paused: A context in which the time of training stands still.
    """

    def __init__(
        self,
        cell: Cell,
        partial: Path,
        env: VecEnv,
        tensorboard: Path | None,
        paused: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(partial, 1, exact=True)
        self.cell, self.env, self.tensorboard, self.paused = cell, env, tensorboard, paused
        self.last, self.changes_nothing = time.monotonic(), True

    def on_boundary(self) -> None:
        """Take a checkpoint, if one is due."""
        if not self.changes_nothing or time.monotonic() - self.last < INTERVAL:
            return
        with self.paused():
            if self.keeper is None:
                self.env.reset()
                if keeper_of(self.env, makers_of(self.env, self.model)).reason is not None:
                    self.changes_nothing = False
                    return
            write_whole(self.folder / _CELL, json.dumps(_identity(self.cell)))
            if self.tensorboard is not None:
                shutil.copytree(self.tensorboard, self.folder / "tensorboard", dirs_exist_ok=True)
            try:
                self.take()
            except NotStorableError:
                self.changes_nothing = False
                shutil.rmtree(self.folder, ignore_errors=True)
        self.last = time.monotonic()
