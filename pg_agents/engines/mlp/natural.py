"""The natural step in compiled code, and the regression of the critic beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch as th

from pg_agents import natural
from pg_agents.buffers import EstimatorMixin
from pg_agents.contract import Batches, Loss, NaturalStep, NotFiniteError, Summary
from pg_agents.engines import threads
from pg_agents.engines.autograd import not_finite
from pg_agents.engines.mlp.learning import WORTH_A_THREAD, Pace, Regression, Stored, Update
from pg_agents.engines.mlp.tables import Program
from pg_agents.logs import deviations
from pg_agents.policies import unchecked_distributions


@cache
def _load_kernels() -> ModuleType:
    """Import the kernels of natural steps; the first import on a machine compiles them."""
    from pg_agents.engines.mlp import natural_kernels

    return natural_kernels


class Blocks:
    """Copies of the actor's tables, one for each block of samples, with memory for its outputs and derivatives.

    Args:
        program: The policy's tables.
        n_blocks: Number of blocks.
    """

    def __init__(self, program: Program, n_blocks: int) -> None:
        self.n_blocks = n_blocks
        tower = program.towers[0]
        n_layers, n_features = int(tower["n_hidden"] + tower["n_heads"]), int(program.policies[0]["n_features"])
        first = int(tower["first_layer"])
        self.towers = np.repeat(program.towers[:1], n_blocks)
        self.towers["first_layer"] = n_layers * np.arange(n_blocks)
        actor = program.layers[first : first + n_layers]
        layers = np.tile(actor, (n_blocks, 1))
        self.layers = layers.reshape(-1)
        size = program.kernels.BLOCK * np.array([program.padded(n) for n in (n_features, *actor["n_out"].tolist())])
        # Two arrays of each size: the input and its transpose; outputs and derivatives.
        ends = np.cumsum(np.repeat(size, 2))
        self._memory = np.zeros(n_blocks * ends[-1] + 16, np.float32)
        begin = self._memory.ctypes.data + -self._memory.ctypes.data % 64 + 4 * ends[-1] * np.arange(n_blocks)
        places = [begin + 4 * offset for offset in (0, *ends)]
        self.towers["input"], self.towers["input_rows"] = places[:2]
        input_ = places[0]
        for index in range(n_layers):
            layer = layers[:, index]
            layer["input"], layer["output"], layer["derivative"] = input_, *places[2 * index + 2 : 2 * index + 4]
            if index == 0 or tower["n_hidden"] == 0:
                layer["input_rows"] = places[1]
            if index < tower["n_hidden"]:
                input_ = layer["output"]
        n_outputs = int(program.policies[0]["n_outputs"])
        self.old = np.zeros((n_blocks, 2, n_outputs, program.kernels.BLOCK), np.float32)


class Vectors:
    """Conversion of vectors over the actor's parameters: flat, in the order of `policy.parameters()`, and laid out.

    Args:
        program: The policy's tables.
    """

    def __init__(self, program: Program) -> None:
        n_tensors = int(program.towers[0]["n_tensors"])
        tensors = {id(one): row for one, row in zip(program.parameters[:n_tensors], program.tensors, strict=False)}
        self.parameters = [one for one in program.policy.parameters() if id(one) in tensors]
        self._gradient = program.gradient()
        self.laid_out = np.zeros_like(self._gradient)
        places = []
        for parameter in self.parameters:
            row = tensors[id(parameter)]
            first = (row["gradient"] - self._gradient.ctypes.data) // 4
            places.append((first + row["gradient_row"] * np.arange(row["rows"]))[:, None] + np.arange(row["columns"]))
        self._places = np.concatenate([place.reshape(-1) for place in places])

    def lay_out(self, vector: th.Tensor) -> None:
        """Write a flat vector into the memory that the kernels read."""
        self.laid_out[self._places] = vector.numpy()

    def gradient(self) -> th.Tensor:
        """The kernels' gradient as a flat vector."""
        return th.from_numpy(self._gradient[self._places])


