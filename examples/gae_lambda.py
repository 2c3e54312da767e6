"""3. GAE: λ trades bias for variance.

    python examples/gae_lambda.py    # 10 seeds; writes docs/images/examples/gae_lambda.png

PPO trains on CartPole with λ from 0 (TD errors: little variance, and the critic's bias) to 1 (Monte-Carlo: no bias, and
the full variance). The figure shows returns against processor time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from common import Progress, arguments, draw_band, run_all, save
from matplotlib.figure import Figure
from stable_baselines3.common.env_util import make_vec_env

from pg_agents import PPO

LAMBDAS = (0.0, 0.5, 0.9, 0.95, 1.0)
N_TIMESTEPS = 60_000


def train(gae_lambda: float, seed: int, n_timesteps: int) -> tuple[list[float], list[float]]:
    env = make_vec_env("CartPole-v1", 8, seed=seed)
    settings = {"n_steps": 128, "batch_size": 256, "n_epochs": 10, "learning_rate": 1e-3, "stats_window_size": 20}
    PPO("MlpPolicy", env, device="cpu", **settings).learn(1)  # compiles, or loads compiled code: not timed
    model = PPO("MlpPolicy", env, gae_lambda=gae_lambda, seed=seed, device="cpu", **settings)
    progress = Progress()
    model.learn(n_timesteps, callback=progress)
    return progress.seconds, progress.returns


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=10)
    n_timesteps = int(N_TIMESTEPS * options.scale)
    tasks = [(gae_lambda, seed) for gae_lambda in LAMBDAS for seed in range(options.seeds)]
    runs = run_all(partial(train, n_timesteps=n_timesteps), tasks, options.jobs)
    grid = np.linspace(0, min(seconds[-1] for seconds, _ in runs.values()), 200)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds of training on one core", ylabel="return, mean of the last 20 episodes")
    for gae_lambda in LAMBDAS:
        curves = [np.interp(grid, *runs[gae_lambda, seed]) for seed in range(options.seeds)]
        draw_band(axes, grid, curves, f"λ = {gae_lambda:g}")
        area = [np.mean(runs[gae_lambda, seed][1]) for seed in range(options.seeds)]
        print(f"λ = {gae_lambda:g}: mean return over the training {np.mean(area):.0f}")
    axes.legend(frameon=False)
    save(figure, "gae_lambda", options.output)


if __name__ == "__main__":
    main()
