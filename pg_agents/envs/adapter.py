"""Gymnasium's vector environments as SB3 `VecEnv`s.

A vector environment that steps all its copies in one NumPy (or compiled) operation is many times faster than a loop
over single environments. The obstacle between a Gymnasium `VectorEnv` and SB3 is the end of an episode:

| `metadata["autoreset_mode"]` | the next episode starts            | the adapter                                   |
|------------------------------|------------------------------------|-----------------------------------------------|
| `SAME_STEP`                  | in the step that ends the last one | reads `final_obs` and `final_info`            |
| `DISABLED`                   | on request                         | resets finished environments in the same step |
| `NEXT_STEP`                  | in the step after it               | marks the row of that step as a reset         |

With the first two, users see exactly what SB3's `DummyVecEnv` over `Monitor`ed environments shows. With the third, the
mode of Gymnasium's own vector environments, an environment whose episode has ended spends the following step on its
reset: `reset_rows` marks such rows. This package's training loop leaves them out. **SB3's own algorithms train on
them**, as on a step with reward 0 from the last observation of one episode to the first of the next; `VecMonitor` and
`VecNormalize` count them, and `VecFrameStack` keeps the last observation in the next episode's stack. For these, choose
`SAME_STEP` or `DISABLED` if the environment offers a choice:
`gym.vector.SyncVectorEnv(env_fns, autoreset_mode="SameStep")`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import check_for_nested_spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from pg_agents.checks import suggestion
from pg_agents.contract import Copies
from pg_agents.envs.envpool import with_interface
from pg_agents.envs.infos import Infos, has_rows, per_environment
from pg_agents.observations import check_as_given


class VectorEnvAdapter(VecEnv):
    """A Gymnasium `VectorEnv` as an SB3 `VecEnv`, with the episode statistics of a `Monitor`.

    At the end of an episode `dones[i]` is true and `infos[i]` has `terminal_observation`, `TimeLimit.truncated` and
    `episode` (`r`, `l` and `t`: return, length, and seconds since the adapter was made). A `Monitor` is not needed:
    `env_is_wrapped(Monitor)` returns True, and `episode` replaces statistics that the environment itself reports.

    Observations, rewards and infos are fresh copies, which later steps do not overwrite.

    Args:
        env: The vector environment; its `metadata["autoreset_mode"]` says when the next episode starts. EnvPool's
            objects are taken too, and come as an `EnvPoolVector`.

    Attributes:
        env: The vector environment.
        autoreset_mode: Its autoreset mode.
        episode_returns: `(num_envs,)` float64, of the running episodes.
        episode_lengths: `(num_envs,)` int64, of the running episodes.
        looks: Whether observations are checked against their space before they are copied.
        reset_rows: Bools of shape `(num_envs,)`: True where the last step was a reset, which ignored the action, and
            not a transition. Such a row has reward 0, the first observation of the new episode, and
            `infos[i]["reset_row"]` is True. Always False outside the mode `NEXT_STEP`.

    Raises:
        TypeError: `env` is not a vector environment, or is EnvPool's in a wrapper.
        ValueError: The autoreset mode is missing or unknown, or actions are not arrays.
        NotImplementedError: The observation space is nested, which SB3 does not support.
    """

    reset_rows: np.ndarray
    looks = False
    _rows_to_reset: np.ndarray

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(
                f"`env` must be a gymnasium.vector.VectorEnv, but is {env!r}. Single environments need no adapter: "
                "SB3's make_vec_env turns them into a VecEnv."
            )
        self.env = env = with_interface(env)
        self.autoreset_mode = _autoreset_mode(env)
        if not isinstance(env.single_action_space, _ARRAYS):
            allowed = ", ".join(space.__name__ for space in _ARRAYS)
            raise ValueError(f"The action space must be one of {allowed}, but is {env.single_action_space}.")
        check_for_nested_spaces(env.single_observation_space)
        # SyncVectorEnv holds single environments, and AsyncVectorEnv can `call` those in its worker processes. A native
        # vector environment has neither.
        singles = getattr(env.unwrapped, "envs", None)
        self._singles: Sequence[gym.Env[Any, Any]] | None = singles if _are_environments(singles) else None
        self._workers: Any = env.unwrapped if self._singles is None and hasattr(env.unwrapped, "call") else None
        self._is_native = self._singles is None and self._workers is None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata

        self._closed = False
        self._t_start = time.time()
        self.episode_lengths, self.episode_returns = np.zeros(self.num_envs, dtype=np.int64), np.zeros(self.num_envs)
        self._no_rows = np.zeros(self.num_envs, dtype=np.bool_)
        self._start_all()

    # Acting

    def reset(self) -> VecEnvObs:
        """Start a new episode in every environment, with the seed and options set since the last reset.

        Returns:
            The first observations, of shape `(num_envs, ...)`; their infos are in `reset_infos`.
        """
        # A vector environment gives seed + i to environment i, as SB3 does, or one generator to all of them.
        seed = self._seeds[0]
        observations, infos = self.env.reset(seed=None if seed is None else int(seed), options=self._options[0] or None)
        self._reset_seeds()
        self._reset_options()
        self._start_all()
        self.reset_infos = per_environment(infos, self.num_envs)
        if self.looks:
            check_as_given(None, observations, self.env.observation_space)
        first: VecEnvObs = _copied(observations, self.observation_space)
        return first

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions that `step_wait` carries out.

        Args:
            actions: One action per environment.

        Raises:
            ValueError: The shape is not that of the vector environment's action space.
        """
        space = self.env.action_space
        # Vector environments may require their own dtype, and would broadcast a wrong shape.
        self._actions = np.asarray(actions, dtype=space.dtype)
        if self._actions.shape != space.shape:
            raise ValueError(f"`actions` must have shape {space.shape}, but has {self._actions.shape}.")

    def step_wait(self) -> VecEnvStepReturn:
        """Carry out the actions.

        Returns:
            Observations of shape `(num_envs, ...)`, rewards (float32) and dones (bool) of shape `(num_envs,)`, and a
            list of infos. The observation after the end of an episode is the first of the next one; in the mode
            `NEXT_STEP` it is the last of the old one.

        Raises:
            ValueError: The mode is `SAME_STEP`, but the infos lack the last observation of an episode.
        """
        # Each statement must cost only a fraction of a microsecond: a native environment's own step takes about 30.
        given_observations, given_rewards, terminated, truncated, given_infos = self.env.step(self._actions)
        if self.looks:
            check_as_given(None, given_observations, self.env.observation_space)
        observations = _copied(given_observations, self.observation_space)
        rewards = np.array(given_rewards, dtype=np.float32)
        dones = np.logical_or(terminated, truncated)
        if given_infos:
            infos = per_environment(given_infos, self.num_envs)
            for info in infos:
                info["TimeLimit.truncated"] = False
        else:
            infos = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]

        self.episode_lengths += 1 if self._held is None else ~self._held
        self.episode_returns += np.asarray(given_rewards)  # not yet rounded to float32, as in Monitor
        self.reset_rows = self._rows_to_reset
        if self.reset_rows is not self._no_rows:
            self._mark_reset_rows(rewards, infos)
        if np.count_nonzero(dones):  # takes a third of the time of any()
            self._end_episodes(observations, terminated, truncated, dones, infos)
        return observations, rewards, dones, infos

    def episode(self, episode_return: float, length: int) -> dict[str, Any]:
        """The entry `episode` of the info of an episode that ends now."""
        seconds = round(time.time() - self._t_start, 6)
        return {"r": round(float(episode_return), 6), "l": int(length), "t": seconds}

    @property
    def copies(self) -> Copies | None:
        """The environment's copies that compiled code can step, if it has such copies and nothing wraps it."""
        bare = self.autoreset_mode is AutoresetMode.SAME_STEP and self.env is self.env.unwrapped
        return getattr(self.env, "copies", None) if bare and _steps_copies(self.env) else None

    def restart(self, seeds: np.ndarray, which: np.ndarray) -> VecEnvObs:
        """Start episodes from given seeds in some environments, beside the automatic resets.

        In the mode `NEXT_STEP`, no row is spent on the reset of such an environment.

        Args:
            seeds: `(num_envs,)`.
            which: Bools of shape `(num_envs,)`; the seeds of others are not used.

        Returns:
            The first observations of these environments, in their order.

        Raises:
            ValueError: It is not known that the vector environment resets copies of a mask, each from its seed.
        """
        if self._is_native and not self.metadata.get("seeds_each_copy"):
            raise ValueError(
                f"{self.env} must have `metadata['seeds_each_copy']` = True, which says that "
                "`reset(seed=[...], options={'reset_mask': mask})` starts an episode in the copies of the mask, each "
                "from its own seed, and leaves the others as they are. gymnasium.vector.SyncVectorEnv does so"
            )
        given = [int(seed) if chosen else None for seed, chosen in zip(seeds, which, strict=True)]
        observations, infos = self.env.reset(seed=given, options={"reset_mask": which.copy()})  # type: ignore[arg-type]
        self.episode_lengths[which], self.episode_returns[which] = 0, 0
        self._rows_to_reset = self._rows_to_reset & ~which
        if not self._rows_to_reset.any():
            self._rows_to_reset = self._no_rows
        reset_infos = per_environment(infos, self.num_envs)
        for i in np.flatnonzero(which).tolist():
            self.reset_infos[i] = reset_infos[i]
        first = _copied(observations, self.observation_space)
        return {key: rows[which] for key, rows in first.items()} if isinstance(first, dict) else first[which]

    def plan(self, seeds: np.ndarray | None) -> None:
        """Let the environments' next episodes start from given seeds. Only for environments with `copies`.

        Args:
            seeds: `(num_envs, k)`, of the next k episodes of each, whatever starts them; None to forget them.
        """
        copies = self.copies
        assert copies is not None, "the caller has asked"
        copies.plan(seeds)

    def hold(self, held: np.ndarray | None) -> None:
        """Let environments wait: their steps are none, with reward 0. Only for environments with `copies`.

        Args:
            held: Bools of shape `(num_envs,)`; None to let all go on, as a reset does.
        """
        copies = self.copies
        self._held = held
        if copies is not None:
            copies.held[:] = False if held is None else held

    def _start_all(self) -> None:
        self.episode_lengths[:], self.episode_returns[:] = 0, 0
        self.hold(None)
        self.reset_rows = self._rows_to_reset = self._no_rows

    def _mark_reset_rows(self, rewards: np.ndarray, infos: Infos) -> None:
        self._rows_to_reset = self._no_rows
        rewards[self.reset_rows] = 0
        self.episode_lengths[self.reset_rows], self.episode_returns[self.reset_rows] = 0, 0
        for i in self.reset_rows.nonzero()[0].tolist():
            self._move_reset_info(infos, i, {"reset_row": True})

    def _end_episodes(
        self, observations: VecEnvObs, terminated: np.ndarray, truncated: np.ndarray, dones: np.ndarray, infos: Infos
    ) -> None:
        """Complete the infos of finished episodes, and start the next ones in the mode `DISABLED`; both in place."""
        ended = dones.nonzero()[0].tolist()
        for i in ended:
            last = self._last_observation(observations, infos, i)
            infos[i]["terminal_observation"] = _copied(last, self.observation_space)
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            infos[i]["episode"] = self.episode(self.episode_returns[i], self.episode_lengths[i])
            self.episode_lengths[i], self.episode_returns[i] = 0, 0
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._rows_to_reset = dones.copy()  # the caller may write to `dones`
        elif self.autoreset_mode is AutoresetMode.DISABLED:
            # As in SB3, a reset within a step gets neither seed nor options.
            given_observations, given_infos = self.env.reset(options={"reset_mask": dones.copy()})
            first = _copied(given_observations, self.observation_space)
            for array, of_reset in zip(_arrays(observations), _arrays(first), strict=True):
                array[dones] = of_reset[dones]
            reset_infos = per_environment(given_infos, self.num_envs)
            for i in ended:
                self.reset_infos[i] = reset_infos[i]

    def _last_observation(self, observations: VecEnvObs, infos: Infos, i: int) -> Any:
        """The last observation of the episode that has just ended in environment i.

        In the mode `SAME_STEP` the reset's info in `infos[i]` is replaced by the last step's.
        """
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            return _row(observations, i)
        last = infos[i].pop("final_obs", None)
        if last is None:
            raise ValueError(
                f"The autoreset mode of {self.env} is SAME_STEP, but its infos have no 'final_obs' for environment "
                f"{i}, whose episode has ended."
            )
        if "final_info" in infos[i]:
            self._move_reset_info(infos, i, infos[i].pop("final_info"))
        return last

    def _move_reset_info(self, infos: Infos, i: int, info: dict[str, Any]) -> None:
        """Move the reset's info from `infos[i]` to `reset_infos[i]`, and put the step's own `info` in its place."""
        del infos[i]["TimeLimit.truncated"]
        self.reset_infos[i] = infos[i]
        infos[i] = {**info, "TimeLimit.truncated": False}

    # Setting up and closing

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Set the options of the next reset, and only of that one.

        Args:
            options: A dictionary for all environments, or a list of equal dictionaries, one per environment.

        Raises:
            ValueError: The dictionaries differ, their number is wrong, or they contain `reset_mask`, which the adapter
                sets itself.
        """
        each = options if isinstance(options, list) else [options or {}] * self.num_envs
        if len(each) != self.num_envs or not all(data_equivalence(each[0], one, exact=True) for one in each):
            raise ValueError(
                f"`options` must be one dictionary, or {self.num_envs} equal ones, because a vector environment has "
                f"one for all its copies, but is {options!r}."
            )
        if "reset_mask" in each[0]:
            raise ValueError(
                f"`options` must not contain 'reset_mask': `reset` resets all environments. Got {options!r}."
            )
        super().set_options(options)

    def close(self) -> None:
        """Close the vector environment; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One image of shape `(height, width, 3)` per environment.

        Returns:
            The images; a list of None if the render mode is not `"rgb_array"`.

        Warns:
            UserWarning: The render mode is not `"rgb_array"`.
        """
        if self.render_mode != "rgb_array":
            warnings.warn(f"The render mode is {self.render_mode!r}, but images need 'rgb_array'.", stacklevel=2)
            return [None for _ in range(self.num_envs)]
        images: Any = self.env.render()
        return list(images)

    # Attributes and methods

    def has_attr(self, attr_name: str) -> bool:
        """Whether all environments have an attribute.

        Args:
            attr_name: The attribute's name.
        """
        if self._is_native:
            return super().has_attr(attr_name)
        return all(self._call(range(self.num_envs), "has_wrapper_attr", attr_name))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each environment, from its outermost wrapper that has it.

        A native vector environment gives its own attribute for each of its copies. Environments in worker processes
        (`AsyncVectorEnv`) give, for a method, its return value.

        Args:
            attr_name: The attribute's name.
            indices: Indices of the environments; None for all.

        Raises:
            AttributeError: There is no such attribute.
            ValueError: An index is out of range.
        """
        wanted = self._indices(indices)
        if self._is_native:
            return [getattr(self._owner(attr_name), attr_name) for _ in wanted]
        if self._singles is None:
            return self._call(wanted, attr_name)
        return [self._singles[i].get_wrapper_attr(attr_name) for i in wanted]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment, in the wrapper that has it.

        For a native vector environment, set its own attribute.

        Args:
            attr_name: The attribute's name.
            value: The value for every environment.
            indices: Indices of the environments, if these are single environments in this process; None for all.

        Raises:
            ValueError: An index is out of range, or environments cannot be reached one by one.
        """
        wanted = self._indices(indices, all_or_none=self._singles is None)
        if self._is_native:
            owners = [layer for layer in self._layers() if hasattr(layer, attr_name)]
            setattr(owners[0] if owners else self.env.unwrapped, attr_name, value)
        else:
            self._call(wanted, "set_wrapper_attr", attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each environment.

        For a native vector environment, call its own method once. A returned array, list or tuple with one entry per
        environment is taken as their results; any other value is repeated.

        Args:
            method_name: The method's name.
            *method_args: Its positional arguments.
            indices: Indices of the environments, if these are single environments in this process; None for all.
            **method_kwargs: Its keyword arguments.

        Returns:
            One result per environment.

        Raises:
            AttributeError: There is no such method.
            ValueError: An index is out of range, or environments cannot be reached one by one.
        """
        wanted = self._indices(indices, all_or_none=self._singles is None)
        if not self._is_native:
            return self._call(wanted, method_name, *method_args, **method_kwargs)
        result = getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs)
        return list(result) if has_rows(result, self.num_envs) else [result for _ in wanted]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Whether environments, or the vector environment around them, are in a wrapper.

        Always True for `Monitor`, whose statistics the adapter provides: SB3's `evaluate_policy` then uses them.

        Args:
            wrapper_class: The wrapper's class.
            indices: Indices of the environments; None for all.

        Raises:
            NotImplementedError: The environments are in worker processes, which cannot be asked.
            ValueError: An index is out of range.
        """
        wanted = self._indices(indices)
        if wrapper_class is Monitor or any(isinstance(layer, wrapper_class) for layer in self._layers()):
            return [True for _ in wanted]
        if self._workers is not None:
            raise NotImplementedError(
                f"{type(self._workers).__name__} cannot say whether its environments are in a {wrapper_class.__name__}."
            )
        return [self._singles is not None and is_wrapped(self._singles[i], wrapper_class) for i in wanted]

    def _call(self, indices: Iterable[int], name: str, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method of some environments; workers call it in all of them."""
        if self._singles is not None:
            return [self._singles[i].get_wrapper_attr(name)(*args, **kwargs) for i in indices]
        # An error in a worker ends that worker, so ask whether the method exists.
        if not all(self._workers.call("has_wrapper_attr", name)):
            raise AttributeError(f"The environments of {self.env} have no attribute {name!r}.")
        results = self._workers.call(name, *args, **kwargs)
        return [results[i] for i in indices]

    def _indices(self, indices: VecEnvIndices, all_or_none: bool = False) -> list[int]:
        everything = range(self.num_envs)
        try:
            wanted = [everything[i] for i in self._get_indices(indices)]
        except (IndexError, TypeError):
            raise ValueError(
                f"`indices` must be None, an integer from 0 to {self.num_envs - 1} or several, but is {indices!r}."
            ) from None
        if all_or_none and wanted != list(everything):
            raise ValueError(
                f"`indices` must be None, for all {self.num_envs} environments, because {self.env} cannot reach them "
                f"one by one, but is {indices!r}."
            )
        return wanted

    def _owner(self, name: str) -> VectorEnv[Any, Any, Any]:
        for layer in self._layers():
            if hasattr(layer, name):
                return layer
        raise AttributeError(f"{self.env} has no attribute {name!r}.{suggestion(name, dir(self.env.unwrapped))}")

    def _layers(self) -> Iterable[VectorEnv[Any, Any, Any]]:
        """The vector environment's wrappers, from the outermost, and the environment itself."""
        layer = self.env
        yield layer
        while isinstance(layer, VectorWrapper):
            layer = layer.env
            yield layer


