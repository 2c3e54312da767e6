"""Results on disk: files and folders that are there whole or not at all, written by one command at a time."""

from __future__ import annotations

import errno
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from pg_agents.files.writing import replacing_folder, write
from pg_zoo.errors import UserError, one_line

FORMAT = 1  # of a cell's folder and of a results folder
RANDOM = "random"  # the algorithm that acts at random and learns nothing
RECORD = "benchmark.json"  # what a results folder is of
COMMIT = "pg-agents commit"  # among versions: the code that ran, where that is of a git checkout
HIDDEN = "."  # what names of files and folders start with that are no results, as those that are being filled
_PARTIAL = ".checkpoints"

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def write_whole(path: Path, contents: str | bytes) -> None:
    """Write a file, in a folder that is made if need be, or leave the old one as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, contents)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` when that is done, and is removed if that fails or is interrupted.

    Raises:
        UserError: `folder` exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder, holds_interrupts=False) as unfinished:
        yield unfinished


def partial_folder(folder: Path) -> Path:
    """The folder of what a training needs to go on, beside the folder of its results."""
    return folder.with_name(f"{HIDDEN}{folder.name}{_PARTIAL}")


def is_left_over(path: Path) -> bool:
    """Whether a hidden file or folder among results is of no use: whatever no unfinished training will go on with."""
    name = path.name.removeprefix(HIDDEN)
    return not name.endswith(_PARTIAL) or path.with_name(name.removesuffix(_PARTIAL)).exists()


def as_name(name: str) -> str:
    """An algorithm's or environment's name as part of a file name: `sb3/ppo` is `sb3-ppo`."""
    return name.replace("/", "-")


def cell_folder(algo: str, env: str, seed: int) -> PurePath:
    """The folder of a cell within a results folder."""
    return PurePath("cells", as_name(algo), as_name(env), f"seed_{seed}")


def failure_name(algo: str, env: str, seed: int | str) -> str:
    """The name of a failed cell's report, without its suffix."""
    return f"{as_name(algo)}-{as_name(env)}-seed_{seed}"


def asked_for(record: dict[str, Any]) -> set[tuple[str, str, int]]:
    """Algorithm, environment and seed of each cell that a results folder is to have.

    Args:
        record: The contents of its `benchmark.json`.

    Raises:
        KeyError, TypeError, AttributeError: They are not what they should be.
    """
    cells = record["cells"].items()
    return {(algo, env, seed) for algo, envs in cells for env, seeds in envs.items() for seed in seeds}


def read_record(folder: Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    """What the `benchmark.json` of a results folder says.

    Args:
        folder: The results folder.
        needed: What it must have, besides what `asked_for` takes.

    Raises:
        UserError: It cannot be read, is damaged, or of another version.
    """
    path = folder / RECORD
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
        check_format(record, path)
        asked_for(record)
        _check_has(record, needed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}). "
            "Delete it and run `pg-zoo benchmark` again, which writes it anew and keeps what has finished."
        ) from error
    return record


def read_cell(path: Path, needed: Iterable[str]) -> dict[str, Any]:
    """What the `cell.json` of a finished cell says.

    Args:
        path: The file.
        needed: What it must have.

    Raises:
        UserError: It is damaged, or of another version.
    """
    try:
        cell = dict(json.loads(path.read_text(encoding="utf-8")))
        check_format(cell, path)
        _check_has(cell, needed)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error
    return cell


def _check_has(stored: dict[str, Any], needed: Iterable[str]) -> None:
    if lacking := sorted({*needed} - stored.keys()):
        raise KeyError(", ".join(lacking))


def check_format(stored: dict[str, Any], path: Path) -> None:
    """Refuse what another version has written.

    Raises:
        UserError: It has.
        KeyError: It does not say.
    """
    if stored["format"] != FORMAT:
        raise UserError(
            f"{path} has format {stored['format']!r}, but this version of pg-agents reads {FORMAT}: "
            "use the version that wrote it, or another folder."
        )


def damaged(path: Path, error: Exception) -> UserError:
    """What to raise where a file of a cell cannot be read."""
    return UserError(
        f"{path.parent} is damaged ({type(error).__name__}: {error}). "
        "Delete it and run `pg-zoo benchmark` again, which makes what is missing."
    )


@contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """Say of a file or folder that cannot be written which option chose it, and not which part of it failed.

    Raises:
        OSError: With a message that is one line for the user.
    """
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{option} {path} cannot be written: {error.strerror or error}; choose another {option}."
        ) from error


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Be the only command that writes to a results folder; a disk that fails is told in one line.

    Raises:
        UserError: Another command is writing there, or the folder cannot be written.
    """
    with one_line(OSError), writing(folder, "-o/--output"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / f"{HIDDEN}lock", "w")  # noqa: SIM115
    try:
        with lock:
            _claim(lock.fileno(), folder)
            yield
    except OSError as error:
        raise UserError(
            f"Cannot go on: {error}. What has finished is stored in {folder}; the same command goes on from there."
        ) from error


def _claim(descriptor: int, folder: Path) -> None:
    # Two commands in one folder would take each other's unfinished cells for what is left of an earlier run.
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"Another command is writing to {folder} at this moment.") from None
    except (ImportError, OSError):  # Windows, or a file system without locks
        pass


_OF_A_CELL = (
    *("algo", "env", "seed", "hyperparams", "options", "deterministic", "score", "wall_time", "steps_per_second"),
    *("versions", "machine", "date", "command"),
)


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
