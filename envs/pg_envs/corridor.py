"""Short corridor with switched actions: the best policy is stochastic because three states look alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.batched import Batched, Dynamics, Single, Step
from pg_envs.checks import check_number
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, BLUE, GREEN, LIGHT, ORANGE, WHITE, Canvas

LEFT, RIGHT = 0, 1
GOAL = 3
BEST = 2 - math.sqrt(2)
NEXT = np.array([[0, 1], [2, 0], [1, 3], [3, 3]])  # by position and action


def expected_return(p_right: float) -> float:
    """Mean return of a policy that goes right with probability p, without a time limit.

    J(p) = (2p - 4) / (p (1 - p))   (the solution of V = -1 + P V in state 0; the maximum is at `BEST`, 2 - √2)

    Args:
        p_right: The probability p. At 0 and 1 the goal is never reached, and J = -∞.

    Raises:
        ValueError: `p_right` is not a probability.
    """
    check_number("p_right", p_right, at_least=0, at_most=1)
    p = float(p_right)
    return (2 * p - 4) / (p * (1 - p)) if 0 < p < 1 else -math.inf


class CorridorState(NamedTuple):
    """The `position` of each copy, an integer from 0 to 3, of shape `(copies,)`."""

    position: np.ndarray


class CorridorDynamics(Dynamics[CorridorState]):
    """The corridor's equations: see `ShortCorridor`."""

    image_size = (440, 130)

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def start(self, rngs: Sequence[np.random.Generator]) -> CorridorState:
        """Every copy starts in state 0."""
        return CorridorState(np.zeros(len(rngs), dtype=np.int64))

    def step(self, state: CorridorState, actions: np.ndarray) -> Step[CorridorState]:
        """One step in the direction of the action; in state 1, in the opposite direction."""
        position = NEXT[state.position, actions]
        return CorridorState(position), np.full(len(position), -1.0), position == GOAL

    def observe(self, state: CorridorState) -> np.ndarray:
        """A constant 1: the states cannot be told apart."""
        return np.ones((len(state.position), 1), dtype=np.float32)

    def optimum(self) -> float:
        """J(2 - √2) = -(6 + 4 √2), the best without memory. The time limit, whose effect is negligible, is ignored."""
        return expected_return(BEST)

    def known_returns(self) -> dict[str, float]:
        """J of the two ε-greedy policies with ε = .1, where value-based learning ends, and of p = 1/2."""
        return {
            "random": expected_return(0.5),
            "epsilon_greedy_left": expected_return(0.05),
            "epsilon_greedy_right": expected_return(0.95),
        }

    def draw(self, state: CorridorState, canvas: Canvas) -> None:
        """Three cells, with arrows that show where "right" leads, and the goal."""
        canvas.view((-0.6, -0.65), (3.6, 0.6))
        for cell in range(4):
            canvas.rectangle((cell - 0.5, -0.5), (cell + 0.5, 0.5), GREEN if cell == GOAL else LIGHT)
        for cell in range(GOAL):
            side = -1 if cell == 1 else 1
            canvas.line([(cell - 0.28 * side, -0.3), (cell + 0.15 * side, -0.3)], ORANGE, 4)
            tip, foot = cell + 0.3 * side, cell + 0.12 * side
            canvas.polygon([(tip, -0.3), (foot, -0.2), (foot, -0.4)], ORANGE)
        canvas.line([(-0.5, -0.5), (3.5, -0.5), (3.5, 0.5), (-0.5, 0.5)], BLACK, 5, closed=True)
        canvas.text((GOAL, 0), "goal", WHITE, 30)
        canvas.circle((int(state.position[0]), 0.1), 0.18, BLUE)


class ShortCorridor(Single[CorridorState]):
    """A corridor of three states that look alike; in the middle one the actions are reversed.

    ## Description
    Sutton & Barto, "Reinforcement Learning: An Introduction", 2nd ed. (2018), example 13.1. An agent that cannot tell
    the states apart does best if it goes right with probability 2 - √2 ≈ .586. A deterministic policy, such as a greedy
    one, never reaches the goal.

    ## Action space
    `Discrete(2)`: 0 left, 1 right.

    ## Observation space
    `Box(0, 1, (1,), float32)`, always 1.

    ## Dynamics
    The states are 0, 1, 2 and the goal 3. An action moves one state in its direction, except in state 1, where it moves
    one in the opposite direction. To the left of state 0 is a wall.

    ## Rewards
    -1 in every step. A policy that goes right with probability p has J(p) = (2p - 4) / (p (1 - p)), at most -11.657;
    the ε-greedy policies with ε = .1 have J(.95) = -44.2 and J(.05) = -82.1. These values ignore the time limit, which
    changes them by less than .01. They are those of policies without memory: a policy that counts steps goes right,
    left, right and gets -3.

    ## Start and end
    An episode starts in state 0, terminates at the goal, and is truncated after 1000 steps (`gym.make`'s
    `max_episode_steps`).

    ## Evaluation
    Stochastic: `metadata["deterministic_evaluation"]` is False.

    ## Version history
    * v0: first version.

    Args:
        render_mode: None, `"rgb_array"` or `"human"`.
    """

    metadata: dict[str, Any] = {
        **Single.metadata,
        "render_fps": 4,
        "deterministic_evaluation": False,
        "reference_scores": partial(computed_scores, "pg/ShortCorridor-v0"),
    }

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(CorridorDynamics(), render_mode)


class ShortCorridorVector(Batched[CorridorState]):
    """Many short corridors at once; see `ShortCorridor` and, for the arguments, `Batched`."""

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = 1000,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            CorridorDynamics(), num_envs, max_episode_steps, autoreset_mode, render_mode, ShortCorridor.metadata
        )
