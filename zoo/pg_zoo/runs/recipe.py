"""Recipes: an entry of a hyperparameter file, and the environments and the model that are built from it.

Entries have rl_zoo3's schema, and a recipe builds from an entry what rl_zoo3's `ExperimentManager` builds: the same
wrappers in the same order, with the same seeds, and a model with the same arguments. From the inside out:

| layer               | hyperparameter                     |
|---------------------|------------------------------------|
| environment         | `env_kwargs`                       |
| `Monitor`           | `monitor_kwargs`                   |
| wrappers            | `env_wrapper`                      |
| vector of `n_envs`  | `n_envs`                           |
| vector wrappers     | `vec_env_wrapper`                  |
| `VecNormalize`      | `normalize`, with the same `gamma` |
| `VecFrameStack`     | `frame_stack`                      |
| `VecTransposeImage` | none: images with channels last    |
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from rl_zoo3.utils import SimpleLinearSchedule, get_callback_list, get_class_by_name, get_wrapper_class
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
)

from pg_agents import load_agent, load_normalization, registry
from pg_agents.agent import PolicyGradient
from pg_agents.arguments import Arguments, constructor_arguments, constructor_defaults
from pg_agents.checks import check_boolean, check_number, suggestion
from pg_agents.envs.make import NoWorldError, make_vec, readable
from pg_agents.envs.processes import ProcessesVecEnv
from pg_agents.files import values
from pg_agents.files.agents import load_replay_buffer
from pg_agents.files.saving import replay_buffer_beside, statistics_beside
from pg_agents.priors import read_policy
from pg_agents.resuming.folders import newest_checkpoint
from pg_agents.suitability import suitable_policy
from pg_zoo.errors import UserError, one_line, warn
from pg_zoo.ranges import MAX_ENVS, MAX_PROCESSES, MAX_STEPS
from pg_zoo.recipes.trust import TRUST, data_only, evaluated, names_a_class
from pg_zoo.runs.endings import with_recorded_endings
from pg_zoo.runs.normalization import statistics_of

N_TIMESTEPS = 100_000  # without a number in the entry

VecEnvKind = Literal["dummy", "subproc", "native", "world", "envpool"]

# Hyperparameters that are not arguments of an algorithm's constructor.
_MANAGED = {"callback", "env_kwargs", "env_wrapper", "frame_stack", "monitor_kwargs", "n_envs", "n_timesteps"}
_MANAGED |= {"normalize", "vec_env_wrapper"}
_NOISE = {"noise_std", "noise_type"}
# Arguments of the constructor that options set.
_OPTIONS = {"device", "env", "seed", "tensorboard_log", "verbose"}

_LINEAR = re.compile(r"lin_([-+\d.e]+)")
_SCHEDULES_OF_SB3 = {"learning_rate", "clip_range", "clip_range_vf", "delta_std"}


@dataclass(frozen=True)
class Recipe:
    """An entry that has been checked and resolved; `resolve` makes recipes.

    Attributes:
        algorithm: The algorithm's class.
        env: The Gymnasium id.
        entry: The hyperparameters as they are stored: plain data, with `n_timesteps` and `policy`.
        origin: The source of the entry, in words.
        n_timesteps: Environment steps of the training.
        n_envs: Number of training environments.
        arguments: Arguments of the algorithm's constructor, schedules and classes included.
        callbacks: Callbacks of one training.
        env_kwargs: Arguments of training environments.
        eval_env_kwargs: Arguments of evaluation environments.
        monitor_kwargs: Arguments of `Monitor`.
        env_wrapper: Wraps one environment.
        vec_env_wrapper: Wraps the vector environment.
        normalization: Arguments of `VecNormalize`, or None without it.
        frame_stack: Number of frames in an observation, or None without `VecFrameStack`.
        trained_agent: Path of a saved agent to train further, or `""` for a new one.
        trust: Whether files of the trained agent may run code.
    """

    algorithm: type[BaseAlgorithm]
    env: str
    entry: dict[str, Any]
    origin: str
    n_timesteps: int
    n_envs: int
    arguments: dict[str, Any]
    callbacks: list[BaseCallback]
    env_kwargs: dict[str, Any] | None
    eval_env_kwargs: dict[str, Any] | None
    monitor_kwargs: dict[str, Any] | None
    env_wrapper: Callable[[Any], Any] | None
    vec_env_wrapper: Callable[[Any], Any] | None
    normalization: dict[str, Any] | None
    frame_stack: int | None
    trained_agent: str
    trust: bool

    def make_envs(
        self, seed: int, vec_env: VecEnvKind = "dummy", *, monitor_dir: str | None = None, goes_on: bool = False
    ) -> VecEnv:
        """The training environments.

        Args:
            seed: Seed of the first environment; the others count from it.
            vec_env: Environments one by one in this process (`"dummy"`), each in a process of its own (`"subproc"`),
                the environment's own vector version (`"native"`), its world (`"world"`), which compiled code steps, or
                EnvPool's version (`"envpool"`).
            monitor_dir: Folder of the files of `Monitor`; by default none are written.
            goes_on: Whether these files go on, which are written anew by default.

        Raises:
            UserError: Single environments are needed, but `vec_env` has none; or there is no world.
        """
        env = self._stepped(self.n_envs, self.env_kwargs, seed, vec_env, monitor_dir, goes_on)
        return self._wrapped(env, evaluates=False)

    def make_eval_envs(self, n_envs: int, seed: int, vec_env: VecEnvKind = "dummy") -> VecEnv:
        """Evaluation environments: the same layers, but rewards stay as they are and no statistics are updated.

        Args:
            n_envs: Number of environments.
            seed: Seed of the first environment.
            vec_env: As for `make_envs`.

        Raises:
            UserError: As for `make_envs`.
        """
        env = self._stepped(n_envs, self.eval_env_kwargs, seed, vec_env)
        return self._wrapped(env, evaluates=True)

    def make_model(
        self, env: VecEnv, seed: int, *, device: str = "auto", tensorboard_log: str | None = None, verbose: int = 0
    ) -> BaseAlgorithm:
        """A new model, or the trained agent with this recipe's arguments except those of its policy.

        The replay buffer is loaded from the file beside the trained agent, if there is one: that of its moment, or else
        `replay_buffer.pkl`.

        Args:
            env: The training environments.
            seed: Random seed.
            device: The torch device.
            tensorboard_log: The TensorBoard folder, or None for no log.
            verbose: As for all SB3 algorithms.

        Raises:
            UserError: As for `settled`.
        """
        arguments = self.settled(env).arguments
        options: dict[str, Any] = {"seed": seed, "device": device, "verbose": verbose}
        options["tensorboard_log"] = tensorboard_log
        if not self.trained_agent:
            return self.algorithm(env=env, **options, **arguments)
        kept = {name: value for name, value in arguments.items() if name not in ("policy", "policy_kwargs")}
        model = load_agent(self.algorithm, self.trained_agent, env, trust=self.trust, **options, **kept)
        self._warn_of_other_observations(model)
        if isinstance(model, OffPolicyAlgorithm):
            self._load_replay_buffer(model)
        return model

    def _load_replay_buffer(self, model: OffPolicyAlgorithm) -> None:
        path = replay_buffer_beside(self.trained_agent)
        found = next((one for one in (path, path.with_name("replay_buffer.pkl")) if one.is_file()), None)
        if found is not None:
            load_replay_buffer(model, found, trust=self.trust)
        elif model.num_timesteps > 0:
            warn(
                f"{self.trained_agent} has no replay buffer beside it ({path.name}), as --save-replay-buffer saves it: "
                "training goes on with an empty one."
            )

    def _warn_of_other_observations(self, model: BaseAlgorithm) -> None:
        """Warn if the trained agent knows normalised observations and will see others, or the other way round."""
        if self.statistics is not None or model.num_timesteps == 0:
            return
        # Off-policy algorithms of SB3 have one in any case.
        if isinstance(model, OnPolicyAlgorithm) and model._last_original_obs is not None:
            missing = f"there are no statistics beside it ({statistics_beside(self.trained_agent).name})"
            reason = "normalize is False" if self.entry.get("normalize") is False else missing
            warn(
                f"{self.trained_agent} was trained with VecNormalize, but {reason}: it will see observations that mean "
                "something else."
            )
        elif self.normalization is not None:
            warn(
                f"{self.trained_agent} has no statistics of a normalisation beside it, but the hyperparameters say "
                "normalize: it will see observations that mean something else, unless normalize:False is among "
                "--hyperparams."
            )

    def resumed_model(self, folder: Path, env: VecEnv, *, device: str = "auto", verbose: int = 0) -> PolicyGradient:
        """The model of an interrupted training, as it was at the newest whole checkpoint.

        Args:
            folder: Folder of the checkpoints.
            env: The training environments, made anew.
            device: The torch device.
            verbose: As for all SB3 algorithms.

        Raises:
            UserError: The algorithm cannot be resumed, or as for `settled`.
            FileNotFoundError: There is no whole checkpoint.
            ValueError: The checkpoint is of other environments or of another algorithm.
        """
        check_resumable(self.algorithm)
        assert issubclass(self.algorithm, PolicyGradient)
        arguments = self.settled(env).arguments
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged one, which `resume` gives
            newest = newest_checkpoint(folder)
        # Such as the class of a plugin's policy, which a file may not name.
        given_again = values.read(newest, "made")["given_again"] if newest else ()
        again = {name: arguments[name] for name in given_again if name in arguments}
        return self.algorithm.resume(folder, env, device=device, verbose=verbose, **again)

    def settled(self, env: VecEnv) -> Recipe:
        """The same recipe with everything that depends on spaces: the policy for `auto`, and the action noise.

        Args:
            env: Training or evaluation environments.

        Raises:
            UserError: The algorithm has no policy for these observations, or noise does not suit these actions.
        """
        entry, arguments = self.entry, {name: self.arguments[name] for name in self.arguments.keys() - _NOISE}
        if arguments["policy"] == "auto":
            arguments["policy"] = default_policy(self.algorithm, env.observation_space)
            entry = {**entry, "policy": arguments["policy"]}
        if self.arguments.get("noise_type") is not None:
            noise = _action_noise(self.arguments["noise_type"], self.arguments["noise_std"], env.action_space)
            arguments["action_noise"] = noise
        return replace(self, entry=entry, arguments=arguments)

    @property
    def statistics(self) -> Path | None:
        """The file of the trained agent's normalisation, which comes before `normalization`.

        None if there is none, or the entry says that nothing is normalised.
        """
        if not self.trained_agent or self.entry.get("normalize") is False:
            return None
        return statistics_of(self.trained_agent, self.env)

    @property
    def deterministic_evaluation(self) -> bool:
        """Whether rl_zoo3 evaluates on this kind of environment with the most probable actions."""
        return not (is_atari(self.env) or _is_from(self.env, "minigrid"))

    def _stepped(
        self,
        n_envs: int,
        env_kwargs: dict[str, Any] | None,
        seed: int,
        vec_env: VecEnvKind,
        monitor_dir: str | None = None,
        goes_on: bool = False,
    ) -> VecEnv:
        if vec_env in ("native", "world", "envpool"):
            if self.env_wrapper is not None or self.monitor_kwargs:
                raise UserError(f"--vec-env {vec_env} has no single environments for env_wrapper or monitor_kwargs.")
            together = self._together(n_envs, env_kwargs, vec_env)
            together.seed(seed)
            return together
        if vec_env == "subproc" and n_envs > MAX_PROCESSES:
            raise UserError(f"--vec-env subproc has room for {MAX_PROCESSES} environments, but n_envs is {n_envs}.")
        return single_envs(
            self.env,
            n_envs,
            seed,
            self.env_wrapper,
            env_kwargs,
            vec_env_cls=ProcessesVecEnv if vec_env == "subproc" else DummyVecEnv,
            monitor_dir=monitor_dir,
            monitor_kwargs={**(self.monitor_kwargs or {}), "override_existing": False}
            if goes_on
            else self.monitor_kwargs,
        )

    def _together(self, n_envs: int, env_kwargs: dict[str, Any] | None, vec_env: VecEnvKind) -> VecEnv:
        if vec_env == "envpool":
            return make_vec(self.env, n_envs, backend="envpool", env_kwargs=env_kwargs)
        if vec_env == "native":
            return make_vec(self.env, n_envs, vectorization_mode="vector_entry_point", env_kwargs=env_kwargs)
        try:
            return make_vec(self.env, n_envs, world=True, env_kwargs=env_kwargs)
        except NoWorldError as error:
            raise UserError(str(error)) from error

    def _wrapped(self, env: VecEnv, *, evaluates: bool) -> VecEnv:
        if self.vec_env_wrapper is not None:
            env = self.vec_env_wrapper(env)
        env = self._normalized(env, evaluates)
        if self.frame_stack is not None:
            env = VecFrameStack(env, self.frame_stack)
        space = env.observation_space
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
        images = [part for part in parts if isinstance(part, spaces.Box) and is_image_space(part)]
        channels_last = not all(map(is_image_space_channels_first, images))
        if channels_last and not is_vecenv_wrapped(env, VecTransposeImage):
            env = VecTransposeImage(env)
        return env

    def _normalized(self, env: VecEnv, evaluates: bool) -> VecEnv:
        if self.statistics:
            try:
                normalized = load_normalization(self.statistics, env, trust=self.trust)
            except Exception:
                env.close()
                raise
        elif self.normalization is not None:
            normalized = VecNormalize(env, **self.normalization)
        else:
            return env
        if evaluates:
            normalized.training = normalized.norm_reward = False
        return normalized


def resolve(
    algo: str,
    algorithm: type[BaseAlgorithm],
    env: str,
    entry: Mapping[str, Any],
    origin: str,
    *,
    n_timesteps: int | None = None,
    eval_env_kwargs: dict[str, Any] | None = None,
    trained_agent: str = "",
    trust: bool = False,
    remedy: str = TRUST,
) -> Recipe:
    """Check an entry and work out everything that does not depend on spaces.

    Args:
        algo: The algorithm's registered name.
        algorithm: Its class.
        env: The Gymnasium id.
        entry: Hyperparameters in rl_zoo3's schema. `n_timesteps` is 100,000 by default and `policy` is `auto`: the
            algorithm's policy for the environment's observations.
        origin: The source of the entry, in words.
        n_timesteps: Environment steps of the training; by default as the entry says.
        eval_env_kwargs: Arguments of evaluation environments; by default those of training environments.
        trained_agent: Path of a saved agent (.zip) to train further.
        trust: Whether strings in the entry, and files of the trained agent, may run as code.
        remedy: The advice for an entry with code, in words.

    Raises:
        UserError: A hyperparameter is unknown or out of range, or is code and not trusted.
    """
    entry = {"n_timesteps": N_TIMESTEPS, "policy": "auto", **entry}
    if trained_agent and statistics_of(trained_agent, env) and entry.get("normalize") is None:
        entry["normalize"] = True  # what the run stores must say so, for rl_zoo3 too
    _check(algo, algorithm, entry)
    values = evaluated(entry) if trust else data_only(entry, origin, remedy)
    # A constructor may change a dictionary that it is given.
    arguments = {name: _argument(value) for name, value in values.items() if name not in _MANAGED}
    if isinstance(arguments.get("train_freq"), list):
        arguments["train_freq"] = tuple(arguments["train_freq"])
    if trust and isinstance(arguments.get("prior"), str):
        arguments["prior"] = read_policy(arguments["prior"], trust=True)
    if names_a_class(arguments["policy"]):
        arguments["policy"] = get_class_by_name(arguments["policy"])
    env_kwargs = values.get("env_kwargs")
    return Recipe(
        algorithm=algorithm,
        env=env,
        entry=dict(sorted(entry.items())),
        origin=origin,
        n_timesteps=int(entry["n_timesteps"]) if n_timesteps is None else n_timesteps,
        n_envs=values.get("n_envs", 1),
        arguments=arguments,
        callbacks=get_callback_list(values),
        env_kwargs=env_kwargs,
        eval_env_kwargs=env_kwargs if eval_env_kwargs is None else eval_env_kwargs,
        monitor_kwargs=_monitor_kwargs(env, values),
        env_wrapper=get_wrapper_class(values),
        vec_env_wrapper=get_wrapper_class(values, "vec_env_wrapper"),
        normalization=_normalization(values),
        frame_stack=values.get("frame_stack"),
        trained_agent=trained_agent,
        trust=trust,
    )


def single_envs(
    env: str,
    n_envs: int,
    seed: int,
    env_wrapper: Callable[[Any], Any] | None,
    env_kwargs: dict[str, Any] | None,
    *,
    vec_env_cls: type[DummyVecEnv | SubprocVecEnv] = DummyVecEnv,
    **monitoring: Any,
) -> VecEnv:
    """Single environments in their wrappers, each with its record of episodes.

    Args:
        env: The Gymnasium id.
        n_envs: Number of environments.
        seed: Seed of the first environment.
        env_wrapper: Wraps one environment.
        env_kwargs: Arguments of the environments.
        vec_env_cls: Their processes.
        **monitoring: `monitor_dir` and `monitor_kwargs` of SB3's `make_vec_env`.
    """
    wrapper = with_recorded_endings(env_wrapper)
    # Other processes need not know the id: it may have been registered by a module that only this one imports.
    return make_vec_env(
        gym.spec(env).make,
        n_envs,
        seed,
        wrapper_class=readable(wrapper) if vec_env_cls is DummyVecEnv else wrapper,
        env_kwargs=env_kwargs,
        vec_env_cls=vec_env_cls,
        **monitoring,
    )


def check_resumable(algorithm: type[BaseAlgorithm]) -> None:
    """Check that a training of an algorithm can be stored and resumed.

    Raises:
        UserError: It cannot.
    """
    if not issubclass(algorithm, PolicyGradient):
        raise UserError(
            f"--checkpoint: only trainings of a pg_agents.PolicyGradient can be resumed exactly, which "
            f"{algorithm.__module__}.{algorithm.__name__} is not. --save-freq saves the model alone."
        )


@contextmanager
def closing_envs(env: VecEnv) -> Iterator[VecEnv]:
    """Close environments at the end."""
    try:
        yield env
    finally:
        # Ctrl-C reaches environments in other processes too: they may be gone.
        with suppress(EOFError, OSError):
            env.close()


def default_policy(algorithm: type[BaseAlgorithm], space: spaces.Space[Any]) -> str:
    """The name of an algorithm's policy for a kind of observations.

    Raises:
        UserError: The algorithm has none.
    """
    kind = suitable_policy(space).removesuffix("Policy")
    for alias in algorithm.policy_aliases:
        if alias.startswith(kind):
            return alias
    others = [alias for alias in algorithm.policy_aliases if not alias.startswith(("Cnn", "Mlp", "MultiInput"))]
    if len(others) == 1:  # as that of algorithms that read texts
        return others[0]
    raise UserError(f"{algorithm.__name__} has no policy for {space}: name one with --hyperparams policy:...")


def is_atari(env: str) -> bool:
    """Whether rl_zoo3's entry `atari` is for this environment."""
    return _is_from(env, "AtariEnv")


