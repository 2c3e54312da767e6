"""A decision problem of two steps, small enough to list every trajectory, so that expectations are sums.

In state 0, both actions lead to state 1 or 2; in these, the second action ends the episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pg_agents.theory import Solution, TabularMDP

MDP = TabularMDP(
    transitions=[[[0, 0.8, 0.2], [0, 0.3, 0.7]], [[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]],
    rewards=[[1, 0], [0, 2], [4, -1]],
)
THETA = np.array([[0.2, -0.1], [0.5, 0.0], [0.6, 0.4]])


@dataclass(frozen=True)
class Trajectory:
    """One of the possible courses of an episode.

    Attributes:
        probability: P(τ).
        states: s_0, s_1.
        actions: a_0, a_1.
        rewards: r_0, r_1.
    """

    probability: float
    states: tuple[int, ...]
    actions: tuple[int, ...]
    rewards: tuple[float, ...]


def trajectories(mdp: TabularMDP, policy: np.ndarray) -> Iterator[Trajectory]:
    """All eight trajectories of the two steps: P(τ) = π(a_0|s_0) P(s_1|s_0, a_0) π(a_1|s_1)."""
    for first in range(2):
        for state in (1, 2):
            for second in range(2):
                probability = policy[0, first] * mdp.transitions[0, first, state] * policy[state, second]
                rewards = mdp.rewards[0, first], mdp.rewards[state, second]
                yield Trajectory(float(probability), (0, state), (first, second), tuple(map(float, rewards)))


def score(policy: np.ndarray, state: int, action: int) -> np.ndarray:
    """∇ log π(a|s) by θ, for π(.|s) = softmax(θ[s]): 1{a = b} - π(b|s) in the row of s."""
    found = np.zeros_like(policy)
    found[state] = np.eye(policy.shape[1])[action] - policy[state]
    return found


def expected(solution: Solution, estimate: Callable[[Trajectory], np.ndarray]) -> tuple[np.ndarray, float]:
    """Exact mean of an estimate of the gradient over all trajectories, and its variance, summed over components."""
    all_of_them = list(trajectories(solution.mdp, solution.policy))
    probabilities = np.array([one.probability for one in all_of_them])
    estimates = np.array([estimate(one).ravel() for one in all_of_them])
    mean = probabilities @ estimates
    variance = float(probabilities @ ((estimates - mean) ** 2).sum(axis=1))
    return mean.reshape(solution.policy.shape), variance
