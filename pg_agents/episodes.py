"""Whole episodes of a rollout, one row each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pg_agents.contract import Rollout
from pg_agents.estimators import Bools, Floats


@dataclass(frozen=True)
class Episodes:
    """The returns of a batch of whole episodes, one row each.

    Attributes:
        returns: `(n_episodes, T)`, return of each step; values beyond an episode's end are not used.
        alive: `(n_episodes, T)`, whether the episode had a step t.
    """

    returns: Floats
    alive: Bools


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
