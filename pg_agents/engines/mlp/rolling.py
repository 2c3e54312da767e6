"""The compiled rollout: policy and copies of an environment take many steps in one call.

The kernel knows neither networks nor equations. It calls two C functions through their addresses: the policy's
`kernels.act`, and the environment's `advance`, which `pg_agents.contract.Copies` describes. Everything else
is the bookkeeping of `pg_agents.collecting.Collector`, number for number: time limits and their bootstrap, the ends of
episodes and their statistics, VecNormalize.
"""

from __future__ import annotations

import math
from functools import cache

import numba
import numpy as np
from numba import njit, types

from pg_agents.engines.mlp.memory import callable_from_python
from pg_agents.engines.mlp.simd import (
    call_environment,
    call_policy,
    doubles,
    flags,
    floats,
    inner,
    integers,
    make_function_caller,
)

# As in kernels.py: Numba compiles this file anew when simd.py has changed.
SIMD = "22decbbaa0bb"

DONE, NOT_FINITE_OUTPUT, NOT_FINITE_OBSERVATION, NOT_FINITE_REWARD, NOT_FINITE_VALUE, EPISODE_ENDED = range(6)
EVENT = 4  # numbers of an event: copy, return, return of the statistics, whether it counts
_integer, _address, _number = np.int64, np.int64, np.float64

ROLLOUT = np.dtype(
    [
        ("n_envs", _integer),
        ("n_observation", _integer),
        ("action_bytes", _integer),  # of one environment's action
        ("stops_at_end", _integer),  # return after a step in which an episode has ended
        ("n_episodes", _integer),  # of each environment, after which it waits; 0 to collect steps
        ("bootstraps", _integer),
        ("gamma", _number),
        ("act", _address),  # the policy's function, and its tables
        ("policies", _address),
        ("towers", _address),
        ("layers", _address),
        ("step", _address),
        ("value_policies", _address),
        ("value_step", _address),  # a row of STEP for the values of last observations
        ("value_count", _address),  # its `n_envs`
        ("advance", _address),  # the environment's function, and its table
        ("copies", _address),
        ("held", _address),  # (N,) bool: environments that wait
        # The rollout: (T, N, ...), written.
        ("observations", _address),
        ("actions", _address),  # as the environment takes them
        ("rewards", _address),
        ("env_rewards", _address),
        ("episode_starts", _address),
        ("terminated", _address),
        ("truncated", _address),
        ("final_values", _address),
        # The state between steps: (N, ...).
        ("current", _address),  # float32 observations for the policy
        ("starts", _address),  # bool
        ("running", _address),  # float64 returns of the agent's statistics
        ("returns", _address),  # float64 returns of the environment's statistics
        ("lengths", _address),  # int64
        ("n_finished", _address),  # int64
        # Working memory: (N, ...).
        ("raw", _address),  # float32 observations of the environment
        ("last", _address),  # last observations of episodes
        ("cut_observations", _address),
        ("cut_values", _address),
        ("raw_rewards", _address),  # float64
        ("step_rewards", _address),  # float32, before the bootstrap
        ("ended", _address),  # bool
        ("cut", _address),  # bool
        ("events", _address),  # (T N, 4) float64
        ("event_lengths", _address),  # (T N,) int64
        ("progress", _address),  # int64: the next step, events, steps of single environments
        # VecNormalize
        ("normalize", _address),  # `normalize_function`, and this table; 0 without VecNormalize
        ("table", _address),
        ("normalizes_observations", _integer),
        ("normalizes_rewards", _integer),
        ("updates_statistics", _integer),
        ("clip_observation", _number),
        ("clip_reward", _number),
        ("epsilon", _number),
        ("discount", _number),
        ("observation_mean", _address),  # (n_observation,) float64, as the variance
        ("observation_variance", _address),
        ("counts", _address),  # (2,) float64: of observations, of returns
        ("reward_moments", _address),  # (2,) float64: mean and variance of returns
        ("discounted", _address),  # (N,) float64: discounted returns
    ],
    align=True,
)

_compiled = {**inner, "error_model": "numpy"}
_kept = {"nogil": True, "cache": True, "error_model": "numpy"}
_rollouts = types.CPointer(numba.from_dtype(ROLLOUT))

_call_normalize = make_function_caller(2)


@njit(**_compiled)
def _update_moments(mean, variance, count, index, batch_mean, batch_variance, n):
    """SB3's `RunningMeanStd.update_from_moments`."""
    delta = batch_mean - mean[index]
    total = count + n
    square = variance[index] * count + batch_variance * n + delta * delta * count * n / total
    mean[index] += delta * n / total
    variance[index] = square / total


