"""One training of a benchmark: an algorithm on an environment with a seed, evaluated along the way and at the end."""

from __future__ import annotations

import itertools
import json
import os
import platform
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, redirect_stdout, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from inspect import Parameter, signature
from pathlib import Path, PurePath
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import yaml
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

import pg_agents
from pg_agents import registry
from pg_agents.agent import CommonArguments, PolicyGradient
from pg_agents.checks import check_number, constructor_arguments
from pg_agents.engines.mlp import MLPEngine
from pg_agents.envs.evaluation import evaluate_policy
from pg_zoo.cli import train_options
from pg_zoo.errors import UserError, one_line
from pg_zoo.experiment import Experiment
from pg_zoo.lookup import find_algorithm, find_env
from pg_zoo.storage import COMMIT, FORMAT, RANDOM, new_folder

MAX_SEED = 2**30  # evaluations take the seeds above
N_EVAL_ENVS = 10  # environments of an evaluation, at most

# What scores and speed depend on, where it is installed.
_PACKAGES = ["pg-agents", "stable-baselines3", "sb3-contrib", "rl_zoo3", "gymnasium", "torch", "numpy", "numba"]
_PACKAGES += ["ale-py", "box2d", "box2d-py", "mujoco"]

_PLAIN = (bool, int, float, str, type(None))
# Arguments of constructors that training does not depend on, or that are recorded by themselves.
_NO_HYPERPARAMETERS = {"device", "seed", "tensorboard_log", "verbose", "stats_window_size", "_init_setup_model"}

OnEvaluation = Callable[[int, float], None]


@dataclass(frozen=True)
class Cell:
    """One training: an algorithm on an environment with one seed.

    Attributes:
        algo: The algorithm's registered name, or `"random"`: uniformly random actions, no training.
        env: The Gymnasium id.
        seed: Random seed, below 2^30.
        hyperparams: The resolved entry in rl_zoo3's schema, with `n_timesteps`: all that decides the run.
        origin: Where the entry is from, in words.
        eval_points: Evaluations along the learning curve, evenly spaced, the last one at the end.
        eval_episodes: Episodes of each.
        final_episodes: Episodes of the evaluation after training, whose mean return is the score.
        tensorboard: Whether to keep a TensorBoard log.
        keep_agent: Whether to keep the trained model, and `vecnormalize.pkl` where observations are normalised.
        device: The torch device.

    Raises:
        ValueError: A number is out of range.
    """

    algo: str
    env: str
    seed: int
    hyperparams: dict[str, Any] = field(hash=False)
    origin: str = ""
    eval_points: int = 20
    eval_episodes: int = 10
    final_episodes: int = 100
    tensorboard: bool = False
    keep_agent: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_number("seed", self.seed, at_least=0, at_most=MAX_SEED - 1, integer=True)
        check_number("eval_points", self.eval_points, at_least=0, integer=True)
        check_number("eval_episodes", self.eval_episodes, at_least=1, integer=True)
        check_number("final_episodes", self.final_episodes, at_least=1, integer=True)

    def __str__(self) -> str:
        return f"{self.algo} {self.env} seed {self.seed}"

    @property
    def path(self) -> PurePath:
        """Its folder within a results folder."""
        return PurePath("cells", self.algo.replace("/", "-"), self.env.replace("/", "-"), f"seed_{self.seed}")

    @property
    def n_timesteps(self) -> int:
        """Environment steps that it trains for; 0 for random actions."""
        return int(self.hyperparams.get("n_timesteps", 0))

    @property
    def options(self) -> dict[str, int]:
        """How it is evaluated."""
        return {name: getattr(self, name) for name in ("eval_points", "eval_episodes", "final_episodes")}


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
            _random_env(cell).close()
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


def command_line() -> str:
    """The command of this process."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


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
        with _own_random_state(self.cell.seed):
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
            return _evaluate(cell, model, env, number, n_episodes, deterministic)

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


class _RandomAgent:
    """Draws actions uniformly, as Gymnasium's spaces do."""

    def __init__(self, env: VecEnv) -> None:
        self.env = env

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        return np.array([self.env.action_space.sample() for _ in range(self.env.num_envs)]), state


def _random_env(cell: Cell) -> VecEnv:
    n_envs = min(N_EVAL_ENVS, cell.final_episodes)
    return make_vec_env(gym.spec(cell.env).make, n_envs, env_kwargs=cell.hyperparams.get("env_kwargs"))


def _act_randomly(cell: Cell) -> _Run:
    with _own_random_state(cell.seed), closing(_random_env(cell)) as env:
        env.action_space.seed(cell.seed)
        return _Run(*_evaluate(cell, _RandomAgent(env), env, 0, cell.final_episodes, deterministic=False))


