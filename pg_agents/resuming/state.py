"""The state of an object and of all that belongs to it, as a tree of plain values that can be put back in place.

`capture` walks through attributes, containers, wrapped objects and the variables of functions, and keeps what is data:
numbers, texts, arrays, tensors, random generators. Functions, classes, loggers, files and pictures count as parts of
the program, which do not change. `put_back` writes the data into an object of the same structure, such as an
environment that was made anew: arrays keep their memory, generators and containers their identity. What changes by
being replaced, such as dates and frozen dataclasses, is replaced. An object that is not there is made, without a call
of its constructor, if its class is defined in the module of an object on the way to it; no module is imported.

An object can say itself what its state is:

    def checkpoint_state(self) -> Any: ...            # a tree of plain values
    def restore_checkpoint_state(self, state) -> None: ...

An environment that drives a simulator becomes one that can be stored by these two methods. Attributes that are named in
`checkpoint_attributes`, a tuple of texts, are walked through beside that state, and put back before it. An environment
that gets objects in the course of a training, such as copies of the agent, says how a new one comes by them:

    def checkpoint_makers(self, agent) -> dict[type, Callable[[], Any]]: ...    # makes objects of these classes
"""

from __future__ import annotations

import ctypes
import enum
import inspect
import io
import multiprocessing.connection
import multiprocessing.process
import operator
import random
import socket
import subprocess
import threading
import types
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

State: TypeAlias = Any
"""A tree of plain values, which `pg_agents.files.values` can write."""

Makers: TypeAlias = Mapping[str, Callable[[], Any]]
"""Functions that make objects which are not there yet, by the `name_of_class`."""


class NotStorableError(TypeError):
    """A part of an object whose state cannot be read; the message names it."""


class NotFittingError(ValueError):
    """A state that does not fit the object into which it is put back; the message names the part."""


@dataclass(frozen=True)
class Snapshot:
    """The state of an object, and what is known about its parts.

    Attributes:
        state: The state.
        objects: Its parts, in the order of the walk. `put_back` restores these very objects if it is given them.
        parts: What is at each place, for all that cannot be made from the state: classes and names of functions.
    """

    state: State
    objects: list[Any]
    parts: dict[str, str]


def snapshot(anything: Any, name: str = "") -> Snapshot:
    """The state of an object, as a copy, and its parts.

    Args:
        anything: The object.
        name: Its name in messages; by default its class's.

    Raises:
        NotStorableError: A part of it is neither data nor a part of the program: an object of compiled code, a
            process, a thread.
    """
    walk = _Capture()
    state = walk.of(anything, name or type(anything).__name__)
    return Snapshot(state, [value for _, value in walk.met.values()], walk.parts)


def capture(anything: Any, name: str = "") -> State:
    """The state of an object, as `snapshot` gives it."""
    return snapshot(anything, name).state


def put_back(
    anything: Any, state: State, name: str = "", makers: Makers | None = None, objects: list[Any] | None = None
) -> Any:
    """Write a state into an object of the structure that it was captured from.

    Args:
        anything: The object.
        state: Of `capture`.
        name: Its name in messages; by default its class's.
        makers: They make what the state has and the object lacks.
        objects: Of the `Snapshot`, to restore the very objects that it consisted of.

    Returns:
        The object; or, where it is a plain value, the one that takes its place.

    Raises:
        NotFittingError: The object has another structure.
    """
    name = name or type(anything).__name__
    try:
        return _PutBack(makers or {}, objects).into(anything, state, name)
    except NotFittingError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise NotFittingError(f"A state does not fit {name}: {type(error).__name__}: {error}") from error


def missing_part(parts: dict[str, str], there: dict[str, str], made: Collection[str] = ()) -> str | None:
    """The first part that could not be put back into an object with other parts.

    Args:
        parts: Of a `Snapshot`.
        there: Of a `Snapshot` of the other object.
        made: Classes of which makers make objects.
    """
    places = tuple(place for place, what in parts.items() if what in made)
    for place, what in parts.items():
        if place.startswith(places):
            continue
        if there.get(place) != what and not (what == _PROGRAM and place.rpartition(".")[0] in there):
            return f"{place} is a {what}, and was none after a reset"
    return None


