"""The student's functions in the slots of `PolicyGradient`: agents that train on any environment.

A function stands where the algorithm of the package has its own. The rest is the package's.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.monitor import Monitor

from pg_agents import PPO, REINFORCE, PolicyGradient, ReinforceBaseline, evaluate_policy
from pg_agents.contract import Minibatch, Objective, Rollout


def by_episode(function: Callable[..., np.ndarray], rollout: Rollout, *arguments: Any) -> np.ndarray:
    """A function of one episode's rewards, applied to each episode of a rollout."""
    results = np.zeros_like(rollout.rewards)
    for n in range(rollout.rewards.shape[1]):
        cuts = np.flatnonzero(rollout.ends[:, n]) + 1
        for steps in np.split(np.arange(len(results)), cuts):
            results[steps, n] = function(rollout.rewards[steps, n], *arguments)
    return results


def reinforce(exercise: ModuleType) -> type[PolicyGradient]:
    """REINFORCE: the returns in `estimate`, and the objective."""

    class Agent(REINFORCE):
        def estimate(self, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
            returns = by_episode(exercise.rewards_to_go, rollout, self.gamma)
            return returns, returns

        def objective(self) -> Objective:
            return Objective(lambda batch: exercise.objective(batch.log_prob, batch.advantages))

    return Agent


def baseline(exercise: ModuleType) -> type[PolicyGradient]:
    """REINFORCE with baseline: actor and critic in one objective, so the package's own value loss has weight 0."""

    class Agent(ReinforceBaseline):
        vf_coef: float = 0.0

        def objective(self) -> Objective:
            return Objective(lambda batch: exercise.objective(batch.log_prob, batch.values, batch.returns))

    return Agent


def gae(exercise: ModuleType) -> type[PolicyGradient]:
    """PPO with the student's advantages."""

    class Agent(PPO):
        def estimate(self, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
            args = rollout.rewards, rollout.values, rollout.next_values, rollout.terminated
            errors = exercise.td_errors(*args, self.gamma)
            columns = [
                exercise.gae(*one, self.gamma, self.gae_lambda) for one in zip(errors.T, rollout.ends.T, strict=True)
            ]
            advantages = np.stack(columns, axis=1)
            return advantages, advantages + rollout.values

    return Agent


def ppo_clip(exercise: ModuleType) -> type[PolicyGradient]:
    """PPO with the student's objective, which normalises the advantages itself."""

    class Agent(PPO):
        normalize_advantage: bool = False

        def objective(self) -> Objective:
            return Objective(lambda batch: exercise.objective(batch.log_prob, *_old(batch), 0.2))

    return Agent


def _old(batch: Minibatch) -> tuple[th.Tensor, th.Tensor]:
    return batch.old_log_prob, batch.advantages


AGENTS = {"reinforce": reinforce, "baseline": baseline, "gae": gae, "ppo_clip": ppo_clip}


def train(name: str, exercise: ModuleType, n_steps: int = 50_000, n_episodes: int = 20) -> str:
    """Train the agent of an exercise on CartPole, and say how well it balances."""
    import gymnasium as gym

    agent = AGENTS[name](exercise)("MlpPolicy", Monitor(gym.make("CartPole-v1")), seed=0, engine="autograd")
    agent.learn(n_steps, progress_bar=True)
    mean, std = evaluate_policy(agent, agent.get_env(), n_eval_episodes=n_episodes)
    return f"After {n_steps:,} steps of CartPole your agent's mean return is {mean:.0f} ± {std:.0f}; 500 is the most."
