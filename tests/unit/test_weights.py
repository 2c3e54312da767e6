"""Weights, which the compiled engine is given instead of a gradient: each is the derivative of its objective."""

import math
import re

import numpy as np
import pytest
import torch as th
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.utils import LinearSchedule

from pg_agents import A2C, PPO, REINFORCE, ActorCritic, ReinforceBaseline
from pg_agents.contract import Minibatch, NotServedError, Objective, WrongWeightError
from pg_agents.engines.mlp.weights import compiled_function
from pg_agents.objectives import (
    check_weight,
    clipped_surrogate,
    clipped_surrogate_weight,
    importance_weighted,
    importance_weighted_weight,
    kl_penalised,
    kl_penalised_weight,
    score_function,
    score_function_weight,
)

# By name: the objective as a function of log π, log π_old, the advantage and the coefficient; its weight; whether it
# has a coefficient.
PAIRS = {
    "score function": (lambda new, old, advantage, _: score_function(new, advantage), score_function_weight, False),
    "importance weighted": (
        lambda new, old, advantage, _: importance_weighted(th.exp(new - old), advantage),
        importance_weighted_weight,
        False,
    ),
    "clipped": (
        lambda new, old, advantage, clip_range: clipped_surrogate(th.exp(new - old), advantage, clip_range),
        clipped_surrogate_weight,
        True,
    ),
    "KL-penalised": (
        lambda new, old, advantage, kl_coef: kl_penalised(th.exp(new - old), new - old, advantage, kl_coef),
        kl_penalised_weight,
        True,
    ),
}
EPSILON, SMALLEST = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)
every_pair = pytest.mark.parametrize("name", PAIRS)
reproducibly = settings(deadline=None, derandomize=True, max_examples=200)
samples = given(
    log_prob=st.floats(-8, 3),
    log_ratio=st.floats(-2, 2),
    advantage=st.floats(-20, 20),
    coefficient=st.floats(0, 1.5),
)


def near_the_edges(test):
    """Ratios just inside and just outside of the clip range, on both sides of 1, with either sign of the advantage."""
    for advantage in (-3.0, 3.0):
        for edge in (0.8, 1.2):
            for side in (1 - 1e-4, 1 + 1e-4):
                log_ratio = math.log(edge * side)
                test = example(log_prob=-0.7, log_ratio=log_ratio, advantage=advantage, coefficient=0.2)(test)
    return test


def off_the_kink(log_ratio, coefficient):
    """Where the clipped objective has a derivative, also after rounding to float32."""
    return all(abs(math.exp(log_ratio) - edge) > 1e-5 for edge in (1 - coefficient, 1 + coefficient))


def derivative(objective, log_prob, *arguments):
    log_prob = th.tensor(log_prob, dtype=th.float64, requires_grad=True)
    arguments = [th.tensor(argument, dtype=th.float64) for argument in arguments[:2]] + list(arguments[2:])
    (gradient,) = th.autograd.grad(objective(log_prob, *arguments), log_prob)
    return gradient.item()


@every_pair
@near_the_edges
@reproducibly
@samples
def test_a_weight_is_the_derivative_of_its_objective_by_the_log_probability(
    name, log_prob, log_ratio, advantage, coefficient
):
    assume(off_the_kink(log_ratio, coefficient))
    objective, weight, has_coefficient = PAIRS[name]
    expected = derivative(objective, log_prob, log_prob - log_ratio, advantage, coefficient)
    given_ = weight(log_prob, math.exp(log_ratio), advantage, *[coefficient][: int(has_coefficient)])
    # A few roundings of float64, of terms of size |Â| r and β r.
    assert given_ == pytest.approx(expected, rel=1e-12, abs=1e-13)


@every_pair
@near_the_edges
@settings(reproducibly, max_examples=100)
@samples
def test_a_compiled_weight_says_what_python_says(name, log_prob, log_ratio, advantage, coefficient):
    assume(off_the_kink(log_ratio, coefficient))
    _, weight, has_coefficient = PAIRS[name]
    compiled = compiled_function(weight, int(has_coefficient)).ctypes
    numbers = (log_prob, math.exp(log_ratio), advantage, coefficient)
    arguments = [float(np.float32(number)) for number in numbers][: 3 + has_coefficient]
    # Rounded to float32 once for each of at most 4 operations, none of them on terms larger than this.
    largest = (abs(advantage) + coefficient) * (math.exp(log_ratio) + 1) + SMALLEST
    assert compiled(*arguments) == pytest.approx(weight(*arguments), abs=4 * EPSILON * largest)


