"""REINFORCE with a learned baseline: Monte-Carlo returns, and a value function that only reduces their variance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from typing_extensions import Unpack

from pg_agents import estimators, search
from pg_agents.agent import CommonArguments, Env, PolicyGradient
from pg_agents.buffers import Rollout
from pg_agents.checks import check_number
from pg_agents.engines.autograd import Minibatch
from pg_agents.estimators import Floats
from pg_agents.objectives import Weight, score_function, score_function_weight

if TYPE_CHECKING:
    from optuna import Trial


class ReinforceBaseline(PolicyGradient):
    """REINFORCE with baseline: make actions more probable that did better than the state promised.

    θ += α / E Σ_{episodes} Σ_t (G_t - V(s_t)) ∇ log π(a_t|s_t),
    w += α_w `vf_coef` / E Σ_{episodes} Σ_t 2 (G_t - V(s_t)) ∇ V(s_t)   (Sutton & Barto, 2nd ed., section 13.4)

    V stands beside the return and never in it, not even at a time limit, so V brings no bias, whatever it is. (With
    γ < 1, leaving out the theorem's γ^t does: see `REINFORCE`.) Episodes are collected as by `REINFORCE`, and sums and
    means are taken in the same way.

    Args:
        policy: As for `PolicyGradient`, like all that is not listed here.
        env: The environment, or several.
        learning_rate: Step size of the optimiser (Adam, unless `policy_kwargs` says otherwise).
        n_episodes: Whole episodes per environment and update.
        gamma: Discount factor.
        value_learning_rate: Step size for the parameters that only the value depends on; a number, a schedule, or
            None for `learning_rate`. Layers that actor and critic share move with `learning_rate`.
        ent_coef: Coefficient of the entropy bonus; a number or a schedule.
        vf_coef: Coefficient of the value loss; a number or a schedule.
        max_grad_norm: The gradient is scaled down to this norm; None leaves it as it is.
        normalize_advantage: Shift and scale the weights of each update to mean 0 and standard deviation 1.
        **common: As for `PolicyGradient`.

    Raises:
        ValueError: An argument is out of range.
    """

    separate_critic = True

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: Env,
        learning_rate: float | Schedule = 3e-3,
        n_episodes: int = 4,
        gamma: float = 0.99,
        value_learning_rate: float | Schedule | None = None,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float | Schedule = 0.5,
        max_grad_norm: float | None = None,
        normalize_advantage: bool = False,
        **common: Unpack[CommonArguments],
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_episodes=n_episodes,
            gamma=gamma,
            value_learning_rate=value_learning_rate,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            normalize_advantage=normalize_advantage,
            **common,
        )

    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """G_t - V(s_t), and G_t."""
        returns = estimators.reward_to_go(rollout.rewards, rollout.ends, self.gamma)
        return returns - rollout.values, returns

    def objective(self, batch: Minibatch) -> th.Tensor:
        """(G - V) log π(a|s)."""
        return score_function(batch.log_prob, batch.advantages)

    def weight(self) -> Weight:
        """G - V."""
        return Weight(score_function_weight)

    @classmethod
    def search_space(
        cls, trial: Trial, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> dict[str, Any]:
        """As `PolicyGradient.search_space`, with whole episodes, the critic's step size and the loss's coefficients."""
        shared = super().search_space(trial, observation_space, action_space)
        return {
            **shared,
            **search.episodes(trial, shared["n_envs"]),
            "value_learning_rate": search.schedule(trial, "value_learning_rate", 1e-4, 3e-2),
            "normalize_advantage": trial.suggest_categorical("normalize_advantage", [False, True]),
            "ent_coef": search.log_uniform(trial, "ent_coef", 1e-6, 0.1),
            "vf_coef": search.uniform(trial, "vf_coef", 0.1, 1.0),
            "max_grad_norm": search.log_uniform(trial, "max_grad_norm", 0.3, 50),
        }

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_number("n_episodes", self.n_episodes, at_least=1, integer=True)
