"""The grid of a benchmark with a backend that trains nothing: what is run, skipped, stored, refused and shown."""

import errno
import json
import os
import signal
import sys
import time
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import pytest
from prose import saying, says

from pg_zoo.errors import UserError
from pg_zoo.results.storage import RANDOM, asked_for, new_folder
from pg_zoo.runs import backends, grid
from pg_zoo.runs.backends import local
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.grid import run_grid

CELLS = [Cell(algo, "pg/X-v0", seed, {"n_timesteps": 100, "gamma": 0.5}) for seed in (0, 1) for algo in ("a", "sb3/b")]


class Fake:
    """Stores each cell at once, without a training, or raises what is in `raises` or reports what is in `fails`."""

    def __init__(self, fails=(), raises=()):
        self.ran, self.fails, self.raises, self.closed = [], dict(fails), dict(raises), False

    def __call__(self, cells, folder, jobs):
        try:
            for cell in cells:
                if cell in self.raises:
                    raise self.raises[cell]
                self.ran.append(cell)
                if cell not in self.fails:
                    self.store(cell, folder)
                yield cell, self.fails.get(cell)
        finally:
            self.closed = True

    def store(self, cell, folder):
        with new_folder(folder / cell.path) as unfinished:
            record = {"format": 1, "hyperparams": cell.hyperparams, "options": cell.options, "device": cell.device}
            (unfinished / "cell.json").write_text(json.dumps(record))
            if cell.keep_agent:
                (unfinished / "agent.zip").touch()


def run(folder, cells=CELLS, **kwargs):
    """The cells that ran, and those that failed."""
    backend = Fake(**kwargs)
    failed = run_grid(cells, folder, backend=backend)
    assert backend.closed
    return backend.ran, failed


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".lock"}


def test_every_cell_runs_once_and_a_second_start_has_nothing_to_do(tmp_path):
    assert run(tmp_path / "x/y") == (CELLS, [])
    cells = {f"cells/{algo}/pg-X-v0/seed_{seed}/cell.json" for algo in ("a", "sb3-b") for seed in (0, 1)}
    assert files(tmp_path / "x/y") == cells | {"benchmark.json"}
    assert run(tmp_path / "x/y") == ([], [])


