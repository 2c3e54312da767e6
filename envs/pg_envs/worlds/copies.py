"""Copies of an environment: `AnyCopies`, the interface that the faces need, and `Copies` of a world."""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from pg_envs.checks import valid_actions
from pg_envs.rendering import Canvas
from pg_envs.worlds.compiling import has_compiler
from pg_envs.worlds.random import N_RANDOM, generator_state
from pg_envs.worlds.world import World


class AnyCopies(ABC):
    """Copies of an environment that are stepped together, each with randomness of its own.

    Attributes:
        n: Number of copies.
        max_episode_steps: Number of steps after which an episode is truncated; None for no limit.
        restarts: Whether a step that ends an episode starts the next one.
        observation_space: The observation space of one copy.
        action_space: The action space of one copy.
        image_size: Width and height of a picture, in pixels.
        rewards: `(n,)` float64: what the last step gave, as the next two.
        terminated: `(n,)` bool.
        truncated: `(n,)` bool; a step can be both.
        held: `(n,)` bool: copies that `step` leaves as they are, with reward 0.
        address: Address of a function that steps the copies, for compiled code elsewhere; 0 for none.
        table: The table that this function reads; None without a compiler.
    """

    n: int
    max_episode_steps: int | None
    restarts: bool
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    image_size: tuple[int, int]
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    held: np.ndarray
    address: int = 0
    table: np.ndarray | None = None

    @property
    @abstractmethod
    def state(self) -> Any:
        """The copies' states."""

    @abstractmethod
    def seed(self, i: int, seed: int) -> None:
        """Give a copy the generator that belongs to a seed."""

    @abstractmethod
    def begin(self, which: np.ndarray) -> None:
        """Start episodes in some copies.

        Args:
            which: `(n,)` bool.
        """

    @abstractmethod
    def step(self, actions: np.ndarray) -> int:
        """One step of every copy that is not held.

        Args:
            actions: `(n, ...)`. They are clipped to a Box.

        Returns:
            The number of episodes that ended.

        Raises:
            ValueError: The actions have the wrong shape, are not numbers, or are outside a discrete space.
        """

    @abstractmethod
    def observations(self) -> np.ndarray:
        """The observations, a new array: of the next episode where one ended and the next has started."""

    @abstractmethod
    def last_observations(self) -> np.ndarray:
        """The last observations of episodes that ended in the last step, if `restarts`; other rows are meaningless."""

    @abstractmethod
    def info(self) -> dict[str, np.ndarray]:
        """Entries of the info dictionary, new arrays with one row per copy."""

    @abstractmethod
    def last_info(self) -> dict[str, np.ndarray]:
        """The same entries for the states before the restarts of the last step."""

    @abstractmethod
    def draw(self, i: int, canvas: Canvas) -> None:
        """Draw one copy.

        Raises:
            NotImplementedError: The environment has no picture.
        """

    @abstractmethod
    def optimum(self) -> float | None:
        """Mean undiscounted episode return of the best policy; None if unknown."""

    @abstractmethod
    def known_returns(self) -> dict[str, float]:
        """Exact mean returns of further policies by name."""

    @abstractmethod
    def controller(self) -> np.ndarray | None:
        """Actions of the reference controller; None if there is none."""


