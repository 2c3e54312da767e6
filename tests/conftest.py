"""Pytest puts the folder of this file on the path: tests of any level import the modules beside it."""

import gc
import multiprocessing
import os
import sys
from contextlib import closing

import pytest
from warm import Server

# Tests start some hundred processes. Without files of bytecode, each of them would compile our packages again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The processes of a fork server have loaded everything, whoever starts the first: those of SB3's SubprocVecEnv would
# load torch each.
if "forkserver" in multiprocessing.get_all_start_methods():
    from multiprocessing import forkserver

    forkserver.set_forkserver_preload(["pg_zoo.runs.backends", "pg_zoo.runs.loaded"])
    forkserver.set_forkserver_preload = lambda modules: None


def pytest_collection_finish():
    # What the modules hold is no garbage: collections need not look through a million objects of it, again and again.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def warm():
    """Processes that have loaded everything, for what an interpreter's beginning does not matter to."""
    with closing(Server()) as server:
        yield server
