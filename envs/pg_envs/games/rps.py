"""Rock-paper-scissors and its relatives as a PettingZoo game: `RPS`, and `aec_env`."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import logger, spaces
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec

from pg_envs.checks import check_choice, check_number
from pg_envs.games.observations import NOT_YET, View
from pg_envs.games.payoffs import payoff_matrix
from pg_envs.games.pictures import IMAGE_SIZE, draw_round, round_text
from pg_envs.rendering import Canvas, Window

SEATS = ("player_0", "player_1")


class RPS(ParallelEnv):  # type: ignore[misc]
    """Rock-paper-scissors for two as a PettingZoo `ParallelEnv`: any number of moves, any symmetric zero-sum payoff.

    ## Description
    Two players move simultaneously. A[i, j] is the reward of move i against move j, and A is skew-symmetric. The value
    of the game is 0. Only a mixed strategy is safe: in the standard game, each move a third of the time.

    ## Action space
    `Discrete(n)` for each of `player_0` and `player_1`: 0 rock, 1 paper, 2 scissors, 3 spock, 4 lizard, ...

    ## Observation space
    It depends on `observation`. Moves are one-hot vectors, all 0 before the first round:

    * `"none"`: a constant 1, `Box(0, 1, (1,))`,
    * `"last"`: the opponent's last move, `Box(0, 1, (n,))`,
    * `"history(k)"`: own and opponent's move of each of the last k rounds, the latest first, `Box(0, 1, (2kn,))`.

    ## Rewards
    A[i, j] in each round, for move i against move j.

    ## Start and end
    A game terminates after `max_cycles` rounds. (PettingZoo's `classic/rps` truncates it; here the length of a game is
    part of its rules, so there is nothing to bootstrap from.)

    ## Evaluation
    Stochastic: `metadata["deterministic_evaluation"]` is False.

    ## Version history
    * v0: first version.

    Args:
        payoff: `"standard"`, `"weighted"`, `"rpsls"` or a skew-symmetric matrix: see `payoff_matrix`.
        n_actions: Number of moves, odd for `"standard"`; None takes that of the payoff (3 for `"standard"`).
        observation: `"none"`, `"last"` or `"history(k)"` with a number for k.
        max_cycles: Number of rounds of a game.
        render_mode: None, `"ansi"`, `"rgb_array"` or `"human"`.

    Attributes:
        payoffs: Rewards of the seats: two matrices, both with a row for each move of `player_0` and a column for each
            of `player_1`.

    Raises:
        ValueError: An argument is out of range.

    Source: the names, the order of moves and the rule for the winner are those of PettingZoo's `classic/rps`.
    """

    metadata: dict[str, Any] = {
        "name": "pg_rps_v0",
        "render_modes": ["ansi", "rgb_array", "human"],
        "render_fps": 2,
        "is_parallelizable": True,
        "deterministic_evaluation": False,
        "reference_scores": {"value": 0.0},
    }

    _rounds: np.ndarray

    def __init__(
        self,
        payoff: Any = "standard",
        n_actions: int | None = None,
        observation: str = "none",
        max_cycles: int = 50,
        render_mode: str | None = None,
    ) -> None:
        check_number("max_cycles", max_cycles, at_least=1, integer=True)
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        matrix = payoff_matrix(payoff, n_actions)
        self.payoffs = (matrix, matrix.T.copy())
        self.n_actions = len(matrix)
        self.max_cycles = max_cycles
        self.render_mode = render_mode
        self.possible_agents = list(SEATS)
        self.agents: list[str] = []
        self._view = View(observation, self.n_actions)
        self._observation_spaces = {
            seat: spaces.Box(0.0, 1.0, self._view.space.shape, np.float32) for seat in SEATS
        }  # separate, because each space has a random generator
        self._action_spaces = {seat: spaces.Discrete(self.n_actions) for seat in SEATS}
        self._window: Window | None = None
        self._begin()

    def observation_space(self, agent: str) -> spaces.Box:
        """The seat's observation space, always the same object."""
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        """The seat's action space, always the same object."""
        return self._action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Start a game. Nothing is random, so the seed has no effect; there are no options."""
        self.agents = list(SEATS)
        self._begin()
        if self.render_mode == "human":
            self.render()
        return self._observations(), {seat: {} for seat in SEATS}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Play a round. After the last one, all dictionaries are empty, as PettingZoo specifies.

        Raises:
            ValueError: A player's move is missing or illegal.
        """
        if not self.agents:
            return {}, {}, {}, {}, {}
        moves = [self._move(seat, actions.get(seat)) for seat in SEATS]
        wins = [payoff.item(*moves) for payoff in self.payoffs]
        self._round += 1
        self._moves = moves
        for seat in range(2):
            self._counts[seat][moves[seat]] += 1
            self._scores[seat] += wins[seat]
        if self._view.n_rounds:
            self._rounds = self._view.after(self._rounds, moves, moves[::-1])
        over = self._round >= self.max_cycles
        if over:
            self.agents = []
        if self.render_mode == "human":
            self.render()
        return (
            self._observations(),
            dict(zip(SEATS, wins, strict=True)),
            dict.fromkeys(SEATS, over),
            dict.fromkeys(SEATS, False),
            {seat: {} for seat in SEATS},
        )

    def render(self) -> str | np.ndarray | None:
        """A line of text, or an image of shape `(height, width, 3)`; the mode `"human"` updates the window."""
        if self.render_mode is None:
            logger.warn("Nothing to render without a render_mode.")
            return None
        if self.render_mode == "ansi":
            return round_text(SEATS, self._moves, self._scores, self._round, self.n_actions)
        canvas = Canvas(*IMAGE_SIZE)
        draw_round(canvas, SEATS, self._moves, np.array(self._counts), self._scores, (self._round, self.max_cycles))
        if self.render_mode == "rgb_array":
            return canvas.image()
        self._window = self._window or Window(*IMAGE_SIZE)
        self._window.show(canvas, self.metadata["render_fps"])
        return None

    def state(self) -> np.ndarray:
        """Both players' observations, concatenated."""
        return np.concatenate(list(self._observations().values()))

    def close(self) -> None:
        """Close the window if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _begin(self) -> None:
        self._round = 0
        self._moves = [NOT_YET, NOT_YET]
        self._counts = [[0] * self.n_actions for _ in SEATS]
        self._scores = [0.0, 0.0]
        self._rounds = self._view.start(2)

    def _observations(self) -> dict[str, np.ndarray]:
        return dict(zip(SEATS, self._view(self._rounds), strict=True))

    def _move(self, seat: str, action: Any) -> int:
        if not isinstance(action, (int, np.integer, np.ndarray)) or not self._action_spaces[seat].contains(action):
            raise ValueError(
                f"The move of {seat!r} must be an integer from 0 to {self.n_actions - 1}, but is {action!r}."
            )
        return int(action)


def aec_env(**kwargs: Any) -> AECEnv:
    """The game as a PettingZoo `AECEnv`: the players move in turn, and the second does not see the first move.

    Args:
        **kwargs: Arguments of `RPS`.
    """
    return parallel_to_aec(RPS(**kwargs))