def _evaluate(
    cell: Cell, agent: PolicyPredictor, env: VecEnv, number: int, n_episodes: int, deterministic: bool
) -> tuple[list[float], list[int]]:
    """Returns, not normalised, and lengths of the episodes."""
    seed = evaluation_seed(cell.seed, number)
    with _own_random_state(seed, getattr(agent, "device", None)):
        env.seed(seed)
        found = evaluate_policy(agent, env, n_episodes, deterministic, return_episode_rewards=True)
    returns, lengths = found
    assert isinstance(returns, list)
    assert isinstance(lengths, list)
    if not np.isfinite(returns).all():
        raise FloatingPointError(f"An evaluation of {cell} has returns that are not finite.")
    return [float(value) for value in returns], [int(length) for length in lengths]


def evaluation_seed(seed: int, number: int) -> int:
    """The seed of an evaluation's first environment, from 2^30 on, which training never uses.

    Args:
        seed: The cell's.
        number: 0 for the evaluation after training; 1, 2, ... for those along the way.
    """
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return MAX_SEED + drawn % (MAX_SEED - N_EVAL_ENVS)  # below 2^31: some environments take no larger ones


@contextmanager
def _own_random_state(seed: int, device: th.device | None = None) -> Iterator[None]:
    """Seed the global generators for a while, and put them back where they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what others may draw from
    gpus = [device] if device is not None and device.type == "cuda" else []
    with th.random.fork_rng(gpus):
        try:
            set_random_seed(seed, using_cuda=bool(gpus))
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


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
        "peak_memory_mib": _peak_memory(),
        "versions": _versions(cell),
        "machine": {"cpu": _cpu_model(), "cores": os.cpu_count()},
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "options": cell.options,
    }
    (folder / "cell.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def defaults(cell: Cell) -> dict[str, Any]:
    """What the algorithm takes where the hyperparameters say nothing; what JSON has not, as text.

    Nothing for random actions, nor where a constructor's `**kwargs` hides what it takes.
    """
    if cell.algo == RANDOM:
        return {}
    algorithm = find_algorithm(cell.algo)
    names = set(constructor_arguments(algorithm, CommonArguments) or ()) - _NO_HYPERPARAMETERS - set(cell.hyperparams)
    known = {**signature(PolicyGradient.__init__).parameters, **signature(algorithm.__init__).parameters}
    found = {name: known[name].default for name in sorted(names) if known[name].default is not Parameter.empty}
    return {name: value if isinstance(value, _PLAIN) else _as_text(value) for name, value in found.items()}


def _as_text(value: Any) -> str:
    """The same in every process: without the address of a function."""
    return str(getattr(value, "__qualname__", value))


def _write_rows(path: Path, header: str, rows: Iterable[tuple[float, ...]]) -> None:
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _peak_memory() -> float | None:
    """Of the largest of this process and those that it has started, in MiB."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # Linux counts in a new process what the one that started it had: here is its own.
    with suppress(OSError):
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        peaks[0] = int(line.split()[1])
    return max(peaks) / (1024 if sys.platform != "darwin" else 1024**2)


def _versions(cell: Cell) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    algorithms, envs = registry.plugins(registry.ALGORITHMS), registry.plugins(registry.ENVS)
    used = [algorithms[cell.algo]] if cell.algo in algorithms else []
    used += [envs[name] for name, env_ids in registry.register_envs().items() if cell.env in env_ids]
    found |= {COMMIT: _LOADED} if _LOADED else {}
    return found | dict(plugin.distribution.rsplit(" ", 1) for plugin in used)


def commit(folder: Path) -> str | None:
    """The commit of a git checkout, with `+changes` if its Python files differ from it; None if it is none.

    Args:
        folder: Its root.
    """
    if not (folder / ".git").exists():  # else, git would look for one that the folder lies in
        return None
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as in its hooks
    # Without a lock, which would be in the way of someone who commits meanwhile.
    git = ["git", "--no-optional-locks", "-C", str(folder)]
    packages = [f":(glob)**/{package}/**/*.py" for package in ("pg_agents", "pg_envs", "pg_zoo")]
    try:
        head, changes = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True, env=environ, timeout=5).stdout
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", *packages])
        )
    except (OSError, subprocess.SubprocessError):  # no git, or no commit yet
        return None
    return head.strip() + "+changes" * bool(changes)


# Of the code that this process has loaded, or was forked with: the checkout may change while it runs.
_LOADED = commit(Path(pg_agents.__file__).parents[1])


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
