"""PPO's clip. The task is in README.md beside this file."""

import torch as th


def objective(log_prob, old_log_prob, advantages, clip_range):
    """PPO's clipped surrogate, min(r Â, clip(r, 1 - ε, 1 + ε) Â), with Â shifted and scaled to mean 0 and deviation 1.

    The ratio is r = π(a|s) / π_old(a|s). The old policy is data: no gradient flows into it.

    Args:
        log_prob: log π(a|s), a tensor of shape (batch,).
        old_log_prob: log π_old(a|s), a tensor of shape (batch,).
        advantages: Advantages before normalisation, a tensor of shape (batch,).
        clip_range: ε.

    Returns:
        A tensor of shape (batch,), one number for each sample, to be maximised.
    """
    advantages = ...
    ratio = ...
    clipped = ...
    return ...
