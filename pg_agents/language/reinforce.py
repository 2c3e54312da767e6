"""REINFORCE on a language model."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from stable_baselines3.common.type_aliases import Schedule

from pg_agents.arguments import argument
from pg_agents.baselines import LeaveOneOutBaseline, group_moments
from pg_agents.contract import Objective, Rollout
from pg_agents.episodes import CREDIT, Episodes, as_credited, for_each_step
from pg_agents.estimators import Floats
from pg_agents.language.rlhf import LanguageAlgorithm
from pg_agents.objectives import score_function, score_function_weight
from pg_agents.tuning import Choice, SearchSpace


class EpisodeComparison(LanguageAlgorithm):
    """Base of the algorithms that judge a completion by others, without a critic.

    Raises:
        TypeError: A keyword is unknown, or `reward` no function.
        ValueError: An argument is out of range, or model, tokenizer, prompts and reward do not fit each other.
    """

    credit: Literal["episode", "step"] = argument(
        default="episode",
        kw_only=True,
        doc='`"episode"` credits every token with the total return of its completion; `"step"` with what came after '
        "it, and compares it with the others at the same step.",
        choices=tuple(CREDIT),
    )

    @abstractmethod
    def compare(self, episodes: Episodes) -> Floats:
        """The advantage of each token over those of other completions.

        Args:
            episodes: Returns `(N, T)`, less the price of KL divergence if it is part of the reward.

        Returns:
            Advantages of the same shape.
        """

    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """The advantages of each completion, and the returns."""
        returns = CREDIT[self.credit](rollout.rewards, rollout.ends, self.gamma)
        advantages = for_each_step(rollout, returns, lambda some: self.compare(as_credited(some, self.credit)))
        return advantages, returns


class LanguageREINFORCE(EpisodeComparison):
    """REINFORCE: make the completions with more than the mean reward more probable.

    θ += α / N Σ_{completions} Σ_t (R - b) ∇ log π(a_t|s_t), R = r - β Σ_t log π/π_ref   (Williams 1992)

    Raises:
        TypeError: A keyword is unknown, or `reward` no function.
        ValueError: An argument is out of range, or model, tokenizer, prompts and reward do not fit each other.
    """

    mean = "sum"

    learning_rate: float | Schedule = argument(default=6e-4, kw_only=True)
    n_epochs: int = argument(default=1, kw_only=True, doc="Passes over each batch; more than 1 is not on-policy.")
    baseline: Literal["none", "batch_mean", "leave_one_out"] = argument(
        default="batch_mean",
        kw_only=True,
        doc='Subtracted from the return: `"none"`; `"batch_mean"`, the mean of the update\'s completions; '
        '`"leave_one_out"`, the mean of all others.',
        choices=("none", "batch_mean", "leave_one_out"),
    )

    search: ClassVar[SearchSpace] = {"n_epochs": Choice((1,)), "baseline": Choice(("batch_mean", "leave_one_out"))}

    def compare(self, episodes: Episodes) -> Floats:
        """R - b."""
        b: Floats | float = 0.0
        if self.baseline == "batch_mean":
            b = group_moments(episodes)[0]
        elif self.baseline == "leave_one_out":
            b = LeaveOneOutBaseline()(episodes)
        return episodes.returns - b

    def objective(self) -> Objective:
        """(R - b) log π(a|s)."""
        return Objective(lambda batch: score_function(batch.log_prob, batch.advantages), score_function_weight)
