"""Algorithms and environments by the names that users type."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import gymnasium as gym
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import get_device

from pg_agents import registry
from pg_agents.checks import suggestion
from pg_zoo.errors import UserError, count_as_own, one_line, warn
from pg_zoo.simulators import say_once


@contextmanager
def plugin_warnings() -> Iterator[None]:
    """Show each `PluginWarning` as one line, without its line of code; other warnings are unchanged."""
    with warnings.catch_warnings(record=True) as caught:
        # Record all of them: a filter must neither hide them nor turn them into errors.
        warnings.simplefilter("always", registry.PluginWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, registry.PluginWarning):
            warn(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def find_algorithm(name: str, verbose: int = 1) -> type[BaseAlgorithm]:
    """The class that `--algo` names.

    Raises:
        UserError: The algorithm is unknown or cannot be imported.
    """
    with one_line(ValueError, registry.PluginError, verbose=verbose):
        try:
            return registry.algorithm(name)
        except registry.NotInstalledError as error:
            raise UserError(str(error)) from error


def find_env(env_id: str, gym_packages: Iterable[str] = (), verbose: int = 1) -> None:
    """Register the environments of all plugins, and check that `--env` is known.

    Args:
        env_id: The Gymnasium id.
        gym_packages: Modules to import first, because they register environments.
        verbose: As for `one_line`.

    Raises:
        UserError: There is no such id, or a package cannot be imported.
    """
    import_packages(gym_packages, verbose)
    with plugin_warnings(), one_line(registry.PluginError, verbose=verbose):
        registry.register_envs()
    import pettingzoo
    import rl_zoo3.import_envs  # noqa: F401  # registers environments of installed packages

    if env_id not in gym.registry:
        hint = suggestion(env_id, gym.registry) or " Is the package that registers it installed?"
        if env_id in pettingzoo.parallel_registry or env_id in pettingzoo.aec_registry:
            hint = " It is a PettingZoo game for several agents: train on it in Python with pg_envs.SelfPlayVecEnv."
        elif env_id.startswith("MiniGrid-") and importlib.util.find_spec("minigrid") is None:
            hint = " It comes with the package minigrid: pip install 'pg-agents[envs]'."
        raise UserError(f"Unknown environment {env_id!r}.{hint}")
    say_once(env_id)


def import_packages(packages: Iterable[str], verbose: int = 1) -> None:
    """Import modules that register environments.

    Args:
        packages: Names of modules that the user has typed, as `--gym-packages` or in `module:Id-v0`.
        verbose: As for `one_line`.

    Raises:
        UserError: One cannot be imported.
    """
    for package in packages:
        count_as_own(package)
        try:
            importlib.import_module(package)
        except (Exception, SystemExit) as error:
            if verbose > 1:
                raise
            raise UserError(
                f"--gym-packages: {package!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error


def find_device(name: str) -> str:
    """The torch device of that name, with `"auto"` resolved.

    Raises:
        UserError: This machine lacks the device; Stable-Baselines3 would silently use the CPU.
    """
    try:
        found, asked = get_device(name), None if name == "auto" else th.device(name)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--device {name!r} is no torch device: {str(error).partition(chr(10))[0]}") from error
    if asked is not None and found.type != asked.type:
        raise UserError(f"--device {name!r}: torch finds no such device on this machine.")
    return str(found)


_REPORT_PACKAGES = ("rliable", "pandas", "matplotlib")  # the extra `report`


def check_report_packages() -> None:
    """Check that the packages of a report are installed, without importing them.

    Raises:
        UserError: One is missing.
    """
    for package in _REPORT_PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"A report needs the package {package}: pip install 'pg-agents[report]'.")
