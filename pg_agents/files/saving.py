"""Models and normalisers in SB3's formats, written whole or not at all."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stable_baselines3.common import callbacks
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from pg_agents.files.writing import replacing, write
from pg_agents.interrupts import held
from pg_agents.looking import calls_until, passes_multiple


@contextmanager
def whole(path: str | Path | io.BufferedIOBase, suffix: str) -> Iterator[io.BufferedIOBase]:
    """What a function of SB3's that takes open files should write to, given what it would be called with.

    SB3 empties a file before it fills it. This file is filled in memory first, and written beside the old one. A name
    without a suffix gets one, a folder that lacks is made, and what would have a folder's name gets another, as SB3
    has it. An open file is written to as it is.

    Args:
        path: Name of the file, or an open one.
        suffix: Without its dot.

    Yields:
        The open file.

    Raises:
        OSError: The file cannot be written; the old one is as it was.
    """
    with held():
        if not isinstance(path, (str, Path)):
            yield path
            return
        target = _named_by_sb3(Path(path), suffix)
        contents = io.BytesIO()
        yield contents
        write(target, contents.getbuffer())


def _named_by_sb3(path: Path, suffix: str) -> Path:
    if not path.suffix:
        path = Path(f"{path}.{suffix}")
    while path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2", stacklevel=2)
        path = Path(f"{path}_2")
    if not path.parent.exists():
        warnings.warn(f"Path '{path.parent}' does not exist. Will create it.", stacklevel=2)
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save_model(model: BaseAlgorithm, path: str | Path) -> None:
    """Call `model.save`, and have SB3's own algorithms, too, replace a file only by a whole one.

    Args:
        model: Any algorithm; one with a `save` of its own decides itself.
        path: The file; see SB3's `save`.

    Raises:
        OSError: The file cannot be written; the old one is as it was.
    """
    if type(model).save is not BaseAlgorithm.save:
        model.save(path)
        return
    with whole(path, "zip") as file:
        model.save(file)


def save_normalization(normalization: VecNormalize, path: str | Path) -> None:
    """Call `VecNormalize.save`, and replace a file only by a whole one.

    Args:
        normalization: The environments, whose statistics and settings are saved.
        path: The file, for `VecNormalize.load`.

    Raises:
        OSError: The file cannot be written; the old one is as it was.
    """
    with replacing(path) as beside:
        normalization.save(str(beside))


def statistics_beside(model: str | Path) -> Path:
    """The file that has the statistics of the normalisation that a saved model acts with.

    SB3's `CheckpointCallback` names it `rl_model_vecnormalize_500_steps.pkl` for `rl_model_500_steps.zip`. Of a name
    without a number of steps, it is the name and `_vecnormalize.pkl`.

    Args:
        model: File of the model, with or without `.zip`.
    """
    return _beside(model, "vecnormalize")


def replay_buffer_beside(model: str | Path) -> Path:
    """As `statistics_beside`, the file that has its replay buffer: `rl_model_replay_buffer_500_steps.pkl`."""
    return _beside(model, "replay_buffer")


def _beside(model: str | Path, content: str) -> Path:
    path = Path(model)
    name, steps = re.fullmatch(r"(.*?)(_\d+_steps)?", path.name.removesuffix(".zip"), re.DOTALL).groups("")  # type: ignore[union-attr]
    return path.with_name(f"{name}_{content}{steps}.pkl")


def save_with_statistics(model: BaseAlgorithm, path: str | Path, *statistics: str | Path) -> None:
    """Save a model, and beside it the statistics of its normalisation at this moment, if there is one.

    Args:
        model: Any algorithm.
        path: The file; see SB3's `save`.
        *statistics: Files of the statistics; by default the one of `statistics_beside`.

    Raises:
        OSError: A file cannot be written; the old one is as it was.
    """
    normalization = model.get_vec_normalize_env()
    with held():
        if normalization is not None:  # first: a model that is without it acts wrongly
            for file in statistics or [statistics_beside(path)]:
                save_normalization(normalization, file)
        save_model(model, path)


class CheckpointCallback(callbacks.CheckpointCallback):
    """SB3's `CheckpointCallback`, which counts environment steps, and whose files are there whole or not at all.

    Args:
        save_freq: Environment steps between two checkpoints, of all environments together. (SB3's counts calls, in
            each of which all environments take a step.)
        save_path: Folder of the files.
        name_prefix: Beginning of their names.
        save_replay_buffer: Save the replay buffer, too, of an algorithm that has one.
        save_vecnormalize: Save the statistics of `VecNormalize`, too, without which the model would act otherwise.
        verbose: 2 prints the name of each file.
    """

    def __init__(
        self,
        save_freq: int,
        save_path: str,
        name_prefix: str = "rl_model",
        save_replay_buffer: bool = False,
        save_vecnormalize: bool = True,
        verbose: int = 0,
    ) -> None:
        super().__init__(save_freq, save_path, name_prefix, save_replay_buffer, save_vecnormalize, verbose)
        self.last_timesteps = 0

    def next_look(self) -> int | None:
        """Number of calls until the next checkpoint; None for none."""
        return calls_until(self.save_freq, self)

    def _init_callback(self) -> None:
        super()._init_callback()
        self.last_timesteps = self.model.num_timesteps

    def _on_step(self) -> bool:
        before, self.last_timesteps = self.last_timesteps, self.num_timesteps
        if not passes_multiple(self.save_freq, before, self.num_timesteps):
            return True
        found: dict[str, Path] = {"model checkpoint": Path(self._checkpoint_path(extension="zip"))}
        save_model(self.model, found["model checkpoint"])
        model: Any = self.model
        if self.save_replay_buffer and getattr(model, "replay_buffer", None) is not None:
            path = found["model replay buffer checkpoint"] = Path(self._checkpoint_path("replay_buffer_", "pkl"))
            with replacing(path) as beside, beside.open("wb") as file:
                model.save_replay_buffer(file)
        normalization = model.get_vec_normalize_env()
        if self.save_vecnormalize and normalization is not None:
            path = found["model VecNormalize"] = Path(self._checkpoint_path("vecnormalize_", "pkl"))
            save_normalization(normalization, path)
        if self.verbose >= 2:
            for what, path in found.items():
                print(f"Saving {what} to {path}")
        return True
