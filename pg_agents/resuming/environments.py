"""How the state of environments is kept: exactly, where that can be done, and else by cutting episodes.

A trial decides. It stores the state, takes steps, puts the state back and takes the same steps again. Where the results
are equal, every checkpoint stores the environments. Where they are not, or where there is nothing to be read (a
simulator written in C, another process), every checkpoint resets all environments with seeds from a stream of its own,
whether or not anything is interrupted, so that the runs remain equal. What wrappers keep is stored there too.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.resuming.randomness import global_generators, restore_global_generators
from pg_agents.resuming.state import (
    Makers,
    NotFittingError,
    NotStorableError,
    State,
    capture,
    name_of_class,
    put_back,
)

_STEPS, _STEPS_AFTER_RESET = 3, 2  # of a trial


class AnotherEnvironmentError(ValueError):
    """An environment that does not go on as the one of the checkpoint did."""


@dataclass
class Keeper:
    """Keeps the state of a `VecEnv`.

    Attributes:
        reason: Why the state cannot be stored, so that episodes are cut; None where it can.
        trial: Of an environment that can be stored: a state, and the results of the steps after it.
    """

    reason: str | None
    trial: dict[str, Any] | None = None

    def state(self, env: VecEnv) -> State:
        """The state of the environment, or as much of it as can be read."""
        return capture(env) if self.reason is None else _layers(env)

    def put_back(self, env: VecEnv, state: State, makers: Makers) -> None:
        """Write a state into an environment.

        Args:
            env: The environment.
            state: Of `state`.
            makers: Of `makers_of`.

        Raises:
            NotFittingError: It is another environment.
        """
        if self.reason is None:
            put_back(env, state, makers=makers)
        else:
            _put_layers_back(env, state, makers)

    def check(self, env: VecEnv, makers: Makers) -> None:
        """Repeat the trial on an environment, whose state is another one afterwards.

        Args:
            env: The environment.
            makers: Of `makers_of`.

        Raises:
            AnotherEnvironmentError: The environment has another structure, or its steps have other results.
        """
        if self.trial is None:
            return
        with untouched_files(env):
            try:
                put_back(env, self.trial["state"], makers=makers)
            except NotFittingError as error:
                raise AnotherEnvironmentError(f"The environment {name_of(env)} is another one: {error}") from error
            restore_global_generators(self.trial["generators"])
            results = _played(env, self.trial["begins"])
        if not _equal(results, self.trial["results"]):
            raise AnotherEnvironmentError(
                f"The environment {name_of(env)} does not go on as the one of the checkpoint did: the same steps from "
                "the same state have other results. Its version, its arguments, or those of a wrapper must be others."
            )


def keeper_of(env: VecEnv, makers: Makers, *, begins: bool = False) -> Keeper:
    """Find out by a trial how the state of an environment can be kept. The environment is as before afterwards.

    Args:
        env: The environment.
        makers: Of `makers_of`.
        begins: It is reset first, because nobody needs to have done so yet.
    """
    generators = global_generators()
    try:
        state = capture(env)
    except NotStorableError as reason:
        return Keeper(str(reason))
    results = []
    with untouched_files(env):
        try:
            for _ in range(2):
                restore_global_generators(generators)
                results.append(_played(env, begins))
                capture(env)  # more may be there than before
                put_back(env, state, makers=makers)
        except NotFittingError as reason:
            return Keeper(f"its state cannot be put back: {reason}")
        except NotStorableError as reason:
            put_back(env, state, makers=makers)
            return Keeper(str(reason))
        finally:
            restore_global_generators(generators)
    if not _equal(*results):
        return Keeper("the same step from the same stored state had two different results")
    return Keeper(None, {"state": state, "begins": begins, "results": results[0], "generators": generators})


@contextmanager
def _silence() -> Iterator[None]:
    """No warnings: what a trial does to an environment is not what the training does to it."""
    with _SILENT, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_SILENT = threading.Lock()  # filters are those of all threads, and must be put back in order


def _played(env: VecEnv, begins: bool) -> list[Any]:
    """The results of a few steps, and of steps after a reset."""
    with _silence():
        return _results_of_steps(env, begins)


def _results_of_steps(env: VecEnv, begins: bool) -> list[Any]:
    space = deepcopy(env.action_space)
    space.seed(0)
    results: list[Any] = [deepcopy(env.reset())] if begins else []

    def step() -> None:
        # Wrappers change what they have returned.
        observations, rewards, dones, _ = env.step(np.array([space.sample() for _ in range(env.num_envs)]))
        results.append(deepcopy((observations, np.array(rewards), np.array(dones))))

    for _ in range(_STEPS):
        step()
    if all(_may_be_reset(env)):
        results.append(deepcopy(env.reset()))
        for _ in range(_STEPS_AFTER_RESET):
            step()
    return results


def _may_be_reset(env: VecEnv) -> Iterator[bool]:
    """A `Monitor` can refuse to be reset in the middle of an episode."""
    for layers in singles_of(env):
        yield all(getattr(layer, "allow_early_resets", True) for layer in layers)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    first, second = np.asarray(one), np.asarray(other)
    return np.array_equal(first, second, equal_nan=first.dtype.kind in "fc" and second.dtype.kind in "fc")


# Cutting episodes


def cut(env: VecEnv, generator: np.random.Generator) -> Any:
    """Start an episode in every environment, with seeds from a stream.

    Returns:
        The first observations.
    """
    env.seed(int(generator.integers(2**31 - env.num_envs)))
    return env.reset()


def _layers(env: VecEnv) -> State:
    """The attributes of an environment's layers, those that can be read."""
    return [[_attributes(layer) for layer in layers] for layers in _stacks(env)]


