"""Gymnasium's vector environments as SB3 `VecEnv`s.

An environment that steps all its copies in one NumPy (or compiled) operation is many times faster than a loop over
single ones. What stands between such a Gymnasium `VectorEnv` and SB3 is what happens at the end of an episode:

| `metadata["autoreset_mode"]` | the environment starts the next episode | what the adapter does                   |
|------------------------------|-----------------------------------------|-----------------------------------------|
| `SAME_STEP`                  | in the step that ends the last one      | reads `final_obs` and `final_info`      |
| `DISABLED`                   | when told to                            | resets what has ended, in the same step |
| `NEXT_STEP`                  | in the step after it                    | marks that step's row as no transition  |

In the first two a user sees exactly what SB3's `DummyVecEnv` over `Monitor`ed environments shows. In the third, which
is that of Gymnasium's own vector environments, an environment whose episode has ended spends the following step on
its reset: `reset_rows` names such rows. The training loop of this package leaves them out. **SB3's own algorithms
would train on them**, as on a step with reward 0 from the last observation of one episode to the first of the next;
`VecMonitor` and `VecNormalize` count them, and `VecFrameStack` keeps the last observation in the next episode's stack.
For these choose `SAME_STEP` or `DISABLED` where the environment offers a choice:
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
from pg_agents.envs.infos import Infos, has_rows, per_environment


class VectorEnvAdapter(VecEnv):
    """A Gymnasium `VectorEnv` as an SB3 `VecEnv`, with the statistics of episodes that `Monitor` would give.

    At an episode's end `dones[i]` is true and `infos[i]` has `terminal_observation`, `TimeLimit.truncated` and
    `episode` (`r`, `l` and `t`: return, length and seconds since the adapter was made). No `Monitor` is needed:
    `env_is_wrapped(Monitor)` says True, and statistics that the environment itself reports are replaced.

    Observations, rewards and infos are the caller's own, never buffers that the next step overwrites.

    Args:
        env: The vector environment. Its `metadata["autoreset_mode"]` says how episodes end.

    Attributes:
        env: The vector environment.
        autoreset_mode: Its mode.
        reset_rows: Array of bools, of shape `(num_envs,)`: which rows of the last step were no transition but a
            reset, in which the action was ignored. Their reward is 0, their observation the first of a new episode,
            and `infos[i]["reset_row"]` is True. Only ever true in the mode `NEXT_STEP`.

    Raises:
        TypeError: `env` is not a vector environment.
        ValueError: The autoreset mode is missing or unknown, or actions are not arrays.
        NotImplementedError: Observation spaces are nested, which SB3 does not support.
    """

    reset_rows: np.ndarray

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(
                f"`env` must be a gymnasium.vector.VectorEnv, but is {env!r}. Single environments need no adapter: "
                "SB3's make_vec_env makes a VecEnv of them."
            )
        self.env = env
        self.autoreset_mode = _autoreset_mode(env)
        if not isinstance(env.single_action_space, _ARRAYS):
            allowed = ", ".join(space.__name__ for space in _ARRAYS)
            raise ValueError(f"The action space must be one of {allowed}, but is {env.single_action_space}.")
        check_for_nested_spaces(env.single_observation_space)
        # Whom to ask for attributes and methods: single environments, where they can be had, else their workers.
        singles = getattr(env.unwrapped, "envs", None)
        self._singles: Sequence[gym.Env[Any, Any]] | None = singles if _are_environments(singles) else None
        self._workers: Any = env.unwrapped if self._singles is None and hasattr(env.unwrapped, "call") else None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata

        self._closed = False
        self._t_start = time.time()
        self._no_rows = np.zeros(self.num_envs, dtype=np.bool_)
        self._begin_all()

    # Acting

    def reset(self) -> VecEnvObs:
        """Begin new episodes everywhere, with the seed and the options that were set since the last reset.

        Returns:
            The first observations, of shape `(num_envs, ...)`; `reset_infos` has their infos.
        """
        seed = self._seeds[0]  # environment i takes seed + i, as in SB3, or all of them share one generator
        observations, infos = self.env.reset(seed=None if seed is None else int(seed), options=self._options[0] or None)
        self._reset_seeds()
        self._reset_options()
        self._begin_all()
        self.reset_infos = per_environment(infos, self.num_envs)
        first: VecEnvObs = _copied(observations, self.observation_space)
        return first

    def step_async(self, actions: np.ndarray) -> None:
        """Take actions, one per environment, for `step_wait` to carry out.

        Raises:
            ValueError: Their shape is not that of the vector environment's actions.
        """
        space = self.env.action_space
        # Vector environments may insist on their dtype, and would broadcast a wrong shape.
        self._actions = np.asarray(actions, dtype=space.dtype)
        if self._actions.shape != space.shape:
            raise ValueError(f"`actions` must have shape {space.shape}, but has {self._actions.shape}.")

    def step_wait(self) -> VecEnvStepReturn:
        """Carry out the actions.

        Returns:
            Observations `(num_envs, ...)`, rewards (float32) and dones (bool) `(num_envs,)`, and a list of infos.
            Where an episode ended, the observation is already the first of the next one; in the mode `NEXT_STEP` it
            still is the last one.

        Raises:
            ValueError: The environment does not give what its autoreset mode promises.
        """
        # Only what costs a fraction of a microsecond stands here: a native environment's own step takes about 30.
        given_observations, given_rewards, terminated, truncated, given_infos = self.env.step(self._actions)
        observations = _copied(given_observations, self.observation_space)
        rewards = np.array(given_rewards, dtype=np.float32)
        dones = np.logical_or(terminated, truncated)
        if given_infos:
            infos = per_environment(given_infos, self.num_envs)
            for info in infos:
                info["TimeLimit.truncated"] = False
        else:
            infos = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]

        self._n_steps += 1
        self._returns += np.asarray(given_rewards)  # before they are rounded to float32, as Monitor adds them
        self.reset_rows = self._rows_to_reset
        if self.reset_rows is not self._no_rows:
            self._mark_reset_rows(rewards, infos)
        if np.count_nonzero(dones):  # a third of the time that any() takes
            self._end_episodes(observations, terminated, truncated, dones, infos)
        return observations, rewards, dones, infos

    def _begin_all(self) -> None:
        self._n_steps = 0
        self._starts = [0] * self.num_envs  # `_n_steps` before each episode's first step
        self._returns = np.zeros(self.num_envs)
        self.reset_rows = self._rows_to_reset = self._no_rows

    def _mark_reset_rows(self, rewards: np.ndarray, infos: Infos) -> None:
        self._rows_to_reset = self._no_rows
        rewards[self.reset_rows] = 0
        self._returns[self.reset_rows] = 0
        for i in self.reset_rows.nonzero()[0].tolist():
            self._set_aside(infos, i, {"reset_row": True})

    def _end_episodes(
        self, observations: VecEnvObs, terminated: np.ndarray, truncated: np.ndarray, dones: np.ndarray, infos: Infos
    ) -> None:
        """Complete the infos, and begin the next episodes if the environment does not do it itself; both in place."""
        seconds = round(time.time() - self._t_start, 6)
        ended = dones.nonzero()[0].tolist()
        for i in ended:
            last = self._last_observation(observations, infos, i)
            infos[i]["terminal_observation"] = _copied(last, self.observation_space)
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            length = self._n_steps - self._starts[i]
            infos[i]["episode"] = {"r": round(float(self._returns[i]), 6), "l": length, "t": seconds}
            self._starts[i] = self._n_steps + (self.autoreset_mode is AutoresetMode.NEXT_STEP)  # after its reset row
            self._returns[i] = 0
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._rows_to_reset = dones.copy()  # the caller may change its own
        elif self.autoreset_mode is AutoresetMode.DISABLED:
            # SB3 gives a reset inside an episode's last step neither seed nor options, and so do we.
            given_observations, given_infos = self.env.reset(options={"reset_mask": dones.copy()})
            first = _copied(given_observations, self.observation_space)
            for array, of_reset in zip(_arrays(observations), _arrays(first), strict=True):
                array[dones] = of_reset[dones]
            reset_infos = per_environment(given_infos, self.num_envs)
            for i in ended:
                self.reset_infos[i] = reset_infos[i]

    def _last_observation(self, observations: VecEnvObs, infos: Infos, i: int) -> Any:
        """The last observation of an episode that has just ended. Where `infos[i]` is a reset's, it is replaced."""
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            return _row(observations, i)
        last = infos[i].pop("final_obs", None)
        if last is None:
            raise ValueError(
                f"{self.env} says that its autoreset mode is SAME_STEP, but its infos have no 'final_obs' for "
                f"environment {i}, whose episode has ended."
            )
        if "final_info" in infos[i]:
            self._set_aside(infos, i, infos[i].pop("final_info"))
        return last

    def _set_aside(self, infos: Infos, i: int, info: dict[str, Any]) -> None:
        """What the environment says of a reset belongs in `reset_infos`; the step itself has `info`."""
        del infos[i]["TimeLimit.truncated"]
        self.reset_infos[i] = infos[i]
        infos[i] = {**info, "TimeLimit.truncated": False}

    # Setting up and closing

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Set the options of the next reset, which are used once.

        Args:
            options: One dictionary for all environments. A list, one per environment, must repeat the same one,
                because a vector environment takes one.

        Raises:
            ValueError: The options differ, are too few or too many, or contain `reset_mask`, which is the adapter's.
        """
        each = options if isinstance(options, list) else [options or {}] * self.num_envs
        if len(each) != self.num_envs or not all(data_equivalence(each[0], one, exact=True) for one in each):
            raise ValueError(
                f"`options` must be one dictionary, or {self.num_envs} equal ones, because a vector environment takes "
                f"one for all its copies, but is {options!r}."
            )
        if "reset_mask" in each[0]:
            raise ValueError(
                f"`options` must not contain 'reset_mask': `reset` resets all environments. Got {options!r}."
            )
        super().set_options(options)

    def close(self) -> None:
        """Close the vector environment; again does nothing."""
        if not self._closed:
            self._closed = True
            self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One image of shape `(height, width, 3)` per environment; None, with a warning, in other render modes."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"The render mode is {self.render_mode!r}, but images need it to be 'rgb_array'.", stacklevel=2
            )
            return [None for _ in range(self.num_envs)]
        images: Any = self.env.render()
        return list(images)

    # Attributes and methods

    def has_attr(self, attr_name: str) -> bool:
        """Whether `get_attr` would find an attribute in all environments."""
        if self._workers is not None:
            return all(self._workers.call("has_wrapper_attr", attr_name))
        return super().has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each environment.

        Without single environments the vector environment's own is repeated. Those in worker processes
        (`AsyncVectorEnv`) answer for a method with what it returns.

        Args:
            attr_name: Its name.
            indices: Which environments; None asks all.

        Raises:
            AttributeError: There is none.
            ValueError: An index is out of range.
        """
        wanted = self._indices(indices)
        if self._singles is not None:
            return [self._singles[i].get_wrapper_attr(attr_name) for i in wanted]
        if self._workers is not None:
            values = self._ask_workers(attr_name)
            return [values[i] for i in wanted]
        return [getattr(self._owner(attr_name), attr_name) for _ in wanted]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment, in the wrapper that has it.

        Without single environments it is the vector environment's own that is set.

        Args:
            attr_name: Its name.
            value: The same for all.
            indices: Which environments; only all where they cannot be reached one by one.

        Raises:
            ValueError: An index is out of range, or not all are meant and they cannot be reached one by one.
        """
        wanted = self._indices(indices, all_or_none=self._singles is None)
        if self._singles is not None:
            for i in wanted:
                self._singles[i].set_wrapper_attr(attr_name, value)
        elif self._workers is not None:
            self._workers.set_attr(attr_name, [value] * self.num_envs)  # a list that is `value` would be shared out
        else:
            owners = [layer for layer in self._layers() if hasattr(layer, attr_name)]
            setattr(owners[0] if owners else self.env.unwrapped, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each environment.

        Without single environments the vector environment's own is called, once. Where it returns an array, list or
        tuple with one entry per environment, these are the results; anything else is repeated.

        Args:
            method_name: Its name.
            *method_args: What it is given.
            indices: Which environments; only all where they cannot be reached one by one.
            **method_kwargs: What it is given by name.

        Returns:
            One result per environment.

        Raises:
            AttributeError: There is no such method.
            ValueError: An index is out of range, or not all are meant and they cannot be reached one by one.
        """
        wanted = self._indices(indices, all_or_none=self._singles is None)
        if self._singles is not None:
            return [self._singles[i].get_wrapper_attr(method_name)(*method_args, **method_kwargs) for i in wanted]
        if self._workers is not None:
            return list(self._ask_workers(method_name, *method_args, **method_kwargs))
        result = getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs)
        return list(result) if has_rows(result, self.num_envs) else [result for _ in wanted]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Whether environments are in a wrapper, be it one of single environments or of the vector environment.

        True for `Monitor`, because the adapter does what it does: SB3's `evaluate_policy` then uses its statistics.

        Args:
            wrapper_class: The wrapper's class.
            indices: Which environments; None asks all.

        Raises:
            NotImplementedError: The environments are in worker processes, which cannot say.
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

    def _ask_workers(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        # An error in a worker ends it, so ask first.
        if not self.has_attr(name):
            raise AttributeError(f"The environments of {self.env} have no attribute {name!r}.")
        results: tuple[Any, ...] = self._workers.call(name, *args, **kwargs)
        return results

    def _owner(self, name: str) -> VectorEnv[Any, Any, Any]:
        for layer in self._layers():
            if hasattr(layer, name):
                return layer
        raise AttributeError(f"{self.env} has no attribute {name!r}.{suggestion(name, dir(self.env.unwrapped))}")

    def _layers(self) -> Iterable[VectorEnv[Any, Any, Any]]:
        """The vector environment's wrappers, from the outside, and itself."""
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
            "It says what the environment does when an episode ends."
        ) from None


def _are_environments(candidates: Any) -> bool:
    return isinstance(candidates, (list, tuple)) and all(isinstance(one, gym.Env) for one in candidates)


def _copied(observations: Any, space: spaces.Space[Any]) -> Any:
    """New arrays, of the space's dtype and in C order, of one observation or of many."""
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
