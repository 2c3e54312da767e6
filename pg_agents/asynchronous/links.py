"""Links between workers and shared parameters that lie in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents.contract import Batches, Engine, Loss, MovesElsewhere, Summary
from pg_agents.engines.state import initial_state


def copy_into(policy: ActorCriticPolicy, parameters: Sequence[th.Tensor]) -> None:
    """Give the policy's parameters other values, where they lie."""
    with th.no_grad():
        for parameter, value in zip(policy.parameters(), parameters, strict=True):
            parameter.copy_(value)


def copies(policy: ActorCriticPolicy) -> list[th.Tensor]:
    """The values of the policy's parameters."""
    return [parameter.detach().clone() for parameter in policy.parameters()]


def move(
    engine: Engine, policy: ActorCriticPolicy, buffer: RolloutBuffer, loss: Loss, parameters: Sequence[th.Tensor]
) -> Summary:
    """Apply the gradient at the policy to other parameters, in one step of the policy's optimiser.

    Raises:
        TypeError: The engine, a plugin, has no `update_elsewhere`.
    """
    if not isinstance(engine, MovesElsewhere):
        raise TypeError(
            f"The engine {engine.name!r} moves only the parameters at which it computes the gradient: it has no "
            "`update_elsewhere`. engine='autograd' serves any policy."
        )
    return engine.update_elsewhere(policy, buffer, loss, Batches(), parameters)


class SharedMemory:
    """Parameters and the optimiser's state where all workers read and write them, without locks (Hogwild).

    Args:
        policy: Gives the values.
        n_workers: Number of workers.
        across_processes: Use memory that other processes can map.

    Attributes:
        parameters: In the order of `policy.parameters()`.
        states: The optimiser's state of each of them.
        n_updates: `(n_workers,)`: the updates that each worker has applied, which it alone writes.

    Raises:
        ValueError: The optimiser's state cannot be shared.
    """

    def __init__(self, policy: ActorCriticPolicy, n_workers: int, *, across_processes: bool) -> None:
        self.parameters = copies(policy)
        self.states = [
            {name: _copy(value) for name, value in initial_state(policy.optimizer, parameter).items()}
            for parameter in policy.parameters()
        ]
        self.n_updates = th.zeros(n_workers, dtype=th.int64)
        if across_processes:
            for tensor in [*self.parameters, self.n_updates]:
                tensor.share_memory_()  # type: ignore[no-untyped-call]
            for state in self.states:
                for value in state.values():
                    if isinstance(value, th.Tensor):
                        value.share_memory_()  # type: ignore[no-untyped-call]

    def write_back(self, policy: ActorCriticPolicy) -> None:
        """Copy all into a policy and its optimiser."""
        copy_into(policy, self.parameters)
        n_updates = int(self.n_updates.sum())
        for parameter, state in zip(policy.parameters(), self.states, strict=True):
            # RMSpropTFLike counts in a Python number, which cannot be shared.
            policy.optimizer.state[parameter] = {
                name: _copy(value) if isinstance(value, th.Tensor) else value + n_updates
                for name, value in state.items()
            }


class SharedLink:
    """A worker's link to a `SharedMemory`.

    Args:
        memory: The shared memory.
        policy: The worker's policy. Its optimiser takes the shared state for its own.
        worker: Number of the worker.
    """

    def __init__(self, memory: SharedMemory, policy: ActorCriticPolicy, worker: int) -> None:
        self.memory, self.worker, self._version = memory, worker, 0
        self.staleness = 0
        for parameter, state in zip(policy.parameters(), memory.states, strict=True):
            policy.optimizer.state[parameter] = state

    def pull(self, policy: ActorCriticPolicy) -> None:
        """See `pg_agents.asynchronous.contract.Link`."""
        self._version = int(self.memory.n_updates.sum())
        copy_into(policy, self.memory.parameters)

    def push(self, engine: Engine, policy: ActorCriticPolicy, buffer: RolloutBuffer, loss: Loss) -> Summary:
        """See `pg_agents.asynchronous.contract.Link`."""
        summary = move(engine, policy, buffer, loss, self.memory.parameters)
        n_updates = self.memory.n_updates
        self.staleness = int(n_updates.sum()) - self._version
        n_updates[self.worker] += 1
        return summary


class DelayedLink:
    """Parameters as they were some updates ago: staleness, simulated by one worker.

    Each gradient is that of a rollout of the parameters `delay` updates before, or of the first ones while there are
    no others, and is applied to the newest.

    Args:
        policy: Its parameters are the first ones.
        delay: Updates between pull and push.
    """

    def __init__(self, policy: ActorCriticPolicy, delay: int) -> None:
        self._past = deque([copies(policy)], maxlen=delay + 1)
        self.staleness = 0

    def pull(self, policy: ActorCriticPolicy) -> None:
        """See `pg_agents.asynchronous.contract.Link`."""
        copy_into(policy, self._past[0])

    def push(self, engine: Engine, policy: ActorCriticPolicy, buffer: RolloutBuffer, loss: Loss) -> Summary:
        """See `pg_agents.asynchronous.contract.Link`. The policy is the newest afterwards."""
        self.staleness = len(self._past) - 1
        newest = [parameter.clone() for parameter in self._past[-1]]
        try:
            summary = move(engine, policy, buffer, loss, newest)
            self._past.append(newest)
        finally:
            self.catch_up(policy)
        return summary

    def checkpoint_state(self) -> dict[str, Any]:
        """What a checkpoint of a training keeps: the parameters of the last updates."""
        return {"past": [[one.clone() for one in parameters] for parameters in self._past]}

    def restore_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Put these parameters back."""
        self._past = deque(state["past"], maxlen=self._past.maxlen)

    def catch_up(self, policy: ActorCriticPolicy) -> None:
        """Make the policy the newest."""
        copy_into(policy, self._past[-1])


def _copy(value: th.Tensor | int) -> th.Tensor | int:
    return value.detach().clone() if isinstance(value, th.Tensor) else value
