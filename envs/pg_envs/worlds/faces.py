"""The faces of an environment's copies: `EnvFace`, one copy, and `VectorFace`, many.

`WorldEnv` and `WorldVector` are those of a world. Copy i of a vector that is reset with seed s is equal, bit for bit,
to a single environment that is reset with seed s + i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from pg_envs.checks import check_choice, check_number, valid_action
from pg_envs.rendering import Canvas, Window
from pg_envs.worlds.copies import AnyCopies, Copies
from pg_envs.worlds.world import METADATA, World


class EnvFace(gym.Env[Any, Any]):
    """One copy of an environment, as a `gymnasium.Env`.

    Args:
        copies: One copy, which does not restart by itself.
        render_mode: None, `"rgb_array"` or `"human"`.

    Attributes:
        has_begun: Whether the first episode has started.
    """

    metadata: dict[str, Any] = METADATA

    def __init__(self, copies: AnyCopies, render_mode: str | None = None) -> None:
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self.copies, self.render_mode = copies, render_mode
        self.observation_space, self.action_space = copies.observation_space, copies.action_space
        self._action_shape = copies.action_space.shape
        self.has_begun = self._seeded = False
        self._window: Window | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, as Gymnasium specifies. There are no options.

        Raises:
            ValueError: `options` is not empty.
        """
        if options:
            raise ValueError(f"`options` must be empty, but is {options!r}.")
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.copies.seed(0, self.np_random_seed)
            self._seeded = True
        self.copies.begin(_ONE)
        self.has_begun = True
        if self.render_mode == "human":
            self.render()
        return self._observation(), _first(self.copies.info())

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step, as Gymnasium specifies.

        Raises:
            ValueError: The action has the wrong shape, is not a number, or is outside a discrete space.
        """
        if not self.has_begun:
            raise gym.error.ResetNeeded("Call reset before step.")
        copies, action = self.copies, np.asarray(action)
        if action.shape != self._action_shape:
            valid_action(action, self.action_space)  # raises
        copies.step(action[None])
        if self.render_mode == "human":
            self.render()
        info = _first(copies.info())
        return self._observation(), copies.rewards.item(0), copies.terminated.item(0), False, info

    def _observation(self) -> Any:
        observation = self.copies.observations()[0]
        return int(observation) if isinstance(self.observation_space, gym.spaces.Discrete) else observation

    def render(self) -> Any:
        """An image of shape `(height, width, 3)`; the mode `"human"` updates the window and returns None."""
        if self.render_mode is None:
            gym.logger.warn("Nothing to render without a render_mode: use gym.make(..., render_mode='rgb_array').")
            return None
        if not self.has_begun:
            raise gym.error.ResetNeeded("Call reset before render.")
        canvas = _picture(self.copies, 0)
        if self.render_mode == "rgb_array":
            return canvas.image()
        self._window = self._window or Window(*self.copies.image_size)
        self._window.show(canvas, self.metadata["render_fps"])
        return None

    def close(self) -> None:
        """Close the window if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None


