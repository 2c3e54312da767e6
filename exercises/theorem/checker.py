"""Checks the theorem by hand against the exact gradient of the two-step problem."""

import numpy as np
import tiny
from grading import called, compare


def check(exercise):
    _check_score(exercise.score)
    solution = tiny.MDP.solve(tiny.THETA)
    every = list(tiny.trajectories(tiny.MDP, solution.policy))
    found = called(exercise.policy_gradient, solution.policy, every)
    exact = solution.gradient
    compare(
        "`policy_gradient`",
        found,
        exact,
        {
            "The sign is wrong: this is -∇J, and following it makes good trajectories less probable.": -exact,
            "A trajectory counts as often as it occurs: the factor P(τ) is missing.": _sum(
                solution, lambda one: _naive(one, solution) / one.probability
            ),
            "An action is credited with its own reward only: R(τ) is the sum of all rewards of the trajectory.": _sum(
                solution, lambda one: _own_rewards(one, solution)
            ),
            "∇ log p = ∇p / p: after the log trick the probability π(a|s) does not multiply the score again.": _sum(
                solution, lambda one: _naive(one, solution, with_probabilities=True)
            ),
        },
    )
    return (
        f"∇J is right. J = {solution.J:.3f}, and with θ + .1 ∇J it is {tiny.MDP.solve(tiny.THETA + 0.1 * exact).J:.3f}."
    )


def _check_score(function):
    uniform = np.full((1, 2), 0.5)
    compare(
        "`score` of action 0 under the uniform policy",
        called(function, uniform, 0, 0),
        [[0.5, -0.5]],
        {
            "The sign of `score` is wrong: the action that was taken gets 1 - π(a|s).": [[-0.5, 0.5]],
            "`score` forgets the softmax's denominator: -π(b|s) belongs in every column.": [[1, 0]],
        },
    )
    policy = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    compare(
        "`score` of action 2 in state 1",
        called(function, policy, 1, 2),
        [[0, 0, 0], [-0.3, -0.3, 0.6]],
        {"`score` is 0 in the rows of the other states: their θ does not change π(.|s).": np.eye(3)[2] - policy},
    )


def _sum(solution, term):
    return sum(one.probability * term(one) for one in tiny.trajectories(tiny.MDP, solution.policy))


def _naive(one, solution, with_probabilities=False):
    pairs = list(zip(one.states, one.actions, strict=True))
    factors = [solution.policy[s, a] if with_probabilities else 1.0 for s, a in pairs]
    scores = [tiny.score(solution.policy, s, a) for s, a in pairs]
    return sum(one.rewards) * sum(factor * score for factor, score in zip(factors, scores, strict=True))


def _own_rewards(one, solution):
    steps = zip(one.states, one.actions, one.rewards, strict=True)
    return sum(reward * tiny.score(solution.policy, s, a) for s, a, reward in steps)
