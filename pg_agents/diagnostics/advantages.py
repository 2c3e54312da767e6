"""The distribution of a rollout's advantages."""

from __future__ import annotations

import numpy as np
import torch as th
from stable_baselines3.common.utils import explained_variance

from pg_agents.diagnostics.base import Diagnostic


class AdvantageDiagnostics(Diagnostic):
    """Logs the distribution of the advantages, before normalisation, and the explained variance of the critic.

    | key                            | meaning                                                                        |
    |--------------------------------|--------------------------------------------------------------------------------|
    | `advantage/mean`               | mean of the advantages                                                         |
    | `advantage/std`                | standard deviation                                                             |
    | `advantage/min`                | minimum                                                                        |
    | `advantage/max`                | maximum                                                                        |
    | `advantage/positive`           | share of actions that were better than expected, 0 to 1                        |
    | `advantage/distribution`       | histogram, for TensorBoard                                                     |
    | `advantage/explained_variance` | 1 - Var(R - V) / Var(R), at most 1; not logged without a critic or if all R    |
    |                                | are equal                                                                      |

    Args:
        every: Number of environment steps between measurements; 1 measures every rollout.
        verbose: Verbosity, as in SB3.

    Raises:
        ValueError: An argument is out of range, or (when training starts) the algorithm is not on-policy.
    """

    def __init__(self, every: int = 50_000, verbose: int = 0) -> None:
        super().__init__(every, verbose)

    def _measure(self) -> None:
        advantages = self._stored("advantages", self._steps).double().cpu()
        for name, value in (
            ("mean", advantages.mean()),
            ("std", advantages.std(correction=0)),
            ("min", advantages.min()),
            ("max", advantages.max()),
            ("positive", (advantages > 0).double().mean()),
        ):
            self.logger.record(f"advantage/{name}", float(value))
        if bool(th.isfinite(advantages).all()):
            self.logger.record("advantage/distribution", advantages, exclude=("stdout", "log", "json", "csv"))
        if getattr(self.model, "has_critic", True):
            values, returns = (self._stored(name, self._steps).cpu().numpy() for name in ("values", "returns"))
            explained = explained_variance(values, returns)
            if np.isfinite(explained):
                self.logger.record("advantage/explained_variance", float(explained))
