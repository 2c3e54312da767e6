"""Torque bandit: one torque, one reward, and two ways for a Gaussian policy to go wrong."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.checks import check_choice
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, BLUE, GREY, ORANGE, Canvas
from pg_envs.worlds import World, WorldEnv, WorldVector, compiled
from pg_envs.worlds.world import METADATA


class Peak(NamedTuple):
    """A peak of the reward: its `height`, its torque `at`, and its `width`, a standard deviation."""

    height: float
    at: float
    width: float


PEAKS = {
    "narrow": (Peak(1.0, -0.6, 0.05), Peak(1.0, 0.6, 0.05)),
    "unequal": (Peak(0.6, -0.4, 0.3), Peak(1.0, 0.7, 0.05)),
}

N_NUMBERS = 6  # of the two peaks


def reward(torques: Any, kind: str) -> np.ndarray:
    """r(a) = max_i h_i exp(-(a - m_i)² / 2 w_i²), over the peaks i of a kind.

    Args:
        torques: a, of any shape.
        kind: `"narrow"` or `"unequal"`.

    Returns:
        The rewards, of the same shape.

    Raises:
        ValueError: `kind` is neither of these.
    """
    check_choice("kind", kind, tuple(PEAKS))
    torques, constants = np.asarray(torques, dtype=np.float64), np.ravel(PEAKS[kind])
    rewards = [paid(float(torque), constants) for torque in torques.ravel()]
    return np.reshape(rewards, torques.shape)


@compiled
def paid(torque: Any, constants: Any) -> Any:
    """The reward of a torque, from the peaks' numbers."""
    highest = 0.0
    for i in range(0, N_NUMBERS, 3):
        apart = (torque - constants[i + 1]) / constants[i + 2]
        highest = max(highest, constants[i] * math.exp(-0.5 * (apart * apart)))
    return highest


# A state is the chosen torque, NaN before the step.


def start(state: Any, random: Any) -> None:
    """No torque yet."""
    state[0] = math.nan


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """The only step."""
    state[0] = action[0]
    return paid(state[0], constants), True


def observe(state: Any, observation: Any) -> None:
    """A constant 1."""
    observation[0] = 1.0


def controller(kind: str, states: np.ndarray) -> np.ndarray:
    """The torque at the highest peak."""
    return np.full((len(states), 1), max(PEAKS[kind]).at)


def draw(kind: str, state: np.ndarray, canvas: Canvas) -> None:
    """The reward as a function of the torque, and the chosen torque."""
    canvas.view((-1.2, -0.25), (1.2, 1.15))
    torques = np.linspace(-1, 1, 401)
    canvas.line([(-1, 0), (1, 0)], GREY, 2)
    canvas.line(list(zip(torques, reward(torques, kind), strict=True)), BLUE, 3)
    for x in (-1, 0, 1):
        canvas.line([(x, -0.02), (x, 0.02)], BLACK, 2)
        canvas.text((x, -0.1), f"{x}", size=20)
    canvas.text((0.5, -0.1), "torque", size=20)
    if np.isfinite(state[0]):
        won = float(reward(state[0], kind))
        canvas.line([(state[0], 0), (state[0], won)], ORANGE, 3)
        canvas.circle((state[0], won), 0.04, ORANGE)
        canvas.text((0, 1.09), f"reward {won:.2f}", ORANGE, 24)


def bandit_world(kind: str = "narrow") -> World:
    """The bandit; see `TorqueBandit`, also for the argument."""
    check_choice("kind", kind, tuple(PEAKS))
    return World(
        start,
        step,
        observe,
        n_state=1,
        observation_space=spaces.Box(0.0, 1.0, (1,), np.float32),
        action_space=spaces.Box(-1.0, 1.0, (1,), np.float32),
        constants=np.ravel(PEAKS[kind]),
        draw=partial(draw, kind),
        controller=partial(controller, kind),
        optimum=max(peak.height for peak in PEAKS[kind]),
        known_returns={"zero": float(reward(0.0, kind))},
        image_size=(480, 280),
        metadata=TorqueBandit.metadata,
    )


class TorqueBandit(WorldEnv):
    """One torque, and a reward with two peaks: a Gaussian policy fails although the best action is simple.

    ## Description
    `"narrow"`: two peaks of height 1 and width .05 at ±.6. A Gaussian policy with a large step size finds one, narrows,
    and is thrown off it and out of the box, where clipping makes all torques equal and the gradient vanishes.
    `"unequal"`: a wide peak of height .6 at -.4, and a narrow one of height 1 at .7. A Gaussian stays on the wide peak;
    bins find the narrow one.

    ## Action space
    `Box(-1, 1, (1,), float32)`.

    ## Observation space
    `Box(0, 1, (1,), float32)`, always 1.

    ## Rewards
    r(a) = max_i h_i exp(-(a - m_i)² / 2 w_i²) over two peaks with heights h, torques m and widths w: see `PEAKS`.

    ## Start and end
    An episode terminates after its only step.

    ## Version history
    * v0: first version.

    Args:
        kind: `"narrow"` or `"unequal"`.
        render_mode: None, `"rgb_array"` or `"human"`.

    Raises:
        ValueError: An argument is out of range.
    """

    metadata: dict[str, Any] = {
        **METADATA,
        "render_fps": 4,
        "reference_scores": partial(computed_scores, "pg/TorqueBandit-v0"),
    }

    def __init__(self, kind: str = "narrow", render_mode: str | None = None) -> None:
        super().__init__(bandit_world(kind), render_mode)


class TorqueBanditVector(WorldVector):
    """Many torque bandits at once; see `TorqueBandit` and, for the other arguments, `WorldVector`."""

    def __init__(
        self,
        num_envs: int = 1,
        kind: str = "narrow",
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(bandit_world(kind), num_envs, max_episode_steps, autoreset_mode, render_mode)
