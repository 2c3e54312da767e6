"""REINFORCE with a learned baseline."""


def objective(log_prob, values, returns):
    advantages = returns - values.detach()
    actor = advantages * log_prob
    critic = -((returns - values) ** 2)
    return actor + critic
