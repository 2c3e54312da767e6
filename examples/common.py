"""Parts that the examples share: a command line, parallel runs, and curves with bands."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean

from pg_agents.theory import Estimate

matplotlib.use("agg")  # figures are files: no display is needed

FIGURES = Path(__file__).parents[1] / "docs" / "images" / "examples"
SHORTENED = Path("runs", "examples")  # of a first look, whose figures must not replace those of the documentation


def arguments(description: str | None, given: Sequence[str] | None, seeds: int | None) -> argparse.Namespace:
    """Options of an example. With `seeds=None` there is no option `--seeds`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds, help=f"seeds 0, 1, ... (default {seeds})")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the length of training (default 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="parallel processes (default: cores)")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"folder of the figure (default: docs/images/examples, or {SHORTENED} with other seeds or lengths)",
    )
    options = parser.parse_args(given)
    if options.output is None:
        is_whole = options.scale == 1 and getattr(options, "seeds", None) == seeds
        options.output = FIGURES if is_whole else SHORTENED
    return options


def run_all(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], jobs: int) -> dict[tuple[Any, ...], Any]:
    """Results of `function(*task)` by task, computed in processes of one thread each."""
    tasks = list(tasks)
    if jobs == 1:
        return {task: function(*task) for task in tasks}
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes, which are spawned
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return dict(zip(tasks, pool.map(function, *zip(*tasks, strict=True)), strict=True))


class Progress(BaseCallback):
    """Progress of a run at the end of each rollout.

    Attributes:
        timesteps: Environment steps.
        seconds: Processor time since `learn` was called, in seconds. It does not depend on other work on the machine.
        returns: Mean return of the last `stats_window_size` episodes.
    """

    def _on_training_start(self) -> None:
        self.started = time.process_time()
        self.timesteps, self.seconds, self.returns = [0], [0.0], [0.0]

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer
        if episodes:
            self.timesteps.append(self.num_timesteps)
            self.seconds.append(time.process_time() - self.started)
            self.returns.append(safe_mean([episode["r"] for episode in episodes]))


def draw_band(axes: Any, x: np.ndarray, curves: Sequence[np.ndarray], label: str, colour: str | None = None) -> None:
    """Draw the mean of curves over seeds, with its 95 % interval (Student's t)."""
    from scipy import stats

    stacked = np.stack(curves)
    mean = stacked.mean(axis=0)
    (line,) = axes.plot(x, mean, label=label, color=colour)
    if len(stacked) > 1:
        half = stats.t.ppf(0.975, len(stacked) - 1) * stats.sem(stacked, axis=0)
        axes.fill_between(x, mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0)


def draw_estimates(axes: Any, x: Any, estimates: Iterable[Estimate], **style: Any) -> Any:
    """Draw estimates with their intervals."""
    values = np.array([(one.value, one.value - one.low, one.high - one.value) for one in estimates]).T
    return axes.errorbar(x, values[0], yerr=values[1:], marker="o", markersize=4, capsize=3, **style)


def save(figure: Figure, name: str, folder: Path) -> None:
    """Write the figure and print its path."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=100)
    print(f"Wrote {folder / name}.png")
