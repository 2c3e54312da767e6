"""Workers on a Ray cluster, which push their gradients to an actor with the parameters."""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents.asynchronous.contract import Order, Report
from pg_agents.asynchronous.linked import Linked
from pg_agents.asynchronous.links import copy_into
from pg_agents.asynchronous.parcels import Parcel
from pg_agents.asynchronous.worker import Worker
from pg_agents.contract import Batches, Engine, Loss, Summary
from pg_agents.engines.autograd import AutogradEngine
from pg_agents.engines.state import initial_state

_DEATHS = 3  # of a worker, one after the other, without a report between them


class Parameters:
    """The actor with the shared parameters and the optimiser.

    Args:
        values: The parameters.
        optimizer: The optimiser's class, its arguments and its state.
    """

    def __init__(self, values: list[np.ndarray], optimizer: tuple[Any, dict[str, Any], dict[str, Any]]) -> None:
        th.set_num_threads(1)
        self._parameters = [th.nn.Parameter(th.tensor(value)) for value in values]
        cls, arguments, state = optimizer
        self._optimizer = cls(self._parameters, **arguments)
        self._optimizer.load_state_dict(state)
        self._version = 0

    def pull(self) -> tuple[int, list[np.ndarray]]:
        """The number of updates so far, and the parameters."""
        return self._version, [parameter.detach().numpy().copy() for parameter in self._parameters]

    def push(self, gradient: list[np.ndarray], learning_rate: float, version: int) -> int:
        """Apply a gradient, taken at the parameters of that version; how many updates later that is."""
        for parameter, part in zip(self._parameters, gradient, strict=True):
            parameter.grad = th.tensor(part)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        staleness, self._version = self._version - version, self._version + 1
        return staleness

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's state."""
        state: dict[str, Any] = self._optimizer.state_dict()
        return state