@njit(**_compiled)
def _normalized(rollout, value, j):
    mean, variance = doubles(rollout.observation_mean)[j], doubles(rollout.observation_variance)[j]
    scaled = (value - mean) / math.sqrt(variance + rollout.epsilon)
    return np.float32(min(max(scaled, -rollout.clip_observation), rollout.clip_observation))


def _normalize(rollouts, n_envs):
    """Update VecNormalize's statistics, and write the observations and rewards that the agent sees."""
    rollout = numba.carray(rollouts, 1)[0]
    raw, current, last = floats(rollout.raw), floats(rollout.current), floats(rollout.last)
    size = rollout.n_observation
    counts = doubles(rollout.counts)
    if rollout.normalizes_observations:
        if rollout.updates_statistics:
            for j in range(size):
                batch_mean, square = 0.0, 0.0
                for i in range(n_envs):
                    batch_mean += raw[i * size + j]
                batch_mean /= n_envs
                for i in range(n_envs):
                    square += (raw[i * size + j] - batch_mean) ** 2
                _update_moments(
                    doubles(rollout.observation_mean), doubles(rollout.observation_variance), counts[0], j,
                    batch_mean, square / n_envs, n_envs,
                )  # fmt: skip
            counts[0] += n_envs
        ended, cut = flags(rollout.ended), flags(rollout.cut)
        for i in range(n_envs):
            for j in range(size):
                current[i * size + j] = _normalized(rollout, raw[i * size + j], j)
                if ended[i] or cut[i]:
                    last[i * size + j] = _normalized(rollout, last[i * size + j], j)
    else:
        for k in range(n_envs * size):
            current[k] = raw[k]
    rewards, discounted, moments = (
        floats(rollout.step_rewards),
        doubles(rollout.discounted),
        doubles(rollout.reward_moments),
    )
    if rollout.updates_statistics:
        batch_mean, square = 0.0, 0.0
        for i in range(n_envs):
            discounted[i] = discounted[i] * rollout.discount + rewards[i]
            batch_mean += discounted[i]
        batch_mean /= n_envs
        for i in range(n_envs):
            square += (discounted[i] - batch_mean) ** 2
        _update_moments(
            doubles(rollout.reward_moments), doubles(rollout.reward_moments + 8), counts[1], 0,
            batch_mean, square / n_envs, n_envs,
        )  # fmt: skip
        counts[1] += n_envs
    if rollout.normalizes_rewards:
        deviation = math.sqrt(moments[1] + rollout.epsilon)
        for i in range(n_envs):
            rewards[i] = np.float32(min(max(rewards[i] / deviation, -rollout.clip_reward), rollout.clip_reward))
    return 0


@cache
def normalize_function():
    """`_normalize` as a C function of a table's address; compiled when the first VecNormalize asks for it."""
    return numba.cfunc(numba.int64(_rollouts, numba.int64), **_kept)(_normalize)


@njit(**_compiled)
def _bootstrap(rollout, t):
    """R ← R + γ V(last state) of the episodes that a time limit cut. Returns whether V is finite."""
    n_envs, size = rollout.n_envs, rollout.n_observation
    ended, cut = flags(rollout.ended), flags(rollout.cut)
    last, chosen = floats(rollout.last), floats(rollout.cut_observations)
    count = 0
    for i in range(n_envs):
        if cut[i] and not ended[i]:
            for j in range(size):
                chosen[count * size + j] = last[i * size + j]
            count += 1
    if count == 0:
        return True
    integers(rollout.value_count)[0] = count
    finite = call_policy(rollout.act, rollout.value_policies, rollout.towers, rollout.layers, rollout.value_step, 0)
    values, final_values = floats(rollout.cut_values), floats(rollout.final_values + 4 * t * n_envs)
    rewards = floats(rollout.rewards + 4 * t * n_envs)
    count = 0
    for i in range(n_envs):
        if cut[i] and not ended[i]:
            final_values[i] = values[count]
            # Rounded twice, as torch does it: no fused multiplication and addition.
            bonus = np.float32(rollout.gamma) * values[count]
            rewards[i] = rewards[i] + bonus
            count += 1
    return finite != 0


