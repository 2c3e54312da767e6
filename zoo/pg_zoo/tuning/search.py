"""The search of `pg-zoo tune`: an Optuna study in a folder, whose trials are trained in separate processes.

Only this process writes the study. Workers train, report their evaluations, and are told whether to continue.
"""

from __future__ import annotations

import csv
import json
import os
import time
import traceback
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from pg_agents.interrupts import held
from pg_zoo.results.storage import NO_ROOM, write_whole
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.forecast import expected, time_left
from pg_zoo.runs.processes import start
from pg_zoo.runs.training import run_cell
from pg_zoo.words import number

_FINAL_SHARE = 0.75
_KEY = "hyperparams"  # the trial's attribute with its hyperparameters
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_STARTUP_TRIALS = 10  # trials drawn at random before the sampler uses its model
_PRUNED_FROM = 5  # number of complete trials that pruning needs for comparison


def measure(folder: Path) -> float:
    """The quality of a training: mostly its score, and to a quarter its speed of learning.

    3/4 score + 1/4 mean of the learning curve

    The curve's evaluations are evenly spaced, so their mean is proportional to the area under it. Of two trainings with
    equal scores, the one that learnt faster is better.

    Args:
        folder: The folder of a finished cell.

    Raises:
        ValueError: A score is not finite.
    """
    score = float(json.loads((folder / "cell.json").read_text(encoding="utf-8"))["score"])
    curve = [mean_return for _, mean_return in _curve(folder)] or [score]
    found = _FINAL_SHARE * score + (1 - _FINAL_SHARE) * float(np.mean(curve))
    if not np.isfinite(found):
        raise ValueError(f"Scores must be finite, but are {score} after training and {curve} during training.")
    return found


def _curve(folder: Path) -> list[tuple[int, float]]:
    with (folder / "curve.csv").open(encoding="utf-8", newline="") as file:
        return [(int(row["timesteps"]), float(row["mean_return"])) for row in csv.DictReader(file)]


@dataclass(frozen=True)
class Task:
    """An algorithm and environment to tune, and the evaluation of trials."""

    algo: str
    env: str
    n_timesteps: int
    seeds: int
    eval_points: int
    eval_episodes: int
    final_episodes: int
    device: str
    gym_packages: tuple[str, ...] = ()

    def cells(self, hyperparams: dict[str, Any], origin: str, seeds: Iterable[int]) -> list[Cell]:
        """The trainings of a trial."""
        names = ("eval_points", "eval_episodes", "final_episodes", "device", "gym_packages")
        options = {name: getattr(self, name) for name in names}
        return [Cell(self.algo, self.env, seed, hyperparams, origin, **options) for seed in seeds]