def test_the_record_says_what_the_grid_is_and_keeps_the_day_it_was_begun(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/bin/pg-zoo", "benchmark", "--algos", "a b"])
    run(tmp_path, CELLS[:2])
    record = json.loads((tmp_path / "benchmark.json").read_text())
    created = record.pop("created")
    cells = {"a": {"pg/X-v0": [0]}, "sb3/b": {"pg/X-v0": [0]}}
    assert record == {"format": 1, "command": "pg-zoo benchmark --algos 'a b'", "cells": cells}
    (tmp_path / "benchmark.json").write_text(json.dumps({**record, "created": "1970-01-01"}))
    assert created > "2025"
    assert run(tmp_path) == (CELLS[2:], [])
    record = json.loads((tmp_path / "benchmark.json").read_text())
    cells = {"a": {"pg/X-v0": [0, 1]}, "sb3/b": {"pg/X-v0": [0, 1]}}
    assert (record["created"], record["cells"]) == ("1970-01-01", cells)


ONE, TWO = ("a", "pg/X-v0", 0), ("c", "pg/Y-v0", 7)


def ask_for(monkeypatch, folder, key, command):
    """The record after this command has asked for one cell, which fails."""
    monkeypatch.setattr("sys.argv", ["pg-zoo", *command.split()])
    cell = Cell(*key, {})
    run(folder, [cell], fails={cell: "error"})
    return json.loads((folder / "benchmark.json").read_text())


def test_what_was_asked_for_before_is_not_forgotten(tmp_path, monkeypatch):
    assert asked_for(ask_for(monkeypatch, tmp_path, ONE, "benchmark one")) == {ONE}
    record = ask_for(monkeypatch, tmp_path, TWO, "benchmark two")
    assert asked_for(record) == {ONE, TWO}  # and not their product
    assert record["command"] == "pg-zoo benchmark one; pg-zoo benchmark two"
    assert ask_for(monkeypatch, tmp_path, ONE, "benchmark one") == record
    monkeypatch.setattr("sys.argv", ["pg-zoo", "all"])
    run(tmp_path, [Cell(*key, {}) for key in (ONE, TWO)])
    assert json.loads((tmp_path / "benchmark.json").read_text()) == {**record, "command": "pg-zoo all"}


def test_a_cell_that_fails_does_not_stop_the_grid_and_is_tried_again(tmp_path):
    error = "Traceback ...\nValueError: too bad\n"
    assert run(tmp_path, fails={CELLS[1]: error}) == (CELLS, [CELLS[1]])
    assert (tmp_path / "failed/sb3-b-pg-X-v0-seed_0.txt").read_text() == error
    assert run(tmp_path, fails={CELLS[1]: "another"}) == ([CELLS[1]], [CELLS[1]])
    assert (tmp_path / "failed/sb3-b-pg-X-v0-seed_0.txt").read_text() == "another"
    assert run(tmp_path) == ([CELLS[1]], [])
    assert list((tmp_path / "failed").iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "facts"),
    [
        ({"hyperparams": {"n_timesteps": 100, "gamma": 0.9}}, ["gamma", 0.5, 0.9, "-o"]),
        ({"hyperparams": {"n_timesteps": 200, "gamma": 0.5}}, ["n_timesteps", 100, 200]),
        ({"hyperparams": {"n_timesteps": 100}}, ["gamma", 0.5, None]),
        ({"final_episodes": 7}, ["final_episodes", 100, 7]),
        ({"eval_points": 1}, ["eval_points", 20, 1]),
        ({"tensorboard": True}, ["tensorboard", False, True]),
        ({"keep_agent": True}, ["keep_agent", False, True]),
    ],
)
def test_a_cell_that_was_made_otherwise_is_neither_kept_nor_overwritten(tmp_path, changed, facts):
    run(tmp_path, CELLS[-1:])
    before = files(tmp_path)
    with pytest.raises(UserError, match=saying("cells/sb3-b/pg-X-v0/seed_1", *facts)):
        run(tmp_path, [*CELLS[:-1], replace(CELLS[-1], **changed)])
    assert files(tmp_path) == before


def test_seeds_made_in_other_environments_are_refused(tmp_path):
    world = [replace(cell, vec_env="world") for cell in CELLS]
    run(tmp_path, world[:2])
    for cell in world[:2]:
        path = tmp_path / cell.path / "cell.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "vec_env": "dummy"}))
    for wanted in (world[:2], world[2:]):
        with pytest.raises(UserError, match=saying("seed_0", "vec_env", "'dummy'", "'world'", "-o")):
            run(tmp_path, wanted)
    assert run(tmp_path, [replace(cell, vec_env="dummy") for cell in CELLS])[0] == [
        replace(cell, vec_env="dummy") for cell in CELLS[2:]
    ]


@pytest.mark.parametrize(
    ("made", "asked", "remedy"), [("world", "dummy", "choose"), ("dummy", "world", "--vec-env dummy")]
)
def test_another_algorithm_in_other_environments_is_refused(tmp_path, made, asked, remedy):
    run(tmp_path, CELLS[:1])
    path = tmp_path / CELLS[0].path / "cell.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vec_env": made}))
    other = replace(CELLS[0], algo="another", vec_env=asked)
    with pytest.raises(UserError, match=saying("seed_0", "vec_env", f"'{made}'", f"'{asked}'", remedy, "-o")):
        run(tmp_path, [other])
    assert run(tmp_path, [replace(other, vec_env=made)])[0] != []


def test_seeds_made_with_another_default_of_the_algorithm_are_refused(tmp_path, monkeypatch):
    run(tmp_path, CELLS[:1])
    monkeypatch.setattr("pg_zoo.runs.grid.defaults", lambda cell: {"n_steps": 2048})
    run(tmp_path, CELLS[2:3])  # results of before there was a record of defaults
    path = tmp_path / CELLS[0].path / "cell.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "defaults": {"n_steps": 64}}))
    with pytest.raises(UserError, match=saying("seed_0", "n_steps", 64, 2048, "-o")):
        run(tmp_path, CELLS[2:3])


