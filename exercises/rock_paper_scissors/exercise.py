"""Rock-paper-scissors: a policy that has to be random. The task is in README.md beside this file."""

import torch as th


def exploitability(policy, payoff):
    """The most that an opponent can gain who knows the policy: max_a Σ_b A(a, b) π(b).

    Args:
        policy: π, a tensor of shape (moves,).
        payoff: A(a, b), the reward of move a against move b, a tensor of shape (moves, moves).

    Returns:
        A tensor with one number.
    """
    return ...


def objective(logits, payoff):
    """The expected reward of π = softmax(logits) against a copy of itself, Σ_a π(a) Σ_b A(a, b) π'(b).

    The copy π' is the opponent: no gradient flows into it.

    Args:
        logits: θ, a tensor of shape (moves,).
        payoff: A(a, b), a tensor of shape (moves, moves).

    Returns:
        A tensor with one number, to be maximised.
    """
    policy = th.softmax(logits, dim=0)
    # Your lines.
    return ...
