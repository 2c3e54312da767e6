"""5. PPO's clip: the policy during many epochs on one rollout, with and without the clip.

    python examples/ppo_clip.py    # 5 seeds; writes docs/images/examples/ppo_clip.png

Each run trains for 40 epochs on one rollout of CartPole: with the ratio clipped to [0.8, 1.2], without a clip
(`clip_range=inf`), or with the paper's KL penalty. After each epoch it measures the exact KL(π_old ‖ π) over the
rollout's states, and the share of samples whose ratio is outside [0.8, 1.2].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch as th
from common import arguments, draw_band, run_all, save
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from pg_agents import PPO

N_EPOCHS = 40
OBJECTIVES: dict[str, dict[str, Any]] = {
    "clip 0.2": {"clip_range": 0.2},
    "no clip": {"clip_range": float("inf")},
    "KL penalty, β = 1": {"kl_coef": 1.0},
}


class Before(BaseCallback):
    """Records the rollout's states and actions, and the policy that collected it."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer, policy = self.model.rollout_buffer, self.model.policy
        self.states = th.tensor(buffer.swap_and_flatten(buffer.observations))
        self.actions = th.tensor(buffer.swap_and_flatten(buffer.actions)).flatten()
        with th.no_grad():
            self.policy = policy.get_distribution(self.states).distribution


def epochs(objective: str, seed: int, n_epochs: int) -> list[tuple[float, float]]:
    """KL divergence and share of ratios outside [0.8, 1.2] after each epoch on one rollout."""
    settings: dict[str, Any] = {"n_steps": 256, "batch_size": 256, "n_epochs": 1, "learning_rate": 1e-3}
    env = make_vec_env("CartPole-v1", 8, seed=seed)
    model = PPO("MlpPolicy", env, seed=seed, device="cpu", engine="autograd", **settings, **OBJECTIVES[objective])
    before, measured = Before(), []
    model.learn(1, callback=before)  # one rollout, and the first epoch on it
    for epoch in range(n_epochs):
        if epoch > 0:
            model.train()
        with th.no_grad():
            after = model.policy.get_distribution(before.states).distribution
            kl = th.distributions.kl_divergence(before.policy, after).mean()
            ratio = th.exp(after.log_prob(before.actions) - before.policy.log_prob(before.actions))
        measured.append((kl.item(), (abs(ratio - 1) > 0.2).float().mean().item()))
    return measured


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=5)
    n_epochs = max(int(N_EPOCHS * options.scale), 2)
    tasks = [(objective, seed) for objective in OBJECTIVES for seed in range(options.seeds)]
    runs = run_all(partial(epochs, n_epochs=n_epochs), tasks, options.jobs)
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for objective in OBJECTIVES:
        mine = np.array([runs[objective, seed] for seed in range(options.seeds)])
        for axes, index in ((left, 0), (right, 1)):
            draw_band(axes, np.arange(1, n_epochs + 1), list(mine[:, :, index]), objective)
        kl, outside = mine[:, -1].mean(axis=0)
        print(f"{objective}: after {n_epochs} epochs KL {kl:.4f}, {100 * outside:.0f} % of ratios outside [0.8, 1.2]")
    left.set(xlabel="epochs on one rollout", ylabel="KL(π_old ‖ π)", yscale="log")
    right.set(xlabel="epochs on one rollout", ylabel="share of ratios outside [0.8, 1.2]", ylim=(0, 1))
    left.legend(frameon=False)
    save(figure, "ppo_clip", options.output)


if __name__ == "__main__":
    main()
