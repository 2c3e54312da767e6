"""The log of an agent."""

from __future__ import annotations

from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import safe_mean

from pg_agents.base.common import Common
from pg_agents.logs import LazyLog, is_unread


class LogMixin(Common, init=False):
    """SB3's logger, with metrics that are worked out when it is read."""

    @property
    def _lazy_log(self) -> LazyLog:
        log: LazyLog = vars(self).setdefault("_unlogged", LazyLog())
        return log

    @property
    def logger(self) -> Logger:
        """SB3's logger, complete: metrics that cost time are computed when the log is read."""
        self._lazy_log.write(self._logger)
        return self._logger

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log; may be called at any time.

        Args:
            iteration: Number of updates so far; 0 to leave it out of the log.
        """
        if is_unread(self._logger):
            self._lazy_log.clear()
        if self.episode_statistics.finished:
            self.logger.record("rollout/ep_raw_rew_mean", safe_mean(self.episode_statistics.finished))
        super().dump_logs(iteration)
