"""6. Rock-paper-scissors: the best policy is random, and a greedy policy is exploited.

    python examples/rock_paper_scissors.py    # 5 seeds; writes docs/images/examples/rock_paper_scissors.png

PPO and SB3's DQN play against an opponent that beats the learner's most frequent moves, `pg/RPSMatch-v0`. DQN is
slower and has a tenth of the steps. Exploitability is the gain of the best opponent per round: 0 in equilibrium, and
1 against a player that always plays the same move.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch as th
from common import arguments, draw_band, run_all, save
from matplotlib.figure import Figure
from stable_baselines3 import DQN

from pg_agents import PPO, make_vec
from pg_envs import ExploitabilityCallback
from pg_envs.games.payoffs import payoff_matrix
from pg_envs.games.simplex import draw_path, draw_simplex

N_ENVS, N_ROUNDS, N_TIMESTEPS = 32, 50, 200_000
MOVES = ("rock", "paper", "scissors")


def train(algorithm: str, seed: int, n_timesteps: int) -> tuple[list[int], list[float], np.ndarray]:
    """Steps, exploitability and probabilities of the moves, at about 40 points of the run."""
    if algorithm == "PPO":
        model = PPO(
            "MlpPolicy",
            make_vec("pg/RPSMatch-v0", N_ENVS, seed=seed),
            lambda left: 5e-3 * left,
            n_steps=N_ROUNDS,
            batch_size=N_ENVS * N_ROUNDS,
            n_epochs=4,
            gamma=1.0,
            gae_lambda=1.0,
            policy_kwargs={"net_arch": []},
            seed=seed,
            device="cpu",
        )
        with th.no_grad():  # begin with a preference for rock
            model.policy.action_net.bias.copy_(th.tensor([2.0, 0.0, 0.0]))
        rollout = N_ENVS * N_ROUNDS
    else:
        env = make_vec("pg/RPSMatch-v0", 4, seed=seed)
        model = DQN("MlpPolicy", env, learning_starts=500, exploration_fraction=0.5, seed=seed, device="cpu")
        n_timesteps, rollout = n_timesteps // 10, 16
    path = ExploitabilityCallback(payoff_matrix(), every=max(n_timesteps // rollout // 40, 1), figure=False)
    model.learn(n_timesteps, callback=path)
    return path.timesteps, path.exploitabilities, np.stack(path.policies)


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=5)
    tasks = [(algorithm, seed) for algorithm in ("PPO", "DQN") for seed in range(options.seeds)]
    runs = run_all(partial(train, n_timesteps=int(N_TIMESTEPS * options.scale)), tasks, options.jobs)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for algorithm in ("PPO", "DQN"):
        share = np.linspace(0, 1, 100)
        curves = []
        for seed in range(options.seeds):
            steps, found, _ = runs[algorithm, seed]
            curves.append(np.interp(share, np.array(steps) / steps[-1], found))
        draw_band(left, 100 * share, curves, {"PPO": "PPO", "DQN": "DQN, a tenth of the steps"}[algorithm])
        print(f"{algorithm}: exploitability at the end {np.mean([curve[-1] for curve in curves]):.3f}")
    left.set(xlabel="training done, %", ylabel="exploitability", ylim=(0, 1.05))
    left.legend(frameon=False)
    draw_simplex(right, MOVES, np.full(3, 1 / 3))
    draw_path(right, runs["PPO", 0][2])
    right.set_title("PPO's policy, seed 0")
    save(figure, "rock_paper_scissors", options.output)


if __name__ == "__main__":
    main()
