"""Gymnasium's `MountainCar-v0` and `MountainCarContinuous-v0` as worlds."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from gymnasium import spaces

from pg_envs.checks import check_number
from pg_envs.classic.pictures import Picture
from pg_envs.worlds import World, uniform

LOWEST, HIGHEST, LARGEST_SPEED = -1.2, 0.6, 0.07
GOAL, GOAL_CONTINUOUS = 0.5, 0.45
FORCE, POWER, GRAVITY = 0.001, 0.0015, 0.0025


def start(state: Any, random: Any) -> None:
    """A place uniform in [-.6, -.4], at rest. Third comes whether the car has moved."""
    state[0] = uniform(random, -0.6, -0.4)
    state[1] = 0.0
    state[2] = 0.0


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """Push to the left (0), not at all, or to the right (2); reward -1. `constants[0]` is the speed to arrive with."""
    position, speed = state[0], state[1]
    speed = speed + (float(action[0] - 1) * FORCE + math.cos(3.0 * position) * -GRAVITY)
    speed = min(max(speed, -LARGEST_SPEED), LARGEST_SPEED)
    position = min(max(position + speed, LOWEST), HIGHEST)
    if position == LOWEST and speed < 0.0:
        speed = 0.0
    state[0], state[1], state[2] = position, speed, 1.0
    return -1.0, position >= GOAL and speed >= constants[0]


def step_continuous(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """Push with a force in [-1, 1]; the reward is -.1 force², and 100 more at the goal.

    Gymnasium keeps the state in float32, all but the first, and calculates as NumPy does with numbers of float32.
    """
    position, force = state[0], action[0]
    tripled = 3.0 * position
    if state[2] == 1.0:
        tripled = np.float64(np.float32(tripled))
    push = force * np.float32(POWER) - np.float32(GRAVITY * math.cos(tripled))
    speed = np.float32(state[1]) + push
    speed = min(max(speed, np.float32(-LARGEST_SPEED)), np.float32(LARGEST_SPEED))
    position = np.float32(position + np.float64(speed))
    position = min(max(position, np.float32(LOWEST)), np.float32(HIGHEST))
    if position == np.float32(LOWEST) and speed < np.float32(0.0):
        speed = np.float32(0.0)
    state[0], state[1], state[2] = position, speed, 1.0
    terminated = position >= np.float32(GOAL_CONTINUOUS) and speed >= np.float32(constants[0])
    cost = np.float64(force) * np.float64(force) * 0.1
    return 100.0 - cost if terminated else 0.0 - cost, terminated


def observe(state: Any, observation: Any) -> None:
    """Position and speed."""
    observation[0] = state[0]
    observation[1] = state[1]


@cache
def mountain_car(goal_velocity: float = 0) -> World:
    """The world of `pg/MountainCar-v0`.

    Args:
        goal_velocity: The speed that the car must have at the goal.

    Raises:
        ValueError: `goal_velocity` is not a number.
    """
    return _world(step, spaces.Discrete(3), goal_velocity, "mountain_car:MountainCarEnv")


@cache
def mountain_car_continuous(goal_velocity: float = 0) -> World:
    """The world of `pg/MountainCarContinuous-v0`.

    Args:
        goal_velocity: The speed that the car must have at the goal.

    Raises:
        ValueError: `goal_velocity` is not a number.
    """
    space = spaces.Box(-1.0, 1.0, (1,), dtype=np.float32)
    return _world(step_continuous, space, goal_velocity, "continuous_mountain_car:Continuous_MountainCarEnv")


def _world(move: Any, action_space: spaces.Space[Any], goal_velocity: float, gymnasiums: str) -> World:
    check_number("goal_velocity", goal_velocity)
    low = np.array([LOWEST, -LARGEST_SPEED], dtype=np.float32)
    high = np.array([HIGHEST, LARGEST_SPEED], dtype=np.float32)
    return World(
        *(start, move, observe, 3),
        *(spaces.Box(low, high, dtype=np.float32), action_space),
        constants=(goal_velocity,),
        draw=Picture(f"gymnasium.envs.classic_control.{gymnasiums}", show),
        image_size=(600, 400),
    )


def show(env: Any, state: np.ndarray) -> None:
    """Put a state into Gymnasium's environment."""
    env.state = state[:2]
