"""REINFORCE: Monte-Carlo policy gradient, from the naive estimator to the baselines that need no critic."""

from __future__ import annotations

from dataclasses import InitVar
from typing import ClassVar, Literal

import numpy as np
from stable_baselines3.common.type_aliases import Schedule

from pg_agents import estimators
from pg_agents.agent import PolicyGradient
from pg_agents.arguments import argument
from pg_agents.baselines import BASELINES, Baseline
from pg_agents.buffers import EpisodeMixin
from pg_agents.contract import Loss, Objective, Rollout, Summary
from pg_agents.episodes import Episodes, Places, places, rows, with_total_returns
from pg_agents.estimators import Floats
from pg_agents.objectives import score_function, score_function_weight
from pg_agents.policies import ACTOR_POLICIES
from pg_agents.tuning import Choice, LogUniform, SearchSpace
from pg_agents.tuning import Episodes as EpisodesOfAnUpdate

ESTIMATORS = {"total_return": estimators.total_return, "reward_to_go": estimators.reward_to_go}


class REINFORCE(PolicyGradient):
    """REINFORCE: make the actions of good episodes more probable.

    θ += α / E Σ_{episodes} Σ_t [γ^t] (G_t - b) ∇ log π(a_t|s_t)   (Williams 1992; Sutton & Barto, 2nd ed., eq. 13.8)

    E is the number of episodes of the update: the sum over each episode's steps, and the mean over episodes, is the
    policy-gradient theorem's own scale. There is no critic, V = 0 everywhere, and a time limit ends an episode like
    any other end: nothing is bootstrapped.

    With several environments, each contributes its first `n_episodes`, decided before they start: taking the episodes
    that finish first would favour short ones. Steps that an environment takes while it waits for the others count as
    steps, are not trained on or counted in episode statistics, and end in a reset (which SB3's `Monitor` refuses with
    `allow_early_resets=False`).

    Raises:
        ValueError: An argument is out of range, or two contradict each other.
    """

    policy_aliases = ACTOR_POLICIES
    has_critic = False

    learning_rate: float | Schedule = 3e-3
    n_episodes: int = argument(default=4, doc="Whole episodes per environment and update.", at_least=1, integer=True)
    gamma: float = 0.99
    estimator: Literal["total_return", "reward_to_go"] = argument(
        default="reward_to_go",
        doc='`"reward_to_go"` credits an action with the rewards after it; `"total_return"`, the naive policy '
        "gradient, with the whole episode's return. Both have the same mean with `gamma` = 1 or "
        "`discount_updates=True`, the second more variance.",
        choices=tuple(ESTIMATORS),
    )
    discount_updates: bool = argument(
        default=False,
        doc="Multiply the update of step t by γ^t, as the gradient of the discounted return from the start demands and "
        "as the textbook has it. Off by default, as everywhere in practice: with γ < 1 it all but ignores late steps. "
        'For `"reward_to_go"` only: γ^t is in the total return already.',
    )
    normalize_returns: bool = argument(
        default=False, doc="Shift and scale the weights of each update to mean 0 and standard deviation 1."
    )
    ent_coef: InitVar[float | Schedule] = 0.0
    baseline: Literal["none", "constant", "time", "leave_one_out"] = argument(
        default="none",
        doc='Subtracted from the return: `"none"`; `"constant"`, the running mean of earlier updates; `"time"`, the '
        'same for each step of an episode; `"leave_one_out"`, the mean of the other episodes.',
        choices=tuple(BASELINES),
    )
    max_grad_norm: InitVar[float | None] = None
    search: ClassVar[SearchSpace] = {
        "n_episodes": EpisodesOfAnUpdate(),
        "baseline": Choice(tuple(BASELINES)),
        "normalize_returns": Choice((False, True)),
        "ent_coef": LogUniform(1e-6, 0.1),
        "max_grad_norm": LogUniform(0.3, 50),
    }

    def complete_arguments(self) -> None:
        """Make the baseline, unless a saved one of this kind was loaded."""
        self.normalize_advantage = self.normalize_returns
        loaded = vars(self).get("_baseline")
        kind = BASELINES[self.baseline]
        self._baseline: Baseline = loaded if loaded is not None and type(loaded) is kind else kind()

    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """[γ^t] (G_t - b), and G_t."""
        returns = ESTIMATORS[self.estimator](rollout.rewards, rollout.ends, self.gamma)
        where = places(rollout)
        b = self._baseline(self._episodes(returns[rollout.trained_on], where))
        weights = np.zeros_like(returns)
        weights[rollout.trained_on] = returns[rollout.trained_on] - b[where.episode, where.step]
        if self.discount_updates:
            weights[rollout.trained_on] *= self.gamma**where.step
        return weights, returns

    def objective(self) -> Objective:
        """(G - b) log π(a|s), with ψ = G - b."""
        return Objective(lambda batch: score_function(batch.log_prob, batch.advantages), score_function_weight)

    def update(self, loss: Loss) -> Summary:
        """As `PolicyGradient.update`; the baseline remembers the rollout for the next one."""
        if self._baseline.remembers:
            assert isinstance(self.rollout_buffer, EpisodeMixin)
            rollout = self.rollout_buffer.rollout(np.zeros(self.n_envs, dtype=np.float32))  # V is not used
            returns = ESTIMATORS[self.estimator](rollout.rewards, rollout.ends, self.gamma)
            self._baseline = self._baseline.after(self._episodes(returns[rollout.trained_on], places(rollout)))
        return super().update(loss)

    def _episodes(self, returns: Floats, where: Places) -> Episodes:
        episodes = rows(returns, where)
        return episodes if self.estimator == "reward_to_go" else with_total_returns(episodes)

    def check_arguments(self) -> None:
        """See `PolicyGradient.check_arguments`."""
        super().check_arguments()
        if self.discount_updates and self.estimator == "total_return":
            raise ValueError(
                "`discount_updates=True` is for estimator='reward_to_go': the total return is discounted from the "
                "start of the episode already."
            )
        n_envs = getattr(self, "n_envs", 2)  # not known yet for a model built without an environment
        needs_several = {
            "baseline='leave_one_out'": self.baseline == "leave_one_out",
            "normalize_returns=True of total returns": self.normalize_returns and self.estimator == "total_return",
        }
        for argument_, is_given in needs_several.items():
            if is_given and self.n_episodes * n_envs < 2:
                raise ValueError(
                    f"`{argument_}` needs at least 2 episodes in an update, but `n_episodes` and the number of "
                    "environments are 1."
                )
