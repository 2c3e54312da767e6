"""`pg-zoo train`: rl_zoo3's `ExperimentManager` with our registry, our hyperparameter files and fewer surprises."""

from __future__ import annotations

import argparse
import errno
import itertools
import os
import re
import shutil
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from pprint import pprint
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import ALGOS, SimpleLinearSchedule, get_latest_run_id
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import ProgressBarCallback
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from pg_agents import registry
from pg_agents.agent import CommonArguments, PolicyGradient
from pg_agents.checks import check_number, constructor_arguments, suggestion
from pg_agents.envs.make import make_vec
from pg_zoo.errors import UserError, one_line
from pg_zoo.hyperparameters import TRUST, data_only, find_entry
from pg_zoo.lookup import find_algorithm, find_env, plugin_warnings
from pg_zoo.replay import takes_most_probable

N_TIMESTEPS = 100_000  # where neither a file nor the user says a number

# What ExperimentManager takes out of an entry before the algorithm's constructor gets it.
_MANAGED = {"callback", "env_kwargs", "env_wrapper", "frame_stack", "monitor_kwargs", "n_envs", "n_timesteps"}
_MANAGED |= {"noise_std", "noise_type", "normalize", "vec_env_wrapper"}
# What it hands to the constructor itself.
_OPTIONS = {"device", "env", "seed", "tensorboard_log", "verbose"}

# Of a disk that takes nothing, and of a folder that this user may not write into.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_CLOSED = {errno.EACCES, errno.EPERM, errno.ENOTDIR}

_LINEAR = re.compile(r"lin_([-+\d.e]+)")
_SCHEDULES_OF_SB3 = {"learning_rate", "clip_range", "clip_range_vf", "delta_std"}


class _ProgressBar(ProgressBarCallback):
    """SB3's, which may end before it has begun: rl_zoo3 ends it whatever came between."""

    def _on_training_end(self) -> None:
        if hasattr(self, "pbar"):
            super()._on_training_end()


