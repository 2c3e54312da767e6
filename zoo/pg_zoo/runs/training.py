"""The training of a benchmark's cell, with its evaluations and the files of its results."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import yaml
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from pg_agents.envs.evaluation import deterministic_evaluation
from pg_agents.envs.make import make_vec
from pg_agents.resuming.checkpoint import can_be_stored
from pg_agents.resuming.folders import checkpoints
from pg_agents.resuming.log import continued_logger
from pg_zoo.errors import UserError, one_line
from pg_zoo.lookup import find_algorithm, find_env
from pg_zoo.results.storage import FORMAT, RANDOM, new_folder
from pg_zoo.runs.cell import Cell, defaults
from pg_zoo.runs.evaluating import N_EVAL_ENVS, RandomAgent, own_random_state, random_env, run_evaluation
from pg_zoo.runs.forecast import Progress
from pg_zoo.runs.normalization import STATISTICS
from pg_zoo.runs.partial import CannotGoOnError, TimedCheckpoint, partial_results
from pg_zoo.runs.provenance import AddedMemory, command_line, cpu_model, versions
from pg_zoo.runs.recipe import Recipe, VecEnvKind, closing_envs, resolve

OnEvaluation = Callable[[int, float], None]


def resolved(cell: Cell) -> Cell:
    """Check that a cell can be trained, by building its environments and model, and close them.

    Args:
        cell: A cell whose hyperparameters may lack `n_timesteps` and `policy`, or have `policy: auto`.

    Returns:
        The same cell with both resolved.

    Raises:
        UserError: The algorithm or environment is unknown or needs a missing package, or a hyperparameter is wrong.
    """
    _register(cell)
    with _quiet(), _named(cell):
        if cell.vec_env == "auto":
            cell = replace(cell, vec_env=_vec_env(cell))
        if cell.algo == RANDOM:
            random_env(cell).close()
            return cell
        with built(cell) as training:
            # Values that JSON cannot store are reported now, not after the training.
            entry = {**training.recipe.entry, "n_timesteps": training.recipe.n_timesteps}
            stored = json.loads(json.dumps(entry, allow_nan=False))
    return replace(cell, hyperparams=stored)


def _register(cell: Cell) -> None:
    if cell.env not in gym.registry:  # so that a failing plugin causes only one warning
        find_env(cell.env, cell.gym_packages)


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

    | file                            | content                                                                    |
    |---------------------------------|----------------------------------------------------------------------------|
    | `cell.json`                     | the cell, its score, speed, memory, versions, machine, command, date       |
    | `hyperparameters.yml`           | the entry, for `pg-zoo train --conf-file`                                  |
    | `curve.csv`                     | timesteps, wall_time, mean_return: a row for each evaluation in training   |
    | `evaluation.csv`                | episode, return, length: the evaluation after training                     |
    | `tensorboard/`                  | a log, with `tensorboard`                                                  |
    | `agent.zip`, `vecnormalize.pkl` | the agent, with `keep_agent`                                               |

    The training equals that of `pg-zoo train` with the same hyperparameters, seed and `--vec-env`. Evaluations neither
    change it nor count towards its time.

    A training that takes longer than ten minutes goes on from a checkpoint after an interruption, if its algorithm and
    environments can be stored. The results are the same.

    Args:
        cell: The cell.
        folder: The folder for the results, which must not exist. It appears once it is complete.
        on_evaluation: Called with timesteps and mean return after each evaluation during training. An exception ends
            the training and is passed on.
        command: The command that this training is part of; by default that of this process.

    Raises:
        UserError: The folder exists, or the algorithm or environment is unknown.
    """
    memory = AddedMemory()
    _register(cell)
    with partial_results(cell, folder) as partial, new_folder(folder) as unfinished:
        progress = Progress(unfinished, max(1, cell.n_timesteps))

        def hear(timesteps: int, mean_return: float) -> None:
            progress.tell(timesteps)
            if on_evaluation is not None:
                on_evaluation(timesteps, mean_return)

        with _quiet():
            if cell.algo == RANDOM:
                run = _act_randomly(cell)
            else:
                try:
                    run = _train(cell, unfinished, partial, hear)
                except CannotGoOnError:
                    shutil.rmtree(partial)
                    run = _train(cell, unfinished, partial, hear)
        progress.end()
        _store(cell, run, unfinished, command or command_line(), memory.at_its_peak(), progress.seconds)


@dataclass(frozen=True)
class Built:
    """The environments and the model of a cell.

    Attributes:
        recipe: Their recipe, with the policy named.
        model: The model, with the training environments.
        eval_envs: Environments of evaluations.
        vec_env: The kind of the training environments.
        goes_on: Whether the model comes from a checkpoint.
    """

    recipe: Recipe
    model: BaseAlgorithm
    eval_envs: VecEnv
    vec_env: VecEnvKind
    goes_on: bool


