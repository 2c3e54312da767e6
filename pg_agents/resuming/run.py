"""The run that a `learn` is, and the boundaries between its updates and rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback


@dataclass
class Run:
    """What a `learn` in progress knows beside the agent.

    Attributes:
        total_timesteps: Steps at which it ends.
        log_interval: The log is written every so many updates; None for never.
        callback: All callbacks.
        iteration: Number of rollouts collected to their end.
    """

    total_timesteps: int
    log_interval: int | None
    callback: BaseCallback
    iteration: int = 0


def callbacks_in(callback: BaseCallback) -> Iterator[BaseCallback]:
    """A callback and those inside it, from the outermost, in the order in which it holds them."""
    met: set[int] = set()

    def walk(one: BaseCallback) -> Iterator[BaseCallback]:
        if id(one) in met:
            return
        met.add(id(one))
        yield one
        for name, value in list(vars(one).items()):
            if name == "parent":
                continue
            for inner in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(inner, BaseCallback):
                    yield from walk(inner)

    return walk(callback)


def has_boundaries(callback: BaseCallback) -> bool:
    """Whether `tell_of_boundary` tells anyone."""
    return any(hasattr(one, "on_boundary") for one in callbacks_in(callback))


@contextmanager
def in_progress(agent: Any, run: Run) -> Iterator[None]:
    """Let callbacks find a run at the agent. A run inside another keeps the outer one.

    A training that `resume` has read is over by then: it goes on, or another one has begun.
    """
    outer, agent.current_run, agent.interrupted = agent.current_run, run, None
    try:
        yield
    finally:
        agent.current_run = outer


def go_through(agent: Any, run: Run, advance: Callable[[Run], None] = lambda run: None) -> None:
    """Rollouts and updates until all steps are taken, in the order of events of SB3's `learn`.

    Args:
        agent: The agent, with the run in progress.
        run: Moves on. Its callback has been told of the beginning, and of the boundary before the next rollout.
        advance: Called before each rollout; may make rollouts and updates of its own, but not the last ones.
    """
    callback = run.callback
    while agent.num_timesteps < run.total_timesteps:
        advance(run)
        if not agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, n_rollout_steps=agent.n_steps):
            break
        run.iteration += 1
        agent._update_current_progress_remaining(agent.num_timesteps, run.total_timesteps)
        if run.log_interval is not None and run.iteration % run.log_interval == 0:
            agent.dump_logs(run.iteration)
        agent.train()
        tell_of_boundary(callback)
    callback.on_training_end()


def tell_of_boundary(callback: BaseCallback) -> None:
    """Call `on_boundary` of all callbacks that have such a method.

    The buffer is empty there, the environments wait for the first step of the next rollout, and gSDE has not drawn its
    noise yet. A callback that stores the state of the training does so last, with `is_last_at_boundary = True`.

    Args:
        callback: The callback with all others inside.
    """
    told = [one for one in callbacks_in(callback) if hasattr(one, "on_boundary")]
    for one in sorted(told, key=lambda one: bool(getattr(one, "is_last_at_boundary", False))):
        one.on_boundary()
