"""Generalised advantage estimation. The task is in README.md beside this file."""

import numpy as np


def td_errors(rewards, values, next_values, terminated, gamma):
    """δ_t = r_t + γ V(s_{t+1}) - V(s_t), where V(s_{t+1}) is 0 if the task has ended.

    Args:
        rewards: r_t, an array of shape (T,).
        values: V(s_t), an array of shape (T,).
        next_values: V(s_{t+1}), an array of shape (T,).
        terminated: Whether the task has ended in s_{t+1}, an array of bool, of shape (T,).
        gamma: γ.

    Returns:
        δ_t, an array of shape (T,).
    """
    return ...


def gae(errors, ends, gamma, gae_lambda):
    """Â_t = Σ_l (γλ)^l δ_{t+l}, where the sum stops at the end of the episode.

    Args:
        errors: δ_t of several episodes in a row, an array of shape (T,).
        ends: Whether the episode ended after step t, an array of bool, of shape (T,).
        gamma: γ.
        gae_lambda: λ.

    Returns:
        Â_t, an array of shape (T,).
    """
    advantages = np.zeros_like(errors)
    # Your four lines.
    return ...
