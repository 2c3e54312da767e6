"""RLOO on a language model: REINFORCE, leave one out."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.type_aliases import Schedule

from pg_agents.arguments import argument
from pg_agents.baselines import LeaveOneOutBaseline
from pg_agents.contract import Objective
from pg_agents.episodes import Episodes, in_groups
from pg_agents.estimators import Floats
from pg_agents.language.objectives import clipped
from pg_agents.language.policy import Scored
from pg_agents.language.reinforce import EpisodeComparison
from pg_agents.language.texts import Completions
from pg_agents.tuning import PowerOfTwo, ScheduleBetween, SearchSpace


class GroupComparison(EpisodeComparison):
    """Base of the algorithms that judge a completion by others of the same prompt.

    Raises:
        TypeError: A keyword is unknown, or `reward` no function.
        ValueError: An argument is out of range, or model, tokenizer, prompts and reward do not fit each other.
    """

    group_size: int = argument(
        default=8,
        kw_only=True,
        doc="Completions G of each prompt in an update; `n_episodes` is a multiple of it.",
        at_least=2,
        integer=True,
    )

    search: ClassVar[SearchSpace] = {"group_size": PowerOfTwo(2, 32)}

    @abstractmethod
    def compare_in_groups(self, groups: Episodes) -> Floats:
        """The advantage of each token over its group.

        Args:
            groups: Returns `(n_groups, G, T)`.

        Returns:
            Advantages of the same shape.
        """

    def compare(self, episodes: Episodes) -> Floats:
        """The comparison within each group."""
        found = self.compare_in_groups(in_groups(episodes, self.group_size))
        return found.reshape(episodes.returns.shape)

    def _next_prompts(self) -> list[int]:
        assert self.n_episodes is not None
        n_groups = self.n_episodes // self.group_size
        while len(self._waiting) < n_groups:
            self._waiting += self._permutation()
        chosen, self._waiting = self._waiting[:n_groups], self._waiting[n_groups:]
        return [prompt for prompt in chosen for _ in range(self.group_size)]

    def _record(
        self, completions: Completions, rewards: np.ndarray, scored: Scored, infos: list[dict[str, Any]]
    ) -> None:
        super()._record(completions, rewards, scored, infos)
        groups = rewards.reshape(-1, self.group_size)
        self.logger.record("rollout/group_std", float(groups.std(axis=1, ddof=1).mean()))
        self.logger.record("rollout/flat_groups", float((groups.max(axis=1) == groups.min(axis=1)).mean()))

    def check_arguments(self) -> None:
        """See `LanguageAlgorithm.check_arguments`."""
        super().check_arguments()
        assert self.n_episodes is not None
        if self.n_episodes % self.group_size:
            raise ValueError(
                f"`n_episodes` must be a multiple of `group_size`, {self.group_size}, but is {self.n_episodes}."
            )


class LanguageRLOO(GroupComparison):
    """REINFORCE with the mean return of the other completions of the prompt as baseline.

    maximise E[min(Â r, Â clip(r, 1 - ε, 1 + ε))], with Â_i = R_i - 1/(G - 1) Σ_{j ≠ i} R_j and
    R = r - β Σ_t log π/π_ref   (arXiv:2402.14740, eq. 8)

    At π = π_old the gradient is that of the expected return: it has no bias.

    Raises:
        TypeError: A keyword is unknown, or `reward` no function.
        ValueError: An argument is out of range, or model, tokenizer, prompts and reward do not fit each other.
    """

    mean = "sum"

    learning_rate: float | Schedule = argument(default=6e-4, kw_only=True)
    n_epochs: int = argument(default=1, kw_only=True)
    clip_range: float | Schedule = argument(
        default=0.2,
        kw_only=True,
        doc="ε, how far the ratio may usefully move; a number, a schedule, or infinity for no limit.",
        at_least=0,
        infinite=True,
        schedule=True,
    )

    search: ClassVar[SearchSpace] = {"clip_range": ScheduleBetween(0.1, 0.4)}

    def compare_in_groups(self, groups: Episodes) -> Floats:
        """R minus the mean of the others of the group."""
        found: Floats = groups.returns - LeaveOneOutBaseline()(groups)
        return found

    def objective(self) -> Objective:
        """min(Â r, Â clip(r, 1 - ε, 1 + ε))."""
        clip_range = self.coefficient("clip_range")
        return clipped(clip_range, clip_range)
