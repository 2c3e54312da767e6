"""One-step actor-critic: the textbook's, which learns after every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from typing_extensions import Self, Unpack

from pg_agents import search
from pg_agents.agent import CommonArguments, Env, PolicyGradient
from pg_agents.buffers import Rollout
from pg_agents.engines.autograd import Minibatch
from pg_agents.estimators import Floats
from pg_agents.objectives import Weight, score_function, score_function_weight

if TYPE_CHECKING:
    from optuna import Trial


class ActorCritic(PolicyGradient):
    """One-step actor-critic: after each step, make the action more probable if it went better than the critic said.

    δ_t = r_t + γ V(s_{t+1}) - V(s_t),
    θ += α δ_t ∇ log π(a_t|s_t) + α `ent_coef` ∇H(π),
    w += α_w `vf_coef` 2 δ_t ∇V(s_t)   (Sutton & Barto, 2nd ed., section 13.5)

    V(s_{t+1}) is 0 after a termination, and that of the last state where a time limit cut the episode. The book's
    factor γ^t is left out, as it is nearly everywhere. With several environments, one step of each is an update.

    Args:
        policy: As for `PolicyGradient`, like all that is not listed here.
        env: The environment, or several.
        learning_rate: Step size of the optimiser (Adam, unless `policy_kwargs` says otherwise).
        n_steps: Steps per environment and update: 1 in the textbook; with more, an update is the mean over them.
        gamma: Discount factor.
        value_learning_rate: Step size for the parameters that only the value depends on; a number, a schedule, or
            None for `learning_rate`. Layers that actor and critic share move with `learning_rate`.
        ent_coef: Coefficient of the entropy bonus; a number or a schedule.
        vf_coef: Coefficient of the value loss; a number or a schedule.
        max_grad_norm: The gradient is scaled down to this norm; None leaves it as it is.
        **common: As for `PolicyGradient`.

    Raises:
        ValueError: An argument is out of range.
    """

    separate_critic = True

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: Env,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 1,
        gamma: float = 0.99,
        value_learning_rate: float | Schedule | None = 1e-3,
        ent_coef: float | Schedule = 0.01,
        vf_coef: float | Schedule = 0.5,
        max_grad_norm: float | None = 0.5,
        **common: Unpack[CommonArguments],
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            value_learning_rate=value_learning_rate,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            **common,
        )

    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """δ_t, and r_t + γ V(s_{t+1})."""
        td_errors = rollout.td_errors(self.gamma)
        return td_errors, td_errors + rollout.values

    def objective(self, batch: Minibatch) -> th.Tensor:
        """δ log π(a|s)."""
        return score_function(batch.log_prob, batch.advantages)

    def weight(self) -> Weight:
        """δ."""
        return Weight(score_function_weight)

    @classmethod
    def search_space(
        cls, trial: Trial, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> dict[str, Any]:
        """As `PolicyGradient.search_space`, with short rollouts, the critic's step size and the loss's coefficients."""
        shared = super().search_space(trial, observation_space, action_space)
        return {
            **shared,
            "n_steps": search.power_of_two(trial, "n_steps", 1, 16),
            "value_learning_rate": search.schedule(trial, "value_learning_rate", 1e-4, 3e-2),
            "ent_coef": search.log_uniform(trial, "ent_coef", 1e-6, 0.1),
            "vf_coef": search.uniform(trial, "vf_coef", 0.1, 1.0),
            "max_grad_norm": search.log_uniform(trial, "max_grad_norm", 0.3, 5),
        }

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1000,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train; as `PolicyGradient.learn`, logging every 1000 updates by default."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
