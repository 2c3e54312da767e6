"""8. Bring your own algorithm: from its objective to a comparison with SB3.

    python examples/own_algorithm.py    # 10 seeds; writes docs/images/examples/own_algorithm.png

A policy gradient with an objective of its own, checked, compiled, and trained beside Stable-Baselines3's A2C with the
same hyperparameters. docs/plugins.md puts such a class into a package, where `pg-zoo benchmark --algos mine sb3/a2c`
makes the whole report.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import stable_baselines3
import torch as th
from common import Progress, arguments, draw_band, run_all, save
from matplotlib.figure import Figure
from scipy import stats
from stable_baselines3.common.env_util import make_vec_env
from typing_extensions import Unpack

from pg_agents import PolicyGradient
from pg_agents.agent import CommonArguments
from pg_agents.objectives import Weight
from pg_agents.testing import check_agent


def squashed_weight(log_prob: float, ratio: float, advantage: float) -> float:
    """∂ objective / ∂ log π, which is all that the compiled engine needs to know."""
    return advantage / (1 + abs(advantage))


class SquashedPG(PolicyGradient):
    """Policy gradient that no single advantage can dominate: Â / (1 + |Â|) log π(a|s)."""

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: float = 7e-4,
        n_steps: int = 16,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        vf_coef: float = 0.5,
        **common: Unpack[CommonArguments],
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            vf_coef=vf_coef,
            max_grad_norm=0.5,
            **common,
        )

    def objective(self, batch: Any) -> th.Tensor:
        """What is maximised, for each sample."""
        return batch.advantages / (1 + batch.advantages.abs()) * batch.log_prob

    def weight(self) -> Weight:
        """The same for the compiled engine."""
        return Weight(squashed_weight)


N_TIMESTEPS = 100_000
ALGORITHMS: dict[str, Any] = {"SquashedPG": SquashedPG, "SB3's A2C": stable_baselines3.A2C}


def train(name: str, seed: int, n_timesteps: int) -> tuple[np.ndarray, np.ndarray]:
    progress = Progress()
    settings: dict[str, Any] = {"learning_rate": 7e-4, "n_steps": 16, "gae_lambda": 0.95, "vf_coef": 0.5}
    if name != "SquashedPG":  # the same optimiser for both
        settings |= {"use_rms_prop": False}
    env = make_vec_env("CartPole-v1", 8, seed=seed)
    ALGORITHMS[name]("MlpPolicy", env, seed=seed, device="cpu", **settings).learn(n_timesteps, callback=progress)
    return np.array(progress.timesteps), np.array(progress.returns)


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=10)
    check_agent(SquashedPG)  # seeds, saving, callbacks, spaces: what users of SB3 rely on
    n_timesteps = int(N_TIMESTEPS * options.scale)
    tasks = [(name, seed) for name in ALGORITHMS for seed in range(options.seeds)]
    runs = run_all(partial(train, n_timesteps=n_timesteps), tasks, options.jobs)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="environment steps", ylabel="return, mean of the last 100 episodes")
    grid, means = np.linspace(0, n_timesteps, 200), []
    for name in ALGORITHMS:
        curves = [np.interp(grid, *runs[name, seed]) for seed in range(options.seeds)]
        draw_band(axes, grid, curves, name)
        means.append([curve.mean() for curve in curves])
    if options.seeds > 1:
        interval = stats.ttest_ind(*means, equal_var=False).confidence_interval()
        better = "better" if interval.low > 0 else "worse" if interval.high < 0 else "no difference shown"
        print(f"SquashedPG - A2C, mean return over the training: [{interval.low:.0f}, {interval.high:.0f}]: {better}")
    axes.legend(frameon=False)
    save(figure, "own_algorithm", options.output)


if __name__ == "__main__":
    main()
