"""`pg-zoo crosscheck` that is interrupted says so on one line, and leaves no process, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background of a shell ignores it
import test_interrupts
from pg_zoo.cli import main
from pg_zoo.commands import crosscheck
from pg_zoo.runs import processes

crosscheck._examine = test_interrupts.tell_and_sleep
processes._LOADED = []
raise SystemExit(main(["crosscheck", "--algos", "ppo", "--envs", "CartPole-v1", "Acrobot-v1", "--jobs", "2", *ARGV]))
"""


def tell_and_sleep(entry, updates):
    Path(f"{entry.env}.{os.getpid()}").touch()
    time.sleep(600)


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def of_session(leader):
    """Processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # ended meanwhile
            continue
        found += [path.parent.name] * (int(session) == leader and state != "Z")
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("end", "to_all"),
    [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGKILL, False)],
    ids=lambda end: str(end),
)
def test_a_crosscheck_ends_with_one_line_and_without_leaving_processes(tmp_path, end, to_all):
    code = COMMAND.replace("ARGV", repr(["-o", str(tmp_path / "results")]))
    folders = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": folders},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: len(list(tmp_path.glob("*-v1.*"))) == 2 or process.poll() is not None)
    (os.killpg if to_all else os.kill)(process.pid, end)
    _, errors = process.communicate(timeout=60)
    if end is signal.SIGKILL:
        assert (process.returncode, errors) == (-signal.SIGKILL, "")
    else:
        assert (process.returncode, errors) == (130, "pg-zoo: interrupted\n")
    wait_for(lambda: of_session(process.pid) == [])
