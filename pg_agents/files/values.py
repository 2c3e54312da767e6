"""Trees of plain values as files: JSON for the structure, safetensors for arrays and tensors. Nothing is pickled.

A tree consists of None, bools, numbers, texts, bytes, lists, tuples, sets, deques, dictionaries, NumPy arrays and
scalars, torch tensors, and classes on the allow-list. It is read back equal, bit for bit.
"""

from __future__ import annotations

import base64
import json
import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from pg_agents.files.allowed import NotAllowedError, find

SCHEMA = "pg_agents.values"
VERSION = 1
LARGEST = 2**31  # bytes of a file of numbers that is read
DEEPEST = 200  # levels of a tree

# Types that NumPy has no name for, as the integers of their bits.
_AS_INTEGERS = {th.bfloat16: th.int16}
_KINDS = "biufc"


class NotPlainError(TypeError):
    """A value that cannot be written, with its place in the tree."""


class DamagedFileError(ValueError):
    """A file that is not whole, or was not written by `write`."""


def write(tree: Any, folder: Path, name: str) -> None:
    """Write a tree as `name.json` and `name.safetensors`.

    Args:
        tree: The tree.
        folder: Where the files go; it must exist.
        name: Of the files, without the ending.

    Raises:
        NotPlainError: A value of the tree is of another type.
    """
    import safetensors.numpy  # here, because it takes time and SB3 does not import it

    writer = _Writer()
    content = writer.encoded(tree, name)
    text = json.dumps({"schema": SCHEMA, "version": VERSION, "content": content}, allow_nan=False)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / f"{name}.safetensors").write_bytes(safetensors.numpy.save(writer.arrays))


def read(folder: Path, name: str) -> Any:
    """Read what `write` has written.

    Args:
        folder: Where the files are.
        name: Of the files, without the ending.

    Raises:
        DamagedFileError: A file is missing, damaged, too large, or of a later version.
        NotAllowedError: It names a class that is not on the allow-list.
    """
    import safetensors.numpy  # as above

    path, numbers = folder / f"{name}.json", folder / f"{name}.safetensors"
    try:
        for file in (path, numbers):
            if file.stat().st_size > LARGEST:
                raise DamagedFileError(f"{file} has {file.stat().st_size} bytes, but {LARGEST} is the limit.")
        written = json.loads(path.read_text(encoding="utf-8"))
        arrays = safetensors.numpy.load(numbers.read_bytes())
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError, KeyError, TypeError) as error:
        if isinstance(error, DamagedFileError):
            raise
        raise DamagedFileError(f"{folder / name} cannot be read: {error}") from error
    if not isinstance(written, dict) or written.get("schema") != SCHEMA:
        raise DamagedFileError(f"{path} is not a file of the schema {SCHEMA}.")
    if written.get("version") != VERSION:
        raise DamagedFileError(
            f"{path} has version {written.get('version')!r}, but this version of pg-agents reads {VERSION}."
        )
    return _decoded(written.get("content"), arrays, path, 0)


