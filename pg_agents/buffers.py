"""Rollout buffers: SB3's own, with the ends of episodes and an estimator added.

`rewards`, `values`, `advantages`, `returns` and the rest are equal to those of SB3's buffers, including the bootstrap
that SB3 adds to the reward of a time-out. Beside them stand the environment's own rewards and, separately,
terminations and truncations, as a `Rollout` that estimators read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer as SB3DictRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer as SB3RolloutBuffer

from pg_agents.contract import Rollout, Step
from pg_agents.estimators import Bools, Floats

# To (advantages, returns): the weights of log π, and the critic's regression targets.
Estimator = Callable[[Rollout], tuple[Floats, Floats]]


class EstimatorMixin(SB3RolloutBuffer):
    """The additions of our buffers to SB3's."""

    estimator: Estimator | None = None
    trained_on: Bools | None = None  # which steps are trained on, once the rollout is complete; None for all

    def reset(self) -> None:
        """Empty the buffer."""
        super().reset()
        shape = (self.buffer_size, self.n_envs)
        self.env_rewards = np.zeros(shape, dtype=np.float32)
        self.final_values = np.zeros(shape, dtype=np.float32)
        self.terminated = np.zeros(shape, dtype=np.bool_)
        self.truncated = np.zeros(shape, dtype=np.bool_)
        self.reset_rows: Bools | None = None
        self.trained_on = None

    def record(self, step: Step, *row: Any) -> None:
        """Store a step.

        A reset is stored as an episode of its own, from which nothing leaks into others, and is not trained on.

        Args:
            step: Rewards and ends.
            *row: Observations, actions, values and log π for SB3's `add`. Nothing, where an engine has written them
                into this row of the buffer's arrays already.
        """
        t = self.pos
        self.env_rewards[t] = step.env_rewards
        if step.ends is not None:
            self.terminated[t], self.truncated[t], self.final_values[t] = step.ends
        if step.resets is not None:
            if self.reset_rows is None:
                self.reset_rows = np.zeros((self.buffer_size, self.n_envs), dtype=np.bool_)
            self.reset_rows[t] = step.resets
            self.terminated[t] |= step.resets
        if row:
            observations, actions, values, log_probs = row
            self.add(observations, actions, step.rewards, step.episode_starts, values, log_probs)
        else:
            self.rewards[t] = step.rewards
            self.episode_starts[t] = step.episode_starts
            self.pos += 1
            self.full = self.pos == self.buffer_size

    def advance_to(self, position: int) -> None:
        """Count rows up to `position` as stored: an engine has written all that `record` would."""
        self.pos = position
        self.full = position == self.buffer_size

    def draw_order(self, batch_size: int | None, n_epochs: int) -> np.ndarray:
        """The order in which the samples of some epochs are learnt from, as `get` draws it.

        Args:
            batch_size: None for all at once, in any order.
            n_epochs: Number of passes.

        Returns:
            `(n_epochs, samples)`: numbers of the steps, environment after environment.
        """
        assert self.full, "The rollout buffer is not full."
        if self.trained_on is None:
            numbers = np.arange(self.pos * self.n_envs, dtype=np.int64)
        else:
            numbers = np.flatnonzero(self.trained_on.T).astype(np.int64)
        orders = np.tile(numbers, (n_epochs, 1))
        if batch_size is not None:
            for order in orders:
                np.random.shuffle(order)  # noqa: NPY002 - SB3 seeds this generator, and shuffles with it
        return orders

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """The steps that are trained on, in minibatches."""
        if self.trained_on is None:
            yield from super().get(batch_size)
            return
        samples = np.flatnonzero(self.trained_on.T)
        self._flatten()
        if batch_size is None:
            batch_size = len(samples)
        else:
            np.random.shuffle(samples)  # noqa: NPY002 - SB3 seeds this generator, and shuffles with it
        for start in range(0, len(samples), batch_size):
            yield self._get_samples(samples[start : start + batch_size])

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
            trained_on=np.ones_like(truncated) if self.trained_on is None else self.trained_on,
        )

    def _find_trained_on(self) -> Bools | None:
        return None if self.reset_rows is None else ~self.reset_rows[: self.pos]

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """Fill `advantages` and `returns` from the estimator, or without one by GAE as SB3 does.

        Args:
            last_values: V of the states that follow the rollout's last step.
            dones: Whether the rollout's last step ended an episode.
        """
        self.trained_on = self._find_trained_on()
        if self.estimator is None:
            super().compute_returns_and_advantage(last_values, dones)
            return
        estimates = self.estimator(self.rollout(last_values.cpu().numpy().flatten()))
        shape = (self.pos, self.n_envs)
        if not isinstance(estimates, tuple) or [np.shape(estimate) for estimate in estimates] != [shape, shape]:
            raise ValueError(
                f"`estimate` must return advantages and returns as two arrays of the rollout's shape {shape}, but "
                f"returned {_in_words(estimates)}."
            )
        self.advantages[: self.pos], self.returns[: self.pos] = estimates