class VectorFace(VectorEnv[Any, Any, Any]):
    """Many copies of an environment, as a `gymnasium.vector.VectorEnv`.

    Args:
        copies: The copies.
        autoreset_mode: As returned by `checked_mode`.
        render_mode: None or `"rgb_array"`.
        metadata: Metadata of the environment. Its `render_modes` and `autoreset_mode` are replaced by those of this
            vector, and `seeds_each_copy` is added.

    Raises:
        ValueError: `render_mode` is neither.
    """

    offers_copies = True

    def __init__(
        self,
        copies: AnyCopies,
        autoreset_mode: AutoresetMode,
        render_mode: str | None = None,
        metadata: Mapping[str, Any] = METADATA,
    ) -> None:
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        self.metadata = {
            **metadata,
            "render_modes": ["rgb_array"],
            "autoreset_mode": autoreset_mode,
            "seeds_each_copy": True,  # of `reset`, with a mask
        }
        self.copies, self.num_envs, self.render_mode = copies, copies.n, render_mode
        self.autoreset_mode, self.max_episode_steps = autoreset_mode, copies.max_episode_steps
        self.single_observation_space, self.single_action_space = copies.observation_space, copies.action_space
        self.observation_space = batch_space(copies.observation_space, copies.n)
        self.action_space = batch_space(copies.action_space, copies.n)
        self._began = False
        self._seeds: list[int] = []
        self._ended = np.zeros(copies.n, dtype=np.bool_)  # and wait for a reset

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
        which = self._which(mask)
        self._reseed(which, seed)
        self.copies.begin(which)
        self._ended &= ~which
        self._began = True
        return self.copies.observations(), self._info()

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
        if not self._began:
            raise gym.error.ResetNeeded("Call reset before step.")
        copies, actions = self.copies, np.asarray(actions)
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            n_ended = copies.step(actions)
            infos = self._info()
            if n_ended:
                infos |= self._final()
        else:
            self._step_and_reset(actions)
            self._ended = copies.terminated | copies.truncated
            infos = self._info()
        return copies.observations(), copies.rewards.copy(), copies.terminated.copy(), copies.truncated.copy(), infos

    def _step_and_reset(self, actions: np.ndarray) -> None:
        """One step, in which the copies whose episodes have ended start the next one."""
        copies, ended = self.copies, self._ended
        if not ended.any():
            copies.step(actions)
            return
        if self.autoreset_mode is AutoresetMode.DISABLED:
            raise ValueError(
                f"The episodes of copies {np.flatnonzero(ended).tolist()} have ended: in the autoreset mode 'Disabled' "
                "call reset(options={'reset_mask': terminated | truncated}) before the next step."
            )
        copies.begin(ended)
        if actions.shape == self.action_space.shape:  # actions in reset steps are ignored
            actions = actions.copy()
            actions[ended] = self._any_action()
        held = copies.held.copy()
        copies.held |= ended
        try:
            copies.step(actions)
        finally:
            copies.held[:] = held

    def _any_action(self) -> Any:
        space = self.single_action_space
        return np.clip(0, space.low, space.high) if isinstance(space, gym.spaces.Box) else getattr(space, "start", 0)

    @property
    def state(self) -> Any:
        """The copies' states: those of a world are `(num_envs, n_state)` and may be written."""
        return self.copies.state

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
        if not self._began:
            raise gym.error.ResetNeeded("Call reset before render.")
        return tuple(_picture(self.copies, i).image() for i in range(self.num_envs))

    def _seed_all(self) -> None:
        """Give every copy a generator unless it has one."""
        if not self._seeds:
            for i in range(self.num_envs):
                _, seed = seeding.np_random(None)
                self._seeds.append(seed)
                self.copies.seed(i, seed)

    def _reseed(self, which: np.ndarray, seed: int | Sequence[int | None] | None) -> None:
        self._seed_all()
        if seed is None:
            return
        seeds = [int(seed) + i for i in range(self.num_envs)] if isinstance(seed, (int, np.integer)) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"`seed` must be an integer or have {self.num_envs} entries, but has {len(seeds)}.")
        for i in np.flatnonzero(which).tolist():
            one = seeds[i]
            if one is not None:
                check_number("seed", one, at_least=0, integer=True)
                self._seeds[i] = int(one)
                self.copies.seed(i, int(one))

    def _info(self) -> dict[str, Any]:
        infos = self.copies.info()
        return _with_marks(infos, np.ones(self.num_envs, dtype=np.bool_)) if infos else {}

    def _final(self) -> dict[str, Any]:
        """The last observations and infos of episodes that have just ended, in the format of `SyncVectorEnv`."""
        dones = self.copies.terminated | self.copies.truncated
        last = np.empty(self.num_envs, dtype=object)  # of None
        observations = self.copies.last_observations()
        for i in dones.nonzero()[0].tolist():
            last[i] = observations[i]
        final = _with_marks(self.copies.last_info(), dones)
        return {"final_obs": last, "_final_obs": dones, "final_info": final, "_final_info": dones.copy()}

    def _which(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ValueError(
                f"`reset_mask` must be bools of shape ({self.num_envs},), but is {mask.dtype} of shape {mask.shape}."
            )
        if not self._began and not mask.all():
            raise ValueError("`reset_mask` must be all true in the first reset, which has to start every episode.")
        return np.ascontiguousarray(mask)


class WorldEnv(EnvFace):
    """One copy of a world, as a `gymnasium.Env`.

    Args:
        world: The world.
        render_mode: None, `"rgb_array"` or `"human"`.
    """

    copies: Copies

    def __init__(self, world: World, render_mode: str | None = None) -> None:
        self.metadata = dict(world.metadata)
        self.world = world
        super().__init__(Copies(world, 1), render_mode)

    @property
    def state(self) -> np.ndarray:
        """The copy's state, `(n_state,)` float64; it may be written."""
        state: np.ndarray = self.copies.states[0]
        return state

    @state.setter
    def state(self, state: Any) -> None:
        self.copies.states[0] = state


class WorldVector(VectorFace):
    """Many copies of a world, as a `gymnasium.vector.VectorEnv`.

    Args:
        world: The world.
        num_envs: Number of copies.
        max_episode_steps: Number of steps after which an episode is truncated; None for no limit.
        autoreset_mode: One of Gymnasium's three modes, or its name. After the end of an episode, `"SameStep"` starts
            the next one in the same step and `"NextStep"` in a separate step; `"Disabled"` waits for
            `reset(options={"reset_mask": ...})`.
        render_mode: None or `"rgb_array"`.

    Attributes:
        copies: The copies' numbers, which compiled code may step as well.

    Raises:
        ValueError: An argument is out of range.
    """

    copies: Copies

    def __init__(
        self,
        world: World,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        mode = checked_mode(num_envs, max_episode_steps, autoreset_mode)
        self.world = world
        copies = Copies(world, num_envs, max_episode_steps, restarts=mode is AutoresetMode.SAME_STEP)
        super().__init__(copies, mode, render_mode, world.metadata)


def checked_mode(num_envs: int, max_episode_steps: int | None, autoreset_mode: str | AutoresetMode) -> AutoresetMode:
    """Check the arguments of a vector environment.

    Returns:
        The autoreset mode.

    Raises:
        ValueError: An argument is out of range.
    """
    check_number("num_envs", num_envs, at_least=1, integer=True)
    check_number("max_episode_steps", max_episode_steps, at_least=1, integer=True, optional=True)
    if not isinstance(autoreset_mode, AutoresetMode):
        check_choice("autoreset_mode", autoreset_mode, [mode.value for mode in AutoresetMode])
    return AutoresetMode(autoreset_mode)


_ONE = np.ones(1, dtype=np.bool_)


def _first(infos: dict[str, np.ndarray]) -> dict[str, Any]:
    return {key: values[0].item() if values.ndim == 1 else values[0] for key, values in infos.items()}


def _with_marks(infos: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
    """Infos of a vector environment: beside each entry, the rows in which it is one."""
    marked: dict[str, Any] = {}
    for key, values in infos.items():
        marked[key], marked[f"_{key}"] = values.copy(), rows.copy()
    return marked


def _picture(copies: AnyCopies, i: int) -> Canvas:
    canvas = Canvas(*copies.image_size)
    copies.draw(i, canvas)
    return canvas
