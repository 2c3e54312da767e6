"""The score function ∇ log π and its weights.

    python examples/score_function.py    # writes docs/images/examples/score_function.png

The figure checks six claims of every course on problems with known gradients: the score has mean zero; a Gaussian's
score is (a - μ) / σ²; baselines do not change the mean of the gradient; its variance grows with the square of the
rewards; a critic that is off by a constant biases TD errors, in the direction of the constant's sign; and PPO's
weight has four cases. Points are measured (300 batches of 32 episodes, 95 % intervals) or differentiated by torch.
Lines are closed forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch as th
from common import arguments, draw_estimates, run_all, save
from matplotlib.figure import Figure
from stable_baselines3.common.distributions import DiagGaussianDistribution

from pg_agents import REINFORCE, ReinforceBaseline, theory
from pg_agents.estimators import gae
from pg_agents.objectives import clipped_surrogate, clipped_surrogate_weight

THETA = np.random.default_rng(0).normal(size=(3, 2))
MDP = theory.TabularMDP.random(3, 2, seed=2, ends=0.5)
# Every step has reward 1, and action 1 may end the episode, so action 0 is better.
LEAVE = theory.TabularMDP([[[1.0], [0.5]]], [[1.0, 1.0]])
BASELINES = ("none", "constant", "time", "leave_one_out", "V, exact", "V - 3", "optimal")
SCALES = (1.0, 3.0, 10.0, 30.0)
OFFSETS = (-8.0, -4.0, 0.0, 4.0, 8.0)
LAMBDAS = {"TD errors": 0.0, "GAE, λ = 0.5": 0.5, "Monte-Carlo": 1.0}
SIGMAS = (0.5, 1.0, 2.0)
CLIP_RANGE = 0.2


def score_only(rollout: Any) -> Any:
    return np.ones_like(rollout.rewards)


def study(question: str, setting: Any, n_batches: int) -> theory.GradientStudy:
    if question == "score":
        return theory.gradient_study(score_only, MDP, THETA, n_batches)
    if question == "baseline":
        solution = MDP.solve(THETA)
        critics = {"V, exact": solution.V, "V - 3": solution.V - 3, "optimal": solution.optimal_baseline}
        if setting in critics:
            return theory.gradient_study(ReinforceBaseline, MDP, THETA, n_batches, critic=critics[setting])
        return theory.gradient_study(REINFORCE, MDP, THETA, n_batches, baseline=setting)
    if question == "scale":
        scale, estimator = setting
        scaled = MDP.changed(rewards=scale * MDP.rewards)
        return theory.gradient_study(REINFORCE, scaled, THETA, n_batches, estimator=estimator)
    offset, gae_lambda = setting

    def estimator(rollout: Any) -> Any:
        return gae(rollout.td_errors(1.0), rollout.ends, 1.0, gae_lambda)

    return theory.gradient_study(estimator, LEAVE, None, n_batches, critic=LEAVE.solve().V + offset)


def gaussian_scores(sigma: float, actions: np.ndarray) -> np.ndarray:
    """∂ log π(a) / ∂μ at μ = 0, differentiated by torch in the distribution that the policies use."""
    mean = th.zeros(len(actions), 1, requires_grad=True)
    policy = DiagGaussianDistribution(1).proba_distribution(mean, th.full((1,), np.log(sigma)))
    policy.log_prob(th.tensor(actions, dtype=th.float32)[:, None]).sum().backward()
    assert mean.grad is not None
    return mean.grad.numpy()[:, 0]


def clipped_weights(ratios: np.ndarray, advantage: float) -> np.ndarray:
    """∂ objective / ∂ log π = r ∂ objective / ∂r, by torch."""
    ratio = th.tensor(ratios, requires_grad=True)
    clipped_surrogate(ratio, th.full_like(ratio, advantage), CLIP_RANGE).sum().backward()
    assert ratio.grad is not None
    return ratios * ratio.grad.numpy()


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=None)
    n_batches = max(int(300 * options.scale), 10)  # the test of mean zero needs more than θ has components
    asked: list[tuple[str, Any]] = [("score", None), *(("baseline", name) for name in BASELINES)]
    asked += [("scale", (scale, name)) for name in ("total_return", "reward_to_go") for scale in SCALES]
    asked += [("critic", (offset, number)) for number in LAMBDAS.values() for offset in OFFSETS]
    found = run_all(partial(study, n_batches=n_batches), asked, options.jobs)

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    (zero, gaussian, baselines), (scales, critics, clip) = figure.subplots(2, 3)

    score, components = found["score", None], np.arange(THETA.size)
    weighted = found["baseline", "V, exact"]
    draw_estimates(zero, components, score.components, label="E ∇ log π", linestyle="")
    draw_estimates(zero, components, weighted.components, label="E (G - V) ∇ log π", linestyle="")
    zero.plot(components, weighted.exact, "k_", markersize=12, label="∇J, exact")
    zero.axhline(0, color="0.7", linewidth=1)
    zero.set(title="The score has mean zero; weighted, it is ∇J", xlabel="component of θ")

    actions = np.linspace(-3, 3, 13)
    for sigma in SIGMAS:
        (line,) = gaussian.plot(actions, actions / sigma**2, label=f"σ = {sigma:g}")
        gaussian.plot(actions, gaussian_scores(sigma, actions), "o", markersize=4, color=line.get_color())
    gaussian.set(title="∂ log N(a; μ, σ²) / ∂μ = (a - μ) / σ²", xlabel="a - μ")

    draw_estimates(baselines, BASELINES, [found["baseline", name].relative_bias for name in BASELINES], linestyle="")
    baselines.axhline(0, color="0.7", linewidth=1)
    baselines.tick_params(axis="x", rotation=25)
    baselines.set(title="No baseline changes the mean", ylabel="bias along ∇J, relative")

    for name, label in (("total_return", "total return"), ("reward_to_go", "reward-to-go")):
        variances = [found["scale", (scale, name)].variance for scale in SCALES]
        (line,) = scales.plot(SCALES, np.square(SCALES) * variances[0].value)
        draw_estimates(scales, SCALES, variances, label=label, color=line.get_color(), linestyle="")
    scales.set(title="Rewards times c, variance times c²", xlabel="c", ylabel="variance of ĝ")
    scales.set(xscale="log", yscale="log")

    offsets = np.linspace(min(OFFSETS), max(OFFSETS), 50)
    solution = LEAVE.solve()
    for label, number in LAMBDAS.items():
        expected = [solution.gae_gradient(solution.V + offset, number)[0, 0] for offset in offsets]
        (line,) = critics.plot(offsets, expected)
        means = [found["critic", (offset, number)].components[0] for offset in OFFSETS]
        draw_estimates(critics, OFFSETS, means, label=label, color=line.get_color(), linestyle="")
        print(f"{label}: " + ", ".join(f"{o:+g}: {m.value:+.2f}" for o, m in zip(OFFSETS, means, strict=True)))
    critics.axhline(0, color="0.7", linewidth=1)
    critics.set(title="A critic that is off by c", xlabel="c", ylabel="E ĝ for the action that goes on")

    ratios = np.linspace(0.5, 1.5, 200)
    for advantage in (1.0, -1.0):
        (line,) = clip.plot(ratios, clipped_weights(ratios, advantage), label=f"Â = {advantage:+g}")
        marks = ratios[::10]
        weights = [clipped_surrogate_weight(0.0, ratio, advantage, CLIP_RANGE) for ratio in marks]
        clip.plot(marks, weights, "o", markersize=4, color=line.get_color())
    for edge in (1 - CLIP_RANGE, 1 + CLIP_RANGE):
        clip.axvline(edge, color="0.7", linewidth=1, linestyle=":")
    clip.set(title="PPO: the weight of ∇ log π", xlabel="ratio π / π_old", ylabel="ψ")

    for axes in (zero, gaussian, scales, critics, clip):
        axes.legend(frameon=False, fontsize="small")
    print(
        f"Score: p = {theory.GradientStudy(score.gradients, 0 * score.exact, score.episodes).p_value:.2f} of mean zero"
    )
    for name in BASELINES:
        bias = found["baseline", name].relative_bias
        print(f"baseline {name}: relative bias {bias.value:+.2f} [{bias.low:+.2f}, {bias.high:+.2f}]")
    save(figure, "score_function", options.output)


if __name__ == "__main__":
    main()
