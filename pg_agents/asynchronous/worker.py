"""A worker: an agent with an environment of its own, which carries out orders."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from pg_agents.asynchronous.contract import Link, Order, Report, Staleness
from pg_agents.asynchronous.linked import Linked


class _Recorder(BaseCallback):
    """Records the steps for the parent's callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        self.rewards: list[np.ndarray] = []
        self.dones: list[np.ndarray] = []
        self.infos: dict[int, list[dict[str, Any]]] = {}

    def _on_step(self) -> bool:
        dones = np.array(self.locals["dones"], dtype=bool)
        if dones.any():
            self.infos[len(self.dones)] = [
                {name: value for name, value in info.items() if name != "terminal_observation"}
                for info in self.locals["infos"]
            ]
        # A copy: later the value of a last observation is added to it.
        self.rewards.append(np.array(self.locals["rewards"]))
        self.dones.append(dones)
        return True


class Worker:
    """Carries out orders.

    Args:
        agent: The worker's own agent.
        link: Its link to the shared parameters.

    Attributes:
        is_stopped: It makes no further update.
    """

    def __init__(self, agent: Linked, link: Link) -> None:
        self.agent = agent
        agent.link = link
        self.is_stopped = False
        self._recorder = _Recorder()
        _, self._callback = agent._setup_learn(1, self._recorder)

    def stop(self) -> None:
        """End an order that another thread carries out, after its present update."""
        self.is_stopped = True

    def run(self, order: Order) -> Report:
        """Carry out an order.

        Raises:
            Exception: As `collect_rollouts` and `train` of the agent.
        """
        started = time.perf_counter()
        agent, recorder = self.agent, self._recorder
        agent.num_timesteps, agent.staleness, n_epochs = order.first_step, Staleness(), agent._n_updates
        returns = agent.episode_statistics.finished
        recorder.forget()
        returns.clear()
        n_updates = 0
        while n_updates < order.n_updates and not self.is_stopped:
            assert agent.env is not None, "the parcel's"
            agent.collect_rollouts(agent.env, self._callback, agent.rollout_buffer, agent.n_steps)
            agent._update_current_progress_remaining(agent.num_timesteps, order.total_timesteps)
            agent.train()
            n_updates += 1
        return Report(
            n_updates,
            np.array(recorder.rewards),
            np.array(recorder.dones),
            recorder.infos,
            list(returns),
            agent.staleness,
            time.perf_counter() - started,
            _metrics(agent) if order.wants_metrics else {},
            agent._n_updates - n_epochs,
        )


def _metrics(agent: Linked) -> dict[str, tuple[Any, Any]]:
    """The logged values of the agent's last update and rollout, with the outputs that exclude them."""
    logger = agent.logger
    return {name: (value, logger.name_to_excluded[name]) for name, value in logger.name_to_value.items()}
