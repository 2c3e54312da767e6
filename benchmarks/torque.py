"""Continuous torque: PPO against the exact optimum and reference controllers, with up to 20 joints.

    python benchmarks/torque.py                # 5 seeds; writes benchmarks/results/torque.{md,json,png}
    python benchmarks/torque.py --only chain --seeds 2

TorqueLQR: J/J*, the discounted cost (gamma = .99) of the learnt policy without its noise, divided by the cost of the
optimum. J* and the cost of a linear policy are exact (Riccati's and Lyapunov's equations); the cost of other policies
is the mean over 1,000 simulated starts. TorqueArm: the mean return of 500 episodes without noise, beside the
reference scores, and normalised: 0 for random torques, 1 for the reference controller. All policies of a task have
the same number of steps and the same hyperparameters: Gaussian actions, 11 bins for each joint and, if the optimum is
linear, a linear Gaussian policy.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import matplotlib
import numpy as np
from study import arguments, mean_and_interval, run_all, write

from pg_agents import PPO
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_envs import DiscretizerVector, normalised_score, reference_scores

matplotlib.use("agg")
import matplotlib.pyplot as plt

BINS = 11
LINEAR, GAUSSIAN, BINNED = "linear Gaussian", "Gaussian", f"{BINS} bins"
GAMMA = 0.99  # discount of the LQR's cost
FIRST_SEED = 100  # the hyperparameters were chosen on lower seeds


@dataclass(frozen=True)
class Task:
    """An environment and PPO's number of steps on it."""

    n_joints: int
    n_timesteps: int
    dynamics: str | None = None  # dynamics of the arm; None for the LQR

    @property
    def name(self) -> str:
        """Name in tables and for `--only`."""
        return f"{'LQR' if self.dynamics is None else self.dynamics + ' arm'}, n = {self.n_joints}"

    @property
    def policies(self) -> tuple[str, ...]:
        """Policies that are trained."""
        return (LINEAR, GAUSSIAN, BINNED) if self.dynamics is None else (GAUSSIAN, BINNED)

    def make(self, n_envs: int, **kwargs: Any) -> gym.vector.VectorEnv:
        """Copies of the environment."""
        if self.dynamics is None:
            return gym.make_vec("pg/TorqueLQR-v0", n_envs, n_joints=self.n_joints, **kwargs)
        return gym.make_vec("pg/TorqueArm-v0", n_envs, n_joints=self.n_joints, dynamics=self.dynamics, **kwargs)


TASKS = [
    Task(1, 100_000),
    Task(2, 100_000),
    Task(5, 200_000),
    Task(20, 1_000_000),
    Task(2, 200_000, "geared"),
    Task(7, 200_000, "geared"),
    Task(20, 300_000, "geared"),
    Task(2, 200_000, "chain"),
    Task(7, 200_000, "chain"),
    Task(20, 500_000, "chain"),
]


def settings(task: Task) -> dict[str, Any]:
    """The hyperparameters of a task, chosen with the seeds 0 to 3."""
    large = task.n_joints == 20
    if task.dynamics is not None:
        hard = large and task.dynamics == "chain"
        return {
            "n_envs": 64 if hard else 16, "n_steps": 64 if hard else 128, "batch_size": 512 if hard else 256,
            "n_epochs": 5 if hard else 10, "learning_rate": 1e-3, "gamma": 0.97, "log_std_init": -1.0 if hard else -0.5,
        }  # fmt: skip
    return {
        "n_envs": 128 if large else 32, "n_steps": 64, "batch_size": 512 if large else 256,
        "n_epochs": 10 if large else 20, "learning_rate": 1e-3 if large else 2e-3, "gamma": GAMMA,
        "ent_coef": 3e-3 if large else 0.0, "log_std_init": -1.5 if task.n_joints < 5 else -2.0,
    }  # fmt: skip


def train(task: Task, policy: str, seed: int) -> dict[str, float]:
    """One run and its score: J/J*, or the mean return."""
    values = settings(task)
    learning_rate, n_envs = values.pop("learning_rate"), values.pop("n_envs")
    net_arch = {"pi": [] if policy == LINEAR else [64, 64], "vf": [64, 64]}
    policy_kwargs = {"net_arch": net_arch, "log_std_init": values.pop("log_std_init")}
    env = task.make(n_envs)
    started = time.perf_counter()
    model = PPO(
        "MlpPolicy",
        VectorEnvAdapter(DiscretizerVector(env, bins=BINS) if policy == BINNED else env),
        learning_rate=lambda progress: learning_rate * progress,
        policy_kwargs=policy_kwargs,
        seed=FIRST_SEED + seed,
        device="cpu",
        **values,
    ).learn(task.n_timesteps)
    seconds = time.perf_counter() - started
    return {"score": score(task, policy, model), "seconds": seconds}


def score(task: Task, policy: str, model: PPO) -> float:
    """Score of a model without its noise."""
    dynamics = task.make(1).unwrapped.dynamics
    if policy == LINEAR:
        action_net = model.policy.action_net
        gain, offset = -action_net.weight.detach().numpy().astype(float), action_net.bias.detach().numpy().astype(float)
        return dynamics.cost_of_gain(gain, GAMMA, offset) / dynamics.optimal_cost(GAMMA)
    return evaluate(task, policy, lambda observations: model.predict(observations, deterministic=True)[0])


