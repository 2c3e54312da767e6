"""Which policies, buffers and optimisers the compiled engine serves: exactly those whose arithmetic it reproduces."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor
from torch import nn

from pg_agents.buffers import DictEpisodeBuffer, DictRolloutBuffer, EpisodeBuffer, EpisodeMixin, RolloutBuffer
from pg_agents.contract import Loss, NotServedError
from pg_agents.engines.mlp.arrays import OF_A_BUFFER, Arrays
from pg_agents.engines.mlp.rows import Rows
from pg_agents.policies import (
    ActorMultiInputPolicy,
    ActorPolicy,
    StateDependentStdActorMultiInputPolicy,
    StateDependentStdActorPolicy,
    StateDependentStdMultiInputPolicy,
    StateDependentStdPolicy,
    ZeroValue,
)

POLICIES = (
    ActorCriticPolicy,
    ActorPolicy,
    StateDependentStdPolicy,
    StateDependentStdActorPolicy,
    MultiInputActorCriticPolicy,
    ActorMultiInputPolicy,
    StateDependentStdMultiInputPolicy,
    StateDependentStdActorMultiInputPolicy,
)
ACTIVATIONS = {
    nn.Identity: "IDENTITY",
    nn.Tanh: "TANH",
    nn.ReLU: "RELU",
    nn.ELU: "ELU",
    nn.LeakyReLU: "LEAKY_RELU",
    nn.SiLU: "SILU",
    nn.GELU: "GELU",
}
OPTIMIZERS = {th.optim.Adam: "ADAM", th.optim.RMSprop: "RMSPROP", RMSpropTFLike: "RMSPROP_TF"}
# Arrays that an optimiser keeps of each parameter, beside the number of steps.
STATES = {
    th.optim.Adam: ("exp_avg", "exp_avg_sq"),
    th.optim.RMSprop: ("square_avg",),
    RMSpropTFLike: ("square_avg",),
}
PENALTIES = {"k1": "K1", "k2": "K2", "k3": "K3", "exact": "EXACT"}
_CHANGE_THE_FORMULA = (
    "weight_decay",
    "amsgrad",
    "maximize",
    "momentum",
    "centered",
    "differentiable",
    "capturable",
    "fused",
)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS = (
    nn.modules.module._global_forward_hooks,
    nn.modules.module._global_forward_pre_hooks,
)
# Methods of a policy that can be replaced on the object, in place of its networks.
REPLACEABLE = frozenset({"forward", "evaluate_actions", "predict_values", "extract_features", "get_distribution"})


def check_served(policy: ActorCriticPolicy, buffer: SB3RolloutBuffer, loss: Loss) -> None:
    """Look at a policy, its rollout buffer and its loss without compiling anything.

    Raises:
        NotServedError: With the reason.
    """
    if loss.objective.weight is None:
        raise NotServedError("its objective has no `weight`")
    if loss.value_prediction is not None:
        raise NotServedError("it has its own `value_prediction`")
    check_policy(policy)
    if loss.penalty is not None:
        if loss.penalty.estimator not in PENALTIES:
            raise NotServedError(f"it does not know the KL estimator {loss.penalty.estimator!r}")
        if loss.penalty.reference.device.type != "cpu":
            raise NotServedError(f"the reference policy is on {loss.penalty.reference.device}")
    is_dict = isinstance(policy.observation_space, spaces.Dict)
    known: type[SB3RolloutBuffer]
    if isinstance(buffer, EpisodeMixin):
        known = DictEpisodeBuffer if is_dict else EpisodeBuffer
    else:
        known = DictRolloutBuffer if is_dict else RolloutBuffer
    for name in OF_A_BUFFER:
        if getattr(type(buffer), name, None) is not getattr(known, name):
            raise NotServedError(f"the buffer {type(buffer).__name__} has its own `{name}`")
    if misfit := Arrays(policy).misfit(buffer):
        raise NotServedError(misfit)
    _check_optimizer(policy)


def check_policy(policy: ActorCriticPolicy) -> None:
    """Look at the policy alone.

    Raises:
        NotServedError: With the reason.
    """
    if policy.device.type != "cpu":
        raise NotServedError(f"it works on the CPU, and `device` is {policy.device}")
    if type(policy) not in POLICIES:
        raise NotServedError(f"it does not know the policy {type(policy).__name__}")
    _check_exploration(policy)
    _check_spaces(policy.observation_space, policy.action_space)
    _check_modules(policy)


def exploration_of(policy: ActorCriticPolicy) -> StateDependentNoiseDistribution | None:
    """The distribution that has gSDE's noise; None without gSDE."""
    distribution = policy.action_dist
    return distribution if isinstance(distribution, StateDependentNoiseDistribution) else None


def _check_exploration(policy: ActorCriticPolicy) -> None:
    exploration = exploration_of(policy)
    if exploration is None:
        return
    if type(exploration) is not StateDependentNoiseDistribution:
        raise NotServedError(f"gSDE's distribution is a {type(exploration).__name__}")
    if exploration.bijector is not None or policy.squash_output:
        raise NotServedError("`squash_output` is set")
    if exploration.learn_features:
        raise NotServedError("`learn_features` of gSDE is set")


