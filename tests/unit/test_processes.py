"""Functions in processes of their own give their results in order, and neither crash the command nor outlive it."""

import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch as th
from light import prepared_and_loaded, tell_and_sleep
from warm import wait_for

from pg_zoo.runs import backends, processes
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.processes import Died, in_order, start
from pg_zoo.tuning import search as searching
from pg_zoo.tuning.search import Search, Task


def later(index, folder):
    """The first task ends last."""
    Path(folder, str(index)).touch()
    while index == 0 and not Path(folder, "1").exists():
        time.sleep(0.01)
    return index, th.get_num_threads(), os.environ["OMP_NUM_THREADS"], signal.getsignal(signal.SIGINT)


def test_results_come_in_the_order_of_the_tasks_from_one_thread_that_ignores_interrupts(tmp_path):
    found = list(in_order(later, [(index, tmp_path) for index in range(3)], jobs=2))
    assert found == [(index, 1, "1", signal.SIG_IGN) for index in range(3)]


def test_a_process_has_loaded_what_trainings_need_and_nothing_that_they_would_notice(tmp_path):
    # From a new process: this one may have started processes before, which were not prepared.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        missing, n_uses, n_threads, loaded_later = pool.submit(prepared_and_loaded, tmp_path).result()
    assert missing == set()
    assert len(loaded_later) < 30, sorted(loaded_later)  # of 1,300
    assert n_uses == 0  # the first one has the estimators use a compiled sum
    assert n_threads == 2  # of which one waits for the end of this process


def crash(status):
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)


def test_a_process_that_crashes_is_told_and_the_others_go_on():
    assert list(in_order(crash, [(3,), (-signal.SIGKILL,), (0,)], jobs=3)) == [Died(3), Died(-signal.SIGKILL), Died(0)]


def test_processes_end_when_nobody_wants_their_results(tmp_path):
    results = in_order(tell_and_sleep, [(0, tmp_path), (1, tmp_path)], jobs=2)
    assert next(results) is None
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    results.close()
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


def started_and_interrupted(function, *args):
    """As `start`, with a Ctrl-C before anybody knows of the process."""
    process = start(function, *args)
    signal.raise_signal(signal.SIGINT)
    return process


def serve_nothing(cell, folder, command, errors):
    tell_and_sleep(1, folder.parent)


def in_a_worker(connection):
    tell_and_sleep(1, os.environ["FOLDER_OF_THE_TEST"])


def grid(folder):
    return backends.local([Cell("ppo", "CartPole-v1", 0, {"n_timesteps": 1})], folder)


def search(folder):
    task = Task("ppo", "CartPole-v1", 10, 1, 1, 1, 1, "cpu")
    yield Search(folder, task, lambda trial: {}, {}, 0).run(1, 1)


@pytest.mark.parametrize(
    ("where", "begin", "stand_in"),
    [
        (processes, lambda folder: in_order(tell_and_sleep, [(1, folder)]), None),
        (backends, grid, serve_nothing),
        (searching, search, in_a_worker),
    ],
    ids=["in order", "grid", "search"],
)
def test_ctrl_c_at_the_very_start_of_a_process_ends_it(tmp_path, monkeypatch, where, begin, stand_in):
    begun = []

    def start_and_interrupt(function, *args):
        begun.append(started_and_interrupted(stand_in or function, *args))
        return begun[0]

    monkeypatch.setenv("FOLDER_OF_THE_TEST", str(tmp_path))
    monkeypatch.setattr(where, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(begin(tmp_path))
    assert len(begun) == 1
    with pytest.raises(ValueError, match="closed"):  # after it has ended
        begun[0].is_alive()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_their_parent_however_it_ends(end, tmp_path, warm):
    begin = f"import time; from light import *; start(tell_and_sleep, 1, {str(tmp_path)!r}); time.sleep(600)"
    with warm.begun(before=begin, out=os.devnull, err=os.devnull) as parent:
        wait_for(lambda: list(tmp_path.iterdir()))
        (child,) = (int(path.name) for path in tmp_path.iterdir())
        os.kill(parent.id, end)
        assert parent.wait() == -end
        wait_for(lambda: not Path(f"/proc/{child}").exists())


def test_a_process_that_nobody_knows_of_does_not_keep_its_parent_from_ending(tmp_path, warm):
    begin = f"import sys; from light import *; start(tell_and_sleep, 1, {str(tmp_path)!r}); sys.exit(3)"
    assert warm.run(before=begin, out=os.devnull, err=os.devnull)[0] == 3


def test_the_process_that_starts_others_still_gets_interrupts():
    start(crash, 0).join()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
