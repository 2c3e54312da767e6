"""Penalty kick: a game whose best policy over a continuous action has two peaks, so no Gaussian plays it well."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.batched import Batched, Dynamics, Single, Step
from pg_envs.checks import check_number, is_distribution
from pg_envs.games.repeated import draw
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, BLUE, GREEN, GREY, LIGHT, ORANGE, RED, Canvas

POST = 0.9
REACH = 0.55
KEEPERS = np.linspace(-POST, POST, 37)
ROUNDING = 1e-6  # of float32: a shot exactly at the end of the keeper's reach is held, however it was computed


def won(shots: Any, probabilities: Any = None) -> np.ndarray:
    """Mean reward of a mixture of shots against a keeper at each place of `KEEPERS`.

    2 Σ_i p_i [|a_i| ≤ .9 and |a_i - k| > .55] - 1

    Args:
        shots: The shots a_i.
        probabilities: Their probabilities p_i, by default equal.

    Returns:
        Array of shape `(37,)`. Its minimum, the worst case, is at most 0; half the shots at -.8 and half at .8 reach 0.

    Raises:
        ValueError: `probabilities` has another length than `shots`, or is not a distribution.
    """
    shots = np.atleast_1d(np.asarray(shots, dtype=np.float64))
    p = np.full(len(shots), 1 / len(shots)) if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    if p.shape != shots.shape or not is_distribution(p):
        raise ValueError(f"`probabilities` must be {len(shots)} numbers with sum 1, one per shot, but is {p!r}.")
    scored = _on_target(shots)[:, None] & ~_held(shots)
    return np.asarray(2 * (p @ scored) - 1)


def won_by_gaussian(mean: float, std: float) -> np.ndarray:
    """Mean reward of a Gaussian policy against a keeper at each place of `KEEPERS`.

    Args:
        mean: Mean of the policy.
        std: Standard deviation of the policy. Shots outside [-1, 1] are clipped, and miss.

    Returns:
        Array of shape `(37,)`. Its minimum, the worst case, is at most -.5327, for mean 0 and standard deviation .72.

    Raises:
        ValueError: `std` is not positive.
    """
    from scipy.special import ndtr

    check_number("mean", mean)
    check_number("std", std, at_least=np.finfo(float).tiny)

    def below(a: Any) -> Any:
        return ndtr((np.clip(a, -POST, POST) - mean) / std)

    scored = below(POST) - below(-POST) - (below(KEEPERS + REACH) - below(KEEPERS - REACH))
    return np.asarray(2 * scored - 1)


class KickState(NamedTuple):
    """The state of each match.

    Attributes:
        n_played: Number of shots so far, of shape `(copies,)`.
        uniforms: Numbers in [0, 1) from which the keeper's places are drawn, of shape `(copies, n_rounds)`.
        held: Number of past shots that the keeper would have held at each place, of shape `(copies, 37)`.
        shot: The last shot, NaN before the first, of shape `(copies,)`.
        keeper: The keeper's last place, NaN before the first shot, of shape `(copies,)`.
        score: The return so far, of shape `(copies,)`.
    """

    n_played: np.ndarray
    uniforms: np.ndarray
    held: np.ndarray
    shot: np.ndarray
    keeper: np.ndarray
    score: np.ndarray


class KickDynamics(Dynamics[KickState]):
    """The rules: see `PenaltyKick`."""

    image_size = (480, 320)

    def __init__(self, n_rounds: int = 50) -> None:
        check_number("n_rounds", n_rounds, at_least=1, integer=True)
        self.n_rounds = n_rounds
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def start(self, rngs: Sequence[np.random.Generator]) -> KickState:
        """Before the first shot. Draws a number for each choice of the keeper."""
        n = len(rngs)
        return KickState(
            n_played=np.zeros(n, dtype=np.int64),
            uniforms=np.array([rng.random(self.n_rounds) for rng in rngs]),
            held=np.zeros((n, len(KEEPERS)), dtype=np.int32),
            shot=np.full(n, np.nan),
            keeper=np.full(n, np.nan),
            score=np.zeros(n),
        )

    def step(self, state: KickState, actions: np.ndarray) -> Step[KickState]:
        """One shot. The keeper chooses among the places that would have held most of the past shots."""
        n, shots = len(actions), actions[:, 0]
        past_the_end = np.minimum(state.n_played, self.n_rounds - 1)
        best = state.held == state.held.max(axis=1, keepdims=True)
        places = draw(best, state.uniforms[np.arange(n), past_the_end])
        # A shot that misses would miss against any keeper, so the keeper learns nothing from it.
        held = _held(shots) & _on_target(shots)[:, None]
        goal = _on_target(shots) & ~held[np.arange(n), places]
        rewards = np.where(goal, 1.0, -1.0)
        after = KickState(
            n_played=state.n_played + 1,
            uniforms=state.uniforms,
            held=state.held + held,
            shot=shots,
            keeper=KEEPERS[places],
            score=state.score + rewards,
        )
        return after, rewards, after.n_played >= self.n_rounds

    def observe(self, state: KickState) -> np.ndarray:
        """A constant 1."""
        return np.ones((len(state.n_played), 1), dtype=np.float32)

    def info(self, state: KickState) -> dict[str, np.ndarray]:
        """`keeper`: the keeper's last place, NaN before the first shot."""
        return {"keeper": state.keeper}

    def known_returns(self) -> dict[str, float]:
        """The value of the game, and the returns of two policies.

        `value` is the largest return that a policy can guarantee. Half the shots at each of two sides guarantee 0. No
        policy guarantees more, because a keeper who stands at -.35 or .35 with equal probability holds any shot with
        probability 1/2 or more. The keeper here knows only the past shots of the match and concedes slightly more,
        about .03 per shot, to policies that vary their shots to both sides; the maximum is unknown.

        `two_posts` is the return of half the shots at each post, `zero` that of all shots at the middle, of which only
        the first can score.
        """
        first = {at: 2 * float((~_held(np.array([at]))).mean()) - 1 for at in (0.0, POST)}
        return {"value": 0.0, "two_posts": first[POST], "zero": first[0.0] - (self.n_rounds - 1)}

    def draw(self, state: KickState, canvas: Canvas) -> None:
        """Goal, keeper and ball; below, the share of past shots that the keeper would have held at each place."""
        canvas.view((-1.2, -1.0), (1.2, 0.6))
        shot, keeper = float(state.shot[0]), float(state.keeper[0])
        played = int(state.n_played[0])
        canvas.text((0, 0.5), f"{played} of {self.n_rounds} shots, score {state.score[0]:g}", size=24)
        for x in np.linspace(-POST, POST, 19):
            canvas.line([(x, -0.3), (x, 0.3)], LIGHT, 1)
        for y in np.linspace(-0.3, 0.3, 7):
            canvas.line([(-POST, y), (POST, y)], LIGHT, 1)
        if played:
            canvas.line([(keeper - REACH, 0.0), (keeper + REACH, 0.0)], ORANGE, 14)
            canvas.rectangle((keeper - 0.09, -0.3), (keeper + 0.09, 0.07), ORANGE)
            canvas.circle((keeper, 0.16), 0.08, ORANGE)
            goal = _on_target(state.shot)[0] and not _reached(shot - keeper)
            canvas.circle((shot, 0.0), 0.065, GREEN if goal else RED)
            canvas.circle((shot, 0.0), 0.065, BLACK, 2)
        canvas.line([(-POST, -0.3), (-POST, 0.3), (POST, 0.3), (POST, -0.3)], BLACK, 7)
        canvas.line([(-1.2, -0.3), (1.2, -0.3)], GREY, 3)
        for place, n_held in zip(KEEPERS, state.held[0], strict=True):
            canvas.rectangle((place - 0.018, -0.85), (place + 0.018, -0.85 + 0.45 * n_held / max(1, played)), BLUE)
        canvas.line([(-POST - 0.03, -0.85), (POST + 0.03, -0.85)], BLACK, 2)
        canvas.text((0, -0.93), "share of the shots so far that the keeper would hold there", size=18)


