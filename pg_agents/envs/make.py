"""SB3's `make_vec_env`, with native vector environments preferred."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from pg_agents.checks import check_choice, check_number, suggestion
from pg_agents.engines.compiling import announced, listen
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.envpool import make_pool
from pg_agents.registry import find_env
from pg_agents.suitability import check_observation_space


def make_vec(
    env_id: str | Callable[..., gym.Env[Any, Any]],
    n_envs: int = 1,
    *,
    seed: int | None = None,
    vectorization_mode: str | None = None,
    world: bool = False,
    backend: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> VecEnv:
    """Make a `VecEnv`: the environment's native vector version if it has one, else SB3's `make_vec_env`.

    A native version needs a `vector_entry_point` in `gym.register` whose requirements are installed, and must accept
    `env_kwargs`. Those of Gymnasium have the autoreset mode `NEXT_STEP`; read the documentation of
    `pg_agents.envs.adapter` before training any algorithm but this package's on them.

    Args:
        env_id: A registered id, or a function or class that makes a single environment. EnvPool has ids of its own.
        n_envs: Number of environments.
        seed: Seed of the first reset and of `action_space`.
        vectorization_mode: None for the native version if there is one, else SB3's `DummyVecEnv` over single
            environments; `"vector_entry_point"` for the native version or an error; `"sync"` or `"async"` for
            Gymnasium's `SyncVectorEnv` or `AsyncVectorEnv` over single environments, in the mode `SAME_STEP`.
        world: Make the environment's world, which compiled code steps: `env_id` itself, or `pg/` before it.
        backend: None for Gymnasium's environments; `"envpool"` for EnvPool's, which step in threads of C++. They need
            `pip install 'pg-agents[envpool]'`.
        env_kwargs: Keyword arguments of the environment. `render_mode` defaults to `"rgb_array"`, and to None with
            EnvPool, whose MuJoCo environments end the process where there is no OpenGL. EnvPool's other arguments
            are not always Gymnasium's.
        **kwargs: Further arguments of `make_vec_env`, such as `wrapper_class`, `monitor_dir` and `vec_env_cls`. They
            apply to single environments, so any of them rules out the native version and EnvPool.

    Returns:
        A `VectorEnvAdapter`, or the result of `make_vec_env`.

    Raises:
        TypeError: A keyword is unknown.
        ValueError: An argument is out of range or cannot be combined with `vectorization_mode` or `backend`, or there
            is no array for the environment's observations.
        ImportError: EnvPool is not installed.
        gymnasium.error.Error: The id is unknown, also in this version, or `vectorization_mode` is
            `"vector_entry_point"` and there is no native version.
    """
    check_number("n_envs", n_envs, at_least=1, integer=True)
    if backend is None:
        find_env(env_id)
    if world:
        combined = {"vectorization_mode": vectorization_mode, "backend": backend, **kwargs}
        for keyword in (keyword for keyword, value in combined.items() if value):
            raise ValueError(f"`{keyword}` cannot be combined with `world=True`: a world steps its copies itself.")
        env_id, vectorization_mode = world_of(env_id), "vector_entry_point"
    known = inspect.signature(make_vec_env).parameters
    for keyword in kwargs.keys() - known.keys():
        raise TypeError(f"make_vec() got an unexpected keyword argument {keyword!r}.{suggestion(keyword, known)}")
    given = sorted(keyword for keyword, value in kwargs.items() if value)
    if vectorization_mode is not None:
        check_choice("vectorization_mode", vectorization_mode, ("vector_entry_point", "sync", "async"))
    if backend is not None:
        check_choice("backend", backend, ("envpool",))
        given += ["vectorization_mode"] if vectorization_mode else []
    for name, choice in (("backend", backend), ("vectorization_mode", vectorization_mode)):
        if choice is not None and (given or not isinstance(env_id, str)):
            odd = f"`{given[0]}`" if given else f"`env_id` {env_id!r}, which is not an id,"
            raise ValueError(f"{odd} cannot be combined with `{name}` {choice!r}; leave the latter None.")
    if isinstance(env_id, str) and backend is not None:
        return _seeded(VectorEnvAdapter(make_pool(env_id, n_envs, env_kwargs or {})), seed)
    if isinstance(env_id, str) and not given:
        try:
            with announced(0):
                if offers_copies(env_id):
                    listen()
                vec_env = VectorEnvAdapter(
                    _vector_env(env_id, n_envs, vectorization_mode or "vector_entry_point", env_kwargs or {})
                )
        except (gym.error.Error, ImportError, TypeError):
            # There is no native version, it does not take these arguments, or a requirement is missing. An error in
            # `env_id` or `env_kwargs` themselves is raised again by `make_vec_env`.
            if vectorization_mode is not None:
                raise
        else:
            return _seeded(vec_env, seed)
    if kwargs.get("vec_env_cls") in (None, DummyVecEnv):
        kwargs["wrapper_class"] = readable(kwargs.get("wrapper_class"))
    return make_vec_env(env_id, n_envs, seed, env_kwargs=env_kwargs, **kwargs)


def readable(wrapper_class: Callable[..., Any] | None) -> Callable[..., Any]:
    """A `wrapper_class` that refuses observations for which `DummyVecEnv` has neither an array nor words.

    Args:
        wrapper_class: Wraps the environment first; None leaves it as it is.
    """

    def wrap(env: gym.Env[Any, Any], **kwargs: Any) -> Any:
        wrapped = env if wrapper_class is None else wrapper_class(env, **kwargs)
        space = wrapped.observation_space
        parts: Iterable[spaces.Space[Any]] = [space]
        if isinstance(space, spaces.Dict | spaces.Tuple):
            parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        if any(part.shape is None for part in parts):
            check_observation_space(space)
        return wrapped

    return wrap


def _seeded(env: VecEnv, seed: int | None) -> VecEnv:
    env.seed(seed)
    if seed is not None:
        env.action_space.seed(seed)
    return env


class NoWorldError(ValueError):
    """An environment has no world."""


def offers_copies(env_id: str) -> bool:
    """Whether an id stands for a world, whose copies compiled code can step; nothing is built.

    Args:
        env_id: A registered id, or any other, for which the answer is no.
    """
    spec = gym.registry.get(env_id)
    point: object = None if spec is None else spec.vector_entry_point
    if isinstance(point, str):
        try:
            point = load_env_creator(point)
        except (ImportError, AttributeError):  # a requirement is missing; whoever makes the environment is told
            return False
    return bool(getattr(point, "offers_copies", False))


def world_of(env_id: object) -> str:
    """The id of an environment's world: the id itself, or `pg/` before it.

    Args:
        env_id: A registered id.

    Raises:
        NoWorldError: There is no such world.
    """
    if isinstance(env_id, str):
        for candidate in (env_id, f"pg/{env_id}"):
            find_env(candidate)
            if offers_copies(candidate):
                return candidate
    known = sorted(one for one in gym.registry if one.startswith("pg/") and offers_copies(one))
    raise NoWorldError(f"There is no world for {env_id!r}. The worlds of this package: {', '.join(known)}.")


def _vector_env(env_id: str, n_envs: int, mode: str, env_kwargs: dict[str, Any]) -> VectorEnv[Any, Any, Any]:
    vector_kwargs = {} if mode == "vector_entry_point" else {"autoreset_mode": AutoresetMode.SAME_STEP}
    try:
        return gym.make_vec(env_id, n_envs, mode, vector_kwargs, **{"render_mode": "rgb_array", **env_kwargs})
    except TypeError:  # as in `make_vec_env`: not every environment takes a render mode
        return gym.make_vec(env_id, n_envs, mode, vector_kwargs, **env_kwargs)
