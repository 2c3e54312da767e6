"""Workers in threads of this process, in compiled code that holds no lock of Python's."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents.asynchronous.contract import Order, Report, Staleness
from pg_agents.asynchronous.linked import Linked
from pg_agents.asynchronous.links import SharedLink, SharedMemory
from pg_agents.asynchronous.parcels import Parcel
from pg_agents.asynchronous.worker import Worker
from pg_agents.contract import CompiledLoop
from pg_agents.envs.compiled import CompiledEnv, compiled_env


def why_not(agent: Linked) -> str | None:
    """The reason for which threads do not serve an agent; None if they do."""
    assert agent.env is not None, "checked by `learn`"
    parts = compiled_env(agent.env)
    if parts is None or not parts.copies.address:
        return "its environment is no world, whose steps compiled code can take"
    if agent.engine_in_use != "mlp":
        return f"its engine is {agent.engine_in_use!r}, not 'mlp'"
    if agent.use_sde:
        return "gSDE's noise is drawn between compiled steps, with a generator that threads share"
    return None


class LoopingWorker(Worker):
    """A worker whose rollouts and updates are one compiled loop, if that loop repeats its agent exactly.

    Args:
        agent: The worker's own agent.
        link: Its link to the shared parameters.
    """

    def __init__(self, agent: Linked, link: SharedLink) -> None:
        super().__init__(agent, link)
        self._shared = link
        self._env = None if agent.env is None else compiled_env(agent.env)
        self._loop = None if self._env is None else agent.compiled_loop(self._env)

    def stop(self) -> None:
        """As the parent's."""
        super().stop()
        if self._loop is not None:
            self._loop.stop()

    def run(self, order: Order) -> Report:
        """Carry out an order; an update whose metrics are asked for is made outside the loop."""
        n_updates = order.n_updates - order.wants_metrics
        if self._loop is None or self._env is None or n_updates == 0:
            return super().run(order)
        report = self._run_loop(self._loop, self._env, replace(order, n_updates=n_updates))
        if not order.wants_metrics:
            return report
        first_step = order.first_step + report.rewards.size
        return report.followed_by(super().run(replace(order, n_updates=1, first_step=first_step)))

    def _run_loop(self, loop: CompiledLoop, env: CompiledEnv, order: Order) -> Report:
        started = time.perf_counter()
        agent, memory = self.agent, self._shared.memory
        observations, starts = agent._last_obs, agent._last_episode_starts
        assert isinstance(observations, np.ndarray), "a world has no Dict observations"
        assert starts is not None, "set by `_setup_learn`"
        n_updates = loop.run(
            observations,
            starts,
            agent.episode_statistics.running,
            agent.action_generator(),
            agent.coefficients(order.n_updates, order.first_step, order.total_timesteps),
            memory.parameters,
            memory.n_updates.numpy(),
            self._shared.worker,
        )
        agent._last_obs, agent._last_episode_starts = loop.observations, loop.starts
        agent._n_updates += n_updates
        if not loop.is_finite:
            error = loop.refusal(order.first_step)
            raise type(error)(f"In worker {self._shared.worker}: {error}")
        infos: dict[int, list[dict[str, Any]]] = {}
        returns = []
        for step, copy, episode_return, stated_return, length in loop.episodes:
            of_step = infos.setdefault(step, [{} for _ in range(agent.n_envs)])
            of_step[copy] = {
                "TimeLimit.truncated": bool(loop.truncated[step, copy]),
                "episode": env.adapter.episode(episode_return, length),
            }
            returns.append(stated_return)
        total, largest = loop.staleness
        staleness = Staleness(n_updates, total, largest)
        seconds = time.perf_counter() - started
        return Report(n_updates, loop.rewards, loop.dones, infos, returns, staleness, seconds, {}, n_updates)


class Threads:
    """Worker threads; see `pg_agents.asynchronous.contract.Backend`.

    Args:
        policy: Gives the shared parameters their values.
        parcels: One for each worker.
    """

    def __init__(self, policy: ActorCriticPolicy, parcels: list[Parcel]) -> None:
        self._memory = SharedMemory(policy, len(parcels), across_processes=False)
        with _same_random_state():
            self._workers = [self._unpacked(parcel) for parcel in parcels]
            for worker in self._workers:
                worker.agent.action_generator()
        self._reports: queue.SimpleQueue[tuple[int, Report | BaseException]] = queue.SimpleQueue()
        self._orders: list[queue.SimpleQueue[Order | None]] = [queue.SimpleQueue() for _ in parcels]
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"pg_agents worker {number}", daemon=True)
            for number in range(len(parcels))
        ]
        for thread in self._threads:
            thread.start()

    def _unpacked(self, parcel: Parcel) -> LoopingWorker:
        agent = parcel.open()
        link = SharedLink(self._memory, agent.policy, parcel.number)
        agent.begin(parcel.start)
        return LoopingWorker(agent, link)

    def _work(self, number: int) -> None:
        try:
            while (order := self._orders[number].get()) is not None:
                self._reports.put((number, self._workers[number].run(order)))
        except BaseException as error:
            self._reports.put((number, error))

    def submit(self, worker: int, order: Order) -> None:
        """See `pg_agents.asynchronous.contract.Backend`."""
        self._orders[worker].put(order)

    def next_report(self) -> tuple[int, Report]:
        """See `pg_agents.asynchronous.contract.Backend`."""
        worker, answer = self._reports.get()
        if isinstance(answer, BaseException):
            raise answer
        return worker, answer

    def write_back(self, policy: ActorCriticPolicy) -> None:
        """See `pg_agents.asynchronous.contract.Backend`."""
        self._memory.write_back(policy)

    def close(self) -> None:
        """See `pg_agents.asynchronous.contract.Backend`."""
        for worker in self._workers:
            worker.stop()
        for orders in self._orders:
            orders.put(None)
        for thread in self._threads:
            thread.join()


@contextmanager
def _same_random_state() -> Iterator[None]:
    """Leave the global generators as they are: workers are seeded like agents, which seed them too."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - SB3 seeds this generator
    with th.random.fork_rng(devices=[]):
        yield
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002 - as above
