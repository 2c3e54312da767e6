"""Randomness of the policy, and the size of an update."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution, kl_divergence

from pg_agents.checks import check_number
from pg_agents.diagnostics.base import Diagnostic


class PolicyDiagnostics(Diagnostic):
    """Logs the randomness of the policy and the size of each update; warns when a Gaussian collapses.

    | key                    | meaning                                                                            |
    |------------------------|------------------------------------------------------------------------------------|
    | `policy/entropy`       | mean entropy over the rollout's states, in nats                                    |
    | `policy/entropy_share` | the same, divided by the largest possible entropy, 0 to 1; not for Box actions     |
    | `policy/std_{i}`       | σ of a Gaussian in action dimension i, mean over these states                      |
    | `policy/kl`            | exact KL(π_old ‖ π) over these states, after the update                            |
    | `policy/kl_epoch_{i}`  | the same after epoch i, except the last epoch, whose value is `policy/kl`          |

    TensorBoard gets the KL divergences immediately, at the step of the update; other logs with their next entry.

    Args:
        every: Number of environment steps between measurements; 1 measures every rollout.
        n_states: Number of states for the measurement, evenly spread over the rollout.
        collapsed: Smallest σ that causes no warning, as a fraction of half the range of the action dimension (of 1, if
            the dimension is unbounded or actions are squashed).
        verbose: Verbosity, as in SB3.

    Raises:
        ValueError: An argument is out of range, or (when training starts) the algorithm is not on-policy.

    Warns:
        UserWarning: σ has collapsed; once per dimension and training.
    """

    def __init__(self, every: int = 50_000, *, n_states: int = 512, collapsed: float = 0.01, verbose: int = 0) -> None:
        super().__init__(every, verbose)
        check_number("n_states", n_states, at_least=1, integer=True)
        check_number("collapsed", collapsed, at_least=0)
        self.n_states = n_states
        self.collapsed = collapsed
        self._before: tuple[Any, Distribution] | None = None
        self._epoch_kls: list[float] = []
        self._warned: set[int] = set()

    def _on_training_start(self) -> None:
        super()._on_training_start()
        # An interrupted update leaves both behind.
        self._before = None
        _before_epochs(self.model, None)

    def _restart(self) -> None:
        super()._restart()
        self._warned = set()

    def _on_rollout_start(self) -> None:
        self._finish_update()

    def _on_training_end(self) -> None:
        self._finish_update()

    def _measure(self) -> None:
        steps = self._steps
        steps = steps[np.linspace(0, len(steps) - 1, min(self.n_states, len(steps)), dtype=int)]
        observations = self._stored("observations", steps)
        old = self._distribution(observations)
        self._before, self._epoch_kls = (observations, old), []
        entropy = old.entropy()
        if entropy is None:  # squashed actions: estimated by -log π of the actions taken
            entropy = -self._stored("log_probs", steps)
        self.logger.record("policy/entropy", float(entropy.mean()))
        largest = _largest_entropy(self._policy.action_space)
        if largest > 0:
            self.logger.record("policy/entropy_share", float(entropy.mean()) / largest)
        normal = getattr(old, "distribution", None)
        if isinstance(normal, th.distributions.Normal):
            self._record_deviations(normal.stddev.reshape(len(steps), -1).mean(dim=0).tolist())
        n_epochs = getattr(self.model, "n_epochs", 1)
        if n_epochs > 1:
            self._watch_epochs(n_epochs)

    def _record_deviations(self, deviations: list[float]) -> None:
        space, squashed = self._policy.action_space, self._policy.squash_output
        assert isinstance(space, spaces.Box)
        halves = (space.high.astype(float).flatten() - space.low.astype(float).flatten()) / 2
        for i, (deviation, half) in enumerate(zip(deviations, halves, strict=True)):
            self.logger.record(f"policy/std_{i}", deviation, exclude="stdout")
            limit = self.collapsed * (half if np.isfinite(half) and not squashed else 1.0)
            if deviation < limit and i not in self._warned:
                self._warned.add(i)
                warnings.warn(
                    f"The standard deviation of action dimension {i} has fallen to {deviation:.2g} after "
                    f"{self.num_timesteps} steps (below {limit:.2g}), so the policy hardly explores this dimension any "
                    "more. If the return has stopped rising, try a larger `ent_coef`, a smaller `learning_rate` or a "
                    "larger `log_std_init`.",
                    stacklevel=2,
                )

    def _kl(self) -> float:
        assert self._before is not None
        observations, old = self._before
        divergence = kl_divergence(old, self._distribution(observations))
        return float(divergence.reshape(divergence.shape[0], -1).sum(dim=1).mean())

    def _watch_epochs(self, n_epochs: int) -> None:
        """Measure the KL divergence at the beginning of each epoch but the first."""
        model, n_begun = self.model, 0  # after an interrupted update, `self.model` may become another one

        def begin() -> None:
            nonlocal n_begun
            if n_begun > 0 and self._before is not None:
                self._epoch_kls.append(self._kl())
            n_begun += 1
            if n_begun == n_epochs:
                _before_epochs(model, None)

        _before_epochs(model, begin)

    def _finish_update(self) -> None:
        _before_epochs(self.model, None)  # still there if the update stopped early
        if self._before is not None:
            found = {"policy/kl": self._kl()}
            found |= {f"policy/kl_epoch_{i}": kl for i, kl in enumerate(self._epoch_kls, start=1)}
            self._before = None
            self._write(found)
            for key, kl in found.items():
                self.logger.record(
                    key, kl, exclude=("tensorboard",) if key == "policy/kl" else ("tensorboard", "stdout")
                )


def _before_epochs(model: Any, call: Callable[[], None] | None) -> None:
    """Have a function called before each epoch of an update; None calls nothing.

    SB3's callbacks are not called within an update. Its algorithms read their rollout buffer once per epoch, so there
    the buffer's `get` makes the call.
    """
    if hasattr(model, "on_epoch"):
        model.on_epoch = call
        return
    buffer = model.rollout_buffer
    vars(buffer).pop("get", None)
    if call is not None:
        read = buffer.get

        def get(batch_size: int | None = None) -> Any:
            call()
            return read(batch_size)

        buffer.get = get


def _largest_entropy(space: spaces.Space[Any]) -> float:
    """Entropy of the uniform distribution over a finite space, in nats; 0 for a space that is not finite."""
    if isinstance(space, spaces.Discrete):
        return float(np.log(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return float(np.log(space.nvec).sum())
    if isinstance(space, spaces.MultiBinary):
        return float(np.log(2) * np.prod(space.shape))
    return 0.0
