"""Memory during a long training, and over many trainings in one process.

    python benchmarks/resources.py                 # writes benchmarks/results/resources.md
    python benchmarks/resources.py --only PPO      # runs whose names contain a text; the others keep their results

Each run is a process of its own. The table compares its resident memory after 100,000 steps with that after 1,000,000.
The watched runs have an evaluation, a checkpoint, and TensorBoard every 50,000 steps, and the three diagnostics.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
N_STEPS, EVERY, N_ENVS = 1_000_000, 100_000, 8
N_TRAININGS = 50
ARGUMENTS = {"PPO": {"n_steps": 256, "batch_size": 256}}
LONG = [
    ("pg_agents", algorithm, envs, watched)
    for algorithm in ("PPO", "A2C", "REINFORCE")
    for envs in ("world", "DummyVecEnv")
    for watched in (False, True)
] + [("stable_baselines3", algorithm, "DummyVecEnv", False) for algorithm in ("PPO", "A2C")]


def resident() -> float:
    """Memory of this process, in MB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def make(envs: str, n_envs: int) -> Any:
    """CartPoles."""
    from stable_baselines3.common.env_util import make_vec_env

    from pg_agents.envs.make import make_vec

    if envs == "world":
        return make_vec("CartPole-v1", n_envs, world=True, seed=0)
    return make_vec_env("CartPole-v1", n_envs, seed=0)


def train_long(module: str, algorithm: str, envs: str, watched: bool) -> dict[str, Any]:
    """One long training; its memory after each 100,000 steps."""
    from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EveryNTimesteps

    from pg_agents.diagnostics import AdvantageDiagnostics, GradientDiagnostics, PolicyDiagnostics
    from pg_agents.envs.evaluation import EvalCallback

    found: dict[int, float] = {}

    class Weigh(BaseCallback):
        def _on_step(self) -> bool:
            found[round(self.num_timesteps / EVERY) * EVERY] = resident()
            return True

    with tempfile.TemporaryDirectory() as folder:
        callbacks: list[BaseCallback] = [EveryNTimesteps(EVERY, Weigh())]
        if watched:
            calls = 50_000 // N_ENVS  # SB3's callback counts them, ours counts steps
            callbacks += [
                EvalCallback(make(envs, 2), eval_freq=50_000, best_model_save_path=folder, log_path=folder, verbose=0),
                CheckpointCallback(calls, folder),
                GradientDiagnostics(),
                AdvantageDiagnostics(),
                PolicyDiagnostics(),
            ]
        cls = getattr(importlib.import_module(module), algorithm)
        agent = cls(
            "MlpPolicy",
            make(envs, N_ENVS),
            seed=0,
            device="cpu",
            tensorboard_log=folder if watched else None,
            **ARGUMENTS.get(algorithm, {}),
        )
        agent.learn(N_STEPS, callback=callbacks)
    return {"memory": found, "threads": threading.active_count()}


def train_often(module: str, envs: str, watched: bool) -> dict[str, Any]:
    """Many short trainings, one agent after the other; memory after each ten of them."""
    found: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, N_TRAININGS + 1):
            for algorithm in ("PPO", "A2C", *(["REINFORCE"] if module == "pg_agents" else [])):
                cls = getattr(importlib.import_module(module), algorithm)
                arguments = {"n_steps": 64, "batch_size": 64} if algorithm == "PPO" else {}
                log = folder if watched else None
                cls("MlpPolicy", make(envs, 4), seed=0, device="cpu", tensorboard_log=log, **arguments).learn(2000)
            if number % 10 == 0:
                found[number] = resident()
        files = len(os.listdir("/proc/self/fd"))
        return {"memory": found, "threads": threading.active_count(), "files": files}


OFTEN = [("pg_agents", "world", False), ("pg_agents", "DummyVecEnv", True), ("stable_baselines3", "DummyVecEnv", True)]


def names() -> dict[str, list[Any]]:
    """The name of each run, and the function that makes it with its arguments."""
    runs: dict[str, list[Any]] = {}
    for module, algorithm, envs, watched in LONG:
        name = f"{algorithm}{' of SB3' if module != 'pg_agents' else ''}, {envs}{', watched' if watched else ''}"
        runs[name] = ["long", module, algorithm, envs, watched]
    for module, envs, watched in OFTEN:
        kind = f"{'SB3' if module != 'pg_agents' else 'pg-agents'}, {envs}{', TensorBoard' if watched else ''}"
        runs[f"50 trainings each, {kind}"] = ["often", module, envs, watched]
    return runs


def run_here(arguments: list[Any]) -> None:
    """Make one run in this process, and print what was found."""
    import torch as th

    th.set_num_threads(1)
    kind, *rest = arguments
    print(json.dumps(train_long(*rest) if kind == "long" else train_often(*rest)))


def table(results: dict[str, Any]) -> str:
    """The results as a page."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("pg-agents", "stable-baselines3", "torch"))
    rows: dict[str, list[str]] = {"long": [], "often": []}
    for name, (kind, *_) in names().items():
        if name not in results:
            continue
        memory = {int(when): value for when, value in results[name]["memory"].items()}
        first, last = min(memory), max(memory)
        growth = 100 * (memory[last] / memory[first] - 1)
        row = f"| {name} | {memory[first]:.1f} | {memory[last]:.1f} | {growth:+.2f} % | {results[name]['threads']} |"
        rows[kind].append(row)
    return "\n".join(
        [
            "# Memory",
            "",
            f"Resident memory in MB, measured on {date.today()} on {platform.machine()}, on one thread, with "
            f"{packages}. CartPole, {N_ENVS} environments; `threads` are Python's, at the end of the process.",
            "",
            "`python benchmarks/resources.py`",
            "",
            "| training | after 100,000 steps | after 1,000,000 | growth | threads |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows["long"],
            "",
            "Watched: an evaluation, a checkpoint and TensorBoard, every 50,000 steps, and all three diagnostics. "
            "REINFORCE's buffer holds whole episodes, and grows with their length.",
            "",
            "| trainings of PPO, A2C and REINFORCE (SB3: of PPO and A2C), 2,000 steps | after 10 | after 50 | growth | "
            "threads |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows["often"],
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="runs whose names contain this text")
    parser.add_argument("--missing", action="store_true", help="only runs without a result")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        return run_here(json.loads(options.run))
    stored = RESULTS / "resources.json"
    for name, arguments in names().items():
        known = json.loads(stored.read_text()) if stored.exists() else {}
        if options.only in name and not (options.missing and name in known):
            command = [sys.executable, __file__, "--run", json.dumps(arguments)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            known[name] = json.loads(printed.splitlines()[-1])
            print(name, known[name], flush=True)
            stored.write_text(json.dumps(known, indent=1) + "\n")
    (RESULTS / "resources.md").write_text(table(json.loads(stored.read_text())))
    return None


if __name__ == "__main__":
    main()
