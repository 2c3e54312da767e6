"""The state of an agent, without its environment: parameters, optimisers, counters, generators, statistics."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from pg_agents.resuming.state import NotFittingError, NotStorableError, State, capture, put_back

Layout: TypeAlias = dict[str, Any]
"""The class of an optimiser and the names of its parameters by group."""

_NOT_IN_A_FILE = ("_num_timesteps_at_start",)
# Of SB3's, those rebuilt, or kept by others.
_OF_OTHERS = frozenset(
    (
        *("policy", "device", "env", "rollout_buffer", "_vec_normalize_env", "_logger", "_custom_logger"),
        *("start_time", "rollout_buffer_class", "policy_class"),
    )
)


@dataclass(frozen=True)
class AsMade:
    """What the constructor of an agent, or `load`, has made: what a callback adds later cannot be made again.

    Attributes:
        names: Of the agent's attributes.
        optimizers: The class and the parameters' names by group of each of the policy's optimisers, by name.
    """

    names: frozenset[str]
    optimizers: dict[str, Layout]


def as_made(agent: OnPolicyAlgorithm) -> AsMade:
    """What an agent has now."""
    return AsMade(frozenset(vars(agent)), _layouts(agent))


def _layouts(agent: OnPolicyAlgorithm) -> dict[str, Layout]:
    if not isinstance(getattr(agent, "policy", None), th.nn.Module):
        return {}
    known = {id(parameter): name for name, parameter in agent.policy.named_parameters()}

    def layout(optimizer: th.optim.Optimizer) -> Layout:
        groups = [[known.get(id(one), "?") for one in group["params"]] for group in optimizer.param_groups]
        return {"class": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}", "groups": groups}

    return {name: layout(one) for name, one in _optimizers(agent).items()}


def warn_of_what_cannot_be_made(agent: OnPolicyAlgorithm, state: dict[str, State], told: set[str]) -> None:
    """Say what `resume` will not be able to make again.

    Args:
        agent: The agent.
        state: Of `state_of`.
        told: Names of which it was said before; grows.

    Warns:
        UserWarning: An attribute that is not there after construction is no number or container, or an optimiser was
            put in the place of the constructor's.
    """
    made = getattr(agent, "as_made", None)
    if made is None:  # of a copy
        return
    for name, item in state["attributes"].items():
        if name in made.names or name in told or _can_be_made(item):
            continue
        told.add(name)
        warnings.warn(
            f"agent.{name}, a {_kind(item)}, was not there after construction. `resume` leaves it out, unless the "
            "constructor of a class of your own makes it.",
            stacklevel=2,
        )
    for name, layout in state["layouts"].items():
        if layout == made.optimizers.get(name) or name in told:
            continue
        told.add(name)
        warnings.warn(
            f"agent.policy.{name} was replaced after construction by a {layout['class']}. `resume` refuses this "
            "training unless the constructor makes the same one: give `policy_kwargs` its `optimizer_class`, or make "
            "it in the constructor of a class of your own.",
            stacklevel=2,
        )


def _can_be_made(item: State) -> bool:
    try:
        put_back(None, item)
    except NotFittingError:
        return False
    return True


def _kind(item: State) -> str:
    return str(item.get("class", item["kind"])) if isinstance(item, dict) else type(item).__name__


FILE = "agent.zip"  # of an agent from whose own file training goes on


def goes_on_from_file(agent_or_class: Any) -> bool:
    """Whether training goes on, bit for bit, from what `save` writes, as language models do.

    Such an agent makes its environment itself, and takes no steps there.
    """
    return getattr(agent_or_class, "goes_on_from_file", False)


def state_of(agent: OnPolicyAlgorithm, exact: bool = False) -> dict[str, State]:
    """The state of an agent at a boundary between an update and the next rollout.

    Args:
        agent: The agent.
        exact: Raise a `NotStorableError` where an attribute cannot be read.

    Warns:
        UserWarning: An attribute cannot be read, and is left out.
    """
    if goes_on_from_file(agent):
        attributes = {name: capture(getattr(agent, name)) for name in _NOT_IN_A_FILE}
        return {"attributes": attributes, "elapsed": time.time_ns() - agent.start_time}
    attributes = {}
    left_out = _left_out(agent)
    for name, value in vars(agent).items():
        if name in left_out:
            continue
        try:
            attributes[name] = capture(value, f"agent.{name}")
        except NotStorableError as reason:
            if exact:
                raise
            warnings.warn(f"An attribute of the agent is left out of checkpoints: {reason}", stacklevel=2)
    return {
        "attributes": attributes,
        "policy": capture(agent.policy, "agent.policy"),
        "optimizers": {name: capture(one, f"agent.policy.{name}") for name, one in _optimizers(agent).items()},
        "layouts": _layouts(agent),
        "elapsed": time.time_ns() - agent.start_time,
    }


def put_state_back(agent: OnPolicyAlgorithm, state: dict[str, State], given: Collection[str] = ()) -> None:
    """Write a state into an agent that was made from the same arguments.

    Args:
        agent: The agent.
        state: Of `state_of`.
        given: Attributes that were given anew and stay.

    Raises:
        NotFittingError: The agent has another structure.

    Warns:
        UserWarning: An attribute was not made by the constructor, and cannot be made from a file.
    """
    if goes_on_from_file(agent):
        vars(agent).update({name: state["attributes"][name] for name in _NOT_IN_A_FILE})
        return
    make_parts = getattr(agent, "make_parts", None)
    if make_parts is not None:
        make_parts(state["attributes"])
    put_back(agent.policy, state["policy"], "agent.policy")
    layouts = _layouts(agent)
    if layouts != state["layouts"]:
        raise NotFittingError(
            f"The policy has the optimisers {_shown(layouts)}, but the checkpoint's had {_shown(state['layouts'])}. "
            "Give `policy_kwargs` again with their `optimizer_class`, or resume with the class that makes them."
        )
    for name, optimizer in _optimizers(agent).items():
        put_back(optimizer, state["optimizers"][name], f"agent.policy.{name}")
    left_out = _left_out(agent)
    for name, item in state["attributes"].items():
        if name in given:
            continue
        shadows = hasattr(type(agent), name) and name not in vars(agent) and not _is_default(agent, name)
        if name in left_out or shadows:
            raise NotFittingError(f"agent.{name} is no attribute that a checkpoint holds.")
        before = vars(agent).get(name)
        try:
            after = put_back(before, item, f"agent.{name}")
        except NotFittingError:
            if before is not None or item["kind"] == "array":
                raise
            warnings.warn(
                f"agent.{name}, a {_kind(item)}, is left out: the agent had it when the checkpoint was taken, but "
                "its constructor does not make it.",
                stacklevel=2,
            )
            continue
        if after is not before:
            vars(agent)[name] = after  # an assigned argument would be checked beside those that are not back yet


def _shown(layouts: dict[str, Layout]) -> str:
    return ", ".join(f"{name}={one['class']}({one['groups']})" for name, one in layouts.items())


def _left_out(agent: OnPolicyAlgorithm) -> frozenset[str]:
    return _OF_OTHERS | getattr(agent, "made_anew", frozenset())


def _is_default(agent: OnPolicyAlgorithm, name: str) -> bool:
    """Whether a class has a value for an attribute, no method and no property."""
    found = inspect.getattr_static(type(agent), name)
    return not callable(found) and not hasattr(found, "__get__")


def _optimizers(agent: OnPolicyAlgorithm) -> dict[str, th.optim.Optimizer]:
    return {name: value for name, value in vars(agent.policy).items() if isinstance(value, th.optim.Optimizer)}
