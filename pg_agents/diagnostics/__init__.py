"""Diagnostics of a training: SB3 callbacks that work with any on-policy algorithm, SB3's own included.

They read what the rollout holds and change nothing: a training with them arrives at the same parameters.
docs/diagnostics.md says what to look for in each.
"""

from pg_agents.diagnostics.advantages import AdvantageDiagnostics
from pg_agents.diagnostics.gradient import GradientDiagnostics
from pg_agents.diagnostics.picture import PolicyPicture
from pg_agents.diagnostics.policy import PolicyDiagnostics

__all__ = ["AdvantageDiagnostics", "GradientDiagnostics", "PolicyDiagnostics", "PolicyPicture"]
