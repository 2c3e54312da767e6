"""What breaks a process off: a limit for its files, and a kill of a child."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from warm import Server


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files of this process can have so many bytes: writing more of them fails, after so many have been written."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def in_a_process_of_its_own(warm: Server, script: str, folder: Path) -> tuple[int, str, str]:
    """Status, stdout and stderr of a test's file that is run as a script, which is given a folder."""
    code = f"import runpy, sys; sys.argv = {[script, str(folder)]!r}; runpy.run_path({script!r}, run_name='__main__')"
    return warm.run(before=f"{code}; sys.exit()", out=str(folder / "out.txt"), err=str(folder / "err.txt"))


def in_a_child(work: Callable[[], int | None], until: Callable[[], bool]) -> bool:
    """Work in a copy of this process, which is killed at a moment; whether it has ended before.

    Args:
        work: Its result is the exit status; None is 0.
        until: Asked again and again whether it is the moment.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    while not until():
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"The child ended with {status}.")
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False
