"""`pg-zoo train`: train one agent and save it."""

from __future__ import annotations

import argparse
import errno
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch as th
from stable_baselines3.common.utils import set_random_seed

from pg_zoo.errors import UserError, one_line
from pg_zoo.lookup import find_algorithm, find_env
from pg_zoo.runs.training import Experiment

# Of a disk that takes nothing, and of a folder that this user may not write into.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_CLOSED = {errno.EACCES, errno.EPERM, errno.ENOTDIR}


def _on_one_path(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


@contextmanager
def _written_into(folder: str, verbose: int) -> Iterator[None]:
    """Say which folder it was that could not be written into, and what helps.

    Raises:
        UserError: The disk is full or read-only, or the folder somebody else's.
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


def train(args: argparse.Namespace) -> None:
    """Run `pg-zoo train`.

    Raises:
        UserError: Something that was asked for cannot be done.
    """
    algorithm = find_algorithm(args.algo, args.verbose)
    find_env(args.env, args.gym_packages, args.verbose)
    if args.trained_agent and not (args.trained_agent.endswith(".zip") and os.path.isfile(args.trained_agent)):
        raise UserError(f"--trained-agent must be an existing .zip file, but is {args.trained_agent!r}.")
    if args.n_timesteps < 1 and args.n_timesteps != -1:
        raise UserError(f"--n-timesteps must be at least 1, but is {args.n_timesteps}.")
    if args.seed < -1:
        raise UserError(f"--seed must be at least 0, or -1 for a random one, but is {args.seed}.")
    if args.seed < 0:
        args.seed = int(np.random.default_rng().integers(2**32 - 1))
    if args.num_threads > 0:
        th.set_num_threads(args.num_threads)
    print(f"{args.algo} ({algorithm.__module__}.{algorithm.__name__}) on {args.env}, seed {args.seed}")

    # Anything can be wrong in what files, plugins and environments define, and it is for the user to mend.
    with one_line(Exception, verbose=args.verbose), _written_into(args.log_folder, args.verbose):
        set_random_seed(args.seed)
        experiment = Experiment(args, algorithm)
        model = experiment.set_up()
    with (
        closing(experiment),
        one_line(ValueError, FloatingPointError, OSError, verbose=args.verbose),
        _written_into(args.log_folder, args.verbose),
    ):
        try:
            experiment.learn(model)
        finally:
            # Whatever stopped it: what was learnt until then is kept.
            if model.num_timesteps < experiment.n_timesteps:
                print(f"Stopped after {model.num_timesteps} of {experiment.n_timesteps} steps.")
            if model.num_timesteps > 0:
                try:
                    experiment.save_trained_model(model)
                except OSError:
                    Path(experiment.model_path).unlink(missing_ok=True)  # half of a file
                    raise
                print(f"Model: {experiment.model_path}")
    if experiment.tensorboard_log:
        print(f"TensorBoard: {experiment.tensorboard_log}")
