"""The running statistics of `VecNormalize`, which a number that is not finite must not enter.

SB3's wrapper updates them in its own step, before anyone else sees the step's observations and rewards. One NaN would
stay in them, and in the file that they are saved in, for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from pg_agents.envs.layers import layers
from pg_agents.observations import check_finite

# Below, neither a float32 variance overflows, nor the sum of squares that shows it.
_LARGE = 1e37


class Statistics:
    """The statistics of every `VecNormalize` in a stack of wrappers, as they were before the last step.

    Args:
        env: The outermost wrapper, or the environment itself.
    """

    def __init__(self, env: VecEnv) -> None:
        self._layers = [one for one in layers(env) if isinstance(one, VecNormalize)]
        self._before: list[tuple[VecNormalize, Callable[[], None]]] = []

    def watched(self, take: Callable[..., Any]) -> Callable[..., Any]:
        """`take`, a step or a reset of the environment, preceded by a look at the statistics."""
        if not self._layers:
            return take

        def watched(*arguments: Any) -> Any:
            self._before = [(layer, _memory(layer)) for layer in self._layers]
            # Of the statistics' own arithmetic: `check` says what is wrong.
            with np.errstate(invalid="ignore", over="ignore"):
                return take(*arguments)

        return watched

    def check(self, n_steps: int) -> None:
        """Refuse numbers that would spoil the statistics, and put these back.

        Args:
            n_steps: Environment steps taken so far, for the message.

        Raises:
            ValueError: An observation or a reward is not finite, or so large that a variance is not.
        """
        for layer, _ in self._before:
            known = vars(layer)  # not the environment's attribute, to which a wrapper without one would lead
            if "old_obs" not in known:
                continue  # nothing was normalised yet
            given = known["old_obs"] if isinstance(known["old_obs"], dict) else {"": known["old_obs"]}
            parts = [(f"observation {key!r}" if key else "observation", part) for key, part in given.items()]
            parts.append(("reward", layer.old_reward))
            if all(_is_small(part) for _, part in parts):
                continue
            try:
                self._refuse(layer, parts, n_steps)
            except ValueError:
                for _, put_back in self._before:
                    put_back()
                raise

    def _refuse(self, layer: VecNormalize, parts: list[tuple[str, Any]], n_steps: int) -> None:
        """Raise the error, if there is one."""
        for name, part in parts:
            if not np.isfinite(part).all():
                check_finite(name, np.asarray(part), n_steps)
        if not _are_finite(layer):
            name, part = max(parts, key=lambda named: np.abs(named[1]).max())
            env = int(np.abs(part).reshape(len(part), -1).max(axis=1).argmax())
            raise ValueError(
                f"The {name} of environment {env} is too large for the statistics of VecNormalize, after {n_steps} "
                f"steps in all: {part[env]}."
            )


def _is_small(values: Any) -> bool:
    # For so few numbers this takes a third of the time of `isfinite` and `all`.
    return values.dtype.kind != "f" or bool(np.vdot(values, values) < _LARGE)


def _statistics(layer: VecNormalize) -> list[RunningMeanStd]:
    if not layer.norm_obs:
        return [layer.ret_rms]
    of_observations: Any = layer.obs_rms
    parts = of_observations.values() if isinstance(of_observations, dict) else [of_observations]
    return [*parts, layer.ret_rms]


def _are_finite(layer: VecNormalize) -> bool:
    return all(np.isfinite(one.mean).all() and np.isfinite(one.var).all() for one in _statistics(layer))


def _memory(layer: VecNormalize) -> Callable[[], None]:
    """Remember a wrapper's statistics; the function returned puts them back."""
    # SB3 replaces the arrays of statistics in each step, and does not write to them. It writes to `returns`.
    statistics = [(one, one.mean, one.var, one.count) for one in _statistics(layer)]
    returns, old_reward, old_obs = copy(layer.returns), layer.old_reward, vars(layer).get("old_obs")

    def put_back() -> None:
        for one, mean, variance, count in statistics:
            one.mean, one.var, one.count = mean, variance, count
        layer.returns, layer.old_reward = returns, old_reward
        if old_obs is not None:
            layer.old_obs = old_obs

    return put_back
