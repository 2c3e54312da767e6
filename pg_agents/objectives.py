"""Surrogate objectives, one number per sample, as pure functions of log π, and the loss that they are part of.

Every argument is a tensor of shape `(batch,)`. An objective is maximised, a loss minimised. The gradient of an
objective with respect to log π is the weight ψ of the policy gradient, θ += α Σ ψ_i ∇ log π(a_i|s_i).

Beside each objective stands its weight in closed form, because the compiled engine does not differentiate: a
function `weight(log_prob, ratio, advantage, *coefficients)` of one sample's numbers. An algorithm names the two, and
the coefficients in force, in an `Objective`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch as th
from stable_baselines3.common.distributions import kl_divergence as kl_of_distributions
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from pg_agents.contract import Loss, Minibatch, NotServedError, Objective, Penalty, WrongWeightError
from pg_agents.policies import unchecked_distributions


class LossTerms(NamedTuple):
    """The loss of one minibatch and its parts, each a scalar.

    Attributes:
        total: The loss.
        policy: -E[objective].
        entropy: -E[H(π)].
        value: E[(R - V)²], or None without a critic.
        penalty: E[KL(π || π_ref)], or None without a reference policy.
    """

    total: th.Tensor
    policy: th.Tensor
    entropy: th.Tensor
    value: th.Tensor | None
    penalty: th.Tensor | None


def loss(batch: Minibatch, form: Loss) -> LossTerms:
    """The loss that every algorithm minimises.

    L = s (-E[objective] - c E[H(π)] + v E[(R - V)²] + β E[KL(π || π_ref)])
    (arXiv:1707.06347, eq. 9, with the sign of a loss; arXiv:2203.02155, eq. 2, for the last term)

    with s = `scale`, c = `ent_coef`, v = `vf_coef` and β = `penalty.kl_coef`. E is the mean over the minibatch. With
    whole episodes, `scale` turns it into the mean over episodes of the sum over their steps, as in the policy-gradient
    theorem. Where the entropy has no closed form, -log π of the sampled actions estimates it.
    """
    policy = -one_per_sample(form.objective(batch), batch).mean()
    entropy = -(-batch.log_prob if batch.entropy is None else batch.entropy).mean()
    predict = form.value_prediction or partial(predicted_values, value_clip=form.value_clip)
    value = F.mse_loss(batch.returns, predict(batch)) if form.trains_critic else None
    total = policy + form.ent_coef * entropy + (0 if value is None else form.vf_coef * value)
    penalty = None if form.penalty is None else reference_kl(batch, form.penalty).mean()
    if form.penalty is not None and penalty is not None:
        total = total + form.penalty.kl_coef * penalty
    return LossTerms(form.scale * total, policy, entropy, value, penalty)


def one_per_sample(values: th.Tensor, batch: Minibatch) -> th.Tensor:
    """The values of an objective, if there is one for each sample, and a gradient.

    Raises:
        ValueError: They are something else, which would train silently on a wrong mean, or not at all.
    """
    if not isinstance(values, th.Tensor) or values.shape != batch.log_prob.shape:
        given = f"shape {tuple(values.shape)}" if isinstance(values, th.Tensor) else repr(values)
        raise ValueError(
            f"The objective's `value` must be a tensor with one number for each sample, of shape "
            f"{tuple(batch.log_prob.shape)}, but is {given}."
        )
    if not values.requires_grad and batch.log_prob.requires_grad:
        raise ValueError(
            "The objective's `value` has no gradient: it does not depend on log π, or everything in it is detached."
        )
    return values


def reference_kl(batch: Minibatch, form: Penalty) -> th.Tensor:
    """KL(π || π_ref) at each sample's state: its closed form, or an estimate from the sample's action."""
    with unchecked_distributions():
        with th.no_grad():
            reference = form.reference.get_distribution(batch.observations)
        if form.estimator != "exact":
            return KL_ESTIMATORS[form.estimator](batch.log_prob - reference.log_prob(batch.actions).detach())
        divergence = kl_of_distributions(batch.distribution, reference)
    return divergence if divergence.ndim == 1 else divergence.sum(dim=1)  # over the numbers of an action


def k1(log_ratio: th.Tensor) -> th.Tensor:
    """Estimate of KL(π || π_ref) at a sample of π, for the reward.

    log π - log π_ref   (http://joschu.net/blog/kl-approx.html)

    Its mean is right. In a loss its gradient has the mean E[∇ log π] = 0, and so does nothing.
    """
    return log_ratio


def k2(log_ratio: th.Tensor) -> th.Tensor:
    """Estimate of KL(π || π_ref) at a sample of π, for the loss.

    ½ (log π - log π_ref)²   (http://joschu.net/blog/kl-approx.html)

    Its mean is biased; the mean of its gradient is ∇ KL(π || π_ref).
    """
    return log_ratio**2 / 2


def k3(log_ratio: th.Tensor) -> th.Tensor:
    """Estimate of KL(π || π_ref) at a sample of π: never negative, of low variance.

    π_ref/π - 1 - log(π_ref/π)   (http://joschu.net/blog/kl-approx.html; arXiv:2402.03300, eq. 4)

    Its mean is right; the mean of its gradient is ∇ KL(π_ref || π), the other direction.
    """
    return kl_divergence(th.exp(-log_ratio), -log_ratio)


KL_ESTIMATORS: dict[str, Callable[[th.Tensor], th.Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
"""Estimates of KL(π || π_ref) from log π - log π_ref at the samples, by the names under which they are known."""


def predicted_values(batch: Minibatch, value_clip: float | None) -> th.Tensor:
    """The prediction that the value loss compares with the returns: V, or V_old + clip(V - V_old, -ε_v, ε_v)."""
    return batch.values if value_clip is None else clipped_values(batch.values, batch.old_values, value_clip)


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
    return clip_higher(ratio, advantages, clip_range, clip_range)


def clipped_surrogate_weight(log_prob: float, ratio: float, advantage: float, clip_range: float) -> float:
    """ψ = Â r, and 0 where the clipped term is the smaller one: Â > 0 and r > 1 + ε, or Â < 0 and r < 1 - ε."""
    clipped = (advantage > 0 and ratio > 1 + clip_range) or (advantage < 0 and ratio < 1 - clip_range)
    return 0.0 if clipped else advantage * ratio


def clip_higher(ratio: th.Tensor, advantages: th.Tensor, low: float, high: float) -> th.Tensor:
    """PPO's pessimistic bound with a range of its own above 1, so that improbable actions can become probable.

    min(Â r, Â clip(r, 1 - ε_low, 1 + ε_high))   (DAPO, arXiv:2503.14476, eq. 8)
    """
    return th.min(advantages * ratio, advantages * th.clamp(ratio, 1 - low, 1 + high))


def clip_higher_weight(log_prob: float, ratio: float, advantage: float, low: float, high: float) -> float:
    """ψ = Â r, and 0 where the clipped term is smaller: Â > 0 and r > 1 + ε_high, or Â < 0 and r < 1 - ε_low."""
    clipped = (advantage > 0 and ratio > 1 + high) or (advantage < 0 and ratio < 1 - low)
    return 0.0 if clipped else advantage * ratio


def clipped_importance_weight(
    log_prob: th.Tensor, ratio: th.Tensor, advantages: th.Tensor, low: float, high: float
) -> th.Tensor:
    """Policy gradient with a clipped importance weight: no action loses its gradient.

    Â sg[clip(r, 1 - ε_low, 1 + ε_high)] log π(a|s), sg without a gradient   (CISPO, arXiv:2506.13585, eq. 4)
    """
    return advantages * th.clamp(ratio, 1 - low, 1 + high).detach() * log_prob


def clipped_importance_weight_weight(log_prob: float, ratio: float, advantage: float, low: float, high: float) -> float:
    """ψ = Â clip(r, 1 - ε_low, 1 + ε_high)."""
    return advantage * min(max(ratio, 1 - low), 1 + high)


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


def mean_kl(batch: Minibatch) -> float:
    """Estimate of KL(π_old || π) from a minibatch."""
    with th.no_grad():
        return float(kl_divergence(batch.ratio, batch.log_ratio).mean())


def clipped_values(values: th.Tensor, old_values: th.Tensor, clip_range_vf: float) -> th.Tensor:
    """Value prediction that may differ by at most ε_v from the prediction during the rollout.

    V_old + clip(V - V_old, -ε_v, ε_v)   (OpenAI Baselines' PPO2; not in the paper)
    """
    return old_values + th.clamp(values - old_values, -clip_range_vf, clip_range_vf)


def normalise(advantages: th.Tensor) -> th.Tensor:
    """Advantages of a minibatch, shifted to mean 0 and scaled to standard deviation 1."""
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def outside(batch: Minibatch, clip_range: float) -> th.Tensor:
    """1 where a sample's ratio is outside [1 - ε, 1 + ε], else 0."""
    return (th.abs(batch.ratio - 1) > clip_range).float()


N_CHECKED = 64  # random samples


def check_weight(objective: Objective, *, rtol: float = 1e-4) -> None:
    """Compare an objective's weight with the derivative of its value by log π, on random samples.

    Args:
        objective: An objective with a weight.
        rtol: Relative tolerance, with respect to the largest weight of the samples too.

    Raises:
        WrongWeightError: The two differ, and the message shows the sample where they differ most; or the weight fails.
        NotServedError: The value needs more of a minibatch than log π, the old log π and the advantages, so that no
            weight can be its derivative.
    """
    assert objective.weight is not None
    # Own numbers: neither a seed nor a call of this function changes any other random draw.
    normal = th.randn(3, N_CHECKED, dtype=th.float64, generator=th.Generator().manual_seed(0))
    old_log_prob, advantages = -1.5 + normal[0], 2 * normal[1]
    log_prob = (old_log_prob + 0.5 * normal[2]).requires_grad_()
    nothing = th.full((N_CHECKED,), th.nan, dtype=th.float64)
    batch = Minibatch(log_prob, old_log_prob, advantages, nothing, nothing, nothing, entropy=None)
    try:
        with th.enable_grad():
            (derivatives,) = th.autograd.grad(objective(batch).sum(), log_prob, allow_unused=True)
    except Exception as error:
        raise NotServedError(f"its objective's value cannot be compared with its `weight` ({error})") from error
    expected = th.zeros_like(log_prob) if derivatives is None else derivatives
    samples = list(zip(log_prob.tolist(), batch.ratio.tolist(), advantages.tolist(), strict=True))
    name = getattr(objective.weight, "__qualname__", repr(objective.weight))
    try:
        given = [float(objective.weight(*sample, *objective.coefficients)) for sample in samples]
    except Exception as error:
        raise WrongWeightError(
            f"its weight `{name}` fails ({type(error).__name__}: {error}): it is given numbers, so it can use `math`, "
            "but not torch"
        ) from error
    weights = th.tensor(given, dtype=th.float64)
    errors = (weights - expected).abs()
    wrong = ~(errors <= rtol * (expected.abs() + float(expected.abs().max())))
    if wrong.any():
        worst = int(th.where(wrong, errors.nan_to_num(nan=th.inf), -1).argmax())
        new, ratio, advantage = samples[worst]
        raise WrongWeightError(
            f"its weight `{name}` is not the derivative of its objective: at log π = {new:.4g}, ratio {ratio:.4g} and "
            f"advantage {advantage:.4g} the weight is {float(weights[worst]):.6g}, the derivative "
            f"{float(expected[worst]):.6g}"
        )
