"""A match of rock-paper-scissors against an opponent, for a single agent: `RPSMatch`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from pg_envs.batched import Batched, Dynamics, Single, Step
from pg_envs.checks import check_number
from pg_envs.games.observations import NOT_YET, View
from pg_envs.games.opponents import Opponent, check_play, make_opponent
from pg_envs.games.payoffs import payoff_matrix
from pg_envs.games.pictures import IMAGE_SIZE, draw_round, round_text
from pg_envs.games.players import Policy, action_probabilities, frozen
from pg_envs.games.repeated import TIE, Match, Memory, draw
from pg_envs.games.solving import nash
from pg_envs.references import computed_scores
from pg_envs.rendering import Canvas

PLAYERS = ("agent", "opponent")


class MatchState(NamedTuple):
    """The state of each match.

    Attributes:
        n_played: Number of rounds played, of shape `(copies,)`.
        uniforms: Numbers in [0, 1) from which the opponent's moves are drawn, of shape `(copies, n_rounds)`.
        last: The last moves of agent and opponent, of shape `(copies, 2)`.
        counts: Counts of each move of agent and opponent, of shape `(copies, 2, n_actions)`.
        score: The agent's return so far, of shape `(copies,)`.
        seen: The past rounds in the agent's view: see `View`.
        memory: The opponent's memory.
    """

    n_played: np.ndarray
    uniforms: np.ndarray
    last: np.ndarray
    counts: np.ndarray
    score: np.ndarray
    seen: np.ndarray
    memory: Memory


class MatchDynamics(Dynamics[MatchState]):
    """The rules of a match: `RPSMatch` documents them and the arguments."""

    image_size = IMAGE_SIZE

    def __init__(
        self,
        opponent: str | Opponent | Callable[..., Any] = "frequency",
        payoff: Any = "standard",
        n_actions: int | None = None,
        n_rounds: int = 50,
        observation: str = "none",
        p: Sequence[float] | None = None,
    ) -> None:
        check_number("n_rounds", n_rounds, at_least=1, integer=True)
        matrix = payoff_matrix(payoff, n_actions)
        self.match = Match(matrix, n_rounds, View(observation, len(matrix)))
        self.opponent = make_opponent(opponent, p)
        self.opponent.start(self.match, [])  # raises if it cannot play this game
        self.observation_space = self.match.view.space
        self.action_space = spaces.Discrete(self.match.n_actions)
        self._pure = np.eye(self.match.n_actions)

    def start(self, rngs: Sequence[np.random.Generator]) -> MatchState:
        """Before the first round. Draws the opponent's memory, and a number for each of its moves."""
        n = len(rngs)
        memory = self.opponent.start(self.match, rngs)
        uniforms = np.array([rng.random(self.match.n_rounds) for rng in rngs]).reshape(n, self.match.n_rounds)
        return MatchState(
            n_played=np.zeros(n, dtype=np.int64),
            uniforms=uniforms,
            last=np.full((n, 2), NOT_YET),
            counts=np.zeros((n, 2, self.match.n_actions), dtype=np.int64),
            score=np.zeros(n),
            seen=self.match.view.start(n),
            memory=memory,
        )

    def step(self, state: MatchState, actions: np.ndarray) -> Step[MatchState]:
        """One round. The opponent's move does not depend on the agent's move in the same round."""
        rows = np.arange(len(actions))
        answer = self.opponent.play(self.match, state.memory)
        probabilities = check_play(self.opponent, answer, len(actions), self._pure)
        past_the_end = np.minimum(state.n_played, self.match.n_rounds - 1)
        moves = draw(probabilities, state.uniforms[rows, past_the_end])
        rewards: np.ndarray = self.match.payoff[actions, moves]
        counts = state.counts.copy()
        counts[rows, 0, actions] += 1
        counts[rows, 1, moves] += 1
        after = MatchState(
            n_played=state.n_played + 1,
            uniforms=state.uniforms,
            last=np.stack([actions, moves], axis=1),
            counts=counts,
            score=state.score + rewards,
            seen=self.match.view.after(state.seen, actions, moves),
            memory=self.opponent.remember(self.match, state.memory, moves, actions),
        )
        return after, rewards, after.n_played >= self.match.n_rounds

    def observe(self, state: MatchState) -> np.ndarray:
        """The agent's view of the past rounds."""
        return self.match.view(state.seen)

    def info(self, state: MatchState) -> dict[str, np.ndarray]:
        """`opponent_move`: the opponent's last move, -1 before the first round."""
        return {"opponent_move": state.last[:, 1]}

    def optimum(self) -> float | None:
        """Mean return of the best policy with the agent's observations; None if it cannot be computed.

        It is exact against a fixed mixture and against the oracle (the value of the game, 0). Against `"frequency"`,
        which lags slightly behind the agent's play, it is found by a search over mixtures, if the agent sees nothing:
        0 in the standard game, .43 in a match of 50 rounds of the weighted one. It is unknown against `"pattern"`,
        where an equilibrium gets 0, and against the agent's own `"snapshots"`.
        """
        value = self.opponent.value(self.match)
        return None if value is None else self.match.n_rounds * value

    def known_returns(self) -> dict[str, float]:
        """`equilibrium` and `random`, where their returns are the same against every opponent."""
        returns = {}
        mixture = nash(self.match.payoff).row
        if np.abs(mixture @ self.match.payoff).max() < TIE:
            returns["equilibrium"] = 0.0
        means = self.match.payoff.mean(axis=0)
        if np.ptp(means) < TIE:
            returns["random"] = self.match.n_rounds * float(means[0])
        return returns

    def hand_over(self, policy: Policy) -> None:
        """Hand the agent's policy to the opponent. A model is copied; if it sees nothing, it is tabulated."""
        if self.match.view.n_rounds == 0:
            first = self.match.view(self.match.view.start(1))
            self.opponent.hand_over(action_probabilities(policy, first, self.match.n_actions)[0])
        else:
            self.opponent.hand_over(frozen(policy))

    def draw(self, state: MatchState, canvas: Canvas) -> None:
        """The last round, the score, and the counts of both players' moves."""
        rounds = int(state.n_played[0]), self.match.n_rounds
        draw_round(canvas, PLAYERS, state.last[0], state.counts[0], _scores(state), rounds)