@pytest.mark.parametrize(
    ("changed", "facts"),
    [
        ({"hyperparams": {"n_timesteps": 200, "gamma": 0.5}}, ["n_timesteps", 100, 200]),
        ({"final_episodes": 7}, ["final_episodes", 100, 7]),
    ],
)
def test_other_seeds_made_otherwise_are_refused_before_any_training(tmp_path, changed, facts):
    run(tmp_path, CELLS[:2])
    before = files(tmp_path)
    with pytest.raises(UserError, match=saying("cells/sb3-b/pg-X-v0/seed_0", *facts, "-o")):
        run(tmp_path, [CELLS[2], replace(CELLS[3], **changed)])
    assert files(tmp_path) == before
    # Of another algorithm or environment, they may be.
    elsewhere = [replace(CELLS[3], algo="c", **changed), replace(CELLS[3], env="pg/Y-v0", **changed)]
    assert run(tmp_path, elsewhere) == (elsewhere, [])


def test_more_than_what_is_asked_for_does_no_harm(tmp_path):
    run(tmp_path, [replace(cell, keep_agent=True) for cell in CELLS])
    assert run(tmp_path) == ([], [])
    assert run(tmp_path, [replace(CELLS[0], origin="another file")]) == ([], [])


def test_random_actions_need_no_agent_device_or_log(tmp_path):
    cell = Cell(RANDOM, "pg/X-v0", 0, {})
    run(tmp_path, [cell])
    assert run(tmp_path, [replace(cell, keep_agent=True, tensorboard=True, device="cuda")]) == ([], [])


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ('{"format": 2}', ["benchmark.json", "format 2", 1, "version that wrote it"]),
        ("{", ["benchmark.json", "JSONDecodeError", "Delete", "`pg-zoo benchmark`"]),
        ("[1]", ["benchmark.json", "Delete"]),
        ('{"format": 1}', ["benchmark.json", "KeyError: 'cells'"]),
        ('{"format": 1, "cells": []}', ["benchmark.json"]),
    ],
)
def test_a_folder_of_another_version_is_left_alone(tmp_path, text, facts):
    (tmp_path / "benchmark.json").write_text(text)
    with pytest.raises(UserError, match=saying(*facts)):
        run(tmp_path)
    assert files(tmp_path) == {"benchmark.json"}


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("{", ["JSONDecodeError", "Delete", "`pg-zoo benchmark`"]),
        ("[]", ["Delete", "`pg-zoo benchmark`"]),
        ('{"format": 1}', ["KeyError: 'hyperparams, options'"]),
        ('{"format": 2}', ["format 2", "version that wrote it"]),
    ],
)
@pytest.mark.parametrize("wanted", [CELLS, CELLS[2:]], ids=["itself", "other seeds"])
def test_a_cell_that_was_tampered_with_is_named_with_the_remedy(tmp_path, text, facts, wanted):
    run(tmp_path, CELLS[:2])
    (tmp_path / CELLS[0].path / "cell.json").write_text(text)
    with pytest.raises(UserError, match=saying("cells/a/pg-X-v0/seed_0", *facts)):
        run(tmp_path, wanted)


def test_a_damaged_record_is_written_anew_once_it_is_deleted_as_the_error_says(tmp_path):
    run(tmp_path)
    (tmp_path / "benchmark.json").unlink()
    assert run(tmp_path) == ([], [])
    assert {seed for *_, seed in asked_for(json.loads((tmp_path / "benchmark.json").read_text()))} == {0, 1}


def test_a_file_that_the_system_has_put_there_does_no_harm(tmp_path):
    run(tmp_path)
    (tmp_path / "cells/a/pg-X-v0/.DS_Store").touch()
    assert run(tmp_path) == ([], [])


def test_what_a_killed_run_left_is_removed(tmp_path):
    left = tmp_path / "cells/a/pg-X-v0/.seed_0.1234"
    left.mkdir(parents=True)
    (left / "curve.csv").touch()
    run(tmp_path)
    assert not left.exists()


