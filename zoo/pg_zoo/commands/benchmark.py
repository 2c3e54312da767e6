"""`pg-zoo benchmark`: train algorithms x environments x seeds, store each cell when it ends, and write a report."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from pg_agents import registry
from pg_agents.checks import check_number
from pg_zoo.errors import UserError, one_line, say, warn
from pg_zoo.lookup import check_report_packages, find_algorithm, find_device, find_env, plugin_warnings
from pg_zoo.options import BenchmarkOptions
from pg_zoo.ranges import MAX_POINTS, MAX_SEEDS, MAX_STEPS, check_options
from pg_zoo.recipes.files import find_entry
from pg_zoo.results.storage import (
    RANDOM,
)
from pg_zoo.runs.backends import connected_to_ray
from pg_zoo.runs.cell import MAX_SEED, Cell
from pg_zoo.runs.grid import failure_report, run_grid
from pg_zoo.runs.recipe import is_atari
from pg_zoo.runs.training import has_world, needs_single_envs, resolved

_DEFAULTS = {"seeds": 10, "eval_points": 20, "eval_episodes": 10, "final_episodes": 100}
_QUICK = {"seeds": 3, "eval_points": 10, "eval_episodes": 5, "final_episodes": 20}
_QUICK_STEPS = 10_000  # of one training, at most: a second or two with SB3 on small tasks


def benchmark(args: BenchmarkOptions) -> int:
    """Run `pg-zoo benchmark`.

    Returns:
        The exit status: 1 if cells have failed.

    Raises:
        UserError: An option is invalid, or cannot be carried out here.
    """
    folder = Path(args.output)
    cells = _cells(args)
    try:
        check_report_packages()
    except UserError as error:  # says which package is missing, and how to get it
        warn(f"{error} Until then, results are stored, but no report is written.")
    with connected_to_ray(args.ray_address) if args.backend == "ray" else nullcontext():
        failed = run_grid(cells, folder, jobs=args.jobs, backend=args.backend)
    return _finish(cells, failed, folder)


def _finish(cells: Sequence[Cell], failed: Sequence[Cell], folder: Path) -> int:
    """Name the cells that failed, and write the report."""
    for cell in failed:
        path = failure_report(cell, folder)
        say(f"failed: {cell}: {_last_line(path.read_text(encoding='utf-8'))} ({path})")
    if len(failed) < len(cells):
        try:
            check_report_packages()
        except UserError:
            print(f"Results: {folder}. There is no report yet: `pg-zoo report {folder}` writes it.")
        else:
            from pg_zoo.pages.report import write_report  # which takes a second to import

            with one_line(OSError):
                print(*write_report(folder), sep="\n")
    return 1 if failed else 0


def _cells(args: BenchmarkOptions) -> list[Cell]:
    """The grid, after a look at whether every part of it can be trained."""
    numbers: dict[str, Any] = _QUICK if args.quick else _DEFAULTS
    args = replace(args, **{name: value for name, value in numbers.items() if getattr(args, name) is None})
    assert args.seeds is not None
    check_options(args, "seeds", at_least=1, at_most=MAX_SEEDS)
    check_options(args, "first_seed", at_least=0)
    check_options(args, "eval_points", at_least=0, at_most=MAX_POINTS)
    check_options(args, "eval_episodes", "final_episodes", at_least=1)
    check_options(args, "jobs", at_least=1, optional=True)
    check_options(args, "n_timesteps", at_least=1, at_most=MAX_STEPS, optional=True)
    with one_line(ValueError):
        check_number("the last seed", args.first_seed + args.seeds - 1, at_most=MAX_SEED - 1)
    if args.backend == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError("--backend ray needs the package ray: pip install 'pg-agents[ray]'.")
    if args.ray_address and args.backend != "ray":
        raise UserError("--ray-address needs --backend ray.")
    algos = [algo for algo in dict.fromkeys(args.algos) if algo != RANDOM]
    for algo in [*algos, *([args.same_hyperparams] if args.same_hyperparams else [])]:
        find_algorithm(algo)
    for env in args.envs:
        find_env(env, args.gym_packages)
    options = {name: getattr(args, name) for name in ("eval_points", "eval_episodes", "final_episodes", "tensorboard")}
    # A cluster may have devices that this machine lacks.
    device = find_device(args.device) if args.backend == "local" or args.device == "auto" else args.device
    options |= {"keep_agent": args.keep_agents, "device": device, "gym_packages": tuple(args.gym_packages)}
    options["vec_env"] = args.vec_env
    firsts = []
    for env in dict.fromkeys(args.envs):
        trained = [_trained(args, algo, env, options) for algo in algos]
        if args.quick and args.n_timesteps is None:
            trained = _shortened(trained)
        if args.vec_env == "auto":
            trained = _in_one_kind(trained)
        kinds = {cell.vec_env for cell in trained}
        of_all = {**options, "vec_env": next(iter(kinds), args.vec_env)}
        firsts += [*trained, _random(trained, env, args.first_seed, of_all)]
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    # Seed by seed: an interrupted benchmark covers the whole grid with fewer seeds.
    return [replace(first, seed=seed) for seed in seeds for first in firsts]


def _trained(args: BenchmarkOptions, algo: str, env: str, options: dict[str, Any]) -> Cell:
    with plugin_warnings(), one_line(registry.PluginError):
        hyperparams, origin = find_entry(args.same_hyperparams or algo, env, atari=is_atari(env))
    if args.n_timesteps is not None:
        hyperparams["n_timesteps"] = args.n_timesteps
        origin += ", with --n-timesteps"
    try:
        return resolved(Cell(algo, env, args.first_seed, hyperparams, origin, **options))
    except UserError as error:
        if args.same_hyperparams in (None, algo):
            raise
        raise UserError(
            f"--same-hyperparams {args.same_hyperparams}: {error} Leave {algo} out of this command, and add it to the "
            "same folder with a second one, without --same-hyperparams."
        ) from error


def _in_one_kind(trained: list[Cell]) -> list[Cell]:
    """The cells of an environment, one by one if the wrappers of some leave no room for a world or vector version."""
    wrapped = {cell.algo: needs_single_envs(cell) for cell in trained if needs_single_envs(cell)}
    if wrapped and any(map(has_world, trained)):
        reason = "; ".join(f"{algo} has {', '.join(sorted(names))}" for algo, names in wrapped.items())
        print(f"{trained[0].env}: environments are stepped one by one instead of in their world: {reason}.")
    return [replace(cell, vec_env="dummy") for cell in trained] if wrapped else trained


def _shortened(trained: list[Cell]) -> list[Cell]:
    """The cells of an environment with the same number of steps, which no other option changes: a first look.

    So it can go on with more jobs or seeds.
    """
    steps = min([_QUICK_STEPS, *(cell.n_timesteps for cell in trained)])
    return [
        cell
        if cell.n_timesteps == steps
        else replace(
            cell,
            hyperparams={**cell.hyperparams, "n_timesteps": steps},
            origin=f"{cell.origin}, with --quick",
            full_steps=cell.n_timesteps,
        )
        for cell in trained
    ]


def _random(trained: list[Cell], env: str, seed: int, options: dict[str, Any]) -> Cell:
    """The cell of random actions, with the environment's arguments as the algorithms use them."""
    kwargs = [cell.hyperparams.get("env_kwargs") or {} for cell in trained]
    for cell, own in zip(trained, kwargs, strict=True):
        if own != kwargs[0]:
            raise UserError(
                f"{env} would not be the same task for all algorithms: {trained[0].algo} has the env_kwargs "
                f"{kwargs[0]}, but {cell.algo} has {own}."
            )
    hyperparams = {"env_kwargs": kwargs[0]} if kwargs and kwargs[0] else {}
    if options["vec_env"] == "envpool":  # as evaluations
        options = {**options, "vec_env": "own"}
    return resolved(Cell(RANDOM, env, seed, hyperparams, "random actions", **options))


def _last_line(text: str) -> str:
    return (text.strip() or "no message").splitlines()[-1]