class Copies(AnyCopies):
    """Copies of a world, each with a generator of its own.

    Nothing of a copy depends on the others, on their number, or on what steps them.

    Args:
        world: The world.
        n: Number of copies.
        max_episode_steps: Number of steps after which an episode is truncated; None for no limit.
        restarts: Whether a step that ends an episode starts the next one.

    Attributes:
        states: `(n, n_state)` float64.
        randoms: `(n, 6)` int64: the generators.
        n_steps: `(n,)` int64: steps of the running episodes.
        observed: `(n, n_observation)` float32: the last observation of each copy, as the world has written it. Compiled
            code elsewhere writes here too. Numbers that are assigned to this attribute, or to the three before it, are
            written into the array.
        constants: The world's constants, unless `use_constants` has replaced them.
        table: A row of `kernels.COPIES`, for compiled code; None without a compiler.
        address: Address of the compiled `kernels.advance`; 0 where compiled code elsewhere must not step the copies.
        advance_address: The same; 0 only without a compiler.

    Raises:
        TypeError: Numba cannot compile one of the world's functions.
    """

    def __init__(self, world: World, n: int, max_episode_steps: int | None = None, restarts: bool = False) -> None:
        self.world, self.n, self.max_episode_steps, self.restarts = world, n, max_episode_steps, restarts
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.image_size = world.image_size
        assert isinstance(world.constants, np.ndarray), "made so by World"
        self.constants = world.constants
        self.states = np.zeros((n, world.n_state))
        self.randoms = np.zeros((n, N_RANDOM), dtype=np.int64)
        self.n_steps = np.zeros(n, dtype=np.int64)
        self.held = np.zeros(n, dtype=np.bool_)
        self._planned = np.zeros((n, 0, N_RANDOM), dtype=np.int64)
        self._n_begun = np.zeros(n, dtype=np.int64)
        self.actions = np.zeros((n, world.n_action), dtype=np.int64 if world.discrete_actions else np.float32)
        self.rewards = np.zeros(n)
        self.terminated, self.truncated = np.zeros((2, n), dtype=np.bool_)
        self.observed, self._last_observations = np.zeros((2, n, world.n_observation), dtype=np.float32)
        self._last_states = np.zeros((n, world.n_state)) if restarts and world.info is not None else None
        self._low, self._high = _bounds(world)
        self._bind()

    def __setattr__(self, name: str, value: Any) -> None:
        """Write numbers into the arrays that there are, since compiled code knows their addresses.

        Raises:
            ValueError: They have another shape.
            AttributeError: It cannot be replaced.
        """
        known = vars(self).get(name)
        if name in _FIXED and known is not None:
            raise AttributeError(f"`{name}` of copies cannot be replaced: make new copies.")
        if name == "address" and value not in (0, self.advance_address):
            raise AttributeError(f"`address` of copies must be 0 or {self.advance_address}, but is {value!r}.")
        if name in _STATE and known is not None and value is not known:
            given = np.asarray(value)
            if given.shape != known.shape:
                raise ValueError(f"`{name}` of copies must have the shape {known.shape}, but has {given.shape}.")
            known[...] = given
            return
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but views and addresses."""
        return {name: value for name, value in vars(self).items() if name not in _BOUND}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Views and addresses of this copy's own arrays."""
        vars(self).update(state)
        self._bind()

    def checkpoint_state(self) -> dict[str, np.ndarray]:
        """The arrays that a checkpoint of a training keeps, as copies."""
        return {name: np.array(getattr(self, name)) for name in (*_STATE, "_planned", "constants")}

    def restore_checkpoint_state(self, state: dict[str, np.ndarray]) -> None:
        """Put these arrays back, into the memory that compiled code knows.

        Raises:
            ValueError: They are of other shapes or types, or counters are negative.
        """
        for name in (*_STATE, "constants"):
            _check_like(name, state[name], getattr(self, name))
        planned = state["_planned"]
        fits = isinstance(planned, np.ndarray) and planned.ndim == 3 and planned.dtype == np.int64
        if not fits or (len(planned), planned.shape[2]) != self.randoms.shape:
            given = f"{planned.dtype} of shape {planned.shape}" if isinstance(planned, np.ndarray) else repr(planned)
            raise ValueError(f"`_planned` must be int64 of the shape ({self.n}, k, {N_RANDOM}), but is {given}.")
        if (state["_n_begun"] < 0).any():
            raise ValueError(f"`_n_begun` must not be negative, but is {state['_n_begun']}.")
        for name in _STATE:
            getattr(self, name)[...] = state[name]
        planned = np.ascontiguousarray(planned)
        self._planned = planned
        self.use_constants(state["constants"])
        if self.table is not None:
            self._fill_plan(self.table)

    def _bind(self) -> None:
        self._given = self.actions.reshape(self.n, *(self.action_space.shape or ()))
        self._seen, self._last_seen = (
            array.reshape(self.n, *(self.observation_space.shape or ()))
            for array in (self.observed, self._last_observations)
        )
        vars(self).update(table=None, address=0, advance_address=0)
        if has_compiler():
            self._fill_tables()
        else:
            _say_that_it_is_slow()

    def _fill_tables(self) -> None:
        from pg_envs.worlds import kernels

        world = self.world
        table = vars(self)["table"] = np.zeros(1, kernels.COPIES)
        table["n_state"], table["n_random"], table["n_action"] = world.n_state, N_RANDOM, world.n_action
        table["action_bytes"] = self.actions.itemsize
        table["n_observation"], table["max_episode_steps"] = world.n_observation, self.max_episode_steps or 0
        for name, n_parameters in _PARAMETERS.items():
            function = getattr(world, name)
            table[name] = kernels.compile_function(function, name, world.discrete_actions).address
            table[f"constants_of_{name}"] = function.__code__.co_argcount > n_parameters
        for name in ("constants", "states", "randoms", "n_steps", "held"):
            table[name] = getattr(self, name).ctypes.data
        table["n_begun"] = self._n_begun.ctypes.data
        self._fill_plan(table)
        if self._last_states is not None:
            table["last_states"] = self._last_states.ctypes.data
        self.advance_address = kernels.advance.address or 0
        self.address = self.advance_address
        self._advance, self._begin = kernels.advance.ctypes, kernels.begin.ctypes
        self._step, self._check = kernels.step.ctypes, kernels.check.ctypes
        arrays: tuple[np.ndarray, ...] = (
            *(table, self.actions, self.rewards, self.terminated, self.truncated),
            *(self.observed, self._last_observations),
        )
        self._addresses = [array.ctypes.data for array in arrays]
        face = self._face = np.zeros(1, kernels.FACE)
        face["n"], face["discrete"], face["restarts"] = self.n, world.discrete_actions, self.restarts
        names = ("copies", "actions", "rewards", "terminated", "truncated", "observations", "last_observations")
        for name, address in zip(names, self._addresses, strict=True):
            face[name] = address
        face["low"], face["high"] = self._low.ctypes.data, self._high.ctypes.data
        self._face_address: int = face.ctypes.data
        self._pace = _Pace() if self.n >= FEWEST_COPIES and _may_use_threads() else None

    @property
    def state(self) -> np.ndarray:
        """The copies' states, `(n, n_state)`; they may be written."""
        return self.states

    def use_constants(self, constants: np.ndarray) -> None:
        """Let the world's functions read other constants from now on."""
        self.constants = np.ascontiguousarray(constants, dtype=np.float64)
        if self.table is not None:
            self.table["constants"] = self.constants.ctypes.data

    def seed(self, i: int, seed: int) -> None:
        """Give a copy the generator that belongs to a seed."""
        self.randoms[i] = generator_state(seed)

    def plan(self, seeds: np.ndarray | None) -> None:
        """Start the next episodes of each copy from given seeds, in every kind of reset.

        Args:
            seeds: `(n, k)`: the generators of the next k episodes are those that belong to them; None to forget them.

        Raises:
            ValueError: They have another shape.
        """
        given = np.zeros((self.n, 0), dtype=np.int64) if seeds is None else np.asarray(seeds)
        if given.ndim != 2 or len(given) != self.n:
            raise ValueError(f"`seeds` must have the shape ({self.n}, k), but has {given.shape}.")
        different, places = np.unique(given, return_inverse=True)
        states = np.array([generator_state(int(seed)) for seed in different], dtype=np.int64).reshape(-1, N_RANDOM)
        self._planned = np.ascontiguousarray(states[places.reshape(given.shape)])
        self._n_begun[:] = 0
        if self.table is not None:
            self._fill_plan(self.table)

    def _fill_plan(self, table: np.ndarray) -> None:
        table["n_planned"], table["planned"] = self._planned.shape[1], self._planned.ctypes.data

    def begin(self, which: np.ndarray) -> None:
        """Start episodes in some copies.

        Args:
            which: `(n,)` bool.

        Raises:
            ValueError: It is something else.
        """
        which = np.ascontiguousarray(which)
        if which.shape != (self.n,) or which.dtype != np.bool_:
            raise ValueError(
                f"`which` must be bools of shape ({self.n},), but is {which.dtype} of the shape {which.shape}."
            )
        if self.table is not None:
            self._begin(self.table.ctypes.data, which.ctypes.data, self.observed.ctypes.data, self.n)
            return
        for i in np.flatnonzero(which).tolist():
            self._start_one(i)
            self._observe_one(i, self.observed)

    def step(self, actions: np.ndarray) -> int:
        """See `AnyCopies.step`."""
        if self.table is None or actions.dtype != self.actions.dtype or actions.shape != self._given.shape:
            actions = valid_actions(actions, self.action_space, self.n)
        self._given[...] = actions
        if self.table is None:
            return self._step_interpreted()
        if self._pace is None:
            n_ended: int = self._step(self._face_address)
        else:
            n_threads = self._pace.choose()
            start = time.perf_counter()
            n_ended = self._step(self._face_address) if n_threads == 1 else self._step_in_two_threads()
            self._pace.seconds[n_threads] = time.perf_counter() - start
        if n_ended < 0:
            valid_actions(actions, self.action_space, self.n)  # raises
        return n_ended

    def _step_in_two_threads(self) -> int:
        wrong: int = self._check(self._face_address)
        if wrong >= 0:
            return -1 - wrong
        ends = []

        def advance(first: int, after: int) -> None:
            ends.append(self._advance(*self._addresses, self.restarts, first, after))

        other = threading.Thread(target=advance, args=(self.n // 2, self.n))
        other.start()
        advance(0, self.n // 2)
        other.join()
        return sum(ends)

    def _step_interpreted(self) -> int:
        self.rewards[:], self.terminated[:], self.truncated[:] = 0.0, False, False
        n_ended = 0
        for i in np.flatnonzero(~self.held).tolist():
            self.n_steps[i] += 1
            given = self._call("step", self.states[i], self.actions[i], self.randoms[i])
            self.rewards[i], self.terminated[i] = given
            self.truncated[i] = self.max_episode_steps is not None and self.n_steps[i] >= self.max_episode_steps
            if self.terminated[i] or self.truncated[i]:
                n_ended += 1
                if self.restarts:
                    self._observe_one(i, self._last_observations)
                    if self._last_states is not None:
                        self._last_states[i] = self.states[i]
                    self._start_one(i)
            self._observe_one(i, self.observed)
        return n_ended

    def _start_one(self, i: int) -> None:
        if self._n_begun[i] < self._planned.shape[1]:
            self.randoms[i] = self._planned[i, self._n_begun[i]]
            self._n_begun[i] += 1
        self._call("start", self.states[i], self.randoms[i])
        self.n_steps[i] = 0

    def _observe_one(self, i: int, observations: np.ndarray) -> None:
        self._call("observe", self.states[i], observations[i])

    def _call(self, name: str, *arrays: np.ndarray) -> Any:
        function = getattr(self.world, name)
        takes_constants = function.__code__.co_argcount > len(arrays)
        return function(*arrays, self.constants) if takes_constants else function(*arrays)

    def observations(self) -> np.ndarray:
        """See `AnyCopies.observations`."""
        seen: np.ndarray = self._seen.astype(self.observation_space.dtype)
        return seen

    def last_observations(self) -> np.ndarray:
        """See `AnyCopies.last_observations`."""
        seen: np.ndarray = self._last_seen.astype(self.observation_space.dtype)
        return seen

    def last_states(self) -> np.ndarray:
        """The states before the restarts of the last step, `(n, n_state)`. Only for worlds with `info`."""
        states: np.ndarray = self.states.copy()
        if self._last_states is not None:
            ended = self.terminated | self.truncated
            states[ended] = self._last_states[ended]
        return states

    def info(self) -> dict[str, np.ndarray]:
        """See `AnyCopies.info`."""
        return {} if self.world.info is None else self.world.info(self.states)

    def last_info(self) -> dict[str, np.ndarray]:
        """See `AnyCopies.last_info`."""
        return {} if self.world.info is None else self.world.info(self.last_states())

    def draw(self, i: int, canvas: Canvas) -> None:
        """See `AnyCopies.draw`."""
        if self.world.draw is None:
            raise NotImplementedError("This world has no picture: its World has no `draw`.")
        self.world.draw(self.states[i], canvas)

    def optimum(self) -> float | None:
        """See `AnyCopies.optimum`."""
        optimum = self.world.optimum
        return optimum() if callable(optimum) else optimum

    def known_returns(self) -> dict[str, float]:
        """See `AnyCopies.known_returns`."""
        known = self.world.known_returns
        return dict(known() if callable(known) else known)

    def controller(self) -> np.ndarray | None:
        """See `AnyCopies.controller`."""
        return None if self.world.controller is None else self.world.controller(self.states)


FEWEST_COPIES = 64  # for two threads
WORTH = 2e-4  # seconds of a step that may gain from two threads: starting one takes a fraction of it
TRY_AGAIN = 256  # steps

_PARAMETERS = {"start": 2, "step": 3, "observe": 2}  # without the constants


def _check_like(name: str, given: Any, known: np.ndarray) -> None:
    if not isinstance(given, np.ndarray) or (given.dtype, given.shape) != (known.dtype, known.shape):
        what = f"{given.dtype} of shape {given.shape}" if isinstance(given, np.ndarray) else repr(given)
        raise ValueError(f"`{name}` must be {known.dtype} of the shape {known.shape}, but is {what}.")


_STATE = (
    *("states", "randoms", "n_steps", "held", "_n_begun", "actions", "rewards", "terminated", "truncated"),
    *("observed", "_last_observations"),
)
_FIXED = frozenset(("n", "table"))
_BOUND = frozenset(
    (
        *("_given", "_seen", "_last_seen", "table", "address", "advance_address", "_advance", "_begin", "_step"),
        *("_check", "_addresses", "_face", "_face_address", "_pace"),
    )
)


class _Pace:
    """Chooses one or two threads by the time that steps took: where the other core is busy, two cost time."""

    def __init__(self) -> None:
        self.seconds = {1: 0.0, 2: 0.0}
        self._n_steps = 0

    def choose(self) -> int:
        """The number of threads for the next step; now and then the slower one, to measure again."""
        if self.seconds[1] < WORTH:
            return 1
        self._n_steps += 1
        faster = 1 if self.seconds[1] <= self.seconds[2] else 2
        return 3 - faster if self._n_steps % TRY_AGAIN == 0 else faster


@cache
def _may_use_threads() -> bool:
    return (os.cpu_count() or 1) > 1 and os.environ.get("OMP_NUM_THREADS") != "1"


def _bounds(world: World) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest action, `(n_action,)`."""
    space = world.action_space
    if isinstance(space, spaces.Box):
        return np.ascontiguousarray(space.low.ravel()), np.ascontiguousarray(space.high.ravel())
    sizes = [space.n] if isinstance(space, spaces.Discrete) else space.nvec  # type: ignore[attr-defined]
    high: np.ndarray = np.asarray(sizes, dtype=np.int64) - 1
    return np.zeros_like(high), high


@cache
def _say_that_it_is_slow() -> None:
    gym.logger.warn(
        "Numba is not installed or switched off, so worlds run as plain Python: slower, with the same results."
    )
