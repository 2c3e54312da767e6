"""Policies with the textbook's θ as parameters: linear in the observation (one-hot for states), without a bias."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from pg_agents.policies import ActorPolicy, RebuiltPolicy


class LinearPolicy(ActorPolicy):
    """softmax(θ[s]) over discrete actions, N(K x, diag σ²) over continuous ones; all parameters start at 0.

    `action_net.weight` is θᵀ, of shape `(actions, states)`, or K; `log_std` is log σ.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "net_arch": []})

    def _rebuild(self) -> None:
        super()._rebuild()
        self.action_net = _linear(self.action_net)


class LinearActorCritic(RebuiltPolicy):
    """`LinearPolicy` with a critic V(s) = w·s, which for one-hot states is a table of values."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "net_arch": []})

    def _rebuild(self) -> None:
        super()._rebuild()
        self.action_net, self.value_net = _linear(self.action_net), _linear(self.value_net)


def _linear(layer: nn.Module) -> nn.Linear:
    assert isinstance(layer, nn.Linear)
    found = nn.Linear(layer.in_features, layer.out_features, bias=False)
    nn.init.zeros_(found.weight)
    return found


def set_parameters(policy: ActorCriticPolicy, parameters: dict[str, th.Tensor]) -> None:
    """Copy parameters into a policy.

    Args:
        policy: The policy.
        parameters: Values by name, as in `policy.named_parameters()`.
    """
    own = dict(policy.named_parameters())
    with th.no_grad():
        for name, value in parameters.items():
            own[name].copy_(value)
