"""1. REINFORCE on CartPole: the effect of reward-to-go and baselines.

    python examples/reinforce_baselines.py    # 10 seeds; writes docs/images/examples/reinforce_baselines.png

The algorithm has four weights of ∇ log π, each better than the one before: the return of the whole episode; the
reward-to-go; the reward-to-go minus a running mean; and the reward-to-go minus a learned V(s). Episodes end after 200
steps, so 200 is the maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
from common import arguments, draw_band, run_all, save
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import StopTrainingOnMaxEpisodes
from stable_baselines3.common.monitor import Monitor

from pg_agents import REINFORCE, ReinforceBaseline

N_EPISODES = 500
VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "total return": (REINFORCE, {"estimator": "total_return"}),
    "reward-to-go": (REINFORCE, {"estimator": "reward_to_go"}),
    "reward-to-go, mean baseline": (REINFORCE, {"baseline": "time"}),
    "reward-to-go, learned baseline": (ReinforceBaseline, {"value_learning_rate": 1e-2}),
}


def falling(progress_remaining: float) -> float:
    """Step size, which falls linearly from 0.005 to 0."""
    return 5e-3 * progress_remaining


def train(variant: str, seed: int, n_episodes: int) -> list[float]:
    """Returns of the first episodes."""
    algorithm, settings = VARIANTS[variant]
    env = Monitor(gym.make("CartPole-v1", max_episode_steps=200))
    model = algorithm("MlpPolicy", env, falling, n_episodes=4, seed=seed, device="cpu", **settings)
    model.learn(200 * n_episodes, callback=StopTrainingOnMaxEpisodes(n_episodes))
    return env.get_episode_rewards()


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=10)
    n_episodes = max(int(N_EPISODES * options.scale), 2)
    tasks = [(variant, seed) for variant in VARIANTS for seed in range(options.seeds)]
    returns = run_all(partial(train, n_episodes=n_episodes), tasks, options.jobs)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="episodes", ylabel="return, mean of the last 50", ylim=(0, 205))
    for variant in VARIANTS:
        series = [pd.Series(returns[variant, seed]) for seed in range(options.seeds)]
        curves = [one.rolling(50, min_periods=1).mean().to_numpy() for one in series]
        draw_band(axes, np.arange(1, n_episodes + 1), curves, variant)
        first = [np.argmax(curve >= 195) + 1 if (curve >= 195).any() else np.inf for curve in curves]
        median = f"after {np.median(first):.0f} episodes" if np.isfinite(np.median(first)) else "not reached"
        print(
            f"{variant}: last 50 episodes {np.mean([curve[-1] for curve in curves]):.0f}, a mean of 195 {median} "
            f"(median; {np.isfinite(first).sum()} of {options.seeds} seeds)"
        )
    axes.legend(loc="lower right", frameon=False, fontsize="small")
    save(figure, "reinforce_baselines", options.output)


if __name__ == "__main__":
    main()
