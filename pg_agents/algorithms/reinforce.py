"""REINFORCE: Monte-Carlo policy gradient, from the naive estimator to the baselines that need no critic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from typing_extensions import Unpack

from pg_agents import estimators, search
from pg_agents.agent import CommonArguments, Env, PolicyGradient
from pg_agents.baselines import BASELINES, Baseline, Episodes
from pg_agents.buffers import Rollout
from pg_agents.checks import check_choice, check_number
from pg_agents.engines.autograd import Minibatch
from pg_agents.estimators import Bools, Floats
from pg_agents.objectives import Weight, score_function, score_function_weight
from pg_agents.policies import ACTOR_POLICIES

if TYPE_CHECKING:
    from optuna import Trial

ESTIMATORS = {"total_return": estimators.total_return, "reward_to_go": estimators.reward_to_go}


class REINFORCE(PolicyGradient):
    """REINFORCE: make the actions of good episodes more probable.

    θ += α / E Σ_{episodes} Σ_t [γ^t] (G_t - b) ∇ log π(a_t|s_t)   (Williams 1992; Sutton & Barto, 2nd ed., eq. 13.8)

    E is the number of episodes of the update: the sum over each episode's steps, and the mean over episodes, is the
    policy-gradient theorem's own scale. There is no critic, V = 0 everywhere, and a time limit ends an episode like
    any other end: nothing is bootstrapped.

    With several environments, each contributes its first `n_episodes`, decided before they start: taking whichever
    finish first would favour short ones. Steps that an environment takes while it waits for the others count as
    steps, are not trained on or counted in episode statistics, and end in a reset (which SB3's `Monitor` refuses with
    `allow_early_resets=False`).

    Args:
        policy: As for `PolicyGradient`, like all that is not listed here. There is no value network.
        env: The environment, or several.
        learning_rate: Step size of the optimiser (Adam, unless `policy_kwargs` says otherwise).
        n_episodes: Whole episodes per environment and update.
        gamma: Discount factor.
        estimator: `"reward_to_go"` credits an action with what came after it; `"total_return"`, the naive policy
            gradient, with the whole episode's return. Both have the same mean with `gamma` = 1 or
            `discount_updates=True`, the second more variance.
        discount_updates: Multiply the update of step t by γ^t, as the gradient of the discounted return from the
            start demands and as the textbook has it. Off by default, as everywhere in practice: with γ < 1 it all
            but ignores late steps. For `"reward_to_go"` only: γ^t is in the total return already.
        normalize_returns: Shift and scale the weights of each update to mean 0 and standard deviation 1.
        ent_coef: Coefficient of the entropy bonus; a number or a schedule.
        baseline: What is subtracted from the return: `"none"`; `"constant"`, the running mean of earlier updates;
            `"time"`, the same for each step of an episode; `"leave_one_out"`, the mean of the other episodes.
        max_grad_norm: The gradient is scaled down to this norm; None leaves it as it is.
        **common: As for `PolicyGradient`.

    Raises:
        ValueError: An argument is out of range, or two contradict each other.
    """

    policy_aliases = ACTOR_POLICIES
    has_critic = False

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: Env,
        learning_rate: float | Schedule = 3e-3,
        n_episodes: int = 4,
        gamma: float = 0.99,
        estimator: Literal["total_return", "reward_to_go"] = "reward_to_go",
        discount_updates: bool = False,
        normalize_returns: bool = False,
        ent_coef: float | Schedule = 0.0,
        baseline: Literal["none", "constant", "time", "leave_one_out"] = "none",
        max_grad_norm: float | None = None,
        **common: Unpack[CommonArguments],
    ) -> None:
        check_choice("baseline", baseline, BASELINES)
        self.estimator = estimator
        self.discount_updates = discount_updates
        self.normalize_returns = normalize_returns
        self.baseline = baseline
        self._baseline: Baseline = BASELINES[baseline]()
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_episodes=n_episodes,
            gamma=gamma,
            ent_coef=ent_coef,
            max_grad_norm=max_grad_norm,
            **common,
        )

    def _setup_model(self) -> None:
        # Here, because `load` may change the arguments of a saved model.
        self.normalize_advantage = self.normalize_returns
        super()._setup_model()
        if type(self._baseline) is not BASELINES[self.baseline]:
            self._baseline = BASELINES[self.baseline]()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_number("n_episodes", self.n_episodes, at_least=1, integer=True)
        check_choice("estimator", self.estimator, ESTIMATORS)
        check_choice("baseline", self.baseline, BASELINES)
        if self.discount_updates and self.estimator == "total_return":
            raise ValueError(
                "`discount_updates=True` is for estimator='reward_to_go': the total return is discounted from the "
                "start of the episode already."
            )
        assert self.n_episodes is not None
        n_envs = getattr(self, "n_envs", 2)  # not known yet for a model built without an environment
        if self.n_episodes * n_envs < 2:
            if self.baseline == "leave_one_out":
                self._refuse_single_episode("baseline='leave_one_out'")
            if self.normalize_returns and self.estimator == "total_return":
                self._refuse_single_episode("normalize_returns=True of total returns")

    def _refuse_single_episode(self, argument: str) -> NoReturn:
        raise ValueError(
            f"`{argument}` needs at least 2 episodes in an update, but `n_episodes` and the number of environments "
            "are 1."
        )

    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """[γ^t] (G_t - b), and G_t."""
        returns = ESTIMATORS[self.estimator](rollout.rewards, rollout.ends, self.gamma)
        episode, step = _episode_and_step(rollout.ends, rollout.counted)
        episodes = self._episodes(returns[rollout.counted], episode, step)
        weights = np.zeros_like(returns)
        weights[rollout.counted] = returns[rollout.counted] - self._baseline(episodes)[episode, step]
        self._baseline.learn(episodes)
        if self.discount_updates:
            weights[rollout.counted] *= self.gamma**step
        return weights, returns

    def objective(self, batch: Minibatch) -> th.Tensor:
        """(G - b) log π(a|s)."""
        return score_function(batch.log_prob, batch.advantages)

    def weight(self) -> Weight:
        """G - b."""
        return Weight(score_function_weight)

    @classmethod
    def search_space(
        cls, trial: Trial, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> dict[str, Any]:
        """As `PolicyGradient.search_space`, with whole episodes, baselines and the size of a step."""
        shared = super().search_space(trial, observation_space, action_space)
        return {
            **shared,
            **search.episodes(trial, shared["n_envs"]),
            "baseline": trial.suggest_categorical("baseline", list(BASELINES)),
            "normalize_returns": trial.suggest_categorical("normalize_returns", [False, True]),
            "ent_coef": search.log_uniform(trial, "ent_coef", 1e-6, 0.1),
            "max_grad_norm": search.log_uniform(trial, "max_grad_norm", 0.3, 50),
        }

    def _episodes(self, returns: Floats, episode: np.ndarray, step: np.ndarray) -> Episodes:
        """Returns of the counted steps, one row for each episode."""
        rows = np.zeros((episode.max() + 1, step.max() + 1), dtype=returns.dtype)
        rows[episode, step] = returns
        if self.estimator == "total_return":
            # An episode has one return, whichever step asks for it.
            rows[:] = rows[:, :1]
            return Episodes(rows, np.ones(rows.shape, dtype=np.bool_))
        alive = np.zeros(rows.shape, dtype=np.bool_)
        alive[episode, step] = True
        return Episodes(rows, alive)


def _episode_and_step(ends: Bools, counted: Bools) -> tuple[np.ndarray, np.ndarray]:
    """For each counted step of a `(T, N)` rollout, the number of its episode and its place in it."""
    starts = np.concatenate([np.ones_like(ends[:1]), ends[:-1]])
    time = np.arange(len(ends))[:, None]
    step = time - np.maximum.accumulate(np.where(starts, time, 0))
    # Numbered across environments, in the order in which `counted` picks the steps.
    number = np.cumsum(starts.T, dtype=int).reshape(ends.T.shape).T
    _, episode = np.unique(number[counted], return_inverse=True)
    return episode, step[counted]
