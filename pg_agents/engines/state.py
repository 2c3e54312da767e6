"""The state that an optimiser keeps of each parameter, before its first step."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

KNOWN = (th.optim.Adam, th.optim.RMSprop, RMSpropTFLike)
_MORE_STATE = ("amsgrad", "momentum", "centered")


def initial_state(optimizer: th.optim.Optimizer, parameter: th.Tensor) -> dict[str, Any]:
    """The state of a parameter as the optimiser has it, or as it would create it.

    Args:
        optimizer: Adam, RMSprop or SB3's RMSpropTFLike.
        parameter: One of its parameters.

    Raises:
        ValueError: It is another optimiser, or one of these with further state.
    """
    if type(optimizer) not in KNOWN:
        names = ", ".join(cls.__name__ for cls in KNOWN)
        raise ValueError(f"`optimizer_class` must be one of {names}, but is {type(optimizer).__name__}.")
    for option in _MORE_STATE:
        if optimizer.param_groups[0].get(option):
            raise ValueError(f"`{option}` of {type(optimizer).__name__} must not be set.")
    if known := optimizer.state.get(parameter):
        return dict(known)
    tf_like = isinstance(optimizer, RMSpropTFLike)
    state: dict[str, Any] = {"step": 0 if tf_like else th.tensor(0.0)}
    if isinstance(optimizer, th.optim.Adam):
        state["exp_avg"], state["exp_avg_sq"] = th.zeros_like(parameter), th.zeros_like(parameter)
        state["exp_avg"], state["exp_avg_sq"] = state["exp_avg"].detach(), state["exp_avg_sq"].detach()
    else:
        state["square_avg"] = (th.ones_like if tf_like else th.zeros_like)(parameter).detach()
    return state
