"""Pickles, read by a machine that makes nothing but data.

Python's own unpickler calls whatever a file names. This one knows a list of opcodes; it names only classes that
`allowed.find` knows, calls only the functions below, which check their arguments, and gives attributes only to objects
of data classes that it has made itself from the same file.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import Enum
from types import FunctionType
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from pg_agents.files.allowed import NotAllowedError, find, is_data

Classes = Mapping[tuple[str, str], type]


def loads(
    data: bytes,
    *,
    source: str,
    member: str = "",
    trust: bool = False,
    classes: Classes | None = None,
    remedy: str = "",
    storage: Callable[[Any], th.Tensor] | None = None,
) -> Any:
    """What a pickle holds.

    Args:
        data: The pickle.
        source: The file's name, for errors.
        member: The part of it, for errors.
        trust: Read it with Python's own unpickler, which runs what the pickle says.
        classes: Further classes that it may name, by module and name.
        remedy: What can be done beside trusting, for errors.
        storage: Makes a flat tensor of a persistent id, as in PyTorch's files; by default there may be none.

    Raises:
        NotAllowedError: It names, calls or changes something that is not on the allow-list.
        ValueError: It cannot be read.
    """
    if trust:
        return pickle.loads(data)
    place = f"{source} ({member})" if member else source
    try:
        return _Machine(classes or {}, storage).run(data)
    except NotAllowedError as error:
        advice = f"trust=True (pg-zoo: --trust){remedy}"
        raise NotAllowedError(
            f"{place} {error}, which could run code. If you trust whoever wrote it, say {advice}.", advice
        ) from None
    except Exception as error:
        raise ValueError(f"{place} cannot be read: {type(error).__name__}: {error}") from error


class _Machine:
    """The stack machine whose program a pickle is."""

    def __init__(self, classes: Classes, storage: Callable[[Any], th.Tensor] | None) -> None:
        self._classes = classes
        self._storage = storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        # By their ids, objects that have been made and not been given attributes yet.
        self._unfinished: dict[int, Any] = {}
        self._to_check: list[Any] = []  # once their parts are finished
        # How many parts of classes are open. A class of a script comes with its bases and its body, code included.
        # Where the caller gives the class, they are passed over: what is not allowed there becomes a `_PassedOver`.
        self._bodies = 0
        self._in_bodies: set[int] = set()  # places in the memo

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                break
            if self._bodies:
                self._pass_over(opcode.name, argument)
            else:
                self._step(opcode.name, argument)
            if opcode.name in _PUSH_GLOBALS and any(self._stack[-1] is one for one in (_skeleton, _body)):
                self._bodies += 1
        if self._bodies:
            raise NotAllowedError("holds a class as code")
        if any(isinstance(one, tuple(_SCHEDULES.values())) and not vars(one) for one in self._unfinished.values()):
            raise NotAllowedError("holds a function as code")
        for one in self._to_check:
            _check_space(one) if isinstance(one, spaces.Space) else _check_module(one)
        return self._stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        stack, push = self._stack, self._stack.append
        match name:
            case "PROTO" | "FRAME":
                pass
            case _ if name in _LITERALS:
                push(argument)
            case _ if name in _CONSTANTS:
                push(_CONSTANTS[name])
            case _ if name in _EMPTY:
                push(_EMPTY[name]())
            case "MARK":
                self._marks.append(len(stack))
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._items()
            case "DUP":
                push(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                if argument in self._in_bodies:
                    _check_shared(self._memo[argument])
                push(self._memo[argument])
            case "TUPLE":
                push(tuple(self._items()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "LIST":
                push(self._items())
            case "DICT":
                push(_put({}, self._items()))
            case "FROZENSET":
                push(frozenset(map(_key, self._items())))
            case "APPEND" | "APPENDS":
                items = self._items() if name == "APPENDS" else [stack.pop()]
                _exactly(stack[-1], list, deque).extend(items)
            case "SETITEM" | "SETITEMS":
                if name == "SETITEM":
                    self._marks.append(len(stack) - 2)
                items = self._items()
                _put(_exactly(stack[-1], dict, OrderedDict), items)
            case "ADDITEMS":
                items = self._items()
                _exactly(stack[-1], set).update(map(_key, items))
            case "GLOBAL":
                push(self._find(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                found, module = stack.pop(), stack.pop()
                push(self._find(_exactly(module, str), _exactly(found, str)))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                push(self._made(_called(function, _exactly(arguments, tuple))))
            case "NEWOBJ":
                arguments, cls = stack.pop(), stack.pop()
                push(self._made(_new(cls, _exactly(arguments, tuple))))
            case "BUILD":
                state = stack.pop()
                if self._unfinished.pop(id(stack[-1]), None) is None:
                    raise NotAllowedError(f"changes {_name(stack[-1])}")
                _build(stack[-1], state)
            case "BINPERSID" if self._storage is not None:
                push(self._storage(stack.pop()))
            case _:
                raise NotAllowedError(f"has the opcode {name}")

    def _pass_over(self, name: str, argument: Any) -> None:
        """A step in the body of a class, which makes and changes nothing."""
        stack = self._stack
        match name:
            case "GLOBAL" | "STACK_GLOBAL":
                try:
                    self._step(name, argument)
                except NotAllowedError:
                    stack.append(_PassedOver())
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                if function is _body:
                    self._bodies -= 1
                    stack.append(arguments[0])
                elif function is _skeleton:
                    self._bodies -= 1
                    stack.append(self._given_class(*arguments, needed=not self._bodies))
                else:
                    stack.append(_PassedOver())
            case "NEWOBJ":
                del stack[-2:]
                stack.append(_PassedOver())
            case "BUILD" | "APPEND":
                stack.pop()
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                if type(key) is str and key == "__module__" and type(value) is str and type(stack[-1]) is dict:
                    stack[-1][key] = value  # of a class
            case "SETITEMS" | "APPENDS" | "ADDITEMS":
                self._items()
            case "DICT" | "FROZENSET":
                self._items()
                stack.append(_PassedOver())
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self._in_bodies.add(len(self._memo) if name == "MEMOIZE" else argument)
                self._step(name, argument)
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "DUP" | "BINPERSID":
                raise NotAllowedError(f"has the opcode {name} in a class")
            case _:
                self._step(name, argument)

    def _given_class(
        self, _kind: Any, name: Any, _bases: Any, about: Any, *_rest: Any, needed: bool = True
    ) -> type | _PassedOver:
        """The class of the caller's that has the name of a class whose code is in the file."""
        module = about.get("__module__", "__main__") if type(about) is dict else "__main__"
        exact = [cls for (place, known), cls in self._classes.items() if (place, known) == (module, name)]
        scripts = [cls for (_, known), cls in self._classes.items() if known.rpartition(".")[2] == name]
        if exact or (scripts and module == "__main__"):
            return (exact or scripts)[0]
        if needed:
            raise NotAllowedError(f"holds the class {module}.{name} as code")
        return _PassedOver()

    def _items(self) -> list[Any]:
        """What stands above the last mark, taken off the stack."""
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _find(self, module: str, name: str) -> Any:
        if (module, name) in self._classes:
            return self._classes[module, name]
        if (module, name) in _FUNCTIONS:
            return _FUNCTIONS[module, name]
        if module == "torch" and name in _STORAGES and self._storage is not None:
            return _STORAGES[name]
        if module.partition(".")[0] == "cloudpickle":
            raise NotAllowedError("holds a function or a class as code")
        try:
            return find(module, name)
        except NotAllowedError:
            raise NotAllowedError(f"names {module}.{name}") from None

    def _made(self, one: Any) -> Any:
        self._unfinished[id(one)] = one
        if isinstance(one, (spaces.Space, th.nn.Module)):
            self._to_check.append(one)
        return one