class PenaltyKick(Single[KickState]):
    """Penalty kicks against a keeper with a memory: the best policy chooses between two sides at random.

    ## Description
    Shots at a goal whose keeper has seen the past shots and stands where most of them would have been held. A policy
    that shoots half the time to the left and half to the right gets 0 against any keeper. A Gaussian policy cannot:
    with one peak, it reaches both sides only if it also shoots at the middle or misses. Against its worst-case keeper
    it gets -.533 at best, with mean 0 and standard deviation .72. Any fixed shot gets -1.

    ## Action space
    `Box(-1, 1, (1,), float32)`: the place of the shot. The posts are at ±.9.

    ## Observation space
    `Box(0, 1, (1,), float32)`, always 1.

    ## Dynamics
    The keeper stands at one of 37 places k from -.9 to .9, and reaches |a - k| ≤ .55. The place is the one that would
    have held most of the match's past shots, with ties broken at random.

    ## Rewards
    1 for a goal, -1 if the keeper holds the shot or it misses, |a| > .9. `info["keeper"]` is k.

    ## Start and end
    A match terminates after `n_rounds` shots. There is no time limit.

    ## Evaluation
    Stochastic: `metadata["deterministic_evaluation"]` is False. `won` and `won_by_gaussian` give the exact mean reward
    of a policy against each keeper; the minimum is its worst case.

    ## Version history
    * v0: first version.

    Args:
        n_rounds: Number of shots of a match.
        render_mode: None, `"rgb_array"` or `"human"`.

    Raises:
        ValueError: An argument is out of range.
    """

    metadata: dict[str, Any] = {
        **Single.metadata,
        "render_fps": 2,
        "deterministic_evaluation": False,
        "reference_scores": partial(computed_scores, "pg/PenaltyKick-v0"),
    }

    def __init__(self, n_rounds: int = 50, render_mode: str | None = None) -> None:
        super().__init__(KickDynamics(n_rounds), render_mode)


class PenaltyKickVector(Batched[KickState]):
    """Many matches at once; see `PenaltyKick` and, for the other arguments, `Batched`."""

    def __init__(
        self,
        num_envs: int = 1,
        n_rounds: int = 50,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        dynamics = KickDynamics(n_rounds)
        super().__init__(dynamics, num_envs, max_episode_steps, autoreset_mode, render_mode, PenaltyKick.metadata)


def _on_target(shots: np.ndarray) -> np.ndarray:
    on_target: np.ndarray = np.abs(shots) <= POST + ROUNDING
    return on_target


def _held(shots: np.ndarray) -> np.ndarray:
    """Whether a keeper at each place would reach each shot, of shape `(shots, 37)`."""
    return _reached(shots[:, None] - KEEPERS)


def _reached(distances: Any) -> np.ndarray:
    reached: np.ndarray = np.abs(distances) <= REACH + ROUNDING
    return reached
