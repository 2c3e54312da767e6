"""Penalty kick: a game whose best continuous action is two-peaked, so that no Gaussian policy plays it well."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.batched import Batched, Dynamics, Single, Step
from pg_envs.checks import check_number
from pg_envs.games.repeated import draw
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, BLUE, GREEN, GREY, LIGHT, ORANGE, RED, Canvas

POST = 0.9
REACH = 0.55
KEEPERS = np.linspace(-POST, POST, 37)
ROUNDING = 1e-6  # float32's, so that a shot at the very end of the keeper's reach is held however it was computed


def won(shots: Any, probabilities: Any = None) -> np.ndarray:
    """What shots at points win on average against a keeper at each place of `KEEPERS`.

    2 Σ_i p_i [|a_i| ≤ .9 and |a_i - k| > .55] - 1

    Args:
        shots: Where they go, a_i.
        probabilities: p_i; equal ones by default.

    Returns:
        Shape `(37,)`. The least, the worst case, is 0 at best: for half the shots at -.8, half at .8.

    Raises:
        ValueError: Not as many probabilities as shots, or they do not sum to 1.
    """
    shots = np.atleast_1d(np.asarray(shots, dtype=np.float64))
    p = np.full(len(shots), 1 / len(shots)) if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    if p.shape != shots.shape or not (p >= 0).all() or not abs(p.sum() - 1) < 1e-5:
        raise ValueError(f"`probabilities` must be {len(shots)} that sum to 1, one for each shot, but is {p!r}.")
    scored = _on_target(shots)[:, None] & ~_held(shots)
    return np.asarray(2 * (p @ scored) - 1)


def won_by_gaussian(mean: float, std: float) -> np.ndarray:
    """What a Gaussian policy wins on average against a keeper at each place of `KEEPERS`.

    Args:
        mean: Of the distribution.
        std: Of the distribution. Shots outside [-1, 1] are clipped, and miss.

    Returns:
        Shape `(37,)`. The least, the worst case, is -.5327 at best: for mean 0 and standard deviation .72.

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
    """How each match stands.

    Attributes:
        n_played: Shots so far, of shape `(copies,)`.
        uniforms: What the keeper's places are drawn with, in [0, 1), of shape `(copies, n_rounds)`.
        held: How many of the shots each of the keeper's places would have held, of shape `(copies, 37)`.
        shot: The last shot, NaN before the first, of shape `(copies,)`.
        keeper: Where the keeper was, NaN before the first shot, of shape `(copies,)`.
        score: What has been won, of shape `(copies,)`.
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
        """No shots yet; draws a number for each of the keeper's places."""
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
        """One shot: the keeper chooses among the places that would have held most so far."""
        n, shots = len(actions), actions[:, 0]
        past_the_end = np.minimum(state.n_played, self.n_rounds - 1)
        best = state.held == state.held.max(axis=1, keepdims=True)
        places = draw(best, state.uniforms[np.arange(n), past_the_end])
        # A shot that misses would have been no better against another keeper, who learns nothing from it.
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
        """`keeper`: where the keeper was, NaN before the first shot."""
        return {"keeper": state.keeper}

    def known_returns(self) -> dict[str, float]:
        """The value of the game, and what two policies win.

        `value` is what the best policy is sure to win, as half the shots at each of two sides do; no policy is sure of
        more, because a keeper who stands at -.35 or .35 with equal probability holds any shot with probability 1/2 or
        more. The keeper here, who knows no more than the match's shots, concedes a little more, about .03 a shot, to
        policies that vary their shots to both sides; how much at most, nobody knows.
        `two_posts` is that of half the shots at each post, `zero` of all at the middle, after a first that nobody has
        prepared for.
        """
        first = {at: 2 * float((~_held(np.array([at]))).mean()) - 1 for at in (0.0, POST)}
        return {"value": 0.0, "two_posts": first[POST], "zero": first[0.0] - (self.n_rounds - 1)}

    def draw(self, state: KickState, canvas: Canvas) -> None:
        """Goal, keeper and ball; below, how many of the shots so far each place of the keeper's would have held."""
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
            goal = abs(shot) <= POST and abs(shot - keeper) > REACH + ROUNDING
            canvas.circle((shot, 0.0), 0.065, GREEN if goal else RED)
            canvas.circle((shot, 0.0), 0.065, BLACK, 2)
        canvas.line([(-POST, -0.3), (-POST, 0.3), (POST, 0.3), (POST, -0.3)], BLACK, 7)
        canvas.line([(-1.2, -0.3), (1.2, -0.3)], GREY, 3)
        for place, n_held in zip(KEEPERS, state.held[0], strict=True):
            canvas.rectangle((place - 0.018, -0.85), (place + 0.018, -0.85 + 0.45 * n_held / max(1, played)), BLUE)
        canvas.line([(-POST - 0.03, -0.85), (POST + 0.03, -0.85)], BLACK, 2)
        canvas.text((0, -0.93), "share of the shots so far that the keeper would hold there", size=18)


class PenaltyKick(Single[KickState]):
    """Penalty kicks against a keeper who remembers: the best continuous action is one of two, at random.

    ## Description
    A shot at a goal whose keeper has seen the shots so far, and stands where most of them would have been held. Who
    shoots half the time to the left and half to the right wins 0 against any keeper. A Gaussian cannot: it has one
    peak, and what it does to both sides, it does to the middle as well, or misses. Against the keeper that suits it
    least it wins -.533 at best, with mean 0 and standard deviation .72. Any fixed shot wins -1.

    ## Action space
    `Box(-1, 1, (1,), float32)`: where the shot goes. The posts are at ±.9.

    ## Observation space
    `Box(0, 1, (1,), float32)`, always 1.

    ## Dynamics
    The keeper stands at one of 37 places k from -.9 to .9, and reaches |a - k| ≤ .55: at the place that would have
    held most shots of the match so far, ties at random.

    ## Rewards
    1 for a goal, -1 if the keeper holds the shot or it misses, |a| > .9. `info["keeper"]` is k.

    ## Start and end
    Terminates after `n_rounds` shots. No time limit.

    ## Evaluation
    Stochastic: `metadata["deterministic_evaluation"]` is False. `won` and `won_by_gaussian` say exactly what a policy
    wins against each keeper; the least is what it is good for.

    ## Version history
    * v0: first version.

    Args:
        n_rounds: Shots of a match.
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
    reached: np.ndarray = np.abs(shots[:, None] - KEEPERS) <= REACH + ROUNDING
    return reached
