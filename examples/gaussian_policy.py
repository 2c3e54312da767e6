"""4. Continuous actions: a Gaussian policy, its entropy bonus, and its σ during training.

    python examples/gaussian_policy.py    # 5 seeds; writes docs/images/examples/gaussian_policy.png

The policy is π(a|s) = N(μ(s), σ²), and σ is a separate parameter. Its entropy, Σ_i (log σ_i + ½ log 2πe), does not
depend on the state, so the bonus pushes every log σ_i upwards by `ent_coef`, whatever the advantages are. PPO trains on
Pendulum-v1 and, if Box2D is installed (`pip install "gymnasium[box2d]"`), on LunarLanderContinuous-v3, without a bonus
and with two sizes of bonus.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from common import Progress, arguments, draw_band, run_all, save
from matplotlib.figure import Figure
from stable_baselines3.common.env_util import make_vec_env

from pg_agents import PPO

ENT_COEFS = (0.0, 0.01, 0.05)
TASKS: dict[str, tuple[int, int, dict[str, Any]]] = {  # environments, steps, settings
    "Pendulum-v1": (4, 40_000, {"n_steps": 512, "n_epochs": 20, "gamma": 0.9, "learning_rate": 2e-3}),
    "LunarLanderContinuous-v3": (
        16,
        60_000,
        {"n_steps": 256, "batch_size": 128, "gamma": 0.999, "gae_lambda": 0.98, "learning_rate": 5e-4},
    ),
}


class Sigma(Progress):
    """Also records σ, averaged over action dimensions, at the end of each rollout."""

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.sigmas = [self.model.policy.log_std.exp().mean().item()]

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        while len(self.sigmas) < len(self.timesteps):
            self.sigmas.append(self.model.policy.log_std.exp().mean().item())


def train(env_id: str, ent_coef: float, seed: int, scale: float) -> tuple[list[int], list[float], list[float]]:
    n_envs, n_timesteps, settings = TASKS[env_id]
    env = make_vec_env(env_id, n_envs, seed=seed)
    model = PPO("MlpPolicy", env, ent_coef=ent_coef, stats_window_size=20, seed=seed, device="cpu", **settings)
    progress = Sigma()
    model.learn(max(int(n_timesteps * scale), 200 * n_envs), callback=progress)
    return progress.timesteps[1:], progress.returns[1:], progress.sigmas[1:]


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=5)
    env_ids = [env_id for env_id in TASKS if not env_id.startswith("Lunar") or importlib.util.find_spec("Box2D")]
    tasks = [(env_id, coef, seed) for env_id in env_ids for coef in ENT_COEFS for seed in range(options.seeds)]
    runs = run_all(partial(train, scale=options.scale), tasks, options.jobs)
    figure = Figure(figsize=(9, 3.5 * len(env_ids)), layout="constrained")
    for env_id, (left, right) in zip(env_ids, figure.subplots(len(env_ids), 2, squeeze=False), strict=True):
        for coef in ENT_COEFS:
            mine = [runs[env_id, coef, seed] for seed in range(options.seeds)]
            grid = np.linspace(max(steps[0] for steps, _, _ in mine), min(steps[-1] for steps, _, _ in mine), 100)
            returns, sigmas = ([np.interp(grid, run[0], run[which]) for run in mine] for which in (1, 2))
            draw_band(left, grid, returns, f"ent_coef = {coef:g}")
            draw_band(right, grid, sigmas, f"ent_coef = {coef:g}")
            last, sigma = np.mean([(run[1][-1], run[2][-1]) for run in mine], axis=0)
            print(f"{env_id}, ent_coef = {coef:g}: return {last:.0f}, σ {sigma:.2f} at the end")
        left.set(title=env_id, xlabel="steps", ylabel="return, mean of the last 20 episodes")
        right.set(title=env_id, xlabel="steps", ylabel="σ", ylim=(0, None))
        right.legend(frameon=False)
        for axes in (left, right):
            axes.locator_params(axis="x", nbins=5)
    save(figure, "gaussian_policy", options.output)


if __name__ == "__main__":
    main()
