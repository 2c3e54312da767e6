"""The kernels' tables: addresses of parameters, of the optimiser's state and of working memory."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from operator import attrgetter, is_
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from pg_agents import estimators
from pg_agents.contract import NotServedError
from pg_agents.engines.compiling import listen
from pg_agents.engines.mlp.arrays import Arrays
from pg_agents.engines.mlp.memory import address
from pg_agents.engines.mlp.rows import COPIED, Rows
from pg_agents.engines.mlp.served import (
    ACTIVATIONS,
    GLOBAL_HOOKS,
    HOOKS,
    REPLACEABLE,
    STATES,
    actor_layers,
    check_state,
    critic_layers,
    exploration_of,
    is_plain,
    optimizer_options,
    outputs_of,
)
from pg_agents.engines.state import initial_state
from pg_agents.policies import check_parameters

# One call of C for each parameter: they are looked at in every update.
_data_ptr, _is_contiguous = th.Tensor.data_ptr, th.Tensor.is_contiguous
_requires_grad, _shape = attrgetter("requires_grad"), attrgetter("shape")
_END = (object(),)  # beyond the last of a policy's parts
_hooks, _later_hooks = attrgetter("_backward_hooks"), attrgetter("_post_accumulate_grad_hooks")


def kernels_are_loaded() -> bool:
    """Whether this process has loaded the kernels, so that their use costs no more loading time."""
    return load_kernels.cache_info().currsize > 0


def kernels_are_kept() -> bool:
    """Whether compiled kernels lie on the disk, so that loading them takes no longer than importing Numba.

    Numba itself would say so, but only once it is imported.
    """
    source = Path(__file__).with_name("kernels.py")
    folder, name = source.parent, f"kernels.act-*.py{sys.version_info.major}{sys.version_info.minor}.nbi"
    of_source = f"{folder.name}_{hashlib.sha1(str(folder).encode()).hexdigest()}"  # Numba's name
    given = os.environ.get("NUMBA_CACHE_DIR")
    places = [Path(given, of_source)] if given else [folder / "__pycache__", Path.home() / ".cache/numba" / of_source]
    try:
        made_by, changed = version("numba").encode(), source.stat().st_mtime
        digest = hashlib.sha256(source.read_bytes()).digest()
    except (PackageNotFoundError, OSError):
        return False
    found = [file for place in places for file in place.glob(name)]
    for file in found:
        content = file.read_bytes()
        # Numba tells sources apart by their content, and earlier versions by their time.
        if made_by in content[:64] and (digest in content or file.stat().st_mtime >= changed):
            return True
    return False


@cache
def load_kernels() -> ModuleType:
    """Import the compiled kernels; the first import on a machine compiles them.

    Raises:
        NotServedError: Numba is missing, does not work, or cannot store compiled code.
    """
    if importlib.util.find_spec("numba") is None:
        raise NotServedError("Numba is not installed (pip install numba)")
    try:
        import numba

        if numba.config.DISABLE_JIT:  # type: ignore[attr-defined] # set when Numba is imported
            raise NotServedError("NUMBA_DISABLE_JIT is set")
        listen()
        from pg_agents.engines.mlp import kernels, scan
    except NotServedError:
        raise
    except Exception as error:  # whatever it is that does not work, training can go on without
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise NotServedError(f"Numba cannot compile, or cannot keep what it compiled ({first_line})") from error
    estimators.use_scan(scan.discounted_sums)
    return kernels


@cache
def load_noise_kernels() -> ModuleType:
    """Import the kernels of gSDE; the first import on a machine compiles them."""
    from pg_agents.engines.mlp import noise_kernels

    return noise_kernels


class Program:
    """The tables of one policy, and the memory that their addresses point into.

    Args:
        policy: A policy that `check_served` lets through.

    Attributes:
        exploration: The distribution that has gSDE's noise; None without gSDE.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        kernels = self.kernels = load_kernels()
        self._call_act, self._call_train = kernels.call_act, kernels.call_train
        self.policy = policy
        action_space = policy.action_space
        self.arrays = Arrays(policy)
        self._owners: list[Any] = []
        self._zero = self._zeros(1)
        self._bound: tuple[Any, ...] | None = None
        self._state_was_bound = False  # when `can_learn` looked, just before an update
        actor, critic = actor_layers(policy), critic_layers(policy)
        row = self.policies = self._table(kernels.POLICY, 1)
        rows = self.rows = Rows(policy.observation_space)
        row["one_hot"], row["categories"] = (rows.categories != COPIED).any(), self._address(rows.categories)
        self.n_observation = row["n_observation"] = rows.n_observation
        row["n_features"] = rows.n_features
        row["has_critic"] = bool(critic)
        sizes = self.sizes = _sizes(action_space)
        self._bounds = np.array(sizes, dtype=np.float32)
        kind = "GAUSSIAN" if isinstance(action_space, spaces.Box) else "CATEGORICAL" if sizes else "BERNOULLI"
        row["distribution"] = getattr(kernels, kind)
        n_outputs = self.n_outputs = outputs_of(action_space)
        self.n_actions = len(sizes) or n_outputs
        self.is_gaussian, self.is_categorical = kind == "GAUSSIAN", kind == "CATEGORICAL"
        row["n_actions"], row["n_outputs"] = self.n_actions, n_outputs
        row["sizes"] = self._address(np.array(sizes, dtype=np.int64))
        has_log_std = isinstance(getattr(policy, "log_std", None), nn.Parameter)
        self.exploration = exploration_of(policy)
        row["log_stds"], row["actions"] = (
            self._zeros(n_outputs * kernels.BLOCK),
            self._zeros(self.n_actions * kernels.BLOCK),
        )
        for name in ("log_prob", "entropy", "scratch", "weights", "divergence"):
            row[name] = self._zeros(kernels.BLOCK)
        row["cross"] = self._zeros(self.n_actions * kernels.BLOCK)
        row["reference"] = self._zeros(2 * n_outputs * kernels.BLOCK)
        self.layers = self._table(kernels.LAYER, len(actor) + len(critic))
        self.tensors = self._table(kernels.TENSOR, 2 * len(self.layers) + has_log_std)
        self.towers = self._table(kernels.TOWER, 2)
        self.parameters: list[th.Tensor] = []
        first = 0
        for tower, pairs in zip(self.towers, (actor, critic), strict=True):
            # Each has an input of its own, as two threads may fill them.
            tower["input"], tower["input_rows"] = (
                self._zeros(self.padded(rows.n_features) * kernels.BLOCK) for _ in range(2)
            )
            extra = policy.log_std if pairs is actor and has_log_std else None
            n_heads = 0 if not pairs else 2 if pairs is actor and hasattr(policy, "log_std_net") else 1
            self._lay_out(tower, first, pairs, n_heads, extra)
            first += len(pairs)
        if self.exploration is not None:
            self._explores_by = _settings(self.exploration)
            self._lay_out_noise(self.exploration, policy.log_std)
        self.n_parameters = sum(parameter.numel() for parameter in self.parameters)
        self._tables = tuple(map(address, (self.policies, self.towers, self.layers, self.tensors)))
        self._remember()

    def act(self, step: int, t: int) -> bool:
        """Call `kernels.act`.

        Args:
            step: Address of a row of `STEP`.
            t: The step.

        Returns:
            Whether the observations, and all that came of them, are finite.
        """
        return bool(self._call_act(*self._tables[:3], step, t))

    def train(self, update: int, first_tower: int, last_tower: int) -> int:
        """Call `kernels.train`.

        Args:
            update: Address of a row of `UPDATE`.
            first_tower: The first tower that is trained.
            last_tower: The last one, and one beyond.

        Returns:
            How it ended.
        """
        return int(self._call_train(*self._tables, update, first_tower, last_tower))

    def padded(self, size: int) -> int:
        """A size in float32 numbers, rounded up to whole vectors."""
        lanes: int = self.kernels.LANES
        return -(-size // lanes) * lanes

    def _table(self, dtype: np.dtype[Any], rows: int) -> np.ndarray:
        return np.zeros(rows, dtype=dtype)

    def _address(self, array: np.ndarray) -> int:
        self._owners.append(array)
        return int(array.ctypes.data)

    def _zeros(self, size: int) -> int:
        """The address of an array of zeros, at the beginning of a cache line."""
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
        """Fill in the layers and tensors of a tower, and append its parameters in the same order."""
        block, n_hidden = self.kernels.BLOCK, len(pairs) - n_heads
        tower["first_layer"], tower["n_hidden"], tower["n_heads"] = first, n_hidden, n_heads
        tower["first_tensor"] = len(self.parameters)
        size = sum(len(linear.weight) * (self.padded(linear.weight.shape[1]) + 1) for linear, _ in pairs)
        size += 0 if extra is None else extra.numel()
        gradient = tower["gradient"] = self._zeros(size)
        tower["gradient_size"] = size
        input_, input_rows = tower["input"], tower["input_rows"]
        for index, (linear, activation) in enumerate(pairs, first):
            layer = self.layers[index]
            n_out, n_in = linear.weight.shape  # its own fields may be out of date
            width = self.padded(n_in)
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
                # The number of rows is a multiple of 16, because they are transposed in tiles.
                layer[name] = self._zeros(self.padded(n_out) * block)
            if index < first + n_hidden:
                input_, input_rows = layer["output"], self._zeros(block * self.padded(n_out))
        if extra is not None:
            self.policies["log_std"], self.policies["log_std_grad"] = extra.data_ptr(), gradient
            self._add_tensor(extra, 1, extra.numel(), gradient, extra.numel())
        tower["n_tensors"] = len(self.parameters) - tower["first_tensor"]

    def _lay_out_noise(self, exploration: StateDependentNoiseDistribution, log_std: th.Tensor) -> None:
        """Fill in gSDE's table, and its place in the policy's."""
        kernels, policy = load_noise_kernels(), self.policies
        noise = self._table(kernels.NOISE, 1)
        policy["noise"], policy["n_latent"] = self._address(noise), len(log_std)
        for name in ("find_deviations", "find_changes", "add_gradient"):
            policy[name] = getattr(kernels, name).address
        noise["n_latent"], noise["columns"] = log_std.shape
        noise["n_outputs"] = self.n_outputs
        noise["use_expln"], noise["epsilon"] = exploration.use_expln, exploration.epsilon
        for name in ("log_std", "log_std_grad", "log_stds"):
            noise[name] = policy[name]
        block, padded = self.kernels.BLOCK, self.padded(len(log_std))
        for name, size in (
            ("variances", log_std.numel()),
            ("slopes", log_std.numel()),
            ("squares", padded * block),
            ("square_rows", padded * block),
            ("sums", padded * self.n_outputs),
        ):
            noise[name] = self._zeros(size)

    def _add_tensor(self, parameter: th.Tensor, rows: int, columns: int, gradient: int, gradient_row: int) -> None:
        tensor = self.tensors[len(self.parameters)]
        tensor["rows"], tensor["columns"], tensor["value"] = rows, columns, parameter.data_ptr()
        tensor["gradient"], tensor["gradient_row"] = gradient, gradient_row
        self.parameters.append(parameter)

    def _remember(self) -> None:
        """Store the state that `fits` compares; `check_served` would cost as much as a short rollout."""
        policy, optimizer = self.policy, self.policy.optimizer
        modules = list(policy.modules())
        # Layers compute with their parameters, and other modules with those inside: an empty one can get some.
        views: list[Any] = [
            module._modules.values() for module in modules if type(module) not in (nn.Linear, *ACTIVATIONS)
        ]
        views += [module._parameters.values() for module in modules if module._parameters]
        self._parts, self._known_parts = [*views, _END], [*chain.from_iterable([*views, _END])]
        self._attributes = [vars(module) for module in modules]
        self._hooks = [getattr(module, name) for module in modules for name in HOOKS] + [*GLOBAL_HOOKS]
        self._optimizer_hooks = [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
        self._options = [optimizer_options(group) for group in optimizer.param_groups]
        self._optimizer = optimizer
        self.addresses = [parameter.data_ptr() for parameter in self.parameters]
        # Keeps the addresses valid after a parameter is given other memory.
        self._memory = [parameter.detach() for parameter in self.parameters]
        self._shapes = [*map(_shape, self.parameters)]

    def check_actions(self, actions: np.ndarray) -> None:
        """Refuse stored actions outside their space before the kernels use them as indices.

        Raises:
            IndexError: An action is outside its space, because an environment or a callback has changed it.
        """
        flat = actions.reshape(-1, self.n_actions)
        if not ((flat >= 0) & (flat < self._bounds)).all():
            raise IndexError(
                f"A stored action is outside the action space, whose sizes are {self.sizes}: it was changed after it "
                "was drawn."
            )

    def check_parameters(self) -> None:
        """Refuse parameters that are not finite.

        Raises:
            NotFiniteError: The message names one.
        """
        if not self.kernels.are_finite(self.tensors):
            check_parameters(self.policy)

    def computes_forward(self) -> bool:
        """Whether the policy's networks are unchanged, apart from values: the part of `fits` that acting depends on."""
        if not all(map(is_, chain.from_iterable(self._parts), self._known_parts)):
            return False
        for attributes in self._attributes:
            if "forward" in attributes:
                return False
        if not self.is_in_place() or [*map(_shape, self.parameters)] != self._shapes:
            return False
        if not all(map(_is_contiguous, self.parameters)):
            return False
        if self.exploration is not None and (
            self.policy.action_dist is not self.exploration or _settings(self.exploration) != self._explores_by
        ):
            return False
        return not any(self._hooks) and vars(self.policy).keys().isdisjoint(REPLACEABLE)

    def is_in_place(self) -> bool:
        """Whether the parameters are where they were."""
        return [*map(_data_ptr, self.parameters)] == self.addresses

    def gradient(self) -> np.ndarray:
        """The memory of the actor's gradient, as the kernels lay it out: each row of a weight begins a new vector."""
        tower = self.towers[0]
        return _floats(int(tower["gradient"]), int(tower["gradient_size"]))

    def outputs(self) -> tuple[np.ndarray, np.ndarray]:
        """The memory of the actor's outputs, and of the numbers computed from them, each `(n_outputs, 64)`.

        After `act` they contain the last block's logits (for Discrete and MultiDiscrete actions log p) and p.
        """
        tower = self.towers[0]
        head = self.layers[tower["first_layer"] + tower["n_hidden"]]
        shape = int(head["n_out"]), self.kernels.BLOCK
        outputs, computed = (_floats(int(head[name]), shape[0] * shape[1]) for name in ("output", "delta"))
        return outputs.reshape(shape), computed.reshape(shape)

    def fits(self, policy: ActorCriticPolicy) -> bool:
        """Whether the policy is unchanged, apart from values, since the tables were made, as far as it acts."""
        return policy is self.policy and policy.optimizer is self._optimizer and self.computes_forward()

    def can_learn(self) -> bool:
        """Whether the rest that an update depends on is unchanged, apart from values."""
        optimizer = self._optimizer
        return (
            not any(self._optimizer_hooks)
            and "step" not in vars(optimizer)
            and all(map(_requires_grad, self.parameters))
            and not any(map(_hooks, self.parameters))
            and not any(map(_later_hooks, self.parameters))
            and [optimizer_options(group) for group in optimizer.param_groups] == self._options
            and self._state_fits()
        )

    def _state_fits(self) -> bool:
        """Whether the optimiser's state is where the tables say, or its place could be written down there."""
        optimizer = self.policy.optimizer
        self._state_was_bound = self._bound is not None and self._state_is_bound(optimizer)
        if self._state_was_bound:
            return True
        try:
            check_state(optimizer, self.parameters)
        except NotServedError:
            return False
        return True

    def bind_optimizer(self, first_tower: int, last_tower: int) -> None:
        """Write learning rates and the addresses of the optimiser's state, which is created if it does not exist.

        Args:
            first_tower: The first tower to be trained.
            last_tower: One beyond the last tower to be trained.
        """
        optimizer = self.policy.optimizer
        first, last = self.towers[first_tower], self.towers[last_tower - 1]
        trained = slice(int(first["first_tensor"]), int(last["first_tensor"] + last["n_tensors"]))
        known, self._state_was_bound = self._state_was_bound, False  # it counts once
        if (optimizer, trained) != self._bound or not (known or self._state_is_bound(optimizer)):
            self._bind_state(optimizer, trained)
            self._bound = optimizer, trained
        rates = [group["lr"] for group in optimizer.param_groups]
        self.tensors["learning_rate"] = np.array(rates)[self._groups] if len(rates) > 1 else rates[0]

    @contextmanager
    def moving(self, parameters: Sequence[th.Tensor]) -> Iterator[None]:
        """Apply steps to these parameters, in the policy's order, while gradients are taken at the policy's own."""
        moved = dict(zip(map(id, self.policy.parameters()), parameters, strict=True))
        for own, other in zip(self.policy.parameters(), parameters, strict=True):
            if other.shape != own.shape or not is_plain(other):
                raise ValueError(
                    f"A parameter to be moved is an array of {other.dtype} with the shape {tuple(other.shape)}, but "
                    f"the policy's own is one of {own.dtype} with the shape {tuple(own.shape)}."
                )
        addresses = [moved[id(parameter)].data_ptr() for parameter in self.parameters]
        self.tensors["value"] = addresses
        try:
            yield
        finally:
            self.tensors["value"] = self.addresses

    def _state_is_bound(self, optimizer: th.optim.Optimizer) -> bool:
        """Whether the optimiser's state is where the tables say."""
        if [*map(id, optimizer.state.values())] != self._identities:
            return False
        if [state.get(name) is tensor for state, name, tensor in self._bound_tensors].count(False):
            return False
        return (
            [*map(_data_ptr, self._state_tensors)] == self._state_addresses
            and [tensor.shape for tensor in self._state_arrays] == self._state_shapes
            and all(map(_is_contiguous, self._state_arrays))
        )

    def _bind_state(self, optimizer: th.optim.Optimizer, trained: slice) -> None:
        group_of = {
            id(parameter): number
            for number, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
        }
        self._groups = np.array([group_of[id(parameter)] for parameter in self.parameters])
        self._states = [optimizer.state[parameter] for parameter in self.parameters[trained]]
        self._bound_tensors: list[tuple[dict[str, Any], str, th.Tensor]] = []
        kept = STATES[type(optimizer)]
        names = dict(zip(("square", "mean"), reversed(kept), strict=False))
        for parameter, state in zip(self.parameters[trained], self._states, strict=True):
            if not state:
                state.update(initial_state(optimizer, parameter))
        check_state(optimizer, self.parameters[trained])
        for row, state in zip(self.tensors[trained], self._states, strict=True):
            row["step"] = 0
            for column, name in {**names, "step": "step"}.items():
                tensor = state[name]
                if isinstance(tensor, th.Tensor):
                    row[column] = tensor.data_ptr()
                    self._bound_tensors.append((state, name, tensor))
        # As long as `_states` holds them, no other object has their identities.
        self._identities = [*map(id, optimizer.state.values())]
        tensors = self._state_tensors = [tensor for _, _, tensor in self._bound_tensors]
        self._state_addresses = [*map(_data_ptr, tensors)]
        self._state_arrays = [tensor for _, name, tensor in self._bound_tensors if name in kept]
        self._state_shapes = [tensor.shape for tensor in self._state_arrays]
        self._state_memory = [tensor.detach() for tensor in tensors]

    def count_steps(self, n_steps: int) -> None:
        """Add to the optimiser's count of steps if it is a Python number, which the kernels cannot reach."""
        if not isinstance(self._states[0]["step"], th.Tensor):
            for state in self._states:
                state["step"] += n_steps


def _settings(exploration: StateDependentNoiseDistribution) -> tuple[Any, ...]:
    """The settings of gSDE that the tables contain, or that the engine does not serve."""
    return (
        exploration.use_expln,
        exploration.full_std,
        exploration.epsilon,
        exploration.learn_features,
        exploration.bijector,
    )


def _floats(place: int, size: int) -> np.ndarray:
    """The numbers at an address."""
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(place))


def _sizes(action_space: spaces.Space[Any]) -> list[int]:
    if isinstance(action_space, spaces.Discrete):
        return [int(action_space.n)]
    return [int(n) for n in action_space.nvec] if isinstance(action_space, spaces.MultiDiscrete) else []
