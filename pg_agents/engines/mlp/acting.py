"""Acting in compiled code: actions, V and log π are written straight into the rollout buffer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution

from pg_agents.buffers import EstimatorMixin
from pg_agents.contract import NotFiniteError, NotServedError, Step
from pg_agents.engines.mlp.arrays import arrays_of, row_of
from pg_agents.engines.mlp.memory import address
from pg_agents.engines.mlp.served import is_plain
from pg_agents.engines.mlp.tables import Program
from pg_agents.policies import check_actions, environment_actions


class NoiseMatrices:
    """gSDE's noise, which the policy draws with torch's generator: tells the kernels where it is.

    Args:
        program: The policy's tables.
        exploration: The distribution that has the noise.
        step: One row of `kernels.STEP`.
    """

    def __init__(self, program: Program, exploration: StateDependentNoiseDistribution, step: np.ndarray) -> None:
        self._exploration, self._n_envs = exploration, int(step["n_envs"][0])
        self._place, self._size = step["noise_matrix"], step["noise_matrix_size"]
        self._shape = int(program.policies["n_latent"][0]), program.n_actions
        self._one: th.Tensor | None = None
        self._each: th.Tensor | None = None

    def bind(self) -> None:
        """Point to the present matrices.

        Raises:
            NotServedError: They have been replaced by others, which do not fit.
        """
        exploration = self._exploration
        if exploration.exploration_mat is not self._one or exploration.exploration_matrices is not self._each:
            self._bind(exploration.exploration_mat, exploration.exploration_matrices)

    def _bind(self, one: th.Tensor, each: th.Tensor) -> None:
        # As SB3 chooses them: a matrix for each environment, unless there is only one environment.
        has_own = self._n_envs > 1 and len(each) == self._n_envs
        chosen, shape = (each, (self._n_envs, *self._shape)) if has_own else (one, self._shape)
        if not is_plain(chosen) or tuple(chosen.shape) != shape:
            raise NotServedError(
                f"gSDE's noise is an array of {chosen.dtype} with the shape {tuple(chosen.shape)}, but must be a plain "
                f"one of torch.float32 with the shape {shape}"
            )
        self._place[0], self._size[0] = chosen.data_ptr(), self._shape[0] * self._shape[1] * has_own
        self._one, self._each, self._bound = one, each, (chosen, chosen.data_ptr(), shape)

    def is_in_place(self) -> bool:
        """Whether the matrices that the kernels were told of are where they were."""
        if self._one is None:
            return True
        chosen, place, shape = self._bound
        return chosen.data_ptr() == place and tuple(chosen.shape) == shape and is_plain(chosen)


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
        self._noise: NoiseMatrices | None = None
        self._is_shown = False
        self._values: np.ndarray | None = None
        self._bind()

    def bind(self) -> None:
        """Point to the buffer's arrays, unless that is done; again after they have grown. And to gSDE's noise.

        Raises:
            NotServedError: They have been replaced by others, which do not fit.
        """
        if self.buffer.values is not self._values:
            if misfit := self.program.arrays.misfit(self.buffer):
                raise NotServedError(misfit)
            self._bind()
        if self._noise is not None:
            self._noise.bind()

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
        noise = self._drawn((size - buffer.pos, n_envs, program.n_actions))
        used = buffer.pos * n_envs * program.n_actions * 4
        clipped = np.zeros((size, n_envs, program.n_actions), np.float32) if program.is_gaussian else actions
        low = high = np.zeros(1, np.float32)
        if isinstance(space, spaces.Box):
            low, high = (bound.astype(np.float32).ravel() for bound in (space.low, space.high))
        step["n_envs"] = n_envs
        if program.exploration is not None:
            self._noise = NoiseMatrices(program, program.exploration, step)
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

    def _drawn(self, shape: tuple[int, ...]) -> np.ndarray:
        """Random numbers for the actions of the rows to come; gSDE's are drawn elsewhere."""
        if self.program.exploration is not None:
            return np.zeros(1, np.float32)
        draw = self._generator.standard_normal if self.program.is_gaussian else self._generator.random
        return draw(shape, dtype=np.float32)

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
        if self._noise is not None and not self._noise.is_in_place():
            return False
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
