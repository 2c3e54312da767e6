"""A faster step for SB3's `DummyVecEnv`, and the adapter below a stack of wrappers.

`DummyVecEnv.step` deep-copies infos and observations, which takes as long as the step of a small environment. `stepper`
repeats its loop with shallow copies where the values cannot change. To be exact it fills the same buffers, so `step`
and the result of `stepper` can alternate; to be safe it serves only an environment whose step is SB3's own, and leaves
any other to its own `step`.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.observations import misfit

Step = Callable[[np.ndarray], tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]]

# The loop that `stepper` repeats. Tools patch it in SB3's class to count or time steps; their patch must be called.
_STEP_WAIT = DummyVecEnv.step_wait
# The methods that make up a step, SB3's private ones included: any of them may be patched in a single object.
_METHODS = frozenset({"step", "step_async", "step_wait", "_save_obs", "_obs_from_buf"})
_IMMUTABLE = frozenset({bool, int, float, str, bytes, type(None), np.bool_, np.float32, np.float64, np.int32, np.int64})


def stepper(env: VecEnv) -> Step:
    """A function with the results of `env.step`, faster if possible.

    Args:
        env: The environment. Unless it is a `DummyVecEnv` with array observations, and neither a subclass nor patched,
            its own `step` is returned.
    """
    patched = DummyVecEnv.step_wait is not _STEP_WAIT or not _METHODS.isdisjoint(vars(env))
    if type(env) is not DummyVecEnv or env.keys != [None] or patched:
        return env.step
    envs, rewards, dones, infos = env.envs, env.buf_rews, env.buf_dones, env.buf_infos
    observations = env.buf_obs[None]  # type: ignore[index] # the key of observations without keys

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
            except (TypeError, ValueError) as error:  # NumPy's, which names neither environment nor space
                raise misfit(index, observation, env.observation_space) from error
            copies.append(info.copy() if len(info) == 1 else _copy(info))  # alone, `TimeLimit.truncated` is a bool
        return observations.copy(), rewards.copy(), dones.copy(), copies

    return step


def _copy(info: dict[str, Any]) -> dict[str, Any]:
    """A deep copy; a shallow one if all values are immutable."""
    for value in info.values():
        if type(value) not in _IMMUTABLE:
            return deepcopy(info)
    return info.copy()


def adapter_of(env: VecEnv) -> VectorEnvAdapter | None:
    """The adapter below any number of wrappers, if its resets take steps (`NEXT_STEP`); None for all other cases.

    Args:
        env: The environment.
    """
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    if isinstance(env, VectorEnvAdapter) and env.autoreset_mode is AutoresetMode.NEXT_STEP:
        return env
    return None
