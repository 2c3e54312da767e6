"""How long a grid will take, measured on its first cells: those that have ended or tell how far they are."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from statistics import fmean

from pg_zoo.results.storage import HIDDEN
from pg_zoo.runs.cell import Cell

PROGRESS = ".progress"  # a file in a cell's unfinished folder
_KEPT = 1.0  # seconds for which an answer is good


class Progress:
    """What a cell that runs tells of itself in its unfinished folder.

    Args:
        folder: The folder.
        n_timesteps: Steps of the training.
    """

    def __init__(self, folder: Path, n_timesteps: int) -> None:
        self.path, self.n_timesteps, self.begun = folder / PROGRESS, n_timesteps, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.begun

    def tell(self, timesteps: int) -> None:
        """Write how far the training is."""
        with suppress(OSError):  # nothing depends on it
            self.path.write_text(json.dumps([self.seconds, min(1.0, timesteps / self.n_timesteps)]), encoding="utf-8")

    def end(self) -> None:
        """Leave nothing of it."""
        self.path.unlink(missing_ok=True)


class Forecast:
    """How long the rest of a grid takes.

    Args:
        cells: All cells of the grid.
        folder: The results folder. Cells that it has from earlier runs are measurements, too.
        jobs: Cells at a time.
    """

    def __init__(self, cells: Sequence[Cell], folder: Path, jobs: int) -> None:
        self.folder, self.jobs = folder, jobs
        self.seconds: dict[PurePath, list[float]] = {}  # of cells that have ended, by algorithm and environment
        self.steps = {cell.path.parent: cell.n_timesteps for cell in cells}
        self.answer: float | None = None
        self.asked = -_KEPT
        for cell in cells:
            self.note(cell)

    @property
    def is_least(self) -> bool:
        """Whether it rests on trainings under way alone, which have not been evaluated for their scores yet."""
        return not any(self.steps.get(kind) for kind in self.seconds)

    def note(self, cell: Cell) -> None:
        """Take the duration of a cell that has ended, if it is stored."""
        with suppress(OSError, ValueError, TypeError, AttributeError):
            record = json.loads((self.folder / cell.path / "cell.json").read_text(encoding="utf-8"))
            if (taken := record.get("total_seconds")) is not None:
                self.seconds.setdefault(cell.path.parent, []).append(float(taken))
        self.asked = -_KEPT

    def left(self, cells: Sequence[Cell]) -> float | None:
        """Seconds until all of these cells have ended; None if nothing has been measured yet.

        Args:
            cells: The cells that have not ended.
        """
        if time.monotonic() - self.asked >= _KEPT:
            self.answer, self.asked = self._left(cells), time.monotonic()
        return self.answer

    def _left(self, cells: Sequence[Cell]) -> float | None:
        running = self._running()
        known = {kind: fmean(taken) for kind, taken in dict(self.seconds).items()}
        known = {kind: fmean(expected for expected, _ in found) for kind, found in running.items()} | known
        steps = sum(self.steps.get(kind, 0) for kind in known)
        if not steps:
            return None
        each = sum(known[kind] for kind in known if self.steps.get(kind)) / steps
        work = sum(known.get(cell.path.parent, each * cell.n_timesteps) for cell in cells)
        under_way = [(known[kind], passed) for kind, found in running.items() for _, passed in found]
        rest = max((expected - passed for expected, passed in under_way), default=0.0)
        return max(rest, (work - sum(passed for _, passed in under_way)) / self.jobs, 0.0)

    def _running(self) -> dict[PurePath, list[tuple[float, float]]]:
        """The expected duration of each cell that runs and has told how far it is, and the seconds that have passed."""
        found: dict[PurePath, list[tuple[float, float]]] = {}
        for path in self.folder.glob(f"cells/*/*/{HIDDEN}seed_*/{PROGRESS}"):
            with suppress(OSError, ValueError, TypeError, ZeroDivisionError):  # it ends at this moment
                passed, part = json.loads(path.read_text(encoding="utf-8"))
                under_way = passed / part, passed + time.time() - path.stat().st_mtime
                found.setdefault(path.parent.parent.relative_to(self.folder), []).append(under_way)
        return found


def expected(ended: Sequence[float], running: Sequence[float], waiting: float, jobs: int) -> float:
    """Seconds until everything has ended, if each takes as long as those that have ended did in the mean.

    Args:
        ended: Their durations; at least one.
        running: For how long each that is under way has run.
        waiting: The number of those that have not begun.
        jobs: At a time.
    """
    each = fmean(ended)
    rest = [max(each - passed, 0.0) for passed in running]
    return max((sum(rest) + waiting * each) / jobs, *rest, 0.0)


def time_left(seconds: float, *, at_least: bool = False) -> str:
    """The time left, in words.

    >>> time_left(4000)
    'about 67 min left'
    """
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= 2 * size or size == 1)
    return f"{'at least' if at_least else 'about'} {max(seconds, 0) / size:.0f} {unit} left"


_UNITS = ((3600, "h"), (60, "min"), (1, "s"))
