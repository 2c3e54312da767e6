"""`pg-zoo train`: rl_zoo3's options, hyperparameter files and folders, for every registered algorithm."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from pprint import pprint
from typing import Any

import numpy as np
import torch as th
from huggingface_sb3 import EnvironmentName
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed

from pg_agents.engines.compiling import announced
from pg_agents.envs.processes import EnvironmentFailedError
from pg_agents.resuming.folders import newest_checkpoint, steps_of
from pg_zoo.errors import UserError, one_line, own_code_in_full
from pg_zoo.lookup import find_algorithm, find_device, find_env, plugin_warnings
from pg_zoo.options import ResumeOptions, TrainOptions
from pg_zoo.ranges import LARGEST_SEED, MAX_ENVS, MAX_STEPS, MAX_THREADS, check_options
from pg_zoo.recipes.files import find_entry
from pg_zoo.results.storage import NO_ROOM
from pg_zoo.runs.folder import Run, set_up
from pg_zoo.runs.normalization import warn_of_later_statistics
from pg_zoo.runs.recipe import Recipe, check_resumable, is_atari, resolve
from pg_zoo.runs.settings import CHECKPOINTS, Interrupted, interrupted_run
from pg_zoo.runs.tracking import tracked, with_tracking

# Errors of a disk that takes nothing, and of a folder that this user may not write into.
_FULL = {*NO_ROOM}
_CLOSED = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}


def resume(options: ResumeOptions) -> None:
    """Run `pg-zoo train --resume`.

    Raises:
        UserError: The run cannot go on, or an option contradicts it.
    """
    with one_line(Exception, verbose=options.given.get("verbose", 1)):
        run = interrupted_run(options)
        n_steps = _finished(run)
    if n_steps is None:
        train(run.args, run)
    else:
        print(f"The run in {run.folder} has finished after {n_steps} steps; -n extends it.")


def _finished(run: Interrupted) -> int | None:
    """The number of steps of a run that is complete; None of one that can go on."""
    newest = newest_checkpoint(run.folder / CHECKPOINTS)
    model = run.folder / f"{EnvironmentName(run.args.env)}.zip"
    if newest is None or steps_of(newest) < run.args.n_timesteps or not model.is_file():
        return None
    # The last checkpoint comes before the model.
    return steps_of(newest) if newest.stat().st_mtime_ns <= model.stat().st_mtime_ns else None


def train(args: TrainOptions, interrupted: Interrupted | None = None) -> None:
    """Run `pg-zoo train`.

    Args:
        args: The options.
        interrupted: The run that goes on; by default a new one begins.

    Raises:
        UserError: An option cannot be followed.
    """
    algorithm = find_algorithm(args.algo, args.verbose)
    find_env(args.env, args.gym_packages, args.verbose)
    if args.checkpoint is not None:
        check_options(args, "checkpoint", at_least=1, at_most=MAX_STEPS)
        check_resumable(algorithm)
    if (
        interrupted is None
        and args.trained_agent
        and not (args.trained_agent.endswith(".zip") and os.path.isfile(args.trained_agent))
    ):
        raise UserError(f"--trained-agent must be an existing .zip file, but is {args.trained_agent!r}.")
    if args.n_timesteps != -1:
        check_options(args, "n_timesteps", at_least=1, at_most=MAX_STEPS)
    check_options(args, "eval_freq", "save_freq", "log_interval", at_least=-MAX_STEPS, at_most=MAX_STEPS)
    check_options(args, "seed", at_least=-1, at_most=LARGEST_SEED)
    check_options(args, "eval_episodes", at_least=1)
    check_options(args, "n_eval_envs", at_least=1, at_most=MAX_ENVS)
    check_options(args, "num_threads", at_least=-1, at_most=MAX_THREADS)
    if args.log_interval < -2 or args.log_interval == 0:
        raise UserError(
            f"--log-interval must be at least 1, or -1 for about 20 tables, or -2 for never, but is "
            f"{args.log_interval}."
        )
    find_device(args.device)
    if args.seed < 0:
        args = replace(args, seed=int(np.random.default_rng().integers(2**32 - 1)))
    args = with_tracking(args)
    if args.num_threads > 0:
        th.set_num_threads(args.num_threads)
    print(f"{args.algo} ({algorithm.__module__}.{algorithm.__name__}) on {args.env}, seed {args.seed}")

    with ExitStack() as stack:
        stack.enter_context(announced(args.verbose))
        # Anything can be wrong in files, plugins and environments, and it is for the user to mend.
        with one_line(Exception, verbose=args.verbose), _written_into(args.log_folder, args.verbose):
            set_random_seed(args.seed)
            if interrupted is None:
                run = stack.enter_context(set_up(_recipe(args, algorithm), args))
            else:
                run = stack.enter_context(set_up(_recipe_of(interrupted, algorithm), args, interrupted.folder))
        stack.enter_context(tracked(args, run.recipe.entry, run.folder))
        with (
            one_line(ValueError, FloatingPointError, OSError, verbose=args.verbose),
            _written_into(args.log_folder, args.verbose),
            _told_of_processes(args.verbose),
            own_code_in_full(_is_of_a_full_disk, args.verbose),
        ):
            _train(run)
    if args.tensorboard_log:
        print(f"TensorBoard: {run.model.tensorboard_log}")


def _recipe(args: TrainOptions, algorithm: type[BaseAlgorithm]) -> Recipe:
    """The entry of the merged files, with the user's own values over it."""
    with plugin_warnings():
        entry, origin = find_entry(
            args.algo, args.env, conf_file=args.conf_file, trust=args.trust, atari=is_atari(args.env)
        )
    if args.hyperparams:
        entry, origin = {**entry, **args.hyperparams}, f"{origin}, changed by --hyperparams"
    if args.env_kwargs:
        entry["env_kwargs"] = args.env_kwargs
    recipe = _resolved(args, algorithm, entry, origin)
    if args.n_timesteps > 0:
        print(f"Overwriting n_timesteps with n={recipe.n_timesteps}")
    for path in (recipe.trained_agent, recipe.statistics):
        if path:
            print(f"Loading {path}")
    if recipe.statistics is not None:
        warn_of_later_statistics(recipe.trained_agent, recipe.statistics, args.env)
    return recipe


