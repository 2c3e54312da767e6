"""Tracking of a run in Weights & Biases, as rl_zoo3 has it: options, hyperparameters, and TensorBoard's curves."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from huggingface_sb3 import EnvironmentName

from pg_agents import __version__
from pg_zoo.errors import UserError
from pg_zoo.options import TrainOptions


def with_tracking(args: TrainOptions) -> TrainOptions:
    """Check that a run can be tracked, if it is to be, and that it has a TensorBoard log, which the curves come from.

    Args:
        args: The options of `pg-zoo train`, with the seed.

    Returns:
        The options; by default the project is `sb3`, and the log is in `runs/<name of the run>`.

    Raises:
        UserError: The package is missing, or an option needs `--track`.
    """
    for name in ("wandb_project_name", "wandb_entity", "wandb_group", "wandb_tags"):
        if getattr(args, name) and not args.track:
            raise UserError(f"--{name.replace('_', '-')} needs --track.")
    if not args.track:
        return args
    if importlib.util.find_spec("wandb") is None:
        raise UserError("--track needs the package wandb: pip install 'pg-agents[wandb]'.")
    args = replace(args, wandb_project_name=args.wandb_project_name or "sb3")
    if args.tensorboard_log:
        return args
    name = f"{EnvironmentName(args.env)}__{args.algo.replace('/', '-')}__{args.seed}__{int(time.time())}"
    return replace(args, tensorboard_log=f"runs/{name}")


@contextmanager
def tracked(args: TrainOptions, entry: dict[str, Any], folder: Path) -> Iterator[None]:
    """Track a run, if it is to be.

    Args:
        args: The options of `pg-zoo train`, from `with_tracking`.
        entry: The hyperparameters.
        folder: The folder of the run; wandb's run has its name, and goes on if there is one of that name already.

    Raises:
        UserError: wandb cannot begin.
    """
    if not args.track:
        yield
        return
    import wandb

    try:
        run = wandb.init(
            id=_id(args, folder),
            name=f"{args.env}__{args.algo}__{args.seed}",
            resume="allow",
            project=args.wandb_project_name,
            entity=args.wandb_entity,
            group=args.wandb_group,
            tags=[*args.wandb_tags, f"pg-agents-{__version__}"],
            config={**asdict(args), "hyperparams": entry, "command": " ".join(sys.orig_argv)},
            sync_tensorboard=True,
        )
    except Exception as error:  # of many kinds, without an account or a network
        raise UserError(
            f"--track: wandb cannot begin: {type(error).__name__}: {str(error).rstrip('. ')}. Log in with `wandb "
            "login`, or set WANDB_MODE=offline."
        ) from error
    failed = True
    try:
        yield
        failed = False
    finally:
        run.finish(exit_code=int(failed))


def _id(args: TrainOptions, folder: Path) -> str:
    """The same for all parts of a run that goes on, and for no other run."""
    where = f"{platform.node()} {folder.resolve()} {args.seed}"
    return f"{folder.name}-{hashlib.sha256(where.encode()).hexdigest()[:10]}"