class _PassedOver:
    """Stands for what the body of a class has."""


def _check_shared(one: Any) -> None:
    """Refuse what a body has made outside of it: texts, numbers and classes are all that may be shared."""
    parts = one if type(one) is tuple else (one,)
    functions = _FUNCTIONS.values()
    if not all(
        isinstance(part, type) or type(part) in _ATOMS or (type(part) is FunctionType and part in functions)
        for part in parts
    ):
        raise NotAllowedError("shares objects with a class whose code it holds")


def _skeleton(*_arguments: Any) -> Any:
    """A class whose code is in the file; see `_Machine._given_class`."""
    raise NotAllowedError("holds a class as code")


def _body(*_arguments: Any) -> Any:
    """The body of such a class; see `_Machine._pass_over`."""
    raise NotAllowedError("holds a class as code")


# Opcodes

_ATOMS = (str, int, float, bool, bytes, type(None))
_PUSH_GLOBALS = {"GLOBAL", "STACK_GLOBAL", "GET", "BINGET", "LONG_BINGET"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}
_LITERALS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_LITERALS |= {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_LITERALS |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}


def _exactly(one: Any, *types: type) -> Any:
    if type(one) not in types:
        raise NotAllowedError(f"has {_name(one)} in the place of {' or '.join(cls.__name__ for cls in types)}")
    return one


