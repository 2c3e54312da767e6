"""Rock-paper-scissors: a policy that has to be random."""

import torch as th


def exploitability(policy, payoff):
    return (payoff @ policy).max()


def objective(logits, payoff):
    policy = th.softmax(logits, dim=0)
    values = payoff @ policy.detach()
    return policy @ values
