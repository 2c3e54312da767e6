"""RLHF's β: reward against distance from a reference."""

import torch as th


def optimum(reference, rewards, beta):
    tilted = reference * th.exp(rewards / beta)
    return tilted / tilted.sum()


def objective(log_prob, reference_log_prob, rewards, beta):
    penalised = (rewards - beta * (log_prob - reference_log_prob)).detach()
    baseline = (penalised.sum() - penalised) / (len(penalised) - 1)
    return (penalised - baseline) * log_prob
