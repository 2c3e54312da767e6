"""The allow-list: classes that a file may name.

A class is here if nothing bad can come of it whatever it is called with: arguments come from the file too. So there are
no functions, no algorithms (one imports the module of its environment's id) and no environments.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.noise import ActionNoise

# Where old files, and those of Python 2's names, say something else than is meant today.
_MOVED = {"__builtin__": "builtins", "gym": "gymnasium"}

# Objects of these classes may be part of a file.
_DATA = {
    "pg_agents.baselines": {"ConstantBaseline", "LeaveOneOutBaseline", "NoBaseline", "TimeBaseline"},
    "rl_zoo3.utils": {"SimpleLinearSchedule"},
    "stable_baselines3.common.distributions": {"TanhBijector"},
    "stable_baselines3.common.running_mean_std": {"RunningMeanStd"},
    "stable_baselines3.common.utils": {"ConstantSchedule", "FloatSchedule", "LinearSchedule"},
    "stable_baselines3.common.vec_env.vec_normalize": {"VecNormalize"},
}
# Of these, the class itself, or what the machine that reads pickles makes of it.
_NAMED = {
    "builtins": {"bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple"},
    "collections": {"OrderedDict", "deque"},
    "numpy": {"dtype", "ndarray"},
    "numpy.random._mt19937": {"MT19937"},
    "numpy.random._pcg64": {"PCG64"},
    "numpy.random.bit_generator": {"SeedSequence"},
    "sb3_contrib.common.recurrent.type_aliases": {"RNNStates"},
    "stable_baselines3.common.type_aliases": {"TrainFreq", "TrainFrequencyUnit"},
    "stable_baselines3.her.goal_selection_strategy": {"GoalSelectionStrategy"},
    "torch": {"Size", "device"},
}
# In these packages, the classes of these kinds: spaces, layers and policies, distributions, optimisers, buffers, noise.
_KINDS: dict[str, tuple[type, ...]] = {
    "gymnasium.spaces": (spaces.Space,),
    "pg_agents.buffers": (BaseBuffer,),
    "pg_agents.policies": (th.nn.Module,),
    "pg_agents.theory.policies": (th.nn.Module,),
    "sb3_contrib": (th.nn.Module, BaseBuffer, ActionNoise),
    "stable_baselines3": (th.nn.Module, Distribution, BaseBuffer, ActionNoise, th.optim.Optimizer),
    "torch.distributions": (th.distributions.Distribution,),
    "torch.nn.modules": (th.nn.Module,),
    "torch.optim": (th.optim.Optimizer,),
}
# Objects of these may be part of a file: spaces, buffers, noise, and policies, as a prior is one.
_DATA_KINDS = (spaces.Space, BaseBuffer, ActionNoise, Distribution, th.distributions.Distribution, th.nn.Module)


class NotAllowedError(ValueError):
    """A file names or does something that is not on the allow-list.

    Args:
        message: What it is.
        advice: The part of the message that says what to write in Python; `pg-zoo` says `--trust` in its place.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def find(module: str, name: str) -> Any:
    """The class that a file names; spaces of `gym` are those of Gymnasium.

    Args:
        module: The module as the file says it.
        name: The class's name in it.

    Raises:
        NotAllowedError: It is not on the allow-list.
    """
    first, dot, rest = module.partition(".")
    place = f"{_MOVED.get(first, first)}{dot}{rest}"
    if name in _DATA.get(place, ()) or name in _NAMED.get(place, ()):
        return _imported(place, name)
    kinds = next((kinds for package, kinds in _KINDS.items() if f"{place}.".startswith(f"{package}.")), None)
    if kinds is not None and name.isidentifier() and "__main__" not in place:
        found = _imported(place, name)
        if isinstance(found, type) and issubclass(found, kinds):
            return found
    number = {"numpy": np, "torch": th}.get(place)
    found = getattr(number, name, None) if name.isidentifier() else None
    if isinstance(found, th.dtype) or (isinstance(found, type) and issubclass(found, np.generic)):
        return found
    raise NotAllowedError(f"{module}.{name} is not among the objects that a file may name.")


def is_data(cls: type) -> bool:
    """Whether objects of an allowed class may be part of a file, with attributes that the file gives."""
    if issubclass(cls, _DATA_KINDS):
        return True
    return cls.__qualname__ in _DATA.get(cls.__module__, ())


def _imported(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise NotAllowedError(f"{module}.{name} is not there: {error}.") from error
