"""Speed of training, compared with Stable-Baselines3 in the same run of this script.

    python benchmarks/throughput.py                        # writes benchmarks/results/throughput.{md,png}
    python benchmarks/throughput.py --only A2C --pairs 3   # prints only

Both sides are trained alternately, in pairs, with equal hyperparameters and seeds. The measure is the number of
environment steps per second of `learn` as a whole, with SB3's Monitor, a callback and logging, after a warm-up, or of
`evaluate_policy`. The table gives medians, and the median of the pairs' ratios. The figure needs
`pip install pg-agents[bench]`.

Run it on an idle machine and without OMP_NUM_THREADS: the script sets the number of torch's threads itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import sb3_contrib
import stable_baselines3
import stable_baselines3.common.evaluation
import torch as th
from rl_zoo3.utils import SimpleLinearSchedule
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

import pg_agents
from pg_agents import collecting
from pg_agents.engines.autograd import AutogradEngine
from pg_agents.engines.mlp.engine import MLPEngine
from pg_agents.engines.mlp.rolls import Roll

RESULTS = Path(__file__).parent / "results"


@contextmanager
def no_stderr() -> Iterator[None]:
    """Hide MuJoCo's warnings about Gymnasium's models, which do not pass through Python."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@dataclass(frozen=True)
class Workload:
    """A run that both sides do. `steps` makes the reference take about 4 s."""

    name: str
    algo: str
    env: str
    n_envs: int
    steps: int
    kwargs: dict[str, Any] = field(default_factory=dict)
    reference: str = "SB3"  # or "contrib": sb3-contrib; or "autograd": our own engine, if neither has the algorithm
    face: str = "dummy"  # of our environment: SB3's "dummy", Gymnasium's "native", "world" or "envpool"
    simulator: bool = False  # measure the environment's own rate as well
    evaluates: int = 0  # measure an evaluation of so many episodes, not a training

    def make_env(self, side: str) -> Any:
        """The environment, seeded when the agent is."""
        if side == "ours" and self.face == "native":
            return gym.make_vec(self.env, self.n_envs, vectorization_mode="vector_entry_point")
        if side == "ours" and self.face == "world":
            return pg_agents.make_vec(self.env, self.n_envs, world=True)
        if side == "ours" and self.face == "envpool":
            return pg_agents.make_vec(self.env, self.n_envs, backend="envpool")
        with no_stderr():
            return make_vec_env(self.env, self.n_envs)

    def make_agent(self, side: str, seed: int) -> Any:
        """The agent of one side: "SB3", "contrib", "autograd" or "ours"."""
        module = {"SB3": stable_baselines3, "contrib": sb3_contrib}.get(side, pg_agents)
        kwargs = self.kwargs | ({"engine": "autograd"} if side == "autograd" else {})
        return getattr(module, self.algo)("MlpPolicy", self.make_env(side), seed=seed, device="cpu", **kwargs)


class SizesOfHalfCheetah(gym.Env[np.ndarray, np.ndarray]):
    """HalfCheetah's spaces and no physics, so that what is measured is the training."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (17,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (6,), np.float32)

    def __init__(self) -> None:
        self._observations, self._t = np.random.default_rng(0).normal(size=(1000, 17)), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """The first of the observations, which are the same in each episode."""
        super().reset(seed=seed)
        self._t = 0
        return self._observations[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The next observation; the reward is the action's first number."""
        self._t += 1
        return self._observations[self._t % 1000], float(action[0]), False, self._t == 1000, {}


gym.register("SizesOfHalfCheetah-v0", SizesOfHalfCheetah)

