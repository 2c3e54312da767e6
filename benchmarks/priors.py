"""Starting from a mediocre prior: PPO, which takes π = π_prior, and DQN, whose Q has to be fitted to it first.

    python benchmarks/priors.py           # writes benchmarks/results/priors.{md,json,png}
    python benchmarks/priors.py --only Pendulum

A demonstrator is one PPO, stopped as soon as a policy that imitates it is 30 to 50 % of the way from the random
policy to the zoo's score. `imitate` fits a policy, and a critic, to 20 of its episodes, anew for each seed. PPO then
trains with the zoo's hyperparameters, from scratch or from the prior, with a new critic or the fitted one, without or
with KL(π || π_prior) in the loss. A2C, whose steps no clip shortens, shows how a prior is forgotten.

Pendulum is `pg/Pendulum-v1`, a world, with the zoo's hyperparameters but for gSDE, which compiled code does not serve,
and with a step size that falls to 0. LunarLander is Gymnasium's. DQN is Stable-Baselines3's, and has no version for
Pendulum's continuous actions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np
import study
import torch as th
import yaml
from matplotlib.figure import Figure
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from pg_agents import A2C, PPO, Demonstrations, collect_demonstrations, evaluate_policy, imitate, make_vec

DEMONSTRATOR, EVALUATION = 1000, 2000  # seeds
BAND = 0.3, 0.5  # of the way from random to the zoo's score
N_DEMONSTRATIONS = 20  # episodes
BATCH_SIZE = 256  # of the imitation
SCRATCH, START, START_CRITIC = "from scratch", "π_prior", "π_prior, V_prior"
START_KL, START_KL_CRITIC = "π_prior, KL", "π_prior, V_prior, KL"
CONDITIONS = (SCRATCH, START, START_KL, START_CRITIC, START_KL_CRITIC)
PART = 0.8  # of the way from random to the zoo's score
N_CONFIRM = 100  # episodes of the evaluation that confirms that the score is reached


@dataclass(frozen=True)
class Task:
    """An environment, what is to be reached there, and how long training may take.

    Attributes:
        name: In tables.
        env: Its id.
        random: Mean return of the random policy.
        score: The zoo's.
        target: To be reached: the lower end of the 95 % interval of the zoo's score.
        interval: Steps between evaluations.
        n_look: Episodes of an evaluation.
        schedule: Steps over which the zoo's schedules run.
        limit: Steps of a training.
        shown: Steps that the figure shows; no training stops before.
        conditions: Of the trainings.
        kl_coef: Coefficient of the KL divergence from the prior at the start of training.
        annealed: Steps in which it falls to 0, linearly.
        changes: Of the zoo's hyperparameters.
        env_kwargs: Keyword arguments of the environment.
    """

    name: str
    env: str
    random: float
    score: float
    target: float
    interval: int
    n_look: int
    schedule: int
    limit: int
    shown: int
    conditions: tuple[str, ...]
    kl_coef: float
    annealed: int
    changes: dict[str, Any] = field(default_factory=dict)
    env_kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The zoo's, with the changes."""
        entry = yaml.safe_load((files("pg_zoo") / "hyperparams" / "ppo.yml").read_text())[self.name]
        found = {**entry, **self.changes}
        if isinstance(found["learning_rate"], str):
            first = float(found["learning_rate"].removeprefix("lin_"))
            found["learning_rate"] = lambda progress: progress * first
        return {
            name: value for name, value in found.items() if name not in ("policy", "n_timesteps") and value is not None
        }

    def envs(self, n: int, seed: int) -> VecEnv:
        """Copies of the environment."""
        return make_vec(self.env, n, seed=seed, env_kwargs=self.env_kwargs)

    def ppo(self, seed: int, **kwargs: Any) -> PPO:
        """An agent that has not learnt."""
        settings = {**self.hyperparameters, **kwargs}
        return PPO("MlpPolicy", self.envs(settings.pop("n_envs"), seed), seed=seed, device="cpu", **settings)

    def way(self, value: float) -> float:
        """How far a mean return is on the way from the random policy to the zoo's score, from 0 to 1."""
        return (value - self.random) / (self.score - self.random)


