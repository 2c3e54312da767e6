"""The policy that training is kept near."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents.base.common import Common
from pg_agents.contract import Penalty
from pg_agents.priors import check_prior, frozen_policy


class PriorMixin(Common, init=False):
    """The `prior`, and its price in the loss."""

    # The `prior`, and the same on the policy's device. `prior` stays on the CPU, so that files load everywhere.
    _prior_on_device: tuple[Any, ActorCriticPolicy | None] = None, None

    @property
    def _prior(self) -> ActorCriticPolicy:
        """The prior on the policy's device; `prior` may have been replaced."""
        known, here = self._prior_on_device
        return self._take_prior() if here is None or self.prior is not known else here

    def _take_prior(self) -> ActorCriticPolicy:
        """Replace `prior` by a frozen copy of the policy that it stands for."""
        prior = frozen_policy(self.prior)
        check_prior(prior, self.policy, self.prior_kl_estimator)
        here = prior if self.policy.device.type == "cpu" else deepcopy(prior).to(self.policy.device)
        self.prior, self._prior_on_device = prior, (prior, here)
        return here

    def penalty(self) -> Penalty | None:
        """The price of moving away from a reference policy, here `prior_kl_coef` KL(π || π_prior); None for none."""
        if self.prior is None:
            return None
        return Penalty(self._prior, self.coefficient("prior_kl_coef"), self.prior_kl_estimator)
