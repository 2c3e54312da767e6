"""Plugins: algorithms, environments, hyperparameter files and engines, found through entry points.

| group                   | value                                              | reached by                  |
|-------------------------|----------------------------------------------------|-----------------------------|
| `pg_agents.algorithms`  | a Stable-Baselines3 `BaseAlgorithm` subclass       | `make(name)`, `--algo name` |
| `pg_agents.envs`        | a callable that registers Gymnasium environments   | every command that takes `--env` |
| `pg_agents.hyperparams` | a package that holds `<algorithm>.yml` files       | `pg-zoo train`              |
| `pg_agents.engines`     | an engine factory, see `pg_agents.contract`        | `engine="name"`             |

Listing a group only reads metadata; a plugin's code is imported when the plugin is used. The algorithms of this
package are plugins too.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from pg_agents.checks import MissingExtraError, suggestion

ALGORITHMS = "pg_agents.algorithms"
ENVS = "pg_agents.envs"
HYPERPARAMS = "pg_agents.hyperparams"
ENGINES = "pg_agents.engines"

# The reference implementations. Their names have a slash, and they are looked up last, so no plugin can replace them.
REFERENCES = {
    "sb3": ("stable_baselines3", ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")),
    "contrib": ("sb3_contrib", ("ARS", "CrossQ", "MaskablePPO", "QRDQN", "RecurrentPPO", "TQC", "TRPO")),
}


class PluginError(RuntimeError):
    """A plugin cannot be used; the message names the plugin and its distribution."""


class NotInstalledError(PluginError):
    """A plugin needs a package that is not installed; the message says how to get it."""


class PluginWarning(UserWarning):
    """A plugin was left out; the message names the plugin and its distribution."""


@dataclass(frozen=True)
class Plugin:
    """One entry point and its origin.

    Attributes:
        name: The name for users.
        group: The entry-point group.
        distribution: Name and version of the declaring distribution, such as `pg-agents 0.1.0`.
        value: The object behind the entry point, as `module:attribute`.
    """

    name: str
    group: str
    distribution: str
    value: str

    def load(self) -> Any:
        """Import the object behind the entry point.

        Raises:
            NotInstalledError: An optional package is missing.
            PluginError: The import failed; its error is the cause.
        """
        try:
            return EntryPoint(self.name, self.value, self.group).load()
        except MissingExtraError as error:
            raise NotInstalledError(f"{self.name}: {error}") from error
        except Exception as error:
            raise PluginError(
                f"{self.group} plugin {self.name!r} ({self.value}) of {self.distribution} cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error


def plugins(group: str) -> dict[str, Plugin]:
    """All plugins of an entry-point group by name, without importing any of them.

    Args:
        group: The entry-point group.

    Raises:
        PluginError: Two distributions declare the same name.
    """
    found: dict[str, Plugin] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
        plugin = Plugin(entry.name, group, distribution, entry.value)
        other = found.setdefault(entry.name, plugin)
        # A distribution can be on the path twice, as a checkout and as installed metadata.
        if other != plugin:
            raise PluginError(
                f"Two plugins of the group {group} are called {entry.name!r}: {other.value} of {other.distribution} "
                f"and {plugin.value} of {plugin.distribution}. Uninstall one of the two."
            )
    return found


def reference_algorithms() -> dict[str, Plugin]:
    """The algorithms of SB3 and, if it is installed, sb3-contrib, as `sb3/ppo`, `contrib/trpo`, ..."""
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


def reference_of(name: str) -> str | None:
    """The reference implementation of an algorithm, such as `contrib/trpo` of `trpo`; None if there is none.

    Args:
        name: The algorithm's registered name.
    """
    return next((key for key in reference_algorithms() if key.partition("/")[2] == name), None)


def algorithms() -> dict[str, Plugin]:
    """All algorithms by name: first the plugins, including this package's own, then the references."""
    return {**plugins(ALGORITHMS), **reference_algorithms()}


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The error message for an unknown name, with the nearest known name.

    Args:
        kind: The kind of the named thing, such as `algorithm`.
        name: The unknown name.
        known: The known names.
    """
    known = sorted(known)
    wanted = str(name).lower()
    # `trpo` means `contrib/trpo`, even if another name is nearer.
    named = [full for full in known if full.rpartition("/")[2] == wanted]
    hint = suggestion(wanted, named or known, cutoff=0.5)
    return f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}."


def algorithm(name: str) -> type[BaseAlgorithm]:
    """The algorithm class with a registered name.

    Args:
        name: `ppo`, `a2c`, `reinforce`, `reinforce_baseline`, a plugin's name, or a reference such as `sb3/ppo`.

    Raises:
        ValueError: No algorithm has this name; the message suggests the nearest one.
        PluginError: The plugin cannot be imported, is not an SB3 algorithm, or shares its name with another one.
    """
    known = algorithms()
    if name not in known:
        raise ValueError(
            f"{unknown_name('algorithm', name, known)} One of your own is known once its package, which names it in "
            f"the entry-point group {ALGORITHMS}, is installed: pip install -e ."
        )
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
        name: A registered name, as for `algorithm`.
        *args: Positional arguments of the algorithm's constructor.
        **kwargs: Keyword arguments of the algorithm's constructor.

    Raises:
        ValueError: No algorithm has this name.
        PluginError: The plugin cannot be used.
    """
    for env in (*args[1:2], kwargs.get("env")):  # algorithms of other packages do not look for environment plugins
        find_env(env)
    return algorithm(name)(*args, **kwargs)


def find_env(env_id: object) -> None:
    """Let environment plugins register their ids, if an id is given that is not registered yet.

    Args:
        env_id: A Gymnasium id; any other object is ignored.
    """
    import gymnasium as gym

    if isinstance(env_id, str) and env_id not in gym.registry:
        register_envs()


def register_envs() -> dict[str, tuple[str, ...]]:
    """Let every environment plugin register its ids, once per process.

    Returns:
        The Gymnasium ids that each plugin added, by the plugin's name.

    Raises:
        PluginError: Two distributions declare the same plugin name.

    Warns:
        PluginWarning: A plugin failed, and is left out.
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