def test_a_full_disk_stops_the_grid_with_what_is_stored(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", "curve.csv")
    with pytest.raises(UserError, match=saying("No space left on device", "'curve.csv'", tmp_path)):
        run(tmp_path, raises={CELLS[2]: full})
    assert run(tmp_path) == (CELLS[2:], [])


def test_a_traceback_that_cannot_be_stored_stops_the_grid(tmp_path, monkeypatch):
    write = grid.write_whole

    def full(path, text):
        if path.parent.name == "failed":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text)

    monkeypatch.setattr(grid, "write_whole", full)
    with pytest.raises(UserError, match="No space left"):
        run(tmp_path, fails={CELLS[0]: "error"})
    assert not any("failed" in name for name in files(tmp_path))


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        run(tmp_path)
    assert files(tmp_path) == set()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=saying("-o/--output", "file/x", "Not a directory")):
        run(tmp_path / "file/x")


def test_the_folder_is_named_and_not_the_file_in_it_that_cannot_be_written(tmp_path):
    (tmp_path / ".lock").mkdir()  # as would one without permission, but for root
    with pytest.raises(UserError, match=saying("-o/--output", f"{tmp_path} ", "Is a directory")):
        run(tmp_path)


def test_ctrl_c_ends_what_runs_and_says_how_to_go_on(tmp_path, capsys):
    backend = Fake(raises={CELLS[2]: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run_grid(CELLS, tmp_path, backend=backend)
    assert backend.closed
    last = capsys.readouterr().out.splitlines()[-1]
    assert says(last, 2, 4, tmp_path, "same command")
    assert run(tmp_path) == (CELLS[2:], [])
    assert says(capsys.readouterr().out.splitlines()[0], 2, 4, tmp_path)


def test_two_grids_do_not_write_to_one_folder_at_once(tmp_path):
    def another(cells, folder, jobs):
        with pytest.raises(UserError, match="Another command is writing to"):
            run(folder)
        yield from Fake()(cells, folder, jobs)

    assert run_grid(CELLS, tmp_path, backend=another) == []


def test_time_left_counts_steps_and_not_cells(tmp_path, monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(grid.time, "monotonic", lambda: now)
    cells = [
        Cell(RANDOM, "X", 0, {}),
        *(Cell("a", "X", seed, {"n_timesteps": steps}) for seed, steps in enumerate((100, 700, 200))),
    ]

    def clock(cells, folder, jobs):
        nonlocal now
        for outcome in Fake(fails={cells[2]: "error"})(cells, folder, jobs):
            now += 1.0 if outcome[0].algo == RANDOM else outcome[0].n_timesteps
            yield outcome

    run_grid(cells, tmp_path, backend=clock)
    expected = [
        [0, 4, "a time estimate follows"],
        [1, 4, "random", "X", 0, "done"],
        [2, 4, "15 min", "a", "X", 0, "done"],  # 101 s for 100 of 1000 steps
        [3, 4, "1 failed", "3 min", "a", "X", 1, "failed"],  # 801 s for 800
        [4, 4, "1 failed", "a", "X", 2, "done"],
    ]
    for line, facts in zip(capsys.readouterr().out.splitlines(), expected, strict=True):
        assert says(line, *facts), line
        assert ("min" in line) == any("min" in str(fact) for fact in facts)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (119, "119 s"), (121, "2 min"), (7199, "120 min"), (7201, "2 h"), (-5, "0 s")]
)
def test_time_left_in_words(seconds, words):
    assert grid.time_left(seconds) == f"about {words} left"
    assert grid.time_left(seconds, at_least=True) == f"at least {words} left"


# The processes of the local backend, which do something else than a training here


def outcomes(monkeypatch, tmp_path, serve, cells=CELLS, jobs=4):
    monkeypatch.setattr(backends, "serve", serve)
    return dict(local(cells, tmp_path, jobs))


def do_well(*_):
    print("x", file=sys.stderr)


def test_a_process_that_ends_well_is_no_error(monkeypatch, tmp_path):
    assert outcomes(monkeypatch, tmp_path, do_well) == dict.fromkeys(CELLS)


def fail(*_):
    sys.exit(3)


def test_a_process_that_says_nothing_is_reported_with_its_status(monkeypatch, tmp_path):
    assert outcomes(monkeypatch, tmp_path, fail, CELLS[:1]) == {CELLS[0]: "exit status 3"}


def be_killed(cell, folder, command, errors):
    if cell.seed:
        Path(errors).write_text("Help!\n")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_the_system_kills_is_a_failure_like_any_other(monkeypatch, tmp_path):
    results = outcomes(monkeypatch, tmp_path, be_killed)
    assert {*results} == {*CELLS}
    for cell, error in results.items():
        assert error is None if cell.seed == 0 else says(error, "Help!", 9, "SIGKILL", "memory")


def find_the_disk_full(*_):
    sys.exit(errno.ENOSPC)


def test_a_process_that_finds_the_disk_full_stops_the_grid(monkeypatch, tmp_path):
    with pytest.raises(OSError, match="No space left on device"):
        outcomes(monkeypatch, tmp_path, find_the_disk_full)


def tell(cell, folder, command, errors):
    Path(errors).write_text(f"{folder} {os.environ['OMP_NUM_THREADS']} {sys.path[0]}")
    sys.exit(1)


def test_processes_have_one_thread_and_the_modules_of_this_one(monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "mine")
    (error,) = outcomes(monkeypatch, tmp_path, tell, CELLS[:1]).values()
    assert error == f"{tmp_path / CELLS[0].path} 1 {tmp_path}/mine"
    assert "OMP_NUM_THREADS" not in os.environ


def count(cell, folder, command, errors):
    mine = folder.parent / str(os.getpid())
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.touch()
    time.sleep(0.3)
    n_running = len(list(folder.parent.iterdir()))
    mine.unlink()
    sys.exit(n_running > 2)


def test_no_more_processes_run_than_asked_for(monkeypatch, tmp_path):
    cells = [replace(CELLS[0], seed=seed) for seed in range(4)]
    assert outcomes(monkeypatch, tmp_path, count, cells, jobs=2) == dict.fromkeys(cells)


def end_at_once(*_):
    pass


@pytest.mark.parametrize(("seconds", "order"), [((1, 2, 1, 1), "0132"), ((2, 1, 1, 1), "0123")])
def test_each_seed_begins_with_what_took_longest_with_the_seed_before(monkeypatch, tmp_path, seconds, order):
    # One cell runs at a time, so the clock is read at the beginning and the end of each in turn.
    times = iter([time for end, taken in zip(accumulate(seconds), seconds, strict=True) for time in (end - taken, end)])
    monkeypatch.setattr(backends, "time", SimpleNamespace(monotonic=lambda: next(times)))
    assert list(outcomes(monkeypatch, tmp_path, end_at_once, jobs=1)) == [CELLS[int(i)] for i in order]


def wait_for_ever(cell, folder, command, errors):
    while cell.seed:
        time.sleep(0.1)


def test_processes_end_with_the_grid(monkeypatch, tmp_path):
    started, start = [], backends._Child
    monkeypatch.setattr(backends, "serve", wait_for_ever)
    monkeypatch.setattr(backends, "_Child", lambda *args: started.append(start(*args)) or started[-1])
    running = local([CELLS[0], CELLS[2]], tmp_path, 2)
    assert next(running) == (CELLS[0], None)
    pid = started[1].process.pid
    os.kill(pid, 0)  # it is there
    running.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not any(os.path.exists(child.errors) for child in started)


def test_names_that_would_share_a_folder_are_refused(tmp_path):
    cells = [Cell("sb3/b", "X-v0", 0, {}), Cell("sb3-b", "X-v0", 0, {})]
    with pytest.raises(UserError, match=r"sb3/b on X-v0 and sb3-b on X-v0 would share the folder cells/sb3-b/X-v0"):
        run_grid(cells, tmp_path)
    assert not list(tmp_path.iterdir())
