"""Generalised advantage estimation."""

import numpy as np


def td_errors(rewards, values, next_values, terminated, gamma):
    return rewards + gamma * next_values * (1 - terminated) - values


def gae(errors, ends, gamma, gae_lambda):
    advantages = np.zeros_like(errors)
    following = 0.0
    for t in reversed(range(len(errors))):
        following = advantages[t] = errors[t] + gamma * gae_lambda * (1 - ends[t]) * following
    return advantages
