"""The engine that differentiates an agent's objective with torch: any policy, any device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples
from stable_baselines3.common.utils import obs_as_tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from pg_agents.metrics import deviations
from pg_agents.objectives import kl_divergence, normalise
from pg_agents.policies import unchecked_distributions

if TYPE_CHECKING:
    from pg_agents.agent import PolicyGradient


@dataclass
class Minibatch:
    """What an objective sees: tensors of shape `(batch,)`; those of the current policy carry gradients.

    Attributes:
        log_prob: log π(a|s) under the current policy.
        old_log_prob: log π(a|s) under the policy that collected the rollout.
        advantages: How good each action was, normalised if the agent says so.
        values: V(s) of the current critic.
        old_values: V(s) of the critic that collected the rollout.
        returns: What the critic regresses on.
        entropy: Entropy of π(.|s), or None where it has no closed form.
    """

    log_prob: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    values: th.Tensor
    old_values: th.Tensor
    returns: th.Tensor
    entropy: th.Tensor | None

    @cached_property
    def log_ratio(self) -> th.Tensor:
        """Log of the importance weight."""
        return self.log_prob - self.old_log_prob

    @cached_property
    def ratio(self) -> th.Tensor:
        """Importance weight π(a|s) / π_old(a|s)."""
        return th.exp(self.log_ratio)

    def mean_kl(self) -> float:
        """Estimate of KL(π_old || π)."""
        with th.no_grad():
            return float(kl_divergence(self.ratio, self.log_ratio).mean())


def evaluate(agent: PolicyGradient, samples: RolloutBufferSamples | DictRolloutBufferSamples) -> Minibatch:
    """Run the current policy on stored samples."""
    actions = samples.actions
    if isinstance(agent.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    with unchecked_distributions():
        values, log_prob, entropy = agent.policy.evaluate_actions(samples.observations, actions)
    values = values.flatten()
    advantages = samples.advantages
    if agent.normalize_advantage and len(advantages) > 1:
        advantages = normalise(advantages)
    return Minibatch(log_prob, samples.old_log_prob, advantages, values, samples.old_values, samples.returns, entropy)


class AutogradActor:
    """Acts by calling the policy."""

    writes = False
    checks = False

    def __init__(self, agent: PolicyGradient) -> None:
        self.agent = agent

    def __call__(self, observations: Any) -> tuple[np.ndarray, np.ndarray]:
        """See `pg_agents.engines.Actor`."""
        agent = self.agent
        obs_tensor = obs_as_tensor(observations, agent.device)
        with th.no_grad(), unchecked_distributions():
            actions, values, log_probs = agent.policy(obs_tensor)
        self._last = obs_tensor, values, log_probs
        drawn = actions.cpu().numpy()
        return drawn, agent._environment_actions(drawn)

    def tensors(self) -> tuple[Any, th.Tensor, th.Tensor]:
        """The observations that were acted on last, V, and log π of the actions drawn."""
        return self._last

    def is_current(self) -> bool:
        """Always."""
        return True

    def finish(self) -> None:
        """Nothing was written."""


class AutogradEngine:
    """Epochs over minibatches, one optimiser step each.

    loss = -E[objective] - `ent_coef` E[H(π)] + `vf_coef` E[(R - V)²]

    E is the mean over the minibatch. With whole episodes it is the mean over episodes of the sum over their steps,
    as in the policy-gradient theorem.
    """

    def fits(self, agent: PolicyGradient) -> bool:
        """Always: it serves any policy."""
        return True

    def actor(self, agent: PolicyGradient) -> AutogradActor:
        """What acts in the agent's next rollout."""
        agent.policy.set_training_mode(False)
        return AutogradActor(agent)

    def values(self, agent: PolicyGradient, observations: Any) -> th.Tensor:
        """V of a batch of observations, of shape `(batch,)`."""
        with th.no_grad():
            return agent.policy.predict_values(obs_as_tensor(observations, agent.device)).flatten()

    def final_values(self, agent: PolicyGradient, observations: list[Any]) -> th.Tensor:
        """V of single observations, of shape `(n,)`: one after the other, as SB3 does it, to the last bit."""
        with th.no_grad():
            tensors = (agent.policy.obs_to_tensor(observation)[0] for observation in observations)
            return th.cat([agent.policy.predict_values(tensor).flatten().cpu() for tensor in tensors])

    def update(self, agent: PolicyGradient) -> Callable[[], dict[str, Any]]:
        """Train on `agent.rollout_buffer`.

        Returns:
            A function that gives what to log: means over all minibatches, `loss` of the last, `approx_kl_epoch_<i>`.

        Raises:
            FloatingPointError: The loss or its gradient is not finite. The parameters are those before that step.
        """
        agent.policy.set_training_mode(True)
        means: dict[str, list[float]] = defaultdict(list)
        metrics: dict[str, Any] = {}
        ent_coef, vf_coef = agent.coefficient("ent_coef"), agent.coefficient("vf_coef")
        scale, stop = agent.loss_scale, False
        for epoch in range(agent.n_epochs):
            if agent._on_epoch is not None:
                agent._on_epoch()
            epoch_kl = []
            for samples in agent.rollout_buffer.get(agent.batch_size):
                batch = evaluate(agent, samples)
                policy_loss = -agent.objective(batch).mean()
                value_loss = F.mse_loss(batch.returns, agent.value_prediction(batch)) if agent.has_critic else None
                # Where the entropy has no closed form, -log π of the sampled actions estimates it.
                entropy_loss = -th.mean(-batch.log_prob if batch.entropy is None else batch.entropy)
                loss = policy_loss + ent_coef * entropy_loss
                if value_loss is not None:
                    loss = loss + vf_coef * value_loss
                    means["value_loss"].append(value_loss.item())
                if scale != 1:
                    loss = loss * scale

                means["policy_loss"].append(policy_loss.item())
                means["entropy_loss"].append(entropy_loss.item())
                for name, value in agent.minibatch_metrics(batch).items():
                    means[name].append(value.mean().item())
                if agent.reuses_samples:
                    approx_kl = batch.mean_kl()
                    epoch_kl.append(approx_kl)
                    if agent.target_kl is not None and approx_kl > 1.5 * agent.target_kl:
                        stop = True
                        if agent.verbose >= 1:
                            print(f"Early stopping at step {epoch} due to reaching max kl: {approx_kl:.2f}")
                        break

                means["grad_norm"].append(self._step(agent, loss))
            agent._n_updates += 1
            if epoch_kl:
                metrics[f"approx_kl_epoch_{epoch + 1}"] = metrics["approx_kl"] = float(np.mean(epoch_kl))
            if stop:
                break
        metrics["loss"] = loss.item()
        metrics |= deviations(agent.policy, samples.observations)
        return lambda: {name: float(np.mean(values)) for name, values in means.items()} | metrics

    def _step(self, agent: PolicyGradient, loss: th.Tensor) -> float:
        """One optimiser step; returns the norm of the gradient before clipping."""
        optimizer = agent.policy.optimizer
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        max_norm = float("inf") if agent.max_grad_norm is None else agent.max_grad_norm
        norm = th.nn.utils.clip_grad_norm_(agent.policy.parameters(), max_norm).item()
        if not np.isfinite(norm):
            raise not_finite(agent, loss.item(), norm)
        optimizer.step()
        return norm


def not_finite(agent: PolicyGradient, loss: float, norm: float) -> FloatingPointError:
    """The error for a loss or a gradient that is no number to go on with."""
    what = f"The loss is {loss}" if not np.isfinite(loss) else f"The gradient's norm is {norm}"
    return FloatingPointError(
        f"{what} in the update after {agent.num_timesteps} steps, so it was not applied: the parameters are "
        "those before it. Rewards or observations of very large size, or too large a `learning_rate`, are the "
        "usual causes; VecNormalize scales both."
    )