class _Gradient(th.optim.Optimizer):
    """Keeps the gradient in the place of a step."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__(policy.parameters(), {"lr": 0.0})
        self.gradient: list[np.ndarray] = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override] # nothing is returned
        parameters = self.param_groups[0]["params"]
        self.gradient = [
            (th.zeros_like(parameter) if parameter.grad is None else parameter.grad).numpy().copy()
            for parameter in parameters
        ]


class RayLink:
    """A worker's link to `Parameters`.

    Args:
        parameters: Handle of the actor.
        policy: The worker's policy, whose optimiser is replaced by one that makes no steps.
    """

    def __init__(self, parameters: Any, policy: ActorCriticPolicy) -> None:
        self._actor, self._version, self.staleness = parameters, 0, 0
        policy.optimizer = self._gradient = _Gradient(policy)

    def pull(self, policy: ActorCriticPolicy) -> None:
        """See `pg_agents.asynchronous.contract.Link`."""
        import ray

        self._version, values = ray.get(self._actor.pull.remote())
        copy_into(policy, [th.tensor(value) for value in values])

    def push(self, engine: Engine, policy: ActorCriticPolicy, buffer: RolloutBuffer, loss: Loss) -> Summary:
        """See `pg_agents.asynchronous.contract.Link`."""
        import ray

        summary = engine.update(policy, buffer, loss, Batches())
        optimizer = self._gradient
        rate = optimizer.param_groups[0]["lr"]
        self.staleness = ray.get(self._actor.push.remote(optimizer.gradient, rate, self._version))
        return summary


class RemoteWorker:
    """The actor of a worker.

    Args:
        parcel: The parcel that it is made from.
        parameters: Handle of the actor with the parameters.
    """

    def __init__(self, parcel: Parcel, parameters: Any) -> None:
        th.set_num_threads(1)
        agent = parcel.open()
        agent.engine = AutogradEngine.name  # the compiled one makes steps of known optimisers only
        link = RayLink(parameters, agent.policy)
        agent.begin(parcel.start)
        self._worker = Worker(agent, link)

    def run(self, order: Order) -> Report:
        """Carry out an order."""
        return self._worker.run(order)


class Ray:
    """Ray actors; see `pg_agents.asynchronous.contract.Backend`. A worker that dies is replaced.

    The cluster is the one that this process is connected to, else that of RAY_ADDRESS, else one on this machine for as
    long as the training lasts. Each worker takes one of its CPUs.

    If the actor with the parameters dies, the training ends, and the agent keeps the values that were fetched last.

    Args:
        agent: Gives the shared parameters their values.
        parcels: One for each worker.

    Raises:
        ValueError: The cluster has fewer CPUs than there are workers.
    """

    def __init__(self, agent: Linked, parcels: list[Parcel]) -> None:
        import ray

        self._parcels = parcels
        self._is_closed = False
        self._is_own = not ray.is_initialized()
        if self._is_own:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            n_cpus = ray.cluster_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
            if n_cpus < len(parcels):
                raise ValueError(f"`n_workers` is {len(parcels)}, but the Ray cluster has {n_cpus:g} CPUs.")
            optimizer = agent.policy.optimizer
            for parameter in agent.policy.parameters():
                optimizer.state[parameter] = initial_state(optimizer, parameter)
            values = [parameter.detach().numpy().copy() for parameter in agent.policy.parameters()]
            given = type(optimizer), optimizer.defaults, copy.deepcopy(optimizer.state_dict())
            # Fetched last.
            self._values, self._state = values, given[-1]
            self._parameters: Any = ray.remote(num_cpus=0)(Parameters).remote(values, given)
            self._make = ray.remote(num_cpus=1)(RemoteWorker)
            self._workers: list[Any] = [self._make.remote(parcel, self._parameters) for parcel in parcels]
            self._deaths = [0 for _ in parcels]
            # What is awaited: the worker's number, the actor that it was when it got the order, and the order.
            self._awaited: dict[Any, tuple[int, Any, Order]] = {}
        except BaseException:
            if self._is_own:
                ray.shutdown()
            raise

    def submit(self, worker: int, order: Order) -> None:
        """See `pg_agents.asynchronous.contract.Backend`."""
        actor = self._workers[worker]
        self._awaited[actor.run.remote(order)] = worker, actor, order

    def next_report(self) -> tuple[int, Report]:
        """See `pg_agents.asynchronous.contract.Backend`."""
        import ray

        while True:
            (ready,), _ = ray.wait(list(self._awaited), num_returns=1)
            worker, actor, order = self._awaited.pop(ready)
            try:
                report: Report = ray.get(ready)
            except ray.exceptions.RayTaskError:  # an error of the worker's own
                raise
            except ray.exceptions.RayActorError as error:
                if actor is self._workers[worker]:
                    self._replace(worker, error)
                self.submit(worker, order)
            else:
                self._deaths[worker] = 0
                return worker, report

    def _replace(self, worker: int, error: Exception) -> None:
        self._deaths[worker] += 1
        if self._deaths[worker] == _DEATHS:
            raise RuntimeError(f"Worker {worker} has died {_DEATHS} times without a report.") from error
        parcel = self._parcels[worker]
        start = parcel.start
        # With the same random state, it would repeat its predecessor's steps.
        numbers = [int(word) for word in np.random.SeedSequence().generate_state(3)]
        start = replace(
            start,
            seed=numbers[0],
            generator=np.random.default_rng(numbers),
            torch=numbers[1],
            numpy=numbers[2],
        )
        self._workers[worker] = self._make.remote(replace(parcel, start=start), self._parameters)

    def write_back(self, policy: ActorCriticPolicy) -> None:
        """See `pg_agents.asynchronous.contract.Backend`."""
        if not self._is_closed:
            self._fetch()
        copy_into(policy, [th.tensor(value) for value in self._values])
        policy.optimizer.load_state_dict(self._state)

    def _fetch(self) -> None:
        import ray

        (_, self._values), self._state = ray.get(
            [self._parameters.pull.remote(), self._parameters.optimizer_state.remote()]
        )

    def close(self) -> None:
        """See `pg_agents.asynchronous.contract.Backend`."""
        import ray

        if self._is_closed:
            return
        self._is_closed = True
        try:
            for actor in self._workers:
                ray.kill(actor)
            self._fetch()
            ray.kill(self._parameters)
        except ray.exceptions.RayError as error:  # a warning, which hides no error that has ended the training
            warnings.warn(
                f"The shared parameters could not be fetched, so the agent keeps the last ones: {error}",
                stacklevel=2,
            )
        finally:
            if self._is_own:
                ray.shutdown()
