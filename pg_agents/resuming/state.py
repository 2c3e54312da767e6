"""The state of an object and of all that belongs to it, as a tree of plain values that can be put back in place.

`capture` walks through attributes, containers and wrapped objects and keeps what is data: numbers, texts, arrays,
tensors, random generators. Functions, classes, loggers, files and pictures count as parts of the program, which do not
change. `put_back` writes the data into an object of the same structure, such as an environment that was made anew:
arrays keep their memory, generators and containers their identity, and nothing is made from what a file says.

An object can say itself what its state is:

    def checkpoint_state(self) -> Any: ...            # a tree of plain values
    def restore_checkpoint_state(self, state) -> None: ...

An environment that drives a simulator becomes one that can be stored by these two methods. Attributes that are named in
`checkpoint_attributes`, a tuple of texts, are walked through beside that state, and put back before it. An environment
that gets objects in the course of a training, such as copies of the agent, says how a new one comes by them:

    def checkpoint_makers(self, agent) -> dict[type, Callable[[], Any]]: ...    # makes objects of these classes
"""

from __future__ import annotations

import enum
import io
import multiprocessing.connection
import multiprocessing.process
import random
import socket
import subprocess
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

State: TypeAlias = Any
"""A tree of plain values, which `pg_agents.files.values` can write."""

Makers: TypeAlias = Mapping[str, Callable[[], Any]]
"""Functions that make objects which are not there yet, by the `name_of_class`."""


class NotStorableError(TypeError):
    """A part of an object whose state cannot be read; the message names it."""


class NotFittingError(ValueError):
    """A state that does not fit the object into which it is put back; the message names the part."""


def capture(anything: Any, name: str = "") -> State:
    """The state of an object, as a copy.

    Args:
        anything: The object.
        name: Its name in messages; by default its class's.

    Raises:
        NotStorableError: A part of it is neither data nor a part of the program: an object of compiled code, a
            process, a thread.
    """
    return _Capture().of(anything, name or type(anything).__name__)


def put_back(anything: Any, state: State, name: str = "", makers: Makers | None = None) -> Any:
    """Write a state into an object of the structure that it was captured from.

    Args:
        anything: The object.
        state: Of `capture`.
        name: Its name in messages; by default its class's.
        makers: They make what the state has and the object lacks. What is not made by them must be there.

    Returns:
        The object; or, where it is a plain value, the one that takes its place.

    Raises:
        NotFittingError: The object has another structure.
    """
    return _PutBack(makers or {}).into(anything, state, name or type(anything).__name__)


_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_OF_THE_PROGRAM = (
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type, partial),
    *(io.IOBase, EnvSpec, BaseAlgorithm, Logger, np.dtype, th.dtype, th.device, np.ufunc),
    *(type(threading.Lock()), type(threading.RLock())),
)
_MODULES_OF_THE_PROGRAM = ("numba", "pygame", "_csv", "matplotlib", "ctypes", "_ctypes", "logging", "re", "google")
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
_MANY = 16


def _is_of_the_program(value: Any) -> bool:
    if isinstance(value, _OF_THE_PROGRAM):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype.names is not None  # a table of addresses
    return _module_of(type(value)).split(".")[0] in _MODULES_OF_THE_PROGRAM


def _is_plain(value: Any) -> bool:
    return (
        type(value) in _PLAIN or isinstance(value, np.generic) or (type(value) is tuple and all(map(_is_plain, value)))
    )


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

    def __init__(self) -> None:
        self.met: dict[int, tuple[int, Any]] = {}

    def of(self, value: Any, place: str) -> State:
        if _is_plain(value):
            return value
        if isinstance(value, enum.Enum):
            return {"kind": "enum", "name": value.name}
        if _is_of_the_program(value):
            return {"kind": "program"}
        if isinstance(value, _OF_OTHERS):
            raise NotStorableError(f"{place} is a {_class_of(value)}, whose state lies outside this program.")
        if id(value) in self.met:
            return {"kind": "again", "number": self.met[id(value)][0]}
        self.met[id(value)] = len(self.met), value  # the value too, lest its id be given to another
        return {"kind": _kind(value, place), **self._content(value, place)}

    def _content(self, value: Any, place: str) -> dict[str, Any]:
        kind = _kind(value, place)
        if kind == "own":
            walked = {name: self.of(getattr(value, name), f"{place}.{name}") for name in _walked_through(value)}
            return {"class": _class_of(value), "attributes": walked, "state": value.checkpoint_state()}
        if kind in _BOUNDS:
            return {"bounds": [self.of(one, place) for one in (value.start, value.stop, value.step)]}
        if kind == "array":
            # Convolutions round by the order in memory, which files do not keep.
            return {"array": np.array(value, order="C"), "strides": _dense_strides(value)}
        if kind == "objects":
            return {"shape": value.shape, "items": [self.of(item, place) for item in value.ravel()]}
        if kind == "tensor":
            return {"tensor": value.detach().clone()}
        if kind in ("module", "optimizer"):
            return {"state": _cloned(value.state_dict()), "training": getattr(value, "training", False)}
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
            return {"items": pairs}
        if kind == "sequence":
            if type(value) is list and len(value) >= _MANY and all(type(item) is float for item in value):
                return {"type": "list", "maxlen": None, "items": np.array(value)}  # such as the returns of all episodes
            items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
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
    for kind, classes in _KINDS.items():
        if isinstance(value, classes):
            if kind == "array" and value.dtype.kind not in "biufcUS":
                return "objects"
            return kind
    if _attributes(value) is None:
        raise NotStorableError(
            f"{place} is a {_class_of(value)}, whose state cannot be read: it has no attributes in Python. Methods "
            "`checkpoint_state` and `restore_checkpoint_state` of the object that holds it would tell it."
        )
    return "object"