TASKS = {
    "Pendulum": Task(
        "Pendulum-v1",
        "pg/Pendulum-v1",
        random=-1209,
        score=-179,
        target=-198,
        interval=4096,
        n_look=100,
        schedule=100_000,
        limit=100_000,
        shown=65_536,
        conditions=CONDITIONS,
        kl_coef=0.1,
        annealed=20_000,
        # With the zoo's constant step size, the last step to the target is a matter of luck.
        changes={"use_sde": None, "sde_sample_freq": None, "learning_rate": "lin_1e-3"},
    ),
    "LunarLander": Task(
        "LunarLander-v3",
        "LunarLander-v3",
        random=-184,
        score=219,
        target=187,
        interval=20_480,
        n_look=20,
        schedule=500_000,
        limit=204_800,
        shown=61_440,
        conditions=(SCRATCH, START, START_KL),
        kl_coef=0.3,
        annealed=100_000,
        # Particles are made where there is something to render, and take half of the time.
        env_kwargs={"render_mode": None},
    ),
}


def score(task: Task, agent: Any, n_episodes: int) -> float:
    """Mean return of deterministic episodes, which begin in the same states whenever they are asked for."""
    mean, _ = evaluate_policy(agent, task.envs(10, EVALUATION), n_episodes, deterministic=True)
    return float(mean)


class Enough(Exception):  # noqa: N818 - no error
    """Ends a training between two rollouts."""


class Curve(BaseCallback):
    """Evaluates every so many steps, until the target is reached and the figure has its steps."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.curve, self.reached = task, [], None

    def next_look(self) -> int | None:
        """Never: nothing is done between the beginnings of rollouts."""
        return None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= len(self.curve) * self.task.interval:
            self.look()
        reached = self.reached is not None and self.num_timesteps >= self.task.shown
        if reached or self.num_timesteps >= self.task.limit:
            raise Enough

    def look(self) -> None:
        """One evaluation, and another one if it reaches the target."""
        found = score(self.task, self.model, self.task.n_look)
        self.curve.append((self.num_timesteps, found))
        may_have = self.reached is None and found >= self.task.target
        if may_have and score(self.task, self.model, N_CONFIRM) >= self.task.target:
            self.reached = self.num_timesteps


def train(agent: PPO, task: Task, callback: BaseCallback) -> None:
    try:
        agent.learn(task.schedule, callback=callback, log_interval=None)
    except Enough:
        return


class Demonstrator(BaseCallback):
    """Stops as soon as a policy that imitates the agent is in the band, and keeps the episodes that it was shown."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def next_look(self) -> int | None:
        """Never, as above."""
        return None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        task = self.task
        self.score = score(task, self.model, task.n_look)
        if task.way(self.score) < BAND[0]:
            return
        self.shown = collect_demonstrations(self.model, task.envs(4, DEMONSTRATOR + 1), N_DEMONSTRATIONS)
        clone = task.ppo(DEMONSTRATOR)
        imitate(clone, self.shown, batch_size=BATCH_SIZE)
        if BAND[0] <= task.way(score(task, clone, N_CONFIRM)) <= BAND[1]:
            raise Enough


def demonstrate(task: Task) -> tuple[Demonstrations, dict[str, Any]]:
    """Episodes of a demonstrator that has come part of the way, and what is to be told of it."""
    agent, callback = task.ppo(DEMONSTRATOR), Demonstrator(task)
    train(agent, task, callback)
    about = {
        "steps": agent.num_timesteps,
        "score": callback.score,
        "demonstrated steps": len(callback.shown),
        "demonstrated return": float(callback.shown.episode_returns.mean()),
    }
    return callback.shown, about


