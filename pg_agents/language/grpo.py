"""GRPO on a language model, and its variants."""

from __future__ import annotations

from typing import ClassVar, Literal

from stable_baselines3.common.type_aliases import Schedule

from pg_agents.arguments import argument
from pg_agents.baselines import group_moments
from pg_agents.contract import Objective
from pg_agents.episodes import Episodes
from pg_agents.estimators import Floats
from pg_agents.language.objectives import VARIANTS
from pg_agents.language.rloo import GroupComparison
from pg_agents.tuning import Choice, SearchSpace


class LanguageGRPO(GroupComparison):
    """Group-relative policy optimisation: the completions of a prompt are compared with each other.

    Â_i = (R_i - mean(R_1, ..., R_G)) / sd(R_1, ..., R_G)   (arXiv:2402.03300, section 4.1.2)

    | `variant`   | maximised for each token                          | mean over a minibatch   | divided by sd |
    |-------------|---------------------------------------------------|-------------------------|---------------|
    | `"grpo"`    | min(Â r, Â clip(r, 1 - ε, 1 + ε))                 | of means of completions | yes           |
    | `"dr_grpo"` | the same (arXiv:2503.20783)                       | of sums of completions  | no            |
    | `"dapo"`    | the same, with a larger ε above 1 (2503.14476)    | of tokens               | yes           |
    | `"gspo"`    | the same, with r of the completion (2507.18071)   | of means of completions | yes           |
    | `"cispo"`   | Â sg[clip(r)] log π (2506.13585)                  | of tokens               | yes           |

    As in the other algorithms, and unlike in the paper, the price of KL divergence is in the reward: in the loss, the
    paper's k3 has another gradient. `kl_in="loss", kl_estimator="k3"` is the paper's.

    Raises:
        TypeError: A keyword is unknown, or `reward` no function.
        ValueError: An argument is out of range, or model, tokenizer, prompts and reward do not fit each other.
    """

    learning_rate: float | Schedule = argument(default=2e-4, kw_only=True)
    n_epochs: int = argument(default=4, kw_only=True)
    variant: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"] = argument(
        default="grpo", kw_only=True, doc="The objective, its mean and the advantage's scale.", choices=tuple(VARIANTS)
    )
    scale: Literal["variant", "std", "none"] = argument(
        default="variant",
        kw_only=True,
        doc='`"std"` divides by the standard deviation of the group\'s returns, `"none"` does not; `"variant"` does as '
        "the variant's paper does.",
        choices=("variant", "std", "none"),
    )
    clip_range: float | None = argument(
        default=None,
        kw_only=True,
        doc="ε, how far the ratio may usefully fall below 1; None for the variant's own.",
        at_least=0,
        infinite=True,
        optional=True,
    )
    clip_range_high: float | None = argument(
        default=None,
        kw_only=True,
        doc="How far it may usefully rise above 1; None for `clip_range`, or the variant's own.",
        at_least=0,
        infinite=True,
        optional=True,
    )

    search: ClassVar[SearchSpace] = {"variant": Choice(tuple(VARIANTS)), "scale": Choice(("variant", "std", "none"))}

    @property
    def mean(self) -> str:  # type: ignore[override]
        """The mean of the variant's loss over a minibatch, a name in `objectives.MEANS`."""
        return VARIANTS[self.variant].mean

    def compare_in_groups(self, groups: Episodes) -> Floats:
        """R - mean, divided by the standard deviation or not."""
        mean, deviation = group_moments(groups)
        found: Floats = groups.returns - mean
        scale = VARIANTS[self.variant].scale if self.scale == "variant" else self.scale
        return found / (deviation + 1e-4) if scale == "std" else found

    def objective(self) -> Objective:
        """That of the variant."""
        variant = VARIANTS[self.variant]
        low, high = variant.clip_range
        if self.clip_range is not None:
            low = high = self.clip_range
        return variant.objective(low, high if self.clip_range_high is None else self.clip_range_high)
