"""`pg-zoo tune`: search hyperparameters with Optuna, score the best of them on fresh seeds, write entry and evidence.

1. *Search.* Each trial trains with the seeds 0, 1, ..., the same for all trials. The objective is the mean of
   `search.measure` over these seeds; a trial that lags behind the median of the others is given up.
2. *Choice.* The best trials are trained again with the seeds 500, 501, ...; the one with the best mean measure wins.
3. *Score.* The best of several is biased upwards, so the winner is trained once more, with the seeds 1000, 1001, ...,
   which nothing was chosen by: this is its evidence. An entry that there is already is trained with the same seeds, and
   stays unless the winner is better.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from rl_zoo3.utils import get_wrapper_class
from stable_baselines3.common.env_util import make_vec_env

from pg_agents import registry
from pg_agents.checks import check_number
from pg_zoo.benchmark import run_grid
from pg_zoo.cell import Cell, resolved
from pg_zoo.errors import UserError, one_line
from pg_zoo.evidence import (
    FIRST_SEED,
    MIN_SEEDS,
    Entry,
    Evidence,
    bootstrap_means,
    entries,
    from_cells,
    number,
)
from pg_zoo.hyperparameters import find_entry
from pg_zoo.lookup import find_env, plugin_warnings
from pg_zoo.search import Search, Task, measure
from pg_zoo.spaces import search_space
from pg_zoo.storage import RANDOM, resumable, write_whole

FORMAT = 1
RECORD = "tune.json"
CHOICE_SEED, SCORE_SEED = FIRST_SEED // 2, FIRST_SEED


def tune(args: argparse.Namespace) -> None:
    """Run `pg-zoo tune`.

    Raises:
        UserError: Something that was asked for cannot be done.
    """
    _check(args)
    folder, zoo = Path(args.output), None if args.write is None else Path(args.write)
    space, kept = search_space(args.algo)
    find_env(args.env)
    there = entries(zoo) if zoo is None or any(zoo.glob("*.yml")) else []
    old = next((entry for entry in there if (entry.algo, entry.env) == (args.algo, args.env)), None)
    with plugin_warnings():
        entry, origin = (old.hyperparams, str(old.zoo)) if old else find_entry(args.algo, args.env)
    n_timesteps = args.n_timesteps or int(entry.get("n_timesteps", 0))
    if n_timesteps < 1:
        raise UserError(f"No entry of {args.algo} says how many steps to train for: say -n/--n-timesteps.")
    given = {name: entry[name] for name in kept if name in entry}
    # What cannot be trained is told before any work.
    first = resolved(Cell(args.algo, args.env, 0, {**entry, "n_timesteps": n_timesteps}, origin)).hyperparams
    given = {"n_timesteps": n_timesteps, "policy": first["policy"], **given}
    spaces = _spaces(args.env, given)
    names = ("seeds", "eval_points", "eval_episodes", "final_episodes", "device")
    task = Task(args.algo, args.env, n_timesteps, **{name: getattr(args, name) for name in names})

    with resumable(folder), _interruptible(folder):
        _claim(folder, task)
        search = Search(
            folder,
            task,
            lambda trial: {**given, **space(trial, *spaces)},
            baselines={"the entry": first, "defaults": given} if old else {"defaults": given},
            seed=args.seed,
        )
        search.run(args.trials, args.jobs)
        winner, hyperparams = _choose(search, folder, args)
        found = _score(winner, hyperparams, folder, args)
        better = old is None or _is_better(found, old, folder, args)
        _write(found, folder)
        if zoo is not None and (better or args.replace):
            _write(found, zoo)


def _check(args: argparse.Namespace) -> None:
    with one_line(ValueError):
        limits = {"trials": 1, "jobs": 1, "seeds": 1, "top": 1, "score_seeds": MIN_SEEDS, "seed": 0}
        limits |= {"eval_points": 1, "eval_episodes": 1, "final_episodes": 1}
        for name, least in limits.items():
            most = CHOICE_SEED if name.endswith("seeds") else None
            check_number(f"--{name.replace('_', '-')}", getattr(args, name), at_least=least, at_most=most, integer=True)
        check_number("--n-timesteps", args.n_timesteps, at_least=1, integer=True, optional=True)
    if args.write is not None:
        if not Path(args.write).is_dir():
            raise UserError(f"--write must be a folder of <algo>.yml files, but {args.write} is none.")
        if args.algo in registry.reference_algorithms():
            raise UserError(f"--write is not for {args.algo}, whose entries are rl_zoo3's.")


def _spaces(env: str, given: dict[str, Any]) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """Of observations and of actions, under the wrappers that the entry has."""
    with one_line(Exception):
        wrapper = get_wrapper_class({"env_wrapper": given.get("env_wrapper")})
        vec_env = make_vec_env(env, env_kwargs=given.get("env_kwargs"), wrapper_class=wrapper)
    vec_env.close()
    return vec_env.observation_space, vec_env.action_space


def _claim(folder: Path, task: Task) -> None:
    """Refuse a folder in which something else was tuned."""
    path = folder / RECORD
    ours = {"format": FORMAT, **asdict(task)}
    if not path.exists():
        write_whole(path, json.dumps(ours, indent=1) + "\n")
        return
    with one_line(OSError, ValueError):
        theirs = json.loads(path.read_text(encoding="utf-8"))
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
        print(f"What has finished is stored in {folder}; the same command goes on from there.", flush=True)
        raise


# Choice and score


def _choose(search: Search, folder: Path, args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The winner of the best trials, by name, and its hyperparameters."""
    candidates: dict[str, dict[str, Any]] = {}
    for trial in search.ranked():
        hyperparams = trial.user_attrs["hyperparams"]
        if trial.user_attrs.get("name") != "the entry" and hyperparams not in candidates.values():
            candidates[f"trial_{trial.number}"] = hyperparams
    if not candidates:
        raise UserError(f"No trial has succeeded: {folder / 'failed'} has the reasons, or give it more --trials.")
    candidates = dict(list(candidates.items())[: args.top])
    measures = {}
    for name, hyperparams in candidates.items():
        cells = _train(name, hyperparams, folder / "choice" / name, CHOICE_SEED, args)
        if cells:
            measures[name] = float(np.mean([measure(cell) for cell in cells]))
    if not measures:
        raise UserError(f"All of the best trials failed on other seeds: {folder / 'choice'} has the reasons.")
    for name, value in measures.items():
        print(f"{name}: {number(value)}")
    winner = max(measures, key=measures.__getitem__)
    return winner, candidates[winner]


