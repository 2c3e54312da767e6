"""Evidence: the scores of hyperparameter entries on seeds that tuning did not see.

The evidence of an entry in `<algo>.yml` is stored in `evidence/<algo>/<environment>.json` in the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from pg_agents import registry
from pg_zoo.errors import UserError, one_line, warn
from pg_zoo.evidence.entries import entries, evidence_path
from pg_zoo.lookup import plugin_warnings
from pg_zoo.results import statistics
from pg_zoo.results.scales import find_scale
from pg_zoo.results.storage import (
    COMMIT,
    RANDOM,
    RECORD,
    asked_for,
    failure_name,
    read_cells,
    read_record,
    write_whole,
    writing,
)
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.training import run_cell
from pg_zoo.words import different, ranges

FIRST_SEED = 1000  # evidence uses the seeds from here on, tuning those below
MIN_SEEDS = 5


@dataclass(frozen=True)
class Evidence:
    """The scores of one entry.

    Attributes:
        algo: The algorithm's registered name.
        env: The Gymnasium id.
        hyperparams: The entry.
        n_timesteps: Requested steps of each training.
        seeds: The seeds, one training each.
        scores: Mean return of the evaluation after each training.
        mean: Mean of the scores.
        interval: 95 % interval of the mean over seeds (Student's t).
        final_episodes: Episodes of each evaluation.
        deterministic: Whether evaluations took the most probable actions.
        steps_per_second: Median over the trainings.
        wall_time: Median in seconds, evaluations excluded.
        versions: Versions of the packages involved, and the commits of pg-agents if they are known.
        machine: The machine of the trainings.
        date: End of the last training, UTC.
        command: The command that ran the trainings.
        random: Mean return of random actions; None if it is unknown.
        best: The best known score, or else the return at which the environment counts as solved, with its kind.
        note: Free text for the table.
        fresh: False if an earlier version of the entry is known to have been scored with these seeds.
        vec_env: How environments were stepped, as a cell has it.
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
    vec_env: Literal["own", "world", "envpool"] = "own"

    def write(self, zoo: Path) -> Path:
        """Store the evidence in a hyperparameter folder.

        Args:
            zoo: The folder of `<algo>.yml`.

        Returns:
            The path of the file.
        """
        path = evidence_path(zoo, self.algo, self.env)
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in asdict(self).items()]
        write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n")
        return path