class RPSMatch(Single[MatchState]):
    """Rock-paper-scissors against an opponent that exploits predictable play.

    ## Description
    A match of many rounds. The default opponent counts the agent's moves and plays the move that would have won most
    against them. It beats every deterministic policy in all rounds but the first. A policy that plays each move a third
    of the time loses nothing. The observation is constant, so the agent can do no better than to be random, and
    value-based learning, whose policies are deterministic, loses.

    ## Action space
    `Discrete(n)`: 0 rock, 1 paper, 2 scissors, 3 spock, 4 lizard, ... `payoff_matrix` defines the winner.

    ## Observation space
    It depends on `observation`. Moves are one-hot vectors, all 0 before the first round:

    * `"none"`: a constant 1, `Box(0, 1, (1,))`,
    * `"last"`: the opponent's last move, `Box(0, 1, (n,))`,
    * `"history(k)"`: the agent's and the opponent's move of each of the last k rounds, the latest first,
      `Box(0, 1, (2kn,))`.

    ## Dynamics
    The opponent's memory is cleared when a match starts, and ties are broken at random. The opponents:

    * `"frequency"` best-responds to the counts of the agent's moves in this match,
    * `"pattern"` best-responds to the counts of the agent's moves that followed the last round's pair of moves,
    * `"oracle"` best-responds to the agent's policy, which the callback `HandOver` provides (until then: uniform),
    * `"snapshots"` plays a past policy of the agent, from the same callback, drawn anew for each match,
    * `"uniform"` and `"fixed"` always play the same mixture,
    * a function `(own past moves, agent's past moves, n) -> move or probabilities`, or an `Opponent`.

    An agent that sees more than its opponent remembers can exploit it: PPO with the opponent's last move as observation
    gets .3 per round against `"frequency"`, and 0 against `"pattern"`.

    ## Rewards
    A[i, j] in each round, for the agent's move i and the opponent's move j. `info["opponent_move"]` is j.

    ## Start and end
    A match terminates after `n_rounds` rounds. There is no time limit.

    ## Evaluation
    Stochastic: `metadata["deterministic_evaluation"]` is False. Against `"frequency"` the greedy version of a perfect
    agent loses about .98 per round.

    ## Version history
    * v0: first version.

    Args:
        opponent: One of the opponents above.
        payoff: `"standard"`, `"weighted"`, `"rpsls"` or a skew-symmetric matrix: see `payoff_matrix`.
        n_actions: Number of moves, odd for `"standard"`; None takes that of the payoff (3 for `"standard"`).
        n_rounds: Number of rounds of a match.
        observation: `"none"`, `"last"` or `"history(k)"` with a number for k.
        p: Probability of each move, for the opponent `"fixed"`.
        render_mode: None, `"ansi"`, `"rgb_array"` or `"human"`.

    Raises:
        ValueError: An argument is out of range, or, in `step`, the opponent's move is illegal.
    """

    metadata: dict[str, Any] = {
        **Single.metadata,
        "render_modes": ["ansi", *Single.metadata["render_modes"]],
        "render_fps": 2,
        "deterministic_evaluation": False,
        "reference_scores": partial(computed_scores, "pg/RPSMatch-v0"),
    }
    dynamics: MatchDynamics

    def __init__(
        self,
        opponent: str | Opponent | Callable[..., Any] = "frequency",
        payoff: Any = "standard",
        n_actions: int | None = None,
        n_rounds: int = 50,
        observation: str = "none",
        p: Sequence[float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(MatchDynamics(opponent, payoff, n_actions, n_rounds, observation, p), render_mode)

    def hand_over(self, policy: Policy) -> None:
        """Hand the agent's policy to the opponent: a model, a function of an observation, or probabilities."""
        self.dynamics.hand_over(policy)

    def render(self) -> Any:
        """A line of text in the mode `"ansi"`; otherwise as `Single.render`."""
        if self.render_mode != "ansi":
            return super().render()
        if self.state is None:
            raise ResetNeeded("Call reset before render.")
        state = self.state
        return round_text(PLAYERS, state.last[0], _scores(state), int(state.n_played[0]), self.dynamics.match.n_actions)


class RPSMatchVector(Batched[MatchState]):
    """Many matches at once, all against the same opponent; see `RPSMatch` and, for the other arguments, `Batched`."""

    dynamics: MatchDynamics

    def __init__(
        self,
        num_envs: int = 1,
        opponent: str | Opponent | Callable[..., Any] = "frequency",
        payoff: Any = "standard",
        n_actions: int | None = None,
        n_rounds: int = 50,
        observation: str = "none",
        p: Sequence[float] | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        dynamics = MatchDynamics(opponent, payoff, n_actions, n_rounds, observation, p)
        super().__init__(dynamics, num_envs, max_episode_steps, autoreset_mode, render_mode, RPSMatch.metadata)

    def hand_over(self, policy: Policy) -> None:
        """Hand the agent's policy to the opponent: a model, a function of an observation, or probabilities."""
        self.dynamics.hand_over(policy)


def _scores(state: MatchState) -> tuple[float, float]:
    return float(state.score[0]), -float(state.score[0])
