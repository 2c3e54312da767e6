"""The steps that callbacks need to see; between them, compiled code may continue without calling the callbacks.

A callback is called at every step, unless it is one of SB3's own that count steps, or has a method `next_look`:

    def next_look(self) -> int | None:
        \"\"\"Number of calls of `on_step` until the one that matters, at least 1; None if none does.\"\"\"

The calls in between are only counted (`n_calls`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common import callbacks
from stable_baselines3.common.callbacks import BaseCallback


@dataclass(frozen=True)
class Look:
    """The next step that a callback needs to see.

    Attributes:
        steps: Number of vector steps until then, at least 1; infinite for never.
        at_ends: The callback counts episodes, so the end of an episode may change its next step.
    """

    steps: float = math.inf
    at_ends: bool = False


def next_look(callback: BaseCallback, n_envs: int) -> Look | None:
    """The next step that a callback needs to see; None for a callback that needs to see every step.

    Args:
        callback: The callback.
        n_envs: Number of environments.
    """
    if _says_when_it_looks(callback):
        steps = callback.next_look()  # type: ignore[attr-defined] # as was checked
        return Look(math.inf if steps is None else steps)
    cls = type(callback)
    replaced = cls.on_step is not BaseCallback.on_step or cls.update_locals is not BaseCallback.update_locals
    known = None if replaced or not _OF_A_LOOK.isdisjoint(vars(callback)) else _KNOWN.get(cls._on_step)
    return None if known is None else known(callback, n_envs)


_OF_A_LOOK = frozenset({"_on_step", "on_step", "update_locals"})


def _says_when_it_looks(callback: BaseCallback) -> bool:
    """Whether it has a `next_look`, and no subclass overrides its methods for a step."""
    for names in (vars(callback), *map(vars, type(callback).__mro__)):
        if "next_look" in names:
            return True
        if not _OF_A_LOOK.isdisjoint(names):
            return False
    return False


_OF_A_ROLLOUT = ("on_rollout_start", "_on_rollout_start", "on_rollout_end", "_on_rollout_end")


def calls_until(every: int, callback: BaseCallback) -> int | None:
    """Number of calls until the environment steps are a multiple of `every` again; None for never, `every` being 0."""
    if every <= 0:
        return None
    return math.ceil((every - callback.model.num_timesteps % every) / callback.model.n_envs)


def passes_multiple(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` is among the numbers above `before`, up to `now`.

    Args:
        every: A number of steps; 0 has no multiples.
        before: Steps at the last call; 0 counts if the steps have been counted anew since.
        now: Steps at this call.
    """
    return every > 0 and now // every > (before if before < now else 0) // every


def sees_rollouts(callback: BaseCallback) -> bool:
    """Whether a callback that `next_look` knows has methods for the beginning or the end of a rollout."""
    cls = type(callback)
    is_list = isinstance(callback, callbacks.CallbackList)
    for name in _OF_A_ROLLOUT:
        plain = getattr(callbacks.CallbackList if is_list else BaseCallback, name)
        if name in vars(callback) or getattr(cls, name) is not plain:
            return True
    return isinstance(callback, callbacks.CallbackList) and any(map(sees_rollouts, callback.callbacks))


def skip(callback: BaseCallback, n_calls: int, n_envs: int, n_episodes: int) -> None:
    """Count the calls of `on_step` that a callback did not need.

    Args:
        callback: A callback that `next_look` knows.
        n_calls: The number of calls.
        n_envs: Number of environments.
        n_episodes: Number of episodes that ended in those steps.
    """
    callback.n_calls += n_calls
    callback.num_timesteps = callback.model.num_timesteps
    if isinstance(callback, callbacks.CallbackList):
        for child in callback.callbacks:
            skip(child, n_calls, n_envs, n_episodes)
    elif isinstance(callback, callbacks.StopTrainingOnMaxEpisodes):
        callback.n_episodes += n_episodes
    elif isinstance(callback, callbacks.ProgressBarCallback):
        callback.pbar.update(n_calls * n_envs)


def _of_list(callback: Any, n_envs: int) -> Look | None:
    looks = [next_look(child, n_envs) for child in callback.callbacks]
    known = [look for look in looks if look is not None]
    if len(known) < len(looks):
        return None
    return Look(min((look.steps for look in known), default=math.inf), any(look.at_ends for look in known))


def _of_function(callback: Any, n_envs: int) -> Look | None:
    return Look() if callback.callback is None else None


def _every(name: str) -> Callable[[Any, int], Look]:
    def look(callback: Any, n_envs: int) -> Look:
        frequency = getattr(callback, name)
        return Look(frequency - callback.n_calls % frequency) if frequency > 0 else Look()

    return look


def _of_timesteps(callback: Any, n_envs: int) -> Look:
    missing = callback.last_time_trigger + callback.n_steps - callback.model.num_timesteps
    return Look(max(1, math.ceil(missing / n_envs)))


def _of_episodes(callback: Any, n_envs: int) -> Look:
    # In one step as many episodes can end as there are environments.
    missing = callback._total_max_episodes - callback.n_episodes
    return Look(at_ends=True) if missing > n_envs else Look(1)


# By the method that looks, so that a subclass with one of its own is asked in every step.
_KNOWN: dict[Callable[..., bool], Callable[[Any, int], Look | None]] = {
    callbacks.CallbackList._on_step: _of_list,
    callbacks.ConvertCallback._on_step: _of_function,
    callbacks.EvalCallback._on_step: _every("eval_freq"),
    callbacks.CheckpointCallback._on_step: _every("save_freq"),
    callbacks.EveryNTimesteps._on_step: _of_timesteps,
    callbacks.ProgressBarCallback._on_step: lambda callback, n_envs: Look(),
    callbacks.StopTrainingOnMaxEpisodes._on_step: _of_episodes,
}
