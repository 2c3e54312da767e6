"""The one-step actor-critic."""


def objective(log_prob, value, next_value, reward, terminated, gamma):
    target = (reward + gamma * next_value * (1 - terminated)).detach()
    actor = (target - value.detach()) * log_prob
    critic = -((target - value) ** 2)
    return actor + critic
