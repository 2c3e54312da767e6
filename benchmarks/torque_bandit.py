"""Torque bandit: a Gaussian policy drifts out of its box or stays on a lower peak; bins do neither.

    python benchmarks/torque_bandit.py          # 10 seeds; writes benchmarks/results/torque_bandit.{md,json,png}

PPO trains on `pg/TorqueBandit-v0`, whose episodes have one step, with a Gaussian that starts at mean 0 and standard
deviation 1, or with 41 bins. The reward is the exact expectation under the last policy.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import matplotlib
import numpy as np
import torch as th
from scipy.special import ndtr
from stable_baselines3.common.callbacks import BaseCallback
from study import arguments, constant_policy, mean_and_interval, run_seeds, write

from pg_agents import PPO
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_envs import DiscretizerVector
from pg_envs.torque.bandit import reward

matplotlib.use("agg")
import matplotlib.pyplot as plt

N_ENVS, N_STEPS, N_BINS = 8, 32, 41
BINS = np.linspace(-1, 1, N_BINS)
GAUSSIAN, BINNED = "Gaussian", f"{N_BINS} bins"
COLOURS = {GAUSSIAN: "#d62728", BINNED: "#1f77b4"}


@dataclass(frozen=True)
class Task:
    """A bandit, a policy and its hyperparameters."""

    kind: str
    policy: str
    learning_rate: float
    n_timesteps: int = 40_000
    ent_coef: float = 0.0
    normalize_advantage: bool = True

    @property
    def name(self) -> str:
        """Name in tables and for `--only`."""
        bonus = f", entropy bonus {self.ent_coef}" if self.ent_coef else ""
        return f"{self.kind}, {self.policy}, step size {self.learning_rate:g}{bonus}"


DRIFT = Task("narrow", GAUSSIAN, 1e-2)
CAREFUL = Task("narrow", GAUSSIAN, 1e-3)
STUCK = Task("unequal", GAUSSIAN, 1e-3)
# Normalised advantages grow without limit as the rewards become equal, and they would outweigh any bonus.
BLOWN_UP = Task("unequal", GAUSSIAN, 1e-3, ent_coef=0.2, normalize_advantage=False)
TASKS = (
    DRIFT,
    CAREFUL,
    Task("narrow", BINNED, 1e-2),
    Task("narrow", BINNED, 1e-3),
    STUCK,
    Task("unequal", BINNED, 1e-3),
    BLOWN_UP,
)


def expected_reward(task: Task, found: list[float]) -> float:
    """The mean reward; for a Gaussian, summed over cells of the box and the probability clipped to its two ends."""
    if task.policy == BINNED:
        return float(np.array(found) @ reward(BINS, task.kind))
    mean, std = found
    edges = np.linspace(-1, 1, 20_001)
    below = ndtr((edges - mean) / std)
    ends = reward(np.array([-1.0, 1.0]), task.kind)
    inside = np.diff(below) @ reward((edges[1:] + edges[:-1]) / 2, task.kind)
    return float(inside + below[0] * ends[0] + (1 - below[-1]) * ends[1])


class Path(BaseCallback):
    """Steps, mean reward and, for a Gaussian, mean and standard deviation, before every fourth rollout."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.rows: list[tuple[float, ...]] = []

    def _on_rollout_start(self) -> None:
        if self.num_timesteps % (4 * N_ENVS * N_STEPS):
            return
        found = constant_policy(self.model)
        shape = found if self.task.policy == GAUSSIAN else []
        self.rows.append((self.num_timesteps, expected_reward(self.task, found), *shape))

    def _on_step(self) -> bool:
        return True


def train(task: Task, seed: int) -> dict[str, Any]:
    th.set_num_threads(1)
    envs = gym.make_vec("pg/TorqueBandit-v0", N_ENVS, kind=task.kind)
    env = VectorEnvAdapter(envs if task.policy == GAUSSIAN else DiscretizerVector(envs, N_BINS, joint=True))
    env.seed(seed)
    model = PPO(
        "MlpPolicy",
        env,
        task.learning_rate,
        n_steps=N_STEPS,
        batch_size=64,
        ent_coef=task.ent_coef,
        normalize_advantage=task.normalize_advantage,
        seed=seed,
    )
    path = Path(task)
    started = time.process_time()
    model.learn(task.n_timesteps, callback=path)
    found = constant_policy(model)
    return {
        "task": task.name,
        "seed": seed,
        "seconds": round(time.process_time() - started, 2),
        "reward": expected_reward(task, found),
        "parameters": np.round(found, 5).tolist(),
        "path": [[float(f"{value:.5g}") for value in row] for row in path.rows],
    }


