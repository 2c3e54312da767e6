"""Episodes that start from given seeds in some environments of a `VecEnv`, while the others continue."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.layers import layers
from pg_agents.estimators import Bools

SEED_OF_CHECK = 0
_UNCHANGING = (VecCheckNan, VecVideoRecorder)
_KNOWN = (VecNormalize, VecMonitor, VecTransposeImage, VecExtractDictObs, *_UNCHANGING)


def restart(env: VecEnv, seeds: np.ndarray, which: Bools) -> Any:
    """Start an episode from a given seed in some environments.

    Args:
        env: A `VectorEnvAdapter`, or a `VecEnv` of single environments, maybe in SB3's wrappers, those without memory.
            A wrapper of another kind takes part if it has a method `restarted(first, which)`, which returns the first
            observations as the wrapper gives them.
        seeds: `(num_envs,)`.
        which: `(num_envs,)`; the seeds of others are not used.

    Returns:
        The first observations of these environments, `(k, ...)`, in their order.

    """
    if isinstance(env, VecEnvWrapper):
        return _passed_through(env, restart(env.venv, seeds, which), which)
    if isinstance(env, VectorEnvAdapter):
        return env.restart(seeds, which)
    observations, infos = [], list(getattr(env, "reset_infos", [{}] * env.num_envs))
    for i in np.flatnonzero(which).tolist():
        ((observation, infos[i]),) = env.env_method("reset", seed=int(seeds[i]), indices=[i])
        observations.append(observation)
    env.reset_infos = infos
    return _stacked(observations, env.observation_space)


def _stacked(observations: list[Any], space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _stacked([one[key] for one in observations], part) for key, part in space.spaces.items()}
    return np.stack([np.asarray(one, dtype=space.dtype) for one in observations])


def _passed_through(env: VecEnvWrapper, first: Any, which: Bools) -> Any:
    """First observations as a wrapper returns them, after it has been notified of the new episodes."""
    if isinstance(env, VecNormalize):
        env.returns[which] = 0
        env.old_obs = first if which.all() else replaced(env.old_obs, which, first)
        return env.normalize_obs(first)
    if isinstance(env, VecMonitor):
        env.episode_returns[which], env.episode_lengths[which] = 0, 0
        return first
    if isinstance(env, VecTransposeImage):
        return env.transpose_observations(first)
    if isinstance(env, VecExtractDictObs):
        return first[env.key]
    return first if isinstance(env, _UNCHANGING) else env.restarted(first, which)


def replaced(observations: Any, which: Bools, rows: Any) -> Any:
    """A copy of observations `(num_envs, ...)`, arrays or dictionaries of arrays, with other rows."""
    if isinstance(observations, dict):
        return {key: replaced(array, which, rows[key]) for key, array in observations.items()}
    changed = np.array(observations)
    changed[which] = rows
    return changed


def check_restarts(env: VecEnv) -> None:
    """Start an episode twice from one seed in every environment, and compare.

    Args:
        env: The environments; all of them are at the beginning of an episode afterwards.

    Raises:
        ValueError: The environments cannot be reset one by one with a seed, a reset is not determined by its seed, or a
            wrapper would not notice a reset.
    """
    _check_wrappers(env)
    seeds, everywhere = np.full(env.num_envs, SEED_OF_CHECK), np.ones(env.num_envs, dtype=np.bool_)
    try:
        first, second = (restart(env, seeds, everywhere) for _ in range(2))
    except Exception as error:
        raise ValueError(
            "Groups of episodes need environments that can be reset one by one with a seed, such as those of "
            f"`make_vec(id, n, world=True)` and SB3's `make_vec_env(id, n)`, but {type(env).__name__} answered with "
            f"{type(error).__name__}: {error}"
        ) from error
    pairs = (
        [(first[key], second[key], f" {key!r}") for key in first] if isinstance(first, dict) else [(first, second, "")]
    )
    for one, other, name in pairs:
        for i in range(env.num_envs):
            if not np.array_equal(one[i], other[i], equal_nan=one.dtype.kind == "f"):
                raise ValueError(
                    f"Groups of episodes need environments whose reset is determined by its seed, but two resets of "
                    f"environment {i} with the seed {SEED_OF_CHECK} gave the first observations{name} {one[i]} and "
                    f"{other[i]}. An environment must draw all randomness from `self.np_random`, which "
                    "`super().reset(seed=seed)` seeds."
                )


def _check_wrappers(env: VecEnv) -> None:
    for wrapper in layers(env)[:-1]:
        if not isinstance(wrapper, _KNOWN) and not hasattr(type(wrapper), "restarted"):
            raise ValueError(
                f"Groups of episodes restart one environment while the others go on, but {type(wrapper).__name__} "
                "would not notice. Wrap each environment instead (gymnasium.wrappers.FrameStackObservation in the "
                "place of VecFrameStack), or give the wrapper a method `restarted(first, which)`: see "
                "pg_agents.envs.restarting.restart."
            )