def _walked_through(value: Any) -> tuple[str, ...]:
    return getattr(type(value), "checkpoint_attributes", ())


_BOUNDS = {"slice": slice, "range": range}
_KINDS: dict[str, Any] = {
    **_BOUNDS,
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

    def __init__(self, makers: Makers) -> None:
        self.makers = makers
        self.met: list[Any] = []
        self.filled: dict[int, Any] = {}  # what has its state already, by id

    def into(self, current: Any, state: State, place: str) -> Any:
        """Put a state back into what is there; what takes its place."""
        if not isinstance(state, dict):
            return state
        kind = state["kind"]
        if kind == "program":
            return current
        if kind == "enum":
            if not isinstance(current, enum.Enum):
                raise NotFittingError(f"{place} must be a member of an Enum, but is {current!r}.")
            return type(current)[state["name"]]
        if kind == "again":
            return self.met[state["number"]]
        if id(current) in self.filled and kind in ("array", "objects", "sequence", "mapping", "generator"):
            current = None  # one object here was two when the state was captured
        make = self.makers.get(state.get("class", ""))
        if make is not None and (id(current) in self.filled or _class_of(current) != state["class"]):
            current = make()
        self.filled[id(current)] = current
        number = len(self.met)
        self.met.append(current)
        value = self._restored(kind, current, state, place)
        self.met[number] = value
        return value

    def _restored(self, kind: str, current: Any, state: dict[str, Any], place: str) -> Any:
        if kind in _BOUNDS:
            return _BOUNDS[kind](*(self.into(None, one, place) for one in state["bounds"]))
        if kind == "array":
            return _array_into(current, state["array"], state["strides"])
        if kind == "sequence":
            return self._sequence(current, state, place)
        if kind == "mapping":
            return self._mapping(current, state, place)
        if kind == "generator":
            if not isinstance(current, np.random.Generator) or type(current.bit_generator).__name__ != state["name"]:
                current = np.random.Generator(_BIT_GENERATORS[state["name"]]())
                self.met[-1] = current
            current.bit_generator.state = state["state"]
            return current
        if kind == "objects":
            items = current.ravel().tolist() if isinstance(current, np.ndarray) else []
            restored = np.empty(len(state["items"]), dtype=object)
            for i, item in enumerate(state["items"]):
                restored[i] = self.into(items[i] if i < len(items) else None, item, f"{place}[{i}]")
            return restored.reshape(tuple(state["shape"]))
        if kind == "tensor" and not isinstance(current, th.Tensor):
            return state["tensor"].clone()
        if current is None:
            raise NotFittingError(f"{place} is None, but there is a state of a {state.get('class', kind)} for it.")
        self._in_place(kind, current, state, place)
        return current

    def _in_place(self, kind: str, current: Any, state: dict[str, Any], place: str) -> None:
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
            current.load_state_dict(state["state"])
            current.train(state["training"])
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
            self._object(current, state, place)

    def _object(self, current: Any, state: dict[str, Any], place: str) -> None:
        if _class_of(current) != state["class"]:
            raise NotFittingError(f"{place} must be a {state['class']}, but is a {_class_of(current)}.")
        attributes = _attributes(current) or {}
        for name, item in state["attributes"].items():
            # A part of the program that is not there yet will be made when it is needed.
            if name not in attributes and isinstance(item, dict) and item["kind"] == "program":
                continue
            before = attributes.get(name)
            after = self.into(before, item, f"{place}.{name}")
            if after is not before or name not in attributes:
                object.__setattr__(current, name, after)
        for name in attributes.keys() - state["attributes"].keys():
            if hasattr(current, "__dict__"):
                object.__getattribute__(current, "__dict__").pop(name, None)

    def _sequence(self, current: Any, state: dict[str, Any], place: str) -> Any:
        cls = {sequence.__name__: sequence for sequence in _SEQUENCES}[state["type"]]
        if isinstance(state["items"], np.ndarray):
            state = {**state, "items": state["items"].tolist()}
        there = list(current) if isinstance(current, cls) and not issubclass(cls, (set, frozenset)) else []
        items = [
            self.into(there[i] if i < len(there) else None, item, f"{place}[{i}]")
            for i, item in enumerate(state["items"])
        ]
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
        there = current if isinstance(current, dict) else {}
        before = dict(there)
        items = [(key, self.into(before.get(key), item, f"{place}[{key!r}]")) for key, item in state["items"]]
        there.clear()
        there.update(items)
        return there


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
