"""Rock-paper-scissors: policy gradients find the mixed equilibrium; value-based learning cannot, at any budget.

    python benchmarks/rock_paper_scissors.py    # 10 seeds; writes benchmarks/results/rock_paper_scissors.{md,json,png}
    python benchmarks/rock_paper_scissors.py --only weighted --seeds 3

A match has 50 rounds (`pg/RPSMatch-v0`), and the observation is a constant. PPO and A2C have a linear policy that
starts at (.79, .11, .11), far from the equilibrium, no entropy bonus, gamma = lambda = 1, and step sizes that fall to
0. SB3's DQN has its defaults, except for a shorter start and more exploration. Exploitability is exact: the largest
gain of an opponent against the last policy. The gain per round is the mean of 1,000 matches against the opponent of
training.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import matplotlib
import numpy as np
import torch as th
from stable_baselines3 import DQN
from study import arguments, interval, mean_and_interval, run_seeds, write

from pg_agents import A2C, PPO, make_vec
from pg_envs.games.callbacks import ExploitabilityCallback
from pg_envs.games.hand_over import HandOver
from pg_envs.games.payoffs import move_names, payoff_matrix
from pg_envs.games.players import action_probabilities
from pg_envs.games.simplex import draw_simplex, on_simplex
from pg_envs.games.solving import exploitability, nash

matplotlib.use("agg")
import matplotlib.pyplot as plt

N_ENVS, N_ROUNDS = 32, 50
COLOURS = {"PPO": "#1f77b4", "A2C": "#2ca02c", "DQN": "#d62728"}
PATHS = (("standard", "frequency"), ("weighted", "oracle"))
LINES = {"frequency": "-", "pattern": "--"}


@dataclass(frozen=True)
class Task:
    """An algorithm, its opponent and its number of steps."""

    algorithm: str
    opponent: str
    n_timesteps: int
    payoff: str = "standard"

    @property
    def name(self) -> str:
        """Name in tables and for `--only`."""
        return f"{self.algorithm}, {self.payoff}, {self.opponent}"

    @property
    def is_drawn(self) -> bool:
        """Whether the figure shows its path on the simplex."""
        return self.algorithm != "DQN" and (self.payoff, self.opponent) in PATHS

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Arguments of the environment."""
        return {"opponent": self.opponent, "payoff": self.payoff}


TASKS = (
    *(Task(name, opponent, 300_000) for name in ("PPO", "A2C") for opponent in ("frequency", "pattern")),
    *(Task("DQN", opponent, 30_000) for opponent in ("frequency", "pattern")),
    *(Task(name, "oracle", 150_000, "weighted") for name in ("PPO", "A2C")),
    *(Task(name, opponent, 600_000, "rpsls") for name in ("PPO", "A2C") for opponent in ("frequency", "pattern")),
)


def agent(task: Task, seed: int) -> Any:
    """A model that starts at the biased policy, or DQN."""
    env = make_vec("pg/RPSMatch-v0", 4 if task.algorithm == "DQN" else N_ENVS, seed=seed, env_kwargs=task.env_kwargs)
    if task.algorithm == "DQN":
        return DQN("MlpPolicy", env, learning_starts=500, exploration_fraction=0.5, seed=seed)
    settings: dict[str, Any] = {"n_steps": N_ROUNDS, "gamma": 1.0, "gae_lambda": 1.0, "seed": seed}
    settings["policy_kwargs"] = {"net_arch": []}
    if task.algorithm == "PPO":
        model = PPO("MlpPolicy", env, lambda left: 5e-3 * left, n_epochs=4, batch_size=N_ENVS * N_ROUNDS, **settings)
    else:
        model = A2C("MlpPolicy", env, lambda left: 1e-2 * left, normalize_advantage=True, **settings)
    start = np.full(env.action_space.n, 0.21 / (env.action_space.n - 1))
    start[0] = 0.79
    with th.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(th.tensor(np.log(start)))
    return model


def won_a_round(task: Task, model: Any, deterministic: bool, seed: int) -> float:
    """Mean reward of 1,000 matches against a new opponent of the same kind."""
    envs = make_vec("pg/RPSMatch-v0", 1000, seed=1_000_000 + 10_000 * seed, env_kwargs=task.env_kwargs)
    observations = envs.reset()
    if task.opponent == "oracle":
        policy = action_probabilities(model, observations[:1], envs.action_space.n)[0]
        envs.env_method("hand_over", np.eye(len(policy))[policy.argmax()] if deterministic else policy)
    rewards = []
    for _ in range(N_ROUNDS):
        observations, reward, _, _ = envs.step(model.predict(observations, deterministic=deterministic)[0])
        rewards.append(reward.mean())
    return float(np.mean(rewards))


