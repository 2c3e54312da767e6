"""What do the diagnostic callbacks cost at their default frequency?

    python benchmarks/diagnostics.py    # writes benchmarks/results/diagnostics.md

The same training, with the same seed, alternately with and without each callback; both have a callback that does
nothing, since any callback makes SB3's and our own loop do a little more. The cost is how much longer `learn` takes,
the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import stable_baselines3
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.env_util import make_vec_env

import pg_agents
from pg_agents.diagnostics import AdvantageDiagnostics, GradientDiagnostics, PolicyDiagnostics

RESULTS = Path(__file__).parent / "results"
TRAININGS: dict[str, tuple[Any, str, int, int, dict[str, Any]]] = {
    "PPO, CartPole, 1 environment": (pg_agents.PPO, "CartPole-v1", 1, 60_000, {}),
    "PPO, Pendulum, 8 environments": (pg_agents.PPO, "Pendulum-v1", 8, 60_000, {"n_steps": 256, "batch_size": 256}),
    "A2C, CartPole, 8 environments": (pg_agents.A2C, "CartPole-v1", 8, 100_000, {}),
    "REINFORCE, CartPole, 8 environments": (pg_agents.REINFORCE, "CartPole-v1", 8, 100_000, {}),
    "SB3's PPO, CartPole, 1 environment": (stable_baselines3.PPO, "CartPole-v1", 1, 20_000, {}),
}
CALLBACKS: dict[str, Any] = {
    "gradient": GradientDiagnostics,  # the dearest
    "all three": lambda: CallbackList([GradientDiagnostics(), AdvantageDiagnostics(), PolicyDiagnostics()]),
}


class Nothing(BaseCallback):
    """What a training without diagnostics has."""

    def _on_step(self) -> bool:
        return True


def seconds(training: str, callback: BaseCallback) -> float:
    """How long `learn` takes."""
    cls, env_id, n_envs, n_steps, kwargs = TRAININGS[training]
    env = make_vec_env(env_id, n_envs, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        model = cls("MlpPolicy", env, seed=0, device="cpu", tensorboard_log=folder, **kwargs)
        started = time.perf_counter()
        model.learn(n_steps, CallbackList([Nothing(), callback]), log_interval=10)
        taken = time.perf_counter() - started
    env.close()
    return taken


def ratio(training: str, make: Any, first: bool) -> float:
    """How much longer it takes with the callback, which goes first or second."""
    if first:
        return seconds(training, make()) / seconds(training, Nothing())
    without = seconds(training, Nothing())
    return seconds(training, make()) / without


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="trainings with and without (default 7)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parsed = parser.parse_args()
    th.set_num_threads(1)
    rows = []
    for training in TRAININGS:
        seconds(training, Nothing())  # compiles, and fills caches
        costs = []
        for make in CALLBACKS.values():
            ratios = [ratio(training, make, first=pair % 2 == 0) for pair in range(parsed.pairs)]
            costs.append(f"{100 * (statistics.median(ratios) - 1):+.1f} %")
        rows.append([training, *costs])
        print(rows[-1], flush=True)
    packages = ", ".join(f"{name} {version(name)}" for name in ("pg-agents", "stable-baselines3", "torch"))
    table = [["training", *CALLBACKS], ["---", *["---:"] * len(CALLBACKS)], *rows]
    text = [
        "# What the diagnostic callbacks cost",
        "",
        f"How much longer `learn` takes with them, at their default of one rollout in 20,000 steps; median of "
        f"{parsed.pairs} pairs. {date.today()}, {platform.machine()}, one thread, {packages}.",
        "`python benchmarks/diagnostics.py`",
        "",
        *["| " + " | ".join(row) + " |" for row in table],
    ]
    (parsed.output / "diagnostics.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
