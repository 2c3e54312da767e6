"""Many rollouts and updates in one call: the tables of a compiled loop, and the memory that they point into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch as th

from pg_agents.buffers import EstimatorMixin
from pg_agents.contract import Loss, NotFiniteError
from pg_agents.engines.mlp.acting import MLPActor
from pg_agents.engines.mlp.learning import Pace, Stored, Update
from pg_agents.engines.mlp.rolls import Roll
from pg_agents.engines.mlp.tables import Program
from pg_agents.envs.compiled import CompiledEnv
from pg_agents.policies import check_parameters


class Loop:
    """Rollouts and updates of one policy in one environment, whose steps move shared parameters.

    Args:
        program: The policy's tables.
        env: The environment's parts.
        buffer: A rollout buffer of its own, which holds one rollout.
        loss: The loss of all updates, except for the coefficients `ent_coef` and `vf_coef`.
        weight: Address of the compiled weight.
        gamma: Discount factor.
        gae_lambda: λ of the advantages.
    """

    rewards: np.ndarray
    dones: np.ndarray
    truncated: np.ndarray

    def __init__(
        self,
        program: Program,
        env: CompiledEnv,
        buffer: EstimatorMixin,
        loss: Loss,
        weight: int,
        gamma: float,
        gae_lambda: float,
    ) -> None:
        from pg_agents.engines.mlp import looping, rolling

        self._program, self._buffer, self._kernels = program, buffer, looping
        buffer.reset()
        # Its random numbers are not used: `run` is given the numbers of all its rollouts.
        self._actor = actor = MLPActor(program, buffer, np.random.default_rng(0), None)
        buffer.advance_to(len(buffer.values))
        stored, samples = Stored(program, buffer), buffer.draw_order(None, 1)
        self._update = update = Update(program, Pace(), stored, samples, None, loss, weight)
        self._roll = Roll(program, env, buffer)
        self._gamma = gamma
        self._code, self._n_made = looping.DONE, 0
        n_steps, n_envs = buffer.values.shape
        self._rows, self._n_actions = (n_steps, n_envs), program.n_actions
        self.table = table = np.zeros(1, looping.LOOP)
        update.table["observations"] = actor.inputs.ctypes.data
        self._last_values = np.zeros(n_envs, np.float32)
        self._value_step = np.zeros(1, program.kernels.STEP)
        self._value_step["n_envs"], self._value_step["values_only"] = n_envs, True
        self._value_step["values"] = self._last_values.ctypes.data
        self._stop, self._staleness = np.zeros(1, np.int64), np.zeros(3, np.int64)
        self._own = np.array(program.addresses, np.int64)
        self._sizes = np.array([parameter.numel() for parameter in program.parameters], np.int64)
        for name, value in (
            ("n_steps", n_steps),
            ("n_envs", n_envs),
            ("n_actions", program.n_actions),
            ("categorical", program.is_categorical),
            ("n_towers", 1 + update.trains_critic),
            ("gamma", gamma),
            ("decay", gamma * gae_lambda),
            ("roll", rolling.roll.address),
            ("act", program.kernels.act.address),
            ("train", program.kernels.train.address),
            ("n_tensors", len(self._own)),
        ):
            table[name] = value
        for name, array in (
            ("rollout", self._roll.table),
            ("policies", program.policies),
            ("towers", program.towers),
            ("layers", program.layers),
            ("tensors", program.tensors),
            ("update", update.table),
            ("value_step", self._value_step),
            ("own", self._own),
            ("sizes", self._sizes),
            ("stop", self._stop),
            ("ent_coef", update.table["ent_coef"]),
            ("vf_coef", update.table["vf_coef"]),
            ("noise_of_step", actor.step["noise"]),
            ("drawn", actor.drawn),
            ("actions", stored.actions),
            ("train_progress", update.progress),
            ("last_values", self._last_values),
            ("staleness", self._staleness),
            *((name, getattr(buffer, name)) for name in _OF_BUFFER),
        ):
            table[name] = array.ctypes.data

    def run(
        self,
        observations: np.ndarray,
        starts: np.ndarray,
        running: np.ndarray,
        noise: np.random.Generator,
        coefficients: np.ndarray,
        parameters: Sequence[th.Tensor],
        counts: np.ndarray,
        worker: int,
    ) -> int:
        """See `pg_agents.contract.CompiledLoop`."""
        program, roll, table = self._program, self._roll, self.table
        n_updates = coefficients.shape[1]
        (n_steps, n_envs), size = self._rows, n_updates * self._rows[0]
        draw = noise.standard_normal if program.is_gaussian else noise.random
        before = noise.bit_generator.state
        drawn = draw((size, n_envs, self._n_actions), dtype=np.float32)
        self.rewards = np.zeros((size, n_envs), np.float32)
        self.dones, self.truncated = np.zeros((2, size, n_envs), np.bool_)
        table["n_updates"] = n_updates
        table["noise"], table["noise_bytes"] = drawn.ctypes.data, drawn.nbytes // n_updates
        table["n_workers"], table["worker"] = len(counts), worker
        rates = np.ascontiguousarray(coefficients)
        for number, name in enumerate(("rates", "ent_coefs", "vf_coefs")):
            table[name] = rates[number].ctypes.data
        for name, array in (
            ("told_rewards", self.rewards),
            ("told_dones", self.dones),
            ("told_truncated", self.truncated),
            ("counts", counts),
        ):
            table[name] = array.ctypes.data
        self._staleness[:] = 0
        with program.moving(parameters):
            shared = np.ascontiguousarray(program.tensors["value"])
            table["shared"] = shared.ctypes.data
            program.bind_optimizer(0, 1 + self._update.trains_critic)
            roll.begin(self._actor, running, self._gamma, True)
            table["events"], table["progress"] = roll.prepare(observations, starts, size)
            self._value_step["observations"] = roll.current.ctypes.data
            self._code = int(self._kernels.run(table, program.tensors["learning_rate"]))
        n_made = self._n_made = int(self._staleness[2])
        program.count_steps(n_made)
        if self._code < 0:
            roll.end(-self._code)
        else:
            self._actor.complete(0, n_steps)
        n_begun = n_made + (self.refused in ("rollout", "gradient"))
        if n_begun < n_updates:
            noise.bit_generator.state = before
            draw((n_begun * n_steps, n_envs, self._n_actions), dtype=np.float32)
        made = slice(n_made * n_steps)
        self.rewards, self.dones, self.truncated = self.rewards[made], self.dones[made], self.truncated[made]
        return n_made

    @property
    def is_finite(self) -> bool:
        """See `pg_agents.contract.CompiledLoop`."""
        return self._code in (self._kernels.DONE, self._kernels.STOPPED)

    @property
    def refused(self) -> str | None:
        """See `pg_agents.contract.CompiledLoop`."""
        if self.is_finite:
            return None
        names = {
            self._kernels.NOT_FINITE_PARAMETER: "parameter",
            self._kernels.NOT_FINITE_GRADIENT: "gradient",
        }
        return names.get(self._code, "rollout")

    @property
    def n_transitions(self) -> int:
        """See `pg_agents.contract.CompiledLoop`."""
        return self._roll.n_transitions

    def refusal(self, n_steps: int) -> Exception:
        """See `pg_agents.contract.CompiledLoop`."""
        n_steps += self._n_made * self._rows[0] * self._rows[1]
        if self._code < 0:
            return ValueError(self._roll.refusal(n_steps + self._roll.n_transitions))
        if self._code == self._kernels.NOT_FINITE_GRADIENT:
            return FloatingPointError(
                "The loss or its gradient is not finite, so it was not applied. Rewards or observations of very large "
                "size, or too large a `learning_rate`, are the usual causes."
            )
        try:
            check_parameters(self._program.policy)
        except NotFiniteError as error:
            return FloatingPointError(f"{error} after {n_steps} steps.")
        raise AssertionError("its own parameters are those that the loop has refused")

    def stop(self) -> None:
        """See `pg_agents.contract.CompiledLoop`."""
        self._stop[0] = 1

    @property
    def staleness(self) -> tuple[int, int]:
        """See `pg_agents.contract.CompiledLoop`."""
        return int(self._staleness[0]), int(self._staleness[1])

    @property
    def episodes(self) -> list[tuple[int, int, float, float, int]]:
        """See `pg_agents.contract.CompiledLoop`."""
        return self._roll.episodes

    @property
    def observations(self) -> np.ndarray:
        """See `pg_agents.contract.CompiledLoop`."""
        return self._roll.observations

    @property
    def starts(self) -> np.ndarray:
        """See `pg_agents.contract.CompiledLoop`."""
        return self._roll.starts


_OF_BUFFER = (
    *("rewards", "env_rewards", "values", "final_values", "terminated", "truncated"),
    *("advantages", "returns"),
)
