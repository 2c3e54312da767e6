"""Policies that SB3 does not have: without a critic, and Gaussian with a standard deviation that depends on the state.

A2C, PPO, ActorCritic and ReinforceBaseline use SB3's own policies, so that their files load in SB3. REINFORCE uses the
`ActorPolicy` family. `policy_kwargs=dict(state_dependent_std=True)` selects, for any of them, the policy of the same
kind whose network gives the standard deviation too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    DiagGaussianDistribution,
    Distribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from typing_extensions import Self

from pg_agents.contract import NotFiniteError
from pg_agents.files.agents import load_policy
from pg_agents.files.archives import FilePath
from pg_agents.observations import not_finite

# Far out, for the gradient is zero beyond them: they keep σ and 1/σ² finite in float32 and are not to be reached.
LOG_STD_MIN, LOG_STD_MAX = -20.0, 20.0


class _Unchecked:
    """The number of contexts that have turned torch's checks off, and the setting to restore."""

    def __init__(self) -> None:
        self.lock, self.users, self.before = threading.Lock(), 0, True


_UNCHECKED = _Unchecked()


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Skip torch's checks of each distribution's parameters and samples, which cost more than a small network.

    What they would find is found elsewhere: observations, parameters, actions and gradients are checked.
    """
    # The switch is one for all threads: the first one in turns it off, and the last one out restores it.
    with _UNCHECKED.lock:
        if not _UNCHECKED.users:
            _UNCHECKED.before = th.distributions.Distribution._validate_args
            th.distributions.Distribution.set_default_validate_args(False)
        _UNCHECKED.users += 1
    try:
        yield
    finally:
        with _UNCHECKED.lock:
            _UNCHECKED.users -= 1
            if not _UNCHECKED.users:
                th.distributions.Distribution.set_default_validate_args(_UNCHECKED.before)


def check_parameters(policy: th.nn.Module) -> None:
    """Refuse a policy with a parameter that is not finite.

    Raises:
        NotFiniteError: There is one; the message names it.
    """
    with th.no_grad():
        # One number shows whether there is any such parameter. It may overflow where there is none.
        if np.isfinite(float(sum(one.sum() for one in policy.parameters()))):
            return
        for name, one in policy.named_parameters():
            wrong = one[~th.isfinite(one)]
            if len(wrong):
                raise NotFiniteError(f"The parameter {name!r} is {wrong[0].item()}")


def check_actions(actions: np.ndarray) -> None:
    """Refuse actions that are not finite, in an array whose first axis counts environments.

    Raises:
        NotFiniteError: There is one.
    """
    # The sum of squares shows it at a fraction of the price. It may overflow where all actions are finite.
    if actions.dtype.kind == "f" and not np.vdot(actions, actions) < np.inf and not np.isfinite(actions).all():
        raise NotFiniteError("The policy's outputs are not finite", actions=actions)


def explained(error: NotFiniteError, policy: th.nn.Module, n_steps: int) -> str:
    """What is not finite in a policy's answer to finite observations, and why.

    Args:
        error: The error of an `Actor`.
        policy: The policy.
        n_steps: Environment steps taken so far.
    """
    sentences = [f"{error} after {n_steps} steps, though the observations are"]
    if error.actions is not None and (said := not_finite("action", error.actions)) is not None:
        sentences.append(f"{said[0]}: {said[1]}")
    try:
        check_parameters(policy)
        sentences.append("The size of observations or parameters must be the cause")
    except NotFiniteError as cause:
        sentences.append(str(cause))
    return ". ".join(sentences) + "."


def tensors_of_graphs(holder: Any) -> list[th.Tensor]:
    """The tensors with a gradient's graph behind them, such as the last batch's distribution, which torch cannot copy.

    Args:
        holder: A policy, a distribution, or a container with some.
    """
    found: list[th.Tensor] = []
    met: set[int] = set()

    def walk(one: Any) -> None:
        if id(one) in met:
            return
        met.add(id(one))
        if isinstance(one, th.Tensor):
            found.extend([one] if one.grad_fn is not None else [])
        elif isinstance(one, (list, tuple, dict)):
            for item in one.values() if isinstance(one, dict) else one:
                walk(item)
        elif isinstance(one, (nn.Module, Distribution, th.distributions.Distribution)):
            walk(vars(one))

    walk(holder)
    return found


def environment_actions(policy: BasePolicy, actions: np.ndarray) -> np.ndarray:
    """The policy's actions as the environment takes them: unscaled if they are squashed, else clipped to the space."""
    space = policy.action_space
    if not isinstance(space, spaces.Box):
        return actions
    if policy.squash_output:
        return policy.unscale_action(actions)
    clipped: np.ndarray = np.clip(actions, space.low, space.high)
    return clipped