def train(task: Task, seed: int) -> dict[str, Any]:
    th.set_num_threads(1)
    th.manual_seed(seed)
    model = agent(task, seed)
    matrix = payoff_matrix(task.payoff)
    rollout = 16 if task.algorithm == "DQN" else N_ENVS * N_ROUNDS
    path = ExploitabilityCallback(matrix, every=task.n_timesteps // rollout // 60, figure=False)
    started = time.process_time()
    model.learn(task.n_timesteps, callback=[path, HandOver()] if task.opponent == "oracle" else path)
    seconds = time.process_time() - started
    return {
        "task": task.name,
        "seed": seed,
        "seconds": round(seconds, 2),
        "exploitability": exploitability(model, matrix),
        "policy": path.policies[-1].round(4).tolist(),
        "sampled": won_a_round(task, model, False, seed),
        "greedy": won_a_round(task, model, True, seed),
        "timesteps": path.timesteps,
        "exploitabilities": np.round(path.exploitabilities, 5).tolist(),
        "path": np.round(path.policies, 3).tolist() if task.is_drawn else [],
    }


def figure(by_task: dict[Task, list[dict[str, Any]]]) -> Any:
    """Exploitability over steps, gain per round, and paths to two equilibria."""
    drawn, axes = plt.subplots(1, 4, figsize=(17, 4.2), layout="constrained", width_ratios=(1.5, 1.1, 1, 1))
    bars = [task for task in by_task if task.payoff == "standard"]
    for task in bars:
        rows = by_task[task]
        steps, curves = np.array(rows[0]["timesteps"]) / 1000, np.array([row["exploitabilities"] for row in rows])
        style = {"color": COLOURS[task.algorithm], "linestyle": LINES[task.opponent]}
        axes[0].plot(steps, np.median(curves, axis=0), label=f"{task.algorithm}, {task.opponent}", **style)
        axes[0].fill_between(
            steps, curves.min(axis=0), curves.max(axis=0), alpha=0.12, color=style["color"], linewidth=0
        )
    axes[0].set(xlabel="thousand steps", ylabel="exploitability", yscale="log", ylim=(1e-3, 1.5))
    axes[0].set_title("Distance to the equilibrium\n(median and range over seeds)")
    axes[0].legend(frameon=False, fontsize=8, loc="upper right")
    for i, task in enumerate(bars):
        for played, shift, hatch in (("sampled", -0.2, None), ("greedy", 0.2, "///")):
            values = [row[played] for row in by_task[task]]
            low, high = interval(values)
            mean, colour = np.mean(values), COLOURS[task.algorithm]
            fill = {"color": colour} if hatch is None else {"facecolor": "white", "edgecolor": colour, "hatch": hatch}
            axes[1].bar(i + shift, mean, 0.36, yerr=[[mean - low], [high - mean]], **fill)
    axes[1].axhline(0, color="black", linewidth=0.8)
    axes[1].set_xticks(range(len(bars)), [f"{task.algorithm}\n{task.opponent}" for task in bars], fontsize=7)
    axes[1].set(ylabel="won per round", ylim=(-1.05, 0.15))
    axes[1].set_title("Against the opponent of training\n(full: sampled, hatched: greedy)")
    for axis, (payoff, opponent) in zip(axes[2:], PATHS, strict=True):
        draw_simplex(axis, move_names(3), nash(payoff_matrix(payoff)).row)
        for task in by_task:
            if task.is_drawn and task.payoff == payoff:
                for k, row in enumerate(by_task[task]):
                    label = task.algorithm if k == 0 else None
                    axis.plot(*on_simplex(row["path"]).T, color=COLOURS[task.algorithm], lw=0.8, label=label)
        axis.legend(frameon=False, fontsize=8, loc="upper right")
        axis.set_title(f"Policies in the {payoff} game\nagainst {opponent!r}")
    return drawn


def main() -> None:
    options = arguments(__doc__, seeds=10).parse_args()
    tasks = [task for task in TASKS if options.only in task.name]
    by_task = run_seeds(train, tasks, options.seeds, options.jobs)
    lines = [
        "| algorithm, game, opponent | steps | exploitability of the last policy | largest | "
        "won per round, sampled | greedy | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, rows in by_task.items():
        last = [row["exploitability"] for row in rows]
        sampled, greedy = ([row[key] for row in rows] for key in ("sampled", "greedy"))
        seconds = np.mean([row["seconds"] for row in rows])
        lines.append(
            f"| {task.name} | {task.n_timesteps:,} | {mean_and_interval(last, 4)} | {max(last):.4f} | "
            f"{mean_and_interval(sampled)} | {mean_and_interval(greedy)} | {seconds:.1f} |"
        )
    text = f"""
The table gives means over {options.seeds} seeds with 95 % bootstrap intervals.

{chr(10).join(lines)}

Exploitability is the gain of a best response per round: 0 in an equilibrium, 1 for a pure move in the standard game. In
the weighted game (equilibrium 1/4, 1/2, 1/4) a uniform policy has 1/3, so starting near it is no advantage. DQN's
policy is always a pure move; sampled, it is epsilon-greedy with epsilon = .05. The greedy version of a perfect
agent loses as well, so evaluate with `deterministic=False`.
"""
    raw = [{"task": asdict(task), "runs": rows} for task, rows in by_task.items()]
    complete = not options.only
    write(
        "rock_paper_scissors",
        "Rock-paper-scissors: a stochastic optimum",
        text,
        raw,
        figure(by_task) if complete else None,
        options.output,
    )


if __name__ == "__main__":
    main()
