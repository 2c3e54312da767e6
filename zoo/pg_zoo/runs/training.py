"""Trainings: rl_zoo3's `ExperimentManager` with our registry and hyperparameter files, and a benchmark's cells."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, redirect_stdout, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from pprint import pprint
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import ALGOS, SimpleLinearSchedule, get_latest_run_id
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from pg_agents import registry
from pg_agents.agent import CommonArguments, PolicyGradient
from pg_agents.checks import check_number, constructor_arguments, suggestion
from pg_agents.engines.mlp import MLPEngine
from pg_agents.vec_env import make_vec
from pg_zoo.errors import UserError, one_line
from pg_zoo.lookup import find_algorithm, find_env, plugin_warnings
from pg_zoo.options import train_options
from pg_zoo.recipes.files import find_entry
from pg_zoo.recipes.trust import TRUST, data_only
from pg_zoo.results.storage import FORMAT, RANDOM, new_folder
from pg_zoo.runs.cell import Cell, defaults
from pg_zoo.runs.evaluating import (
    N_EVAL_ENVS,
    RandomAgent,
    own_random_state,
    random_env,
    run_evaluation,
    takes_most_probable,
)
from pg_zoo.runs.provenance import command_line, cpu_model, peak_memory, versions

OnEvaluation = Callable[[int, float], None]

N_TIMESTEPS = 100_000  # where neither a file nor the user says a number

# What ExperimentManager takes out of an entry before the algorithm's constructor gets it.
_MANAGED = {"callback", "env_kwargs", "env_wrapper", "frame_stack", "monitor_kwargs", "n_envs", "n_timesteps"}
_MANAGED |= {"noise_std", "noise_type", "normalize", "vec_env_wrapper"}
# What it hands to the constructor itself.
_OPTIONS = {"device", "env", "seed", "tensorboard_log", "verbose"}

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


def resolved(cell: Cell) -> Cell:
    """Build a cell's environments and model, which shows whether it can be trained, and close them.

    Args:
        cell: Its hyperparameters may lack `n_timesteps` and `policy`, or have `policy: auto`.

    Returns:
        The same cell with both resolved.

    Raises:
        UserError: Algorithm or environment is unknown or needs what is not installed, or a hyperparameter is wrong.
    """
    _register(cell.env)
    with _quiet(), _named(cell):
        if cell.algo == RANDOM:
            random_env(cell).close()
            return cell
        with closing(Training(cell)) as training:
            training.set_up()
            check_number("n_timesteps", training.n_timesteps, at_least=1, integer=True)
            # What YAML has and JSON has not is told now, not after the training.
            stored = json.loads(json.dumps({**training.saved, "n_timesteps": training.n_timesteps}, allow_nan=False))
    return replace(cell, hyperparams=stored)


def _register(env: str) -> None:
    if env not in gym.registry:  # plugins that fail are warned of once
        find_env(env)


@contextmanager
def _named(cell: Cell) -> Iterator[None]:
    try:
        with one_line(Exception):
            yield
    except UserError as error:
        raise UserError(f"{cell.algo} on {cell.env}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def run_cell(
    cell: Cell, folder: Path, on_evaluation: OnEvaluation | None = None, *, command: str | None = None
) -> None:
    """Train, evaluate and store the results.

    | file                            | what                                                                        |
    |---------------------------------|-----------------------------------------------------------------------------|
    | `cell.json`                     | what was trained, the score, speed, memory, versions, machine, command, date |
    | `hyperparameters.yml`           | for `pg-zoo train --conf-file`                                              |
    | `curve.csv`                     | timesteps, wall_time, mean_return: a row for each evaluation along the way  |
    | `evaluation.csv`                | episode, return, length: the evaluation after training                      |
    | `tensorboard/`                  | if asked for                                                                |
    | `agent.zip`, `vecnormalize.pkl` | the same                                                                    |

    Training is what `pg-zoo train` does with the same hyperparameters, seed and `--vec-env`. Evaluations neither change
    it nor count in its time.

    Args:
        cell: What to train.
        folder: Where the results go; must not exist. It is there when all of it is there.
        on_evaluation: Called with timesteps and mean return after each evaluation along the way. What it raises ends
            the training and is passed on.
        command: The command that this is part of; by default that of this process.

    Raises:
        UserError: The folder exists, or algorithm or environment is unknown.
    """
    _register(cell.env)
    with new_folder(folder) as unfinished:
        with _quiet():
            run = _act_randomly(cell) if cell.algo == RANDOM else _train(cell, unfinished, on_evaluation)
        _store(cell, run, unfinished, command or command_line())


class Training(Experiment):
    """An `Experiment` that takes its hyperparameters from a cell and writes no files of its own."""

    remedy = "Such an entry cannot be used here, only by pg-zoo train with --trust."
    saved: dict[str, Any]

    def __init__(self, cell: Cell) -> None:
        options = ["--algo", cell.algo, "--env", cell.env, "--seed", str(cell.seed), "--device", cell.device]
        options += ["--verbose", "0", "--eval-freq", "-1", "--vec-env", _vec_env(cell)]
        super().__init__(train_options(*options), find_algorithm(cell.algo))
        self.cell = cell

    def find_entry(self) -> tuple[dict[str, Any], str]:
        """The cell's."""
        # rl_zoo3 changes dictionaries inside.
        return deepcopy(self.cell.hyperparams), self.cell.origin

    def create_log_folder(self) -> None:
        """None is needed."""

    def create_callbacks(self) -> None:
        """None, but an environment for evaluations.

        It is made before the model is: making it seeds its action space, which may be the one of all environments of
        its class.
        """
        with own_random_state(self.cell.seed):
            self.evaluation_env = self.create_envs(min(N_EVAL_ENVS, self.cell.final_episodes), eval_env=True)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """As `Experiment`'s, without files of `Monitor`."""
        return super().create_envs(n_envs, eval_env, no_log=True)

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        self.saved = dict(saved_hyperparams)


