"""Environments whose steps compiled code can take: copies of a world, maybe in a `VecNormalize`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from pg_agents.contract import Copies
from pg_agents.envs.adapter import VectorEnvAdapter


@dataclass(frozen=True)
class CompiledEnv:
    """The parts of such an environment.

    Attributes:
        adapter: The adapter round the vector environment.
        copies: The copies that step them.
        normalizer: The `VecNormalize` round the adapter, if there is one.
    """

    adapter: VectorEnvAdapter
    copies: Copies
    normalizer: VecNormalize | None = None

    def successes(self) -> Callable[[], np.ndarray] | None:
        """Gives `is_success` of the episodes that ended in the last step, `(N,)`; None if the environment has none."""
        info, last_info = (getattr(self.copies, name, None) for name in ("info", "last_info"))
        if info is None or last_info is None or "is_success" not in info():
            return None
        return lambda: last_info()["is_success"]


# Methods that make up a step: any of them may be replaced in a single object.
_OF_A_STEP = frozenset({"step", "step_async", "step_wait", "normalize_obs", "normalize_reward", "_update_reward"})


def compiled_env(env: VecEnv) -> CompiledEnv | None:
    """The parts of an environment whose steps compiled code can take, if there is a compiler; None for any other.

    Args:
        env: The environment. Subclasses, other wrappers and replaced methods rule it out: their steps are their own.
    """
    normalizer = None
    if type(env) is VecNormalize:
        normalizer, env = env, env.venv
        if not _OF_A_STEP.isdisjoint(vars(normalizer)) or not _has_plain_statistics(normalizer):
            return None
    if type(env) is not VectorEnvAdapter or not _OF_A_STEP.isdisjoint(vars(env)):
        return None
    copies = env.copies
    return None if copies is None else CompiledEnv(env, copies, normalizer)


def _has_plain_statistics(env: VecNormalize) -> bool:
    """Whether the statistics are SB3's, of the shapes with which SB3 has made them."""
    kept: list[tuple[Any, tuple[int, ...] | None]] = [(env.ret_rms, ())]
    if env.norm_obs:
        kept.append((env.obs_rms, env.observation_space.shape))
    for moments, shape in kept:
        if type(moments) is not RunningMeanStd or "update" in vars(moments):
            return False
        arrays = np.asarray(moments.mean), np.asarray(moments.var)
        if any(array.shape != shape or array.dtype.kind != "f" for array in arrays):
            return False
    return np.shape(env.returns) == (env.num_envs,)
