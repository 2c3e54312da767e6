"""Completion of `pg-zoo` in bash and zsh: commands, options, algorithms, environments and files.

The shell asks the command itself at every TAB. Finding the names of algorithms and environments takes seconds, so they
are kept until a package is installed or removed.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pg_zoo.options import arguments_of, command_parsers, make_parser

_ALGORITHMS = {"algo", "algos", "same_hyperparams", "baseline"}
_ENVS = {"env", "envs"}
_FILES = {"conf_file", "folder", "log_folder", "output", "results", "resume", "tensorboard_log", "trained_agent"}
_FILES |= {"video", "write", "zoo"}


def complete() -> None:
    """Answer the shell, and end the process; do nothing if argcomplete is missing."""
    try:
        import argcomplete
    except ImportError:
        return
    parser = make_parser()
    for command in command_parsers(parser).values():
        for action in arguments_of(command):
            if action.choices is None:
                action.completer = _completer(action.dest)  # type: ignore[attr-defined] # argcomplete reads it
    argcomplete.autocomplete(parser, always_complete_options="long")


def _completer(name: str) -> Callable[..., Any]:
    if name in _FILES:
        from argcomplete.completers import FilesCompleter

        return FilesCompleter()
    kind = "algorithms" if name in _ALGORITHMS else "envs" if name in _ENVS else None
    return lambda **_: [] if kind is None else names()[kind]


def names() -> dict[str, list[str]]:
    """The `algorithms` and `envs` that are installed."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    path, installed = folder / "pg-agents/names.json", _installed()
    with suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["installed"] == installed:
            return {kind: list(map(str, kept[kind])) for kind in ("algorithms", "envs")}
    found = _find()
    with suppress(OSError):
        from pg_agents.files.writing import write

        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps({"installed": installed, **found}))
    return found


def _installed() -> list[Any]:
    """What changes when a package is installed or removed."""
    return [[folder, os.stat(folder).st_mtime_ns] for folder in sys.path if os.path.isdir(folder)]


def _find() -> dict[str, list[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gymnasium as gym

        from pg_agents import registry

        registry.register_envs()
        with suppress(Exception):  # of a package that registers environments
            import rl_zoo3.import_envs  # noqa: F401
        return {"algorithms": sorted(registry.algorithms()), "envs": sorted(gym.registry)}
