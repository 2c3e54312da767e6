"""A training that goes on from a checkpoint."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import MaybeCallback
from typing_extensions import Self

from pg_agents.arguments import constructor_arguments
from pg_agents.base.common import Env
from pg_agents.base.learning import LearningMixin
from pg_agents.engines import threads
from pg_agents.engines.compiling import announced
from pg_agents.envs.processes import explained
from pg_agents.interrupts import deferrable
from pg_agents.logs import DEFAULT, Default, record_hyperparameters
from pg_agents.resuming.resume import interrupted_run, prepared, resumed
from pg_agents.resuming.run import in_progress


class ResumingMixin(LearningMixin, init=False):
    """`resume` and `learn_on`."""

    @classmethod
    def resume(
        cls, folder: str | pathlib.Path, env: Env = None, *, device: th.device | str = "auto", **given: Any
    ) -> Self:
        """The agent of a run with a `Checkpoint`, in the state of the newest whole checkpoint; `learn_on` goes on.

        No code from the folder is run. The agent is made from its arguments, and the environment from registered ids.

        Args:
            folder: Folder of the run.
            env: The environment, like the one of the run; None to make it again, where that is possible.
            device: Torch device of the policy.
            **given: Constructor arguments that a file cannot hold, such as a function as `learning_rate`, or that are
                to change.

        Raises:
            TypeError: A keyword is not an argument of the constructor.
            FileNotFoundError: There is no whole checkpoint; the message says what was tried.
            ValueError: The checkpoint is of another class, or the environment or an argument has to be given, or the
                environment does not go on as the one of the run did.

        Warns:
            UserWarning: A damaged checkpoint is skipped.
        """
        agent, interrupted = resumed(cls, folder, env, device, given)
        agent.interrupted, agent._prior_on_device = interrupted, (None, None)
        return agent

    def make_parts(self, stored: Mapping[str, Any]) -> None:
        """Make the attributes that a stored state goes into, where they are made only when needed.

        Args:
            stored: The states of the attributes, by name.
        """

    def learn_on(
        self,
        total_timesteps: int | None = None,
        callback: MaybeCallback = None,
        log_interval: int | Default | None = DEFAULT,
        progress_bar: bool = False,
    ) -> Self:
        """Go on with the training that `resume` has read, as if it had not been interrupted.

        Args:
            total_timesteps: Steps at which it ends, those before the checkpoint included; by default as in the
                interrupted `learn`. Schedules end there.
            callback: The callbacks of that `learn` again, of the same classes in the same order; they get their
                counters back. The `Checkpoint` is made again. An empty list goes on without the others.
            log_interval: Log every so many updates; by default as in that `learn`.
            progress_bar: Show a progress bar.

        Returns:
            The agent itself.

        Raises:
            ValueError: The agent does not come from `resume`, the end is before that of the interrupted `learn`, or
                callbacks are missing.
        """
        interrupted = interrupted_run(self)
        if total_timesteps is not None:
            self._schedules_end = None
        with threads.for_policy(self.policy), deferrable(), explained(self.env), announced(self.verbose):
            self._engine_in_use = self._make_engine(self.loss())
            self._lazy_log.clear()
            run = prepared(self, interrupted, total_timesteps, callback, log_interval, progress_bar)
            if interrupted.records_hyperparameters:
                record_hyperparameters(self, constructor_arguments(type(self)))
            with in_progress(self, run):
                self._updates(run)
        self._lazy_log.write(self._logger)
        return self
