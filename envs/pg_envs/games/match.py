"""A match of rock-paper-scissors against an opponent, for a single agent: `RPSMatch`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode

from pg_envs.batched import put, take
from pg_envs.checks import check_number
from pg_envs.games.observations import View
from pg_envs.games.opponents import AnyOpponent, Opponent, Rule, check_play, make_opponent
from pg_envs.games.payoffs import payoff_matrix
from pg_envs.games.pictures import IMAGE_SIZE, draw_round, round_text
from pg_envs.games.players import Policy, Snapshot, action_probabilities, frozen
from pg_envs.games.repeated import TIE, Match, Memory
from pg_envs.games.solving import nash
from pg_envs.references import computed_scores
from pg_envs.rendering import Canvas
from pg_envs.worlds import World, below, compiled, uniform
from pg_envs.worlds.copies import Copies
from pg_envs.worlds.faces import EnvFace, VectorFace, checked_mode
from pg_envs.worlds.world import METADATA

PLAYERS = ("agent", "opponent")

# A state's first numbers: rounds played, the agent's return so far, and the last moves, -1 before the first round. Then
# follow the counts of the agent's n moves and of the opponent's; the two moves of each of the last k rounds, the latest
# first; and the opponent's memory: the number of its mixture, or the sums of its payoffs, or (PATTERN) those sums after
# each pair of moves and the number of the last pair, or its next probabilities.
N_PLAYED, SCORE, AGENT, OPPONENT, COUNTS = range(5)
# The first constants; then follow the payoffs, n² numbers, and the mixtures, n numbers each.
N_STATE, N_ACTIONS, N_ROUNDS, N_SEEN, BOTH_SEEN, RULE, N_MIXTURES, PAYOFFS = range(8)
MIXTURE, FREQUENCY, PATTERN, ASKED = (rule.value for rule in Rule)


@compiled
def _drawn(weights: Any, at: int, n: int, random: Any) -> int:
    """The first i with u Σ w < w_0 + ... + w_i, for the n weights at a place."""
    total = 0.0
    for i in range(n):
        total += weights[at + i]
    left = total * uniform(random, 0.0, 1.0)
    for i in range(n - 1):
        left -= weights[at + i]
        if left < 0.0:
            return i
    last = n - 1
    while weights[at + last] <= 0.0 and last > 0:  # where rounding has left something over
        last -= 1
    return last


@compiled
def _best(sums: Any, at: int, n: int, random: Any) -> int:
    """One of the largest of the n sums at a place."""
    most, n_best = sums[at], 0
    for i in range(n):
        most = max(most, sums[at + i])
    for i in range(n):
        n_best += 1 if sums[at + i] >= most - TIE else 0
    drawn, best = below(random, n_best), 0
    for i in range(n):
        if sums[at + i] >= most - TIE:
            if drawn == 0:
                best = i
            drawn -= 1
    return best


def start(state: Any, random: Any, constants: Any) -> None:
    """Before the first round."""
    n, n_seen = int(constants[N_ACTIONS]), int(constants[N_SEEN])
    for i in range(int(constants[N_STATE])):
        state[i] = 0.0
    state[AGENT], state[OPPONENT] = -1.0, -1.0
    memory = COUNTS + 2 * n + 2 * n_seen
    for i in range(COUNTS + 2 * n, memory):
        state[i] = -1.0
    if constants[RULE] == MIXTURE:
        state[memory] = float(below(random, int(constants[N_MIXTURES])))
    elif constants[RULE] == PATTERN:
        state[memory + (n * n + 1) * n] = float(n * n)  # no moves


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """One round. The opponent's move does not depend on the agent's move in the same round."""
    n, n_seen, rule = int(constants[N_ACTIONS]), int(constants[N_SEEN]), int(constants[RULE])
    seen = COUNTS + 2 * n
    memory = seen + 2 * n_seen
    last_pair = memory + (n * n + 1) * n
    sums = memory
    if rule == PATTERN:
        sums += int(state[last_pair]) * n
    if rule == MIXTURE:
        move = _drawn(constants, PAYOFFS + n * n + int(state[memory]) * n, n, random)
    elif rule == ASKED:
        move = _drawn(state, memory, n, random)
    else:
        move = _best(state, sums, n, random)
    agents = int(action[0])
    reward = constants[PAYOFFS + agents * n + move]
    if rule in (FREQUENCY, PATTERN):
        for b in range(n):
            state[sums + b] -= constants[PAYOFFS + agents * n + b]
        if rule == PATTERN:
            state[last_pair] = float(agents * n + move)
    for i in range(2 * n_seen - 1, 1, -1):
        state[seen + i] = state[seen + i - 2]
    if n_seen > 0:
        state[seen], state[seen + 1] = float(agents), float(move)
    state[COUNTS + agents] += 1.0
    state[COUNTS + n + move] += 1.0
    state[N_PLAYED] += 1.0
    state[SCORE] += reward
    state[AGENT], state[OPPONENT] = float(agents), float(move)
    return reward, state[N_PLAYED] >= constants[N_ROUNDS]


def observe(state: Any, observation: Any, constants: Any) -> None:
    """The agent's view of the past rounds: see `View`."""
    n, n_seen = int(constants[N_ACTIONS]), int(constants[N_SEEN])
    if n_seen == 0:
        observation[0] = 1.0
    first = 0 if constants[BOTH_SEEN] > 0.0 else 1
    at = 0
    for i in range(n_seen):
        for side in range(first, 2):
            move = int(state[COUNTS + 2 * n + 2 * i + side])
            for b in range(n):
                observation[at + b] = 1.0 if b == move else 0.0
            at += n


