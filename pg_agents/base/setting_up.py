"""Making an agent's policy and buffer."""

from __future__ import annotations

import inspect

from pg_agents.base.acting import ActingMixin
from pg_agents.base.buffer import BufferMixin
from pg_agents.base.prior import PriorMixin
from pg_agents.buffers import OURS
from pg_agents.collecting import EpisodeStatistics
from pg_agents.engines.choice import check_engine
from pg_agents.policies import ZeroValue, separate_critic
from pg_agents.suitability import check_policy


class SetUpMixin(ActingMixin, BufferMixin, PriorMixin, init=False):
    """The model that the constructor makes."""

    def _setup_model(self) -> None:
        with self.takes_all():
            self._set_up()

    def _set_up(self) -> None:
        if len(inspect.signature(self.objective).parameters) > 0:
            raise TypeError(
                f"`objective` of {type(self).__name__} must take no argument and return an Objective(value, weight): "
                "see pg_agents.contract.Objective."
            )
        self.check_arguments()
        self.complete_arguments()
        if self.group_size is not None:
            self.n_episodes = self.n_groups * self.group_size
        self._engine_in_use = None
        named = self.rollout_buffer_class or self._default_buffer_class()
        self._check_buffer_class(named)
        # A file names SB3's own buffer class, so that it loads in SB3; the class derived from it is used.
        self.rollout_buffer_class = OURS.get(named, named)
        kwargs, normalized = self.policy_kwargs or {}, self._normalizes_observations
        check_policy(self.policy_class, self.observation_space, kwargs, normalized=normalized)
        with self._spaces_of_policy():
            super()._setup_model()
        self.rollout_buffer_class = named
        if self.has_critic and isinstance(getattr(self.policy, "value_net", None), ZeroValue):
            raise ValueError(
                f"{type(self).__name__} learns a value function, but its policy {self.policy_class.__name__} has none."
            )
        if self.separate_critic:
            separate_critic(self.policy, self.lr_schedule(1))
        if self.prior is not None:
            self._take_prior()
        self._fill_in_buffer()
        self.episode_statistics = EpisodeStatistics(self.n_envs, self._stats_window_size)
        check_engine(self.engine, self.policy, self.rollout_buffer, self.loss())