class Experiment(ExperimentManager):
    """One training run.

    Args:
        args: The parsed options of `pg-zoo train`.
        algorithm: The class that `args.algo` names.

    Attributes:
        remedy: What can be done where hyperparameters are code, in words.
    """

    remedy = TRUST

    def __init__(self, args: argparse.Namespace, algorithm: type[BaseAlgorithm]) -> None:
        # All of rl_zoo3's modules share this dictionary.
        ALGOS[args.algo] = algorithm
        self.algorithm = algorithm
        self._claimed = False
        self._open: dict[str, VecEnv] = {}
        self._suffix = f"_{uuid.uuid4()}" if args.uuid else ""
        super().__init__(
            args,
            args.algo,
            args.env,
            args.log_folder,
            tensorboard_log=args.tensorboard_log,
            n_timesteps=args.n_timesteps,
            eval_freq=args.eval_freq,
            n_eval_episodes=args.eval_episodes,
            save_freq=args.save_freq,
            hyperparams=args.hyperparams,
            env_kwargs=args.env_kwargs,
            eval_env_kwargs=args.eval_env_kwargs,
            trained_agent=args.trained_agent,
            uuid_str=self._suffix,
            seed=args.seed,
            log_interval=args.log_interval,
            verbose=args.verbose,
            vec_env_type="dummy" if args.vec_env == "native" else args.vec_env,
            n_eval_envs=args.n_eval_envs,
            device=args.device,
            show_progress=args.progress,
        )

    @property
    def model_path(self) -> str:
        """Where the trained model is saved."""
        return os.path.join(self.save_path, f"{self.env_name}.zip")

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The entry of the merged files, with the user's own values over it.

        Returns:
            The hyperparameters, and a sorted copy to be saved.

        Raises:
            UserError: One of them is unknown, or is code and not trusted.
        """
        entry, origin = self.find_entry()
        values = {"n_timesteps": N_TIMESTEPS, "policy": "auto", **entry, **(self.custom_hyperparams or {})}
        if self.env_kwargs:
            values["env_kwargs"] = self.env_kwargs
        if self._eval_env_kwargs_args is None:
            self.eval_env_kwargs = values.get("env_kwargs", {})
        self._check(values)
        saved = OrderedDict(sorted(values.items()))
        origin += ", changed by --hyperparams" if self.custom_hyperparams else ""
        used = values if self.args.trust else data_only(values, origin, self.remedy)
        print(f"Hyperparameters: {origin}")
        pprint(dict(saved))
        return used, saved

    def find_entry(self) -> tuple[dict[str, Any], str]:
        """The entry before anything is added, and where it is from."""
        with plugin_warnings():
            return find_entry(
                self.algo,
                self.env_name.gym_id,
                conf_file=self.args.conf_file,
                trust=self.args.trust,
                atari=self._is_atari,
            )

    def create_log_folder(self) -> None:
        """Claim a new folder: runs that start at the same moment get one each."""
        first = get_latest_run_id(self.log_path, self.env_name) + 1
        for number in itertools.count(first):
            self.save_path = os.path.join(self.log_path, f"{self.env_name}_{number}{self._suffix}")
            try:
                os.makedirs(self.save_path)
            except FileExistsError:
                continue
            break
        self._claimed = True
        self.params_path = os.path.join(self.save_path, self.env_name)
        os.makedirs(self.params_path)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """As rl_zoo3's, or the environment's own vector version; `close` closes them."""
        if self.args.vec_env == "native":
            if self.env_wrapper is not None or self.monitor_kwargs:
                raise UserError("--vec-env native has no single environments for env_wrapper or monitor_kwargs.")
            env_kwargs = self.eval_env_kwargs if eval_env else self.env_kwargs

            def native(env_fns: list[Any], **_: Any) -> VecEnv:
                env_id = self.env_name.gym_id
                return make_vec(env_id, len(env_fns), vectorization_mode="vector_entry_point", env_kwargs=env_kwargs)

            self.vec_env_class = native  # type: ignore[assignment] # which is only called
        env: VecEnv = super().create_envs(n_envs, eval_env, no_log)
        self._open["evaluation" if eval_env else "training"] = env
        if eval_env:
            # rl_zoo3 reads it after it has made this environment.
            self.deterministic_eval = takes_most_probable(self.args, env, default=self.deterministic_eval)
        return env

    def set_up(self) -> BaseAlgorithm:
        """Build environments and model; leave nothing behind if that fails."""
        try:
            results = self.setup_experiment()
        except BaseException:
            self.close()
            raise
        assert results is not None, "no hyperparameter search was asked for"
        model: BaseAlgorithm = results[0]
        return model

    def learn(self, model: BaseAlgorithm) -> None:
        """Train; after Ctrl-C, the model is as it was at that moment."""
        self._open.pop("training")  # rl_zoo3 closes this one
        self.callbacks = [_ProgressBar() if type(one) is ProgressBarCallback else one for one in self.callbacks]
        super().learn(model)

    def close(self) -> None:
        """Close the environments that are still open, and remove this run's folder if no model came of it."""
        for env in self._open.values():
            # Ctrl-C reaches environments in other processes too: they may be gone.
            with suppress(EOFError, OSError):
                env.close()
        if self._claimed and not any(Path(self.save_path).rglob("*.zip")):
            shutil.rmtree(self.save_path, ignore_errors=True)

    def _check(self, values: dict[str, Any]) -> None:
        arguments = constructor_arguments(self.algorithm, CommonArguments)
        known = {*(arguments or values), *_MANAGED} - _OPTIONS - {"_init_setup_model"}
        for name, value in values.items():
            if name in _OPTIONS:
                raise UserError(f"{name!r} is not a hyperparameter but an option: --{name.replace('_', '-')}.")
            if name not in known:
                # What others have is no slip of the pen.
                hint = "" if _is_of_another_algorithm(name) else suggestion(name, known)
                raise UserError(f"{self.algo} has no hyperparameter {name!r}.{hint}")
            if isinstance(value, str) and value.startswith("lin") and not _is_linear(value):
                raise UserError(f"{name!r} is {value!r}, but a schedule that falls linearly to 0 is written lin_0.001.")
            if _is_linear(value) and name not in _SCHEDULES_OF_SB3 and not issubclass(self.algorithm, PolicyGradient):
                raise UserError(f"{name!r} of {self.algo} cannot be a schedule, but is {value!r}.")
        with one_line(ValueError):
            check_number("n_timesteps", values["n_timesteps"], at_least=1)
            check_number("n_envs", values.get("n_envs", 1), at_least=1, integer=True)
            check_number("frame_stack", values.get("frame_stack"), at_least=1, integer=True, optional=True)
        if not isinstance(values["policy"], str):
            names = ", ".join(self.algorithm.policy_aliases)
            raise UserError(f"`policy` must be one of {names}, or module.Class, but is {values['policy']!r}.")

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        """Make schedules of `lin_0.001`, whatever they are of; numbers and None are the algorithm's own business."""
        for name, value in hyperparams.items():
            if _is_linear(value):
                hyperparams[name] = SimpleLinearSchedule(value.removeprefix("lin_"))
        return hyperparams

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        # The first moment at which the observation space is known, with all wrappers.
        if hyperparams["policy"] == "auto":
            hyperparams["policy"] = default_policy(self.algorithm, env.observation_space)
            saved_hyperparams["policy"] = hyperparams["policy"]
        processed: dict[str, Any] = super()._preprocess_action_noise(hyperparams, saved_hyperparams, env)
        return processed


