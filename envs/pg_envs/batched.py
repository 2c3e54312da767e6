"""Environments written in NumPy for any number of copies: `Dynamics` and its two faces, `Single` and `Batched`.

An environment is four pure functions on arrays whose first axis counts copies: `start`, `step`, `observe` and
optionally `info`. `Single` is a `gymnasium.Env` over one copy, `Batched` a `gymnasium.vector.VectorEnv` over many. Both
call the same functions. Copy i of a batch that is reset with seed s has the same random generator as a single
environment that is reset with seed s + i, so the two trajectories are equal bit for bit.

The environments of this package, but for `Reviews`, are worlds instead: see `pg_envs.worlds`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode

from pg_envs.checks import valid_actions
from pg_envs.rendering import Canvas
from pg_envs.worlds.copies import AnyCopies
from pg_envs.worlds.faces import EnvFace, VectorFace, checked_mode

State = TypeVar("State", bound=tuple[Any, ...])
Step = tuple[State, np.ndarray, np.ndarray]


class Dynamics(ABC, Generic[State]):
    """The equations of an environment, for any number of copies at once.

    The state is a NamedTuple of arrays whose first axis counts copies, or of such tuples. No function may change a
    state in place. The numbers of one copy must not depend on other copies or on their number: for example, the order
    of additions in a sum must not depend on it. A step after the end of an episode may return anything, but must not
    raise.

    Attributes:
        observation_space: Observation space of one copy.
        action_space: Action space of one copy. Actions outside a Box are clipped before `step`; actions outside a
            discrete space are refused.
        image_size: Width and height of a picture, in pixels.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    image_size: tuple[int, int] = (400, 400)

    @abstractmethod
    def start(self, rngs: Sequence[np.random.Generator]) -> State:
        """First states of `len(rngs)` episodes.

        Args:
            rngs: One generator per episode. All randomness of episode i, that of later steps included, is drawn here
                from the i-th generator.
        """

    @abstractmethod
    def step(self, state: State, actions: np.ndarray) -> Step[State]:
        """One step of every copy.

        Args:
            state: The copies' states.
            actions: Actions inside the action space, of shape `(copies, ...)`.

        Returns:
            The next states, the rewards (float64) and the termination flags (bool), both of shape `(copies,)`.
        """

    @abstractmethod
    def observe(self, state: State) -> np.ndarray:
        """The observations: a new array of shape `(copies, ...)` with the dtype of the observation space."""

    def info(self, state: State) -> dict[str, np.ndarray]:
        """Entries of the info dictionary: arrays with one row per copy."""
        return {}

    def optimum(self) -> float | None:
        """Mean undiscounted episode return of the best policy; None if unknown."""
        return None

    def known_returns(self) -> dict[str, float]:
        """Exact mean returns of further policies by name; `controller`, `random` and `zero` here need no simulation."""
        return {}

    def controller(self, state: State) -> np.ndarray | None:
        """Actions of the reference controller, which knows the equations; None if there is none."""
        return None

    def draw(self, state: State, canvas: Canvas) -> None:
        """Draw a state of one copy."""
        raise NotImplementedError(f"{type(self).__name__} has no picture.")


class Single(EnvFace, Generic[State]):
    """One copy of an environment, as a `gymnasium.Env`.

    Args:
        dynamics: The equations.
        render_mode: None, `"rgb_array"` or `"human"`.
    """

    copies: _ArrayCopies[State]

    def __init__(self, dynamics: Dynamics[State], render_mode: str | None = None) -> None:
        self.dynamics = dynamics
        super().__init__(_ArrayCopies(dynamics, 1, None, restarts=False), render_mode)

    @property
    def state(self) -> State | None:
        """The state; None before the first reset."""
        return self.copies.state


