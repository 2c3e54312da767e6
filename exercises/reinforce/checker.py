"""Checks REINFORCE against a table worked out by hand, and against the exact gradient of the two-step problem."""

import numpy as np
import tiny
import torch as th
from grading import WrongError, called, compare, gradients


def check(exercise):
    _check_returns(exercise.rewards_to_go)
    log_prob, returns = th.tensor([-0.5, -1.0, -2.0]), th.tensor([3.0, -1.0, 2.0])
    (weights,) = gradients(exercise.objective, [log_prob], [returns])
    compare(
        "The weight of ∇ log π",
        weights,
        returns,
        {
            "The sign is wrong: the objective is maximised, so it has no minus (a loss has).": -returns,
            "The mean over the steps is taken: the theorem has the sum, so give one number for each step.": returns / 3,
            "The return is missing: this raises the probability of every action.": th.ones(3),
        },
    )
    if th.as_tensor(exercise.objective(log_prob, returns)).shape != (3,):
        raise WrongError("`objective` has one number for each step, so no sum and no mean.")
    solution = tiny.MDP.solve(tiny.THETA)
    mean, variance = tiny.expected(solution, lambda one: _gradient(exercise, one, solution.policy))
    compare("The mean of the gradient over all trajectories", mean, solution.gradient, {})
    _, naive = tiny.expected(solution, lambda one: _naive(one, solution.policy))
    return f"The mean is ∇J exactly. The variance is {variance:.2f}; with the total return it is {naive:.2f}."


def _check_returns(function):
    # By hand: G_2 = 4, G_1 = 2 + 4/2, G_0 = 1 + 4/2.
    compare(
        "G_t of the rewards 1, 2, 4 with γ = 1/2",
        called(function, np.array([1.0, 2.0, 4.0]), 0.5),
        [3, 4, 4],
        {
            "Every step has the total return: G_t begins at step t, without the rewards before it.": [3, 3, 3],
            "The rewards are discounted from the start of the episode: the power of γ is k - t, not k.": [3, 2, 1],
            "The rewards before t are summed: G_t is made of those from t on.": [1, 2.5, 5.25],
            "G_t lacks the reward of step t itself.": [2, 2, 0],
            "γ is missing: a reward k - t steps later counts γ^{k-t}.": [7, 6, 4],
            "Each step has its own reward only: G_t is the sum of all rewards from t on.": [1, 2, 4],
            "The sign of the returns is wrong.": [-3, -4, -4],
        },
    )


def _gradient(exercise, one, policy):
    """Σ_t ψ_t ∇ log π(a_t|s_t), with the student's ψ."""
    returns = th.tensor(exercise.rewards_to_go(np.array(one.rewards), 1.0))
    log_prob = th.tensor([float(np.log(policy[s, a])) for s, a in zip(one.states, one.actions, strict=True)])
    (weights,) = gradients(exercise.objective, [log_prob.double()], [returns])
    steps = zip(weights.tolist(), one.states, one.actions, strict=True)
    return sum(weight * tiny.score(policy, s, a) for weight, s, a in steps)


def _naive(one, policy):
    scores = sum(tiny.score(policy, s, a) for s, a in zip(one.states, one.actions, strict=True))
    return sum(one.rewards) * scores