def _put_layers_back(env: VecEnv, state: State, makers: Makers) -> None:
    stacks = list(_stacks(env))
    if [len(layers) for layers in stacks] != [len(layers) for layers in state]:
        raise NotFittingError(f"{name_of(env)} has other wrappers than the environment of the checkpoint.")
    for layers, states in zip(stacks, state, strict=True):
        for layer, attributes in zip(layers, states, strict=True):
            for name, item in attributes.items():
                before = vars(layer).get(name)
                after = put_back(before, item, f"{type(layer).__name__}.{name}", makers)
                if after is not before:
                    vars(layer)[name] = after


def _attributes(layer: Any) -> dict[str, State]:
    found = {}
    for name, value in vars(layer).items():
        if name in _OTHER_LAYERS:
            continue
        try:
            found[name] = capture(value, f"{type(layer).__name__}.{name}")
        except NotStorableError:
            continue
    return found


_OTHER_LAYERS = {"venv", "env", "envs", "_singles", "_workers", "class_attributes", "buf_infos", "reset_infos"}


def _stacks(env: VecEnv) -> Iterator[list[Any]]:
    """The layers of a `VecEnv`, and of each environment in it, from the outermost."""
    yield list(vec_layers(env))
    yield from singles_of(env)


def vec_layers(env: VecEnv) -> Iterator[Any]:
    """A `VecEnv` and what it wraps, vector environments of Gymnasium included."""
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv
    yield env
    if isinstance(env, VectorEnvAdapter):
        yield from single_layers(env.env)


def singles_of(env: VecEnv) -> Iterator[list[Any]]:
    """The layers of the single environments in this process, each from the outermost."""
    innermost = list(vec_layers(env))[-1]
    singles = getattr(innermost, "envs", None)
    for single in singles if isinstance(singles, (list, tuple)) else ():
        yield list(single_layers(single))


def single_layers(env: Any) -> Iterator[Any]:
    """An environment, single or vector, and what it wraps."""
    while isinstance(env, (gym.Wrapper, gym.vector.VectorWrapper)):
        yield env
        env = env.env
    yield env


def makers_of(env: VecEnv, agent: Any) -> Makers:
    """Functions for objects that an environment gets in the course of a training, by the names of their classes.

    Args:
        env: The environment.
        agent: The agent that trains in it, or is evaluated there.
    """
    found: dict[type, Callable[[], Any]] = {}
    for layers in _stacks(env):
        for layer in layers:
            if hasattr(type(layer), "checkpoint_makers"):
                found |= layer.checkpoint_makers(agent)
    return {name_of_class(cls): make for cls, make in found.items()}


def name_of(env: VecEnv) -> str:
    """What an environment is called in messages."""
    base = list(vec_layers(env))[-1]
    singles = list(singles_of(env))
    innermost = singles[0][-1] if singles else base
    spec = getattr(innermost, "spec", None)
    name = spec.id if isinstance(spec, gym.envs.registration.EnvSpec) else type(innermost).__name__
    return f"{name} ({type(env).__name__})"


# Files of monitors


def writers_of(env: VecEnv) -> Iterator[Any]:
    """The files that a `Monitor` or `VecMonitor` of an environment writes."""
    for layers in _stacks(env):
        for layer in layers:
            writer = vars(layer).get("results_writer")
            if writer is not None:
                yield writer.file_handler


def files_of(env: VecEnv) -> list[tuple[str, int]]:
    """Paths and sizes of these files."""
    return [(os.path.realpath(file.name), _size(file)) for file in writers_of(env)]


def _size(file: Any) -> int:
    file.flush()
    return os.fstat(file.fileno()).st_size


@contextmanager
def untouched_files(env: VecEnv) -> Iterator[None]:
    """Have the files of monitors end where they ended before."""
    before = [(file, _size(file)) for file in writers_of(env)]
    try:
        yield
    finally:
        for file, size in before:
            shorten(file, size)


def shorten(file: Any, size: int) -> None:
    """Cut an open file, which goes on from there."""
    if _size(file) > size:
        file.seek(size)
        file.truncate(size)


def shorten_files(files: list[tuple[str, int]]) -> None:
    """Cut closed files to the sizes that they had."""
    for name, size in files:
        path = Path(name)
        if name.endswith(Monitor.EXT) and path.is_file() and path.stat().st_size > size:
            os.truncate(path, size)
