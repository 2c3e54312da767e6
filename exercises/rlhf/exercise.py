"""RLHF's β: reward against distance from a reference. The task is in README.md beside this file."""

import torch as th


def optimum(reference, rewards, beta):
    """The policy with the largest E[r] - β KL(π ‖ π_ref): π*(x) = π_ref(x) exp(r(x) / β) / Z.

    Args:
        reference: π_ref(x) of each text x, a tensor of shape (texts,).
        rewards: r(x), a tensor of shape (texts,).
        beta: β, greater than 0.

    Returns:
        π*(x), a tensor of shape (texts,) whose sum is 1.
    """
    return ...


def objective(log_prob, reference_log_prob, rewards, beta):
    """The quantity to be maximised: the policy gradient of E[r] - β KL(π ‖ π_ref), from samples.

    The reward of a sample is r - β (log π - log π_ref), a number without a gradient. Its baseline is the mean of the
    other samples' (leave-one-out). The rest is REINFORCE.

    Args:
        log_prob: log π(x) of each sampled text, a tensor of shape (samples,).
        reference_log_prob: log π_ref(x), a tensor of shape (samples,).
        rewards: r(x), a tensor of shape (samples,).
        beta: β.

    Returns:
        A tensor of shape (samples,).
    """
    penalised = ...
    baseline = ...
    return ...
