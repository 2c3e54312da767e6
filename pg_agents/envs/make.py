"""`make_vec`: SB3's `make_vec_env`, which prefers native vector environments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from pg_agents.checks import check_choice, check_number, suggestion
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.registry import find_env


def make_vec(
    env_id: str | Callable[..., gym.Env[Any, Any]],
    n_envs: int = 1,
    *,
    seed: int | None = None,
    vectorization_mode: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> VecEnv:
    """SB3's `make_vec_env`, which takes the environment's native vector version where there is one.

    There is one where `gym.register` was given a `vector_entry_point` whose requirements are installed and that takes
    `env_kwargs`. Gymnasium's own have the autoreset mode `NEXT_STEP`: see this module's documentation before they are
    given to anything but this package's agents.

    Args:
        env_id: The registered id, or a function or class that makes a single environment.
        n_envs: Number of environments.
        seed: Seed of the first reset, and of `action_space`.
        vectorization_mode: None for the native version, else SB3's `DummyVecEnv` over single environments;
            `"vector_entry_point"` for the native version or an error; `"sync"` or `"async"` for Gymnasium's
            `SyncVectorEnv` or `AsyncVectorEnv` over single environments, in the mode `SAME_STEP`.
        env_kwargs: Keyword arguments of the environment. `render_mode` is `"rgb_array"` if not given.
        **kwargs: Further arguments of `make_vec_env`: `wrapper_class`, `monitor_dir`, `vec_env_cls` and so on. They
            concern single environments, and choose them.

    Returns:
        A `VectorEnvAdapter`, or what `make_vec_env` returns.

    Raises:
        TypeError: A keyword is unknown.
        ValueError: An argument is out of range, or does not go with `vectorization_mode`.
    """
    check_number("n_envs", n_envs, at_least=1, integer=True)
    find_env(env_id)
    known = inspect.signature(make_vec_env).parameters
    for keyword in kwargs.keys() - known.keys():
        raise TypeError(f"make_vec() got an unexpected keyword argument {keyword!r}.{suggestion(keyword, known)}")
    given = sorted(keyword for keyword, value in kwargs.items() if value)
    if vectorization_mode is not None:
        check_choice("vectorization_mode", vectorization_mode, ("vector_entry_point", "sync", "async"))
        if given or not isinstance(env_id, str):
            odd = f"`{given[0]}`" if given else f"`env_id` {env_id!r}, which is not an id,"
            raise ValueError(
                f"{odd} cannot be combined with `vectorization_mode` {vectorization_mode!r}; leave that None."
            )
    if isinstance(env_id, str) and not given:
        try:
            vec_env = VectorEnvAdapter(
                _vector_env(env_id, n_envs, vectorization_mode or "vector_entry_point", env_kwargs or {})
            )
        except (gym.error.Error, ImportError, TypeError):
            # No native version, or not with these arguments, or not installed. What is wrong with `env_id` or
            # `env_kwargs` themselves is said again below.
            if vectorization_mode is not None:
                raise
        else:
            vec_env.seed(seed)
            if seed is not None:
                vec_env.action_space.seed(seed)
            return vec_env
    return make_vec_env(env_id, n_envs, seed, env_kwargs=env_kwargs, **kwargs)


def _vector_env(env_id: str, n_envs: int, mode: str, env_kwargs: dict[str, Any]) -> VectorEnv[Any, Any, Any]:
    vector_kwargs = {} if mode == "vector_entry_point" else {"autoreset_mode": AutoresetMode.SAME_STEP}
    try:
        return gym.make_vec(env_id, n_envs, mode, vector_kwargs, **{"render_mode": "rgb_array", **env_kwargs})
    except TypeError:  # as in `make_vec_env`: not every environment knows render modes
        return gym.make_vec(env_id, n_envs, mode, vector_kwargs, **env_kwargs)
