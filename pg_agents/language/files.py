"""Agents as folders: the models as `save_pretrained` writes them, tensors as safetensors, numbers as JSON."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
import zlib
from collections import deque
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch as th
from safetensors.torch import load_file, save_file
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from pg_agents.arguments import constructor_arguments
from pg_agents.files.archives import UnsafeFileError, check_members
from pg_agents.files.writing import UNFINISHED, replacing, replacing_folder
from pg_agents.language.models import (
    ADAPTER,
    between_libraries,
    disk_errors,
    language_model,
    load_tokenizer,
    save_model,
)

_ALGORITHM, _STATE = "pg_agents.json", "training.safetensors"
# Folders of the model below an adapter, and of a reference that is not that model.
_BASE, _REFERENCE = "base", "reference"
_NOT_SAVED = {"policy", "tokenizer", "prompts", "reward", "env", "device", "lora", "_init_setup_model"}
_COUNTERS = (
    *("num_timesteps", "_n_updates", "_episode_num", "_total_timesteps", "_current_progress_remaining"),
    "_schedules_end",
)

Agent = TypeVar("Agent", bound=OnPolicyAlgorithm)


def save(agent: Any, path: Any) -> None:
    """Write an agent, which replaces an older one when it is whole; see `LanguageAlgorithm.save`.

    Args:
        agent: A `LanguageAlgorithm`.
        path: The folder, or the zip file.

    Raises:
        ValueError: `path` is an open file, or something else than an agent stands there.
        OSError: The agent cannot be written; an older one is as it was.
    """
    target = _path(path)
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path):
        if target.suffix == ".zip":
            _write_zip(agent, target)
            return
        with replacing_folder(target) as folder:
            _write(agent, folder)


def load(cls: type[Agent], path: Any, arguments: dict[str, Any]) -> Agent:
    """Build an agent from what `save` has written; see `LanguageAlgorithm.load`.

    Args:
        cls: Its class.
        path: The folder, or the zip file.
        arguments: Constructor arguments that replace those of the file.

    Raises:
        FileNotFoundError: There is no such file.
        UnsafeFileError: It is a zip file that is very large when unpacked, or whose members lead elsewhere.
        ValueError: It holds no agent, arguments that the class does not take, or lacks a schedule that it had.
    """
    source = _path(path)
    if not source.exists() and source.suffix != ".zip":
        source = source.with_name(f"{source.name}.zip")
    if not source.exists():
        raise FileNotFoundError(f"`path` must be an agent's folder or zip file, but there is none at {str(path)!r}.")
    if source.is_dir():
        return cast(Agent, _read(cls, source, source, arguments))
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(source) as archive:
                check_members(archive, str(source), source.stat().st_size)
                needed = sum(member.file_size for member in archive.infolist())
                if needed > (free := shutil.disk_usage(folder).free):
                    raise UnsafeFileError(f"{source} has {needed:,} bytes when it is unpacked; {free:,} are free.")
                archive.extractall(folder)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"`path` must be an agent's folder or zip file, but {str(source)!r}: {error}.") from error
        return cast(Agent, _read(cls, Path(folder), source, arguments))


def _check_replaceable(target: Path) -> None:
    """Refuse to replace what is not an agent."""
    if target.suffix == ".zip":
        if target.is_dir():
            raise ValueError(f"`path` must be a zip file or a new one, but {str(target)!r} is a folder.")
        return
    if not target.exists():
        return
    found = "a file"
    if target.is_dir():
        names = sorted(file.name for file in target.iterdir())
        if not names or _ALGORITHM in names:
            return
        found = f"a folder with {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}, and no {_ALGORITHM}"
    raise ValueError(
        f"`path` must be a new folder, an empty one or that of an older agent, which is replaced, but {str(target)!r} "
        f"is {found}."
    )


def _path(path: Any) -> Path:
    if not isinstance(path, (str, Path)):
        raise ValueError(f"`path` must be a folder or a zip file by its name, but is {path!r}.")
    return Path(path)


def _write_zip(agent: Any, target: Path) -> None:
    with replacing(target) as beside, tempfile.TemporaryDirectory(UNFINISHED, ".", target.parent) as unpacked:
        folder = Path(unpacked)
        _write(agent, folder)
        with zipfile.ZipFile(beside, "w") as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder).as_posix())


def _write(agent: Any, folder: Path) -> None:
    policy = agent.policy
    save_model(policy.model, folder, agent.tokenizer)
    if policy.has_adapter:
        save_model(deepcopy(policy.model).unload(), folder / _BASE)
    if policy.reference is not None:
        save_model(policy.reference, folder / _REFERENCE)
    tensors = {f"random.{name}": value for name, value in agent.random_state().items()}
    if policy.value_head is not None:
        tensors |= {f"value_head.{name}": value for name, value in policy.value_head.state_dict().items()}
    for number, state in policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": th.as_tensor(value) for name, value in state.items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / _STATE)
    values = {
        name: getattr(agent, "_stats_window_size" if name == "stats_window_size" else name)
        for name in constructor_arguments(type(agent))
        if name not in _NOT_SAVED
    }
    functions = sorted(name for name, value in values.items() if callable(value))
    written = {
        "algorithm": type(agent).__name__,
        "arguments": {name: value for name, value in values.items() if name not in functions},
        "functions": functions,
        "counters": {name: getattr(agent, name) for name in _COUNTERS},
        "ep_info_buffer": None if agent.ep_info_buffer is None else list(agent.ep_info_buffer),
    }
    (folder / _ALGORITHM).write_text(json.dumps(written, indent=1, default=_as_json), encoding="utf-8")


def _as_json(value: Any) -> Any:
    """NumPy's numbers and paths, as JSON has them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"An agent's arguments are saved as numbers and texts, which {value!r} is not.")