class Search:
    """A study in a folder, which continues an interrupted one.

    Args:
        folder: The folder of `study.log` and the trials' results; no other process may write to it.
        task: The algorithm and environment to tune.
        space: Draws the hyperparameters of a trial.
        baselines: Hyperparameters of the first trials, by name.
        seed: Seed of the sampler.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        space: Callable[[Trial], dict[str, Any]],
        baselines: dict[str, dict[str, Any]],
        seed: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.task, self.space, self.seed = folder, task, space, seed
        pruner = optuna.pruners.MedianPruner(_PRUNED_FROM, n_warmup_steps=task.eval_points // 4)
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(_whole_lines(folder / "study.log"))),
            study_name=f"{task.algo} on {task.env}",
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
        known = [trial.user_attrs.get("name") for trial in self.study.trials]
        for name, hyperparams in baselines.items():
            if name not in known:
                self.study.enqueue_trial({}, user_attrs={"name": name, _KEY: hyperparams})

    def ranked(self) -> list[FrozenTrial]:
        """The complete trials, best first."""
        return sorted(self._trials(TrialState.COMPLETE), key=lambda trial: -(trial.value or 0.0))

    def run(self, n_trials: int, jobs: int, n_afterwards: int = 0) -> None:
        """Run trials until there are `n_trials`, including those of earlier runs.

        Args:
            n_trials: Their number.
            jobs: At a time.
            n_afterwards: Trainings that follow the search, for the time that is left.

        Raises:
            OSError: Results cannot be stored.
        """
        stale = deque(trial for trial in self._trials(TrialState.RUNNING) if self._has_begun(trial))
        n_ended = len(self._trials(*_ENDED))
        if n_ended:
            print(f"{n_ended} trials are already in {self.folder}.", flush=True)
        elif n_trials:
            print(f"0 of {n_trials} trials, {jobs} at a time", flush=True)
        progress = _Progress(self, n_trials, jobs, n_afterwards)
        workers: list[_Worker] = []
        try:
            while True:
                idle = [worker for worker in workers if worker.trial is None]
                while stale or len(self._trials(*_ENDED, TrialState.RUNNING)) < n_trials:
                    if not idle:
                        if len(workers) == jobs:
                            break
                        with held():  # a worker that is not among them would go on
                            workers.append(_Worker())
                        idle = workers[-1:]
                    trial = Trial(self.study, stale.popleft()._trial_id) if stale else self._ask()
                    idle.pop().start(trial, self._jobs(trial))
                busy = {worker.connection: worker for worker in workers if worker.trial is not None}
                if not busy:
                    return
                for connection in wait(list(busy)):
                    worker = busy[connection]  # type: ignore[index]
                    if self._hear(worker):
                        ended, worker.trial = worker.trial, None
                        progress.show(
                            ended,
                            time.monotonic() - worker.begun,
                            [one.begun for one in workers if one.trial is not None],
                        )
                        if not worker.process.is_alive():
                            workers.remove(worker)
        finally:
            with held():
                for worker in workers:
                    worker.kill()

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _has_begun(self, trial: FrozenTrial) -> bool:
        """Whether a trial left by an earlier run has hyperparameters; without them, it is marked as failed."""
        if _KEY not in trial.user_attrs:
            self.study.tell(trial.number, state=TrialState.FAIL)
        return _KEY in trial.user_attrs

    def _ask(self) -> Trial:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # A new sampler for each trial: a continued search must not draw the same numbers again.
            self.study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=_STARTUP_TRIALS,
                multivariate=True,
                group=True,
                constant_liar=True,
                seed=self.seed * 100_003 + len(self.study.get_trials(deepcopy=False)),
            )
            trial = self.study.ask()
        if _KEY not in trial.user_attrs:
            trial.set_user_attr(_KEY, self.space(trial))
        return trial

    def _jobs(self, trial: Trial) -> list[tuple[Cell, Path]]:
        cells = self.task.cells(trial.user_attrs[_KEY], f"trial {trial.number}", range(self.task.seeds))
        return [(cell, self.folder / "trials" / str(trial.number) / f"seed_{cell.seed}") for cell in cells]

    def _hear(self, worker: _Worker) -> bool:
        """Receive and handle a worker's message.

        Returns:
            Whether the worker's trial has ended.
        """
        trial = worker.trial
        assert trial is not None
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            message = _Failed(f"The process ended with exit status {worker.process.exitcode}.")
        match message:
            case _Evaluated(index, timesteps, mean_return):
                worker.send(not self._lags(worker, index, timesteps, mean_return))
                return False
            case _Failed(report, errno):
                if errno in NO_ROOM:
                    raise OSError(errno, os.strerror(errno))
                path = self.folder / "failed" / f"trial_{trial.number}.txt"
                path.parent.mkdir(exist_ok=True)
                write_whole(path, report)
                trial.set_user_attr("failed", report.strip().splitlines()[-1])
                # Not FAIL: Optuna would draw similar hyperparameters again.
                self.study.tell(trial.number, state=TrialState.PRUNED)
            case _GivenUp():
                self.study.tell(trial.number, state=TrialState.PRUNED)
            case _Measured(values):
                self.study.tell(trial.number, float(np.mean(values)))
        return True

    def _lags(self, worker: _Worker, index: int, timesteps: int, mean_return: float) -> bool:
        """Report an evaluation as the mean over the seeds so far at the same point; True if the trial lags behind."""
        trial, n_points = worker.trial, self.task.eval_points
        assert trial is not None
        point = min(max(round(n_points * timesteps / self.task.n_timesteps), 1), n_points)
        worker.seen[point].append(mean_return)
        step = index * n_points + point
        if step in self.study.trials[trial.number].intermediate_values:  # reported, and continued, by an earlier run
            return False
        trial.report(float(np.mean(worker.seen[point])), step)
        return trial.should_prune()


class _Progress:
    """One line for each trial that has ended."""

    def __init__(self, search: Search, n_trials: int, jobs: int, n_afterwards: int) -> None:
        self.search, self.n_trials, self.jobs, self.n_afterwards = search, n_trials, jobs, n_afterwards
        self.seconds: list[float] = []  # of trials that have ended here
        self.of_complete: list[float] = []  # of those among them that were not stopped

    def show(self, trial: Trial | None, seconds: float, begun: list[float]) -> None:
        """Show that a trial has ended.

        Args:
            trial: The trial.
            seconds: Its duration.
            begun: When those that run began.
        """
        assert trial is not None
        study = self.search.study
        n_ended = len(self.search._trials(*_ENDED))
        frozen = study.trials[trial.number]
        name = frozen.user_attrs.get("name")
        if "failed" in frozen.user_attrs:
            outcome = f"failed: {frozen.user_attrs['failed']}"
        elif frozen.state is TrialState.PRUNED:
            outcome = "stopped early"
        else:
            outcome = number(frozen.value or 0.0)
        best = self.search.ranked()[:1]
        best_so_far = f"; best: {number(best[0].value or 0.0)} (trial {best[0].number})" if best else ""
        self.seconds.append(seconds)
        if frozen.state is TrialState.COMPLETE:
            self.of_complete.append(seconds)
        known = self._left(n_ended, [time.monotonic() - one for one in begun])
        print(
            f"{n_ended} of {self.n_trials}: trial {frozen.number}{f' ({name})' if name else ''} {outcome}{best_so_far}"
            + (f"; {known}" if known else ""),
            flush=True,
        )

    def _left(self, n_ended: int, running: list[float]) -> str:
        """The time until the last of the trainings that follow has ended, in words; empty if it is not known."""
        n_waiting = max(self.n_trials - n_ended - len(running), 0)
        n_trainings = self.n_afterwards / self.search.task.seeds
        trials = expected(self.seconds, running, n_waiting, self.jobs) if n_waiting or running else 0.0
        afterwards = expected(self.of_complete or self.seconds, [], n_trainings, self.jobs)
        # The first to end are short ones.
        at_least = len(self.seconds) < 2 * self.jobs or not self.of_complete
        left = trials + afterwards
        return f"{time_left(left, at_least=at_least)} in all" if left > 0 else ""


# Workers


@dataclass(frozen=True)
class _Evaluated:
    index: int  # of the seed
    timesteps: int
    mean_return: float


@dataclass(frozen=True)
class _Measured:
    values: list[float]


@dataclass(frozen=True)
class _GivenUp:
    pass


@dataclass(frozen=True)
class _Failed:
    report: str
    errno: int | None = None


@dataclass
class _Worker:
    """A process that trains one trial after another."""

    trial: Trial | None = None
    seen: dict[int, list[float]] = field(default_factory=dict)
    begun: float = 0.0  # of the trial

    def __post_init__(self) -> None:
        self.connection, theirs = Pipe()
        self.process = start(_work, theirs)
        theirs.close()

    def start(self, trial: Trial, jobs: list[tuple[Cell, Path]]) -> None:
        self.trial, self.seen, self.begun = trial, defaultdict(list), time.monotonic()
        self.send(jobs)

    def send(self, message: Any) -> None:
        # The death of a worker is noticed while waiting for its next message.
        with suppress(OSError):
            self.connection.send(message)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()


class _StopError(Exception):
    """The trial is stopped early."""


def _work(connection: Connection[Any, Any]) -> None:
    warnings.simplefilter("ignore")
    serve(connection)


def serve(connection: Connection[Any, Any]) -> None:
    """Train the trials that come through the connection, until it closes."""
    with suppress(EOFError, OSError):
        while True:
            connection.send(_outcome(connection, connection.recv()))


def _outcome(connection: Connection[Any, Any], jobs: list[tuple[Cell, Path]]) -> _Measured | _GivenUp | _Failed:
    try:
        for index, (cell, folder) in enumerate(jobs):
            _train(connection, index, cell, folder)
        return _Measured([measure(folder) for _, folder in jobs])
    except _StopError:
        return _GivenUp()
    except Exception as error:
        return _Failed(traceback.format_exc(), getattr(error, "errno", None))


def _train(connection: Connection[Any, Any], index: int, cell: Cell, folder: Path) -> None:
    def on_evaluation(timesteps: int, mean_return: float) -> None:
        connection.send(_Evaluated(index, timesteps, mean_return))
        if not connection.recv():
            raise _StopError

    if folder.exists():
        for timesteps, mean_return in _curve(folder):
            on_evaluation(timesteps, mean_return)
    else:
        run_cell(cell, folder, on_evaluation)


def _whole_lines(path: Path) -> str:
    """Remove the remains of a killed process from a journal: its lock, and an incomplete last line."""
    Path(f"{path}.lock").unlink(missing_ok=True)
    if path.exists():
        contents = path.read_bytes()
        if not contents.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(contents.rfind(b"\n") + 1)
    return str(path)
