"""Checks PPO's clip against the table of its eight cases: four ratios, each with a good and a bad action."""

import numpy as np
import torch as th
from grading import compare, gradients

CLIP = 0.2
RATIOS = np.array([0.5, 0.9, 1.1, 1.5, 0.5, 0.9, 1.1, 1.5])
ADVANTAGES = np.array([3.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0])
DEVIATION = ADVANTAGES.std(ddof=1)
CENTRED = (ADVANTAGES - ADVANTAGES.mean()) / DEVIATION
INSIDE = abs(RATIOS - 1) < CLIP


def goes_on(ratios, advantages):
    """Where the clip does not stop: it does for a good action with r > 1 + ε, and for a bad one with r < 1 - ε."""
    return np.where(advantages > 0, ratios < 1 + CLIP, ratios > 1 - CLIP)


def weight(advantages):
    """ψ = r Â, and 0 where the clip stops."""
    return goes_on(RATIOS, advantages) * RATIOS * advantages


def check(exercise):
    old = th.linspace(-2, -0.5, 8, dtype=th.float64)
    log_prob = old + th.tensor(np.log(RATIOS))
    by_new, by_old = gradients(exercise.objective, [log_prob, old], [th.tensor(ADVANTAGES), CLIP])
    right, inverse = weight(CENTRED), 1 / RATIOS
    compare(
        "The weight of ∇ log π in the eight cases",
        by_new,
        right,
        {
            "The sign is wrong: the objective is maximised, so it has no minus (a loss has).": -right,
            "The ratio is upside down: it is π / π_old, and this is π_old / π.": goes_on(inverse, CENTRED)
            * inverse
            * -CENTRED,
            "The advantage is not centred: subtract the mean of the batch, then divide by its deviation.": weight(
                ADVANTAGES / DEVIATION
            ),
            "The advantages are not normalised: subtract their mean and divide by their deviation.": weight(ADVANTAGES),
            "The advantages are not divided by their deviation.": weight(CENTRED * DEVIATION),
            "The minimum is missing: the clip alone also removes the gradients that lead back.": INSIDE
            * RATIOS
            * CENTRED,
            "The clip is missing: nothing stops the ratio from going on.": RATIOS * CENTRED,
            "The maximum is taken instead of the minimum: the bound is the pessimistic one.": (
                (INSIDE | ~goes_on(RATIOS, CENTRED)) * RATIOS * CENTRED
            ),
            "`exp` is missing: log π - log π_old is the logarithm of the ratio.": CENTRED * (CENTRED > 0),
        },
    )
    compare(
        "The gradient by log π_old",
        by_old,
        np.zeros(8),
        {
            "The old policy is not detached: a gradient flows into log π_old, and where both are one network, "
            "the two cancel.": -right
        },
    )
    return "All eight cases are right: the clip stops what goes too far, and lets go back what went too far."
