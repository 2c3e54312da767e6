"""`PolicyGradient`: the base of all algorithms, with the four slots in which they differ.

Every policy-gradient algorithm is `θ += α Σ_i ψ_i ∇ log π(a_i|s_i)` (+ entropy, + regression of the value), and
differs in four answers:

| slot                 | question                                  |
|----------------------|-------------------------------------------|
| `collect_rollouts`   | which experience?                         |
| `estimate`           | how good was each action?                 |
| `objective`          | which scalar of log π is maximised?       |
| `update`             | how do the parameters move?               |

A subclass declares the slot that differs and inherits the others. What all have beside the slots is in
`pg_agents.base`: arguments, training, files, the engine, the log.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import FloatSchedule, explained_variance, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from pg_agents import tuning
from pg_agents.base.common import PRIOR_KL_ESTIMATORS, CommonArguments, Env
from pg_agents.base.resuming import ResumingMixin
from pg_agents.base.saving import SavingMixin
from pg_agents.buffers import EpisodeMixin, EstimatorMixin
from pg_agents.collecting import Collector, EpisodeCollector, Setting
from pg_agents.contract import Batches, Loss, Minibatch, NotFiniteError, Objective, Rollout, Summary
from pg_agents.engines.autograd import AutogradEngine
from pg_agents.envs.compiled import compiled_env
from pg_agents.estimators import Floats, gae
from pg_agents.groups import GroupCollector, RollingGroupCollector
from pg_agents.logs import DEFAULT, rollout_metrics
from pg_agents.objectives import predicted_values
from pg_agents.policies import ACTOR_CRITIC_POLICIES
from pg_agents.rolling import RollingCollector, RollingEpisodeCollector
from pg_agents.schedules import value_of

if TYPE_CHECKING:
    from optuna import Trial

__all__ = ["DEFAULT", "PRIOR_KL_ESTIMATORS", "CommonArguments", "Env", "PolicyGradient"]


class PolicyGradient(SavingMixin, ResumingMixin, init=False):
    """Base of all algorithms: an SB3 `OnPolicyAlgorithm` whose loop has four slots.

    Raises:
        TypeError: A keyword is unknown.
        ValueError: An argument is out of range.
        AssertionError: The action space is not supported (in SB3's words).
    """

    policy_aliases = ACTOR_CRITIC_POLICIES
    has_critic = True
    separate_critic = False  # whether the parameters that only the value depends on may have a step size of their own
    policy_loss_name = "policy_loss"  # in the log; SB3 has two names for it
    fixed_on_load = frozenset({"policy"})  # arguments that a saved agent cannot change
    default_log_interval: ClassVar[int] = 1  # of `learn`
    # Nothing is learnt from an episode before its end, so an episode that never ends must raise an error.
    max_episode_steps = 100_000
    search: ClassVar[tuning.SearchSpace] = {
        "n_envs": tuning.PowerOfTwo(1, 32),
        "normalize": tuning.Normalisation(),
        "learning_rate": tuning.ScheduleBetween(1e-5, 2e-2),
        "gamma": tuning.OneMinus(1e-4, 0.1),
        "policy": tuning.Networks(),
    }

    # The four slots

    @property
    def collector_class(self) -> type[Collector]:
        """Collects the rollouts: steps, whole episodes (`n_episodes`), or groups of them (`group_size`)."""
        if self.n_episodes is None:
            return Collector
        return EpisodeCollector if self.group_size is None else GroupCollector

    def _rolling_collector(self, env: VecEnv) -> type[Collector] | None:
        """The collector with the results of `collector_class` whose steps are compiled, if there is one."""
        if not self._acts_as_policy or compiled_env(env) is None:
            return None
        return {
            Collector: RollingCollector,
            EpisodeCollector: RollingEpisodeCollector,
            GroupCollector: RollingGroupCollector,
        }.get(self.collector_class)

    is_collecting = False
    """Whether a rollout is being collected: then nobody else may take steps in the environment."""

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: SB3RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """First slot: act in the environment and fill the buffer, advantages included.

        Collects `n_rollout_steps` from each environment, or `n_episodes` whole episodes from each where the agent
        was built so. Callbacks find the local variables of SB3's loop.

        Returns:
            False if the callback stopped the training.

        Raises:
            ValueError: An observation or a reward is not finite or does not match its space, or an episode that
                should be whole does not end.
        """

        def on_filled() -> None:
            self.is_collecting = False
            if _has_samples(rollout_buffer):
                stored = rollout_buffer.advantages, rollout_buffer.actions
                trained_on = getattr(rollout_buffer, "trained_on", None)
                self._lazy_log.add("rollout", partial(rollout_metrics, *stored, trained_on, self.policy))

        setting = Setting(
            # A buffer that is not the agent's own can be of any kind.
            engine=(lambda: self._engine) if rollout_buffer is self.rollout_buffer else AutogradEngine,
            generator=self.action_generator,
            statistics=self.episode_statistics,
            bootstraps=self.has_critic,
            to_environment=None if self._acts_as_policy else self.environment_actions,
            to_policy=None if self.translation is None else self.translation.observations,
            max_episode_steps=self.max_episode_steps,
            group_size=self.group_size or 1,
            on_filled=on_filled,
            mid_episode=self._in_mid_episode,
            note_mid_episode=partial(setattr, self, "_in_mid_episode"),
        )
        own_buffer = rollout_buffer is self.rollout_buffer and isinstance(rollout_buffer, EstimatorMixin)
        collector = (self._rolling_collector(env) if own_buffer else None) or self.collector_class
        collects = collector(self, setting, env, callback, rollout_buffer, n_rollout_steps)
        self.is_collecting = True
        try:
            return collects.collect()
        finally:
            self.is_collecting = False

    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """Second slot: how good was each action, and what should the critic have said?

        Here generalised advantage estimation, with Â + V as the critic's target. Called twice on one rollout, it
        gives the same answer: an estimator that learns does so in `update`.

        Args:
            rollout: Rewards, values and ends, as arrays of shape `(T, N)`.

        Returns:
            Advantages and returns, of the same shape.
        """
        advantages = gae(rollout.td_errors(self.gamma), rollout.ends, self.gamma, self.gae_lambda)
        return advantages, advantages + rollout.values

    def objective(self) -> Objective:
        """Third slot: the quantity to maximise, one number per sample, with the coefficients of this moment."""

        def undefined(batch: Minibatch) -> th.Tensor:
            raise NotImplementedError(f"{type(self).__name__} does not say what it maximises: define `objective`.")

        return Objective(undefined)

    def update(self, loss: Loss) -> Summary:
        """Fourth slot: move the parameters; here epochs over minibatches of a first-order optimiser.

        Args:
            loss: Minimised on the rollout buffer.

        Raises:
            NotFiniteError: A parameter, the loss or its gradient is not finite; the parameters are those before that
                step.
        """
        batches = Batches(self.n_epochs, self.batch_size)
        return self._engine_for(loss).update(self.policy, self.rollout_buffer, loss, batches, self.on_epoch)

    def train(self) -> None:
        """Make one `update` from the rollout buffer, and log it."""
        buffer = self.rollout_buffer
        if not _has_samples(buffer):
            return
        # Taken now, because engines may reorder the buffer's arrays. Transposed, to add up in SB3's order.
        values, returns = buffer.values.T, buffer.returns.T
        trained_on = getattr(buffer, "trained_on", None)
        samples = ... if trained_on is None else trained_on.T
        self._update_learning_rate(self.policy.optimizer)
        loss = self.loss(self.loss_scale)
        try:
            summary = self.update(loss)
        except NotFiniteError as error:
            self._n_updates += error.n_epochs
            estimated = {"advantages": buffer.advantages, "returns": buffer.returns}
            wrong = [f"`{name}`" for name, values in estimated.items() if not np.isfinite(values).all()]
            source = f"`estimate` has made {' and '.join(wrong)} that are not finite. " if wrong else ""
            raise FloatingPointError(
                f"{error} in the update after {self.num_timesteps} steps, so it was not applied: the parameters are "
                f"those before it. {source}Rewards or observations of very large size, or too large a `learning_rate`, "
                "are the usual causes; VecNormalize scales both."
            ) from None
        self._n_updates += summary.n_epochs
        if summary.stopped_by is not None and self.verbose >= 1:
            print(f"Early stopping at step {summary.n_epochs - 1} due to reaching max kl: {summary.stopped_by:.2f}")

        _, prior = self._prior_on_device  # that of this update, whenever the log is read

        def metrics() -> dict[str, float]:
            found = summary.metrics()
            if "policy_loss" in found:
                found[self.policy_loss_name] = found.pop("policy_loss")
            if self.has_critic:
                found["explained_variance"] = explained_variance(values[samples].flatten(), returns[samples].flatten())
            found |= loss.objective.settings
            if loss.penalty is not None:
                kind = "prior" if loss.penalty.reference is prior else "reference"
                if "reference_kl" in found:
                    found[f"{kind}_kl"] = found.pop("reference_kl")
                found["kl_coef" if kind == "reference" else "prior_kl_coef"] = loss.penalty.kl_coef
            return found if loss.value_clip is None else {**found, "clip_range_vf": loss.value_clip}

        self._lazy_log.add("train", metrics)
        self._logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    # Parts of the slots

    def loss(self, scale: float = 1.0) -> Loss:
        """The loss with the coefficients of this moment.

        Args:
            scale: Factor of the whole loss.
        """
        objective = self.objective()
        if not isinstance(objective, Objective):
            raise TypeError(
                f"`objective` of {type(self).__name__} must return an Objective(value, weight), but returned "
                f"{objective!r}."
            )

        def metrics(batch: Minibatch) -> dict[str, th.Tensor]:
            found = {name: metric(batch, *objective.coefficients) for name, metric in objective.metrics.items()}
            return found | self.minibatch_metrics(batch)

        return Loss(
            objective=objective,
            ent_coef=self.coefficient("ent_coef"),
            vf_coef=self.coefficient("vf_coef"),
            value_clip=self.value_clip(),
            trains_critic=self.has_critic,
            scale=scale,
            normalize_advantage=self.normalize_advantage,
            max_grad_norm=self.max_grad_norm,
            tracks_kl=self.reuses_samples,
            max_kl=None if self.target_kl is None else 1.5 * self.target_kl,
            value_prediction=self.value_prediction if self._overrides("value_prediction") else None,
            metrics=metrics,
            penalty=self.penalty(),
        )

    def value_clip(self) -> float | None:
        """How far the value may move from that of the rollout in the value loss; None for no limit."""
        return None

    def value_prediction(self, batch: Minibatch) -> th.Tensor:
        """The prediction that the value loss compares with the returns: V, or V_old + clip(V - V_old, -ε_v, ε_v)."""
        return predicted_values(batch, self.value_clip())

    def minibatch_metrics(self, batch: Minibatch) -> dict[str, th.Tensor]:
        """Further quantities of each sample, `(batch,)`, whose mean over minibatches is logged as `train/<name>`.

        The compiled engine calls this when the log is read: coefficients that change belong into the objective's
        `metrics`, which are given those of the update.
        """
        return {}

    @property
    def loss_scale(self) -> float:
        """Turns the mean over samples into the sum over each episode's steps, where whole episodes are collected."""
        return self.rollout_buffer.mean_length if isinstance(self.rollout_buffer, EpisodeMixin) else 1

    @classmethod
    def search_space(
        cls, trial: Trial, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> dict[str, Any]:
        """Draw hyperparameters for `pg-zoo tune` from the class's `search` and those of its parents.

        Args:
            trial: The Optuna trial to draw from.
            observation_space: Of one environment, before normalisation.
            action_space: Of one environment.

        Returns:
            The content of an entry of a hyperparameter file, except `n_timesteps` and `policy`.
        """
        return tuning.draw(tuning.search_of(cls), trial, observation_space, action_space)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        rate = value_of("learning_rate", self.lr_schedule, self._current_progress_remaining)
        self._logger.record("train/learning_rate", rate)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            update_learning_rate(optimizer, rate)
        if self.separate_critic and self.value_learning_rate is not None:
            schedule = FloatSchedule(self.value_learning_rate)
            rate = value_of("value_learning_rate", schedule, self._current_progress_remaining)
            self.policy.optimizer.param_groups[1]["lr"] = rate
            self._logger.record("train/value_learning_rate", rate)

    def _overrides(self, method: str) -> bool:
        """Whether a subclass or the agent itself replaces a method of this class."""
        return method in vars(self) or getattr(type(self), method) is not getattr(PolicyGradient, method)


def _has_samples(buffer: SB3RolloutBuffer) -> bool:
    """Whether there is a step to train on; there is none in a short rollout of nothing but resets."""
    trained_on = getattr(buffer, "trained_on", None)
    return trained_on is None or bool(trained_on.any())
