"""Opponents for repeated matrix games: those that matches know, `Opponent` for others, and `make_opponent`.

For an opponent of your own, give `RPSMatch` a function of both players' past moves,

    def copycat(own_moves, agents_moves, n_actions):
        return agents_moves[-1] if len(agents_moves) else np.full(n_actions, 1 / n_actions)

or, for many matches at once, a subclass of `Opponent`:

    class Stone(Opponent):
        def play(self, match, memory):
            return memory[0]

        def start(self, match, rngs):
            return (np.zeros(len(rngs), dtype=int),)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
from gymnasium import logger

from pg_envs.checks import check_choice, is_distribution
from pg_envs.games.memoryless import LARGEST, Memoryless, n_counts
from pg_envs.games.players import Policy, action_probabilities
from pg_envs.games.repeated import Match, Memory, best_moves

NAMES = ("frequency", "pattern", "fixed", "uniform", "oracle", "snapshots")


class Rule(Enum):
    """The ways to find an opponent's next move in a match."""

    MIXTURE = 0  # drawn from a mixture, one of several, which is drawn at the start of a match
    FREQUENCY = 1  # the best response to the counts of the agent's moves
    PATTERN = 2  # the same, of the moves that followed the last pair of moves
    ASKED = 3  # the opponent is asked


class AnyOpponent(ABC):
    """An opponent in any number of matches at once."""

    @abstractmethod
    def rule(self, match: Match) -> Rule:
        """The rule by which a match finds this opponent's moves.

        Raises:
            ValueError: The opponent cannot play this game.
        """

    def mixtures(self, match: Match) -> np.ndarray:
        """The mixtures of the rule `MIXTURE`, now, of shape `(mixtures, n_actions)`."""
        return np.full((1, match.n_actions), 1 / match.n_actions)

    def hand_over(self, policy: Policy) -> None:  # noqa: B027 - most opponents have no use for it
        """Receive the agent's current policy."""

    @property
    def is_ready(self) -> bool:
        """Whether the opponent knows all that it plays by."""
        return True

    def check_ready(self) -> None:  # noqa: B027 - most opponents are
        """Warn, once, if it does not."""

    def value(self, match: Match) -> float | None:
        """Mean reward per round of the best policy against this opponent; None if unknown."""
        return None

    def __str__(self) -> str:
        return type(self).__name__


class Opponent(AnyOpponent):
    """An opponent that is asked for each move.

    Its memory is a tuple of arrays whose first axis counts matches, or of such tuples. The memory is an argument of its
    methods and not an attribute, because one opponent plays in all copies of an environment. No method may change it in
    place.
    """

    def rule(self, match: Match) -> Rule:
        """`ASKED`."""
        self.start(match, [])  # raises if it cannot play this game
        return Rule.ASKED

    def start(self, match: Match, rngs: Sequence[np.random.Generator]) -> Memory:
        """The memory at the start of `len(rngs)` matches, by default empty.

        Args:
            match: The match.
            rngs: One generator per match. All randomness of match i is drawn here from the i-th.
        """
        return ()

    @abstractmethod
    def play(self, match: Match, memory: Memory) -> np.ndarray:
        """The next move in each match. Random moves are returned as probabilities; the match draws from them.

        Returns:
            Moves, integers of shape `(matches,)`, or probabilities of shape `(matches, n_actions)`.
        """

    def remember(self, match: Match, memory: Memory, own: np.ndarray, agents: np.ndarray) -> Memory:
        """The memory after a round with these moves of opponent and agent, both of shape `(matches,)`."""
        return memory


class FixedOpponent(AnyOpponent):
    """Always plays the same mixture, or pure move: the control, against which a deterministic policy is best.

    Args:
        p: Probability of each move.
    """

    def __init__(self, p: Sequence[float] | np.ndarray) -> None:
        try:
            self.p = np.asarray(p, dtype=np.float64)
        except (TypeError, ValueError):
            self.p = np.empty(0)
        if self.p.ndim != 1 or not is_distribution(self.p):
            raise ValueError(f"`p` must be probabilities, one per move, with sum 1, but is {p!r}.")

    def rule(self, match: Match) -> Rule:
        """`MIXTURE`."""
        if len(self.p) != match.n_actions:
            raise ValueError(f"`p` must have {match.n_actions} probabilities, one per move, but is {self.p!r}.")
        return Rule.MIXTURE

    def mixtures(self, match: Match) -> np.ndarray:
        """`p`."""
        return self.p[None]

    def value(self, match: Match) -> float:
        """max_i (A p)_i."""
        return float(np.max(match.payoff @ self.p))


class UniformOpponent(AnyOpponent):
    """Plays every move equally often."""

    def rule(self, match: Match) -> Rule:
        """`MIXTURE`."""
        return Rule.MIXTURE

    def value(self, match: Match) -> float:
        """max_i of the mean of row i."""
        return float(np.max(match.payoff.mean(axis=1)))


