"""How long a grid will take, by hand: from cells that have ended, and from those that tell how far they are."""

import json
import os
import time
from pathlib import PurePath

import pytest

from pg_zoo.runs import forecast
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.forecast import PROGRESS, Forecast, Progress, expected


def cells(algo, steps, n):
    return [Cell(algo, "X-v0", seed, {"n_timesteps": steps}) for seed in range(n)]


def ended(folder, cell, seconds):
    (folder / cell.path).mkdir(parents=True)
    (folder / cell.path / "cell.json").write_text(json.dumps({"total_seconds": seconds}))


def runs(folder, cell, passed, part):
    """A cell that has run for some seconds, and is so far."""
    path = folder / cell.path
    hidden = path.with_name(f".{path.name}.1a2b")
    hidden.mkdir(parents=True)
    (hidden / PROGRESS).write_text(json.dumps([passed, part]))
    os.utime(hidden / PROGRESS, (time.time(), time.time()))


def left(folder, all_cells, waiting, jobs=2):
    return Forecast(all_cells, folder, jobs).left(waiting)


def test_nothing_is_known_before_the_first_cell_has_told_of_itself(tmp_path):
    grid = cells("a", 100, 4)
    assert left(tmp_path, grid, grid) is None


def test_cells_of_each_kind_take_as_long_as_the_first_of_that_kind(tmp_path):
    slow, fast = cells("slow", 100, 3), cells("fast", 100, 3)
    ended(tmp_path, slow[0], 60.0)
    ended(tmp_path, fast[0], 4.0)
    # (2 · 60 + 2 · 4) / 2 jobs
    assert left(tmp_path, slow + fast, slow[1:] + fast[1:]) == 64


def test_a_kind_that_nothing_is_known_of_takes_as_long_for_a_step_as_the_others(tmp_path):
    known, unknown = cells("a", 100, 1), cells("b", 300, 2)
    ended(tmp_path, known[0], 10.0)
    assert left(tmp_path, known + unknown, unknown) == 2 * 30 / 2


def test_a_cell_that_runs_shows_how_long_it_takes(tmp_path):
    grid = cells("a", 100, 4)
    runs(tmp_path, grid[0], 5.0, 0.1)  # 50 s in all, 45 of them to come
    # (4 · 50 − 5) / 2
    assert left(tmp_path, grid, grid) == pytest.approx(97.5, abs=0.5)
    # With as many jobs as cells, the running one is the last to end.
    assert left(tmp_path, grid, grid, jobs=100) == pytest.approx(45, abs=0.5)


def test_before_a_training_has_ended_more_time_may_pass(tmp_path):
    chance, grid = cells("random", 0, 1), cells("a", 100, 4)
    runs(tmp_path, grid[0], 5.0, 0.1)
    ended(tmp_path, chance[0], 1.0)
    assert Forecast(chance + grid, tmp_path, 2).is_least
    ended(tmp_path, grid[1], 50.0)
    assert not Forecast(chance + grid, tmp_path, 2).is_least


def test_each_takes_as_long_as_the_mean_of_those_that_have_ended():
    # 20 s each: 5 s and 0 s of two that run, and three that wait, by two at a time.
    assert expected([10.0, 30.0], [15.0, 25.0], 3, 2) == (5 + 0 + 3 * 20) / 2
    assert expected([20.0], [5.0, 19.0], 0, 2) == 15  # the last to end
    assert expected([20.0], [], 1.5, 1) == 30


def test_random_actions_take_no_time_and_say_nothing(tmp_path):
    chance, grid = cells("random", 0, 2), cells("a", 100, 2)
    ended(tmp_path, chance[0], 1.0)
    assert left(tmp_path, chance + grid, grid) is None
    ended(tmp_path, grid[0], 10.0)
    assert left(tmp_path, chance + grid, [grid[1], chance[1]], jobs=1) == 11


def test_what_earlier_runs_have_measured_is_known_at_the_start(tmp_path):
    grid = cells("a", 100, 3)
    ended(tmp_path, grid[0], 8.0)
    assert left(tmp_path, grid, grid[1:], jobs=1) == 16


@pytest.mark.parametrize("text", ["", "[1]", "[1, 0]", "null", '["a", "b"]'])
def test_a_file_that_is_being_written_does_no_harm(tmp_path, text):
    grid = cells("a", 100, 2)
    runs(tmp_path, grid[0], 5.0, 0.5)
    (path,) = tmp_path.rglob(PROGRESS)
    path.write_text(text)
    assert left(tmp_path, grid, grid) is None


def test_a_cell_tells_how_far_it_is_and_leaves_nothing(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(forecast.time, "monotonic", lambda: now)
    progress = Progress(tmp_path, 200)
    now = 107.0
    progress.tell(50)
    assert json.loads((tmp_path / PROGRESS).read_text()) == [7.0, 0.25]
    assert progress.seconds == 7.0
    progress.tell(500)  # the last rollout is completed
    assert json.loads((tmp_path / PROGRESS).read_text())[1] == 1
    progress.end()
    assert [*tmp_path.iterdir()] == []
    progress.end()


def test_kinds_are_folders():
    assert cells("sb3/a", 1, 1)[0].path.parent == PurePath("cells/sb3-a/X-v0")
