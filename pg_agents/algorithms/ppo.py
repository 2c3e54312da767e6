"""PPO: proximal policy optimisation."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule

from pg_agents import search
from pg_agents.agent import Env, PolicyGradient
from pg_agents.checks import check_number
from pg_agents.engines.autograd import Minibatch, evaluate
from pg_agents.objectives import (
    Weight,
    clipped_surrogate,
    clipped_surrogate_weight,
    kl_penalised,
    kl_penalised_weight,
)

if TYPE_CHECKING:
    from optuna import Trial


class PPO(PolicyGradient):
    """Proximal policy optimisation: several epochs on each rollout, kept near the policy that collected it.

    maximise E[min(Â r, Â clip(r, 1 - ε, 1 + ε))] + `ent_coef` E[H(π)] - `vf_coef` E[(R - V)²],
    with r = π(a|s) / π_old(a|s)   (arXiv:1707.06347, eq. 7 and 9)

    With `kl_coef` or `kl_target`, the paper's other variant: E[Â r - β KL(π_old || π)] takes the place of the clipped
    term (eq. 8). β is `kl_coef`. With `kl_target` it adapts after each update: halved when the KL divergence was
    below `kl_target` / 1.5, doubled when above 1.5 `kl_target`.

    Arguments, their order and defaults are those of SB3's PPO, and so are, on the engine `"autograd"`, the parameters
    that it arrives at.

    Args:
        policy: As for `PolicyGradient`, like all that is not listed here.
        env: The environment, or several.
        learning_rate: Step size; a number or a schedule.
        n_steps: Steps per environment and update.
        batch_size: Minibatch size.
        n_epochs: Passes over each rollout.
        gamma: Discount factor.
        gae_lambda: λ of generalised advantage estimation.
        clip_range: ε, how far the ratio may usefully move; a number or a schedule.
        clip_range_vf: How far a value prediction may move from that of the rollout; a number, a schedule, or None
            for no limit. It depends on the scale of the rewards.
        normalize_advantage: Normalise each minibatch's advantages.
        ent_coef: Coefficient of the entropy bonus; a number or a schedule.
        vf_coef: Coefficient of the value loss; a number or a schedule.
        max_grad_norm: The gradient is scaled down to this norm.
        use_sde: Generalised state-dependent exploration.
        sde_sample_freq: Draw new gSDE noise every so many steps.
        rollout_buffer_class: Buffer class.
        rollout_buffer_kwargs: Its further keyword arguments.
        target_kl: Stop an update early when the KL divergence exceeds 1.5 times this.
        stats_window_size: Number of episodes that `rollout/` means are taken over.
        tensorboard_log: Folder for TensorBoard.
        policy_kwargs: Keyword arguments of the policy.
        verbose: 0, 1 or 2.
        seed: Seed of all random generators.
        device: Torch device.
        _init_setup_model: Build the networks now.
        kl_target: KL divergence per update that the penalty's coefficient is adapted to.
        kl_coef: The penalty's coefficient; 1 at the start if only `kl_target` is given, as in the paper.
        engine: What acts and learns: `"mlp"` (compiled, for MLP policies on the CPU), `"autograd"` (torch, for all),
            or `"auto"` for the first where it serves this agent, else the second.
    """

    policy_loss_name = "policy_gradient_loss"

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: Env,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float | Schedule = 0.5,
        max_grad_norm: float | None = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        kl_target: float | None = None,
        kl_coef: float | None = None,
        engine: str = "auto",
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            engine=engine,
            _init_setup_model=False,
        )
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.kl_target = kl_target
        self.kl_coef = kl_coef
        if _init_setup_model:
            self._setup_model()
        self._warn_of_truncated_minibatch()

    def objective(self, batch: Minibatch) -> th.Tensor:
        """min(Â r, Â clip(r, 1 - ε, 1 + ε)), or Â r - β KL(π_old || π)."""
        if self.kl_coef is not None:
            return kl_penalised(batch.ratio, batch.log_ratio, batch.advantages, self.kl_coef)
        return clipped_surrogate(batch.ratio, batch.advantages, self._now(self.clip_range))

    def weight(self) -> Weight:
        """Â r where the objective is not clipped, or Â r - β (r - 1)."""
        if self.kl_coef is not None:
            return Weight(kl_penalised_weight, (self.kl_coef,))
        return Weight(clipped_surrogate_weight, (self._now(self.clip_range),))

    @classmethod
    def search_space(
        cls, trial: Trial, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> dict[str, Any]:
        """As `PolicyGradient.search_space`, with longer rollouts, minibatches that divide them, and the loss."""
        shared = super().search_space(trial, observation_space, action_space)
        n_steps = search.power_of_two(trial, "n_steps", 32, 2048)
        batch_size = search.power_of_two(trial, "batch_size", 32, 4096)
        return {
            **shared,
            "n_steps": n_steps,
            "batch_size": min(batch_size, n_steps * shared["n_envs"]),
            "n_epochs": trial.suggest_int("n_epochs", 1, 20, log=True),
            "gae_lambda": search.uniform(trial, "gae_lambda", 0.8, 1.0),
            "clip_range": search.schedule(trial, "clip_range", 0.1, 0.4),
            "normalize_advantage": trial.suggest_categorical("normalize_advantage", [True, False]),
            "ent_coef": search.log_uniform(trial, "ent_coef", 1e-6, 0.1),
            "vf_coef": search.uniform(trial, "vf_coef", 0.1, 1.0),
            "max_grad_norm": search.log_uniform(trial, "max_grad_norm", 0.3, 5),
        }

    def value_clip(self) -> float | None:
        """ε_v, if there is one."""
        return None if self.clip_range_vf is None else self._now(self.clip_range_vf)

    def minibatch_metrics(self, batch: Minibatch) -> dict[str, th.Tensor]:
        """Whether a sample's ratio is outside the clip range."""
        if self.kl_coef is not None:
            return {}
        return {"clip_fraction": (th.abs(batch.ratio - 1) > self._now(self.clip_range)).float()}

    def update_settings(self) -> dict[str, float]:
        """The clip ranges or the penalty's coefficient."""
        settings = {"clip_range": self._now(self.clip_range)} if self.kl_coef is None else {"kl_coef": self.kl_coef}
        value_clip = self.value_clip()
        return settings if value_clip is None else {**settings, "clip_range_vf": value_clip}

    def train(self) -> None:
        """Epochs over minibatches; then the penalty's coefficient is adapted, where there is one."""
        super().train()
        if self.kl_coef is not None and self.kl_target is not None:
            self._adapt_kl_coef(self.kl_coef, self.kl_target)

    def _adapt_kl_coef(self, kl_coef: float, kl_target: float) -> None:
        """β ← β / 2 if d < d_target / 1.5, and β ← 2 β if d > 1.5 d_target   (arXiv:1707.06347, section 4)."""
        with th.no_grad():
            kl = np.mean([evaluate(self, samples).mean_kl() for samples in self.rollout_buffer.get()])
        self.logger.record("train/kl_after_update", float(kl))
        if kl < kl_target / 1.5:
            self.kl_coef = kl_coef / 2
        elif kl > kl_target * 1.5:
            self.kl_coef = kl_coef * 2

    def _check_arguments(self) -> None:
        if self.normalize_advantage:
            assert self.batch_size is None or self.batch_size > 1, (
                "`batch_size` must be greater than 1. See https://github.com/DLR-RM/stable-baselines3/issues/440"
            )
        super()._check_arguments()
        check_number("clip_range", self.clip_range, at_least=0, infinite=True, schedule=True)
        check_number("kl_target", self.kl_target, above=0, optional=True)
        check_number("kl_coef", self.kl_coef, at_least=0, optional=True)
        if (self.kl_target is not None or self.kl_coef is not None) and _constant(self.clip_range) != 0.2:
            raise ValueError(
                "`clip_range` belongs to the clipped objective and `kl_target` and `kl_coef` to the KL-penalised one, "
                f"but clip_range={self.clip_range!r}, kl_target={self.kl_target!r} and kl_coef={self.kl_coef!r} were "
                "given."
            )
        if isinstance(self.clip_range_vf, (float, int)):
            assert self.clip_range_vf > 0, "`clip_range_vf` must be positive, pass `None` to deactivate vf clipping"

    def _setup_model(self) -> None:
        super()._setup_model()
        # Here, because `load` may change the arguments of a saved model.
        if self.kl_target is not None and self.kl_coef is None:
            self.kl_coef = 1.0
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    def _now(self, clip_range: float | Schedule | None) -> float:
        """A clip range's current value, with SB3's progress: below 0 where the last rollout ends after the total."""
        assert callable(clip_range), "a schedule since `_setup_model`"
        return float(clip_range(self._current_progress_remaining))

    def _warn_of_truncated_minibatch(self) -> None:
        if self.env is None or not self.batch_size:
            return
        size = self.n_steps * self.env.num_envs
        if size % self.batch_size > 0:
            warnings.warn(
                f"You have specified a mini-batch size of {self.batch_size},"
                f" but because the `RolloutBuffer` is of size `n_steps * n_envs = {size}`,"
                f" after every {size // self.batch_size} untruncated mini-batches,"
                f" there will be a truncated mini-batch of size {size % self.batch_size}\n"
                f"We recommend using a `batch_size` that is a factor of `n_steps * n_envs`.\n"
                f"Info: (n_steps={self.n_steps} and n_envs={self.env.num_envs})",
                stacklevel=3,
            )


def _constant(clip_range: float | Schedule) -> float | None:
    """The value of a clip range that is none of a schedule, before and after it was wrapped in one."""
    if isinstance(clip_range, FloatSchedule):
        return _constant(clip_range.value_schedule)
    if isinstance(clip_range, ConstantSchedule):
        return clip_range.val
    return None if callable(clip_range) else clip_range
