"""Checkpoints on the disk: folders `step_000050000` in the folder of a run, each of them whole or not used.

A checkpoint has a manifest with the size and the SHA-256 sum of each of its files.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pg_agents.files.writing import is_unfinished, replacing_folder

SCHEMA = "pg_agents.checkpoint"
VERSION = 1
MANIFEST = "manifest.json"
BEST = "best"  # the folder of the best model, beside the checkpoints
_NAME = re.compile(r"step_(\d{9,})")


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not whole, or that a later version has written."""


class NoCheckpointError(FileNotFoundError):
    """A folder without a whole checkpoint."""


def folder_name(n_steps: int) -> str:
    """The name of the checkpoint after so many steps."""
    return f"step_{n_steps:09d}"


def steps_of(checkpoint: Path) -> int:
    """The number of steps in a checkpoint's name."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None, "one of `checkpoints`"
    return int(match[1])


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints in a run's folder, whole or not, the newest first."""
    if not Path(folder).is_dir():
        return []
    found = [path for path in Path(folder).iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=steps_of, reverse=True)


@contextmanager
def new_checkpoint(folder: Path, n_steps: int, content: dict[str, Any], keep: int) -> Iterator[Path]:
    """A folder to fill, which becomes a checkpoint at the end.

    Args:
        folder: Of the run; made if need be.
        n_steps: Number of steps so far.
        content: Further entries of the manifest.
        keep: Number of whole checkpoints that stay, the new one included.

    Yields:
        The folder to fill.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder / folder_name(n_steps)) as beside:
        yield beside
        files = {path.name: {"bytes": path.stat().st_size, "sha256": _sum(path)} for path in sorted(beside.iterdir())}
        manifest = {"schema": SCHEMA, "version": VERSION, "n_steps": n_steps, **content, "files": files}
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _remove_old(folder, keep)


def _remove_old(folder: Path, keep: int) -> None:
    n_whole = 0
    for checkpoint in checkpoints(folder):
        if n_whole == keep:
            shutil.rmtree(checkpoint, ignore_errors=True)
        elif _is_whole(checkpoint):
            n_whole += 1
    remove_unfinished(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left in a run's folder before it was whole."""
    if folder.is_dir():
        for path in folder.iterdir():
            if is_unfinished(path) and path.name.startswith((".step_", f".{BEST}")):
                shutil.rmtree(path, ignore_errors=True)


def _is_whole(checkpoint: Path) -> bool:
    try:
        manifest_of(checkpoint)
    except DamagedCheckpointError:
        return False
    return True


def manifest_of(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, all of whose files are as it says.

    Raises:
        DamagedCheckpointError: They are not, or the manifest cannot be read.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"its {MANIFEST} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise DamagedCheckpointError(f"its {MANIFEST} does not have the schema {SCHEMA}")
    if manifest.get("version") != VERSION:
        raise DamagedCheckpointError(f"it has version {manifest.get('version')!r}, but {VERSION} is the one known")
    try:
        for name, known in manifest["files"].items():
            path = checkpoint / name
            if path.parent != checkpoint:
                raise DamagedCheckpointError(f"its {MANIFEST} names a file elsewhere, {name!r}")
            if not path.is_file() or path.is_symlink():
                raise DamagedCheckpointError(f"{name} is missing")
            if path.stat().st_size != known["bytes"] or _sum(path) != known["sha256"]:
                raise DamagedCheckpointError(f"{name} is not what was written")
    except (KeyError, TypeError, AttributeError, OSError) as error:
        raise DamagedCheckpointError(f"its {MANIFEST} cannot be read: {error!r}") from error
    return manifest


def whole_checkpoints(folder: str | Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The whole checkpoints in a run's folder with their manifests, the newest first.

    Warns:
        UserWarning: A damaged one is skipped.
    """
    for checkpoint in checkpoints(folder):
        try:
            manifest = manifest_of(checkpoint)
        except DamagedCheckpointError as reason:
            warnings.warn(f"The checkpoint {checkpoint} is damaged and skipped: {reason}.", stacklevel=3)
        else:
            yield checkpoint, manifest


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest whole checkpoint in a run's folder; None if there is none.

    Args:
        folder: Of the run; it need not exist.

    Warns:
        UserWarning: A damaged one is skipped.
    """
    return next((checkpoint for checkpoint, _ in whole_checkpoints(folder)), None)


def _sum(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()
