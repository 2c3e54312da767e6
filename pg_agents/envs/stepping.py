"""Stepping SB3's `DummyVecEnv` without its deep copies, which cost as much as a small environment's own step."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from pg_agents.envs.adapter import VectorEnvAdapter

Step = Callable[[np.ndarray], tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]]

_STEP_WAIT = DummyVecEnv.step_wait  # what is imitated here, should it be replaced later
_IMMUTABLE = frozenset({bool, int, float, str, bytes, type(None), np.bool_, np.float32, np.float64, np.int32, np.int64})


def stepper(env: VecEnv) -> Step:
    """What to call instead of `env.step`: the same results, sooner where that can be had.

    Args:
        env: Any; other than a plain `DummyVecEnv` of array observations, its own `step` is returned.
    """
    replaced = {"step", "step_async", "step_wait", "_save_obs", "_obs_from_buf"} & vars(env).keys()
    if type(env) is not DummyVecEnv or DummyVecEnv.step_wait is not _STEP_WAIT or env.keys != [None] or replaced:
        return env.step
    envs, rewards, dones, infos = env.envs, env.buf_rews, env.buf_dones, env.buf_infos
    observations = env.buf_obs[None]  # type: ignore[index] # its key, where there is only one

    def step(actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        env.actions = actions
        copies = []
        for index, single in enumerate(envs):
            observation, rewards[index], terminated, truncated, info = single.step(actions[index])
            dones[index] = done = terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            infos[index] = info
            if done:
                info["terminal_observation"] = observation
                observation, env.reset_infos[index] = single.reset()
            try:
                observations[index] = observation
            except (TypeError, ValueError):
                env._save_obs(index, observation)  # SB3's own error, from where its frames are looked for
            copies.append(info.copy() if len(info) == 1 else _copy(info))
        return observations.copy(), rewards.copy(), dones.copy(), copies

    return step


def _copy(info: dict[str, Any]) -> dict[str, Any]:
    """A deep copy, which of immutable values is a shallow one."""
    for value in info.values():
        if type(value) not in _IMMUTABLE:
            return deepcopy(info)
    return info.copy()


def adapter_of(env: VecEnv) -> VectorEnvAdapter | None:
    """The adapter of a Gymnasium vector environment under any number of wrappers, if its resets are steps."""
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    if isinstance(env, VectorEnvAdapter) and env.autoreset_mode is AutoresetMode.NEXT_STEP:
        return env
    return None
