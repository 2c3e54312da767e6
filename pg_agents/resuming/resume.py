"""Resuming: an agent made again from a checkpoint, and its training, which goes on."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import configure_logger

from pg_agents.arguments import check_keywords, constructor_arguments
from pg_agents.files import values
from pg_agents.logs import Default
from pg_agents.resuming import agents, callbacks
from pg_agents.resuming.arguments import made
from pg_agents.resuming.checkpoint import Checkpoint, class_name
from pg_agents.resuming.environments import (
    AnotherEnvironmentError,
    Keeper,
    cut,
    equal,
    makers_of,
    name_of,
    shorten,
    shorten_files,
    writers_of,
)
from pg_agents.resuming.folders import MANIFEST, NoCheckpointError, checkpoints, whole_checkpoints
from pg_agents.resuming.log import continued_logger, put_pending_values_back
from pg_agents.resuming.outputs import check_log_folder
from pg_agents.resuming.randomness import restore_global_generators
from pg_agents.resuming.rebuilding import NotDescribableError, rebuild
from pg_agents.resuming.run import Run, callbacks_in

SomeAgent = TypeVar("SomeAgent", bound=OnPolicyAlgorithm)


@dataclass
class Interrupted:
    """A training that can go on.

    Attributes:
        folder: Of the run.
        state: Of the checkpoint.
        callbacks: The classes of the run's callbacks.
        logs_elsewhere: Whether `tensorboard_log` was given anew.
    """

    folder: Path
    state: dict[str, Any]
    callbacks: list[str]
    logs_elsewhere: bool = False

    @property
    def records_hyperparameters(self) -> bool:
        """Whether the log had the hyperparameters."""
        return bool(self.state["log"]["hparams"])


def resumed(
    cls: type[SomeAgent], folder: str | Path, env: Any, device: th.device | str, given: dict[str, Any]
) -> tuple[SomeAgent, Interrupted]:
    """An agent in the state of the newest whole checkpoint.

    Args:
        cls: The agent's class.
        folder: Of the run.
        env: The environment; None to make it again.
        device: Of the policy.
        given: Arguments given again.

    Raises:
        TypeError: One of these is not an argument of the constructor.
        NoCheckpointError: There is no whole checkpoint.
        ValueError: The checkpoint is of another class, or something has to be given again.
        AnotherEnvironmentError: The environment does not go on as the checkpoint's did.
    """
    check_keywords(cls, constructor_arguments(cls), given)
    for checkpoint, manifest in whole_checkpoints(folder):
        if manifest.get("algorithm") != class_name(cls):
            known = str(manifest.get("algorithm")).rpartition(":")[2]
            raise ValueError(
                f"{checkpoint} is of the class {known} ({manifest.get('algorithm')}), not {cls.__name__}: call "
                f"{known}.resume."
            )
        try:
            parts, state = values.read(checkpoint, "made"), values.read(checkpoint, "state")
        except values.DamagedFileError as reason:
            warnings.warn(f"The checkpoint {checkpoint} is damaged and skipped: {reason}", stacklevel=3)
            continue
        if agents.goes_on_from_file(cls):
            agent = _loaded(cls, checkpoint, parts, env, device, given)
            agents.put_state_back(agent, state["agent"])
            restore_global_generators(state["generators"])
        else:
            agent = _made(cls, checkpoint, parts, state, env, device, given)
            _put_back(agent, checkpoint, parts, state, given)
        return agent, Interrupted(Path(folder), state, parts["callbacks"], "tensorboard_log" in given)
    raise NoCheckpointError(f"There is no whole checkpoint in {folder}: {_why_there_is_none(Path(folder))}.")


def _why_there_is_none(folder: Path) -> str:
    if tried := ", ".join(path.name for path in checkpoints(folder)):
        return f"tried {tried}"
    if not folder.is_dir():
        return "it is a file, not the folder of a run" if folder.exists() else "there is no such folder"
    if (folder / MANIFEST).exists():
        return f"it is a checkpoint itself, and the folder of its run is {folder.absolute().parent}"
    return "it has no folder step_..."


def _loaded(
    cls: type[SomeAgent],
    checkpoint: Path,
    parts: dict[str, Any],
    env: Any,
    device: th.device | str,
    given: dict[str, Any],
) -> SomeAgent:
    """An agent whose file is in the checkpoint; the reward is given again, alone or in an environment."""
    if env is None and given.get("reward") is None:
        raise ValueError(
            f"{checkpoint} does not hold the reward. Give it again, or the environment that states it, as it was: "
            f"{cls.__name__}.resume({str(checkpoint.parent)!r}, reward=...)."
        )
    known = parts["prompts"]
    agent: Any = cls.load(str(checkpoint / agents.FILE), env=env, device=device, **{"prompts": known, **given})
    if len(agent.prompts) != len(known):
        raise ValueError(
            f"`prompts` must be as they were in {checkpoint}, {len(known)}, but there are {len(agent.prompts)}."
        )
    loaded: SomeAgent = agent
    return loaded


def _made(
    cls: type[SomeAgent],
    checkpoint: Path,
    parts: dict[str, Any],
    state: dict[str, Any],
    env: Any,
    device: th.device | str,
    given: dict[str, Any],
) -> SomeAgent:
    for name in getattr(cls, "fixed_on_load", ()):
        if name in given and name not in parts["given_again"]:
            raise ValueError(f"`{name}` cannot be changed: the state in {checkpoint} belongs to the one that it had.")
    missing = {name: reason for name, reason in parts["given_again"].items() if name not in given}
    if missing:
        again = ", ".join(f"{name}=..." for name in missing)
        raise ValueError(
            f"{checkpoint} does not hold all arguments, because {'; '.join(missing.values())}. Give them again, as "
            f"they were: {cls.__name__}.resume({str(checkpoint.parent)!r}, {again})."
        )
    if env is None:
        env = _rebuilt(cls, checkpoint, parts, state)
    arguments = {name: made(value) for name, value in parts["arguments"].items()} | given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were given when the arguments were
        agent: SomeAgent = cls(env=env, device=device, **arguments)
    found = [str(agent.observation_space), str(agent.action_space)]
    if agent.n_envs != parts["n_envs"] or found != parts["spaces"]:
        raise ValueError(
            f"`env` must be like that of {checkpoint}, with n_envs={parts['n_envs']} and the spaces "
            f"{' and '.join(parts['spaces'])}, but has n_envs={agent.n_envs} and {' and '.join(found)}."
        )
    return agent


def _rebuilt(cls: type, checkpoint: Path, parts: dict[str, Any], state: dict[str, Any]) -> Any:
    reason = parts["environment_reason"]
    if parts["environment"] is not None:
        shorten_files(state["files"])
        try:
            return rebuild(parts["environment"])
        except NotDescribableError as error:
            reason = str(error)
    raise ValueError(
        f"The environment of {checkpoint}, {parts['environment_name']}, cannot be made again, because {reason}. Give "
        f"it: {cls.__name__}.resume({str(checkpoint.parent)!r}, env=...)."
    )


def _put_back(
    agent: OnPolicyAlgorithm, checkpoint: Path, parts: dict[str, Any], state: dict[str, Any], given: dict[str, Any]
) -> None:
    assert agent.env is not None, "made just now"
    own = state["checkpoint"]
    keeper = Keeper(**own["keeper"])
    makers = makers_of(agent.env, agent)
    keeper.check(agent.env, makers)
    keeper.put_back(agent.env, state["environment"], makers)
    for file, (_, size) in zip(writers_of(agent.env), state["files"], strict=False):
        shorten(file, size)
    changed = given.keys() - parts["given_again"].keys()
    agents.put_state_back(agent, state["agent"], changed | ({"lr_schedule"} if "learning_rate" in changed else set()))
    if keeper.reason is not None:
        generator = np.random.default_rng()
        generator.bit_generator.state = own["generator before"]
        first, known = cut(agent.env, generator), agent._last_obs
        if agent._vec_normalize_env is not None:  # whose statistics have this observation already
            first, known = agent._vec_normalize_env.get_original_obs(), agent._last_original_obs
        if not equal(first, known):
            raise AnotherEnvironmentError(
                f"The environment {name_of(agent.env)} does not start as the one of {checkpoint} did: a reset with "
                "the same seed has another first observation."
            )
        keeper.put_back(agent.env, state["environment"], makers)
    restore_global_generators(state["generators"])


# Going on


def interrupted_run(agent: Any) -> Interrupted:
    """The training that `resume` has read.

    Raises:
        ValueError: There is none.
    """
    if agent.interrupted is None:
        raise ValueError("`learn_on` goes on with what `resume` has read; otherwise call `learn`.")
    found: Interrupted = agent.interrupted
    return found


def warn_of_another_training(agent: Any, stacklevel: int) -> None:
    """Warn that `learn` leaves the training behind that `resume` has read.

    Args:
        agent: The agent.
        stacklevel: As for `warnings.warn`, from here.
    """
    if agent.interrupted is not None:
        warnings.warn(
            "`learn` begins a new training with the parameters of the checkpoint; `learn_on` goes on with the "
            "interrupted one.",
            stacklevel=stacklevel,
        )


def prepared(
    agent: Any,
    interrupted: Interrupted,
    total_timesteps: int | None,
    callback: MaybeCallback,
    log_interval: int | Default | None,
    progress_bar: bool,
) -> Run:
    """The run that goes on, and its callbacks, as they were at the checkpoint.

    Args:
        agent: As `resumed` has made it.
        interrupted: The training.
        total_timesteps: Its end; None for the end that it had.
        callback: The callbacks, given again.
        log_interval: As for `learn`; by default as before.
        progress_bar: As for `learn`.

    Raises:
        ValueError: The end is before the one that it had, callbacks are missing, or `Checkpoint` has another folder.
        ForeignFileError: The folder of TensorBoard is none.
    """
    state = interrupted.state
    interval = state["run"]["log_interval"] if isinstance(log_interval, Default) else log_interval
    before = state["run"]["total_timesteps"]
    total_timesteps = before if total_timesteps is None else total_timesteps
    if total_timesteps < before:
        raise ValueError(
            f"`total_timesteps` is {total_timesteps}, but must be at least {before}, with which the training began."
        )
    root = _with_checkpoint(interrupted, callback)
    _check_callbacks(interrupted, callback, root)
    if not agent._custom_logger:
        folder = state["log"]["folder"]
        if interrupted.logs_elsewhere:
            agent._logger = configure_logger(agent.verbose, agent.tensorboard_log, type(agent).__name__)
        elif folder is None:
            agent._logger = configure_logger(agent.verbose)
        else:
            check_log_folder(folder)
            agent._logger = continued_logger(folder, agent.verbose, agent.num_timesteps)
    agent.start_time, agent._total_timesteps = time.time_ns() - state["agent"]["elapsed"], total_timesteps
    iteration = state["run"]["iteration"]
    started: BaseCallback = agent._init_callback(root, progress_bar)
    run = Run(total_timesteps, interval, started, iteration)
    # The local variables of SB3's loop, which callbacks may read.
    shown = {
        "self": agent,
        "total_timesteps": total_timesteps,
        "callback": started,
        "log_interval": interval,
        "tb_log_name": type(agent).__name__,
        "reset_num_timesteps": False,
        "progress_bar": progress_bar,
        "iteration": iteration,
    }
    started.on_training_start(shown, globals())
    others = _others(started)
    if others:
        _put_callbacks_back(agent, others, state)
    put_pending_values_back(agent._logger, state["log"])
    restore_global_generators(state["generators"])
    return run


def _with_checkpoint(interrupted: Interrupted, callback: MaybeCallback) -> CallbackList:
    """The callbacks given, and the `Checkpoint` of the run."""
    given = [] if callback is None else list(callback) if isinstance(callback, (list, tuple)) else [callback]
    all_given = CallbackList([one if isinstance(one, BaseCallback) else ConvertCallback(one) for one in given])
    own = interrupted.state["checkpoint"]
    known = [one for one in callbacks_in(all_given) if isinstance(one, Checkpoint)]
    if not known:
        known = [Checkpoint(interrupted.folder, own["every"], keep=own["keep"])]
        all_given.callbacks += known
    elif known[0].folder.resolve() != interrupted.folder.resolve():
        raise ValueError(f"The `Checkpoint` must go on in {interrupted.folder}, but its folder is {known[0].folder}.")
    known[0].go_on(own)
    return all_given


def _others(root: BaseCallback) -> list[BaseCallback]:
    return [one for one in callbacks.kept_callbacks(root) if not isinstance(one, Checkpoint)]


def _check_callbacks(interrupted: Interrupted, callback: MaybeCallback, root: BaseCallback) -> None:
    known, given = interrupted.callbacks, callbacks.names_of(_others(root))
    if known == given:
        return
    if isinstance(callback, list) and not callback:
        for one in callbacks_in(root):
            if isinstance(one, Checkpoint):
                one.go_on({**interrupted.state["checkpoint"], "keepers of callbacks": []})
        return
    raise ValueError(
        f"`callback` must have the callbacks of the run in {interrupted.folder} again, which are {_list(known)}, but "
        f"has {_list(given)}. `callback=[]` goes on without callbacks."
    )


def _list(names: list[str]) -> str:
    return ", ".join(name.rpartition(".")[2] for name in names) or "none"


def _put_callbacks_back(agent: Any, others: list[BaseCallback], state: dict[str, Any]) -> None:
    for one, its_state in zip(others, state["callbacks"], strict=True):
        callbacks.put_state_back(one, its_state)
    envs = callbacks.envs_of(others, agent.env)
    keepers = [Keeper(**keeper) for keeper in state["checkpoint"]["keepers of callbacks"]]
    if len(envs) != len(keepers):
        raise ValueError(
            f"The callbacks of the run had {len(keepers)} environments of their own, but those given have {len(envs)}."
        )
    for env, keeper, its_state in zip(envs, keepers, state["environments of callbacks"], strict=True):
        makers = makers_of(env, agent)
        keeper.check(env, makers)
        keeper.put_back(env, its_state, makers)