def is_same(one: Any, other: Any) -> bool:
    """Whether two states are equal, but for the kinds of NaN and what objects tell themselves, caches included."""
    if isinstance(one, dict):
        keys = one.keys() - {"state"} if one.get("kind") == "own" else one.keys()
        return isinstance(other, dict) and one.keys() == other.keys() and all(is_same(one[k], other[k]) for k in keys)
    if isinstance(one, (list, tuple)):
        return isinstance(other, (list, tuple)) and len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, th.Tensor):
        return (
            isinstance(other, th.Tensor)
            and one.dtype == other.dtype
            and th.equal(one.isnan(), other.isnan())
            and (th.equal(one.nan_to_num(), other.nan_to_num()) if one.is_floating_point() else th.equal(one, other))
        )
    if isinstance(one, np.ndarray):
        same = isinstance(other, np.ndarray) and one.dtype == other.dtype
        return same and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    return bool(type(one) is type(other) and (one == other or one != one))


_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_OF_THE_PROGRAM = (
    *(types.ModuleType, type, operator.itemgetter, operator.attrgetter, operator.methodcaller),
    *(io.IOBase, EnvSpec, BaseAlgorithm, Logger, np.dtype, th.dtype, th.device, np.ufunc),
    *(type(threading.Lock()), type(threading.RLock()), types.WrapperDescriptorType, types.MethodDescriptorType),
)
_MODULES_OF_THE_PROGRAM = ("numba", "pygame", "_csv", "matplotlib", "ctypes", "_ctypes", "logging", "re", "google")
_PROGRAM = "part of the program"
_C_DATA = ctypes.c_int.__mro__[-2]
_OF_OTHERS = (
    *(threading.Thread, multiprocessing.process.BaseProcess, subprocess.Popen),
    *(multiprocessing.connection.Connection, socket.socket, types.GeneratorType),
)
# What is made anew in each step, or belongs to another object.
_LEFT_ALONE: tuple[tuple[type, frozenset[str]], ...] = (
    (VecEnvWrapper, frozenset({"class_attributes"})),
    (DummyVecEnv, frozenset({"buf_infos", "reset_infos"})),
    (BaseCallback, frozenset({"model", "training_env", "logger", "locals", "globals", "parent"})),
)
_SEQUENCES = (list, tuple, deque, set, frozenset)
_MAPPINGS: dict[str, type] = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in (dict, OrderedDict, Counter)}
_MANY = 16
_DEEPEST = 60  # objects and containers in each other: files are read up to a depth


def _is_of_the_program(value: Any) -> bool:
    if isinstance(value, _OF_THE_PROGRAM):
        return True
    module = _module_of(type(value))
    return module.split(".")[0] in _MODULES_OF_THE_PROGRAM and module != "pygame.sprite" and not _is_row(value)


def _is_row(value: Any) -> bool:
    """Pygame's rectangles and vectors."""
    return _module_of(type(value)) in ("pygame.rect", "pygame.math", "pygame.color") and hasattr(value, "__setitem__")


def _is_plain(value: Any) -> bool:
    if isinstance(value, np.generic):
        return value.dtype.kind in _NUMBERS and value.dtype.itemsize <= _itemsize_of(value.dtype)
    return type(value) in _PLAIN or (type(value) is tuple and all(map(_is_plain, value)))


_NUMBERS = "biufcUS"


def _itemsize_of(dtype: np.dtype) -> float:
    """The largest number of bytes that files hold of a type's numbers."""
    return {"f": 8, "c": 16}.get(dtype.kind, np.inf)


# Immutable values: their types, the plain values that they consist of, and the way back.
_VALUES: dict[str, tuple[type, Any, Any]] = {
    "range": (range, lambda one: [one.start, one.stop, one.step], range),
    "slice": (slice, lambda one: [one.start, one.stop, one.step], slice),
    "datetime": (
        datetime,
        lambda one: [one.isoformat(), one.fold],
        lambda text, fold: datetime.fromisoformat(text).replace(fold=fold),
    ),
    "date": (date, lambda one: [one.isoformat()], date.fromisoformat),
    "time": (time, lambda one: [one.isoformat()], time.fromisoformat),
    "timedelta": (timedelta, lambda one: [one.days, one.seconds, one.microseconds], timedelta),
    "timezone": (timezone, lambda one: [one.utcoffset(None).total_seconds()], lambda s: timezone(timedelta(seconds=s))),
    "Decimal": (Decimal, lambda one: [str(one)], Decimal),
    "Fraction": (Fraction, lambda one: [one.numerator, one.denominator], Fraction),
    "datetime64": (
        np.datetime64,
        lambda one: [int(one.astype(np.int64)), str(one.dtype)],
        lambda number, dtype: np.array(number).view(dtype)[()],
    ),
    "timedelta64": (
        np.timedelta64,
        lambda one: [int(one.astype(np.int64)), str(one.dtype)],
        lambda number, dtype: np.array(number).view(dtype)[()],
    ),
    **{cls.__name__: (cls, lambda one: [str(one)], cls) for cls in (PurePath, type(Path()), type(PurePath()))},
}