def _vec_env(cell: Cell) -> str:
    """`native` where all environments can be stepped at once and, as SB3 expects it, episodes follow without a gap."""
    if {"env_wrapper", "monitor_kwargs"} & cell.hyperparams.keys() or gym.spec(cell.env).vector_entry_point is None:
        return "dummy"
    with closing(gym.make_vec(cell.env, 1, "vector_entry_point", **(cell.hyperparams.get("env_kwargs") or {}))) as env:
        return "native" if env.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP else "dummy"


@dataclass
class _Run:
    """What came of a cell."""

    returns: list[float]
    lengths: list[int]
    deterministic: bool = False
    engine: str = "none"
    device: str = "cpu"
    vec_env: str = "dummy"
    n_timesteps: int = 0
    wall_time: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)


def _train(cell: Cell, folder: Path, on_evaluation: OnEvaluation | None) -> _Run:
    set_random_seed(cell.seed)  # as `pg-zoo train` does
    with closing(Training(cell)) as training:
        model = training.set_up()
        env, deterministic = training.evaluation_env, training.deterministic_eval

        def evaluate(number: int, n_episodes: int) -> tuple[list[float], list[int]]:
            sync_envs_normalization(model.get_env(), env)  # type: ignore[arg-type] # a model that trains has one
            return run_evaluation(cell, model, env, number, n_episodes, deterministic)

        curve = _Curve(cell, lambda number: float(np.mean(evaluate(number, cell.eval_episodes)[0])), on_evaluation)
        if cell.tensorboard:
            model.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
        try:
            model.learn(training.n_timesteps, callback=[*training.callbacks, curve])
            curve.end()
        finally:
            if cell.tensorboard:
                model.logger.close()
        returns, lengths = evaluate(0, cell.final_episodes)
        if cell.keep_agent:
            model.save(folder / "agent")
            normalisation = model.get_vec_normalize_env()
            if normalisation is not None:
                normalisation.save(str(folder / "vecnormalize.pkl"))
    return _Run(
        returns,
        lengths,
        deterministic,
        _engine_name(model),
        str(model.device),
        training.args.vec_env,
        model.num_timesteps,
        curve.wall_time,
        curve.rows,
    )


