"""One-step actor-critic: the textbook's, which learns after every step."""

from __future__ import annotations

from dataclasses import InitVar
from typing import ClassVar

from stable_baselines3.common.type_aliases import Schedule

from pg_agents.agent import PolicyGradient
from pg_agents.contract import Objective, Rollout
from pg_agents.estimators import Floats
from pg_agents.objectives import score_function, score_function_weight
from pg_agents.tuning import LogUniform, PowerOfTwo, ScheduleBetween, SearchSpace, Uniform


class ActorCritic(PolicyGradient):
    """One-step actor-critic: after each step, make the action more probable if it went better than the critic said.

    δ_t = r_t + γ V(s_{t+1}) - V(s_t),
    θ += α δ_t ∇ log π(a_t|s_t) + α `ent_coef` ∇H(π),
    w += α_w `vf_coef` 2 δ_t ∇V(s_t)   (Sutton & Barto, 2nd ed., section 13.5)

    V(s_{t+1}) is 0 after a termination, and that of the last state where a time limit cut the episode. The book's
    factor γ^t is left out, as it is nearly everywhere. With several environments, one step of each is an update; with
    more than one step, the update is the mean over them.

    Raises:
        ValueError: An argument is out of range.
    """

    separate_critic = True
    default_log_interval = 1000

    learning_rate: float | Schedule = 3e-4
    n_steps: int = 1
    gamma: float = 0.99
    value_learning_rate: float | Schedule | None = 1e-3
    ent_coef: InitVar[float | Schedule] = 0.01
    vf_coef: InitVar[float | Schedule] = 0.5
    max_grad_norm: InitVar[float | None] = 0.5

    search: ClassVar[SearchSpace] = {
        "n_steps": PowerOfTwo(1, 16),
        "value_learning_rate": ScheduleBetween(1e-4, 3e-2),
        "ent_coef": LogUniform(1e-6, 0.1),
        "vf_coef": Uniform(0.1, 1.0),
        "max_grad_norm": LogUniform(0.3, 5),
    }

    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """δ_t, and r_t + γ V(s_{t+1})."""
        td_errors = rollout.td_errors(self.gamma)
        return td_errors, td_errors + rollout.values

    def objective(self) -> Objective:
        """δ log π(a|s), with ψ = δ."""
        return Objective(lambda batch: score_function(batch.log_prob, batch.advantages), score_function_weight)
