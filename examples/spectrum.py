"""Two axes of the family: from data to belief in the estimate of an action's worth, and how far an update may go.

    python examples/spectrum.py    # 3 seeds; writes docs/images/examples/spectrum.png

Left: every estimator on one exact problem, a corridor with a near and a far exit, with the algorithms' own code
(`theory.gradient_study`): the angle between
the mean gradient and ∇J, which is the bias, and the noise of one batch relative to its mean. All critics predict half
the true values. Right: the exact KL(π_old ‖ π) of every update on CartPole, over the rollout's states, and the return
at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import torch as th
from common import arguments, run_all, save
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.utils import safe_mean

from pg_agents import A2C, GRPO, NPG, PPO, REINFORCE, RLOO, TRPO, ActorCritic, ReinforceBaseline, make_vec, theory
from pg_agents.contract import Rollout
from pg_agents.estimators import gae


def corridor(n_states: int = 5, near: float = 0.2, far: float = 1.0, slip: float = 0.1) -> theory.TabularMDP:
    """A corridor with an exit at either end; the agent starts beside the near one, and the far one pays more."""
    transitions, rewards = np.zeros((n_states, 2, n_states)), np.zeros((n_states, 2))
    for state in range(n_states):
        for action, direction in ((0, -1), (1, 1)):
            for probability, move in ((1 - slip, direction), (slip, -direction)):
                if 0 <= state + move < n_states:
                    transitions[state, action, state + move] += probability
                else:
                    rewards[state, action] += probability * (near if state + move < 0 else far)
    return theory.TabularMDP(transitions, rewards)


MDP = corridor()
THETA = np.zeros((5, 2))
CRITIC = MDP.solve(THETA).V / 2
N_ENVS = 32  # with 1 episode or 5 steps of each, a batch has some 160 steps


def gae_095(rollout: Rollout) -> Any:
    """PPO's advantages, over whole episodes."""
    return gae(rollout.td_errors(1.0), rollout.ends, 1.0, 0.95)


