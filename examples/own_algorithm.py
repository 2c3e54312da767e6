"""8. Your own algorithm: from its objective to the benchmark against SB3.

    python examples/own_algorithm.py    # 10 seeds; writes docs/images/examples/own_algorithm.png

The algorithm is an A2C in which no single advantage can dominate the gradient. It consists of an objective, its
weight for the compiled engine, a check of both, and an entry point. The entry point makes `squashed` a name for all
commands: `pg-zoo benchmark` trains it and Stable-Baselines3's A2C with the same hyperparameters and reports whether
it is better.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch as th
from common import FIGURES, SHORTENED, arguments, draw_band, save
from matplotlib.figure import Figure

from pg_agents import A2C
from pg_agents.contract import Objective
from pg_agents.testing import check_agent
from pg_zoo.cli import main as pg_zoo
from pg_zoo.results.tables import read

ENV, N_TIMESTEPS = "CartPole-v1", 100_000


# The algorithm


def squashed(log_prob: th.Tensor, advantages: th.Tensor) -> th.Tensor:
    """Â / (1 + |Â|) log π(a|s)."""
    return advantages / (1 + advantages.abs()) * log_prob


def squashed_weight(log_prob: float, ratio: float, advantage: float) -> float:
    """∂ objective / ∂ log π, for the compiled engine."""
    return advantage / (1 + abs(advantage))


class SquashedA2C(A2C):
    """A2C with another objective."""

    def objective(self) -> Objective:
        """The objective of each sample, and its derivative for the compiled engine."""
        return Objective(lambda batch: squashed(batch.log_prob, batch.advantages), squashed_weight)


def check() -> None:
    """Objective and weight agree, and SB3's contract holds: seeds, saving, callbacks, spaces."""
    check_agent(SquashedA2C)


# Its package


def install(folder: Path) -> None:
    """Write the metadata that `pip install` writes for a plugin's package (docs/plugins.md)."""
    info = folder / "own_algorithm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-algorithm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pg_agents.algorithms]\nsquashed = own_algorithm:SquashedA2C\n")
    found = [str(folder), str(Path(__file__).parent)]
    sys.path[:0] = found
    os.environ["PYTHONPATH"] = os.pathsep.join([*found, os.environ.get("PYTHONPATH", "")])  # for child processes


# The benchmark


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(__doc__, given, seeds=10)
    check()
    results_folder = (SHORTENED if options.output == FIGURES else options.output) / "own_algorithm"
    shutil.rmtree(results_folder, ignore_errors=True)  # of another version of the algorithm, perhaps
    n_episodes = 10 if options.scale >= 1 else 2  # a short training would take less time than its evaluations
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        command = ["benchmark", "--algos", "squashed", "sb3/a2c", "--envs", ENV, "--same-hyperparams", "a2c"]
        command += ["-n", str(int(N_TIMESTEPS * options.scale)), "--seeds", str(options.seeds)]
        command += ["--jobs", str(options.jobs), "-o", str(results_folder)]
        command += ["--eval-episodes", str(n_episodes)]
        if options.scale < 1:
            command += ["--eval-points", "5", "--final-episodes", "10"]
        pg_zoo(command)
    results = read(results_folder)
    report = (results_folder / "report.md").read_text()
    print("\n".join(line for line in report.splitlines() if f"**{ENV}**" in line))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="environment steps", ylabel=f"return, mean of {n_episodes} evaluation episodes")
    for algo in ("squashed", "sb3/a2c"):
        curves = results.curves_of(algo, ENV, "timesteps")
        draw_band(axes, curves[0][:, 0], [curve[:, 1] for curve in curves], algo)
    axes.legend(frameon=False)
    save(figure, "own_algorithm", options.output)


if __name__ == "__main__":
    main()
