"""The base of all diagnostics: the times of measurement, and access to rollout, policy and log."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.logger import DISABLED, TensorBoardOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from pg_agents.checks import check_number
from pg_agents.policies import unchecked_distributions


class Diagnostic(BaseCallback):
    """A callback that measures the first rollout, and then one rollout in every `every` environment steps.

    Args:
        every: Number of environment steps between measurements; 1 measures every rollout.
        verbose: Verbosity, as in SB3.

    Raises:
        ValueError: `every` is out of range, or (when training starts) the algorithm is not on-policy, or has workers
            that collect in its place.
    """

    def __init__(self, every: int, verbose: int = 0) -> None:
        super().__init__(verbose)
        check_number("every", every, at_least=1, integer=True)
        self.every = every
        self._watched: Any = None
        self._measured_at = -np.inf

    def _on_training_start(self) -> None:
        self._check_model()
        # A training that continues with `reset_num_timesteps=False` continues its measurements.
        if self.num_timesteps == 0 or self.model is not self._watched:
            self._watched = self.model
            self._restart()

    def _restart(self) -> None:
        """Forget the measurements of an earlier training."""
        self._measured_at = -np.inf

    def _check_model(self) -> None:
        name, model = type(self).__name__, self.model
        if not isinstance(model, OnPolicyAlgorithm):
            raise ValueError(
                f"{name} reads rollouts, so it is for on-policy algorithms, not for {type(model).__name__}."
            )
        if not getattr(model, "collects_itself", True):  # which SB3's agents do not state
            raise ValueError(
                f"{name} reads the agent's own rollout buffer, but workers collect the rollouts of this "
                f"{type(model).__name__} into buffers of theirs. n_workers=1 with backend='auto' has none."
            )
        for attribute, kind in (("hidden_states_pi", "recurrent policies"), ("action_masks", "masked actions")):
            if hasattr(model.rollout_buffer, attribute):
                raise ValueError(f"{name} does not support {kind}, which {type(model).__name__} has.")

    def next_look(self) -> int | None:
        """Never in the middle of a rollout, so compiled code may collect all of it in one call."""
        return None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps - self._measured_at >= self.every and len(self._steps):
            self._measured_at = self.num_timesteps
            self._measure()

    @abstractmethod
    def _measure(self) -> None:
        """Measure the rollout that has just been collected."""

    @property
    def _policy(self) -> ActorCriticPolicy:
        policy = self.model.policy
        assert isinstance(policy, ActorCriticPolicy)
        return policy

    @property
    def _buffer(self) -> RolloutBuffer:
        assert isinstance(self.model, OnPolicyAlgorithm)
        return self.model.rollout_buffer

    @property
    def _steps(self) -> np.ndarray:
        """Indices of the steps that are trained on, sorted by environment and then by time."""
        buffer = self._buffer
        trained_on = getattr(buffer, "trained_on", None)
        return np.arange(buffer.pos * buffer.n_envs) if trained_on is None else np.flatnonzero(trained_on.T)

    def _stored(self, name: str, steps: np.ndarray) -> Any:
        """An array of the rollout buffer at the given steps, as a tensor (or several) on the agent's device."""
        stored = getattr(self._buffer, name)
        env, time = np.divmod(steps, self._buffer.pos)
        if isinstance(stored, dict):
            return obs_as_tensor({key: array[time, env] for key, array in stored.items()}, self.model.device)
        return obs_as_tensor(stored[time, env], self.model.device)

    @contextmanager
    def _acting(self) -> Iterator[ActorCriticPolicy]:
        """The policy in evaluation mode.

        In training mode, dropout would draw random numbers and batch normalisation would update its statistics, both
        of which change the training.
        """
        policy = self._policy
        training = policy.training
        policy.set_training_mode(False)
        try:
            with unchecked_distributions():
                yield policy
        finally:
            policy.set_training_mode(training)

    @property
    def _tensorboards(self) -> list[TensorBoardOutputFormat]:
        """The TensorBoard logs, for immediate writing: SB3 writes its log before an update, never after the last."""
        if self.locals.get("log_interval", 1) is None or self.logger.level == DISABLED:
            return []
        return [output for output in self.logger.output_formats if isinstance(output, TensorBoardOutputFormat)]

    def _write(self, values: dict[str, Any]) -> None:
        for output in self._tensorboards:
            output.write(values, dict.fromkeys(values, ()), self.num_timesteps)

    def _distribution(self, observations: Any) -> Distribution:
        with th.no_grad(), self._acting() as policy:
            # SB3's policies return one object on every call, with a new distribution inside.
            return copy.copy(policy.get_distribution(observations))