_ARRAYS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(mode)
    except ValueError:
        allowed = ", ".join(f"AutoresetMode.{mode.name}" for mode in AutoresetMode)
        raise ValueError(
            f"`metadata['autoreset_mode']` of {env} must be one of {allowed} (of gymnasium.vector), but is {mode!r}. "
            "It says when the next episode starts."
        ) from None


def _steps_copies(env: VectorEnv[Any, Any, Any]) -> bool:
    """Whether the class that offers copies still has the say: none below it, nor the object, has another step."""
    if "step" in vars(env) or "reset" in vars(env):
        return False
    for cls in type(env).__mro__:
        own = vars(cls)
        if "offers_copies" in own:
            return bool(own["offers_copies"])
        if "step" in own or "reset" in own:
            return False
    return False


def _are_environments(candidates: Any) -> bool:
    return isinstance(candidates, (list, tuple)) and all(isinstance(one, gym.Env) for one in candidates)


def _copied(observations: Any, space: spaces.Space[Any]) -> Any:
    """Copies of one observation or of many, with the space's dtype and in C order."""
    if isinstance(space, spaces.Dict):
        return {key: _copied(observations[key], part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_copied(given, part) for given, part in zip(observations, space.spaces, strict=True))
    return np.array(observations, dtype=space.dtype, order="C")


def _arrays(observations: VecEnvObs) -> Iterable[np.ndarray]:
    if isinstance(observations, dict):
        return observations.values()
    return observations if isinstance(observations, tuple) else (observations,)


def _row(observations: VecEnvObs, i: int) -> Any:
    if isinstance(observations, dict):
        return {key: array[i] for key, array in observations.items()}
    return tuple(array[i] for array in observations) if isinstance(observations, tuple) else observations[i]
