"""Penalty kick: a game whose best policy over a continuous action has two peaks, so no Gaussian plays it well."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.checks import check_number, is_distribution
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, BLUE, GREEN, GREY, LIGHT, ORANGE, RED, Canvas
from pg_envs.worlds import World, WorldEnv, WorldVector, below
from pg_envs.worlds.world import METADATA

POST = 0.9
REACH = 0.55
N_KEEPERS = 37
KEEPERS = np.linspace(-POST, POST, N_KEEPERS)
ROUNDING = 1e-6  # of float32: a shot exactly at the end of the keeper's reach is held, however it was computed
ON_TARGET, HELD = POST + ROUNDING, REACH + ROUNDING  # largest |a|, largest |a - k|


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
    scored = (np.abs(shots)[:, None] <= ON_TARGET) & (np.abs(shots[:, None] - KEEPERS) > HELD)
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


# The numbers of a state; then follow, for each place, the number of past shots that the keeper would have held there.
N_PLAYED, SCORE, SHOT, KEEPER, COUNTS = range(5)  # the last shot and place are NaN before the first shot
# The constants are the number of rounds, and `KEEPERS`.


def start(state: Any, random: Any) -> None:
    """Before the first shot."""
    state[N_PLAYED], state[SCORE], state[SHOT], state[KEEPER] = 0.0, 0.0, math.nan, math.nan
    for k in range(N_KEEPERS):
        state[COUNTS + k] = 0.0


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """One shot. The keeper chooses among the places that would have held most of the past shots."""
    most, n_best = -1.0, 0
    for k in range(N_KEEPERS):
        count = state[COUNTS + k]
        if count > most:
            most, n_best = count, 1
        elif count == most:
            n_best += 1
    drawn = below(random, n_best)
    place = 0
    for k in range(N_KEEPERS):
        if state[COUNTS + k] == most:
            if drawn == 0:
                place = k
            drawn -= 1
    shot = np.float64(action[0])
    on_target = abs(shot) <= ON_TARGET
    keeper = constants[1 + place]
    # A shot that misses would miss against any keeper, so the keeper learns nothing from it.
    if on_target:
        for k in range(N_KEEPERS):
            state[COUNTS + k] += 1.0 if abs(shot - constants[1 + k]) <= HELD else 0.0
    reward = 1.0 if on_target and abs(shot - keeper) > HELD else -1.0
    state[N_PLAYED] += 1.0
    state[SCORE] += reward
    state[SHOT], state[KEEPER] = shot, keeper
    return reward, state[N_PLAYED] >= constants[0]


def observe(state: Any, observation: Any) -> None:
    """A constant 1."""
    observation[0] = 1.0


def info(states: np.ndarray) -> dict[str, np.ndarray]:
    """`keeper`: the keeper's last place, NaN before the first shot."""
    return {"keeper": states[:, KEEPER]}


def known_returns(n_rounds: int) -> dict[str, float]:
    """The value of the game, and the returns of two policies.

    `value` is the largest return that a policy can guarantee. Half the shots at each of two sides guarantee 0. No
    policy guarantees more, because a keeper who stands at -.35 or .35 with equal probability holds any shot with
    probability 1/2 or more. The keeper here knows only the past shots of the match and concedes slightly more,
    about .03 per shot, to policies that vary their shots to both sides; the maximum is unknown.

    `two_posts` is the return of half the shots at each post, `zero` that of all shots at the middle, of which only
    the first can score.
    """
    first = {at: float(won(at).mean()) for at in (0.0, POST)}
    return {"value": 0.0, "two_posts": first[POST], "zero": first[0.0] - (n_rounds - 1)}


def draw(n_rounds: int, state: np.ndarray, canvas: Canvas) -> None:
    """Goal, keeper and ball; below, the share of past shots that the keeper would have held at each place."""
    canvas.view((-1.2, -1.0), (1.2, 0.6))
    shot, keeper, played = float(state[SHOT]), float(state[KEEPER]), int(state[N_PLAYED])
    canvas.text((0, 0.5), f"{played} of {n_rounds} shots, score {state[SCORE]:g}", size=24)
    for x in np.linspace(-POST, POST, 19):
        canvas.line([(x, -0.3), (x, 0.3)], LIGHT, 1)
    for y in np.linspace(-0.3, 0.3, 7):
        canvas.line([(-POST, y), (POST, y)], LIGHT, 1)
    if played:
        canvas.line([(keeper - REACH, 0.0), (keeper + REACH, 0.0)], ORANGE, 14)
        canvas.rectangle((keeper - 0.09, -0.3), (keeper + 0.09, 0.07), ORANGE)
        canvas.circle((keeper, 0.16), 0.08, ORANGE)
        goal = abs(shot) <= ON_TARGET and abs(shot - keeper) > HELD
        canvas.circle((shot, 0.0), 0.065, GREEN if goal else RED)
        canvas.circle((shot, 0.0), 0.065, BLACK, 2)
    canvas.line([(-POST, -0.3), (-POST, 0.3), (POST, 0.3), (POST, -0.3)], BLACK, 7)
    canvas.line([(-1.2, -0.3), (1.2, -0.3)], GREY, 3)
    for place, n_held in zip(KEEPERS, state[COUNTS:], strict=True):
        canvas.rectangle((place - 0.018, -0.85), (place + 0.018, -0.85 + 0.45 * n_held / max(1, played)), BLUE)
    canvas.line([(-POST - 0.03, -0.85), (POST + 0.03, -0.85)], BLACK, 2)
    canvas.text((0, -0.93), "share of the shots so far that the keeper would hold there", size=18)


def kick_world(n_rounds: int = 50) -> World:
    """The match; see `PenaltyKick`, also for the argument."""
    check_number("n_rounds", n_rounds, at_least=1, integer=True)
    return World(
        start,
        step,
        observe,
        n_state=COUNTS + N_KEEPERS,
        observation_space=spaces.Box(0.0, 1.0, (1,), np.float32),
        action_space=spaces.Box(-1.0, 1.0, (1,), np.float32),
        constants=np.append(float(n_rounds), KEEPERS),
        info=info,
        draw=partial(draw, n_rounds),
        known_returns=known_returns(n_rounds),
        image_size=(480, 320),
        metadata=PenaltyKick.metadata,
    )


class PenaltyKick(WorldEnv):
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
        **METADATA,
        "render_fps": 2,
        "deterministic_evaluation": False,
        "reference_scores": partial(computed_scores, "pg/PenaltyKick-v0"),
    }

    def __init__(self, n_rounds: int = 50, render_mode: str | None = None) -> None:
        super().__init__(kick_world(n_rounds), render_mode)


class PenaltyKickVector(WorldVector):
    """Many matches at once; see `PenaltyKick` and, for the other arguments, `WorldVector`."""

    def __init__(
        self,
        num_envs: int = 1,
        n_rounds: int = 50,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(kick_world(n_rounds), num_envs, max_episode_steps, autoreset_mode, render_mode)