def _check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    parts = observation_space.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    for part in parts:
        if is_image_space(part):
            raise NotServedError("observations are images")
        if not isinstance(part, spaces.Box | spaces.MultiBinary) and not _counts_from_0(part):
            raise NotServedError(f"observations are {observation_space}")
    if isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim > 1:
        raise NotServedError(f"actions are {action_space}")
    if 0 in (action_space.shape or ()):
        raise NotServedError(f"an action of {action_space} has no numbers")


def _counts_from_0(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec.ndim == 1 and not space.start.any()
    return isinstance(space, spaces.Discrete) and bool(space.start == 0)


def _check_modules(policy: ActorCriticPolicy) -> None:
    if not REPLACEABLE.isdisjoint(vars(policy)):
        raise NotServedError("a method of the policy was replaced")
    for extractor in (policy.features_extractor, policy.pi_features_extractor, policy.vf_features_extractor):
        _check_extractor(extractor, policy.observation_space)
    if type(policy.mlp_extractor) is not MlpExtractor:
        raise NotServedError(f"the networks are a {type(policy.mlp_extractor).__name__}")
    for module in policy.modules():
        if any(getattr(module, name) for name in HOOKS):
            raise NotServedError(f"a {type(module).__name__} has a hook")
        if "forward" in vars(module):
            raise NotServedError(f"the `forward` of a {type(module).__name__} was replaced")
    if any(GLOBAL_HOOKS):
        raise NotServedError("there is a hook of all modules")
    actor, critic = actor_layers(policy), critic_layers(policy)
    known = [parameter for linear, _ in (*actor, *critic) for parameter in (linear.weight, linear.bias)]
    known += [policy.log_std] if isinstance(getattr(policy, "log_std", None), nn.Parameter) else []
    if {id(parameter) for parameter in known} != {id(parameter) for parameter in policy.parameters()}:
        raise NotServedError("the policy has parameters beyond those of its layers")
    if len({id(parameter) for parameter in known}) != len(known):
        raise NotServedError("layers share parameters")
    for name, parameter in policy.named_parameters():
        if not is_plain(parameter):
            raise NotServedError(f"the parameter `{name}` is no plain array of float32 on the CPU")
        if is_special(parameter):
            raise NotServedError(f"the parameter `{name}` is frozen or has a hook")
    _check_shapes(policy)
    if overlap(known):
        raise NotServedError("parameters share their memory")


def _check_shapes(policy: ActorCriticPolicy) -> None:
    """Each layer must take the outputs of the last one, and the heads must give what distribution and value need."""
    n_outputs, exploration = outputs_of(policy.action_space), exploration_of(policy)
    towers = [(policy.mlp_extractor.policy_net, actor_heads(policy), n_outputs)]
    if not isinstance(policy.value_net, ZeroValue):
        towers.append((policy.mlp_extractor.value_net, _pairs([policy.value_net]), 1))
    shapes: dict[int, tuple[int, ...]] = {id(getattr(policy, "log_std", None)): (n_outputs,)}
    for hidden, heads, n_given in towers:
        n_in = Rows(policy.observation_space).n_features
        for linear, _ in _pairs(hidden):
            n_out = len(linear.weight)
            if n_out == 0:
                raise NotServedError("the networks have a layer without units")
            shapes[id(linear.weight)], shapes[id(linear.bias)] = (n_out, n_in), (n_out,)
            n_in = n_out
        for linear, _ in heads:
            shapes[id(linear.weight)], shapes[id(linear.bias)] = (n_given, n_in), (n_given,)
        if exploration is not None and heads is towers[0][1]:
            shapes[id(policy.log_std)] = (n_in, n_outputs if exploration.full_std else 1)
    for name, parameter in policy.named_parameters():
        if tuple(parameter.shape) != shapes[id(parameter)]:
            raise NotServedError(
                f"the parameter `{name}` has the shape {tuple(parameter.shape)}, but must have {shapes[id(parameter)]}"
            )


def outputs_of(action_space: spaces.Space[Any]) -> int:
    """How many numbers the actor's head gives."""
    if isinstance(action_space, spaces.Discrete):
        return int(action_space.n)
    if isinstance(action_space, spaces.MultiDiscrete):
        return int(action_space.nvec.sum())
    return int(np.prod(action_space.shape or (), dtype=int))


def _check_extractor(extractor: nn.Module, observation_space: spaces.Space[Any]) -> None:
    """Features must be the observation's numbers in their order, categories as unit vectors."""
    known = CombinedExtractor if isinstance(observation_space, spaces.Dict) else FlattenExtractor
    if type(extractor) is not known:
        raise NotServedError(f"the features extractor is a {type(extractor).__name__}")
    if isinstance(observation_space, spaces.Dict) and isinstance(extractor, CombinedExtractor):
        parts = extractor.extractors
        if [*parts] != [*observation_space] or any(type(part) is not nn.Flatten for part in parts.values()):
            raise NotServedError("the features extractor does more than flatten the parts of an observation")


def is_plain(tensor: th.Tensor) -> bool:
    """Whether a tensor is an array of float32 without gaps, in memory that the kernels reach."""
    plain = tensor.layout == th.strided and tensor.dtype == th.float32 and tensor.device.type == "cpu"
    return plain and tensor.is_contiguous()


def overlap(tensors: Iterable[th.Tensor]) -> bool:
    """Whether some of these arrays without gaps share memory."""
    ranges = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors)
    return any(first[1] > second[0] for first, second in pairwise(ranges))


