"""Objectives against the cases of the paper, worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from pg_agents.contract import Loss, Minibatch, Objective, WrongWeightError
from pg_agents.objectives import (
    KL_ESTIMATORS,
    check_weight,
    clipped_surrogate,
    clipped_values,
    importance_weighted,
    kl_divergence,
    kl_penalised,
    loss,
    normalise,
    score_function,
)


def gradient(objective, log_prob):
    """d objective / d log π at one sample: the weight ψ of the policy gradient."""
    log_prob = th.tensor(float(log_prob), dtype=th.float64, requires_grad=True)
    (grad,) = th.autograd.grad(objective(log_prob), log_prob)
    return grad.item()


@pytest.mark.parametrize(
    ("advantage", "ratio", "value", "weight"),
    [
        (+2.0, 1.5, 2.4, 0.0),  # good action, already more probable by more than the clip range: no gain from more
        (+2.0, 0.5, 1.0, 1.0),  # good action that became less probable: pulled back with its full weight, A r
        (-2.0, 0.5, -1.6, 0.0),  # bad action, already less probable by more than the clip range
        (-2.0, 1.5, -3.0, -3.0),  # bad action that became more probable: pushed down with its full weight
        (+2.0, 1.1, 2.2, 2.2),  # inside the clip range, importance weighting alone
        (-2.0, 0.9, -1.8, -1.8),
    ],
)
def test_clipped_surrogate_in_the_four_cases_of_sign_and_side(advantage, ratio, value, weight):
    def objective(log_prob):
        return clipped_surrogate(th.exp(log_prob), th.tensor(advantage, dtype=th.float64), 0.2)

    assert objective(th.tensor(math.log(ratio), dtype=th.float64)).item() == pytest.approx(value)
    assert gradient(objective, math.log(ratio)) == pytest.approx(weight)


def test_weight_of_the_score_function_is_the_advantage():
    assert gradient(lambda log_prob: score_function(log_prob, th.tensor(3.0)), -0.7) == pytest.approx(3.0)


def test_weight_of_the_kl_penalty_pulls_the_ratio_to_one():
    def objective(log_prob):
        return kl_penalised(th.exp(log_prob), log_prob, th.tensor(0.0, dtype=th.float64), 2.0)

    assert gradient(objective, 0.0) == pytest.approx(0.0)
    # ψ = Â r - β (r - 1)
    assert gradient(objective, math.log(1.5)) == pytest.approx(-1.0)
    assert gradient(objective, math.log(0.5)) == pytest.approx(1.0)


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=5), st.lists(st.floats(0.05, 1), min_size=5, max_size=5))
def test_kl_estimate_has_the_exact_divergence_as_its_mean(old, new):
    """Summed over all actions with π_old's probabilities, the estimate is Σ π_old log(π_old / π)."""
    old = th.tensor(old, dtype=th.float64) / sum(old)
    new = th.tensor(new[: len(old)], dtype=th.float64) / sum(new[: len(old)])
    estimate = kl_divergence(new / old, th.log(new / old))
    exact = (old * th.log(old / new)).sum().item()
    assert (old * estimate).sum().item() == pytest.approx(exact, abs=1e-12)
    assert (estimate >= -1e-12).all()


@given(st.floats(-5, 5), st.floats(0, 0.5), st.floats(0.1, 3))
def test_clipped_surrogate_never_exceeds_the_unclipped(advantage, clip_range, ratio):
    advantage, ratio = th.tensor(advantage), th.tensor(ratio)
    assert clipped_surrogate(ratio, advantage, clip_range) <= importance_weighted(ratio, advantage)


def test_clipped_values_move_by_no_more_than_the_range():
    values, old_values = th.tensor([1.0, 2.0, -3.0]), th.tensor([0.0, 2.1, 0.0])
    assert clipped_values(values, old_values, 0.5).tolist() == pytest.approx([0.5, 2.0, -0.5])


def test_normalised_advantages_have_mean_zero_and_deviation_one():
    assert normalise(th.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([-1.0, 0.0, 1.0])


PI_REF = th.tensor([0.5, 0.3, 0.2], dtype=th.float64)


def divergence(p, q):
    return (p * (p.log() - q.log())).sum()


@pytest.mark.parametrize(
    ("name", "mean", "gradient_of_mean"),
    [
        ("k1", lambda p: divergence(p, PI_REF), lambda p: 0 * p.sum()),
        ("k2", None, lambda p: divergence(p, PI_REF)),
        ("k3", lambda p: divergence(p, PI_REF), lambda p: divergence(PI_REF, p)),
    ],
)
def test_means_and_mean_gradients_of_kl_estimates(name, mean, gradient_of_mean):
    logits = th.tensor([-1.0, 0.5, 0.2], dtype=th.float64, requires_grad=True)
    p = logits.softmax(0)
    estimates = KL_ESTIMATORS[name](p.log() - PI_REF.log())
    if mean is not None:
        assert (p * estimates).sum().item() == pytest.approx(mean(p).item())
    # Samples of π are given: their probability is not differentiated.
    (found,) = th.autograd.grad((p.detach() * estimates).sum(), logits, retain_graph=True)
    (expected,) = th.autograd.grad(gradient_of_mean(p), logits)
    assert found.tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda batch: None, "but is None"),
        (lambda batch: 0.0, "but is 0.0"),
        (lambda batch: (batch.advantages * batch.log_prob).mean(), r"of shape \(3,\), but is shape \(\)"),
        (lambda batch: batch.advantages[:, None] * batch.log_prob, r"of shape \(3,\), but is shape \(3, 3\)"),
        (lambda batch: batch.advantages, "has no gradient"),
        (lambda batch: (batch.advantages * batch.log_prob).detach(), "has no gradient"),
    ],
    ids=["nothing", "a number", "a mean", "each with each", "no log π", "detached"],
)
def test_an_objective_that_would_train_on_something_else_is_refused(value, said):
    log_prob = th.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    batch = Minibatch(log_prob, log_prob.detach(), th.ones(3), th.zeros(3), th.zeros(3), th.zeros(3), entropy=None)
    form = Loss(Objective(value), ent_coef=0.0, vf_coef=0.0, max_grad_norm=0.5)
    with pytest.raises(ValueError, match=said):
        loss(batch, form)
    right = loss(batch, replace(form, objective=Objective(lambda batch: batch.advantages * batch.log_prob)))
    assert right.policy.item() == pytest.approx(2.0)


def test_a_weight_that_fails_is_named():
    objective = Objective(lambda batch: th.tanh(batch.advantages) * batch.log_prob, with_torch)
    with pytest.raises(WrongWeightError, match=r"its weight `with_torch` fails \(TypeError: tanh\(\)"):
        check_weight(objective)


def with_torch(log_prob, ratio, advantage):
    return th.tanh(advantage)
