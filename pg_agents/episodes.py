"""Whole episodes of a rollout, one row each, alone or in groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pg_agents.contract import Rollout
from pg_agents.estimators import Bools, Floats, reward_to_go, total_return

CREDIT: dict[str, Callable[[Floats, Bools, float], Floats]] = {"episode": total_return, "step": reward_to_go}
"""The credit of a step: the return of its whole episode, or the rewards after it."""


@dataclass(frozen=True)
class Episodes:
    """The returns of a batch of whole episodes, one row each.

    Attributes:
        returns: `(n_episodes, T)`, return of each step; values beyond an episode's end are not used. In groups
            `(n_groups, group_size, T)`.
        alive: Whether the episode had a step t, of the same shape.
    """

    returns: Floats
    alive: Bools

    @property
    def lengths(self) -> np.ndarray:
        """Number of steps of each episode."""
        lengths: np.ndarray = self.alive.sum(axis=-1)
        return lengths


@dataclass(frozen=True)
class Places:
    """The place of each step that is trained on, in the order in which `Rollout.trained_on` picks the steps.

    Attributes:
        episode: Number of its episode.
        step: Number of the step in its episode.
    """

    episode: np.ndarray
    step: np.ndarray


def places(rollout: Rollout) -> Places:
    """Number the episodes of a rollout, across environments, and their steps."""
    ends, trained_on = rollout.ends, rollout.trained_on
    starts = np.concatenate([np.ones_like(ends[:1]), ends[:-1]])
    time = np.arange(len(ends))[:, None]
    step = time - np.maximum.accumulate(np.where(starts, time, 0))
    number = np.cumsum(starts.T, dtype=int).reshape(ends.T.shape).T
    _, episode = np.unique(number[trained_on], return_inverse=True)
    return Places(episode, step[trained_on])


def rows(returns: Floats, where: Places) -> Episodes:
    """Returns of the steps that are trained on, one row for each episode.

    Args:
        returns: One for each step that is trained on.
        where: Their places.
    """
    shape = where.episode.max() + 1, where.step.max() + 1
    found, alive = np.zeros(shape, dtype=returns.dtype), np.zeros(shape, dtype=np.bool_)
    found[where.episode, where.step] = returns
    alive[where.episode, where.step] = True
    return Episodes(found, alive)


def with_total_returns(episodes: Episodes) -> Episodes:
    """The same episodes, each with its total return at every step."""
    steps = episodes.returns.shape[-1]
    return Episodes(np.repeat(episodes.returns[..., :1], steps, axis=-1), np.ones_like(episodes.alive))


def as_credited(episodes: Episodes, credit: str) -> Episodes:
    """The same episodes, with the returns to compare under a name in `CREDIT`."""
    return episodes if credit == "step" else with_total_returns(episodes)


def for_each_step(rollout: Rollout, returns: Floats, compare: Callable[[Episodes], Floats]) -> Floats:
    """A comparison of whole episodes as one number for each step, `(T, N)`; 0 for steps that are not trained on.

    Args:
        rollout: The steps.
        returns: The return of each step.
        compare: Maps episodes to one number for each step of each episode.
    """
    where = places(rollout)
    found = np.zeros_like(returns)
    found[rollout.trained_on] = compare(rows(returns[rollout.trained_on], where))[where.episode, where.step]
    return found


def in_groups(episodes: Episodes, group_size: int) -> Episodes:
    """The same episodes in groups of `group_size` in succession: `(n_groups, group_size, T)`."""
    shape = -1, group_size, episodes.returns.shape[1]
    return Episodes(episodes.returns.reshape(shape), episodes.alive.reshape(shape))
