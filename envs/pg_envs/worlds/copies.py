"""Copies of a world: their numbers, and the loop over them, compiled or interpreted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np

from pg_envs.worlds.compiling import declare_helpers, has_compiler
from pg_envs.worlds.random import N_RANDOM, generator_state
from pg_envs.worlds.world import World


class Copies:
    """`n` copies of a world, each with a generator of its own.

    Nothing of a copy depends on the others, on their number, or on what steps them.

    Args:
        world: The world.
        n: Number of copies.
        max_episode_steps: Number of steps after which an episode is truncated; None for no limit.

    Attributes:
        states: `(n, n_state)` float64.
        randoms: `(n, 6)` int64: the generators.
        n_steps: `(n,)` int64: steps of the running episodes.
        held: `(n,)` bool: copies that `advance` leaves as they are.
        table: A row of `kernels.COPIES`, for compiled code; None without a compiler.
        address: Address of the compiled `kernels.advance`; 0 without a compiler.

    Raises:
        TypeError: Numba cannot compile one of the world's functions.
    """

    def __init__(self, world: World, n: int, max_episode_steps: int | None = None) -> None:
        self.world, self.n, self.max_episode_steps = world, n, max_episode_steps
        self.states = np.zeros((n, world.n_state))
        self.randoms = np.zeros((n, N_RANDOM), dtype=np.int64)
        self.n_steps = np.zeros(n, dtype=np.int64)
        self.held = np.zeros(n, dtype=np.bool_)
        self.table: np.ndarray | None = None
        self.address = 0
        if has_compiler():
            self._fill_table()
        else:
            _say_that_it_is_slow()

    def _fill_table(self) -> None:
        from pg_envs.worlds import kernels

        world = self.world
        assert isinstance(world.constants, np.ndarray), "made so by World"
        table = self.table = np.zeros(1, kernels.COPIES)
        table["n_state"], table["n_random"], table["n_action"] = world.n_state, N_RANDOM, world.n_action
        table["action_bytes"] = 8 if world.discrete_actions else 4
        table["n_observation"], table["max_episode_steps"] = world.n_observation, self.max_episode_steps or 0
        for name, n_parameters in (("start", 2), ("step", 3), ("observe", 2)):
            function = getattr(world, name)
            table[name] = _compiled(function, name, world.discrete_actions).address
            table[f"constants_of_{name}"] = function.__code__.co_argcount > n_parameters
        for name in ("constants", "states", "randoms", "n_steps", "held"):
            table[name] = (world.constants if name == "constants" else getattr(self, name)).ctypes.data
        self.address = kernels.advance.address
        self._advance, self._begin = kernels.advance.ctypes, kernels.begin.ctypes

    def seed(self, i: int, seed: int) -> None:
        """Give a copy the generator that belongs to a seed."""
        self.randoms[i] = generator_state(seed)

    def begin(self, which: np.ndarray, observations: np.ndarray) -> None:
        """Start episodes in some copies, and write their first observations.

        Args:
            which: `(n,)` bool.
            observations: `(n, n_observation)` float32.
        """
        if self.table is not None:
            self._begin(self.table.ctypes.data, which.ctypes.data, observations.ctypes.data, self.n)
            return
        for i in np.flatnonzero(which).tolist():
            self._start(i)
            self._observe(i, observations)

    def advance(
        self,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        observations: np.ndarray,
        last_observations: np.ndarray,
        restarts: bool,
    ) -> None:
        """One step of every copy that is not held; the arguments are those of `kernels.advance`, as arrays."""
        arrays = actions, rewards, terminated, truncated, observations, last_observations
        if self.table is not None:
            self._advance(self.table.ctypes.data, *(array.ctypes.data for array in arrays), restarts, 0, self.n)
            return
        rewards[:], terminated[:], truncated[:] = 0.0, False, False
        for i in np.flatnonzero(~self.held).tolist():
            self.n_steps[i] += 1
            given = self._given(self.world.step, 3, self.states[i], actions[i], self.randoms[i])
            rewards[i], terminated[i] = given
            truncated[i] = self.max_episode_steps is not None and self.n_steps[i] >= self.max_episode_steps
            if restarts and (terminated[i] or truncated[i]):
                self._observe(i, last_observations)
                self._start(i)
            self._observe(i, observations)

    def _start(self, i: int) -> None:
        self._given(self.world.start, 2, self.states[i], self.randoms[i])
        self.n_steps[i] = 0

    def _observe(self, i: int, observations: np.ndarray) -> None:
        self._given(self.world.observe, 2, self.states[i], observations[i])

    def _given(self, function: Callable[..., Any], n_parameters: int, *arrays: np.ndarray) -> Any:
        takes_constants = function.__code__.co_argcount > n_parameters
        return function(*arrays, self.world.constants) if takes_constants else function(*arrays)


@cache
def _say_that_it_is_slow() -> None:
    gym.logger.warn(
        "Numba is not installed or switched off, so worlds run as plain Python: slower, with the same results."
    )


@cache
def _compiled(function: Callable[..., Any], name: str, discrete_actions: bool) -> Any:
    """One of a world's functions, compiled, with an address.

    Raises:
        TypeError: Numba cannot compile it; the message is Numba's.
    """
    import numba
    from numba import types

    from pg_envs.worlds.kernels import STEP_RESULT

    numbers, random = types.CPointer(types.float64), types.CPointer(types.int64)
    action = types.CPointer(types.int64 if discrete_actions else types.float32)
    parameters = {
        "start": (numbers, random),
        "step": (numbers, action, random),
        "observe": (numbers, types.CPointer(types.float32)),
    }[name]
    if function.__code__.co_argcount > len(parameters):
        parameters = (*parameters, numbers)
    signature = (STEP_RESULT if name == "step" else types.void)(*parameters)
    options = {"nogil": True, "error_model": "numpy"}
    declare_helpers()
    try:
        try:
            return numba.cfunc(signature, cache=True, **options)(function)
        except RuntimeError:  # no file to keep it beside: written at a prompt
            return numba.cfunc(signature, **options)(function)
    except numba.core.errors.NumbaError as error:
        raise TypeError(
            f"Numba cannot compile `{name}` of a World, {function.__module__}.{function.__qualname__}: {error}"
        ) from error
