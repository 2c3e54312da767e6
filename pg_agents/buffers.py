"""Rollout buffers: SB3's own, which in addition know how episodes ended and carry an estimator.

`rewards`, `values`, `advantages`, `returns` and the rest hold exactly what SB3's buffers hold, the bootstrap that SB3
adds to the reward of a time-out included. Beside them stand the environment's own rewards and, separately, what
terminated and what was truncated, as a `Rollout` that estimators read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer as SB3DictRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer

from pg_agents.estimators import Bools, Floats, td_target


@dataclass(frozen=True)
class Rollout:
    """What an estimator sees: arrays of shape `(T, N)`, as `pg_agents.estimators` defines them.

    Attributes:
        rewards: The environment's rewards, nothing added.
        values: V(s_t).
        next_values: V(s_{t+1}); at a truncated step, V of the episode's last state.
        terminated: The task ended after this step.
        truncated: A time limit cut the episode after this step.
        bootstrapped_rewards: The rewards with γ V(s_{t+1}) added where a time limit cut, rounded as SB3 rounds it.
        counted: Whether a step is trained on. Everywhere true, but for whole-episode buffers, where it is false
            after an environment's last whole episode.
    """

    rewards: Floats
    values: Floats
    next_values: Floats
    terminated: Bools
    truncated: Bools
    bootstrapped_rewards: Floats
    counted: Bools

    @property
    def ends(self) -> Bools:
        """The episode ended after this step, for either reason."""
        return self.terminated | self.truncated

    def td_errors(self, gamma: float) -> Floats:
        """`estimators.td_error` of the rollout, equal to SB3's to the last bit."""
        # r + γV is rounded once when SB3 stores it in float32; adding it again here could differ in the last bit.
        targets = td_target(self.rewards, self.next_values, self.terminated, gamma)
        return np.where(self.truncated, self.bootstrapped_rewards, targets) - self.values


# (advantages, returns): the weights of log pi, and what the critic regresses on.
Estimator = Callable[[Rollout], tuple[Floats, Floats]]


class EstimatorMixin(SB3RolloutBuffer):
    """What our buffers add to SB3's."""

    estimator: Estimator | None = None
    counted: Bools | None = None  # which of the steps are trained on; None: all

    def reset(self) -> None:
        """Empty the buffer."""
        super().reset()
        shape = (self.buffer_size, self.n_envs)
        self.env_rewards = np.zeros(shape, dtype=np.float32)
        self.final_values = np.zeros(shape, dtype=np.float32)
        self.terminated = np.zeros(shape, dtype=np.bool_)
        self.truncated = np.zeros(shape, dtype=np.bool_)
        self.reset_rows: Bools | None = None
        self.counted = None

    def add_env_rewards(self, rewards: np.ndarray) -> None:
        """Note the environment's rewards of the step that `add` is about to store, before any bootstrap."""
        self.env_rewards[self.pos] = rewards

    def add_ends(self, terminated: Bools, truncated: Bools, final_values: Floats) -> None:
        """Note how the step that `add` is about to store ended, where it ended an episode.

        Args:
            terminated: The task ended.
            truncated: A time limit cut the episode.
            final_values: V of the last state where truncated; not used elsewhere.
        """
        self.terminated[self.pos] |= terminated  # besides the rows that `add_resets` has noted
        self.truncated[self.pos] = truncated
        self.final_values[self.pos] = final_values

    def add_resets(self, resets: Bools) -> None:
        """Note that the step that `add` is about to store was, in these environments, a reset and no transition.

        It is stored as an episode of its own, from which nothing leaks into others, and is not trained on.
        """
        if self.reset_rows is None:
            self.reset_rows = np.zeros((self.buffer_size, self.n_envs), dtype=np.bool_)
        self.reset_rows[self.pos] = resets
        self.terminated[self.pos] |= resets

    def store(self, rewards: np.ndarray, episode_starts: np.ndarray) -> None:
        """Complete a row in which an engine has written all that does not come from the environment.

        Args:
            rewards: Of the step.
            episode_starts: Whether an episode began with it.
        """
        self.rewards[self.pos] = rewards
        self.episode_starts[self.pos] = episode_starts
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def draw_order(self, batch_size: int | None, n_epochs: int) -> np.ndarray:
        """The order in which the samples of some epochs are learnt from, as `get` draws it.

        Args:
            batch_size: None for all at once, in any order.
            n_epochs: How often.

        Returns:
            `(n_epochs, samples)`: numbers of the steps, counted environment after environment.
        """
        assert self.full, "The rollout buffer is not full."
        if self.counted is None:
            numbers = np.arange(self.pos * self.n_envs, dtype=np.int64)
        else:
            numbers = np.flatnonzero(self.counted.T).astype(np.int64)
        if batch_size is None:
            return np.tile(numbers, (n_epochs, 1))
        # SB3 seeds this generator, and shuffles with it.
        return np.stack([numbers[np.random.permutation(len(numbers))] for _ in range(n_epochs)])  # noqa: NPY002

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """The steps that are trained on, in minibatches."""
        if self.counted is None:
            yield from super().get(batch_size)
            return
        counted = np.flatnonzero(self.counted.T)
        self._flatten()
        if batch_size is None:
            batch_size = len(counted)
        else:
            np.random.shuffle(counted)  # noqa: NPY002 - SB3 seeds this generator, and shuffles with it
        for start in range(0, len(counted), batch_size):
            yield self._get_samples(counted[start : start + batch_size])

    def _flatten(self) -> None:
        """Environment after environment, as SB3's `get` does it."""
        if self.generator_ready:
            return
        for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
            stored = getattr(self, name)
            if isinstance(stored, dict):
                setattr(self, name, {key: self.swap_and_flatten(array) for key, array in stored.items()})
            else:
                setattr(self, name, self.swap_and_flatten(stored))
        self.generator_ready = True

    def rollout(self, last_values: Floats) -> Rollout:
        """The steps stored so far, given V of the states that follow the last of them."""
        steps = slice(0, self.pos)
        next_values = np.concatenate([self.values[1 : self.pos], last_values.reshape(1, -1)])
        truncated = self.truncated[steps]
        return Rollout(
            rewards=self.env_rewards[steps],
            values=self.values[steps],
            next_values=np.where(truncated, self.final_values[steps], next_values),
            terminated=self.terminated[steps],
            truncated=truncated,
            bootstrapped_rewards=self.rewards[steps],
            counted=np.ones((self.pos, self.n_envs), dtype=np.bool_) if self.counted is None else self.counted,
        )

    def _counted(self) -> Bools | None:
        return None if self.reset_rows is None else ~self.reset_rows[: self.pos]

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """Fill `advantages` and `returns` with what the estimator says; without one, as SB3 does (GAE).

        Args:
            last_values: V of the states that follow the rollout's last step.
            dones: Whether the rollout's last step ended an episode.
        """
        self.counted = self._counted()
        if self.estimator is None:
            super().compute_returns_and_advantage(last_values, dones)
            return
        estimates = self.estimator(self.rollout(last_values.cpu().numpy().flatten()))
        shape = (self.pos, self.n_envs)
        if not isinstance(estimates, tuple) or [np.shape(estimate) for estimate in estimates] != [shape, shape]:
            given = [np.shape(estimate) for estimate in estimates]
            raise ValueError(
                f"`estimate` must return advantages and returns as two arrays of the rollout's shape {shape}, but "
                f"returned a {type(estimates).__name__} of shapes {given}."
            )
        self.advantages[: self.pos], self.returns[: self.pos] = estimates


