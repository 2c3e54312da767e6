"""Gymnasium's `CartPole-v1` as a world."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from gymnasium import spaces

from pg_envs.classic.pictures import Picture
from pg_envs.worlds import World, uniform

GRAVITY, CART_MASS, POLE_MASS, HALF_LENGTH, FORCE, TAU = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
TOTAL_MASS, POLE_MASS_LENGTH = CART_MASS + POLE_MASS, POLE_MASS * HALF_LENGTH
LARGEST_POSITION, LARGEST_ANGLE = 2.4, 12 * 2 * math.pi / 360


def start(state: Any, random: Any) -> None:
    """Position, speed, angle and angular speed, each uniform in ±.05."""
    for i in range(4):
        state[i] = uniform(random, -0.05, 0.05)


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """Push the cart to the left (0) or right (1); the reward is `constants[0]`, or `constants[1]` in the last step."""
    position, speed, angle, angular_speed = state[0], state[1], state[2], state[3]
    force = FORCE if action[0] == 1 else -FORCE
    cos, sin = math.cos(angle), math.sin(angle)
    pushed = (force + POLE_MASS_LENGTH * (angular_speed * angular_speed) * sin) / TOTAL_MASS
    angular_acceleration = (GRAVITY * sin - cos * pushed) / (
        HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * (cos * cos) / TOTAL_MASS)
    )
    acceleration = pushed - POLE_MASS_LENGTH * angular_acceleration * cos / TOTAL_MASS
    position = position + TAU * speed
    angle = angle + TAU * angular_speed
    state[0], state[1] = position, speed + TAU * acceleration
    state[2], state[3] = angle, angular_speed + TAU * angular_acceleration
    over = abs(position) > LARGEST_POSITION or abs(angle) > LARGEST_ANGLE
    return constants[1] if over else constants[0], over


def observe(state: Any, observation: Any) -> None:
    """The state."""
    for i in range(4):
        observation[i] = state[i]


@cache
def cartpole(sutton_barto_reward: bool = False) -> World:
    """The world of `pg/CartPole-v1`.

    Args:
        sutton_barto_reward: The reward is 0, and -1 when the pole falls, in place of 1.
    """
    high = np.array([2 * LARGEST_POSITION, np.inf, 2 * LARGEST_ANGLE, np.inf], dtype=np.float32)
    return World(
        *(start, step, observe, 4),
        *(spaces.Box(-high, high, dtype=np.float32), spaces.Discrete(2)),
        constants=(0.0, -1.0) if sutton_barto_reward else (1.0, 1.0),
        draw=Picture("gymnasium.envs.classic_control.cartpole:CartPoleEnv", show),
        image_size=(600, 400),
    )


def show(env: Any, state: np.ndarray) -> None:
    """Put a state into Gymnasium's environment."""
    env.state = state
