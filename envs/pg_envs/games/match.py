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
    """How each match stands.

    Attributes:
        n_played: Rounds played, of shape `(copies,)`.
        uniforms: What the opponent's moves are drawn with, in [0, 1), of shape `(copies, n_rounds)`.
        last: The last moves of agent and opponent, of shape `(copies, 2)`.
        counts: How often both have made each move, of shape `(copies, 2, n_actions)`.
        score: What the agent has won, of shape `(copies,)`.
        seen: The rounds that the agent looks back on.
        memory: What the opponent remembers.
    """

    n_played: np.ndarray
    uniforms: np.ndarray
    last: np.ndarray
    counts: np.ndarray
    score: np.ndarray
    seen: np.ndarray
    memory: Memory


class MatchDynamics(Dynamics[MatchState]):
    """A match's rules: see `RPSMatch`, also for the arguments."""

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
        self.opponent.start(self.match, [])  # which complains, if it cannot play this game
        self.observation_space = self.match.view.space
        self.action_space = spaces.Discrete(self.match.n_actions)
        self._pure = np.eye(self.match.n_actions)

    def start(self, rngs: Sequence[np.random.Generator]) -> MatchState:
        """No rounds yet; draws what the opponent draws, and a number for each of its moves."""
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
        """One round: the opponent's move does not depend on the agent's of the same round."""
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
        """What the agent sees of the rounds so far."""
        return self.match.view(state.seen)

    def info(self, state: MatchState) -> dict[str, np.ndarray]:
        """`opponent_move`: the opponent's last move, -1 before the first round."""
        return {"opponent_move": state.last[:, 1]}

    def optimum(self) -> float | None:
        """What the best policy wins that sees what the agent sees, where it can be computed.

        Against a fixed mixture, or the oracle, exactly (the game's value, 0, against the latter). Against
        `"frequency"`, which is a little behind, by a search over mixtures, if the agent sees nothing: 0 in the
        standard game, .43 a match of 50 rounds in the weighted one. Not against `"pattern"`, from which an equilibrium
        wins 0 and the best policy nobody knows how much, nor against the agent's own `"snapshots"`.
        """
        value = self.opponent.value(self.match)
        return None if value is None else self.match.n_rounds * value

    def known_returns(self) -> dict[str, float]:
        """0 against anybody: of an equilibrium that uses every move, `equilibrium`, and of `random` where it is one."""
        returns = {}
        mixture = nash(self.match.payoff).row
        if np.abs(mixture @ self.match.payoff).max() < TIE:
            returns["equilibrium"] = 0.0
        means = self.match.payoff.mean(axis=0)
        if np.ptp(means) < TIE:
            returns["random"] = self.match.n_rounds * float(means[0])
        return returns

    def hand_over(self, policy: Policy) -> None:
        """Tell the opponent what the agent plays; a model is copied, or tabulated where it sees nothing."""
        if self.match.view.n_rounds == 0:
            first = self.match.view(self.match.view.start(1))
            self.opponent.hand_over(action_probabilities(policy, first, self.match.n_actions)[0])
        else:
            self.opponent.hand_over(frozen(policy))

    def draw(self, state: MatchState, canvas: Canvas) -> None:
        """The last round, the score, and how often both have made each move."""
        rounds = int(state.n_played[0]), self.match.n_rounds
        draw_round(canvas, PLAYERS, state.last[0], state.counts[0], _scores(state), rounds)


class RPSMatch(Single[MatchState]):
    """Rock-paper-scissors against an opponent that punishes whatever is not random.

    ## Description
    A match of many rounds. The default opponent counts what the agent plays and answers the move that would have won
    most. It beats every deterministic policy in all rounds but the first; who plays each move a third of the time
    loses nothing. What the agent sees is constant, so that it can do no better than to be random, and value-based
    learning, whose policies are deterministic, loses.

    ## Action space
    `Discrete(n)`: 0 rock, 1 paper, 2 scissors, 3 spock, 4 lizard, ... Which beats which: `payoff_matrix`.

    ## Observation space
    By `observation`, for moves as one-hot vectors that are 0 before the first round:
    `"none"` (a constant 1, `Box(0, 1, (1,))`), `"last"` (the opponent's last move, `Box(0, 1, (n,))`), or
    `"history(k)"` (own and the opponent's moves of the last k rounds, the latest first, `Box(0, 1, (2kn,))`).

    ## Dynamics
    Opponents, whose memory is cleared when a match starts; ties are broken at random:

    * `"frequency"` best-responds to the counts of the agent's moves in this match,
    * `"pattern"` to the counts of what followed the last round's pair of moves,
    * `"oracle"` to the agent's policy itself, which the callback `HandOver` tells it (until then: a uniform one),
    * `"snapshots"` plays a past policy of the agent's, from the same callback, drawn anew for each match,
    * `"uniform"` and `"fixed"` play the same mixture always,
    * a function `(own past moves, agent's past moves, n) -> move or probabilities`, or an `Opponent`.

    An agent that sees more than its opponent remembers exploits it: PPO that sees the opponent's last move wins .3 a
    round from `"frequency"`, and 0 from `"pattern"`.

    ## Rewards
    A[i, j] in each round, for the agent's move i and the opponent's move j. `info["opponent_move"]` is j.

    ## Start and end
    Terminates after `n_rounds` rounds. No time limit.

    ## Evaluation
    Stochastic: `metadata["deterministic_evaluation"]` is False. Against `"frequency"` the greedy version of a perfect
    agent loses about .98 a round.

    ## Version history
    * v0: first version.

    Args:
        opponent: One of the above.
        payoff: `"standard"`, `"weighted"`, `"rpsls"` or a skew-symmetric matrix: see `payoff_matrix`.
        n_actions: Number of moves, odd for `"standard"`; None for what the payoff has (3 for `"standard"`).
        n_rounds: Rounds of a match.
        observation: `"none"`, `"last"` or `"history(k)"` with a number for k.
        p: What the opponent `"fixed"` plays: the probability of each move.
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
        """Tell the opponent what the agent plays: a model, a function of an observation, or probabilities."""
        self.dynamics.hand_over(policy)

    def render(self) -> Any:
        """A line of text in the mode `"ansi"`; else as in any environment."""
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
        """Tell the opponent what the agent plays: a model, a function of an observation, or probabilities."""
        self.dynamics.hand_over(policy)


def _scores(state: MatchState) -> tuple[float, float]:
    return float(state.score[0]), -float(state.score[0])
