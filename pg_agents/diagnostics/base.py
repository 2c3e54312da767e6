"""What all diagnostics have in common: when they measure, and how they read rollout and policy."""

from __future__ import annotations

import copy
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
    """Measures the first rollout, and then one after every so many environment steps."""

    def __init__(self, every: int, verbose: int = 0) -> None:
        super().__init__(verbose)
        check_number("every", every, at_least=1, integer=True)
        self.every = every
        self._watched: Any = None
        self._measured_at = -np.inf

    def _on_training_start(self) -> None:
        self._check_model()
        # Whoever goes on with `reset_num_timesteps=False` goes on here too.
        if self.num_timesteps == 0 or self.model is not self._watched:
            self._watched = self.model
            self._restart()

    def _restart(self) -> None:
        """Forget what was seen of another training."""
        self._measured_at = -np.inf

    def _check_model(self) -> None:
        name, model = type(self).__name__, self.model
        if not isinstance(model, OnPolicyAlgorithm):
            raise ValueError(
                f"{name} is for on-policy algorithms, whose rollouts it reads, not {type(model).__name__}."
            )
        for attribute, kind in (("hidden_states_pi", "recurrent policies"), ("action_masks", "masked actions")):
            if hasattr(model.rollout_buffer, attribute):
                raise ValueError(f"{name} does not know {kind}, which {type(model).__name__} has.")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps - self._measured_at >= self.every and len(self._steps):
            self._measured_at = self.num_timesteps
            self._measure()

    def _measure(self) -> None:
        raise NotImplementedError

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
        """Numbers of the steps that are trained on, environment after environment."""
        buffer = self._buffer
        trained_on = getattr(buffer, "trained_on", None)
        return np.arange(buffer.pos * buffer.n_envs) if trained_on is None else np.flatnonzero(trained_on.T)

    def _stored(self, name: str, steps: np.ndarray) -> Any:
        """What the rollout holds of these steps, as tensors on the agent's device."""
        stored = getattr(self._buffer, name)
        env, time = np.divmod(steps, self._buffer.pos)
        if isinstance(stored, dict):
            return obs_as_tensor({key: array[time, env] for key, array in stored.items()}, self.model.device)
        return obs_as_tensor(stored[time, env], self.model.device)

    @contextmanager
    def _acting(self) -> Iterator[ActorCriticPolicy]:
        """The policy as it acts: dropout would draw numbers, and batch normalisation learn, and change the training."""
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
        """To write to at once: SB3 writes its log before an update, and not again after the last one."""
        if self.locals.get("log_interval", 1) is None or self.logger.level == DISABLED:
            return []
        return [output for output in self.logger.output_formats if isinstance(output, TensorBoardOutputFormat)]

    def _write(self, values: dict[str, Any]) -> None:
        for output in self._tensorboards:
            output.write(values, dict.fromkeys(values, ()), self.num_timesteps)

    def _distribution(self, observations: Any) -> Distribution:
        with th.no_grad(), self._acting() as policy:
            # SB3's policies give the same object each time, with another distribution in it.
            return copy.copy(policy.get_distribution(observations))
