"""Collectors whose steps are compiled, policy and environment in one call.

They do what `pg_agents.collecting` does step by step, with the same results, bit for bit (with `VecNormalize`, up to
the rounding of its sums). A call ends where a callback wants to look.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pg_agents.buffers import EpisodeMixin, EstimatorMixin
from pg_agents.collecting import Collector, EpisodeCollector
from pg_agents.contract import CompiledSteps
from pg_agents.envs.compiled import compiled_env
from pg_agents.interrupts import deferred
from pg_agents.looking import next_look, skip
from pg_agents.policies import reset_noise

LONGEST = 10_000  # steps of a call, which cannot be interrupted


class RollingCollector(Collector):
    """As `Collector`, for environments that `compiled_env` knows.

    It goes step by step while the engine cannot roll, or the callback must be asked in every step.
    """

    buffer: EstimatorMixin  # the agent checks its class

    def _get_actor(self) -> None:
        super()._get_actor()
        roll = getattr(self._engine, "roll", None)
        assert self._compiled_env is not None, "checked by the agent"
        self._roll: CompiledSteps | None = None
        if roll is not None and self._compiled_env.copies.address:
            agent, setting = self.agent, self.setting
            running, bootstraps = setting.statistics.running, setting.bootstraps
            self._roll = roll(self._actor, self._compiled_env, running, gamma=agent.gamma, bootstraps=bootstraps)
        self._successes = self._compiled_env.successes()

    def step(self) -> bool:
        """Steps of every environment, as far as the callback need not be asked and the buffer has room.

        The step at which the callback looks is one of `Collector.step`.

        Returns:
            False if the callback stops the training.

        Raises:
            ValueError: As `Collector.step`.
        """
        agent, callback = self.agent, self.callback
        assert self._compiled_env is not None, "checked by the agent"
        # A callback may have replaced the statistics of VecNormalize.
        is_known = self._compiled_env.normalizer is None or compiled_env(self.env) is not None
        roll = self._roll if is_known else None
        look = None if roll is None else next_look(callback, self.n_envs)
        if roll is None or look is None or look.steps <= 1:
            return super().step()
        assert isinstance(agent._last_obs, np.ndarray), "a world has no Dict observations"
        assert agent._last_episode_starts is not None, "set by `learn`"
        wanted = int(min(look.steps - 1, self._room(), LONGEST))
        if agent.use_sde:
            if self._steps_to_new_noise() == 0:
                reset_noise(agent.policy, self.n_envs)
            wanted = int(min(wanted, self._steps_to_new_noise() or agent.sde_sample_freq))
        with deferred():
            stops_at_end = look.at_ends or self._successes is not None
            taken = roll.run(agent._last_obs, agent._last_episode_starts, wanted, stops_at_end)
            agent.num_timesteps += roll.n_transitions
            agent._last_obs, agent._last_episode_starts = roll.observations, roll.starts
            if not roll.is_finite:
                raise ValueError(roll.refusal(agent.num_timesteps))
            episodes = roll.episodes
            for episode in episodes:
                self._count_episode(*episode)
            skip(callback, taken, self.n_envs, len(episodes))
            self._looks_in -= taken
            self._dones = roll.terminated | roll.truncated
            self.n_steps += taken
            self.buffer.advance_to(self.buffer.pos + taken)
            self._after_step()
        return True

    def _room(self) -> float:
        return self.n_rollout_steps - self.n_steps

    def _count_episode(self, row: int, index: int, episode_return: float, stated_return: float, length: int) -> None:
        agent = self.agent
        assert agent.ep_info_buffer is not None, "made by `learn`"
        assert self._compiled_env is not None, "checked by the agent"
        agent.ep_info_buffer.append(self._compiled_env.adapter.episode(episode_return, length))
        self.setting.statistics.finish(stated_return)
        if self._successes is not None:
            assert agent.ep_success_buffer is not None, "made by `learn`"
            agent.ep_success_buffer.append(self._successes()[index])


class RollingEpisodeCollector(RollingCollector, EpisodeCollector):
    """As `EpisodeCollector`: whole episodes, the same number from each environment."""

    buffer: EpisodeMixin

    def _room(self) -> float:
        room = len(self.buffer.values) - self.buffer.pos
        return min(room, self.setting.max_episode_steps - float(self._lengths().max()))

    def _count_episode(self, row: int, index: int, *episode: Any) -> None:
        self._began[index] = row + 1
        super()._count_episode(row, index, *episode)