def _in_words(estimates: Any) -> str:
    """What an estimator has returned, for a message."""
    if isinstance(estimates, (np.ndarray, th.Tensor)):
        return f"one array of shape {tuple(estimates.shape)}"
    shapes = f" of shapes {[np.shape(one) for one in estimates[:3]]}" if isinstance(estimates, tuple) else ""
    return f"a {type(estimates).__name__}{shapes}"


class RolloutBuffer(EstimatorMixin, SB3RolloutBuffer):
    """SB3's `RolloutBuffer`, with an estimator."""


class DictRolloutBuffer(EstimatorMixin, SB3DictRolloutBuffer):
    """SB3's `DictRolloutBuffer`, with an estimator."""


class EpisodeMixin(EstimatorMixin):
    """Whole episodes only, the same number from every environment, however long they are.

    Taking the first k episodes that finish in any environment would favour short ones. Here each environment
    contributes its first `n_episodes`; its steps while it waits for the others are stored and not trained on.
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
        self.n_finished = np.zeros(self.n_envs, dtype=np.int64)
        self._complete = False

    def record(self, step: Step, *row: Any) -> None:
        """As for the other buffers; `full` once every environment has contributed its episodes."""
        super().record(step, *row)
        if step.ends is not None:
            self.n_finished += step.ends[0] | step.ends[1]
            self._complete = bool((self.n_finished >= self.n_episodes).all())
        self._make_room()

    def advance_to(self, position: int) -> None:
        """As for the other buffers; `n_finished` is written too."""
        self.pos = position
        self._complete = bool((self.n_finished >= self.n_episodes).all())
        self._make_room()

    def _make_room(self) -> None:
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

    def _find_trained_on(self) -> Bools:
        ends = self.terminated[: self.pos] | self.truncated[: self.pos]
        if self.reset_rows is not None:
            ends &= ~self.reset_rows[: self.pos]
        finished_before: Floats = np.cumsum(ends, axis=0) - ends
        trained_on: Bools = finished_before < self.n_episodes
        return trained_on if self.reset_rows is None else trained_on & ~self.reset_rows[: self.pos]

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """As for the other buffers, after unused memory has been returned."""
        self._resize(self.pos)
        super().compute_returns_and_advantage(last_values, dones)

    @property
    def mean_length(self) -> float:
        """Mean number of steps of the episodes that are trained on."""
        assert self.trained_on is not None
        return float(self.trained_on.sum()) / (self.n_envs * self.n_episodes)

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """The steps that are trained on: in shuffled minibatches, or in order and at once if `batch_size` is None."""
        assert self.full, "The buffer has no whole episode from some environment yet."
        yield from super().get(batch_size)


class EpisodeBuffer(EpisodeMixin, SB3RolloutBuffer):
    """Whole episodes with array observations."""


class DictEpisodeBuffer(EpisodeMixin, SB3DictRolloutBuffer):
    """Whole episodes with Dict observations."""


OURS: dict[type[SB3RolloutBuffer], type[SB3RolloutBuffer]] = {
    SB3RolloutBuffer: RolloutBuffer,
    SB3DictRolloutBuffer: DictRolloutBuffer,
}
"""The class of this module for each of SB3's."""
