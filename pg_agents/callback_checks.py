"""What is checked of callbacks when `learn` begins, so that nobody waits in vain for a file, or for a fault to show."""

from __future__ import annotations

import math
import warnings
from typing import Any

from gymnasium import spaces
from stable_baselines3.common import callbacks
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage, sync_envs_normalization

from pg_agents.envs.layers import layers
from pg_agents.envs.sharing import share_episodes
from pg_agents.looking import next_look
from pg_agents.resuming.run import callbacks_in


def check_callbacks(agent: Any, total_timesteps: int, callback: BaseCallback) -> None:
    """Refuse an evaluation that would spoil the training or cannot take place, and warn of callbacks that never act.

    Args:
        agent: The agent, before its first step.
        total_timesteps: Steps at which the training ends.
        callback: All callbacks.

    Raises:
        ValueError: An `EvalCallback` evaluates in the training's environment, or in one that is wrapped differently.

    Warns:
        UserWarning: A callback of SB3's counts calls, and there are too few.
    """
    for one in callbacks_in(callback):
        if isinstance(one, callbacks.EvalCallback) and one.eval_freq > 0:
            _check_evaluation(one, agent.env, agent.observation_space)
        _warn_of_too_few_calls(one, agent, total_timesteps)


_FROZEN = ", this one with VecNormalize(env, training=False, norm_reward=False)"


def _check_evaluation(callback: callbacks.EvalCallback, training: VecEnv, space: spaces.Space[Any]) -> None:
    name, env = type(callback).__name__, callback.eval_env
    if share_episodes(training, env):
        raise ValueError(
            f"`eval_env` of {name} is the environment of the training, whose episodes would break off at each "
            "evaluation: give it one of its own, such as make_vec_env(id, n)."
        )
    normalizes = any(isinstance(one, VecNormalize) for one in layers(training))
    try:
        if normalizes:
            sync_envs_normalization(training, env)  # as at each evaluation
        fits = normalizes or not any(isinstance(one, VecNormalize) and one.norm_obs for one in layers(env))
    except (AssertionError, AttributeError):
        fits = False
    if not (fits and _fits(env.observation_space, space)):
        raise ValueError(
            f"`eval_env` of {name} is not wrapped like the training's environment: {_described(env)}, not "
            f"{_described(training)}. Wrap both in the same way{_FROZEN if normalizes else ''}."
        )


def _described(env: VecEnv) -> str:
    names = " in ".join(type(one).__name__ for one in reversed(layers(env)))
    return f"{names} with observations {env.observation_space}"


def _fits(given: spaces.Space[Any], known: spaces.Space[Any]) -> bool:
    """Whether observations have the shapes that a policy knows, images in either order of their axes."""
    if isinstance(given, spaces.Dict) and isinstance(known, spaces.Dict):
        return given.keys() == known.keys() and all(_fits(given[key], known[key]) for key in known)
    if isinstance(given, spaces.Box) and isinstance(known, spaces.Box):
        is_transposed = is_image_space(given) and not is_image_space_channels_first(given)
        shapes = {given.shape, VecTransposeImage.transpose_space(given).shape if is_transposed else given.shape}
        return known.shape in shapes
    return type(given) is type(known)


_FREQUENCIES = {
    callbacks.EvalCallback._on_step: "eval_freq",
    callbacks.CheckpointCallback._on_step: "save_freq",
}


def _warn_of_too_few_calls(callback: BaseCallback, agent: Any, total_timesteps: int) -> None:
    """Warn of a callback of SB3's that is called less often than its frequency, which is one of calls."""
    frequency = _FREQUENCIES.get(type(callback)._on_step)
    look = next_look(callback, agent.n_envs)
    if frequency is None or look is None or math.isinf(look.steps) or agent.n_envs == 1 or math.isinf(total_timesteps):
        return
    n_rollouts = math.ceil((total_timesteps - agent.num_timesteps) / (agent.n_envs * agent.n_steps))
    n_calls = n_rollouts * agent.n_steps
    if callback.parent is None and n_calls < look.steps:
        name, value = type(callback).__name__, getattr(callback, frequency)
        warnings.warn(
            f"SB3's {name} will not act in this training: {frequency}={value} counts calls, and there are {n_calls:,}, "
            f"each of {agent.n_envs} steps. pg_agents.{name} counts steps.",
            stacklevel=6,
        )
