"""Acting in compiled code: actions, V and log π are written straight into the rollout buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from pg_agents.buffers import EstimatorMixin
from pg_agents.contract import NotFiniteError, Step
from pg_agents.engines.mlp.tables import Program
from pg_agents.policies import environment_actions


class MLPActor:
    """Acts for one rollout: draws actions, and writes them, log π and V into the buffer's arrays.

    Args:
        program: The policy's tables.
        buffer: The rollout buffer.
        generator: Random numbers for the actions.
        to_environment: Turns drawn actions into the environment's; None for the usual clipping.
    """

    def __init__(
        self,
        program: Program,
        buffer: EstimatorMixin,
        generator: np.random.Generator,
        to_environment: Callable[[np.ndarray], np.ndarray] | None,
    ) -> None:
        self.program, self.buffer, self._generator = program, buffer, generator
        policy = program.policy
        self._observation_space, self._action_space = policy.observation_space, policy.action_space
        self._usual = to_environment is None
        self._to_environment = to_environment or (lambda actions: environment_actions(policy, actions))
        self.checks = isinstance(self._observation_space, spaces.Box)
        self._act = program.kernels.act
        self._step = np.zeros(1, dtype=program.kernels.STEP)
        self._bind()

    def _bind(self) -> None:
        """Point to the buffer's arrays; again after they have grown."""
        program, buffer, step, space = self.program, self.buffer, self._step, self._action_space
        size, n_envs = buffer.values.shape
        kept = [buffer.values, buffer.log_probs]
        self._values = buffer.values
        stored = buffer.observations.reshape(size, n_envs, program.n_observation)
        self._inputs = stored if stored.dtype == np.float32 else np.zeros(stored.shape, np.float32)
        self._converted = None if stored is self._inputs else stored
        self._row_shape = self._inputs.shape[1:]
        drawn = np.int64 if program.is_categorical else np.float32
        # Straight into the buffer, where it has the type that the policy gives.
        direct = buffer.actions.dtype == drawn
        actions = buffer.actions if direct else np.zeros(buffer.actions.shape, drawn)
        self._stored_actions = None if direct else buffer.actions
        draw = self._generator.standard_normal if program.is_gaussian else self._generator.random
        noise = draw((size - buffer.pos, n_envs, program.n_actions), dtype=np.float32)
        used = buffer.pos * n_envs * program.n_actions * 4
        clipped = np.zeros((size, n_envs, program.n_actions), np.float32) if program.is_gaussian else actions
        low = high = np.zeros(1, np.float32)
        if isinstance(space, spaces.Box):
            low, high = (bound.astype(np.float32).ravel() for bound in (space.low, space.high))
        step["n_envs"] = n_envs
        for name, array in (("observations", self._inputs), ("actions", actions), ("clipped", clipped)):
            step[name] = array.ctypes.data
            kept.append(array)
        # The first rows are drawn already.
        step["noise"] = noise.ctypes.data - used
        step["low"], step["high"] = low.ctypes.data, high.ctypes.data
        step["values"], step["log_probs"] = buffer.values.ctypes.data, buffer.log_probs.ctypes.data
        self._kept = [*kept, noise, low, high]
        shape = (size, n_envs, *(() if isinstance(space, spaces.Discrete) else space.shape or ()))
        self._actions = list(actions.reshape(shape))
        ready = self._usual and (not program.is_gaussian or space.dtype == np.float32)
        self._env_actions = list(clipped.reshape(shape)) if ready else None
        self._tensors: list[tuple[th.Tensor, th.Tensor, th.Tensor]] | None = None

    def act(self, observations: Any, episode_starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `pg_agents.contract.Actor`."""
        t = self.buffer.pos
        if self.buffer.values is not self._values:
            self._bind()
        program = self.program
        if observations.shape == self._row_shape and self._converted is None:
            self._inputs[t] = observations
        elif self._converted is None:
            self._inputs[t] = observations.reshape(self._row_shape)
        else:
            self._converted[t] = observations.reshape(self._row_shape)
            with np.errstate(over="ignore"):  # it is refused as infinite
                self._inputs[t] = observations.reshape(self._row_shape)
        if not self._act(program.policies, program.towers, program.layers, self._step, t):
            raise NotFiniteError("The policy's outputs are not finite")
        actions = self._actions[t]
        if self._env_actions is None:
            return actions, self._to_environment(actions)
        return actions, self._env_actions[t]

    def outputs(self) -> tuple[Any, th.Tensor, th.Tensor]:
        """See `pg_agents.contract.Actor`."""
        if self._tensors is None:
            # All rows at once: one by one they cost more than acting does.
            observations, values, log_probs = (
                th.from_numpy(array) for array in (self.buffer.observations, self.buffer.values, self.buffer.log_probs)
            )
            as_given = observations.view(*self.buffer.values.shape, *(self._observation_space.shape or ()))
            self._tensors = list(zip(as_given.unbind(), values.unsqueeze(-1).unbind(), log_probs.unbind(), strict=True))
        return self._tensors[self.buffer.pos]

    def is_current(self) -> bool:
        """Whether the parameters are where they were; judged by one of them, because the loop asks in every step."""
        return self.program.parameters[0].data_ptr() == self.program.addresses[0]

    def store(self, step: Step) -> None:
        """Complete the row of the buffer."""
        if self._stored_actions is not None:
            # The buffer's type of actions is not that of the kernels.
            t = self.buffer.pos
            self._stored_actions[t] = self._actions[t].reshape(self._stored_actions.shape[1:])
        self.buffer.record(step)
