"""What is maximised: the surrogate objectives, one number per sample, as pure functions of log pi.

Every argument is a tensor of shape `(batch,)`. An objective is maximised, a loss minimised. The gradient of each
with respect to log π is the weight ψ of the policy gradient, θ += α Σ ψ_i ∇ log π(a_i|s_i).

Beside each objective stands its weight in closed form, for the compiled engine, which does not differentiate: a
function `weight(log_prob, ratio, advantage, *coefficients)` of one sample's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch as th


class Weight(NamedTuple):
    """The weight ψ = ∂ objective / ∂ log π(a|s) of an agent's objective.

    Attributes:
        function: ψ of one sample, as a function of log π, the ratio π / π_old, the advantage and the coefficients: a
            function that Numba can compile for float32 numbers.
        coefficients: Their current values, at most 3.
    """

    function: Callable[..., float]
    coefficients: tuple[float, ...] = ()


def score_function(log_prob: th.Tensor, advantages: th.Tensor) -> th.Tensor:
    """The objective whose gradient is the policy-gradient theorem's.

    Â log π(a|s)   (Williams 1992; arXiv:1602.01783)
    """
    return advantages * log_prob


def score_function_weight(log_prob: float, ratio: float, advantage: float) -> float:
    """ψ = Â."""
    return advantage


def importance_weighted(ratio: th.Tensor, advantages: th.Tensor) -> th.Tensor:
    """Conservative policy iteration's objective: the advantage under the new policy, from samples of the old.

    Â r, with r = π(a|s) / π_old(a|s)   (arXiv:1707.06347, eq. 6)
    """
    return advantages * ratio


def importance_weighted_weight(log_prob: float, ratio: float, advantage: float) -> float:
    """ψ = Â r, because ∂r / ∂log π = r."""
    return advantage * ratio


def clipped_surrogate(ratio: th.Tensor, advantages: th.Tensor, clip_range: float) -> th.Tensor:
    """PPO's pessimistic bound: no gain from moving the ratio out of [1 - ε, 1 + ε].

    min(Â r, Â clip(r, 1 - ε, 1 + ε))   (arXiv:1707.06347, eq. 7)
    """
    return th.min(advantages * ratio, advantages * th.clamp(ratio, 1 - clip_range, 1 + clip_range))


def clipped_surrogate_weight(log_prob: float, ratio: float, advantage: float, clip_range: float) -> float:
    """ψ = Â r, and 0 where the clipped term is the smaller one: Â > 0 and r > 1 + ε, or Â < 0 and r < 1 - ε."""
    clipped = (advantage > 0 and ratio > 1 + clip_range) or (advantage < 0 and ratio < 1 - clip_range)
    return 0.0 if clipped else advantage * ratio


def kl_penalised(ratio: th.Tensor, log_ratio: th.Tensor, advantages: th.Tensor, kl_coef: float) -> th.Tensor:
    """PPO's other variant: moving away from the old policy costs.

    Â r - β KL(π_old || π)   (arXiv:1707.06347, eq. 8), with the KL divergence estimated by `kl_divergence`
    """
    return importance_weighted(ratio, advantages) - kl_coef * kl_divergence(ratio, log_ratio)


def kl_penalised_weight(log_prob: float, ratio: float, advantage: float, kl_coef: float) -> float:
    """ψ = Â r - β (r - 1)."""
    return advantage * ratio - kl_coef * (ratio - 1)


def kl_divergence(ratio: th.Tensor, log_ratio: th.Tensor) -> th.Tensor:
    """Estimate of KL(π_old || π), at each sample of π_old: unbiased, never negative, of low variance.

    (r - 1) - log r   (http://joschu.net/blog/kl-approx.html)
    """
    return (ratio - 1) - log_ratio


def clipped_values(values: th.Tensor, old_values: th.Tensor, clip_range_vf: float) -> th.Tensor:
    """Value prediction that may move by no more than ε_v from what it was when the rollout was collected.

    V_old + clip(V - V_old, -ε_v, ε_v)   (OpenAI Baselines' PPO2; not in the paper)
    """
    return old_values + th.clamp(values - old_values, -clip_range_vf, clip_range_vf)


def normalise(advantages: th.Tensor) -> th.Tensor:
    """Advantages of a minibatch, shifted to mean 0 and scaled to standard deviation 1."""
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
