"""PPO's clip."""

import torch as th


def objective(log_prob, old_log_prob, advantages, clip_range):
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = th.exp(log_prob - old_log_prob.detach())
    clipped = th.clamp(ratio, 1 - clip_range, 1 + clip_range)
    return th.min(ratio * advantages, clipped * advantages)
