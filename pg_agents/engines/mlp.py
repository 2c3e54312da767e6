"""The compiled engine: SB3's MLP policies on the CPU, with hand-derived gradients, in the policy's own memory.

The kernels work on torch's parameters and on the optimiser's state through their addresses, so `predict`, `save`,
`load`, callbacks and a later change of engine see current values at any moment. What is here looks at a policy,
says why it cannot be served or lays out the tables that the kernels read, and calls them.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from pg_agents.buffers import EpisodeBuffer, EstimatorMixin, RolloutBuffer
from pg_agents.checks import check_observations
from pg_agents.engines.autograd import Minibatch, not_finite
from pg_agents.metrics import deviations
from pg_agents.objectives import Weight, kl_divergence
from pg_agents.policies import (
    ActorPolicy,
    StateDependentStdActorPolicy,
    StateDependentStdPolicy,
    ZeroValue,
    unchecked_distributions,
)

if TYPE_CHECKING:
    from pg_agents.agent import PolicyGradient

POLICIES = (ActorCriticPolicy, ActorPolicy, StateDependentStdPolicy, StateDependentStdActorPolicy)
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
# Options of these optimisers that change their formula.
_PLAIN = ("weight_decay", "amsgrad", "maximize", "momentum", "centered", "differentiable", "capturable", "fused")
# In samples times parameters: below, starting a thread costs more than it saves.
_WORTH_A_THREAD = 1e7
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Methods of a policy that stand for its networks.
_REPLACEABLE = frozenset({"forward", "evaluate_actions", "predict_values", "extract_features", "get_distribution"})
_TRY_AGAIN = 16  # updates


class NotServedError(ValueError):
    """Why this engine does not serve an agent."""


@cache
def load_kernels() -> ModuleType:
    """Import the compiled kernels; the first time on a machine, that compiles them.

    Raises:
        NotServedError: Numba is missing, does not work, or has nowhere to keep what it compiles.
    """
    if importlib.util.find_spec("numba") is None:
        raise NotServedError("Numba is not installed (pip install numba)")
    try:
        import numba

        if numba.config.DISABLE_JIT:  # type: ignore[attr-defined] # set when Numba is imported
            raise NotServedError("NUMBA_DISABLE_JIT is set")
        from pg_agents.engines import kernels
    except NotServedError:
        raise
    except Exception as error:  # whatever it is that does not work, training can go on without
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise NotServedError(f"Numba cannot compile, or cannot keep what it compiled ({first_line})") from error
    return kernels


def check_served(agent: PolicyGradient) -> None:
    """Look at an agent without compiling anything.

    Raises:
        NotServedError: With the reason.
    """
    policy = agent.policy
    if agent.device.type != "cpu":
        raise NotServedError(f"it works on the CPU, and `device` is {agent.device}")
    _check_objective(agent)
    if type(policy) not in POLICIES:
        raise NotServedError(f"it does not know the policy {type(policy).__name__}")
    if policy.use_sde:
        raise NotServedError("`use_sde` is set")
    _check_spaces(agent.observation_space, agent.action_space)
    buffer = type(agent.rollout_buffer)
    known = EpisodeBuffer if agent.n_episodes is not None else RolloutBuffer
    for name in ("get", "add", "_get_samples"):
        if getattr(buffer, name) is not getattr(known, name):
            raise NotServedError(f"the buffer {buffer.__name__} has its own `{name}`")
    _check_modules(policy)
    _check_optimizer(policy)


def _definer(cls: type[Any], name: str) -> type[Any]:
    return next(base for base in cls.__mro__ if name in vars(base))


def _check_objective(agent: PolicyGradient) -> None:
    cls = type(agent)
    by, beside = _definer(cls, "objective"), _definer(cls, "weight")
    if "objective" in vars(agent) or not issubclass(beside, by):
        raise NotServedError(f"{cls.__name__} defines an `objective` without its `weight`")
    if _definer(cls, "value_prediction").__name__ != "PolicyGradient":
        raise NotServedError(f"{cls.__name__} has its own `value_prediction`")


def _check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    if isinstance(observation_space, spaces.Box):
        if is_image_space(observation_space):
            raise NotServedError("observations are images")
    elif not (
        (isinstance(observation_space, spaces.Discrete) and observation_space.start == 0)
        or (isinstance(observation_space, spaces.MultiBinary))
    ):
        raise NotServedError(f"observations are {observation_space}")
    if isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim > 1:
        raise NotServedError(f"actions are {action_space}")


def _check_modules(policy: ActorCriticPolicy) -> None:
    if not _REPLACEABLE.isdisjoint(vars(policy)):
        raise NotServedError("a method of the policy was replaced")
    extractors = (policy.features_extractor, policy.pi_features_extractor, policy.vf_features_extractor)
    if any(type(extractor) is not FlattenExtractor for extractor in extractors):
        raise NotServedError(f"the features extractor is a {type(policy.features_extractor).__name__}")
    if type(policy.mlp_extractor) is not MlpExtractor:
        raise NotServedError(f"the networks are a {type(policy.mlp_extractor).__name__}")
    for module in policy.modules():
        if any(getattr(module, name) for name in _HOOKS):
            raise NotServedError(f"a {type(module).__name__} has a hook")
    known = [
        parameter for linear, _ in (*_actor(policy), *_critic(policy)) for parameter in (linear.weight, linear.bias)
    ]
    known += [policy.log_std] if isinstance(getattr(policy, "log_std", None), nn.Parameter) else []
    if {id(parameter) for parameter in known} != {id(parameter) for parameter in policy.parameters()}:
        raise NotServedError("the policy has parameters beyond those of its layers")
    if len({id(parameter) for parameter in known}) != len(known):
        raise NotServedError("layers share parameters")
    for parameter in known:
        if parameter.dtype != th.float32 or not parameter.is_contiguous() or parameter.device.type != "cpu":
            raise NotServedError("a parameter is no plain array of float32 on the CPU")
        if _is_special(parameter):
            raise NotServedError("a parameter is frozen or has a hook")


def _is_special(parameter: th.Tensor) -> bool:
    hooks = parameter._backward_hooks or parameter._post_accumulate_grad_hooks
    return bool(hooks) or not parameter.requires_grad


def _actor(policy: ActorCriticPolicy) -> list[tuple[nn.Linear, nn.Module]]:
    std_net = getattr(policy, "log_std_net", None)
    heads = _pairs([policy.action_net]) + ([] if std_net is None else _pairs([std_net]))
    return _pairs(policy.mlp_extractor.policy_net) + heads


def _critic(policy: ActorCriticPolicy) -> list[tuple[nn.Linear, nn.Module]]:
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


def _options(group: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
    """All of an optimiser's group but its learning rate, which may change."""
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
        for option in _PLAIN:
            if group.get(option):
                raise NotServedError(f"the optimiser's `{option}` is {group[option]}")
        if any(group.get(name) != first.get(name) for name in ("betas", "alpha", "eps")):
            raise NotServedError("the optimiser's groups differ in more than their learning rate")


