"""Torque bandit: one torque, one reward, and two ways for a Gaussian policy to go wrong."""

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
from pg_envs.rendering import BLACK, BLUE, GREY, ORANGE, Canvas


class Peak(NamedTuple):
    """A peak of the reward: its `height`, its torque `at`, and its `width`, a standard deviation."""

    height: float
    at: float
    width: float


PEAKS = {
    "narrow": (Peak(1.0, -0.6, 0.05), Peak(1.0, 0.6, 0.05)),
    "unequal": (Peak(0.6, -0.4, 0.3), Peak(1.0, 0.7, 0.05)),
}


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
    torques = np.asarray(torques, dtype=np.float64)
    peaks = [height * np.exp(-0.5 * ((torques - at) / width) ** 2) for height, at, width in PEAKS[kind]]
    highest: np.ndarray = np.max(peaks, axis=0)
    return highest


class BanditState(NamedTuple):
    """The chosen `torque`, NaN before the step, of shape `(copies,)`."""

    torque: np.ndarray


class BanditDynamics(Dynamics[BanditState]):
    """The reward: see `TorqueBandit`."""

    image_size = (480, 280)

    def __init__(self, kind: str = "narrow") -> None:
        check_choice("kind", kind, tuple(PEAKS))
        self.kind = kind
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def start(self, rngs: Sequence[np.random.Generator]) -> BanditState:
        """No torque yet."""
        return BanditState(np.full(len(rngs), np.nan))

    def step(self, state: BanditState, actions: np.ndarray) -> Step[BanditState]:
        """The only step."""
        torque = actions[:, 0]
        return BanditState(torque), reward(torque, self.kind), np.ones(len(torque), dtype=np.bool_)

    def observe(self, state: BanditState) -> np.ndarray:
        """A constant 1."""
        return np.ones((len(state.torque), 1), dtype=np.float32)

    def optimum(self) -> float:
        """The height of the highest peak."""
        return max(peak.height for peak in PEAKS[self.kind])

    def known_returns(self) -> dict[str, float]:
        """r(0)."""
        return {"zero": float(reward(0.0, self.kind))}

    def controller(self, state: BanditState) -> np.ndarray:
        """The torque at the highest peak."""
        return np.full((len(state.torque), 1), max(PEAKS[self.kind]).at)

    def draw(self, state: BanditState, canvas: Canvas) -> None:
        """The reward as a function of the torque, and the chosen torque."""
        canvas.view((-1.2, -0.25), (1.2, 1.15))
        torques = np.linspace(-1, 1, 401)
        canvas.line([(-1, 0), (1, 0)], GREY, 2)
        canvas.line(list(zip(torques, reward(torques, self.kind), strict=True)), BLUE, 3)
        for x in (-1, 0, 1):
            canvas.line([(x, -0.02), (x, 0.02)], BLACK, 2)
            canvas.text((x, -0.1), f"{x}", size=20)
        canvas.text((0.5, -0.1), "torque", size=20)
        if np.isfinite(state.torque[0]):
            won = float(reward(state.torque[0], self.kind))
            canvas.line([(state.torque[0], 0), (state.torque[0], won)], ORANGE, 3)
            canvas.circle((state.torque[0], won), 0.04, ORANGE)
            canvas.text((0, 1.09), f"reward {won:.2f}", ORANGE, 24)


class TorqueBandit(Single[BanditState]):
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
        **Single.metadata,
        "render_fps": 4,
        "reference_scores": partial(computed_scores, "pg/TorqueBandit-v0"),
    }

    def __init__(self, kind: str = "narrow", render_mode: str | None = None) -> None:
        super().__init__(BanditDynamics(kind), render_mode)


class TorqueBanditVector(Batched[BanditState]):
    """Many torque bandits at once; see `TorqueBandit` and, for the other arguments, `Batched`."""

    def __init__(
        self,
        num_envs: int = 1,
        kind: str = "narrow",
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        dynamics = BanditDynamics(kind)
        super().__init__(dynamics, num_envs, max_episode_steps, autoreset_mode, render_mode, TorqueBandit.metadata)
