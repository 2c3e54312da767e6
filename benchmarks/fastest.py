"""Wall-clock time from the start of a process to a mean return of 475 on CartPole and -200 on Pendulum.

    python benchmarks/fastest.py --install peers    # writes benchmarks/results/fastest.{md,json} and the table in docs
    python benchmarks/fastest.py --page             # writes the table in docs/fastest.md again, from the results

Compares this package with Stable-Baselines3, rejax (JAX) and RLtools (C++), each with hyperparameters that it publishes
or that a row names. For `--install`, `--rejax` and `--rltools` see `peers.py`; what is not installed is skipped.

The protocol is the same for all. After so many steps, or at the end of the rollout in which they pass, there are 20
episodes with the most probable actions; if their mean reaches the target, 100 more, whose mean has to reach it too. The
time includes imports, compilation and evaluations. Another 100 episodes afterwards, which do not count, show what was
reached. Kernels of this package are compiled beforehand, except where a row says otherwise.

Run it on an idle machine with Linux or macOS.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import study
import yaml
from peers import (
    RLTOOLS,
    Peer,
    add_options,
    compile_rltools,
    find_peers,
    jax_cache,
    provenance,
    rejax_command,
    sb3_command,
    whole_process,
)

PAGE = Path(__file__).parents[1] / "docs" / "fastest.md"
MARKS = "<!-- Written by benchmarks/fastest.py. -->", "<!-- End of what it writes. -->"


@dataclass(frozen=True)
class Task:
    """What is to be reached, and the steps between evaluations."""

    env: str
    target: float
    interval: int
    zoos: dict[str, str]  # {name: package}
    rejax: dict[str, Any]  # configs/gymnax/*.yaml of rejax 0.1.3

    @property
    def goal(self) -> str:
        """In words."""
        return f"{self.target:.0f} on {self.env}"


TASKS = [
    Task(
        "CartPole-v1",
        475,
        5_000,
        {"rl_zoo3's": "rl_zoo3", "our zoo's": "pg_zoo"},
        {
            "agent_kwargs": {"activation": "tanh"},
            "num_envs": 5,
            "num_steps": 100,
            "num_epochs": 5,
            "num_minibatches": 5,
            "learning_rate": 0.00075,
            "max_grad_norm": 0.5,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "clip_eps": 0.2,
            "ent_coef": 0.01,
            "vf_coef": 0.5,
        },
    ),
    Task(
        "Pendulum-v1",
        -200,
        10_000,
        {"rl_zoo3's, our zoo's": "pg_zoo"},  # the same values
        {
            "agent_kwargs": {"activation": "swish"},
            "num_envs": 100,
            "num_steps": 100,
            "num_epochs": 10,
            "num_minibatches": 10,
            "learning_rate": 0.001,
            "max_grad_norm": 10,
            "gamma": 0.995,
            "gae_lambda": 0.95,
            "clip_eps": 0.2,
            "ent_coef": 0.0,
            "vf_coef": 0.5,
            "normalize_observations": True,
        },
    ),
]
LIMIT = 300_000  # steps, without a number in an entry

OURS, REJAX_LATER = "ours", "rejax, compiled before"

# Given a seed, and what differs in the work: the command and variables of a process.
Run = Callable[..., tuple[list[str], dict[str, str]]]


def zoo(package: str, env: str) -> dict[str, Any]:
    """The work of `peer_sb3.py` for an entry of a zoo's ppo.yml."""
    entry = yaml.safe_load((files(package) / "hyperparams" / "ppo.yml").read_text())[env]
    work = {"n_envs": entry.pop("n_envs"), "steps": int(entry.pop("n_timesteps"))}
    del entry["policy"]
    return work | {"ppo": entry}


def rejax_as_sb3(config: dict[str, Any]) -> dict[str, Any]:
    """rejax's values as the work of `peer_sb3.py`."""
    names = {"num_steps": "n_steps", "num_epochs": "n_epochs", "clip_eps": "clip_range"}
    same = ("learning_rate", "max_grad_norm", "gamma", "gae_lambda", "ent_coef", "vf_coef")
    ppo = {names.get(name, name): value for name, value in config.items() if name in (*names, *same)}
    ppo["batch_size"] = config["num_envs"] * config["num_steps"] // config["num_minibatches"]
    ppo["activation"] = {"tanh": "Tanh", "swish": "SiLU"}[config["agent_kwargs"]["activation"]]
    normalize = config.get("normalize_observations", False)
    return {"n_envs": config["num_envs"], "steps": LIMIT, "ppo": ppo, "normalize": normalize}


