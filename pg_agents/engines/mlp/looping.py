"""The compiled loop of a worker in asynchronous training: alternate rollouts and updates.

It calls `kernels.act`, `kernels.train` and `rolling.roll` through their addresses, as `rolling.py` does. Advantages in
between are those of `PolicyGradient.estimate`, number for number.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import njit, types

from pg_agents.engines.mlp.simd import (
    call_policy,
    doubles,
    flags,
    floats,
    inner,
    integers,
    make_function_caller,
    observe,
    publish,
)

# As in kernels.py: makes Numba compile this file again when simd.py has changed.
SIMD = "22decbbaa0bb"

DONE, STOPPED, NOT_FINITE_PARAMETER, NOT_FINITE_GRADIENT = range(4)
_integer, _address, _number = np.int64, np.int64, np.float64

LOOP = np.dtype(
    [
        ("n_updates", _integer),
        ("n_steps", _integer),
        ("n_envs", _integer),
        ("n_actions", _integer),
        ("categorical", _integer),
        ("n_towers", _integer),  # number of trained towers
        ("gamma", _number),
        ("decay", _number),  # γ λ
        # Functions, and their tables
        ("roll", _address),
        ("act", _address),
        ("train", _address),
        ("rollout", _address),
        ("policies", _address),
        ("towers", _address),
        ("layers", _address),
        ("tensors", _address),
        ("update", _address),
        ("value_step", _address),
        # The shared parameters
        ("n_tensors", _integer),
        ("own", _address),  # (n_tensors,) addresses of the worker's own parameters
        ("shared", _address),  # (n_tensors,) addresses of the shared ones
        ("sizes", _address),  # (n_tensors,)
        ("counts", _address),  # (n_workers,) updates that each worker has applied
        ("n_workers", _integer),
        ("worker", _integer),
        ("stop", _address),  # any number but 0 prevents further updates
        # (n_updates,) float64
        ("rates", _address),
        ("ent_coefs", _address),
        ("vf_coefs", _address),
        ("ent_coef", _address),  # the present coefficients, which `train` reads
        ("vf_coef", _address),
        ("noise", _address),  # (n_updates, T, N, n_actions)
        ("noise_bytes", _integer),  # size of one update's noise
        ("noise_of_step", _address),  # location of the noise's address, which `act` reads
        # The rollout, (T, N)
        ("drawn", _address),
        ("actions", _address),  # float32, for `train`
        ("rewards", _address),
        ("env_rewards", _address),
        ("values", _address),
        ("final_values", _address),
        ("terminated", _address),
        ("truncated", _address),
        ("advantages", _address),
        ("returns", _address),
        ("last_values", _address),  # (N,)
        # Written
        ("told_rewards", _address),  # (n_updates T, N)
        ("told_dones", _address),
        ("told_truncated", _address),
        ("events", _address),
        ("progress", _address),  # the progress of `roll`
        ("train_progress", _address),
        ("staleness", _address),  # int64: sum, largest, updates made
    ],
    align=True,
)
EVENT_SIZE, EVENT_STEP = 4, 3  # numbers of an event of `roll`, and the place of its step

_compiled = {**inner, "error_model": "numpy"}


_call_roll, _call_train = make_function_caller(3), make_function_caller(7)


@njit(**_compiled)
def _version(loop):
    total = 0
    for worker in range(loop.n_workers):
        total += observe(loop.counts + 8 * worker)
    return total


@njit(**_compiled)
def _pull(loop):
    """Copy the shared parameters; whether they are finite."""
    own, shared, sizes = integers(loop.own), integers(loop.shared), integers(loop.sizes)
    check = np.float32(0)
    for number in range(loop.n_tensors):
        to, source = floats(own[number]), floats(shared[number])
        for i in range(sizes[number]):
            to[i] = source[i]
            check += to[i] * np.float32(0)
    return check == 0


@njit(**_compiled)
def _estimate(loop):
    """GAE, with the rounding of `PolicyGradient.estimate`."""
    n_steps, n_envs = loop.n_steps, loop.n_envs
    rewards, env_rewards, values = floats(loop.rewards), floats(loop.env_rewards), floats(loop.values)
    terminated, truncated = flags(loop.terminated), flags(loop.truncated)
    advantages, returns, last_values = floats(loop.advantages), floats(loop.returns), floats(loop.last_values)
    gamma, decay = np.float32(loop.gamma), np.float32(loop.decay)
    for n in range(n_envs):
        following, next_value = np.float32(0), last_values[n]
        for t in range(n_steps - 1, -1, -1):
            place = t * n_envs + n
            if truncated[place]:
                target = rewards[place]
            elif terminated[place]:
                target = env_rewards[place]
            else:
                discounted = gamma * next_value
                target = env_rewards[place] + discounted
            kept = np.float32(0) if terminated[place] or truncated[place] else decay * following
            following = (target - values[place]) + kept
            advantages[place] = following
            returns[place] = following + values[place]
            next_value = values[place]


@njit(**_compiled)
def _clear(loop):
    terminated, truncated = flags(loop.terminated), flags(loop.truncated)
    final_values = floats(loop.final_values)
    for place in range(loop.n_steps * loop.n_envs):
        terminated[place] = 0
        truncated[place] = 0
        final_values[place] = 0
    progress = integers(loop.train_progress)
    for i in range(5):
        progress[i] = 0


@njit(**_compiled)
def _tell(loop, update, first_event):
    """Record rewards and ends of episodes for callbacks."""
    size = loop.n_steps * loop.n_envs
    rewards, told = floats(loop.env_rewards), floats(loop.told_rewards + 4 * update * size)
    dones, cut = flags(loop.told_dones + update * size), flags(loop.told_truncated + update * size)
    terminated, truncated = flags(loop.terminated), flags(loop.truncated)
    for place in range(size):
        told[place] = rewards[place]
        dones[place] = terminated[place] or truncated[place]
        cut[place] = truncated[place]
    events = doubles(loop.events)
    for number in range(first_event, integers(loop.progress)[1]):
        events[number * EVENT_SIZE + EVENT_STEP] += update * loop.n_steps


@njit(
    numba.int64(numba.from_dtype(LOOP)[::1], types.Array(types.float64, 1, "A")),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def run(loops, learning_rates):
    """Repeat: pull parameters, roll, estimate, train.

    Args:
        loops: A table of one row.
        learning_rates: The learning rate of each tensor, which `train` reads.

    Returns:
        DONE, STOPPED, NOT_FINITE_PARAMETER, NOT_FINITE_GRADIENT, or `roll`'s code below 0 where it has refused a
        number. The number of updates made is the last of `staleness`.
    """
    loop = loops[0]
    staleness, progress, counts = integers(loop.staleness), integers(loop.progress), integers(loop.counts)
    rates, ent_coefs, vf_coefs = doubles(loop.rates), doubles(loop.ent_coefs), doubles(loop.vf_coefs)
    drawn_integers, drawn_floats, actions = integers(loop.drawn), floats(loop.drawn), floats(loop.actions)
    for update in range(loop.n_updates):
        if observe(loop.stop) != 0:
            return STOPPED
        version = _version(loop)
        if not _pull(loop):
            return NOT_FINITE_PARAMETER
        _clear(loop)
        integers(loop.noise_of_step)[0] = loop.noise + update * loop.noise_bytes
        first_event = progress[1]
        code = _call_roll(loop.roll, loop.rollout, 0, loop.n_steps)
        if code != 0:
            progress[1] = first_event  # episodes of a refused rollout are not told
            return -code
        _tell(loop, update, first_event)
        call_policy(loop.act, loop.policies, loop.towers, loop.layers, loop.value_step, 0)
        _estimate(loop)
        for place in range(loop.n_steps * loop.n_envs * loop.n_actions):
            actions[place] = np.float32(drawn_integers[place]) if loop.categorical else drawn_floats[place]
        doubles(loop.ent_coef)[0], doubles(loop.vf_coef)[0] = ent_coefs[update], vf_coefs[update]
        for number in range(len(learning_rates)):
            learning_rates[number] = rates[update]
        if _call_train(
            loop.train, loop.policies, loop.towers, loop.layers, loop.tensors, loop.update, 0, loop.n_towers
        ) != 0:  # fmt: skip
            return NOT_FINITE_GRADIENT
        stale = _version(loop) - version
        staleness[0] += stale
        staleness[1] = max(staleness[1], stale)
        staleness[2] += 1
        publish(loop.counts + 8 * loop.worker, counts[loop.worker] + 1)
    return DONE
