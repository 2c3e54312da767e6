"""`check_world`: the conformance check of worlds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.checks import check_number
from pg_envs.worlds.copies import Copies
from pg_envs.worlds.faces import WorldEnv, WorldVector
from pg_envs.worlds.random import generator_state
from pg_envs.worlds.world import World

TOLERANCE = 1e-12  # of compiled numbers, relative: the C library's functions may round otherwise than Python's
N_GUARDS = 4  # copies on each side, whose numbers must stay as they are


def check_world(world: World, *, n_copies: int = 3, n_steps: int = 100, seed: int = 0) -> None:
    """Check a world with random actions, interpreted and, if Numba is installed, compiled.

    1. The functions index their arrays from 0 to the last number only, `observe` writes the observation only, and no
       function writes the action or the constants.
    2. `start` writes all of the state that is read thereafter, and `observe` writes the whole observation.
    3. Observations are in the space and finite, rewards finite, ends True or False.
    4. The same numbers give the same numbers: what a function returns and writes depends on its arguments alone.
    5. Compiled, a function does what it does interpreted, up to rounding (1e-12, relative).
    6. Compiled, it writes nothing into neighbouring copies.
    7. A copy alone, as a single environment, and among others, in a vector environment of each autoreset mode, does the
       same, bit for bit.

    Args:
        world: The world.
        n_copies: Number of copies.
        n_steps: Number of steps of each copy. Episodes are cut at a quarter of it.
        seed: Seed of the first copy and of the actions; the next copies have the next seeds.

    Raises:
        AssertionError: The world fails; the message names the function, the copy and the step.
        TypeError: Numba cannot compile a function.
        ValueError: An argument is out of range.
    """
    check_number("n_copies", n_copies, at_least=1, integer=True)
    check_number("n_steps", n_steps, at_least=4, integer=True)
    check_number("seed", seed, at_least=0, integer=True)
    space = deepcopy(world.action_space)
    space.seed(seed)
    actions = [[space.sample() for _ in range(n_copies)] for _ in range(n_steps)]
    recorded = [_interpreted(world, i, seed + i, [row[i] for row in actions]) for i in range(n_copies)]
    for calls in recorded:
        _check_guards(world, calls)
    for calls in recorded:
        _check_compiled(world, calls)
    for mode in AutoresetMode:
        _check_faces(world, mode, np.array(actions), seed)
    _check_batch_functions(world, np.array([calls[-1].after.state for calls in recorded]))


@dataclass
class _Numbers:
    """The numbers that a copy's functions read and write."""

    state: np.ndarray
    random: np.ndarray
    observation: np.ndarray
    reward: float = 0.0
    terminated: bool = False

    def equal(self, other: _Numbers) -> bool:
        return _same(vars(self), vars(other))


@dataclass
class _Call:
    """A call of `start` or `step`, and of `observe` thereafter.

    Attributes:
        function: Its name.
        where: The copy and the step, in words.
        action: The action of a step.
        before: The numbers before it.
        after: The numbers after it.
    """

    function: str
    where: str
    action: Any
    before: _Numbers
    after: _Numbers


class _Watched:
    """An array that a world's function may index by integers in their range."""

    def __init__(self, values: np.ndarray, name: str, call: _Running, writable: bool) -> None:
        self._values, self._name, self._call, self._writable = values, name, call, writable

    def __getitem__(self, index: Any) -> Any:
        return self._values[self._checked(index, "reads")]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._checked(index, "writes")
        if not self._writable:
            self._call.fail(f"writes {self._name}[{index}], which it must not change")
        self._values[index] = value

    def _checked(self, index: Any, does: str) -> Any:
        if not isinstance(index, (int, np.integer)) or isinstance(index, bool):
            self._call.fail(f"indexes `{self._name}` by {index!r}, but only integers can be compiled")
        if not 0 <= index < len(self._values):
            self._call.fail(f"{does} {self._name}[{index}], but the last index is {len(self._values) - 1}")
        return index


