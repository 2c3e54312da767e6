"""Agents as folders: the models as `save_pretrained` writes them, tensors as safetensors, numbers as JSON."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import torch as th
from safetensors.torch import load_file, save_file
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from pg_agents.arguments import constructor_arguments
from pg_agents.language.models import between_libraries, language_model, load_tokenizer, save_model

_ALGORITHM, _STATE = "pg_agents.json", "training.safetensors"
_BASE, _REFERENCE = "base", "reference"  # folders of the model below an adapter, and of the reference
_NOT_SAVED = {"policy", "tokenizer", "prompts", "reward", "env", "device", "lora", "_init_setup_model"}
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_total_timesteps", "_current_progress_remaining")

Agent = TypeVar("Agent", bound=OnPolicyAlgorithm)


def save(agent: Any, path: Any) -> None:
    """Write an agent, beside an older one first; see `LanguageAlgorithm.save`.

    Args:
        agent: A `LanguageAlgorithm`.
        path: The folder, or the zip file.

    Raises:
        ValueError: `path` is an open file.
    """
    target = _path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as beside:
        folder = Path(beside) / "agent"
        folder.mkdir()
        _write(agent, folder)
        if target.suffix == ".zip":
            written = Path(beside) / "agent.zip"
            with zipfile.ZipFile(written, "w") as archive:
                for file in sorted(folder.rglob("*")):
                    if file.is_file():
                        archive.write(file, file.relative_to(folder).as_posix())
            os.replace(written, target)
            return
        if target.exists():
            os.replace(target, Path(beside) / "older")
        os.replace(folder, target)


def load(cls: type[Agent], path: Any, arguments: dict[str, Any]) -> Agent:
    """Build an agent from what `save` has written; see `LanguageAlgorithm.load`.

    Args:
        cls: Its class.
        path: The folder, or the zip file.
        arguments: Constructor arguments that replace those of the file.

    Raises:
        ValueError: There is no such file, it holds another algorithm, or lacks a schedule that it had.
    """
    source = _path(path)
    if not source.exists() and source.suffix != ".zip":
        source = source.with_name(f"{source.name}.zip")
    if source.is_file():
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(source) as archive:
                archive.extractall(folder)
            agent: Agent = _read(cls, Path(folder), arguments)
    else:
        agent = _read(cls, Path(path), arguments)
    return agent


def _path(path: Any) -> Path:
    if not isinstance(path, (str, Path)):
        raise ValueError(f"`path` must be a folder or a zip file by its name, but is {path!r}.")
    return Path(path)


def _write(agent: Any, folder: Path) -> None:
    policy = agent.policy
    save_model(policy.model, folder, agent.tokenizer)
    if policy.has_adapter:
        save_model(deepcopy(policy.model).unload(), folder / _BASE)
    else:
        save_model(policy.reference, folder / _REFERENCE)
    tensors = {
        "generator": agent._generator.get_state(),
        "order_generator": agent._order_generator.get_state(),
        "waiting": th.tensor(agent._waiting, dtype=th.int64),
    }
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
    }
    (folder / _ALGORITHM).write_text(json.dumps(written, indent=1), encoding="utf-8")


def _read(cls: Any, folder: Path, given: dict[str, Any]) -> Any:
    if not (folder / _ALGORITHM).is_file():
        raise ValueError(f"{str(folder)!r} must hold an agent, with a file {_ALGORITHM}.")
    written = json.loads((folder / _ALGORITHM).read_text(encoding="utf-8"))
    if written["algorithm"] != cls.__name__:
        raise ValueError(f"{str(folder)!r} holds a {written['algorithm']}, and not a {cls.__name__}.")
    missing = set(written["functions"]) - given.keys()
    if missing:
        raise ValueError(f"`{min(missing)}` was a function, which is not saved: give it to `load`.")
    has_adapter = (folder / _BASE).is_dir()
    model = language_model(folder / (_BASE if has_adapter else _REFERENCE))
    if has_adapter:
        from peft import PeftModel

        with between_libraries():
            model = PeftModel.from_pretrained(model, folder, is_trainable=True)
    tokenizer = given.pop("tokenizer", None) or load_tokenizer(folder)
    agent = cls(model, tokenizer=tokenizer, **{**written["arguments"], **given})
    policy = agent.policy
    if not has_adapter:
        policy.model.load_state_dict(language_model(folder).state_dict())
    tensors = load_file(folder / _STATE)
    if policy.value_head is not None:
        policy.value_head.load_state_dict(_part(tensors, "value_head"))
    states: dict[int, dict[str, th.Tensor]] = {}
    for name, value in _part(tensors, "optimizer").items():
        number, _, key = name.partition(".")
        states.setdefault(int(number), {})[key] = value
    policy.optimizer.load_state_dict({**policy.optimizer.state_dict(), "state": states})
    agent._generator.set_state(tensors["generator"].cpu())
    agent._order_generator.set_state(tensors["order_generator"])
    agent._waiting = tensors["waiting"].tolist()
    for name, value in written["counters"].items():
        setattr(agent, name, value)
    return agent


def _part(tensors: dict[str, th.Tensor], name: str) -> dict[str, th.Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
