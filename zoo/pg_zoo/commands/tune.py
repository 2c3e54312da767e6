"""`pg-zoo tune`: search hyperparameters with Optuna, score the best of them on fresh seeds, write entry and evidence.

1. *Search.* Each trial trains with the seeds 0, 1, ..., the same for all trials. The objective is the mean of
   `search.measure` over these seeds. Trials that fall behind the median of the others are stopped early.
2. *Choice.* The best trials are trained again with the seeds 500, 501, ...; the one with the best mean measure wins.
3. *Decision.* If there was an entry when the search began, the winner and that entry are trained with the seeds 750,
   751, .... The winner is better if the 95 % interval of the difference (Student's t, paired by seed) is above 0.
   Otherwise the entry stays.
4. *Score.* The score of the best of several is biased upwards. The winner is therefore trained once more on seeds that
   played no part in choosing it: 1000, 1001, ..., or the seeds above those of the evidence that existed when the search
   began. These scores are its evidence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import optuna
from optuna.trial import Trial
from rl_zoo3.utils import get_wrapper_class
from stable_baselines3.common.env_util import make_vec_env

from pg_agents import registry
from pg_agents.envs.make import readable
from pg_zoo.errors import UserError, one_line
from pg_zoo.evidence.entries import Entry, entries, evidence_path
from pg_zoo.evidence.scored import FIRST_SEED, MIN_SEEDS, Evidence, from_cells, read, succeeding
from pg_zoo.lookup import find_device, find_env, plugin_warnings
from pg_zoo.options import TuneOptions
from pg_zoo.ranges import MAX_POINTS, MAX_STEPS, check_options
from pg_zoo.recipes.files import find_entry
from pg_zoo.recipes.writing import with_entry
from pg_zoo.results import statistics
from pg_zoo.results.storage import RANDOM, resumable, write_whole, writing
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.grid import run_grid
from pg_zoo.runs.training import resolved
from pg_zoo.tuning.search import Search, Task, measure
from pg_zoo.tuning.spaces import search_space
from pg_zoo.words import interval, number

FORMAT = 1
RECORD = "tune.json"
CHOICE_SEED, DECISION_SEED, SCORE_SEED = FIRST_SEED // 2, FIRST_SEED * 3 // 4, FIRST_SEED


def tune(args: TuneOptions) -> None:
    """Run `pg-zoo tune`.

    Raises:
        UserError: An option is invalid, all trials failed, or results cannot be stored.
    """
    _check(args)
    folder, zoo = Path(args.output), None if args.write is None else Path(args.write)
    space, kept = search_space(args.algo)
    find_env(args.env, args.gym_packages)
    # Of the first run: by now, the entry that there is may be one that this search has written.
    with one_line(OSError), writing(folder, "-o/--output"):
        start = _stored(folder).get("start")
    if start is None:
        start = _start(zoo, args)
    score_seed = start["score_seed"]
    entry, origin, old = start["hyperparams"], start["origin"], start["is_entry"]
    n_timesteps = args.n_timesteps or int(entry.get("n_timesteps", 0))
    if n_timesteps < 1:
        raise UserError(f"No entry of {args.algo} gives the number of steps: set it with -n/--n-timesteps.")
    given = {name: entry[name] for name in kept if name in entry}
    # Errors in the task are reported before any work.
    device = find_device(args.device)
    first = resolved(
        Cell(args.algo, args.env, 0, {**entry, "n_timesteps": n_timesteps}, origin, device=device)
    ).hyperparams
    given = {"n_timesteps": n_timesteps, "policy": first["policy"], **given}
    spaces = _spaces(args.env, given)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _drawn(optuna.create_study().ask(), args.algo, given, space, spaces)  # errors in the search space, too
    names = ("seeds", "eval_points", "eval_episodes", "final_episodes", "device")
    options = {name: getattr(args, name) for name in names}
    task = Task(args.algo, args.env, n_timesteps, **options, gym_packages=tuple(args.gym_packages))

    with resumable(folder), _interruptible(folder):
        _claim(folder, task, start)
        search = Search(
            folder,
            task,
            lambda trial: _drawn(trial, args.algo, given, space, spaces),
            baselines={"the entry": first, "defaults": given} if old else {"defaults": given},
            seed=args.seed,
        )
        begins = "the entry, the second the algorithm's defaults" if old else "the algorithm's defaults"
        print(
            f"{args.trials} trials of {n_timesteps:,} steps and {args.seeds} seeds, the first of which is {begins}; "
            f"then the best {args.top} and the winner, with {args.score_seeds} seeds each.",
            flush=True,
        )
        # Of the choice, the decision and the score.
        n_afterwards = (min(args.top, args.trials) + 2 * old + 1) * args.score_seeds
        search.run(args.trials, args.jobs, n_afterwards)
        winner, hyperparams = _choose(search, folder, args)
        better = not old or _is_better(winner, hyperparams, entry, folder, args)
        found = _score(winner, hyperparams, score_seed, folder, args)
        if not better:
            print(f"{winner} is not shown to be better than the entry. It is stored as the result of the search:")
        if zoo is not None and (better or args.replace):
            there, written = (one and one.hyperparams for one in (_entry_in(where, args) for where in (zoo, folder)))
            if there not in (None, entry, written, hyperparams):
                raise UserError(
                    f"The entry of {args.env} in {zoo} has changed since the search began, so the result is not "
                    "written there: choose another -o."
                )
            _write(found, zoo)
        _write(found, folder)


def _drawn(
    trial: Trial,
    algo: str,
    given: dict[str, Any],
    space: Callable[..., dict[str, Any]],
    spaces: tuple[gym.Space[Any], gym.Space[Any]],
) -> dict[str, Any]:
    """The hyperparameters of a trial, drawn from the search space."""
    try:
        found = {**given, **space(trial, *spaces)}
        json.dumps(found, allow_nan=False)
    except Exception as error:  # of any kind: the search space may be a plugin's
        raise UserError(f"The search space of {algo} cannot be used: {type(error).__name__}: {error}") from error
    return found


def _check(args: TuneOptions) -> None:
    if args.replace and args.write is None:
        raise UserError("--replace is only for use with --write.")
    check_options(args, "trials", "jobs", "top", "eval_episodes", "final_episodes", at_least=1)
    check_options(args, "seeds", at_least=1, at_most=CHOICE_SEED)
    check_options(args, "score_seeds", at_least=MIN_SEEDS, at_most=DECISION_SEED - CHOICE_SEED)
    check_options(args, "eval_points", at_least=1, at_most=MAX_POINTS)
    check_options(args, "seed", at_least=0)
    check_options(args, "n_timesteps", at_least=1, at_most=MAX_STEPS, optional=True)
    if args.write is not None:
        if not Path(args.write).is_dir():
            raise UserError(f"--write must be a folder of <algo>.yml files, but {args.write} is not a folder.")
        if args.algo in registry.reference_algorithms():
            raise UserError(f"--write cannot be used with {args.algo}, whose entries are rl_zoo3's.")


def _spaces(env: str, given: dict[str, Any]) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """The spaces of observations and actions, with the entry's wrappers."""
    with one_line(Exception):
        wrapper = get_wrapper_class({"env_wrapper": given.get("env_wrapper")})
        vec_env = make_vec_env(env, env_kwargs=given.get("env_kwargs"), wrapper_class=readable(wrapper))
    vec_env.close()
    return vec_env.observation_space, vec_env.action_space


