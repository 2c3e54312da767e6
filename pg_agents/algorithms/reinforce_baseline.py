"""REINFORCE with a learned baseline: Monte-Carlo returns, and a value function that only reduces their variance."""

from __future__ import annotations

from dataclasses import InitVar
from typing import ClassVar

from stable_baselines3.common.type_aliases import Schedule

from pg_agents import estimators
from pg_agents.agent import PolicyGradient
from pg_agents.arguments import argument
from pg_agents.contract import Objective, Rollout
from pg_agents.estimators import Floats
from pg_agents.objectives import score_function, score_function_weight
from pg_agents.tuning import Choice, Episodes, LogUniform, ScheduleBetween, SearchSpace, Uniform


class ReinforceBaseline(PolicyGradient):
    """REINFORCE with baseline: make actions more probable that did better than the state promised.

    θ += α / E Σ_{episodes} Σ_t (G_t - V(s_t)) ∇ log π(a_t|s_t),
    w += α_w `vf_coef` / E Σ_{episodes} Σ_t 2 (G_t - V(s_t)) ∇ V(s_t)   (Sutton & Barto, 2nd ed., section 13.4)

    V is subtracted from the return and never part of it, not even at a time limit, so no V causes a bias. (With γ < 1,
    omitting the theorem's γ^t does: see `REINFORCE`.) Episodes are collected as in `REINFORCE`, with the same sums and
    means.

    Raises:
        ValueError: An argument is out of range.
    """

    separate_critic = True

    learning_rate: float | Schedule = 3e-3
    n_episodes: int = argument(default=4, doc="Whole episodes per environment and update.", at_least=1, integer=True)
    gamma: float = 0.99
    value_learning_rate: float | Schedule | None = None
    ent_coef: InitVar[float | Schedule] = 0.0
    vf_coef: InitVar[float | Schedule] = 0.5
    max_grad_norm: InitVar[float | None] = None
    normalize_advantage: bool = argument(
        default=False, doc="Shift and scale the weights of each update to mean 0 and standard deviation 1."
    )

    search: ClassVar[SearchSpace] = {
        "n_episodes": Episodes(),
        "value_learning_rate": ScheduleBetween(1e-4, 3e-2),
        "normalize_advantage": Choice((False, True)),
        "ent_coef": LogUniform(1e-6, 0.1),
        "vf_coef": Uniform(0.1, 1.0),
        "max_grad_norm": LogUniform(0.3, 50),
    }

    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """G_t - V(s_t), and G_t."""
        returns = estimators.reward_to_go(rollout.rewards, rollout.ends, self.gamma)
        return returns - rollout.values, returns

    def objective(self) -> Objective:
        """(G - V) log π(a|s), with ψ = G - V."""
        return Objective(lambda batch: score_function(batch.log_prob, batch.advantages), score_function_weight)
