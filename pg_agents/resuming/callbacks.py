"""Callbacks of a run: which there are, and what they keep.

Numbers, texts, arrays and containers of them are kept, and the states of environments in which callbacks evaluate.
Anything else that a callback has, such as the functions and paths given to it, it has to be given again.
"""

from __future__ import annotations

import inspect
from collections import deque
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv

from pg_agents.resuming.run import callbacks_in
from pg_agents.resuming.state import State, capture, put_back

_OF_OTHERS = frozenset({"model", "locals", "globals", "parent", "logger"})


def kept_callbacks(callback: BaseCallback) -> list[BaseCallback]:
    """The callbacks of a run whose state is kept: those inside, without lists and progress bars."""
    return [
        one
        for one in callbacks_in(callback)
        if not isinstance(one, (CallbackList, ProgressBarCallback))
        and not (type(one) is ConvertCallback and one.callback is None)
    ]


def names_of(callbacks: list[BaseCallback]) -> list[str]:
    """The classes of callbacks, by which those given again are compared."""
    return [f"{type(one).__module__}.{type(one).__qualname__}" for one in callbacks]


def settings_of(callback: BaseCallback) -> dict[str, Any]:
    """The numbers and texts that a callback was made with: they are given again, and may be others."""
    names = inspect.signature(type(callback).__init__).parameters
    return {name: value for name, value in vars(callback).items() if name in names and isinstance(value, _SETTINGS)}


_SETTINGS = (type(None), bool, int, float, str)


def state_of(callback: BaseCallback, settings: dict[str, Any]) -> State:
    """What a callback keeps.

    Args:
        callback: The callback.
        settings: Of `settings_of` at the beginning; those that have changed since are kept, too.
    """
    if hasattr(callback, "checkpoint_state"):
        return {"own": capture(callback, type(callback).__name__)}
    return {
        "attributes": {
            name: capture(value)
            for name, value in vars(callback).items()
            if name not in _OF_OTHERS and _is_data(value) and not (name in settings and settings[name] == value)
        }
    }


def put_state_back(callback: BaseCallback, state: State) -> None:
    """Write what a callback kept into one of the same class."""
    if "own" in state:
        put_back(callback, state["own"])
        return
    for name, item in state["attributes"].items():
        before = vars(callback).get(name)
        after = put_back(before, item, f"{type(callback).__name__}.{name}")
        if after is not before:
            setattr(callback, name, after)


def _is_data(value: Any) -> bool:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic, th.Tensor)):
        return True
    if isinstance(value, (np.random.Generator, np.random.RandomState)):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufcUS"
    if isinstance(value, dict):
        return all(isinstance(key, (str, int, float)) and _is_data(item) for key, item in value.items())
    return isinstance(value, (list, tuple, set, frozenset, deque)) and all(map(_is_data, value))


# Their environments


def envs_of(callbacks: list[BaseCallback], training_env: VecEnv | None) -> list[VecEnv]:
    """The environments that callbacks have of their own."""
    found: dict[int, VecEnv] = {}
    for callback in callbacks:
        for value in vars(callback).values():
            if isinstance(value, VecEnv) and value is not training_env:
                found[id(value)] = value
    return list(found.values())
