"""Checks the one-step actor-critic against its formula, and against the exact gradient of the two-step problem."""

import numpy as np
import tiny
import torch as th
from grading import compare, gradients

GAMMA = 0.5


def check(exercise):
    log_prob, value, following = th.tensor([-0.5, -1.0]), th.tensor([1.0, 2.0]), th.tensor([4.0, 6.0])
    reward, terminated = th.tensor([3.0, -1.0]), th.tensor([0.0, 1.0])
    others = [reward, terminated, GAMMA]
    by_log_prob, by_value, by_next = gradients(exercise.objective, [log_prob, value, following], others)
    target = th.tensor([3.0 + 0.5 * 4.0, -1.0])  # the second task has ended
    error = target - value
    undiscounted, endless = th.tensor([7.0, -1.0]), th.tensor([5.0, 2.0])
    compare(
        "The weight of ∇ log π",
        by_log_prob,
        error,
        {
            "The sign of the actor's part is wrong: the objective is maximised, so it has no minus.": -error,
            "The advantage is not centred: V(s) is not subtracted from r + γ V(s').": target,
            "V(s') counts after the end of the task: multiply it by 1 - terminated.": endless - value,
            "γ is missing in the target.": undiscounted - value,
            "The target is the reward alone: γ V(s') is missing.": reward - value,
            "V(s) and V(s') are exchanged.": reward + GAMMA * value * (1 - terminated) - following,
        },
    )
    slope = GAMMA * (1 - terminated)
    detach = "is not detached: a gradient flows into V(s'). The target is a number: `target.detach()`."
    compare(
        "The gradient by V(s')",
        by_next,
        th.zeros(2),
        {
            f"The target {detach}": slope * (log_prob - 2 * error),
            f"The target of the critic {detach}": -2 * slope * error,
            f"The target of the actor {detach}": slope * log_prob,
        },
    )
    compare(
        "The gradient by V(s)",
        by_value,
        2 * error,
        {
            "V(s) is not detached in the actor's part: the actor moves the critic.": 2 * error - log_prob,
            "The sign of the critic's part is wrong: its error is subtracted from what is maximised.": -2 * error,
            "The critic does not learn: -(y - V)² with a gradient is missing.": th.zeros(2),
            "The critic learns from half of the squared error, (y - V)² / 2; take all of it.": error,
        },
    )
    solution = tiny.MDP.solve(tiny.THETA)
    exact, variance = tiny.expected(solution, lambda one: _gradient(exercise, one, solution, solution.V))
    compare("The mean of the gradient with the exact critic", exact, solution.gradient, {})
    biased, low = tiny.expected(solution, lambda one: _gradient(exercise, one, solution, np.zeros(3)))
    bias = np.linalg.norm(biased - solution.gradient) / np.linalg.norm(exact)
    return (
        f"With V = V_π the mean is ∇J, and the variance is {variance:.2f}. With V = 0 the variance is {low:.2f}, and "
        f"the mean is off by {bias:.0%} of ∇J: the critic's bias."
    )


def _gradient(exercise, one, solution, critic):
    values, following = th.tensor(critic[list(one.states)]), th.tensor([critic[one.states[1]], 0.0])
    others = [th.tensor(one.rewards, dtype=th.float64), th.tensor([0.0, 1.0]), 1.0]
    weights = gradients(exercise.objective, [th.zeros(2, dtype=th.float64), values, following], others)[0]
    steps = zip(weights.tolist(), one.states, one.actions, strict=True)
    return sum(weight * tiny.score(solution.policy, s, a) for weight, s, a in steps)