class FrequencyOpponent(AnyOpponent):
    """Best-responds to the counts of the agent's moves in this match, with ties broken at random.

    argmax_b Σ_s -A[a_s, b], summed over the past rounds s; the memory is that sum.
    """

    def rule(self, match: Match) -> Rule:
        """`FREQUENCY`."""
        return Rule.FREQUENCY

    def value(self, match: Match) -> float | None:
        """Value of the best mixture; None if the agent sees past rounds or the sum over all counts is too long."""
        if match.view.n_rounds > 0 or n_counts(match) > LARGEST:
            return None
        return Memoryless(match).best()[1] / match.n_rounds


class PatternOpponent(AnyOpponent):
    """Best-responds to the agent's moves that followed the last pair of moves in this match; ties are broken at random.

    argmax_b Σ_s -A[a_s, b], summed over the past rounds s that followed the same pair of moves as the next round does.
    """

    def rule(self, match: Match) -> Rule:
        """`PATTERN`."""
        return Rule.PATTERN


class OracleOpponent(Opponent):
    """Best-responds to the agent's policy, with ties broken at random: J(π) = min_b Σ_a π(a) A[a, b], which is concave.

    The policy comes from `hand_over`: see `pg_envs.games.hand_over.HandOver`. Until then the oracle assumes a uniform
    policy. If the agent sees past rounds s, the oracle responds to π(·|s) of the current round, ignoring later ones.
    """

    def __init__(self) -> None:
        self.policy: Policy | None = None
        self._warned = False

    def rule(self, match: Match) -> Rule:
        """`MIXTURE` if the agent sees nothing: the best response is the same in each round."""
        return Rule.ASKED if match.view.n_rounds > 0 else Rule.MIXTURE

    def mixtures(self, match: Match) -> np.ndarray:
        """The best response to the policy."""
        return self._answers(match, match.view.start(1))

    @property
    def is_ready(self) -> bool:
        """Whether the policy has been handed over."""
        return self.policy is not None

    def check_ready(self) -> None:
        """Warn, once, if the policy has not been handed over."""
        if self.policy is None and not self._warned:
            self._warned = True
            logger.warn(
                "The opponent 'oracle' has not been told the agent's policy and assumes a uniform one: train with "
                "the callback pg_envs.HandOver(), or call env.unwrapped.hand_over(model)."
            )

    def hand_over(self, policy: Policy) -> None:
        """Respond to this policy from now on: a model, a function of an observation, or probabilities."""
        self.policy = policy

    def start(self, match: Match, rngs: Sequence[np.random.Generator]) -> Memory:
        """The past rounds in the agent's view."""
        return (match.view.start(len(rngs)),)

    def play(self, match: Match, memory: Memory) -> np.ndarray:
        """argmax_b Σ_a -π(a|s) A[a, b]."""
        self.check_ready()
        return self._answers(match, memory[0])

    def _answers(self, match: Match, rounds: np.ndarray) -> np.ndarray:
        seen = match.view(rounds)
        policy = np.full(match.n_actions, 1 / match.n_actions) if self.policy is None else self.policy
        agents = action_probabilities(policy, seen, match.n_actions)
        won = np.zeros((len(seen), match.n_actions))
        for i in range(match.n_actions):  # a matrix product would round differently for different numbers of rows
            won -= agents[:, i, None] * match.payoff[i]
        return best_moves(won)

    def remember(self, match: Match, memory: Memory, own: np.ndarray, agents: np.ndarray) -> Memory:
        """The past rounds in the agent's view."""
        return (match.view.after(memory[0], agents, own),)

    def value(self, match: Match) -> float:
        """The value of the game: 0, because the oracle knows the agent's policy and A = -Aᵀ."""
        return 0.0


class SnapshotsOpponent(Opponent):
    """Plays a past policy of the agent, drawn anew for each match: fictitious play.

    The policies come from `hand_over`: see `pg_envs.games.hand_over.HandOver`. Until the first one it plays uniformly.
    A past policy sees the match from the opponent's side.
    """

    def __init__(self) -> None:
        self.policies: list[Policy] = []
        self._mixtures: np.ndarray | None = None  # the policies as a table, if all are fixed mixtures

    def rule(self, match: Match) -> Rule:
        """`MIXTURE` if a policy sees nothing."""
        return Rule.ASKED if match.view.n_rounds > 0 else Rule.MIXTURE

    def mixtures(self, match: Match) -> np.ndarray:
        """The policies so far."""
        return super().mixtures(match) if self._mixtures is None else self._mixtures

    def hand_over(self, policy: Policy) -> None:
        """Add a past policy: a model that no longer changes, a function of an observation, or probabilities."""
        self.policies.append(policy)
        tabular = all(isinstance(one, np.ndarray) for one in self.policies)
        self._mixtures = np.stack(self.policies) if tabular else None

    def start(self, match: Match, rngs: Sequence[np.random.Generator]) -> Memory:
        """The number of the policy in each match, and the past rounds in its view."""
        drawn = np.array([rng.integers(max(1, len(self.policies))) for rng in rngs])
        return drawn, match.view.start(len(rngs))

    def play(self, match: Match, memory: Memory) -> np.ndarray:
        """π_k(·|s)."""
        drawn, rounds = memory
        if self._mixtures is not None:
            mixtures: np.ndarray = self._mixtures[drawn]
            return mixtures
        probabilities = np.full((len(drawn), match.n_actions), 1 / match.n_actions)
        for k in np.unique(drawn) if self.policies else ():
            rows = drawn == k
            seen = match.view(rounds[rows])
            probabilities[rows] = action_probabilities(self.policies[k], seen, match.n_actions)
        return probabilities

    def remember(self, match: Match, memory: Memory, own: np.ndarray, agents: np.ndarray) -> Memory:
        """The past rounds from the policy's side."""
        return memory[0], match.view.after(memory[1], own, agents)


