"""`Checkpoint`: a callback that stores a training, so that it can be resumed bit for bit."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from pg_agents.checks import check_number
from pg_agents.files import values
from pg_agents.files.writing import replacing_folder
from pg_agents.resuming import agents, callbacks
from pg_agents.resuming.arguments import arguments_of, warn_of_buffer
from pg_agents.resuming.environments import Keeper, cut, files_of, keeper_of, makers_of, name_of
from pg_agents.resuming.folders import BEST, checkpoints, new_checkpoint, remove_unfinished, steps_of
from pg_agents.resuming.log import pending_values
from pg_agents.resuming.randomness import global_generators
from pg_agents.resuming.rebuilding import NotDescribableError, describe
from pg_agents.resuming.run import callbacks_in
from pg_agents.resuming.state import NotStorableError, State

_STREAM = 0x6375  # of the seeds with which cut episodes start


class Checkpoint(BaseCallback):
    """Stores the whole state of a training every so many steps; `resume` goes on from there as if nothing had happened.

    A checkpoint is taken between an update and the next rollout: at the beginning of `learn`, at the first such
    boundary after every `every` steps, and at the end. It is a folder `step_000050000`, which appears when it is
    complete. Callbacks, the environments in which they evaluate, and the log are part of it.

    With an `EvalCallback` in the training, the folder `best` has the model with the best evaluation so far,
    `model.zip`, and where there is a `VecNormalize`, `vecnormalize.pkl`, its statistics at the end of that rollout. Of
    several `EvalCallback`s, the first decides.

    Environments whose state cannot be stored, such as simulators written in C or those in other processes, are found
    out at the beginning. There, all of them are reset at each checkpoint, whether or not the training is ever
    interrupted, with seeds from a random stream of its own; a warning says so. The resumed training is then equal to
    one with the same checkpoints that was not interrupted. That of an agent with workers, such as `A3C`, is not:
    parameters and counts go on, but workers begin new episodes.

    Args:
        folder: Folder of the run.
        every: Steps between checkpoints, over all environments.
        keep: Number of the newest checkpoints that stay.
        overwrite: Remove the checkpoints of another run that are in the folder.
        exact: Take checkpoints only where they change nothing and hold everything. `take` raises a `NotStorableError`
            elsewhere, and the training is as before.
        verbose: 1 to print a line for each checkpoint.

    Attributes:
        keeper: How the state of the environments is kept; None until the beginning of `learn`.

    Raises:
        ValueError: An argument is out of range; or, at the beginning of `learn`, the folder has checkpoints of another
            run, or the agent is not of this package.
    """

    is_last_at_boundary = True

    def __init__(
        self,
        folder: str | Path,
        every: int,
        *,
        keep: int = 2,
        overwrite: bool = False,
        exact: bool = False,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        check_number("every", every, at_least=1, integer=True)
        check_number("keep", keep, at_least=1, integer=True)
        self.folder, self.every, self.keep, self.overwrite = Path(folder), every, keep, overwrite
        self.exact = exact
        self.keeper: Keeper | None = None
        self._keepers_of_callbacks: list[Keeper] = []
        self._settings: list[dict[str, Any]] = []  # of other callbacks
        self._generator = np.random.default_rng()
        self._next = 0  # steps at which the next one is due
        self._goes_on = False
        self._best = -np.inf  # mean return of the model in `best`
        self._told: set[str] = set()  # of which parts warnings have said that they cannot be made again

    def next_look(self) -> int | None:
        """Never: it has nothing to do in a step."""
        return None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._keep_best()  # before the update, so with the parameters that were evaluated

    def _on_training_end(self) -> None:
        self._keep_best()  # of a rollout that a callback has ended

    def _keep_best(self) -> None:
        model: Any = self.model
        evaluations = (one for one in callbacks_in(self.locals["callback"]) if isinstance(one, EvalCallback))
        first = next(evaluations, None)
        if first is None or not first.best_mean_reward > self._best:
            return
        self._best = float(first.best_mean_reward)
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing_folder(self.folder / BEST) as beside:
            model.save(beside / "model.zip")
            if model.get_vec_normalize_env() is not None:
                model.get_vec_normalize_env().save(str(beside / "vecnormalize.pkl"))

    def _on_training_start(self) -> None:
        model: Any = self.model
        if not hasattr(model, "current_run"):
            raise ValueError(f"A `Checkpoint` is for agents of this package, and {type(model).__name__} is none.")
        if sum(isinstance(one, Checkpoint) for one in callbacks_in(self.locals["callback"])) > 1:
            raise ValueError("One training can have one `Checkpoint`, but there are several among its callbacks.")
        self._settings = [callbacks.settings_of(one) for one in self._others(self.locals["callback"])]
        if self._goes_on:
            self._goes_on = False
            return
        there, steps = checkpoints(self.folder), self.model.num_timesteps
        if there and (self.overwrite or steps == 0 or steps_of(there[0]) > steps):
            if not self.overwrite:
                raise ValueError(
                    f"{self.folder} has checkpoints of another run, the newest of which is {there[0].name}. "
                    "`resume` goes on with that run, if they are whole; `overwrite=True` removes them; or give another "
                    "`folder`."
                )
            for checkpoint in there:
                shutil.rmtree(checkpoint)
            shutil.rmtree(self.folder / BEST, ignore_errors=True)
        remove_unfinished(self.folder)
        seed = self.model.seed
        self._generator = np.random.default_rng(None if seed is None else [seed, _STREAM, steps])
        self.keeper, self._next = None, steps
        self._best = -np.inf

    def on_boundary(self) -> None:
        """Take a checkpoint, if one is due."""
        model: Any = self.model
        steps = model.num_timesteps
        if steps >= self._next or steps >= model.current_run.total_timesteps:
            self.take()

    def take(self) -> None:
        """Take a checkpoint now; only between an update and the next rollout.

        Raises:
            NotStorableError: With `exact`, a part of the training cannot be stored.
        """
        model: Any = self.model
        steps, run = model.num_timesteps, model.current_run
        others = self._others(run.callback)
        envs = callbacks.envs_of(others, model.env)
        if self.keeper is None:
            self._find_keepers(envs)
        self._warn_of_callbacks(others)
        assert self.keeper is not None, "found just now"
        self._next = (steps // self.every + 1) * self.every
        before_cut = self._generator.bit_generator.state
        environment = self._state_of_environment()
        agent = agents.state_of(model, self.exact)
        agents.warn_of_what_cannot_be_made(model, agent, self._told)
        state = {
            "agent": agent,
            "environment": environment,
            "callbacks": [callbacks.state_of(*pair) for pair in zip(others, self._settings, strict=True)],
            "environments of callbacks": [self._state_of_another(i, env) for i, env in enumerate(envs)],
            "generators": global_generators(),
            "log": pending_values(model.logger),
            "files": files_of(model.env),
            "run": {
                "total_timesteps": run.total_timesteps,
                "log_interval": run.log_interval,
                "iteration": run.iteration,
            },
            "checkpoint": self._own_state() | {"generator before": before_cut},
        }
        with new_checkpoint(self.folder, steps, {"algorithm": class_name(type(model))}, self.keep) as beside:
            values.write(self._made(others), beside, "made")
            values.write(state, beside, "state")
            if agents.goes_on_from_file(model):
                model.save(beside / agents.FILE)
        if self.verbose:
            print(f"Checkpoint after {steps} steps: {self.folder}")

    def _others(self, root: BaseCallback) -> list[BaseCallback]:
        return [one for one in callbacks.kept_callbacks(root) if one is not self]

    def _made(self, others: list[BaseCallback]) -> dict[str, Any]:
        """All that does not change in a run, and from which the parts are made again."""
        model: Any = self.model
        if agents.goes_on_from_file(model):
            return {"prompts": model.prompts, "callbacks": callbacks.names_of(others)}
        held, given_again = arguments_of(model)
        try:
            described, reason = describe(model.env), ""
        except NotDescribableError as error:
            described, reason = None, str(error)
        return {
            "arguments": held,
            "given_again": given_again,
            "environment": described,
            "environment_reason": reason,
            "environment_name": name_of(model.env),
            "n_envs": model.n_envs,
            "spaces": [str(model.observation_space), str(model.action_space)],
            "callbacks": callbacks.names_of(others),
        }

    def _warn_of_callbacks(self, others: list[BaseCallback]) -> None:
        for i, one in enumerate(others):
            for name in callbacks.dropped_by(one):
                place = f"{type(one).__name__}.{name}"
                if f"{i} {place}" not in self._told:
                    self._told.add(f"{i} {place}")
                    warnings.warn(
                        f"{place}, a {type(getattr(one, name)).__name__}, is left out of checkpoints. If the callback "
                        "needs it again, it must say so by `checkpoint_state` and `restore_checkpoint_state`.",
                        stacklevel=2,
                    )

    def _find_keepers(self, envs: list[Any]) -> None:
        model: Any = self.model
        if agents.goes_on_from_file(model):
            self.keeper = Keeper(None)
        elif not model.collects_itself:
            self.keeper = Keeper("its workers have environments of their own")
            warnings.warn(
                "Checkpoints keep parameters, the optimiser's state and counts of workers' trainings, but neither the "
                "workers' environments nor the order of their updates: a resumed training begins new episodes, and "
                "does not equal one that was not interrupted.",
                stacklevel=2,
            )
        else:
            warn_of_buffer(model)
            self.keeper = keeper_of(model.env, makers_of(model.env, model))
            if self.keeper.reason is not None:
                self._say_that_it_cuts(self.keeper)
        self._keepers_of_callbacks = [keeper_of(env, makers_of(env, model), begins=True) for env in envs]
        for env, keeper in zip(envs, self._keepers_of_callbacks, strict=True):
            if keeper.reason is not None:
                self._say_that_it_seeds(env, keeper)

    def _say_that_it_cuts(self, keeper: Keeper) -> None:
        if self.exact:
            raise NotStorableError(keeper.reason)
        warnings.warn(
            f"The state of {name_of(self.training_env)} cannot be stored ({keeper.reason}), so checkpoints cut "
            f"episodes: at each of them, every {self.every} steps, all environments are reset with new seeds, whether "
            "or not the training is interrupted.",
            stacklevel=2,
        )

    def _say_that_it_seeds(self, env: VecEnv, keeper: Keeper) -> None:
        if self.exact:
            raise NotStorableError(keeper.reason)
        warnings.warn(
            f"The state of {name_of(env)}, in which a callback evaluates, cannot be stored ({keeper.reason}), so it "
            f"gets new seeds at each checkpoint, every {self.every} steps.",
            stacklevel=2,
        )

    def _state_of_environment(self) -> State:
        """The state of the environments, which are cut before if need be."""
        model: Any = self.model
        assert self.keeper is not None, "found before"
        if agents.goes_on_from_file(model):
            return None
        if self.keeper.reason is None:
            try:
                return self.keeper.state(model.env)
            except NotStorableError as reason:  # of something that was not there at the beginning
                self.keeper = Keeper(str(reason))
                self._say_that_it_cuts(self.keeper)
        self._cut_episodes()
        return self.keeper.state(model.env)

    def _state_of_another(self, number: int, env: VecEnv) -> State:
        """The state of an environment in which a callback evaluates."""
        keeper = self._keepers_of_callbacks[number]
        if keeper.reason is None:
            try:
                return keeper.state(env)
            except NotStorableError as reason:
                keeper = self._keepers_of_callbacks[number] = Keeper(str(reason))
                self._say_that_it_seeds(env, keeper)
        env.seed(int(self._generator.integers(2**31 - env.num_envs)))  # of the reset with which evaluations begin
        return keeper.state(env)

    def _cut_episodes(self) -> None:
        model: Any = self.model
        model._last_obs = cut(model.env, self._generator)
        model._last_episode_starts = np.ones((model.n_envs,), dtype=bool)
        if model._vec_normalize_env is not None:
            model._last_original_obs = model._vec_normalize_env.get_original_obs()
        model.episode_statistics.running[:] = 0

    def _own_state(self) -> dict[str, Any]:
        assert self.keeper is not None
        return {
            "every": self.every,
            "keep": self.keep,
            "next": self._next,
            "best": self._best,
            "generator": self._generator.bit_generator.state,
            "keeper": vars(self.keeper),
            "keepers of callbacks": [vars(keeper) for keeper in self._keepers_of_callbacks],
        }

    def go_on(self, state: dict[str, Any]) -> None:
        """Go on as the callback that has stored a state; called before the beginning of the training."""
        self._next, self._best, self._goes_on = state["next"], state["best"], True
        self._generator.bit_generator.state = state["generator"]
        self.keeper = Keeper(**state["keeper"])
        self._keepers_of_callbacks = [Keeper(**keeper) for keeper in state["keepers of callbacks"]]


def can_be_stored(agent: Any) -> bool:
    """Whether trainings of an agent can be stored: one of this package, in this process alone, with fresh gradients."""
    return bool(getattr(agent, "collects_itself", False)) and not getattr(agent, "delay", None)


def class_name(cls: type) -> str:
    """How the manifest names an algorithm."""
    return f"{cls.__module__}:{cls.__qualname__}"