ROLLOUTS = {"n_steps": 256, "batch_size": 256, "n_epochs": 10}
RL_ZOO3 = {
    "n_steps": 32,
    "batch_size": 256,
    "n_epochs": 20,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "learning_rate": SimpleLinearSchedule(0.001),
    "clip_range": SimpleLinearSchedule(0.2),
}
PENDULUM = {
    "n_steps": 1024,
    "gae_lambda": 0.95,
    "gamma": 0.9,
    "learning_rate": 0.001,
    "use_sde": True,
    "sde_sample_freq": 4,
}
FEW_EPOCHS = ROLLOUTS | {"n_epochs": 4}
CHEETAH = {"n_steps": 512, "batch_size": 256, "n_epochs": 10}
WORKLOADS = [
    Workload("PPO defaults, CartPole, 1 env, world", "PPO", "CartPole-v1", 1, 10_240, face="world"),
    Workload("PPO defaults, Pendulum, 1 env, world", "PPO", "Pendulum-v1", 1, 10_240, face="world"),
    Workload("PPO 8 envs × 256 steps, CartPole, world", "PPO", "CartPole-v1", 8, 40_960, ROLLOUTS, face="world"),
    Workload("PPO as in rl_zoo3, CartPole, 8 envs, world", "PPO", "CartPole-v1", 8, 32_768, RL_ZOO3, face="world"),
    Workload("PPO 8 envs × 256 steps, Acrobot, world", "PPO", "Acrobot-v1", 8, 20_480, FEW_EPOCHS, face="world"),
    Workload("A2C defaults, CartPole, 8 envs, world", "A2C", "CartPole-v1", 8, 49_160, face="world"),
    Workload(
        "REINFORCE, CartPole, 8 envs, world", "REINFORCE", "CartPole-v1", 8, 40_960, reference="autograd", face="world"
    ),
    Workload(
        "evaluate_policy, 100 episodes of CartPole, world", "PPO", "CartPole-v1", 1, 0, face="world", evaluates=100
    ),
    Workload("PPO defaults, CartPole, 1 env", "PPO", "CartPole-v1", 1, 10_240),
    Workload("PPO defaults, Pendulum, 1 env", "PPO", "Pendulum-v1", 1, 10_240),
    Workload("PPO 8 envs × 256 steps, CartPole", "PPO", "CartPole-v1", 8, 40_960, ROLLOUTS),
    Workload("PPO 8 envs × 256 steps, CartPole, native", "PPO", "CartPole-v1", 8, 40_960, ROLLOUTS, face="native"),
    Workload("PPO as in rl_zoo3, CartPole, 8 envs", "PPO", "CartPole-v1", 8, 32_768, RL_ZOO3),
    Workload("PPO as in rl_zoo3, Pendulum, gSDE, world", "PPO", "Pendulum-v1", 4, 16_384, PENDULUM, face="world"),
    Workload("PPO as in rl_zoo3, Pendulum, gSDE", "PPO", "Pendulum-v1", 4, 16_384, PENDULUM),
    Workload(
        "PPO as in rl_zoo3, Pendulum, gSDE, engines", "PPO", "Pendulum-v1", 4, 16_384, PENDULUM, reference="autograd"
    ),
    Workload("A2C defaults, CartPole, 8 envs", "A2C", "CartPole-v1", 8, 49_160),
    Workload("evaluate_policy, 100 episodes of CartPole", "PPO", "CartPole-v1", 1, 0, evaluates=100),
    Workload("REINFORCE, CartPole, 8 envs", "REINFORCE", "CartPole-v1", 8, 40_960, reference="autograd"),
    Workload(
        "ReinforceBaseline, CartPole, 8 envs",
        "ReinforceBaseline",
        "CartPole-v1",
        8,
        40_960,
        reference="autograd",
    ),
    Workload(
        "TRPO 8 envs × 256 steps, CartPole, world",
        "TRPO",
        "CartPole-v1",
        8,
        40_960,
        {"n_steps": 256},
        reference="contrib",
        face="world",
    ),
    Workload(
        "TRPO 8 envs × 256 steps, CartPole", "TRPO", "CartPole-v1", 8, 40_960, {"n_steps": 256}, reference="contrib"
    ),
    Workload("TRPO defaults, CartPole, 8 envs", "TRPO", "CartPole-v1", 8, 49_152, reference="contrib"),
    Workload(
        "TRPO 8 envs × 512 steps, sizes of HalfCheetah",
        "TRPO",
        "SizesOfHalfCheetah-v0",
        8,
        32_768,
        {"n_steps": 512},
        reference="contrib",
    ),
    Workload(
        "TRPO 8 envs × 512 steps, HalfCheetah",
        "TRPO",
        "HalfCheetah-v5",
        8,
        20_480,
        {"n_steps": 512},
        reference="contrib",
        simulator=True,
    ),
    Workload("PPO 8 envs × 512 steps, HalfCheetah", "PPO", "HalfCheetah-v5", 8, 20_480, CHEETAH, simulator=True),
    Workload(
        "PPO 8 envs × 512 steps, HalfCheetah, EnvPool", "PPO", "HalfCheetah-v5", 8, 20_480, CHEETAH, face="envpool"
    ),
]
PARTS = ("environment", "acting", "both", "learning", "rest")


