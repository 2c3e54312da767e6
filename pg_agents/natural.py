"""The natural gradient: Fisher-vector products, conjugate gradients, and a backtracking line search.

Vectors are flat tensors of shape `(n,)`, with one entry for each number in the parameters that the policy depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, sqrt

import torch as th
from stable_baselines3.common.distributions import Distribution, kl_divergence

from pg_agents.contract import NaturalStep

Product = Callable[[th.Tensor], th.Tensor]
"""v to A v, for a symmetric and positive definite matrix A."""


def mean_divergence(new: Distribution, old: Distribution, *, mean_over_dimensions: bool = False) -> th.Tensor:
    """The mean of KL(π || π_old) over some states, a scalar, in closed form.

    Args:
        new: π(.|s) of each state.
        old: π_old(.|s) of each state.
        mean_over_dimensions: The mean over the dimensions of a Gaussian or Bernoulli action, not the sum.
    """
    kl = kl_divergence(new, old)
    return (kl if mean_over_dimensions or kl.dim() == 1 else kl.sum(dim=1)).mean()


def reached(output: th.Tensor, parameters: Sequence[th.nn.Parameter]) -> list[th.nn.Parameter]:
    """The parameters that a scalar depends on."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = th.autograd.grad(output, trainable, retain_graph=True, allow_unused=True)
    return [parameter for parameter, found in zip(trainable, gradients, strict=True) if found is not None]


def gradient(output: th.Tensor, parameters: Sequence[th.nn.Parameter]) -> th.Tensor:
    """∇ of a scalar, flat; 0 for a parameter that it does not depend on."""
    found = th.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
    return flat([th.zeros_like(p) if one is None else one for p, one in zip(parameters, found, strict=True)])


def fisher_product(kl: th.Tensor, parameters: Sequence[th.nn.Parameter], damping: float = 0.0) -> Product:
    """v to (F + damping I) v, with the Fisher matrix F as the Hessian of the KL divergence from the present policy.

    F = E_s[E_a[∇ log π ∇ log πᵀ]] = ∇² E_s[KL(π || π_old)] at π = π_old, F v = ∇ (∇KL · v)   (Pearlmutter 1994)

    Args:
        kl: `mean_divergence` of the policy from its own present state, with the graph to the parameters.
        parameters: Those that it depends on.
        damping: Added to the diagonal of F.
    """
    # One parameter after the other: their graphs, and so the products, are then sb3-contrib's, to the last bit.
    slope = flat([th.autograd.grad(kl, parameter, create_graph=True)[0] for parameter in parameters])
    return lambda v: gradient((slope * v).sum(), parameters) + damping * v


def conjugate_gradient(
    product: Product, g: th.Tensor, start: th.Tensor, max_steps: int, tolerance: float = 1e-10
) -> th.Tensor:
    """Solve A x = g approximately, by conjugate gradients (Hestenes and Stiefel 1952).

    Args:
        product: v to A v.
        g: The right-hand side.
        start: The first x.
        max_steps: Largest number of steps. One for each dimension gives the solution, up to rounding.
        tolerance: The search ends when |g - A x|² is below this.
    """
    x = start.clone()
    residual = g - product(x)
    squared = residual @ residual
    direction = residual.clone()
    for _ in range(max_steps):
        if squared < tolerance:
            break
        image = product(direction)
        alpha = squared / direction.dot(image)
        x += alpha * direction
        residual -= alpha * image
        before, squared = squared, residual @ residual
        direction = residual + squared / before * direction
    return x


def move(
    parameters: Sequence[th.nn.Parameter],
    g: th.Tensor,
    product: Product,
    evaluate: Callable[[], tuple[th.Tensor, th.Tensor]],
    objective: th.Tensor,
    step: NaturalStep,
) -> dict[str, float]:
    """Move parameters along the natural gradient of an objective, or leave them as they are, to the last bit.

    Conjugate gradients start from a small random vector of torch's generator.

    Args:
        parameters: Those of the policy.
        g: The objective's gradient.
        product: v to (F + `step.cg_damping` I) v.
        evaluate: Gives E[objective] and E[KL(π || π_old)] of the parameters as they are then.
        objective: E[objective] before the step.
        step: The form of the step.

    Returns:
        The metrics `policy_objective`, `kl_divergence_loss` and `is_line_search_success`.
    """
    direction = conjugate_gradient(product, g, 1e-4 * th.randn_like(g), step.cg_max_steps)
    length = step.step_size
    if length is None:
        length = step_length(float(direction @ product(direction)), step.target_kl)
    origin = flat([parameter.detach() for parameter in parameters])
    now = objective, th.zeros(())

    def accepts(fraction: float) -> bool:
        nonlocal now
        write(origin + fraction * length * direction, parameters)
        now = evaluate()
        if step.line_search_max_iter == 0:
            return bool(th.isfinite(now[1]))
        return bool(now[1] < step.target_kl) and bool(now[0] > objective)

    accepted = None
    try:
        # Without a gradient, the direction is only rounding and the random start.
        if g.any() and th.isfinite(length * direction).all():
            with th.no_grad():
                accepted = line_search(accepts, max(step.line_search_max_iter, 1), step.line_search_shrinking_factor)
    finally:
        if accepted is None:  # also where a trial was interrupted
            write(origin, parameters)
            now = objective, th.zeros(())
    return {
        "policy_objective": now[0].item(),
        "kl_divergence_loss": now[1].item(),
        "is_line_search_success": float(accepted is not None),
    }


def step_length(curvature: float, target_kl: float) -> float:
    """The factor of a direction s at which the KL divergence is δ to second order.

    α = √(2 δ / sᵀ F s)   (arXiv:1502.05477, appendix C)

    Args:
        curvature: sᵀ F s.
        target_kl: δ.
    """
    return sqrt(2 * target_kl / curvature) if curvature > 0 else inf


def line_search(accepts: Callable[[float], bool], max_trials: int, shrinking_factor: float) -> float | None:
    """The first of 1, c, c², ... that is accepted; None if none of them is.

    Args:
        accepts: The test.
        max_trials: Largest number of trials.
        shrinking_factor: c.
    """
    fraction = 1.0
    for _ in range(max_trials):
        if accepts(fraction):
            return fraction
        fraction *= shrinking_factor
    return None


def flat(tensors: Sequence[th.Tensor]) -> th.Tensor:
    """The numbers in some tensors, one after the other."""
    return th.cat([tensor.reshape(-1) for tensor in tensors])


def write(values: th.Tensor, parameters: Sequence[th.nn.Parameter]) -> None:
    """Give parameters the values of a flat vector, in the memory that they have."""
    with th.no_grad():
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, part in zip(parameters, th.split(values, sizes), strict=True):
            parameter.copy_(part.view_as(parameter))
