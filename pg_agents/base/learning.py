"""The training loop."""

from __future__ import annotations

import warnings
from contextlib import suppress

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import MaybeCallback
from typing_extensions import Self

from pg_agents.arguments import constructor_arguments
from pg_agents.base.setting_up import SetUpMixin
from pg_agents.base.unwatched import UnwatchedMixin
from pg_agents.callback_checks import check_callbacks
from pg_agents.checks import check_steps
from pg_agents.collecting import MANY, EpisodeStatistics
from pg_agents.engines import threads
from pg_agents.engines.compiling import announced
from pg_agents.envs.given import checked_as_given
from pg_agents.envs.normalizing import Statistics
from pg_agents.envs.processes import explained
from pg_agents.envs.restarting import check_restarts
from pg_agents.interrupts import deferrable
from pg_agents.logs import DEFAULT, Default, close_when_unused, record_hyperparameters
from pg_agents.observations import check_observations, check_storable
from pg_agents.resuming.resume import warn_of_another_training
from pg_agents.resuming.run import Run, go_through, in_progress, tell_of_boundary


class LearningMixin(SetUpMixin, UnwatchedMixin, init=False):
    """`learn`, and what happens before, between and after its rollouts."""

    @property
    def collects_itself(self) -> bool:
        """Whether `learn` collects rollouts in this process, into the agent's own buffer."""
        return True

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:
            self.episode_statistics = EpisodeStatistics(self.n_envs, self._stats_window_size)
            self._in_mid_episode = False
        assert self.env is not None, "checked by `learn`"
        statistics = Statistics(self.env)
        prepare = statistics.watched(super()._setup_learn)  # which resets the environment
        with checked_as_given(self.env):
            prepared: tuple[int, BaseCallback] = prepare(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
        if not self._custom_logger:
            close_when_unused(self._logger)
        statistics.check(self.num_timesteps)
        check_observations(self._last_obs, self.observation_space, self.n_envs, self.num_timesteps)
        check_callbacks(self, *prepared)
        check_storable(
            self._last_obs,
            self.policy.observation_space,
            self.num_timesteps,
            normalized=self._normalizes_observations,
        )
        if self.group_size is not None:
            check_restarts(self.env)
        self._engine_in_use = self._make_engine(self.loss())
        self._lazy_log.clear()
        record_hyperparameters(self, constructor_arguments(type(self)))
        return prepared

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | Default | None = DEFAULT,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        *,
        schedules_end: int | None = None,
    ) -> Self:
        """Train.

        Ctrl-C raises `KeyboardInterrupt` here and leaves a model that can be saved and trained on.

        Schedules run from 1 to 0 in every call, also in one with `reset_num_timesteps=False`. To train in pieces under
        one schedule, say where it ends:

            for piece in range(10):
                model.learn(10_000, reset_num_timesteps=piece == 0, schedules_end=100_000)

        Args:
            total_timesteps: Environment steps to take, over all environments; the last rollout is completed.
            callback: One callback, a list of them, or a function of `(locals, globals)`.
            log_interval: Log every so many updates; None never logs; by default the class's `default_log_interval`.
            tb_log_name: Name of the run in TensorBoard; by default the class's name.
            reset_num_timesteps: Count steps from 0 again, and begin with new episodes.
            progress_bar: Show a progress bar.
            schedules_end: `num_timesteps` at which schedules end; None for those at the end of this call.

        Returns:
            The agent itself.

        Raises:
            ValueError: A number of steps is below 0, or a callback does not fit the training.
        """
        check_steps("total_timesteps", total_timesteps, 0)
        if schedules_end is not None:
            check_steps("schedules_end", schedules_end, 1)
        self._schedules_end = schedules_end
        assert self.env is not None, (
            f"This {type(self).__name__} has no environment: give `load(..., env=...)` one, or call `set_env`."
        )
        warn_of_another_training(self, stacklevel=3)
        with threads.for_policy(self.policy), deferrable(), explained(self.env), announced(self.verbose):
            self._loop(
                total_timesteps,
                callback,
                self.default_log_interval if isinstance(log_interval, Default) else log_interval,
                type(self).__name__ if tb_log_name is None else tb_log_name,
                reset_num_timesteps,
                progress_bar,
            )
        self._lazy_log.write(self._logger)
        return self

    def _loop(
        self,
        total_timesteps: int,
        callback: MaybeCallback,
        log_interval: int | None,
        tb_log_name: str,
        reset_num_timesteps: bool,
        progress_bar: bool,
    ) -> None:
        """Collect and train until all steps are taken, in the order of events of SB3's `learn`."""
        iteration = 0  # as the next one, a local variable that callbacks may read
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        run = Run(total_timesteps, log_interval, callback, iteration)
        with in_progress(self, run):
            tell_of_boundary(callback)
            self._updates(run)

    def _updates(self, run: Run) -> None:
        """Rollouts and updates until all steps are taken.

        Args:
            run: Moves on. Its callback has been told of the beginning, and of the boundary before the next rollout.
        """
        go_through(self, run, self._before_rollout)
        self._check_ends()

    def _before_rollout(self, run: Run) -> None:
        if self._last_obs is None:  # an evaluation was here
            self._begin_episodes()
        self._check_ends()
        self._renew_buffer()
        self._advance_unwatched(run)

    def _check_ends(self) -> None:
        """Warn of episodes that do not end, or whose end `Monitor` does not see."""
        statistics, env = self.episode_statistics, self.env
        statistics.check_ends(self.num_timesteps)
        if not statistics.looks_at_monitor or statistics.n_finished < MANY:
            return
        statistics.looks_at_monitor = False
        assert env is not None, "checked by `learn`"
        if self.ep_info_buffer:
            return
        monitored = [False]
        with suppress(Exception):  # of environments that cannot say; a training does not end because of a warning
            monitored = env.env_is_wrapped(Monitor)
        if monitored[0]:
            warnings.warn(
                "Episodes end, but `Monitor` reports none, and there is no `rollout/ep_rew_mean`. It must be outside "
                "the wrapper that ends them: Monitor(TimeLimit(env, ...)).",
                stacklevel=2,
            )

    def _begin_episodes(self) -> None:
        """Reset the environment, and begin new episodes."""
        assert self.env is not None, "checked by `learn`"
        statistics = Statistics(self.env)
        self._last_obs = statistics.watched(self.env.reset)()
        statistics.check(self.num_timesteps)
        check_observations(self._last_obs, self.observation_space, self.n_envs, self.num_timesteps)
        self._last_episode_starts = np.ones((self.n_envs,), dtype=bool)
        if self._vec_normalize_env is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()
        self._in_mid_episode = False
        self.episode_statistics.running[:] = 0

    def rollout(self, callback: MaybeCallback = None) -> SB3RolloutBuffer:
        """Collect one rollout without learning from it; `train` does that.

        The first call begins with new episodes, as `learn` does; the next ones go on where the last ended.

        Args:
            callback: As for `learn`.

        Returns:
            The agent's rollout buffer, filled, with advantages and returns.
        """
        assert self.env is not None, f"This {type(self).__name__} has no environment: call `set_env`."
        if not hasattr(self, "_logger"):
            _, prepared = self._setup_learn(self.n_steps * self.n_envs, callback)
        else:
            prepared = self._init_callback(callback)
        if self._last_obs is None:
            self._begin_episodes()
        self._renew_buffer()
        with threads.for_policy(self.policy), explained(self.env), announced(self.verbose):
            self.collect_rollouts(self.env, prepared, self.rollout_buffer, self.n_steps)
        return self.rollout_buffer