class FunctionOpponent(Opponent):
    """Plays the answers of a function, which is called for one match at a time.

    Args:
        function: A function of the opponent's own past moves, the agent's past moves (integer arrays, the latest last)
            and the number of moves, which returns a move or the probability of each move.
    """

    def __init__(self, function: Callable[[np.ndarray, np.ndarray, int], Any]) -> None:
        self.function = function

    def start(self, match: Match, rngs: Sequence[np.random.Generator]) -> Memory:
        """Space for the moves of all rounds, and the number of rounds played."""
        return np.zeros((len(rngs), match.n_rounds, 2), dtype=np.int64), np.zeros(len(rngs), dtype=np.int64)

    def play(self, match: Match, memory: Memory) -> np.ndarray:
        """The function's answers, as probabilities."""
        answers = [
            np.asarray(self.function(moves[:n, 0].copy(), moves[:n, 1].copy(), match.n_actions))
            for moves, n in zip(*memory, strict=True)
        ]
        pure = np.eye(match.n_actions)
        return np.stack([check_play(self, one[None], 1, pure)[0] for one in answers])

    def remember(self, match: Match, memory: Memory, own: np.ndarray, agents: np.ndarray) -> Memory:
        """Add both moves."""
        moves, n = memory[0].copy(), memory[1]
        moves[np.arange(len(n)), np.minimum(n, match.n_rounds - 1)] = np.stack([own, agents], axis=1)
        return moves, n + 1

    def __str__(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))


def make_opponent(opponent: str | AnyOpponent | Callable[..., Any], p: Sequence[float] | None = None) -> AnyOpponent:
    """An opponent from its name.

    Args:
        opponent: `"frequency"`, `"pattern"`, `"fixed"`, `"uniform"`, `"oracle"` or `"snapshots"`; an `Opponent`; or a
            function as for `FunctionOpponent`.
        p: Probability of each move, for `"fixed"` only.

    Raises:
        ValueError: The name is unknown, or `p` is missing for `"fixed"` or given for another opponent.
    """
    if (p is not None) != (isinstance(opponent, str) and opponent == "fixed"):
        needed = "must be given with" if p is None else f"is {p!r}, but belongs to"
        raise ValueError(f"`p` {needed} the opponent 'fixed', and only with it; the opponent is {opponent!r}.")
    if isinstance(opponent, AnyOpponent):
        return opponent
    if callable(opponent) and not isinstance(opponent, type):
        return FunctionOpponent(opponent)
    check_choice("opponent", opponent, NAMES, "an Opponent or a function")
    if p is not None:
        return FixedOpponent(p)
    makers: dict[str, Callable[[], AnyOpponent]] = {
        "frequency": FrequencyOpponent,
        "pattern": PatternOpponent,
        "uniform": UniformOpponent,
        "oracle": OracleOpponent,
        "snapshots": SnapshotsOpponent,
    }
    return makers[str(opponent)]()


def check_play(opponent: Opponent, played: Any, matches: int, pure: np.ndarray) -> np.ndarray:
    """An opponent's answer as probabilities.

    Args:
        opponent: The opponent, for error messages.
        played: Moves or probabilities, one row per match.
        matches: Number of matches.
        pure: The identity matrix with one row per move.

    Returns:
        Probabilities of shape `(matches, n_actions)`.

    Raises:
        ValueError: A move is illegal, or a row is not a distribution. The message names the opponent.
    """
    answer: np.ndarray = np.asarray(played)
    n = len(pure)
    if answer.shape == (matches,) and answer.dtype.kind in "iu":
        legal = (answer >= 0) & (answer < n)
        if legal.all():
            return np.asarray(pure[answer])
    elif answer.shape == (matches, n) and answer.dtype.kind in "iuf":
        legal = is_distribution(answer)
        if legal.all():
            return answer
    else:
        legal = np.zeros(len(answer) if answer.ndim else 0, dtype=np.bool_)
    wrong = answer[~legal][0] if len(legal) == matches else answer
    raise ValueError(
        f"The opponent {opponent} may play an integer from 0 to {n - 1}, or {n} probabilities whose sum is 1, "
        f"but plays {wrong!r}."
    )
