"""Hyperparameter files in rl_zoo3's schema: ours, those of plugins, and rl_zoo3's own for the references."""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
import runpy
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pg_agents import registry
from pg_zoo.errors import UserError
from pg_zoo.recipes import limits
from pg_zoo.recipes.trust import TRUST

if TYPE_CHECKING:
    if sys.version_info >= (3, 11):
        from importlib.resources.abc import Traversable
    else:
        from importlib.abc import Traversable

Entries = dict[str, dict[str, Any]]

OURS = "pg_zoo.hyperparams"  # the package with our files

# rl_zoo3's files that are not named after the algorithm's class.
FILES_OF_RL_ZOO3 = {"recurrentppo": "ppo_lstm"}


@dataclass(frozen=True)
class File:
    """One `<algorithm>.yml`.

    Attributes:
        algo: The algorithm's registered name.
        distribution: Name and version of the distribution that contains the file.
        path: The path of the file.
    """

    algo: str
    distribution: str
    path: Traversable

    def __str__(self) -> str:
        return f"{self.path.name} of {self.distribution}"

    def read(self) -> Entries:
        """Hyperparameters by environment id.

        Raises:
            UserError: The file cannot be read.
        """
        try:
            entries = limits.load(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{self}: {yaml_problem(error)}.") from error
        return _checked(entries, str(self))

    def entries(self) -> Entries:
        """The result of `read`, or a `PluginWarning` and no entries if the file cannot be read."""
        try:
            return self.read()
        except UserError as error:
            warnings.warn(f"Hyperparameters are left out: {error}", registry.PluginWarning, stacklevel=2)
            return {}


def files() -> list[File]:
    """All hyperparameter files, in the order in which they are merged: later ones override earlier ones."""
    return [*_files_of_rl_zoo3(), *_files_of_plugins()]


def find_entry(
    algo: str, env_id: str, *, conf_file: str | None = None, trust: bool = False, atari: bool = False
) -> tuple[dict[str, Any], str]:
    """The hyperparameters of an algorithm for an environment.

    An entry is always taken from a single file: values that were tuned together stay together.

    Args:
        algo: The algorithm's registered name.
        env_id: The Gymnasium id.
        conf_file: `--conf-file`: the only file to read, instead of the installed ones.
        trust: Whether that file may be Python.
        atari: Whether an entry `atari` is acceptable.

    Returns:
        The entry, and its source in words. Without an entry, an empty one.

    Raises:
        UserError: A file of this algorithm, or the `conf_file`, cannot be read; or the latter has no entry for this
            environment, or is code and not trusted.
    """
    found: dict[str, tuple[dict[str, Any], str]] = {}
    if conf_file is not None:
        found = {key: (entry, f"{key!r} in {conf_file}") for key, entry in _conf_entries(conf_file, trust).items()}
    else:
        for file in files():
            if file.algo == algo:
                found |= {key: (entry, f"{key!r} in {file}") for key, entry in _read(file).items()}
    for key in [env_id, *["atari"] * atari, "default"]:
        if key in found:
            entry, origin = found[key]
            return dict(entry), origin
    if conf_file is not None:
        raise UserError(f"{conf_file} has no entry {env_id!r} and no entry 'default'.")
    return {}, "the algorithm's own defaults"


def _read(file: File) -> Entries:
    try:
        return file.read()
    except UserError as error:
        # The algorithm's defaults would silently give other results than the entry.
        distribution = file.distribution.rpartition(" ")[0]
        raise UserError(
            f"Hyperparameters cannot be read: {error} Mend the file ({file.path}), uninstall {distribution}, or train "
            "with another one: pg-zoo train --conf-file."
        ) from error


def yaml_problem(error: Exception) -> str:
    """The error in a YAML file, with its line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"line {mark.line + 1}: {problem}" if mark and problem else str(error)


def _checked(entries: Any, source: str) -> Entries:
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{source} must hold a mapping of environment ids to mappings of hyperparameters.")
    return entries


def _conf_entries(conf_file: str, trust: bool) -> Entries:
    """The entries of a `--conf-file`. As in rl_zoo3: a YAML file, or a Python file or module with `hyperparams`."""
    if conf_file.endswith((".yml", ".yaml")):
        try:
            with open(conf_file, encoding="utf-8") as file:
                return _checked(limits.load(file), conf_file)
        except yaml.constructor.ConstructorError as error:
            raise UserError(
                f"--conf-file {conf_file} holds Python objects, as a run's config.yml does. A hyperparameter file is "
                "plain YAML: a mapping of environment ids to hyperparameters."
            ) from error
        except yaml.composer.ComposerError as error:
            raise UserError(f"--conf-file {conf_file}, {yaml_problem(error)}.") from error
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"--conf-file {conf_file} is not YAML: {error}") from error
        except OSError as error:
            raise UserError(f"--conf-file {conf_file} cannot be read: {error.strerror}.") from error
    if not trust:
        raise UserError(f"--conf-file {conf_file} is not YAML (.yml, .yaml) but would run as Python. {TRUST}")
    if conf_file.endswith(".py"):
        return _checked(runpy.run_path(conf_file).get("hyperparams"), conf_file)
    return _checked(getattr(importlib.import_module(conf_file), "hyperparams", None), conf_file)


def _files_of_rl_zoo3() -> Iterator[File]:
    # Found without an import, which takes seconds and patches Gymnasium.
    spec = importlib.util.find_spec("rl_zoo3")
    assert spec is not None, "rl_zoo3 is a dependency"
    folder = Path((spec.submodule_search_locations or ["."])[0]) / "hyperparams"
    for algo in registry.reference_algorithms():
        name = algo.rpartition("/")[2]
        path = folder / f"{FILES_OF_RL_ZOO3.get(name, name)}.yml"
        if path.is_file():
            yield _FileForRLZoo3(algo, f"rl_zoo3 {version('rl_zoo3')}", path)


class _FileForRLZoo3(File):
    def read(self) -> Entries:
        """The file's entries. The default entry's `policy` is `auto`: MlpPolicy does not suit every environment."""
        entries = super().read()
        if "default" in entries:
            entries["default"]["policy"] = "auto"
        return entries


def _files_of_plugins() -> Iterator[File]:
    plugins = registry.plugins(registry.HYPERPARAMS).values()
    for plugin in sorted(plugins, key=lambda plugin: (plugin.value != OURS, plugin.name)):
        try:
            paths = list(importlib.resources.files(plugin.load()).iterdir())
        except (registry.PluginError, TypeError) as error:
            warnings.warn(
                f"Hyperparameters of plugin {plugin.name!r} ({plugin.distribution}) are left out: {error}",
                registry.PluginWarning,
                stacklevel=2,
            )
            continue
        for path in sorted(paths, key=lambda path: path.name):
            if path.name.endswith(".yml"):
                kind = _FileForRLZoo3 if plugin.value == OURS else File
                yield kind(path.name.removesuffix(".yml"), plugin.distribution, path)
