"""Norm, noise and direction of the policy's gradient."""

from __future__ import annotations

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents.checks import check_number
from pg_agents.diagnostics.base import Diagnostic
from pg_agents.objectives import normalise


class GradientDiagnostics(Diagnostic):
    """Logs norm, noise and direction of the policy's gradient.

    The gradient is ĝ = 1/n Σ_i Â_i ∇ log π(a_i|s_i) over the n steps of a rollout, before the first step of the
    optimiser and by all parameters that π depends on; Â is normalised if the algorithm normalises it. The rollout is
    cut into blocks of successive steps, whose gradients are treated as independent:

    | key                 | meaning                                                                           |
    |---------------------|-----------------------------------------------------------------------------------|
    | `gradient/norm`     | ‖ĝ‖                                                                               |
    | `gradient/variance` | E ‖ĝ - E ĝ‖², summed over parameters, estimated from the spread between blocks    |
    | `gradient/snr`      | ‖E ĝ‖² / E ‖ĝ - E ĝ‖², where the variance is subtracted from ‖ĝ‖²; at least 0     |
    | `gradient/cosine`   | cosine of the angle between this gradient and the one measured before             |

    A rollout of a single step cannot be cut: `n_blocks` successive ones count as one rollout of `n_blocks` steps.

    Args:
        every: Number of environment steps between measurements; 1 measures every rollout.
        n_blocks: Number of blocks in a rollout.
        verbose: Verbosity, as in SB3.

    Raises:
        ValueError: An argument is out of range, or (when training starts) the algorithm is not on-policy.
    """

    def __init__(self, every: int = 50_000, *, n_blocks: int = 8, verbose: int = 0) -> None:
        super().__init__(every, verbose)
        check_number("n_blocks", n_blocks, at_least=2, integer=True)
        self.n_blocks = n_blocks
        self._last: th.Tensor | None = None
        self._single: list[th.Tensor] = []

    def _restart(self) -> None:
        super()._restart()
        self._last = None
        self._single = []

    def _measure(self) -> None:
        gradients, shares = self._blocks()
        if len(gradients) == 1:
            self._single.append(gradients[0])
            if len(self._single) < self.n_blocks:
                self._measured_at = -np.inf  # the next rollout is the next block
                return
            gradients, shares = th.stack(self._single), th.full((self.n_blocks,), 1 / self.n_blocks)
        self._single = []
        mean = shares @ gradients
        squared = float(mean @ mean)
        spread = float(shares**2 @ ((gradients - mean) ** 2).sum(dim=1))
        variance = spread * len(shares) / (len(shares) - 1)
        self.logger.record("gradient/norm", squared**0.5)
        self.logger.record("gradient/variance", variance)
        if variance > 0:
            self.logger.record("gradient/snr", max(squared - variance, 0.0) / variance)
        if self._last is not None and squared > 0:
            self.logger.record("gradient/cosine", float(th.cosine_similarity(mean, self._last, dim=0)))
        self._last = mean

    def _blocks(self) -> tuple[th.Tensor, th.Tensor]:
        """The gradient of each block of the rollout, `(blocks, parameters)`, and its share of the steps."""
        steps = self._steps
        blocks = np.array_split(steps, min(self.n_blocks, len(steps)))
        advantages = self._stored("advantages", steps)
        if getattr(self.model, "normalize_advantage", False) and len(steps) > 1:
            advantages = normalise(advantages)
        weights = th.tensor_split(advantages, len(blocks))
        shares = th.tensor([len(block) / len(steps) for block in blocks])
        with self._acting() as policy:
            gradients = [self._gradient(policy, *block) for block in zip(blocks, weights, strict=True)]
        return th.stack(gradients).cpu(), shares

    def _gradient(self, policy: ActorCriticPolicy, steps: np.ndarray, advantages: th.Tensor) -> th.Tensor:
        """The flattened gradient 1/n Σ_i Â_i ∇ log π(a_i|s_i) over n steps."""
        actions = self._stored("actions", steps).float()  # as in an update
        if isinstance(policy.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        log_prob = policy.get_distribution(self._stored("observations", steps)).log_prob(actions)
        parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        objective = (advantages * log_prob).mean()
        found = th.autograd.grad(objective, parameters, allow_unused=True)
        return th.cat([gradient.flatten() for gradient in found if gradient is not None])