def info(states: np.ndarray) -> dict[str, np.ndarray]:
    """`opponent_move`: the opponent's last move, -1 before the first round."""
    return {"opponent_move": states[:, OPPONENT].astype(np.int64)}


def draw(match: Match, state: np.ndarray, canvas: Canvas) -> None:
    """The last round, the score, and the counts of both players' moves."""
    counts = state[COUNTS : COUNTS + 2 * match.n_actions].reshape(2, -1)
    draw_round(
        canvas, PLAYERS, state[[AGENT, OPPONENT]], counts, _scores(state), (int(state[N_PLAYED]), match.n_rounds)
    )


def optimum(opponent: AnyOpponent, match: Match) -> float | None:
    """Mean return of the best policy with the agent's observations; None if it cannot be computed.

    It is exact against a fixed mixture and against the oracle (the value of the game, 0). Against `"frequency"`, which
    lags slightly behind the agent's play, it is found by a search over mixtures, if the agent sees nothing: 0 in the
    standard game, .43 in a match of 50 rounds of the weighted one. It is unknown against `"pattern"`, where an
    equilibrium gets 0, and against the agent's own `"snapshots"`.
    """
    value = opponent.value(match)
    return None if value is None else match.n_rounds * value


def known_returns(match: Match) -> dict[str, float]:
    """`equilibrium` and `random`, where their returns are the same against every opponent."""
    returns = {}
    mixture = nash(match.payoff).row
    if np.abs(mixture @ match.payoff).max() < TIE:
        returns["equilibrium"] = 0.0
    means = match.payoff.mean(axis=0)
    if np.ptp(means) < TIE:
        returns["random"] = match.n_rounds * float(means[0])
    return returns


def match_world(match: Match, opponent: AnyOpponent, rule: Rule) -> World:
    """A match as a world.

    Args:
        match: The rules of the game.
        opponent: The opponent.
        rule: The rule that finds its moves. With `ASKED`, its next probabilities have to be written into the states.
    """
    n = match.n_actions
    sizes = {Rule.MIXTURE: 1, Rule.FREQUENCY: n, Rule.PATTERN: (n * n + 1) * n + 1, Rule.ASKED: n}
    n_state = COUNTS + 2 * n + 2 * match.view.n_rounds + sizes[rule]
    return World(
        start,
        step,
        observe,
        n_state=n_state,
        observation_space=match.view.space,
        action_space=spaces.Discrete(n),
        constants=_constants(match, opponent, rule, n_state),
        info=info,
        draw=partial(draw, match),
        optimum=partial(optimum, opponent, match),
        known_returns=partial(known_returns, match),
        image_size=IMAGE_SIZE,
        metadata=RPSMatch.metadata,
    )


