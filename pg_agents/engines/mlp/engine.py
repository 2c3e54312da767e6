"""The compiled engine: SB3's MLP policies on the CPU, with hand-derived gradients, in the policy's own memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents.buffers import EstimatorMixin
from pg_agents.contract import Batches, Loss, Summary
from pg_agents.engines.mlp.acting import MLPActor
from pg_agents.engines.mlp.learning import Pace, Update
from pg_agents.engines.mlp.predicting import MLPPredictor
from pg_agents.engines.mlp.served import check_served
from pg_agents.engines.mlp.tables import Program
from pg_agents.engines.mlp.weights import compiled_weight, identity


class MLPEngine:
    """Acting and learning in compiled code.

    The kernels read and write torch's parameters and the optimiser's state through their addresses, so `predict`,
    `save`, `load`, callbacks and a later change of engine see current values at any moment.

    Args:
        policy: The policy.
        buffer: Its rollout buffer.
        loss: Its loss; the objective must have a `weight`.

    Raises:
        NotServedError: The engine does not serve them, or there is no compiler.
        WrongWeightError: The objective's weight is not the derivative of its value.
    """

    name = "mlp"

    def __init__(self, policy: ActorCriticPolicy, buffer: RolloutBuffer, loss: Loss) -> None:
        check_served(policy, buffer, loss)
        self._program = Program(policy)
        self._pace = Pace()
        self._weight = compiled_weight(loss.objective)
        self._served = _served(loss)

    def fits(self, policy: ActorCriticPolicy, loss: Loss) -> bool:
        """Whether policy and loss are still those that the engine was made for."""
        return _served(loss) == self._served and self._program.fits(policy)

    def actor(
        self,
        policy: ActorCriticPolicy,
        buffer: RolloutBuffer,
        generator: Callable[[], np.random.Generator],
        to_environment: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> MLPActor:
        """See `pg_agents.contract.Engine`."""
        assert isinstance(buffer, EstimatorMixin), "checked by `check_served`"
        return MLPActor(self._program, buffer, generator(), to_environment)

    def predictor(self, policy: ActorCriticPolicy) -> MLPPredictor:
        """See `pg_agents.contract.Predicts`."""
        return MLPPredictor(policy)

    def values(self, policy: ActorCriticPolicy, observations: Any) -> th.Tensor:
        """V of a batch of observations, of shape `(batch,)`."""
        program, space = self._program, policy.observation_space
        shape = np.shape(observations)[1:]
        if shape not in (space.shape, (1,) if space.shape == () else None):
            raise ValueError(f"Unexpected observation shape {shape} for the observation space {space}.")
        flat, values = np.ascontiguousarray(observations, dtype=np.float32), np.zeros(len(observations), np.float32)
        step = np.zeros(1, program.kernels.STEP)
        step["n_envs"], step["values_only"] = len(observations), True
        step["observations"], step["values"] = flat.ctypes.data, values.ctypes.data
        program.kernels.act(program.policies, program.towers, program.layers, step, 0)
        return th.from_numpy(values)

    def final_values(self, policy: ActorCriticPolicy, observations: list[Any]) -> th.Tensor:
        """V of single observations, of shape `(n,)`."""
        return self.values(policy, np.stack(observations))

    def update(
        self,
        policy: ActorCriticPolicy,
        buffer: RolloutBuffer,
        loss: Loss,
        batches: Batches,
        on_epoch: Callable[[], None] | None = None,
    ) -> Summary:
        """See `pg_agents.contract.Engine`."""
        assert isinstance(buffer, EstimatorMixin), "checked by `check_served`"
        return Update(self._program, self._pace, buffer, loss, batches, self._weight.address).run(on_epoch)


def _served(loss: Loss) -> tuple[Any, ...]:
    """The properties of a loss that an engine is made for; coefficients may change from update to update."""
    return (*identity(loss.objective.weight), len(loss.objective.coefficients), loss.value_prediction is None)