@dataclass
class _Running:
    """The call that is under way."""

    name: str
    where: str

    def fail(self, problem: str) -> NoReturn:
        raise AssertionError(f"`{self.name}` {problem} ({self.where}).")

    @contextmanager
    def caught(self) -> Iterator[None]:
        try:
            yield
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"`{self.name}` raises {type(error).__name__}: {error} ({self.where}).") from error


def _interpreted(world: World, i: int, seed: int, actions: list[Any]) -> list[_Call]:
    """The calls of one copy in plain Python, each checked on its own."""
    numbers = _Numbers(np.zeros(world.n_state), generator_state(seed), np.zeros(world.n_observation, np.float32))
    calls, n_steps, limit = [_twice(world, "start", numbers, None, f"copy {i}, step 0")], 0, len(actions) // 4
    twin = _Twin(world, calls[0])
    for t, action in enumerate(actions):
        where = f"copy {i}, step {t}"
        if calls[-1].after.terminated or n_steps == limit:
            calls.append(_twice(world, "start", calls[-1].after, None, where))
            twin, n_steps = _Twin(world, calls[-1]), 0
        call = _twice(world, "step", calls[-1].after, action, where)
        if not np.isfinite(call.after.reward):
            _Running("step", where).fail(f"returns the reward {call.after.reward}")
        twin.follow(call)
        calls.append(call)
        n_steps += 1
    return calls


class _Twin:
    """A copy with another remainder of the last episode in its state, which must behave in the same way."""

    def __init__(self, world: World, call: _Call) -> None:
        self._world, self._left = world, np.zeros(0, dtype=int)
        self._numbers = replace(deepcopy(call.before), state=np.full(world.n_state, 7.25))
        started = deepcopy(self._numbers)
        with suppress(AssertionError):  # which `follow` meets again
            _moved(world, "start", started, None, call.where)
            self._left = np.flatnonzero(started.state != call.after.state)
        self.follow(call)

    def follow(self, call: _Call) -> None:
        """The same call; it must give the same but for the state."""
        expected = call.after
        try:
            numbers = _called(self._world, call.function, self._numbers, call.action, call.where)
            moved = _same(numbers.random, expected.random) and numbers.reward == expected.reward
            moved = moved and numbers.terminated == expected.terminated
            seen = _same(numbers.observation, expected.observation)
        except AssertionError:
            moved = seen = False
        if not moved or not seen:
            reader = "observe" if moved else call.function
            left = f"leaves state[{self._left[0]}]" if len(self._left) else "leaves the state"
            _Running("start", call.where).fail(f"{left} to what the last episode wrote, and `{reader}` reads it")


def _twice(world: World, name: str, before: _Numbers, action: Any, where: str) -> _Call:
    """A call of `start` or `step`, and of `observe`, made twice."""
    first, again = (_called(world, name, deepcopy(before), action, where) for _ in range(2))
    if not first.equal(again):
        function = "observe" if _same(first.state, again.state) and first.reward == again.reward else name
        _Running(function, where).fail("gives something else when it is called with the same numbers again")
    return _Call(name, where, action, before, first)


def _called(world: World, name: str, numbers: _Numbers, action: Any, where: str) -> _Numbers:
    """A call of `start` or `step`, and of `observe`; it changes the numbers, and returns them."""
    _moved(world, name, numbers, action, where)
    _observed(world, numbers, where)
    return numbers


def _moved(world: World, name: str, numbers: _Numbers, action: Any, where: str) -> None:
    running = _Running(name, where)
    state = _Watched(numbers.state, "state", running, writable=True)
    random = _Watched(numbers.random, "random", running, writable=True)
    function = getattr(world, name)
    if name == "start":
        with running.caught():
            function(state, random, *_constants(world, function, 2, running))
        numbers.reward, numbers.terminated = 0.0, False
    else:
        array = np.array(action, dtype=np.int64 if world.discrete_actions else np.float32).reshape(-1)
        watched = _Watched(array, "action", running, writable=False)
        with running.caught():
            returned = function(state, watched, random, *_constants(world, function, 3, running))
        numbers.reward, numbers.terminated = _result(returned, running)