def _key(one: Any) -> Any:
    """What may be hashed: deeply nested tuples end the process."""
    if type(one) in _ATOMS or (type(one) is tuple and all(type(part) in _ATOMS for part in one)):
        return one
    raise NotAllowedError(f"has {_name(one)} as a key")


def _put(target: Any, items: list[Any]) -> Any:
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_key(key)] = value
    return target


def _name(one: Any) -> str:
    cls = one if isinstance(one, type) else type(one)
    return f"{'' if isinstance(one, type) else 'an object of '}{cls.__module__}.{cls.__qualname__}"


def _called(function: Any, arguments: tuple[Any, ...]) -> Any:
    if type(function) is FunctionType and function in _FUNCTIONS.values():
        return function(*arguments)
    if isinstance(function, type) and function in _CONSTRUCTORS:
        return _CONSTRUCTORS[function](*arguments)
    if isinstance(function, type) and issubclass(function, Enum) and len(arguments) == 1:
        return function(_key(arguments[0]))
    raise NotAllowedError(f"calls {_name(function)}")


def _new(cls: Any, arguments: tuple[Any, ...]) -> Any:
    if isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return cls(*arguments)
    if isinstance(cls, type) and is_data(cls) and not arguments:
        return object.__new__(cls)
    raise NotAllowedError(f"makes {_name(cls)}")


def _build(one: Any, state: Any) -> None:
    """Give an object that was made before its attributes."""
    cls = type(one)
    builder = _BUILDERS.get(np.dtype if isinstance(one, np.dtype) else cls)
    if builder is not None:
        builder(one, state)
        return
    if not is_data(cls):
        raise NotAllowedError(f"changes {_name(one)}")
    for name in _exactly(state, dict):
        if type(name) is not str or name.startswith("__"):
            raise NotAllowedError(f"gives {_name(one)} the attribute {name!r}")
    if isinstance(one, spaces.Space):
        # Those of old days have generators of a kind that spaces do not use any more, or none.
        state = {name: None if _is_old_generator(value) else value for name, value in state.items()}
    if hasattr(one, "__setstate__"):
        one.__setstate__(state)
    else:
        vars(one).update({sys.intern(name): value for name, value in state.items()})
    if isinstance(one, spaces.Space):
        vars(one).setdefault("_np_random", None)


def _is_old_generator(value: Any) -> bool:
    return type(value) in (np.random.RandomState, np.random.MT19937) or (
        type(value) is np.random.Generator and type(value.bit_generator) is np.random.MT19937
    )


# What compiled code and PyTorch take for granted


def _check_space(space: spaces.Space[Any]) -> None:
    """Refuse a space whose arrays do not have the shape and the type that it says."""
    if not _fits(space):
        raise ValueError(f"{_name(space)} has arrays or numbers of other shapes or types than it says")