def _start(zoo: Path | None, args: TuneOptions) -> dict[str, Any]:
    """The hyperparameters that the search starts from, their origin, and the first fresh seed.

    If they are the environment's own entry, the result may replace it. The seeds of that entry's evidence are not
    fresh, because its score may be the reason for the search.
    """
    old = _entry_in(zoo, args)
    if old is not None:
        hyperparams, origin = old.hyperparams, str(zoo or "the zoo")
    else:
        with plugin_warnings(), one_line(registry.PluginError):
            hyperparams, origin = find_entry(args.algo, args.env)
    path = old.path if old is not None else zoo and evidence_path(zoo, args.algo, args.env)
    seen = read(path).seeds if path and path.is_file() else []
    score_seed = max([SCORE_SEED, *(seed + 1 for seed in seen)])
    return {"hyperparams": hyperparams, "origin": origin, "is_entry": old is not None, "score_seed": score_seed}


def _entry_in(zoo: Path | None, args: TuneOptions) -> Entry | None:
    there = entries(zoo) if zoo is None or any(zoo.glob("*.yml")) else []
    return next((one for one in there if (one.algo, one.env) == (args.algo, args.env)), None)


def _stored(folder: Path) -> dict[str, Any]:
    """The record of the search by an earlier run; empty for a new folder."""
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): choose another -o.") from error


def _claim(folder: Path, task: Task, start: dict[str, Any]) -> None:
    """Refuse a folder with the search of another task."""
    theirs, ours = _stored(folder), {"format": FORMAT, **asdict(task)}
    del ours["gym_packages"]  # the task does not depend on how its environment is found
    if not theirs:
        write_whole(folder / RECORD, json.dumps({**ours, "start": start}, indent=1) + "\n")
        return
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise UserError(
                f"{folder} holds a search with {name} {theirs.get(name)!r}, not {value!r}: choose another -o."
            )


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print(f"Finished work is stored in {folder}; the same command continues from there.", flush=True)
        raise


# Choice and score


