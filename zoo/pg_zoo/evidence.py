"""`pg-zoo evidence`: what the entries of hyperparameter files score, on seeds that no tuning saw, and the table of it.

Beside `<algo>.yml`, `evidence/<algo>/<environment>.json` holds what the entry of one environment scored.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml

from pg_agents import registry
from pg_envs.references import BEST, is_batched, reference_scores
from pg_zoo.errors import UserError, one_line, warn
from pg_zoo.hyperparameters import File, files
from pg_zoo.lookup import plugin_warnings
from pg_zoo.results import statistics
from pg_zoo.results.storage import COMMIT, RANDOM, RECORD, asked_for, read_cell, read_record, write_whole, writing
from pg_zoo.runs.cell import Cell, run_cell
from pg_zoo.words import count, different, duration, interval, number, ranges

FIRST_SEED = 1000  # of evidence; tuning has those below
MIN_SEEDS = 5

_OF_A_CELL = (
    *("algo", "env", "seed", "hyperparams", "options", "deterministic", "score", "wall_time", "steps_per_second"),
    *("versions", "machine", "date", "command"),
)


@dataclass(frozen=True)
class Evidence:
    """What one entry scored.

    Attributes:
        algo: The algorithm's registered name.
        env: The Gymnasium id.
        hyperparams: The entry.
        n_timesteps: Steps that each training was asked for.
        seeds: One training each.
        scores: Mean return of the evaluation after each training.
        mean: Their mean.
        interval: 95 % interval of the mean over seeds (Student's t).
        final_episodes: Episodes of each evaluation.
        deterministic: Whether it took the most probable actions.
        steps_per_second: Median over the trainings.
        wall_time: Median, in seconds, evaluations excluded.
        versions: Of the packages that took part, and the commits of ours, where they are known.
        machine: Where the trainings ran.
        date: When the last of them ended, UTC.
        command: What ran them.
        random: Mean return of random actions, where it is known.
        best: The best known score or the return at which the environment counts as solved, and which of these it is.
        note: Free text for the table.
        fresh: Whether an earlier version of the entry is not known to have been scored with these seeds.
    """

    algo: str
    env: str
    hyperparams: dict[str, Any]
    n_timesteps: int
    seeds: list[int]
    scores: list[float]
    mean: float
    interval: list[float]
    final_episodes: int
    deterministic: bool
    steps_per_second: float
    wall_time: float
    versions: dict[str, str]
    machine: Any
    date: str
    command: str
    random: float | None = None
    best: tuple[float, str] | None = None
    note: str = ""
    fresh: bool = True

    def write(self, zoo: Path) -> Path:
        """Put it into a hyperparameter folder.

        Args:
            zoo: The folder of `<algo>.yml`.

        Returns:
            The file.
        """
        path = evidence_path(zoo, self.algo, self.env)
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in asdict(self).items()]
        write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n")
        return path


def read(path: Path) -> Evidence:
    """The evidence in a file.

    Raises:
        UserError: It holds none.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Evidence(**{**stored, "best": stored["best"] and tuple(stored["best"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is no evidence of this version of pg-zoo ({type(error).__name__}: {error}). "
            "Delete it and run `pg-zoo evidence` with its results again."
        ) from error


def evidence_path(zoo: Path, algo: str, env: str) -> Path:
    """Where a hyperparameter folder has the evidence of an entry."""
    return zoo / "evidence" / algo.replace("/", "-") / f"{env.replace('/', '-')}.json"


def from_cells(folder: Path, algo: str, env: str, entry: Mapping[str, Any]) -> Evidence:
    """Evidence of an entry, from a results folder.

    Args:
        folder: Results of `pg-zoo benchmark`.
        algo: Which of them.
        env: Which of them.
        entry: The entry that they must be results of.

    Raises:
        UserError: They are not, or not enough, or from seeds that tuning may have seen, or some failed.
    """
    return _from_cells(folder, read_cells(folder), algo, env, entry)


def read_cells(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The finished cells of a results folder, by algorithm and environment, in the order of their seeds.

    Raises:
        UserError: There are none, or they are damaged or of another version of pg-zoo.
    """
    cells = defaultdict(list)
    for path in folder.glob("cells/*/*/seed_*/cell.json"):
        cell = read_cell(path, _OF_A_CELL)
        cells[cell["algo"], cell["env"]].append(cell)
    if not cells:
        raise UserError(f"{folder} holds no results of pg-zoo benchmark.")
    return {key: sorted(group, key=lambda cell: cell["seed"]) for key, group in sorted(cells.items())}


def _from_cells(
    folder: Path,
    cells: Mapping[tuple[str, str], list[dict[str, Any]]],
    algo: str,
    env: str,
    entry: Mapping[str, Any],
) -> Evidence:
    group = cells.get((algo, env), [])
    seeds = [cell["seed"] for cell in group]
    if seeds and seeds[0] < FIRST_SEED:
        raise UserError(
            f"Seed {seeds[0]} may have been seen by tuning: evidence needs seeds from {FIRST_SEED} on "
            f"(pg-zoo benchmark --first-seed {FIRST_SEED})."
        )
    if len(seeds) < MIN_SEEDS:
        raise UserError(f"Evidence needs at least {MIN_SEEDS} seeds, but {folder} has {len(seeds)}.")
    missing = sorted({*range(seeds[0], seeds[-1]), *_asked_for(folder, algo, env)} - {*seeds})
    failed = sorted((folder / "failed").glob(f"{algo.replace('/', '-')}-{env.replace('/', '-')}-seed_*.txt"))
    if missing or failed:
        what = f"{failed[0]} failed" if failed else f"seed {missing[0]} is missing"
        raise UserError(f"{what[0].upper()}{what[1:]}: evidence without it would flatter.")
    for cell in group:
        if difference := difference_of(entry, cell["hyperparams"]):
            raise UserError(f"Seed {cell['seed']} had other hyperparameters than the entry: {difference}.")
        cell = {**cell, "versions": released(cell["versions"])}
        first = {**group[0], "versions": released(group[0]["versions"])}
        for key in ("versions", "deterministic", "options"):
            if cell[key] != first[key]:
                raise UserError(f"Seeds {seeds[0]} and {cell['seed']} differ in {key}: {first[key]}, {cell[key]}.")
    commits = different(cell["versions"][COMMIT] for cell in group if COMMIT in cell["versions"])
    scores = [float(cell["score"]) for cell in group]
    mean = statistics.mean(np.array(scores))
    last = max(group, key=lambda cell: cell["date"])
    random, best = references(env, entry.get("env_kwargs"), cells.get((RANDOM, env), []))
    return Evidence(
        algo=algo,
        env=env,
        hyperparams=dict(entry),
        n_timesteps=int(group[0]["hyperparams"]["n_timesteps"]),
        seeds=seeds,
        scores=scores,
        mean=float(mean.value),
        interval=[float(mean.low), float(mean.high)],
        final_episodes=group[0]["options"]["final_episodes"],
        deterministic=group[0]["deterministic"],
        steps_per_second=float(np.median([cell["steps_per_second"] for cell in group])),
        wall_time=float(np.median([cell["wall_time"] for cell in group])),
        versions=released(group[0]["versions"]) | ({COMMIT: ", ".join(commits)} if commits else {}),
        machine=last["machine"],
        date=last["date"],
        command=last["command"],
        random=random,
        best=best,
    )


def released(versions: Mapping[str, str]) -> dict[str, str]:
    """Versions of packages alone: of a commit, there may be many in the time of one measurement."""
    return {name: number for name, number in versions.items() if name != COMMIT}


def _asked_for(folder: Path, algo: str, env: str) -> set[int]:
    """The seeds that the folder is to have in the end."""
    if not (folder / RECORD).exists():
        return set()
    return {seed for *which, seed in asked_for(read_record(folder)) if which == [algo, env]}


def difference_of(entry: Mapping[str, Any], hyperparams: Mapping[str, Any]) -> str:
    """In words, the first hyperparameter in which a training differed from an entry; empty where there is none."""
    expected, given = {"policy": "auto", **entry}, {"policy": "auto", **hyperparams}
    if expected["policy"] == "auto":  # a training says which one it became
        expected["policy"] = given["policy"]
    for name in sorted(expected.keys() | given.keys()):
        if expected.get(name) != given.get(name):
            return f"{name} is {given.get(name)!r} and not {expected.get(name)!r}"
    return ""


def references(
    env: str, env_kwargs: Mapping[str, Any] | None, random_cells: Sequence[Mapping[str, Any]]
) -> tuple[float | None, tuple[float, str] | None]:
    """The mean return of random actions, and the best known one with what it is.

    Args:
        env: The Gymnasium id.
        env_kwargs: Arguments of the environment.
        random_cells: Results of random actions on it.
    """
    spec = gym.registry.get(env)
    # Of others, nothing is known, and a simulation would take minutes.
    if spec is not None and is_batched(spec):
        scores = reference_scores(env, **(env_kwargs or {}))
        kind = next((kind for kind in BEST if kind in scores), None)
        return scores.get("random"), None if kind is None else (scores[kind], kind)
    random = float(np.mean([cell["score"] for cell in random_cells])) if random_cells else None
    threshold = None if spec is None else spec.reward_threshold
    return random, None if threshold is None else (float(threshold), "solved")


def replay(evidence: Evidence, seed: int, folder: Path) -> dict[str, Any]:
    """Train again what the evidence tells of.

    Args:
        evidence: The evidence.
        seed: One of its seeds.
        folder: Where the results go; must not exist.

    Returns:
        What its `cell.json` says: the score, and versions and machine of this time.
    """
    cell = Cell(
        evidence.algo,
        evidence.env,
        seed,
        evidence.hyperparams,
        origin="evidence",
        eval_points=1,
        final_episodes=evidence.final_episodes,
    )
    run_cell(cell, folder)
    record: dict[str, Any] = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    return record


# Entries and their evidence


@dataclass(frozen=True)
class Entry:
    """An entry of a hyperparameter file, and the folder of that file."""

    algo: str
    env: str
    hyperparams: dict[str, Any]
    zoo: Path

    @property
    def path(self) -> Path:
        """The file of its evidence."""
        return evidence_path(self.zoo, self.algo, self.env)


def entries(zoo: Path | None = None) -> list[Entry]:
    """All entries that may have evidence: not `default`, nor those of rl_zoo3.

    Args:
        zoo: A folder of `<algo>.yml` files, instead of those that are installed.

    Raises:
        UserError: The folder has no such file.
    """
    found = {}
    with plugin_warnings(), one_line(registry.PluginError):
        for file in files() if zoo is None else files_in(zoo):
            # A package may be in a zip archive; then its evidence is out of reach.
            if file.algo not in registry.reference_algorithms() and isinstance(file.path, Path):
                for env, hyperparams in file.entries().items():
                    if env != "default":
                        found[file.algo, env] = Entry(file.algo, env, hyperparams, file.path.parent)
    return sorted(found.values(), key=lambda entry: (entry.env.lower(), entry.algo))


def files_in(zoo: Path) -> list[File]:
    """The hyperparameter files of a folder.

    Raises:
        UserError: It has none.
    """
    found = [File(path.stem, str(zoo), path) for path in sorted(zoo.glob("*.yml"))]
    if not found:
        raise UserError(f"{zoo} is no folder of <algo>.yml files.")
    return found


def collect(zoo: Path | None = None) -> list[Evidence]:
    """The evidence of all entries that have it; entries that were changed since are left out, with a warning.

    Args:
        zoo: As for `entries`.
    """
    found = []
    for entry in entries(zoo):
        if entry.path.is_file():
            evidence = read(entry.path)
            if evidence.hyperparams == entry.hyperparams:
                found.append(evidence)
            else:
                difference = difference_of(entry.hyperparams, evidence.hyperparams)
                warn(f"{entry.path} is left out: the entry has changed since ({difference}).")
    return found


def update(results: Path, zoo: Path | None = None, *, same_seeds: bool = False) -> Iterator[Path]:
    """Write the evidence of all entries that a results folder has cells of.

    Args:
        results: Results of `pg-zoo benchmark`.
        zoo: As for `entries`.
        same_seeds: Also of seeds that an earlier version of the entry was scored with.

    Yields:
        Each file that was written. A warning says why others were not.
    """
    cells, known = read_cells(results), {(entry.algo, entry.env): entry for entry in entries(zoo)}
    with one_line(registry.PluginError), plugin_warnings():
        registry.register_envs()
    for algo, env in cells:
        entry = known.get((algo, env))
        if algo == RANDOM or algo in registry.reference_algorithms():
            continue
        if entry is None:
            warn(f"{algo} on {env} is left out: there is no entry that this could be evidence of.")
            continue
        try:
            evidence = _from_cells(results, cells, algo, env, entry.hyperparams)
            if entry.path.is_file():
                evidence = succeeding(evidence, read(entry.path), same_seeds)
        except UserError as error:
            warn(f"{algo} on {env} is left out: {error}")
            continue
        with one_line(OSError), writing(entry.zoo, "--zoo"):
            yield evidence.write(entry.zoo)


def succeeding(new: Evidence, old: Evidence, same_seeds: bool) -> Evidence:
    """New evidence with what stays of the old.

    Args:
        new: The new.
        old: What it will replace.
        same_seeds: Whether it may be of seeds that another version of the entry was scored with; it will say so.

    Raises:
        UserError: It is, and must not be.
    """
    changed, last = difference_of(old.hyperparams, new.hyperparams), max(old.seeds)
    # Versions before the old one had the seeds below its own.
    fresh = new.seeds[0] > last if changed else old.fresh or new.seeds[0] > last
    if not (fresh or same_seeds) and changed:
        raise UserError(
            f"seeds {ranges(old.seeds)} have scored an earlier version of the entry ({changed}), which may be why it "
            f"was changed: measure it on fresh seeds, with `pg-zoo benchmark --first-seed {last + 1}`, or say "
            "--same-seeds."
        )
    return replace(new, note=old.note, fresh=fresh)


# The table


def published() -> dict[str, Any]:
    """rl_zoo3's scores of SB3's agents: by algorithm and environment, and their `source`."""
    text = Path(__file__).with_name("published.yml").read_text(encoding="utf-8")
    scores: dict[str, Any] = yaml.safe_load(text)
    return scores


HIGHER, NOT_SHOWN, LOWER = "higher", "not shown", "lower"
OLDER, MORE_STEPS = "older environment", "more steps"
REACHED, NOT_REACHED = "reached", "not reached"


def comparison(evidence: Evidence, theirs: Mapping[str, Any] | None) -> str:
    """Whether a score is higher or lower than a published one, or why the two cannot be compared.

    Welch's 95 % interval of the difference says so. Theirs is one run, whose standard error is that of the mean over
    its evaluation's episodes; ours is over seeds.

    Args:
        evidence: Ours.
        theirs: An entry of `published`, or None.
    """
    if theirs is None:
        return ""
    if evidence.n_timesteps > theirs["steps"]:
        return MORE_STEPS
    difference = statistics.welch(
        [evidence.mean, theirs["mean"]],
        [float(np.std(evidence.scores, ddof=1)), theirs["std"]],
        [len(evidence.scores), theirs["episodes"]],
        statistics.CONFIDENCE,
    )
    answer = HIGHER if difference.low > 0 else LOWER if difference.high < 0 else NOT_SHOWN
    return f"{answer} ({OLDER})" if "env" in theirs else answer


_HEAD = f"""\
<!-- Written by `pg-zoo evidence`. -->
# What the zoo's hyperparameters reach

Each row is an entry of `<algo>.yml` in a folder of hyperparameters. Its score is the mean return of an evaluation after
training, averaged over training seeds that tuning did not see, with the 95 % interval of this mean over seeds
(Student's t). Single scores, versions, machine, date and command are in
`evidence/<algo>/<environment>.json` there.

- *seeds*: trainings. *episodes*: those of the evaluation after each of them.
- *steps*: environment steps of a training. *time*: median time of a training on one core, evaluations excluded.
  Where other work ran on the machine meanwhile, it is an upper bound.
- *random*: actions drawn uniformly; of several measurements on an environment, the one of most episodes.
- *best known*: the exact optimum, a game's value, or a reference controller's score, where there is one; *solved*: the
  return at which Gymnasium calls the environment solved, and whether the interval of the score lies above it
  (*{REACHED}*), below it (*{NOT_REACHED}*), or holds it (*{NOT_SHOWN}*).
- *SB3 in rl_zoo3*: the score that rl_zoo3 [publishes]({{source}})
  of Stable-Baselines3's algorithm of the same name: one run, mean ± standard deviation over evaluation episodes; and
  its steps. Where it is of an older version of the environment, that is named.
- *than SB3's*: whether the score here is shown to be *{HIGHER}* or *{LOWER}*, by the 95 % interval of the difference
  (Welch), with the standard error over seeds here, and over the episodes of their one run there. Where it holds 0, a
  difference is *{NOT_SHOWN}*, which does not mean that there is none. Not compared is what had *{MORE_STEPS}* than
  theirs. Where the published score is of an *{OLDER}*, rewards and episodes differ, and the answer says little.
"""
_NUMBERS = ("score", "seeds", "episodes", "steps", "time", "random", "best known")
_COLUMNS = ("environment", "algorithm", *_NUMBERS, "SB3 in rl_zoo3", "than SB3's", "note")


def table(all_evidence: Iterable[Evidence]) -> str:
    """The page of all scores, in Markdown."""
    scores = published()
    rows: list[tuple[str, ...]] = [_COLUMNS, tuple("---:" if column in _NUMBERS else "---" for column in _COLUMNS)]
    answers = []
    shown = list(all_evidence)
    random = _random(shown)
    for evidence in shown:
        theirs = scores.get(evidence.algo, {}).get(evidence.env)
        answer = comparison(evidence, theirs)
        answers.append(answer)
        notes = [evidence.note] * bool(evidence.note) + [_NOT_FRESH] * (not evidence.fresh)
        note = " ".join("; ".join(notes).replace("|", "\\|").split())
        rows.append((*_row(evidence, random[_task(evidence)]), _published_score(theirs), answer, note))
    parts = [_HEAD.replace("{source}", scores["source"])]
    summary = []
    for suffix, where in (("", ""), (f" ({OLDER})", f" of an {OLDER}")):
        counts = {answer: answers.count(answer + suffix) for answer in (HIGHER, NOT_SHOWN, LOWER)}
        if n := sum(counts.values()):
            said = ", ".join(f"{answer}: {many}" for answer, many in counts.items())
            summary.append(
                f"{count(n, 'score')} can be compared with SB3's in rl_zoo3{where}, at no more steps. {said}."
            )
    if summary:
        parts.append("\n".join(summary) + "\n")
    parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n")
    return "\n".join(parts)


_NOT_FRESH = "an earlier version of the entry was scored with some of these seeds"


def _task(evidence: Evidence) -> tuple[str, str]:
    """An environment with its arguments."""
    return evidence.env, json.dumps(evidence.hyperparams.get("env_kwargs") or {}, sort_keys=True)


def _random(all_evidence: Sequence[Evidence]) -> dict[tuple[str, str], float | None]:
    """What random actions score, one number for each task: that of the evidence with most episodes."""
    found: dict[tuple[str, str], float | None] = {}
    for evidence in sorted(all_evidence, key=lambda one: len(one.seeds) * one.final_episodes):
        if evidence.random is not None:
            found[_task(evidence)] = evidence.random
    return {_task(evidence): found.get(_task(evidence)) for evidence in all_evidence}


def _row(evidence: Evidence, random: float | None) -> tuple[str, ...]:
    best = ""
    if evidence.best is not None:
        value, kind = evidence.best
        best = number(value)
        if kind == "solved":
            low, high = evidence.interval
            best = f"solved: {best}, {REACHED if low >= value else NOT_REACHED if high < value else NOT_SHOWN}"
    return (
        evidence.env,
        evidence.algo,
        interval([evidence.mean, *evidence.interval]),
        str(len(evidence.seeds)),
        str(evidence.final_episodes),
        f"{evidence.n_timesteps:,}",
        duration(evidence.wall_time),
        "" if random is None else number(random),
        best,
    )


def _published_score(theirs: Mapping[str, Any] | None) -> str:
    if theirs is None:
        return ""
    older = f" ({theirs['env']})" if "env" in theirs else ""
    return f"{number(theirs['mean'])} ± {number(theirs['std'])}, {theirs['steps']:,} steps{older}"


def evidence(args: argparse.Namespace) -> None:
    """Run `pg-zoo evidence`.

    Raises:
        UserError: Something that was asked for cannot be done.
    """
    zoo = None if args.zoo is None else Path(args.zoo)
    output = None if args.output is None else Path(args.output)
    if output is not None and not output.parent.is_dir():
        raise UserError(f"-o/--output is {args.output}, but there is no folder {output.parent}.")
    if args.results is not None:
        written = list(update(Path(args.results), zoo, same_seeds=args.same_seeds))
        print("\n".join(map(str, written)))
        if not written:
            raise UserError(f"{args.results} holds no evidence of any entry.")
    if output is not None:
        with one_line(OSError), writing(output, "-o/--output"):
            write_whole(output, table(collect(zoo)))
        print(output)
    elif args.results is None:
        print(table(collect(zoo)), end="")
