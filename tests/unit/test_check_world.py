"""`check_world` finds each fault; the worlds here have one each."""

import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from pg_envs.registration import register
from pg_envs.worlds import World, WorldEnv, check_world, checking, compiled, standard_normal, uniform
from pg_envs.worlds.compiling import has_compiler

register()
COUNTED = [0]
HIGH = 20.0

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="without Numba nothing is compiled")


def start(state, random, constants):
    """A walk from a random place, for nine steps."""
    state[0] = uniform(random, -constants[0], constants[0])
    state[1] = 0.0


def step(state, action, random, constants):
    state[0] = state[0] + float(action[0] - 1) + 0.1 * standard_normal(random)
    state[1] += 1.0
    return -abs(state[0]) * constants[0], state[1] >= 9.0


def observe(state, observation, constants):
    observation[0] = state[0]
    observation[1] = state[1]


WALK = World(start, step, observe, 2, spaces.Box(-HIGH, HIGH, (2,)), spaces.Discrete(3), constants=(0.5,))


def start_beyond(state, random):
    state[0], state[1], state[2] = 0.0, 0.0, 0.0


def start_leaves(state, random):
    state[0] = uniform(random, -1.0, 1.0)


def start_reads(state, random):
    state[0], state[1] = state[0] + 1.0, 0.0


def start_leaves_for_later(state, random):
    state[0] = 1.0


def step_late(state, action, random):
    state[0] += 1.0
    return state[1] if state[0] == 4.0 else 0.0, state[0] == 9.0


def observe_first(state, observation):
    observation[0], observation[1] = state[0], 0.0


def start_indexes(state, random):
    state[0], state[1] = state[int(state[1])], 0.0


def start_raises(state, random):
    state[0], state[1] = math.sqrt(-1.0), 0.0


def start_slices(state, random):
    state[0:2] = 0.0


def step_beyond(state, action, random):
    state[1] += 1.0
    if state[1] == 3.0:
        state[2] = 1.0
    return 0.0, state[1] >= 9.0


def step_before(state, action, random):
    return state[-1], False


def step_writes_action(state, action, random):
    action[0] = 0
    return 0.0, False


def step_writes_constants(state, action, random, constants):
    constants[0] += 1.0
    return 0.0, False


def step_infinite(state, action, random):
    state[1] += 1.0
    return math.inf if state[1] == 4.0 else 0.0, False


def step_without_end(state, action, random):
    return 1.0


def step_with_number(state, action, random):
    return 1.0, 0.0


def step_with_word(state, action, random):
    return "one", False


def step_counts(state, action, random):
    COUNTED[0] += 1
    return float(COUNTED[0]), False


def step_with_numpys_numbers(state, action, random):
    return np.random.random(), False  # noqa: NPY002


def step_far(state, action, random):
    state[0] += 7.0
    return 0.0, False


def observe_writes(state, observation):
    observation[0], observation[1] = state[0], 0.0
    state[1] = 0.0


def observe_leaves(state, observation):
    observation[0] = state[0]


def observe_reads(state, observation):
    observation[0], observation[1] = state[0], observation[1] * 0.5


def observe_nan(state, observation):
    observation[0], observation[1] = state[0], math.nan if state[1] == 2.0 else 0.0


def observe_halves(state, observation):
    observation[0] = 0.5


def observe_count(state, observation):
    observation[0] = state[1]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"start": start_beyond}, r"`start` writes state\[2\], but the last index is 1 \(copy 0, step 0\)"),
        (
            {"start": start_leaves},
            r"`start` leaves state\[1\] to what the last episode wrote, and `observe` reads it \(copy 0, step 0\)",
        ),
        ({"start": start_reads}, r"`start` leaves state\[0\] to what the last episode wrote, and `observe` reads it"),
        (
            {"start": start_leaves_for_later, "step": step_late, "observe": observe_first},
            r"`start` leaves state\[1\] to what the last episode wrote, and `step` reads it \(copy 0, step 2\)",
        ),
        ({"start": start_indexes}, r"`start` leaves the state to what the last episode wrote, and `start` reads it"),
        ({"start": start_raises}, r"`start` raises ValueError: .* \(copy 0, step 0\)"),
        ({"start": start_slices}, r"`start` indexes `state` by slice\(0, 2, None\), but only integers"),
        ({"step": step_beyond}, r"`step` writes state\[2\], but the last index is 1 \(copy 0, step 2\)"),
        ({"step": step_before}, r"`step` reads state\[-1\], but the last index is 1 \(copy 0, step 0\)"),
        ({"step": step_writes_action}, r"`step` writes action\[0\], which it must not change"),
        ({"step": step_writes_constants}, r"`step` writes constants\[0\], which it must not change"),
        ({"step": step_infinite}, r"`step` returns the reward inf \(copy 0, step 3\)"),
        ({"step": step_without_end}, r"`step` must return the reward and whether .*, but returns 1.0"),
        ({"step": step_with_number}, r"`step` must return True or False for the end, but returns 0.0"),
        ({"step": step_with_word}, r"`step` must return a number as the reward, but returns 'one'"),
        ({"step": step_counts}, r"`step` gives something else when it is called with the same numbers again \(copy 0"),
        ({"step": step_far}, r"`observe` writes .*, which is not in Box.* \(copy 0, step 2\)"),
        ({"observe": observe_writes}, r"`observe` writes state\[1\], which it must not change \(copy 0, step 0\)"),
        ({"observe": observe_leaves}, r"`observe` does not write observation\[1\]"),
        ({"observe": observe_reads}, r"`observe` does not write observation\[1\], or reads what stood there before"),
        ({"observe": observe_nan}, r"`observe` writes .*nan.*, but observations must be finite \(copy 0, step 1\)"),
        (
            {"observe": observe_halves, "observation_space": spaces.Discrete(3)},
            r"`observe` writes 0.5, which is not in Discrete\(3\)",
        ),
        (
            {"observe": observe_count, "observation_space": spaces.Discrete(3)},
            r"`observe` writes 3.0, which is not in Discrete\(3\) \(copy 0, step 2\)",
        ),
        ({"info": lambda states: {"place": states[:1, 0]}}, "`info` must give one row per copy, but 'place' has 1"),
        (
            {"controller": lambda states: np.zeros((len(states), 1))},
            r"`controller` must give actions of shape \(3,\), but gives \(3, 1\)",
        ),
    ],
)
def test_faults_are_found_and_named(change, problem):
    with pytest.raises(AssertionError, match=problem):
        check_world(replace(WALK, **change))


