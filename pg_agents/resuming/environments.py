"""How the state of environments is kept: exactly, where that can be done, and else by cutting episodes.

A trial decides. It stores the state, takes steps, puts the state back and takes the same steps again. Where the results
are equal, and so are the states, every checkpoint stores the environments. Where they are not, or where there is
nothing to be read (a simulator written in C, another process), every checkpoint resets all environments with seeds from
a stream of its own, whether or not anything is interrupted, so that the runs remain equal. What wrappers keep is stored
there too.
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
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.layers import layers as wrappers_and_env
from pg_agents.files import values
from pg_agents.resuming.outputs import is_monitor_file
from pg_agents.resuming.randomness import global_generators, restore_global_generators
from pg_agents.resuming.state import (
    Makers,
    NotFittingError,
    NotStorableError,
    Snapshot,
    State,
    capture,
    is_same,
    missing_part,
    name_of_class,
    put_back,
    snapshot,
)

_STEPS, _STEPS_AFTER_RESET = 20, 5  # of a trial
_STEPS_KEPT = 3, 2  # of those that a checkpoint stores


class AnotherEnvironmentError(ValueError):
    """An environment that does not go on as the one of the checkpoint did."""


@dataclass
class Keeper:
    """Keeps the state of a `VecEnv`.

    Attributes:
        reason: Why the state cannot be stored, so that episodes are cut; None where it can.
        trial: Of an environment that can be stored: a state, and the results of the steps after it.
        parts: The parts of the environment after a reset, as in a `Snapshot`.
        made: The classes of which makers make objects.
    """

    reason: str | None
    trial: dict[str, Any] | None = None
    parts: dict[str, str] | None = None
    made: list[str] | None = None

    def state(self, env: VecEnv) -> State:
        """The state of the environment, or as much of it as can be read.

        Raises:
            NotStorableError: It has parts that another environment of its kind would not have.
        """
        if self.reason is not None:
            return _layers(env)
        found = snapshot(env)
        missing = missing_part(found.parts, self.parts or {}, self.made or ())
        if missing is not None:
            raise NotStorableError(missing)
        return found.state

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
                if all(_may_be_reset(env)):
                    env.reset()  # makes what an episode consists of
                put_back(env, self.trial["state"], makers=makers)
            except NotFittingError as error:
                raise AnotherEnvironmentError(f"The environment {name_of(env)} is another one: {error}") from error
            restore_global_generators(self.trial["generators"])
            results = _played(env, self.trial["begins"], *_STEPS_KEPT)
        if not equal(results, self.trial["results"]):
            raise AnotherEnvironmentError(
                f"The environment {name_of(env)} does not go on as the one of the checkpoint did: the same steps from "
                "the same state have other results. Its version, its arguments, or those of a wrapper must be others."
            )


def keeper_of(env: VecEnv, makers: Makers, *, begins: bool = False) -> Keeper:
    """Find out by a trial how the state of an environment can be kept.

    The environment is as before afterwards, but for a state that cannot be read.

    Args:
        env: The environment.
        makers: Of `makers_of`.
        begins: It is reset first, because nobody needs to have done so yet. Where it has no generator yet, it is as
            after a reset afterwards.
    """
    found = _tried(env, makers, begins)
    if found.reason is not None and begins:
        try:
            env.reset()  # environments without seeds get their generators then
        except Exception as error:
            return Keeper(f"a reset raised {type(error).__name__}: {error}")
        found = _tried(env, makers, begins)
    return found


def _tried(env: VecEnv, makers: Makers, begins: bool) -> Keeper:
    generators = global_generators()
    snapshots: list[Snapshot] = []
    try:
        with untouched_files(env), TemporaryDirectory() as folder:
            try:
                return _trial(env, makers, begins, snapshots, generators, Path(folder))
            finally:
                for one in reversed(snapshots):  # objects that a state was written into, too
                    put_back(env, one.state, objects=one.objects)
    except NotStorableError as reason:
        return Keeper(str(reason))
    except NotFittingError as reason:
        return Keeper(f"its state cannot be put back: {reason}")
    except Exception as error:  # whatever the environment raises in steps that nobody asked for
        return Keeper(f"a trial of it raised {type(error).__name__}: {error}")
    finally:
        restore_global_generators(generators)


def _trial(
    env: VecEnv, makers: Makers, begins: bool, snapshots: list[Snapshot], generators: Any, folder: Path
) -> Keeper:
    """Take the same steps twice, with a few others in between; the states before each are appended."""
    snapshots.append(snapshot(env))
    values.write(snapshots[0].state, folder, "state")
    state = values.read(folder, "state")
    parts: dict[str, str] = {}
    results = []
    for steps in ((_STEPS, _STEPS_AFTER_RESET), (_STEPS // 4, 0), (_STEPS, _STEPS_AFTER_RESET), _STEPS_KEPT):
        restore_global_generators(generators)
        results.append(_played(env, begins, *steps, parts=parts))
        snapshots.append(snapshot(env))
        put_back(env, state, makers=makers)
        if not is_same(capture(env), snapshots[0].state):
            return Keeper("its state is another one after it was put back")
    if not equal(results[0], results[2]):
        return Keeper("the same steps from the same stored state had two different results")
    missing = missing_part(snapshots[0].parts, parts, list(makers))
    if missing is not None:
        return Keeper(missing)
    trial = {"state": state, "begins": begins, "results": results[3], "generators": generators}
    values.write(trial, folder, "trial")
    return Keeper(None, trial, parts, list(makers))


@contextmanager
def _silence() -> Iterator[None]:
    """No warnings: what a trial does to an environment is not what the training does to it."""
    with _SILENT, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_SILENT = threading.Lock()  # filters are those of all threads, and must be put back in order


def _played(env: VecEnv, begins: bool, n: int, n_after_reset: int, parts: dict[str, str] | None = None) -> list[Any]:
    """The results of a few steps, and of steps after a reset, whose parts are noted."""
    with _silence():
        return _results_of_steps(env, begins, n, n_after_reset, parts)


def _results_of_steps(env: VecEnv, begins: bool, n: int, n_after_reset: int, parts: dict[str, str] | None) -> list[Any]:
    space = deepcopy(env.action_space)
    space.seed(0)
    results: list[Any] = [deepcopy(env.reset())] if begins else []

    def step() -> None:
        # Wrappers change what they have returned.
        observations, rewards, dones, _ = env.step(np.array([space.sample() for _ in range(env.num_envs)]))
        results.append(deepcopy((observations, np.array(rewards), np.array(dones))))

    def note() -> None:
        if parts is not None and not parts:
            parts.update(snapshot(env).parts)

    if begins or not all(_may_be_reset(env)):
        note()
    for _ in range(n):
        step()
    if n_after_reset and all(_may_be_reset(env)):
        results.append(deepcopy(env.reset()))
        note()
        for _ in range(n_after_reset):
            step()
    return results


def _may_be_reset(env: VecEnv) -> Iterator[bool]:
    """A `Monitor` can refuse to be reset in the middle of an episode."""
    for layers in singles_of(env):
        yield all(getattr(layer, "allow_early_resets", True) for layer in layers)


def equal(one: Any, other: Any) -> bool:
    """Whether results of steps are equal, NaN included."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    first, second = np.asarray(one), np.asarray(other)
    return np.array_equal(first, second, equal_nan=first.dtype.kind in "fc" and second.dtype.kind in "fc")


# Cutting episodes


def cut(env: VecEnv, generator: np.random.Generator) -> Any:
    """Start an episode in every environment, with seeds from a stream.

    Returns:
        The first observations.
    """
    env.seed(int(generator.integers(2**31 - env.num_envs)))
    for layers in singles_of(env):
        for layer in layers:
            if isinstance(layer, Monitor):
                layer.needs_reset = True  # a cut is no early reset of the user's, which a Monitor can refuse
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
                if before is None and isinstance(item, dict) and item["kind"] == "object":
                    continue  # a reset makes it
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
    found = wrappers_and_env(env)
    yield from found
    if isinstance(found[-1], VectorEnvAdapter):
        yield from single_layers(found[-1].env)


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
        if is_monitor_file(path) and path.stat().st_size > size:
            os.truncate(path, size)
