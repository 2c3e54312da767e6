"""Checks the Gaussian policy against SciPy's density, and the exact gradient of a linear-quadratic problem."""

import numpy as np
import torch as th
from grading import WrongError, called, compare
from numpy.polynomial.hermite_e import hermegauss
from scipy.stats import norm

from pg_agents.theory import LinearQuadratic

# One step, x ~ N(0, 1), reward -(x² + u²), u ~ N(k x, σ²).
PROBLEM = LinearQuadratic(A=[[1.0]], B=[[1.0]], Q=[[1.0]], R=[[1.0]], horizon=1)
GAIN, LOG_STD = 0.4, -0.3


def check(exercise):
    mean = th.tensor([0.5, -1.0, 2.0], dtype=th.float64, requires_grad=True)
    log_std = th.tensor([-0.5, 0.3, 0.0], dtype=th.float64, requires_grad=True)
    noise = th.tensor([1.0, -2.0, 0.5], dtype=th.float64)
    std = log_std.detach().exp()
    results = called(exercise.act, mean, log_std, noise)
    if not (isinstance(results, tuple) and len(results) == 2):
        raise WrongError("`act` returns two things: the action and log π(a|s).")
    action, log_prob = results
    drawn = mean.detach() + std * noise
    compare(
        "The action",
        action,
        drawn,
        {
            "The noise is multiplied by log σ: σ = exp(log σ).": mean.detach() + log_std.detach() * noise,
            "The noise is missing: the action is μ itself.": mean,
        },
    )
    _check_log_prob(log_prob, drawn.numpy(), mean.detach().numpy(), std.numpy())
    by_mean, by_log_std = _gradients(log_prob, mean, log_std)
    compare(
        "∂ log π / ∂μ",
        by_mean,
        noise / std,
        {
            "The action is not detached: μ moves the action with it, so that log π does not feel μ. An action that was "
            "done is data.": th.zeros(3),
        },
    )
    compare("∂ log π / ∂ log σ", by_log_std, noise**2 - 1, {})
    found = _policy_gradient(exercise)
    exact = np.concatenate([part.ravel() for part in PROBLEM.solve([[GAIN]], [LOG_STD]).gradient])
    compare("∇J by k and log σ of the linear-quadratic problem", found, exact, {})
    return f"The density and its score are right, and ∇J = ({exact[0]:.3f}, {exact[1]:.3f}) by k and log σ exactly."


def _check_log_prob(log_prob, action, mean, std):
    right = norm.logpdf(action, mean, std)
    squares, constant = ((action - mean) / std) ** 2, 0.5 * np.log(2 * np.pi)
    compare(
        "log π(a|s)",
        log_prob,
        right,
        {
            "The sign of log π is wrong.": -right,
            "The square is not halved: the first term is -(a - μ)² / (2 σ²).": right - squares / 2,
            "The sign of the square is wrong: actions far from μ are less probable.": right + squares,
            "-log σ is missing: a wide density is a low one.": right + np.log(std),
            "σ stands in place of σ² in the first term.": -squares * std / 2 - np.log(std) - constant,
            "-½ log 2π is missing.": right + constant,
            "The sign of log σ is wrong: a wide density is a low one.": right + 2 * np.log(std),
        },
    )


def _gradients(log_prob, mean, log_std):
    if not log_prob.requires_grad:
        raise WrongError("log π(a|s) has no gradient: only the action is detached, not μ and σ.")
    found = th.autograd.grad(log_prob.sum(), [mean, log_std], allow_unused=True)
    return [th.zeros_like(mean) if one is None else one for one in found]


def _policy_gradient(exercise):
    """E[r ∇ log π], with the expectation over state and noise as a sum that is exact for polynomials."""
    points, weights = hermegauss(6)
    states, noise = (th.tensor(axis.ravel()) for axis in np.meshgrid(points, points))
    probabilities = th.tensor(np.outer(weights, weights).ravel() / weights.sum() ** 2)
    parameters = th.tensor([GAIN, LOG_STD], dtype=th.float64, requires_grad=True)
    action, log_prob = exercise.act(parameters[0] * states, parameters[1].expand(len(noise)), noise)
    rewards = -(states**2 + action.detach() ** 2)
    return th.autograd.grad((probabilities * rewards * log_prob).sum(), parameters)[0].numpy()
