"""The vocabulary of asynchronous training.

| who      | says to  | with                                                                |
|----------|----------|---------------------------------------------------------------------|
| parent   | worker   | `Order`: make some updates                                          |
| worker   | parent   | `Report`: the steps that were taken, and how the updates went       |
| worker   | memory   | `Link`: pull the shared parameters, push a gradient                 |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents.contract import Engine, Loss, Summary


@dataclass(frozen=True)
class Order:
    """An order to a worker.

    Attributes:
        n_updates: Updates to make, each from a new rollout.
        first_step: Number of steps in earlier orders to all workers; it determines the values of schedules.
        total_timesteps: Number of steps of the training.
        wants_metrics: The report must have the metrics of the last update.
    """

    n_updates: int
    first_step: int
    total_timesteps: int
    wants_metrics: bool = False


@dataclass
class Staleness:
    """The staleness of some updates: the number of other updates between a worker's pull and its push.

    Attributes:
        count: Number of updates.
        total: Sum of their staleness.
        largest: The largest staleness of an update.
    """

    count: int = 0
    total: int = 0
    largest: int = 0

    def add(self, other: Staleness) -> None:
        """Add the updates of another object."""
        self.count += other.count
        self.total += other.total
        self.largest = max(self.largest, other.largest)

    @property
    def mean(self) -> float:
        """The mean staleness of an update."""
        return self.total / max(self.count, 1)


@dataclass
class Report:
    """A worker's report on an order; its arrays have one row for each step of its environments.

    Attributes:
        n_updates: Updates made.
        rewards: `(S, N)`, as the agent sees them.
        dones: `(S, N)` bool.
        infos: The infos of steps that ended an episode, by row.
        returns: Returns of the episodes that ended, in the environment's own rewards.
        staleness: The staleness of the updates.
        seconds: That the order took.
        metrics: Of the last update, by their key in the log, with the outputs that leave them out; empty where they
            were not asked for.
        n_epochs: Passes over rollouts, as `train/n_updates` counts them.
    """

    n_updates: int
    rewards: np.ndarray
    dones: np.ndarray
    infos: dict[int, list[dict[str, Any]]]
    returns: list[float]
    staleness: Staleness
    seconds: float
    metrics: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    n_epochs: int = 0

    def followed_by(self, other: Report) -> Report:
        """This report and the next one of the same worker, joined."""
        n_steps = len(self.rewards)
        staleness = Staleness()
        staleness.add(self.staleness)
        staleness.add(other.staleness)
        return Report(
            self.n_updates + other.n_updates,
            np.concatenate([self.rewards, other.rewards]),
            np.concatenate([self.dones, other.dones]),
            self.infos | {n_steps + step: infos for step, infos in other.infos.items()},
            self.returns + other.returns,
            staleness,
            self.seconds + other.seconds,
            other.metrics,
            self.n_epochs + other.n_epochs,
        )


@dataclass(frozen=True)
class Start:
    """The random state in which a worker begins.

    Attributes:
        seed: Seed of its environments; None leaves them as they are.
        generator: From which the compiled engine draws; None for one that torch's generator seeds.
        torch: State of torch's generator, or a seed for it.
        numpy: State of NumPy's global generator, or a seed for it.
    """

    seed: int | None
    generator: np.random.Generator | None
    torch: th.Tensor | int
    numpy: Any


class Link(Protocol):
    """A worker's way to the shared parameters."""

    def pull(self, policy: ActorCriticPolicy) -> None:
        """Copy the shared parameters into the policy, which then acts for one rollout."""
        ...

    def push(self, engine: Engine, policy: ActorCriticPolicy, buffer: RolloutBuffer, loss: Loss) -> Summary:
        """Apply the gradient of the loss, at the parameters that were pulled, to the shared parameters.

        Raises:
            NotFiniteError: The gradient is not finite, and was not applied.
        """
        ...

    @property
    def staleness(self) -> int:
        """Updates of the shared parameters between the last pull and the push that followed it."""
        ...


class Backend(Protocol):
    """A place for workers to run. Each worker carries out its orders one after the other."""

    def submit(self, worker: int, order: Order) -> None:
        """Give a worker an order; it may have others to carry out before."""
        ...

    def next_report(self) -> tuple[int, Report]:
        """Wait for a report; which worker's it is, and the report.

        Raises:
            Exception: A worker's error, or a `RuntimeError` for a worker that has died.
        """
        ...

    def write_back(self, policy: ActorCriticPolicy) -> None:
        """Copy the shared parameters, and the optimiser's state, into the parent's policy."""
        ...

    def close(self) -> None:
        """End all workers, even in the middle of an order. May be called twice."""
        ...
