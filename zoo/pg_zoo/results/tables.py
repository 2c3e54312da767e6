"""The stored results of `pg-zoo benchmark` as tidy pandas DataFrames."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pg_zoo.errors import UserError
from pg_zoo.results.storage import RANDOM, RECORD, asked_for, damaged, failure_name, read_cell, read_record

CELLS = [
    *("algo", "env", "seed", "n_timesteps", "score", "wall_time", "steps_per_second", "peak_memory_mib"),
    *("engine", "device", "origin", "hyperparams", "date"),
]
CURVES = ["algo", "env", "seed", "timesteps", "wall_time", "mean_return"]
EVALUATIONS = ["algo", "env", "seed", "episode", "return", "length"]

Key = tuple[str, str, int]  # algorithm, environment, seed


@dataclass(frozen=True)
class Failure:
    """A cell that failed.

    Attributes:
        name: Algorithm, environment and seed, as in the file name.
        path: The file with the traceback, relative to the results folder.
        error: The traceback's last line.
    """

    name: str
    path: Path
    error: str


@dataclass(frozen=True)
class Results:
    """The contents of a results folder.

    Attributes:
        folder: Its path.
        cells: One row for each training, with the columns `CELLS`.
        curves: One row for each evaluation during training, with the columns `CURVES`.
        evaluations: One row for each episode after training, with the columns `EVALUATIONS`.
        details: The stored record of each cell, in the order of `cells`.
        missing: Cells of the grid that have no results.
        failed: Cells that failed and have not succeeded since.
        command: The command that ran the grid.
    """

    folder: Path
    cells: pd.DataFrame
    curves: pd.DataFrame
    evaluations: pd.DataFrame
    details: list[dict[str, Any]]
    missing: list[Key]
    failed: list[Failure]
    command: str

    @property
    def algos(self) -> list[str]:
        """The algorithms except random actions, in alphabetical order, references last."""
        return _in_order({*self.cells.algo})

    @property
    def asked_for(self) -> set[tuple[str, str]]:
        """Algorithm and environment of each cell of the grid, finished or not."""
        return {*zip(self.cells.algo, self.cells.env, strict=True)} | {key[:2] for key in self.missing}

    @property
    def all_algos(self) -> list[str]:
        """`algos`, and the algorithms of which no training has finished."""
        return _in_order({algo for algo, _ in self.asked_for})

    @property
    def envs(self) -> list[str]:
        """The environments, in alphabetical order."""
        return sorted(set(self.cells.env))

    @property
    def versions(self) -> dict[str, list[str]]:
        """Versions of the packages involved, by name; several if cells differ."""
        found: dict[str, list[str]] = {}
        for detail in self.details:
            for name, number in detail["versions"].items():
                numbers = found.setdefault(name, [])
                numbers += [number] * (number not in numbers)
        return dict(sorted(found.items()))

    def of(self, algo: str, env: str) -> pd.DataFrame:
        """The rows of `cells` of one algorithm on one environment."""
        return self.cells[(self.cells.algo == algo) & (self.cells.env == env)]

    def algos_on(self, env: str) -> list[str]:
        """The `algos` with results on an environment."""
        return [algo for algo in self.algos if len(self.of(algo, env))]

    def scores(self, algo: str, env: str) -> pd.Series:
        """Scores of one algorithm on one environment, by seed."""
        return self.of(algo, env).set_index("seed").score

    def n_failed(self, algo: str, env: str) -> int:
        """Number of trainings that failed and have not succeeded since."""
        return sum(failure.name.startswith(failure_name(algo, env, "")) for failure in self.failed)

    def curves_of(self, algo: str, env: str, time: str) -> list[np.ndarray]:
        """The learning curves of one algorithm on one environment, one for each seed that has evaluations.

        Args:
            algo: The algorithm.
            env: The environment.
            time: The first column: `"timesteps"` or `"wall_time"`. The second is the mean return.
        """
        chosen = self.curves[(self.curves.algo == algo) & (self.curves.env == env)]
        return [curve[[time, "mean_return"]].to_numpy(float) for _, curve in chosen.groupby("seed")]


def read(folder: str | Path) -> Results:
    """Read a results folder, finished or not.

    Args:
        folder: The folder given to `pg-zoo benchmark -o`.

    Raises:
        UserError: There are no results, or they are from another version, damaged, or not finite numbers.
    """
    folder = Path(folder)
    grid = _read_grid(folder)
    paths = sorted(path for path in folder.glob("cells/*/*/*/cell.json") if re.fullmatch(r"seed_\d+", path.parent.name))
    if not paths:
        raise UserError(f"{folder} has no finished cell yet: continue with `{grid['command']}`.")
    cells = sorted((_read_cell(path) for path in paths), key=lambda cell: _key(cell[0]))
    details = [detail for detail, _, _ in cells]
    _check_repetitions(details)
    made = set(map(_key, details))
    return Results(
        folder=folder,
        cells=pd.DataFrame(details, columns=CELLS).assign(hyperparams=[json.dumps(d["hyperparams"]) for d in details]),
        curves=_joined([curve for _, curve, _ in cells], CURVES),
        evaluations=_joined([evaluation for _, _, evaluation in cells], EVALUATIONS),
        details=details,
        missing=sorted(asked_for(grid) - made),
        failed=_failures(folder, made),
        command=grid["command"],
    )


def _read_cell(path: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """The stored parts of a cell: `cell.json`, the curve, and the evaluation."""
    detail = read_cell(path, {*CELLS, "options", "versions", "machine", "command"})
    try:
        curve, evaluation = (
            pd.read_csv(path.with_name(name), float_precision="round_trip").assign(
                algo=detail["algo"], env=detail["env"], seed=detail["seed"]
            )[columns]
            for name, columns in (("curve.csv", CURVES), ("evaluation.csv", EVALUATIONS))
        )
        numbers = np.concatenate([[detail["score"]], curve.mean_return, evaluation["return"]]).astype(float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error
    if not np.isfinite(numbers).all():
        raise UserError(
            f"{path.parent} has a return that is not a finite number, so the training has failed. Delete the folder to "
            "leave this seed out of the report."
        )
    return detail, curve, evaluation


def _in_order(algos: set[str]) -> list[str]:
    return sorted(algos - {RANDOM}, key=lambda algo: ("/" in algo, algo))


def _key(detail: dict[str, Any]) -> Key:
    return detail["algo"], detail["env"], detail["seed"]


def _read_grid(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        raise UserError(f"{folder} is not a results folder: it has no benchmark.json from `pg-zoo benchmark`.")
    return read_record(folder, ["command"])


def _check_repetitions(details: list[dict[str, Any]]) -> None:
    """Refuse seeds that do not repeat the same training: their mean would be meaningless."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for detail in details:
        other = first.setdefault((detail["algo"], detail["env"]), detail)
        for name in ("hyperparams", "defaults", "options"):
            if name in detail and name in other and detail[name] != other[name]:
                raise UserError(
                    f"{detail['algo']} on {detail['env']} has different {name} with seed {detail['seed']} and with "
                    f"seed {other['seed']}, so these are no repetitions of one training. Keep them in separate folders."
                )


def _failures(folder: Path, made: set[Key]) -> list[Failure]:
    names = {failure_name(algo, env, seed) for algo, env, seed in made}
    return [
        Failure(path.stem, path.relative_to(folder), (path.read_text(encoding="utf-8").strip() or "?").splitlines()[-1])
        for path in sorted(folder.glob("failed/*.txt"))
        if path.stem not in names
    ]


def _joined(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    # The columns of empty tables have no type, and pandas warns when it joins them.
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=columns)
