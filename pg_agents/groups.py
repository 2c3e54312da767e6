"""Groups: several episodes from one start, as collectors.

Each environment plays groups of its own. The episodes of a group all start from a reset with one seed, which is drawn
anew for each group. The seed determines the first state, and the environment's random numbers after it too: those are
common random numbers, which two episodes share as long as they draw them in the same order. The actions are drawn
independently, so that no comparison of an episode with the others of its group biases the policy gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pg_agents.collecting import EpisodeCollector
from pg_agents.envs.restarting import replaced, restart
from pg_agents.rolling import RollingEpisodeCollector

_SEEDS = 2**31  # which every generator takes


class GroupCollector(EpisodeCollector):
    """As `EpisodeCollector`, with episodes that start in groups of `setting.group_size`.

    The copies of a world are told the seeds before. Any other environment is reset again, with the seed, when it has
    reset itself at the end of an episode.
    """

    _plans = False  # whether the environments receive the seeds in advance

    def begin(self) -> None:
        """Start the first group of every environment."""
        n_groups = self.buffer.n_episodes // self.setting.group_size
        seeds = self.setting.generator().integers(_SEEDS, size=(self.n_envs, n_groups))
        self._seeds = np.repeat(seeds, self.setting.group_size, axis=1)  # (N, n_episodes)
        self._n_begun = np.zeros(self.n_envs, dtype=int)
        self._plans = self._compiled_env is not None and self._compiled_env.copies.address != 0
        if not self._plans:
            self._advance, self._ask = self._ask, self._advance_and_restart
        super().begin()

    def _must_restart(self) -> bool:
        return True

    def _restart(self) -> Any:
        if self._plans:
            self._plan(self._seeds)
            return self.env.reset()
        self._n_begun[:] = 1
        return restart(self.env, self._seeds[:, 0], np.ones(self.n_envs, dtype=np.bool_))

    def _plan(self, seeds: np.ndarray | None) -> None:
        assert self._compiled_env is not None, "checked by the caller"
        self._compiled_env.adapter.plan(seeds)

    def _advance_and_restart(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """A step, after which the next episode of each environment whose episode has ended has its group's start."""
        observations, rewards, dones, infos = self._advance(actions)
        which = np.asarray(dones, dtype=np.bool_) & (self._n_begun < self.buffer.n_episodes)
        if which.any():
            seeds = self._seeds[np.arange(self.n_envs), np.minimum(self._n_begun, self.buffer.n_episodes - 1)]
            observations = replaced(observations, which, restart(self.env, seeds, which))
            self._n_begun += which
        return observations, rewards, dones, infos

    def collect(self) -> bool:
        """As `EpisodeCollector.collect`. Afterwards the environments start as they please."""
        try:
            return super().collect()
        finally:
            if self._plans:
                self._plan(None)


class RollingGroupCollector(RollingEpisodeCollector, GroupCollector):
    """As `GroupCollector`, with compiled steps."""
