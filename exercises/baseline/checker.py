"""Checks REINFORCE with baseline against the formula, and against the exact gradient of the two-step problem."""

import numpy as np
import tiny
import torch as th
from grading import compare, gradients


def check(exercise):
    log_prob, values = th.tensor([-0.5, -1.0, -2.0]), th.tensor([1.0, 2.0, -1.0])
    returns = th.tensor([3.0, -1.0, 2.0])
    advantages = returns - values
    by_log_prob, by_values = gradients(exercise.objective, [log_prob, values], [returns])
    compare(
        "The weight of ∇ log π",
        by_log_prob,
        advantages,
        {
            "The sign of the actor's part is wrong: the objective is maximised, so it has no minus.": -advantages,
            "The advantage is not centred: the baseline V(s_t) is not subtracted from G_t.": returns,
            "The baseline is added: the advantage is G_t - V(s_t).": returns + values,
            "The total return G_0 is credited to every step: G_t belongs to step t.": returns[0] - values,
        },
    )
    right = 2 * advantages
    compare(
        "The gradient by V",
        by_values,
        right,
        {
            "V is not detached: the actor's part moves the critic too. Use `values.detach()` in the advantage.": right
            - log_prob,
            "The sign of the critic's part is wrong: its error is subtracted from what is maximised.": -right,
            "The critic does not learn: -(G - V)² with a gradient is missing.": th.zeros(3),
            "The critic does not learn, and the actor moves it: V is not detached, and -(G - V)² is missing.": (
                -log_prob
            ),
            "The critic learns from half of the squared error, (G - V)² / 2; take all of it.": advantages,
        },
    )
    solution = tiny.MDP.solve(tiny.THETA)
    mean, variance = tiny.expected(solution, lambda one: _gradient(exercise, one, solution))
    compare("The mean of the gradient over all trajectories", mean, solution.gradient, {})
    _, plain = tiny.expected(solution, lambda one: _weighted(one, solution.policy, _returns(one)))
    return f"The mean is ∇J exactly, with any V. With V = V_π the variance is {variance:.2f}, without V {plain:.2f}."


def _returns(one):
    return np.array([sum(one.rewards), one.rewards[1]])


def _gradient(exercise, one, solution):
    values, returns = th.tensor(solution.V[list(one.states)]), th.tensor(_returns(one))
    weights, _ = gradients(exercise.objective, [th.zeros(2, dtype=th.float64), values], [returns])
    return _weighted(one, solution.policy, weights.tolist())


def _weighted(one, policy, weights):
    steps = zip(weights, one.states, one.actions, strict=True)
    return sum(weight * tiny.score(policy, s, a) for weight, s, a in steps)