# From data to belief.
ESTIMATORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "REINFORCE, total return": (REINFORCE, {"estimator": "total_return"}),
    "REINFORCE": (REINFORCE, {}),
    "RLOO": (RLOO, {"group_size": 8, "n_envs": N_ENVS // 8}),
    "GRPO": (GRPO, {"group_size": 8, "n_envs": N_ENVS // 8}),
    "REINFORCE with baseline": (ReinforceBaseline, {"critic": CRITIC}),
    "PPO: GAE, λ = 0.95": (gae_095, {"critic": CRITIC}),
    "A2C: 5 steps": (A2C, {"critic": CRITIC, "n_steps": 5}),
    "one-step actor-critic": (ActorCritic, {"critic": CRITIC, "n_steps": 1, "n_envs": 5 * N_ENVS}),
}
# From any step to a trusted one; all learn from 8 x 256 steps.
STEPS: dict[str, tuple[Any, dict[str, Any]]] = {
    "policy gradient, α = 0.03": (A2C, {"learning_rate": 0.03, "use_rms_prop": False}),
    "policy gradient, α = 0.01": (A2C, {"learning_rate": 0.01, "use_rms_prop": False}),
    "policy gradient, α = 0.001": (A2C, {"learning_rate": 0.001, "use_rms_prop": False}),
    "natural gradient, δ = 0.01": (NPG, {}),
    "TRPO, δ = 0.01": (TRPO, {}),
    "PPO, clip 0.2": (PPO, {"batch_size": 256}),
    "PPO, KL penalty": (PPO, {"batch_size": 256, "kl_target": 0.01}),
}


def estimate(name: str, seed: int, n_batches: int) -> tuple[float, float]:
    """Angle between E[ĝ] and ∇J in degrees, and the noise √E|ĝ - E[ĝ]|² / |E[ĝ]| of one batch."""
    algorithm, settings = ESTIMATORS[name]
    found = theory.gradient_study(algorithm, MDP, THETA, n_batches, **{"n_envs": N_ENVS, "seed": seed, **settings})
    size = np.linalg.norm(found.mean)
    cosine = found.mean @ found.exact / (size * np.linalg.norm(found.exact))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), float(np.sqrt(found.variance.value) / size)


class Moves(BaseCallback):
    """Measures KL(π_old ‖ π) of each update, the mean over the rollout's states."""

    def _on_training_start(self) -> None:
        self.divergences: list[float] = []
        self._before: Any = None

    def _on_step(self) -> bool:
        return True

    def next_look(self) -> None:
        """Never in a rollout, so steps may be compiled."""

    def _distribution(self) -> Any:
        with th.no_grad():
            return copy(self.model.policy.get_distribution(self._states))

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self._states = th.tensor(buffer.swap_and_flatten(buffer.observations))
        self._before = self._distribution()

    def _on_rollout_start(self) -> None:
        if self._before is not None:
            self.divergences.append(float(kl_divergence(self._before, self._distribution()).mean()))


def learn(name: str, seed: int, n_steps: int) -> tuple[list[float], float]:
    """KL divergence of each update, and the mean return of the last 100 episodes."""
    algorithm, settings = STEPS[name]
    env = make_vec("pg/CartPole-v1", 8)
    moves = Moves()
    model = algorithm("MlpPolicy", env, n_steps=256, seed=seed, device="cpu", **settings).learn(n_steps, moves)
    return moves.divergences, float(safe_mean([episode["r"] for episode in model.ep_info_buffer]))


def draw_estimators(axes: Any, found: dict[Any, Any], n_seeds: int) -> None:
    """Bias and noise of each estimator: one point, and one small point for each seed."""
    for name in ESTIMATORS:
        angles, noises = np.array([found[name, seed] for seed in range(n_seeds)]).T
        (line,) = axes.plot(noises.mean(), angles.mean(), marker="o", linestyle="", label=name)
        axes.plot(noises, angles, marker=".", linestyle="", markersize=3, color=line.get_color())
        print(f"{name}: {angles.mean():.1f}° from ∇J, noise {noises.mean():.2f} of the mean")
    axes.set(xlabel="noise of a batch, relative to the mean gradient", ylabel="bias: angle to ∇J, degrees")
    axes.set(title="From data to belief", xscale="log", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)


def draw_steps(axes: Any, found: dict[Any, Any], n_seeds: int) -> None:
    """Quantiles of the KL divergence of each algorithm's updates, and its return."""
    for row, name in enumerate(STEPS):
        divergences = np.concatenate([found[name, seed][0] for seed in range(n_seeds)])
        final = np.mean([found[name, seed][1] for seed in range(n_seeds)])
        low, middle, high = np.quantile(divergences, (0.05, 0.5, 0.95))
        axes.plot([low, high], [row, row], color="#1f77b4", linewidth=5, alpha=0.4, solid_capstyle="butt")
        axes.plot(middle, row, marker="o", color="#1f77b4")
        axes.plot(divergences.max(), row, marker="|", color="#d62728", markersize=10)
        axes.annotate(f"return {final:.0f}", (low, row), (0, 7), textcoords="offset points", fontsize=8)
        print(
            f"{name}: KL of an update {middle:.4f} (median), {high:.4f} (95 %), {divergences.max():.4f} (largest); "
            f"return {final:.0f}"
        )
    axes.axvline(0.01, color="0.7", linewidth=1)
    axes.set_yticks(range(len(STEPS)), STEPS, fontsize=8)
    axes.set(title="From any step to a trusted one", xlabel="KL(π_old ‖ π) of an update", xscale="log")
    axes.set_ylim(len(STEPS) - 0.5, -0.7)


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=3)
    n_batches, n_steps = max(int(400 * options.scale), 2), max(int(100_000 * options.scale), 2 * 2048)
    seeds = range(options.seeds)
    estimates = run_all(
        partial(estimate, n_batches=n_batches), [(name, seed) for name in ESTIMATORS for seed in seeds], options.jobs
    )
    runs = run_all(partial(learn, n_steps=n_steps), [(name, seed) for name in STEPS for seed in seeds], options.jobs)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_estimators(left, estimates, options.seeds)
    draw_steps(right, runs, options.seeds)
    save(figure, "spectrum", options.output)


if __name__ == "__main__":
    main()