@contextmanager
def built(cell: Cell, partial: Path | None = None) -> Iterator[Built]:
    """Make the environments and the model of a cell, without writing files, and close the environments at the end.

    Args:
        cell: The cell.
        partial: A folder that may have checkpoints, from the newest of which the model comes then.

    Raises:
        UserError: The algorithm or environment is unknown, or a hyperparameter is wrong.
        CannotGoOnError: The checkpoints are of another training.
    """
    remedy = "Such an entry cannot be used here, only by pg-zoo train with --trust."
    algorithm = find_algorithm(cell.algo)
    recipe = resolve(cell.algo, algorithm, cell.env, cell.hyperparams, cell.origin, remedy=remedy)
    vec_env, n_eval_envs = _vec_env(cell), min(N_EVAL_ENVS, cell.final_episodes)
    evaluated_in = _vec_env(replace(cell, vec_env="own")) if vec_env == "envpool" else vec_env
    with ExitStack() as stack:
        # Evaluation environments come first: making them seeds their action space, which the environments of a class,
        # those of training included, may share.
        with own_random_state(cell.seed):
            eval_envs = stack.enter_context(closing_envs(recipe.make_eval_envs(n_eval_envs, cell.seed, evaluated_in)))
        envs = stack.enter_context(closing_envs(_on_one_thread(recipe, vec_env).make_envs(cell.seed, vec_env)))
        goes_on = partial is not None and bool(checkpoints(partial))
        if partial is not None and goes_on:
            try:
                model: BaseAlgorithm = recipe.resumed_model(partial, envs, device=cell.device)
            except Exception as error:
                raise CannotGoOnError(str(error)) from error
        else:
            model = recipe.make_model(envs, cell.seed, device=cell.device)
        yield Built(recipe.settled(envs), model, eval_envs, vec_env, goes_on)


def _on_one_thread(recipe: Recipe, vec_env: VecEnvKind) -> Recipe:
    """EnvPool would step in as many threads as there are cores, but other cells train beside this one."""
    if vec_env != "envpool":
        return recipe
    return replace(recipe, env_kwargs={"num_threads": 1, **(recipe.env_kwargs or {})})


def _vec_env(cell: Cell) -> Literal["dummy", "native", "world", "envpool"]:
    """How the environments of a cell are stepped: `vec_env` of the cell, once its environment has been asked."""
    if cell.vec_env != "auto" and cell.vec_env != "own":
        return cell.vec_env
    if needs_single_envs(cell):
        return "dummy"
    if cell.vec_env == "auto" and has_world(cell):
        return "world"
    if gym.spec(cell.env).vector_entry_point is None:
        return "dummy"
    with closing(gym.make_vec(cell.env, 1, "vector_entry_point", **(cell.hyperparams.get("env_kwargs") or {}))) as env:
        return "native" if env.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP else "dummy"


def needs_single_envs(cell: Cell) -> set[str]:
    """The hyperparameters of a cell that leave no room for a world or vector version of its environment."""
    return {"env_wrapper", "monitor_kwargs"} & cell.hyperparams.keys()


def has_world(cell: Cell) -> bool:
    """Whether the environment has a world that takes these arguments."""
    try:
        make_vec(cell.env, 1, world=True, env_kwargs=cell.hyperparams.get("env_kwargs")).close()
    except Exception:  # of many kinds: the environment itself, made without a world, reports what is wrong
        return False
    return True


@dataclass
class _Run:
    """The results of a cell."""

    returns: list[float]
    lengths: list[int]
    deterministic: bool = False
    engine: str = "none"
    device: str = "cpu"
    vec_env: str = "dummy"
    n_timesteps: int = 0
    wall_time: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)


def _train(cell: Cell, folder: Path, partial: Path, on_evaluation: OnEvaluation) -> _Run:
    set_random_seed(cell.seed)  # as `pg-zoo train` does
    with built(cell, partial) as training:
        env, recipe = training.eval_envs, training.recipe
        model: Any = training.model
        deterministic = recipe.deterministic_evaluation and deterministic_evaluation(env)

        def evaluate(number: int, n_episodes: int) -> tuple[list[float], list[int]]:
            sync_envs_normalization(model.get_env(), env)
            return run_evaluation(cell, model, env, number, n_episodes, deterministic)

        curve = _Curve(cell, env, lambda number: float(np.mean(evaluate(number, cell.eval_episodes)[0])), on_evaluation)
        callbacks, log = [*recipe.callbacks, curve], folder / "tensorboard" if cell.tensorboard else None
        if log is not None:
            model.set_logger(_logger(log, partial / "tensorboard", model.num_timesteps))
        # A trial on the environments of evaluations tells nothing about EnvPool's.
        if can_be_stored(model) and training.vec_env != "envpool":
            callbacks.append(TimedCheckpoint(cell, partial, env, log, curve.paused))
        try:
            if training.goes_on:
                model.learn_on(callback=callbacks)
            else:
                model.learn(recipe.n_timesteps, callbacks)
            curve.end()
        finally:
            if log is not None:
                model.logger.close()
        returns, lengths = evaluate(0, cell.final_episodes)
        if cell.keep_agent:
            model.save(folder / "agent.zip")
            normalisation = model.get_vec_normalize_env()
            if normalisation is not None:
                normalisation.save(str(folder / STATISTICS))
    return _Run(
        returns,
        lengths,
        deterministic,
        _engine_name(model),
        str(model.device),
        training.vec_env,
        model.num_timesteps,
        curve.wall_time,
        curve.rows,
    )