class _Writer:
    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def encoded(self, value: Any, place: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, str, int):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is list:
            return [self.encoded(item, f"{place}[{i}]") for i, item in enumerate(value)]
        return {**self._tagged(value, place)}

    def _tagged(self, value: Any, place: str) -> dict[str, Any]:
        kind = type(value)
        if issubclass(kind, dict):
            if all(type(key) is str for key in value):
                return {"texts": {key: self.encoded(item, f"{place}.{key}") for key, item in value.items()}}
            pairs = [[self.encoded(key, place), self.encoded(item, f"{place}[{key!r}]")] for key, item in value.items()]
            return {"dict": pairs}
        for name, container in _CONTAINERS.items():
            if kind is container:
                items = sorted(value, key=repr) if issubclass(kind, (set, frozenset)) else value
                return {name: [self.encoded(item, f"{place}[{i}]") for i, item in enumerate(items)]}
        if kind is deque:
            items = [self.encoded(item, f"{place}[{i}]") for i, item in enumerate(value)]
            return {"deque": items, "maxlen": value.maxlen}
        if kind is bytes:
            return {"bytes": base64.b64encode(value).decode("ascii")}
        if isinstance(value, th.Tensor):
            return self._tensor(value, place)
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value), place)}
        if isinstance(value, np.ndarray):
            return self._array(value, place)
        if isinstance(value, type):
            found = f"{value.__module__}:{value.__qualname__}"
            find(value.__module__, value.__qualname__)
            return {"class": found}
        raise NotPlainError(f"{place} is a {kind.__module__}.{kind.__qualname__}, which is not a plain value.")

    def _array(self, array: np.ndarray, place: str) -> dict[str, Any]:
        if array.dtype.kind == "U":
            return {"words": array.tolist(), "length": array.dtype.itemsize // 4}
        if array.dtype.kind == "S":
            bits = np.frombuffer(array.tobytes(), dtype=np.uint8).reshape(*array.shape, array.dtype.itemsize)
            return {"byte strings": self._array(bits, place)}
        if array.dtype.kind not in _KINDS or array.dtype.itemsize > 16:
            raise NotPlainError(f"{place} is an array of {array.dtype}, which is neither numbers nor texts.")
        name = f"{len(self.arrays)}"
        native = array.astype(array.dtype.newbyteorder("="), order="C", copy=True)
        if native.dtype.kind == "c":
            self.arrays[name] = np.stack([native.real, native.imag], axis=-1)
            return {"complex": name}
        self.arrays[name] = native
        return {"array": name}

    def _tensor(self, tensor: th.Tensor, place: str) -> dict[str, Any]:
        plain = tensor.detach().cpu()
        bits = _AS_INTEGERS.get(plain.dtype)
        array = (plain if bits is None else plain.contiguous().view(bits)).numpy()
        return {"tensor": self._array(array, place), "dtype": str(plain.dtype).removeprefix("torch.")}


def _decoded(value: Any, arrays: dict[str, np.ndarray], path: Path, depth: int) -> Any:
    if depth > DEEPEST:
        raise DamagedFileError(f"{path} is nested more than {DEEPEST} levels deep.")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_decoded(item, arrays, path, depth + 1) for item in value]
    try:
        return _of_tag(value, arrays, path, depth)
    except (DamagedFileError, NotAllowedError):
        raise
    except (KeyError, AttributeError, TypeError, ValueError, IndexError, RuntimeError, StopIteration) as error:
        raise DamagedFileError(f"{path} has a value that cannot be read: {str(value)[:80]}") from error


def _of_tag(value: dict[str, Any], arrays: dict[str, np.ndarray], path: Path, depth: int) -> Any:
    def inner(item: Any) -> Any:
        return _decoded(item, arrays, path, depth + 1)

    tag = next(iter(value))
    content = value[tag]
    if tag == "texts":
        return {key: inner(item) for key, item in content.items()}
    if tag == "dict":
        return {inner(key): inner(item) for key, item in content}
    if tag in _CONTAINERS:
        return _CONTAINERS[tag](inner(item) for item in content)
    if tag == "deque":
        return deque((inner(item) for item in content), maxlen=value["maxlen"])
    if tag == "float":
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]
    if tag == "bytes":
        return base64.b64decode(content)
    if tag == "array":
        return np.array(arrays[content])
    if tag == "complex":
        parts = arrays[content]
        return parts[..., 0] + 1j * parts[..., 1]
    if tag == "words":
        return np.array(content, dtype=f"<U{int(value['length'])}")
    if tag == "byte strings":
        bits = np.ascontiguousarray(inner(content))
        return np.frombuffer(bits.tobytes(), dtype=f"S{bits.shape[-1]}").reshape(bits.shape[:-1]).copy()
    if tag == "scalar":
        return inner(content)[()]
    if tag == "tensor":
        dtype = getattr(th, value["dtype"])
        tensor = th.from_numpy(np.array(inner(content)))
        return tensor.view(dtype) if dtype in _AS_INTEGERS else tensor
    if tag == "class":
        module, _, name = content.partition(":")
        return find(module, name)
    raise KeyError(tag)


_CONTAINERS: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}