def step_with_scratch(state, action, random):
    state[2] = state[1] + 1.0
    state[1] = state[2]
    return state[2], state[1] >= 9.0


def test_a_state_may_have_room_for_intermediate_numbers():
    check_world(replace(WALK, step=step_with_scratch, n_state=3))


def test_a_world_without_fault_passes_and_stays_as_it_is():
    space = WALK.action_space
    before = space.np_random.bit_generator.state
    check_world(WALK)
    check_world(replace(WALK, observe=observe_count, observation_space=spaces.Discrete(10)))
    assert space.np_random.bit_generator.state == before
    assert WALK.constants.tolist() == [0.5]


def test_a_generator_that_is_not_the_copys_is_found():
    with pytest.raises(AssertionError, match="`step` gives something else when it is called with the same numbers"):
        check_world(replace(WALK, step=step_with_numpys_numbers))


def step_in_float32(state, action, random):
    """Compiled, `float` leaves float32 what it is, so the square is rounded to it."""
    state[1] += 1.0
    return float(action[0]) * float(action[0]), state[1] >= 9.0


def step_beyond_in_float32(state, action, random):
    state[1] += 1.0
    exact = np.float64(action[0]) * np.float64(action[0])
    state[0 if float(action[0]) * float(action[0]) == exact else 2] = 0.0
    return 0.0, state[1] >= 9.0


TORQUE = replace(WALK, action_space=spaces.Box(-1.0, 1.0, (1,)))


@needs_compiler
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            step_in_float32,
            r"`step` gives another reward when it is compiled: .* where Python gives .* \(copy 0, step 0\)",
        ),
        (step_beyond_in_float32, r"`step` writes beyond its `state` when it is compiled \(copy 0, step 0\)"),
    ],
)
def test_faults_of_the_compiled_functions_are_found(change, problem):
    with pytest.raises(AssertionError, match=problem):
        check_world(replace(TORQUE, step=change))


@needs_compiler
def test_what_cannot_be_compiled_is_named():
    with pytest.raises(TypeError, match=r"Numba cannot compile `step` of a World, .*\.step_with_globals"):
        check_world(replace(WALK, step=step_with_globals))


def step_with_globals(state, action, random):
    return float(len(globals())), False


class Restless(WorldEnv):
    """A face that draws a number too many."""

    def reset(self, **arguments):
        answer = super().reset(**arguments)
        uniform(self.copies.randoms[0], 0.0, 1.0)
        return answer


def test_faces_that_differ_are_found(monkeypatch):
    monkeypatch.setattr(checking, "WorldEnv", Restless)
    with pytest.raises(
        AssertionError, match=r"to a copy among others \(autoreset mode '.*'\) than .* \(copy 0, step 0\)"
    ):
        check_world(WALK)


@compiled
def everything(x):
    """Functions whose last bit depends on who computes them."""
    return math.exp(x) + math.log(2.0 + x) + math.tanh(x) + math.atan2(x, 0.3) + (1.5 + x) ** 1.7 + x**3 + x % 0.3


def step_everything(state, action, random):
    state[0] = math.sin(everything(np.float64(action[0])))
    state[1] += 1.0
    return math.sqrt(abs(state[0])), state[1] >= 9.0


def test_rounding_is_no_fault():
    check_world(replace(TORQUE, step=step_everything))


OURS = {env_id for env_id in gym.registry if env_id.startswith("pg/")}


@pytest.mark.parametrize("env_id", sorted(OURS - {"pg/Reviews-v0"}))  # its reward reads words
def test_our_worlds_pass(env_id):
    check_world(gym.make(env_id).unwrapped.copies.world, n_copies=2, n_steps=60)


@pytest.mark.parametrize(
    ("argument", "value"), [("n_copies", 0), ("n_steps", 3), ("seed", -1), ("seed", 1.5), ("n_steps", None)]
)
def test_bad_arguments_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        check_world(WALK, **{argument: value})