def sides(
    task: Task, peers: dict[str, Peer], programs: dict[str, list[str]], folder: Path
) -> Iterator[tuple[str, str, Run]]:
    """Library, source of its hyperparameters, and processes of all sides of a task."""
    goal = {"env": task.env, "target": task.target, "interval": task.interval}

    def sb3(library: str, work: dict[str, Any], cold: bool = False) -> Run:
        def run(seed: int, **different: Any) -> tuple[list[str], dict[str, str]]:
            variables = {"NUMBA_CACHE_DIR": tempfile.mkdtemp(dir=folder)} if cold else {}
            return sb3_command(library, "reach", work | goal | {"seed": seed} | different), variables

        return run

    def rejax(**variables: str) -> Run:
        def run(seed: int, **different: Any) -> tuple[list[str], dict[str, str]]:
            work = {"config": task.rejax | {"env": task.env}, "steps": LIMIT, "seed": seed} | goal
            return rejax_command(peers["rejax"], "reach", work | different), variables

        return run

    def rltools(program: list[str]) -> Run:
        return lambda seed: ([*program, str(seed), str(LIMIT), str(task.interval), str(task.target)], {})

    for source, package in task.zoos.items():
        yield "SB3", source, sb3("stable_baselines3", zoo(package, task.env))
        yield OURS, source, sb3("pg_agents", zoo(package, task.env))
    if "rejax" in peers:
        yield "rejax", "rejax's", rejax()
        yield REJAX_LATER, "rejax's", rejax(**jax_cache(str(folder / "jax")))
    as_rejax = rejax_as_sb3(task.rejax)
    yield "SB3", "rejax's", sb3("stable_baselines3", as_rejax)
    yield OURS, "rejax's", sb3("pg_agents", as_rejax)
    yield "ours, nothing compiled", "rejax's", sb3("pg_agents", as_rejax, cold=True)
    if task.env == RLTOOLS.env:
        for build, program in programs.items():
            yield f"RLtools, {build}", "RLtools'", rltools(program)
        as_rltools = RLTOOLS.sb3 | {"steps": LIMIT}
        yield "SB3", "RLtools'", sb3("stable_baselines3", as_rltools)
        yield OURS, "RLtools'", sb3("pg_agents", as_rltools)


def measure(
    task: Task, peers: dict[str, Peer], programs: dict[str, list[str]], folder: Path, n_seeds: int
) -> list[dict[str, Any]]:
    """Reports of all sides and seeds; the sides alternate."""
    runs = list(sides(task, peers, programs, folder))
    rows: list[dict[str, Any]] = []
    for library, source, run in runs:
        rows.append({"library": library, "hyperparameters": source, "reports": []})
        if library in (OURS, REJAX_LATER):  # fills the caches
            command, variables = run(seed=n_seeds, steps=1)
            whole_process(command, **variables)
    for seed in range(n_seeds):
        for row, (_, _, run) in zip(rows, runs, strict=True):
            command, variables = run(seed)
            report = whole_process(command, **variables)
            report["time"] = report.pop("clock") - report.pop("started")
            row["reports"].append(report)
            print(task.env, seed, row["library"], row["hyperparameters"], json.dumps(report), flush=True)
    return rows


def table(goal: str, rows: list[dict[str, Any]]) -> str:
    """One task's table, the fastest first; a seed that does not reach the target takes infinitely long."""
    lines = [
        f"| {goal} | hyperparameters | median | fastest–slowest | steps | reached | return then |",
        "|---|---|---:|---|---:|---|---|",
    ]
    cells = []
    for row in rows:
        reports = row["reports"]
        times = np.array([report["time"] if report["reached"] else np.inf for report in reports])
        reached = [report for report in reports if report["reached"]]
        steps = f"{np.median([report['steps'] for report in reached]):,.0f}" if reached else ""
        score = f"{np.mean([report['return'] for report in reached]):.0f}" if reached else ""
        entry = [row["library"], row["hyperparameters"], seconds(np.median(times))]
        entry += [f"{seconds(times.min())} – {seconds(times.max())}", steps, f"{len(reached)}/{len(reports)}", score]
        cells.append((float(np.median(times)), " | ".join(entry)))
    return "\n".join(lines + [f"| {text} |" for _, text in sorted(cells)])


def seconds(time: float) -> str:
    return f"{time:.1f} s" if np.isfinite(time) else "not reached"


def tables(results: dict[str, Any]) -> str:
    return "\n\n".join(table(goal, rows) for goal, rows in results["tasks"].items())


def write_page(results: dict[str, Any]) -> None:
    """Replace the marked part of docs/fastest.md."""
    page = PAGE.read_text()
    before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{results['origin']}\n\n{tables(results)}\n\n{MARKS[1]}{after}")


def main() -> None:
    parser = study.arguments(__doc__, seeds=None)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... (default 5)")
    parser.add_argument("--page", action="store_true", help="only write the table in docs/fastest.md, from the results")
    add_options(parser)
    options = parser.parse_args()
    if options.page:
        write_page(json.loads((study.RESULTS / "fastest.json").read_text())["results"])
        return

    peers = find_peers(options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = compile_rltools(peers["rltools"], folder) if "rltools" in peers else {}
        measured = {
            task.goal: measure(task, peers, programs, folder, options.seeds)
            for task in TASKS
            if options.only in task.env
        }
    world = any(report.get("world") for rows in measured.values() for row in rows for report in row["reports"])
    origin, data = provenance(peers, world)
    results = {"origin": origin, "tasks": measured} | data
    text = f"{origin} {options.seeds} seeds.\n\n{tables(results)}\n\n[Protocol and discussion](../../docs/fastest.md)."
    study.write("fastest", "Fastest to 475", text, results, folder=options.output)
    if options.output == study.RESULTS and not options.only:
        write_page(results)


if __name__ == "__main__":
    main()
