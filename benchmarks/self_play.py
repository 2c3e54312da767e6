"""Self-play: policy gradients circle a mixed equilibrium; with an annealed entropy bonus they settle in it.

    python benchmarks/self_play.py    # 10 seeds; writes benchmarks/results/self_play.{md,json,png}
    python benchmarks/self_play.py --only weighted --seeds 3

One linear policy plays both seats of 16 parallel games of rock-paper-scissors (`SelfPlayVecEnv`). It starts at
(.78, .11, .11). The moves of one round do not affect the next, so gamma = 0. With p the remaining progress, 1 -> 0, the
step size is .0015 p^1.5 (PPO) or .0025 p^1.5 (A2C), and the entropy coefficient is .5 p^1.5. Two comparisons have no
entropy bonus: one with the same step sizes, and one with constant step sizes of .003 and .005 and half as many steps.
Exploitability is exact. Settings were chosen on seeds below 2000; the reported seeds start at 2000.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch as th
from study import arguments, interval, mean_and_interval, run_seeds, write

from pg_agents import A2C, PPO
from pg_envs.games.callbacks import ExploitabilityCallback
from pg_envs.games.payoffs import move_names
from pg_envs.games.rps import RPS
from pg_envs.games.selfplay import SelfPlayVecEnv
from pg_envs.games.simplex import draw_path, draw_simplex, on_simplex
from pg_envs.games.solving import exploitability, nash

matplotlib.use("agg")
import matplotlib.pyplot as plt

N_GAMES, FIRST_SEED = 16, 2000
START = (0.78, 0.11, 0.11)
N_MEASURED = 60  # points of each curve
COLOURS = {"PPO": "#1f77b4", "A2C": "#2ca02c"}
CYCLING, STOPPED, SETTLING = "no entropy, constant steps", "no entropy, annealed steps", "entropy and steps annealed"
LINES = {CYCLING: ":", STOPPED: "--", SETTLING: "-"}


@dataclass(frozen=True)
class Task:
    """An algorithm, a game and a way of training."""

    algorithm: str
    payoff: str
    training: str

    @property
    def name(self) -> str:
        """Name in tables and for `--only`."""
        return f"{self.algorithm}, {self.payoff}, {self.training}"

    @property
    def n_timesteps(self) -> int:
        """Number of steps."""
        return 300_000 if self.training == CYCLING else 600_000


TASKS = [
    Task(algorithm, payoff, training)
    for payoff, trainings in (("standard", (CYCLING, STOPPED, SETTLING)), ("weighted", (CYCLING, SETTLING)))
    for training in trainings
    for algorithm in COLOURS
]


def annealed(start: float) -> Callable[[float], float]:
    return lambda left: start * max(left, 0.0) ** 1.5  # the last rollout may end beyond the last step


def agent(task: Task, seed: int) -> Any:
    """A model that starts at the biased policy."""
    env = SelfPlayVecEnv(RPS(task.payoff), N_GAMES)
    entropy: Any = annealed(0.5) if task.training == SETTLING else 0.0
    settings: dict[str, Any] = {"gamma": 0.0, "ent_coef": entropy, "policy_kwargs": {"net_arch": []}, "seed": seed}
    constant = task.training == CYCLING
    if task.algorithm == "PPO":
        n_steps = 20
        model: Any = PPO(
            "MlpPolicy", env, 0.003 if constant else annealed(0.0015), n_steps, n_steps * env.num_envs, 4, **settings
        )
    else:
        model = A2C(
            "MlpPolicy", env, 0.005 if constant else annealed(0.0025), n_steps=10, normalize_advantage=True, **settings
        )
    with th.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(th.log(th.tensor(START)))
    return model


def turns(policies: list[np.ndarray], centre: np.ndarray) -> float:
    """Number of turns of a path around a point of the simplex; from rock to paper to scissors is positive."""
    x, y = (on_simplex(np.array(policies)) - on_simplex(centre)).T
    return float(-np.diff(np.unwrap(np.arctan2(y, x))).sum() / (2 * np.pi))


def train(task: Task, seed: int) -> dict[str, Any]:
    th.set_num_threads(1)
    model = agent(task, FIRST_SEED + seed)
    path = ExploitabilityCallback(RPS(task.payoff), every=2, figure=False)
    started = time.process_time()
    model.learn(task.n_timesteps, callback=path)
    seconds = time.process_time() - started
    times = np.linspace(0, len(path.timesteps) - 1, N_MEASURED).astype(int)
    return {
        "task": task.name,
        "seed": FIRST_SEED + seed,
        "seconds": round(seconds, 2),
        "exploitability": exploitability(model, RPS(task.payoff)),
        "average": path.average_exploitabilities[-1],
        "largest of the last tenth": max(path.exploitabilities[-len(path.exploitabilities) // 10 :]),
        "turns": turns(path.policies, nash(RPS(task.payoff)).row),
        "policy": path.policies[-1].round(4).tolist(),
        "timesteps": [path.timesteps[i] for i in times],
        "exploitabilities": [round(path.exploitabilities[i], 5) for i in times],
        "averages": [round(path.average_exploitabilities[i], 5) for i in times],
        # One path is drawn; the others would make the file large.
        "path": np.round(path.policies, 4).tolist() if seed == 0 and task.algorithm == "A2C" else [],
    }


def figure(by_task: dict[Task, list[dict[str, Any]]]) -> Any:
    """A row for each game: paths without and with annealing, and exploitability over steps."""
    drawn, axes = plt.subplots(2, 3, figsize=(14, 8.6), layout="constrained", width_ratios=(1, 1, 1.35))
    for (payoff, title), row in zip(
        (("standard", "Rock-paper-scissors"), ("weighted", "A win with rock pays 2")), axes, strict=True
    ):
        for training, axis in zip((CYCLING, SETTLING), row, strict=False):
            draw_simplex(axis, move_names(3), nash(RPS(payoff)).row)
            axis.set_title(f"{title}\nA2C, {training}")
            draw_path(axis, np.array(by_task[Task("A2C", payoff, training)][0]["path"]), width=0.9)
            axis.legend(frameon=False, fontsize=9, loc="upper right", handletextpad=0.2)
        for task, rows in by_task.items():
            if task.payoff == payoff:
                steps = np.array(rows[0]["timesteps"]) / 1000
                curves = np.array([one["exploitabilities"] for one in rows])
                low, high = np.transpose([interval(values) for values in curves.T])
                style = {"color": COLOURS[task.algorithm], "linestyle": LINES[task.training]}
                row[2].plot(steps, curves.mean(axis=0), label=f"{task.algorithm}, {task.training}", **style)
                row[2].fill_between(steps, low, high, alpha=0.15, color=style["color"], linewidth=0)
        row[2].set(xlabel="thousand steps", ylabel="exploitability", yscale="log", ylim=(0.004, 8))
        row[2].set_title("Distance of the last policy to the equilibrium\n(mean, 95 % interval over seeds)")
        row[2].legend(frameon=False, fontsize=8, loc="upper center", ncol=2)
    return drawn


def main() -> None:
    options = arguments(__doc__, seeds=10).parse_args()
    tasks = [task for task in TASKS if options.only in task.name]
    started = time.time()
    by_task = run_seeds(train, tasks, options.seeds, options.jobs)
    wall = time.time() - started
    results = [row for rows in by_task.values() for row in rows]
    lines = [
        "| algorithm, game, training | exploitability of the last policy | largest over seeds | largest in the last "
        "tenth | exploitability of the average policy | turns | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, rows in by_task.items():
        last, average, late, turned, seconds = (
            [row[key] for row in rows]
            for key in ("exploitability", "average", "largest of the last tenth", "turns", "seconds")
        )
        turns_cell = "" if task.training == SETTLING else f"{np.mean(turned):.1f}"
        lines.append(
            f"| {task.name} | {mean_and_interval(last)} | {max(last):.3f} | {mean_and_interval(late)} | "
            f"{mean_and_interval(average)} | {turns_cell} | {np.mean(seconds):.1f} |"
        )
    text = f"""
