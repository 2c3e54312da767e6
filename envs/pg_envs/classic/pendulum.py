"""Gymnasium's `Pendulum-v1` as a world."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from gymnasium import spaces

from pg_envs.checks import check_number
from pg_envs.classic.pictures import Picture
from pg_envs.worlds import World, uniform

LARGEST_SPEED, DT = 8.0, 0.05


def start(state: Any, random: Any) -> None:
    """The angle from upright is uniform in ±π, the speed in ±1. Third comes the last torque, which a picture shows."""
    state[0] = uniform(random, -math.pi, math.pi)
    state[1] = uniform(random, -1.0, 1.0)
    state[2] = 0.0


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """Turn by a torque u; the reward is -(θ² + .1 θ'² + .001 u²). `constants[0]` is 3/2 g."""
    angle, speed, torque = state[0], state[1], action[0]
    normalised = (angle + math.pi) % (2.0 * math.pi) - math.pi
    # Gymnasium calculates with the torque in float32.
    cost = normalised * normalised + 0.1 * (speed * speed) + np.float32(0.001) * (torque * torque)
    speed = speed + (constants[0] * math.sin(angle) + np.float32(3.0) * torque) * DT
    speed = min(max(speed, -LARGEST_SPEED), LARGEST_SPEED)
    state[0], state[1], state[2] = angle + speed * DT, speed, torque
    return -cost, False


def observe(state: Any, observation: Any) -> None:
    """Cosine and sine of the angle, and the speed."""
    observation[0] = math.cos(state[0])
    observation[1] = math.sin(state[0])
    observation[2] = state[1]


@cache
def pendulum(g: float = 10.0) -> World:
    """The world of `pg/Pendulum-v1`.

    Args:
        g: Acceleration of gravity.

    Raises:
        ValueError: `g` is not a number.
    """
    check_number("g", g)
    high = np.array([1.0, 1.0, LARGEST_SPEED], dtype=np.float32)
    return World(
        *(start, step, observe, 3),
        *(spaces.Box(-high, high, dtype=np.float32), spaces.Box(-2.0, 2.0, (1,), dtype=np.float32)),
        constants=(3 * g / 2,),
        draw=Picture("gymnasium.envs.classic_control.pendulum:PendulumEnv", show),
        image_size=(500, 500),
    )


def show(env: Any, state: np.ndarray) -> None:
    """Put a state into Gymnasium's environment."""
    env.state, env.last_u = state[:2], state[2]
