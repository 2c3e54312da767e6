"""What is stored comes back as tables; what is not results is refused in one line."""

import json

import pandas as pd
import pytest
from synthetic import write_cell, write_grid, write_results

from pg_zoo.errors import UserError
from pg_zoo.results import tables as results
from pg_zoo.results.storage import HIDDEN
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.grid import run_grid
from pg_zoo.runs.training import run_cell


@pytest.fixture
def folder(tmp_path):
    scores = {"ppo": {"A-v0": [1.0, 2.0, 3.0], "pg/B-v0": [4.0, 5.0, 6.5]}, "sb3/ppo": {"A-v0": [0.0, 1.0, 0.1]}}
    return write_results(tmp_path / "runs", scores, random={"A-v0": -1.0})


def test_what_a_real_grid_has_stored_comes_back(tmp_path):
    def here(missing, folder, jobs):
        for cell in missing:
            run_cell(cell, folder / cell.path)
            yield cell, None

    entry = {"n_timesteps": 64, "policy": "MlpPolicy", "n_steps": 32, "batch_size": 32, "engine": "autograd"}
    options = {"eval_points": 2, "eval_episodes": 1, "final_episodes": 3}
    grid = [
        Cell(algo, "CartPole-v1", seed, hyperparams, **options)
        for algo, hyperparams in (("ppo", entry), ("random", {}))
        for seed in range(2)
    ]
    run_grid(grid, tmp_path / "runs", backend=here)
    found = results.read(tmp_path / "runs")
    assert found.cells[["algo", "seed", "n_timesteps", "engine"]].to_numpy().tolist() == [
        ["ppo", 0, 64, "autograd"],
        ["ppo", 1, 64, "autograd"],
        ["random", 0, 0, "none"],
        ["random", 1, 0, "none"],
    ]
    assert found.curves.timesteps.tolist() == [32, 64, 32, 64]
    # A score is the mean return of the episodes after training.
    means = found.evaluations.groupby(["algo", "seed"])["return"].mean()
    assert found.cells.score.tolist() == pytest.approx(means.tolist())
    assert (found.missing, found.failed) == ([], [])


def test_tables_have_the_documented_columns_and_one_row_for_each_thing(folder):
    found = results.read(folder)
    assert (found.cells.columns.tolist(), len(found.cells)) == (results.CELLS, 12)
    assert (found.curves.columns.tolist(), len(found.curves)) == (results.CURVES, 9 * 3)
    assert (found.evaluations.columns.tolist(), len(found.evaluations)) == (results.EVALUATIONS, 12 * 2)
    assert found.scores("ppo", "pg/B-v0").to_dict() == {0: 4.0, 1: 5.0, 2: 6.5}
    assert found.curves_of("sb3/ppo", "A-v0", "wall_time")[1].tolist() == [[4.0, 0.25], [7.0, 0.5], [11.0, 1.0]]


def test_algorithms_come_before_references_and_random_actions_are_none(folder):
    write_cell(folder, "zzz", "A-v0", 0, 1.0)
    found = results.read(folder)
    assert found.algos == ["ppo", "zzz", "sb3/ppo"]
    assert found.algos_on("pg/B-v0") == ["ppo"]
    assert found.envs == ["A-v0", "pg/B-v0"]


def test_pandas_reads_the_numbers_back_as_they_were(folder):
    curve = [(k, 1 / k, 1e3 / (3 * k + 1)) for k in range(1, 200)]
    write_cell(folder, "a", "A-v0", 0, 0.1 + 0.2, curve=curve)
    found = results.read(folder)
    assert found.curves_of("a", "A-v0", "wall_time")[0].tolist() == [[time, mean] for _, time, mean in curve]
    for table in (found.cells, found.curves, found.evaluations):
        table.to_csv(folder / "table.csv", index=False)
        again = pd.read_csv(folder / "table.csv", float_precision="round_trip")
        pd.testing.assert_frame_equal(again, table, check_dtype=False)


def test_what_is_missing_of_the_grid_is_listed(tmp_path):
    folder = write_results(tmp_path / "runs", {"ppo": {"A-v0": [1.0, 2.0]}}, seeds=range(3))
    assert results.read(folder).missing == [
        ("ppo", "A-v0", 2),
        ("random", "A-v0", 0),
        ("random", "A-v0", 1),
        ("random", "A-v0", 2),
    ]


def test_what_is_missing_need_not_be_a_product(folder):
    record = {"format": 1, "command": "pg-zoo", "cells": {"ppo": {"A-v0": [0, 8]}, "c": {"C-v0": [9]}}}
    (folder / "benchmark.json").write_text(json.dumps(record))
    assert results.read(folder).missing == [("c", "C-v0", 9), ("ppo", "A-v0", 8)]