class Batched(VectorFace, Generic[State]):
    """Many copies of an environment, stepped together by NumPy, as a `gymnasium.vector.VectorEnv`.

    Args:
        dynamics: The equations.
        num_envs: Number of copies.
        max_episode_steps: Number of steps after which an episode is truncated; None for no limit.
        autoreset_mode: One of Gymnasium's three modes, or its name. After the end of an episode, `"SameStep"` starts
            the next one in the same step and `"NextStep"` in a separate step; `"Disabled"` waits for
            `reset(options={"reset_mask": ...})`.
        render_mode: None or `"rgb_array"`.
        metadata: Metadata of the environment, by default `Single.metadata`. Its `render_modes` and `autoreset_mode` are
            replaced by those of this batch.

    Raises:
        ValueError: An argument is out of range.
    """

    copies: _ArrayCopies[State]

    def __init__(
        self,
        dynamics: Dynamics[State],
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        mode = checked_mode(num_envs, max_episode_steps, autoreset_mode)
        self.dynamics = dynamics
        copies = _ArrayCopies(dynamics, num_envs, max_episode_steps, restarts=mode is AutoresetMode.SAME_STEP)
        super().__init__(copies, mode, render_mode, metadata or Single.metadata)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each copy's generator, as in Gymnasium's `SyncVectorEnv`."""
        self._seed_all()
        return tuple(self.copies.rngs)


class _ArrayCopies(AnyCopies, Generic[State]):
    """Copies whose steps are NumPy operations."""

    state: State | None = None

    def __init__(self, dynamics: Dynamics[State], n: int, max_episode_steps: int | None, restarts: bool) -> None:
        self.dynamics, self.n, self.max_episode_steps, self.restarts = dynamics, n, max_episode_steps, restarts
        self.observation_space, self.action_space = dynamics.observation_space, dynamics.action_space
        self.image_size = dynamics.image_size
        self.rngs: list[np.random.Generator] = [np.random.default_rng(0)] * n
        self.held, self.terminated, self.truncated = np.zeros((3, n), dtype=np.bool_)
        self._n_steps = np.zeros(n, dtype=np.int64)
        self._last: tuple[np.ndarray, dict[str, np.ndarray]]

    def seed(self, i: int, seed: int) -> None:
        self.rngs[i] = seeding.np_random(seed)[0]

    def begin(self, which: np.ndarray) -> None:
        rows = np.flatnonzero(which)
        fresh = self.dynamics.start([self.rngs[i] for i in rows.tolist()])
        self.state = fresh if self.state is None or len(rows) == self.n else put(self.state, rows, fresh)
        self._n_steps[rows] = 0

    def step(self, actions: np.ndarray) -> int:
        actions = valid_actions(actions, self.action_space, self.n)
        assert self.state is not None, "the faces see to it"
        before, held = self.state, np.flatnonzero(self.held)
        self.state, self.rewards, terminated = self.dynamics.step(before, actions)
        self._n_steps += 1
        truncated = self._n_steps >= (self.max_episode_steps or np.inf)
        if len(held):  # the step has moved them too
            self.state = put(self.state, held, take(before, held))
            self._n_steps[held] -= 1
            self.rewards = np.where(self.held, 0.0, self.rewards)
            terminated, truncated = terminated & ~self.held, truncated & ~self.held
        self.terminated, self.truncated = terminated, truncated
        dones = terminated | truncated
        if self.restarts and dones.any():
            self._last = self.observations(), self.info()
            self.begin(dones)
        return int(np.count_nonzero(dones))

    def observations(self) -> np.ndarray:
        assert self.state is not None
        return self.dynamics.observe(self.state)

    def last_observations(self) -> np.ndarray:
        return self._last[0]

    def info(self) -> dict[str, np.ndarray]:
        assert self.state is not None
        return self.dynamics.info(self.state)

    def last_info(self) -> dict[str, np.ndarray]:
        return self._last[1]

    def draw(self, i: int, canvas: Canvas) -> None:
        self.dynamics.draw(take(self.state, slice(i, i + 1)), canvas)

    def optimum(self) -> float | None:
        return self.dynamics.optimum()

    def known_returns(self) -> dict[str, float]:
        return self.dynamics.known_returns()

    def controller(self) -> np.ndarray | None:
        assert self.state is not None
        return self.dynamics.controller(self.state)


def take(state: Any, rows: slice | np.ndarray) -> Any:
    """Rows of a state: of an array, or of each array of a tuple."""
    return _rebuilt(state, [take(part, rows) for part in state]) if isinstance(state, tuple) else state[rows]


def put(state: Any, rows: np.ndarray, fresh: Any) -> Any:
    """A copy of a state in which rows are replaced."""
    if isinstance(state, tuple):
        return _rebuilt(state, [put(old, rows, new) for old, new in zip(state, fresh, strict=True)])
    changed = state.copy()
    changed[rows] = fresh
    return changed


def _rebuilt(state: Any, parts: list[Any]) -> Any:
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
