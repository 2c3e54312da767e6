"""Acting in compiled code: actions, V and log π are written straight into the rollout buffer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from pg_agents.buffers import EstimatorMixin
from pg_agents.contract import NotFiniteError, NotServedError, Step
from pg_agents.engines.mlp.arrays import arrays_of, row_of
from pg_agents.engines.mlp.memory import address
from pg_agents.engines.mlp.tables import Program
from pg_agents.policies import check_actions, environment_actions


class MLPActor:
    """Acts for one rollout: draws actions, and writes them, log π and V into the buffer's arrays.

    Args:
        program: The policy's tables.
        buffer: The rollout buffer.
        generator: Random numbers for the actions.
        to_environment: Turns drawn actions into the environment's; None for the usual clipping.

    Attributes:
        step: The table of `kernels.act`, one row.
        inputs: `(T, N, n)` float32 observations, as the kernels read them.
        env_inputs: `(T, N, n)` actions, as a compiled environment reads them.
        drawn: `(T, N, n)` actions as the policy draws them, int64 for categorical ones and else float32.
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
        self.step = np.zeros(1, dtype=program.kernels.STEP)
        self._step = address(self.step)
        self._is_shown = False
        self._values: np.ndarray | None = None
        self._bind()

    def bind(self) -> None:
        """Point to the buffer's arrays, unless that is done; again after they have grown.

        Raises:
            NotServedError: They have been replaced by others, which do not fit.
        """
        if self.buffer.values is not self._values:
            if misfit := self.program.arrays.misfit(self.buffer):
                raise NotServedError(misfit)
            self._bind()

    def _bind(self) -> None:
        program, buffer, step, space = self.program, self.buffer, self.step, self._action_space
        size, n_envs = buffer.values.shape
        kept = [buffer.values, buffer.log_probs]
        self._values, self._bound, self._size = buffer.values, arrays_of(buffer), buffer.buffer_size
        of_rows = size, n_envs, program.n_observation
        observations: Any = buffer.observations
        # Where each part of an observation belongs: in the buffer, and in the kernels' row.
        self._parts: list[tuple[str, np.ndarray, np.ndarray]] = []
        self._converted: np.ndarray | None = None
        if program.rows.is_dict:
            inputs = self.inputs = np.zeros(of_rows, np.float32)
            for key, columns in program.rows.columns.items():
                row = inputs[:, :, columns]
                self._parts.append((key, observations[key].reshape(row.shape), row))
        else:
            stored = observations.reshape(of_rows)
            self.inputs = stored if stored.dtype == np.float32 else np.zeros(of_rows, np.float32)
            self._converted = None if stored is self.inputs else stored
        self._row_shape = self.inputs.shape[1:]
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
        for name, array in (("observations", self.inputs), ("actions", actions), ("clipped", clipped)):
            step[name] = address(array)
            kept.append(array)
        # The first rows are drawn already.
        step["noise"] = address(noise) - used
        step["low"], step["high"] = address(low), address(high)
        step["values"], step["log_probs"] = address(buffer.values), address(buffer.log_probs)
        self._kept = [*kept, noise, low, high]
        self.drawn, self.env_inputs = actions, clipped
        self._actions: list[np.ndarray] = []
        self._tensors: list[tuple[Any, th.Tensor, th.Tensor]] | None = None

    def _make_rows(self) -> None:
        """A view of each row: one by one they cost more than all at once."""
        space = self._action_space
        shape = (*self.buffer.values.shape, *(() if isinstance(space, spaces.Discrete) else space.shape or ()))
        self._actions = list(self.drawn.reshape(shape))
        ready = self._usual and (not self.program.is_gaussian or space.dtype == np.float32)
        self._env_actions = list(self.env_inputs.reshape(shape)) if ready else None

    def act(self, observations: Any, episode_starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `pg_agents.contract.Actor`."""
        self.bind()
        t = self._t = row_of(self.buffer, self._size)
        program, self._given = self.program, observations
        if self._parts:
            with np.errstate(over="ignore"):  # it is refused as infinite
                for key, stored, inputs in self._parts:
                    part = observations[key].reshape(stored.shape[1:])
                    stored[t], inputs[t] = part, part
        elif self._converted is None:
            same = observations.shape == self._row_shape
            self.inputs[t] = observations if same else observations.reshape(self._row_shape)
        else:
            self._converted[t] = observations.reshape(self._row_shape)
            with np.errstate(over="ignore"):  # it is refused as infinite
                self.inputs[t] = observations.reshape(self._row_shape)
        if not program.act(self._step, t):
            raise self.not_finite(t)
        drawn, sent = self.actions(t)
        if not self._usual:
            check_actions(sent)
        return drawn, sent

    def not_finite(self, t: int) -> NotFiniteError:
        """The error for what the policy has made of a row."""
        return NotFiniteError("The policy's outputs are not finite", actions=self.drawn[t])

    def actions(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """The actions of a row, as drawn and as the environment takes them."""
        if not self._actions:
            self._make_rows()
        actions = self._actions[t]
        if self._env_actions is None:
            return actions, self._to_environment(actions)
        return actions, self._env_actions[t]

    def outputs(self) -> tuple[Any, th.Tensor, th.Tensor]:
        """See `pg_agents.contract.Actor`."""
        self._is_shown = True
        if self._tensors is None:
            # All rows at once: one by one they cost more than acting does.
            values, log_probs = th.from_numpy(self.buffer.values), th.from_numpy(self.buffer.log_probs)
            observations = self._as_given(self.buffer.observations, self._observation_space)
            self._tensors = list(zip(observations, values.unsqueeze(-1).unbind(), log_probs.unbind(), strict=True))
        return self._tensors[self.buffer.pos]

    def _as_given(self, stored: Any, space: spaces.Space[Any]) -> Sequence[Any]:
        """The observations of each step as tensors of their space's shape."""
        if isinstance(space, spaces.Dict):
            parts = [self._as_given(stored[key], part) for key, part in space.items()]
            return [dict(zip(space, step, strict=True)) for step in zip(*parts, strict=True)]
        return th.from_numpy(stored).view(*self.buffer.values.shape, *(space.shape or ())).unbind()

    def is_current(self) -> bool:
        """Whether networks and arrays are still the same. Arrays that have grown are the next step's business."""
        same = self.buffer.buffer_size != self._size or all(map(is_, arrays_of(self.buffer), self._bound))
        return same and self.program.computes_forward()

    def _is_bound_here(self) -> bool:
        """Whether the buffer still has the arrays, and stands at the row, that `act` has written."""
        return self.buffer.pos == self._t and all(map(is_, arrays_of(self.buffer), self._bound))

    def store(self, step: Step) -> None:
        """Complete the row of the buffer."""
        if self._is_shown and not self._is_bound_here():
            # A callback has put in other arrays, or another place, since the row was written.
            t, (values, log_probs) = self._t, self._kept[:2]
            row = self._given, self._actions[t], th.from_numpy(values[t]), th.from_numpy(log_probs[t])
            self.buffer.record(step, *row)
            return
        if self._stored_actions is not None:
            # The buffer's type of actions is not that of the kernels.
            t = self.buffer.pos
            self._stored_actions[t] = self._actions[t].reshape(self._stored_actions.shape[1:])
        self.buffer.record(step)

    def complete(self, first: int, after: int) -> None:
        """Write the rows `first` to `after` - 1 where the buffer's types are not those of the kernels."""
        if self._converted is not None:
            self._converted[first:after] = self.inputs[first:after]
        if self._stored_actions is not None:
            stored = self._stored_actions[first:after]
            stored[:] = self.drawn[first:after].reshape(stored.shape)
