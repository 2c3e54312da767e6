"""Callbacks of a run: which there are, and what they keep.

Numbers, texts, arrays and containers of them are kept, and the states of environments in which callbacks evaluate.
Anything else that a callback has, such as the functions and paths given to it, it has to be given again.
"""

from __future__ import annotations

import inspect
import types
from collections import deque
from functools import partial
from pathlib import PurePath
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv

from pg_agents.resuming.run import callbacks_in
from pg_agents.resuming.state import NotFittingError, NotStorableError, State, capture, put_back

_OF_OTHERS = frozenset({"model", "locals", "globals", "parent", "logger"})


def kept_callbacks(callback: BaseCallback) -> list[BaseCallback]:
    """The callbacks of a run whose state is kept: those inside, without lists, progress bars and the like.

    A callback that only shows something says `is_in_checkpoints = False`: a run may go on with or without it.
    """
    return [
        one
        for one in callbacks_in(callback)
        if not isinstance(one, (CallbackList, ProgressBarCallback))
        and getattr(one, "is_in_checkpoints", True)
        and not (type(one) is ConvertCallback and one.callback is None)
    ]


def names_of(callbacks: list[BaseCallback]) -> list[str]:
    """The classes of callbacks, by which those given again are compared."""
    return [f"{type(one).__module__}.{type(one).__qualname__}" for one in callbacks]


def settings_of(callback: BaseCallback) -> dict[str, Any]:
    """The numbers and texts that a callback was made with: they are given again, and may be others."""
    names = _arguments(callback)
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


def dropped_by(callback: BaseCallback) -> list[str]:
    """The attributes of a callback that a checkpoint leaves out, but for parts of the program and for arguments."""
    if hasattr(callback, "checkpoint_state"):
        return []
    others = _OF_OTHERS | _arguments(callback)  # arguments are given again
    return [
        name
        for name, value in vars(callback).items()
        if name not in others and not _is_data(value) and not _is_of_the_program(value)
    ]


def _is_of_the_program(value: Any) -> bool:
    """Functions, environments, loggers, paths and the like, which are given again."""
    if isinstance(value, (BaseCallback, VecEnv, gym.Env, PurePath, *_FUNCTIONS)):
        return True
    if isinstance(value, (list, tuple)):
        return all(_is_data(item) or _is_of_the_program(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) for key in value) and _is_of_the_program([*value.values()])
    try:
        kept = capture(value)
    except NotStorableError:
        return False
    return isinstance(kept, dict) and kept["kind"] == "program"


_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, partial, type)


def put_state_back(callback: BaseCallback, state: State) -> None:
    """Write what a callback kept into one of the same class.

    A file says what is written here. So it changes no function, object or path, no text that the callback was made
    with, and makes no attributes but numbers.

    Args:
        callback: The callback.
        state: Of `state_of`.

    Raises:
        NotFittingError: The state is one of another callback.
    """
    name = type(callback).__name__
    if hasattr(callback, "checkpoint_state"):
        if "own" not in state:
            raise NotFittingError(f"{name} says its own state, but the checkpoint has none of it.")
        put_back(callback, state["own"])
        return
    given = _arguments(callback)
    for attribute, item in state.get("attributes", {}).items():
        there = vars(callback)
        before = there.get(attribute)
        texts = _texts(item)
        if any(map(_is_path, texts)) or any(map(_is_path, _texts_of(before))):
            continue
        if texts and (attribute in given or attribute not in there):
            continue
        if attribute in _OF_OTHERS or hasattr(type(callback), attribute) or not _is_data(before):
            raise NotFittingError(f"{name}.{attribute} is no number, text or array, which a checkpoint could change.")
        after = put_back(before, item, f"{name}.{attribute}")
        if after is not before:
            setattr(callback, attribute, after)


def _arguments(callback: BaseCallback) -> set[str]:
    """Names of the arguments that a callback was made with, those of base classes included."""
    constructors = (vars(cls)["__init__"] for cls in type(callback).__mro__ if "__init__" in vars(cls))
    return {name for one in constructors if inspect.isfunction(one) for name in inspect.signature(one).parameters}


def _texts(item: State) -> list[str]:
    """The texts in a state, those in containers and arrays included, but for names in it."""
    if not isinstance(item, dict):
        return _texts_of(item)
    parts = [*item.get("items", ())] if isinstance(item.get("items"), (list, tuple)) else []
    if item.get("kind") == "mapping":
        return [text for key, value in parts for text in (*_texts_of(key), *_texts(value))]
    return [text for part in (*parts, item.get("array")) for text in _texts(part)]


def _texts_of(value: Any) -> list[str]:
    """The texts in a value."""
    if isinstance(value, (str, bytes)):
        return [str(value)]
    if isinstance(value, np.ndarray):
        return [str(text) for text in value.ravel()] if value.dtype.kind in "US" else []
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _texts_of(part)]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return [text for part in value for text in _texts_of(part)]
    return []


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text


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
