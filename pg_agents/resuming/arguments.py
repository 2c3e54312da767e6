"""The arguments from which an agent is made again: as plain values and names, or to be given again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule

from pg_agents.arguments import constructor_arguments
from pg_agents.buffers import OURS, DictEpisodeBuffer, EpisodeBuffer
from pg_agents.files.allowed import NotAllowedError, find, is_data
from pg_agents.policies import STATE_DEPENDENT_STD

_NOT_STORED = {"env", "device", "_init_setup_model", "monitor_wrapper", "reference"}  # made by other means
# A path as `prior` would be read; the agent's own is a policy.
_GIVEN_AGAIN = {"prior": "the policy `prior` has no place of its own in a checkpoint"}
_OTHER_NAMES = {"stats_window_size": "_stats_window_size", "policy": "policy_class"}
_BUFFERS_OF_SB3 = (RolloutBuffer, DictRolloutBuffer)
_BUFFERS_BY_DEFAULT = {*OURS, *OURS.values(), EpisodeBuffer, DictEpisodeBuffer}


class NotHeldError(ValueError):
    """A value that a file cannot hold."""


def arguments_of(agent: OnPolicyAlgorithm) -> tuple[dict[str, Any], dict[str, str]]:
    """The arguments of an agent's constructor.

    Args:
        agent: The agent.

    Returns:
        Those that a file can hold, in a form for `made`; and those that it cannot, with the reasons.
    """
    held, given_again = {}, {}
    for name in constructor_arguments(type(agent)):
        attribute = _OTHER_NAMES.get(name, name)
        if name in _NOT_STORED:
            continue
        if not hasattr(agent, attribute):
            given_again[name] = f"the agent has no attribute {attribute!r}, which would tell `{name}`"
            continue
        if name in _GIVEN_AGAIN:
            if getattr(agent, attribute) is not None:
                given_again[name] = _GIVEN_AGAIN[name]
            continue
        try:
            held[name] = _described(agent, name, getattr(agent, attribute))
        except NotHeldError as reason:
            given_again[name] = str(reason)
    return held, given_again


def warn_of_buffer(agent: OnPolicyAlgorithm) -> None:
    """Say which attributes of a rollout buffer of one's own are not stored.

    Warns:
        UserWarning: There are such.
    """
    buffer = agent.rollout_buffer
    known = next(cls for cls in type(buffer).__mro__ if cls in _BUFFERS_BY_DEFAULT or cls in _BUFFERS_OF_SB3)
    if known is type(buffer):
        return
    usual = vars(known(1, agent.policy.observation_space, agent.policy.action_space)).keys()
    own = vars(buffer).keys() - usual - {"estimator", "n_episodes", "trained_on"}
    if own:
        warnings.warn(
            f"Attributes of the rollout buffer, a {type(buffer).__name__}, are left out of checkpoints: "
            f"{', '.join(sorted(own))}. They are as after construction when the training is resumed.",
            stacklevel=2,
        )


def made(described: Any) -> Any:
    """An argument, from what `arguments_of` has made of it.

    Raises:
        NotAllowedError: It names a class that is not on the allow-list.
    """
    if not isinstance(described, dict):
        return described
    if "items" in described:
        return {key: made(item) for key, item in described["items"].items()}
    module, _, name = described["object"].partition(":")
    cls = find(module, name)
    if not is_data(cls):
        raise NotAllowedError(f"Objects of {module}.{name} are not among those that a file may have.")
    found = cls.__new__(cls)
    vars(found).update({key: made(item) for key, item in described["attributes"].items()})
    return found


def _described(agent: OnPolicyAlgorithm, name: str, value: Any) -> Any:
    if name == "policy":
        return _policy(agent)
    if name == "policy_kwargs":
        return _policy_kwargs(agent, value or {})
    if name == "rollout_buffer_class" and value in _BUFFERS_BY_DEFAULT:
        return None
    if isinstance(value, FloatSchedule) and isinstance(value.value_schedule, ConstantSchedule):
        return value.value_schedule.val
    if isinstance(value, FloatSchedule):
        value = value.value_schedule
    return _plain(value, f"`{name}`")


def _policy(agent: OnPolicyAlgorithm) -> Any:
    cls = _base_policy(agent)
    for alias, policy_class in type(agent).policy_aliases.items():
        if policy_class is cls:
            return alias
    return _plain(cls, "`policy`")


def _base_policy(agent: OnPolicyAlgorithm) -> Any:
    return next((base for base, with_std in STATE_DEPENDENT_STD.items() if with_std is agent.policy_class), None) or (
        agent.policy_class
    )


def _policy_kwargs(agent: OnPolicyAlgorithm, stored: Mapping[str, Any]) -> Any:
    complete = getattr(agent, "complete_policy_kwargs", dict)
    added: dict[str, Any] = complete({})
    given = {name: value for name, value in stored.items() if name not in added or added[name] != value}
    if _base_policy(agent) is not agent.policy_class:
        given["state_dependent_std"] = True
    return _plain(given, "`policy_kwargs`")


def _plain(value: Any, place: str) -> Any:
    """A value as a file can hold it; dictionaries are wrapped, so that they differ from objects such as schedules."""
    if value is None or isinstance(value, (bool, int, float, str, np.generic, th.Tensor)):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise NotHeldError(f"{place} has keys that are no texts")
        return {"items": {key: _plain(item, f"{place}[{key!r}]") for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, place) for item in value) if type(value) in (list, tuple) else _no(value, place)
    if isinstance(value, type):
        _check_name(value, place)
        return value
    if hasattr(value, "__dict__") and not isinstance(value, (th.nn.Module, FunctionType)):
        cls = type(value)
        _check_name(cls, place)
        if not is_data(cls):
            return _no(value, place)
        attributes = {name: _plain(item, f"{place}.{name}") for name, item in vars(value).items()}
        return {"object": f"{cls.__module__}:{cls.__qualname__}", "attributes": attributes}
    return _no(value, place)


def _check_name(cls: type, place: str) -> None:
    try:
        found = find(cls.__module__, cls.__qualname__)
    except NotAllowedError as reason:
        raise NotHeldError(f"{place} is a {cls.__module__}.{cls.__qualname__}: {reason}") from None
    if found is not cls:
        raise NotHeldError(f"{place} is another class than {cls.__module__}.{cls.__qualname__}")


def _no(value: Any, place: str) -> Any:
    kind = "a function" if callable(value) else f"a {type(value).__module__}.{type(value).__qualname__}"
    raise NotHeldError(f"{place} is {kind}")