class ZeroValue(nn.Module):
    """V(s) = 0 for every state: the critic of a policy that has none."""

    def forward(self, latent: th.Tensor) -> th.Tensor:
        """`(batch, features)` to zeros of `(batch, 1)`."""
        return latent.new_zeros((len(latent), 1))


class RebuiltPolicy(ActorCriticPolicy):
    """An SB3 policy whose modules are changed after SB3 has built them, and before the optimiser sees them."""

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self._rebuild()
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def _rebuild(self) -> None:
        """Change modules; each class of the hierarchy adds its own."""

    @classmethod
    def load(cls, path: FilePath, device: th.device | str = "auto", *, trust: bool = False) -> Self:
        """Load what `save` has written; see `load_policy`."""
        return load_policy(cls, path, device, trust=trust)


class ActorPolicy(RebuiltPolicy):
    """An actor without a critic: `predict_values` gives 0 everywhere and has no parameters.

    Args:
        *args: As for SB3's `ActorCriticPolicy`.
        net_arch: Sizes of the hidden layers, as a list or `dict(pi=[...])`; by default two of 64, or none after a CNN.
        **kwargs: As for SB3's `ActorCriticPolicy`.

    Raises:
        ValueError: `net_arch` asks for layers of a value function.
    """

    def __init__(self, *args: Any, net_arch: list[int] | dict[str, list[int]] | None = None, **kwargs: Any) -> None:
        if isinstance(net_arch, dict):
            if net_arch.get("vf"):
                raise ValueError(f"`net_arch` has layers for a value function, {net_arch['vf']}, but there is none.")
            net_arch = net_arch.get("pi", [])
        self._hidden_layers = net_arch
        super().__init__(*args, **{**kwargs, "net_arch": net_arch})

    def _build_mlp_extractor(self) -> None:
        hidden = self.net_arch["pi"] if isinstance(self.net_arch, dict) else self.net_arch
        self.net_arch = {"pi": hidden, "vf": []}
        super()._build_mlp_extractor()

    def _rebuild(self) -> None:
        self.value_net = ZeroValue()  # type: ignore[assignment]
        super()._rebuild()

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "net_arch": self._hidden_layers}


class ActorCnnPolicy(ActorPolicy, ActorCriticCnnPolicy):
    """`ActorPolicy` for images."""


class ActorMultiInputPolicy(ActorPolicy, MultiInputActorCriticPolicy):
    """`ActorPolicy` for Dict observations."""


class _StateDependentStd(RebuiltPolicy):
    """A Gaussian policy N(μ(s), σ(s)) whose log standard deviation is a linear output of the actor's last layer.

    log σ(s) = clip(W φ(s) + b, -20, 20), with b = `log_std_init` and W orthogonal of gain 0.01 at the start, so that
    training begins with nearly the same σ everywhere, as it does with SB3's state-independent one.
    """

    def _rebuild(self) -> None:
        if not isinstance(self.action_dist, DiagGaussianDistribution):
            reason = "gSDE has a state-dependent deviation of its own" if self.use_sde else str(self.action_space)
            raise ValueError(f"`state_dependent_std=True` needs a Box action space without gSDE, not {reason}.")
        action_space = self.action_space
        assert isinstance(action_space, spaces.Box)
        del self.log_std
        self.log_std_net = nn.Linear(self.mlp_extractor.latent_dim_pi, self.action_dist.action_dim)
        if self.ortho_init:
            self.log_std_net.apply(partial(self.init_weights, gain=0.01))
        nn.init.constant_(self.log_std_net.bias, self.log_std_init)
        super()._rebuild()

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
        assert isinstance(self.action_dist, DiagGaussianDistribution)
        log_std = self.log_std_net(latent_pi).clamp(LOG_STD_MIN, LOG_STD_MAX)
        return self.action_dist.proba_distribution(self.action_net(latent_pi), log_std)


class StateDependentStdPolicy(_StateDependentStd):
    """SB3's `MlpPolicy` with σ(s)."""


class StateDependentStdCnnPolicy(_StateDependentStd, ActorCriticCnnPolicy):
    """SB3's `CnnPolicy` with σ(s)."""


class StateDependentStdMultiInputPolicy(_StateDependentStd, MultiInputActorCriticPolicy):
    """SB3's `MultiInputPolicy` with σ(s)."""


class StateDependentStdActorPolicy(_StateDependentStd, ActorPolicy):
    """`ActorPolicy` with σ(s)."""


class StateDependentStdActorCnnPolicy(_StateDependentStd, ActorCnnPolicy):
    """`ActorCnnPolicy` with σ(s)."""


