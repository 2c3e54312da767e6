"""The common base of GRPO and RLOO: groups of episodes from one start, and a reference policy to stay near."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import InitVar
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import Self

from pg_agents import estimators
from pg_agents.agent import PolicyGradient
from pg_agents.arguments import argument
from pg_agents.baselines import group_moments
from pg_agents.buffers import EpisodeMixin
from pg_agents.contract import Penalty, Rollout
from pg_agents.episodes import (
    CREDIT,
    Episodes,
    as_credited,
    for_each_step,
    in_groups,
    places,
    rows,
    with_total_returns,
)
from pg_agents.estimators import Floats
from pg_agents.files.archives import read_agent
from pg_agents.objectives import KL_ESTIMATORS
from pg_agents.policies import ACTOR_POLICIES, unchecked_distributions
from pg_agents.priors import frozen_policy
from pg_agents.tuning import Choice, LogUniform, PowerOfTwo, SearchSpace


class GroupRelative(PolicyGradient):
    """Base of the algorithms that judge an episode by the others of its group, and need no critic.

    Each environment plays `n_groups` groups in an update, of `group_size` episodes which start from a reset with one
    seed. Episodes are collected as by `REINFORCE`, and a time limit ends an episode like any other end.

    Raises:
        ValueError: An argument is out of range, or two contradict each other.
    """

    policy_aliases = ACTOR_POLICIES
    has_critic = False

    learning_rate: float | Schedule = 1e-3
    group_size: int | None = argument(
        default=8,
        doc="Episodes that start in the same way, from a reset with one seed, which is drawn anew for each group.",
        at_least=2,
        integer=True,
    )
    n_groups: int = 1
    gamma: float = 1.0
    credit: Literal["episode", "step"] = argument(
        default="episode",
        doc='`"episode"` credits every action of an episode with its total return; `"step"` with the rewards after it, '
        "and compares them with the group's at the same step.",
        choices=tuple(CREDIT),
    )
    kl_coef: float = argument(
        default=0.0,
        doc="Price β of moving away from the reference policy, per unit of KL divergence; 0 for no reference policy.",
        at_least=0,
    )
    kl_estimator: Literal["k1", "k2", "k3", "exact"] = argument(
        default="k1",
        doc='Estimate of the KL divergence from the action taken: `"k1"`, `"k2"` or `"k3"`; `"exact"`, for the loss '
        "only, is its closed form.",
        choices=(*KL_ESTIMATORS, "exact"),
    )
    kl_in: Literal["reward", "loss"] = argument(
        default="reward",
        doc='The penalty is subtracted from each step\'s `"reward"`, or added to the `"loss"`.',
        choices=("reward", "loss"),
    )
    reference: ActorCriticPolicy | None = argument(
        default=None,
        doc="Policy to stay near to, with the networks of the agent's; its parameters are copied. None for the agent's "
        "own at the beginning of its first `learn`.",
        fixed="give it to `load`",
    )
    ent_coef: InitVar[float | Schedule] = 0.0
    max_grad_norm: InitVar[float | None] = None

    search: ClassVar[SearchSpace] = {
        "group_size": PowerOfTwo(2, 32),
        "credit": Choice(tuple(CREDIT)),
        "ent_coef": LogUniform(1e-6, 0.1),
        "max_grad_norm": LogUniform(0.3, 50),
    }

    @abstractmethod
    def advantages(self, groups: Episodes) -> Floats:
        """The advantage of each action over the group.

        Args:
            groups: Returns in groups, `(n_groups, group_size, T)`.

        Returns:
            Advantages of the same shape.
        """

    def estimate(self, rollout: Rollout) -> tuple[Floats, Floats]:
        """The advantages within groups, and the returns of the rewards, less β KL where it belongs there."""
        rewards = rollout.rewards
        if self.kl_coef and self.kl_in == "reward":
            assert isinstance(self.rollout_buffer, EpisodeMixin)
            rewards = rewards - self.kl_coef * self._reference_kl(self.rollout_buffer)
        returns = CREDIT[self.credit](rewards, rollout.ends, self.gamma)
        return for_each_step(rollout, returns, self._in_groups), returns

    def _in_groups(self, episodes: Episodes) -> Floats:
        assert self.group_size is not None
        found = self.advantages(in_groups(as_credited(episodes, self.credit), self.group_size))
        weighted: Floats = self.episode_weights(episodes) * found.reshape(episodes.returns.shape)
        return weighted

    def episode_weights(self, episodes: Episodes) -> Floats:
        """Factor of each episode's advantages, `(n_episodes, 1)`."""
        return np.ones((len(episodes.returns), 1), dtype=episodes.returns.dtype)

    # The reference policy

    _reference_is_fixed = False
    _reference: ActorCriticPolicy | None = None

    @property
    def reference_policy(self) -> ActorCriticPolicy:
        """π_ref: the policy given, or that of the beginning of the first `learn`; until then, the policy as it was."""
        if self._reference is None:
            self._reference = frozen_policy(self.policy).to(self.policy.device)
        return self._reference

    def penalty(self) -> Penalty | None:
        """β KL(π || π_ref), if it belongs in the loss; else the prior's, if there is one."""
        if self.kl_coef and self.kl_in == "loss":
            return Penalty(self.reference_policy, self.kl_coef, self.kl_estimator)
        return super().penalty()

    def _reference_kl(self, buffer: RolloutBuffer) -> Floats:
        """Estimates of KL(π_old || π_ref) from the actions of a rollout, `(T, N)`."""
        flat = RolloutBuffer.swap_and_flatten

        def tensors(stored: Any) -> Any:
            if isinstance(stored, dict):
                return {key: tensors(array) for key, array in stored.items()}
            return buffer.to_torch(stored if buffer.generator_ready else flat(stored))

        actions, old_log_prob = tensors(buffer.actions.astype(np.float32)), tensors(buffer.log_probs).flatten()
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        with th.no_grad(), unchecked_distributions():
            log_prob = self.reference_policy.get_distribution(tensors(buffer.observations)).log_prob(actions)
            found = KL_ESTIMATORS[self.kl_estimator](old_log_prob - log_prob).cpu().numpy()
        by_step: Floats = found.reshape(buffer.n_envs, -1).T
        return by_step

    def _setup_model(self) -> None:
        self._reference = None
        super()._setup_model()
        if self.reference is not None:
            self._take_reference(self.reference)

    def _take_reference(self, policy: ActorCriticPolicy) -> None:
        reference = self.reference_policy
        try:
            reference.load_state_dict(policy.state_dict())
        except (AttributeError, RuntimeError) as error:
            raise ValueError(
                "`reference` must be a policy with the networks of the agent's own, such as `other_agent.policy`, but "
                f"is of the class {type(policy).__name__}: {error}"
            ) from error
        self._reference_is_fixed = True

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.kl_coef and not self._reference_is_fixed:
            self._take_reference(self.policy)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        has_reference = self.kl_coef or self._reference_is_fixed
        return [*state_dicts, *(["reference_policy"] if has_reference else [])], tensors

    def set_parameters(
        self, load_path_or_dict: str | dict[str, Any], exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """As in SB3; parameters without a reference policy leave it as it is."""
        given: dict[str, Any]
        if isinstance(load_path_or_dict, dict):
            given = load_path_or_dict
        else:
            given = read_agent(load_path_or_dict, data=False).parameters(get_device(device))
        if "reference_policy" in self._get_torch_save_params()[0]:
            given = {"reference_policy": self.reference_policy.state_dict(), **given}
        super().set_parameters(given, exact_match, device)

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> Self:
        """As `PolicyGradient.load`; a `reference` given here replaces the file's."""
        agent = super().load(*args, **kwargs)
        if agent.reference is not None:
            agent._take_reference(agent.reference)
        return agent

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "reference", "_reference"]

    made_anew = PolicyGradient.made_anew | {"reference"}

    def make_parts(self, stored: Mapping[str, Any]) -> None:
        """Make the reference policy, if a checkpoint has one."""
        if stored.get("_reference") is not None:
            self._reference = self.reference_policy

    # Arguments and log

    def check_arguments(self) -> None:
        """See `PolicyGradient.check_arguments`."""
        super().check_arguments()
        if self.kl_coef and self.kl_in == "reward" and self.kl_estimator == "exact":
            raise ValueError("`kl_estimator='exact'` is for kl_in='loss': the reward is that of the action taken.")
        if self.kl_coef and self.kl_in == "loss" and self.prior is not None:
            raise ValueError(
                f"`prior` and kl_coef={self.kl_coef!r} with kl_in='loss' are two penalties in one loss: give `kl_coef` "
                "with kl_in='reward', or the prior as `reference`."
            )

    def warn_of_arguments(self) -> None:
        """Warn of arguments for the penalty's estimate, if there is no penalty."""
        super().warn_of_arguments()
        defaults = self.defaults()
        for name in ("reference", "kl_estimator", "kl_in"):
            if not self.kl_coef and getattr(self, name) != defaults[name]:
                warnings.warn(f"`{name}` has no effect, because `kl_coef` is 0.", stacklevel=4)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As `PolicyGradient.collect_rollouts`; the spread within groups is logged."""
        goes_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if goes_on and isinstance(rollout_buffer, EpisodeMixin):
            self._record_groups(rollout_buffer)
        return goes_on

    def _record_groups(self, buffer: EpisodeMixin) -> None:
        assert self.group_size is not None
        rollout = buffer.rollout(np.zeros(self.n_envs, dtype=np.float32))  # V is not used
        returns = estimators.total_return(rollout.rewards, rollout.ends, 1.0)
        episodes = rows(returns[rollout.trained_on], places(rollout))
        _, deviations = group_moments(in_groups(with_total_returns(episodes), self.group_size))
        self._logger.record("rollout/group_std", float(deviations[..., 0].mean()))
        self._logger.record("rollout/flat_groups", float((deviations[..., 0] == 0).mean()))
        if self.kl_coef and self.kl_in == "reward":
            kl = self._reference_kl(buffer)[rollout.trained_on]
            self._logger.record("rollout/reference_kl", float(kl.mean()))
