"""The environment's spaces, and those of the policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from pg_agents.base.common import Common
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.policies import environment_actions
from pg_agents.spaces import Translation
from pg_agents.suitability import check_is_env, check_observation_space


class SpacesMixin(Common, init=False):
    """Observations and actions as the environment has them, and as the policy does."""

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """SB3's, which also takes Gymnasium's vector environments."""
        check_is_env(env)
        if isinstance(env, VectorEnv):
            env = VectorEnvAdapter(env)
        check_observation_space(env.observation_space)
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    # The spaces in use, and the translation between them and the policy's.
    _translation_of: tuple[Any, Any, Translation | None] = None, None, None

    @property
    def translation(self) -> Translation | None:
        """Between the environment's spaces and the policy's; None where they are the same."""
        given = self.observation_space, self.action_space
        *known, translation = self._translation_of
        if known[0] is not given[0] or known[1] is not given[1]:
            made = Translation(*given, normalizes=self._normalizes_observations)
            translation = made if made.is_needed else None
            self._translation_of = *given, translation
        return translation

    @property
    def _normalizes_observations(self) -> bool:
        normalizer = self.get_vec_normalize_env()
        return normalizer is not None and normalizer.norm_obs

    @contextmanager
    def _spaces_of_policy(self) -> Iterator[None]:
        """SB3 makes policy and buffer for the agent's spaces, which are the policy's meanwhile."""
        translation, given = self.translation, (self.observation_space, self.action_space)
        if translation is not None:
            self.observation_space, self.action_space = translation.observation_space, translation.action_space
        try:
            yield
        finally:
            self.observation_space, self.action_space = given

    def environment_actions(self, actions: np.ndarray) -> np.ndarray:
        """The policy's actions as the environment takes them: unscaled if squashed, else clipped; in its own space."""
        sent = environment_actions(self.policy, actions)
        return sent if self.translation is None else self.translation.actions(sent)

    @property
    def _acts_as_policy(self) -> bool:
        """Whether the environment has the policy's spaces, and takes its actions as they are or clipped."""
        return self.translation is None and not self._overrides("environment_actions")
