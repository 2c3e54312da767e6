"""Hyperparameters as data: what of them may be evaluated or imported, and the values in their text."""

from __future__ import annotations

import ast
import importlib
import importlib.resources
import importlib.util
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from typing import Any

from pg_agents import registry
from pg_zoo.errors import UserError
from pg_zoo.recipes import limits

# What rl_zoo3 evaluates as Python where it is a string, and the classes that its own files name there.
_EXPRESSIONS = ("monitor_kwargs", "normalize", "policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs")
_NAMED_CLASSES = {
    "HerReplayBuffer": "stable_baselines3",
    "RMSpropTFLike": "stable_baselines3.common.sb2_compat.rmsprop_tf_like",
}
# What it imports by name and calls.
_KINDS = {
    "callback": "stable_baselines3.common.callbacks.BaseCallback",
    "env_wrapper": "gymnasium.Wrapper",
    "policy": "stable_baselines3.common.policies.BasePolicy",
    "vec_env_wrapper": "stable_baselines3.common.vec_env.VecEnvWrapper",
}
_NAMES_A_PATH = re.compile(r"(path|file|filename|folder|dir|directory|log|logs)$")

# What users of a command are told that can let code run; the others have a text of their own.
TRUST = "If you trust whoever wrote it, say --trust."


def data_only(entry: dict[str, Any], origin: str, remedy: str = TRUST) -> dict[str, Any]:
    """An entry in which rl_zoo3 finds nothing to evaluate, and no name of anything but what it should be.

    Args:
        entry: The hyperparameters as a file has them.
        origin: Where they are from, in words.
        remedy: What can be done about code, in words.

    Returns:
        The entry with parsed values in place of what rl_zoo3 would evaluate.

    Raises:
        UserError: A string is code rather than data, or it is not the name of a class of the expected kind, in a
            package that is in use already or a plugin's.
    """
    data = dict(entry)
    for key in _EXPRESSIONS:
        text = entry.get(key)
        if isinstance(text, str):
            try:
                data[key] = _parsed(text)
            except ValueError:
                raise UserError(
                    f"{origin}: {key} is {text!r}, which is code: neither a Python literal nor dict(...) of literals "
                    f"and nn.X. {remedy}"
                ) from None
    for key, kind in _KINDS.items():
        named = entry.get(key)
        for item in named if isinstance(named, list) else [named]:
            # `name`, or `name: {its arguments}`.
            name = next(iter(item), None) if isinstance(item, dict) else item
            if name is not None and (key != "policy" or names_a_class(str(name))):
                _check_class(str(name), kind, f"{origin}: {key}", remedy)
            if path := next(_paths(item), None) if isinstance(item, dict) else None:
                raise UserError(
                    f"{origin}: {key} has the argument {path}, a path, and may write there, outside the run's folder. "
                    f"{remedy}"
                )
    return data


def _paths(value: Any, name: str = "") -> Iterator[str]:
    """Arguments that name a file or folder, which a wrapper or callback may write."""
    match value:
        case dict():
            for key, item in value.items():
                yield from _paths(item, str(key))
        case list() | tuple():
            for item in value:
                yield from _paths(item, name)
        case str() if value and (re.search(r"[/\\~]|^\.+$", value) or _NAMES_A_PATH.search(name)):
            yield f"{name}={value!r}"


def names_a_class(policy: str) -> bool:
    """Whether a policy is `module.Class`, and neither an alias nor a folder."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", policy) is not None


def evaluated(entry: dict[str, Any]) -> dict[str, Any]:
    """A trusted entry, with the values of its expressions, which may use all names of `rl_zoo3.exp_manager`.

    Args:
        entry: The hyperparameters as a file has them.

    Raises:
        Exception: An expression cannot be evaluated.
    """
    names = dict(vars(importlib.import_module("rl_zoo3.exp_manager")))
    code = {key: entry[key] for key in _EXPRESSIONS if isinstance(entry.get(key), str)}
    return {**entry, **{key: eval(text, names) for key, text in code.items()}}


def _check_class(name: str, kind: str, where: str, remedy: str) -> None:
    expected = _imported(kind)
    if not _may_be_imported(name):
        raise UserError(
            f"{where} is {name!r}, which would be imported, and so run, but is no ordinary module of a package that "
            f"pg-zoo uses or a plugin brought. {remedy}"
        )
    try:
        found = _imported(name)
    except (Exception, SystemExit) as error:
        raise UserError(f"{where} is {name!r}, which cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, expected)):
        raise UserError(f"{where} must name a subclass of {kind}, but is {name!r}. {remedy}")


def _may_be_imported(name: str) -> bool:
    """Whether an import runs nothing but code of packages that the user has chosen to run."""
    package = name.partition(".")[0]
    # Nothing of the sort is in the standard library, where some modules do things when they are imported.
    if package in sys.stdlib_module_names or "__main__" in name.split("."):
        return False
    # Anybody can add to a package that has no file of its own.
    if getattr(sys.modules.get(package), "__file__", None):
        return True
    groups = (registry.ALGORITHMS, registry.ENVS, registry.HYPERPARAMS)
    plugins = [plugin for group in groups for plugin in registry.plugins(group).values()]
    if any(re.split("[.:]", plugin.value)[0] == package for plugin in plugins):
        return True
    # A distribution can bring several packages.
    brought_by = packages_distributions().get(package, [])
    return any(plugin.distribution.rpartition(" ")[0] in brought_by for plugin in plugins)


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def parse_value(text: str) -> Any:
    """The value in `--hyperparams name:value`: a Python literal, a `dict(...)` of such, or a word as YAML reads it.

    Raises:
        ValueError: It is none of these.
    """
    try:
        return _parsed(text)
    except ValueError:
        # `lin_0.001`, `reward_to_go`, `true`; also a module path such as `my_package.policies.MyPolicy`.
        if re.fullmatch(r"[\w.+/-]+", text):
            return limits.load(text)
        raise ValueError(
            f"{text!r} is neither a Python literal nor dict(...) of literals, nor a single word."
        ) from None


def _parsed(text: str) -> Any:
    """The value of an expression that is data; otherwise, a ValueError."""
    try:
        return _literal(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name("dict"), args=[], keywords=keywords) if all(word.arg for word in keywords):
            return {str(word.arg): _literal(word.value) for word in keywords}
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {ast.literal_eval(key): _literal(value) for key, value in zip(keys, values, strict=True) if key}
        case ast.List(elts=items):
            return [_literal(item) for item in items]
        case ast.Attribute(value=ast.Name("nn"), attr=name):
            # As in rl_zoo3: dict(activation_fn=nn.ReLU).
            from torch import nn

            if not hasattr(nn, name):
                raise UserError(f"torch.nn has no {name!r}.")
            if isinstance(found := getattr(nn, name), type):
                return found
        case ast.Name(name) if name in _NAMED_CLASSES:
            return _imported(f"{_NAMED_CLASSES[name]}.{name}")
    return ast.literal_eval(node)