def test_cells_that_are_not_finished_are_not_read(folder):
    whole = folder / "cells/ppo/A-v0/seed_2"
    whole.rename(whole.with_name(f"{HIDDEN}seed_2.0123"))
    found = results.read(folder)
    assert found.scores("ppo", "A-v0").to_dict() == {0: 1.0, 1: 2.0}
    assert ("ppo", "A-v0", 2) in found.missing


def test_failures_are_listed_with_their_error_until_the_cell_is_made(folder):
    (folder / "failed").mkdir()
    (folder / "failed/sb3-ppo-pg-B-v0-seed_1.txt").write_text("Traceback\n  ...\nValueError: no way\n")
    (folder / "failed/sb3-ppo-A-v0-seed_1.txt").write_text("Traceback\n  ...\nValueError: once upon a time\n")
    (failure,) = results.read(folder).failed
    assert (failure.name, failure.error) == ("sb3-ppo-pg-B-v0-seed_1", "ValueError: no way")
    assert (folder / failure.path).is_file()


def test_no_curve_and_no_speed_are_no_mistakes(tmp_path):
    write_grid(tmp_path, ["ppo"], ["A-v0"], [0])
    write_cell(tmp_path, "ppo", "A-v0", 0, 1.0, steps_per_second=None, peak_memory_mib=None)
    found = results.read(tmp_path)
    assert found.curves.columns.tolist() == results.CURVES
    assert found.curves_of("ppo", "A-v0", "timesteps") == []
    assert found.cells.steps_per_second.isna().all()


def test_versions_are_told_apart(folder):
    write_cell(folder, "a", "A-v0", 0, 1.0, versions={"torch": "2.14.0", "my-package": "1.0"})
    assert results.read(folder).versions == {
        "my-package": ["1.0"],
        "python": ["3.11.7"],
        "torch": ["2.14.0", "2.13.0"],
    }


def changed(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FIRST = "cells/ppo/A-v0/seed_0"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "benchmark.json").unlink(), "runs .*no benchmark.json"),
        (lambda f: (f / "cells").rename(f / "kept"), "runs has no finished cell"),
        (lambda f: changed(f / "benchmark.json", format=2), r"benchmark.json has format 2, .* reads 1"),
        (
            lambda f: changed(f / "benchmark.json", cells=None),
            "benchmark.json .*AttributeError.* Delete it",
        ),
        (lambda f: (f / "benchmark.json").write_text("[]"), "benchmark.json is damaged .* Delete it and run"),
        (lambda f: changed(f / FIRST / "cell.json", format=0), "seed_0/cell.json has format 0"),
        (
            lambda f: (f / FIRST / "cell.json").write_text("{"),
            "seed_0 is damaged .*JSONDecodeError.* Delete it and run",
        ),
        (lambda f: (f / FIRST / "cell.json").write_text("{}"), "seed_0 is damaged"),
        (lambda f: changed(f / FIRST / "cell.json", score="much"), "seed_0 is damaged"),
        (lambda f: (f / FIRST / "curve.csv").unlink(), "seed_0 is damaged .*FileNotFoundError"),
        (lambda f: (f / FIRST / "evaluation.csv").write_text("a,b\n1,2\n"), "seed_0 is damaged .*KeyError"),
        (lambda f: changed(f / FIRST / "cell.json", score=float("nan")), "seed_0 .*return .*not a finite"),
        (lambda f: changed(f / FIRST / "cell.json", score=-float("inf")), "seed_0 .*return .*not a finite"),
        (
            lambda f: (f / FIRST / "curve.csv").write_text("timesteps,wall_time,mean_return\n1,1.0,nan\n"),
            "seed_0 .*return .*not a finite",
        ),
        (
            lambda f: (f / FIRST / "evaluation.csv").write_text("episode,return,length\n0,-inf,1\n"),
            "seed_0 .*return .*not a finite",
        ),
        (
            lambda f: changed(f / FIRST / "cell.json", hyperparams={"n_timesteps": 3}),
            "ppo .*A-v0 .*hyperparams .*seed 1 .*seed 0",
        ),
        (
            lambda f: changed(f / FIRST / "cell.json", options={"final_episodes": 3}),
            "ppo .*A-v0 .*options .*seed 1 .*seed 0",
        ),
    ],
)
def test_what_is_not_results_is_refused_in_one_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(UserError, match=message):
        results.read(folder)