def run(task: Task, shown: Demonstrations, seed: int) -> dict[str, Any]:
    """The prior of a seed, and training under each condition."""
    prior = task.ppo(seed)
    began = time.process_time()
    imitate(prior, shown, critic=True, batch_size=BATCH_SIZE)
    found: dict[str, Any] = {"prior": score(task, prior, N_CONFIRM), "imitation": time.process_time() - began}
    for condition in task.conditions:
        began = time.process_time()
        kwargs: dict[str, Any] = {}
        if "KL" in condition:
            kwargs = {"prior": prior, "prior_kl_coef": partial(annealed, task)}
        agent = task.ppo(seed, **kwargs)
        if condition != SCRATCH:
            start(agent, prior, with_critic="V" in condition)
        callback = Curve(task)
        train(agent, task, callback)
        found[condition] = {
            "curve": callback.curve,
            "reached": callback.reached,
            "seconds": round(time.process_time() - began, 1),
        }
    found |= run_dqn(task, prior, shown, seed) if task.name == "LunarLander-v3" else run_a2c(task, prior, seed)
    return found


def annealed(task: Task, progress: float) -> float:
    """The coefficient of the KL divergence: from `kl_coef` to 0 in the first `annealed` steps."""
    return task.kl_coef * max(0.0, 1 - (1 - progress) * task.schedule / task.annealed)


def start(agent: PPO | A2C, prior: PPO, *, with_critic: bool) -> None:
    """π = π_prior, and V = V_prior if asked."""
    with th.no_grad():
        for (name, parameter), (_, given) in zip(
            agent.policy.named_parameters(), prior.policy.named_parameters(), strict=True
        ):
            if with_critic or "value" not in name:
                parameter.copy_(given)


# A2C

A2C_STEPS, A2C_INTERVAL, A2C_KL_COEF = 60_000, 4_000, 1.0
FORGETTING = ("A2C, π_prior", "A2C, π_prior, KL")


class Regular(BaseCallback):
    """Evaluates every so many steps."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.curve = task, []

    def next_look(self) -> int | None:
        """Never, as above."""
        return None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= len(self.curve) * A2C_INTERVAL:
            self.curve.append((self.num_timesteps, score(self.task, self.model, self.task.n_look)))


def run_a2c(task: Task, prior: PPO, seed: int) -> dict[str, Any]:
    """A2C, whose steps no clip shortens, from the prior with a new critic."""
    found: dict[str, Any] = {}
    for condition in FORGETTING:
        kwargs = {"prior": prior, "prior_kl_coef": A2C_KL_COEF} if "KL" in condition else {}
        settings = {"n_steps": 8, "gamma": 0.9, "gae_lambda": 0.9, "normalize_advantage": True}
        agent = A2C("MlpPolicy", task.envs(8, seed), seed=seed, device="cpu", **settings, **kwargs)
        start(agent, prior, with_critic=False)
        callback = Regular(task)
        agent.learn(A2C_STEPS, callback=callback, log_interval=None)
        found[condition] = {"curve": callback.curve}
    return found


# DQN

DQN_STEPS, DQN_INTERVAL, DQN_GAMMA = 4_096, 2_048, 0.99
CONVERSIONS = ("DQN, from scratch", "DQN, Q = log π_prior", "DQN, Q fitted to π_prior")


def dqn(task: Task, seed: int, **kwargs: Any) -> DQN:
    """rl_zoo3's DQN for LunarLander, with the prior's network, and one gradient step instead of four in four steps."""
    settings: dict[str, Any] = {
        "learning_rate": 6.3e-4,
        "batch_size": 128,
        "buffer_size": 50_000,
        "learning_starts": 0,
        "gamma": DQN_GAMMA,
        "target_update_interval": 250,
        "train_freq": 4,
        "exploration_fraction": 12_000 / DQN_STEPS,  # rl_zoo3's number of steps
        "exploration_final_eps": 0.1,
        "policy_kwargs": {"net_arch": [64, 64], "activation_fn": th.nn.Tanh},
    }
    return DQN("MlpPolicy", task.envs(1, seed), seed=seed, device="cpu", **{**settings, **kwargs})


def fit_to_log_probabilities(agent: DQN, prior: PPO, shown: Demonstrations) -> None:
    """Q(s, a) = log π_prior(a|s) on the demonstrations' states: the same greedy action, and no value of anything."""
    observations = th.as_tensor(shown.observations)
    with th.no_grad():
        labels = prior.policy.get_distribution(observations).distribution.logits
    for chosen in minibatches(len(shown), 20):
        step(agent, F.mse_loss(agent.q_net(observations[chosen]), labels[chosen]))