def _is_from(env: str, *places: str) -> bool:
    """Whether the registered entry point names one of these, by which rl_zoo3 tells kinds of environments apart."""
    return any(place in str(gym.spec(env).entry_point) for place in places)


def _check(algo: str, algorithm: type[BaseAlgorithm], values: Mapping[str, Any]) -> None:
    arguments = constructor_arguments(algorithm)
    known = {*(arguments or values), *_MANAGED} - _OPTIONS - {"_init_setup_model"}
    if arguments is not None and "action_noise" in arguments:
        known |= _NOISE
    for name, value in values.items():
        if name in _OPTIONS:
            raise UserError(f"{name!r} is not a hyperparameter but an option: --{name.replace('_', '-')}.")
        if name not in known:
            # A hyperparameter of another algorithm is not a misspelling.
            hint = "" if _is_of_another_algorithm(name) else suggestion(name, known)
            raise UserError(f"{algo} has no hyperparameter {name!r}.{hint}")
        if isinstance(value, str) and value.startswith("lin") and not _is_linear(value):
            raise UserError(f"{name!r} is {value!r}, but a schedule that falls linearly to 0 is written lin_0.001.")
        if _is_linear(value) and name not in _SCHEDULES_OF_SB3 and not _takes_schedule(algorithm, name):
            raise UserError(f"{name!r} of {algo} cannot be a schedule, but is {value!r}.")
    with one_line(ValueError):
        for name, default in constructor_defaults(algorithm).items():
            if isinstance(default, bool):
                check_boolean(name, values.get(name, default))
        check_number("n_timesteps", values["n_timesteps"], at_least=1, at_most=MAX_STEPS)
        check_number("n_envs", values.get("n_envs", 1), at_least=1, at_most=MAX_ENVS, integer=True)
        check_number("frame_stack", values.get("frame_stack"), at_least=1, integer=True, optional=True)
    if not isinstance(values["policy"], str):
        names = ", ".join(algorithm.policy_aliases)
        raise UserError(f"`policy` must be one of {names}, or module.Class, but is {values['policy']!r}.")
    if len(_NOISE & values.keys()) == 1:
        raise UserError("`noise_type` and `noise_std` go together: the entry has one without the other.")


