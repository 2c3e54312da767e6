"""One training of `pg-zoo train`, and the folder that it is written into, which is laid out as rl_zoo3 lays it out.

| file                                | content                                                    |
|-------------------------------------|------------------------------------------------------------|
| `<Env>.zip`                         | the trained model                                          |
| `best_model.zip`                    | the model with the best evaluation                         |
| `evaluations.npz`                   | the returns of all evaluations                             |
| `rl_model_<steps>_steps.zip`        | the model after so many steps, with `--save-freq`          |
| `*_vecnormalize*.pkl`               | the statistics of the normalisation at these moments       |
| `checkpoints/step_<steps>/`         | the whole training, with `--checkpoint`                    |
| `replay_buffer.pkl`                 | with `--save-replay-buffer`, where there is one            |
| `<number>.monitor.csv`              | the episodes of one training environment                   |
| `<Env>/config.yml`                  | the hyperparameters                                        |
| `<Env>/args.yml`                    | the options                                                |
| `<Env>/command.txt`                 | the command                                                |
| `<Env>/vecnormalize.pkl`            | the statistics of the normalisation at the end             |
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import get_latest_run_id
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv

from pg_agents import Checkpoint, EvalCallback
from pg_agents.files.saving import CheckpointCallback, save_with_statistics, statistics_beside
from pg_agents.files.writing import replacing, write
from pg_agents.resuming.folders import checkpoints
from pg_zoo.errors import UserError
from pg_zoo.options import TrainOptions
from pg_zoo.runs.evaluating import takes_most_probable
from pg_zoo.runs.log import FewTables, log_interval
from pg_zoo.runs.normalization import STATISTICS
from pg_zoo.runs.recipe import Recipe, closing_envs
from pg_zoo.runs.settings import CHECKPOINTS


class _SaveBest(BaseCallback):
    """Saves the model and the statistics of its normalisation, if there is one, as files of these names.

    `EvalCallback` leaves it to `save` whether the model is a folder.

    Args:
        model: The file of the model, beside which are the statistics of its moment.
        statistics: Where rl_zoo3 looks for them, if the run has no end.
    """

    def __init__(self, model: Path, statistics: Path) -> None:
        super().__init__()
        self.model_path, self.statistics = model, statistics

    def _on_step(self) -> bool:
        save_with_statistics(self.model, self.model_path, self.statistics, statistics_beside(self.model_path))
        return True


class _MonitorFiles(BaseCallback):
    """Cuts the episodes off that an interrupted training has written after its checkpoint, in any process.

    Args:
        folder: Folder of the files of `Monitor`.

    Attributes:
        sizes: Of these files at the checkpoint, in bytes; checkpoints keep it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.sizes: dict[str, int] = {}

    def next_look(self) -> int | None:
        """Never: it has nothing to do in a step."""
        return None

    def on_boundary(self) -> None:
        """Note the sizes."""
        self.sizes = {path.name: path.stat().st_size for path in self.folder.glob("*.monitor.csv")}

    def _on_rollout_start(self) -> None:
        for name, size in self.sizes.items():
            path = self.folder / name
            if path.is_file() and path.stat().st_size > size:
                os.truncate(path, size)

    def _on_step(self) -> bool:
        return True


@dataclass(frozen=True)
class Run:
    """A run that is ready to begin; `set_up` makes it.

    Attributes:
        recipe: The recipe of its environments and its model.
        args: The options of `pg-zoo train`.
        folder: The folder of the run.
        model: The model.
        callbacks: Callbacks of the training.
        goes_on: Whether the model comes from a checkpoint.
    """

    recipe: Recipe
    args: TrainOptions
    folder: Path
    model: BaseAlgorithm
    callbacks: list[BaseCallback]
    goes_on: bool

    @property
    def model_path(self) -> Path:
        """The file of the trained model."""
        return self.folder / f"{EnvironmentName(self.recipe.env)}.zip"

    def learn(self) -> bool:
        """Train; after Ctrl-C, the model stays as it was at that moment.

        Returns:
            Whether the training came to its end without Ctrl-C.
        """
        interval: int | None = self.args.log_interval
        options: dict[str, Any] = {"log_interval": None if interval == -2 else interval}
        if interval == -1:
            curves = bool(self.args.tensorboard_log)
            interval = None if self.goes_on else log_interval(self.model, self.recipe.n_timesteps, curves=curves)
            options = {} if interval is None else {"log_interval": interval}
        model: Any = self.model
        learn = model.learn_on if self.goes_on else model.learn
        try:
            learn(self.recipe.n_timesteps, self.callbacks, **options)
        except BaseException as error:
            # SB3 tells callbacks of the end only if nothing has stopped the training.
            for callback in self.callbacks:
                if callback.locals:  # it has begun
                    callback.on_training_end()
            if not isinstance(error, KeyboardInterrupt):
                raise
            return False
        return True

    def save(self) -> None:
        """Save the model and the statistics of its normalisation.

        Raises:
            OSError: They cannot be saved; no part of the file that failed is left.
        """
        try:
            save_with_statistics(self.model, self.model_path, _statistics(self.folder, self.recipe))
            model: Any = self.model
            if self.args.save_replay_buffer and getattr(model, "replay_buffer", None) is not None:
                with replacing(self.folder / "replay_buffer.pkl") as beside, beside.open("wb") as file:
                    model.save_replay_buffer(file)
        except OSError:
            self.model_path.unlink(missing_ok=True)  # of an algorithm whose own `save` writes in place
            raise


