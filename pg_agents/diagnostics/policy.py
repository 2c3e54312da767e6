"""How random the policy is, and how far an update moves it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution, kl_divergence

from pg_agents.agent import PolicyGradient
from pg_agents.checks import check_number
from pg_agents.diagnostics.base import Diagnostic


class PolicyDiagnostics(Diagnostic):
    """Logs how random the policy is, and how far an update moved it; warns when a Gaussian collapses.

    | key                    | what                                                                              |
    |------------------------|-----------------------------------------------------------------------------------|
    | `policy/entropy`       | mean entropy over the rollout's states, in nats                                   |
    | `policy/entropy_share` | its share of the greatest possible, 0 to 1; not for Box actions, where none is     |
    | `policy/std_{i}`       | σ of the i-th action dimension of a Gaussian, mean over these states              |
    | `policy/kl`            | KL(π_old ‖ π) over these states after the update, exactly                         |
    | `policy/kl_epoch_{i}`  | the same after the i-th epoch, if there is another: the last is `policy/kl`       |

    TensorBoard gets the last two at once, at the step of the update; other logs with their next entry, if there is one.

    Args:
        every: Measure a rollout after every so many environment steps; 1 measures each.
        n_states: Measure on so many of the rollout's states, evenly spread.
        collapsed: Warn when σ of an action dimension falls below this part of half of that dimension's range (of 1,
            where it is not bounded, or the actions are squashed).
        verbose: As in SB3.

    Raises:
        ValueError: An argument is out of range, or (when training starts) the algorithm is not on-policy.

    Warns:
        UserWarning: σ has collapsed; once for each dimension and training.
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
        # An update that was interrupted has left them.
        self._before = None
        _unwatch(self.model)

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
        if entropy is None:  # squashed: -log π of the actions taken estimates it
            entropy = -self._stored("log_probs", steps)
        self.logger.record("policy/entropy", float(entropy.mean()))
        greatest = _greatest_entropy(self._policy.action_space)
        if greatest > 0:
            self.logger.record("policy/entropy_share", float(entropy.mean()) / greatest)
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
                    f"{self.num_timesteps} steps (warned of below {limit:.2g}): the policy hardly explores there any "
                    "more. If the return has stopped to rise, try a larger `ent_coef`, a smaller `learning_rate` or a "
                    "larger `log_std_init`.",
                    stacklevel=2,
                )

    def _kl(self) -> float:
        assert self._before is not None
        observations, old = self._before
        divergence = kl_divergence(old, self._distribution(observations))
        return float(divergence.reshape(divergence.shape[0], -1).sum(dim=1).mean())

    def _watch_epochs(self, n_epochs: int) -> None:
        """Measure whenever the update begins another epoch: SB3's callbacks are silent in an update."""
        model, buffer, read = self.model, self._buffer, self._buffer.get
        n_begun = 0

        def begin() -> None:
            nonlocal n_begun
            if n_begun > 0 and self._before is not None:
                self._epoch_kls.append(self._kl())
            n_begun += 1
            if n_begun == n_epochs:
                _unwatch(model)

        def get(batch_size: int | None = None) -> Any:
            begin()
            return read(batch_size)

        if isinstance(model, PolicyGradient):
            model.on_epoch = begin
        else:
            buffer.get = get  # type: ignore[method-assign]

    def _finish_update(self) -> None:
        _unwatch(self.model)  # where it ended before its last epoch
        if self._before is not None:
            found = {"policy/kl": self._kl()}
            found |= {f"policy/kl_epoch_{i}": kl for i, kl in enumerate(self._epoch_kls, start=1)}
            self._before = None
            self._write(found)
            for key, kl in found.items():
                self.logger.record(
                    key, kl, exclude=("tensorboard",) if key == "policy/kl" else ("tensorboard", "stdout")
                )


def _unwatch(model: Any) -> None:
    """Take back what `_watch_epochs` has put in."""
    vars(model.rollout_buffer).pop("get", None)
    if isinstance(model, PolicyGradient):
        model.on_epoch = None


def _greatest_entropy(space: spaces.Space[Any]) -> float:
    """Of the uniform distribution over a finite space, in nats; 0 where there is none."""
    if isinstance(space, spaces.Discrete):
        return float(np.log(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return float(np.log(space.nvec).sum())
    if isinstance(space, spaces.MultiBinary):
        return float(np.log(2) * np.prod(space.shape))
    return 0.0
