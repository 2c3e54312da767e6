"""Self-play: `SelfPlayVecEnv`, many copies of a two-player game as one SB3 `VecEnv`, and `win_rates`."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import check_for_nested_spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs, obs_space_info

from pg_envs.checks import check_choice, check_number
from pg_envs.games.players import Policy, Snapshot, action_probabilities, choose, stacked

_OPPONENT_STREAM = 0x6F70


@dataclass
class _Board:
    """The state of one copy of the game, as far as the players know it."""

    observations: list[Any]
    alive: list[bool]
    truncated: list[bool]
    returns: list[float]
    lengths: list[int]
    opponent: Policy = None


class SelfPlayVecEnv(VecEnv):
    """Many copies of a two-seat PettingZoo game as one SB3 `VecEnv`.

    With `seat=None` one learner holds both seats: slots 2k and 2k+1 are the seats of game k. With a seat given, the
    learner holds that seat only: slot k is the seat in game k, and an opponent holds the other.

    A game ends, and the next begins, when both agents have finished or, if the learner holds one seat, when the learner
    has. An agent that finishes before the other waits: until the game ends, the actions of its slot are ignored, its
    reward is 0, it sees its last observation, and `infos[i]["waiting"]` is True. Waiting is an absorbing state, so
    returns and their expectations are correct for any algorithm.

    At the end of a game `dones[i]` is true and `infos[i]` has `terminal_observation`, `TimeLimit.truncated`, `episode`
    as `Monitor` writes it (`r`, `l`, `t`, without the steps in which the agent waited), and `opponent_return`.

    Evaluate with `deterministic=False`: `metadata["deterministic_evaluation"]` is False unless the game says otherwise.

    Args:
        game: A PettingZoo `ParallelEnv` for two agents, which is deep-copied, or a function or class that makes one. If
            the seats' spaces differ, `seat` must be given.
        n_games: Number of copies.
        seat: The learner's seat: 0, 1 or the agent's name; None for both.
        opponent: The policy in the other seat: a model; a function from an observation to an action or, in a Discrete
            space, to probabilities; probabilities; or `"snapshots"`, earlier versions of the learner from the
            `SnapshotCallback`, one of which is drawn for each game.

    Attributes:
        games: The copies.
        snapshots: The versions of the learner to draw from. The list may be changed.

    Raises:
        TypeError: `game` neither is a `ParallelEnv` nor makes one.
        ValueError: An argument is out of range, the game is not for two agents, or one learner cannot hold both seats.
    """

    def __init__(
        self,
        game: ParallelEnv | Callable[[], ParallelEnv],
        n_games: int = 32,
        *,
        seat: int | str | None = None,
        opponent: Policy | None = None,
    ) -> None:
        check_number("n_games", n_games, at_least=1, integer=True)
        self.games = _copies(game, n_games)
        first = self.games[0]
        self._agents = list(first.possible_agents)
        if len(self._agents) != 2:
            raise ValueError(f"`game` must be for two agents, but {first} has {self._agents}.")
        if seat in self._agents:
            seat = self._agents.index(seat)
        check_choice("seat", seat, (None, 0, 1, *self._agents))
        if (seat is None) != (opponent is None):
            raise ValueError(
                "`seat` is the learner's seat and `opponent` the policy in the other: give both, or neither for one "
                f"learner in both seats. Got seat={seat!r}, opponent={opponent!r}."
            )
        self._seats: list[Any] = [0, 1] if seat is None else [seat]
        learnt = self._agents[self._seats[0]]
        if seat is None:
            _check_alike(first, self._agents)
        else:
            self._other = 1 - self._seats[0]
            self._other_space = first.action_space(self._agents[self._other])
            self._check_opponent(opponent)
        check_for_nested_spaces(first.observation_space(learnt))
        self.opponent = opponent
        self.snapshots: list[Snapshot] = []
        super().__init__(n_games * len(self._seats), first.observation_space(learnt), first.action_space(learnt))
        metadata: dict[str, Any] = {
            "deterministic_evaluation": False,
            **getattr(first, "metadata", {}),
            **self.metadata,
        }
        self.metadata = metadata

        self._keys, shapes, dtypes = obs_space_info(self.observation_space)
        self._buffers = {key: np.zeros((self.num_envs, *shapes[key]), dtype=dtypes[key]) for key in self._keys}
        self._boards: list[_Board] = []
        self._t_start = time.time()

    # Playing

    def reset(self) -> VecEnvObs:
        """Start all games; game k gets the k-th of the seeds and options that were set since the last reset."""
        if not self._boards and self._seeds[0] is None:
            self.seed()  # otherwise deep copies would all draw the same numbers
        if self._seeds[0] is not None:
            self._rng = np.random.default_rng([self._seeds[0], _OPPONENT_STREAM])
        self._boards = [self._begin(k, self._seeds[k], self._options[k] or None) for k in range(len(self.games))]
        self._reset_seeds()
        self._reset_options()
        return self._observations()

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions, one per slot, for `step_wait`.

        Raises:
            ResetNeeded: No game has begun.
            ValueError: The number of actions is wrong.
        """
        if len(actions) != self.num_envs:
            raise ValueError(f"`actions` must have {self.num_envs} entries, one per slot, but has {len(actions)}.")
        if not self._boards:
            raise gym.error.ResetNeeded("Call reset before step.")
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Play a round in every game.

        Returns:
            Observations `(num_envs, ...)`, rewards (float32) and dones (bool) `(num_envs,)`, and a list of infos.
        """
        moves = self._moves()
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        dones = np.zeros(self.num_envs, dtype=np.bool_)
        infos: list[dict[str, Any]] = []
        for k, board in enumerate(self._boards):
            waiting = [not board.alive[seat] for seat in self._seats]
            won, given = self._play(k, moves[k])
            over = not any(board.alive[seat] for seat in self._seats)
            for seat, waited in zip(self._seats, waiting, strict=True):
                slot = len(infos)
                info = {"waiting": True} if waited else dict(given.get(self._agents[seat], ()))
                info["TimeLimit.truncated"] = over and board.truncated[seat]
                rewards[slot], dones[slot] = won[seat], over
                if over:
                    info.update(self._summary(board, seat))
                infos.append(info)
            if over:
                self._boards[k] = self._begin(k)
        return self._observations(), rewards, dones, infos

    def _moves(self) -> list[list[Any]]:
        """Both seats' actions in each game."""
        # Games check Python integers faster than NumPy's.
        mine = self._actions.tolist() if isinstance(self.action_space, spaces.Discrete) else list(self._actions)
        if len(self._seats) == 2:
            return [mine[slot : slot + 2] for slot in range(0, self.num_envs, 2)]
        others: list[Any] = [None] * len(mine)
        for board in self._boards:
            if board.opponent is None:
                board.opponent = self._draw_opponent()
        for opponent in {id(board.opponent): board.opponent for board in self._boards}.values():
            asked = [
                k for k, board in enumerate(self._boards) if board.opponent is opponent and board.alive[self._other]
            ]
            if asked:
                seen = stacked([self._boards[k].observations[self._other] for k in asked])
                for k, action in zip(asked, choose(opponent, seen, self._other_space, self._rng), strict=True):
                    others[k] = action
        return [list(pair) if self._other else list(pair)[::-1] for pair in zip(mine, others, strict=True)]

    def _draw_opponent(self) -> Policy:
        if not isinstance(self.opponent, str):
            return self.opponent
        if not self.snapshots:
            raise ValueError("There are no snapshots to play against: learn(..., callback=SnapshotCallback(...)).")
        return self.snapshots[self._rng.integers(len(self.snapshots))]

    def _play(self, k: int, moves: list[Any]) -> tuple[list[float], dict[Any, dict[str, Any]]]:
        """Play a round of one game; returns each seat's reward and the game's infos."""
        board = self._boards[k]
        live = [seat for seat in (0, 1) if board.alive[seat]]
        observations, rewards, terminated, truncated, infos = self.games[k].step(
            {self._agents[seat]: moves[seat] for seat in live}
        )
        won = [0.0, 0.0]
        for seat in live:
            agent = self._agents[seat]
            board.observations[seat] = observations[agent]
            won[seat] = reward = float(rewards[agent])
            board.returns[seat] += reward
            board.lengths[seat] += 1
            if terminated[agent] or truncated[agent]:
                board.alive[seat] = False
                board.truncated[seat] = bool(truncated[agent] and not terminated[agent])
        return won, infos

    def _begin(self, k: int, seed: int | None = None, options: dict[str, Any] | None = None) -> _Board:
        game = self.games[k]
        observations, infos = game.reset(seed=seed, options=options)
        if set(observations) != set(self._agents):
            raise ValueError(f"{game} must begin with both agents {self._agents}, but begins with {set(observations)}.")
        for i, seat in enumerate(self._seats):
            self.reset_infos[k * len(self._seats) + i] = dict(infos.get(self._agents[seat], ()))
        return _Board([observations[agent] for agent in self._agents], [True, True], [False, False], [0.0, 0.0], [0, 0])

    def _summary(self, board: _Board, seat: int) -> dict[str, Any]:
        """The entries of the infos at the end of a game."""
        seconds = round(time.time() - self._t_start, 6)
        return {
            "terminal_observation": deepcopy(board.observations[seat]),
            "episode": {"r": round(board.returns[seat], 6), "l": board.lengths[seat], "t": seconds},
            "opponent_return": round(board.returns[1 - seat], 6),
        }

    def _observations(self) -> VecEnvObs:
        seen = [board.observations[seat] for board in self._boards for seat in self._seats]
        for key in self._keys:
            buffer = self._buffers[key]
            for slot, observation in enumerate(seen):
                buffer[slot] = observation if key is None else observation[key]
        copies = {key: buffer.copy() for key, buffer in self._buffers.items()}
        return dict_to_obs(self.observation_space, copies)

    def _check_opponent(self, opponent: Policy) -> None:
        if isinstance(opponent, str):
            check_choice("opponent", opponent, ("snapshots",))
        elif hasattr(opponent, "predict"):
            if opponent.action_space != self._other_space:
                raise ValueError(
                    f"`opponent` must act in {self._other_space}, as {self._agents[self._other]} does, but acts in "
                    f"{opponent.action_space}."
                )
            seen = self.games[0].observation_space(self._agents[self._other])
            if opponent.observation_space != seen:
                raise ValueError(
                    f"`opponent` must observe {seen}, as {self._agents[self._other]} does, but observes "
                    f"{opponent.observation_space}."
                )
        elif not callable(opponent):
            if not isinstance(self._other_space, spaces.Discrete):
                raise ValueError(
                    f"`opponent` must be a model, a function or 'snapshots' in {self._other_space}, but is "
                    f"{opponent!r}."
                )
            action_probabilities(opponent, np.zeros(1), int(self._other_space.n))

    # Checkpoints

    def checkpoint_makers(self, agent: Any) -> dict[type, Callable[[], Any]]:
        """Functions that make what an environment gets in the course of a training, for one that goes on with it.

        Args:
            agent: The learner, of whose policy snapshots are copies.
        """
        return {Snapshot: partial(Snapshot, agent), _Board: partial(_Board, [], [], [], [], [])}

    # Closing, pictures, attributes

    def close(self) -> None:
        """Close all games."""
        for game in self.games:
            game.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One image per game; None, with a warning, unless the render mode is `"rgb_array"`."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"Images need the render mode 'rgb_array', but it is {self.render_mode!r}.", stacklevel=2)
            return [None for _ in self.games]
        return [game.render() for game in self.games]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each slot's game.

        Raises:
            AttributeError: A game has no such attribute.
        """
        if attr_name == "render_mode":  # PettingZoo does not require this one
            return [getattr(game, attr_name, None) for game in self._games_of(indices)]
        return [getattr(game, attr_name) for game in self._games_of(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each slot's game, on the wrapper that has it or else on the game itself."""
        for game in self._games_of(indices):
            owner = game
            while not (attr_name in vars(owner) or hasattr(type(owner), attr_name)) and "env" in vars(owner):
                owner = owner.env
            setattr(owner, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each slot's game, once for the two slots that share one."""
        games = self._games_of(indices)
        results = {
            key: getattr(game, method_name)(*method_args, **method_kwargs)
            for key, game in {id(game): game for game in games}.items()
        }
        return [results[id(game)] for game in games]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether each slot's game has this wrapper. True for `Monitor`, whose statistics the infos contain."""
        return [wrapper_class is Monitor or _is_wrapped(game, wrapper_class) for game in self._games_of(indices)]

    def _games_of(self, indices: VecEnvIndices) -> list[Any]:
        return [self.games[slot // len(self._seats)] for slot in self._get_indices(indices)]


@dataclass(frozen=True)
class WinRate:
    """Results of a policy against an opponent.

    Attributes:
        opponent: Name of the opponent.
        games: Number of games.
        wins: Number of games in which the policy's return was larger.
        draws: Number of games in which both returns were equal.
        mean_return: Mean return of the policy.
    """

    opponent: str
    games: int
    wins: int
    draws: int
    mean_return: float

    @property
    def losses(self) -> int:
        """Number of games in which the opponent's return was larger."""
        return self.games - self.wins - self.draws

    @property
    def rate(self) -> float:
        """Share of games won."""
        return self.wins / self.games

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share of games won; Wilson (1927), J. Am. Stat. Assoc. 22, 209-212.

        (k + z²/2 ± z √(k (n - k) / n + z²/4)) / (n + z²)   for k wins in n games, z = 1.96
        """
        n, k, z = self.games, self.wins, 1.959964
        half = z * math.sqrt(k * (n - k) / n + z**2 / 4)
        return max(0.0, (k + z**2 / 2 - half) / (n + z**2)), min(1.0, (k + z**2 / 2 + half) / (n + z**2))

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.opponent}: won {self.rate:.3f} [{low:.3f}, {high:.3f}] of {self.games} games, drawn "
            f"{self.draws / self.games:.3f}, lost {self.losses / self.games:.3f}; mean return {self.mean_return:.3f}"
        )


def win_rates(
    policy: Policy,
    opponents: Mapping[str, Policy] | Sequence[Policy],
    game: ParallelEnv | Callable[[], ParallelEnv],
    n_games: int = 1000,
    *,
    seat: int | None = None,
    seed: int = 0,
) -> list[WinRate]:
    """Play against each opponent of a pool.

    Args:
        policy: The policy to rate: a model, a function, or probabilities, as `SelfPlayVecEnv`'s `opponent`. A policy
            with an action distribution samples from it.
        opponents: The opponents, by name or as a list, such as `SelfPlayVecEnv.snapshots`.
        game: A game as for `SelfPlayVecEnv`.
        n_games: Number of games against each opponent.
        seat: The policy's seat; None plays half of the games in each seat.
        seed: Seed of games and players. Models draw continuous actions from torch's generator.

    Returns:
        One row per opponent, with `rate`, `interval`, `draws`, `losses` and `mean_return`.

    Raises:
        ValueError: An argument is out of range, or a policy does not fit its seat.
    """
    check_number("n_games", n_games, at_least=1, integer=True)
    check_choice("seat", seat, (None, 0, 1))
    if not isinstance(opponents, Mapping):
        if hasattr(opponents, "predict") or callable(opponents) or not all(map(_is_policy, opponents)):
            raise ValueError(f"`opponents` must be several policies, by name or as a list, but is {opponents!r}.")
        opponents = {str(one) if isinstance(one, Snapshot) else f"opponent {i}": one for i, one in enumerate(opponents)}
    if not all(map(_is_policy, opponents.values())):
        raise ValueError(f"`opponents` must be models, functions or probabilities, but is {opponents!r}.")
    halves = {seat: n_games} if seat is not None else {0: n_games - n_games // 2, 1: n_games // 2}
    rows = []
    for number, (name, opponent) in enumerate(opponents.items()):
        results = np.concatenate(
            [_results(policy, opponent, game, n, one, seed + number) for one, n in halves.items() if n]
        )
        margin = results[:, 0] - results[:, 1]
        wins, draws = int((margin > 0).sum()), int((margin == 0).sum())
        rows.append(WinRate(name, len(results), wins, draws, float(results[:, 0].mean())))
    return rows


def _results(policy: Policy, opponent: Policy, game: Any, n_games: int, seat: int, seed: int) -> np.ndarray:
    """Both returns of each of `n_games` games, of shape `(n_games, 2)`."""
    env = SelfPlayVecEnv(game, min(n_games, 64), seat=seat, opponent=opponent)
    env.seed(seed)
    rng = np.random.default_rng([seed, seat])
    # A fixed number per copy: the first games to end would over-represent short games.
    due = np.full(env.num_envs, n_games // env.num_envs) + (np.arange(env.num_envs) < n_games % env.num_envs)
    results = []
    observations = env.reset()
    while due.any():
        observations, _, dones, infos = env.step(choose(policy, observations, env.action_space, rng))
        for slot in np.flatnonzero(dones & (due > 0)):
            results.append((infos[slot]["episode"]["r"], infos[slot]["opponent_return"]))
            due[slot] -= 1
    env.close()
    return np.array(results)


def _copies(game: Any, n_games: int) -> list[Any]:
    if isinstance(game, AECEnv):
        raise TypeError(
            f"`game` must be a ParallelEnv, in which both agents act at once, but {game} is an AECEnv. "
            "pettingzoo.utils.conversions.aec_to_parallel turns it into one where that is possible."
        )
    if not isinstance(game, ParallelEnv):
        if not callable(game):
            raise TypeError(f"`game` must be a PettingZoo ParallelEnv or a function that makes one, but is {game!r}.")
        made = [game() for _ in range(n_games)]
        if not all(isinstance(one, ParallelEnv) for one in made):
            raise TypeError(f"`game` must make a PettingZoo ParallelEnv, but makes {made[0]!r}.")
        if len({id(one) for one in made}) < n_games:
            raise ValueError("`game` must make another game each time, but made the same one again.")
        return made
    try:
        return [deepcopy(game) for _ in range(n_games)]
    except Exception as error:
        raise ValueError(f"`game` must be a function that makes a game, because {game} cannot be copied.") from error


def _check_alike(game: Any, agents: list[Any]) -> None:
    for kind, of in (("observation", game.observation_space), ("action", game.action_space)):
        one, other = (of(agent) for agent in agents)
        if one != other:
            raise ValueError(
                f"`seat` must be given, because one learner cannot hold both seats of {game}: the {kind} space of "
                f"{agents[0]} is {one}, that of {agents[1]} is {other}. Give the other seat an `opponent`."
            )


def _is_wrapped(game: Any, wrapper_class: type) -> bool:
    while not isinstance(game, wrapper_class):
        if "env" not in vars(game):
            return False
        game = game.env
    return True


def _is_policy(one: Any) -> bool:
    return not np.isscalar(one)  # a string is a scalar
