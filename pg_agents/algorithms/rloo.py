"""RLOO: REINFORCE, leave one out."""

from __future__ import annotations

from stable_baselines3.common.type_aliases import Schedule

from pg_agents.algorithms.group_relative import GroupRelative
from pg_agents.baselines import LeaveOneOutBaseline
from pg_agents.contract import Objective
from pg_agents.episodes import Episodes
from pg_agents.estimators import Floats
from pg_agents.objectives import score_function, score_function_weight


class RLOO(GroupRelative):
    """REINFORCE with the mean return of the other episodes of the group as baseline.

    θ += α / E Σ_{episodes} Σ_t (R_i - 1/(G - 1) Σ_{j ≠ i} R_j) ∇ log π(a_t|s_t)   (arXiv:2402.14740, eq. 8)

    R_1 to R_G are the returns of `group_size` = G episodes that start in the same way, and E is the number of episodes
    of an update. The gradient is that of the expected return: unlike `GRPO`'s it has no bias. One step is taken from
    each rollout.

    Raises:
        ValueError: An argument is out of range, or two contradict each other.
    """

    learning_rate: float | Schedule = 3e-3

    def advantages(self, groups: Episodes) -> Floats:
        """R minus the mean of the other episodes of the group."""
        found: Floats = groups.returns - LeaveOneOutBaseline()(groups)
        return found

    def objective(self) -> Objective:
        """Â log π(a|s), with ψ = Â."""
        return Objective(lambda batch: score_function(batch.log_prob, batch.advantages), score_function_weight)
