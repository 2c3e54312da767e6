"""The faces of a world: `WorldEnv`, one copy, and `WorldVector`, many.

Copy i of a vector that is reset with seed s is equal, bit for bit, to a single environment that is reset with seed s + i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from pg_envs.batched import valid_action, valid_actions
from pg_envs.checks import check_choice, check_number
from pg_envs.rendering import Canvas, Window
from pg_envs.worlds.copies import Copies
from pg_envs.worlds.world import World


class WorldEnv(gym.Env[Any, Any]):
    """One copy of a world, as a `gymnasium.Env`.

    Args:
        world: The world.
        render_mode: None, `"rgb_array"` or `"human"`.
    """

    def __init__(self, world: World, render_mode: str | None = None) -> None:
        self.metadata = dict(world.metadata)
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self.world, self.render_mode = world, render_mode
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self._copies = Copies(world, 1)
        self._began = False
        self._numbers = _Numbers(world, 1)
        self._window: Window | None = None

    @property
    def state(self) -> np.ndarray:
        """The copy's state, `(n_state,)` float64; it may be written."""
        state: np.ndarray = self._copies.states[0]
        return state

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, as Gymnasium specifies. There are no options.

        Raises:
            ValueError: `options` is not empty.
        """
        if options:
            raise ValueError(f"`options` must be empty, but is {options!r}.")
        super().reset(seed=seed)
        if seed is not None or not self._copies.randoms.any():
            self._copies.seed(0, self.np_random_seed)
        self._copies.begin(_ONE, self._numbers.observations)
        self._began = True
        if self.render_mode == "human":
            self.render()
        return self._answer(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step, as Gymnasium specifies.

        Raises:
            ValueError: The action has the wrong shape, is not a number, or is outside a discrete space.
        """
        if not self._began:
            raise gym.error.ResetNeeded("Call reset before step.")
        numbers = self._numbers
        numbers.take(valid_action(action, self.action_space))
        self._copies.advance(*numbers.arrays, restarts=False)
        if self.render_mode == "human":
            self.render()
        return self._answer(), float(numbers.rewards[0]), bool(numbers.terminated[0]), False, self._info()

    def _answer(self) -> Any:
        answer = self._numbers.observed(self._numbers.observations)[0]
        return int(answer) if isinstance(self.observation_space, spaces.Discrete) else answer

    def _info(self) -> dict[str, Any]:
        if self.world.info is None:
            return {}
        infos = self.world.info(self._copies.states)
        return {key: values[0].item() if values.ndim == 1 else values[0] for key, values in infos.items()}

    def render(self) -> Any:
        """An image of shape `(height, width, 3)`; the mode `"human"` updates the window and returns None."""
        if self.render_mode is None:
            gym.logger.warn("Nothing to render without a render_mode: use gym.make(..., render_mode='rgb_array').")
            return None
        if not self._began:
            raise gym.error.ResetNeeded("Call reset before render.")
        canvas = _picture(self.world, self.state)
        if self.render_mode == "rgb_array":
            return canvas.image()
        self._window = self._window or Window(*self.world.image_size)
        self._window.show(canvas, self.metadata["render_fps"])
        return None

    def close(self) -> None:
        """Close the window if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None


class WorldVector(VectorEnv[Any, Any, Any]):
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

    offers_copies = True

    def __init__(
        self,
        world: World,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        check_number("num_envs", num_envs, at_least=1, integer=True)
        check_number("max_episode_steps", max_episode_steps, at_least=1, integer=True, optional=True)
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        if not isinstance(autoreset_mode, AutoresetMode):
            check_choice("autoreset_mode", autoreset_mode, [mode.value for mode in AutoresetMode])
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**world.metadata, "render_modes": ["rgb_array"], "autoreset_mode": self.autoreset_mode}
        self.world, self.num_envs, self.render_mode = world, num_envs, render_mode
        self.max_episode_steps = max_episode_steps
        self.single_observation_space, self.single_action_space = world.observation_space, world.action_space
        self.observation_space = batch_space(world.observation_space, num_envs)
        self.action_space = batch_space(world.action_space, num_envs)
        self.copies = Copies(world, num_envs, max_episode_steps)
        self._numbers = _Numbers(world, num_envs)
        self._began = False
        self._seeds: list[int] = []
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
        which = self._which(mask)
        self._reseed(which, seed)
        self.copies.begin(which, self._numbers.observations)
        self._ended[which] = False
        self._began = True
        return self._numbers.observed(self._numbers.observations), self._info()

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
        ended, numbers, copies = self._ended, self._numbers, self.copies
        actions = np.asarray(actions)
        resets = None
        if self.autoreset_mode is not AutoresetMode.SAME_STEP and ended.any():
            if self.autoreset_mode is AutoresetMode.DISABLED:
                raise ValueError(
                    f"The episodes of copies {np.flatnonzero(ended).tolist()} have ended: in the autoreset mode "
                    "'Disabled' call reset(options={'reset_mask': terminated | truncated}) before the next step."
                )
            resets = ended.copy()
            if actions.shape == self.action_space.shape:  # those of the resets are ignored, whatever they are
                actions = actions.copy()
                actions[resets] = actions[~resets][:1] if not resets.all() else np.zeros_like(actions[:1])
        numbers.take(valid_actions(actions, self.single_action_space, self.num_envs))
        if resets is None:
            copies.advance(*numbers.arrays, restarts=self.autoreset_mode is AutoresetMode.SAME_STEP)
        else:
            before = copies.held.copy()
            copies.held |= resets
            copies.advance(*numbers.arrays, restarts=False)
            copies.held[:] = before
            copies.begin(resets, numbers.observations)
        rewards, terminated, truncated = numbers.rewards.copy(), numbers.terminated.copy(), numbers.truncated.copy()
        dones = terminated | truncated
        infos: dict[str, Any] = {}
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._ended = dones
        elif np.count_nonzero(dones):
            infos = self._final(dones)
        observations = numbers.observed(numbers.observations)
        if self.world.info is not None:
            infos = {**self._info(), **infos}
        return observations, rewards, terminated, truncated, infos

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
        return tuple(_picture(self.world, state).image() for state in self.copies.states)

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
        infos: dict[str, Any] = {}
        if self.world.info is not None:
            for key, values in self.world.info(self.copies.states).items():
                infos[key], infos[f"_{key}"] = values.copy(), np.ones(self.num_envs, dtype=np.bool_)
        return infos

    def _final(self, dones: np.ndarray) -> dict[str, Any]:
        """The last observations of episodes that have just ended, in the format of `SyncVectorEnv`."""
        last = np.full(self.num_envs, None, dtype=object)
        observations = self._numbers.observed(self._numbers.last_observations)
        for i in np.flatnonzero(dones).tolist():
            last[i] = observations[i]
        return {"final_obs": last, "_final_obs": dones.copy(), "final_info": {}, "_final_info": dones.copy()}

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


class _Numbers:
    """The arrays that a step of `n` copies reads and writes."""

    def __init__(self, world: World, n: int) -> None:
        self.world = world
        self.actions = np.zeros((n, world.n_action), dtype=np.int64 if world.discrete_actions else np.float32)
        self.rewards = np.zeros(n)
        self.terminated, self.truncated = np.zeros((2, n), dtype=np.bool_)
        self.observations, self.last_observations = np.zeros((2, n, world.n_observation), dtype=np.float32)
        self.arrays = (
            *(self.actions, self.rewards, self.terminated, self.truncated),
            *(self.observations, self.last_observations),
        )
        space = world.observation_space
        self._shape, self._dtype = (n, *(space.shape or ())), space.dtype

    def take(self, actions: np.ndarray) -> None:
        self.actions[:] = actions.reshape(self.actions.shape)

    def observed(self, observations: np.ndarray) -> np.ndarray:
        """A copy of written observations, as the space has them."""
        return observations.reshape(self._shape).astype(self._dtype)


_ONE = np.ones(1, dtype=np.bool_)


def _picture(world: World, state: np.ndarray) -> Canvas:
    if world.draw is None:
        raise NotImplementedError("This world has no picture: its World has no `draw`.")
    canvas = Canvas(*world.image_size)
    world.draw(state, canvas)
    return canvas
