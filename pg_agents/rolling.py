"""Collectors whose steps are compiled, policy and environment in one call.

They do what `pg_agents.collecting` does step by step, with the same results, bit for bit (with `VecNormalize`, up to the
rounding of its sums). A call ends where a callback wants to look.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from pg_agents.buffers import EpisodeMixin, EstimatorMixin
from pg_agents.collecting import Collector, EpisodeCollector
from pg_agents.contract import CompiledSteps, Engine, NotFiniteError, RollingEngine
from pg_agents.envs.compiled import CompiledEnv, compiled_env
from pg_agents.looking import next_look, skip
from pg_agents.observations import check_finite


def can_roll(env: VecEnv, engine: Engine, callback: BaseCallback) -> bool:
    """Whether compiled code can take many steps in one call.

    Args:
        env: The environments.
        engine: Acts.
        callback: Must not want to be asked in every step.
    """
    parts = compiled_env(env)
    return (
        parts is not None
        and parts.copies.address != 0
        and isinstance(engine, RollingEngine)
        and next_look(callback, env.num_envs) is not None
    )


class RollingCollector(Collector):
    """As `Collector`, for environments and callbacks that `can_roll` lets through."""

    buffer: EstimatorMixin  # the agent checks its class
    _roll: CompiledSteps

    def _get_actor(self) -> None:
        super()._get_actor()
        env = compiled_env(self.env)
        assert env is not None
        assert isinstance(self._engine, RollingEngine)
        self._compiled: CompiledEnv = env
        self._roll = self._engine.roll(
            self._actor,
            env,
            self.agent._last_obs,  # type: ignore[arg-type]
            self.agent._last_episode_starts,  # type: ignore[arg-type]
            self.setting.statistics.running,
            gamma=self.agent.gamma,
            bootstraps=self.setting.bootstraps,
        )

    def step(self) -> bool:
        """Steps of every environment, until the callback wants to look or the buffer needs room.

        Returns:
            False if the callback stops the training.

        Raises:
            ValueError: As `Collector.step`.
        """
        agent, callback, roll = self.agent, self.callback, self._roll
        look = next_look(callback, self.n_envs)
        assert look is not None, "checked by `can_roll`"
        first = self.buffer.pos
        wanted = min(look.steps, self._room())
        taken = roll.run(int(wanted), look.at_ends)
        agent.num_timesteps += roll.n_transitions
        if not roll.is_finite:
            self._refuse()
        looks = taken == look.steps or (look.at_ends and roll.terminated.any() | roll.truncated.any())
        skip(callback, taken - looks, self.n_envs)
        last = first + taken - 1
        episodes = roll.episodes
        for episode in episodes:
            if episode[0] < last:
                self._count_episode(*episode)
        if looks and not self._look(last):
            self.buffer.advance_to(last)
            return False
        for episode in episodes:
            if episode[0] == last:
                self._count_episode(*episode)
        agent._last_obs, agent._last_episode_starts = roll.observations, roll.starts
        self._dones = roll.terminated | roll.truncated
        self.n_steps += taken
        self.buffer.advance_to(first + taken)
        if looks and (agent.policy is not self._policy or not self._actor.is_current()):  # the callback's doing
            self._get_actor()
        self._after_step()
        return True

    def _room(self) -> int:
        return self.n_rollout_steps - self.n_steps

    def _look(self, row: int) -> bool:
        """Ask the callback, with SB3's local variables, before the step in this row counts as stored."""
        agent, roll, adapter = self.agent, self._roll, self._compiled.adapter
        self.buffer.pos = row
        after = roll.observations
        agent._last_obs, agent._last_episode_starts = roll.before(row)
        dones = roll.terminated | roll.truncated
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.n_envs)]
        for at, index, episode_return, _, length in roll.episodes:
            if at == row:
                infos[index] = {
                    "TimeLimit.truncated": bool(roll.truncated[index] and not roll.terminated[index]),
                    "terminal_observation": roll.last_observation(index),
                    "episode": adapter.episode(episode_return, length),
                }
        obs_tensor, values, log_probs = self._actor.outputs()
        actions, clipped_actions = roll.actions(row)
        self.callback.update_locals(
            {
                **self._locals(),
                "obs_tensor": obs_tensor,
                "values": values,
                "log_probs": log_probs,
                "actions": actions,
                "clipped_actions": clipped_actions,
                "new_obs": after,
                "rewards": roll.rewards.copy(),
                "dones": dones,
                "infos": infos,
            }
        )
        return self.callback.on_step()

    def _count_episode(self, row: int, index: int, episode_return: float, stated_return: float, length: int) -> None:
        agent = self.agent
        assert agent.ep_info_buffer is not None, "made by `learn`"
        agent.ep_info_buffer.append(self._compiled.adapter.episode(episode_return, length))
        self.setting.statistics.finished.append(stated_return)

    def _refuse(self) -> None:
        agent, roll = self.agent, self._roll
        agent._last_obs = roll.observations
        if roll.refused == "output":
            raise self._explained(NotFiniteError("The policy's outputs are not finite"))
        check_finite("reward", roll.rewards, agent.num_timesteps)
        index, value = roll.wrong_value
        raise ValueError(
            f"The value of the last observation of environment {index} is {value}, after {agent.num_timesteps} steps in "
            f"all. The observation: {roll.last_observation(index)}"
        )


class RollingEpisodeCollector(RollingCollector, EpisodeCollector):
    """As `EpisodeCollector`: whole episodes, the same number from each environment."""

    buffer: EpisodeMixin

    def _room(self) -> int:
        return min(
            len(self.buffer.values) - self.buffer.pos, int(self.setting.max_episode_steps - self._lengths().max())
        )

    def _count_episode(self, row: int, index: int, *episode: Any) -> None:
        self._began[index] = row + 1
        super()._count_episode(row, index, *episode)