@contextmanager
def set_up(recipe: Recipe, args: TrainOptions, interrupted: Path | None = None) -> Iterator[Run]:
    """Claim a folder, and make the environments and the model of a training.

    Args:
        recipe: The recipe of both.
        args: The options of `pg-zoo train`.
        interrupted: The folder of the run that goes on from its newest checkpoint; by default a new run begins.

    Yields:
        The training. At the end its environments are closed, and its folder is removed unless it holds a model or a
        checkpoint.

    Raises:
        UserError: Another process trains in the folder.
    """
    with ExitStack() as stack:
        folder = interrupted or stack.enter_context(_new_folder(recipe, args))
        if args.checkpoint is not None:
            stack.enter_context(_claimed(folder / CHECKPOINTS))
        callbacks = [*recipe.callbacks, *_callbacks(recipe, args, folder)]
        if args.eval_freq > 0:
            # Before the training environments, as in rl_zoo3: making environments may draw from global generators.
            eval_envs = recipe.make_eval_envs(args.n_eval_envs, args.seed, args.vec_env)
            stack.enter_context(closing_envs(eval_envs))
            callbacks.append(_evaluations(recipe, args, folder, eval_envs))
        envs = recipe.make_envs(args.seed, args.vec_env, monitor_dir=str(folder), goes_on=interrupted is not None)
        stack.enter_context(closing_envs(envs))
        recipe = recipe.settled(envs)
        if interrupted is None:
            log = str(Path(args.tensorboard_log, EnvironmentName(recipe.env))) if args.tensorboard_log else None
            model = recipe.make_model(envs, args.seed, device=args.device, tensorboard_log=log, verbose=args.verbose)
            _write_settings(recipe, args, folder)
        else:
            model = recipe.resumed_model(folder / CHECKPOINTS, envs, device=args.device, verbose=args.verbose)
            _write_options(recipe, args, folder)  # the run may have been extended
        yield Run(recipe, args, folder, model, callbacks, interrupted is not None)


@contextmanager
def _new_folder(recipe: Recipe, args: TrainOptions) -> Iterator[Path]:
    """Claim a new folder: runs that start at the same moment get one each."""
    runs, name = Path(args.log_folder, args.algo), EnvironmentName(recipe.env)
    suffix = f"_{uuid.uuid4()}" if args.uuid else ""
    for number in itertools.count(get_latest_run_id(str(runs), name) + 1):
        folder = runs / f"{name}_{number}{suffix}"
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    try:
        _settings_folder(folder, recipe).mkdir()
        yield folder
    finally:
        if not any(folder.rglob("*.zip")) and not checkpoints(folder / CHECKPOINTS):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Let no other process write checkpoints into a folder, which is made if need be.

    Raises:
        UserError: Another process does.
    """
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        with suppress(ImportError, PermissionError):  # Windows
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"Another process trains in {folder.parent} at this moment.") from None
            except OSError:  # a file system without locks
                pass
        yield


def _settings_folder(folder: Path, recipe: Recipe) -> Path:
    return folder / EnvironmentName(recipe.env)


def _statistics(folder: Path, recipe: Recipe) -> Path:
    return _settings_folder(folder, recipe) / STATISTICS


def _callbacks(recipe: Recipe, args: TrainOptions, folder: Path) -> Iterator[BaseCallback]:
    if args.progress:
        yield ProgressBarCallback()
    if args.log_interval == -1:
        yield FewTables(recipe.n_timesteps)
    if args.save_freq > 0:
        yield CheckpointCallback(args.save_freq, str(folder), save_replay_buffer=args.save_replay_buffer, verbose=1)
    if args.checkpoint is not None:
        yield _MonitorFiles(folder)
        yield Checkpoint(folder / CHECKPOINTS, args.checkpoint)


def _evaluations(recipe: Recipe, args: TrainOptions, folder: Path, envs: VecEnv) -> BaseCallback:
    deterministic = takes_most_probable(args, envs, default=recipe.deterministic_evaluation)
    return EvalCallback(
        envs,
        callback_on_new_best=_SaveBest(folder / "best_model.zip", _statistics(folder, recipe)),
        n_eval_episodes=args.eval_episodes,
        eval_freq=args.eval_freq,
        log_path=str(folder),
        deterministic=deterministic,
    )


def _write_settings(recipe: Recipe, args: TrainOptions, folder: Path) -> None:
    settings = _settings_folder(folder, recipe)
    write(settings / "config.yml", _as_yaml(recipe.entry))
    # A name that is no UTF-8 is written as it came.
    write(settings / "command.txt", " ".join(sys.orig_argv).encode("utf-8", "surrogateescape"))
    _write_options(recipe, args, folder)


def _write_options(recipe: Recipe, args: TrainOptions, folder: Path) -> None:
    write(_settings_folder(folder, recipe) / "args.yml", _as_yaml(vars(args)))


def _as_yaml(content: Mapping[str, Any]) -> str:
    return yaml.dump(OrderedDict(sorted(content.items())))
