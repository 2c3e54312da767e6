"""The record of episodes that a wrapper of a hyperparameter file ends.

As in rl_zoo3, `Monitor` is below the wrappers of `env_wrapper`, so that it records the environment's own rewards. It
does not hear of an end that one of them makes, such as a `TimeLimit`: without its record, there is no mean return, and
an evaluation would wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.monitor import Monitor


class RecordedEndings(gym.Wrapper[Any, Any, Any, Any]):
    """Has the `Monitor` below record an episode that a wrapper above it has ended, once the next one begins.

    A wrapper may also say that an episode has ended where the environment goes on, as when a life is lost in Atari's
    games. Nothing is recorded then.

    Args:
        env: The environment, in all of its wrappers.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.last: tuple[Any, ...] | None = None  # the step that has ended an episode without a record

    def step(self, action: Any) -> Any:
        """Step the environment."""
        found = self.env.step(action)
        self.last = found if (found[2] or found[3]) and "episode" not in found[4] else None
        return found

    def reset(self, **kwargs: Any) -> Any:
        """Reset the environment, and complete the info of the last step."""
        monitor, last = unwrap_wrapper(self.env, Monitor), self.last
        if not isinstance(monitor, Monitor) or last is None or monitor.needs_reset:
            return self.env.reset(**kwargs)
        rewards, self.last = monitor.rewards, None
        found = self.env.reset(**kwargs)
        if monitor.rewards is not rewards:  # the reset has reached it
            _record(monitor, rewards, last)
        return found


def _record(monitor: Monitor, rewards: list[float], last: tuple[Any, ...]) -> None:
    """Record an episode by the monitor's own `step`, which writes it into the info of the last one."""
    observation, _, terminated, truncated, info = last
    env, begun, n_steps = monitor.env, monitor.rewards, monitor.total_steps
    try:
        monitor.env, monitor.rewards = _Answered((observation, rewards[-1], terminated, truncated, info)), rewards[:-1]
        monitor.step(None)
    finally:
        monitor.env, monitor.rewards, monitor.needs_reset, monitor.total_steps = env, begun, False, n_steps


class _Answered(gym.Env[Any, Any]):
    """Stands for an environment that has taken its step already."""

    def __init__(self, answer: tuple[Any, ...]) -> None:
        self.answer = answer

    def step(self, action: Any) -> Any:
        return self.answer


def with_recorded_endings(wrapper: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    """An `env_wrapper` whose episodes are recorded, whoever ends them; None for none.

    Args:
        wrapper: Wraps one environment.
    """
    return None if wrapper is None else lambda env: RecordedEndings(wrapper(env))
