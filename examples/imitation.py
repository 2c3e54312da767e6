"""9. Imitation: π = π_prior from a clumsy teacher, and the policy gradient does the rest.

    python examples/imitation.py    # 5 seeds; writes docs/images/examples/imitation.png

The teacher pushes CartPole's cart towards the side to which the pole falls, but two of five pushes are random.
`imitate` fits a policy to ten of its episodes. PPO then trains from scratch, and from the prior, with a KL divergence
in the loss that is annealed to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from common import Progress, arguments, draw_band, run_all, save
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pg_agents import PPO, collect_demonstrations, imitate, make_vec

ENV, N_STEPS = "pg/CartPole-v1", 40_960
STARTS = ("from scratch", "π = π_prior")


class Teacher:
    """Pushes towards the side to which the pole falls, if it does not push at random."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def predict(self, observation: np.ndarray, state: Any = None, **_: Any) -> tuple[np.ndarray, Any]:
        """As an agent's `predict`."""
        right = observation[:, 2] + observation[:, 3] > 0
        is_random = self.random.random(len(right)) < 0.4
        return np.where(is_random, self.random.integers(0, 2, len(right)), right), state


def agent(seed: int, **kwargs: Any) -> PPO:
    env = make_vec(ENV, 8, seed=seed)
    return PPO("MlpPolicy", env, n_steps=128, batch_size=256, seed=seed, device="cpu", **kwargs)


def train(start: str, seed: int, n_steps: int) -> tuple[list[list[float]], list[int], list[float]]:
    """The imitation's losses by epoch (training, held out), and steps and returns of PPO's training."""
    losses: list[list[float]] = [[], []]
    if start == "from scratch":
        model = agent(seed)
    else:
        prior = agent(seed)
        demonstrations = collect_demonstrations(Teacher(seed), make_vec(ENV, 4, seed=seed + 100), n_episodes=10)
        fit = imitate(prior, demonstrations, n_epochs=30, patience=None, critic=True).actor
        losses = [list(fit.losses), list(fit.validation_losses[1:])]
        model = agent(seed, prior=prior, prior_kl_coef=lambda progress: 0.1 * progress)
        model.set_parameters(prior.get_parameters())
    progress = Progress()
    model.learn(n_steps, callback=progress)
    return losses, progress.timesteps[1:], progress.returns[1:]


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=5)
    tasks = [(start, seed) for start in STARTS for seed in range(options.seeds)]
    runs = run_all(partial(train, n_steps=max(int(N_STEPS * options.scale), 2048)), tasks, options.jobs)
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = np.array([runs[STARTS[1], seed][0] for seed in range(options.seeds)])
    for index, label in enumerate(("training", "held out")):
        draw_band(left, np.arange(1, losses.shape[2] + 1), list(losses[:, index]), label)
    for start in STARTS:
        mine = [runs[start, seed] for seed in range(options.seeds)]
        length = min(len(steps) for _, steps, _ in mine)  # the first rollout may end without an episode
        curves = [np.array(returns[-length:]) for *_, returns in mine]
        draw_band(right, np.array(mine[0][1][-length:]), curves, start)
        print(f"{start}: {np.mean([curve[0] for curve in curves]):.0f} first, {np.mean(curves):.0f} over the training")
    left.set(xlabel="epochs", ylabel="-log π(a|s), nats")
    right.set(xlabel="environment steps", ylabel="return, mean of 100 episodes")
    for axes in (left, right):
        axes.legend(frameon=False)
    right.xaxis.set_major_locator(MaxNLocator(5))
    save(figure, "imitation", options.output)


if __name__ == "__main__":
    main()
