"""The entries of hyperparameter files for which there can be evidence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pg_agents import registry
from pg_zoo.errors import UserError, one_line
from pg_zoo.lookup import plugin_warnings
from pg_zoo.recipes.files import File, files
from pg_zoo.results.storage import as_name


def evidence_path(zoo: Path, algo: str, env: str) -> Path:
    """The path of an entry's evidence in a hyperparameter folder."""
    return zoo / "evidence" / as_name(algo) / f"{as_name(env)}.json"


@dataclass(frozen=True)
class Entry:
    """An entry of a hyperparameter file, and the folder of that file."""

    algo: str
    env: str
    hyperparams: dict[str, Any]
    zoo: Path

    @property
    def path(self) -> Path:
        """The path of its evidence."""
        return evidence_path(self.zoo, self.algo, self.env)


def entries(zoo: Path | None = None) -> list[Entry]:
    """All entries for which there can be evidence: neither `default` nor the entries of rl_zoo3.

    Args:
        zoo: A folder of `<algo>.yml` files, instead of the installed ones.

    Raises:
        UserError: The folder has no such file.
    """
    found = {}
    with plugin_warnings(), one_line(registry.PluginError):
        for file in files() if zoo is None else files_in(zoo):
            # The evidence of a package in a zip archive cannot be read.
            if file.algo not in registry.reference_algorithms() and isinstance(file.path, Path):
                for env, hyperparams in file.entries().items():
                    if env != "default":
                        found[file.algo, env] = Entry(file.algo, env, hyperparams, file.path.parent)
    return sorted(found.values(), key=lambda entry: (entry.env.lower(), entry.algo))


def files_in(zoo: Path) -> list[File]:
    """The hyperparameter files of a folder.

    Raises:
        UserError: It has none.
    """
    found = [File(path.stem, str(zoo), path) for path in sorted(zoo.glob("*.yml"))]
    if not found:
        raise UserError(f"{zoo} is not a folder of <algo>.yml files.")
    return found
