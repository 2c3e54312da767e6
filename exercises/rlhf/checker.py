"""Checks RLHF's β against the known optimum, and the sampled gradient against the exact one."""

import numpy as np
import torch as th
from grading import called, compare, gradients

# A language of four texts. The reward model likes the third, which the reference hardly ever writes.
REFERENCE, REWARDS = np.array([0.6, 0.3, 0.01, 0.09]), np.array([0.0, 1.0, 3.0, -1.0])
BETA = 0.5


def check(exercise):
    _check_optimum(exercise.optimum)
    _check_samples(exercise.objective)
    exact, found = _gradients(exercise)
    compare("The mean of the gradient over all pairs of samples", found, exact, {})
    rows = [_at_optimum(exercise, beta) for beta in (3.0, 1.0, 0.3)]
    return "Optimum and gradient are right. " + "; ".join(
        f"β = {beta:g}: reward {reward:.2f} at KL {kl:.2f}" for beta, reward, kl in rows
    )


def _check_optimum(function):
    tilted = REFERENCE * np.exp(REWARDS / BETA)
    right = tilted / tilted.sum()
    greedy = np.exp(REWARDS / BETA)
    wrong_way, away = REFERENCE * np.exp(REWARDS * BETA), REFERENCE * np.exp(-REWARDS / BETA)
    compare(
        f"π* with β = {BETA}",
        called(function, th.tensor(REFERENCE), th.tensor(REWARDS), BETA),
        right,
        {
            "π* is not divided by its sum Z.": tilted,
            "π_ref is missing in π*: β is the price of leaving the reference.": greedy / greedy.sum(),
            "β is upside down in π*: a small β lets the reward count more, so the exponent is r / β.": wrong_way
            / wrong_way.sum(),
            "The sign of the reward in π* is wrong.": away / away.sum(),
        },
    )


def _check_samples(function):
    log_prob, reference = th.tensor([-1.0, -2.0, -0.5]).double(), th.tensor([-1.5, -1.0, -3.0]).double()
    rewards = th.tensor([1.0, 0.0, 2.0]).double()
    ratio, new = (log_prob - reference).numpy(), log_prob.numpy()
    penalised, risen = rewards.numpy() - BETA * ratio, rewards.numpy() + BETA * ratio
    right = _leave_one_out(penalised)
    (found,) = gradients(function, [log_prob], [reference, rewards, BETA])
    detach = "The penalty is not detached: log π in the reward is a number, without a gradient."
    compare(
        "The weight of ∇ log π of three samples",
        found,
        right,
        {
            "The sign is wrong: the objective is maximised, so it has no minus (a loss has).": -right,
            "The log-ratio is upside down: the penalty is β (log π - log π_ref), and this rewards going away.": (
                _leave_one_out(risen)
            ),
            "The advantage is not centred: the baseline, the mean of the other samples, is not subtracted.": penalised,
            "The baseline contains the sample itself, which shrinks the gradient: take the mean of the others.": (
                penalised - penalised.mean()
            ),
            "The penalty is missing: this is the gradient of E[r] alone.": _leave_one_out(rewards.numpy()),
            f"{detach} ": right - BETA * (new - (new.sum() - new) / 2),
            detach: right - BETA * new,
        },
    )


def _leave_one_out(numbers):
    return numbers - (numbers.sum() - numbers) / (len(numbers) - 1)


def _gradients(exercise):
    """∇(E[r] - β KL) by θ of π = softmax(θ), exactly, and the mean of the student's gradient over pairs of samples."""
    policy = np.array([0.4, 0.3, 0.2, 0.1])
    gain = REWARDS - BETA * np.log(policy / REFERENCE)
    exact = policy * (gain - policy @ gain)
    mean = np.zeros(4)
    for first in range(4):
        for second in range(4):
            drawn = [first, second]
            inputs = [th.tensor(np.log(array[drawn])) for array in (policy, REFERENCE)]
            (weights,) = gradients(exercise.objective, inputs[:1], [inputs[1], th.tensor(REWARDS[drawn]), BETA])
            scores = np.eye(4)[drawn] - policy
            mean += policy[first] * policy[second] * weights.numpy() @ scores / 2
    return exact, mean


def _at_optimum(exercise, beta):
    policy = exercise.optimum(th.tensor(REFERENCE), th.tensor(REWARDS), beta).numpy()
    return beta, policy @ REWARDS, policy @ np.log(policy / REFERENCE)
