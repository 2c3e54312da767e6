"""Gymnasium's `Acrobot-v1` as a world: the equations of the book, with links of length and mass 1."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from gymnasium import spaces

from pg_envs.classic.pictures import Picture
from pg_envs.worlds import World, compiled, uniform

DT, GRAVITY, CENTRE, INERTIA = 0.2, 9.8, 0.5, 1.0
LARGEST_SPEED_1, LARGEST_SPEED_2 = 4 * math.pi, 9 * math.pi


def start(state: Any, random: Any) -> None:
    """Both angles and both speeds are uniform in ±.1, in float32 as in Gymnasium."""
    for i in range(4):
        state[i] = np.float32(uniform(random, -0.1, 0.1))


@compiled
def accelerations(angle_1: float, angle_2: float, speed_1: float, speed_2: float, torque: float) -> tuple[float, float]:
    """Angular accelerations of both links (R. Sutton and A. Barto, Reinforcement Learning, 1998, section 11.3)."""
    sin, cos = math.sin(angle_2), math.cos(angle_2)
    d_1 = CENTRE * CENTRE + (1.0 + CENTRE * CENTRE + 2.0 * CENTRE * cos) + INERTIA + INERTIA
    d_2 = (CENTRE * CENTRE + CENTRE * cos) + INERTIA
    phi_2 = CENTRE * GRAVITY * math.sin(angle_1 + angle_2)
    phi_1 = (
        -CENTRE * (speed_2 * speed_2) * sin
        - 2.0 * CENTRE * speed_2 * speed_1 * sin
        + (CENTRE + 1.0) * GRAVITY * math.sin(angle_1)
        + phi_2
    )
    acceleration_2 = (torque + d_2 / d_1 * phi_1 - CENTRE * (speed_1 * speed_1) * sin - phi_2) / (
        CENTRE * CENTRE + INERTIA - d_2 * d_2 / d_1
    )
    return -(d_2 * acceleration_2 + phi_1) / d_1, acceleration_2


@compiled
def wrapped(angle: float) -> float:
    """An angle in [-π, π]."""
    while angle > math.pi:
        angle = angle - 2.0 * math.pi
    while angle < -math.pi:
        angle = angle + 2.0 * math.pi
    return angle


def step(state: Any, action: Any, random: Any) -> tuple[float, bool]:
    """Turn the joint by the torque -1, 0 or 1 for one step of Runge and Kutta's method of the fourth order."""
    torque = float(action[0] - 1)
    angle_1, angle_2, speed_1, speed_2 = state[0], state[1], state[2], state[3]
    half, sixth = DT / 2.0, DT / 6.0
    a_1, a_2 = accelerations(angle_1, angle_2, speed_1, speed_2, torque)
    v_1, v_2 = speed_1 + half * a_1, speed_2 + half * a_2
    b_1, b_2 = accelerations(angle_1 + half * speed_1, angle_2 + half * speed_2, v_1, v_2, torque)
    w_1, w_2 = speed_1 + half * b_1, speed_2 + half * b_2
    c_1, c_2 = accelerations(angle_1 + half * v_1, angle_2 + half * v_2, w_1, w_2, torque)
    x_1, x_2 = speed_1 + DT * c_1, speed_2 + DT * c_2
    d_1, d_2 = accelerations(angle_1 + DT * w_1, angle_2 + DT * w_2, x_1, x_2, torque)
    angle_1 = wrapped(angle_1 + sixth * (speed_1 + 2.0 * v_1 + 2.0 * w_1 + x_1))
    angle_2 = wrapped(angle_2 + sixth * (speed_2 + 2.0 * v_2 + 2.0 * w_2 + x_2))
    speed_1 = speed_1 + sixth * (a_1 + 2.0 * b_1 + 2.0 * c_1 + d_1)
    speed_2 = speed_2 + sixth * (a_2 + 2.0 * b_2 + 2.0 * c_2 + d_2)
    state[0], state[1] = angle_1, angle_2
    state[2] = min(max(speed_1, -LARGEST_SPEED_1), LARGEST_SPEED_1)
    state[3] = min(max(speed_2, -LARGEST_SPEED_2), LARGEST_SPEED_2)
    terminated = -math.cos(angle_1) - math.cos(angle_2 + angle_1) > 1.0
    return 0.0 if terminated else -1.0, terminated


def observe(state: Any, observation: Any) -> None:
    """Cosine and sine of both angles, and the speeds."""
    for i in range(2):
        observation[2 * i] = math.cos(state[i])
        observation[2 * i + 1] = math.sin(state[i])
        observation[4 + i] = state[2 + i]


@cache
def acrobot() -> World:
    """The world of `pg/Acrobot-v1`."""
    high = np.array([1.0, 1.0, 1.0, 1.0, LARGEST_SPEED_1, LARGEST_SPEED_2], dtype=np.float32)
    return World(
        *(start, step, observe, 4),
        *(spaces.Box(-high, high, dtype=np.float32), spaces.Discrete(3)),
        draw=Picture("gymnasium.envs.classic_control.acrobot:AcrobotEnv", show),
        image_size=(500, 500),
    )


def show(env: Any, state: np.ndarray) -> None:
    """Put a state into Gymnasium's environment."""
    env.state = state
