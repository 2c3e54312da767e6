"""A line says that Numba compiles, before it is silent for seconds."""

import pytest
from numba import njit

from pg_agents.engines import compiling


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(compiling, "_printed", [])
    compiling.listen()


def compile_something():
    njit("int64(int64)")(lambda number: number + 1)


def test_it_is_said_once(capsys):
    with compiling.announced(1):
        assert capsys.readouterr().out == ""
        compile_something()
        compile_something()
    with compiling.announced(1):
        compile_something()
    assert capsys.readouterr().out == f"{compiling.LINE}\n"


@pytest.mark.parametrize(("terminal", "said"), [(True, f"{compiling.LINE}\n"), (False, "")])
def test_without_verbosity_it_is_said_on_a_terminal(terminal, said, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    with compiling.announced(0):
        compile_something()
    assert capsys.readouterr().out == said


def test_what_others_compile_is_not_announced(capsys):
    compile_something()
    assert capsys.readouterr().out == ""