def _logger(folder: Path, before: Path, n_steps: int) -> Logger:
    """The log, which goes on where an interrupted training has left one."""
    if not before.is_dir():
        return configure(str(folder), ["tensorboard"])
    shutil.copytree(before, folder)
    return continued_logger(str(folder), 0, n_steps)


def _engine_name(model: BaseAlgorithm) -> str:
    return str(getattr(model, "engine_in_use", "sb3"))


class _Curve(BaseCallback):
    """Evaluates at evenly spaced moments, and measures the time of training without evaluations.

    Args:
        cell: The cell, with the number of evaluations.
        env: The environments of evaluations, whose state checkpoints keep.
        evaluate: Maps the number of an evaluation, from 1 on, to its mean return.
        on_evaluation: Called with timesteps and mean return after each evaluation.
    """

    def __init__(self, cell: Cell, env: VecEnv, evaluate: Callable[[int], float], on_evaluation: OnEvaluation) -> None:
        super().__init__()
        self.env = env
        self.evaluate, self.on_evaluation = evaluate, on_evaluation
        # The last evaluation comes after the last update, in `end`.
        self.moments = [cell.n_timesteps * k / cell.eval_points for k in range(1, cell.eval_points)]
        self.at_the_end = cell.eval_points > 0
        self.log = cell.tensorboard
        self.rows: list[tuple[int, float, float]] = []
        self.wall_time = 0.0

    def _on_training_start(self) -> None:
        self.resumed = time.perf_counter()

    def next_look(self) -> int | None:
        """Number of calls until the next evaluation, for compiled code that takes the steps before it in one call."""
        missing = self.moments[0] - self.model.num_timesteps if self.moments else None
        return None if missing is None else max(1, math.ceil(missing / self.training_env.num_envs))

    def _on_step(self) -> bool:
        if self.moments and self.num_timesteps >= self.moments[0]:
            self.moments = [moment for moment in self.moments if moment > self.num_timesteps]
            self._add_row()
        return True

    def end(self) -> None:
        """Make the last evaluation, after training."""
        if self.at_the_end:
            self._add_row()
        else:
            self.wall_time += time.perf_counter() - self.resumed

    def _add_row(self) -> None:
        with self.paused():
            timesteps, mean_return = self.model.num_timesteps, self.evaluate(len(self.rows) + 1)
            self.rows.append((timesteps, self.wall_time, mean_return))
            if self.log:
                self.logger.record("eval/mean_reward", mean_return)
                self.logger.dump(timesteps)
            self.on_evaluation(timesteps, mean_return)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock of training."""
        self.wall_time += time.perf_counter() - self.resumed
        yield
        self.resumed = time.perf_counter()

    def checkpoint_state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"rows": [list(row) for row in self.rows], "moments": self.moments, "wall_time": self.wall_time}

    def restore_checkpoint_state(self, state: dict[str, Any]) -> None:
        """Go on from there; tell of the evaluations again, as whoever hears of them may be another process."""
        self.rows = [(timesteps, wall_time, value) for timesteps, wall_time, value in state["rows"]]
        self.moments, self.wall_time = list(state["moments"]), state["wall_time"]
        for timesteps, _, mean_return in self.rows:
            self.on_evaluation(timesteps, mean_return)
        self.resumed = time.perf_counter()


def _act_randomly(cell: Cell) -> _Run:
    with own_random_state(cell.seed), closing(random_env(cell)) as env:
        env.action_space.seed(cell.seed)
        found = run_evaluation(cell, RandomAgent(env), env, 0, cell.final_episodes, deterministic=False)
        return _Run(*found, vec_env="world" if cell.vec_env == "world" else "dummy")


def _store(cell: Cell, run: _Run, folder: Path, command: str, memory: float | None, total_seconds: float) -> None:
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
        "total_seconds": total_seconds,
        "steps_per_second": run.n_timesteps / run.wall_time if run.wall_time else None,
        "peak_memory_mib": memory,
        "versions": versions(cell),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count()},
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "options": cell.options,
    }
    if cell.full_steps is not None:
        record["full_steps"] = cell.full_steps
    (folder / "cell.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _write_rows(path: Path, header: str, rows: Iterable[tuple[float, ...]]) -> None:
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
