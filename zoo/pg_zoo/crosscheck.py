"""`pg-zoo crosscheck`: the standing proof that our PPO and A2C are SB3's, for every entry of the zoo.

Parameters after a few updates are compared bit for bit on the engine that reproduces SB3. The scores of whole trainings
on the default engine are put to an equivalence test, which shows that two means lie close together, where an ordinary
test only fails to show that they differ.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import set_random_seed

from pg_agents import registry
from pg_agents.agent import CommonArguments
from pg_agents.checks import check_number, constructor_arguments, suggestion
from pg_zoo.benchmark import run_grid
from pg_zoo.errors import UserError, one_line
from pg_zoo.evidence import Entry, entries, published, read_cells, references
from pg_zoo.lookup import find_algorithm, find_env, plugin_warnings
from pg_zoo.results import statistics
from pg_zoo.results.storage import RANDOM, write_whole, writing
from pg_zoo.runs.cell import Cell, Training, command_line, resolved

SEED = 0  # of the comparison of parameters; the first one of that of scores
MIN_STEPS = 5000  # of the comparison of parameters: a few updates of A2C are over before any episode is
CONFIDENCE = 0.9  # of an interval whose either end is a one-sided test at 5 %
_PACKAGES = ("pg-agents", "stable-baselines3", "rl_zoo3", "gymnasium", "torch", "numpy", "numba")


# Parameters


@dataclass(frozen=True)
class Parameters:
    """What all that was learnt says about two trainings from the same seed.

    Attributes:
        updates: Updates that both have done.
        differences: The largest difference of each array that is not the same bit for bit; infinite where only one of
            the two has it, or where the difference is no number.
        reason: Why there is nothing to compare, in words.
        failed: Whether that is a failure of the check, rather than an entry that SB3 cannot take.
    """

    updates: int = 0
    differences: Mapping[str, float] | None = None
    reason: str = ""
    failed: bool = False

    @property
    def contradicts(self) -> bool:
        """Whether it is anything but equal, for an entry that SB3 can take."""
        return self.failed or bool(self.differences)

    @property
    def answer(self) -> str:
        """In a word or two."""
        if self.differences is None:
            return "failed" if self.failed else "not compared"
        return "different" if self.differences else "equal"

    def __str__(self) -> str:
        if self.differences is None:
            return self.reason
        if not self.differences:
            return "equal"
        largest, name = max((difference, name) for name, difference in self.differences.items())
        return f"**different**: up to {largest:.2g} ({name})"


def compare_parameters(cell: Cell, updates: int) -> Parameters:
    """Train our class and SB3's from the same seed, one after the other, and compare all that they have learnt.

    Args:
        cell: Ours. They are the first updates of the training that it describes: schedules fall as slowly.
        updates: How many at least; more until there were `MIN_STEPS` steps; fewer if the training is over before.

    Raises:
        Exception: One of the two cannot be trained.
    """
    names = missing_in_sb3(cell)
    if names:
        return Parameters(reason=f"cannot be compared: SB3 has no {', '.join(names)}")
    try:
        resolved(counterpart(cell))
    except UserError as error:
        return Parameters(reason=f"cannot be compared: {error}")
    ours, done = _learnt(replace(cell, hyperparams={**cell.hyperparams, "engine": "autograd"}), updates)
    theirs, done_by_sb3 = _learnt(counterpart(cell), updates)
    assert done == done_by_sb3
    return Parameters(done, differences(ours, theirs))


def counterpart(cell: Cell) -> Cell:
    """The same training with SB3's class, which has no engines."""
    hyperparams = {name: value for name, value in cell.hyperparams.items() if name != "engine"}
    return replace(cell, algo=f"sb3/{cell.algo}", hyperparams=hyperparams)