def _fits(space: spaces.Space[Any]) -> bool:
    about = vars(space)
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = about.get("spaces")
        inner = parts.values() if isinstance(parts, dict) else parts
        return isinstance(inner, (list, tuple, type({}.values()))) and all(isinstance(p, spaces.Space) for p in inner)
    if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)):
        return True
    shape, dtype = about.get("_shape"), about.get("dtype")
    if type(shape) is not tuple or not all(_is_whole(n) and n >= 0 for n in shape):
        return False
    if not (isinstance(dtype, np.dtype) or (isinstance(dtype, type) and issubclass(dtype, (np.generic, int, float)))):
        return False
    number = np.dtype(dtype)
    if isinstance(space, spaces.Box):
        masks = [about[name] for name in ("bounded_below", "bounded_above") if about.get(name) is not None]
        bounds = [about.get("low"), about.get("high")]
        return all(_is_array(one, shape, number) for one in bounds) and all(
            _is_array(one, shape, np.dtype(bool)) for one in masks
        )
    if number.kind not in "iu":
        return False
    if isinstance(space, spaces.Discrete):
        start = about.get("start", 0)
        return shape == () and _is_whole(about.get("n")) and about["n"] > 0 and _is_whole(start)
    if isinstance(space, spaces.MultiBinary):
        n = about.get("n")
        return (n,) == shape if _is_whole(n) else isinstance(n, (tuple, list)) and tuple(n) == shape
    counts = [about.get("nvec"), *([about["start"]] if about.get("start") is not None else [])]
    whole = [one for one in counts if isinstance(one, np.ndarray) and one.shape == shape and one.dtype.kind in "iu"]
    return len(whole) == len(counts) and bool((counts[0] > 0).all())


def _is_whole(number: Any) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)