def _result(returned: Any, running: _Running) -> tuple[float, bool]:
    if not isinstance(returned, tuple) or len(returned) != 2:
        running.fail(f"must return the reward and whether the task ended, but returns {returned!r}")
    reward, terminated = returned
    if not isinstance(reward, (int, float, np.integer, np.floating)):
        running.fail(f"must return a number as the reward, but returns {reward!r}")
    if not isinstance(terminated, (bool, np.bool_)):
        running.fail(f"must return True or False for the end, but returns {terminated!r}")
    return float(reward), bool(terminated)


def _observed(world: World, numbers: _Numbers, where: str) -> None:
    """A call of `observe`, into two arrays: it must write all of them."""
    running, written = _Running("observe", where), []
    for fill in (0.5, np.nan):
        observation = np.full(world.n_observation, fill, dtype=np.float32)
        arrays = (
            _Watched(numbers.state, "state", running, writable=False),
            _Watched(observation, "observation", running, writable=True),
        )
        with running.caught():
            world.observe(*arrays, *_constants(world, world.observe, 2, running))
        written.append(observation)
    numbers.observation[:] = written[0]
    space, shape = world.observation_space, world.observation_space.shape or ()
    shown = written[0].reshape(shape)
    for i in range(world.n_observation):
        if not _same(written[0][i], written[1][i]):
            running.fail(f"does not write observation[{i}], or reads what stood there before")
    if not np.isfinite(shown).all():
        running.fail(f"writes {shown}, but observations must be finite")
    whole = isinstance(space, spaces.Box) or (shown == np.floor(shown)).all()
    if not whole or not space.contains(shown.astype(space.dtype)[()]):
        running.fail(f"writes {shown}, which is not in {space}")


def _constants(world: World, function: Callable[..., Any], n_parameters: int, running: _Running) -> list[_Watched]:
    if function.__code__.co_argcount == n_parameters:
        return []
    return [_Watched(np.asarray(world.constants), "constants", running, writable=False)]


class _Stepped:
    """Copies of a world, of which one takes the recorded calls."""

    def __init__(self, world: World, n: int, which: int) -> None:
        self.copies, self.which = Copies(world, n), which
        self.chosen = np.arange(n) == which
        self.copies.held[:] = ~self.chosen

    def call(self, call: _Call) -> _Numbers:
        """The numbers after a call, from those before it."""
        copies, i = self.copies, self.which
        copies.states[i], copies.randoms[i] = call.before.state, call.before.random
        reward, terminated = 0.0, False
        if call.function == "start":
            copies.begin(self.chosen)
        else:
            copies.step(np.stack([np.asarray(call.action)] * copies.n))
            reward, terminated = copies.rewards.item(i), copies.terminated.item(i)
        observation = copies.observations()[i].reshape(-1).astype(np.float32)
        return _Numbers(copies.states[i].copy(), copies.randoms[i].copy(), observation, reward, terminated)


def _check_guards(world: World, calls: list[_Call]) -> None:
    """The copies beside the one that moves, and the constants, stay as they are."""
    stepped = _Stepped(world, 2 * N_GUARDS + 1, N_GUARDS)
    beside = ~stepped.chosen
    stepped.copies.states[beside], stepped.copies.randoms[beside] = -7.0, -7
    before = stepped.copies.observations()[beside]
    constants = np.array(world.constants)
    for call in calls:
        stepped.call(call)
        for array, expected, name, function in (
            (stepped.copies.states[beside], -7.0, "state", call.function),
            (stepped.copies.randoms[beside], -7, "random", call.function),
            (stepped.copies.observations()[beside], before, "observation", "observe"),
        ):
            if (array != expected).any():
                _Running(function, call.where).fail(f"writes beyond its `{name}` when it is compiled")
        if not np.array_equal(constants, world.constants):
            _Running(call.function, call.where).fail("writes the constants when it is compiled")