def evaluate(task: Task, policy: str, act: Any) -> float:
    """The arm's mean return over 500 episodes, or J/J* over 1,000 starts and 300 steps of the LQR."""
    lqr = task.dynamics is None
    n_envs, n_steps, gamma = (1000, 300, GAMMA) if lqr else (500, 100, 1.0)
    env = task.make(n_envs, max_episode_steps=n_steps)
    if policy == BINNED:
        env = DiscretizerVector(env, bins=BINS)
    observations, _ = env.reset(seed=10_000)
    total = 0.0
    for t in range(n_steps):
        observations, rewards, *_ = env.step(act(observations))
        total += gamma**t * rewards.mean()
    return float(-total / env.unwrapped.dynamics.optimal_cost(GAMMA) if lqr else total)


def references(task: Task) -> dict[str, float]:
    """Reference scores of the arm, or J/J* of no torque."""
    if task.dynamics is not None:
        return reference_scores("pg/TorqueArm-v0", n_joints=task.n_joints, dynamics=task.dynamics)
    dynamics = task.make(1).unwrapped.dynamics
    nothing = np.zeros_like(dynamics.optimal_gain(GAMMA))
    return {"zero": dynamics.cost_of_gain(nothing, GAMMA) / dynamics.optimal_cost(GAMMA)}


def tables(tasks: list[Task], runs: dict[Task, dict[str, list[dict[str, float]]]], refs: dict[Task, Any]) -> str:
    """Markdown."""
    lines = []
    for kind, heading in ((True, "J/J*"), (False, "Mean return")):
        chosen = [task for task in tasks if (task.dynamics is None) == kind]
        if not chosen:
            continue
        controller = "" if kind else " reference controller |"
        policies = chosen[0].policies
        normalised = "" if kind else "".join(f" {policy}, normalised |" for policy in policies)
        lines += [
            f"## {heading}: mean [95 % interval] over seeds\n",
            f"| task | steps |{controller} no torque | {' | '.join(policies)} |{normalised} seconds |",
            "|---|---|---|" + "---|" * (len(policies) + 1 if kind else 2 * len(policies) + 2),
        ]
        for task in chosen:
            digits = 3 if kind else 1
            results = [mean_and_interval([run["score"] for run in runs[task][name]], digits) for name in policies]
            if not kind:
                means = [np.mean([run["score"] for run in runs[task][name]]) for name in policies]
                results += [f"{normalised_score(mean, refs[task]):.2f}" for mean in means]
            seconds = " / ".join(f"{np.median([run['seconds'] for run in runs[task][name]]):.0f}" for name in policies)
            controller = "" if kind else f" {refs[task]['controller']:.1f} |"
            zero = f"{refs[task]['zero']:.{digits}f}"
            lines.append(
                f"| {task.name} | {task.n_timesteps:,} |{controller} {zero} | {' | '.join(results)} | {seconds} |"
            )
        lines.append("")
    return "\n".join(lines)


COLOURS = {LINEAR: "tab:green", GAUSSIAN: "tab:blue", BINNED: "tab:orange"}


def figure(tasks: list[Task], runs: dict[Task, dict[str, list[dict[str, float]]]], refs: dict[Task, Any]) -> Any:
    """A panel for the LQR and one for the arms; a dot for each seed."""
    groups = [[task for task in tasks if (task.dynamics is None) == kind] for kind in (True, False)]
    fig, axes = plt.subplots(1, 2, figsize=(11, 4), width_ratios=[4, 6])
    for axis, chosen in zip(axes, groups, strict=True):
        for place, task in enumerate(chosen):
            for shift, policy in zip(np.linspace(-0.22, 0.22, len(task.policies)), task.policies, strict=True):
                scores = [run["score"] for run in runs[task][policy]]
                label = policy if place == 0 else None
                axis.plot([place + shift] * len(scores), scores, "o", ms=4, color=COLOURS[policy], label=label)
            if task.dynamics is not None:
                for name, label, style in (("controller", "reference controller", "-"), ("zero", "no torque", ":")):
                    level, colour = refs[task][name], "black" if name == "controller" else "grey"
                    axis.hlines(level, place - 0.4, place + 0.4, colour, style, label=None if place else label)
        axis.set_xticks(range(len(chosen)), [task.name.replace(", ", "\n") for task in chosen])
        axis.legend(
            fontsize=8, ncols=1 if axis is axes[0] else 2, loc="upper left" if axis is axes[0] else (0.25, 0.15)
        )
    axes[0].axhline(1, color="grey", ls=":")
    axes[0].set_yscale("log")
    axes[0].set_yticks([1, 1.2, 1.5, 2, 2.5], ["1", "1.2", "1.5", "2", "2.5"])
    axes[0].minorticks_off()
    axes[0].set_ylabel("discounted cost / optimum")
    axes[1].set_ylabel("mean return")
    fig.tight_layout()
    return fig


def main() -> None:
    args = arguments(__doc__, seeds=5).parse_args()
    tasks = [task for task in TASKS if args.only in task.name]
    # The longest run first, so that the processes end at about the same time.
    jobs = [(task, policy, seed) for task in tasks for policy in task.policies for seed in range(args.seeds)]
    jobs.sort(key=lambda job: -job[0].n_timesteps)
    results = dict(zip(jobs, run_all(train, jobs, args.jobs), strict=True))
    runs = {
        task: {policy: [results[task, policy, seed] for seed in range(args.seeds)] for policy in task.policies}
        for task in tasks
    }
    refs = {task: references(task) for task in tasks}
    raw = [{"task": task.name, "n_timesteps": task.n_timesteps, **refs[task], "runs": runs[task]} for task in tasks]
    text = tables(tasks, runs, refs) + (
        "\nSeconds: median time of one run, in the order of the columns, with two runs in parallel. Normalised: 0 for "
        "random torques, 1 for the reference controller."
    )
    write("torque", "Continuous torque", text, raw, figure(tasks, runs, refs), args.output)


if __name__ == "__main__":
    main()
