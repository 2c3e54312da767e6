"""Ascent along the exact gradient and along the natural one, in any parameters, and Kakade's example of two states."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pg_agents.checks import check_number
from pg_agents.theory.mdp import Floats, TabularMDP, natural_direction


def two_states(gamma: float = 0.95) -> TabularMDP:
    """The two states of Kakade (2002, section 5), in which the plain gradient reaches a plateau.

    In either state, action 0 stays and action 1 goes to the other state. Staying in state 0 pays 1, staying in state 1
    pays 2, and going pays nothing. Episodes begin in state 0 with probability 0.8. (Kakade maximises the mean reward,
    (1 - γ) J in the limit of γ = 1.)

    Args:
        gamma: Discount factor.
    """
    stay, go = np.eye(2), np.eye(2)[::-1]
    return TabularMDP(np.stack([stay, go], axis=1), [[1.0, 0.0], [2.0, 0.0]], [0.8, 0.2], gamma)


def ascend(
    mdp: TabularMDP,
    theta: ArrayLike,
    n_steps: int,
    step_size: float,
    *,
    natural: bool = False,
    scale: ArrayLike = 1.0,
) -> Floats:
    """Follow the exact gradient of J, in parameters φ with θ = `scale` φ.

    φ += α ∇_φ J, or φ += α F_φ⁺ ∇_φ J along the natural gradient (Kakade 2002, section 2)

    Args:
        mdp: The decision process.
        theta: The first θ of the policy softmax(θ[s]), of shape `(S, A)`.
        n_steps: Number of steps.
        step_size: α.
        natural: Along the natural gradient.
        scale: θ / φ, not 0: one number, or as many as θ has.

    Returns:
        The path of θ, of shape `(n_steps + 1, S, A)`.

    Raises:
        ValueError: An argument is out of range.
    """
    check_number("n_steps", n_steps, at_least=1, integer=True)
    check_number("step_size", step_size, above=0)
    path = [np.array(theta, dtype=float)]
    factors = np.broadcast_to(np.array(scale, dtype=float), path[0].shape)
    if not np.isfinite(factors).all() or (factors == 0).any():
        raise ValueError(f"`scale` must be finite and not 0, but is {scale!r}.")
    for _ in range(n_steps):
        solution = mdp.solve(path[-1])
        direction = factors * solution.gradient
        if natural:
            fisher = factors[:, :, None] * solution.fisher * factors[:, None, :]
            direction = natural_direction(fisher, direction)
        path.append(path[-1] + step_size * factors * direction)
    return np.array(path)
