"""Environments written once, for many copies: `Dynamics`, and its two faces, `Single` and `Batched`.

An environment here is four pure functions on arrays whose first axis counts copies: `start`, `step`, `observe` and,
where it has something to add, `info`. `Single` is a `gymnasium.Env` over one copy; `Batched` a
`gymnasium.vector.VectorEnv` over many. Both call the same functions, and copy i of a batch that was reset with seed s
draws from the generator that a single environment gets from seed s + i: its trajectory is that environment's, bit for
bit.
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

    The state is a NamedTuple of arrays whose first axis counts copies (or of such tuples). No function may change a
    state in place, or let one copy's numbers depend on another's or on how many there are: sums, for example, must add
    in an order that the number of copies does not change. A step after an episode's end may do anything but raise.

    Attributes:
        observation_space: Of one copy.
        action_space: Of one copy. Actions outside a Box are clipped before `step`, others refused.
        image_size: Width and height of a picture, in pixels.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    image_size: tuple[int, int] = (400, 400)

    @abstractmethod
    def start(self, rngs: Sequence[np.random.Generator]) -> State:
        """First states of `len(rngs)` episodes.

        Args:
            rngs: The i-th episode draws from the i-th generator alone, and draws here all that is random in it later.
        """

    @abstractmethod
    def step(self, state: State, actions: np.ndarray) -> Step[State]:
        """One step of every copy.

        Args:
            state: The copies' states.
            actions: Inside the action space, of shape `(copies, ...)`.

        Returns:
            The next states, the rewards (float64) and whether the episode has terminated, of shape `(copies,)`.
        """

    @abstractmethod
    def observe(self, state: State) -> np.ndarray:
        """What the agent sees, a new array of shape `(copies, ...)` and the space's dtype."""

    def info(self, state: State) -> dict[str, np.ndarray]:
        """What is reported beside the observation: arrays with a row per copy."""
        return {}

    def optimum(self) -> float | None:
        """Mean return of an episode, without discount, under the best policy; None where nobody knows."""
        return None

    def known_returns(self) -> dict[str, float]:
        """Exact mean returns of further policies, by name; `random` and `zero` here spare a simulation."""
        return {}

    def controller(self, state: State) -> np.ndarray | None:
        """Actions of the reference controller, which knows the equations; None where there is none."""
        return None

    def draw(self, state: State, canvas: Canvas) -> None:
        """Draw a state of one copy."""
        raise NotImplementedError(f"{type(self).__name__} has no picture.")


class Single(gym.Env[Any, Any], Generic[State]):
    """One copy of an environment, as a `gymnasium.Env`.

    Args:
        dynamics: Its equations.
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
        """Start an episode, as Gymnasium says. There are no options.

        Raises:
            ValueError: There is one.
        """
        if options:
            raise ValueError(f"`options` must be empty, but is {options!r}.")
        super().reset(seed=seed)
        self.state = self.dynamics.start([self.np_random])
        if self.render_mode == "human":
            self.render()
        return self.dynamics.observe(self.state)[0], _first(self.dynamics.info(self.state))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act once, as Gymnasium says.

        Raises:
            ValueError: The action has the wrong shape or is not in a discrete space.
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
        """An image of shape `(height, width, 3)`; in the mode `"human"`, None, and the window is brought up to date."""
        if self.render_mode is None:
            gym.logger.warn("There is nothing to render without a render_mode: gym.make(..., render_mode='rgb_array').")
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
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None


class Batched(VectorEnv[Any, Any, Any], Generic[State]):
    """Many copies of an environment in one NumPy operation, as a `gymnasium.vector.VectorEnv`.

    Args:
        dynamics: Their equations.
        num_envs: Number of copies.
        max_episode_steps: Steps after which an episode is truncated; None for never.
        autoreset_mode: What follows an episode's end, one of Gymnasium's three modes or its name: `"SameStep"` starts
            the next episode in the same step, `"NextStep"` in a step of its own, `"Disabled"` when `reset` is called
            with `options={"reset_mask": ...}`.
        render_mode: None or `"rgb_array"`.

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
        """Start episodes, in all copies or in those of a mask.

        Args:
            seed: Copy i takes seed + i; a sequence gives each its own. None goes on with the generators that there are.
            options: `{"reset_mask": mask}` starts episodes only where the mask, bools of shape `(num_envs,)`, says so.

        Returns:
            All copies' observations, and infos.

        Raises:
            ValueError: A seed or mask of the wrong length, an unknown option, or a mask before the first reset.
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
        """Act once in every copy.

        In the mode `"SameStep"` the observations of copies whose episode has ended are the first of the next, and the
        infos have `final_obs` and `final_info`; in `"NextStep"` their next step ignores the action, resets and has the
        reward 0.

        Returns:
            Observations `(num_envs, ...)`, rewards (float64), terminated and truncated (bool) `(num_envs,)`, and infos.

        Raises:
            ValueError: The actions have the wrong shape or are not in a discrete space, or, in the mode `"Disabled"`,
                an episode has ended and was not reset.
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
            # These copies begin; they are stepped with the others from there, by any action, and then put back.
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
            gym.logger.warn("There is nothing to render without render_mode='rgb_array'.")
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
        """Give every copy a generator, if there are none yet."""
        if not self._rngs:
            pairs = [seeding.np_random(None) for _ in range(self.num_envs)]
            self._rngs, self._seeds = [rng for rng, _ in pairs], [seed for _, seed in pairs]

    def _reseed(self, rows: np.ndarray, seed: int | Sequence[int | None] | None) -> None:
        self._seed_all()
        if seed is None:
            return
        seeds = [int(seed) + i for i in range(self.num_envs)] if isinstance(seed, (int, np.integer)) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"`seed` must be one number or {self.num_envs}, but has {len(seeds)}.")
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
        """The last observations and infos of episodes that have just ended, in the form of `SyncVectorEnv`'s."""
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
    """One action as the only row of `valid_actions`.

    Raises:
        ValueError: As `valid_actions`.
    """
    action = np.asarray(action)
    if action.shape != space.shape:
        raise ValueError(f"`action` must have shape {space.shape}, but has {action.shape}.")
    return valid_actions(action[None], space, 1)


def valid_actions(actions: np.ndarray, space: spaces.Space[Any], n: int) -> np.ndarray:
    """Actions clipped to a Box; any others are refused outside their space.

    Raises:
        ValueError: They have another shape, are no numbers, or are not in a discrete space.
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
