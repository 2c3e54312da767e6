"""REINFORCE. The task is in README.md beside this file."""

import numpy as np


def rewards_to_go(rewards, gamma):
    """G_t = Σ_{k≥t} γ^{k-t} r_k.

    Args:
        rewards: r_0, ..., r_{T-1} of one whole episode, an array of shape (T,).
        gamma: γ.

    Returns:
        G_0, ..., G_{T-1}, an array of shape (T,).
    """
    returns = np.zeros_like(rewards)
    # Your lines.
    return ...


def objective(log_prob, returns):
    """The quantity to be maximised, whose gradient is Σ_t G_t ∇ log π(a_t|s_t).

    Args:
        log_prob: log π(a_t|s_t), a tensor of shape (T,).
        returns: G_t, a tensor of shape (T,).

    Returns:
        A tensor of shape (T,), one number for each step.
    """
    return ...
