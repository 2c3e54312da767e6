"""SB3's `evaluate_policy` and `EvalCallback`, which ask the environment whether to take the most probable actions.

Where the best policy is stochastic, as in rock-paper-scissors, its most probable actions are anything but good. Such an
environment says `metadata["deterministic_evaluation"] = False`; without a word, evaluation is deterministic as in SB3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import VectorEnv
from stable_baselines3.common import callbacks, evaluation
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from pg_agents.envs.adapter import VectorEnvAdapter

AnyEnv = gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | VecEnv


def deterministic_evaluation(env: AnyEnv | EnvSpec | str) -> bool:
    """Whether an environment is to be evaluated with the most probable actions.

    Args:
        env: An environment, single or vector, or a registered id or spec. Of these, the environment is not built.

    Returns:
        Its `metadata["deterministic_evaluation"]`; True where it has none.
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
    callback: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    reward_threshold: float | None = None,
    return_episode_rewards: bool = False,
    warn: bool = True,
) -> tuple[float, float] | tuple[list[float], list[int]]:
    """SB3's, which also takes Gymnasium's vector environments.

    Args:
        model: As for SB3's, like all that is not listed here.
        env: The environment, or several.
        n_eval_episodes: Number of episodes, of all environments together.
        deterministic: Take the most probable actions, or draw them; None does what the environment says.
        render: Show the environment.
        callback: Called after each step, once for each environment.
        reward_threshold: The mean return must exceed it.
        return_episode_rewards: Give each episode's return and length.
        warn: Warn if episodes are not counted by a `Monitor`.

    Returns:
        Mean and standard deviation of the return, or the lists of returns and lengths.
    """
    if deterministic is None:
        deterministic = deterministic_evaluation(env)
    return evaluation.evaluate_policy(
        model,
        _adapted(env),
        n_eval_episodes,
        deterministic,
        render,
        callback,
        reward_threshold,
        return_episode_rewards,
        warn,
    )


class EvalCallback(callbacks.EvalCallback):
    """SB3's, which also takes Gymnasium's vector environments.

    Args:
        eval_env: The environment, or several.
        callback_on_new_best: As for SB3's, like all that is not listed here.
        callback_after_eval: Called after each evaluation.
        n_eval_episodes: Number of episodes of an evaluation.
        eval_freq: Evaluate every so many calls.
        log_path: Folder for `evaluations.npz`.
        best_model_save_path: Folder for `best_model.zip`.
        deterministic: Take the most probable actions, or draw them; None does what the environment says.
        render: Show the environment.
        verbose: 0, or 1 to print.
        warn: Warn if episodes are not counted by a `Monitor`.
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
    ) -> None:
        super().__init__(
            _adapted(eval_env),
            callback_on_new_best,
            callback_after_eval,
            n_eval_episodes,
            eval_freq,
            log_path,
            best_model_save_path,
            deterministic_evaluation(eval_env) if deterministic is None else deterministic,
            render,
            verbose,
            warn,
        )


def _adapted(env: AnyEnv) -> gym.Env[Any, Any] | VecEnv:
    return VectorEnvAdapter(env) if isinstance(env, VectorEnv) else env


def _metadata_of_first(env: VecEnv) -> dict[str, Any]:
    """What the first environment says, over what the VecEnv itself says."""
    metadata = dict(getattr(env.unwrapped, "metadata", None) or {})
    # Environments that cannot be reached one by one do not answer.
    with suppress(AttributeError, NotImplementedError):
        metadata |= env.get_attr("metadata", indices=0)[0] or {}
    return metadata
