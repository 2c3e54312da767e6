"""GRPO: group-relative policy optimisation."""

from __future__ import annotations

from typing import ClassVar, Literal

from stable_baselines3.common.type_aliases import Schedule

from pg_agents.algorithms.group_relative import GroupRelative
from pg_agents.arguments import argument
from pg_agents.baselines import group_moments
from pg_agents.contract import Objective
from pg_agents.episodes import Episodes
from pg_agents.estimators import Floats
from pg_agents.objectives import clipped_surrogate, clipped_surrogate_weight, outside
from pg_agents.tuning import Choice, LogInteger, PowerOfTwo, ScheduleBetween, SearchSpace


class GRPO(GroupRelative):
    """Group-relative policy optimisation: PPO's clipped objective, with a group's mean return in the critic's place.

    maximise E[min(Â r, Â clip(r, 1 - ε, 1 + ε))], with r = π(a|s) / π_old(a|s) and
    Â_i = (R_i - mean(R_1, ..., R_G)) / sd(R_1, ..., R_G)   (arXiv:2402.03300, eq. 3 and section 4.1.2)

    R_1 to R_G are the returns of `group_size` = G episodes that start in the same way. Without `scale="std"` and
    `length_normalization`, the gradient at π = π_old is that of the expected return, times 1 - 1/G (Dr. GRPO,
    arXiv:2503.20783). Each of the two changes its direction.

    Raises:
        ValueError: An argument is out of range, or two contradict each other.
    """

    n_epochs: int = 4
    batch_size: int | None = 256
    gamma: float = 1.0
    clip_range: float | Schedule = argument(
        default=0.2,
        doc="ε, how far the ratio may usefully move; a number, a schedule, or infinity for no limit.",
        at_least=0,
        infinite=True,
        schedule=True,
    )
    scale: Literal["std", "none"] = argument(
        default="std",
        doc='`"std"` divides by the standard deviation of the group\'s returns, `"none"` does not.',
        choices=("std", "none"),
    )
    length_normalization: bool = argument(
        default=False,
        doc="Average over the steps of each episode, as in the paper, instead of summing over them. A step of a long "
        "episode then counts less than one of a short episode.",
    )
    target_kl: float | None = None

    search: ClassVar[SearchSpace] = {
        "scale": Choice(("std", "none")),
        "batch_size": PowerOfTwo(32, 4096),
        "n_epochs": LogInteger(1, 10),
        "clip_range": ScheduleBetween(0.1, 0.4),
    }

    def advantages(self, groups: Episodes) -> Floats:
        """R - mean, divided by the standard deviation or not."""
        mean, deviation = group_moments(groups)
        return (groups.returns - mean) / (deviation + 1e-8 if self.scale == "std" else 1)

    def objective(self) -> Objective:
        """min(Â r, Â clip(r, 1 - ε, 1 + ε))."""
        clip_range = self.coefficient("clip_range")
        return Objective(
            lambda batch, epsilon: clipped_surrogate(batch.ratio, batch.advantages, epsilon),
            clipped_surrogate_weight,
            (clip_range,),
            metrics={"clip_fraction": outside},
            settings={"clip_range": clip_range},
        )

    def episode_weights(self, episodes: Episodes) -> Floats:
        """1, or T̄ / T_i of an episode with T_i steps: then the mean over steps is 1/E Σ_i 1/T_i Σ_t."""
        if not self.length_normalization:
            return super().episode_weights(episodes)
        lengths: Floats = episodes.lengths[:, None].astype(episodes.returns.dtype)
        weights: Floats = lengths.mean() / lengths
        return weights

    @property
    def loss_scale(self) -> float:
        """Turns the mean over steps into 1/E Σ_i Σ_t over E episodes; 1 for 1/E Σ_i 1/T_i Σ_t."""
        return 1.0 if self.length_normalization else super().loss_scale
