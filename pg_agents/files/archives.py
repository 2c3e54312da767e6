"""SB3's files, read without running anything: agents, policies, normalisers and replay buffers.

An agent is a zip file of `data`, JSON whose values may be pickles, and of tensors in `.pth` files, which PyTorch reads
with `weights_only=True`. Nothing of it is unpacked onto the disk.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import open_path

from pg_agents.files.allowed import NotAllowedError
from pg_agents.files.unpickling import Classes, loads

LARGEST = 2**30  # bytes of an agent, of a normaliser; a policy of 80 million parameters with Adam's state
LARGEST_DATA = 2**26  # bytes of its `data`
# What deflate makes of zeros is 1,000; of an agent, hardly 10.
MOST_COMPRESSED, SMALL = 100, 2**26

FilePath = str | Path | io.BufferedIOBase

_ADVICE = "trust=True (pg-zoo: --trust)"
_TRUST = f"If you trust whoever wrote it, say {_ADVICE}"
_TENSORS = ("pytorch_variables", "tensors")  # under both names, tensors that are no parameters
_VARIABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class UnsafeFileError(ValueError):
    """A zip file that is too large when it is unpacked, or has members that no agent has."""


@dataclass(frozen=True)
class AgentFile:
    """What an agent's file holds.

    Attributes:
        source: The file's name.
        data: The agent's attributes; None if there are none.
        members: The other members, by name.
    """

    source: str
    data: dict[str, Any] | None
    members: dict[str, bytes]

    def parameters(self, device: th.device | str = "cpu") -> dict[str, Any]:
        """The state dictionaries, by name.

        Raises:
            ValueError: One cannot be read.
        """
        names = [name.removesuffix(".pth") for name in self.members if name.endswith(".pth")]
        return {name: self._tensors(f"{name}.pth", device) for name in names if name not in _TENSORS}

    def without_pickles(self) -> io.BytesIO:
        """The same file with None for each attribute; SB3 takes them from `custom_objects`, which is to be `data`."""
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w") as archive:
            if self.data is not None:
                archive.writestr("data", json.dumps(dict.fromkeys(self.data)))
            for name, content in self.members.items():
                archive.writestr(name, content)
        written.seek(0)
        return written

    def check(self) -> None:
        """Refuse tensors of which PyTorch reads more than the file has, or which are put where they do not belong.

        Raises:
            UnsafeFileError: There are such.
        """
        for name, content in self.members.items():
            if name.endswith(".pth") and zipfile.is_zipfile(io.BytesIO(content)):
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    check_members(archive, f"{self.source} ({name})", len(content))
            found = self._tensors(name) if name.endswith(".pth") else None
            if name.removesuffix(".pth") in _TENSORS:
                if not isinstance(found, dict) or not all(map(_VARIABLE.fullmatch, found)):
                    raise UnsafeFileError(f"{self.source} ({name}) must hold tensors by the names of attributes.")
                if any(part.startswith("__") for path in found for part in path.split(".")):
                    raise UnsafeFileError(f"{self.source} ({name}) changes what is no attribute of an agent.")

    def _tensors(self, member: str, device: th.device | str = "cpu") -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's, of what is refused
                return th.load(io.BytesIO(self.members[member]), map_location=device, weights_only=True)
        except Exception as error:  # of any kind, and of many lines
            raise ValueError(f"{self.source} ({member}) holds something that is no tensor, or is damaged.") from error


def read_agent(
    path: FilePath,
    *,
    custom_objects: dict[str, Any] | None = None,
    arguments: dict[str, Any] | None = None,
    classes: Iterable[type] = (),
    data: bool = True,
    instead: dict[str, Any] | None = None,
) -> AgentFile:
    """Read an agent's file.

    Args:
        path: The file, with or without `.zip`.
        custom_objects: Values that replace those of the same names in the file, which are not read then. Classes among
            them may be named anywhere in the file.
        arguments: Of `load`, which replace values in the file too.
        classes: Further classes that the file may name.
        data: Whether to read the agent's attributes.
        instead: Values that take the place of those that are not allowed.

    Raises:
        FileNotFoundError: There is no such file.
        NotAllowedError: It names, calls or changes something that is not on the allow-list.
        UnsafeFileError: It is too large, or has members that no agent has.
        ValueError: It is no agent's file.
    """
    if custom_objects is not None and not isinstance(custom_objects, dict):
        raise ValueError("custom_objects argument must be a dict or None")
    given = {**(arguments or {}), **(custom_objects or {})}
    if "learning_rate" in given:
        given.setdefault("lr_schedule", None)  # which SB3 makes anew from the learning rate
    source = _name(path)
    with _opened(path, "zip") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                size = file.seek(0, io.SEEK_END)
                check_members(archive, source, size, largest=LARGEST)
                members = {
                    name: archive.read(name)
                    for name in archive.namelist()
                    if name.endswith(".pth") or name in ("data", "system_info.txt", "_stable_baselines3_version")
                }
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"Error: the file {source} wasn't a zip-file that can be read: {error}") from error
    written = members.pop("data", None)
    known = [*classes, *(value for value in given.values() if isinstance(value, type))]
    attributes = None
    if written is not None and data:
        attributes = _attributes(written, source, given, by_name(known), instead or {})
    found = AgentFile(source, attributes, members)
    found.check()
    return found


# Of optimisers, what has a number for each of a parameter.
_MOMENTS = {"exp_avg", "exp_avg_sq", "grad_avg", "max_exp_avg_sq", "momentum_buffer", "square_avg"}


def check_optimizer(optimizer: th.optim.Optimizer, given: Any) -> None:
    """Refuse a state whose tensors do not have the shapes of the parameters, as compiled code writes into them.

    Args:
        optimizer: The optimiser.
        given: Its `state_dict` as a file has it.

    Raises:
        ValueError: It is such a state.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in given["param_groups"] for number in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=False))  # PyTorch says so if they are not as many
    for number, state in given["state"].items():
        for name, value in state.items():
            if not isinstance(value, th.Tensor) or number not in by_number:
                continue
            shape = by_number[number].shape
            fits = value.numel() == 1 if name == "step" else value.shape == shape and value.is_contiguous()
            if name in {"step", *_MOMENTS} and not fits:
                raise ValueError(
                    f"The optimiser's {name} must have the shape {tuple(shape)} of its parameter, but has "
                    f"{tuple(value.shape)} with strides {value.stride()}."
                )