def read(path: Path) -> Evidence:
    """The evidence in a file.

    Raises:
        UserError: The file contains no evidence of this version.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Evidence(**{**stored, "best": stored["best"] and tuple(stored["best"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} contains no evidence of this version of pg-zoo ({type(error).__name__}: {error}). "
            "Delete it and run `pg-zoo evidence` with its results again."
        ) from error


def from_cells(folder: Path, algo: str, env: str, entry: Mapping[str, Any]) -> Evidence:
    """Evidence of an entry, from a results folder.

    Args:
        folder: Results of `pg-zoo benchmark`.
        algo: The algorithm.
        env: The environment.
        entry: The entry with which the results must have been obtained.

    Raises:
        UserError: The results belong to another entry, are too few, come from seeds that tuning may have seen, or are
            incomplete because trainings failed.
    """
    return _from_cells(folder, read_cells(folder), algo, env, entry)


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
    failed = sorted((folder / "failed").glob(f"{failure_name(algo, env, '*')}.txt"))
    if missing or failed:
        what = f"{failed[0]} failed" if failed else f"seed {missing[0]} is missing"
        raise UserError(f"{what[0].upper()}{what[1:]}: evidence without it would be biased.")
    for cell in group:
        if difference := difference_of(entry, cell["hyperparams"]):
            raise UserError(f"The hyperparameters of seed {cell['seed']} differ from the entry: {difference}.")
        cell = {**cell, "versions": released(cell["versions"])}
        first = {**group[0], "versions": released(group[0]["versions"])}
        for key in ("versions", "deterministic", "options", "vec_env"):
            if cell.get(key) != first.get(key):
                raise UserError(f"Seeds {seeds[0]} and {cell['seed']} differ in {key}: {first[key]}, {cell[key]}.")
    commits = different(cell["versions"][COMMIT] for cell in group if COMMIT in cell["versions"])
    scores = [float(cell["score"]) for cell in group]
    mean = statistics.mean(np.array(scores))
    last = max(group, key=lambda cell: cell["date"])
    scale = find_scale(env, entry.get("env_kwargs"), [cell["score"] for cell in cells.get((RANDOM, env), [])])
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
        random=scale.random,
        best=scale.goal,
        vec_env=kind if (kind := group[0].get("vec_env")) in ("world", "envpool") else "own",
    )


def released(versions: Mapping[str, str]) -> dict[str, str]:
    """The versions of packages without the commit, which may change in the course of one measurement."""
    return {name: number for name, number in versions.items() if name != COMMIT}


def _asked_for(folder: Path, algo: str, env: str) -> set[int]:
    """The seeds that the finished folder will have."""
    if not (folder / RECORD).exists():
        return set()
    return {seed for *which, seed in asked_for(read_record(folder)) if which == [algo, env]}


def difference_of(entry: Mapping[str, Any], hyperparams: Mapping[str, Any]) -> str:
    """A description of the first hyperparameter in which a training differs from an entry; empty if there is none."""
    expected, given = {"policy": "auto", **entry}, {"policy": "auto", **hyperparams}
    if expected["policy"] == "auto":  # a training records the policy that was chosen
        expected["policy"] = given["policy"]
    for name in sorted(expected.keys() | given.keys()):
        if expected.get(name) != given.get(name):
            return f"{name} is {given.get(name)!r} and not {expected.get(name)!r}"
    return ""


def replay(evidence: Evidence, seed: int, folder: Path) -> dict[str, Any]:
    """Repeat a training of the evidence.

    Args:
        evidence: The evidence.
        seed: One of its seeds.
        folder: The folder for the results, which must not exist.

    Returns:
        The contents of the new `cell.json`: the score, and the present versions and machine.
    """
    cell = Cell(
        evidence.algo,
        evidence.env,
        seed,
        evidence.hyperparams,
        origin="evidence",
        eval_points=1,
        final_episodes=evidence.final_episodes,
        vec_env=evidence.vec_env,
    )
    run_cell(cell, folder)
    record: dict[str, Any] = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    return record


def collect(zoo: Path | None = None) -> list[Evidence]:
    """The evidence of all entries that have any. Entries that have changed since are left out, with a warning.

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
    """Write the evidence of all entries that have cells in a results folder.

    Args:
        results: Results of `pg-zoo benchmark`.
        zoo: As for `entries`.
        same_seeds: Whether seeds are allowed with which an earlier version of the entry was scored.

    Yields:
        The path of each file written. Warnings name the entries without a file, with the reasons.
    """
    cells, known = read_cells(results), {(entry.algo, entry.env): entry for entry in entries(zoo)}
    with one_line(registry.PluginError), plugin_warnings():
        registry.register_envs()
    for algo, env in cells:
        entry = known.get((algo, env))
        if algo == RANDOM or algo in registry.reference_algorithms():
            continue
        if entry is None:
            warn(f"{algo} on {env} is left out: there is no entry for it.")
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
    """New evidence with the note of the evidence that it replaces.

    Args:
        new: The new evidence.
        old: The evidence to be replaced.
        same_seeds: Whether seeds are allowed with which another version of the entry was scored; the evidence is then
            not `fresh`.

    Raises:
        UserError: The seeds are such seeds and not allowed.
    """
    changed, last = difference_of(old.hyperparams, new.hyperparams), max(old.seeds)
    # Still earlier versions of the entry were scored with smaller seeds than the old evidence.
    fresh = new.seeds[0] > last if changed else old.fresh or new.seeds[0] > last
    if not (fresh or same_seeds) and changed:
        raise UserError(
            f"the seeds {ranges(old.seeds)} scored an earlier version of the entry ({changed}), and that score may be "
            f"why it was changed: use fresh seeds with `pg-zoo benchmark --first-seed {last + 1}`, or pass "
            "--same-seeds."
        )
    return replace(new, note=old.note, fresh=fresh)


def published() -> dict[str, Any]:
    """rl_zoo3's scores of SB3's agents by algorithm and environment, and their `source`."""
    text = Path(__file__).with_name("published.yml").read_text(encoding="utf-8")
    scores: dict[str, Any] = yaml.safe_load(text)
    return scores
