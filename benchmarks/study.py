"""Parts that the studies in this folder share: parallel seeds, intervals, and results that name their origin."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Task = TypeVar("Task")

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("pg-agents", "stable-baselines3", "gymnasium", "pettingzoo", "torch", "numpy", "numba")


def arguments(description: str | None, seeds: int | None, only: bool = True) -> argparse.ArgumentParser:
    """The options of a study: `--output`, if it has rows `--only`, and if it has seeds `--seeds` and `--jobs`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds, help=f"seeds 0, 1, ... (default {seeds})")
        parser.add_argument(
            "--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (default: cores)"
        )
    if only:
        parser.add_argument("--only", default="", help="part of the names of the rows to compute")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


def run_all(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], jobs: int) -> list[Any]:
    """Call `function(*task)` for every task, in processes of one thread each, and print a line for each finished task.

    Args:
        function: Function of a module, so that other processes can import it.
        tasks: Arguments of each call.
        jobs: Number of parallel processes.

    Returns:
        The results in the order of the tasks.
    """
    tasks = list(tasks)
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes, which are spawned
    started = time.time()
    results: list[Any] = [None] * len(tasks)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(function, *task): i for i, task in enumerate(tasks)}
        for done, future in enumerate(as_completed(futures), 1):
            i = futures[future]
            results[i] = future.result()
            print(f"[{done}/{len(tasks)}, {time.time() - started:.0f} s] {tasks[i]}: {results[i]}"[:200], flush=True)
    return results


def run_seeds(
    function: Callable[[Task, int], Any], tasks: Iterable[Task], seeds: int, jobs: int
) -> dict[Task, list[Any]]:
    """Call `function(task, seed)` for every task and the seeds 0, 1, ...: see `run_all`.

    Returns:
        The results of each task, one for each seed.
    """
    runs = [(task, seed) for task in tasks for seed in range(seeds)]
    by_task: dict[Task, list[Any]] = {}
    for (task, _), result in zip(runs, run_all(function, runs, jobs), strict=True):
        by_task.setdefault(task, []).append(result)
    return by_task


def constant_policy(model: Any) -> list[float]:
    """Policy at the constant observation 1: mean and standard deviation of a Gaussian, or probabilities of bins."""
    import torch as th

    distribution = model.policy.get_distribution(th.ones(1, 1)).distribution
    if isinstance(distribution, th.distributions.Normal):
        return [distribution.mean.item(), distribution.stddev.item()]
    likelihoods = np.exp(distribution.logits.detach().double().numpy()[0])
    return (likelihoods / likelihoods.sum()).tolist()


def interval(values: Iterable[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds."""
    values = np.asarray(list(values), dtype=float)
    means = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mean_and_interval(values: Iterable[float], digits: int = 3) -> str:
    """`mean [low, high]`, for tables."""
    values = list(values)
    low, high = interval(values)
    return f"{np.mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def write(name: str, title: str, text: str, results: Any, figure: Any = None, folder: Path = RESULTS) -> None:
    """Write `<name>.md`, `<name>.json` and, with a figure, `<name>.png`. Results of `--only` do not replace the whole.

    Args:
        name: Name of the files and of the script `benchmarks/<name>.py`.
        title: Heading of the page.
        text: Tables and explanations, in Markdown.
        results: Raw numbers for the JSON file.
        figure: Matplotlib figure.
        folder: Folder of the files.
    """
    if folder == RESULTS and any(argument.startswith("--only") for argument in sys.argv):
        print(text, "\nThese are partial results: nothing is written without --output.", sep="\n")
        return
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    versions = {package: version(package) for package in PACKAGES} | {"python": platform.python_version()}
    made = f"Generated by `{command}`, with {', '.join(f'{package} {number}' for package, number in versions.items())}."
    picture = f"\n![{title}]({name}.png)\n" if figure is not None else ""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(f"# {title}\n\n{made}\n{picture}\n{text.strip()}\n")
    raw = json.dumps({"command": command, "versions": versions, "results": results}, indent=1)
    (folder / f"{name}.json").write_text(raw + "\n")
    if figure is not None:
        figure.savefig(folder / f"{name}.png", dpi=100, bbox_inches="tight")
    print(text)
