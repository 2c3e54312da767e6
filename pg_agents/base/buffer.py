"""The rollout buffer: its class, and what it is told of the agent."""

from __future__ import annotations

from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer as SB3DictRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer

from pg_agents.base.common import Common
from pg_agents.buffers import OURS, DictEpisodeBuffer, EpisodeBuffer, EpisodeMixin, EstimatorMixin


class BufferMixin(Common, init=False):
    """The choice of a buffer, and its renewal when arguments change."""

    _buffer_is_dated = False  # whether arguments of the rollout buffer have been assigned since it was made

    def after_assigning(self, name: str) -> None:
        """See `Arguments.after_assigning`. The rollout buffer waits until the next rollout begins."""
        super().after_assigning(name)
        if name in ("n_steps", "n_episodes", "n_groups", "group_size", "gamma", "gae_lambda"):
            self._buffer_is_dated = True

    def _default_buffer_class(self) -> type[SB3RolloutBuffer]:
        if isinstance(self.observation_space, spaces.Dict):
            return SB3DictRolloutBuffer if self.n_episodes is None else DictEpisodeBuffer
        return SB3RolloutBuffer if self.n_episodes is None else EpisodeBuffer

    def _check_buffer_class(self, named: type[SB3RolloutBuffer]) -> None:
        estimates_itself = named not in OURS and not issubclass(named, EstimatorMixin)
        if estimates_itself and self._overrides("estimate"):
            raise ValueError(
                f"`rollout_buffer_class` is {named.__name__}, but must derive from pg_agents.buffers.RolloutBuffer or "
                f"DictRolloutBuffer, because {type(self).__name__} has its own way to estimate advantages."
            )
        if self.n_episodes is not None and not issubclass(named, EpisodeMixin):
            raise ValueError(
                f"`rollout_buffer_class` is {named.__name__}, but must derive from pg_agents.buffers.EpisodeBuffer or "
                f"DictEpisodeBuffer, because {type(self).__name__} learns from whole episodes."
            )

    def _renew_buffer(self) -> None:
        """Give the rollout buffer what was assigned since it was made."""
        if not self._buffer_is_dated:
            return
        del self._buffer_is_dated
        buffer, named = self.rollout_buffer, self.rollout_buffer_class
        assert named is not None, "set by `_setup_model`"
        cls = OURS.get(named, named)
        if buffer.buffer_size != self.n_steps and type(buffer) is cls:  # a caller's own stays
            self.rollout_buffer = cls(
                self.n_steps,
                self.policy.observation_space,
                self.policy.action_space,
                device=self.device,
                n_envs=self.n_envs,
                **(self.rollout_buffer_kwargs or {}),
            )
        self.rollout_buffer.gamma, self.rollout_buffer.gae_lambda = self.gamma, self.gae_lambda
        self._fill_in_buffer()

    def _fill_in_buffer(self) -> None:
        if isinstance(self.rollout_buffer, EstimatorMixin):
            self.rollout_buffer.estimator = self.estimate
        if isinstance(self.rollout_buffer, EpisodeMixin):
            assert self.n_episodes is not None
            self.rollout_buffer.n_episodes = self.n_episodes