def _choose(search: Search, folder: Path, args: TuneOptions) -> tuple[str, dict[str, Any]]:
    """The name and the hyperparameters of the winner among the best trials."""
    candidates: dict[str, dict[str, Any]] = {}
    for trial in search.ranked():
        hyperparams = trial.user_attrs["hyperparams"]
        if trial.user_attrs.get("name") != "the entry" and hyperparams not in candidates.values():
            candidates[f"trial_{trial.number}"] = hyperparams
    if not candidates:
        raise UserError(
            f"No trial has succeeded. {folder / 'failed'} has the reasons; if it is empty, give more --trials."
        )
    candidates = dict(list(candidates.items())[: args.top])
    measures = {}
    for name, hyperparams in candidates.items():
        cells = _train(name, hyperparams, folder / "choice" / name, CHOICE_SEED, args)
        if cells:
            measures[name] = float(np.mean([measure(cell) for cell in cells]))
    if not measures:
        raise UserError(f"All of the best trials failed on other seeds: see {folder / 'choice'} for the reasons.")
    for name, value in measures.items():
        print(f"{name}: {number(value)}")
    winner = max(measures, key=measures.__getitem__)
    return winner, candidates[winner]


def _score(name: str, hyperparams: dict[str, Any], score_seed: int, folder: Path, args: TuneOptions) -> Evidence:
    results = folder / "score" / name
    if not _train(name, hyperparams, results, score_seed, args, with_random=True):
        raise UserError(f"{name}, the best trial, failed on other seeds: see {results / 'failed'} for the reasons.")
    with plugin_warnings():
        registry.register_envs()
    found = from_cells(results, args.algo, args.env, hyperparams)
    print(f"{name} scores {interval([found.mean, *found.interval])} on {_seeds(score_seed, args)}.")
    return found


def _is_better(name: str, hyperparams: dict[str, Any], entry: dict[str, Any], folder: Path, args: TuneOptions) -> bool:
    """Whether the winner is better than the entry that existed when the search began; prints the comparison."""
    scores = {}
    for candidate, values, results in ((name, hyperparams, name), ("the entry", entry, "entry")):
        cells = _train(candidate, values, folder / "decision" / results, DECISION_SEED, args)
        scores[candidate] = [json.loads((cell / "cell.json").read_text(encoding="utf-8"))["score"] for cell in cells]
    if not scores[name]:
        reasons = folder / "decision" / name / "failed"
        raise UserError(f"{name}, the best trial, failed on other seeds: see {reasons} for the reasons.")
    if not scores["the entry"]:
        print(f"The entry failed on {_seeds(DECISION_SEED, args)}.")
        return True
    for (candidate, all_scores), values in zip(scores.items(), (hyperparams, entry), strict=True):
        after = f"after {int(values['n_timesteps']):,} steps, on {_seeds(DECISION_SEED, args)}"
        print(f"{candidate} scores {number(float(np.mean(all_scores)))} {after}.")
    found = statistics.difference(np.array(scores[name]), np.array(scores["the entry"]))
    print(f"The difference is {interval([found.value, found.low, found.high])}: {found.conclusion}.")
    if args.write is None:
        print("The entry stays: only --write changes it.")
    elif found.low <= 0:
        print(f"The entry {'is replaced nevertheless' if args.replace else 'stays; --replace overwrites it'}.")
    return found.low > 0


def _train(
    name: str,
    hyperparams: dict[str, Any],
    results: Path,
    first_seed: int,
    args: TuneOptions,
    *,
    with_random: bool = False,
) -> list[Path]:
    """Train with `--score-seeds` seeds.

    Returns:
        The folders of the cells; empty if one has failed.
    """
    print(f"{name} on {_seeds(first_seed, args)}:", flush=True)
    # Evaluated with the defaults of `pg-zoo benchmark`.
    cell = resolved(
        Cell(
            args.algo,
            args.env,
            first_seed,
            hyperparams,
            f"{name} of pg-zoo tune",
            device=find_device(args.device),
            gym_packages=tuple(args.gym_packages),
        )
    )
    cells = [replace(cell, seed=seed) for seed in range(first_seed, first_seed + args.score_seeds)]
    kwargs = {"env_kwargs": hyperparams["env_kwargs"]} if "env_kwargs" in hyperparams else {}
    others = [replace(one, algo=RANDOM, hyperparams=kwargs, origin="random actions") for one in cells * with_random]
    failed = run_grid([*cells, *others], results, jobs=args.jobs)
    return [] if failed else [results / one.path for one in cells]


def _seeds(first: int, args: TuneOptions) -> str:
    return f"seeds {first} to {first + args.score_seeds - 1}"


def _write(found: Evidence, zoo: Path) -> None:
    """Put an entry and its evidence into a hyperparameter folder."""
    path = zoo / f"{found.algo.replace('/', '-')}.yml"
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    new = with_entry(old, found.env, found.hyperparams, path)
    evidence = evidence_path(zoo, found.algo, found.env)
    if evidence.is_file():
        found = replace(succeeding(found, read(evidence), same_seeds=True), note=found.note)
    # The entry comes first: a missing piece of evidence is noticed, but evidence without its entry is not.
    write_whole(path, new)
    print(f"Entry: {found.env} in {path}")
    print(f"Evidence: {found.write(zoo)}")
