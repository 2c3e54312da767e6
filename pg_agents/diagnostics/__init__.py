"""Training diagnostics: SB3 callbacks for any on-policy algorithm, including SB3's own.

They only read the rollout and the policy, so training arrives at the same parameters with and without them.
docs/diagnostics.md explains how to interpret each value.
"""

from pg_agents.diagnostics.advantages import AdvantageDiagnostics
from pg_agents.diagnostics.gradient import GradientDiagnostics
from pg_agents.diagnostics.picture import PolicyPicture
from pg_agents.diagnostics.policy import PolicyDiagnostics

__all__ = ["AdvantageDiagnostics", "GradientDiagnostics", "PolicyDiagnostics", "PolicyPicture"]
