"""Environments in processes of their own that say what went wrong in them.

An error in a process of SB3's `SubprocVecEnv` reaches the training as an `EOFError` without a word.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import CloudpickleWrapper, SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env import subproc_vec_env as sb3

from pg_agents.envs.layers import layers

PATIENCE = 5.0  # seconds in which a process that is about to end does so
_LOST = (EOFError, BrokenPipeError, ConnectionResetError)


class EnvironmentFailedError(RuntimeError):
    """An environment in another process has raised an error, or its process has ended.

    Its cause is the traceback there, where that is known.
    """


class ElsewhereError(Exception):
    """The cause of an error that comes from another process: its traceback there."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class _Failure:
    """What a process answers when its environment has raised an error."""

    error: str
    text: str


class _Remote:
    """The pipe to a process.

    Args:
        pipe: SB3's.
        process: The process.
        number: Of its environment.
    """

    def __init__(self, pipe: Any, process: Any, number: int) -> None:
        self._pipe, self._process, self._number = pipe, process, number

    def send(self, message: Any) -> None:
        """Send; of a process that has ended, `recv` says why."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._pipe.send(message)

    def recv(self) -> Any:
        """The answer.

        Raises:
            EnvironmentFailedError: There is none.
        """
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(PATIENCE)
            raise EnvironmentFailedError(_ended(self._number, self._process.exitcode)) from None
        if isinstance(answer, _Failure):
            raise EnvironmentFailedError(f"Environment {self._number} raised {answer.error}") from ElsewhereError(
                answer.text
            )
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)


class ProcessesVecEnv(SubprocVecEnv):
    """SB3's `SubprocVecEnv`, where an environment's error reaches the training with its number and its traceback.

    It can also be closed where an error or an interrupt came in the middle of a step. The processes end without a word
    when the training is killed.

    Args:
        env_fns: Make the environments.
        start_method: Of the processes; by default as in SB3.

    Raises:
        EnvironmentFailedError: An environment cannot be made.
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env[Any, Any]]], start_method: str | None = None) -> None:
        self.waiting, self.closed = False, False
        if start_method is None:
            start_method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context: Any = multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            context.set_forkserver_preload([__name__])  # loaded once, in the server that they are forked from
        self.remotes: Any = []
        self.processes = []
        try:
            for number, env_fn in enumerate(env_fns):
                ours, theirs = context.Pipe()
                args = (theirs, ours, CloudpickleWrapper(env_fn))
                process = context.Process(target=_work, args=args, daemon=True)
                process.start()
                theirs.close()
                self.processes.append(process)
                self.remotes.append(_Remote(ours, process, number))
            self.remotes[0].send(("get_spaces", None))
            VecEnv.__init__(self, len(env_fns), *self.remotes[0].recv())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes, whatever they have been asked."""
        _end(self)


def _end(env: SubprocVecEnv) -> None:
    """End the processes; SB3's `close` waits for answers to a step that may have been read, or never come."""
    if env.closed:
        return
    for remote in env.remotes:
        with suppress(OSError):  # it is gone
            remote.send(("close", None))
    for remote in env.remotes:
        with suppress(EOFError, OSError):
            while True:  # until the other side is closed
                remote.recv_bytes()
    for process in env.processes:
        process.join()
    for remote in env.remotes:
        remote.close()
    env.waiting, env.closed = False, True


def _work(remote: Any, parent_remote: Any, env_fn: CloudpickleWrapper) -> None:
    """SB3's loop; an error is sent to the training, and where that is gone, there is nobody to tell."""
    try:
        sb3._worker(remote, parent_remote, env_fn)
    except Exception as error:
        name, text = type(error).__name__, str(error)
        with suppress(OSError):
            remote.send(_Failure(f"{name}: {text}" if text else name, traceback.format_exc()))


@contextmanager
def explained(env: VecEnv | None) -> Iterator[None]:
    """Say which process of SB3's `SubprocVecEnv` has ended, where its pipe says no more than that it is closed.

    Its environments can be closed afterwards.

    Args:
        env: The environments, in any wrappers.

    Raises:
        EnvironmentFailedError: A process has ended.
    """
    try:
        yield
    except _LOST as error:
        failed = _processes_of(env)
        found = None if failed is None else _lost(failed)
        if failed is None or found is None:
            raise
        if type(failed).close is SubprocVecEnv.close:
            failed.close = partial(_end, failed)  # type: ignore[method-assign]
        traceback_elsewhere = (  # of an error; a process that was killed, or has exited, leaves none
            " SB3's SubprocVecEnv leaves its traceback on stderr, above; pg_agents.envs.processes.ProcessesVecEnv in "
            "its place brings it here."
        )
        raise EnvironmentFailedError(
            f"{_ended(*found)}{traceback_elsewhere if found[1] == 1 else ''} The agent can be saved, and trained on "
            "with new environments (`set_env`)."
        ) from error


def _processes_of(env: VecEnv | None) -> SubprocVecEnv | None:
    innermost = None if env is None else layers(env)[-1]
    return innermost if isinstance(innermost, SubprocVecEnv) and not innermost.closed else None


def _lost(env: SubprocVecEnv) -> tuple[int, int | None] | None:
    """Number and exit code of an environment's process that has ended; None if there is none."""
    sentinels = [process.sentinel for process in env.processes]
    ended = connection.wait(sentinels, 1.0)
    if not ended:
        return None
    number = min(sentinels.index(one) for one in ended)
    env.processes[number].join(PATIENCE)  # only now has it an exit code
    return number, env.processes[number].exitcode


def _ended(number: int, status: int | None) -> str:
    memory = ": it may have run out of memory" if status == -9 else ""
    return f"The process of environment {number} has ended, with exit code {status}{memory}."
