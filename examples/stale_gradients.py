"""Asynchronous workers: the price of gradients that come late, and why A2C took over.

    python examples/stale_gradients.py    # writes docs/images/examples/stale_gradients.png

A3C's workers compute their gradients at parameters that others have moved on from. `A3C(delay=k)` simulates this: each
gradient belongs to the parameters of k updates ago. The first two panels show the error of the expected gradient and
the return, both exact, on a small MDP, for two step sizes. The third shows CartPole, for W workers: W asynchronous ones
have a delay of about W - 1, and A2C makes one gradient from the steps of all W environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from common import arguments, draw_band, run_all, save
from matplotlib.figure import Figure

from pg_agents import A2C, A3C, make_vec, theory

MDP = theory.TabularMDP.random(5, 3, seed=1, ends=0.1)
RATES = (0.01, 0.1)
DELAYS = (0, 1, 3, 7, 15, 31)
WORKERS = (1, 4, 16)
EVERY = 5  # updates between two looks
KINDS = ("A3C", "A2C", "A2C √W")


def on_mdp(rate: float, delay: int, seed: int, n_updates: int) -> tuple[float, float]:
    """Error of the expected gradient, as a share of the gradient, and the return, both exact and over the training."""
    agent = A3C(
        theory.LinearActorCritic, MDP.env(), rate, delay=delay, gamma=1.0, max_grad_norm=None, seed=seed, device="cpu"
    )  # fmt: skip
    errors, sizes, returns = [], [], []
    newest = MDP.solve(theta(agent))

    def compare(local_variables: Any, _: Any) -> bool:
        # In a rollout's first step the policy is the one that the worker has pulled.
        if local_variables["n_steps"] == 0 and agent._n_updates % EVERY == 0:
            pulled = MDP.solve(theta(agent))
            errors.append(np.linalg.norm(pulled.gradient - newest.gradient))
            sizes.append(np.linalg.norm(newest.gradient))
        return True

    train = agent.train

    def train_and_look() -> None:
        nonlocal newest
        train()
        if agent._n_updates % EVERY == 0:
            newest = MDP.solve(theta(agent))
            returns.append(newest.J)

    agent.train = train_and_look  # type: ignore[method-assign]
    agent.learn(n_updates * agent.n_steps, callback=compare)
    return float(np.sum(errors) / np.sum(sizes)), float(np.mean(returns))


def theta(agent: A3C) -> np.ndarray:
    """θ of the policy, `(S, A)`."""
    found: np.ndarray = agent.policy.action_net.weight.detach().numpy().T.astype(float)
    return found


def on_cartpole(name: str, n_workers: int, seed: int, n_steps: int) -> float:
    """Mean return of the episodes of the whole training."""
    kwargs: dict[str, Any] = {"seed": seed, "device": "cpu", "stats_window_size": 100_000}
    if name == "A3C":
        agent: A2C = A3C("MlpPolicy", "pg/CartPole-v1", delay=n_workers - 1, **kwargs)
    else:
        rate = 7e-4 * n_workers**0.5 if "√" in name else 7e-4
        agent = A2C("MlpPolicy", make_vec("pg/CartPole-v1", n_workers), rate, **kwargs)
    agent.learn(n_steps)
    return float(np.mean([episode["r"] for episode in agent.ep_info_buffer or []]))


def run(task: str, first: Any, second: int, seed: int, scale: float) -> Any:
    if task == "mdp":
        return on_mdp(first, second, seed, max(int(150 * scale), EVERY + 1))
    return on_cartpole(first, second, seed, max(int(20_000 * scale), 100))


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=10)
    seeds = range(options.seeds)
    asked: list[tuple[Any, ...]] = [("mdp", rate, delay, seed) for rate in RATES for delay in DELAYS for seed in seeds]
    # With one worker, the three are one.
    asked += [
        ("cartpole", name, n, seed) for name in KINDS for n in WORKERS if n > 1 or name == "A2C" for seed in seeds
    ]
    found = run_all(partial(run, scale=options.scale), asked, options.jobs)
    found |= {("cartpole", name, 1, seed): found["cartpole", "A2C", 1, seed] for name in KINDS for seed in seeds}

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    x = np.arange(len(DELAYS))
    for rate in RATES:
        for number, axes in enumerate((first, second)):
            curves = [np.array([found["mdp", rate, delay, seed][number] for delay in DELAYS]) for seed in seeds]
            draw_band(axes, x, curves, f"learning_rate {rate:g}")
            print(f"{rate:g}", ("error", "return")[number], np.mean(curves, axis=0).round(3))
    best = MDP.solve(optimum()).J
    second.axhline(best, color="0.7", linewidth=1)
    first.set(title="The gradient is that of old parameters", ylabel="Σ|∇J(θ_old) - ∇J(θ)| / Σ|∇J(θ)|")
    second.set(title="Return on the same MDP", ylabel="J, mean over the training")
    for axes in (first, second):
        axes.set(xlabel="delay (updates)", xticks=np.arange(len(DELAYS)), xticklabels=DELAYS)
        axes.legend(frameon=False)
    x = np.arange(len(WORKERS))
    for name, label in zip(KINDS, ("A3C, delay W - 1", "A2C, W environments", "A2C, step size × √W"), strict=True):
        curves = [np.array([found["cartpole", name, n, seed] for n in WORKERS]) for seed in seeds]
        draw_band(third, x, curves, label)
        print(name, np.mean(curves, axis=0).round(1))
    third.set(title="CartPole, equal steps", xlabel="W", ylabel="return, mean over the training", xticks=x)
    third.set(xticklabels=WORKERS)
    third.legend(frameon=False)
    save(figure, "stale_gradients", options.output)


def optimum() -> np.ndarray:
    """θ of the optimal policy, by policy iteration."""
    found = np.zeros(MDP.rewards.shape)
    for _ in range(20):
        values = MDP.solve(found).Q
        found = 50.0 * (values == values.max(axis=1, keepdims=True))
    return found


if __name__ == "__main__":
    main()
