"""A round of rock-paper-scissors as a line of text and as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from pg_envs.games.observations import NOT_YET
from pg_envs.games.payoffs import move_names
from pg_envs.rendering import BLACK, BLUE, GREEN, GREY, LIGHT, ORANGE, RED, WHITE, Canvas

IMAGE_SIZE = (480, 320)

_ROCK = np.array([(-0.3, -0.12), (-0.22, 0.12), (-0.05, 0.24), (0.17, 0.2), (0.3, 0), (0.24, -0.2), (-0.15, -0.24)])
_EDGES = np.array([(-0.22, 0.12), (0.02, 0.05), (0.08, -0.22), (0.02, 0.05), (0.17, 0.2)])
_PAPER = np.array([(-0.2, -0.27), (-0.2, 0.27), (0.08, 0.27), (0.2, 0.15), (0.2, -0.27)])
_FOLD = np.array([(0.08, 0.27), (0.08, 0.15), (0.2, 0.15)])
_LINE = np.array([(-0.13, 0), (0.13, 0)])
_BLADE = np.array([(0.15, 0.27), (-0.1, -0.12)])
_HANDLE = np.array([-0.13, -0.18])
_MIRROR = np.array([-1, 1])


def round_text(players: tuple[str, str], moves: Any, scores: Any, n_rounds: int, n_actions: int) -> str:
    """A round in words: `round 3: player_0 rock, player_1 paper (score -1 : 1)`.

    Args:
        players: Names of the players.
        moves: Their moves in the last round.
        scores: Their returns so far.
        n_rounds: Number of rounds played.
        n_actions: Number of moves.
    """
    if n_rounds == 0:
        return "round 0: nobody has moved yet"
    names = move_names(n_actions)
    said = ", ".join(f"{player} {names[int(move)]}" for player, move in zip(players, moves, strict=True))
    return f"round {n_rounds}: {said} (score {float(scores[0]):g} : {float(scores[1]):g})"


def draw_round(
    canvas: Canvas, players: tuple[str, str], moves: Any, counts: np.ndarray, scores: Any, rounds: tuple[int, int]
) -> None:
    """Draw the last round of two players, the score, and the counts of their moves.

    Args:
        canvas: The canvas.
        players: Names of the players.
        moves: Their moves in the last round, or `NOT_YET`.
        counts: Counts of their moves, of shape `(2, n_actions)`.
        scores: Their returns so far.
        rounds: Number of rounds played, and of all rounds.
    """
    n = counts.shape[1]
    names = move_names(n)
    canvas.view((-1.5, -1), (1.5, 1))
    canvas.text((0, 0.86), f"round {rounds[0]} of {rounds[1]}", size=24)
    canvas.text((0, 0.4), f"{float(scores[0]):g} : {float(scores[1]):g}", size=48)
    for seat, (x, colour) in enumerate(((-0.85, BLUE), (0.85, ORANGE))):
        move = int(moves[seat])
        canvas.text((x, 0.86), players[seat], colour, 26)
        if move != NOT_YET:
            _draw_move(canvas, names[move], np.array([x, 0.4]))
            canvas.text((x, 0.02), names[move], size=24)
        width = 1.1 / n
        for i, count in enumerate(counts[seat]):
            left, top = x - 0.55 + i * width, -0.8 + max(0.6 * count / max(1, counts[seat].sum()), 0.01)
            corners = (left + 0.1 * width, -0.8), (left + 0.9 * width, top)
            canvas.rectangle(*corners, colour if i == move else GREY)
            if n <= 3:
                canvas.text((left + width / 2, -0.9), names[i], size=18)


def _draw_move(canvas: Canvas, name: str, at: np.ndarray) -> None:
    if name == "rock":
        canvas.polygon(at + _ROCK, GREY)
        canvas.line(at + _EDGES, BLACK, 2)
        canvas.line(at + _ROCK, BLACK, 3, closed=True)
    elif name == "paper":
        canvas.polygon(at + _PAPER, WHITE)
        canvas.line(at + _PAPER, BLACK, 3, closed=True)
        canvas.line(at + _FOLD, BLACK, 2)
        for y in (0.05, -0.05, -0.15):
            canvas.line(_LINE + at + np.array([0, y]), GREY, 2)
    elif name == "scissors":
        for mirror in (np.ones(2), _MIRROR):
            canvas.line(at + _BLADE * mirror, BLACK, 7)
            canvas.circle(at + _HANDLE * mirror, 0.09, RED, 6)
        canvas.circle(at + np.array([0, 0.035]), 0.02, LIGHT)
    else:
        canvas.circle(at, 0.25, GREEN, 5)
        canvas.text(at, name.removeprefix("move ")[:2].capitalize(), GREEN, 44)