def fit_to_values(agent: DQN, prior: PPO, played: Demonstrations) -> None:
    """Fitted evaluation: Q(s, a) towards r + γ Σ_a' π_prior(a'|s') Q(s', a'), on steps of the prior itself."""
    following = np.roll(played.observations, -1, axis=0)
    following[played.ends] = played.last_observations
    observations, following = th.as_tensor(played.observations), th.as_tensor(following)
    actions, rewards = th.as_tensor(played.actions), th.as_tensor(played.rewards)
    continues = th.as_tensor(~played.terminated).float()
    with th.no_grad():
        probabilities = prior.policy.get_distribution(following).distribution.probs
    for number, chosen in enumerate(minibatches(len(played), 20)):
        if number % 250 == 0:
            agent.q_net_target.load_state_dict(agent.q_net.state_dict())
        with th.no_grad():
            values = (probabilities[chosen] * agent.q_net_target(following[chosen])).sum(dim=1)
            targets = rewards[chosen] + DQN_GAMMA * continues[chosen] * values
        found = agent.q_net(observations[chosen]).gather(1, actions[chosen, None])[:, 0]
        step(agent, F.smooth_l1_loss(found, targets))
    for row in range(len(played)):
        end = {"TimeLimit.truncated": bool(played.ends[row] and not played.terminated[row])}
        agent.replay_buffer.add(
            *(array[row : row + 1].numpy() for array in (observations, following)),
            played.actions[row : row + 1, None],
            played.rewards[row : row + 1],
            played.ends[row : row + 1],
            [end],
        )


