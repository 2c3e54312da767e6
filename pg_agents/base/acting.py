"""The engine that acts and learns, predictions, and the generator of actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv

from pg_agents.base.spaces import SpacesMixin
from pg_agents.contract import Engine, Loss, Predictor
from pg_agents.engines.choice import check_engine, load_predictor, make_engine, make_predictor
from pg_agents.engines.mlp.tables import kernels_are_loaded
from pg_agents.envs.compiled import compiled_env
from pg_agents.envs.normalizing import Statistics

_ACTION_STREAM = 0x7067


class ActingMixin(SpacesMixin, init=False):
    """The engine in use, and actions outside a training."""

    _engine_in_use: Engine | None = None
    _engine_buffer: SB3RolloutBuffer | None = None  # for which it was made
    _own_generator: np.random.Generator | None = None

    def before_assigning(self, name: str, before: Any) -> None:
        """See `Arguments.before_assigning`; an engine must serve."""
        super().before_assigning(name, before)
        if name == "engine":
            check_engine(self.engine, self.policy, self.rollout_buffer, self.loss())

    def after_assigning(self, name: str) -> None:
        """See `Arguments.after_assigning`. Another engine and another buffer wait until they are needed."""
        super().after_assigning(name)
        if name == "engine":
            self._engine_in_use = None

    @property
    def engine_in_use(self) -> str:
        """Name of the engine that acts and learns; chosen now if training has not begun."""
        return self._engine.name

    @property
    def _engine(self) -> Engine:
        """The engine, chosen anew for each `learn` and whenever the policy or the objective is replaced."""
        return self._engine_for(self.loss())

    def _engine_for(self, loss: Loss) -> Engine:
        engine = self._engine_in_use
        if engine is None or self.rollout_buffer is not self._engine_buffer or not engine.fits(self.policy, loss):
            engine = self._engine_in_use = self._make_engine(loss)
        return engine

    def _make_engine(self, loss: Loss) -> Engine:
        self._engine_buffer = self.rollout_buffer
        return make_engine(self.engine, self.policy, self.rollout_buffer, loss, verbose=self.verbose)

    # The predictor in use, if there is one, and the circumstances for which it was chosen.
    _predictor_of: tuple[tuple[Any, ...], Predictor | None] = (), None

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """The policy's actions, as in SB3; from compiled code where that serves the policy and is loaded.

        It is loaded by training, or by reading `engine_in_use`.

        Args:
            observation: One observation, or a batch of them.
            state: Hidden states of a recurrent policy.
            episode_start: Where episodes begin, for a recurrent policy.
            deterministic: The most probable actions, not sampled ones.

        Returns:
            The actions as the environment takes them, and the next hidden states.
        """
        predictor, translation = self._predictor(), self.translation
        if translation is not None:
            observation = translation.observations(observation)
        actions = None if predictor is None else predictor.predict(observation, deterministic)
        if actions is None:
            actions, state = super().predict(observation, state, episode_start, deterministic)
        return actions if translation is None else translation.actions(actions), state

    def load_predictor(self) -> None:
        """Have `predict` answer from compiled code from now on, if that serves the policy and need not be compiled.

        Training does it anyway; `evaluate_policy` calls this when an evaluation becomes a long one.
        """
        load_predictor(self.engine, self.policy)

    def _predictor(self) -> Predictor | None:
        """The predictor of the policy as it is; None if the policy has to answer itself."""
        circumstances = self.policy, self._engine_in_use, kernels_are_loaded()
        known, predictor = self._predictor_of
        if circumstances != known or (predictor is not None and not predictor.fits()):
            predictor = make_predictor(self.engine, self._engine_in_use, self.policy)
            self._predictor_of = circumstances, predictor
        return predictor

    def roll_episodes(
        self,
        env: VecEnv,
        n_episodes: np.ndarray,
        *,
        deterministic: bool = True,
        max_episode_steps: float = np.inf,
    ) -> list[tuple[float, int]] | None:
        """Play whole episodes in compiled code, from a reset on.

        Args:
            env: The environments, copies of a world.
            n_episodes: `(n_envs,)`, the number of episodes of each.
            deterministic: The most probable actions, not drawn ones.
            max_episode_steps: An episode with more steps is an error.

        Returns:
            Return and length of each episode, in the order of their ends; None, and nothing is done, if environment or
            policy are not served.

        Raises:
            EndlessEpisodeError: An episode does not end.
            NotFiniteError: An observation, a reward or the policy's output is not finite; the message names the
                environment and the step.
        """
        parts = compiled_env(env)
        same = (env.observation_space, env.action_space) == (self.observation_space, self.action_space)
        if parts is None or not parts.copies.address or not same or not self._acts_as_policy:
            return None
        play = getattr(self._engine, "episodes", None)
        if play is None:
            return None
        # As `predict`, it depends on torch's generator, and not on the training's.
        generator = np.random.default_rng(None if deterministic else int(th.randint(2**62, ())))
        statistics = Statistics(env)
        first = statistics.watched(env.reset)()
        statistics.check(0)
        limits = {"deterministic": deterministic, "max_episode_steps": max_episode_steps}
        episodes: list[tuple[float, int]] = play(self.policy, parts, first, n_episodes, generator, **limits)
        return episodes

    def action_generator(self) -> np.random.Generator:
        """The generator from which the compiled engine draws actions."""
        if self._own_generator is None:
            # Without a seed of its own, a run depends on the global one, as SB3's do.
            self._own_generator = np.random.default_rng(int(th.randint(2**62, ())))
        return self._own_generator

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all random generators, the engine's included."""
        super().set_random_seed(seed)
        if seed is not None:
            # Environments seed the same kind of generator with the same number: theirs must be another stream.
            self._own_generator = np.random.default_rng([seed, _ACTION_STREAM])