class RolloutBuffer(EstimatorMixin, SB3RolloutBuffer):
    """SB3's `RolloutBuffer`, with an estimator."""


class DictRolloutBuffer(EstimatorMixin, SB3DictRolloutBuffer):
    """SB3's `DictRolloutBuffer`, with an estimator."""


class EpisodeMixin(EstimatorMixin):
    """Whole episodes only, the same number from every environment, however long they are.

    Taking the first k episodes that finish in any environment would favour short ones. Here each environment
    contributes its first `n_episodes`, and what it does while it waits for the others is stored but not counted.
    The buffer is `full` when the last environment has finished, and grows as needed until then.
    """

    n_episodes = 1  # from each environment

    def __init__(self, buffer_size: int, *args: Any, **kwargs: Any) -> None:
        self.initial_size = buffer_size
        super().__init__(buffer_size, *args, **kwargs)

    def reset(self) -> None:
        """Empty the buffer, and give back the room that long episodes took."""
        self.buffer_size = self.initial_size
        super().reset()
        self.n_finished = np.zeros(self.n_envs, dtype=int)
        self._complete = False

    def add_ends(self, terminated: Bools, truncated: Bools, final_values: Floats) -> None:
        """As for the other buffers, with the episodes counted."""
        super().add_ends(terminated, truncated, final_values)
        self.n_finished += terminated | truncated
        self._complete = bool((self.n_finished >= self.n_episodes).all())

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Store a step, as SB3's buffer does."""
        super().add(*args, **kwargs)
        self._grow()

    def store(self, rewards: np.ndarray, episode_starts: np.ndarray) -> None:
        """As for the other buffers."""
        super().store(rewards, episode_starts)
        self._grow()

    def _grow(self) -> None:
        self.full = self._complete
        if self.pos == self.buffer_size:
            self._resize(2 * self.buffer_size)

    def _resize(self, size: int) -> None:
        def resized(array: np.ndarray) -> np.ndarray:
            grown = np.zeros((size, *array.shape[1:]), dtype=array.dtype)
            grown[: self.pos] = array[: self.pos]
            return grown

        for name, stored in vars(self).items():
            if isinstance(stored, np.ndarray) and stored.shape[:2] == (self.buffer_size, self.n_envs):
                setattr(self, name, resized(stored))
            elif name == "observations" and isinstance(stored, dict):
                setattr(self, name, {key: resized(array) for key, array in stored.items()})
        self.buffer_size = size

    def _counted(self) -> Bools:
        ends = self.terminated[: self.pos] | self.truncated[: self.pos]
        if self.reset_rows is not None:
            ends &= ~self.reset_rows[: self.pos]
        finished_before: Floats = np.cumsum(ends, axis=0) - ends
        counted: Bools = finished_before < self.n_episodes
        return counted if self.reset_rows is None else counted & ~self.reset_rows[: self.pos]

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """As for the other buffers, with the room that was not needed given back first."""
        self._resize(self.pos)
        super().compute_returns_and_advantage(last_values, dones)

    @property
    def mean_length(self) -> float:
        """Mean number of steps of the counted episodes."""
        assert self.counted is not None
        return float(self.counted.sum()) / (self.n_envs * self.n_episodes)

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """The counted steps, in minibatches: shuffled, or in order when `batch_size` is None (all at once)."""
        assert self.full, "The buffer has no whole episode from some environment yet."
        yield from super().get(batch_size)


class EpisodeBuffer(EpisodeMixin, SB3RolloutBuffer):
    """Whole episodes with array observations."""


class DictEpisodeBuffer(EpisodeMixin, SB3DictRolloutBuffer):
    """Whole episodes with Dict observations."""
