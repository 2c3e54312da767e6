"""Plugins: algorithms, environments, hyperparameter files and engines, found through entry points.

| group                   | value                                              | reached by                  |
|-------------------------|----------------------------------------------------|-----------------------------|
| `pg_agents.algorithms`  | a Stable-Baselines3 `BaseAlgorithm` subclass       | `make(name)`, `--algo name` |
| `pg_agents.envs`        | a callable that registers Gymnasium environments   | every command that takes `--env` |
| `pg_agents.hyperparams` | a package that holds `<algorithm>.yml` files       | `pg-zoo train`              |
| `pg_agents.engines`     | an engine factory, see `pg_agents.contract`        | `engine="name"`             |

Listing a group reads metadata alone; a plugin's own code is imported when the plugin is used. The algorithms of
this package come in through the same door as anybody else's.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from pg_agents.checks import suggestion

ALGORITHMS = "pg_agents.algorithms"
ENVS = "pg_agents.envs"
HYPERPARAMS = "pg_agents.hyperparams"
ENGINES = "pg_agents.engines"

# The reference implementations, under names with a slash; they come last, so that no plugin can take their place.
REFERENCES = {
    "sb3": ("stable_baselines3", ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")),
    "contrib": ("sb3_contrib", ("ARS", "CrossQ", "MaskablePPO", "QRDQN", "RecurrentPPO", "TQC", "TRPO")),
}


class PluginError(RuntimeError):
    """A plugin cannot be used; the message names it and the distribution that it came from."""


class PluginWarning(UserWarning):
    """A plugin was left out; the message names it and the distribution that it came from."""


@dataclass(frozen=True)
class Plugin:
    """One entry point: its name and where it came from. `load()` imports it.

    Attributes:
        name: The name that users type.
        group: The entry-point group.
        distribution: Name and version of the distribution that declares it, such as `pg-agents 0.1.0`.
        value: What the entry point refers to, `module:attribute`.
    """

    name: str
    group: str
    distribution: str
    value: str

    def load(self) -> Any:
        """Import what the entry point refers to.

        Raises:
            PluginError: The import failed; the cause is attached.
        """
        try:
            return EntryPoint(self.name, self.value, self.group).load()
        except Exception as error:
            raise PluginError(
                f"{self.group} plugin {self.name!r} ({self.value}) of {self.distribution} cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error


def plugins(group: str) -> dict[str, Plugin]:
    """All plugins of one entry-point group, by name, without importing any.

    Raises:
        PluginError: Two distributions declare the same name.
    """
    found: dict[str, Plugin] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
        plugin = Plugin(entry.name, group, distribution, entry.value)
        other = found.setdefault(entry.name, plugin)
        # One distribution can be on the path twice (a checkout beside its installed metadata).
        if other != plugin:
            raise PluginError(
                f"Two plugins of the group {group} are called {entry.name!r}: {other.value} of {other.distribution} "
                f"and {plugin.value} of {plugin.distribution}. Uninstall one of the two."
            )
    return found


def reference_algorithms() -> dict[str, Plugin]:
    """The algorithms of SB3 and, where it is installed, sb3-contrib, as `sb3/ppo`, `contrib/trpo`, ..."""
    found = {}
    for prefix, (module, classes) in REFERENCES.items():
        try:
            version = importlib.metadata.version(module)
        except importlib.metadata.PackageNotFoundError:
            continue
        for name in classes:
            key = f"{prefix}/{name.lower()}"
            found[key] = Plugin(key, ALGORITHMS, f"{module} {version}", f"{module}:{name}")
    return found


def algorithms() -> dict[str, Plugin]:
    """Every algorithm that can be named: plugins first (this package's own among them), then the references."""
    return {**plugins(ALGORITHMS), **reference_algorithms()}


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    wanted = str(name).lower()
    # `trpo` means `contrib/trpo`, however near another name is.
    named = [full for full in known if full.rpartition("/")[2] == wanted]
    hint = suggestion(wanted, named or known, cutoff=0.5)
    return f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}."


def algorithm(name: str) -> type[BaseAlgorithm]:
    """The algorithm class that is registered under a name.

    Args:
        name: `ppo`, `a2c`, `reinforce`, `reinforce_baseline`, a plugin's name, or a reference such as `sb3/ppo`.

    Raises:
        ValueError: No algorithm has that name; the message suggests the nearest one.
        PluginError: The plugin cannot be imported, is not an SB3 algorithm, or its name is taken twice.
    """
    known = algorithms()
    if name not in known:
        raise ValueError(unknown_name("algorithm", name, known))
    cls = known[name].load()
    if not (isinstance(cls, type) and issubclass(cls, BaseAlgorithm)):
        raise PluginError(
            f"{ALGORITHMS} plugin {name!r} of {known[name].distribution} is {cls!r}, "
            "which is not a subclass of stable_baselines3.common.base_class.BaseAlgorithm."
        )
    return cls


def make(name: str, /, *args: Any, **kwargs: Any) -> BaseAlgorithm:
    """Build an agent by its registered name: `make("ppo", "MlpPolicy", "CartPole-v1", seed=0)`.

    Args:
        name: As for `algorithm`.
        *args: What the algorithm's own constructor takes.
        **kwargs: The same.

    Raises:
        ValueError: No algorithm has that name.
        PluginError: The plugin cannot be used.
    """
    for env in (*args[1:2], kwargs.get("env")):  # what is not ours does not look for plugins
        find_env(env)
    return algorithm(name)(*args, **kwargs)


def find_env(env_id: object) -> None:
    """Let environment plugins register their ids, unless what is given is registered already or is no id."""
    import gymnasium as gym

    if isinstance(env_id, str) and env_id not in gym.registry:
        register_envs()


def register_envs() -> dict[str, tuple[str, ...]]:
    """Let every environment plugin register its ids; a plugin that fails is a `PluginWarning`.

    Returns:
        The Gymnasium ids that each plugin added, by the plugin's name. Calling again adds nothing.

    Raises:
        PluginError: Two distributions declare the same plugin name.
    """
    import gymnasium as gym

    for name, plugin in plugins(ENVS).items():
        if name in _REGISTERED:
            continue
        before = set(gym.registry)
        try:
            plugin.load()()
        except Exception as error:
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            warnings.warn(
                f"Environments of plugin {name!r} ({plugin.distribution}) are left out: {reason}",
                PluginWarning,
                stacklevel=2,
            )
            continue
        _REGISTERED[name] = tuple(sorted(set(gym.registry) - before))
    return dict(_REGISTERED)


_REGISTERED: dict[str, tuple[str, ...]] = {}
