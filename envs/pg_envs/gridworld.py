"""Aliased gridworld: two cells look the same and need opposite actions, so that the best policy tosses a coin there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.batched import Batched, Dynamics, Single, Step
from pg_envs.checks import check_number
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, BLUE, GREEN, GREY, LIGHT, RED, Canvas

NORTH, EAST, SOUTH, WEST = range(4)
N_CORRIDOR = 5
SKULLS, TREASURE = (5, 7), 6  # the rooms south of cells 0 and 4, and of cell 2
STARTS = np.array([0, 1, 3, 4])

# Of the corridor's five cells and the three rooms: is there a wall to the north, east, south, west?
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
_ROOM = np.array([5, 0, 6, 0, 7, 5, 6, 7])  # what lies south of a cell
_CELL = np.arange(8)[:, None]
_NEIGHBOURS = np.stack([np.arange(8), np.arange(8) + 1, _ROOM, np.arange(8) - 1], axis=1)
# An episode is over in a room: nothing leads out of it.
NEXT = np.where((WALLS == 1) | (_CELL >= N_CORRIDOR), _CELL, _NEIGHBOURS)
REWARD_OF_ENTERING = np.array([-0.05] * N_CORRIDOR + [-1.0, 1.0, -1.0])


def expected_return(p_east: float, epsilon: float = 0.0) -> float:
    """Mean return of a policy, exactly, if no time limit cuts episodes off.

    In the grey cells the policy goes east with probability `p_east`, else west; elsewhere it goes the shortest way.
    With probability `epsilon` a step is drawn from all four actions instead.

    V = r + P V   (the five equations of the corridor's cells)

    Args:
        p_east: From 0 to 1; at both ends, without `epsilon`, the treasure is not reached from everywhere: -∞.
        epsilon: From 0 to 1.

    Raises:
        ValueError: One of them is no probability.
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


class GridworldState(NamedTuple):
    """Where each copy is: `cell`, 0 to 4 in the corridor and 5 to 7 in a room south of it, of shape `(copies,)`."""

    cell: np.ndarray


class GridworldDynamics(Dynamics[GridworldState]):
    """The gridworld's equations: see `AliasedGridworld`."""

    image_size = (520, 232)

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Discrete(4)

    def start(self, rngs: Sequence[np.random.Generator]) -> GridworldState:
        """In a corridor cell from which the treasure is not one step away, all with the same probability."""
        return GridworldState(STARTS[[rng.integers(len(STARTS)) for rng in rngs]])

    def step(self, state: GridworldState, actions: np.ndarray) -> Step[GridworldState]:
        """One cell further, or nowhere if there is a wall."""
        cell = NEXT[state.cell, actions]
        return GridworldState(cell), REWARD_OF_ENTERING[cell], cell >= N_CORRIDOR

    def observe(self, state: GridworldState) -> np.ndarray:
        """The walls around the cell."""
        walls: np.ndarray = WALLS[state.cell].astype(np.float32)
        return walls

    def optimum(self) -> float:
        """.825, of policies without memory, and without the time limit, which costs them nothing."""
        return expected_return(0.5)

    def known_returns(self) -> dict[str, float]:
        """The best deterministic policy with ε = .1, east or west alike, and uniformly random actions."""
        return {"random": expected_return(0.5, epsilon=1), "epsilon_greedy": expected_return(1, epsilon=0.1)}

    def draw(self, state: GridworldState, canvas: Canvas) -> None:
        """The corridor, above the rooms of the two skulls and the treasure; cells that look the same are grey."""
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
        canvas.circle(places[int(state.cell[0])], 0.16, BLUE)


def _skull(canvas: Canvas, x: float, y: float) -> None:
    canvas.circle((x, y + 0.07), 0.25, RED)
    canvas.rectangle((x - 0.13, y - 0.3), (x + 0.13, y), RED)
    for side in (-0.1, 0.1):
        canvas.circle((x + side, y + 0.07), 0.07, LIGHT)


class AliasedGridworld(Single[GridworldState]):
    """A corridor with a treasure in the middle and a skull at each end; two of its cells look the same.

    ## Description
    After David Silver's lecture on policy gradients (UCL, 2015, lecture 7, "Aliased Gridworld Example"). From the grey
    cell to the left of the treasure one must go east, from the one to its right west, but the agent sees only the
    walls, which are the same. The best policy tosses a fair coin there. A deterministic one, and so a greedy one, never
    arrives from half of the starts.

    ## Action space
    `Discrete(4)`: 0 north, 1 east, 2 south, 3 west.

    ## Observation space
    `Box(0, 1, (4,), float32)`: whether there is a wall to the north, east, south and west of the cell.

    ## Dynamics
    Five cells in a row, 0 to 4, and south of cells 0, 2 and 4 a room each. An action moves one cell in its direction;
    against a wall, nowhere.

    ## Rewards
    +1 for entering the room in the middle, the treasure; -1 for the other two, the skulls; -.05 for any other step.
    With p the probability of going east in a grey cell, and the shortest way elsewhere, J = 1.025 - .05 / (p (1 - p)),
    at most .825 (of policies without memory, and without the time limit, which costs this one nothing).

    ## Start and end
    Starts in one of the cells 0, 1, 3, 4, each with probability 1/4. Terminates in a room, and is truncated after 200
    steps (`gym.make`'s `max_episode_steps`).

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
        "reference_scores": partial(computed_scores, "pg/AliasedGridworld-v0"),
    }

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(GridworldDynamics(), render_mode)


class AliasedGridworldVector(Batched[GridworldState]):
    """Many aliased gridworlds at once; see `AliasedGridworld` and, for the arguments, `Batched`."""

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = 200,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            GridworldDynamics(), num_envs, max_episode_steps, autoreset_mode, render_mode, AliasedGridworld.metadata
        )