def minibatches(n: int, n_epochs: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    for _ in range(n_epochs):
        order = generator.permutation(n)
        yield from (order[first : first + 128] for first in range(0, n, 128))


def step(agent: DQN, loss: th.Tensor) -> None:
    agent.policy.optimizer.zero_grad()
    loss.backward()
    th.nn.utils.clip_grad_norm_(agent.policy.parameters(), agent.max_grad_norm)
    agent.policy.optimizer.step()


class DQNCurve(BaseCallback):
    """Evaluates before the first step, and every so many steps."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.curve = task, []

    def _on_step(self) -> bool:
        if self.num_timesteps % DQN_INTERVAL == 0:
            self.look()
        return True

    def _on_training_start(self) -> None:
        self.look()

    def look(self) -> None:
        """One evaluation."""
        self.curve.append((self.num_timesteps, score(self.task, self.model, self.task.n_look)))


def run_dqn(task: Task, prior: PPO, shown: Demonstrations, seed: int) -> dict[str, Any]:
    """Training after each conversion of the prior, and what the conversion cost."""
    found: dict[str, Any] = {}
    for condition in CONVERSIONS:
        began, n_steps = time.process_time(), 0
        agent = dqn(task, seed, **({} if condition == CONVERSIONS[0] else {"exploration_initial_eps": 0.1}))
        if condition == CONVERSIONS[1]:
            fit_to_log_probabilities(agent, prior, shown)
        elif condition == CONVERSIONS[2]:
            played = collect_demonstrations(prior, task.envs(4, seed + 1), N_DEMONSTRATIONS)
            n_steps = len(played)
            fit_to_values(agent, prior, played)
        agent.q_net_target.load_state_dict(agent.q_net.state_dict())
        converted, callback = time.process_time() - began, DQNCurve(task)
        agent.learn(DQN_STEPS, callback=callback, log_interval=None)
        found[condition] = {"curve": callback.curve, "steps": n_steps, "conversion": round(converted, 1)}
    return found


# The report


def steps_to_target(task: Task, runs: list[dict[str, Any]]) -> str:
    """How many seeds reached the target, and the mean steps of all, counting the limit where one did not."""
    reached = [run["reached"] for run in runs]
    steps = [task.limit if one is None else one for one in reached]
    low, high = study.interval(steps)
    return (
        f"{sum(one is not None for one in reached)} of {len(reached)} | {np.mean(steps):,.0f} [{low:,.0f}, {high:,.0f}]"
    )


def steps_on_the_way(task: Task, runs: list[dict[str, Any]], part: float) -> str:
    """Steps until the first evaluation that is a part of the way from random to the zoo's score."""
    steps = []
    for run in runs:
        passed = [steps for steps, value in run["curve"] if task.way(value) >= part]
        steps.append(passed[0] if passed else task.limit)
    low, high = study.interval(steps)
    return f"{np.mean(steps):,.0f} [{low:,.0f}, {high:,.0f}]"


def dip(runs: list[dict[str, Any]], shown: int) -> str:
    """The lowest evaluation in the steps shown, less the first."""
    values = []
    for run in runs:
        early = [value for steps, value in run["curve"] if steps <= shown]
        values.append(min(early) - early[0])
    return study.mean_and_interval(values, 0)


def section(task: Task, about: dict[str, Any], seeds: list[dict[str, Any]]) -> str:
    """Tables of one environment."""
    priors = [seed["prior"] for seed in seeds]
    ways = [task.way(value) for value in priors]
    lines = [
        f"## {task.name}",
        "",
        f"The random policy scores {task.random}, the zoo {task.score}; a mean return of {task.target} in "
        f"{N_CONFIRM} episodes is to be reached, within {task.limit:,} steps. The demonstrator trained for "
        f"{about['steps']:,} steps (seed {DEMONSTRATOR}) and scores {about['score']:.0f}; its {N_DEMONSTRATIONS} "
        f"episodes, with sampled actions, are {about['demonstrated steps']:,} steps with a mean return of "
        f"{about['demonstrated return']:.0f}. The priors score {study.mean_and_interval(priors, 0)}, which is "
        f"{min(ways):.0%} to {max(ways):.0%} of the way, {np.mean(ways):.0%} in the mean. `imitate` takes "
        f"{np.mean([seed['imitation'] for seed in seeds]):.1f} s of processor time. The coefficient of the KL "
        f"divergence falls from {task.kl_coef} to 0 in {task.annealed:,} steps.",
        "",
        f"| PPO starts at | seeds that reach {task.target} | steps until then | steps to {PART:.0%} of the way | "
        f"lowest evaluation in the first {task.shown:,} steps, less that of the start |",
        "|---|---|---|---|---|",
    ]
    for condition in task.conditions:
        runs = [seed[condition] for seed in seeds]
        early = steps_on_the_way(task, runs, PART)
        lines.append(f"| {condition} | {steps_to_target(task, runs)} | {early} | {dip(runs, task.shown)} |")
    if CONVERSIONS[0] in seeds[0]:
        lines += ["", *dqn_table(task, seeds)]
    if FORGETTING[0] in seeds[0]:
        lines += ["", *a2c_table(seeds)]
    return "\n".join(lines)


def a2c_table(seeds: list[dict[str, Any]]) -> list[str]:
    """Rows for A2C."""
    lines = ["| | before | lowest evaluation | mean of all evaluations | last |", "|---|---|---|---|---|"]
    for condition in FORGETTING:
        curves = np.array([seed[condition]["curve"] for seed in seeds])[:, :, 1]
        columns = (curves[:, 0], curves.min(axis=1), curves[:, 1:].mean(axis=1), curves[:, -1])
        cells = " | ".join(study.mean_and_interval(column, 0) for column in columns)
        lines.append(f"| {condition} | {cells} |")
    return lines


def dqn_table(task: Task, seeds: list[dict[str, Any]]) -> list[str]:
    """Rows for DQN, after each conversion."""
    looks = [steps for steps, _ in seeds[0][CONVERSIONS[0]]["curve"]]
    lines = [
        "| | steps for the conversion | processor time | " + " | ".join(f"score after {n:,}" for n in looks) + " |",
        "|---|---|---|" + "---|" * len(looks),
    ]
    for condition in CONVERSIONS:
        runs = [seed[condition] for seed in seeds]
        scores = [study.mean_and_interval([run["curve"][i][1] for run in runs], 0) for i in range(len(looks))]
        steps, seconds = (np.mean([run[name] for run in runs]) for name in ("steps", "conversion"))
        lines.append(f"| {condition} | {steps:,.0f} | {seconds:.1f} s | " + " | ".join(scores) + " |")
    return lines


def draw(found: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]) -> Figure:
    """Early evaluations, and the share of seeds that have reached the target."""
    figure = Figure(figsize=(15, 4 * len(found)), layout="constrained")
    rows = np.atleast_2d(figure.subplots(len(found), 3))
    for (early, share, other), (name, (_, seeds)) in zip(rows, found.items(), strict=True):
        task = TASKS[name]
        for condition in task.conditions:
            runs = [seed[condition] for seed in seeds]
            curves = np.array([[look for look in run["curve"] if look[0] <= task.shown] for run in runs])
            steps, values = curves[0, :, 0], curves[:, :, 1]
            style = {"linestyle": "-" if "KL" in condition else "--" if condition == SCRATCH else ":"}
            (line,) = early.plot(steps, values.mean(axis=0), label=condition, **style)
            bounds = np.array([study.interval(column) for column in values.T])
            early.fill_between(steps, bounds[:, 0], bounds[:, 1], alpha=0.15, color=line.get_color(), linewidth=0)
            reached = sorted(run["reached"] for run in runs if run["reached"] is not None)
            at = [0, *np.repeat(reached, 2), task.limit]
            shares = np.repeat(np.arange(len(reached) + 1), 2) / len(runs)
            share.plot(at, shares, color=line.get_color(), **style)
        early.axhline(task.target, color="grey", linewidth=0.8)
        early.set(title=task.name, xlabel="environment steps", ylabel="mean return, deterministic")
        share.set(title=f"{task.target} reached", xlabel="environment steps", ylabel="share of seeds", ylim=(0, 1.02))
        early.legend(frameon=False, fontsize="small")
        others = [condition for condition in (*FORGETTING, *CONVERSIONS) if condition in seeds[0]]
        for condition in others:
            curves = np.array([seed[condition]["curve"] for seed in seeds])
            bounds = np.array([study.interval(column) for column in curves[:, :, 1].T])
            (line,) = other.plot(curves[0, :, 0], curves[:, :, 1].mean(axis=0), label=condition)
            other.fill_between(curves[0, :, 0], *bounds.T, alpha=0.15, color=line.get_color(), linewidth=0)
        other.set(title=f"{task.name}, {others[0].partition(',')[0]}", xlabel="environment steps")
        other.legend(frameon=False, fontsize="small")
    return figure


def main() -> None:
    options = study.arguments(__doc__, seeds=10).parse_args()
    names = [name for name in TASKS if options.only in name]
    found = {}
    for name in names:
        shown, about = demonstrate(TASKS[name])
        print(name, about, flush=True)
        seeds: list[dict[str, Any]] = []
        found[name] = about, seeds
        for first in range(0, options.seeds, options.jobs):
            tasks = [(TASKS[name], shown, seed) for seed in range(first, min(first + options.jobs, options.seeds))]
            seeds += study.run_all(run, tasks, options.jobs) if options.jobs > 1 else [run(*task) for task in tasks]
            # What is complete is kept if the rest is interrupted.
            raw = {done: {"demonstrator": told, "seeds": runs} for done, (told, runs) in found.items()}
            text = "\n\n".join(section(TASKS[done], *result) for done, result in found.items())
            study.write("priors", "From a mediocre prior", text, raw, draw(found), options.output)


if __name__ == "__main__":
    main()
