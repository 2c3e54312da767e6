"""Search spaces for `pg-zoo tune`: declared by the algorithms, or rl_zoo3's for the references."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from optuna import Trial
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER

from pg_agents import registry
from pg_zoo.errors import UserError
from pg_zoo.lookup import find_algorithm
from pg_zoo.recipes.files import FILES_OF_RL_ZOO3

SearchSpace = Callable[[Trial, "spaces.Space[Any]", "spaces.Space[Any]"], dict[str, Any]]
"""Draws hyperparameters in rl_zoo3's schema, given the spaces of observations and actions."""

# Hyperparameters that belong to the task, so that no search changes them; rl_zoo3 does not search two more.
TASK = ("callback", "env_kwargs", "env_wrapper", "frame_stack", "monitor_kwargs", "vec_env_wrapper")
_NOT_SEARCHED_BY_RL_ZOO3 = ("n_envs", "normalize")


def search_space(algo: str) -> tuple[SearchSpace, tuple[str, ...]]:
    """The search space of an algorithm.

    Args:
        algo: The algorithm's registered name.

    Returns:
        The search space, and the names of hyperparameters that keep the values of the algorithm's entry.

    Raises:
        UserError: There is no such algorithm, or it has no search space.
    """
    declared = getattr(find_algorithm(algo), "search_space", None)
    if declared is not None:
        return declared, TASK
    if algo not in registry.reference_algorithms():
        raise UserError(
            f"{algo} declares no search space: give its class a classmethod "
            "search_space(cls, trial, observation_space, action_space), as docs/plugins.md shows."
        )
    name = algo.rpartition("/")[2]
    name = FILES_OF_RL_ZOO3.get(name, name)
    if name not in HYPERPARAMS_SAMPLER:
        raise UserError(f"rl_zoo3 has no search space for {algo}, only for {', '.join(HYPERPARAMS_SAMPLER)}.")
    return partial(_of_rl_zoo3, name), (*TASK, *_NOT_SEARCHED_BY_RL_ZOO3)


def _of_rl_zoo3(
    name: str, trial: Trial, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> dict[str, Any]:
    n_actions = int(np.prod(action_space.shape or ()))
    others = {"using_her_replay_buffer": False, "her_kwargs": {}}
    values = dict(HYPERPARAMS_SAMPLER[name](trial, n_actions, 1, others))
    if values.pop("action_noise", None) is not None:
        # The schema has the noise's name and size instead of the object.
        values |= {key: trial.params[key] for key in ("noise_type", "noise_std")}
    if "n_steps" in values and "batch_size" in values:
        values["batch_size"] = min(values["batch_size"], values["n_steps"])
    if "policy_kwargs" in values:
        values["policy_kwargs"] = as_text(values["policy_kwargs"])
    return values


def as_text(value: Any) -> str:
    """A policy's argument in the notation of hyperparameter files: `dict(net_arch=[64], activation_fn=nn.ReLU)`."""
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={as_text(item)}' for key, item in value.items())})"
    return f"nn.{value.__name__}" if isinstance(value, type) else repr(value)
