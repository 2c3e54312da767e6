"""The engine that differentiates the loss with torch: any policy, any device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples
from stable_baselines3.common.utils import obs_as_tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from pg_agents import natural
from pg_agents.buffers import EstimatorMixin
from pg_agents.contract import Batches, Loss, Minibatch, NaturalStep, NotFiniteError, Step, Summary
from pg_agents.logs import deviations
from pg_agents.objectives import loss as loss_of
from pg_agents.objectives import mean_kl, normalise, predicted_values, reference_kl
from pg_agents.policies import check_actions, check_parameters, environment_actions, unchecked_distributions


def evaluate(
    policy: ActorCriticPolicy,
    samples: RolloutBufferSamples | DictRolloutBufferSamples,
    *,
    normalize_advantage: bool = False,
) -> Minibatch:
    """Run the current policy on stored samples.

    Args:
        policy: The policy.
        samples: From a rollout buffer.
        normalize_advantage: Shift and scale the advantages to mean 0 and standard deviation 1.
    """
    actions, advantages = _as_drawn(policy, samples.actions), samples.advantages
    with unchecked_distributions():
        values, log_prob, entropy = policy.evaluate_actions(samples.observations, actions)
    if normalize_advantage and len(advantages) > 1:
        advantages = normalise(advantages)
    return Minibatch(
        log_prob=log_prob,
        old_log_prob=samples.old_log_prob,
        advantages=advantages,
        values=values.flatten(),
        old_values=samples.old_values,
        returns=samples.returns,
        entropy=entropy,
        policy=policy,
        stored=lambda: (samples.observations, actions),
    )


class AutogradActor:
    """Acts by calling the policy."""

    checks = False

    def __init__(
        self,
        policy: ActorCriticPolicy,
        buffer: RolloutBuffer,
        to_environment: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.policy, self.buffer = policy, buffer
        self._device = policy.device  # which is looked up among the parameters
        self._to_environment = to_environment or (lambda actions: environment_actions(policy, actions))

    def act(self, observations: Any, episode_starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `pg_agents.contract.Actor`."""
        tensors = obs_as_tensor(observations, self._device)
        with th.no_grad(), unchecked_distributions():
            actions, values, log_probs = self.policy(tensors)
        drawn = actions.cpu().numpy()
        self._observations, self._drawn, self._outputs = observations, drawn, (tensors, values, log_probs)
        sent = self._to_environment(drawn)
        check_actions(drawn)  # clipping hides an infinite one
        if sent is not drawn:
            check_actions(sent)
        return drawn, sent

    def outputs(self) -> tuple[Any, th.Tensor, th.Tensor]:
        """See `pg_agents.contract.Actor`."""
        return self._outputs

    def store(self, step: Step) -> None:
        """See `pg_agents.contract.Actor`."""
        actions = self._drawn
        if isinstance(self.policy.action_space, spaces.Discrete):
            actions = actions.reshape(-1, 1)
        _, values, log_probs = self._outputs
        if isinstance(self.buffer, EstimatorMixin):
            self.buffer.record(step, self._observations, actions, values, log_probs)
        else:
            self.buffer.add(self._observations, actions, step.rewards, step.episode_starts, values, log_probs)

    def is_current(self) -> bool:
        """Always: the policy is called anew in every step."""
        return True


