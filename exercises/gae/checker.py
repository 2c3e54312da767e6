"""Checks GAE against a table worked out by hand, and against its two limits."""

import numpy as np
from grading import called, compare

# Two episodes in a row: the first ends after step 1.
REWARDS, VALUES = np.array([1.0, 2.0, 0.0, 4.0]), np.array([2.0, 1.0, 3.0, 2.0])
NEXT_VALUES, ENDS = np.array([1.0, 9.0, 2.0, 5.0]), np.array([False, True, False, True])
# By hand, with γ = 1/2: 1 + 1/2 - 2, 2 - 1, 0 + 1 - 3, 4 - 2.
ERRORS = np.array([-0.5, 1.0, -2.0, 2.0])


def check(exercise):
    _check_errors(exercise.td_errors)
    # By hand, with γλ = 1/4: Â_1 = 1, Â_0 = -1/2 + 1/4, Â_3 = 2, Â_2 = -2 + 2/4.
    right = np.array([-0.25, 1.0, -1.5, 2.0])
    compare(
        "Â_t of the errors -1/2, 1, -2, 2 with γ = λ = 1/2, where step 1 ends an episode",
        called(exercise.gae, ERRORS, ENDS, 0.5, 0.5),
        right,
        {
            "The sign is wrong: Â_t is the sum of the errors, not minus the sum.": -right,
            "The sum runs over the end of an episode: multiply what follows by 1 - end_t.": _sums(ERRORS, 0.25),
            "Every step has the sum from the start of its episode: Â_t begins with δ_t.": right[[0, 0, 2, 2]],
            "The errors before t are summed: Â_t is made of those from t on.": [-0.5, 0.875, -2.0, 1.5],
            "The errors decay by λ only: the factor is γλ.": [0.0, 1.0, -1.0, 2.0],
            "The errors do not decay: the factor of δ_{t+l} is (γλ)^l.": [0.5, 1.0, 0.0, 2.0],
            "Only δ_t is left: the sum over the steps after t is missing.": ERRORS,
        },
    )
    # With γ = 1, λ = 1 gives the Monte-Carlo return minus V, and λ = 0 the TD error.
    errors = exercise.td_errors(REWARDS, VALUES, NEXT_VALUES, ENDS, 1.0)
    monte_carlo = np.array([3.0, 2.0, 4.0, 4.0]) - VALUES
    compare("Â with λ = 1 and γ = 1, which is G - V,", exercise.gae(errors, ENDS, 1.0, 1.0), monte_carlo, {})
    compare("Â with λ = 0, which is δ,", exercise.gae(errors, ENDS, 1.0, 0.0), errors, {})
    return "The table is right: λ = 0 gives δ, and λ = 1 gives G - V."


def _check_errors(function):
    continues = 1.0 - ENDS
    compare(
        "δ_t with γ = 1/2",
        called(function, REWARDS, VALUES, NEXT_VALUES, ENDS, 0.5),
        ERRORS,
        {
            "The sign of δ is wrong: it is what came minus what was expected, r + γ V(s') - V(s).": -ERRORS,
            "The advantage is not centred: V(s_t) is not subtracted.": ERRORS + VALUES,
            "V(s_{t+1}) counts after the end of the task: multiply it by 1 - terminated.": REWARDS
            + 0.5 * NEXT_VALUES
            - VALUES,
            "γ is missing in δ.": REWARDS + NEXT_VALUES * continues - VALUES,
            "δ is the reward minus V(s_t): γ V(s_{t+1}) is missing.": REWARDS - VALUES,
        },
    )


def _sums(errors, decay):
    sums, following = np.zeros_like(errors), 0.0
    for t in reversed(range(len(errors))):
        following = sums[t] = errors[t] + decay * following
    return sums