def _value_of(value: Any, place: str) -> dict[str, Any] | None:
    for name, (cls, parts_of, _) in _VALUES.items():
        if type(value) is cls:
            parts = parts_of(value)
            if not all(map(_is_plain, parts)) or not isinstance(getattr(value, "tzinfo", None), (timezone, type(None))):
                raise NotStorableError(f"{place} is {value!r}, which does not consist of plain values.")
            return {"kind": "value", "type": name, "parts": parts}
    return None


def _name_of_function(value: Any) -> str:
    return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', '?')}"


def _cells(function: types.FunctionType) -> list[Any]:
    return [cell for cell in function.__closure__ or () if not _is_empty(cell)]


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - it raises the error that is asked for
    except ValueError:
        return True
    return False


def _is_frozen(value: Any) -> bool:
    parameters = getattr(type(value), "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)


class _Known:
    """Classes of the objects met so far, and those defined beside them, of which objects can be made."""

    def __init__(self) -> None:
        self.classes: dict[str, type] = {}
        self.seen: set[type] = set()

    def add(self, value: Any) -> None:
        for cls in type(value).__mro__[:-1]:
            if cls in self.seen:
                continue
            self.seen.add(cls)
            module = None if cls.__module__.split(".")[0] in _MADE_BY_THEMSELVES else inspect.getmodule(cls)
            beside = vars(module).values() if module is not None and module.__name__ != "builtins" else ()
            for one in (cls, *beside):
                if isinstance(one, type) and one.__module__ == cls.__module__ and _can_be_made(one):
                    self.classes[f"{one.__module__}.{one.__qualname__}"] = one

    def find(self, name: str) -> type | None:
        return self.classes.get(name)


_MADE_BY_THEMSELVES = ("gymnasium", "stable_baselines3", "torch", "numpy", "collections", "abc", "typing")


def _can_be_made(cls: type) -> bool:
    if issubclass(cls, enum.Enum):
        return True
    new: Any = cls.__new__
    ordinary = new is object.__new__ and not hasattr(cls, "__del__")
    return ordinary and not issubclass(cls, (gym.Env, gym.vector.VectorEnv, VecEnv, type, th.nn.Module))


def _module_of(cls: type) -> str:
    return str(getattr(cls, "__module__", "?"))  # types of C code may have none


def _class_of(value: Any) -> str:
    return name_of_class(type(value))


def name_of_class(cls: type) -> str:
    """The name of a class in states and messages."""
    return f"{_module_of(cls)}.{cls.__qualname__}"


def _attributes(value: Any) -> dict[str, Any] | None:
    """The attributes of an object; None if it has none of its own."""
    found: dict[str, Any] = {}
    slots = [slot for cls in type(value).__mro__ for slot in _slots(cls)]
    for slot in slots:
        if hasattr(value, slot):
            found[slot] = getattr(value, slot)
    if not hasattr(value, "__dict__") and not slots:
        return None
    # Not `vars`: wrappers hand on what they are asked for.
    found |= object.__getattribute__(value, "__dict__") if hasattr(value, "__dict__") else {}
    left_alone = frozenset().union(*(names for cls, names in _LEFT_ALONE if isinstance(value, cls)))
    return {name: item for name, item in found.items() if name not in left_alone}


def _slots(cls: type) -> Iterator[str]:
    slots = vars(cls).get("__slots__", ())
    for slot in (slots,) if isinstance(slots, str) else slots:
        if slot not in ("__dict__", "__weakref__"):
            yield f"_{cls.__name__.lstrip('_')}{slot}" if slot.startswith("__") and not slot.endswith("__") else slot


class _Capture:
    """One walk. Objects that are met again are numbered, in the order in which they were met first."""

    def __init__(self, met: Sequence[Any] = ()) -> None:
        self.met: dict[int, tuple[int, Any]] = {id(value): (i, value) for i, value in enumerate(met)}
        self.count = len(met)
        self.parts: dict[str, str] = {}
        self.known = _Known()
        self.depth = 0

    def of(self, value: Any, place: str) -> State:
        if _is_plain(value):
            return value
        if (immutable := _value_of(value, place)) is not None:
            return immutable
        if isinstance(value, enum.Enum):
            self._note(value, place)
            return {"kind": "enum", "class": _class_of(value), "member": _member_of(value)}
        if isinstance(value, _C_DATA) and not callable(value):
            raise NotStorableError(f"{place} is a {_class_of(value)}, whose memory belongs to compiled code.")
        if _is_of_the_program(value):
            self.parts[place] = _PROGRAM
            return {"kind": "program"}
        if isinstance(value, _OF_OTHERS):
            raise NotStorableError(f"{place} is a {_class_of(value)}, whose state lies outside this program.")
        if id(value) in self.met:
            return {"kind": "again", "number": self.met[id(value)][0]}
        kind = _kind(value, place)
        self.met[id(value)] = self.count, value  # the value too, lest its id be given to another
        self.count += 1
        self._note(value, place)
        self.depth += 1
        if self.depth > _DEEPEST:
            raise NotStorableError(f"{place} lies in more than {_DEEPEST} objects and containers in each other.")
        state = {"kind": kind, **self._content(value, place)}
        self.depth -= 1
        return state

    def _note(self, value: Any, place: str) -> None:
        """Keep what could not be made from a state."""
        if isinstance(value, _CALLABLE):
            self.parts[place] = f"function {_name_of_function(value)}"
        elif isinstance(value, dict):
            if type(value) not in _MAPPINGS.values():
                self.parts[place] = _class_of(value)
        elif not isinstance(value, _MADE):
            name = _class_of(value)
            if self.known.find(name) is not type(value) or hasattr(type(value), "checkpoint_state"):
                self.parts[place] = name
            if not isinstance(value, enum.Enum):
                self.known.add(value)

    def _content(self, value: Any, place: str) -> dict[str, Any]:
        kind = _kind(value, place)
        if kind == "own":
            walked = {name: self.of(getattr(value, name), f"{place}.{name}") for name in _walked_through(value)}
            return {"class": _class_of(value), "attributes": walked, "state": value.checkpoint_state()}
        if kind == "array":
            # Convolutions round by the order in memory, which files do not keep.
            dtype = value.dtype
            numbers = np.array(value, order="C", subok=False)
            if dtype.kind in _TIMES:
                return {"array": numbers.view(np.int64), "strides": _dense_strides(value), "dtype": str(dtype)}
            return {"array": numbers, "strides": _dense_strides(value)}
        if kind == "objects":
            return {"shape": value.shape, "items": [self.of(item, place) for item in value.ravel()]}
        if kind == "tensor":
            return {"tensor": value.detach().clone()}
        if kind == "optimizer":
            return {"state": _cloned(value.state_dict())}
        if kind == "module":
            return {
                "state": _cloned(value.state_dict()),
                "training": [part.training for part in value.modules()],
                "learns": [parameter.requires_grad for parameter in value.parameters()],
                "attributes": [
                    [self.of(item, f"{place}.{name}") for name, item in _data_of(part).items()]
                    for part in value.modules()
                ],
                "names": [list(_data_of(part)) for part in value.modules()],
            }
        if kind == "row":
            return {"items": [float(item) if isinstance(item, float) else int(item) for item in value]}
        if kind == "function":
            return {
                "cells": [self.of(one.cell_contents, f"{place}.<{i}>") for i, one in enumerate(_cells(value))],
                "defaults": [self.of(one, f"{place}.<default {i}>") for i, one in enumerate(value.__defaults__ or ())],
                "attributes": {name: self.of(item, f"{place}.{name}") for name, item in vars(value).items()},
            }
        if kind == "method":
            return {"of": self.of(value.__self__, f"{place}.__self__")}
        if kind == "partial":
            return {
                "parts": [
                    self.of(part, f"{place}.{name}")
                    for name, part in (("func", value.func), ("args", list(value.args)), ("keywords", value.keywords))
                ]
            }
        if kind == "bit generator":
            return {"name": type(value).__name__, "state": value.state}
        if kind == "generator":
            return {"name": type(value.bit_generator).__name__, "state": value.bit_generator.state}
        if kind == "legacy generator":
            return {"state": value.get_state(legacy=False)}
        if kind == "python generator":
            return {"state": value.getstate()}
        if kind == "torch generator":
            return {"state": value.get_state()}
        if kind == "space":
            parts = _parts_of(value)
            return {
                "random": None if value._np_random is None else self.of(value._np_random, f"{place}._np_random"),
                "parts": [self.of(part, place) for part in parts],
            }
        if kind == "mapping":
            pairs = [[_key(key, place), self.of(item, f"{place}[{key!r}]")] for key, item in value.items()]
            return {"class": _class_of(value), "items": pairs}
        if kind == "sequence":
            if type(value) is list and len(value) >= _MANY and all(type(item) is float for item in value):
                return {"type": "list", "maxlen": None, "items": np.array(value)}  # such as the returns of all episodes
            items = list(value)  # of sets, too: programs can depend on their order
            by_identity: Any = object.__hash__
            if isinstance(value, (set, frozenset)) and any(type(item).__hash__ is by_identity for item in items):
                raise NotStorableError(f"{place} is a set of objects, whose order depends on their places in memory.")
            return {
                "type": next(cls.__name__ for cls in _SEQUENCES if isinstance(value, cls)),
                "maxlen": value.maxlen if isinstance(value, deque) else None,
                "items": [self.of(item, f"{place}[{i}]") for i, item in enumerate(items)],
            }
        attributes = _attributes(value)
        assert attributes is not None, "found out by `_kind`"
        return {
            "class": _class_of(value),
            "attributes": {name: self.of(item, f"{place}.{name}") for name, item in attributes.items()},
        }


def _kind(value: Any, place: str) -> str:
    if hasattr(type(value), "checkpoint_state") and hasattr(type(value), "restore_checkpoint_state"):
        return "own"
    if _is_row(value):
        return "row"
    for kind, classes in _KINDS.items():
        if isinstance(value, classes):
            if kind in ("array", "mapping", "sequence") and getattr(value, "__dict__", None):
                raise NotStorableError(f"{place} is a {_class_of(value)}, a container with attributes of its own.")
            return _kind_of_array(value, place) if kind == "array" else kind
    if _attributes(value) is None or isinstance(value, _PLAIN[1:]):
        raise NotStorableError(
            f"{place} is a {_class_of(value)}, whose state cannot be read: it has no attributes in Python. Methods "
            "`checkpoint_state` and `restore_checkpoint_state` of the object that holds it would tell it."
        )
    return "object"


def _walked_through(value: Any) -> tuple[str, ...]:
    return getattr(type(value), "checkpoint_attributes", ())


def _kind_of_array(array: np.ndarray, place: str) -> str:
    if array.dtype.kind == "O":
        return "objects"
    if array.dtype.kind in _TIMES or (array.dtype.kind in _NUMBERS and array.itemsize <= _itemsize_of(array.dtype)):
        return "array"
    raise NotStorableError(f"{place} is an array of {array.dtype}, which a file cannot hold.")


_TIMES = "mM"


def _member_of(member: enum.Enum) -> Any:
    return member.value if isinstance(member, enum.Flag) else member.name


def _data_of(module: th.nn.Module) -> dict[str, Any]:
    """The attributes of a module, without its parts, that are data and can change.

    Sizes and switches of the modules of libraries belong to their arguments; their real numbers, as of a dropout, can
    be changed by callbacks.
    """
    of_a_library = _module_of(type(module)).split(".")[0] in ("torch", "stable_baselines3", "pg_agents")
    found = {name: value for name, value in vars(module).items() if name != "training" and not name.startswith("_")}
    return {
        name: value for name, value in found.items() if _is_data(value) and (type(value) is float or not of_a_library)
    }


def _is_data(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in _NUMBERS
    if isinstance(value, (list, deque, set)):
        return all(map(_is_data, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_data, value.values()))
    return _is_plain(value) or isinstance(value, (th.Tensor, np.random.Generator))


_CALLABLE = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, partial)
_KINDS: dict[str, Any] = {
    "function": types.FunctionType,
    "method": (types.MethodType, types.BuiltinFunctionType),
    "partial": partial,
    "bit generator": np.random.BitGenerator,
    "array": np.ndarray,
    "module": th.nn.Module,
    "tensor": th.Tensor,
    "optimizer": th.optim.Optimizer,
    "generator": np.random.Generator,
    "legacy generator": np.random.RandomState,
    "python generator": random.Random,
    "torch generator": th.Generator,
    "space": spaces.Space,
    "mapping": dict,
    "sequence": _SEQUENCES,
}
_NEW: dict[str, Any] = {
    "legacy generator": np.random.RandomState,
    "python generator": random.Random,
    "torch generator": th.Generator,
}
# All that is made where it is not there.
_MADE = (
    *(np.ndarray, th.Tensor, np.random.Generator, np.random.BitGenerator, np.random.RandomState, th.Generator),
    *_SEQUENCES,
)


def _key(key: Any, place: str) -> Any:
    if _is_plain(key):
        return key
    raise NotStorableError(f"{place} has the key {key!r}, which is not a plain value.")


def _parts_of(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    parts = getattr(space, "spaces", ())
    return list(parts.values() if isinstance(parts, dict) else parts)


def _cloned(state: Any) -> Any:
    """A state dictionary of torch, as a copy that consists of plain containers."""
    if isinstance(state, th.Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: _cloned(item) for key, item in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_cloned(item) for item in state)
    return state


class _PutBack:
    """One walk, in the order of the walk that captured."""

    def __init__(self, makers: Makers, objects: list[Any] | None) -> None:
        self.makers = makers
        self.objects = objects
        self.met: list[Any] = []
        self.filled: dict[int, Any] = {}  # what has its state already, by id
        self.known = _Known()

    def into(self, current: Any, state: State, place: str) -> Any:
        """Put a state back into what is there; what takes its place."""
        if not isinstance(state, dict):
            return state
        kind = state["kind"]
        if kind == "program":
            return current
        if kind == "enum":
            cls = type(current) if _class_of(current) == state["class"] else self.known.find(state["class"])
            if cls is None or not issubclass(cls, enum.Enum):
                raise NotFittingError(f"{place} must be a {state['class']}, but is {current!r}.")
            return cls(state["member"]) if issubclass(cls, enum.Flag) else cls[state["member"]]
        if kind == "value":
            value = _VALUES[state["type"]][2](*state["parts"])
            return current if type(current) is type(value) and current == value else value
        if kind == "again":
            return self.met[state["number"]]
        if self.objects is not None:
            current = self.objects[len(self.met)]
        elif id(current) in self.filled and kind not in _CALLABLE_KINDS:
            current = None  # one object here was two when the state was captured
        make = self.makers.get(state.get("class", "")) if self.objects is None else None
        if make is not None and (current is None or _class_of(current) != state["class"]):
            current = make()
        self.filled[id(current)] = current
        number = len(self.met)
        self.met.append(current)
        value = self._restored(kind, current, state, place)
        self.met[number] = value
        return value

    def _restored(self, kind: str, current: Any, state: dict[str, Any], place: str) -> Any:
        if kind == "array":
            return _array_into(current, _numbers(state), state["strides"])
        if kind in _CALLABLE_KINDS:
            return self._callable(kind, current, state, place)
        if kind == "sequence":
            return self._sequence(current, state, place)
        if kind == "mapping":
            return self._mapping(current, state, place)
        if kind == "generator":
            if not isinstance(current, np.random.Generator) or type(current.bit_generator).__name__ != state["name"]:
                current = np.random.Generator(_BIT_GENERATORS[state["name"]]())
            current.bit_generator.state = state["state"]
            return current
        if kind == "bit generator":
            if type(current).__name__ != state["name"]:
                current = _BIT_GENERATORS[state["name"]]()
            current.state = state["state"]
            return current
        if kind == "objects":
            items = current.ravel().tolist() if isinstance(current, np.ndarray) else []
            restored = np.empty(len(state["items"]), dtype=object)
            for i, item in enumerate(state["items"]):
                restored[i] = self.into(items[i] if i < len(items) else None, item, f"{place}[{i}]")
            restored = restored.reshape(tuple(state["shape"]))
            if not isinstance(current, np.ndarray) or current.dtype != object or current.shape != restored.shape:
                return restored
            current[...] = restored
            return current
        if kind == "tensor" and not isinstance(current, th.Tensor):
            return state["tensor"].clone()
        if current is None and kind in _NEW:
            current = _NEW[kind]()
        if kind == "object":
            return self._object(current, state, place)
        if current is None:
            raise NotFittingError(f"{place} is None, but there is a state of a {state.get('class', kind)} for it.")
        self._in_place(kind, current, state, place)
        return current

    def _in_place(self, kind: str, current: Any, state: dict[str, Any], place: str) -> None:
        self.known.add(current)
        if (found := _kind(current, place)) != kind:
            raise NotFittingError(f"{place} must be a {kind}, but is a {found} ({_class_of(current)}).")
        if kind == "own":
            for name, item in state["attributes"].items():
                before = getattr(current, name)
                after = self.into(before, item, f"{place}.{name}")
                if after is not before:
                    setattr(current, name, after)
            current.restore_checkpoint_state(state["state"])
        elif kind == "tensor":
            with th.no_grad():
                current.copy_(state["tensor"]) if current.shape == state["tensor"].shape else current.set_(
                    state["tensor"]
                )
        elif kind == "module":
            self._module(current, state, place)
        elif kind == "row":
            current[:] = state["items"]
        elif kind == "optimizer":
            current.load_state_dict(state["state"])
        elif kind == "legacy generator":
            current.set_state(state["state"])
        elif kind == "python generator":
            version, numbers, gauss = state["state"]
            current.setstate((version, tuple(numbers), gauss))
        elif kind == "torch generator":
            current.set_state(state["state"])
        elif kind == "space":
            if state["random"] is not None:
                current._np_random = self.into(current._np_random, state["random"], f"{place}._np_random")
            for part, part_state in zip(_parts_of(current), state["parts"], strict=True):
                self.into(part, part_state, place)
        else:
            raise NotFittingError(f"{place} has a state of an unknown kind, {kind!r}.")

    def _module(self, current: th.nn.Module, state: dict[str, Any], place: str) -> None:
        current.load_state_dict(state["state"])
        parts = list(current.modules())
        for part, training, names, items in zip(
            parts, state["training"], state["names"], state["attributes"], strict=True
        ):
            part.training = training
            there = _data_of(part)
            for name, item in zip(names, items, strict=True):
                before = there.get(name)
                after = self.into(before, item, f"{place}.{name}")
                if after is not before and (name in there or not hasattr(part, name)):
                    setattr(part, name, after)
        for parameter, learns in zip(current.parameters(), state["learns"], strict=True):
            parameter.requires_grad_(learns)

    def _callable(self, kind: str, current: Any, state: dict[str, Any], place: str) -> Any:
        """The data in a function; the function itself is a part of the program."""
        if kind == "function":
            cells = _cells(current) if isinstance(current, types.FunctionType) else []
            if len(cells) != len(state["cells"]):
                cells = [None] * len(state["cells"])
            for i, (cell, item) in enumerate(zip(cells, state["cells"], strict=True)):
                before = None if cell is None else cell.cell_contents
                after = self.into(before, item, f"{place}.<{i}>")
                if cell is not None and after is not before:
                    cell.cell_contents = after
            defaults = (getattr(current, "__defaults__", None) or ()) + (None,) * len(state["defaults"])
            for i, item in enumerate(state["defaults"]):
                self.into(defaults[i], item, f"{place}.<default {i}>")
            there = vars(current) if isinstance(current, types.FunctionType) else {}
            for name, item in state["attributes"].items():
                there[name] = self.into(there.get(name), item, f"{place}.{name}")
        elif kind == "method":
            self.into(getattr(current, "__self__", None), state["of"], f"{place}.__self__")
        else:
            is_partial = isinstance(current, partial)
            parts = [current.func, list(current.args), current.keywords] if is_partial else [None] * 3
            for part, item in zip(parts, state["parts"], strict=True):
                self.into(part, item, place)
        return current

    def _object(self, current: Any, state: dict[str, Any], place: str) -> Any:
        if current is None or _class_of(current) != state["class"]:
            cls = self.known.find(state["class"])
            if cls is None or issubclass(cls, enum.Enum):
                given = "None" if current is None else f"a {_class_of(current)}"
                raise NotFittingError(f"{place} is {given}, but there is a state of a {state['class']} for it.")
            current = self.met[-1] = object.__new__(cls)
        elif _kind(current, place) != "object":
            raise NotFittingError(f"{place} must not tell its state itself, but is a {_class_of(current)}.")
        elif self.objects is None and _is_frozen(current) and not self._has(current, state, place):
            return self._replaced(current, state, place)
        self.known.add(current)
        attributes = _attributes(current) or {}
        has_fixed_arrays = _module_of(type(current)).split(".")[0] in _WITH_FIXED_ARRAYS
        for name, item in state["attributes"].items():
            # A part of the program that is not there yet will be made when it is needed.
            if name not in attributes and isinstance(item, dict) and item["kind"] == "program":
                continue
            before = attributes.get(name)
            after = self.into(before, item, f"{place}.{name}")
            if has_fixed_arrays and isinstance(before, np.ndarray) and before.ndim:
                _check_like(before, after, f"{place}.{name}")
            if after is not before or name not in attributes:
                object.__setattr__(current, name, after)
        for name in attributes.keys() - state["attributes"].keys():
            if hasattr(current, "__dict__"):
                object.__getattribute__(current, "__dict__").pop(name, None)
        return current

    def _has(self, current: Any, state: dict[str, Any], place: str) -> bool:
        """Whether an object has a state already."""
        try:
            return is_same(_Capture(self.met[:-1]).of(current, place), state)
        except NotStorableError:
            return False

    def _replaced(self, current: Any, state: dict[str, Any], place: str) -> Any:
        """One with another state in the place of a frozen object, which others may hold, too."""
        self.known.add(current)
        attributes = _attributes(current) or {}
        new = self.met[-1] = object.__new__(type(current))
        for name, item in state["attributes"].items():
            object.__setattr__(new, name, self.into(_unshared(attributes.get(name)), item, f"{place}.{name}"))
        return new

    def _sequence(self, current: Any, state: dict[str, Any], place: str) -> Any:
        cls: Any = {sequence.__name__: sequence for sequence in _SEQUENCES}[state["type"]]
        if isinstance(state["items"], np.ndarray):
            state = {**state, "items": state["items"].tolist()}
        is_set = issubclass(cls, (set, frozenset))
        there = list(current) if isinstance(current, cls) and not is_set else []
        items = [
            self.into(there[i] if i < len(there) else None, item, f"{place}[{i}]")
            for i, item in enumerate(state["items"])
        ]
        if is_set and isinstance(current, cls):
            if list(current) == items:
                return current
            if isinstance(current, set):
                current.clear()
                current.update(items)
                return current
        is_tuple = cls is tuple and isinstance(current, tuple) and len(current) == len(items)
        if is_tuple and all(map(operator.is_, current, items)):
            return current
        if isinstance(current, tuple) and hasattr(current, "_fields"):
            return type(current)(*items)
        if isinstance(current, list) and cls is list:
            current[:] = items
            return current
        if isinstance(current, deque) and cls is deque and current.maxlen == state["maxlen"]:
            current.clear()
            current.extend(items)
            return current
        return deque(items, maxlen=state["maxlen"]) if cls is deque else cls(items)

    def _mapping(self, current: Any, state: dict[str, Any], place: str) -> Any:
        there = current
        if not isinstance(current, dict) or _class_of(current) != state["class"]:
            if state["class"] not in _MAPPINGS:
                raise NotFittingError(f"{place} must be a {state['class']}, but is a {_class_of(current)}.")
            there = _MAPPINGS[state["class"]]()
        before = dict(there)
        items = [(key, self.into(before.get(key), item, f"{place}[{key!r}]")) for key, item in state["items"]]
        there.clear()
        there.update(items)
        return there


def _unshared(value: Any) -> Any:
    """Containers and arrays as copies."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, tuple, set):
        return type(value)(map(_unshared, value))
    return {key: _unshared(item) for key, item in value.items()} if type(value) is dict else value


_CALLABLE_KINDS = ("function", "method", "partial")
_WITH_FIXED_ARRAYS = ("pg_agents", "pg_envs", "stable_baselines3")  # compiled code may know their addresses


def _check_like(before: np.ndarray, after: Any, place: str) -> None:
    """Refuse another shape or type than that of the array that was there, unless one of them was yet to come."""
    if not isinstance(after, np.ndarray) or (
        before.size and after.size and (after.shape, after.dtype) != (before.shape, before.dtype)
    ):
        what = f"{after.dtype} of shape {after.shape}" if isinstance(after, np.ndarray) else repr(after)
        raise NotFittingError(f"{place} must be an array of {before.dtype} with shape {before.shape}, but is {what}.")


def _numbers(state: dict[str, Any]) -> np.ndarray:
    array: np.ndarray = state["array"]
    if "dtype" not in state:
        return array
    dtype = np.dtype(state["dtype"])
    if dtype.kind not in _TIMES or array.dtype != np.int64:
        raise NotFittingError(f"A state has {array.dtype} as {dtype}, but must have int64 as dates or times.")
    return array.view(dtype)


def _dense_strides(array: np.ndarray) -> tuple[int, ...] | None:
    """The bytes from one number to the next along each axis; None for those of a new array."""
    of_a_new_one = np.empty(array.shape, array.dtype).strides
    return array.strides if array.strides != of_a_new_one and _are_dense(array.strides, array) else None


def _are_dense(strides: tuple[int, ...], array: np.ndarray) -> bool:
    """Whether an array with these strides takes no more memory than its numbers need."""
    if len(strides) != array.ndim or array.size == 0 or not all(type(one) is int and one > 0 for one in strides):
        return False
    extent = array.itemsize + sum((n - 1) * stride for n, stride in zip(array.shape, strides, strict=True))
    return bool(extent == array.nbytes)


def _array_into(current: Any, array: np.ndarray, strides: tuple[int, ...] | None) -> np.ndarray:
    """The array's numbers in the memory that is there, if it fits."""
    if isinstance(current, np.ndarray) and current.shape == array.shape and current.dtype == array.dtype:
        if current.flags.writeable and (strides is None or current.strides == strides):
            current[...] = array
            return current
        if not current.flags.writeable and np.array_equal(current, array, equal_nan=array.dtype.kind in "fc"):
            return current
    copy = np.empty_like(array)  # the state may be put back once more
    if strides is not None:
        if not _are_dense(strides, array):  # which would reach into other memory
            raise NotFittingError(f"The strides {strides} do not belong to an array of shape {array.shape}.")
        copy = np.lib.stride_tricks.as_strided(copy, strides=strides)
    copy[...] = array
    return copy


_BIT_GENERATORS = {
    generator.__name__: generator
    for generator in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
