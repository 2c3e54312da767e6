"""Swing-up of a pendulum with too little torque to lift it directly."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.checks import check_choice
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, GREY, RED, Canvas
from pg_envs.worlds import World, WorldEnv, WorldVector, compiled, uniform
from pg_envs.worlds.world import METADATA

DT = 0.05
MAX_SPEED = 8.0
MAX_TORQUE = 2.0
WORST = math.pi**2 + 0.1 * MAX_SPEED**2 + 0.001 * MAX_TORQUE**2
_TORQUE_COST, _PUSH = np.float32(0.001), np.float32(3.0)


@compiled
def _from_top(angle: Any) -> Any:
    """The angle in [-π, π)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


# A state is the angle, 0 at the top, and the speed. The constants are the units of the observed speed and the reward.


def start(state: Any, random: Any) -> None:
    """A uniform angle, and a speed uniform in [-1, 1]."""
    state[0] = uniform(random, -math.pi, math.pi)
    state[1] = uniform(random, -1.0, 1.0)


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """The reward -(θ² + .1 θ'² + .001 u²), and then θ'' = 15 sin θ + 3u."""
    angle, speed = state[0], state[1]
    torque = np.float32(MAX_TORQUE) * action[0]  # float32 is the precision of Gymnasium, for equal numbers
    off = _from_top(angle)
    cost = off * off + 0.1 * (speed * speed) + float(_TORQUE_COST * (torque * torque))
    speed = speed + (15.0 * math.sin(angle) + float(_PUSH * torque)) * DT
    speed = min(max(speed, -MAX_SPEED), MAX_SPEED)
    state[0], state[1] = angle + speed * DT, speed
    return -cost / constants[1], False


def observe(state: Any, observation: Any, constants: Any) -> None:
    """The vector (cos θ, sin θ, θ')."""
    observation[0], observation[1] = math.cos(state[0]), math.sin(state[0])
    observation[2] = state[1] / constants[0]


def controller(states: np.ndarray) -> np.ndarray:
    """Proportional-derivative control near the top; elsewhere energy is pumped up to that of rest at the top.

    The energy is θ'²/2 + 15 cos θ; its rate is 3uθ'.
    """
    angle, speed = states.T
    off = (angle + np.pi) % (2 * np.pi) - np.pi
    pump = (15.0 - speed**2 / 2 - 15.0 * np.cos(angle)) * np.where(speed < 0, -1.0, 1.0)
    hold = -10.0 * off - 2.0 * speed
    actions: np.ndarray = np.clip(np.where(np.cos(angle) > 0.9, hold, pump), -1.0, 1.0)
    return actions[:, None]


def draw(state: np.ndarray, canvas: Canvas) -> None:
    """A rod on its hinge."""
    canvas.view((-1.2, -1.2), (1.2, 1.2))
    canvas.circle((0, 0), 1.0, GREY, 1)
    angle = float(state[0])
    end = (-np.sin(angle), np.cos(angle))
    canvas.line([(0, 0), end], RED, 24)
    canvas.circle((0, 0), 0.072, RED)
    canvas.circle(end, 0.072, RED)
    canvas.circle((0, 0), 0.03, BLACK)


def pendulum_world(preset: str | None = None) -> World:
    """The pendulum; see `TorquePendulum`, also for the argument."""
    check_choice("preset", preset, (None, "gymnasium"))
    units = (1.0, 1.0) if preset == "gymnasium" else (MAX_SPEED, WORST)
    high = np.array([1.0, 1.0, MAX_SPEED / units[0]], dtype=np.float32)
    return World(
        start,
        step,
        observe,
        n_state=2,
        observation_space=spaces.Box(-high, high, dtype=np.float32),
        action_space=spaces.Box(-1.0, 1.0, (1,), np.float32),
        constants=units,
        draw=draw,
        controller=controller,
        metadata=TorquePendulum.metadata,
    )


class TorquePendulum(WorldEnv):
    """A pendulum that must be swung up and kept upright, with too little torque to lift it directly.

    ## Description
    Gymnasium's `Pendulum-v1` with torque, observation and reward in [-1, 1], so that learning algorithms need not scale
    them.

    ## Action space
    `Box(-1, 1, (1,), float32)`: the torque, as a fraction of 2.

    ## Observation space
    `Box(-1, 1, (3,), float32)`: cos θ, sin θ and θ'/8, with θ = 0 at the top. With the preset `"gymnasium"`, θ' is not
    divided.

    ## Dynamics
    A rod of mass 1 and length 1, gravity 10: θ'' = 15 sin θ + 3u with the torque u = 2a. In steps of .05,
    θ' ← θ' + .05 θ'' within ±8, then θ ← θ + .05 θ'.

    ## Rewards
    -(θ² + .1 θ'² + .001 u²) / 16.27 before the step, with θ in [-π, π): from -1 to 0. The preset does not divide.

    ## Start and end
    θ is uniform in ±π and θ' in ±1. An episode is truncated after 200 steps (`gym.make`'s `max_episode_steps`) and
    never terminates.

    ## Evaluation
    Deterministic. The reference is a controller that pumps energy and catches the pendulum at the top.

    ## Version history
    * v0: first version.

    Args:
        preset: None, or `"gymnasium"` for the numbers of `Pendulum-v1`: from the same state and with twice our
            actions, it has the same observations and rewards.
        render_mode: None, `"rgb_array"` or `"human"`.
    """

    metadata: dict[str, Any] = {
        **METADATA,
        "reference_scores": partial(computed_scores, "pg/TorquePendulum-v0"),
    }

    def __init__(self, preset: str | None = None, render_mode: str | None = None) -> None:
        super().__init__(pendulum_world(preset), render_mode)


class TorquePendulumVector(WorldVector):
    """Many pendulums at once; see `TorquePendulum` and, for the arguments, `WorldVector`."""

    def __init__(
        self,
        num_envs: int = 1,
        preset: str | None = None,
        max_episode_steps: int | None = 200,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(pendulum_world(preset), num_envs, max_episode_steps, autoreset_mode, render_mode)
