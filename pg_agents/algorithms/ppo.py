"""PPO: proximal policy optimisation."""

from __future__ import annotations

from dataclasses import InitVar
from typing import ClassVar

import numpy as np
import stable_baselines3
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule

from pg_agents.agent import PolicyGradient
from pg_agents.arguments import argument
from pg_agents.checks import warn_of_truncated_minibatch
from pg_agents.contract import Loss, Objective, Summary
from pg_agents.engines.autograd import evaluate
from pg_agents.objectives import (
    clipped_surrogate,
    clipped_surrogate_weight,
    kl_penalised,
    kl_penalised_weight,
    mean_kl,
    outside,
)
from pg_agents.schedules import constant_value
from pg_agents.tuning import Choice, LogInteger, LogUniform, PowerOfTwo, ScheduleBetween, SearchSpace, Uniform


class PPO(PolicyGradient):
    """Proximal policy optimisation: several epochs on each rollout, kept near the policy that collected it.

    maximise E[min(Â r, Â clip(r, 1 - ε, 1 + ε))] + `ent_coef` E[H(π)] - `vf_coef` E[(R - V)²],
    with r = π(a|s) / π_old(a|s)   (arXiv:1707.06347, eq. 7 and 9)

    With `kl_coef` or `kl_target`, the paper's other variant: E[Â r - β KL(π_old || π)] takes the place of the clipped
    term (eq. 8). β is `kl_coef`. With `kl_target` it adapts after each update: halved when the KL divergence was
    below `kl_target` / 1.5, doubled when above 1.5 `kl_target`.

    Arguments, their order and defaults are those of SB3's PPO, and so are, on the engine `"autograd"`, the parameters
    at the end of training.
    """

    same_order_as = stable_baselines3.PPO
    policy_loss_name = "policy_gradient_loss"

    learning_rate: float | Schedule = 3e-4
    n_steps: int = 2048
    batch_size: int | None = 64
    n_epochs: int = 10
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float | Schedule = argument(
        default=0.2,
        doc="ε, how far the ratio may usefully move; a number or a schedule.",
        at_least=0,
        infinite=True,
        schedule=True,
    )
    clip_range_vf: float | Schedule | None = argument(
        default=None,
        doc="How far a value prediction may move from that of the rollout; a number, a schedule, or None for no limit. "
        "It depends on the scale of the rewards.",
    )
    normalize_advantage: bool = True
    ent_coef: InitVar[float | Schedule] = 0.0
    vf_coef: InitVar[float | Schedule] = 0.5
    max_grad_norm: InitVar[float | None] = 0.5
    target_kl: float | None = argument(default=None, kw_only=True)
    kl_target: float | None = argument(
        default=None,
        kw_only=True,
        doc="KL divergence per update that the penalty's coefficient is adapted to.",
        above=0,
        optional=True,
    )
    kl_coef: float | None = argument(
        default=None,
        kw_only=True,
        doc="The penalty's coefficient; 1 at the start if only `kl_target` is given, as in the paper.",
        at_least=0,
        optional=True,
    )

    search: ClassVar[SearchSpace] = {
        "n_steps": PowerOfTwo(32, 2048),
        "batch_size": PowerOfTwo(32, 4096, at_most=("n_steps", "n_envs")),
        "n_epochs": LogInteger(1, 20),
        "gae_lambda": Uniform(0.8, 1.0),
        "clip_range": ScheduleBetween(0.1, 0.4),
        "normalize_advantage": Choice((True, False)),
        "ent_coef": LogUniform(1e-6, 0.1),
        "vf_coef": Uniform(0.1, 1.0),
        "max_grad_norm": LogUniform(0.3, 5),
    }

    def objective(self) -> Objective:
        """min(Â r, Â clip(r, 1 - ε, 1 + ε)), or Â r - β KL(π_old || π)."""
        if self.kl_coef is None:
            clip_range = self.coefficient("clip_range")
            return Objective(
                lambda batch, epsilon: clipped_surrogate(batch.ratio, batch.advantages, epsilon),
                clipped_surrogate_weight,
                (clip_range,),
                metrics={"clip_fraction": outside},
                settings={"clip_range": clip_range},
            )
        return Objective(
            lambda batch, beta: kl_penalised(batch.ratio, batch.log_ratio, batch.advantages, beta),
            kl_penalised_weight,
            (self.kl_coef,),
            settings={"kl_coef": self.kl_coef},
        )

    def value_clip(self) -> float | None:
        """ε_v, if there is one."""
        return None if self.clip_range_vf is None else self.coefficient("clip_range_vf")

    def update(self, loss: Loss) -> Summary:
        """Epochs over minibatches; then the penalty's coefficient is adapted, if it has a target."""
        summary = super().update(loss)
        if self.kl_coef is not None and self.kl_target is not None:
            self.kl_coef = self._adapted(self.kl_coef, self.kl_target)
        return summary

    def _adapted(self, kl_coef: float, kl_target: float) -> float:
        """β / 2 if d < d_target / 1.5, 2 β if d > 1.5 d_target, else β   (arXiv:1707.06347, section 4)."""
        kl = float(np.mean([mean_kl(evaluate(self.policy, samples)) for samples in self.rollout_buffer.get()]))
        self._logger.record("train/kl_after_update", kl)
        return kl_coef / 2 if kl < kl_target / 1.5 else kl_coef * 2 if kl > kl_target * 1.5 else kl_coef

    def check_arguments(self) -> None:
        """See `PolicyGradient.check_arguments`."""
        if self.normalize_advantage:
            assert self.batch_size is None or self.batch_size > 1, (
                "`batch_size` must be greater than 1. See https://github.com/DLR-RM/stable-baselines3/issues/440"
            )
        super().check_arguments()
        if (self.kl_target is not None or self.kl_coef is not None) and constant_value(self.clip_range) != 0.2:
            raise ValueError(
                "`clip_range` belongs to the clipped objective and `kl_target` and `kl_coef` to the KL-penalised one, "
                f"but clip_range={self.clip_range!r}, kl_target={self.kl_target!r} and kl_coef={self.kl_coef!r} were "
                "given."
            )
        if isinstance(self.clip_range_vf, (float, int)):
            assert self.clip_range_vf > 0, "`clip_range_vf` must be positive, pass `None` to deactivate vf clipping"

    def complete_arguments(self) -> None:
        """Make schedules of the clip ranges, and give the penalty's coefficient its first value."""
        if self.kl_target is not None and self.kl_coef is None:
            self.kl_coef = 1.0
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    def warn_of_arguments(self) -> None:
        """Warn of a truncated minibatch, in SB3's words."""
        if self.env is not None:
            warn_of_truncated_minibatch(self.batch_size, self.n_steps, self.env.num_envs, stacklevel=5)