def _recipe_of(run: Interrupted, algorithm: type[BaseAlgorithm]) -> Recipe:
    """The entry that the run began with. What it has of another agent is in its checkpoints."""
    recipe = _resolved(run.args, algorithm, run.entry, run.origin)
    normalization = {} if recipe.statistics else recipe.normalization
    return replace(recipe, trained_agent="", normalization=normalization)


def _resolved(args: TrainOptions, algorithm: type[BaseAlgorithm], entry: dict[str, Any], origin: str) -> Recipe:
    recipe = resolve(
        args.algo,
        algorithm,
        args.env,
        entry,
        origin,
        n_timesteps=args.n_timesteps if args.n_timesteps > 0 else None,
        eval_env_kwargs=args.eval_env_kwargs,
        trained_agent=args.trained_agent,
        trust=args.trust,
    )
    print(f"Hyperparameters: {recipe.origin}")
    pprint(recipe.entry)
    return recipe


def _train(run: Run) -> None:
    model, n_timesteps, again = run.model, run.recipe.n_timesteps, _command_to_resume(run)
    print(f"Log path: {run.folder}")
    if run.args.checkpoint is not None:
        print(
            f"Checkpoints: {run.folder / CHECKPOINTS}, every {run.args.checkpoint} steps. To go on from there: {again}"
        )
    if run.goes_on:
        print(f"Going on after {model.num_timesteps} of {n_timesteps} steps")
    can_go_on = False
    try:
        can_go_on = not run.learn()
    except OSError:
        can_go_on = True
        raise
    finally:
        # What was learnt is kept, whatever has stopped the training, and before anything is said: stdout may be closed.
        if model.num_timesteps > 0:
            run.save()
        if model.num_timesteps < n_timesteps:
            print(f"Stopped after {model.num_timesteps} of {n_timesteps} steps.")
        if model.num_timesteps > 0:
            print(f"Model: {run.model_path}")
        if can_go_on and run.args.checkpoint is not None:
            print(f"To go on: {again}")


def _command_to_resume(run: Run) -> str:
    packages = ["--gym-packages", *run.args.gym_packages] if run.args.gym_packages else []
    trust = ["--trust"] if run.args.trust else []
    return shlex.join(["pg-zoo", "train", "--resume", str(run.folder), *trust, *packages])


def _is_of_a_full_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def _told_of_processes(verbose: int) -> Iterator[None]:
    """Show the traceback of an environment in a process of its own.

    Raises:
        UserError: It has raised an error.
    """
    try:
        yield
    except EnvironmentFailedError as error:
        if verbose > 1:
            raise
        if error.__cause__ is not None:
            with suppress(OSError):
                print(str(error.__cause__).strip(), file=sys.stderr)
        raise UserError(str(error)) from error


def _on_one_path(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


@contextmanager
def _written_into(folder: str, verbose: int) -> Iterator[None]:
    """Name the folder that cannot be written into, and the remedy.

    Raises:
        UserError: The disk is full or read-only, or this user may not write into the folder.
    """
    try:
        yield
    except OSError as error:
        remedy = "Free space or choose another -f."
        if error.errno in _CLOSED and error.filename and _on_one_path(Path(folder), Path(str(error.filename))):
            remedy = "Choose another -f."
        elif error.errno not in _FULL:
            raise
        if verbose > 1:
            raise
        raise UserError(f"The run cannot be written into the folder {folder}: {error.strerror}. {remedy}") from error