def test_with_an_infinite_clip_range_nothing_is_clipped():
    for compiled in (clipped_surrogate_weight, compiled_function(clipped_surrogate_weight, 1).ctypes):
        assert compiled(-1.0, 8.0, 0.5, math.inf) == 4.0
        assert compiled(-1.0, 0.125, -16.0, math.inf) == -2.0


ALGORITHMS = {
    "REINFORCE": (REINFORCE, {}),
    "ReinforceBaseline": (ReinforceBaseline, {}),
    "A2C": (A2C, {}),
    "ActorCritic": (ActorCritic, {}),
    "PPO": (PPO, {}),
    "PPO with a schedule": (PPO, {"clip_range": LinearSchedule(0.3, 0.1, 1.0)}),
    "PPO with a penalty": (PPO, {"kl_coef": 0.7}),
    "PPO with a target": (PPO, {"kl_target": 0.01}),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_an_algorithm_maximises_has_the_weight_that_it_declares(name):
    cls, kwargs = ALGORITHMS[name]
    agent = cls("MlpPolicy", "CartPole-v1", device="cpu", **kwargs)
    agent._current_progress_remaining = 0.5  # a schedule's value is that of now
    objective = agent.objective()
    generator = th.Generator().manual_seed(0)

    def normal(scale):
        return scale * th.randn(500, generator=generator, dtype=th.float64)

    old_log_prob, advantages = -1 + normal(0.5), normal(2.0)
    log_prob = (old_log_prob + normal(0.2)).requires_grad_()
    batch = Minibatch(log_prob, old_log_prob, advantages, *[th.zeros(500)] * 3, entropy=None)
    (expected,) = th.autograd.grad(objective(batch).sum(), log_prob)
    numbers = zip(log_prob.tolist(), batch.ratio.tolist(), advantages.tolist(), strict=True)
    given_ = [objective.weight(*sample, *objective.coefficients) for sample in numbers]
    assert given_ == pytest.approx(expected.tolist(), rel=1e-12)


def clipped(weight, coefficients=(0.2,)):
    return Objective(lambda batch, clip: clipped_surrogate(batch.ratio, batch.advantages, clip), weight, coefficients)


def test_a_weight_that_is_the_derivative_is_accepted():
    check_weight(clipped(clipped_surrogate_weight))
    check_weight(Objective(lambda batch: score_function(batch.log_prob, batch.advantages), score_function_weight))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda log_prob, ratio, advantage, clip: -clipped_surrogate_weight(log_prob, ratio, advantage, clip),
        lambda log_prob, ratio, advantage, clip: advantage * ratio,  # never clipped
        lambda log_prob, ratio, advantage, clip: 1.001 * clipped_surrogate_weight(log_prob, ratio, advantage, clip),
        lambda log_prob, ratio, advantage, clip: math.nan,
    ],
    ids=["sign", "clipping", "scale", "nan"],
)
def test_a_wrong_weight_is_refused_with_a_sample_that_shows_it(wrong):
    with pytest.raises(WrongWeightError) as refusal:
        check_weight(clipped(wrong))
    numbers = re.search(
        r"log π = (.+), ratio (.+) and advantage (.+) the weight is (.+), the derivative (.+)", str(refusal.value)
    )
    log_prob, ratio, advantage, weight, derivative = map(float, numbers.groups())
    assert weight == pytest.approx(wrong(log_prob, ratio, advantage, 0.2), rel=2e-3, nan_ok=True)
    assert derivative == pytest.approx(clipped_surrogate_weight(log_prob, ratio, advantage, 0.2), rel=2e-3, abs=1e-6)


def test_an_objective_of_more_than_log_pi_and_advantages_has_no_weight_to_compare():
    with pytest.raises(NotServedError, match="cannot be compared"):
        check_weight(Objective(lambda batch: batch.entropy * batch.log_prob, score_function_weight))


def test_a_comparison_draws_from_no_other_generator():
    th.manual_seed(0)
    before = th.get_rng_state()
    check_weight(clipped(clipped_surrogate_weight))
    assert th.equal(th.get_rng_state(), before)
