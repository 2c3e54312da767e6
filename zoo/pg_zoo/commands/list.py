"""`pg-zoo list`: installed algorithms, environments, hyperparameters and agents, with their distributions."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import gymnasium as gym
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pg_agents import registry
from pg_agents.checks import suggestion
from pg_zoo.errors import UserError, one_line, warn
from pg_zoo.evidence.agents import agents
from pg_zoo.lookup import find_algorithm, plugin_warnings
from pg_zoo.recipes.files import files

MANY = 12  # environments of one hyperparameter file; of a longer list, only the first are shown


def show(algo: str | None = None, env: str | None = None) -> None:
    """Run `pg-zoo list`.

    Args:
        algo: Show only this algorithm.
        env: Show only environments whose id contains this text, in upper or lower case.

    Raises:
        UserError: Two distributions declare a plugin of the same name, or the algorithm or environment is unknown.
    """
    with one_line(registry.PluginError), plugin_warnings():
        if algo is not None:
            find_algorithm(algo)
        registered = registry.register_envs()
        if env is not None and not any(_is_asked_for(env_id, env) for env_id in gym.registry):
            raise UserError(f"No environment id contains {env!r}.{suggestion(env, gym.registry)}")
        parts = [_hyperparameters(algo, env), _agents(algo, env)]
        if algo is None:
            parts.insert(0, _environments(registered, env))
        if env is None:
            parts.insert(0, _algorithms(algo))
    console = Console()
    shown = [part for part in parts if part.row_count]
    for part in shown:
        console.print(part)
    if not shown:
        print(f"There are no hyperparameters or agents of {algo} for environments whose id contains {env!r}.")


def _is_asked_for(env_id: str, env: str | None) -> bool:
    return env is None or env.lower() in env_id.lower()


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _algorithms(algo: str | None) -> Table:
    table = _table("Algorithms", "--algo", "class", "from")
    for name, plugin in registry.plugins(registry.ALGORITHMS).items():
        origin = plugin.distribution
        try:
            registry.algorithm(name)
        except registry.NotInstalledError as error:
            origin += f"; {error}".replace(f" {name}:", "")
        except registry.PluginError as error:
            warn(str(error))
            continue
        if algo in (None, name):
            table.add_row(name, _class_name(plugin), escape(origin))
    # Not imported: sb3-contrib takes long to import.
    for name, plugin in registry.reference_algorithms().items():
        if algo in (None, name):
            table.add_row(name, _class_name(plugin), plugin.distribution)
    return table


def _class_name(plugin: registry.Plugin) -> str:
    return plugin.value.rpartition(":")[2]


def _environments(registered: dict[str, tuple[str, ...]], env: str | None) -> Table:
    table = _table("Environments", "--env", "from")
    plugins = registry.plugins(registry.ENVS)
    by_origin = {f"{plugins[name].distribution} (plugin {name})": list(env_ids) for name, env_ids in registered.items()}
    of_plugins = {env_id for env_ids in registered.values() for env_id in env_ids}
    for env_id in sorted(set(gym.registry) - of_plugins):
        by_origin.setdefault(_origin(gym.registry[env_id]), []).append(env_id)
    for origin, env_ids in by_origin.items():
        if shown := [env_id for env_id in env_ids if _is_asked_for(env_id, env)]:
            table.add_row(", ".join(shown), origin)
    return table


def _origin(spec: gym.envs.registration.EnvSpec) -> str:
    """The distribution of the module that makes an environment, or the module if there is no distribution."""
    point = spec.entry_point or spec.vector_entry_point
    module = (point if isinstance(point, str) else getattr(point, "__module__", "unknown")).partition(":")[0]
    package = module.partition(".")[0]
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def _hyperparameters(algo: str | None, env: str | None) -> Table:
    table = _table("Hyperparameters", "--algo", "--env", "from")
    # The references' files are merged first, but shown last.
    for file in sorted(files(), key=lambda file: "/" in file.algo):
        env_ids = [env_id for env_id in file.entries() if _is_asked_for(env_id, env)]
        if env_ids and algo in (None, file.algo):
            few = len(env_ids) <= MANY or algo or env
            shown = env_ids if few else [*env_ids[:3], f"and {len(env_ids) - 3} more"]
            table.add_row(file.algo, ", ".join(shown), file.distribution)
    return table


def _agents(algo: str | None, env: str | None) -> Table:
    table = _table("Trained agents", "--algo", "--env", "mean return", "steps")
    for agent in agents():
        if algo in (None, agent.algo) and _is_asked_for(agent.env, env):
            score = f"{agent.score:.2f} +/- {agent.std:.2f}"
            table.add_row(agent.algo, agent.env, score, f"{agent.n_timesteps:,}")
    return table
