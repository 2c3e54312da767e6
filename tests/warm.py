"""`pg-zoo` in processes that are forked from one that has loaded everything, which saves seconds each time.

Where such a process would execute another Python for multiprocessing (its fork server, its resource tracker), that one
is forked from it, too.
"""

import json
import multiprocessing.util
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path

UNBUFFERED = "import sys; sys.stdout.reconfigure(write_through=True)"  # what to run before, if stdout is watched


def wait_for(condition, seconds=60, told=lambda: ""):
    """Wait until a condition holds; else the test fails, with what is told."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


class Server:
    """Starts commands, one after the other.

    Args:
        python: The interpreter, which finds the package that is tested.
        env: Its environment variables; by default those of this process.
    """

    def __init__(self, python=sys.executable, env=None):
        self.process = subprocess.Popen(
            [python, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=env
        )

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    @contextmanager
    def begun(self, *argv, out="out.txt", err="err.txt", before=""):
        """A process of a session of its own, none of which runs on at the end.

        Args:
            *argv: The command's arguments.
            out: The file of its stdout.
            err: The file of its stderr.
            before: Code that it runs first.
        """
        request = {"argv": argv, "folder": os.getcwd(), "files": [os.devnull, out, err], "before": before}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        command = Command(self, int(self._answer()))
        try:
            yield command
        finally:
            with suppress(ProcessLookupError):
                os.killpg(command.id, signal.SIGKILL)
            command.wait()

    def _answer(self):
        assert wait([self.process.stdout], 600), "no answer"
        return self.process.stdout.readline()

    def run(self, *argv, **options):
        """Status, stdout and stderr of a command."""
        with self.begun(*argv, **options) as command:
            status = command.wait()
        texts = (Path(options.get(name, f"{name}.txt")) for name in ("out", "err"))
        return status, *(path.read_text() if path.is_file() else "" for path in texts)


class Command:
    """A command that has begun; `id` is that of its process and of its session."""

    def __init__(self, server, number):
        self.server, self.id, self.status = server, number, None

    def wait(self):
        if self.status is None:
            self.status = int(self.server._answer())
        return self.status

    def processes(self):
        """Those of its session that run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # ended meanwhile
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
                found += [path.parent.name] * (int(session) == self.id and state != "Z")
        return found


def _serve():
    import pg_zoo.commands.benchmark
    import pg_zoo.commands.enjoy
    import pg_zoo.commands.train
    import pg_zoo.commands.tune
    import pg_zoo.runs.loaded  # noqa: F401
    from pg_zoo.cli import main

    multiprocessing.util.spawnv_passfds = _fork_instead
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if not process:
            os.setsid()
            os.chdir(request["folder"])
            for number, path in enumerate(request["files"]):
                os.dup2(os.open(path, os.O_RDWR if path == os.devnull else os.O_WRONLY | os.O_CREAT, 0o666), number)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the background of a shell ignores it
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this one
            exec(request["before"], {})
            sys.exit(main(request["argv"]))
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def _fork_instead(path, args, passed):
    process = os.fork()
    if process:
        return process
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in {*range(3, 1024)} - {*passed}:
            with suppress(OSError):
                os.close(number)
        exec(args[-1], {"__name__": "__main__"})
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)


if __name__ == "__main__":
    _serve()