def _score(name: str, hyperparams: dict[str, Any], folder: Path, args: argparse.Namespace) -> Evidence:
    results = folder / "score" / name
    if not _train(name, hyperparams, results, SCORE_SEED, args, with_random=True):
        raise UserError(f"{name}, which was the best, failed on other seeds: {results / 'failed'} has the reasons.")
    with plugin_warnings():
        registry.register_envs()
    found = from_cells(results, args.algo, args.env, hyperparams)
    print(f"{name} scores {_with_interval(found)} on {_seeds(SCORE_SEED, args)}.")
    return found


def _is_better(found: Evidence, old: Entry, folder: Path, args: argparse.Namespace) -> bool:
    """Whether what was found is better than the entry that there is, or as good with fewer steps; says so."""
    cells = _train("the entry", old.hyperparams, folder / "score/entry", SCORE_SEED, args)
    if not cells:
        print(f"The entry in {old.zoo} failed on {_seeds(SCORE_SEED, args)}.")
        return True
    scores = [json.loads((cell / "cell.json").read_text(encoding="utf-8"))["score"] for cell in cells]
    means = bootstrap_means(found.scores, seed=0) - bootstrap_means(scores, seed=1)
    low, high = (float(bound) for bound in np.quantile(means, [0.025, 0.975]))
    fewer = found.n_timesteps < int(old.hyperparams.get("n_timesteps", 0))
    print(f"The entry in {old.zoo} scores {number(float(np.mean(scores)))} on the same seeds.")
    said = f"The difference is {number(found.mean - float(np.mean(scores)))} [{number(low)}, {number(high)}]"
    if low > 0 or (fewer and low >= 0):
        print(f"{said}: {'better' if low > 0 else 'as good with fewer steps'}.")
        return True
    answer = "worse" if high < 0 else "no difference shown"
    outcome = "is replaced all the same" if args.replace else "stays; --replace writes anyway"
    print(f"{said}: {answer}. The entry {outcome}.")
    return False