def _read(cls: Any, folder: Path, source: Path, given: dict[str, Any]) -> Any:
    if not (folder / _ALGORITHM).is_file():
        raise ValueError(f"{str(source)!r} must hold an agent, with a file {_ALGORITHM}.")
    written = json.loads((folder / _ALGORITHM).read_text(encoding="utf-8"))
    unknown = (written["arguments"].keys() | set(written["functions"])) - set(constructor_arguments(cls))
    if unknown:
        raise ValueError(
            f"{str(source)!r} holds a {written['algorithm']}, with arguments that {cls.__name__} does not take: "
            f"{', '.join(sorted(unknown))}."
        )
    if given.get("lora") is not None:
        raise ValueError("`lora` must not be given to `load`, which reads the adapter as it was saved.")
    missing = set(written["functions"]) - given.keys()
    if missing:
        raise ValueError(f"`{min(missing)}` was a function, which is not saved: give it to `load`.")
    tokenizer = given.pop("tokenizer", None) or load_tokenizer(folder)
    arguments = {**written["arguments"], **given, "tokenizer": tokenizer}
    if not (folder / _BASE).is_dir():
        agent = cls(language_model(folder / _REFERENCE, "auto"), **arguments)
        agent.policy.model.load_state_dict(language_model(folder, "auto").state_dict())
    elif (folder / _REFERENCE).is_dir():
        agent = cls(_adapted(language_model(folder / _BASE, "auto"), folder / ADAPTER), **arguments)
        agent.policy.reference.load_state_dict(language_model(folder / _REFERENCE, "auto").state_dict())
    else:
        agent = _with_lora(cls, folder, arguments)
    policy = agent.policy
    tensors = load_file(folder / _STATE)
    if policy.value_head is not None:
        policy.value_head.load_state_dict(_part(tensors, "value_head"))
    states: dict[int, dict[str, th.Tensor]] = {}
    for name, value in _part(tensors, "optimizer").items():
        number, _, key = name.partition(".")
        states.setdefault(int(number), {})[key] = value
    policy.optimizer.load_state_dict({**policy.optimizer.state_dict(), "state": states})
    agent.set_random_state(_part(tensors, "random"))
    if written["ep_info_buffer"] is not None:
        agent.ep_info_buffer = deque(written["ep_info_buffer"], maxlen=agent._stats_window_size)
        agent.ep_success_buffer = deque(maxlen=agent._stats_window_size)  # a text has no success
    for name, value in written["counters"].items():
        setattr(agent, name, value)
    return agent


def _adapted(model: Any, folder: Path) -> Any:
    """A model with the adapter of a folder, which is a folder below where it has a name of its own."""
    from peft import PeftModel

    found = next(folder.rglob("adapter_config.json")).parent
    with between_libraries():
        return PeftModel.from_pretrained(
            model, found, adapter_name="default" if found == folder else found.name, is_trainable=True
        )


def _with_lora(cls: Any, folder: Path, arguments: dict[str, Any]) -> Any:
    """An agent whose reference is the model below the adapter."""
    from peft import PeftConfig, load_peft_weights, set_peft_model_state_dict

    lora = PeftConfig.from_pretrained(folder / ADAPTER)
    lora.inference_mode = False
    agent = cls(language_model(folder / _BASE, "auto"), **{**arguments, "lora": lora})
    set_peft_model_state_dict(agent.policy.model, load_peft_weights(str(folder / ADAPTER), device="cpu"))
    return agent


def _part(tensors: dict[str, th.Tensor], name: str) -> dict[str, th.Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
