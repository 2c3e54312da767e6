"""A faster step for SB3's `DummyVecEnv`, and the adapter below a stack of wrappers.

`DummyVecEnv.step` deep-copies infos and observations, and each environment's step passes through the wrappers that SB3
and `gymnasium.make` put round it. Together they take as long as the step of a small environment. `stepper` repeats
`DummyVecEnv`'s loop with shallow copies where the values cannot change, and does in the loop what the usual wrappers do
in a step. To be exact it fills the same buffers and the wrappers' attributes, so `step` and the result of `stepper` can
alternate; to be safe it serves only classes whose step is SB3's and Gymnasium's own, and calls `step` of any other.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.layers import layers
from pg_agents.observations import misfit

Step = Callable[[np.ndarray], tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]]

# The loops and steps that `stepper` repeats. Tools patch them in their classes to count or time steps; a patch must be
# called.
_STEP_WAIT = DummyVecEnv.step_wait
_WRAPPERS = (Monitor, TimeLimit, OrderEnforcing, PassiveEnvChecker)
_WRAPPERS_STEPS = [wrapper.step for wrapper in _WRAPPERS]
# The methods that make up a step, SB3's private ones included: any of them may be patched in a single object.
_METHODS = frozenset({"step", "step_async", "step_wait", "_save_obs", "_obs_from_buf"})
_IMMUTABLE = frozenset({bool, int, float, str, bytes, type(None), np.bool_, np.float32, np.float64, np.int32, np.int64})


# An environment with all wrappers; the outermost, if it is an SB3 `Monitor` whose step can be done here; the time limit
# below (`Any`, as Gymnasium's types say that it cannot count), or None; and what is below both and below the wrappers
# that change nothing once their checks are done.
Stack = tuple[gym.Env[Any, Any], Monitor | None, Any, gym.Env[Any, Any]]


def _stack(env: gym.Env[Any, Any]) -> Stack:
    if type(env) is not Monitor or "step" in env.__dict__:
        return env, None, None, env
    limit, inner = None, env.env
    if type(inner) is TimeLimit and "step" not in inner.__dict__:
        limit, inner = inner, inner.env
    # They check the first steps, and later only pass on the results of the environment below.
    while (
        (type(inner) is OrderEnforcing and inner.has_reset)
        # Gymnasium 1.1 has no second check.
        or (type(inner) is PassiveEnvChecker and inner.checked_step and getattr(inner, "checked_data_reuse", True))
    ) and "step" not in inner.__dict__:
        inner = inner.env
    return env, env, limit, inner


class _Answered(gym.Env[Any, Any]):
    """Stands for an environment that has taken its step already."""

    def __init__(self, answer: tuple[Any, ...]) -> None:
        self.answer = answer

    def step(self, action: Any) -> Any:
        return self.answer


def _end_episode(monitor: Monitor, *answer: Any) -> None:
    """Have the monitor record the last step of an episode, and the episode, by its own `step`."""
    env = monitor.env
    try:
        monitor.env = _Answered(answer)
        monitor.step(None)
    finally:
        monitor.env = env


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
    if [wrapper.step for wrapper in _WRAPPERS] == _WRAPPERS_STEPS:
        stacks = [_stack(single) for single in envs]
    else:
        stacks = [(single, None, None, single) for single in envs]

    def step(actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        env.actions = actions
        copies = []
        for index, (single, monitor, limit, inner) in enumerate(stacks):
            if monitor is None or monitor.needs_reset:  # its `step` refuses to
                observation, reward, terminated, truncated, info = single.step(actions[index])
            else:
                observation, reward, terminated, truncated, info = inner.step(actions[index])
                if limit is not None:
                    limit._elapsed_steps += 1
                    if limit._elapsed_steps >= limit._max_episode_steps:
                        truncated = True
                if terminated or truncated:
                    _end_episode(monitor, observation, reward, terminated, truncated, info)
                else:
                    monitor.rewards.append(float(reward))
                    monitor.total_steps += 1
            rewards[index] = reward
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
    """A deep copy; a cheap one where the values are numbers, texts, arrays, or dictionaries of numbers and texts."""
    copied = info.copy()
    for key, value in info.items():
        kind = type(value)
        if kind in _IMMUTABLE:
            continue
        if kind is np.ndarray and not value.dtype.hasobject:
            copied[key] = value.copy(order="K")
        elif kind is dict and all(type(part) in _IMMUTABLE for part in value.values()):
            copied[key] = value.copy()
        else:
            return deepcopy(info)
    return copied


def adapter_of(env: VecEnv) -> VectorEnvAdapter | None:
    """The adapter below any number of wrappers, if its resets take steps (`NEXT_STEP`); None for all other cases.

    Args:
        env: The environment.
    """
    innermost = layers(env)[-1]
    if isinstance(innermost, VectorEnvAdapter) and innermost.autoreset_mode is AutoresetMode.NEXT_STEP:
        return innermost
    return None