The table gives means over {options.seeds} seeds with 95 % bootstrap intervals. A run has 600,000 steps (300,000 with
constant step sizes); a step is one move of one seat. All runs took {sum(row["seconds"] for row in results):.0f} s of
CPU time, and {wall:.0f} s in {options.jobs} processes on a machine with other work.

{chr(10).join(lines)}

Exploitability is the gain of a best response per round: 0 in an equilibrium, 1 (standard) or at least 1 (weighted)
for a pure move, and 1/3 for the uniform policy in the weighted game, whose equilibrium is (1/4, 1/2, 1/4).

Without an entropy bonus, the policy circles the equilibrium. The column *turns* is the mean number of circles. In the
standard game with constant step sizes, PPO's circles grow and A2C's shrink slowly. Step sizes that fall to 0 only
stop the policy somewhere on its way. An entropy bonus pulls the policy inwards, to a point whose distance from the
equilibrium grows with the bonus. (In the standard game, this point is the equilibrium itself, because that is the
uniform policy.) If the bonus is annealed, the point moves into the equilibrium, and the policy follows as long as the
step size allows.

The average policy is the mean over the rollouts of the probabilities played. The paths are those of the first seed and
turn from dark to bright.
"""
    complete = len(tasks) == len(TASKS)
    title = "Self-play: cycles, and how to end them"
    write("self_play", title, text, results, figure(by_task) if complete else None, options.output)


if __name__ == "__main__":
    main()
