"""PPO on a language model, as in RLHF."""

from __future__ import annotations

from dataclasses import InitVar
from typing import ClassVar

from stable_baselines3.common.type_aliases import Schedule

from pg_agents.arguments import argument
from pg_agents.contract import Objective, Rollout
from pg_agents.estimators import Floats, gae
from pg_agents.language.objectives import clipped
from pg_agents.language.rlhf import LanguageAlgorithm
from pg_agents.tuning import ScheduleBetween, SearchSpace, Uniform


class LanguagePPO(LanguageAlgorithm):
    """PPO with a value head: the language model is the actor, a linear function of its last layer the critic.

    maximise E[min(Â r, Â clip(r, 1 - ε, 1 + ε))] - `vf_coef` E[(R - V)²] over tokens, with Â by GAE from the rewards
    r_t = -β log π(a_t|s_t)/π_ref(a_t|s_t), and the reward of the text added to the last   (arXiv:1707.06347, eq. 9;
    arXiv:1909.08593, eq. 2)

    Raises:
        TypeError: A keyword is unknown, or `reward` no function.
        ValueError: An argument is out of range, or model, tokenizer, prompts and reward do not fit each other.
    """

    has_critic = True

    learning_rate: float | Schedule = argument(default=2e-4, kw_only=True)
    n_epochs: int = argument(default=4, kw_only=True)
    gae_lambda: float = argument(default=0.95, kw_only=True)
    clip_range: float | Schedule = argument(
        default=0.2,
        kw_only=True,
        doc="ε, how far the ratio may usefully move; a number or a schedule.",
        at_least=0,
        infinite=True,
        schedule=True,
    )
    vf_coef: InitVar[float | Schedule] = argument(default=0.5, kw_only=True)
    normalize_advantage: bool = argument(default=True, kw_only=True)
    target_kl: float | None = argument(default=None, kw_only=True)

    search: ClassVar[SearchSpace] = {
        "gae_lambda": Uniform(0.8, 1.0),
        "clip_range": ScheduleBetween(0.1, 0.4),
        "vf_coef": Uniform(0.1, 1.0),
    }

    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """Generalised advantage estimation, with Â + V as the critic's target."""
        advantages = gae(rollout.td_errors(self.gamma), rollout.ends, self.gamma, self.gae_lambda)
        return advantages, advantages + rollout.values

    def objective(self) -> Objective:
        """min(Â r, Â clip(r, 1 - ε, 1 + ε))."""
        clip_range = self.coefficient("clip_range")
        return clipped(clip_range, clip_range)
