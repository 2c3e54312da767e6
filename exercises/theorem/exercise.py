"""The policy-gradient theorem by hand, on two steps. The task is in README.md beside this file."""

import numpy as np


def score(policy, state, action):
    """∇ log π(a|s) by θ, for π(.|s) = softmax(θ[s]).

    Args:
        policy: π, an array of shape (states, actions), as θ.
        state: s.
        action: a.

    Returns:
        An array of the shape of θ: 1{a = b} - π(b|s) at [s, b], and 0 in the rows of other states.
    """
    gradient = np.zeros_like(policy)
    # Your lines.
    return ...


def policy_gradient(policy, trajectories):
    """∇J = Σ_τ P(τ) R(τ) Σ_t ∇ log π(a_t|s_t).

    Args:
        policy: π, an array of shape (states, actions).
        trajectories: All possible ones. Each has a `probability`, and tuples `states`, `actions` and `rewards`.

    Returns:
        ∇J, an array of the shape of θ.
    """
    gradient = np.zeros_like(policy)
    for one in trajectories:
        # Your lines.
        ...
    return ...