def _is_array(one: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    return isinstance(one, np.ndarray) and one.shape == shape and one.dtype == dtype


def _check_module(module: th.nn.Module) -> None:
    """Refuse a layer or a policy without the tables that each has."""
    about = vars(module)
    for name, kind in (("_modules", th.nn.Module), ("_parameters", th.Tensor), ("_buffers", th.Tensor)):
        table = about.get(name)
        if not isinstance(table, dict) or not all(one is None or isinstance(one, kind) for one in table.values()):
            raise ValueError(f"{_name(module)} does not have its {name}")


# Python's containers


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((_key(key), value) for key, value in _exactly(pairs, list, tuple))


def _set_metadata(one: OrderedDict[Any, Any], state: Any) -> None:
    """Of a state dictionary of PyTorch's."""
    _exactly(state, dict)
    if state.keys() != {"_metadata"}:
        raise NotAllowedError(f"gives {_name(one)} the attributes {', '.join(map(repr, state))}")
    vars(one).update(state)


def _deque(items: Any = (), maxlen: int | None = None) -> deque[Any]:
    return deque(_exactly(items, list, tuple), maxlen)


def _set(items: Any = ()) -> set[Any]:
    return set(map(_key, _exactly(items, list, tuple)))


def _frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(_set(items))


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, in the old protocols."""
    if encoding != "latin1":
        raise NotAllowedError(f"calls codecs.encode with {encoding!r}")
    return _exactly(text, str).encode("latin1")  # type: ignore[no-any-return]


# NumPy's arrays and generators

_NUMBERS = "biufc"


def _dtype(code: Any, _align: Any = False, _copy: Any = False) -> np.dtype[Any]:
    if type(code) is not str or re.fullmatch(r"[?bBhHiIlLqQefdgFDGO]|[biufc]\d{1,2}|O8", code) is None:
        raise NotAllowedError(f"has the dtype {code!r}")
    # A copy, of which the byte order can be set.
    return np.dtype(code, False, True)


def _set_dtype(one: Any, state: Any) -> None:
    # With other flags, NumPy would take numbers of a file for addresses; in another order, addresses for others.
    flags, orders = (63, "|") if one.hasobject else (0, "<>=|")
    if type(state) is not tuple or state[1:2] not in [(order,) for order in orders]:
        raise NotAllowedError("has a dtype of an unknown kind")
    if state != (3, state[1], None, None, None, -1, -1, flags):
        raise NotAllowedError("has a dtype of an unknown kind")
    one.__setstate__(state)


def _reconstruct(cls: Any, shape: Any, _code: Any) -> np.ndarray:
    if cls is not np.ndarray or shape != (0,):
        raise NotAllowedError(f"makes {_name(cls)} of the shape {shape!r}")
    return np.empty(0, np.int8)


def _set_array(one: np.ndarray, state: Any) -> None:
    _, shape, dtype, _, content = _exactly(state, tuple)
    size = _size(shape)
    whole = isinstance(dtype, np.dtype) and (
        (dtype.kind == "O" and type(content) is list and len(content) == size)
        or (dtype.kind in _NUMBERS and type(content) is bytes and len(content) == size * dtype.itemsize)
    )
    if not whole:
        raise NotAllowedError("has an array with other contents than its shape says")
    one.__setstate__(state)


def _size(shape: Any) -> int:
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise NotAllowedError(f"has an array of the shape {shape!r}")
    return math.prod(shape)


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or dtype.kind not in _NUMBERS:
        raise NotAllowedError(f"has a buffer of {dtype!r}")
    _size(shape)
    flat = np.frombuffer(_exactly(content, bytes, bytearray), dtype)
    found: np.ndarray = flat.reshape(shape, order="C" if order == "K" else order)
    return found.transpose(axes) if order == "K" else found


def _scalar(dtype: Any, content: Any) -> Any:
    return _from_buffer(content, dtype, (1,), "C")[0]


def _bit_generator(kind: Any = "MT19937") -> Any:
    if kind is np.random.PCG64 or (type(kind) is str and kind == "PCG64"):
        return np.random.PCG64(0)
    if kind is np.random.MT19937 or (type(kind) is str and kind == "MT19937"):
        return np.random.MT19937(0)
    raise NotAllowedError(f"has the random generator {kind if type(kind) is str else _name(kind)}")


def _generator(bits: Any = "MT19937", _function: Any = None) -> Any:
    return np.random.Generator(bits if type(bits) in _BIT_GENERATORS else _bit_generator(bits))


_BIT_GENERATORS = (np.random.PCG64, np.random.MT19937)


def _set_generator(one: np.random.Generator, state: Any) -> None:
    if state is not None:
        _check_bits(state)
        one.__setstate__(state)


def _set_bit_generator(one: Any, state: Any) -> None:
    bits, seeds = state if type(state) is tuple else (state, None)
    _check_bits(bits)
    if seeds is not None:
        _exactly(seeds, np.random.SeedSequence)
    one.__setstate__(state)


def _check_bits(state: Any) -> None:
    if _exactly(state, dict)["bit_generator"] == "MT19937":
        _check_twister(_exactly(state["state"], dict))
        return
    numbers = [*state["state"].values(), state["has_uint32"], state["uinteger"]]
    if state["bit_generator"] != "PCG64" or not all(type(number) is int for number in numbers):
        raise NotAllowedError("has a random generator in an unknown state")


def _check_twister(state: dict[str, Any]) -> None:
    """With another position, the generator would read beyond its numbers."""
    key, position = state["key"], state["pos"]
    if not isinstance(key, np.ndarray) or key.dtype.kind != "u" or key.shape != (624,):
        raise NotAllowedError("has a random generator in an unknown state")
    if type(position) is not int or not 0 <= position <= 624:
        raise NotAllowedError("has a random generator in an unknown state")


def _random_state(bits: Any = "MT19937", _function: Any = None) -> np.random.RandomState:
    made = bits if type(bits) is np.random.MT19937 else _bit_generator(bits)
    if type(made) is not np.random.MT19937:
        raise NotAllowedError(f"has the random generator {_name(made)}")
    return np.random.RandomState(made)


def _set_random_state(one: np.random.RandomState, state: Any) -> None:
    if type(state) is tuple and len(state) == 5:
        state = dict(zip(("bit_generator", "key", "pos", "has_gauss", "gauss"), state, strict=True))
        state["state"] = {"key": state.pop("key"), "pos": state.pop("pos")}
    _check_twister(_exactly(_exactly(state, dict)["state"], dict))
    has_gauss, gauss = state["has_gauss"], state["gauss"]
    if state["bit_generator"] != "MT19937" or type(has_gauss) is not int or type(gauss) is not float:
        raise NotAllowedError("has a random generator in an unknown state")
    one.set_state(state)


def _seeds(cls: Any, _checksum: Any, _state: Any) -> Any:
    if cls is not np.random.SeedSequence:
        raise NotAllowedError(f"makes {_name(cls)}")
    return cls.__new__(cls)


def _set_seeds(one: Any, state: Any) -> None:
    entropy, n_children, pool, size, key = _exactly(state, tuple)
    numbers = [
        *_exactly(key, tuple),
        *(entropy if type(entropy) in (list, tuple) else [entropy or 0]),
        n_children,
        size,
    ]
    right_pool = type(pool) is np.ndarray and pool.dtype == np.uint32 and pool.shape == (4,)
    if not right_pool or size != 4 or not all(type(number) is int for number in numbers):
        raise NotAllowedError("has a random generator with unknown seeds")
    one.__setstate__(state)


# PyTorch's tensors

_STORAGES = {
    "BFloat16Storage": th.bfloat16,
    "BoolStorage": th.bool,
    "ByteStorage": th.uint8,
    "CharStorage": th.int8,
    "DoubleStorage": th.float64,
    "FloatStorage": th.float32,
    "HalfStorage": th.float16,
    "IntStorage": th.int32,
    "LongStorage": th.int64,
    "ShortStorage": th.int16,
}


def _storage(content: Any) -> th.Tensor:
    """A flat tensor of the storage that PyTorch has written into bytes."""
    file = io.BytesIO(_exactly(content, bytes, bytearray))
    try:
        stored = th.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind, where the content is not PyTorch's
        raise NotAllowedError("has a tensor whose storage is none") from error
    return th.empty(0, dtype=stored.dtype).set_(stored)


def _tensor(
    flat: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, hooks: Any = None, _metadata: Any = None
) -> th.Tensor:
    numel, _, length = _size(size), _size(stride), _exactly(flat, th.Tensor).numel()
    last = _exactly(offset, int) + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if offset < 0 or numel > length or (numel and last >= length):
        raise NotAllowedError(f"has a tensor of the shape {size!r} in a storage of {length}")
    if hooks:
        raise NotAllowedError("has a tensor with hooks")
    found: th.Tensor = flat.as_strided(size, stride, offset if numel else 0).detach()
    return found.requires_grad_(bool(requires_grad))


def _parameter(tensor: Any, requires_grad: Any, hooks: Any) -> th.nn.Parameter:
    if hooks:
        raise NotAllowedError("has a parameter with hooks")
    return th.nn.Parameter(_exactly(tensor, th.Tensor), bool(requires_grad))


def _tensor_size(numbers: Any) -> th.Size:
    _size(numbers)
    return th.Size(numbers)


def _device(kind: Any, index: Any = None) -> th.device:
    _exactly(kind, str)
    return th.device(kind) if index is None else th.device(kind, _exactly(index, int))


# Functions

_SB3, _ZOOS = "stable_baselines3.common.utils", ("rl_zoo3.utils", "utils.utils")
# SB3 before 2.7 and old rl_zoo3 wrote their schedules as code, which is never made: by the names of its free variables,
# each is one of SB3's schedules of today.
_SCHEDULES: dict[tuple[str, ...], type] = {
    ("end", "end_fraction", "start"): LinearSchedule,
    ("initial_value",): LinearSchedule,
    ("val",): ConstantSchedule,
    ("value_schedule",): FloatSchedule,
}
_OLD_SCHEDULES = {
    (_SB3, "constant_fn.<locals>.func"): ("val",),
    (_SB3, "get_linear_fn.<locals>.func"): ("end", "end_fraction", "start"),
    (_SB3, "get_schedule_fn.<locals>.<lambda>"): ("value_schedule",),
    **{(zoo, "linear_schedule.<locals>.func"): ("initial_value",) for zoo in _ZOOS},
}


class _Code:
    """What is read of a function's code: its name, and the names of its free variables."""

    def __init__(self, *arguments: Any) -> None:
        texts = [one for one in arguments if type(one) is str]
        self.name = texts[1] if len(texts) > 1 else "?"
        self.free = arguments[-2] if len(arguments) > 1 else ()


class _Cell:
    def __init__(self, content: Any = None) -> None:
        self.content = content


def _code(*arguments: Any) -> _Code:
    return _Code(*arguments)


def _cell(*content: Any) -> _Cell:
    return _Cell(*content)


def _builtin_type(name: Any) -> Any:
    return _code if name == "CodeType" else _function


def _function(code: Any, *_rest: Any) -> Any:
    """An old schedule, still without its numbers."""
    free = _exactly(code, _Code).free
    if type(free) is tuple and all(type(name) is str for name in free) and free in _SCHEDULES:
        cls = _SCHEDULES[free]
        return object.__new__(cls)
    raise NotAllowedError(f"holds the function {code.name} as code")


def _fill(schedule: Any, state: Any) -> Any:
    """Give an old schedule its numbers."""
    if type(state) is tuple:
        about = _exactly(state[1], dict)
        module, name = about.get("__module__"), about.get("__qualname__")
        values = [_exactly(cell, _Cell).content for cell in about.get("__closure__") or ()]
    else:  # of cloudpickle before 1.5
        about = _exactly(state, dict)
        module, name, values = about.get("module"), about.get("qualname"), about.get("closure_values") or []
    known = type(module) is str and type(name) is str
    names = _OLD_SCHEDULES.get((module, name)) if known else None
    if names is None or type(schedule) is not _SCHEDULES[names] or vars(schedule) or len(values) != len(names):
        raise NotAllowedError(f"holds the function {module}.{name} as code")
    if names == ("value_schedule",):
        vars(schedule)["value_schedule"] = _exactly(values[0], *set(_SCHEDULES.values()))
        return schedule
    numbers = {key: float(_exactly(value, int, float, np.float64)) for key, value in zip(names, values, strict=True)}
    if names == ("initial_value",):
        numbers = {"start": numbers["initial_value"], "end": 0.0, "end_fraction": 1.0}
    vars(schedule).update(numbers)
    return schedule


def _attribute(owner: Any, name: Any) -> Any:
    """The schedule that stands in a policy's file."""
    if owner is BasePolicy and name == "_dummy_schedule":
        return ConstantSchedule(0.0)
    raise NotAllowedError(f"names {_name(owner)}.{name}")


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("__builtin__", "getattr"): _attribute,
    ("builtins", "getattr"): _attribute,
    ("_codecs", "encode"): _encode,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("numpy.random._pickle", "__bit_generator_ctor"): _bit_generator,
    ("numpy.random._pickle", "__generator_ctor"): _generator,
    ("numpy.random._pickle", "__randomstate_ctor"): _random_state,
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): _seeds,
    ("types", "CodeType"): _code,
    ("types", "FunctionType"): _function,
}
for _core in ("numpy.core", "numpy._core"):
    _FUNCTIONS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _FUNCTIONS[f"{_core}.multiarray", "scalar"] = _scalar
    _FUNCTIONS[f"{_core}.numeric", "_frombuffer"] = _from_buffer
