"""Writing an entry into a hyperparameter file."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from pg_zoo.errors import UserError
from pg_zoo.recipes import limits


def with_entry(text: str, env: str, hyperparams: dict[str, Any], path: Path) -> str:
    """The text of a hyperparameter file with one entry replaced or added, and everything else unchanged.

    Args:
        text: The file's text.
        env: Key of the entry.
        hyperparams: The entry.
        path: The file, for messages.

    Raises:
        UserError: The text is not a hyperparameter file, or the entry cannot be changed separately.
    """
    expected = {**_entries(text, path), env: hyperparams}
    written = yaml.safe_dump({env: hyperparams}, sort_keys=False, width=1000)
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    key = re.compile(rf"""(['"]?){re.escape(env)}\1\s*:""")
    start = next((index for index, line in enumerate(lines) if key.match(line)), None)
    if start is None:
        lines += ["\n"] * bool(lines) + [written]
    else:
        end = start
        # Indented lines belong to the entry; blank lines and comments before the next key do not.
        for index in range(start + 1, len(lines)):
            if lines[index].strip():
                if not lines[index][0].isspace():
                    break
                end = index
        lines[start : end + 1] = [written]
    new = "".join(lines)
    with suppress(UserError):
        if _entries(new, path) == expected:
            return new
    raise UserError(f"{path}: the entry {env} cannot be changed on its own (is it an anchor?): change it by hand.")


def _entries(text: str, path: Path) -> dict[str, Any]:
    try:
        found = limits.load(text) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a mapping of environment ids to hyperparameters.")
    return found
