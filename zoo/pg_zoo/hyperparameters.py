"""Hyperparameter files in rl_zoo3's schema: ours, then those of plugins, and rl_zoo3's own for the references."""

from __future__ import annotations

import ast
import importlib
import importlib.resources
import importlib.util
import re
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

if TYPE_CHECKING:
    if sys.version_info >= (3, 11):
        from importlib.resources.abc import Traversable
    else:
        from importlib.abc import Traversable

Entries = dict[str, dict[str, Any]]

# Where rl_zoo3's file is not called as the class is.
_FILES_OF_RL_ZOO3 = {"recurrentppo": "ppo_lstm"}


@dataclass(frozen=True)
class File:
    """One `<algorithm>.yml`.

    Attributes:
        algo: The algorithm's registered name.
        distribution: Name and version of the distribution that brought the file.
        path: Where it is.
    """

    algo: str
    distribution: str
    path: Traversable

    def __str__(self) -> str:
        return f"{self.path.name} of {self.distribution}"

    def entries(self) -> Entries:
        """Hyperparameters by environment id; nothing, and a `PluginWarning`, where the file cannot be read."""
        try:
            return _checked(yaml.safe_load(self.path.read_text(encoding="utf-8")), str(self))
        except (OSError, ValueError, yaml.YAMLError, UserError) as error:
            warnings.warn(f"Hyperparameters in {self} are left out: {error}", registry.PluginWarning, stacklevel=2)
            return {}


def files() -> list[File]:
    """All hyperparameter files, in the order in which they are merged: later ones override earlier ones."""
    return [*_files_of_rl_zoo3(), *_files_of_plugins()]


def find_entry(
    algo: str, env_id: str, *, conf_file: str | None = None, atari: bool = False
) -> tuple[dict[str, Any], str]:
    """The hyperparameters of an algorithm for an environment.

    A whole entry is taken from one file: values that were tuned together stay together.

    Args:
        algo: The algorithm's registered name.
        env_id: The Gymnasium id.
        conf_file: `--conf-file`: the only file to look at, instead of all that are installed.
        atari: Whether an entry `atari` would do.

    Returns:
        The entry and, in words, where it is from. An algorithm without any gets an empty one.

    Raises:
        UserError: The `conf_file` has nothing for this environment.
    """
    found: dict[str, tuple[dict[str, Any], str]] = {}
    if conf_file is not None:
        found = {key: (entry, f"{key!r} in {conf_file}") for key, entry in _conf_entries(conf_file).items()}
    else:
        for file in files():
            if file.algo == algo:
                found |= {key: (entry, f"{key!r} in {file}") for key, entry in file.entries().items()}
    for key in [env_id, *["atari"] * atari, "default"]:
        if key in found:
            entry, origin = found[key]
            return dict(entry), origin
    if conf_file is not None:
        raise UserError(f"{conf_file} has no entry {env_id!r} and no entry 'default'.")
    return {}, "the algorithm's own defaults"


def parse_value(text: str) -> Any:
    """The value in `--hyperparams name:value`: a Python literal, a `dict(...)` of such, or a word as YAML reads it.

    Raises:
        ValueError: It is none of these.
    """
    try:
        return _literal(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, SyntaxError):
        # `lin_0.001`, `reward_to_go`, `true`; also a module path such as `my_package.policies.MyPolicy`.
        if re.fullmatch(r"[\w.+/-]+", text):
            return yaml.safe_load(text)
        raise ValueError(
            f"{text!r} is neither a Python literal nor dict(...) of literals, nor a single word."
        ) from None


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nn":
        # As in rl_zoo3: dict(activation_fn=nn.ReLU).
        from torch import nn

        if not hasattr(nn, node.attr):
            raise UserError(f"torch.nn has no {node.attr!r}.")
        return getattr(nn, node.attr)
    return ast.literal_eval(node)


def _checked(entries: Any, source: str) -> Entries:
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{source} must hold a mapping of environment ids to mappings of hyperparameters.")
    return entries


def _conf_entries(conf_file: str) -> Entries:
    """What rl_zoo3 takes too: a YAML file, a Python file, or a module; the last two define `hyperparams`."""
    if conf_file.endswith((".yml", ".yaml")):
        try:
            return _checked(yaml.safe_load(Path(conf_file).read_text(encoding="utf-8")), conf_file)
        except yaml.YAMLError as error:
            raise UserError(f"{conf_file} is not YAML: {error}") from error
    if conf_file.endswith(".py"):
        return _checked(runpy.run_path(conf_file).get("hyperparams"), conf_file)
    return _checked(getattr(importlib.import_module(conf_file), "hyperparams", None), conf_file)


def _files_of_rl_zoo3() -> Iterator[File]:
    # Found without an import: rl_zoo3 takes seconds, and patches Gymnasium.
    spec = importlib.util.find_spec("rl_zoo3")
    assert spec is not None, "rl_zoo3 is a dependency"
    folder = Path((spec.submodule_search_locations or ["."])[0]) / "hyperparams"
    for algo in registry.reference_algorithms():
        name = algo.rpartition("/")[2]
        path = folder / f"{_FILES_OF_RL_ZOO3.get(name, name)}.yml"
        if path.is_file():
            yield _ReferenceFile(algo, f"rl_zoo3 {version('rl_zoo3')}", path)


class _ReferenceFile(File):
    def entries(self) -> Entries:
        """As they are, but that MlpPolicy, which rl_zoo3's default entries name, is not right for every environment."""
        entries = super().entries()
        if "default" in entries:
            entries["default"]["policy"] = "auto"
        return entries


def _files_of_plugins() -> Iterator[File]:
    plugins = registry.plugins(registry.HYPERPARAMS).values()
    for plugin in sorted(plugins, key=lambda plugin: (plugin.value != "pg_zoo.hyperparams", plugin.name)):
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
                yield File(path.name.removesuffix(".yml"), plugin.distribution, path)
