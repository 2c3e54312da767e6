"""2. One-step actor-critic and Monte-Carlo: learning after every step, or after every episode.

    python examples/actor_critic.py    # 10 seeds; writes docs/images/examples/actor_critic.png

Both have an actor, a learned V(s) and an entropy bonus of 0.01. The first weights ∇ log π with the TD error
r + γ V(s') - V(s) and learns after every step of its 8 environments. The second waits for the end of the episodes and
weights ∇ log π with G - V(s). The task is CartPole with episodes of at most 200 steps, and SB3's `VecNormalize` scales
the rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from common import Progress, arguments, draw_band, run_all, save
from matplotlib.figure import Figure
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from pg_agents import ActorCritic, ReinforceBaseline

N_TIMESTEPS = 80_000
# Initial step sizes of actor and critic, which fall to 0.
ALGORITHMS: dict[str, tuple[Any, float, float, dict[str, Any]]] = {
    "one-step actor-critic": (ActorCritic, 1e-3, 3e-3, {}),
    "Monte-Carlo": (ReinforceBaseline, 5e-3, 1e-2, {"n_episodes": 1}),
}


def falling(start: float, progress_remaining: float) -> float:
    return start * progress_remaining


def train(name: str, seed: int, n_timesteps: int) -> tuple[list[int], list[float]]:
    algorithm, actor, critic, settings = ALGORITHMS[name]
    env = make_vec_env("CartPole-v1", 8, seed=seed, env_kwargs={"max_episode_steps": 200})
    model = algorithm(
        "MlpPolicy",
        VecNormalize(env, norm_obs=False),
        learning_rate=partial(falling, actor),
        value_learning_rate=partial(falling, critic),
        ent_coef=0.01,
        seed=seed,
        device="cpu",
        **settings,
    )
    progress = Progress()
    model.learn(n_timesteps, callback=progress)
    return progress.timesteps, progress.returns


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=10)
    n_timesteps = int(N_TIMESTEPS * options.scale)
    tasks = [(name, seed) for name in ALGORITHMS for seed in range(options.seeds)]
    runs = run_all(partial(train, n_timesteps=n_timesteps), tasks, options.jobs)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="environment steps", ylabel="return, mean of the last 100 episodes", ylim=(0, 205))
    axes.axhline(195, color="0.7", linewidth=1)
    grid = np.linspace(0, n_timesteps, 200)
    for name in ALGORITHMS:
        mine = [tuple(map(np.array, runs[name, seed])) for seed in range(options.seeds)]
        draw_band(axes, grid, [np.interp(grid, steps, returns) for steps, returns in mine], name)
        first = [steps[np.argmax(returns >= 195)] if (returns >= 195).any() else np.inf for steps, returns in mine]
        median = f"after {np.median(first):,.0f} steps" if np.isfinite(np.median(first)) else "not reached"
        print(
            f"{name}: a mean of 195 {median} (median; {np.isfinite(first).sum()} of {options.seeds} seeds), at the end "
            f"{np.mean([returns[-1] for _, returns in mine]):.0f}"
        )
    axes.legend(loc="lower right", frameon=False)
    save(figure, "actor_critic", options.output)


if __name__ == "__main__":
    main()
