"""Agents, policies and what belongs to them, of any class, from files that need not be trusted."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from pg_agents.files.archives import FilePath, read_agent, read_pickle, read_policy

Agent = TypeVar("Agent", bound=BaseAlgorithm)
Model = TypeVar("Model", bound=BaseModel)


def load_agent(
    cls: type[Agent],
    path: FilePath,
    env: Any = None,
    *,
    custom_objects: dict[str, Any] | None = None,
    trust: bool = False,
    **arguments: Any,
) -> Agent:
    """Load an agent of any class, SB3's and sb3-contrib's included, without running code that is in its file.

    Args:
        cls: The agent's class.
        path: The file, with or without `.zip`.
        env: The environment to go on training in; not needed to predict.
        custom_objects: Values that replace those of the same names in the file, which are not read then. Classes
            among them may be named anywhere in the file.
        trust: Let the file run code, as SB3's `load` does.
        **arguments: As for the class's own `load`.

    Raises:
        FileNotFoundError: There is no such file.
        NotAllowedError: It names, calls or changes something that is not on the allow-list.
        ValueError: It is no agent's file.
    """
    if _knows_trust(cls):
        return cls.load(path, env, custom_objects=custom_objects, trust=trust, **arguments)
    if trust:
        return cls.load(path, env, custom_objects=custom_objects, **arguments)
    replacing = {name: value for name, value in arguments.items() if name != "policy_kwargs"}  # those are compared
    known = cls.policy_aliases.values()
    file = read_agent(path, custom_objects=custom_objects, arguments=replacing, classes=known)
    return cls.load(file.without_pickles(), env, custom_objects=file.data, **arguments)


def _knows_trust(cls: type[BaseAlgorithm]) -> bool:
    """Whether `load` takes the argument itself, or passes it on to a base class that does."""
    for base in cls.__mro__:
        if "load" in vars(base):
            parameters = inspect.signature(vars(base)["load"].__func__).parameters.values()
            if any(parameter.name == "trust" for parameter in parameters):
                return True
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                return False
    return False


def load_normalization(path: FilePath, venv: VecEnv, *, trust: bool = False) -> VecNormalize:
    """Wrap environments in the normalisation that `VecNormalize.save` has written.

    Args:
        path: The file, such as `vecnormalize.pkl`.
        venv: The environments.
        trust: Let the file run code, as `VecNormalize.load` does.

    Raises:
        FileNotFoundError: There is no such file.
        NotAllowedError: It names, calls or changes something that is not on the allow-list.
        ValueError: It is no such file, or its spaces are not those of the environments.
    """
    found = read_pickle(path, trust=trust)
    if not isinstance(found, VecNormalize):
        raise ValueError(f"{path} must hold a VecNormalize, but holds {type(found).__name__}.")
    found.set_venv(venv)
    return found


def load_policy(cls: type[Model], path: FilePath, device: th.device | str = "auto", *, trust: bool = False) -> Model:
    """Load what the `save` of a policy has written.

    Args:
        cls: The policy's class.
        path: The file.
        device: Torch device.
        trust: Let the file run code, as SB3's `load` does.

    Raises:
        FileNotFoundError: There is no such file.
        NotAllowedError: It names, calls or changes something that is not on the allow-list.
        ValueError: It is no policy's file.
    """
    found = read_policy(path, trust=trust, classes=[cls])
    model = cls(**found["data"])
    model.load_state_dict(found["state_dict"])
    return model.to(get_device(device))


def load_replay_buffer(model: OffPolicyAlgorithm, path: FilePath, *, trust: bool = False) -> None:
    """Give an agent the replay buffer that its `save_replay_buffer` has written.

    Args:
        model: The agent.
        path: The file, such as `replay_buffer.pkl`.
        trust: Let the file run code, as SB3's `load_replay_buffer` does.

    Raises:
        FileNotFoundError: There is no such file.
        NotAllowedError: It names, calls or changes something that is not on the allow-list.
        ValueError: It is no such file.
    """
    found = read_pickle(path, trust=trust, largest=float("inf"))
    if not isinstance(found, ReplayBuffer):
        raise ValueError(f"{path} must hold a replay buffer, but holds {type(found).__name__}.")
    if isinstance(found, HerReplayBuffer):
        assert model.env is not None, "You must pass an environment when using `HerReplayBuffer`."
        found.set_env(model.env)
        found.truncate_last_trajectory()  # which other environments have begun
    found.device = model.device
    model.replay_buffer = found
