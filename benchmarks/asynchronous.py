"""Steps per second of A3C against the number of its workers, beside A2C.

    python benchmarks/asynchronous.py    # writes benchmarks/results/asynchronous.{md,json}

All sides are trained alternately. The measure is environment steps per second of wall-clock time between the first
and the last call of a callback, so that the start of workers is left out. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv
from study import RESULTS, write

from pg_agents import A2C, A3C, make_vec

MEAN_SLEEP = 0.002  # seconds


class Sleeps(gym.Wrapper[Any, Any, Any, Any]):
    """Steps take a random time, exponentially distributed, in which the processor is free."""

    def step(self, action: Any) -> Any:
        """Sleep, and take a step."""
        time.sleep(self.np_random.exponential(MEAN_SLEEP))
        return super().step(action)


def sleepy() -> gym.Env[Any, Any]:
    return Sleeps(gym.make("CartPole-v1"))


class Clock(BaseCallback):
    """Notes the time now and then."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.seen = every, list[tuple[float, int]]()

    def next_look(self) -> int:
        """Steps until the next note."""
        return self.every - self.n_calls % self.every

    def _on_step(self) -> bool:
        if self.n_calls % self.every == 0:
            self.seen.append((time.perf_counter(), self.num_timesteps))
        return True

    @property
    def rate(self) -> float:
        """Steps per second."""
        (first, before), (last, after) = self.seen[0], self.seen[-1]
        return (after - before) / (last - first)


def subprocesses(n: int) -> SubprocVecEnv:
    return make_vec_env(sleepy, n, vec_env_cls=SubprocVecEnv)  # type: ignore[return-value] # as asked for


Side = tuple[str, Callable[[], Any]]


def a3c(env: Any, n_workers: int, backend: str) -> Side:
    return f"A3C, {n_workers} worker{'s' * (n_workers > 1)}", lambda: A3C(
        "MlpPolicy", env, n_workers=n_workers, backend=backend, seed=0, device="cpu"
    )


def a2c(n_envs: int, make: Callable[[int], Any]) -> Side:
    return f"A2C, {n_envs} environment{'s' * (n_envs > 1)}", lambda: A2C(
        "MlpPolicy", make(n_envs), seed=0, device="cpu"
    )


# Name, steps of the slowest side, and sides. A2C with several environments has as many samples in a gradient.
WORKLOADS: dict[str, tuple[int, list[Side]]] = {
    "CartPole's world: threads": (
        20_000,
        [a2c(n, lambda n: make_vec("pg/CartPole-v1", n)) for n in (1, 2, 4)]
        + [a3c("pg/CartPole-v1", n, "threads") for n in (1, 2, 4)],
    ),
    "CartPole: processes": (
        8_000,
        [a2c(n, lambda n: make_vec_env("CartPole-v1", n)) for n in (1, 2, 4)]
        + [a3c("CartPole-v1", n, "processes") for n in (1, 2, 4)],
    ),
    f"CartPole whose steps sleep for {1000 * MEAN_SLEEP:g} ms on average: processes": (
        2_000,
        [a2c(n, subprocesses) for n in (1, 2, 4)] + [a3c(sleepy, n, "processes") for n in (1, 2, 4)],
    ),
}


def measure(make: Callable[[], Any], steps: int) -> tuple[float, float]:
    """Steps per second, and the mean staleness."""
    agent = make()
    clock = Clock(max(steps // agent.n_envs // 20, 1))
    if isinstance(agent, A3C):
        steps = steps * (20 if agent.backend == "threads" else 1)
        clock.every = steps // 20
    agent.learn(steps, callback=clock, log_interval=None)
    agent.env.close()
    return clock.rate, agent.staleness.mean if isinstance(agent, A3C) else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side (default 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the length of the runs")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    load, lines, results = os.getloadavg()[0], [], {}
    for name, (steps, sides) in WORKLOADS.items():
        found: dict[str, list[tuple[float, float]]] = {side: [] for side, _ in sides}
        for _ in range(options.repeats):
            for side, make in sides:
                found[side].append(measure(make, int(steps * options.scale)))
        rates = {side: [rate for rate, _ in runs] for side, runs in found.items()}
        one = np.median(rates["A2C, 1 environment"])
        lines += [f"## {name}", "", "| side | steps/s | range | beside A2C with 1 environment | mean staleness |"]
        lines += ["|---|---|---|---|---|"]
        for side, runs in rates.items():
            middle, stale = np.median(runs), np.median([staleness for _, staleness in found[side]])
            shown = f"{stale:.2f}" if side.startswith("A3C") else "–"
            lines.append(
                f"| {side} | {middle:,.0f} | {min(runs):,.0f}–{max(runs):,.0f} | {middle / one:.2f} | {shown} |"
            )
        lines.append("")
        results[name] = found
        print("\n".join(lines[-len(rates) - 5 :]), flush=True)
    text = TEXT.format(load=load, repeats=options.repeats, cores=os.cpu_count()) + "\n".join(lines)
    write("asynchronous", "Asynchronous workers", text, results, folder=options.output)


TEXT = """Environment steps per second of wall-clock time on {cores} cores (load at the start: {load:.2f}), without
the start of workers: medians of {repeats} runs of each side, in alternation. All sides have A2C's defaults. A2C with W
environments makes one update from 5 W steps. A3C with W workers makes W of them, each from 5 steps. The larger
the load, the more of the cores other work had, and the less a second worker can add.

"""


if __name__ == "__main__":
    main()
