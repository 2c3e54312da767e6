"""Learning of the agents with the zoo's hyperparameters over several seeds, through `pg-zoo train`.

    python benchmarks/learning.py                 # all tasks, 5 seeds; writes benchmarks/results/learning.{json,md}
    python benchmarks/learning.py --seeds 2 --only reinforce

Each run is a `pg-zoo train` in a process of its own. Its agent is then evaluated over 100 episodes in environments
with seeds that training did not see. It takes the most probable actions, unless the environment asks for actions drawn
from the policy. The table gives the mean over seeds with a 95 % bootstrap interval, and the worst seed. For REINFORCE,
it counts the training episodes after which the mean return of the last 100 episodes first reached 195.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from pg_agents import evaluate_policy
from pg_agents.registry import algorithm

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Task:
    """An algorithm on an environment, and its number of steps."""

    algo: str
    env: str
    n_timesteps: int
    episodes_to: float | None = None  # count the episodes until this mean return, instead of evaluating

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"{self.algo} {self.env}"


TASKS = [
    Task("ppo", "CartPole-v1", 100_000),
    Task("a2c", "CartPole-v1", 100_000),
    Task("reinforce_baseline", "CartPole-v1", 300_000),
    Task("reinforce", "CartPole-v1", 100_000, episodes_to=195),
    Task("ppo", "Pendulum-v1", 100_000),
]


def episodes_until(folder: Path, mean_return: float) -> int | None:
    """Training episodes after which the mean return of the last 100 first reached `mean_return`."""
    # Two lines of header, then return, length and time of each episode.
    monitors = [np.loadtxt(path, delimiter=",", skiprows=2, ndmin=2) for path in folder.glob("*.monitor.csv")]
    episodes = np.concatenate(monitors)
    returns = episodes[np.argsort(episodes[:, 2]), 0]
    means = np.convolve(returns, np.full(100, 1 / 100), mode="valid")
    reached = np.flatnonzero(means >= mean_return)
    return int(reached[0]) + 100 if len(reached) else None


def run(task: Task, seed: int) -> dict[str, float | None]:
    """Train once and evaluate."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["pg-zoo", "train", "--algo", task.algo, "--env", task.env, "-n", str(task.n_timesteps)]
        command += ["--seed", str(seed), "-f", folder, "--eval-freq", "-1", "--device", "cpu", "--num-threads", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        run_folder = Path(folder) / task.algo / f"{task.env}_1"
        agent = algorithm(task.algo).load(run_folder / f"{task.env}.zip", device="cpu")
        env = make_vec_env(task.env, n_envs=10, seed=10_000 + 100 * seed)
        score, _ = evaluate_policy(agent, env, n_eval_episodes=100)
        episodes = None if task.episodes_to is None else episodes_until(run_folder, task.episodes_to)
    print(f"{task.name} seed {seed}: {score:.1f}" + ("" if episodes is None else f", {episodes} episodes"), flush=True)
    return {"evaluation": float(score), "episodes": episodes}


def interval(values: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds."""
    means = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def table(results: list[dict]) -> str:
    """Markdown, one row for each task."""
    lines = [
        "| task | steps | seeds | measure | mean [95 % interval] | worst seed | mean return after training |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in results:
        task, runs = Task(**entry["task"]), entry["runs"]
        evaluations = [run["evaluation"] for run in runs]
        if task.episodes_to is None:
            values, measure, worst = evaluations, "return after training", min
        else:
            values = [np.inf if run["episodes"] is None else run["episodes"] for run in runs]
            measure, worst = f"episodes until a mean return of {task.episodes_to:g}", max
        low, high = interval(values)
        lines.append(
            f"| {task.name} | {task.n_timesteps:,} | {len(runs)} | {measure} | {np.mean(values):.0f} "
            f"[{low:.0f}, {high:.0f}] | {worst(values):.0f} | {np.mean(evaluations):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... (default 5)")
    parser.add_argument("--only", default="", help="part of the names of the tasks to run")
    parser.add_argument("--jobs", type=int, default=2, help="number of parallel runs (default 2)")
    parser.add_argument("--output", type=Path, default=RESULTS / "learning", help="path of the results, without suffix")
    args = parser.parse_args()
    tasks = [task for task in TASKS if args.only in task.name]
    th.set_num_threads(1)
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = {task: [pool.submit(run, task, seed) for seed in range(args.seeds)] for task in tasks}
        results = [{"task": asdict(task), "runs": [one.result() for one in runs]} for task, runs in futures.items()]
    packages = ("pg-agents", "stable-baselines3", "rl_zoo3", "gymnasium", "torch", "numpy")
    versions = {name: version(name) for name in packages} | {"python": platform.python_version()}
    command = " ".join(["python", "benchmarks/learning.py", *sys.argv[1:]])
    args.output.with_suffix(".json").write_text(
        json.dumps({"command": command, "versions": versions, "results": results}, indent=1) + "\n"
    )
    text = (
        "# Learning\n\n"
        f"Generated by `{command}`, with {', '.join(f'{name} {number}' for name, number in versions.items())}.\n\n"
        f"{table(results)}\n"
    )
    args.output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