def by_name(classes: Iterable[type]) -> Classes:
    """Classes by module and name, as files name them."""
    return {(cls.__module__, cls.__qualname__): cls for cls in classes}


def read_pickle(path: FilePath, *, trust: bool = False, largest: float = LARGEST) -> Any:
    """What a file with one pickle holds.

    Args:
        path: The file, with or without `.pkl`.
        trust: Let it run code.
        largest: Bytes, at most; there is no limit to what is trusted.

    Raises:
        NotAllowedError: It names, calls or changes something that is not on the allow-list.
        UnsafeFileError: It is too large.
        ValueError: It cannot be read.
    """
    with _opened(path, "pkl") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if size > largest and not trust:
            raise UnsafeFileError(f"{_name(path)} has {size:,} bytes; {largest:,} is the limit. {_TRUST}.")
        return loads(file.read(), source=_name(path), trust=trust)


def read_policy(path: FilePath, *, trust: bool = False, classes: Iterable[type] = ()) -> dict[str, Any]:
    """The state dictionary and the constructor's arguments, `state_dict` and `data`, of a policy's file.

    Raises:
        NotAllowedError: It names, calls or changes something that is not on the allow-list.
        UnsafeFileError: It is too large.
        ValueError: It is no policy's file.
    """
    source = _name(path)
    with _opened(path, "") as file:
        if trust:
            found = th.load(file, map_location="cpu", weights_only=False)
        else:
            try:
                with zipfile.ZipFile(file) as archive:
                    check_members(archive, source, file.seek(0, io.SEEK_END), largest=LARGEST)
                    found = _torch_pickle(archive, source, by_name(classes))
            except (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
                raise ValueError(f"{source} is not the file of a policy: {error}") from error
    if not isinstance(found, dict) or not {"state_dict", "data"} <= found.keys():
        raise ValueError(f"{source} is not the file of a policy.")
    return found


def check_members(archive: zipfile.ZipFile, source: str, size: int, *, largest: float = float("inf")) -> None:
    """Refuse a zip file that would be very large when unpacked, or whose members lead elsewhere.

    Args:
        archive: The file.
        source: Its name, for errors.
        size: Its bytes.
        largest: Bytes of all members together, at most.

    Raises:
        UnsafeFileError: It is such a file.
    """
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if total > largest:
        raise UnsafeFileError(f"{source} has {total:,} bytes when it is unpacked; {largest:,} is the limit. {_TRUST}.")
    if total > max(SMALL, MOST_COMPRESSED * size):
        raise UnsafeFileError(
            f"{source} has {total:,} bytes when it is unpacked, {total // max(size, 1):,} times those of the file: "
            f"{MOST_COMPRESSED} times is the limit."
        )
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise UnsafeFileError(f"{source} has two members of one name.")
    for member in members:
        parts = re.split(r"[/\\]", member.filename)
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise UnsafeFileError(f"{source} has the member {member.filename!r}, which leads out of it.")
        if (member.external_attr >> 28) == 0o12:
            raise UnsafeFileError(f"{source} has the member {member.filename!r}, which is a link.")


def _attributes(
    written: bytes, source: str, given: dict[str, Any], classes: Classes, instead: dict[str, Any]
) -> dict[str, Any]:
    if len(written) > LARGEST_DATA:
        raise UnsafeFileError(
            f"{source} has {len(written):,} bytes of `data`; {LARGEST_DATA:,} is the limit. {_TRUST}."
        )
    try:
        found = json.loads(written.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} (data) is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{source} (data) must hold an agent's attributes by name.")
    data = {}
    for key, one in found.items():
        try:
            data[key] = given[key] if key in given else _value(key, one, source, classes)
        except NotAllowedError:
            if key not in instead:
                raise
            data[key] = instead[key]
    if data.get("env") is not None and "env" not in given:
        # SB3 would make it, and import the module that its id names.
        raise NotAllowedError(f"{source} (data: env) names an environment, which could run code. {_TRUST}.", _ADVICE)
    if not (isinstance(cls := data.get("policy_class", BasePolicy), type) and issubclass(cls, BasePolicy)):
        raise ValueError(f"{source} (data: policy_class) must be a policy's class, but is {cls!r}.")
    return data


def _value(key: str, one: Any, source: str, classes: Classes) -> Any:
    if not (isinstance(one, dict) and ":serialized:" in one):
        return one
    try:
        pickled = base64.b64decode(one[":serialized:"])
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"{source} (data: {key}) cannot be read: {error}") from error
    remedy = f"; or give a value of your own instead, custom_objects={{{key!r}: ...}}, or the class that is named there"
    return loads(pickled, source=source, member=f"data: {key}", classes=classes, remedy=remedy)


def _torch_pickle(archive: zipfile.ZipFile, source: str, classes: Classes) -> Any:
    pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), "")
    if not pickled:
        raise ValueError(f"{source} is not the file of a policy: it has no data.pkl.")
    folder = pickled.removesuffix("data.pkl")

    def storage(persistent_id: Any) -> th.Tensor:
        kind, dtype, key, _, numel = persistent_id
        if kind != "storage" or not isinstance(dtype, th.dtype) or not str(key).isdecimal():
            raise NotAllowedError(f"has a persistent id of the kind {kind!r}")
        content = bytearray(archive.read(f"{folder}data/{key}"))
        flat = th.frombuffer(content, dtype=dtype) if content else th.empty(0, dtype=dtype)
        return flat[:numel]

    return loads(archive.read(pickled), source=source, member="data.pkl", classes=classes, storage=storage)


def _opened(path: FilePath, suffix: str) -> Any:
    """The file, closed at the end unless it was open before."""
    if isinstance(path, (str, Path)):
        return open_path(path, "r", suffix=suffix)
    return nullcontext(open_path(path, "r"))


def _name(path: FilePath) -> str:
    return str(path) if isinstance(path, (str, Path)) else "the file"
