"""Pytest puts the folder of this file on the path: tests of any level import the modules beside it."""

import os
import sys
from contextlib import closing

import pytest
from warm import Server

# Tests start some hundred processes. Without files of bytecode, each of them would compile our packages again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def warm():
    """Processes that have loaded everything, for what an interpreter's beginning does not matter to."""
    with closing(Server()) as server:
        yield server
