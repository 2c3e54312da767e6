"""Cost of the diagnostic callbacks at their default frequency.

    python benchmarks/diagnostics.py    # writes benchmarks/results/diagnostics.md

The cost is the processor time inside the callbacks, including KL divergences between epochs, relative to the processor
time of the rest of the run. Unlike elapsed time, it does not depend on other work on the machine.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.env_util import make_vec_env

import pg_agents
from pg_agents.diagnostics import AdvantageDiagnostics, GradientDiagnostics, PolicyDiagnostics

RESULTS = Path(__file__).parent / "results"
TRAININGS: dict[str, tuple[Any, str, int, int, dict[str, Any]]] = {
    "PPO, CartPole, 1 environment": (pg_agents.PPO, "CartPole-v1", 1, 200_000, {}),
    "PPO, Pendulum, 8 environments": (pg_agents.PPO, "Pendulum-v1", 8, 200_000, {"n_steps": 256, "batch_size": 256}),
    "A2C, CartPole, 8 environments": (pg_agents.A2C, "CartPole-v1", 8, 200_000, {}),
    "REINFORCE, CartPole, 8 environments": (pg_agents.REINFORCE, "CartPole-v1", 8, 200_000, {}),
}
CALLBACKS: dict[str, Any] = {
    "gradient": lambda: [GradientDiagnostics()],
    "advantage": lambda: [AdvantageDiagnostics()],
    "policy": lambda: [PolicyDiagnostics()],
    "all three": lambda: [GradientDiagnostics(), AdvantageDiagnostics(), PolicyDiagnostics()],
}
# Methods that do work, also between epochs. `on_step` does nothing; timing it would add a cost.
METHODS = ("on_training_start", "on_rollout_start", "on_rollout_end", "on_training_end", "_kl")


class Clock:
    """Sum of the processor time in functions; the time of nested calls counts once."""

    def __init__(self) -> None:
        self.seconds, self.depth = 0.0, 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            started, self.depth = time.process_time(), self.depth + 1
            try:
                return function(*args, **kwargs)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.seconds += time.process_time() - started

        return wrapped


def cost(training: str, callbacks: list[BaseCallback]) -> float:
    """Processor time in the callbacks relative to the rest of the run."""
    cls, env_id, n_envs, n_steps, kwargs = TRAININGS[training]
    clock, env = Clock(), make_vec_env(env_id, n_envs, seed=0)
    for callback in callbacks:
        for name in METHODS:
            if hasattr(callback, name):
                setattr(callback, name, clock.timed(getattr(callback, name)))
    with tempfile.TemporaryDirectory() as folder:
        model = cls("MlpPolicy", env, seed=0, device="cpu", tensorboard_log=folder, **kwargs)
        started = time.process_time()
        model.learn(n_steps, CallbackList(callbacks), log_interval=10)
        rest = time.process_time() - started - clock.seconds
    env.close()
    return clock.seconds / rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each kind (default 3)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parsed = parser.parse_args()
    th.set_num_threads(1)
    rows = []
    for training in TRAININGS:
        cost(training, [])  # compiles, and fills caches
        costs = [statistics.median(cost(training, make()) for _ in range(parsed.repeat)) for make in CALLBACKS.values()]
        rows.append([training, *(f"{100 * one:.1f} %" for one in costs)])
        print(rows[-1], flush=True)
    packages = ", ".join(f"{name} {version(name)}" for name in ("pg-agents", "stable-baselines3", "torch"))
    table = [["run", *CALLBACKS], ["---", *["---:"] * len(CALLBACKS)], *rows]
    runs = "one run each" if parsed.repeat == 1 else f"the median of {parsed.repeat} runs"
    text = [
        "# Cost of the diagnostic callbacks",
        "",
        "The table gives the processor time inside the callbacks relative to the rest of the run, at their default of "
        f"one rollout in 50,000 steps, from {runs}. It was measured on {date.today()} on {platform.machine()}, on one "
        f"thread, with {packages}.",
        "",
        f"`python benchmarks/diagnostics.py --repeat {parsed.repeat}`",
        "",
        *["| " + " | ".join(row) + " |" for row in table],
    ]
    (parsed.output / "diagnostics.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
