"""The policy-gradient theorem by hand, on two steps."""

import numpy as np


def score(policy, state, action):
    gradient = np.zeros_like(policy)
    gradient[state] = -policy[state]
    gradient[state, action] += 1
    return gradient


def policy_gradient(policy, trajectories):
    gradient = np.zeros_like(policy)
    for one in trajectories:
        scores = sum(score(policy, s, a) for s, a in zip(one.states, one.actions, strict=True))
        gradient += one.probability * sum(one.rewards) * scores
    return gradient