def _check_compiled(world: World, calls: list[_Call]) -> None:
    stepped = _Stepped(world, 1, 0)
    for call in calls:
        compiled, again = stepped.call(call), stepped.call(call)
        if not compiled.equal(again):
            problem = "gives something else when it is called with the same numbers again, compiled"
            _Running(call.function, call.where).fail(problem)
        for name, function, tolerance in (
            ("terminated", call.function, 0.0),
            ("reward", call.function, TOLERANCE),
            ("state", call.function, TOLERANCE),
            ("random", call.function, 0.0),
            ("observation", "observe", 2.0**-22),  # another rounding may give the neighbouring float32
        ):
            here, there = (np.asarray(getattr(numbers, name), dtype=float) for numbers in (compiled, call.after))
            scale = np.maximum(np.abs(there), 1.0)
            if not (np.isclose(here / scale, there / scale, rtol=0, atol=tolerance, equal_nan=True)).all():
                _Running(function, call.where).fail(
                    f"gives another {name} when it is compiled: {here} where Python gives {there}"
                )


def _check_faces(world: World, mode: AutoresetMode, actions: np.ndarray, seed: int) -> None:
    n_steps, n_copies = actions.shape[:2]
    limit = n_steps // 4
    vector = WorldVector(world, n_copies, limit, mode)
    singles = [WorldEnv(world) for _ in range(n_copies)]
    taken, ended = np.zeros(n_copies, dtype=int), np.zeros(n_copies, dtype=np.bool_)

    def compare(i: int, t: int, one: Any, other: Any, what: str) -> None:
        if not _same(one, other):
            function = "observe" if what == "observation" else "step"
            _Running(function, f"copy {i}, step {t}").fail(
                f"gives another {what} to a copy among others (autoreset mode {mode.value!r}) than to the same copy "
                f"alone: {one} and {other}"
            )

    observations, _ = vector.reset(seed=seed)
    for i, single in enumerate(singles):
        compare(i, 0, observations[i], single.reset(seed=seed + i)[0], "observation")
    for t in range(n_steps):
        if mode is AutoresetMode.DISABLED and ended.any():
            observations, _ = vector.reset(options={"reset_mask": ended})
            for i in np.flatnonzero(ended).tolist():
                compare(i, t, observations[i], singles[i].reset()[0], "observation")
            taken[ended], ended = 0, np.zeros_like(ended)
        observations, rewards, terminated, truncated, infos = vector.step(actions[t])
        for i, single in enumerate(singles):
            if ended[i] and mode is AutoresetMode.NEXT_STEP:
                observation, reward, end, taken[i] = single.reset()[0], 0.0, False, -1
            else:
                observation, reward, end, _, _ = single.step(actions[t, i])
            taken[i] += 1
            ended[i] = end or taken[i] == limit
            if ended[i] and mode is AutoresetMode.SAME_STEP:
                compare(i, t, infos["final_obs"][i], observation, "observation")
                observation, ended[i] = single.reset()[0], False
                compare(i, t, bool(truncated[i]), taken[i] == limit, "time limit")
                taken[i] = 0
            compare(i, t, observations[i], observation, "observation")
            compare(i, t, rewards[i], reward, "reward")
            compare(i, t, bool(terminated[i]), end, "end")


def _check_batch_functions(world: World, states: np.ndarray) -> None:
    """`info` and `controller` give one row per copy."""
    if world.info is not None:
        for key, values in world.info(states).items():
            if len(values) != len(states):
                raise AssertionError(f"`info` must give one row per copy, but {key!r} has {len(values)}.")
    if world.controller is not None:
        actions = np.asarray(world.controller(states))
        expected = (len(states), *(world.action_space.shape or ()))
        if actions.shape != expected:
            raise AssertionError(f"`controller` must give actions of shape {expected}, but gives {actions.shape}.")


def _same(one: Any, other: Any) -> bool:
    """Equality to the bit, in which NaN equals NaN."""
    if isinstance(one, dict):
        return all(_same(one[key], other[key]) for key in one)
    return bool(np.array_equal(np.asarray(one, dtype=float), np.asarray(other, dtype=float), equal_nan=True))
