"""Short corridor with switched actions: the best policy is stochastic because three states look alike."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.checks import check_number
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, BLUE, GREEN, LIGHT, ORANGE, WHITE, Canvas
from pg_envs.worlds import World, WorldEnv, WorldVector
from pg_envs.worlds.world import METADATA

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


# A state is the position, from 0 to 3. The constants are `NEXT`.


def start(state: Any, random: Any) -> None:
    """Every copy starts in state 0."""
    state[0] = 0.0


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """One step in the direction of the action; in state 1, in the opposite direction."""
    state[0] = constants[2 * int(state[0]) + int(action[0])]
    return -1.0, int(state[0]) == GOAL


def observe(state: Any, observation: Any) -> None:
    """A constant 1: the states cannot be told apart."""
    observation[0] = 1.0


def known_returns() -> dict[str, float]:
    """J of the two ε-greedy policies with ε = .1, where value-based learning ends, and of p = 1/2."""
    return {
        "random": expected_return(0.5),
        "epsilon_greedy_left": expected_return(0.05),
        "epsilon_greedy_right": expected_return(0.95),
    }


def draw(state: np.ndarray, canvas: Canvas) -> None:
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
    canvas.circle((int(state[0]), 0.1), 0.18, BLUE)


def corridor_world() -> World:
    """The corridor; see `ShortCorridor`. The known returns ignore the time limit, whose effect is negligible."""
    return World(
        start,
        step,
        observe,
        n_state=1,
        observation_space=spaces.Box(0.0, 1.0, (1,), np.float32),
        action_space=spaces.Discrete(2),
        constants=np.ravel(NEXT),
        draw=draw,
        optimum=expected_return(BEST),
        known_returns=known_returns(),
        image_size=(440, 130),
        metadata=ShortCorridor.metadata,
    )


class ShortCorridor(WorldEnv):
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
        **METADATA,
        "render_fps": 4,
        "deterministic_evaluation": False,
        "reference_scores": partial(computed_scores, "pg/ShortCorridor-v0"),
    }

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(corridor_world(), render_mode)


class ShortCorridorVector(WorldVector):
    """Many short corridors at once; see `ShortCorridor` and, for the arguments, `WorldVector`."""

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = 1000,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(corridor_world(), num_envs, max_episode_steps, autoreset_mode, render_mode)
