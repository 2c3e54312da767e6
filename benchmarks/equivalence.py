"""Learning of our PPO and A2C against Stable-Baselines3's: equal hyperparameters, several seeds, four environments.

    python benchmarks/equivalence.py                 # the missing runs of both sides, then the report
    python benchmarks/equivalence.py --side ours     # the missing runs of our side, then the report
    python benchmarks/equivalence.py --side none     # the report alone

The result of each run is appended to `benchmarks/results/equivalence.jsonl` as soon as it is known, so the script
continues an interrupted study. The report is `equivalence.md` and `equivalence.png` beside it; it needs
`pip install pg-agents[bench]`.

The hyperparameters are rl_zoo3's, without gSDE and with fewer steps. `TASKS` gives the reason for other differences.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch as th
from rl_zoo3.utils import SimpleLinearSchedule
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import pg_agents

RESULTS = Path(__file__).parent / "results"
N_SLICES = 20
N_EVALUATIONS = 20
EVALUATION_SEED = 1_000_000
# Different seeds for each side: the intervals and tests below assume independent samples.
FIRST_SEED = {"sb3": 0, "ours": 100}
LABELS = {"sb3": "SB3", "ours": "pg-agents"}
N_BOOTSTRAP = 10_000


@dataclass(frozen=True)
class Task:
    """A run without its side and seed. `"lin_x"` falls linearly from x to 0, as in rl_zoo3's files."""

    algo: str
    env: str
    n_timesteps: int
    n_envs: int
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    normalize: bool = False

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{self.algo} {self.env}"


