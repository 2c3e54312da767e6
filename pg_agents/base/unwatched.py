"""Updates that nobody watches, in compiled code."""

from __future__ import annotations

import numpy as np

from pg_agents.base.acting import ActingMixin
from pg_agents.base.log import LogMixin
from pg_agents.buffers import OURS, EstimatorMixin
from pg_agents.contract import CompiledLoop
from pg_agents.envs.compiled import CompiledEnv, compiled_env
from pg_agents.resuming.run import Run
from pg_agents.schedules import constant_value, value_of
from pg_agents.spans import Parts as SpanParts
from pg_agents.spans import advance, n_unwatched

# The methods that a compiled loop carries out in its own way, and the others of a span.
_OF_A_LOOP = ("train", "estimate", "loss", "environment_actions", "value_prediction", "minibatch_metrics")
_BUFFERS_METHODS = frozenset(
    {"reset", "record", "add", "get", "draw_order", "compute_returns_and_advantage", "rollout"}
)
_OF_A_SPAN = (
    *("collect_rollouts", "update", "dump_logs", "coefficient", "coefficients", "action_generator", "collector_class"),
    *("_update_current_progress_remaining", "_update_learning_rate", "_engine_for"),
)


class UnwatchedMixin(ActingMixin, LogMixin, init=False):
    """Rollouts and updates one after the other in one call, where that gives the same."""

    def _advance_unwatched(self, run: Run) -> None:
        """Make updates that nobody watches in one compiled call, where that gives the same."""
        assert self.env is not None, "checked by `learn`"
        if self.reuses_samples or self.separate_critic or any(map(self._overrides, _OF_A_SPAN)):
            return
        buffer, n_updates = self.rollout_buffer, n_unwatched(self, run, self._logger)
        env = compiled_env(self.env) if n_updates else None
        if env is None or env.normalizer is not None or self.on_epoch is not None or not self.has_critic:
            return
        if type(buffer) not in OURS.values() or buffer.buffer_size != self.n_steps or buffer.n_envs != self.n_envs:
            return
        assert isinstance(buffer, EstimatorMixin), "as all of `OURS`"
        if buffer.estimator != self.estimate or not _BUFFERS_METHODS.isdisjoint(vars(buffer)):
            return
        engine, loop = self._engine, self.loop_into(buffer, env)
        # Now that the buffer is full, it is asked whether it can learn.
        if loop is None or engine is not self._engine:
            return
        self._lazy_log.clear()
        first_step, total = self.num_timesteps, run.total_timesteps
        parts = SpanParts(
            env=env,
            loop=loop,
            statistics=self.episode_statistics,
            generator=self.action_generator(),
            coefficients=lambda number: self.coefficients(number, first_step, total),
        )
        if not advance(self, run, parts, n_updates):
            self.train()  # raises the error

    def loop_into(self, buffer: EstimatorMixin, env: CompiledEnv) -> CompiledLoop | None:
        """Rollouts and updates in compiled code, if they would be those of this agent.

        Args:
            buffer: A buffer of one rollout, which the loop fills.
            env: The agent's environment.
        """
        make, loss = getattr(self._engine, "loop", None), self.loss()
        if make is None or env.successes() is not None or any(map(self._overrides, _OF_A_LOOP)):
            return None
        if self.translation is not None:
            return None
        if self.use_sde:
            return None  # its noise is the policy's, which draws it before and in a rollout
        if loss.objective.coefficients or loss.penalty is not None or loss.value_clip is not None:
            return None
        if loss.scale != 1 or self.reuses_samples:
            return None
        loop: CompiledLoop = make(env, buffer, loss, gamma=self.gamma, gae_lambda=self.gae_lambda)
        return loop

    def coefficients(self, n_updates: int, first_step: int, total_timesteps: int) -> np.ndarray:
        """Learning rate, `ent_coef` and `vf_coef` of the next updates, `(3, n_updates)`.

        Args:
            n_updates: Number of updates.
            first_step: Steps before the rollout of the first of them.
            total_timesteps: Of the training.
        """
        found = np.empty((3, n_updates))
        schedules = self.lr_schedule, self.ent_coef, self.vf_coef
        constant = all(constant_value(one) is not None for one in schedules)
        for update in range(1 if constant else n_updates):
            steps = first_step + (update + 1) * self.n_steps * self.n_envs
            self._update_current_progress_remaining(steps, total_timesteps)
            rate = value_of("learning_rate", self.lr_schedule, self._current_progress_remaining)
            found[:, update] = rate, self.coefficient("ent_coef"), self.coefficient("vf_coef")
        if constant:
            found[:] = found[:, :1]
        return found
