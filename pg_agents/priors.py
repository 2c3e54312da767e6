"""Priors: frozen policies that training is kept near, KL(π || π_prior) being part of the loss."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import Any

import cloudpickle
import torch as th
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import load_from_zip_file

from pg_agents.files.allowed import NotAllowedError
from pg_agents.files.archives import read_agent


def frozen_policy(given: Any) -> ActorCriticPolicy:
    """A copy of a policy, on the CPU, that does not train.

    Args:
        given: A policy, an agent, or an agent's file, SB3's included. Code in a file does not run.

    Raises:
        TypeError: It is none of these, or its policy has no action distribution.
        FileNotFoundError: There is no such file.
        NotAllowedError: The file could run code.
        ValueError: The file is not an agent's.
    """
    policy = read_policy(given) if isinstance(given, (str, os.PathLike)) else getattr(given, "policy", given)
    if not isinstance(policy, ActorCriticPolicy):
        raise TypeError(
            "`prior` must be an ActorCriticPolicy, an agent with one, or the file of such an agent, but is "
            f"{type(given).__name__}{'' if policy is given else f' with {type(policy).__name__}'}."
        )
    # As in a file: unlike `deepcopy`, it copies the last batch's distribution, which is part of a graph.
    copy: ActorCriticPolicy = cloudpickle.loads(cloudpickle.dumps(policy)).cpu()
    vars(copy).pop("optimizer", None)
    copy.requires_grad_(False)
    copy.set_training_mode(False)
    return copy


def read_policy(path: str | os.PathLike[str], *, trust: bool = False) -> ActorCriticPolicy:
    """The policy in the file of an agent of any class.

    Args:
        path: The file.
        trust: Let the file run code.

    Raises:
        FileNotFoundError: There is no such file.
        NotAllowedError: The file could run code.
        TypeError: The policy has no action distribution.
        ValueError: The file is not an agent's.
    """
    data, parameters = _trusted(path) if trust else _untrusted(path)
    if data is None or "policy" not in parameters or "policy_class" not in data:
        raise ValueError(f"`prior` is {os.fspath(path)!r}, but this is not the file of an agent.")
    if not issubclass(data["policy_class"], ActorCriticPolicy):
        raise TypeError(
            f"`prior` is {os.fspath(path)!r}, but {data['policy_class'].__name__} is no ActorCriticPolicy: it has no "
            "action distribution."
        )
    policy: ActorCriticPolicy = data["policy_class"](
        data["observation_space"],
        data["action_space"],
        lambda _: 0.0,
        use_sde=data["use_sde"],
        **data["policy_kwargs"],
    )
    policy.load_state_dict(parameters["policy"])
    return policy


def _trusted(path: str | os.PathLike[str]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    data, parameters, _ = load_from_zip_file(os.fspath(path), device="cpu")
    return data, parameters


def _untrusted(path: str | os.PathLike[str]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    try:
        file = read_agent(os.fspath(path))
    except NotAllowedError as error:
        raise NotAllowedError(
            f"{error} As a prior, give the agent itself, loaded by its class: prior=PPO.load(..., trust=True)."
        ) from None
    return file.data, file.parameters()


def check_prior(prior: ActorCriticPolicy, policy: ActorCriticPolicy, estimator: str) -> None:
    """Refuse a prior whose divergence from the policy cannot be measured.

    Raises:
        ValueError: Spaces differ, only one of the two squashes its actions, or the closed form of the divergence is
            asked for and there is none.
    """
    for name in ("observation_space", "action_space"):
        theirs, ours = getattr(prior, name), getattr(policy, name)
        if theirs != ours:
            raise ValueError(f"`prior` has the {name} {theirs}, but the agent has {ours}.")
    if prior.squash_output != policy.squash_output:
        squashes = "the prior" if prior.squash_output else "the agent's policy"
        raise ValueError(f"Of `prior` and the agent's policy only {squashes} has squashed actions.")
    if estimator == "exact":
        # A copy of the space, which has a random stream of its own.
        tensor, _ = policy.obs_to_tensor(deepcopy(policy.observation_space).sample())
        policy.set_training_mode(False)
        try:
            with th.no_grad():
                kl_divergence(policy.get_distribution(tensor), prior.to(policy.device).get_distribution(tensor))
        except (AssertionError, NotImplementedError) as error:
            raise ValueError(
                "`prior_kl_estimator` is 'exact', but KL(π || π_prior) has no closed form for the distributions of "
                f"{type(policy).__name__} and {type(prior).__name__}: take 'k2'."
            ) from error
        finally:
            prior.cpu()