TASKS = [
    Task(
        "PPO",
        "CartPole-v1",
        n_timesteps=100_000,
        n_envs=8,
        hyperparameters={
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "learning_rate": "lin_0.001",
            "clip_range": "lin_0.2",
        },
    ),
    Task(
        "PPO",
        "Acrobot-v1",
        n_timesteps=150_000,
        n_envs=16,
        hyperparameters={"n_steps": 256, "gae_lambda": 0.94, "n_epochs": 4},
        normalize=True,
    ),
    Task(
        "PPO",
        "Pendulum-v1",
        n_timesteps=100_000,
        n_envs=4,
        hyperparameters={"n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3},
    ),
    Task(
        "PPO",
        "LunarLander-v3",
        n_timesteps=200_000,
        n_envs=16,
        # rl_zoo3 uses 1024 steps per update, and a million in all.
        hyperparameters={"n_steps": 128, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4, "ent_coef": 0.01},
    ),
    Task("A2C", "CartPole-v1", n_timesteps=100_000, n_envs=8),
    Task("A2C", "Acrobot-v1", n_timesteps=150_000, n_envs=16, normalize=True),
    Task(
        "A2C",
        "Pendulum-v1",
        n_timesteps=200_000,
        # rl_zoo3 has gSDE, 8 environments, lin_0.0007 and a million steps. Without gSDE, this learns nothing in fewer.
        n_envs=4,
        hyperparameters={
            "n_steps": 8,
            "gae_lambda": 0.9,
            "gamma": 0.9,
            "vf_coef": 0.4,
            "learning_rate": "lin_0.001",
            "policy_kwargs": {"ortho_init": False},
        },
        normalize=True,
    ),
    Task(
        "A2C",
        "LunarLander-v3",
        n_timesteps=200_000,
        n_envs=8,
        hyperparameters={"gamma": 0.995, "ent_coef": 1e-5, "learning_rate": "lin_0.00083"},
    ),
]


# Training


def arguments(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments for hyperparameters; a copy, because SB3 adds to `policy_kwargs`."""
    return {
        name: SimpleLinearSchedule(value.removeprefix("lin_")) if isinstance(value, str) else deepcopy(value)
        for name, value in hyperparameters.items()
    }


def learning_curve(env: VecEnv, n_timesteps: int) -> list[float | None]:
    """Mean return of the episodes that ended in each of `N_SLICES` equal parts of the run."""
    returns, ends = [], []
    pairs = zip(env.env_method("get_episode_rewards"), env.env_method("get_episode_lengths"), strict=True)
    for env_returns, env_lengths in pairs:
        returns += env_returns
        ends += (np.cumsum(env_lengths) * env.num_envs).tolist()
    slices = (np.array(ends) - 1) * N_SLICES // n_timesteps
    values = np.array(returns)
    return [float(values[slices == index].mean()) if index in slices else None for index in range(N_SLICES)]


def run(side: str, task: Task, seed: int, engine: str) -> dict[str, Any]:
    """Train once, then evaluate the mean or most probable action in environments with a fixed seed."""
    env: VecEnv = make_vec_env(task.env, task.n_envs, seed=seed)
    evaluation_env: VecEnv = make_vec_env(task.env, 10, seed=EVALUATION_SEED)
    if task.normalize:
        gamma = task.hyperparameters.get("gamma", 0.99)
        env = VecNormalize(env, gamma=gamma)
        evaluation_env = VecNormalize(evaluation_env, training=False, norm_reward=False)
        evaluation_env.obs_rms = env.obs_rms
    module = {"sb3": stable_baselines3, "ours": pg_agents}[side]
    kwargs = arguments(task.hyperparameters) | ({"engine": engine} if side == "ours" else {})
    agent = getattr(module, task.algo)("MlpPolicy", env, seed=seed, device="cpu", **kwargs)
    start = time.perf_counter()
    agent.learn(task.n_timesteps, log_interval=None)
    seconds = time.perf_counter() - start
    evaluations, _ = evaluate_policy(agent, evaluation_env, N_EVALUATIONS, return_episode_rewards=True)
    curve = learning_curve(env, task.n_timesteps)
    return {
        "side": side,
        "seed": seed,
        "task": asdict(task),
        "engine": agent.engine_in_use if side == "ours" else None,
        "evaluation": float(np.mean(evaluations)),
        "training": float(np.mean([value for value in curve if value is not None])),
        "curve": curve,
        "evaluations": [float(value) for value in evaluations],
        "seconds": round(seconds, 1),
        "versions": versions(side),
    }


def versions(side: str) -> dict[str, str]:
    """Versions of the packages; for our code also the commit, with a mark if the package differs from it."""
    names = ("stable-baselines3", "gymnasium", "torch", "numpy") + ("pg-agents", "numba") * (side == "ours")
    found = {name: version(name) for name in names} | {"python": platform.python_version()}
    if side == "ours" and (commit := git("rev-parse", "--short", "HEAD")):
        changed = git("status", "--porcelain", "--", str(RESULTS.parents[1] / "pg_agents"))
        found["commit"] = commit + ("-dirty" if changed else "")
    return found


def git(*arguments: str) -> str:
    """Output of git in this repository; empty outside a checkout."""
    command = ["git", "-C", str(RESULTS.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def read(path: Path) -> list[dict[str, Any]]:
    """Results of the tasks that have not changed since."""
    if not path.exists():
        return []
    known = [json.loads(json.dumps(asdict(task))) for task in TASKS]
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [entry for entry in entries if entry["task"] in known]


def train(sides: list[str], tasks: list[Task], n_seeds: int, engine: str, n_jobs: int, path: Path) -> None:
    """Make the runs that are missing in the file, and append them."""
    done = {(entry["side"], Task(**entry["task"]).name, entry["seed"]) for entry in read(path)}
    missing = [
        (side, task, seed, engine)
        for index in range(n_seeds)  # one seed of everything first
        for side in sides
        for task in tasks
        for seed in [FIRST_SEED[side] + index]
        if (side, task.name, seed) not in done
    ]
    path.parent.mkdir(exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_jobs, spawn, initializer=th.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(run, *one) for one in missing]
        for count, future in enumerate(as_completed(futures), start=1):
            entry = future.result()
            with path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            print(
                f"[{count}/{len(missing)}] {entry['side']} {Task(**entry['task']).name} seed {entry['seed']}: "
                f"evaluation {entry['evaluation']:.1f}, training {entry['training']:.1f}, {entry['seconds']:.0f} s",
                flush=True,
            )


# Statistics


# Returns of a random and of a good policy, which put the environments on one scale.
SCALE = {
    "CartPole-v1": (22, 500),
    "Acrobot-v1": (-499, -80),
    "Pendulum-v1": (-1230, -150),
    "LunarLander-v3": (-180, 250),
}
METRICS = {
    "evaluation": f"Final evaluation: mean return of {N_EVALUATIONS} episodes, deterministic actions",
    "training": "Whole training: mean return of training episodes, averaged over equal slices of steps",
}


@dataclass(frozen=True)
class Comparison:
    """Comparison of one metric on one task, or on all tasks of an algorithm."""

    name: str
    sb3: float
    ours: float
    low: float
    high: float
    p: float

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high


def iqm(values: np.ndarray, axis: int = -1) -> Any:
    """Interquartile mean: the mean without the lowest and the highest quarter."""
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)


def pooled_difference(*samples: np.ndarray, axis: int = -1) -> Any:
    """IQM over all tasks of our side minus SB3's. Our samples come first, task by task, then SB3's."""
    half = len(samples) // 2
    return iqm(np.concatenate(samples[:half], axis), axis) - iqm(np.concatenate(samples[half:], axis), axis)


def interval(samples: list[np.ndarray]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the difference; each task and side is resampled separately."""
    from scipy.stats import bootstrap

    result = bootstrap(
        samples, pooled_difference, n_resamples=N_BOOTSTRAP, method="percentile", rng=np.random.default_rng(0)
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def permutation_p(ours: np.ndarray, sb3: np.ndarray) -> float:
    """Two-sided p-value of the IQMs' difference over all ways to split the runs into two sides (or many)."""
    from scipy.stats import permutation_test

    result = permutation_test(
        (ours, sb3), pooled_difference, n_resamples=200_000, batch=20_000, rng=np.random.default_rng(0)
    )
    return float(result.pvalue)


def compare(results: list[dict[str, Any]], metric: str) -> tuple[list[Comparison], list[Comparison]]:
    """Compare every task with runs of both sides, then each algorithm over its tasks."""
    single, pooled = [], []
    for algo in dict.fromkeys(task.algo for task in TASKS):
        scaled: dict[str, list[np.ndarray]] = {"ours": [], "sb3": []}
        for task in (task for task in TASKS if task.algo == algo):
            values = {side: np.array([entry[metric] for entry in of(results, side, task)]) for side in LABELS}
            if min(map(len, values.values())) < 2:
                continue
            ours, sb3 = values["ours"], values["sb3"]
            p = permutation_p(ours, sb3)
            single.append(Comparison(task.name, iqm(sb3), iqm(ours), *interval([ours, sb3]), p))
            low, high = SCALE[task.env]
            for side in scaled:
                scaled[side].append((values[side] - low) / (high - low))
        if len(scaled["ours"]) > 1:
            sides = {side: iqm(np.concatenate(samples)) for side, samples in scaled.items()}
            low, high = interval(scaled["ours"] + scaled["sb3"])
            name = f"{algo}, {len(scaled['ours'])} environments, random = 0, good = 1"
            pooled.append(Comparison(name, sides["sb3"], sides["ours"], low, high, np.nan))
    return single, pooled


def of(results: list[dict[str, Any]], side: str, task: Task) -> list[dict[str, Any]]:
    """One side's runs of a task."""
    return [entry for entry in results if entry["side"] == side and Task(**entry["task"]).name == task.name]


def holm(p: list[float]) -> np.ndarray:
    """Holm's adjusted p-values: `max_{j<=i} (m - j + 1) p_(j)`. Scandinavian Journal of Statistics 6 (1979)."""
    order = np.argsort(p)
    factors = len(p) - np.arange(len(p))
    adjusted = np.minimum(np.maximum.accumulate(factors * np.array(p)[order]), 1)
    return adjusted[np.argsort(order)]


# Report


def table(rows: list[Comparison], adjusted: np.ndarray | None = None) -> str:
    """Markdown."""
    tested = adjusted is not None
    head = ["", "SB3, IQM", "ours, IQM", "ours − SB3 [95 % interval]", "verdict"] + ["p", "p, Holm"] * tested
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for index, row in enumerate(rows):
        digits = 1 if tested else 3
        difference = f"{row.ours - row.sb3:+.{digits}f} [{row.low:+.{digits}f}, {row.high:+.{digits}f}]"
        cells = [row.name, f"{row.sb3:.{digits}f}", f"{row.ours:.{digits}f}", difference]
        cells += ["**differs**" if row.differs else "no difference shown"]
        cells += [f"{row.p:.3f}", f"{adjusted[index]:.2f}"] if tested else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def joint(rows: list[Comparison], adjusted: np.ndarray) -> str:
    """Conclusion from all comparisons together."""
    from scipy.stats import binom

    count, total = sum(row.differs for row in rows), len(rows)
    chance = float(binom.sf(count - 1, total, 0.05))
    significant = [f"{row.name} (p = {p:.3f})" for row, p in zip(rows, adjusted, strict=True) if p < 0.05]
    return (
        f"The tables have {total} comparisons. If nothing differed at all, about {0.05 * total:.1f} of their 95 % "
        f"intervals would exclude 0 by chance, or slightly more, because bootstrap intervals from ten runs are a "
        f"little too narrow. **{count}** of {total} exclude 0. If the comparisons were independent, the probability of "
        f"this many or more would be {chance:.2f}. (They are not quite independent: the two metrics of a task come "
        f"from the same runs.) After Holm's correction for all {total} permutation tests, "
        + (f"these differ at 5 %: **{', '.join(significant)}**." if significant else "**none differs** at 5 %.")
        + '\n\n"No difference shown" does not prove equality. The intervals show how large an undetected difference '
        "could be."
    )


def figure(results: list[dict[str, Any]], path: Path) -> None:
    """Learning curves of both sides: IQM over seeds, with its 95 % bootstrap band."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    algos, envs = (list(dict.fromkeys(getattr(task, name) for task in TASKS)) for name in ("algo", "env"))
    grid, axes = plt.subplots(
        len(algos), len(envs), figsize=(3.6 * len(envs), 3 * len(algos)), squeeze=False, layout="constrained"
    )
    styles = {"sb3": ("#d95f02", "--"), "ours": ("#1f78b4", "-")}
    rng = np.random.default_rng(0)
    for task in TASKS:
        panel = axes[algos.index(task.algo), envs.index(task.env)]
        for side, (colour, line) in styles.items():
            curves = np.array([entry["curve"] for entry in of(results, side, task)], dtype=float)
            if not len(curves):
                continue
            steps, middle, low, high = [], [], [], []
            for index, column in enumerate(curves.T):
                values = column[~np.isnan(column)]
                if 2 * len(values) < len(column):
                    continue  # no episode ended in this slice, in most runs
                steps.append((index + 0.5) * task.n_timesteps / N_SLICES / 1000)
                middle.append(iqm(values))
                bounds = np.percentile(iqm(rng.choice(values, (2000, len(values)))), [2.5, 97.5])
                low.append(bounds[0])
                high.append(bounds[1])
            panel.plot(steps, middle, line, color=colour, label=f"{LABELS[side]} ({len(curves)} seeds)")
            panel.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        panel.set_title(task.name, fontsize=10)
        panel.grid(alpha=0.3)
    for panel in axes[-1]:
        panel.set_xlabel("steps / 1000")
    for panel in axes[:, 0]:
        panel.set_ylabel("return of training episodes")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    grid.savefig(path, dpi=130)
    plt.close(grid)


def setting(task: Task) -> str:
    """Row of the table of settings."""
    given = ", ".join(f"`{name}={value}`" for name, value in task.hyperparameters.items())
    normalised = "`VecNormalize`" if task.normalize else ""
    cells = (task.name, f"{task.n_timesteps:,}", str(task.n_envs), ", ".join(filter(None, (given, normalised))))
    return "| " + " | ".join(cells) + " |"


def report(results: list[dict[str, Any]], path: Path, command: str) -> str:
    """Write the report and return it."""
    compared = {metric: compare(results, metric) for metric in METRICS}
    singles = [row for single, _ in compared.values() for row in single]
    if not singles:
        return "Nothing to compare: each side needs two runs of a task."
    adjusted = holm([row.p for row in singles])
    figure(results, path.with_suffix(".png"))
    parts = ["# Learning equivalence with Stable-Baselines3\n"]
    used = {json.dumps({"side": LABELS[entry["side"]]} | entry["versions"]): None for entry in results}
    engines = sorted({entry["engine"] for entry in results if entry["engine"]})
    parts.append(f"Generated by `{command}`; engine of our side: {', '.join(f'`{name}`' for name in engines)}.\n")
    for text in used:
        found = json.loads(text)
        parts.append(f"* {found.pop('side')}: " + ", ".join(f"{name} {number}" for name, number in found.items()))
    counts = sorted({len(of(results, side, task)) for task in TASKS for side in LABELS})
    seeds = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    parts.append(
        f"\nBoth sides have equal hyperparameters and {seeds} seeds per task. Their seeds differ, so the two samples "
        "are independent. The IQM is the mean without the lowest and the highest quarter of the seeds. Intervals are "
        f"from a percentile bootstrap with {N_BOOTSTRAP:,} resamples, separately for each side and task "
        "(`scipy.stats.bootstrap`). p is from a permutation test of the difference of the IQMs.\n"
    )
    parts.append(f"![Learning curves]({path.with_suffix('.png').name})\n")
    start = 0
    for metric, title in METRICS.items():
        single, pooled = compared[metric]
        parts.append(f"## {title}\n\n{table(single, adjusted[start : start + len(single)])}\n")
        start += len(single)
        if pooled:
            parts.append(table(pooled) + "\n")
    parts.append(f"## All together\n\n{joint(singles, adjusted)}\n")
    seconds = {side: sum(entry["seconds"] for entry in results if entry["side"] == side) for side in LABELS}
    parts.append(
        "Time in `learn` over all runs, on a machine with other work, so not a measurement of speed: "
        + ", ".join(f"{LABELS[side]} {value / 60:.0f} min" for side, value in seconds.items())
        + ".\n"
    )
    parts.append("## Settings\n\n| task | steps | environments | changes to the defaults |\n|---|---|---|---|")
    parts += [setting(task) for task in TASKS]
    text = "\n".join(parts) + "\n"
    path.write_text(text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=("sb3", "ours", "both", "none"), default="both", help="side to train")
    parser.add_argument("--seeds", type=int, default=10, help="seeds per side and task (default 10)")
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel runs (default 1)")
    parser.add_argument("--only", default="", help="part of the names of the tasks to run")
    parser.add_argument("--engine", default="mlp", help="engine of our side (default mlp)")
    parser.add_argument("--output", type=Path, default=RESULTS / "equivalence", help="path of results, without suffix")
    args = parser.parse_args()
    sides = {"both": ["sb3", "ours"], "none": []}.get(args.side, [args.side])
    tasks = [task for task in TASKS if args.only.lower() in task.name.lower()]
    path = args.output.with_suffix(".jsonl")
    train(sides, tasks, args.seeds, args.engine, args.jobs, path)
    results = read(path)
    if {entry["side"] for entry in results} == set(LABELS):
        command = " ".join(["python", "benchmarks/equivalence.py", *sys.argv[1:]])
        print(report(results, args.output.with_suffix(".md"), command))


if __name__ == "__main__":
    main()