def _constants(match: Match, opponent: AnyOpponent, rule: Rule, n_state: int) -> np.ndarray:
    mixtures = opponent.mixtures(match) if rule is Rule.MIXTURE else np.zeros((0, match.n_actions))
    view = match.view
    sizes = [n_state, match.n_actions, match.n_rounds, view.n_rounds, view.sees_both, rule.value, len(mixtures)]
    return np.concatenate([np.array(sizes, dtype=np.float64), match.payoff.ravel(), mixtures.ravel()])


class MatchCopies(Copies):
    """Matches. An opponent that has to be asked is asked here, before each round.

    `RPSMatch` documents the arguments; the rest are those of `Copies`.
    """

    checkpoint_attributes = ("opponent", "_rngs", "_memory")

    def __init__(
        self,
        opponent: str | AnyOpponent | Callable[..., Any],
        payoff: Any,
        n_actions: int | None,
        n_rounds: int,
        observation: str,
        p: Sequence[float] | None,
        n: int = 1,
        max_episode_steps: int | None = None,
        restarts: bool = False,
    ) -> None:
        check_number("n_rounds", n_rounds, at_least=1, integer=True)
        matrix = payoff_matrix(payoff, n_actions)
        self.match = Match(matrix, n_rounds, View(observation, len(matrix)))
        self.opponent = make_opponent(opponent, p)
        rule = self.opponent.rule(self.match)
        if self.opponent is opponent and isinstance(opponent, Opponent):
            rule = Rule.ASKED  # it may change, or play elsewhere too
        self.rule = rule
        self._rngs = [np.random.default_rng(0)] * n
        self._memory: Memory | None = None
        self._pure = np.eye(len(matrix))
        super().__init__(match_world(self.match, self.opponent, rule), n, max_episode_steps, restarts)

    def _bind(self) -> None:
        super()._bind()
        self._open_to_compiled_code()

    def _open_to_compiled_code(self) -> None:
        """Let compiled code elsewhere step the copies, unless Python has to be asked, or to warn."""
        closed = self.table is None or self.rule is Rule.ASKED or not self.opponent.is_ready
        self.address = 0 if closed else self.advance_address

    def hand_over(self, policy: Policy) -> None:
        """Hand the agent's policy to the opponent. A model is copied; if it sees nothing, it is tabulated."""
        match = self.match
        if match.view.n_rounds == 0:
            first = match.view(match.view.start(1))
            self.opponent.hand_over(action_probabilities(policy, first, match.n_actions)[0])
        else:
            self.opponent.hand_over(frozen(policy))
        if self.rule is Rule.MIXTURE:
            self.use_constants(_constants(match, self.opponent, self.rule, self.world.n_state))
            self._open_to_compiled_code()

    def restore_checkpoint_state(self, state: dict[str, np.ndarray]) -> None:
        """As the parent's. The opponent has its state already, and may know more than before."""
        if self.rule is Rule.MIXTURE:  # whose mixtures are among the constants
            self.use_constants(_constants(self.match, self.opponent, self.rule, self.world.n_state))
        super().restore_checkpoint_state(state)
        self._open_to_compiled_code()

    def seed(self, i: int, seed: int) -> None:
        """See `AnyCopies.seed`."""
        super().seed(i, seed)
        self._rngs[i] = seeding.np_random(seed)[0]

    def begin(self, which: np.ndarray) -> None:
        """See `AnyCopies.begin`."""
        super().begin(which)
        if self.rule is Rule.ASKED:
            self._begin_to_remember(which)

    def _begin_to_remember(self, which: np.ndarray) -> None:
        assert isinstance(self.opponent, Opponent), "others are not asked"
        rows = np.flatnonzero(which)
        fresh = self.opponent.start(self.match, [self._rngs[i] for i in rows.tolist()])
        self._memory = fresh if self._memory is None or len(rows) == self.n else put(self._memory, rows, fresh)

    def step(self, actions: np.ndarray) -> int:
        """See `AnyCopies.step`.

        Raises:
            ValueError: Also if the opponent's move is illegal.
        """
        self.opponent.check_ready()
        if self.rule is not Rule.ASKED:
            return super().step(actions)
        opponent, memory = self.opponent, self._memory
        assert isinstance(opponent, Opponent), "others are not asked"
        assert memory is not None, "the faces see to it"
        weights = check_play(opponent, opponent.play(self.match, memory), self.n, self._pure)
        self.states[:, -self.match.n_actions :] = weights
        n_ended = super().step(actions)
        moves = self.last_states()[:, [AGENT, OPPONENT]].astype(np.int64)
        moves[self.held] = 0  # whatever: they do not remember it
        remembered = opponent.remember(self.match, memory, moves[:, 1], moves[:, 0])
        held = np.flatnonzero(self.held)
        self._memory = put(remembered, held, take(memory, held)) if len(held) else remembered
        if self.restarts and n_ended:
            self._begin_to_remember(self.terminated | self.truncated)
        return n_ended


