"""Estimators of the policy gradient: bias and variance, measured against the exact gradient.

    python examples/gradient_estimators.py    # writes docs/images/examples/gradient_estimators.png

The figure checks four claims of every course on small MDPs with known gradients, with the algorithms' own code
(`theory.gradient_study`): baselines lower the variance; longer horizons raise it; GAE trades bias for variance, here
with an untrained critic; and a number added to all rewards adds noise if all episodes have the same length.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from common import arguments, draw_estimates, run_all, save
from matplotlib.figure import Figure

from pg_agents import REINFORCE, ReinforceBaseline, theory
from pg_agents.estimators import gae

THETA = np.random.default_rng(0).normal(size=(3, 2))
RACE = theory.TabularMDP.random(3, 2, seed=1, ends=0.0, horizon=3)
LONG = theory.TabularMDP.random(3, 2, seed=10, ends=0.1)
BASELINES = ("none", "constant", "time", "leave_one_out", "learned", "V, exact", "optimal")
HORIZONS = (2, 4, 8, 16)
LAMBDAS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
OFFSETS = (0.0, 5.0, 10.0, 20.0)


def study(question: str, setting: Any, n_batches: int) -> Any:
    """Quantity that is drawn: estimates with intervals, or a signal-to-noise ratio."""
    if question == "baseline":
        if setting in ("V, exact", "optimal"):
            solution = LONG.solve(THETA)
            critic = solution.V if setting == "V, exact" else solution.optimal_baseline
            return theory.gradient_study(ReinforceBaseline, LONG, THETA, n_batches, critic=critic).variance
        if setting == "learned":
            return theory.gradient_study(
                ReinforceBaseline, LONG, THETA, n_batches, value_learning_rate=0.05, warm_up=100
            ).variance
        return theory.gradient_study(REINFORCE, LONG, THETA, n_batches, baseline=setting).variance
    if question == "horizon":
        horizon, estimator = setting
        return theory.gradient_study(
            REINFORCE, RACE.changed(horizon=horizon), THETA, n_batches, estimator=estimator
        ).variance
    if question == "lambda":

        def estimator(rollout: Any) -> Any:
            return gae(rollout.td_errors(1.0), rollout.ends, 1.0, setting)

        found = theory.gradient_study(estimator, LONG, THETA, n_batches, critic=np.zeros(3))
        return found.relative_bias, found.variance
    offset, baseline = setting
    raised = RACE.changed(rewards=RACE.rewards + offset)
    return theory.gradient_study(REINFORCE, raised, THETA, n_batches, baseline=baseline).snr


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=None)
    n_batches = max(int(300 * options.scale), 2)
    asked: list[tuple[str, Any]] = [("baseline", name) for name in BASELINES]
    asked += [("horizon", (h, name)) for name in ("total_return", "reward_to_go") for h in HORIZONS]
    asked += [("lambda", number) for number in LAMBDAS]
    asked += [("offset", (offset, name)) for name in ("none", "leave_one_out") for offset in OFFSETS]
    found = run_all(partial(study, n_batches=n_batches), asked, options.jobs)

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)

    draw_estimates(first, BASELINES, [found["baseline", name] for name in BASELINES], linestyle="")
    first.set(title="Baselines lower the variance", ylabel="variance of ĝ", ylim=(0, None))
    first.tick_params(axis="x", rotation=20)
    for name, label in (("total_return", "total return"), ("reward_to_go", "reward-to-go")):
        draw_estimates(second, HORIZONS, [found["horizon", (h, name)] for h in HORIZONS], label=label)
    second.set(title="Longer episodes, more variance", xlabel="horizon", ylabel="variance of ĝ", yscale="log")
    second.legend(frameon=False)
    biases = draw_estimates(third, LAMBDAS, [found["lambda", number][0] for number in LAMBDAS], color="#d62728")
    third.axhline(0, color="0.7", linewidth=1)
    third.set(title="GAE with an untrained critic, V = 0", xlabel="λ", ylabel="bias along ∇J, relative")
    other = third.twinx()
    variances = draw_estimates(other, LAMBDAS, [found["lambda", number][1] for number in LAMBDAS], color="#1f77b4")
    other.set_ylabel("variance of ĝ")
    third.legend([biases, variances], ["bias", "variance"], loc="center right", frameon=False)
    for name, label in (("none", "no baseline"), ("leave_one_out", "leave-one-out baseline")):
        fourth.plot(OFFSETS, [found["offset", (offset, name)] for offset in OFFSETS], marker="o", label=label)
    fourth.set(
        title="The same number added to all rewards", xlabel="number", ylabel="signal-to-noise ratio", ylim=(0, None)
    )
    fourth.legend(frameon=False)
    for number in LAMBDAS:
        bias, variance = found["lambda", number]
        print(
            f"λ = {number:g}: relative bias {bias.value:+.2f} [{bias.low:+.2f}, {bias.high:+.2f}], "
            f"variance {variance.value:.3g}"
        )
    save(figure, "gradient_estimators", options.output)


if __name__ == "__main__":
    main()