class Watch(BaseCallback):
    """A user's callback: counts episodes, or, in a world, looks at each rollout."""

    n_episodes = 0

    def __init__(self, face: str) -> None:
        super().__init__()
        if face == "world":
            self.next_look = lambda: None

    def _on_step(self) -> bool:
        self.n_episodes += np.count_nonzero(self.locals["dones"])
        return True


class Training(NamedTuple):
    """The measurements of one run."""

    steps_per_second: float
    episode_length: float  # mean of the last 100 episodes
    engine: str  # of our side; SB3 has none


def train(workload: Workload, side: str, n_threads: int, steps: int, seed: int = 0) -> Training:
    """Train once; `n_threads` is torch's number of threads when `learn` is called."""
    th.set_num_threads(n_threads)
    if workload.evaluates:
        return evaluate(workload, side)
    agent, watch = workload.make_agent(side, seed), Watch(workload.face if side == "ours" else "dummy")
    gc.collect()
    start = time.perf_counter()
    agent.learn(steps, callback=watch)
    seconds = time.perf_counter() - start
    # Gymnasium's native vector environments spend a step on each reset, which is not a step of the environment.
    n_resets = watch.n_episodes if workload.face == "native" and side == "ours" else 0
    rate = (agent.num_timesteps - n_resets) / seconds
    agent.get_env().close()
    length = float(np.mean([episode["l"] for episode in agent.ep_info_buffer] or [np.nan]))
    return Training(rate, length, getattr(agent, "engine_in_use", ""))


@cache
def trained_parameters() -> dict[str, Any]:
    """Those of an agent with long episodes."""
    return pg_agents.PPO("MlpPolicy", "pg/CartPole-v1", seed=0).learn(30_000).get_parameters()


def evaluate(workload: Workload, side: str) -> Training:
    """Evaluate the same agent on either side."""
    evaluate_policy = (
        pg_agents.evaluate_policy if side == "ours" else stable_baselines3.common.evaluation.evaluate_policy
    )
    agent = workload.make_agent(side, seed=0)
    agent.set_parameters(trained_parameters())
    evaluate_policy(agent, agent.get_env(), 1)  # warm
    start = time.perf_counter()
    _, lengths = evaluate_policy(agent, agent.get_env(), workload.evaluates, return_episode_rewards=True)
    seconds = time.perf_counter() - start
    agent.get_env().close()
    return Training(sum(lengths) / seconds, float(np.mean(lengths)), getattr(agent, "engine_in_use", ""))