def _train(
    name: str,
    hyperparams: dict[str, Any],
    results: Path,
    first_seed: int,
    args: argparse.Namespace,
    *,
    with_random: bool = False,
) -> list[Path]:
    """Train with as many seeds as evidence needs.

    Returns:
        The folders of the cells, or none if one has failed.
    """
    print(f"{name} on {_seeds(first_seed, args)}:", flush=True)
    # Evaluated as `pg-zoo benchmark` does by default.
    cell = resolved(Cell(args.algo, args.env, first_seed, hyperparams, f"{name} of pg-zoo tune", device=args.device))
    cells = [replace(cell, seed=seed) for seed in range(first_seed, first_seed + args.score_seeds)]
    kwargs = {"env_kwargs": hyperparams["env_kwargs"]} if "env_kwargs" in hyperparams else {}
    others = [replace(one, algo=RANDOM, hyperparams=kwargs, origin="random actions") for one in cells * with_random]
    failed = run_grid([*cells, *others], results, jobs=args.jobs)
    return [] if failed else [results / one.path for one in cells]


def _seeds(first: int, args: argparse.Namespace) -> str:
    return f"seeds {first} to {first + args.score_seeds - 1}"


def _with_interval(found: Evidence) -> str:
    low, high = (number(bound, like=found.interval) for bound in found.interval)
    return f"{number(found.mean, like=found.interval)} [{low}, {high}]"


# Writing


def _write(found: Evidence, zoo: Path) -> None:
    """Put an entry and its evidence into a hyperparameter folder."""
    path = zoo / f"{found.algo.replace('/', '-')}.yml"
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    new = with_entry(old, found.env, found.hyperparams, path)
    print(f"Evidence: {found.write(zoo)}")
    write_whole(path, new)
    print(f"Entry: {found.env} in {path}")


def with_entry(text: str, env: str, hyperparams: dict[str, Any], path: Path) -> str:
    """The text of a hyperparameter file with one entry set, and all else as it is.

    Args:
        text: The file's text.
        env: Key of the entry.
        hyperparams: The entry.
        path: The file, for messages.

    Raises:
        UserError: The file is no such file, or the entry is written in a way that keeps it from being changed alone.
    """
    expected = {**_entries(text, path), env: hyperparams}
    written = yaml.safe_dump({env: hyperparams}, sort_keys=False, width=1000)
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    key = re.compile(rf"""(['"]?){re.escape(env)}\1\s*:""")
    start = next((index for index, line in enumerate(lines) if key.match(line)), None)
    if start is None:
        lines += ["\n"] * bool(lines) + [written]
    else:
        end = start
        # What is indented belongs to it; blank lines and comments before the next key do not.
        for index in range(start + 1, len(lines)):
            if lines[index].strip():
                if not lines[index][0].isspace():
                    break
                end = index
        lines[start : end + 1] = [written]
    new = "".join(lines)
    with suppress(UserError):
        if _entries(new, path) == expected:
            return new
    raise UserError(f"{path}: the entry {env} cannot be changed on its own (is it an anchor?): change it by hand.")


def _entries(text: str, path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a mapping of environment ids to hyperparameters.")
    return found
