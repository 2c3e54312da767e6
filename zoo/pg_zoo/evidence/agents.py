"""The bundled agents, in folders like those of `pg-zoo train`, so that `pg-zoo enjoy` finds them.

`python -m pg_zoo.evidence.agents runs/x` bundles agents from the results of `pg-zoo benchmark --keep-agents`.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pg_agents import load_agent, registry
from pg_agents.files.writing import replacing_folder
from pg_zoo.errors import UserError, one_line
from pg_zoo.results.storage import read_cells
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.normalization import STATISTICS

AGENTS = Path(__file__).parents[1] / "agents"
RECORD = "agent.json"

# State of an environment that is gone; only an immediate continuation of the training would need it.
_OF_THE_TRAINING = ("_last_obs", "_last_original_obs", "_last_episode_starts", "ep_info_buffer", "ep_success_buffer")


@dataclass(frozen=True)
class Agent:
    """A bundled agent.

    Attributes:
        algo: The algorithm's registered name.
        env: The Gymnasium id.
        seed: Seed of its training.
        n_timesteps: Steps of its training.
        score: Mean return of the evaluation after training.
        std: Standard deviation of the return over its episodes.
        episodes: Number of these episodes.
        deterministic: Whether the most probable actions were taken.
        versions: Versions of the packages involved.
        date: Date of the training, UTC.
        command: The command that trained it.
    """

    algo: str
    env: str
    seed: int
    n_timesteps: int
    score: float
    std: float
    episodes: int
    deterministic: bool
    versions: dict[str, str]
    date: str
    command: str

    def __str__(self) -> str:
        return (
            f"mean return {self.score:.2f} +/- {self.std:.2f} over {self.episodes} episodes, "
            f"after {self.n_timesteps:,} steps of training"
        )


def agents(folder: Path | None = None) -> list[Agent]:
    """All agents in a folder, by environment and algorithm.

    Args:
        folder: By default, the folder of the bundled agents.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (folder or AGENTS).rglob(RECORD)]
    return sorted((Agent(**record) for record in records), key=lambda agent: (agent.env.lower(), agent.algo))


def find(algo: str, env: str) -> Agent | None:
    """The bundled agent of an algorithm on an environment; None if there is none."""
    return next((agent for agent in agents() if (agent.algo, agent.env) == (algo, env)), None)


def ship(
    results: Path,
    folder: Path = AGENTS,
    *,
    algos: Sequence[str] | None = None,
    envs: Sequence[str] | None = None,
    trust: bool = False,
) -> Iterator[tuple[Agent, Path]]:
    """Bundle one agent of each algorithm and environment: the one with the median score.

    Of an even number of agents, the lower of the middle two is taken.

    Args:
        results: Results of `pg-zoo benchmark --keep-agents`.
        folder: The folder to bundle into; an agent already there is replaced.
        algos: The algorithms; by default all except the references.
        envs: The environments; by default all.
        trust: Whether the agents' files may run code.

    Yields:
        Each agent with the folder of its run.

    Raises:
        UserError: There is no such result, or the agents were not kept.
    """
    chosen = {
        (algo, env): group
        for (algo, env), group in read_cells(results).items()
        if algo in (algos or registry.plugins(registry.ALGORITHMS)) and env in (envs or [env])
    }
    if not chosen:
        where = f"{', '.join(algos or ['our algorithms'])} on {', '.join(envs or ['any environment'])}"
        raise UserError(f"{results} has no results of {where}.")
    for group in chosen.values():
        median = sorted(group, key=lambda cell: cell["score"])[(len(group) - 1) // 2]
        with one_line(OSError):
            yield _ship(median, results, folder, trust)


def _ship(cell: dict[str, Any], results: Path, folder: Path, trust: bool) -> tuple[Agent, Path]:
    from huggingface_sb3 import EnvironmentName

    source = results / Cell(cell["algo"], cell["env"], cell["seed"], {}).path
    if not (source / "agent.zip").is_file():
        raise UserError(f"{source} has no agent.zip: run pg-zoo benchmark with --keep-agents.")
    with open(source / "evaluation.csv", encoding="utf-8", newline="") as rows:
        returns = [float(row["return"]) for row in csv.DictReader(rows)]
    kept = ("algo", "env", "seed", "n_timesteps", "score", "deterministic", "versions", "date", "command")
    std = (sum((value - cell["score"]) ** 2 for value in returns) / len(returns)) ** 0.5
    record = {**{name: cell[name] for name in kept}, "std": std, "episodes": len(returns)}
    hyperparams, name = cell["hyperparams"], EnvironmentName(cell["env"])
    options = {name: cell[name] for name in ("algo", "env", "seed")} | {"env_kwargs": hyperparams.get("env_kwargs")}
    target = folder / cell["algo"] / f"{name}_1"
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(target) as run:
        (run / name).mkdir()
        _save_slim(cell["algo"], source / "agent.zip", run / f"{name}.zip", trust)
        if (source / STATISTICS).is_file():
            shutil.copy(source / STATISTICS, run / name)
        (run / name / "config.yml").write_text(yaml.safe_dump(hyperparams), encoding="utf-8")
        (run / name / "args.yml").write_text(yaml.safe_dump(options), encoding="utf-8")
        (run / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return Agent(**record), target


def _save_slim(algo: str, source: Path, target: Path, trust: bool) -> None:
    """Save an agent that plays as before, with an optimiser that starts anew, which is two thirds of a file."""
    model = load_agent(registry.algorithm(algo), source, trust=trust, device="cpu")
    model.policy.optimizer.state.clear()
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder, "agent.zip")
        model.save(stored, exclude=_OF_THE_TRAINING)
        with (
            zipfile.ZipFile(stored) as whole,
            zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as slim,
        ):
            for name in whole.namelist():
                slim.writestr(name, whole.read(name))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m pg_zoo.evidence.agents`.

    Args:
        argv: The command-line arguments; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m pg_zoo.evidence.agents", description="Bundle agents with the zoo.")
    parser.add_argument("results", type=Path, help="results of `pg-zoo benchmark --keep-agents`")
    parser.add_argument("--algos", nargs="+", help="by default, all except the references")
    parser.add_argument("--envs", nargs="+", help="by default, all")
    parser.add_argument("--trust", action="store_true", help="let the agents' files run code")
    parser.add_argument("-o", "--output", type=Path, default=AGENTS, help="folder of the agents")
    args = parser.parse_args(argv)
    try:
        for agent, folder in ship(args.results, args.output, algos=args.algos, envs=args.envs, trust=args.trust):
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            print(f"{folder}: {agent}; {size / 1024:.0f} KiB")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
