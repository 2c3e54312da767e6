"""SB3's `evaluate_policy` and `EvalCallback`, with the environment's choice of deterministic or sampled actions.

If the best policy is stochastic, as in rock-paper-scissors, its most probable actions score badly. Such an environment
declares `metadata["deterministic_evaluation"] = False`. All others are evaluated deterministically, as in SB3.
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import VectorEnv
from stable_baselines3.common import callbacks, evaluation
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, is_vecenv_wrapped, sync_envs_normalization

from pg_agents.checks import check_number, check_steps
from pg_agents.contract import EndlessEpisodeError
from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.masking import with_masks
from pg_agents.envs.normalizing import Statistics
from pg_agents.envs.processes import explained
from pg_agents.envs.sharing import frozen, lent
from pg_agents.envs.stepping import stepper
from pg_agents.files.saving import save_with_statistics
from pg_agents.files.writing import write
from pg_agents.looking import calls_until, passes_multiple

# Steps of an evaluation after which loading compiled code is worth while: by then torch has taken a third of that time.
WORTH_LOADING = 500

AnyEnv = gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | VecEnv
Watcher = Callable[[dict[str, Any], dict[str, Any]], None]
MAX_EPISODE_STEPS = 100_000  # after which an evaluation no longer waits for an episode's end


def deterministic_evaluation(env: AnyEnv | EnvSpec | str) -> bool:
    """Whether to evaluate an environment with the most probable actions.

    Args:
        env: A single or vector environment, or a registered id or spec, from which nothing is built.

    Returns:
        `metadata["deterministic_evaluation"]` of the environment; True if that is missing.
    """
    metadata: Any
    if isinstance(env, VecEnv):
        metadata = _metadata_of_first(env)
    elif isinstance(env, (str, EnvSpec)):
        spec = gym.spec(env) if isinstance(env, str) else env
        point = spec.entry_point or spec.vector_entry_point
        metadata = getattr(load_env_creator(point) if isinstance(point, str) else point, "metadata", None)
    else:
        metadata = env.metadata
    return bool(metadata.get("deterministic_evaluation", True)) if isinstance(metadata, Mapping) else True


def evaluate_policy(
    model: PolicyPredictor,
    env: AnyEnv,
    n_eval_episodes: int = 10,
    deterministic: bool | None = None,
    render: bool = False,
    callback: Watcher | None = None,
    reward_threshold: float | None = None,
    return_episode_rewards: bool = False,
    warn: bool = True,
    max_episode_steps: int | None = MAX_EPISODE_STEPS,
) -> tuple[float, float] | tuple[list[float], list[int]]:
    """SB3's `evaluate_policy`, which also takes Gymnasium's vector environments.

    The statistics of `VecNormalize` stay as they are. In the agent's own environment, `model.get_env()`, the training's
    episodes break off, and its next rollout begins new ones.

    Args:
        model: The agent, or any object with SB3's `predict`.
        env: The environment, single or vector.
        n_eval_episodes: Number of episodes, summed over environments.
        deterministic: True for the most probable actions, False for sampled ones, None for the environment's choice
            (`deterministic_evaluation`).
        render: Render the environment.
        callback: Function of SB3's `locals()` and `globals()`, called after each step, once per environment.
        reward_threshold: Value that the mean return must exceed; None for no such check.
        return_episode_rewards: Return the values of single episodes.
        warn: Warn if no `Monitor` records the episodes.
        max_episode_steps: An episode with more steps is an error; None waits for ever.

    Returns:
        Mean and standard deviation of the return; with `return_episode_rewards`, the lists of returns and lengths.

    Raises:
        AssertionError: The mean return does not exceed `reward_threshold`.
        EndlessEpisodeError: An episode does not end. It is a ValueError.
        ValueError: An observation or a reward is not finite, and would spoil the statistics of a `VecNormalize`; an
            argument is out of range; or the agent is in the middle of a rollout in this environment.
    """
    check_number("n_eval_episodes", n_eval_episodes, at_least=1)
    given = _for_sb3(locals(), "env")
    limit = _limit(given.pop("max_episode_steps"))
    vec_env: VecEnv = given["env"] if isinstance(given["env"], VecEnv) else DummyVecEnv([lambda: given["env"]])
    monitored = _is_monitored(vec_env)
    given["model"] = acting = with_masks(model, vec_env)
    with lent(model, vec_env), frozen(vec_env), explained(vec_env):
        if callback is not None or render or not monitored:
            return evaluation.evaluate_policy(**given | {"callback": _guarded(callback, vec_env, limit)})
        returns, lengths = _episodes(acting, vec_env, n_eval_episodes, given["deterministic"], limit)
    mean: Any = np.mean(returns)  # a NumPy number, as SB3's
    std: Any = np.std(returns)
    if reward_threshold is not None:
        assert mean > reward_threshold, f"Mean reward below threshold: {mean:.2f} < {reward_threshold:.2f}"
    return (returns, lengths) if return_episode_rewards else (mean, std)


def _limit(max_episode_steps: int | None) -> float:
    if max_episode_steps is None:
        return np.inf
    check_steps("max_episode_steps", max_episode_steps, 1)
    return max_episode_steps


def _is_monitored(env: VecEnv) -> bool:
    return bool(is_vecenv_wrapped(env, VecMonitor) or env.env_is_wrapped(Monitor)[0])


class _Running:
    """The episodes that run: one that does not end is an error.

    Args:
        n_envs: Number of environments.
        limit: Steps that an episode may have.
    """

    def __init__(self, n_envs: int, limit: float) -> None:
        self.limit = limit
        self.first_steps = np.zeros(n_envs, dtype=int)  # of the episodes, counted from the evaluation's beginning
        self.unnoticed = np.zeros(n_envs, dtype=bool)  # whether the environment has said `done`, but no `Monitor` that

    def done(self, index: int, n_steps: int, *, noticed: bool) -> None:
        """Take note of an environment that says `done` after so many steps; only where it is noticed, one begins."""
        self.unnoticed[index] = not noticed
        if noticed:
            self.first_steps[index] = n_steps

    def check(self, index: int, n_steps: int) -> None:
        """Refuse an episode that has too many steps.

        Raises:
            EndlessEpisodeError: It has.
        """
        if n_steps >= self.first_steps[index] + self.limit:
            raise EndlessEpisodeError(index, self.limit, bool(self.unnoticed[index]))


def _guarded(callback: Watcher | None, env: VecEnv, limit: float) -> Watcher:
    """A callback of SB3's `evaluate_policy` that raises an error for an episode that does not end."""
    monitored, running, n_steps = _is_monitored(env), _Running(env.num_envs, limit), [0] * env.num_envs

    def watch(locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        index = locals_["i"]
        n_steps[index] += 1
        if locals_["done"]:
            running.done(index, n_steps[index], noticed=not monitored or "episode" in locals_["info"])
        running.check(index, n_steps[index])
        if callback is not None:
            callback(locals_, globals_)

    return watch


def _episodes(
    model: PolicyPredictor, env: VecEnv, n_episodes: int, deterministic: bool, limit: float
) -> tuple[list[float], list[int]]:
    """Returns and lengths of episodes, as SB3's loop has them, without a look at each environment in each step.

    The first episodes of each environment count, as evenly many of each as can be: the first to finish would be short
    ones. An episode ends where its `Monitor` says so, which need not be where `done` does.
    """
    returns: list[float] = []
    lengths: list[int] = []
    left = (n_episodes + np.arange(env.num_envs)) // env.num_envs
    roll = getattr(model, "roll_episodes", None)
    played = None if roll is None else roll(env, left, deterministic=deterministic, max_episode_steps=limit)
    if played is not None:
        return [round(float(found), 6) for found, _ in played], [length for _, length in played]
    statistics = Statistics(env)
    observations = statistics.watched(env.reset)()
    statistics.check(0)
    states, episode_starts, counted = None, np.ones(env.num_envs, dtype=bool), left > 0
    running, look_at = _Running(env.num_envs, limit), limit  # the step of the next check of them
    for n_steps in itertools.count():
        if not counted.any():
            break
        if n_steps in (0, 2):  # Gymnasium's wrappers check the first steps, and can be left out only then
            step = statistics.watched(stepper(env))
        if n_steps == WORTH_LOADING and (load := getattr(model, "load_predictor", None)) is not None:
            load()
        actions, states = model.predict(
            observations,
            state=states,
            episode_start=episode_starts,
            deterministic=deterministic,
        )
        observations, _, dones, infos = step(actions)
        statistics.check((n_steps + 1) * env.num_envs)
        np.copyto(episode_starts, dones, where=counted)
        if dones.any():
            for index in np.flatnonzero(dones & counted).tolist():
                episode = infos[index].get("episode")
                running.done(index, n_steps + 1, noticed=episode is not None)
                if episode is not None:
                    returns.append(episode["r"])
                    lengths.append(episode["l"])
                    left[index] -= 1
            counted = left > 0
        if n_steps + 1 >= look_at and counted.any():
            longest = int(np.where(counted, running.first_steps, n_steps + 1).argmin())
            running.check(longest, n_steps + 1)
            look_at = running.first_steps[longest] + limit
    return returns, lengths


class EvalCallback(callbacks.EvalCallback):
    """SB3's `EvalCallback`, but it counts environment steps, takes vector environments, and writes whole files.

    An evaluation with an episode that does not end is given up with a warning, and the training goes on without others.

    Args:
        eval_env: The environment, single or vector.
        callback_on_new_best: Callback for a new best mean return.
        callback_after_eval: Callback for the end of each evaluation.
        n_eval_episodes: Number of episodes per evaluation.
        eval_freq: Environment steps between evaluations, of all environments together. (SB3's counts calls, in each of
            which all environments take a step.)
        log_path: Folder for `evaluations.npz`.
        best_model_save_path: Folder for `best_model.zip`, and for `best_model_vecnormalize.pkl` with the statistics of
            that moment, if observations or rewards are normalised.
        deterministic: True for the most probable actions, False for sampled ones, None for the environment's choice
            (`deterministic_evaluation`).
        render: Render the environment.
        verbose: 1 to print results, 0 for silence.
        warn: Warn if no `Monitor` records the episodes.
        max_episode_steps: An evaluation is given up when an episode has more steps; None waits for ever.
    """

    def __init__(
        self,
        eval_env: AnyEnv,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        n_eval_episodes: int = 5,
        eval_freq: int = 10000,
        log_path: str | None = None,
        best_model_save_path: str | None = None,
        deterministic: bool | None = None,
        render: bool = False,
        verbose: int = 1,
        warn: bool = True,
        max_episode_steps: int | None = MAX_EPISODE_STEPS,
    ) -> None:
        check_number("n_eval_episodes", n_eval_episodes, at_least=1)
        given = _for_sb3(locals(), "eval_env")
        self.max_episode_steps = _limit(given.pop("max_episode_steps"))
        super().__init__(**given)
        self.last_timesteps, self.gave_up = 0, False

    def next_look(self) -> int | None:
        """Number of calls until the next evaluation; None for none."""
        return None if self.gave_up else calls_until(self.eval_freq, self)

    def _init_callback(self) -> None:
        super()._init_callback()
        self.last_timesteps, self.gave_up = self.model.num_timesteps, False

    def _on_step(self) -> bool:
        """Evaluate if it is time to; SB3's, apart from how files are written.

        Returns:
            False if one of the callbacks of this one stops the training.
        """
        before, self.last_timesteps = self.last_timesteps, self.num_timesteps
        if self.gave_up or not passes_multiple(self.eval_freq, before, self.num_timesteps):
            return True
        try:
            returns, lengths = self._evaluate()
        except EndlessEpisodeError as error:
            self.gave_up = True
            warnings.warn(
                f"There is no evaluation at {self.num_timesteps:,} steps, nor later in this training. {error}",
                stacklevel=2,
            )
            return True
        if self.log_path is not None:
            self._store(returns, lengths)
        self._log(returns, lengths)
        goes_on = True
        if self.last_mean_reward > self.best_mean_reward:
            if self.verbose >= 1:
                print("New best mean reward!")
            if self.best_model_save_path is not None:
                save_with_statistics(self.model, Path(self.best_model_save_path, "best_model"))
            self.best_mean_reward = self.last_mean_reward
            if self.callback_on_new_best is not None:
                goes_on = self.callback_on_new_best.on_step()
        if self.callback is not None:
            goes_on = goes_on and self._on_event()
        return goes_on

    def _evaluate(self) -> tuple[list[float], list[int]]:
        """Returns and lengths of the episodes."""
        if self.model.get_vec_normalize_env() is not None:
            try:
                sync_envs_normalization(self.training_env, self.eval_env)
            except AttributeError as error:
                raise AssertionError(
                    "Training and eval env are not wrapped the same way, see "
                    "https://stable-baselines3.readthedocs.io/en/master/guide/callbacks.html#evalcallback and warning "
                    "above."
                ) from error
        self._is_success_buffer = []
        with frozen(self.eval_env), explained(self.eval_env):
            found: Any = evaluation.evaluate_policy(
                with_masks(self.model, self.eval_env),
                self.eval_env,
                n_eval_episodes=self.n_eval_episodes,
                render=self.render,
                deterministic=self.deterministic,
                return_episode_rewards=True,
                warn=self.warn,
                callback=_guarded(self._log_success_callback, self.eval_env, self.max_episode_steps),
            )
        returns, lengths = found
        return returns, lengths

    def _store(self, returns: list[float], lengths: list[int]) -> None:
        """Add the episodes to `evaluations.npz`."""
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(returns)
        self.evaluations_length.append(lengths)
        columns: dict[str, Any] = {
            "timesteps": self.evaluations_timesteps,
            "results": self.evaluations_results,
            "ep_lengths": self.evaluations_length,
        }
        if self._is_success_buffer:
            self.evaluations_successes.append(self._is_success_buffer)
            columns["successes"] = self.evaluations_successes
        contents = io.BytesIO()
        np.savez(contents, **columns)
        write(str(self.log_path).removesuffix(".npz") + ".npz", contents.getbuffer())

    def _log(self, returns: list[float], lengths: list[int]) -> None:
        mean, mean_length = np.mean(returns), np.mean(lengths)
        self.last_mean_reward = float(mean)
        if self.verbose >= 1:
            print(f"Eval num_timesteps={self.num_timesteps}, episode_reward={mean:.2f} +/- {np.std(returns):.2f}")
            print(f"Episode length: {mean_length:.2f} +/- {np.std(lengths):.2f}")
        self.logger.record("eval/mean_reward", float(mean))
        self.logger.record("eval/mean_ep_length", mean_length)
        if self._is_success_buffer:
            success_rate = np.mean(self._is_success_buffer)
            if self.verbose >= 1:
                print(f"Success rate: {100 * success_rate:.2f}%")
            self.logger.record("eval/success_rate", success_rate)
        # At once, with the number of steps that it belongs to.
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)


def _for_sb3(arguments: dict[str, Any], env_name: str) -> dict[str, Any]:
    """The arguments of SB3's function, given those of the function here by the same name.

    A vector environment comes in its adapter, and the environment decides where `deterministic` is None.
    """
    given = {name: value for name, value in arguments.items() if name not in ("self", "__class__")}
    env = given[env_name]
    if given["deterministic"] is None:
        given["deterministic"] = deterministic_evaluation(env)
    given[env_name] = VectorEnvAdapter(env) if isinstance(env, VectorEnv) else env
    return given


def _metadata_of_first(env: VecEnv) -> dict[str, Any]:
    """The first environment's metadata, and for missing entries the `VecEnv`'s own."""
    metadata = dict(getattr(env.unwrapped, "metadata", None) or {})
    # Environments that cannot be reached one by one have none of their own.
    with suppress(AttributeError, NotImplementedError):
        metadata |= env.get_attr("metadata", indices=0)[0] or {}
    return metadata