class RPSMatch(EnvFace):
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
        **METADATA,
        "render_modes": ["ansi", *METADATA["render_modes"]],
        "render_fps": 2,
        "deterministic_evaluation": False,
        "reference_scores": partial(computed_scores, "pg/RPSMatch-v0"),
    }
    copies: MatchCopies

    def __init__(
        self,
        opponent: str | AnyOpponent | Callable[..., Any] = "frequency",
        payoff: Any = "standard",
        n_actions: int | None = None,
        n_rounds: int = 50,
        observation: str = "none",
        p: Sequence[float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(MatchCopies(opponent, payoff, n_actions, n_rounds, observation, p), render_mode)

    @property
    def opponent(self) -> AnyOpponent:
        """The opponent."""
        return self.copies.opponent

    def hand_over(self, policy: Policy) -> None:
        """Hand the agent's policy to the opponent: a model, a function of an observation, or probabilities."""
        self.copies.hand_over(policy)

    def checkpoint_makers(self, agent: Any) -> dict[type, Callable[[], Any]]:
        """Functions that make what the opponent gets in the course of a training, for one that goes on with it."""
        return {Snapshot: partial(Snapshot, agent)}

    def render(self) -> Any:
        """A line of text in the mode `"ansi"`; otherwise as `EnvFace.render`."""
        if self.render_mode != "ansi":
            return super().render()
        if not self.has_begun:
            raise ResetNeeded("Call reset before render.")
        state = self.copies.states[0]
        n_actions = self.copies.match.n_actions
        return round_text(PLAYERS, state[[AGENT, OPPONENT]], _scores(state), int(state[N_PLAYED]), n_actions)


class RPSMatchVector(VectorFace):
    """Many matches at once, all against the same opponent; see `RPSMatch` and, for other arguments, `WorldVector`."""

    copies: MatchCopies

    def __init__(
        self,
        num_envs: int = 1,
        opponent: str | AnyOpponent | Callable[..., Any] = "frequency",
        payoff: Any = "standard",
        n_actions: int | None = None,
        n_rounds: int = 50,
        observation: str = "none",
        p: Sequence[float] | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        mode = checked_mode(num_envs, max_episode_steps, autoreset_mode)
        restarts = mode is AutoresetMode.SAME_STEP
        copies = MatchCopies(
            opponent, payoff, n_actions, n_rounds, observation, p, num_envs, max_episode_steps, restarts
        )  # fmt: skip
        super().__init__(copies, mode, render_mode, RPSMatch.metadata)

    @property
    def opponent(self) -> AnyOpponent:
        """The opponent of all copies."""
        return self.copies.opponent

    def hand_over(self, policy: Policy) -> None:
        """Hand the agent's policy to the opponent: a model, a function of an observation, or probabilities."""
        self.copies.hand_over(policy)

    def checkpoint_makers(self, agent: Any) -> dict[type, Callable[[], Any]]:
        """Functions that make what the opponent gets in the course of a training, for one that goes on with it."""
        return {Snapshot: partial(Snapshot, agent)}


def _scores(state: np.ndarray) -> tuple[float, float]:
    return float(state[SCORE]), -float(state[SCORE])