def is_special(parameter: th.Tensor) -> bool:
    """Whether a parameter is frozen or has a hook."""
    return bool(not parameter.requires_grad or parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def actor_layers(policy: ActorCriticPolicy) -> list[tuple[nn.Linear, nn.Module]]:
    """The actor's linear layers, each with its activation; the heads come last."""
    return _pairs(policy.mlp_extractor.policy_net) + actor_heads(policy)


def actor_heads(policy: ActorCriticPolicy) -> list[tuple[nn.Linear, nn.Module]]:
    """The actor's last layers: one that gives the outputs, and one for σ where a network gives it."""
    std_net = getattr(policy, "log_std_net", None)
    return _pairs([policy.action_net]) + ([] if std_net is None else _pairs([std_net]))


def critic_layers(policy: ActorCriticPolicy) -> list[tuple[nn.Linear, nn.Module]]:
    """The critic's linear layers, each with its activation; none for an actor without a critic."""
    if isinstance(policy.value_net, ZeroValue):
        return []
    return _pairs(policy.mlp_extractor.value_net) + _pairs([policy.value_net])


def _pairs(modules: Iterable[nn.Module]) -> list[tuple[nn.Linear, nn.Module]]:
    """Linear layers, each with the activation that follows it."""
    pairs: list[tuple[nn.Linear, nn.Module]] = []
    for module in modules:
        if type(module) is nn.Linear and module.bias is not None:
            pairs.append((module, nn.Identity()))
        elif type(module) in ACTIVATIONS and pairs and type(pairs[-1][1]) is nn.Identity:
            if isinstance(module, nn.GELU) and module.approximate != "none":
                raise NotServedError("an activation is an approximate GELU")
            pairs[-1] = (pairs[-1][0], module)
        else:
            raise NotServedError(f"the networks have a {type(module).__name__}")
    return pairs


def optimizer_options(group: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
    """The parameters and options of an optimiser's group, except the learning rate, which may change."""
    options = {name: value for name, value in group.items() if name not in ("lr", "initial_lr", "params")}
    return [*map(id, group["params"])], options


def _check_optimizer(policy: ActorCriticPolicy) -> None:
    optimizer = policy.optimizer
    if type(optimizer) not in OPTIMIZERS:
        raise NotServedError(f"the optimiser is {type(optimizer).__name__}")
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or "step" in vars(optimizer):
        raise NotServedError("the optimiser has a hook or a `step` of its own")
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if {id(parameter) for parameter in held} != {id(parameter) for parameter in policy.parameters()}:
        raise NotServedError("the optimiser does not hold the policy's parameters")
    first = optimizer.param_groups[0]
    for group in optimizer.param_groups:
        for option in _CHANGE_THE_FORMULA:
            if group.get(option):
                raise NotServedError(f"the optimiser's `{option}` is {group[option]}")
        if any(group.get(name) != first.get(name) for name in ("betas", "alpha", "eps")):
            raise NotServedError("the optimiser's groups differ in more than their learning rate")
    check_state(optimizer, held)


def check_state(optimizer: th.optim.Optimizer, parameters: Iterable[th.Tensor]) -> None:
    """Look at the state that an optimiser keeps of some parameters. A parameter without any gets it in the first step.

    Raises:
        NotServedError: With the reason.
    """
    arrays = []
    for parameter in parameters:
        state = optimizer.state.get(parameter)
        if not state:
            continue
        for name in (*STATES[type(optimizer)], "step"):
            if name not in state:
                raise NotServedError(f"the optimiser's state has no `{name}`")
        for name in STATES[type(optimizer)]:
            tensor = state[name]
            if not isinstance(tensor, th.Tensor) or not is_plain(tensor) or tensor.shape != parameter.shape:
                raise NotServedError(
                    f"the optimiser's `{name}` of a parameter of shape {tuple(parameter.shape)} is no plain array of "
                    "float32 of this shape"
                )
            arrays.append(tensor)
        step = state["step"]
        if isinstance(optimizer, RMSpropTFLike):
            if type(step) is not int:
                raise NotServedError(f"the optimiser's `step` is a {type(step).__name__}")
        elif not isinstance(step, th.Tensor) or not is_plain(step) or step.shape != ():
            raise NotServedError("the optimiser's `step` is no single number of float32")
        else:
            arrays.append(step)
    if overlap([*arrays, *parameters]):
        raise NotServedError("the optimiser's state shares its memory")
