"""Short corridor with switched actions: the best policy is stochastic because three states look the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.batched import Batched, Dynamics, Single, Step
from pg_envs.rendering import BLUE, GREEN, GREY, Canvas

LEFT, RIGHT = 0, 1
GOAL = 3


class CorridorState(NamedTuple):
    """Where each copy is: `position`, an integer from 0 to 3, of shape `(copies,)`."""

    position: np.ndarray


class CorridorDynamics(Dynamics[CorridorState]):
    """The corridor's equations: see `ShortCorridor`."""

    image_size = (440, 130)

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def start(self, rngs: Sequence[np.random.Generator]) -> CorridorState:
        """All start in state 0."""
        return CorridorState(np.zeros(len(rngs), dtype=np.int64))

    def step(self, state: CorridorState, actions: np.ndarray) -> Step[CorridorState]:
        """One step to a side, to the other one in state 1."""
        move = np.where(actions == RIGHT, 1, -1) * np.where(state.position == 1, -1, 1)
        position = np.clip(state.position + move, 0, GOAL)
        return CorridorState(position), np.full(len(position), -1.0), position == GOAL

    def observe(self, state: CorridorState) -> np.ndarray:
        """A constant 1: the states cannot be told apart."""
        return np.ones((len(state.position), 1), dtype=np.float32)

    def draw(self, state: CorridorState, canvas: Canvas) -> None:
        """Four cells; the arrows say where "right" leads."""
        canvas.view((-0.7, -0.7), (3.7, 0.7))
        for cell in range(4):
            canvas.rectangle((cell - 0.45, -0.45), (cell + 0.45, 0.45), GREEN if cell == GOAL else GREY, 3)
            if cell != GOAL:
                canvas.text((cell, -0.3), "right goes left" if cell == 1 else "right", size=16)
        canvas.circle((int(state.position[0]), 0.05), 0.18, BLUE)


class ShortCorridor(Single[CorridorState]):
    """A corridor of three states that look the same; in the middle one the actions are reversed.

    ## Description
    Sutton & Barto, "Reinforcement Learning: An Introduction", 2nd ed. (2018), example 13.1. An agent that cannot tell
    the states apart does best if it goes right with probability 2 - √2 ≈ .586; a deterministic policy, and so a greedy
    one, never arrives.

    ## Action space
    `Discrete(2)`: 0 left, 1 right.

    ## Observation space
    `Box(0, 1, (1,), float32)`, always 1.

    ## Dynamics
    States 0, 1, 2 and the goal 3. An action moves one state to its side, except in state 1, where it moves one to the
    other side. Left of state 0 is a wall.

    ## Rewards
    -1 in every step. With p the probability of going right, J(p) = (2p - 4) / (p (1 - p)), at most -11.657.

    ## Start and end
    Starts in state 0, terminates at the goal, and is truncated after 1000 steps (`gym.make`'s `max_episode_steps`).

    ## Evaluation
    Stochastic: `metadata["deterministic_evaluation"]` is False.

    ## Version history
    * v0: first version.

    Args:
        render_mode: None, `"rgb_array"` or `"human"`.
    """

    metadata: dict[str, Any] = {**Single.metadata, "render_fps": 4, "deterministic_evaluation": False}

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
