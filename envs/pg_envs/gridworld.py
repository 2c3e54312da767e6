"""Aliased gridworld: two cells look alike and need opposite actions, so the best policy tosses a coin there."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.checks import check_number
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, BLUE, GREEN, GREY, LIGHT, RED, Canvas
from pg_envs.worlds import World, WorldEnv, WorldVector, below
from pg_envs.worlds.world import METADATA

NORTH, EAST, SOUTH, WEST = range(4)
N_CORRIDOR = 5
SKULLS, TREASURE = (5, 7), 6  # the rooms south of cells 0 and 4, and of cell 2
STARTS = np.array([0, 1, 3, 4])

# Whether there is a wall to the north, east, south and west, for the corridor's five cells and the three rooms.
WALLS = np.array(
    [
        [1, 0, 0, 1],
        [1, 0, 1, 0],
        [1, 0, 0, 0],
        [1, 0, 1, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 1],
        [0, 1, 1, 1],
        [0, 1, 1, 1],
    ]
)
_ROOM = np.array([5, 0, 6, 0, 7, 5, 6, 7])  # the room to the south of a cell
_CELL = np.arange(8)[:, None]
_NEIGHBOURS = np.stack([np.arange(8), np.arange(8) + 1, _ROOM, np.arange(8) - 1], axis=1)
# An episode ends in a room, so no action leads out of one.
NEXT = np.where((WALLS == 1) | (_CELL >= N_CORRIDOR), _CELL, _NEIGHBOURS)
REWARD_OF_ENTERING = np.array([-0.05] * N_CORRIDOR + [-1.0, 1.0, -1.0])


def expected_return(p_east: float, epsilon: float = 0.0) -> float:
    """Exact mean return of a policy, without a time limit.

    In the grey cells the policy goes east with probability `p_east`, otherwise west; elsewhere it takes the shortest
    way. With probability `epsilon` the action is instead uniform over all four.

    V = r + P V   (the five equations of the corridor's cells)

    Args:
        p_east: Probability of going east in a grey cell. At 0 and 1, if `epsilon` is 0, the treasure cannot be reached
            from every start, and the return is -∞.
        epsilon: Probability of a random action.

    Raises:
        ValueError: An argument is not a probability.
    """
    check_number("p_east", p_east, at_least=0, at_most=1)
    check_number("epsilon", epsilon, at_least=0, at_most=1)
    if epsilon == 0 and p_east in (0, 1):
        return -np.inf
    policy = np.zeros((N_CORRIDOR, 4))
    policy[[0, 2, 4], [EAST, SOUTH, WEST]] = 1
    policy[[1, 3], EAST], policy[[1, 3], WEST] = p_east, 1 - p_east
    policy = (1 - epsilon) * policy + epsilon / 4
    arrival = np.eye(len(WALLS))[NEXT[:N_CORRIDOR]]  # (cell, action, next cell)
    transition = np.einsum("ca,can->cn", policy, arrival)
    reward = transition @ REWARD_OF_ENTERING
    values = np.linalg.solve(np.eye(N_CORRIDOR) - transition[:, :N_CORRIDOR], reward)
    return float(values[STARTS].mean())


# A state is the cell, 0 to 4 in the corridor and 5 to 7 in a room to its south. The constants are `NEXT`, `WALLS` and
# `REWARD_OF_ENTERING`, one after the other.
_WALLS_AT, _REWARD_AT = NEXT.size, NEXT.size + WALLS.size


def start(state: Any, random: Any) -> None:
    """A uniformly drawn corridor cell from which the treasure is more than one step away: `STARTS`."""
    drawn = below(random, 4)
    state[0] = float(drawn if drawn < 2 else drawn + 1)


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """Move one cell, or stay if there is a wall."""
    state[0] = constants[4 * int(state[0]) + int(action[0])]
    return constants[_REWARD_AT + int(state[0])], int(state[0]) >= N_CORRIDOR


def observe(state: Any, observation: Any, constants: Any) -> None:
    """The walls around the cell."""
    for side in range(4):
        observation[side] = constants[_WALLS_AT + 4 * int(state[0]) + side]


def draw(state: np.ndarray, canvas: Canvas) -> None:
    """The corridor above the rooms of the two skulls and the treasure; cells that look alike are grey."""
    canvas.view((-0.6, -1.6), (4.6, 0.6))
    places = [(cell, 0) for cell in range(N_CORRIDOR)] + [(0, -1), (2, -1), (4, -1)]
    for cell, (x, y) in enumerate(places):
        aliased = (WALLS[cell] == WALLS).all(axis=1).sum() == 2
        canvas.rectangle((x - 0.5, y - 0.5), (x + 0.5, y + 0.5), GREY if aliased else LIGHT)
    for cell, (x, y) in enumerate(places):
        corners = [(x - 0.5, y + 0.5), (x + 0.5, y + 0.5), (x + 0.5, y - 0.5), (x - 0.5, y - 0.5)]
        for side in range(4):
            if WALLS[cell, side]:
                canvas.line([corners[side], corners[(side + 1) % 4]], BLACK, 5)
    for room in SKULLS:
        _skull(canvas, *places[room])
    x, y = places[TREASURE]
    canvas.polygon([(x, y + 0.3), (x + 0.3, y), (x, y - 0.3), (x - 0.3, y)], GREEN)
    canvas.circle(places[int(state[0])], 0.16, BLUE)


def _skull(canvas: Canvas, x: float, y: float) -> None:
    canvas.circle((x, y + 0.07), 0.25, RED)
    canvas.rectangle((x - 0.13, y - 0.3), (x + 0.13, y), RED)
    for side in (-0.1, 0.1):
        canvas.circle((x + side, y + 0.07), 0.07, LIGHT)


def gridworld_world() -> World:
    """The gridworld; see `AliasedGridworld`.

    Known are the returns of the best policy without memory, of the ε-greedy policies with ε = .1, equal for east and
    west, and of uniformly random actions. They ignore the time limit, whose effect is negligible.
    """
    return World(
        start,
        step,
        observe,
        n_state=1,
        observation_space=spaces.Box(0.0, 1.0, (4,), np.float32),
        action_space=spaces.Discrete(4),
        constants=np.concatenate([NEXT.ravel(), WALLS.ravel(), REWARD_OF_ENTERING]),
        draw=draw,
        optimum=expected_return(0.5),
        known_returns={"random": expected_return(0.5, epsilon=1), "epsilon_greedy": expected_return(1, epsilon=0.1)},
        image_size=(520, 232),
        metadata=AliasedGridworld.metadata,
    )


class AliasedGridworld(WorldEnv):
    """A corridor with a treasure in the middle and a skull at each end; two of its cells look alike.

    ## Description
    After David Silver's lecture on policy gradients (UCL, 2015, lecture 7, "Aliased Gridworld Example"). The right
    action is east in the grey cell to the left of the treasure and west in the one to its right, but the agent sees
    only the walls, which are the same. The best policy tosses a fair coin there. A deterministic policy, such as a
    greedy one, never reaches the treasure from half of the starts.

    ## Action space
    `Discrete(4)`: 0 north, 1 east, 2 south, 3 west.

    ## Observation space
    `Box(0, 1, (4,), float32)`: whether there is a wall to the north, east, south and west of the cell.

    ## Dynamics
    There are five cells in a row, 0 to 4, and a room to the south of each of the cells 0, 2 and 4. An action moves one
    cell in its direction, or has no effect if there is a wall.

    ## Rewards
    +1 for entering the middle room, the treasure; -1 for entering another room, a skull; -.05 for any other step. A
    policy that goes east with probability p in the grey cells and takes the shortest way elsewhere has
    J = 1.025 - .05 / (p (1 - p)), at most .825. These are values of policies without memory; they ignore the time
    limit, whose effect on the best policy is negligible.

    ## Start and end
    An episode starts in one of the cells 0, 1, 3, 4, with probability 1/4 each. It terminates in a room, and is
    truncated after 200 steps (`gym.make`'s `max_episode_steps`).

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
        "reference_scores": partial(computed_scores, "pg/AliasedGridworld-v0"),
    }

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(gridworld_world(), render_mode)


class AliasedGridworldVector(WorldVector):
    """Many aliased gridworlds at once; see `AliasedGridworld` and, for the arguments, `WorldVector`."""

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = 200,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(gridworld_world(), num_envs, max_episode_steps, autoreset_mode, render_mode)
