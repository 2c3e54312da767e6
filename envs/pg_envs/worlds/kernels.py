"""The compiled loop over the copies of a world, which calls the world's functions through their addresses.

Addresses, because Numba's cache on disk misses for a function that takes another as its argument. The functions are C
functions of integers. Compiled code elsewhere calls `advance`: see `COPIES`, the table that it reads. A face calls
`step`, whose only argument is the address of a table, because each argument costs Python as much as a copy's step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from pg_envs.worlds.compiling import declare_helpers

_integer = np.int64

COPIES = np.dtype(
    [
        ("n_state", _integer),  # numbers of a copy's state
        ("n_random", _integer),  # of its generator
        ("n_action", _integer),  # of its action
        ("action_bytes", _integer),  # 8 for int64, 4 for float32
        ("n_observation", _integer),  # numbers of its observation, as they are written
        ("max_episode_steps", _integer),  # 0 for no limit
        ("constants_of_start", _integer),  # whether the function takes the constants
        ("constants_of_step", _integer),
        ("constants_of_observe", _integer),
        ("start", _integer),  # addresses from here on
        ("step", _integer),
        ("observe", _integer),
        ("constants", _integer),
        ("states", _integer),  # (copies, n_state) float64
        ("randoms", _integer),  # (copies, n_random) int64
        ("n_steps", _integer),  # (copies,) int64: steps of the running episode
        ("held", _integer),  # (copies,) bool: copies that stay as they are
        ("last_states", _integer),  # (copies, n_state) float64: where episodes ended, if `restarts`; 0 for none
        ("n_planned", _integer),  # planned starts of each copy
        ("planned", _integer),  # (copies, n_planned, n_random) int64: the generators that they begin with
        ("n_begun", _integer),  # (copies,) int64: planned starts that have been made
    ],
    align=True,
)

FACE = np.dtype(
    [
        ("n", _integer),  # copies
        ("discrete", _integer),  # whether actions are int64
        ("restarts", _integer),  # of `advance`, as the addresses below
        ("copies", _integer),
        ("actions", _integer),
        ("rewards", _integer),
        ("terminated", _integer),
        ("truncated", _integer),
        ("observations", _integer),
        ("last_observations", _integer),
        ("low", _integer),  # (n_action,) of the actions' type: the lowest allowed
        ("high", _integer),  # the highest allowed
    ],
    align=True,
)

_i64, _f64, _i1 = ir.IntType(64), ir.DoubleType(), ir.IntType(1)
STEP_RESULT = types.Tuple((types.float64, types.boolean))


def _make_call(n_addresses: int, returned: Any, result: Any) -> Any:
    """A call of the C function at an address, with so many addresses as arguments."""

    @intrinsic
    def call(typing_context, address, *arguments):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            function = ir.FunctionType(returned, [_i64] * n_addresses).as_pointer()
            given = [builder.extract_value(arguments[1], i) for i in range(n_addresses)]
            answer = builder.call(builder.inttoptr(arguments[0], function), given)
            return context.get_dummy_value() if result is types.void else answer

        return result(types.int64, types.StarArgTuple((types.int64,) * n_addresses)), generate

    return call


_call_2, _call_3 = (_make_call(n, ir.VoidType(), types.void) for n in (2, 3))
_step_3, _step_4 = (_make_call(n, ir.LiteralStructType([_f64, _i1]), STEP_RESULT) for n in (3, 4))


def _make_pointer(element: Any, of: Any) -> Any:
    @intrinsic
    def pointer(typing_context, address):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], element.as_pointer())

        return types.CPointer(of)(types.int64), generate

    return pointer


_doubles = _make_pointer(_f64, types.float64)
_integers = _make_pointer(_i64, types.int64)
_floats = _make_pointer(ir.FloatType(), types.float32)
_bytes = _make_pointer(ir.IntType(8), types.uint8)


@intrinsic
def _copies(typing_context, address):
    """The table of copies at an address."""
    result = types.CPointer(numba.from_dtype(COPIES))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64), generate


_inner = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@njit(**_inner)
def _start(copies, i):
    state, random = copies.states + 8 * i * copies.n_state, copies.randoms + 8 * i * copies.n_random
    if copies.n_planned > 0 and _integers(copies.n_begun)[i] < copies.n_planned:
        planned = i * copies.n_planned + _integers(copies.n_begun)[i]
        _integers(copies.n_begun)[i] += 1
        for k in range(copies.n_random):
            _integers(random)[k] = _integers(copies.planned)[planned * copies.n_random + k]
    if copies.constants_of_start:
        _call_3(copies.start, state, random, copies.constants)
    else:
        _call_2(copies.start, state, random)
    _integers(copies.n_steps)[i] = 0


@njit(**_inner)
def _step(copies, i, action):
    state, random = copies.states + 8 * i * copies.n_state, copies.randoms + 8 * i * copies.n_random
    _integers(copies.n_steps)[i] += 1
    if copies.constants_of_step:
        return _step_4(copies.step, state, action, random, copies.constants)
    return _step_3(copies.step, state, action, random)


@njit(**_inner)
def _observe(copies, i, observations):
    state, observation = copies.states + 8 * i * copies.n_state, observations + 4 * i * copies.n_observation
    if copies.constants_of_observe:
        _call_3(copies.observe, state, observation, copies.constants)
    else:
        _call_2(copies.observe, state, observation)


@njit(**_inner)
def _advance(
    table, actions, rewards, terminated, truncated, observations, last_observations, restarts, first, after
):  # fmt: skip
    copies = numba.carray(table, 1)[0]
    reward, ended, cut = _doubles(rewards), _bytes(terminated), _bytes(truncated)
    held, n_steps, n_state = _bytes(copies.held), _integers(copies.n_steps), copies.n_state
    n_ended = 0
    for i in range(first, after):
        if held[i]:
            reward[i], ended[i], cut[i] = 0.0, 0, 0
            continue
        given, done = _step(copies, i, actions + i * copies.n_action * copies.action_bytes)
        over = copies.max_episode_steps > 0 and n_steps[i] >= copies.max_episode_steps
        reward[i], ended[i], cut[i] = given, done, over
        if done or over:
            n_ended += 1
            if restarts:
                _observe(copies, i, last_observations)
                if copies.last_states:
                    now, last = _doubles(copies.states), _doubles(copies.last_states)
                    for k in range(i * n_state, (i + 1) * n_state):
                        last[k] = now[k]
                _start(copies, i)
        _observe(copies, i, observations)
    return n_ended


_kept = {"nogil": True, "cache": True, "error_model": "numpy"}
_address = numba.int64
_pointer = types.CPointer(numba.from_dtype(COPIES))
_face = types.CPointer(numba.from_dtype(FACE))


@numba.cfunc(_address(_pointer, *[_address] * 9), **_kept)
def advance(table, actions, rewards, terminated, truncated, observations, last_observations, restarts, first, after):
    """One step of the copies `first` to `after` - 1, except those held.

    Args:
        table: One row of `COPIES`.
        actions: `(copies, n_action)`.
        rewards: `(copies,)` float64, written, as all of the following.
        terminated: `(copies,)` bool.
        truncated: `(copies,)` bool; a step can be both.
        observations: `(copies, n_observation)` float32. Of the next episode's first state where an episode ended and
            `restarts` is 1.
        last_observations: The last observations of the episodes that ended, if `restarts` is 1.
        restarts: 1 starts the next episode in the step that ends one.
        first: The first copy.
        after: The last copy, and one beyond.

    Returns:
        The number of episodes that ended.
    """
    return _advance(
        table, actions, rewards, terminated, truncated, observations, last_observations, restarts, first, after
    )  # fmt: skip


@njit(**_inner)
def _check(face):
    n_action = numba.carray(_copies(face.copies), 1)[0].n_action
    if face.discrete:
        choices, lowest, highest = _integers(face.actions), _integers(face.low), _integers(face.high)
        for k in range(face.n * n_action):
            if choices[k] < lowest[k % n_action] or choices[k] > highest[k % n_action]:
                return k // n_action
        return -1
    actions, low, high = _floats(face.actions), _floats(face.low), _floats(face.high)
    for i in range(face.n):
        for j in range(n_action):
            k = i * n_action + j
            if math.isnan(actions[k]):
                return i
            actions[k] = min(max(actions[k], low[j]), high[j])
    return -1


@numba.cfunc(_address(_face), **_kept)
def check(table):
    """Clip actions to their Box, or check them.

    Args:
        table: One row of `FACE`.

    Returns:
        The first copy whose action is not allowed; -1 if all are.
    """
    return _check(numba.carray(table, 1)[0])


@numba.cfunc(_address(_face), **_kept)
def step(table):
    """Check the actions, and `advance` all copies.

    Args:
        table: One row of `FACE`.

    Returns:
        The number of episodes that ended; -1 - i, and no step was taken, if the action of copy i is not allowed.
    """
    face = numba.carray(table, 1)[0]
    wrong = _check(face)
    if wrong >= 0:
        return -1 - wrong
    return _advance(
        _copies(face.copies), face.actions, face.rewards, face.terminated, face.truncated, face.observations,
        face.last_observations, face.restarts, 0, face.n,
    )  # fmt: skip


@numba.cfunc(_address(_pointer, *[_address] * 3), **_kept)
def begin(table, which, observations, n):
    """Start episodes in the copies, of `n`, that `which` names, `(copies,)` bool; write their observations.

    Returns:
        0.
    """
    copies, chosen = numba.carray(table, 1)[0], _bytes(which)
    for i in range(n):
        if chosen[i]:
            _start(copies, i)
            _observe(copies, i, observations)
    return 0


@cache
def compile_function(function: Callable[..., Any], name: str, discrete_actions: bool) -> Any:
    """One of a world's functions, compiled, with an address.

    Raises:
        TypeError: Numba cannot compile it; the message is Numba's.
    """
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
