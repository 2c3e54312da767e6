"""Workers in processes of this machine, with parameters in shared memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents.asynchronous.contract import Order, Report
from pg_agents.asynchronous.links import SharedLink, SharedMemory
from pg_agents.asynchronous.parcels import Parcel
from pg_agents.asynchronous.worker import Worker
from pg_agents.engines.mlp.tables import kernels_are_loaded
from pg_agents.envs.processes import PATIENCE, ElsewhereError


@dataclass(frozen=True)
class _Raised:
    """What a worker answers when it has raised an error, which its caller raises again."""

    error: BaseException
    text: str


@contextlib.contextmanager
def _not_interrupted() -> Iterator[None]:
    """What is started here is deaf to Ctrl-C: a server that is interrupted while it loads would be missed for good."""
    if threading.current_thread() is not threading.main_thread():  # signals are not this thread's business
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Processes:
    """Worker processes; see `pg_agents.asynchronous.contract.Backend`.

    Args:
        policy: Gives the shared parameters their values.
        parcels: One for each worker.
    """

    def __init__(self, policy: ActorCriticPolicy, parcels: list[Parcel]) -> None:
        self._memory = SharedMemory(policy, len(parcels), across_processes=True)
        # As for SB3's SubprocVecEnv: a fork of this process would inherit its threads' locks.
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            # Imported once, in the server that workers are forked from. The first optimiser imports torch._dynamo.
            kernels = ["pg_agents.engines.mlp.kernels"] if kernels_are_loaded() else []
            from multiprocessing import forkserver

            context.set_forkserver_preload([__name__, "torch._dynamo", *kernels])
            with _not_interrupted():
                forkserver.ensure_running()
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._served = -1  # the worker whose report was the last
        try:
            for parcel in parcels:
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work,
                    args=(theirs, self._memory, parcel),
                    daemon=True,
                    name=f"pg_agents {parcel.number}",
                )
                self._processes.append(process)
                self._pipes.append(ours)
                process.start()
                theirs.close()
        except BaseException:
            self.close()
            raise

    def submit(self, worker: int, order: Order) -> None:
        """See `pg_agents.asynchronous.contract.Backend`."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `next_report` finds out, and says why
            self._pipes[worker].send(order)

    def next_report(self) -> tuple[int, Report]:
        """See `pg_agents.asynchronous.contract.Backend`."""
        ready = connection.wait(self._pipes)
        numbers = [number for number, pipe in enumerate(self._pipes) if pipe in ready]
        # In turn: a worker that is always ready must not keep the others waiting.
        worker = self._served = min(numbers, key=lambda number: (number - self._served - 1) % len(self._pipes))
        try:
            answer = self._pipes[worker].recv()
        except (EOFError, ConnectionResetError):
            process = self._processes[worker]
            process.join(PATIENCE)
            raise RuntimeError(
                f"Worker {worker} (process {process.pid}) has died, with exit code {process.exitcode}."
            ) from None
        if isinstance(answer, _Raised):
            raise answer.error from ElsewhereError(answer.text)
        assert isinstance(answer, Report)
        return worker, answer

    def write_back(self, policy: ActorCriticPolicy) -> None:
        """See `pg_agents.asynchronous.contract.Backend`."""
        self._memory.write_back(policy)

    def close(self) -> None:
        """See `pg_agents.asynchronous.contract.Backend`."""
        # A step of the optimiser that is cut in two is no harm where several write without locks.
        for process in self._processes:
            if process.pid is not None:
                process.terminate()
        for process in self._processes:
            if process.pid is not None:
                process.join(PATIENCE)
                if process.is_alive():
                    process.kill()
                    process.join()
                process.close()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []


def _work(pipe: Connection, memory: SharedMemory, parcel: Parcel) -> None:
    """The life of a worker: it ends with its parent, at the latest."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    th.set_num_threads(1)
    try:
        agent = parcel.open()
        link = SharedLink(memory, agent.policy, parcel.number)
        agent.begin(parcel.start)
        worker = Worker(agent, link)
        while True:
            pipe.send(worker.run(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except BaseException as error:
        pipe.send(_Raised(_sendable(error), traceback.format_exc()))


def _sendable(error: BaseException) -> BaseException:
    """The error, or one that says the same where it cannot be pickled, or is pickled but cannot be read."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