for _module in ("cloudpickle.cloudpickle", "cloudpickle.cloudpickle_fast"):
    _FUNCTIONS[_module, "_builtin_type"] = _builtin_type
    _FUNCTIONS[_module, "_class_setstate"] = _body
    _FUNCTIONS[_module, "_fill_function"] = _fill
    _FUNCTIONS[_module, "_function_setstate"] = _fill
    _FUNCTIONS[_module, "_make_cell"] = _cell
    _FUNCTIONS[_module, "_make_empty_cell"] = _cell
    _FUNCTIONS[_module, "_make_function"] = _function
    _FUNCTIONS[_module, "_make_skel_func"] = _function
    _FUNCTIONS[_module, "_make_skeleton_class"] = _skeleton

_CONSTRUCTORS: dict[type, Callable[..., Any]] = {
    OrderedDict: _ordered,
    deque: _deque,
    frozenset: _frozenset,
    np.dtype: _dtype,
    set: _set,
    th.Size: _tensor_size,
    th.device: _device,
}
_BUILDERS: dict[type, Callable[[Any, Any], None]] = {
    OrderedDict: _set_metadata,
    np.dtype: _set_dtype,
    np.ndarray: _set_array,
    np.random.Generator: _set_generator,
    np.random.MT19937: _set_bit_generator,
    np.random.PCG64: _set_bit_generator,
    np.random.RandomState: _set_random_state,
    np.random.SeedSequence: _set_seeds,
}
