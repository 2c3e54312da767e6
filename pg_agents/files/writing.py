"""Files and folders that are written whole or not at all: beside what they replace, and renamed when complete."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from pg_agents.interrupts import held

UNFINISHED = ".unfinished"  # how the names end of files and folders that are being written
_STREAMS = {Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd")}
_EFFECTIVE = {"effective_ids": os.access in os.supports_effective_ids}


def write(path: str | os.PathLike[str], contents: str | bytes | memoryview) -> None:
    """Write a file, or leave the old one as it was; see `replacing`.

    Args:
        path: The file.
        contents: Bytes, or text, which is encoded as UTF-8.

    Raises:
        OSError: The file cannot be written; the error names it.
    """
    with replacing(path) as beside:
        beside.write_bytes(contents.encode() if isinstance(contents, str) else contents)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new file to fill, which takes the place of `path` when it is complete.

    It stands in the same folder under a name of its own, which ends in `UNFINISHED`; a process that is killed leaves it
    there. At the end its contents are on the disk before it gets its name. Whatever happens before leaves `path` as it
    was. Ctrl-C and SIGTERM wait for the end. An existing file keeps its permissions, and a symbolic link goes on
    pointing to the same place, where the new file is then. Devices, pipes and the standard streams, whatever file these
    lead to, cannot be replaced: they are written to.

    Args:
        path: The file, in a folder that exists.

    Yields:
        The new file, which is empty.

    Raises:
        OSError: The file cannot be written, or may not be; the error names `path`.
    """
    path = Path(path)
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    if is_special or path.absolute().parent in _STREAMS:
        yield path
        return
    target = Path(os.path.realpath(path))
    beside = _beside(target)
    with held(), _named(path, beside):
        before = _permissions(target)
        # An old file that was private stays so; with none, the user's mask decides.
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if before is None else 0o600))
        try:
            yield beside
            if before is not None:
                _give(beside, before)
            _to_disk(beside)
            os.replace(beside, target)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
        _to_disk(target.parent)


@contextmanager
def replacing_folder(
    path: str | os.PathLike[str], *, keeps_others: bool = False, holds_interrupts: bool = True
) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `path` when it is complete; see `replacing`.

    On Linux and macOS the two are exchanged in one step. Where a file system cannot do that, the old folder is renamed
    just before the new one: a process that is killed between the two leaves both, under names that end in `UNFINISHED`.

    Args:
        path: The folder, in one that exists. It may exist itself.
        keeps_others: The new folder gets all that the old one has under names of its own; otherwise that is removed.
            Then `path` may be a folder that cannot be renamed (a mount point, the current folder, one in a read-only
            folder): it gets the complete files one by one.
        holds_interrupts: Ctrl-C and SIGTERM wait while the folder is filled. Otherwise they end that, and `path` is as
            it was; they wait only while the folder is renamed or removed.

    Yields:
        The new folder, which is empty.

    Raises:
        OSError: The folder cannot be written, or something else stands there; the error names `path`.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    stays = keeps_others and target.is_dir() and _cannot_be_renamed(target)
    beside = _beside(target / target.name if stays else target)
    with held() if holds_interrupts else nullcontext(), _named(path, beside):
        before = target.stat() if target.exists() else None
        if before is not None and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        beside.mkdir()
        try:
            yield beside
            with held():
                if before is not None and keeps_others and not stays:
                    _take_others(target, beside)
                for found in beside.rglob("*"):
                    if not found.is_symlink() and (found.is_file() or found.is_dir()):
                        _to_disk(found)
                _to_disk(beside)
                if stays:
                    _move_files(beside, target)
                elif before is None:
                    beside.rename(target)
                else:
                    _give(beside, before)
                    _exchange(beside, target)
                _to_disk(target.parent)
        finally:
            with held():
                shutil.rmtree(beside, ignore_errors=True)  # the old folder, or what has failed


def is_unfinished(path: Path) -> bool:
    """Whether a file or folder is being written, or was when its process was killed."""
    return path.name.startswith(".") and path.name.endswith(UNFINISHED)


def _beside(target: Path) -> Path:
    # Shortened, as a file system limits a name's length.
    return target.with_name(f".{target.name[:50]}.{uuid.uuid4().hex}{UNFINISHED}")


@contextmanager
def _named(path: Path, beside: Path) -> Iterator[None]:
    """Name the file in errors that name none, or one that the user has never heard of."""
    try:
        yield
    except OSError as error:
        named = str(error.filename or beside)
        if error.errno is None or not named.startswith(str(beside)):
            raise
        raise OSError(error.errno, error.strerror, f"{path}{named.removeprefix(str(beside))}") from error


def _permissions(target: Path) -> os.stat_result | None:
    """Those of an existing file, which may be replaced; None without one."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not target.exists():
        return None
    # Renaming would not ask.
    if not os.access(target, os.W_OK, **_EFFECTIVE):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    return target.stat()


def _give(path: Path, permissions: os.stat_result) -> None:
    """Owner, group and mode."""
    if hasattr(os, "chown"):
        with suppress(OSError):  # others than root may not give files away
            os.chown(path, permissions.st_uid, permissions.st_gid)
    os.chmod(path, stat.S_IMODE(permissions.st_mode))


def _cannot_be_renamed(folder: Path) -> bool:
    is_current = Path(os.path.realpath(os.curdir)).is_relative_to(folder)
    return is_current or os.path.ismount(folder) or not os.access(folder.parent, os.W_OK, **_EFFECTIVE)


def _move_files(new: Path, old: Path) -> None:
    for found in sorted(new.rglob("*")):
        if found.is_dir():
            (old / found.relative_to(new)).mkdir(exist_ok=True)
        else:
            os.replace(found, old / found.relative_to(new))


def _take_others(old: Path, new: Path) -> None:
    """Have what a folder holds in a new one, too, except where that has something of the same name."""

    def taken(folder: str, names: list[str]) -> list[str]:
        there = new / Path(folder).relative_to(old)
        return [
            name
            for name in names
            if os.path.lexists(there / name) and not (Path(folder, name).is_dir() and (there / name).is_dir())
        ]

    def link(source: str, goal: str) -> None:
        try:
            os.link(source, goal)  # without a copy: the old name is about to go
        except OSError:
            shutil.copy2(source, goal)

    shutil.copytree(old, new, symlinks=True, ignore=taken, copy_function=link, dirs_exist_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until a file's contents or a folder's names would survive a power cut: a new name must not come before."""
    folder = path.is_dir()
    if os.name == "nt" and folder:  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)


def _exchange(new: Path, old: Path) -> None:
    """Give two folders each other's names."""
    try:
        _exchange_at_once(new, old)
    except OSError:
        aside = _beside(old)
        old.rename(aside)
        try:
            new.rename(old)
        except BaseException:
            aside.rename(old)
            raise
        aside.rename(new)


def _exchange_at_once(new: Path, old: Path) -> None:
    """Do so in one step.

    Raises:
        OSError: The system or the file system cannot.
    """
    rename, before = {"linux": ("renameat2", [-100]), "darwin": ("renamex_np", [])}.get(sys.platform, ("", []))
    function = getattr(ctypes.CDLL(None, use_errno=True), rename, None) if rename else None
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    # Relative to the current folder (AT_FDCWD), on Linux; RENAME_EXCHANGE and RENAME_SWAP are 2.
    if function(*before, os.fsencode(new), *before, os.fsencode(old), 2):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(old))
