"""Objectives of language models: those of `pg_agents.objectives`, one number per token, and their means.

An objective determines the weight of a token's log π. The mean over the tokens of a minibatch determines the relative
weight of short and long completions. The variants of GRPO differ in these two, and in the advantage's scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch as th

from pg_agents.contract import Minibatch, Objective
from pg_agents.objectives import (
    KL_ESTIMATORS,
    clip_higher,
    clip_higher_weight,
    clipped_importance_weight,
    clipped_importance_weight_weight,
)


@dataclass(kw_only=True)
class TokenBatch(Minibatch):
    """The tokens of a part of a minibatch, and the completions that they belong to.

    Attributes:
        completion: `(batch,)`, number of each token's completion in this part.
        lengths: `(completions,)`, their tokens.
        mean_length: Mean of `lengths` over the whole minibatch.
        reference_log_prob: log π_ref of each token.
    """

    completion: th.Tensor = field(repr=False)
    lengths: th.Tensor = field(repr=False)
    mean_length: float
    reference_log_prob: th.Tensor = field(repr=False)

    def mean_of_completion(self, values: th.Tensor) -> th.Tensor:
        """For each token, the mean of the values of its completion's tokens."""
        sums = values.new_zeros(len(self.lengths)).index_add(0, self.completion, values)
        return (sums / self.lengths)[self.completion]

    @cached_property
    def length(self) -> th.Tensor:
        """For each token, the length of its completion."""
        return self.lengths[self.completion]

    @property
    def reference_log_ratio(self) -> th.Tensor:
        """log π - log π_ref."""
        return self.log_prob - self.reference_log_prob


Means = Callable[[TokenBatch, int], th.Tensor | float]

MEANS: dict[str, Means] = {
    "token": lambda batch, longest: 1.0,
    "completion": lambda batch, longest: batch.mean_length / batch.length,
    "constant": lambda batch, longest: batch.mean_length / longest,
    "sum": lambda batch, longest: batch.mean_length,
}
"""Weights of the tokens in the mean over a minibatch, given the longest completion allowed.

| name           | the mean is                                                | bias                          |
|----------------|------------------------------------------------------------|-------------------------------|
| `"token"`      | over all tokens                                            | none up to the batch's length |
| `"completion"` | over completions, of the mean over each one's tokens       | favours short good, long bad  |
| `"constant"`   | over completions, of the sum, divided by a constant        | none                          |
| `"sum"`        | over completions, of the sum: the policy-gradient theorem's | none                          |
"""


def k2_of_completion(batch: TokenBatch) -> th.Tensor:
    """½ (Σ_t log π/π_ref)² of a completion, in equal parts for its tokens: in a loss, its gradient is the exact one."""
    return (batch.mean_of_completion(batch.reference_log_ratio) * batch.length) ** 2 / (2 * batch.length)


def _of_token(estimator: Callable[[th.Tensor], th.Tensor]) -> Callable[[TokenBatch], th.Tensor]:
    return lambda batch: estimator(batch.reference_log_ratio)


KL_IN_LOSS: dict[str, Callable[[TokenBatch], th.Tensor]] = {
    **{name: _of_token(estimator) for name, estimator in KL_ESTIMATORS.items() if name != "k1"},
    "k2_sequence": k2_of_completion,
}
"""Estimates of KL(π || π_ref) for the loss, one number per token. k1 is missing: its gradient is 0 in the mean."""


def averaged(
    objective: Objective, mean: str, longest: int, kl_coef: float = 0.0, kl_estimator: str = "k3"
) -> Objective:
    """An objective per token, less the price of moving away from the reference, with the weights of a mean.

    w (o - β KL)

    Args:
        objective: o.
        mean: A name in `MEANS`.
        longest: Longest completion allowed.
        kl_coef: β of a penalty in the loss; 0 for none.
        kl_estimator: A name in `KL_IN_LOSS`.
    """
    weights, kl = MEANS[mean], KL_IN_LOSS[kl_estimator]

    def value(batch: TokenBatch, *coefficients: float) -> th.Tensor:
        found = objective.value(batch, *coefficients)
        if kl_coef:
            found = found - kl_coef * kl(batch)
        return weights(batch, longest) * found

    settings = {**objective.settings, **({"kl_coef": kl_coef} if kl_coef else {})}
    return Objective(value, None, objective.coefficients, objective.metrics, settings)


def beyond(ratio: th.Tensor, low: float, high: float) -> th.Tensor:
    """1 where a ratio is outside [1 - ε_low, 1 + ε_high], else 0."""
    return ((ratio < 1 - low) | (ratio > 1 + high)).float()


def clipped(low: float, high: float) -> Objective:
    """min(Â r, Â clip(r, 1 - ε_low, 1 + ε_high)) of each token."""
    return Objective(
        lambda batch, low, high: clip_higher(batch.ratio, batch.advantages, low, high),
        clip_higher_weight,
        (low, high),
        metrics={"clip_fraction": lambda batch, low, high: beyond(batch.ratio, low, high)},
        settings={"clip_range": low, "clip_range_high": high},
    )


def sequence_clipped(low: float, high: float) -> Objective:
    """min(Â s, Â clip(s, 1 - ε_low, 1 + ε_high)) of each completion, with s = exp(mean of log r over its tokens).

    (GSPO, arXiv:2507.18071, eq. 5 to 7)
    """

    def ratio(batch: TokenBatch) -> th.Tensor:
        return th.exp(batch.mean_of_completion(batch.log_ratio))

    return Objective(
        lambda batch, low, high: clip_higher(ratio(batch), batch.advantages, low, high),
        None,
        (low, high),
        metrics={"clip_fraction": lambda batch, low, high: beyond(ratio(batch), low, high)},
        settings={"clip_range": low, "clip_range_high": high},
    )


def importance_clipped(low: float, high: float) -> Objective:
    """Â sg[clip(r, 1 - ε_low, 1 + ε_high)] log π of each token."""
    return Objective(
        lambda batch, low, high: clipped_importance_weight(batch.log_prob, batch.ratio, batch.advantages, low, high),
        clipped_importance_weight_weight,
        (low, high),
        metrics={"clip_fraction": lambda batch, low, high: beyond(batch.ratio, low, high)},
        settings={"clip_range": low, "clip_range_high": high},
    )


@dataclass(frozen=True)
class Variant:
    """A member of GRPO's family.

    Attributes:
        objective: `objective(low, high)`, per token.
        mean: A name in `MEANS`.
        scale: `"std"` divides advantages by the group's standard deviation, `"none"` does not.
        clip_range: ε_low and ε_high.
    """

    objective: Callable[[float, float], Objective]
    mean: str
    scale: str
    clip_range: tuple[float, float]


VARIANTS = {
    "grpo": Variant(clipped, "completion", "std", (0.2, 0.2)),
    "dr_grpo": Variant(clipped, "constant", "none", (0.2, 0.2)),
    "dapo": Variant(clipped, "token", "std", (0.2, 0.28)),
    "gspo": Variant(sequence_clipped, "completion", "std", (3e-4, 4e-4)),
    "cispo": Variant(importance_clipped, "token", "std", (1.0, 4.0)),
}
"""GRPO (arXiv:2402.03300), Dr. GRPO (2503.20783), DAPO (2503.14476), GSPO (2507.18071) and CISPO (2506.13585)."""
