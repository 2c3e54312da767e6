"""`pg-zoo list`: what is installed, and which distribution each part came from."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import gymnasium as gym
from rich import box
from rich.console import Console
from rich.table import Table

from pg_agents import registry
from pg_zoo.errors import one_line, warn
from pg_zoo.hyperparameters import files
from pg_zoo.lookup import plugin_warnings
from pg_zoo.trained import agents

MANY = 12  # environments of one hyperparameter file: more are counted


def show() -> None:
    """Run `pg-zoo list`.

    Raises:
        UserError: Two distributions declare a plugin of the same name.
    """
    with one_line(registry.PluginError), plugin_warnings():
        parts = [_algorithms(), _environments(), _hyperparameters(), _agents()]
    console = Console()
    for part in parts:
        console.print(part)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _algorithms() -> Table:
    table = _table("Algorithms", "--algo", "class", "from")
    for name, plugin in registry.plugins(registry.ALGORITHMS).items():
        try:
            registry.algorithm(name)
        except registry.PluginError as error:
            warn(str(error))
            continue
        table.add_row(name, _class_name(plugin), plugin.distribution)
    # Not imported: sb3-contrib would take its time.
    for name, plugin in registry.reference_algorithms().items():
        table.add_row(name, _class_name(plugin), plugin.distribution)
    return table


def _class_name(plugin: registry.Plugin) -> str:
    return plugin.value.rpartition(":")[2]


def _environments() -> Table:
    table = _table("Environments", "--env", "from")
    registered = registry.register_envs()
    plugins = registry.plugins(registry.ENVS)
    for name, env_ids in registered.items():
        table.add_row(", ".join(env_ids), f"{plugins[name].distribution} (plugin {name})")
    others = set(gym.registry) - {env_id for env_ids in registered.values() for env_id in env_ids}
    by_origin: dict[str, list[str]] = {}
    for env_id in sorted(others):
        by_origin.setdefault(_origin(gym.registry[env_id]), []).append(env_id)
    for origin, ids in by_origin.items():
        table.add_row(", ".join(ids), origin)
    return table


def _origin(spec: gym.envs.registration.EnvSpec) -> str:
    """The distribution whose module makes an environment, or the module where there is none."""
    point = spec.entry_point or spec.vector_entry_point
    module = (point if isinstance(point, str) else getattr(point, "__module__", "unknown")).partition(":")[0]
    package = module.partition(".")[0]
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def _hyperparameters() -> Table:
    table = _table("Hyperparameters", "--algo", "--env", "from")
    # The references' files are merged first, but are not what one looks for first.
    for file in sorted(files(), key=lambda file: "/" in file.algo):
        env_ids = list(file.entries())
        shown = env_ids if len(env_ids) <= MANY else [*env_ids[:3], f"and {len(env_ids) - 3} more"]
        table.add_row(file.algo, ", ".join(shown), file.distribution)
    return table


def _agents() -> Table:
    table = _table("Trained agents", "--algo", "--env", "mean return", "steps")
    for agent in agents():
        table.add_row(agent.algo, agent.env, f"{agent.score:.2f} +/- {agent.std:.2f}", f"{agent.n_timesteps:,}")
    return table
