"""The state of an agent, without its environment: parameters, optimisers, counters, generators, statistics."""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection
from typing import Any

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from pg_agents.resuming.state import NotStorableError, State, capture, put_back

_NOT_IN_A_FILE = ("_num_timesteps_at_start",)
# Rebuilt, or kept by others.
_OF_OTHERS = frozenset(
    (
        *("policy", "device", "env", "rollout_buffer", "_vec_normalize_env", "_logger", "_custom_logger"),
        *(
            "_engine_in_use",
            "_engine_buffer",
            "_predictor_of",
            "_prior_on_device",
            "_unlogged",
            "current_run",
            "interrupted",
            "on_epoch",
        ),
        *("start_time", "rollout_buffer_class", "policy_class", "reference"),
    )
)


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
    for name, value in vars(agent).items():
        if name in _OF_OTHERS:
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
        vars(agent).update(state["attributes"])
        agent.start_time = time.time_ns() - state["elapsed"]
        return
    make_parts = getattr(agent, "make_parts", None)
    if make_parts is not None:
        make_parts(state["attributes"])
    put_back(agent.policy, state["policy"], "agent.policy")
    for name, optimizer in _optimizers(agent).items():
        put_back(optimizer, state["optimizers"][name], f"agent.policy.{name}")
    for name, item in state["attributes"].items():
        if name in given:
            continue
        before = vars(agent).get(name)
        if before is None and isinstance(item, dict) and item["kind"] == "object":
            warnings.warn(
                f"agent.{name}, a {item['class']}, is left out: the agent had it when the checkpoint was taken, but "
                "its constructor does not make it.",
                stacklevel=2,
            )
            continue
        after = put_back(before, item, f"agent.{name}")
        if after is not before:
            setattr(agent, name, after)
    agent.start_time = time.time_ns() - state["elapsed"]


def _optimizers(agent: OnPolicyAlgorithm) -> dict[str, th.optim.Optimizer]:
    return {name: value for name, value in vars(agent.policy).items() if isinstance(value, th.optim.Optimizer)}
