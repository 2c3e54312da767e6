"""Continuous actions: the Gaussian policy."""

import math

import torch as th


def act(mean, log_std, noise):
    std = th.exp(log_std)
    action = (mean + std * noise).detach()
    log_prob = -((action - mean) ** 2) / (2 * std**2) - log_std - 0.5 * math.log(2 * math.pi)
    return action, log_prob