class Pace:
    """Whether a second thread pays, by how long updates took: where the other core is busy, it costs time.

    The result does not depend on the number of threads.
    """

    def __init__(self) -> None:
        self._seconds = {2: 0.0, 1: 0.0}  # for a sample; 0 until it was tried
        self._n_updates = 0

    @contextmanager
    def chosen(self, n_samples: int) -> Iterator[int]:
        """The number of threads for the update that is made inside; now and then the other, to see.

        Args:
            n_samples: How many the update learns from, over all epochs.
        """
        faster = min(self._seconds, key=lambda n_threads: self._seconds[n_threads])
        self._n_updates += 1
        n_threads = 3 - faster if self._n_updates % _TRY_AGAIN == 0 else faster
        start = time.perf_counter()
        yield n_threads
        self._seconds[n_threads] = (time.perf_counter() - start) / n_samples


class Program:
    """The tables of one policy, and everything that their addresses point into.

    Args:
        agent: Whose policy it is; one that `check_served` lets through.
    """

    def __init__(self, agent: PolicyGradient) -> None:
        kernels = self.kernels = load_kernels()
        policy = self.policy = agent.policy
        observation_space, action_space = agent.observation_space, agent.action_space
        self._owners: list[Any] = []
        self._zero = self._zeros(1)
        self._bound: tuple[Any, ...] | None = None
        actor, critic = _actor(policy), _critic(policy)
        row = self.policies = self._table(kernels.POLICY, 1)
        self.n_features = actor[0][0].in_features
        row["one_hot"] = isinstance(observation_space, spaces.Discrete)
        self.n_observation = 1 if row["one_hot"] else self.n_features
        row["n_observation"], row["n_features"] = self.n_observation, self.n_features
        row["has_critic"] = bool(critic)
        sizes = self._sizes = _sizes(action_space)
        kind = "GAUSSIAN" if isinstance(action_space, spaces.Box) else "CATEGORICAL" if sizes else "BERNOULLI"
        row["distribution"] = getattr(kernels, kind)
        n_outputs = int(policy.action_net.out_features)  # type: ignore[arg-type] # a Linear, as was checked
        self.n_actions = len(sizes) or n_outputs
        self.is_gaussian, self.is_categorical = kind == "GAUSSIAN", kind == "CATEGORICAL"
        row["n_actions"], row["n_outputs"] = self.n_actions, n_outputs
        row["sizes"] = self._address(np.array(sizes, dtype=np.int64))
        has_log_std = isinstance(getattr(policy, "log_std", None), nn.Parameter)
        row["log_stds"], row["actions"] = (
            self._zeros(n_outputs * kernels.BLOCK),
            self._zeros(self.n_actions * kernels.BLOCK),
        )
        for name in ("log_prob", "entropy", "scratch", "weights"):
            row[name] = self._zeros(kernels.BLOCK)

        self.layers = self._table(kernels.LAYER, len(actor) + len(critic))
        self.tensors = self._table(kernels.TENSOR, 2 * len(self.layers) + has_log_std)
        self.towers = self._table(kernels.TOWER, 2)
        self.parameters: list[th.Tensor] = []
        first = 0
        for tower, pairs in zip(self.towers, (actor, critic), strict=True):
            # Each has an input of its own, as two threads may fill them.
            tower["input"], tower["input_rows"] = (
                self._zeros(self._padded(self.n_features) * kernels.BLOCK) for _ in range(2)
            )
            extra = policy.log_std if pairs is actor and has_log_std else None
            n_heads = 0 if not pairs else 2 if pairs is actor and hasattr(policy, "log_std_net") else 1
            self._lay_out(tower, first, pairs, n_heads, extra)
            first += len(pairs)
        self.n_parameters = sum(parameter.numel() for parameter in self.parameters)
        self.pace = Pace()
        self._remember()

    def _padded(self, size: int) -> int:
        lanes: int = self.kernels.LANES
        return -(-size // lanes) * lanes

    def _table(self, dtype: np.dtype[Any], rows: int) -> np.ndarray:
        return np.zeros(rows, dtype=dtype)

    def _address(self, array: np.ndarray) -> int:
        self._owners.append(array)
        return int(array.ctypes.data)

    def _zeros(self, size: int) -> int:
        """Address of so many zeros, at the beginning of a cache line."""
        array = np.zeros(size + 16, dtype=np.float32)
        return self._address(array) + -array.ctypes.data % 64

    def _lay_out(
        self,
        tower: Any,
        first: int,
        pairs: list[tuple[nn.Linear, nn.Module]],
        n_heads: int,
        extra: nn.Parameter | None,
    ) -> None:
        """Fill in the layers and tensors of a tower, in the order of the parameters that are appended."""
        block, n_hidden = self.kernels.BLOCK, len(pairs) - n_heads
        tower["first_layer"], tower["n_hidden"], tower["n_heads"] = first, n_hidden, n_heads
        tower["first_tensor"] = len(self.parameters)
        size = sum(linear.out_features * (self._padded(linear.in_features) + 1) for linear, _ in pairs)
        size += 0 if extra is None else extra.numel()
        gradient = tower["gradient"] = self._zeros(size)
        tower["gradient_size"] = size
        input_, input_rows = tower["input"], tower["input_rows"]
        for index, (linear, activation) in enumerate(pairs, first):
            layer = self.layers[index]
            n_in, n_out, width = linear.in_features, linear.out_features, self._padded(linear.in_features)
            layer["n_in"], layer["n_out"] = n_in, n_out
            layer["activation"] = getattr(self.kernels, ACTIVATIONS[type(activation)])
            layer["slope_below_0"] = getattr(activation, "alpha", getattr(activation, "negative_slope", 0))
            layer["weight"], layer["bias"] = linear.weight.data_ptr(), linear.bias.data_ptr()
            layer["weight_grad"], layer["bias_grad"] = gradient, gradient + 4 * n_out * width
            self._add_tensor(linear.weight, n_out, n_in, gradient, width)
            self._add_tensor(linear.bias, 1, n_out, gradient + 4 * n_out * width, n_out)
            gradient += 4 * n_out * (width + 1)
            layer["input"], layer["input_rows"] = input_, input_rows
            layer["zero"] = self._zero
            for name in ("output", "derivative", "delta"):
                # Rows up to a multiple of 16: they are transposed in tiles.
                layer[name] = self._zeros(self._padded(n_out) * block)
            if index < first + n_hidden:
                input_, input_rows = layer["output"], self._zeros(block * self._padded(n_out))
        if extra is not None:
            self.policies["log_std"], self.policies["log_std_grad"] = extra.data_ptr(), gradient
            self._add_tensor(extra, 1, extra.numel(), gradient, extra.numel())
        tower["n_tensors"] = len(self.parameters) - tower["first_tensor"]

    def _add_tensor(self, parameter: th.Tensor, rows: int, columns: int, gradient: int, gradient_row: int) -> None:
        tensor = self.tensors[len(self.parameters)]
        tensor["rows"], tensor["columns"], tensor["value"] = rows, columns, parameter.data_ptr()
        tensor["gradient"], tensor["gradient_row"] = gradient, gradient_row
        self.parameters.append(parameter)

    def _remember(self) -> None:
        """Keep what `fits` compares: `check_served` itself would cost as much as a short rollout."""
        policy, optimizer = self.policy, self.policy.optimizer
        modules = list(policy.modules())
        self._children = [(module._modules, list(module._modules.values())) for module in modules if module._modules]
        self._held = [
            (module._parameters, [*map(id, module._parameters.values())]) for module in modules if module._parameters
        ]
        self._hooks = [getattr(module, name) for module in modules for name in _HOOKS]
        self._hooks += [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
        self._options = [_options(group) for group in optimizer.param_groups]
        self._optimizer = optimizer
        self.addresses = [parameter.data_ptr() for parameter in self.parameters]
        # Their memory, should they be given another.
        self._memory = [parameter.detach() for parameter in self.parameters]

    def check_actions(self, actions: np.ndarray) -> None:
        """Refuse stored actions that are none, before the kernels take them for indices.

        Raises:
            IndexError: An environment or a callback has changed them.
        """
        flat = actions.reshape(-1, self.n_actions)
        if flat.min() < 0 or (flat.max(axis=0) >= self._sizes).any():
            raise IndexError(
                f"A stored action is outside the action space, whose sizes are {self._sizes}: something has changed it "
                "since it was drawn."
            )

    def fits(self, policy: ActorCriticPolicy) -> bool:
        """Whether all is still as it was when the tables were made."""
        optimizer = policy.optimizer
        return (
            policy is self.policy
            and optimizer is self._optimizer
            and all(list(children.values()) == before for children, before in self._children)
            and all([*map(id, held.values())] == before for held, before in self._held)
            and not any(self._hooks)
            and _REPLACEABLE.isdisjoint(vars(policy))
            and "step" not in vars(optimizer)
            and not any(_is_special(parameter) for parameter in self.parameters)
            and [parameter.data_ptr() for parameter in self.parameters] == self.addresses
            and [_options(group) for group in optimizer.param_groups] == self._options
        )

    def bind_optimizer(self, trains_critic: bool) -> None:
        """Write down learning rates, and where the optimiser keeps its state; create that as the optimiser would."""
        optimizer = self.policy.optimizer
        n_trained = len(self.parameters) if trains_critic else int(self.towers[0]["n_tensors"])
        if (
            (optimizer, n_trained) != self._bound
            or any(
                optimizer.state.get(parameter) is not state
                for parameter, state in zip(self.parameters, self._states, strict=False)
            )
            or any(
                state.get(name) is not tensor or tensor.data_ptr() != address
                for state, name, tensor, address in self._bound_tensors
            )
        ):
            self._bind_state(optimizer, self.parameters[:n_trained])
            self._bound = optimizer, n_trained
        rates = np.array([group["lr"] for group in optimizer.param_groups])
        self.tensors["learning_rate"] = rates[self._groups] if len(rates) > 1 else rates[0]

    def _bind_state(self, optimizer: th.optim.Optimizer, trained: list[th.Tensor]) -> None:
        group_of = {
            id(parameter): number
            for number, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
        }
        self._groups = np.array([group_of[id(parameter)] for parameter in self.parameters])
        self._states = [optimizer.state[parameter] for parameter in trained]
        self._bound_tensors: list[tuple[dict[str, Any], str, th.Tensor, int]] = []
        adam = isinstance(optimizer, th.optim.Adam)
        names = {"mean": "exp_avg", "square": "exp_avg_sq"} if adam else {"square": "square_avg"}
        for row, parameter, state in zip(self.tensors, trained, self._states, strict=False):
            if not state:
                _initialise(optimizer, parameter, state)
            row["step"] = 0
            for column, name in {**names, "step": "step"}.items():
                tensor = state[name]
                if isinstance(tensor, th.Tensor):
                    row[column] = tensor.data_ptr()
                    self._bound_tensors.append((state, name, tensor, tensor.data_ptr()))
        self._state_memory = [tensor.detach() for _, _, tensor, _ in self._bound_tensors]

    def count_steps(self, n_steps: int) -> None:
        """Count steps where the optimiser counts them in a Python number, which the kernels cannot reach."""
        if not isinstance(self._states[0]["step"], th.Tensor):
            for state in self._states:
                state["step"] += n_steps


def _sizes(action_space: spaces.Space[Any]) -> list[int]:
    if isinstance(action_space, spaces.Discrete):
        return [int(action_space.n)]
    return [int(n) for n in action_space.nvec] if isinstance(action_space, spaces.MultiDiscrete) else []


def _initialise(optimizer: th.optim.Optimizer, parameter: th.Tensor, state: dict[str, Any]) -> None:
    """The optimiser's own first state."""
    tf_like = isinstance(optimizer, RMSpropTFLike)
    state["step"] = 0 if tf_like else th.tensor(0.0)
    if isinstance(optimizer, th.optim.Adam):
        state["exp_avg"], state["exp_avg_sq"] = th.zeros_like(parameter), th.zeros_like(parameter)
        state["exp_avg"], state["exp_avg_sq"] = state["exp_avg"].detach(), state["exp_avg_sq"].detach()
    else:
        state["square_avg"] = (th.ones_like if tf_like else th.zeros_like)(parameter).detach()


class Actor:
    """Acts for one rollout: draws actions, and writes them, log π and V into the buffer's arrays.

    Args:
        agent: Whose policy acts.
        program: Its tables.
    """

    writes = True

    def __init__(self, agent: PolicyGradient, program: Program) -> None:
        self.agent, self.program, self.buffer = agent, program, agent.rollout_buffer
        self.checks = isinstance(agent.observation_space, spaces.Box)
        self._act = program.kernels.act
        self._step = np.zeros(1, dtype=program.kernels.STEP)
        self._bind()

    def _bind(self) -> None:
        """Point to the buffer's arrays; again after they have grown."""
        program, buffer, step, space = self.program, self.buffer, self._step, self.agent.action_space
        size, n_envs = buffer.values.shape
        kept = [buffer.values, buffer.log_probs]
        self._values = buffer.values
        stored = buffer.observations.reshape(size, n_envs, program.n_observation)
        self._shape = self.agent.observation_space.shape
        self._inputs = stored if stored.dtype == np.float32 else np.zeros(stored.shape, np.float32)
        self._converted = None if stored is self._inputs else stored
        drawn = np.int64 if program.is_categorical else np.float32
        # Straight into the buffer, where it has the type that the policy gives.
        direct = buffer.actions.dtype == drawn
        actions = buffer.actions if direct else np.zeros(buffer.actions.shape, drawn)
        self._stored_actions = None if direct else buffer.actions
        generator = self.agent._generator
        draw = generator.standard_normal if program.is_gaussian else generator.random
        noise = draw((size - buffer.pos, n_envs, program.n_actions), dtype=np.float32)
        used = buffer.pos * n_envs * program.n_actions * 4
        clipped = np.zeros((size, n_envs, program.n_actions), np.float32) if program.is_gaussian else actions
        low = high = np.zeros(1, np.float32)
        if isinstance(space, spaces.Box):
            low, high = (bound.astype(np.float32).ravel() for bound in (space.low, space.high))
        step["n_envs"] = n_envs
        for name, array in (("observations", self._inputs), ("actions", actions), ("clipped", clipped)):
            step[name] = array.ctypes.data
            kept.append(array)
        # The first rows are drawn already.
        step["noise"] = noise.ctypes.data - used
        step["low"], step["high"] = low.ctypes.data, high.ctypes.data
        step["values"], step["log_probs"] = buffer.values.ctypes.data, buffer.log_probs.ctypes.data
        self._kept = [*kept, noise, low, high]
        shape = (size, n_envs, *(() if isinstance(space, spaces.Discrete) else space.shape or ()))
        self._actions = list(actions.reshape(shape))
        own_clipping = _definer(type(self.agent), "_environment_actions").__name__ == "PolicyGradient"
        ready = own_clipping and (not program.is_gaussian or space.dtype == np.float32)
        self._env_actions = list(clipped.reshape(shape)) if ready else None
        self._tensors: list[tuple[th.Tensor, th.Tensor, th.Tensor]] | None = None

    def __call__(self, observations: Any) -> tuple[np.ndarray, np.ndarray]:
        """Act in the environments' current states; see `pg_agents.engines.Actor`."""
        t = self.buffer.pos
        if self.buffer.values is not self._values:
            self._bind()
        program = self.program
        if self._converted is None:
            self._inputs[t] = observations.reshape(self._inputs.shape[1:])
        else:
            self._converted[t] = observations.reshape(self._inputs.shape[1:])
            with np.errstate(over="ignore"):  # it is refused as infinite
                self._inputs[t] = observations.reshape(self._inputs.shape[1:])
        if not self._act(program.policies, program.towers, program.layers, self._step, t):
            self._refuse(observations)
        actions = self._actions[t]
        if self._env_actions is None:
            return actions, self.agent._environment_actions(actions)
        return actions, self._env_actions[t]

    def tensors(self) -> tuple[Any, th.Tensor, th.Tensor]:
        """The observations that were acted on last, V, and log π of the actions drawn."""
        if self._tensors is None:
            # All rows at once: one by one they cost more than acting does.
            observations, values, log_probs = (
                th.from_numpy(array) for array in (self.buffer.observations, self.buffer.values, self.buffer.log_probs)
            )
            as_given = observations.view(*self.buffer.values.shape, *(self.agent.observation_space.shape or ()))
            self._tensors = list(zip(as_given.unbind(), values.unsqueeze(-1).unbind(), log_probs.unbind(), strict=True))
        return self._tensors[self.buffer.pos]

    def is_current(self) -> bool:
        """Whether the parameters are where they were; by one of them, as this is asked in every step."""
        return self.program.parameters[0].data_ptr() == self.program.addresses[0]

    def finish(self) -> None:
        """Complete the row of the buffer, where its types are others than those of the kernels."""
        t = self.buffer.pos
        if self._stored_actions is not None:
            self._stored_actions[t] = self._actions[t].reshape(self._stored_actions.shape[1:])

    def _refuse(self, observations: Any) -> None:
        agent = self.agent
        check_observations(observations, agent.observation_space, agent.n_envs, agent.num_timesteps)
        raise ValueError(
            f"The policy's outputs are not finite after {agent.num_timesteps} steps, though its observations are: its "
            "parameters, or the observations' size, must be the cause."
        )


class MLPEngine:
    """Acting and learning in compiled code.

    Args:
        agent: One that `check_served` lets through.

    Raises:
        NotServedError: The kernels cannot be had.
    """

    def __init__(self, agent: PolicyGradient) -> None:
        self._program = Program(agent)
        self._weight = agent.weight()
        self._compiled_weight = _compile_weight(self._weight)

    def fits(self, agent: PolicyGradient) -> bool:
        """Whether the agent's policy and objective are still those that the engine was made for."""
        weight = agent.weight()
        same = (
            weight is not None
            and self._weight is not None
            and _is_same(weight.function, self._weight.function)
            and len(weight.coefficients) == len(self._weight.coefficients)
        )
        return same and self._program.fits(agent.policy)

    def actor(self, agent: PolicyGradient) -> Actor:
        """What acts in the agent's next rollout."""
        return Actor(agent, self._program)

    def values(self, agent: PolicyGradient, observations: Any) -> th.Tensor:
        """V of a batch of observations, of shape `(batch,)`."""
        program = self._program
        shape = np.shape(observations)[1:]
        if shape not in (agent.observation_space.shape, (1,) if agent.observation_space.shape == () else None):
            raise ValueError(
                f"Unexpected observation shape {shape} for the observation space {agent.observation_space}."
            )
        flat, values = np.ascontiguousarray(observations, dtype=np.float32), np.zeros(len(observations), np.float32)
        step = np.zeros(1, program.kernels.STEP)
        step["n_envs"], step["values_only"] = len(observations), True
        step["observations"], step["values"] = flat.ctypes.data, values.ctypes.data
        program.kernels.act(program.policies, program.towers, program.layers, step, 0)
        return th.from_numpy(values)

    def final_values(self, agent: PolicyGradient, observations: list[Any]) -> th.Tensor:
        """V of single observations, of shape `(n,)`."""
        return self.values(agent, np.stack(observations))

    def update(self, agent: PolicyGradient) -> Callable[[], dict[str, Any]]:
        """Train on `agent.rollout_buffer`; see `AutogradEngine.update`."""
        return _Update(agent, self._program, self._compiled_weight).run()


def _is_same(one: Any, other: Any) -> bool:
    """Whether two functions are the same one, perhaps made anew by every call of `weight`."""
    names = ("__code__", "__defaults__", "__closure__")
    return one is other or all(getattr(one, name, names) == getattr(other, name, None) for name in names)


@lru_cache(maxsize=32)
def _compiled_weight(function: Callable[..., float], n_coefficients: int) -> Any:
    import numba

    signature = numba.float32(*[numba.float32] * (3 + n_coefficients))
    try:
        return numba.cfunc(signature, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no file to keep it beside: written at a prompt
        return numba.cfunc(signature, error_model="numpy")(function)


def _compile_weight(weight: Weight | None) -> Any:
    if weight is None:
        raise NotServedError("its `weight` is None")
    if not isinstance(weight, Weight) or not isinstance(weight.coefficients, tuple):
        raise TypeError(f"`weight` must return a Weight(function, (coefficient, ...)), but returned {weight!r}.")
    function, n_coefficients = weight.function, len(weight.coefficients)
    name = getattr(function, "__qualname__", repr(function))
    if not isinstance(function, FunctionType) or function.__closure__:
        # Compiled, it would not notice that what it encloses has changed.
        raise NotServedError(f"{name} is no plain function; what it depends on can be a coefficient")
    if n_coefficients > 3:
        raise NotServedError(f"{name} has {n_coefficients} coefficients, more than 3")
    if function.__code__.co_argcount != 3 + n_coefficients:
        raise NotServedError(
            f"{name} takes {function.__code__.co_argcount} arguments, but is given log π, the ratio, the advantage and "
            f"{n_coefficients} coefficients"
        )
    try:
        return _compiled_weight(function, n_coefficients)
    except Exception as error:  # Numba has many, and says too much
        raise NotServedError(f"Numba cannot compile {name}") from error


# Of an update, that the kernels reach through their addresses.
_ARRAYS = (
    *("observations", "actions", "old_log_probs", "advantages", "returns", "old_values", "samples", "coefficients"),
    *("log_probs", "entropies", "values", "scaled_advantages", "norms", "progress", "squares"),
)
# Of those, what has a row for each epoch.
_BY_EPOCH = ("samples", "log_probs", "entropies", "values", "scaled_advantages", "norms")


class _Update:
    """One update: its data laid out, the kernels run, and what is to be logged."""

    def __init__(self, agent: PolicyGradient, program: Program, compiled_weight: Any) -> None:
        self.agent, self.program = agent, program
        weight = agent.weight()
        assert weight is not None
        buffer, optimizer = agent.rollout_buffer, agent.policy.optimizer
        group, kernels = optimizer.param_groups[0], program.kernels
        n_steps, n_envs = buffer.values.shape
        assert isinstance(buffer, EstimatorMixin), "checked by `check_served`"
        self.samples = buffer.draw_order(agent.batch_size, agent.n_epochs)
        n_epochs, n_samples = self.samples.shape
        self.n_samples, self.n_steps, self.n_envs = int(n_samples), int(n_steps), int(n_envs)
        self.batch_size = int(agent.batch_size or n_samples)
        table = self.table = np.zeros(1, kernels.UPDATE)
        table["n_samples"], table["batch_size"] = n_samples, self.batch_size
        table["n_steps"], table["n_envs"] = n_steps, n_envs
        self.trains_critic = agent.has_critic and bool(program.policies[0]["has_critic"])
        table["trains_critic"], table["normalize_advantage"] = self.trains_critic, agent.normalize_advantage
        self.ent_coef, self.vf_coef = agent.coefficient("ent_coef"), agent.coefficient("vf_coef")
        table["ent_coef"], table["vf_coef"], table["scale"] = self.ent_coef, self.vf_coef, agent.loss_scale
        value_clip = agent.value_clip()
        table["value_clip"] = np.inf if value_clip is None else value_clip
        table["max_grad_norm"] = np.inf if agent.max_grad_norm is None else agent.max_grad_norm
        stops = agent.reuses_samples and agent.target_kl is not None
        table["max_kl"] = 1.5 * agent.target_kl if stops else np.inf  # type: ignore[operator]
        table["weight"], table["n_coefficients"] = compiled_weight.address, len(weight.coefficients)
        table["optimizer"] = getattr(kernels, OPTIMIZERS[type(optimizer)])
        table["beta_1"], table["beta_2"] = group.get("betas", (0, group.get("alpha")))
        table["epsilon"] = group["eps"]
        self.observations = np.ascontiguousarray(buffer.observations, dtype=np.float32)
        self.actions = np.ascontiguousarray(buffer.actions, dtype=np.float32)
        if program.is_categorical:
            program.check_actions(self.actions)
        self.old_log_probs, self.old_values, self.advantages, self.returns = (
            np.ascontiguousarray(array, dtype=np.float32).reshape(n_steps * n_envs)
            for array in (buffer.log_probs, buffer.values, buffer.advantages, buffer.returns)
        )
        self.coefficients = np.array(weight.coefficients, np.float32)
        self.log_probs, self.entropies, self.values, self.scaled_advantages = np.zeros(
            (4, n_epochs * n_samples), np.float32
        )
        self.norms = np.zeros(n_epochs * -(-n_samples // self.batch_size))
        self.progress, self.squares = np.zeros(5, np.int64), np.zeros(4)
        for name in _ARRAYS:
            table[name] = getattr(self, name).ctypes.data

    def run(self) -> Callable[[], dict[str, Any]]:
        """Update the parameters.

        Returns:
            A function that gives what is to be logged.

        Raises:
            FloatingPointError: A gradient was not finite.
        """
        agent, program, kernels = self.agent, self.program, self.program.kernels
        program.bind_optimizer(self.trains_critic)
        if agent._on_epoch is None:
            code, n_begun = self._run_epochs(len(self.samples))
        else:
            code, n_begun = self._run_epoch_by_epoch(agent._on_epoch)
        n_steps = n_begun - (code != kernels.DONE)
        program.count_steps(n_steps)
        per_epoch = len(self.norms) // len(self.samples)
        agent._n_updates += -(-n_begun // per_epoch) - (code == kernels.NOT_FINITE)
        self.stopped = code == kernels.STOPPED
        self.n_begun, self.per_epoch = n_begun, per_epoch
        if code == kernels.NOT_FINITE:
            raise not_finite(agent, self.metrics()["loss"], float(self.norms[n_begun - 1]))
        if self.stopped and agent.verbose >= 1:
            kl = self._minibatch(slice(self._start(n_begun - 1), self._end(n_begun - 1))).mean_kl()
            print(f"Early stopping at step {(n_begun - 1) // per_epoch} due to reaching max kl: {kl:.2f}")
        return self.metrics

    def _run_epoch_by_epoch(self, on_epoch: Callable[[], None]) -> tuple[int, int]:
        """As `_run_epochs` with all of them, which one call after the other adds up to, bit for bit."""
        n_begun = 0
        for epoch in range(len(self.samples)):
            on_epoch()
            for name in _BY_EPOCH:
                of_epochs = getattr(self, name).reshape(len(self.samples), -1)
                self.table[name] = of_epochs[epoch].ctypes.data
            self.progress[:] = 0
            code, n_begun_now = self._run_epochs(1)
            n_begun += n_begun_now
            if code != self.program.kernels.DONE:
                break
        return code, n_begun

    def _run_epochs(self, n_epochs: int) -> tuple[int, int]:
        """How the kernels ended, and how many minibatches they have begun."""
        agent, program = self.agent, self.program
        self.table["n_epochs"] = n_epochs
        n_samples = n_epochs * self.n_samples
        can_share = self.trains_critic and agent._n_threads > 1
        if can_share and n_samples * program.n_parameters > _WORTH_A_THREAD:
            with program.pace.chosen(n_samples) as n_threads:
                code = self._run(0, 2) if n_threads == 1 else self._run_on_two_threads()
        else:
            code = self._run(0, 1 + self.trains_critic)
        return code, int(self.progress[3])

    def _run(self, first_tower: int, last_tower: int) -> int:
        program = self.program
        tables = program.policies, program.towers, program.layers, program.tensors, self.table
        return int(program.kernels.train(*tables, first_tower, last_tower))

    def _run_on_two_threads(self) -> int:
        critic = threading.Thread(target=self._run, args=(1, 2), name="pg_agents critic")
        try:
            critic.start()
            return self._run(0, 1)
        finally:
            # Whatever interrupts this thread, the other must not go on alone, nor outlive the arrays it works on.
            self.progress[2] = 1
            if critic.ident is not None:
                critic.join()

    def metrics(self) -> dict[str, Any]:
        """What the autograd engine logs, from what the kernels have left: means over minibatches."""
        agent = self.agent
        ends = np.array([self._end(number) for number in range(self.n_begun)])
        lengths = ends - np.array([self._start(number) for number in range(self.n_begun)])
        batch = self._minibatch(slice(0, int(ends[-1])))
        # The mean over minibatches of the mean over each: samples of a smaller minibatch weigh more.
        share = th.from_numpy(np.repeat(1 / (lengths * self.n_begun), lengths))

        def mean(per_sample: th.Tensor, samples: slice = slice(None)) -> float:
            return float((per_sample[samples] * share[samples]).sum() / share[samples].sum())

        last = slice(int(ends[-1] - lengths[-1]), int(ends[-1]))
        with th.no_grad(), unchecked_distributions():
            parts = {"policy_loss": -agent.objective(batch), "entropy_loss": -batch.entropy}  # type: ignore[operator]
            if self.trains_critic:
                parts["value_loss"] = (batch.returns - agent.value_prediction(batch)) ** 2
            parts |= agent.minibatch_metrics(batch)
            divergence = kl_divergence(batch.ratio, batch.log_ratio) if agent.reuses_samples else None
            spread = deviations(agent.policy, th.from_numpy(self._observations(last)))
        metrics = {name: mean(part) for name, part in parts.items()} | spread
        if divergence is not None:
            for epoch in range(-(-self.n_begun // self.per_epoch)):
                samples = slice(epoch * self.n_samples, (epoch + 1) * self.n_samples)
                metrics[f"approx_kl_epoch_{epoch + 1}"] = metrics["approx_kl"] = mean(divergence, samples)
        norms = self.norms[: self.n_begun - self.stopped]
        if len(norms):
            metrics["grad_norm"] = float(norms.mean())
        loss = mean(parts["policy_loss"], last) + self.ent_coef * mean(parts["entropy_loss"], last)
        if self.trains_critic:
            loss += self.vf_coef * mean(parts["value_loss"], last)
        metrics["loss"] = loss * float(self.table["scale"][0])
        return metrics

    def _start(self, minibatch: int) -> int:
        """The first sample of a minibatch, among those of all epochs."""
        epoch, number = divmod(minibatch, self.per_epoch)
        return epoch * self.n_samples + number * self.batch_size

    def _end(self, minibatch: int) -> int:
        epoch = minibatch // self.per_epoch
        return min(self._start(minibatch) + self.batch_size, (epoch + 1) * self.n_samples)

    def _stored(self, samples: slice) -> np.ndarray:
        """Where these samples lie in the buffer."""
        numbers = self.samples.reshape(-1)[samples]
        return np.asarray(numbers % self.n_steps * self.n_envs + numbers // self.n_steps)

    def _minibatch(self, samples: slice) -> Minibatch:
        stored = self._stored(samples)

        return Minibatch(
            log_prob=th.from_numpy(self.log_probs[samples]),
            old_log_prob=th.from_numpy(self.old_log_probs[stored]),
            advantages=th.from_numpy(self.scaled_advantages[samples]),
            values=th.from_numpy(self.values[samples]),
            old_values=th.from_numpy(self.old_values[stored]),
            returns=th.from_numpy(self.returns[stored]),
            entropy=th.from_numpy(self.entropies[samples]),
        )

    def _observations(self, samples: slice) -> np.ndarray:
        space = self.agent.observation_space
        flat: np.ndarray = self.observations.reshape(-1, *(space.shape or (1,)))[self._stored(samples)]
        return flat.astype(np.int64).reshape(-1) if isinstance(space, spaces.Discrete) else flat