def simulator_rate(workload: Workload, steps: int) -> float:
    """Steps per second of the reference's environment alone, with random actions drawn beforehand."""
    env = workload.make_env(workload.reference)
    env.action_space.seed(0)
    env.reset()
    actions = [np.stack([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(256)]
    start = time.perf_counter()
    for step in range(steps // env.num_envs):
        env.step(actions[step % len(actions)])
    return steps / (time.perf_counter() - start)


# Where the time goes


class Stopwatch:
    """Sum of the time within callables, by part; a call within a timed call counts for the outer one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._running = False

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._running:
                return function(*args, **kwargs)
            self._running = True
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - start
                self._running = False

        return call

    def maker(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, but the callable that it returns is timed."""
        return lambda *args, **kwargs: self._timed_object(part, function(*args, **kwargs))

    def _timed_object(self, part: str, original: Any) -> Any:
        timed = self.timed(part, original)

        class Timed:
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return timed(*args, **kwargs)

            def __getattr__(self, name: str) -> Any:
                return getattr(original, name)

        return Timed()

    def shares(self, total: float) -> dict[str, float]:
        """Shares of the total; the rest is loop, buffer, estimators, callbacks and logging."""
        rest = total - sum(self.seconds.values())
        return {name: value / total for name, value in (self.seconds | {"rest": rest}).items()}


def timers(watch: Stopwatch, agent: Any) -> ExitStack:
    """A context in which the agent's parts are timed.

    SB3 acts through the policy and steps the environment. Our side acts through the actor that `Engine.actor` returns
    and steps through the function that `pg_agents.envs.stepping.stepper` returns.
    """
    stack = ExitStack()

    def replace(owner: Any, name: str, wrapper: Callable[..., Any], part: str) -> None:
        stack.enter_context(patch.object(owner, name, wrapper(part, getattr(owner, name))))

    replace(agent, "train", watch.timed, "learning")
    if isinstance(agent, pg_agents.PolicyGradient):
        for engine in (AutogradEngine, MLPEngine):
            replace(engine, "actor", watch.maker, "acting")
            replace(engine, "values", watch.timed, "acting")
        replace(Roll, "run", lambda part, run: lambda roll, *args: watch.timed(part, run)(roll, *args), "both")
        replace(collecting, "stepper", watch.maker, "environment")
    else:
        for name in ("forward", "predict_values"):
            replace(agent.policy, name, watch.timed, "acting")
        replace(agent.env, "step", watch.timed, "environment")
    return stack


def shares(workload: Workload, side: str, n_threads: int, steps: int) -> dict[str, float]:
    """Shares of time in a separate run, whose speed is not reported."""
    th.set_num_threads(n_threads)
    agent, watch = workload.make_agent(side, seed=0), Stopwatch()
    with timers(watch, agent):
        start = time.perf_counter()
        agent.learn(steps, callback=Watch(workload.face if side == "ours" else "dummy"))
        return watch.shares(time.perf_counter() - start)


# Start, memory, scaling


def fresh_process(module: str, cache: str | None = None) -> dict[str, float]:
    """The measurements of `start.py`, with torch's own number of threads and a separate folder for Numba's cache."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {} if cache is None else {"NUMBA_CACHE_DIR": cache}
    command = [sys.executable, str(Path(__file__).parent / "start.py"), module]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def start_table(repeats: int) -> str:
    """First and later starts, and peak memory."""
    fresh_process("stable_baselines3")  # brings the files into the operating system's cache
    with tempfile.TemporaryDirectory() as cache:
        first = fresh_process("pg_agents", cache)
        runs: dict[str, list[dict[str, float]]] = {"stable_baselines3": [], "pg_agents": []}
        for _ in range(repeats):
            for module, entries in runs.items():
                entries.append(fresh_process(module, cache))
    theirs, ours = ({key: np.median([run[key] for run in entries]) for key in entries[0]} for entries in runs.values())
    lines = [
        "| PPO on CartPole-v1, 8 envs, in a fresh process | SB3 | ours | ours − SB3 |",
        "|---|---|---|---|",
        f"| import, construct, first rollout and update, on first use (compiles) | {theirs['start']:.1f} s "
        f"| {first['start']:.1f} s | {first['start'] - theirs['start']:+.1f} s |",
        f"| the same, later (compiled code is cached) | {theirs['start']:.1f} s | {ours['start']:.1f} s "
        f"| {ours['start'] - theirs['start']:+.1f} s |",
        f"| peak memory of a short run, on first use | {theirs['memory']:.0f} MB | {first['memory']:.0f} MB "
        f"| {first['memory'] - theirs['memory']:+.0f} MB |",
        f"| the same, later | {theirs['memory']:.0f} MB | {ours['memory']:.0f} MB "
        f"| {ours['memory'] - theirs['memory']:+.0f} MB |",
    ]
    return "\n".join(lines)


def scaling_table(n_threads: dict[str, int], scale: float) -> str:
    """Microseconds per step by length of rollout and of run; Pendulum's episodes all have the same length."""

    def workload(n_steps: int) -> Workload:
        kwargs = {"n_steps": n_steps, "batch_size": 256, "n_epochs": 10}
        return Workload("", "PPO", "Pendulum-v1", 8, 0, kwargs=kwargs)

    cases = [
        (f"{n_steps} steps per rollout, {16_384 * scale:,.0f} in all", n_steps, 16_384) for n_steps in ROLLOUT_LENGTHS
    ]
    cases += [(f"256 steps per rollout, {length * scale:,.0f} in all", 256, length) for length in RUN_LENGTHS]
    lines = ["| PPO, Pendulum-v1, 8 envs, batch 256, 10 epochs | SB3, µs/step | ours, µs/step |", "|---|---|---|"]
    for name, n_steps, length in cases:
        costs = [
            1e6 / train(workload(n_steps), side, n_threads[side], int(length * scale)).steps_per_second
            for side in ("SB3", "ours")
        ]
        lines.append(f"| {name} | {costs[0]:.1f} | {costs[1]:.1f} |")
    return "\n".join(lines)


ROLLOUT_LENGTHS = (32, 128, 512, 2048)
RUN_LENGTHS = (4_096, 16_384, 65_536)


# The measurement


@dataclass
class Measured:
    """One workload's numbers."""

    workload: Workload
    engine: str  # of ours
    reference_threads: dict[int, float]  # steps/s of the reference, by torch's threads
    pairs: np.ndarray  # (pairs, 2): steps/s of reference and ours
    lengths: np.ndarray  # the same, mean lengths of the last episodes
    shares: dict[str, dict[str, float]]
    simulator: float | None  # steps/s of the environment alone

    @property
    def rates(self) -> np.ndarray:
        """Median steps/s of reference and ours."""
        return np.median(self.pairs, axis=0)

    @property
    def ratios(self) -> np.ndarray:
        """Ratio of each pair."""
        return self.pairs[:, 1] / self.pairs[:, 0]

    @property
    def faster_threads(self) -> int:
        """Number of threads with which the reference is faster."""
        return max(self.reference_threads, key=self.reference_threads.__getitem__)

    @property
    def row(self) -> str:
        """Row of the table."""
        work, ratio = self.workload, np.median(self.ratios)
        theirs, ours = self.rates
        cells = [work.name, work.reference, str(self.faster_threads), f"{theirs:,.0f}", f"{ours:,.0f}"]
        cells += [f"**{ratio:.2f}**", f"{self.ratios.min():.2f}–{self.ratios.max():.2f}"]
        return "| " + " | ".join(cells) + " |"


HEAD = (
    "| workload | reference | its threads | reference, steps/s | ours, steps/s | ratio | pairs |\n"
    "|---|---|---|---|---|---|---|"
)


def measure(workload: Workload, n_pairs: int, default_threads: int, scale: float) -> Measured:
    """Warm up, choose the reference's number of threads, measure pairs, then measure shares of time."""
    steps, reference = int(workload.steps * scale), workload.reference
    for side in (reference, "ours"):
        train(workload, side, default_threads, steps // 4)
    by_threads: dict[int, list[float]] = {n_threads: [] for n_threads in sorted({1, default_threads})}
    for _ in range(2):
        for n_threads, rates in by_threads.items():
            rates.append(train(workload, reference, n_threads, steps // 2).steps_per_second)
    reference_threads = {n_threads: float(np.median(rates)) for n_threads, rates in by_threads.items()}
    n_threads = {
        reference: max(reference_threads, key=reference_threads.__getitem__),
        "ours": default_threads,
    }
    pairs, lengths, engine = np.empty((n_pairs, 2)), np.empty((n_pairs, 2)), ""
    for index in range(n_pairs):
        sides = [reference, "ours"] if index % 2 == 0 else ["ours", reference]
        for side in sides:
            column = int(side == "ours")
            training = train(workload, side, n_threads[side], steps, seed=index)
            pairs[index, column], lengths[index, column] = training.steps_per_second, training.episode_length
            engine = training.engine if side == "ours" else engine
    sides = () if workload.evaluates else (reference, "ours")
    parts = {side: shares(workload, side, n_threads[side], steps) for side in sides}
    simulator = simulator_rate(workload, steps) if workload.simulator else None
    return Measured(workload, engine, reference_threads, pairs, lengths, parts, simulator)


# Report


def shares_table(measured: list[Measured]) -> str:
    """Markdown."""
    lines = ["| workload | side | µs/step | " + " | ".join(PARTS) + " |", "|---" * (3 + len(PARTS)) + "|"]
    for one in measured:
        for (side, parts), rate in zip(one.shares.items(), one.rates, strict=bool(one.shares)):
            cells = [one.workload.name, side, f"{1e6 / rate:.1f}"] + [f"{parts[name]:.0%}" for name in PARTS]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def threads_table(measured: list[Measured]) -> str:
    """Markdown."""
    counts = sorted({count for one in measured for count in one.reference_threads})
    lines = [
        "| workload | reference | "
        + " | ".join(f"{count} thread{'s' * (count > 1)}, steps/s" for count in counts)
        + " |",
        "|---" * (2 + len(counts)) + "|",
    ]
    for one in measured:
        rates = [f"{one.reference_threads[count]:,.0f}" for count in counts]
        lines.append("| " + " | ".join([one.workload.name, one.workload.reference, *rates]) + " |")
    return "\n".join(lines)


def notes(measured: list[Measured]) -> str:
    """Remarks on the tables: episode lengths of both sides, and the simulator's own speed."""
    lines = []
    for one in measured:
        name, sides = one.workload.name, [one.workload.reference, "ours"]
        if one.workload.reference != "SB3":
            lengths = " and ".join(
                f"{length:.0f} ({side})" for side, length in zip(sides, one.lengths.mean(0), strict=True)
            )
            lines.append(f"* {name}: the mean length of the last episodes is {lengths}.")
        if one.simulator is not None:
            parts = " and ".join(
                f"{rate / one.simulator:.0%} ({side})" for side, rate in zip(sides, one.rates, strict=True)
            )
            lines.append(
                f"* {name}: the environment alone, with random actions, runs at {one.simulator:,.0f} steps/s. "
                f"Training runs at {parts} of that."
            )
    return "\n".join(lines)


def settings(measured: list[Measured]) -> str:
    """Hyperparameters that are not the defaults."""
    lines = []
    for one in measured:
        work = one.workload
        engine = f"our engine: `{one.engine}`"
        given = ", ".join(f"{name}={_plain(value)}" for name, value in work.kwargs.items()) or "defaults"
        lines.append(f"* {work.name}: {work.env}, {work.n_envs} env, {work.steps:,} steps, {given}; {engine}")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    return f"lin_{value.initial_value:g}" if isinstance(value, SimpleLinearSchedule) else value


def figure(measured: list[Measured], path: Path) -> None:
    """Steps per second of both sides, and the shares of each side's time."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    picture, (rates, parts) = plt.subplots(
        1, 2, figsize=(14, 1.2 + 0.75 * len(measured)), sharey=True, layout="constrained"
    )
    colours = dict(zip(PARTS, ("#66a61e", "#7570b3", "#1b9e77", "#e6ab02", "#bbbbbb"), strict=True))
    for index, one in enumerate(measured):
        for offset, side, rate in zip((-0.2, 0.2), (one.workload.reference, "ours"), one.rates, strict=True):
            y = index + offset
            colour = "#1f78b4" if side == "ours" else "#d95f02"
            label = f" {rate:,.0f}" + (f"  ({np.median(one.ratios):.1f}×)" if side == "ours" else f"  {side}")
            rates.barh(y, rate, 0.38, color=colour)
            rates.text(rate, y, label, va="center", fontsize=8)
            left = 0.0
            for name, share in one.shares.get(side, {}).items():
                parts.barh(y, 100 * share, 0.38, left=left, color=colours[name], label=name if y < 0 else None)
                if share > 0.06:
                    parts.text(left + 50 * share, y, f"{100 * share:.0f}", va="center", ha="center", fontsize=7)
                left += 100 * share
            parts.text(101, y, side, va="center", fontsize=8)
    rates.set_yticks(range(len(measured)), [one.workload.name for one in measured])
    rates.invert_yaxis()
    rates.set_xlim(0, 1.3 * max(one.rates.max() for one in measured))
    rates.set_xlabel("environment steps per second of `learn`")
    rates.set_title("Throughput (upper bar: reference, lower bar: ours)", fontsize=10)
    parts.set_xlim(0, 115)
    parts.set_xticks(range(0, 101, 20))
    parts.set_xlabel("share of that side's own time, %")
    parts.set_title("Where the time goes", fontsize=10)
    parts.legend(ncols=len(PARTS), loc="upper center", bbox_to_anchor=(0.45, -0.08), fontsize=8, frameon=False)
    for panel in (rates, parts):
        panel.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=130)
    plt.close(picture)


def cpu_model() -> str:
    """The processor's name in Linux."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def torch_default_threads() -> int:
    """Torch's number of threads without OMP_NUM_THREADS."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side per workload (default 5)")
    parser.add_argument(
        "--only", metavar="NAME", default="", help="part of the names of the workloads to measure; writes no files"
    )
    parser.add_argument("--steps-scale", type=float, default=1.0, help="factor for the steps of all runs (default 1)")
    parser.add_argument("--output", type=Path, default=RESULTS / "throughput", help="path of results, without suffix")
    args = parser.parse_args()
    if args.pairs < 1:
        parser.error("--pairs: at least 1")
    if not args.only and find_spec("matplotlib") is None:
        parser.error("the figure needs `pip install pg-agents[bench]`")
    workloads = [workload for workload in WORKLOADS if args.only.lower() in workload.name.lower()]
    if find_spec("envpool") is None:
        workloads = [workload for workload in workloads if workload.face != "envpool"]
        print("Left out: workloads with EnvPool, which is not installed (pip install 'pg-agents[envpool]').")
    if not workloads:
        parser.error(f"--only: no workload has {args.only!r} in its name")
    begun, load, default_threads = time.perf_counter(), os.getloadavg()[0], torch_default_threads()
    print(HEAD)
    measured = []
    for workload in workloads:
        measured.append(measure(workload, args.pairs, default_threads, args.steps_scale))
        print(measured[-1].row, flush=True)
    tables = [shares_table(measured), notes(measured), threads_table(measured)]
    if not args.only:
        print("...", flush=True)
        n_threads = {"SB3": measured[0].faster_threads, "ours": default_threads}
        tables += [scaling_table(n_threads, args.steps_scale), start_table(repeats=3)]
    print("\n" + "\n\n".join(filter(None, tables)))
    if args.only:
        return
    names = ("pg-agents", "stable-baselines3", "gymnasium", "mujoco", "torch", "numpy", "numba")
    versions = {name: version(name) for name in names} | {"Python": platform.python_version()}
    command = " ".join(["python", "benchmarks/throughput.py", *sys.argv[1:]])
    minutes = (time.perf_counter() - begun) / 60
    shares_text, notes_text, threads_text, scaling_text, start_text = tables
    figure(measured, args.output.with_suffix(".png"))
    args.output.with_suffix(".md").write_text(f"""# Throughput

Generated by `{command}` on {date.today().isoformat()} in {minutes:.0f} minutes, on {cpu_model()} (load
at the start: {load:.2f}), with {", ".join(f"{name} {number}" for name, number in versions.items())}.

The table gives environment steps per second of `learn` as a whole, with SB3's Monitor, a callback and logging. It
shows medians of {args.pairs} runs of each side, in alternation, after a warm-up. The ratio is the median of the
pairs' ratios. The reference runs with the number of torch threads that makes it faster: one, or torch's default of
{default_threads}. Our side chooses its number itself. TRPO's reference is sb3-contrib's. Neither SB3 nor
sb3-contrib has REINFORCE, so the reference there is our own engine `autograd`. In rows marked "world", our side trains
in the environment's world. In rows marked "native", it trains in Gymnasium's own vector environment, which SB3 does not
accept, and its steps that only reset are not counted. The sizes of HalfCheetah are its spaces without its physics.

{HEAD}
{chr(10).join(one.row for one in measured)}

![Throughput and shares of time]({args.output.with_suffix(".png").name})

## Where the time goes

These shares come from separate runs, with timers around the environment's `step`, the policy's forward pass (acting),
the calls that do both in a world, and `train` (learning). The rest is the loop: buffers, estimators, callbacks,
statistics and logging.

{shares_text}

{notes_text}

## The reference's number of threads

Each number is the median of 2 shorter runs.

{threads_text}

## Cost of a step

The cost of a step by length of rollout and of run:

{scaling_text}

## Start and memory

{start_text}

## Settings

{settings(measured)}
""")


if __name__ == "__main__":
    main()
