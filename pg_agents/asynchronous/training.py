"""The parent of asynchronous training: it gives orders, tells callbacks, and writes the log."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.type_aliases import MaybeCallback

from pg_agents.asynchronous.backends import backend_for
from pg_agents.asynchronous.contract import Backend, Order, Report
from pg_agents.asynchronous.linked import Linked
from pg_agents.asynchronous.parcels import Parcel, pack
from pg_agents.looking import next_look, skip
from pg_agents.resuming.run import Run, callbacks_in, in_progress, tell_of_boundary

# Seconds that an order should take: long enough that reporting costs little, short enough for callbacks.
_SHORT, _LONG = 0.01, 0.04
_MOST_STEPS = 10_000  # of an order


class Training:
    """One call of `learn`.

    Args:
        agent: The agent, whose policy gets the shared parameters' values before callbacks are called.
        backend: The workers.
        n_workers: Their number.
        run: Its callback is called for each step that is reported, and its iterations are updates.
    """

    def __init__(
        self,
        agent: Linked,
        backend: Backend,
        n_workers: int,
        run: Run,
    ) -> None:
        self.agent, self.backend, self.n_workers = agent, backend, n_workers
        self.running, self.callback = run, run.callback
        self.total_timesteps, self.log_interval = run.total_timesteps, run.log_interval
        self._per_update = agent.n_steps * agent.n_envs
        self._ordered = agent.num_timesteps  # steps
        self._n_ordered = run.iteration  # updates
        self._size = [1] * n_workers
        # A single worker waits for the callbacks, so that they see the same in every run. Of several, each has its
        # next order while the parent looks at the last report.
        self._queue = 1 if n_workers == 1 else 2
        self._waiting: Counter[int] = Counter()
        self._shown: dict[str, Any] = {"self": agent, "env": agent.env, "callback": run.callback}
        self._has_boundaries = any(hasattr(one, "on_boundary") for one in callbacks_in(run.callback))

    def run(self) -> None:
        """Train until all steps are taken, or a callback stops the training.

        Raises:
            Exception: A worker's error.
        """
        for _ in range(self._queue):
            for worker in range(self.n_workers):
                self._order(worker)
        while self._waiting.total():
            worker, report = self.backend.next_report()
            self._waiting[worker] -= 1
            self._adapt(worker, report)
            # Before callbacks are asked: they may take long.
            if self._queue > 1:
                self._order(worker)
            if not self._tell(worker, report):
                return
            # Where the parent looks: elsewhere, other workers may be in the middle of an update.
            if self._has_boundaries:
                self.backend.write_back(self.agent.policy)
                tell_of_boundary(self.callback)
            if self._queue == 1:
                self._order(worker)

    def _order(self, worker: int) -> None:
        left = math.ceil((self.total_timesteps - self._ordered) / self._per_update)
        if left <= 0:
            return
        # Towards the end in smaller parts, so that no worker is left alone with a large one.
        n_updates = max(1, min(self._size[worker], left // (self._queue * self.n_workers)))
        if self.n_workers == 1:
            n_updates = min(self._until_the_next_look(), left)
        before, self._n_ordered = self._n_ordered, self._n_ordered + n_updates
        # Reports come in another order: the log's may be that of any order that was on its way then.
        on_their_way = sum(self._size) * self._queue if self.n_workers > 1 else 0
        logs = self._passes_a_log(before, self._n_ordered + on_their_way)
        self.backend.submit(worker, Order(n_updates, self._ordered, self.total_timesteps, logs))
        self._ordered += n_updates * self._per_update
        self._waiting[worker] += 1

    def _until_the_next_look(self) -> int:
        """Updates before the one in which a callback wants to be asked, or the log is written; at least 1."""
        look = next_look(self.callback, self.agent.n_envs)
        if look is None or look.at_ends:
            return 1
        most = min((look.steps - 1) / self.agent.n_steps, _MOST_STEPS / self._per_update)
        if self.log_interval is not None:
            most = min(most, self.log_interval - self._n_ordered % self.log_interval)
        return max(1, int(most))

    def _adapt(self, worker: int, report: Report) -> None:
        if self.n_workers == 1:
            return
        if report.seconds < _SHORT and report.n_updates == self._size[worker]:
            most = min(self.log_interval or math.inf, _MOST_STEPS / self._per_update)
            self._size[worker] = int(max(1, min(2 * self._size[worker], most)))
        elif report.seconds > _LONG:
            self._size[worker] = max(1, self._size[worker] // 2)

    def _tell(self, worker: int, report: Report) -> bool:
        """Tell callbacks and the log; whether the training goes on."""
        agent = self.agent
        agent._n_updates += report.n_epochs
        agent.staleness.add(report.staleness)
        agent.episode_statistics.finish(*report.returns)
        agent.episode_statistics.check_ends(agent.num_timesteps)
        for name, (value, exclude) in report.metrics.items():
            agent._logger.record(name, value, exclude=exclude)
        agent._logger.record("train/n_updates", agent._n_updates, exclude="tensorboard")
        self._shown |= {"worker": worker, "staleness": report.staleness.mean}
        if not self._tell_steps(report):
            return False
        before = self.running.iteration
        self.running.iteration += report.n_updates
        agent._update_current_progress_remaining(agent.num_timesteps, self.total_timesteps)
        if self._passes_a_log(before, self.running.iteration):
            agent.dump_logs(self.running.iteration)
        return True

    def _passes_a_log(self, before: int, after: int) -> bool:
        return self.log_interval is not None and after // self.log_interval > before // self.log_interval

    def _tell_steps(self, report: Report) -> bool:
        agent, callback = self.agent, self.callback
        n_steps, n_envs = report.rewards.shape
        look = next_look(callback, n_envs)
        if look is not None and look.steps > n_steps and not look.at_ends:
            agent.num_timesteps += n_steps * n_envs
            for step, infos in report.infos.items():
                agent._update_info_buffer(infos, report.dones[step])
            skip(callback, n_steps, n_envs, int(report.dones.sum()))
            return True
        self.backend.write_back(agent.policy)
        nothing: list[dict[str, Any]] = [{} for _ in range(n_envs)]
        for step in range(n_steps):
            if step % agent.n_steps == 0:
                callback.on_rollout_start()
            infos = report.infos.get(step, nothing)
            agent.num_timesteps += n_envs
            if infos is not nothing:
                agent._update_info_buffer(infos, report.dones[step])
            self._shown |= {"rewards": report.rewards[step], "dones": report.dones[step], "infos": infos}
            callback.update_locals(self._shown)
            if not callback.on_step():
                return False
            if (step + 1) % agent.n_steps == 0:
                callback.on_rollout_end()
        return True


def train(
    agent: Linked,
    n_workers: int,
    backend: str,
    total_timesteps: int,
    callback: MaybeCallback,
    log_interval: int | None,
    tb_log_name: str,
    reset_num_timesteps: bool,
    progress_bar: bool,
) -> None:
    """Train with workers, in the place of SB3's `learn`; all arguments but the first three are those of `learn`.

    Args:
        agent: The agent.
        n_workers: Number of workers.
        backend: The workers' backend, a name in `pg_agents.asynchronous.backends.NAMES`.
        total_timesteps: As for `learn`.
        callback: As for `learn`.
        log_interval: As for `learn`.
        tb_log_name: As for `learn`.
        reset_num_timesteps: As for `learn`.
        progress_bar: As for `learn`.

    Raises:
        ValueError: The agent, or its environment, cannot be shared by workers in this way.
        Exception: A worker's error.
    """
    make, parcels = backend_for(agent, backend), _parcels(agent, n_workers)
    total_timesteps, callback = agent._setup_learn(
        total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
    )
    workers = make(agent, parcels)
    with _closing(workers, agent):
        callback.on_training_start(locals(), globals())
        run = Run(total_timesteps, log_interval, callback)
        with in_progress(agent, run):
            tell_of_boundary(callback)
            Training(agent, workers, n_workers, run).run()
    callback.on_training_end()


def go_on(agent: Linked, n_workers: int, backend: str, run: Run) -> None:
    """Go on with a training from a checkpoint, with new workers.

    Args:
        agent: The agent.
        n_workers: Number of workers.
        backend: As for `train`.
        run: The training, whose callback has been told of its beginning.

    Raises:
        ValueError: As `train`.
        Exception: A worker's error.
    """
    workers = backend_for(agent, backend)(agent, _parcels(agent, n_workers))
    with _closing(workers, agent):
        Training(agent, workers, n_workers, run).run()
    run.callback.on_training_end()


def _parcels(agent: Linked, n_workers: int) -> list[Parcel]:
    content = pack(agent)
    return [Parcel(content, start, number) for number, start in enumerate(agent.starts(n_workers))]


@contextmanager
def _closing(workers: Backend, agent: Linked) -> Iterator[None]:
    """End the workers, and leave the agent with what they have learnt."""
    try:
        yield
    finally:
        workers.close()
        workers.write_back(agent.policy)