class StateDependentStdActorMultiInputPolicy(_StateDependentStd, ActorMultiInputPolicy):
    """`ActorMultiInputPolicy` with σ(s)."""


ACTOR_CRITIC_POLICIES: dict[str, type[BasePolicy]] = {
    "MlpPolicy": ActorCriticPolicy,
    "CnnPolicy": ActorCriticCnnPolicy,
    "MultiInputPolicy": MultiInputActorCriticPolicy,
}
ACTOR_POLICIES: dict[str, type[BasePolicy]] = {
    "MlpPolicy": ActorPolicy,
    "CnnPolicy": ActorCnnPolicy,
    "MultiInputPolicy": ActorMultiInputPolicy,
}
STATE_DEPENDENT_STD: dict[type[BasePolicy], type[BasePolicy]] = {
    ActorCriticPolicy: StateDependentStdPolicy,
    ActorCriticCnnPolicy: StateDependentStdCnnPolicy,
    MultiInputActorCriticPolicy: StateDependentStdMultiInputPolicy,
    ActorPolicy: StateDependentStdActorPolicy,
    ActorCnnPolicy: StateDependentStdActorCnnPolicy,
    ActorMultiInputPolicy: StateDependentStdActorMultiInputPolicy,
}


def separate_critic(policy: ActorCriticPolicy, learning_rate: float) -> None:
    """Give the optimiser two groups of parameters: the actor's, and those that only the value depends on."""
    critic = critic_parameters(policy)
    actor = [parameter for parameter in policy.parameters() if all(parameter is not other for other in critic)]
    # Without the old optimiser's `defaults`: AdamW, for one, has defaults that its constructor does not take.
    policy.optimizer = policy.optimizer_class(
        [{"params": actor}, {"params": critic}],
        lr=learning_rate,  # type: ignore[call-arg]
        **policy.optimizer_kwargs,
    )


def with_state_dependent_std(policy_class: type[BasePolicy]) -> type[BasePolicy]:
    """The policy class of the same kind whose network gives the standard deviation too.

    Raises:
        ValueError: There is none.
    """
    if policy_class not in STATE_DEPENDENT_STD:
        raise ValueError(
            f"`policy_kwargs['state_dependent_std']` is known for the policies "
            f"{', '.join(known.__name__ for known in STATE_DEPENDENT_STD)}, not for {policy_class.__name__}."
        )
    return STATE_DEPENDENT_STD[policy_class]


# As they are when this is imported: others may be put in their place.
_SB3S_NOISE = ActorCriticPolicy.reset_noise, StateDependentNoiseDistribution.sample_weights


def reset_noise(policy: ActorCriticPolicy, n_envs: int) -> None:
    """`policy.reset_noise(n_envs)`, with the same numbers at a fraction of its time where policy and noise are SB3's.

    Args:
        policy: A policy with gSDE.
        n_envs: Number of environments.
    """
    noise = getattr(policy, "action_dist", None)
    drawn_by = getattr(type(policy), "reset_noise", None), vars(type(noise)).get("sample_weights")
    if drawn_by != _SB3S_NOISE or "reset_noise" in vars(policy) or "sample_weights" in vars(noise):
        policy.reset_noise(n_envs)
        return
    assert isinstance(noise, StateDependentNoiseDistribution), "it has the method of that class"
    # Without a graph, which nothing asks for and which cannot be copied.
    with th.no_grad():
        std = noise.get_std(policy.log_std)
        noise.weights_dist = th.distributions.Normal(th.zeros_like(std), std, validate_args=False)
        noise.exploration_mat, noise.exploration_matrices = (
            std.new_empty(shape).normal_() * std for shape in (std.shape, (n_envs, *std.shape))
        )


def critic_parameters(policy: ActorCriticPolicy) -> list[th.nn.Parameter]:
    """The parameters that the value depends on and the action distribution does not."""
    # A copy: the space is the environment's own, and so is its random stream.
    tensor, _ = policy.obs_to_tensor(deepcopy(policy.observation_space).sample())
    was_training = policy.training
    policy.set_training_mode(False)  # batch normalisation needs a batch, and must not count this observation
    values, log_prob, _ = policy.evaluate_actions(tensor, policy.get_distribution(tensor).mode())
    policy.set_training_mode(was_training)
    parameters = list(policy.parameters())

    def reached(output: th.Tensor) -> list[bool]:
        if not output.requires_grad:  # V = 0
            return [False] * len(parameters)
        gradients = th.autograd.grad(output.sum(), parameters, allow_unused=True, retain_graph=True)
        return [gradient is not None for gradient in gradients]

    by_value, by_action = reached(values), reached(log_prob)
    return [
        parameter
        for parameter, value, action in zip(parameters, by_value, by_action, strict=True)
        if value and not action
    ]
