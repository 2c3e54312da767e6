"""Continuous actions: the Gaussian policy. The task is in README.md beside this file."""

import math

import torch as th


def act(mean, log_std, noise):
    """An action of the policy N(μ, σ²), and log π(a|s).

    The action is a = μ + σ ε. What was done is data: no gradient flows into the action.
    log π(a|s) = -(a - μ)² / (2 σ²) - log σ - ½ log 2π

    Args:
        mean: μ(s), a tensor.
        log_std: log σ, a tensor of the same shape.
        noise: ε, drawn from N(0, 1), a tensor of the same shape.

    Returns:
        a and log π(a|s), tensors of this shape.
    """
    std = th.exp(log_std)
    action = ...
    log_prob = ...
    return action, log_prob
