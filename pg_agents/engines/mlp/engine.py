"""The compiled engine: SB3's MLP policies on the CPU, with hand-derived gradients, in the policy's own memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents.buffers import EstimatorMixin, RolloutBuffer
from pg_agents.checks import check_number
from pg_agents.contract import Batches, EndlessEpisodeError, Loss, NaturalStep, NotFiniteError, NotServedError, Summary
from pg_agents.engines.mlp.acting import MLPActor
from pg_agents.engines.mlp.learning import Pace, Stored, Update
from pg_agents.engines.mlp.loops import Loop
from pg_agents.engines.mlp.memory import address
from pg_agents.engines.mlp.natural import NaturalGradient
from pg_agents.engines.mlp.predicting import MLPPredictor
from pg_agents.engines.mlp.rolls import Roll
from pg_agents.engines.mlp.served import check_served
from pg_agents.engines.mlp.tables import Program
from pg_agents.engines.mlp.weights import compiled_weight, identity
from pg_agents.envs.compiled import CompiledEnv

_ROWS = 256  # steps of an evaluation that are kept at a time


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

    def __init__(self, policy: ActorCriticPolicy, buffer: SB3RolloutBuffer, loss: Loss) -> None:
        check_served(policy, buffer, loss)
        self._buffer, self._program = buffer, Program(policy)
        self._pace = Pace()
        self._weight = compiled_weight(loss.objective)
        self._served = _served(loss)
        self._roll: Roll | None = None
        self._natural: NaturalGradient | None = None

    def fits(self, policy: ActorCriticPolicy, loss: Loss) -> bool:
        """Whether policy and loss are still those that the engine was made for, and the buffer's arrays fit them."""
        program, buffer = self._program, self._buffer
        same = _served(loss) == self._served and program.fits(policy) and program.arrays.misfit(buffer) is None
        return same and (not buffer.full or program.can_learn())  # which comes next then

    def actor(
        self,
        policy: ActorCriticPolicy,
        buffer: SB3RolloutBuffer,
        generator: Callable[[], np.random.Generator],
        to_environment: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> MLPActor:
        """See `pg_agents.contract.Engine`."""
        return MLPActor(self._program, self._checked(buffer), generator(), to_environment)

    def _checked(self, buffer: SB3RolloutBuffer) -> EstimatorMixin:
        """A buffer that may be another than the engine was made for.

        Raises:
            NotServedError: Its arrays do not fit the policy.
        """
        assert isinstance(buffer, EstimatorMixin), "checked by `check_served`"
        if buffer is not self._buffer and (misfit := self._program.arrays.misfit(buffer)):
            raise NotServedError(misfit)
        return buffer

    def roll(self, actor: MLPActor, env: CompiledEnv, running: np.ndarray, *, gamma: float, bootstraps: bool) -> Roll:
        """See `pg_agents.contract.Engine`."""
        if self._roll is None or not self._roll.fits(env, actor.buffer):
            self._roll = Roll(self._program, env, actor.buffer)
        self._roll.begin(actor, running, gamma, bootstraps)
        return self._roll

    def loop(self, env: CompiledEnv, buffer: EstimatorMixin, loss: Loss, *, gamma: float, gae_lambda: float) -> Loop:
        """See `pg_agents.contract.Engine`."""
        return Loop(self._program, env, buffer, loss, self._weight.address, gamma, gae_lambda)

    def episodes(
        self,
        policy: ActorCriticPolicy,
        env: CompiledEnv,
        observations: np.ndarray,
        n_episodes: np.ndarray,
        generator: np.random.Generator,
        *,
        deterministic: bool,
        max_episode_steps: float = np.inf,
    ) -> list[tuple[float, int]]:
        """See `pg_agents.contract.Engine`."""
        n_envs = len(n_episodes)
        buffer = RolloutBuffer(_ROWS, policy.observation_space, policy.action_space, n_envs=n_envs)
        finished: list[tuple[float, int]] = []
        n_steps = 0
        roll, starts = Roll(self._program, env, buffer), np.ones(n_envs, np.bool_)
        roll.wait_after(n_episodes)
        try:
            while len(finished) < n_episodes.sum():
                buffer.reset()
                actor = MLPActor(self._program, buffer, generator, None)
                actor.step["deterministic"] = deterministic
                roll.begin(actor, np.zeros(n_envs), 1.0, False)
                roll.run(observations, starts, _ROWS, False)
                n_steps += roll.n_transitions
                if not roll.is_finite:
                    raise NotFiniteError(f"In the evaluation: {roll.refusal(n_steps)}")
                observations, starts = roll.observations, roll.starts
                for _, index, episode_return, _, length in roll.episodes:
                    if length > max_episode_steps:
                        raise EndlessEpisodeError(index, max_episode_steps)
                    finished.append((episode_return, length))
                if (lengths := env.adapter.episode_lengths).max() >= max_episode_steps:
                    raise EndlessEpisodeError(int(lengths.argmax()), max_episode_steps)
        finally:
            env.adapter.hold(None)
        return finished

    def predictor(self, policy: ActorCriticPolicy) -> MLPPredictor:
        """See `pg_agents.contract.Predicts`."""
        return MLPPredictor(policy)

    def values(self, policy: ActorCriticPolicy, observations: Any) -> th.Tensor:
        """V of a batch of observations, of shape `(batch,)`."""
        program = self._program
        rows = program.rows.pack_batch(observations)
        values = np.zeros(len(rows), np.float32)
        step = np.zeros(1, program.kernels.STEP)
        step["n_envs"], step["values_only"] = len(rows), True
        step["observations"], step["values"] = address(rows), address(values)
        program.act(address(step), 0)
        return th.from_numpy(values)

    def final_values(self, policy: ActorCriticPolicy, observations: list[Any]) -> th.Tensor:
        """V of single observations, of shape `(n,)`."""
        first = observations[0]
        if isinstance(first, dict):
            return self.values(policy, {key: np.stack([one[key] for one in observations]) for key in first})
        return self.values(policy, np.stack(observations))

    def update(
        self,
        policy: ActorCriticPolicy,
        buffer: SB3RolloutBuffer,
        loss: Loss,
        batches: Batches,
        on_epoch: Callable[[], None] | None = None,
    ) -> Summary:
        """See `pg_agents.contract.Engine`."""
        _check_batches(batches)
        buffer = self._checked(buffer)
        stored, samples = Stored(self._program, buffer), buffer.draw_order(batches.batch_size, batches.n_epochs)
        weight = self._weight.address
        return Update(self._program, self._pace, stored, samples, batches.batch_size, loss, weight).run(on_epoch)

    def natural_update(
        self,
        policy: ActorCriticPolicy,
        buffer: SB3RolloutBuffer,
        loss: Loss,
        step: NaturalStep,
        critic: Batches,
    ) -> Summary:
        """See `pg_agents.contract.FollowsNaturalGradient`."""
        _check_batches(critic)
        if self._natural is None:
            self._natural = NaturalGradient(self._program)
        return self._natural.update(self._checked(buffer), loss, step, critic, self._weight.address)

    def update_elsewhere(
        self,
        policy: ActorCriticPolicy,
        buffer: SB3RolloutBuffer,
        loss: Loss,
        batches: Batches,
        parameters: Sequence[th.Tensor],
    ) -> Summary:
        """See `pg_agents.contract.MovesElsewhere`."""
        with self._program.moving(parameters):
            return self.update(policy, buffer, loss, batches)


def _served(loss: Loss) -> tuple[Any, ...]:
    """The properties of a loss that an engine is made for; coefficients may change from update to update."""
    return (*identity(loss.objective.weight), len(loss.objective.coefficients), loss.value_prediction is None)


def _check_batches(batches: Batches) -> None:
    """Refuse sizes that are none: the agent's attributes may have been changed since its arguments were checked."""
    n_epochs, size = batches.n_epochs, batches.batch_size
    if type(n_epochs) is int and n_epochs > 0 and (size is None or (type(size) is int and size > 0)):
        return  # what `check_number` finds too, at a fraction of its price
    check_number("n_epochs", batches.n_epochs, at_least=1, integer=True)
    check_number("batch_size", batches.batch_size, at_least=1, integer=True, optional=True)