def _is_linear(value: Any) -> bool:
    return isinstance(value, str) and _LINEAR.fullmatch(value) is not None


def _is_of_another_algorithm(name: str) -> bool:
    for plugin in registry.algorithms().values():
        with suppress(registry.PluginError):
            if name in (constructor_arguments(plugin.load(), CommonArguments) or ()):
                return True
    return False


def _on_one_path(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


@contextmanager
def _written_into(folder: str, verbose: int) -> Iterator[None]:
    """Say which folder it was that could not be written into, and what helps.

    Raises:
        UserError: The disk is full or read-only, or the folder somebody else's.
    """
    try:
        yield
    except OSError as error:
        remedy = "Free space or choose another -f."
        if error.errno in _CLOSED and error.filename and _on_one_path(Path(folder), Path(str(error.filename))):
            remedy = "Choose another -f."
        elif error.errno not in _FULL:
            raise
        if verbose > 1:
            raise
        raise UserError(f"The run cannot be written into the folder {folder}: {error.strerror}. {remedy}") from error


def default_policy(algorithm: type[BaseAlgorithm], space: spaces.Space[Any]) -> str:
    """The name of the policy that an algorithm has for a kind of observations.

    Raises:
        UserError: It has none.
    """
    kind = "MultiInput" if isinstance(space, spaces.Dict) else "Cnn" if is_image_space(space) else "Mlp"
    for alias in algorithm.policy_aliases:
        if alias.startswith(kind):
            return alias
    raise UserError(f"{algorithm.__name__} has no policy for {space}: name one with --hyperparams policy:...")


def train(args: argparse.Namespace) -> None:
    """Run `pg-zoo train`.

    Raises:
        UserError: Something that was asked for cannot be done.
    """
    algorithm = find_algorithm(args.algo, args.verbose)
    find_env(args.env, args.gym_packages, args.verbose)
    if args.trained_agent and not (args.trained_agent.endswith(".zip") and os.path.isfile(args.trained_agent)):
        raise UserError(f"--trained-agent must be an existing .zip file, but is {args.trained_agent!r}.")
    if args.n_timesteps < 1 and args.n_timesteps != -1:
        raise UserError(f"--n-timesteps must be at least 1, but is {args.n_timesteps}.")
    if args.seed < -1:
        raise UserError(f"--seed must be at least 0, or -1 for a random one, but is {args.seed}.")
    if args.seed < 0:
        args.seed = int(np.random.default_rng().integers(2**32 - 1))
    if args.num_threads > 0:
        th.set_num_threads(args.num_threads)
    print(f"{args.algo} ({algorithm.__module__}.{algorithm.__name__}) on {args.env}, seed {args.seed}")

    # Anything can be wrong in what files, plugins and environments define, and it is for the user to mend.
    with one_line(Exception, verbose=args.verbose), _written_into(args.log_folder, args.verbose):
        set_random_seed(args.seed)
        experiment = Experiment(args, algorithm)
        model = experiment.set_up()
    with (
        closing(experiment),
        one_line(ValueError, FloatingPointError, OSError, verbose=args.verbose),
        _written_into(args.log_folder, args.verbose),
    ):
        try:
            experiment.learn(model)
        finally:
            # Whatever stopped it: what was learnt until then is kept.
            if model.num_timesteps < experiment.n_timesteps:
                print(f"Stopped after {model.num_timesteps} of {experiment.n_timesteps} steps.")
            if model.num_timesteps > 0:
                try:
                    experiment.save_trained_model(model)
                except OSError:
                    Path(experiment.model_path).unlink(missing_ok=True)  # half of a file
                    raise
                print(f"Model: {experiment.model_path}")
    if experiment.tensorboard_log:
        print(f"TensorBoard: {experiment.tensorboard_log}")
