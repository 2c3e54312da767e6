"""Checks rock-paper-scissors against exact exploitabilities and gradients, and lets the policy play itself."""

import numpy as np
import torch as th
from grading import called, compare, gradients

from pg_envs import exploitability
from pg_envs.games.payoffs import payoff_matrix

PAYOFF = payoff_matrix("weighted")  # a win with rock pays 2: the equilibrium is (1/4, 1/2, 1/4)


def check(exercise):
    payoff = th.tensor(PAYOFF)
    for policy in ([1 / 4, 1 / 2, 1 / 4], [1.0, 0.0, 0.0], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]):
        known = exploitability(np.array(policy), PAYOFF)
        compare(
            f"The exploitability of {tuple(round(one, 2) for one in policy)}",
            called(exercise.exploitability, th.tensor(policy).double(), payoff),
            known,
            {
                "The sign is wrong: it is the largest gain of the opponent, not the policy's smallest.": -known,
                "The mean over the opponent's moves is taken: a clever opponent plays the best one.": np.mean(
                    PAYOFF @ policy
                ),
                "The payoffs of a row are summed before they are weighted with π.": PAYOFF.sum(axis=1).max(),
            },
        )
    logits = th.tensor([0.8, -0.2, 0.1]).double()
    policy = th.softmax(logits, 0).numpy()
    values = PAYOFF @ policy
    right = policy * (values - policy @ values)
    (found,) = gradients(exercise.objective, [logits], [payoff])
    compare(
        "The gradient by the logits",
        found,
        right,
        {
            "The sign is wrong: the expected reward is maximised, so it has no minus, and A(a, b) is the reward of the "
            "own move a, `payoff @ opponent`.": -right,
            "The opponent is not detached: both move together, and against yourself you always win 0, so nothing is "
            "learnt.": np.zeros(3),
            "log π is weighted with the values, but not with π(a): moves count as often as they are played.": values
            - policy * values.sum(),
        },
    )
    last, mean = _self_play(exercise, payoff, logits)
    return (
        "The gradient is right. After 4,000 steps of self-play an opponent gains "
        f"{exploitability(last, PAYOFF):.2f} from the last policy, and {exploitability(mean, PAYOFF):.2f} from the "
        f"mean of all, ({', '.join(f'{one:.2f}' for one in mean)}): policies circle around the equilibrium."
    )


def _self_play(exercise, payoff, logits, n_steps=4000):
    """The last policy, and the mean of all, under θ += .05 ∇."""
    policies = []
    for _ in range(n_steps):
        policies.append(th.softmax(logits, 0).numpy())
        logits = logits + 0.05 * gradients(exercise.objective, [logits], [payoff])[0]
    return policies[-1], np.mean(policies, axis=0)
