"""Swing-up of a pendulum with too little torque to lift it directly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.batched import Batched, Dynamics, Single, Step
from pg_envs.checks import check_choice
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, GREY, RED, Canvas

DT = 0.05
MAX_SPEED = 8.0
MAX_TORQUE = 2.0
WORST = np.pi**2 + 0.1 * MAX_SPEED**2 + 0.001 * MAX_TORQUE**2


class PendulumState(NamedTuple):
    """`angle`, 0 at the top, and `speed` of each copy, of shape `(copies,)`."""

    angle: np.ndarray
    speed: np.ndarray


class PendulumDynamics(Dynamics[PendulumState]):
    """The pendulum's equations: see `TorquePendulum`."""

    def __init__(self, preset: str | None = None) -> None:
        check_choice("preset", preset, (None, "gymnasium"))
        self._speed_unit, self._reward_unit = (1.0, 1.0) if preset == "gymnasium" else (MAX_SPEED, WORST)
        high = np.array([1.0, 1.0, MAX_SPEED / self._speed_unit], dtype=np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def start(self, rngs: Sequence[np.random.Generator]) -> PendulumState:
        """A uniform angle, and a speed uniform in [-1, 1]."""
        angle, speed = np.stack([rng.uniform((-np.pi, -1.0), (np.pi, 1.0)) for rng in rngs], axis=1)
        return PendulumState(angle, speed)

    def step(self, state: PendulumState, actions: np.ndarray) -> Step[PendulumState]:
        """The reward -(θ² + .1 θ'² + .001 u²), and then θ'' = 15 sin θ + 3u."""
        angle, speed = state
        torque = (MAX_TORQUE * actions[:, 0]).astype(np.float32)  # the precision of Gymnasium, for equal numbers
        off = _from_top(angle)
        costs = off**2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = np.clip(speed + (15.0 * np.sin(angle) + 3.0 * torque) * DT, -MAX_SPEED, MAX_SPEED)
        new = PendulumState(angle + speed * DT, speed)
        return new, -costs / self._reward_unit, np.zeros(len(speed), dtype=np.bool_)

    def observe(self, state: PendulumState) -> np.ndarray:
        """The vector (cos θ, sin θ, θ')."""
        parts = [np.cos(state.angle), np.sin(state.angle), state.speed / self._speed_unit]
        return np.stack(parts, axis=1).astype(np.float32)

    def controller(self, state: PendulumState) -> np.ndarray:
        """Proportional-derivative control near the top; elsewhere energy is pumped up to that of rest at the top.

        The energy is θ'²/2 + 15 cos θ; its rate is 3uθ'.
        """
        angle, speed = state
        off = _from_top(angle)
        pump = (15.0 - speed**2 / 2 - 15.0 * np.cos(angle)) * np.where(speed < 0, -1.0, 1.0)
        hold = -10.0 * off - 2.0 * speed
        actions: np.ndarray = np.clip(np.where(np.cos(angle) > 0.9, hold, pump), -1.0, 1.0)
        return actions[:, None]

    def draw(self, state: PendulumState, canvas: Canvas) -> None:
        """A rod on its hinge."""
        canvas.view((-1.2, -1.2), (1.2, 1.2))
        canvas.circle((0, 0), 1.0, GREY, 1)
        angle = float(state.angle[0])
        end = (-np.sin(angle), np.cos(angle))
        canvas.line([(0, 0), end], RED, 24)
        canvas.circle((0, 0), 0.072, RED)
        canvas.circle(end, 0.072, RED)
        canvas.circle((0, 0), 0.03, BLACK)


class TorquePendulum(Single[PendulumState]):
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
        preset: None, or `"gymnasium"` for the numbers of `Pendulum-v1`: with the same seed and twice our actions, it
            has the same observations and rewards.
        render_mode: None, `"rgb_array"` or `"human"`.
    """

    metadata: dict[str, Any] = {
        **Single.metadata,
        "reference_scores": partial(computed_scores, "pg/TorquePendulum-v0"),
    }

    def __init__(self, preset: str | None = None, render_mode: str | None = None) -> None:
        super().__init__(PendulumDynamics(preset), render_mode)


class TorquePendulumVector(Batched[PendulumState]):
    """Many pendulums at once; see `TorquePendulum` and, for the arguments, `Batched`."""

    def __init__(
        self,
        num_envs: int = 1,
        preset: str | None = None,
        max_episode_steps: int | None = 200,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            PendulumDynamics(preset), num_envs, max_episode_steps, autoreset_mode, render_mode, TorquePendulum.metadata
        )


def _from_top(angle: np.ndarray) -> np.ndarray:
    """The angle in [-π, π)."""
    wrapped: np.ndarray = (angle + np.pi) % (2 * np.pi) - np.pi
    return wrapped
