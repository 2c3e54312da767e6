"""Files that a training goes on writing: used where a checkpoint says they are only if they are there already."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.monitor import Monitor

_BEGINNING = b'#{"t_start"'
_EVENTS = "events.out.tfevents*"


class ForeignFileError(ValueError):
    """A path in a checkpoint at which there is nothing that a training could have written."""


def is_monitor_file(path: str | Path) -> bool:
    """Whether a file is one that a `Monitor` has begun."""
    path = Path(path)
    if not path.name.endswith(Monitor.EXT) or path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_BEGINNING)) == _BEGINNING


def check_monitor_file(path: str) -> None:
    """Refuse a path at which no `Monitor` has written.

    Raises:
        ForeignFileError: It is such a path.
    """
    if not is_monitor_file(path):
        raise ForeignFileError(f"its checkpoint names {path!r} as the file of a Monitor, and there is no such file")


def check_log_folder(folder: str) -> None:
    """Refuse a folder in which TensorBoard has no events.

    Raises:
        ForeignFileError: It is such a folder.
    """
    path = Path(folder)
    if path.is_symlink() or not path.is_dir() or not any(path.glob(_EVENTS)):
        raise ForeignFileError(
            f"The checkpoint names {folder!r} as the folder of TensorBoard, but there are no events of TensorBoard. "
            "Say where to log: `resume(..., tensorboard_log=...)`, None for nowhere."
        )
