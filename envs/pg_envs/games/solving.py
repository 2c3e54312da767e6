"""Distance from an equilibrium: `exploitability`, `nash_conv`, `best_response` and `nash`, exact for matrix games.

A game is given by the payoffs A (first seat) and B (second) of each pair of actions. If the seats play p and q,

    NashConv = max_i (A q)_i - pᵀA q  +  max_j (Bᵀp)_j - pᵀB q,    exploitability = NashConv / 2

Exploitability is the gain of a seat that knows the other's policy, averaged over both seats. It is 0 exactly in an
equilibrium (Lanctot et al. 2017, arXiv:1711.00832, section 3.3; OpenSpiel's convention). If one policy p holds both
seats of a symmetric zero-sum game, B = Aᵀ = -A, it is max_i (A p)_i, the reward of the best response.

If a seat sees past rounds, policies are strategies of a repeated game. The observations are found by playing every
sequence of moves in copies of the game, and best responses by dynamic programming over observations and rounds, which
is exact as well. All values are per round.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pg_envs.checks import check_choice
from pg_envs.games.players import Policy, action_probabilities, stacked

LARGEST = 20_000  # triples (situation, action, action) to play through
CHECKED_ROUNDS = 10_000


@dataclass(frozen=True, eq=False)
class MatrixGame:
    """A game of two seats in rounds whose payoffs depend only on the actions of the round.

    Attributes:
        payoffs: A and B, of shape `(actions of the first seat, actions of the second)`.
        rounds: Number of rounds; 1 if the observations do not depend on past moves.
        observations: Observations of each seat in each situation: two batches of the same length, whose first row is
            the start of the game. None for a game that is given as matrices.
        successors: Index of the next situation, of shape `(situations, *payoffs)`.
    """

    payoffs: tuple[np.ndarray, np.ndarray]
    rounds: int = 1
    observations: tuple[Any, Any] | None = None
    successors: np.ndarray | None = None

    @property
    def is_zero_sum(self) -> bool:
        """Whether one seat's gain is the other's loss."""
        return np.array_equal(self.payoffs[0], -self.payoffs[1])

    @cached_property
    def equilibrium(self) -> Equilibrium:
        """See `nash`."""
        if not self.is_zero_sum:
            raise ValueError("`game` must be zero-sum: equilibria of other games are not found by a linear program.")
        payoffs = self.payoffs[0]
        row, column = _maximin(payoffs), _maximin(-payoffs.T)
        return Equilibrium(row, column, float(row @ payoffs @ column))


class BestResponse(NamedTuple):
    """A best response to a policy.

    Attributes:
        policy: A pure strategy as probabilities, of shape `(actions,)`; in a game with memory
            `(rounds, situations, actions)`, with the situations of `matrix_game(game).observations`.
        value: Its reward per round.
    """

    policy: np.ndarray
    value: float


class Equilibrium(NamedTuple):
    """A Nash equilibrium: both seats' probabilities, and the first seat's reward per round."""

    row: np.ndarray
    column: np.ndarray
    value: float


def exploitability(policy: Policy | tuple[Policy, Policy], game: Any, seat: int | None = None) -> float:
    """Gain per round of a seat that knows the other's policy, averaged over both seats: NashConv / 2.

    Args:
        policy: A policy in both seats, or a pair of policies. A policy is an SB3 model or policy (one without an action
            distribution, such as DQN's, plays its best action), a function from an observation to probabilities or to
            an action, or probabilities. If the game is a matrix, a model is evaluated at the observation 1.
        game: A PettingZoo game with `unwrapped.payoffs`, one matrix A (zero-sum: B = -A), or a pair of matrices.
        seat: The policy's only seat in a zero-sum game. The result is then the loss per round, against its best
            response, compared with an equilibrium.

    Raises:
        ValueError: The game has no payoffs or too many observations, or a policy does not fit.
    """
    if seat is None:
        return nash_conv(policy, game) / 2
    game = matrix_game(game)
    other = 1 - _seat(seat)
    value = nash(game).value
    return best_response(policy, game, other).value - (value if other == 0 else -value)


def nash_conv(policies: Policy | tuple[Policy, Policy], game: Any) -> float:
    """Sum of both seats' gains per round by best responses.

    Args:
        policies: A policy or a pair of policies, as for `exploitability`.
        game: A game as for `exploitability`.

    Raises:
        ValueError: As `exploitability`.
    """
    game = matrix_game(game)
    pair = tuple(policies) if _is_pair(policies) else (policies, policies)
    tables = [policy_table(policy, game, seat) for seat, policy in enumerate(pair)]
    gain = 0.0
    for seat in (0, 1):
        best, _ = _play(game, seat, tables[1 - seat])
        present, _ = _play(game, seat, tables[1 - seat], tables[seat])
        gain += best - present
    return gain


def best_response(policy: Policy, game: Any, seat: int) -> BestResponse:
    """A best response to the policy of the other seat.

    Args:
        policy: The policy of the other seat, as for `exploitability`.
        game: A game as for `exploitability`.
        seat: The seat of the best response, 0 or 1.

    Raises:
        ValueError: As `exploitability`, or there is no such seat.
    """
    game = matrix_game(game)
    value, actions = _play(game, _seat(seat), policy_table(policy, game, 1 - seat))
    pure = np.eye(game.payoffs[0].shape[seat])[actions]
    return BestResponse(pure[0, 0] if game.successors is None else pure, value)


def nash(game: Any) -> Equilibrium:
    """An equilibrium of a zero-sum game, by linear programs: each seat maximises its worst case.

    maximise v  subject to  (Aᵀp)_j ≥ v for all j,  p ≥ 0,  Σ p = 1

    Args:
        game: A game as for `exploitability`. In a game with memory, playing this equilibrium of a single round in every
            round is an equilibrium.

    Raises:
        ValueError: The game is not zero-sum, so there is no linear program, or as `exploitability`.
    """
    return matrix_game(game).equilibrium


def matrix_game(game: Any) -> MatrixGame:
    """The payoffs of a game and its seats' observations, found once for any number of policies.

    Args:
        game: A game as for `exploitability`.

    Raises:
        ValueError: As `exploitability`.
    """
    if isinstance(game, MatrixGame):
        return game
    if not hasattr(game, "step"):
        return MatrixGame(_payoffs(game))
    if hasattr(game, "agent_iter"):
        raise ValueError(f"`game` must be a ParallelEnv, in which both agents act at once, but {game} is an AECEnv.")
    try:
        payoffs = _payoffs(game.unwrapped.payoffs)
    except AttributeError:
        raise ValueError(
            f"`game` must have `unwrapped.payoffs`, a matrix for each seat, or be these matrices, but is {game}."
        ) from None
    return _explored(game, payoffs)


def policy_table(policy: Policy, game: MatrixGame, seat: int) -> np.ndarray:
    """π(a|s) of a policy in a seat for each situation, of shape `(situations, actions)`, the start of the game first.

    Args:
        policy: A policy as for `exploitability`.
        game: A game from `matrix_game`.
        seat: The policy's seat.

    Raises:
        ValueError: The policy does not fit the seat.
    """
    if game.observations is not None:
        observations = game.observations[seat]
        given = getattr(getattr(policy, "observation_space", None), "shape", None)
        if given is not None and given != np.shape(observations)[1:]:
            raise ValueError(
                f"`policy` must have observations of the game's shape, {np.shape(observations)[1:]}, but has "
                f"{policy.observation_space}."
            )
    elif hasattr(policy, "predict"):
        space = policy.observation_space
        observations = np.ones((1, *(space.shape or ())), dtype=space.dtype)
    else:
        observations = np.ones((1, 1), dtype=np.float32)
    return action_probabilities(policy, observations, game.payoffs[0].shape[seat])


def _payoffs(game: Any) -> tuple[np.ndarray, np.ndarray]:
    allowed = "`game` must be a PettingZoo game with payoffs, a matrix, or a pair of matrices"
    try:
        matrices = np.asarray(game, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{allowed} of one shape, but is {game!r}.") from None
    if matrices.ndim == 2:
        matrices = np.stack([matrices, -matrices])
    if matrices.ndim != 3 or len(matrices) != 2 or not matrices.size or not np.isfinite(matrices).all():
        raise ValueError(f"{allowed}, of finite numbers, but is {game!r}.")
    return matrices[0], matrices[1]


def _maximin(payoffs: np.ndarray) -> np.ndarray:
    from scipy.optimize import linprog

    n, m = payoffs.shape
    # The solver's tolerance is absolute, for numbers of about 1.
    payoffs = payoffs / max(np.abs(payoffs).max(), np.finfo(np.float64).tiny)
    found = linprog(  # over (p, v); it minimises
        c=np.append(np.zeros(n), -1.0),
        A_ub=np.hstack([-payoffs.T, np.ones((m, 1))]),
        b_ub=np.zeros(m),
        A_eq=np.append(np.ones(n), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * n + [(None, None)],
    )
    positive = np.maximum(found.x[:n], 0)
    p: np.ndarray = positive / positive.sum()
    return p


def _play(game: MatrixGame, seat: int, other: np.ndarray, own: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """Value per round of a seat with the policy `own`, by default a best response, and the best actions.

    The actions, of shape `(rounds, situations)`, maximise Q:

    Q_t(s, a) = Σ_b π_other(b|s) (payoff(a, b) + V_{t+1}(s'(s, a, b))),  V_t(s) = max_a Q_t(s, a)
    """
    payoffs = game.payoffs[seat]
    successors = np.zeros((1, *payoffs.shape), dtype=np.int64) if game.successors is None else game.successors
    weights = "sab,sb->sa" if seat == 0 else "sba,sb->sa"
    values = np.zeros(len(successors))
    actions = []
    for _ in range(game.rounds):
        q = np.einsum(weights, payoffs + values[successors], other)
        actions.append(q.argmax(axis=1))
        values = q.max(axis=1) if own is None else (q * own).sum(axis=1)
    return float(values[0]) / game.rounds, np.stack(actions[::-1])


def _is_pair(policies: Any) -> bool:
    """Whether these are two policies, and not the probabilities of two actions."""
    return isinstance(policies, tuple | list | np.ndarray) and len(policies) == 2 and not np.isscalar(policies[0])


def _seat(seat: int) -> int:
    check_choice("seat", seat, (0, 1))
    return seat


class _Node(NamedTuple):
    """A situation: the seats' observations, a copy of the game, and the number of rounds before it is first reached."""

    observations: list[Any]
    game: Any
    depth: int


def _explored(game: Any, payoffs: tuple[np.ndarray, np.ndarray]) -> MatrixGame:
    """Situations, distinguished by both seats' observations, in the order in which they are first reached."""
    seats = list(game.possible_agents)
    first = deepcopy(game)
    nodes = [_Node(_seen(first.reset(seed=0)[0], seats), first, 0)]
    index = {_key(nodes[0].observations): 0}
    successors: list[np.ndarray] = []
    ends: set[int] = set()
    for node in nodes:  # grows in the loop
        after = np.zeros(payoffs[0].shape, dtype=np.int64)
        for actions in np.ndindex(payoffs[0].shape):
            copy = deepcopy(node.game)
            observations, ended = _round(copy, seats, actions, payoffs)
            if ended:  # no action follows, so the successor does not matter
                ends.add(node.depth + 1)
            else:
                after[actions] = index.setdefault(_key(observations), len(nodes))
                if after[actions] == len(nodes):
                    nodes.append(_Node(observations, copy, node.depth + 1))
        successors.append(after)
        if len(nodes) * payoffs[0].size > LARGEST:
            raise ValueError(
                f"`game` must have at most {LARGEST} combinations of situation and actions to be solved, but has more "
                f"than {len(nodes)} situations. Let its seats see less, or estimate with `win_rates`."
            )
    batches = (stacked([node.observations[0] for node in nodes]), stacked([node.observations[1] for node in nodes]))
    table = np.stack(successors)
    rounds = _rounds(deepcopy(game), seats, payoffs, table, index)
    if len(nodes) == 1:
        return MatrixGame(payoffs, 1, batches)  # all rounds are alike
    if rounds is None or ends - {rounds}:
        raise ValueError(
            f"`game` must always end after the same number of rounds, at most {CHECKED_ROUNDS}, to be solved, but "
            f"{game} does not."
        )
    return MatrixGame(payoffs, rounds, batches, table)


def _rounds(
    game: Any, seats: list[Any], payoffs: tuple[np.ndarray, np.ndarray], table: np.ndarray, index: dict[Any, int]
) -> int | None:
    """Number of rounds, None if the game does not end; one random game is played to check the table."""
    rng = np.random.default_rng(0)
    game.reset(seed=0)
    situation = 0
    for rounds in range(1, CHECKED_ROUNDS + 1):
        actions = tuple(rng.integers(payoffs[0].shape).tolist())
        observations, ended = _round(game, seats, actions, payoffs)
        if ended:
            return rounds
        situation = int(table[situation][actions])
        if index.get(_key(observations)) != situation:
            raise ValueError(
                f"`game` cannot be solved, because an observation in {game} does not follow from the observations and "
                "moves before it. Estimate with `win_rates`."
            )
    return None


def _round(
    game: Any, seats: list[Any], actions: tuple[int, ...], payoffs: tuple[np.ndarray, np.ndarray]
) -> tuple[list[Any], bool]:
    """Play a round; returns the observations after it, and whether it was the last."""
    observations, rewards, terminated, truncated, _ = game.step(dict(zip(seats, actions, strict=True)))
    expected = [matrix[actions] for matrix in payoffs]
    if not np.allclose([rewards[seat] for seat in seats], expected):
        raise ValueError(
            f"`game` cannot be solved, because the rewards of {game} are not its payoffs: for the actions {actions} "
            f"they are {dict(rewards)} instead of {expected}."
        )
    return _seen(observations, seats), any(terminated[seat] or truncated[seat] for seat in seats)


def _seen(observations: dict[Any, Any], seats: list[Any]) -> list[Any]:
    return [deepcopy(observations.get(seat)) for seat in seats]


def _key(observations: list[Any]) -> Any:
    return tuple(
        tuple(np.asarray(part).tobytes() for part in (one.values() if isinstance(one, dict) else [one]))
        for one in observations
    )