def figure(by_task: dict[Task, list[dict[str, Any]]]) -> Any:
    """The two rewards, means that leave the box, mean rewards, and standard deviations."""
    drawn, axes = plt.subplots(1, 4, figsize=(17, 3.8), layout="constrained")
    torques = np.linspace(-1, 1, 1001)
    for kind, style in (("narrow", "-"), ("unequal", "--")):
        axes[0].plot(torques, reward(torques, kind), style, color="black", label=kind)
    axes[0].set(xlabel="torque", ylabel="reward", title="Two bandits", ylim=(0, 1.25))
    axes[0].legend(frameon=False, loc="upper center", ncols=2)
    axes[1].axhspan(-1, 1, color="0.9", linewidth=0)
    for row in by_task[DRIFT]:
        path = np.array(row["path"])
        axes[1].plot(path[:, 0] / 1000, path[:, 2], color=COLOURS[GAUSSIAN], linewidth=0.8)
    axes[1].set_yscale("symlog", linthresh=1)
    axes[1].set_yticks([-10, -1, 0, 1, 10], ["-10", "-1", "0", "1", "10"])
    axes[1].set(xlabel="thousand steps", ylabel="mean of the Gaussian")
    axes[1].set_title(f"narrow, step size {DRIFT.learning_rate:g}: out of the box (grey)")
    for task, rows in by_task.items():
        if task.kind == "unequal" and task != BLOWN_UP:
            for k, row in enumerate(rows):
                path = np.array(row["path"])
                label = task.policy if k == 0 else None
                axes[2].plot(path[:, 0] / 1000, path[:, 1], color=COLOURS[task.policy], linewidth=0.8, label=label)
    axes[2].set(xlabel="thousand steps", ylabel="mean reward", ylim=(0, 1.05), title="unequal: a local optimum")
    axes[2].legend(frameon=False, loc="center right")
    for task, colour, label in ((STUCK, "0.4", "no bonus"), (BLOWN_UP, COLOURS[GAUSSIAN], "entropy bonus .2")):
        for k, row in enumerate(by_task[task]):
            path = np.array(row["path"])
            axes[3].plot(path[:, 0] / 1000, path[:, 3], color=colour, linewidth=0.8, label=label if k == 0 else None)
    axes[3].set(
        xlabel="thousand steps", ylabel="standard deviation", yscale="log", title="unequal: the Gaussian's width"
    )
    axes[3].legend(frameon=False)
    return drawn


def main() -> None:
    options = arguments(__doc__, seeds=10).parse_args()
    tasks = [task for task in TASKS if options.only in task.name]
    by_task = run_seeds(train, tasks, options.seeds, options.jobs)
    lines = [
        "| bandit and policy | steps | mean reward of the last policy | smallest | largest | "
        "means outside the box | standard deviation, median | CPU seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, rows in by_task.items():
        rewards = [row["reward"] for row in rows]
        outside, width = "", ""
        if task.policy == GAUSSIAN:
            means, stds = np.array([row["parameters"] for row in rows]).T
            outside, width = f"{(abs(means) > 1).sum()} of {len(rows)}", f"{np.median(stds):.3g}"
        seconds = np.mean([row["seconds"] for row in rows])
        lines.append(
            f"| {task.name} | {task.n_timesteps:,} | {mean_and_interval(rewards)} | {min(rewards):.3f} | "
            f"{max(rewards):.3f} | {outside} | {width} | {seconds:.1f} |"
        )
    text = f"""
The table gives means over {options.seeds} seeds with 95 % bootstrap intervals. The best possible reward is 1 in both
bandits.

{chr(10).join(lines)}

`narrow` has two peaks of width .05. With large steps, the Gaussian finds a peak, narrows, and is thrown off the peak
and out of the box, where clipping makes all torques equal. It earns nothing there, and no gradient leads back. With
small steps, it finds a peak and stays there. Bins do so with either step size.

`unequal` has a wide peak of .6 and a narrow peak of 1. The Gaussian stays on the wide peak, and bins find the narrow
one. An entropy bonus does not move the Gaussian across: its entropy has no upper limit, and its width grows until
nearly all torques are clipped.
"""
    raw = [{"task": asdict(task), "runs": rows} for task, rows in by_task.items()]
    complete = not options.only
    write(
        "torque_bandit",
        "Torque bandit: where a Gaussian goes wrong",
        text,
        raw,
        figure(by_task) if complete else None,
        options.output,
    )


if __name__ == "__main__":
    main()
