"""The loop: a collector acts in the environments and fills the rollout buffer.

One rollout is `begin`, `step` until `is_complete`, `finish`. The order of events inside a step, the names of the local
variables that callbacks read, and the state kept in the agent between rollouts are Stable-Baselines3's.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from pg_agents.buffers import EpisodeMixin, EstimatorMixin
from pg_agents.contract import Actor, Engine, NotFiniteError, Step
from pg_agents.envs.compiled import compiled_env
from pg_agents.envs.given import checked_as_given
from pg_agents.envs.normalizing import Statistics
from pg_agents.envs.stepping import adapter_of, stepper
from pg_agents.estimators import Bools, Floats
from pg_agents.looking import next_look
from pg_agents.observations import LARGEST, are_finite, check_finite, check_observations, check_storable
from pg_agents.policies import explained, reset_noise

LONG, LONG_OF_EACH = 100_000, 10_000  # steps without an end, of all environments together and of each
MANY = 10  # episodes, one of which at least must have been reported


class EpisodeStatistics:
    """Undiscounted returns of episodes, in the environment's own rewards.

    Attributes:
        running: `(N,)`, return so far of each environment's current episode.
        finished: Returns of the last `window` finished episodes.
        n_finished: Number of finished episodes.
        looks_at_monitor: Nobody has checked yet whether `Monitor` reports them.
    """

    # Of the class, because checkpoints of earlier versions lack them.
    n_finished, looks_at_monitor = 0, True
    # Number of finished episodes, and of steps, at the last `check_ends` that found a new one.
    _known, _since = -1, 0.0

    def __init__(self, n_envs: int, window: int) -> None:
        self.running = np.zeros(n_envs)
        self.finished: deque[float] = deque(maxlen=window)

    def finish(self, *returns: float) -> None:
        """Count finished episodes."""
        self.finished.extend(returns)
        self.n_finished += len(returns)

    def check_ends(self, n_steps: int) -> None:
        """Warn of episodes that do not end, once.

        Args:
            n_steps: Steps taken so far, over all environments.
        """
        if self.n_finished != self._known:
            self._known, self._since = self.n_finished, n_steps
        without = n_steps - self._since
        if without >= LONG and without >= LONG_OF_EACH * len(self.running):
            self._since = math.inf
            warnings.warn(
                f"No episode has ended in the last {without:,.0f} steps: there is no `rollout/ep_rew_mean`, and an "
                "evaluation would not end either. Give the environment a time limit: "
                "gymnasium.wrappers.TimeLimit(env, max_episode_steps=1000).",
                stacklevel=2,
            )


@dataclass(frozen=True)
class Setting:
    """The parts of an agent that its collector needs beside SB3's attributes.

    Attributes:
        engine: Gives the engine in use; it may change when a callback replaces the policy.
        generator: Gives the random generator of an engine that does not draw from torch's.
        statistics: Of the agent's episodes.
        bootstraps: The value of the last state completes the reward of a step that a time limit cut.
        to_environment: Turns drawn actions into the environment's; None for `policies.environment_actions`.
        to_policy: Turns the environment's observations into the policy's; None where they are the same.
        max_episode_steps: A whole episode that is longer raises an error.
        group_size: Whole episodes that each environment begins in one and the same way.
        on_filled: Called when the buffer is complete, before the callback hears of it.
        mid_episode: A rollout of whole episodes was stopped, so that environments are in the middle of episodes.
        note_mid_episode: Called with the new value of `mid_episode`.
    """

    engine: Callable[[], Engine]
    generator: Callable[[], np.random.Generator]
    statistics: EpisodeStatistics
    bootstraps: bool = True
    to_environment: Callable[[np.ndarray], np.ndarray] | None = None
    to_policy: Callable[[Any], Any] | None = None
    max_episode_steps: float = np.inf
    group_size: int = 1
    on_filled: Callable[[], None] | None = None
    mid_episode: bool = False
    note_mid_episode: Callable[[bool], None] = lambda mid_episode: None


class Collector:
    """Collects a fixed number of steps from each environment.

    Args:
        agent: The agent, whose `_last_obs`, `_last_episode_starts` and `num_timesteps` move on.
        setting: Further parts of the agent.
        env: The environments.
        callback: Called as in SB3.
        buffer: Filled.
        n_rollout_steps: Steps of each environment.

    Raises:
        ValueError: The environments reset in steps of their own, which the buffer cannot leave out of training.
    """

    def __init__(
        self,
        agent: OnPolicyAlgorithm,
        setting: Setting,
        env: VecEnv,
        callback: BaseCallback,
        buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> None:
        assert agent._last_obs is not None, "No previous observation was provided"
        self.agent, self.setting, self.env, self.callback, self.buffer = agent, setting, env, callback, buffer
        self.n_rollout_steps, self.n_steps, self.n_envs = n_rollout_steps, 0, env.num_envs
        self._native, self._compiled_env, self._statistics = adapter_of(env), compiled_env(env), Statistics(env)
        self._ask = self._statistics.watched(stepper(env))
        if agent.num_timesteps == agent._num_timesteps_at_start:
            self._ask = self._checked_once(self._ask)
        if self._native is not None and not isinstance(buffer, EstimatorMixin):
            raise ValueError(
                f"The vector environment resets in steps of their own, which {type(buffer).__name__} cannot "
                "leave out of training: `rollout_buffer_class` must derive from pg_agents.buffers.RolloutBuffer."
            )
        self._to_policy = setting.to_policy
        self._held: Bools | None = None  # environments that wait for the others
        self._n_moving = self.n_envs
        # SB3's stand-in for no callback does nothing and shows nobody the local variables.
        self._watched = not (type(callback) is ConvertCallback and callback.callback is None)
        # The local variables of SB3's loop.
        self._shown: dict[str, Any] = {
            "self": agent,
            "env": env,
            "callback": callback,
            "rollout_buffer": buffer,
            "n_rollout_steps": n_rollout_steps,
        }

    def _checked_once(self, ask: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
        """As `ask`; the observations of the first answer are checked as the environments give them."""
        is_first = True

        def checked(actions: np.ndarray) -> Any:
            nonlocal is_first
            if not is_first:
                return ask(actions)
            is_first = False
            with checked_as_given(self.env):
                answer = self._statistics.watched(self.env.step)(actions)
            normalizer = self.agent.get_vec_normalize_env()
            check_storable(
                answer[0],
                self.agent.policy.observation_space,
                self.agent.num_timesteps + self._n_moving,
                normalized=normalizer is not None and normalizer.norm_obs,
            )
            return answer

        return checked

    def collect(self) -> bool:
        """Collect one rollout, advantages included.

        Returns:
            False if the callback stopped the training.

        Raises:
            ValueError: An observation or a reward is not finite or does not match its space.
        """
        self.begin()
        while not self.is_complete():
            if not self.step():
                return False
        self.finish()
        return True

    def begin(self) -> None:
        """Empty the buffer, and get an actor."""
        self.buffer.reset()
        if self.agent.use_sde:
            reset_noise(self.agent.policy, self.n_envs)
        self.callback.on_rollout_start()
        self._shape = getattr(self.agent._last_obs, "shape", None)
        self._says_when = self._watched and next_look(self.callback, self.n_envs) is not None
        self._looks_in = 1.0  # steps until the callback looks
        self._get_actor()

    def is_complete(self) -> bool:
        """All steps are collected."""
        return self.n_steps >= self.n_rollout_steps

    def step(self) -> bool:
        """One step of every environment.

        Returns:
            False if the callback stops the training.
        """
        agent, actor, seen = self.agent, self._actor, self.agent._last_obs
        if self._to_policy is not None:
            seen = self._to_policy(seen)
        if agent.use_sde and self._steps_to_new_noise() == 0:
            reset_noise(agent.policy, self.n_envs)
        try:
            actions, clipped_actions = actor.act(seen, agent._last_episode_starts)  # type: ignore[arg-type]
        except NotFiniteError as error:
            raise self._explained(error) from None
        new_obs, rewards, dones, infos = self._ask(clipped_actions)
        agent.num_timesteps += self._n_moving
        self._statistics.check(agent.num_timesteps)
        if not actor.checks or getattr(new_obs, "shape", None) != self._shape:
            check_observations(new_obs, agent.observation_space, self.n_envs, agent.num_timesteps)
        # The sum shows whether one is not finite, at a tenth of NumPy's price for so few.
        if not abs(sum(np.asarray(rewards).tolist())) <= LARGEST:
            check_finite("reward", np.asarray(rewards), agent.num_timesteps)

        if not self._goes_on(actions, clipped_actions, new_obs, rewards, dones, infos):
            return False

        self.n_steps += 1
        self._store(rewards, dones, infos)
        agent._last_obs = new_obs
        self._dones = dones
        if self._watched:
            self._looks_in -= 1
            if self._looks_in < 1:
                self._follow_callback()
        self._after_step()
        return True

    def _steps_to_new_noise(self) -> float:
        """Steps until gSDE's noise is drawn again; 0 for now, infinite for not in this rollout."""
        frequency = self.agent.sde_sample_freq
        return -self.n_steps % frequency if frequency > 0 else np.inf

    def _follow_callback(self) -> None:
        """Act with what is there after a step at which the callback has looked.

        Nothing else can have replaced the policy, or what the actor reads and writes.
        """
        if self.agent.policy is not self._policy or not self._actor.is_current():
            self._get_actor()
        if self._says_when:
            look = next_look(self.callback, self.n_envs)
            self._looks_in = 1 if look is None else look.steps

    def _after_step(self) -> None:
        """Called when the environments have moved and the buffer has the row."""

    def _goes_on(
        self,
        actions: np.ndarray,
        clipped_actions: np.ndarray,
        new_obs: Any,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> bool:
        """Show the callback the step, and ask it."""
        callback = self.callback
        if not self._watched:
            callback.n_calls += 1
            callback.num_timesteps = self.agent.num_timesteps
            return True
        shown = self._shown
        shown["n_steps"] = self.n_steps
        shown["obs_tensor"], shown["values"], shown["log_probs"] = self._actor.outputs()
        shown["actions"], shown["clipped_actions"] = actions, clipped_actions
        shown["new_obs"], shown["rewards"], shown["dones"], shown["infos"] = new_obs, rewards, dones, infos
        callback.update_locals(shown)
        return bool(callback.on_step())

    def finish(self) -> None:
        """Complete the buffer by advantages and returns."""
        agent = self.agent
        # Nobody has acted on the last observation yet.
        check_observations(agent._last_obs, agent.observation_space, self.n_envs, agent.num_timesteps)
        values = self._engine.values(agent.policy, self._as_policy_sees(agent._last_obs))
        self.buffer.compute_returns_and_advantage(last_values=values, dones=self._dones)
        if self.setting.on_filled is not None:
            self.setting.on_filled()
        self._shown |= {"n_steps": self.n_steps, "values": values, "dones": self._dones}
        self.callback.update_locals(self._shown)
        self.callback.on_rollout_end()

    def _as_policy_sees(self, observations: Any) -> Any:
        return observations if self._to_policy is None else self._to_policy(observations)

    def _get_actor(self) -> None:
        self._policy, self._engine = self.agent.policy, self.setting.engine()
        self._actor: Actor = self._engine.actor(
            self._policy, self.buffer, self.setting.generator, self.setting.to_environment
        )

    def _store(self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        agent, running = self.agent, self.setting.statistics.running
        starts, resets = dones, None
        if self._native is not None and self._native.reset_rows.any():
            resets = self._native.reset_rows
            starts = dones | resets
        elif self._held is not None:
            starts = dones | self._held
        for info in infos:
            if "episode" in info or "is_success" in info:
                self._count_episodes(infos, dones)
                break
        normalised = agent._vec_normalize_env
        np.add(running, rewards if normalised is None else normalised.get_original_reward(), running)
        env_rewards, ends = rewards, None
        if np.count_nonzero(dones):
            env_rewards = np.array(rewards)  # before the bootstrap
            ends = self._end_episodes(rewards, dones, infos)
        self._actor.store(Step(rewards, env_rewards, agent._last_episode_starts, resets, ends))  # type: ignore[arg-type]
        agent._last_episode_starts = starts

    def _end_episodes(
        self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> tuple[Bools, Bools, Floats]:
        """Which episodes terminated, which a time limit cut, and the value of the states in which it did."""
        terminated = np.array(dones, dtype=np.bool_)
        truncated = np.zeros_like(terminated)
        final_values = np.zeros(len(terminated), dtype=np.float32)
        statistics = self.setting.statistics
        for index in np.flatnonzero(terminated):
            if self._counts(int(index)):
                statistics.finish(float(statistics.running[index]))
            statistics.running[index] = 0
            cut = infos[index].get("TimeLimit.truncated", False)
            if cut and infos[index].get("terminal_observation") is not None:
                terminated[index], truncated[index] = False, True
        if self.setting.bootstraps and truncated.any():
            self._bootstrap(rewards, truncated, infos, final_values)
        return terminated, truncated, final_values

    def _bootstrap(
        self, rewards: np.ndarray, truncated: Bools, infos: list[dict[str, Any]], final_values: Floats
    ) -> None:
        """R ← r + γ V(last state), in place."""
        agent, cut = self.agent, np.flatnonzero(truncated)
        last_ones = [self._as_policy_sees(infos[index]["terminal_observation"]) for index in cut]
        values = self._engine.final_values(agent.policy, last_ones)
        for index, value in zip(cut, values, strict=True):
            last = infos[index]["terminal_observation"]
            if not (th.isfinite(value) and are_finite(last)):  # a saturated layer hides an infinite one
                raise ValueError(
                    f"The value of the last observation of environment {index} is {value.item()}, after "
                    f"{agent.num_timesteps} steps in all. The observation: {last}"
                )
            final_values[index] = value
            # A tensor, as in SB3: NumPy's and torch's rounding of a float64 reward differ.
            rewards[index] += agent.gamma * value

    def _counts(self, index: int) -> bool:
        """Whether an environment's finished episode enters the statistics."""
        return True

    def _count_episodes(self, infos: list[dict[str, Any]], dones: np.ndarray) -> None:
        self.agent._update_info_buffer(infos, dones)

    def _explained(self, error: NotFiniteError) -> ValueError:
        agent = self.agent
        check_observations(agent._last_obs, agent.observation_space, self.n_envs, agent.num_timesteps)
        return ValueError(explained(error, agent.policy, agent.num_timesteps))


class EpisodeCollector(Collector):
    """Collects whole episodes, the same number from each environment.

    An environment that has contributed its episodes waits for the others if it can: a world's copies stay at the
    beginning of their next episode. Any other environment goes on, and its further episodes do not enter the
    statistics, because short episodes would be over-represented.

    Raises:
        ValueError: An episode does not end.
    """

    buffer: EpisodeMixin  # the agent checks its class

    def begin(self) -> None:
        """Start all environments at the beginning of an episode, unless they are there already."""
        agent = self.agent
        self._began = np.zeros(self.n_envs, dtype=int)
        if self._must_restart():
            agent._last_obs = self._statistics.watched(self._restart)()
            self._statistics.check(agent.num_timesteps)
            check_observations(agent._last_obs, agent.observation_space, self.n_envs, agent.num_timesteps)
            agent._last_episode_starts = np.ones((self.n_envs,), dtype=bool)
            self.setting.statistics.running[:] = 0
        self._hold(None)
        # Until the rollout is complete: a rollout that is stopped leaves episodes that began and were not stored.
        self.setting.note_mid_episode(True)
        super().begin()

    def _must_restart(self) -> bool:
        """Whether the environments have to be reset before the first step."""
        return self.setting.mid_episode or not np.all(self.agent._last_episode_starts)

    def _restart(self) -> Any:
        """Start an episode in every environment."""
        return self.env.reset()

    def is_complete(self) -> bool:
        """Every environment has contributed its episodes."""
        return self.buffer.full

    def collect(self) -> bool:
        """As `Collector.collect`. Whatever happens, no environment goes on waiting."""
        try:
            return super().collect()
        finally:
            self._hold(None)

    def _after_step(self) -> None:
        if self._compiled_env is not None and (held := self.buffer.n_finished >= self.buffer.n_episodes).any():
            self._hold(held)
        limit = self.setting.max_episode_steps
        if self.n_steps >= limit and (lengths := self._lengths()).max() >= limit:
            raise ValueError(
                f"The episode of environment {lengths.argmax()} has not ended after {limit} steps, but "
                f"{type(self.agent).__name__} learns from whole episodes. Give the environment a time limit "
                "(gymnasium.wrappers.TimeLimit), or raise the agent's `max_episode_steps`."
            )

    def _lengths(self) -> np.ndarray:
        """Lengths of the running episodes."""
        lengths = self.n_steps - self._began
        return lengths if self._held is None else np.where(self._held, 0, lengths)

    def _hold(self, held: Bools | None) -> None:
        if self._compiled_env is not None:
            self._held = held
            self._n_moving = self.n_envs if held is None else int(np.count_nonzero(~held))
            self._compiled_env.adapter.hold(held)

    def _end_episodes(
        self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> tuple[Bools, Bools, Floats]:
        self._began[np.asarray(dones, dtype=bool)] = self.n_steps
        return super()._end_episodes(rewards, dones, infos)

    def finish(self) -> None:
        """As `Collector.finish`."""
        self._hold(None)
        self.setting.note_mid_episode(False)
        super().finish()

    def _counts(self, index: int) -> bool:
        return bool(self.buffer.n_finished[index] < self.buffer.n_episodes)

    def _count_episodes(self, infos: list[dict[str, Any]], dones: np.ndarray) -> None:
        counts = np.flatnonzero(self.buffer.n_finished < self.buffer.n_episodes)
        self.agent._update_info_buffer([infos[index] for index in counts], np.asarray(dones)[counts])