@numba.cfunc(numba.int64(_rollouts, numba.int64, numba.int64), **_kept)
def roll(rollouts, t, after):
    """Steps `t` to `after` - 1 of every environment.

    Args:
        rollouts: Address of one row of `ROLLOUT`.
        t: The first step.
        after: The last step, and one beyond.

    Returns:
        DONE; EPISODE_ENDED, where that was asked for; or the number that is not finite. `progress` has the step after
        the last one that was completed, the number of events, and the steps of single environments, those of an
        uncompleted step included.
    """
    rollout = numba.carray(rollouts, 1)[0]
    n_envs, size = rollout.n_envs, rollout.n_observation
    progress, events, event_lengths = (
        integers(rollout.progress),
        doubles(rollout.events),
        integers(rollout.event_lengths),
    )
    current, raw, step_rewards = floats(rollout.current), floats(rollout.raw), floats(rollout.step_rewards)
    raw_rewards, ended, cut = doubles(rollout.raw_rewards), flags(rollout.ended), flags(rollout.cut)
    running, returns, lengths = doubles(rollout.running), doubles(rollout.returns), integers(rollout.lengths)
    starts, held, n_finished = flags(rollout.starts), flags(rollout.held), integers(rollout.n_finished)
    n_events, code, n_transitions = progress[1], DONE, 0
    while t < after and code == DONE:
        observations = floats(rollout.observations + 4 * t * n_envs * size)
        for k in range(n_envs * size):
            observations[k] = current[k]
        if not call_policy(rollout.act, rollout.policies, rollout.towers, rollout.layers, rollout.step, t):
            code = NOT_FINITE_OUTPUT
            break
        n_ended = call_environment(
            rollout.advance, rollout.copies, rollout.actions + t * n_envs * rollout.action_bytes,
            rollout.raw_rewards, rollout.ended, rollout.cut, rollout.raw, rollout.last, 1, 0, n_envs,
        )  # fmt: skip
        for i in range(n_envs):
            if not held[i]:
                n_transitions += 1
        # Before anything remembers them, VecNormalize's statistics above all.
        check = np.float32(0)
        for k in range(n_envs * size):
            check += raw[k] * np.float32(0)
        if check != 0:
            code = NOT_FINITE_OBSERVATION
            break
        for i in range(n_envs):
            step_rewards[i] = np.float32(raw_rewards[i])
            check += step_rewards[i] * np.float32(0)
        if check != 0:
            code = NOT_FINITE_REWARD
            break
        for i in range(n_envs):
            returns[i] += raw_rewards[i]
            running[i] += step_rewards[i]
            if not held[i]:
                lengths[i] += 1
        if rollout.normalize != 0:
            _call_normalize(rollout.normalize, rollout.table, n_envs)
        else:
            for k in range(n_envs * size):
                current[k] = raw[k]
        rewards, env_rewards = floats(rollout.rewards + 4 * t * n_envs), floats(rollout.env_rewards + 4 * t * n_envs)
        episode_starts = floats(rollout.episode_starts + 4 * t * n_envs)
        for i in range(n_envs):
            rewards[i] = step_rewards[i]
            env_rewards[i] = step_rewards[i]
            episode_starts[i] = np.float32(starts[i])
            starts[i] = held[i]
        if n_ended > 0:
            terminated, truncated = flags(rollout.terminated + t * n_envs), flags(rollout.truncated + t * n_envs)
            for i in range(n_envs):
                if ended[i] or cut[i]:
                    starts[i] = 1
                    terminated[i] = ended[i]
                    truncated[i] = cut[i] and not ended[i]
                    events[EVENT * n_events] = i
                    events[EVENT * n_events + 1] = returns[i]
                    events[EVENT * n_events + 2] = running[i]
                    events[EVENT * n_events + 3] = t
                    event_lengths[n_events] = lengths[i]
                    n_events += 1
                    returns[i], running[i], lengths[i] = 0.0, 0.0, 0
                    if rollout.discounted != 0:
                        doubles(rollout.discounted)[i] = 0.0
            if rollout.bootstraps and not _bootstrap(rollout, t):
                code = NOT_FINITE_VALUE
            if rollout.n_episodes > 0:
                waiting = 0
                for i in range(n_envs):
                    if ended[i] or cut[i]:
                        n_finished[i] += 1
                        held[i] = n_finished[i] >= rollout.n_episodes
                    waiting += held[i]
                if waiting == n_envs:
                    after = t + 1
            if rollout.stops_at_end and code == DONE:
                code = EPISODE_ENDED
        t += 1
    progress[0], progress[1], progress[2] = t, n_events, n_transitions
    return code


call_roll = callable_from_python(roll, 3)
