"""Worlds of tables: `start`, `step` and `observe` for Gymnasium's toy text, whose transitions are a table.

Gymnasium's `P[state][action]` is a list of outcomes: probability, next state, reward, and whether the task ends. Such a
list stands in a world's constants as rows of `ROW` numbers, of which one is drawn. Before the rows stand the index of
the first list, the numbers of constants that the lists of a state and of an action take, and a number for more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pg_envs.checks import is_distribution
from pg_envs.worlds import compiled, uniform

FIRST, PER_STATE, PER_ACTION, MORE, STARTS = range(5)
ROW = 5
CUMULATIVE, PROBABILITY, NEXT_STATE, REWARD, TERMINATED = range(ROW)


@compiled
def draw(random: Any, rows: Any, i: int) -> int:
    """Draw one of the rows from index `i` on: the first whose cumulative probability exceeds a uniform number."""
    number = uniform(random, 0.0, 1.0)
    while rows[i + CUMULATIVE] <= number:
        i += ROW
    return i


@compiled
def move(state: Any, action: Any, random: Any, constants: Any) -> int:
    """Draw an outcome, write the next state and its probability, and return the index of the row."""
    first = int(constants[FIRST] + constants[PER_STATE] * state[0] + constants[PER_ACTION] * action[0])
    i = draw(random, constants, first)
    state[0], state[1] = constants[i + NEXT_STATE], constants[i + PROBABILITY]
    return i


@compiled
def start(state: Any, random: Any, constants: Any) -> None:
    """Draw the first state. Second comes the probability of the last transition, third the last action (-1: none)."""
    state[0] = constants[draw(random, constants, STARTS) + NEXT_STATE]
    state[1], state[2] = 1.0, -1.0


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """Draw one of the action's outcomes."""
    i = move(state, action, random, constants)
    state[2] = action[0]
    return constants[i + REWARD], constants[i + TERMINATED] == 1.0


def observe(state: Any, observation: Any) -> None:
    """The number of the state."""
    observation[0] = state[0]


def info(states: np.ndarray) -> dict[str, np.ndarray]:
    """The probability of the last transition."""
    return {"prob": states[:, 1]}


@dataclass(frozen=True)
class Table:
    """A Markov decision process with finitely many states.

    Attributes:
        starts: Probabilities of the first states, `(states,)`.
        outcomes: Rows of `ROW` numbers, `(states, actions, outcomes, ROW)`; short lists are filled up with zeros.
    """

    starts: np.ndarray
    outcomes: np.ndarray

    @classmethod
    def of(cls, env: Any) -> Table:
        """The table of one of Gymnasium's toy text environments.

        Raises:
            ValueError: The probabilities of an action's outcomes are none.
        """
        n_outcomes = max(len(rows) for actions in env.P.values() for rows in actions.values())
        outcomes = np.zeros((len(env.P), len(env.P[0]), n_outcomes, ROW))
        for state, actions in env.P.items():
            for action, rows in actions.items():
                outcomes[state, action, : len(rows)] = _cumulative(np.array(rows, dtype=float))
        return cls(env.initial_state_distrib, outcomes)

    def constants(self, more: float = 0.0) -> np.ndarray:
        """The world's constants."""
        possible = np.flatnonzero(self.starts)
        rows = np.zeros((len(possible), ROW - 1))
        rows[:, 0], rows[:, 1] = self.starts[possible], possible
        starts = _cumulative(rows)
        _, n_actions, n_outcomes, _ = self.outcomes.shape
        head = [STARTS + starts.size, n_actions * n_outcomes * ROW, n_outcomes * ROW, more]
        return np.concatenate([head, starts.ravel(), self.outcomes.ravel()])

    def optimum(self, n_steps: int | None) -> float:
        """Mean undiscounted return of the best policy, which may depend on the time that is left.

            V_t(s) = max_a ∑ p (r + V_{t-1}(s'))

        Args:
            n_steps: Time limit; None for no limit.
        """
        values, before = np.zeros(len(self.starts)), np.full(len(self.starts), np.inf)
        n = 0
        while n != n_steps and np.abs(values - before).max() > 1e-12:
            values, before, n = self._backed_up(values).max(axis=1), values, n + 1
        return float(self.starts @ values)

    def random(self, n_steps: int | None) -> float:
        """Mean undiscounted return of uniformly random actions.

        Args:
            n_steps: Time limit; None for no limit.
        """
        if n_steps is None:  # V = r + P V
            states = np.eye(len(self.starts))
            rewards = self._backed_up(np.zeros(len(self.starts))).mean(axis=1)
            moves = np.stack([self._backed_up(one).mean(axis=1) - rewards for one in states], axis=1)
            values = np.linalg.solve(states - moves, rewards)
        else:
            values = np.zeros(len(self.starts))
            for _ in range(n_steps):
                values = self._backed_up(values).mean(axis=1)
        return float(self.starts @ values)

    def known_returns(self, n_steps: int | None) -> dict[str, float]:
        """The exact mean returns of policies by name."""
        return {"random": self.random(n_steps)}

    def _backed_up(self, values: np.ndarray) -> np.ndarray:
        """∑ p (r + V(s')), of shape `(states, actions)`."""
        _, probabilities, states, rewards, terminated = np.moveaxis(self.outcomes, -1, 0)
        after = np.where(terminated == 1, 0.0, values[states.astype(int)])
        mean: np.ndarray = (probabilities * (rewards + after)).sum(axis=-1)
        return mean


def _cumulative(rows: np.ndarray) -> np.ndarray:
    """Rows with their cumulative probability in front; the last probability is exactly 1, despite rounding."""
    if not is_distribution(rows[:, 0]):
        raise ValueError(f"Probabilities must be at least 0 and have the sum 1, but are {rows[:, 0].tolist()}.")
    sums = np.cumsum(rows[:, 0])
    sums[-1] = 1.0
    return np.column_stack([sums, rows])