class AutogradEngine:
    """Acts with the policy itself; learns by epochs over minibatches, with one optimiser step each."""

    name = "autograd"

    def fits(self, policy: ActorCriticPolicy, loss: Loss) -> bool:
        """Always: it serves any policy and any loss."""
        return True

    def actor(
        self,
        policy: ActorCriticPolicy,
        buffer: RolloutBuffer,
        generator: Callable[[], np.random.Generator],
        to_environment: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> AutogradActor:
        """See `pg_agents.contract.Engine`. Actions are drawn from torch's generator."""
        policy.set_training_mode(False)
        return AutogradActor(policy, buffer, to_environment)

    def values(self, policy: ActorCriticPolicy, observations: Any) -> th.Tensor:
        """V of a batch of observations, of shape `(batch,)`."""
        with th.no_grad():
            return policy.predict_values(obs_as_tensor(observations, policy.device)).flatten()

    def final_values(self, policy: ActorCriticPolicy, observations: list[Any]) -> th.Tensor:
        """V of single observations, of shape `(n,)`: one after the other, as SB3 does it, to the last bit."""
        with th.no_grad():
            tensors = (policy.obs_to_tensor(observation)[0] for observation in observations)
            return th.cat([policy.predict_values(tensor).flatten().cpu() for tensor in tensors])

    def update(
        self,
        policy: ActorCriticPolicy,
        buffer: RolloutBuffer,
        loss: Loss,
        batches: Batches,
        on_epoch: Callable[[], None] | None = None,
    ) -> Summary:
        """See `pg_agents.contract.Engine`.

        The metrics are means over all minibatches, `loss` of the last one, and `approx_kl_epoch_<i>` of each epoch.
        """
        return self._update(policy, buffer, loss, batches, None, on_epoch)

    def update_elsewhere(
        self,
        policy: ActorCriticPolicy,
        buffer: RolloutBuffer,
        loss: Loss,
        batches: Batches,
        parameters: Sequence[th.Tensor],
    ) -> Summary:
        """See `pg_agents.contract.MovesElsewhere`."""
        return self._update(policy, buffer, loss, batches, parameters)

    def _update(
        self,
        policy: ActorCriticPolicy,
        buffer: RolloutBuffer,
        loss: Loss,
        batches: Batches,
        moved: Sequence[th.Tensor] | None,
        on_epoch: Callable[[], None] | None = None,
    ) -> Summary:
        check_parameters(policy)
        policy.set_training_mode(True)
        means: dict[str, list[float]] = defaultdict(list)
        metrics: dict[str, Any] = {}
        stopped_by = None
        for epoch in range(batches.n_epochs):
            if on_epoch is not None:
                on_epoch()
            epoch_kl = []
            for samples in buffer.get(batches.batch_size):
                batch = evaluate(policy, samples, normalize_advantage=loss.normalize_advantage)
                terms = loss_of(batch, loss)
                if terms.value is not None:
                    means["value_loss"].append(terms.value.item())
                means["policy_loss"].append(terms.policy.item())
                means["entropy_loss"].append(terms.entropy.item())
                if terms.penalty is not None:
                    means["reference_kl"].append(terms.penalty.item())
                for name, value in loss.metrics(batch).items():
                    means[name].append(value.mean().item())
                if loss.tracks_kl:
                    epoch_kl.append(mean_kl(batch))
                    if loss.max_kl is not None and epoch_kl[-1] > loss.max_kl:
                        stopped_by = epoch_kl[-1]
                        break
                means["grad_norm"].append(_step(policy, terms.total, loss.max_grad_norm, epoch, moved=moved))
            if epoch_kl:
                metrics[f"approx_kl_epoch_{epoch + 1}"] = metrics["approx_kl"] = float(np.mean(epoch_kl))
            if stopped_by is not None:
                break
        metrics["loss"] = terms.total.item()
        metrics |= deviations(policy, samples.observations)
        return Summary(
            n_epochs=epoch + 1,
            metrics=lambda: {name: float(np.mean(values)) for name, values in means.items()} | metrics,
            stopped_by=stopped_by,
        )

    def natural_update(
        self,
        policy: ActorCriticPolicy,
        buffer: RolloutBuffer,
        loss: Loss,
        step: NaturalStep,
        critic: Batches,
    ) -> Summary:
        """See `pg_agents.contract.FollowsNaturalGradient`.

        The step moves the parameters that π depends on, and the optimiser all others that V depends on. Where both
        depend on a parameter, V has no say in it. The conjugate gradients start from a small random vector of torch's
        generator.
        """
        check_parameters(policy)
        policy.set_training_mode(True)
        (samples,) = buffer.get()
        with unchecked_distributions():
            actor, metrics = _natural_step(policy, _every(samples, step.sub_sampling_factor), loss, step)
        if loss.trains_critic:
            others = [one for one in policy.parameters() if all(one is not moved for moved in actor)]
            metrics["value_loss"] = _fit_values(policy, buffer, loss, critic, others)
        metrics |= deviations(policy, samples.observations)
        return Summary(n_epochs=1, metrics=lambda: metrics)


class _Surrogate:
    """The objective, and the KL divergence from the policy at the beginning of the step, on some samples."""

    def __init__(self, policy: ActorCriticPolicy, samples: Any, loss: Loss, step: NaturalStep) -> None:
        self._policy, self._samples, self._loss = policy, samples, loss
        self._advantages = normalise(samples.advantages) if loss.normalize_advantage else samples.advantages
        self._over_dimensions = step.mean_over_dimensions
        with th.no_grad():
            # A copy, because a policy has one distribution, which each call changes.
            self._old = copy(policy.get_distribution(samples.observations))

    def __call__(self) -> tuple[th.Tensor, th.Tensor, Minibatch]:
        """E[objective] - β E[KL(π || π_ref)], E[KL(π || π_old)], and the samples under the policy as it is now."""
        policy, samples = self._policy, self._samples
        actions = _as_drawn(policy, samples.actions)
        distribution = policy.get_distribution(samples.observations)
        batch = Minibatch(
            log_prob=distribution.log_prob(actions),
            old_log_prob=samples.old_log_prob,
            advantages=self._advantages,
            values=samples.old_values,  # the critic moves after the policy
            old_values=samples.old_values,
            returns=samples.returns,
            entropy=distribution.entropy(),
            policy=policy,
            stored=lambda: (samples.observations, actions),
        )
        kl = natural.mean_divergence(distribution, self._old, mean_over_dimensions=self._over_dimensions)
        objective, penalty = self._loss.objective(batch).mean(), self._loss.penalty
        if penalty is not None:
            objective = objective - penalty.kl_coef * reference_kl(batch, penalty).mean()
        return objective, kl, batch


def _natural_step(
    policy: ActorCriticPolicy, samples: Any, loss: Loss, step: NaturalStep
) -> tuple[list[th.nn.Parameter], dict[str, float]]:
    """Move a policy along the natural gradient.

    Returns:
        The parameters that π depends on, and the metrics.

    Raises:
        NotFiniteError: The gradient is not finite; nothing was moved.
    """
    surrogate = _Surrogate(policy, samples, loss, step)
    objective, kl, batch = surrogate()
    metrics = {name: value.mean().item() for name, value in loss.metrics(batch).items()}
    if loss.penalty is not None:
        metrics["reference_kl"] = reference_kl(batch, loss.penalty).mean().item()
    actor = natural.reached(kl, list(policy.parameters()))
    g = natural.gradient(objective, actor)
    if not th.isfinite(g).all():
        raise NotFiniteError(not_finite(objective.item(), g.norm().item()))
    product = natural.fisher_product(kl, actor, step.cg_damping)
    metrics |= natural.move(actor, g, product, lambda: surrogate()[:2], objective, step)
    return actor, metrics


def _fit_values(
    policy: ActorCriticPolicy,
    buffer: RolloutBuffer,
    loss: Loss,
    batches: Batches,
    parameters: Sequence[th.nn.Parameter],
) -> float:
    """Regress V on the returns with some of the policy's parameters; the mean of the loss over all minibatches."""

    def predicted(samples: Any) -> th.Tensor:
        if loss.value_prediction is None and loss.value_clip is None:
            return policy.predict_values(samples.observations).flatten()
        predict = loss.value_prediction or partial(predicted_values, value_clip=loss.value_clip)
        return predict(evaluate(policy, samples, normalize_advantage=loss.normalize_advantage))

    losses = []
    for _ in range(batches.n_epochs):
        for samples in buffer.get(batches.batch_size):
            value_loss = F.mse_loss(samples.returns, predicted(samples))
            losses.append(value_loss.item())
            _step(policy, value_loss, None, 0, inputs=parameters)
    return float(np.mean(losses))


def _every(samples: Any, factor: int) -> Any:
    """Every so many-th of some samples."""
    if factor == 1:
        return samples

    def thinned(stored: Any) -> Any:
        if isinstance(stored, dict):
            return {key: values[::factor] for key, values in stored.items()}
        return stored[::factor]

    return type(samples)(*map(thinned, samples))


def _as_drawn(policy: ActorCriticPolicy, actions: th.Tensor) -> th.Tensor:
    """Stored actions, which are floating-point numbers, as the policy's distribution takes them."""
    return actions.long().flatten() if isinstance(policy.action_space, spaces.Discrete) else actions


def _step(
    policy: ActorCriticPolicy,
    total: th.Tensor,
    max_grad_norm: float | None,
    epoch: int,
    *,
    inputs: Sequence[th.nn.Parameter] | None = None,
    moved: Sequence[th.Tensor] | None = None,
) -> float:
    """One optimiser step.

    Args:
        policy: The policy.
        total: Minimised.
        max_grad_norm: The gradient is scaled down to this norm; None leaves it as it is.
        epoch: For the error.
        inputs: Parameters that have a gradient; None for all.
        moved: Parameters to move in the place of the policy's own.

    Returns:
        The norm of the gradient before clipping.

    Raises:
        NotFiniteError: The norm is not finite; nothing is moved.
    """
    optimizer = policy.optimizer
    optimizer.zero_grad()
    total.backward(inputs=inputs)  # type: ignore[no-untyped-call]
    max_norm = float("inf") if max_grad_norm is None else max_grad_norm
    norm = th.nn.utils.clip_grad_norm_(policy.parameters(), max_norm).item()
    if not np.isfinite(norm):
        raise NotFiniteError(not_finite(total.item(), norm), epoch)
    with nullcontext() if moved is None else _in_place_of(policy, moved):
        optimizer.step()
    return norm


@contextmanager
def _in_place_of(policy: ActorCriticPolicy, moved: Sequence[th.Tensor]) -> Iterator[None]:
    """Let an optimiser, whose state belongs to the policy's parameters, find other numbers in them."""
    own = [(parameter, parameter.data, other) for parameter, other in zip(policy.parameters(), moved, strict=True)]
    for parameter, _, other in own:
        parameter.data = other
    try:
        yield
    finally:
        for parameter, data, _ in own:
            parameter.data = data


def not_finite(total: float, norm: float) -> str:
    """The part of a loss or a gradient that is not finite, in words."""
    return f"The loss is {total}" if not np.isfinite(total) else f"The gradient's norm is {norm}"