def missing_in_sb3(cell: Cell) -> list[str]:
    """The hyperparameters of a cell that our class has and SB3's has not."""
    ours, theirs = (
        constructor_arguments(find_algorithm(algo), CommonArguments) or [] for algo in (cell.algo, f"sb3/{cell.algo}")
    )
    return sorted(set(cell.hyperparams) & set(ours) - {*theirs, "engine"})


def differences(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The largest difference of each array that is not the same bit for bit."""
    found = {}
    for name in ours.keys() | theirs.keys():
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            found[name] = np.inf
        elif a.tobytes() != b.tobytes():
            difference = np.abs(a.astype(float) - b.astype(float)).max()
            found[name] = float(difference) if np.isfinite(difference) else np.inf
    return found


class _Stop(BaseCallback):
    """Ends a training after so many updates and `MIN_STEPS`, in the first step after the last of them."""

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.updates, self.done, self.steps = updates, 0, 0

    def _on_rollout_end(self) -> None:
        self.done += 1
        self.steps = self.num_timesteps

    def _on_step(self) -> bool:
        return self.done < self.updates or self.steps < MIN_STEPS


def _learnt(cell: Cell, updates: int) -> tuple[dict[str, np.ndarray], int]:
    """All arrays that a training has changed after so many updates or more, and how many these were."""
    stop = _Stop(updates)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        set_random_seed(cell.seed)
        with closing(Training(cell)) as training:
            model = training.set_up()
            model.learn(training.n_timesteps, callback=[*training.callbacks, stop])
            return _arrays(model), stop.done


def _arrays(model: BaseAlgorithm) -> dict[str, np.ndarray]:
    optimizer = model.policy.optimizer.state_dict()
    found: dict[str, Any] = {f"policy.{name}": value for name, value in model.policy.state_dict().items()}
    for index, state in optimizer["state"].items():
        found |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    found |= {f"optimizer.lr.{index}": group["lr"] for index, group in enumerate(optimizer["param_groups"])}
    normalisation = model.get_vec_normalize_env()
    if normalisation is not None:
        of_observations = normalisation.obs_rms if normalisation.norm_obs else {}
        if isinstance(of_observations, RunningMeanStd):
            of_observations = {"": of_observations}
        for name, running in {**of_observations, "returns": normalisation.ret_rms}.items():
            for moment in ("mean", "var", "count"):
                found[f"normalisation.{name}.{moment}"] = getattr(running, moment)
    return {name: th.as_tensor(value).numpy(force=True) for name, value in found.items() if value is not None}


# Scores


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests (TOST; Schuirmann 1987) with Welch's degrees of freedom.

    Attributes:
        difference: Our mean minus theirs.
        low: Lower end of its 90 % interval: a one-sided test at 5 % rejects all below.
        high: Upper end.
        margin: How large a difference would matter.
        n: Seeds of each.
    """

    difference: float
    low: float
    high: float
    margin: float
    n: int

    @property
    def answer(self) -> str:
        """Whether the interval lies within the margin, beyond it, or across one of its ends."""
        if -self.margin < self.low and self.high < self.margin:
            return "equivalent"
        return "different" if self.low > self.margin or self.high < -self.margin else "not shown"

    @property
    def verdict(self) -> str:
        """The same, for the table."""
        return {"different": "**different**", "not shown": f"not shown with {self.n} seeds"}.get(
            self.answer, self.answer
        )


def equivalence(ours: Sequence[float], theirs: Sequence[float], margin: float) -> Equivalence:
    """Test whether the means of two independent samples are closer to each other than a margin: `statistics.welch`.

    Args:
        ours: x, at least two numbers; they need not vary.
        theirs: y.
        margin: Greater than 0, chosen beforehand.
    """
    samples = (ours, theirs)
    found = statistics.welch(
        [float(np.mean(sample)) for sample in samples],
        [float(np.std(sample, ddof=1)) for sample in samples],
        [len(sample) for sample in samples],
        CONFIDENCE,
    )
    return Equivalence(*found, margin, min(len(ours), len(theirs)))


def reference_range(
    random: float | None, best: tuple[float, str] | None, sb3: float | None
) -> tuple[float, str] | None:
    """What a difference of scores is measured by: how far above random actions one can, or SB3 does, get.

    Nothing here is of the scores that are compared, by which a margin could move with what it judges.

    Args:
        random: Mean return of random actions.
        best: The best known score and what it is, such as the return at which the task counts as solved.
        sb3: The score that rl_zoo3 publishes of SB3, where there is one.

    Returns:
        The range and where it ends; None where nothing is known to be better than random.
    """
    if random is None:
        return None
    for end, what in ([best] if best else []) + ([] if sb3 is None else [(sb3, "SB3's published score")]):
        if end > random:
            return end - random, what
    return None


@dataclass(frozen=True)
class Scores:
    """The scores of both on one entry.

    Attributes:
        ours: One for each seed.
        theirs: The same.
        steps: Of each training.
        random: Mean return of random actions.
        end: What the range that the margin is a part of ends with.
        result: None where nothing is better than random.
        engine: Ours.
        speedup: Our steps per second over SB3's, medians.
        failed: How many trainings have failed.
    """

    ours: Sequence[float]
    theirs: Sequence[float]
    steps: int
    random: float | None = None
    end: str = ""
    result: Equivalence | None = None
    engine: str = ""
    speedup: float = np.nan
    failed: int = 0

    @property
    def answer(self) -> str:
        """In a word or two."""
        return "failed" if self.failed else self.result.answer if self.result else "no margin"

    @property
    def verdict(self) -> str:
        """In words."""
        if self.failed:
            return f"**failed trainings: {self.failed}**"
        if self.result is None:
            return "no margin: nothing is known to be better than random"
        near = "; both are that close to random actions too" * (self.answer == "equivalent" and self._is_near_random)
        return self.result.verdict + near

    @property
    def _is_near_random(self) -> bool:
        """Whether neither side is a margin away from random actions yet: then they would be equivalent to these too."""
        if self.result is None or self.random is None:
            return False
        return all(abs(np.mean(scores) - self.random) < self.result.margin for scores in (self.ours, self.theirs))

    @property
    def contradicts(self) -> bool:
        """Whether trainings failed or the scores are shown to differ."""
        return self.answer in ("failed", "different")


def score_cells(cells: Sequence[Cell], seeds: int, max_steps: int, final_episodes: int) -> list[Cell]:
    """The trainings that show what entries score: ours and SB3's in turn, and random actions once on each environment.

    Args:
        cells: One of ours for each entry.
        seeds: How many of each.
        max_steps: Longer trainings are cut to so many steps.
        final_episodes: Episodes after each training, whose mean return is its score.
    """
    found = {}
    for cell in cells:
        kwargs = cell.hyperparams.get("env_kwargs")
        # The margin is a part of what this is the one end of: not of a few episodes.
        random = Cell(RANDOM, cell.env, SEED, {"env_kwargs": kwargs} if kwargs else {}, "random actions")
        found[random.path] = random
        cell = replace(cell, hyperparams={**cell.hyperparams, "n_timesteps": min(cell.n_timesteps, max_steps)})
        for seed in range(SEED, SEED + seeds):
            for one in (cell, counterpart(cell)):
                one = replace(one, seed=seed, eval_points=0, final_episodes=final_episodes)
                found[one.path] = one
    return list(found.values())


def compare_scores(cell: Cell, folder: Path, seeds: int, max_steps: int, margin: float) -> Scores:
    """Compare what is stored of an entry.

    Args:
        cell: One of ours.
        folder: The results of `score_cells`.
        seeds: As for `score_cells`.
        max_steps: As for `score_cells`.
        margin: A difference matters if it is this part of the range from random actions to the best known score.
    """
    steps = min(cell.n_timesteps, max_steps)
    stored = read_cells(folder)
    ours, theirs = (
        [one for one in stored.get((algo, cell.env), []) if SEED <= one["seed"] < SEED + seeds]
        for algo in (cell.algo, f"sb3/{cell.algo}")
    )
    failed = 2 * seeds - len(ours) - len(theirs)
    for one in (*ours, *theirs):
        if old := [name for name in _PACKAGES if one["versions"].get(name, version(name)) != version(name)]:
            raise UserError(f"{folder} has scores made with another version of {', '.join(old)}: choose another -o.")
    scores = Scores([one["score"] for one in ours], [one["score"] for one in theirs], steps, failed=failed)
    if failed:
        return scores
    random, best = references(cell.env, cell.hyperparams.get("env_kwargs"), stored.get((RANDOM, cell.env), []))
    speeds = [np.median([one["steps_per_second"] for one in group]) for group in (ours, theirs)]
    engine = ", ".join(sorted({one["engine"] for one in ours}))
    scores = replace(scores, random=random, engine=engine, speedup=float(speeds[0] / speeds[1]))
    sb3 = published().get(cell.algo, {}).get(cell.env)
    span = reference_range(random, best, None if sb3 is None else float(sb3["mean"]))
    if span is None:
        return scores
    return replace(scores, end=span[1], result=equivalence(scores.ours, scores.theirs, margin * span[0]))


# The command


@dataclass
class Row:
    """What is found out about one entry."""

    entry: Entry
    parameters: Parameters
    scores: Scores | None = None

    @property
    def contradicts(self) -> bool:
        """Whether it speaks against the claim."""
        return self.parameters.contradicts or (self.scores is not None and self.scores.contradicts)


def crosscheck(args: argparse.Namespace) -> int:
    """Run `pg-zoo crosscheck`.

    Returns:
        The exit status: 1 if anything differs or could not be run. 0 says that nothing contradicts the claim, not that
        all is shown.

    Raises:
        UserError: Something that was asked for cannot be done.
    """
    with one_line(ValueError):
        check_number("--updates", args.updates, at_least=1, integer=True)
        check_number("--max-steps", args.max_steps, at_least=1, integer=True)
        check_number("--final-episodes", args.final_episodes, at_least=1, integer=True)
        check_number("--margin", args.margin, above=0)
        check_number("--jobs", args.jobs, at_least=1, integer=True, optional=True)
        if args.seeds != 0:
            check_number("--seeds", args.seeds, at_least=2, integer=True)
    selected = _selected(args.algos, args.envs)
    folder, written = Path(args.output), Path(args.write or Path(args.output, "crosscheck.md"))
    for path, option in ((folder, "-o/--output"), (written.parent, "--write")):
        with one_line(OSError), writing(path, option):
            path.mkdir(parents=True, exist_ok=True)
    print(f"Entries: {len(selected)}. Parameters after {args.updates} updates or more:", flush=True)
    rows, cells = [], []
    for entry, cell, parameters in _parameters(selected, args.updates, args.jobs):
        print(f"{entry.algo} on {entry.env}: {parameters}", flush=True)
        rows.append(Row(entry, parameters))
        cells.append(cell)
    comparable = [
        (row, cell) for row, cell in zip(rows, cells, strict=True) if cell and row.parameters.differences is not None
    ]
    if args.seeds and comparable:
        print(
            f"Margin of the scores: {args.margin:g} of the range from random actions to the best known score, else to "
            "what counts as solved, else to SB3's published score"
        )
        grid = score_cells([cell for _, cell in comparable], args.seeds, args.max_steps, args.final_episodes)
        run_grid(grid, folder, jobs=args.jobs)
        for row, cell in comparable:
            row.scores = compare_scores(cell, folder, args.seeds, args.max_steps, args.margin)
            print(f"{row.entry.algo} on {row.entry.env}: {row.scores.verdict}", flush=True)
    option = "--write" if args.write else "-o/--output"
    with one_line(OSError), writing(written if args.write else folder, option):
        write_whole(written, document(rows, args))
    print(*(f"{line}." for line in tallies(rows)), f"Result: {written}", sep="\n")
    return 1 if any(row.contradicts for row in rows) else 0


def _selected(algos: Sequence[str], envs: Sequence[str] | None) -> list[Entry]:
    """The entries that were asked for."""
    with one_line(registry.PluginError):
        counterparts = [name for name in registry.algorithms() if f"sb3/{name}" in registry.reference_algorithms()]
    for algo in algos:
        if algo not in counterparts:
            raise UserError(f"--algos: SB3 has no {algo!r}. Known: {', '.join(counterparts)}.")
    found = [entry for entry in entries() if entry.algo in algos]
    known = {entry.env for entry in found}
    for env in envs or ():
        if env not in known:
            raise UserError(f"--envs: {' and '.join(algos)} have no entry {env!r}.{suggestion(env, known)}")
    return [entry for entry in found if not envs or entry.env in envs]


def _parameters(
    selected: Sequence[Entry], updates: int, jobs: int | None
) -> Iterator[tuple[Entry, Cell | None, Parameters]]:
    """Compare the parameters of all entries, several at a time, each in a process of its own."""
    threads = ThreadPoolExecutor(jobs or os.cpu_count(), initializer=_leave_interrupts_to_the_main_thread)
    try:
        found = threads.map(_examine_apart, selected, [updates] * len(selected))
        for entry, (cell, parameters) in zip(selected, found, strict=True):
            yield entry, cell, parameters
    except BaseException:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    threads.shutdown()


def _leave_interrupts_to_the_main_thread() -> None:
    # Processes that this thread starts inherit it: Ctrl-C is for the command, which then ends them.
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        resource_tracker.ensure_running()  # the first process would start it, and it would let interrupts through
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def _examine_apart(entry: Entry, updates: int) -> tuple[Cell | None, Parameters]:
    """`_examine` in another process, whose end would be no end of this one."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_send, args=(sender, _examine, entry, updates))
    process.start()
    sender.close()
    try:
        result: tuple[Cell | None, Parameters] = receiver.recv()
    except EOFError:
        process.join()
        result = None, _failed(f"its process ended with status {process.exitcode}")
    process.join()
    return result


def _send(sender: Connection, function: Callable[..., Any], *args: Any) -> None:
    th.set_num_threads(1)  # several would add in another order, and be slower
    sender.send(function(*args))


def _examine(entry: Entry, updates: int) -> tuple[Cell | None, Parameters]:
    """The training that an entry describes, and what `compare_parameters` says of it."""
    try:
        with plugin_warnings():
            find_env(entry.env)
        cell = resolved(Cell(entry.algo, entry.env, SEED, entry.hyperparams, f"the zoo's {entry.algo}.yml"))
        return cell, compare_parameters(cell, updates)
    except Exception as error:  # whatever it is, the others go on
        return None, _failed(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


def _failed(reason: str) -> Parameters:
    return Parameters(reason=f"**failed**: {' '.join(reason.split())}", failed=True)


_HEAD = """\
<!-- Written by `{command}`. -->
# The cross-check with Stable-Baselines3

Is our PPO Stable-Baselines3's PPO, and our A2C its A2C? For each of these entries of the zoo, both are trained with the
entry's hyperparameters, wrappers and normalisation, and compared.

- date: {date}
- command: `{command}`
- versions: {versions}
- exit status: {status}. 0 says that nothing contradicts the claim: no parameters and no scores are different, and
  nothing failed. It does not say that all is shown: how much is, the following lines do.

{tallies}

## Parameters

Both start from the same seed, ours on the engine `"autograd"`, and are compared after {updates} updates, or more until
there were {min_steps:,} steps. *equal*: the parameters, the state of the optimiser and the statistics of the
normalisation are the same bit for bit.

"""
_SCORES = """
## Scores

Both are trained with {seeds} seeds, ours on the default engine, for as many steps as the entry says, but at most
{max_steps:,}. So this says whether the two do the same, not what the entry reaches. The score of a training is the
mean return of {episodes} episodes after it. Where our engine is `autograd`, which also
gSDE takes, both draw the same random numbers, and their scores repeat what the parameters say. Random actions are
measured over 100 episodes.

Scores are *equivalent* where the {confidence:.0%} interval of the difference of their means (Welch) lies within ± the
margin: two one-sided tests at 5 % then show that they are no further apart. They are *different* where the whole
interval lies beyond the margin. Otherwise neither is shown. The margin was fixed beforehand: {margin:g} of the range
from random actions to the best known score, or else to the return at which the environment counts as solved, or else
to the score that rl_zoo3 publishes of SB3. *speed*: our steps per second over SB3's, in the same run.

"""
_PARAMETER_COLUMNS = ("environment", "algorithm", "updates", "parameters")
_SCORE_COLUMNS = (
    "environment",
    "algorithm",
    "steps",
    "ours",
    "SB3",
    "difference",
    "margin",
    "scores are",
    "engine",
    "speed",
)


def document(rows: Sequence[Row], args: argparse.Namespace) -> str:
    """The page.

    Args:
        rows: What was found out.
        args: The options of the command.
    """
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    text = _HEAD.format(
        command=command_line(),
        date=datetime.now(timezone.utc).date(),
        versions=versions,
        updates=args.updates,
        min_steps=MIN_STEPS,
        status=int(any(row.contradicts for row in rows)),
        tallies="\n\n".join(f"**{line}.**" for line in tallies(rows)),
    )
    text += _table(
        _PARAMETER_COLUMNS, [(*_key(row), str(row.parameters.updates or ""), str(row.parameters)) for row in rows]
    )
    if args.seeds:
        text += _SCORES.format(
            seeds=args.seeds,
            max_steps=args.max_steps,
            episodes=args.final_episodes,
            margin=args.margin,
            confidence=CONFIDENCE,
        )
        text += _table(_SCORE_COLUMNS, [_score_row(row, row.scores) for row in rows if row.scores])
    return text


def tallies(rows: Sequence[Row]) -> list[str]:
    """How often which answer was given: of parameters, and of scores if there are any."""
    parameters = [row.parameters.answer for row in rows]
    scores = [row.scores.answer for row in rows if row.scores]
    lines = [_tally("Parameters", parameters, ("equal", "different", "not compared", "failed"))]
    if scores:
        lines.append(_tally("Scores", scores, ("equivalent", "not shown", "different", "no margin", "failed")))
    return lines


def _tally(what: str, answers: Sequence[str], known: Sequence[str]) -> str:
    # The first answers always: that none was different is what one wants to know.
    counts = {answer: answers.count(answer) for answer in known}
    return f"{what}: {', '.join(f'{a} {n}' for i, (a, n) in enumerate(counts.items()) if n or a in _ALWAYS_TOLD)}"


_ALWAYS_TOLD = ("equal", "equivalent", "not shown", "different")


def _score_row(row: Row, scores: Scores) -> tuple[str, ...]:
    result = scores.result
    return (
        *_key(row),
        f"{scores.steps:,}",
        *(_mean_and_std(group) for group in (scores.ours, scores.theirs)),
        f"{_number(result.difference)} [{_number(result.low)}, {_number(result.high)}]" if result else "",
        f"{_number(result.margin)} ({scores.end})" if result else "",
        scores.verdict,
        scores.engine,
        "" if np.isnan(scores.speedup) else f"{scores.speedup:.1f}x",
    )


def _key(row: Row) -> tuple[str, str]:
    return row.entry.env, row.entry.algo


def _mean_and_std(scores: Sequence[float]) -> str:
    return f"{_number(float(np.mean(scores)))} ± {_number(float(np.std(scores, ddof=1)))}" if len(scores) > 1 else ""


def _number(value: float) -> str:
    return f"{value:.{2 if abs(value) < 100 else 1}f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