def _takes_schedule(algorithm: type[BaseAlgorithm], name: str) -> bool:
    return issubclass(algorithm, PolicyGradient) or (
        issubclass(algorithm, Arguments) and algorithm.declared[name].schedule
    )


def _is_of_another_algorithm(name: str) -> bool:
    for plugin in registry.algorithms().values():
        with suppress(registry.PluginError):
            if name in constructor_arguments(plugin.load()):
                return True
    return False


def _is_linear(value: Any) -> bool:
    return isinstance(value, str) and _LINEAR.fullmatch(value) is not None


def _argument(value: Any) -> Any:
    """A hyperparameter as a constructor's argument: `lin_0.001` as a schedule, copies of lists and mappings."""
    if _is_linear(value):
        return SimpleLinearSchedule(value.removeprefix("lin_"))
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, list) else value


def _monitor_kwargs(env: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry's, but environments that report success have it recorded, as in rl_zoo3."""
    found: dict[str, Any] | None = values.get("monitor_kwargs")
    if _is_from(env, "gym.envs.robotics", "panda_gym.envs") or ("parking-v0" in env and not found):
        return {"info_keywords": ("is_success",)}
    return found


def _normalization(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of `VecNormalize`, with the algorithm's discount factor; None without normalisation."""
    normalize = values.get("normalize", False)
    if not normalize and not isinstance(normalize, dict):
        return None
    given = normalize if isinstance(normalize, dict) else {}
    return {**given, "gamma": values["gamma"]} if "gamma" in values else dict(given)


def _action_noise(kind: str, std: float, space: spaces.Space[Any]) -> ActionNoise:
    if not isinstance(space, spaces.Box):
        raise UserError(f"`noise_type` needs actions in a Box, but they are in {space}.")
    mean, sigma = np.zeros(space.shape[0]), std * np.ones(space.shape[0])
    if "normal" in kind:
        return NormalActionNoise(mean, sigma)
    if "ornstein-uhlenbeck" in kind:
        return OrnsteinUhlenbeckActionNoise(mean, sigma)
    raise UserError(f"`noise_type` must be normal or ornstein-uhlenbeck, but is {kind!r}.")
