"""Epochs over minibatches of examples, as supervised fine-tuning, the reward model and DPO share them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch as th

from pg_agents.checks import check_number
from pg_agents.engines import threads
from pg_agents.language.texts import by_length, n_parts


class Sizes(NamedTuple):
    """Sizes of the examples, each `(N,)` on the CPU.

    Attributes:
        weights: The weights in a mean: numbers of tokens of completions, or 1.
        lengths: Tokens in all.
    """

    weights: th.Tensor
    lengths: th.Tensor


@dataclass(frozen=True)
class Fit:
    """AdamW over minibatches, with a step size that rises and falls once.

    Attributes:
        learning_rate: Largest step size.
        n_epochs: Passes over the examples.
        batch_size: Examples of a step.
        max_grad_norm: The gradient is scaled down to this norm.
        seed: Seed of the order of the examples.
    """

    learning_rate: float
    n_epochs: int
    batch_size: int
    max_grad_norm: float
    seed: int | None

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("n_epochs", self.n_epochs, at_least=1, integer=True)
        check_number("batch_size", self.batch_size, at_least=1, integer=True)
        check_number("max_grad_norm", self.max_grad_norm, above=0, infinite=True)
        check_number("seed", self.seed, at_least=0, integer=True, optional=True)

    def split(self, n: int, share: float) -> tuple[th.Tensor, th.Tensor]:
        """Rows to learn from, and a share of rows that is held out, at random.

        Raises:
            ValueError: Nothing is left to learn from.
        """
        order = th.randperm(n, generator=self._generator())
        n_held_out = round(share * n)
        if n_held_out >= n:
            raise ValueError(f"At least {1 if share == 0 else 2} examples are needed, but there are {n}.")
        return order[n_held_out:], order[:n_held_out]

    def epochs(
        self,
        model: Any,
        rows: th.Tensor,
        loss: Callable[[th.Tensor], th.Tensor],
        sizes: Sizes,
        *,
        dropout: bool = True,
    ) -> Iterator[float]:
        """Train, one epoch after the other.

        Args:
            model: A module whose parameters are trained.
            rows: The examples to learn from.
            loss: The sum of the losses of some rows.
            sizes: The sizes over which the mean is taken, and the lengths.
            dropout: Whether the model's dropout is on.

        Yields:
            The mean loss of each epoch.

        Raises:
            FloatingPointError: A loss is not finite; the parameters are those before that step.
        """
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        device = trained[0].device
        optimizer = th.optim.AdamW(trained, lr=self.learning_rate, fused=True)
        n_steps = self.n_epochs * math.ceil(len(rows) / self.batch_size)
        schedule = th.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=n_steps + 1)
        generator = self._generator()
        for epoch in range(self.n_epochs):
            model.train(dropout)
            total, weight = 0.0, 0.0
            with threads.for_policy(model):
                for minibatch in th.split(rows[th.randperm(len(rows), generator=generator)], self.batch_size):
                    optimizer.zero_grad()
                    n = float(sizes.weights[minibatch].sum())
                    found = 0.0
                    # Examples of similar length have less padding; the gradients add up.
                    order = by_length(sizes.lengths[minibatch])
                    for part in order.tensor_split(n_parts(device, len(minibatch))):
                        mean = loss(minibatch[part]) / n
                        mean.backward()  # type: ignore[no-untyped-call]
                        found += mean.item()
                    if not math.isfinite(found):
                        raise FloatingPointError(
                            f"The loss is {found} in epoch {epoch + 1}: `learning_rate` may be too large."
                        )
                    th.nn.utils.clip_grad_norm_(trained, self.max_grad_norm)
                    optimizer.step()
                    schedule.step()
                    total, weight = total + n * found, weight + n
            yield total / weight

    def _generator(self) -> th.Generator:
        generator = th.Generator()
        if self.seed is None:
            generator.manual_seed(int(th.randint(2**62, ())))
        else:
            generator.manual_seed(self.seed)
        return generator