class NaturalGradient:
    """Moves a policy along the natural gradient, and fits its critic.

    Args:
        program: The policy's tables.
    """

    def __init__(self, program: Program) -> None:
        self._program, self._pace = program, Pace()
        self._vectors, self._blocks = Vectors(program), Blocks(program, 0)

    def update(self, buffer: EstimatorMixin, loss: Loss, step: NaturalStep, critic: Batches, weight: int) -> Summary:
        """See `pg_agents.contract.FollowsNaturalGradient`.

        Args:
            buffer: The rollout.
            loss: The loss.
            step: The form of the step.
            critic: Epochs and size of the critic's minibatches.
            weight: Address of the compiled weight.

        Raises:
            NotFiniteError: A parameter or a gradient is not finite.
        """
        program, stored = self._program, Stored(self._program, buffer)
        program.check_parameters()
        (everything,) = buffer.draw_order(1, 1)  # as SB3's `get` draws it, even for all at once
        samples = everything[None, :: step.sub_sampling_factor].copy()
        n_blocks = -(-samples.size // program.kernels.BLOCK)
        if self._blocks.n_blocks < n_blocks:
            self._blocks = Blocks(program, n_blocks)
        surrogate = Surrogate(
            program, self._pace, stored, samples, None, replace(loss, ent_coef=0.0, scale=1.0), weight
        )
        surrogate.linearise(self._blocks, self._vectors, step)
        metrics = surrogate.before()

        def move() -> None:
            metrics.update(surrogate.move(step))

        if not loss.trains_critic or not program.policies[0]["has_critic"]:
            move()
            return Summary(1, lambda: metrics | self._deviations(stored, everything))
        regressed = replace(loss, vf_coef=1.0, scale=1.0, max_grad_norm=None, penalty=None)
        order = buffer.draw_order(critic.batch_size, critic.n_epochs)
        regression = Regression(program, self._pace, stored, order, critic.batch_size, regressed, weight)
        n_samples = order.size
        can_share = threads.available() > 1 and n_samples * program.n_parameters > WORTH_A_THREAD
        with self._pace.chosen(n_samples) if can_share else nullcontext(1) as n_threads:
            if n_threads == 1:
                move()
                regression.fit()
            else:
                _at_once(move, regression)

        def found() -> dict[str, Any]:
            value_loss = {"value_loss": float(regression.losses().mean())}
            return metrics | value_loss | self._deviations(stored, everything)

        return Summary(1, found)

    def _deviations(self, stored: Stored, samples: np.ndarray) -> dict[str, float]:
        return deviations(self._program.policy, stored.observations_at(stored.places(samples)))


def _at_once(move: Callable[[], None], regression: Regression) -> None:
    """Fit the critic in another thread while the policy moves in this one; they share no memory that is written."""
    failures: list[Exception] = []

    def fit() -> None:
        try:
            regression.fit()
        except Exception as error:  # raised again in the calling thread
            failures.append(error)

    other = threading.Thread(target=fit, name="pg_agents critic")
    try:
        other.start()
        move()
        other.join()
    except BaseException:
        # An interrupted update must not leave the other thread running: it would outlive the arrays that it uses.
        regression.abort()
        if other.ident is not None:
            other.join()
        raise
    if failures:
        raise failures[0]


class Surrogate(Update):
    """The objective less the penalty, and the KL divergence from the policy at the beginning of the step."""

    def linearise(self, blocks: Blocks, vectors: Vectors, step: NaturalStep) -> None:
        """Evaluate the present policy, and keep its gradient and its distributions.

        Args:
            blocks: Blocks for at least all samples.
            vectors: The conversion of vectors over the actor's parameters.
            step: The form of the step.

        Raises:
            NotFiniteError: The objective's gradient is not finite.
        """
        self._kernels, self._blocks, self._vectors, self._damping = _load_kernels(), blocks, vectors, step.cg_damping
        self.values[:] = self.stored.old_values[
            self.stored.places(self.samples[0])
        ]  # the critic moves after the policy
        over_dimensions = step.mean_over_dimensions and not self.program.is_categorical
        scale = 1 / self.program.n_actions if over_dimensions else 1.0
        addresses = blocks.old.ctypes.data, vectors.laid_out.ctypes.data
        self._natural = np.array([(*addresses, scale)], self._kernels.NATURAL)
        self._pass(self._kernels.LINEARISE)
        self._gradient, self._objective = -vectors.gradient(), self._value()
        if not th.isfinite(self._gradient).all():
            raise NotFiniteError(not_finite(self._objective.item(), self._gradient.norm().item()))

    def before(self) -> dict[str, float]:
        """The loss's own metrics of the present policy."""
        batch = self.minibatch(slice(None))
        with th.no_grad(), unchecked_distributions():
            metrics = {name: value.mean().item() for name, value in self.loss.metrics(batch).items()}
        return metrics if self.loss.penalty is None else metrics | {"reference_kl": float(self.divergences.mean())}

    def move(self, step: NaturalStep) -> dict[str, float]:
        """See `natural.move`."""
        parameters = self._vectors.parameters
        return natural.move(parameters, self._gradient, self._product, self._trial, self._objective, step)

    def _product(self, vector: th.Tensor) -> th.Tensor:
        self._vectors.lay_out(vector)
        self._pass(self._kernels.PRODUCT)
        return self._vectors.gradient() + self._damping * vector

    def _trial(self) -> tuple[th.Tensor, th.Tensor]:
        kl = self._pass(self._kernels.TRIAL)
        return self._value(), th.tensor(kl)

    def _pass(self, task: int) -> float:
        tables = self.program.policies, self._blocks.towers, self._blocks.layers, self.table, self._natural
        return float(self._kernels.natural_pass(*tables, task))

    def _value(self) -> th.Tensor:
        """E[objective], less the penalty, at the kernels' last evaluation."""
        with th.no_grad():
            objective = self.loss.objective(self.minibatch(slice(None))).mean()
            if self.loss.penalty is None:
                return objective
            return objective - self.loss.penalty.kl_coef * th.from_numpy(self.divergences).mean()
