"""Environments written once for any number of copies: `Dynamics` and its two faces, `Single` and `Batched`.

An environment is four pure functions on arrays whose first axis counts copies: `start`, `step`, `observe` and
optionally `info`. `Single` is a `gymnasium.Env` over one copy, `Batched` a `gymnasium.vector.VectorEnv` over many. Both
call the same functions. Copy i of a batch that is reset with seed s has the same random generator as a single
environment that is reset with seed s + i, so the two trajectories are equal bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from pg_envs.checks import check_choice, check_number
from pg_envs.rendering import Canvas, Window

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


class Single(gym.Env[Any, Any], Generic[State]):
    """One copy of an environment, as a `gymnasium.Env`.

    Args:
        dynamics: The equations.
        render_mode: None, `"rgb_array"` or `"human"`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 20}

    def __init__(self, dynamics: Dynamics[State], render_mode: str | None = None) -> None:
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self.dynamics = dynamics
        self.render_mode = render_mode
        self.observation_space = dynamics.observation_space
        self.action_space = dynamics.action_space
        self.state: State | None = None
        self._window: Window | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, as Gymnasium specifies. There are no options.

        Raises:
            ValueError: `options` is not empty.
        """
        if options:
            raise ValueError(f"`options` must be empty, but is {options!r}.")
        super().reset(seed=seed)
        self.state = self.dynamics.start([self.np_random])
        if self.render_mode == "human":
            self.render()
        return self.dynamics.observe(self.state)[0], _first(self.dynamics.info(self.state))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step, as Gymnasium specifies.

        Raises:
            ValueError: The action has the wrong shape, is not a number, or is outside a discrete space.
        """
        if self.state is None:
            raise gym.error.ResetNeeded("Call reset before step.")
        actions = valid_action(action, self.action_space)
        self.state, rewards, terminated = self.dynamics.step(self.state, actions)
        if self.render_mode == "human":
            self.render()
        info = _first(self.dynamics.info(self.state))
        return self.dynamics.observe(self.state)[0], float(rewards[0]), bool(terminated[0]), False, info

    def render(self) -> Any:
        """An image of shape `(height, width, 3)`; the mode `"human"` updates the window and returns None."""
        if self.render_mode is None:
            gym.logger.warn("Nothing to render without a render_mode: use gym.make(..., render_mode='rgb_array').")
            return None
        if self.state is None:
            raise gym.error.ResetNeeded("Call reset before render.")
        canvas = Canvas(*self.dynamics.image_size)
        self.dynamics.draw(self.state, canvas)
        if self.render_mode == "rgb_array":
            return canvas.image()
        self._window = self._window or Window(*self.dynamics.image_size)
        self._window.show(canvas, self.metadata["render_fps"])
        return None

    def close(self) -> None:
        """Close the window if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None


class Batched(VectorEnv[Any, Any, Any], Generic[State]):
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

    def __init__(
        self,
        dynamics: Dynamics[State],
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        check_number("num_envs", num_envs, at_least=1, integer=True)
        check_number("max_episode_steps", max_episode_steps, at_least=1, integer=True, optional=True)
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        if not isinstance(autoreset_mode, AutoresetMode):
            check_choice("autoreset_mode", autoreset_mode, [mode.value for mode in AutoresetMode])
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {
            **(metadata or Single.metadata),
            "render_modes": ["rgb_array"],
            "autoreset_mode": self.autoreset_mode,
        }
        self.dynamics = dynamics
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.single_observation_space = dynamics.observation_space
        self.single_action_space = dynamics.action_space
        self.observation_space = batch_space(dynamics.observation_space, num_envs)
        self.action_space = batch_space(dynamics.action_space, num_envs)
        space = dynamics.action_space
        self._any_action = (
            np.clip(0, space.low, space.high) if isinstance(space, spaces.Box) else getattr(space, "start", 0)
        )
        self.state: State | None = None
        self._rngs: list[np.random.Generator] = []
        self._seeds: list[int] = []
        self._n_steps = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes in all copies, or in those of a mask.

        Args:
            seed: An integer s, from which copy i gets the seed s + i, or a sequence of one seed (or None) per copy.
                None keeps the generators.
            options: `{"reset_mask": mask}`, with bools of shape `(num_envs,)`, starts episodes where the mask is true.

        Returns:
            The observations of all copies, and infos.

        Raises:
            ValueError: A seed or mask has the wrong length, an option is unknown, or the mask of the first reset leaves
                copies out.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        if options:
            raise ValueError(f"`options` may have the key 'reset_mask' only, but has {sorted(options)}.")
        rows = self._rows(mask)
        self._reseed(rows, seed)
        self._start(rows)
        return self._observe(), self._info()

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one step in every copy.

        In the mode `"SameStep"`, a copy whose episode ends returns the first observation of its next episode; the infos
        have the last observation and info as `final_obs` and `final_info`. In `"NextStep"`, the next step of such a
        copy ignores the action, starts an episode and has the reward 0.

        Returns:
            Observations `(num_envs, ...)`, rewards (float64), terminated and truncated (bool) `(num_envs,)`, and infos.

        Raises:
            ValueError: The actions have the wrong shape, are not numbers, or are outside a discrete space; or, in the
                mode `"Disabled"`, an episode has ended and has not been reset.
        """
        if self.state is None:
            raise gym.error.ResetNeeded("Call reset before step.")
        ended = self._ended
        any_ended = ended.any()
        if any_ended and self.autoreset_mode is AutoresetMode.DISABLED:
            raise ValueError(
                f"The episodes of copies {np.flatnonzero(ended).tolist()} have ended: in the autoreset mode 'Disabled' "
                "call reset(options={'reset_mask': terminated | truncated}) before the next step."
            )
        actions = np.asarray(actions)
        if any_ended:
            # These copies start an episode. The step below moves them too, by an arbitrary action; their first states
            # are restored afterwards.
            rows = np.flatnonzero(ended)
            self._start(rows)
            first = _take(self.state, rows)
            if actions.shape == self.action_space.shape:
                actions = actions.copy()
                actions[rows] = self._any_action
        actions = valid_actions(actions, self.single_action_space, self.num_envs)
        self.state, rewards, terminated = self.dynamics.step(self.state, actions)
        self._n_steps += 1
        if any_ended:
            self.state = _put(self.state, rows, first)
            self._n_steps[rows] = 0
            rewards, terminated = np.where(ended, 0.0, rewards), terminated & ~ended
        if self.max_episode_steps is None:
            truncated = np.zeros(self.num_envs, dtype=np.bool_)
        else:
            truncated = self._n_steps >= self.max_episode_steps
        dones = terminated | truncated
        infos: dict[str, Any] = {}
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._ended = dones
        elif dones.any():
            infos = self._final(dones)
            self._start(np.flatnonzero(dones))
        return self._observe(), rewards, terminated, truncated, {**self._info(), **infos}

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each copy's generator, as in Gymnasium's `SyncVectorEnv`."""
        self._seed_all()
        return tuple(self._rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each copy's generator."""
        self._seed_all()
        return tuple(self._seeds)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One image of shape `(height, width, 3)` per copy."""
        if self.render_mode is None:
            gym.logger.warn("Nothing to render without render_mode='rgb_array'.")
            return None
        if self.state is None:
            raise gym.error.ResetNeeded("Call reset before render.")
        images = []
        for i in range(self.num_envs):
            canvas = Canvas(*self.dynamics.image_size)
            self.dynamics.draw(_take(self.state, slice(i, i + 1)), canvas)
            images.append(canvas.image())
        return tuple(images)

    def _seed_all(self) -> None:
        """Give every copy a generator unless it has one."""
        if not self._rngs:
            pairs = [seeding.np_random(None) for _ in range(self.num_envs)]
            self._rngs, self._seeds = [rng for rng, _ in pairs], [seed for _, seed in pairs]

    def _reseed(self, rows: np.ndarray, seed: int | Sequence[int | None] | None) -> None:
        self._seed_all()
        if seed is None:
            return
        seeds = [int(seed) + i for i in range(self.num_envs)] if isinstance(seed, (int, np.integer)) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"`seed` must be an integer or have {self.num_envs} entries, but has {len(seeds)}.")
        for i in rows.tolist():
            one = seeds[i]
            if one is not None:
                self._rngs[i], self._seeds[i] = seeding.np_random(int(one))

    def _start(self, rows: np.ndarray) -> None:
        fresh = self.dynamics.start([self._rngs[i] for i in rows.tolist()])
        if self.state is None or len(rows) == self.num_envs:
            self.state = fresh
        else:
            self.state = _put(self.state, rows, fresh)
        self._n_steps[rows] = 0
        self._ended = self._ended.copy()
        self._ended[rows] = False

    def _observe(self) -> np.ndarray:
        assert self.state is not None
        return self.dynamics.observe(self.state)

    def _info(self) -> dict[str, Any]:
        assert self.state is not None
        infos: dict[str, Any] = {}
        for key, values in self.dynamics.info(self.state).items():
            infos[key], infos[f"_{key}"] = values.copy(), np.ones(self.num_envs, dtype=np.bool_)
        return infos

    def _final(self, dones: np.ndarray) -> dict[str, Any]:
        """The last observations and infos of episodes that have just ended, in the format of `SyncVectorEnv`."""
        last = np.full(self.num_envs, None, dtype=object)
        observations = self._observe()
        for i in np.flatnonzero(dones).tolist():
            last[i] = observations[i]
        final = {key: dones.copy() if key.startswith("_") else values for key, values in self._info().items()}
        return {"final_obs": last, "_final_obs": dones.copy(), "final_info": final, "_final_info": dones.copy()}

    def _rows(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.arange(self.num_envs)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ValueError(
                f"`reset_mask` must be bools of shape ({self.num_envs},), but is {mask.dtype} of shape {mask.shape}."
            )
        if self.state is None and not mask.all():
            raise ValueError("`reset_mask` must be all true in the first reset, which has to start every episode.")
        return np.flatnonzero(mask)


def valid_action(action: Any, space: spaces.Space[Any]) -> np.ndarray:
    """One action, as the only row of `valid_actions`.

    Raises:
        ValueError: As `valid_actions`.
    """
    action = np.asarray(action)
    if action.shape != space.shape:
        raise ValueError(f"`action` must have shape {space.shape}, but has {action.shape}.")
    return valid_actions(action[None], space, 1)


def valid_actions(actions: np.ndarray, space: spaces.Space[Any], n: int) -> np.ndarray:
    """Actions clipped to a Box, or checked against a discrete space.

    Raises:
        ValueError: The actions have the wrong shape, are not numbers, or are outside a discrete space.
    """
    expected = (n, *(space.shape or ()))
    if actions.shape != expected:
        raise ValueError(f"`action` must have shape {expected}, but has {actions.shape}.")
    if isinstance(space, spaces.Box):
        if actions.dtype.kind not in "fiu" or np.isnan(actions).any():
            raise ValueError(f"`action` must be numbers in {space}, but is {actions!r}.")
        clipped: np.ndarray = np.clip(actions, space.low, space.high).astype(np.float64)
        return clipped
    if actions.dtype.kind not in "iu":
        raise ValueError(f"`action` must be in {space}, but is {actions!r}.")
    low, size = (space.start, space.n) if isinstance(space, spaces.Discrete) else (0, space.nvec)  # type: ignore[attr-defined]
    wrong = (actions < low) | (actions >= low + size)
    if wrong.any():
        odd = actions[wrong.reshape(n, -1).any(axis=1)][0]
        raise ValueError(f"`action` must be in {space}, but is {odd!r}.")
    return actions


def _first(infos: dict[str, np.ndarray]) -> dict[str, Any]:
    return {key: values[0].item() if values.ndim == 1 else values[0] for key, values in infos.items()}


def _take(state: Any, rows: slice | np.ndarray) -> Any:
    return _rebuilt(state, [_take(part, rows) for part in state]) if isinstance(state, tuple) else state[rows]


def _put(state: Any, rows: np.ndarray, fresh: Any) -> Any:
    if isinstance(state, tuple):
        return _rebuilt(state, [_put(old, rows, new) for old, new in zip(state, fresh, strict=True)])
    changed = state.copy()
    changed[rows] = fresh
    return changed


def _rebuilt(state: Any, parts: list[Any]) -> Any:
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
