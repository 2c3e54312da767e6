"""REINFORCE."""

import numpy as np


def rewards_to_go(rewards, gamma):
    returns = np.zeros_like(rewards)
    following = 0.0
    for t in reversed(range(len(rewards))):
        following = returns[t] = rewards[t] + gamma * following
    return returns


def objective(log_prob, returns):
    return returns * log_prob