def _engine_name(model: BaseAlgorithm) -> str:
    if not isinstance(model, PolicyGradient):
        return "sb3"
    return "mlp" if isinstance(model._engine, MLPEngine) else "autograd"


class _Curve(BaseCallback):
    """Evaluates at evenly spaced moments, and keeps the time of training, evaluations excluded.

    Args:
        cell: How often.
        evaluate: Gives the mean return of the evaluation with a number, from 1.
        on_evaluation: Called after each with timesteps and mean return.
    """

    def __init__(self, cell: Cell, evaluate: Callable[[int], float], on_evaluation: OnEvaluation | None) -> None:
        super().__init__()
        self.evaluate, self.on_evaluation = evaluate, on_evaluation
        # The last one waits for the last update.
        self.moments = [cell.n_timesteps * k / cell.eval_points for k in range(1, cell.eval_points)]
        self.at_the_end = cell.eval_points > 0
        self.log = cell.tensorboard
        self.rows: list[tuple[int, float, float]] = []
        self.wall_time = 0.0

    def _on_training_start(self) -> None:
        self.resumed = time.perf_counter()

    def _on_step(self) -> bool:
        if self.moments and self.num_timesteps >= self.moments[0]:
            self.moments = [moment for moment in self.moments if moment > self.num_timesteps]
            self._add_row()
        return True

    def end(self) -> None:
        """Evaluate what was learnt."""
        if self.at_the_end:
            self._add_row()
        else:
            self.wall_time += time.perf_counter() - self.resumed

    def _add_row(self) -> None:
        self.wall_time += time.perf_counter() - self.resumed
        timesteps, mean_return = self.model.num_timesteps, self.evaluate(len(self.rows) + 1)
        self.rows.append((timesteps, self.wall_time, mean_return))
        if self.log:
            self.logger.record("eval/mean_reward", mean_return)
            self.logger.dump(timesteps)
        if self.on_evaluation is not None:
            self.on_evaluation(timesteps, mean_return)
        self.resumed = time.perf_counter()


def _act_randomly(cell: Cell) -> _Run:
    with own_random_state(cell.seed), closing(random_env(cell)) as env:
        env.action_space.seed(cell.seed)
        return _Run(*run_evaluation(cell, RandomAgent(env), env, 0, cell.final_episodes, deterministic=False))


def _store(cell: Cell, run: _Run, folder: Path, command: str) -> None:
    _write_rows(folder / "curve.csv", "timesteps,wall_time,mean_return", run.curve)
    episodes = zip(itertools.count(), run.returns, run.lengths)
    _write_rows(folder / "evaluation.csv", "episode,return,length", episodes)
    text = yaml.safe_dump({cell.env: cell.hyperparams})
    (folder / "hyperparameters.yml").write_text(text, encoding="utf-8")
    record = {
        "format": FORMAT,
        "algo": cell.algo,
        "env": cell.env,
        "seed": cell.seed,
        "hyperparams": cell.hyperparams,
        "defaults": defaults(cell),
        "origin": cell.origin,
        "n_timesteps": run.n_timesteps,
        "engine": run.engine,
        "device": run.device,
        "vec_env": run.vec_env,
        "deterministic": run.deterministic,
        "score": float(np.mean(run.returns)),
        "wall_time": run.wall_time,
        "steps_per_second": run.n_timesteps / run.wall_time if run.wall_time else None,
        "peak_memory_mib": peak_memory(),
        "versions": versions(cell),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count()},
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "options": cell.options,
    }
    (folder / "cell.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _write_rows(path: Path, header: str, rows: Iterable[tuple[float, ...]]) -> None:
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
