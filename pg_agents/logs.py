"""The log beside SB3's own keys, which docs/metrics.md defines, and its evaluation on demand."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, StateDependentNoiseDistribution
from stable_baselines3.common.logger import DISABLED, HParam, KVWriter, Logger, TensorBoardOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import FloatSchedule

from pg_agents.policies import unchecked_distributions

# Tools patch them, in the class or in one logger, to see what is logged.
_RECORD, _DUMP = Logger.record, Logger.dump
_RECORDING = frozenset({"record", "record_mean", "dump"})
_HPARAM_METRICS = {"rollout/ep_rew_mean": 0.0, "rollout/ep_len_mean": 0.0}
_NOT_HYPERPARAMETERS = {"policy", "env", "prior", "reference", "device", "verbose", "tensorboard_log"}
_NOT_HYPERPARAMETERS |= {"stats_window_size", "rollout_buffer_class", "rollout_buffer_kwargs", "_init_setup_model"}


class LazyLog:
    """Metrics that are computed when the log is read: most updates are never logged.

    Until then they keep their rollout's arrays alive, at most one rollout's.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Callable[[], dict[str, float]]] = {}

    def add(self, prefix: str, metrics: Callable[[], dict[str, float]]) -> None:
        """Have metrics recorded as `<prefix>/<name>` as soon as the log is read; they replace those of this prefix."""
        self._waiting[prefix] = metrics

    def write(self, logger: Logger) -> None:
        """Compute the metrics and record them."""
        waiting, self._waiting = self._waiting, {}
        for prefix, metrics in waiting.items():
            for name, value in metrics().items():
                exclude = "stdout" if _is_one_of_many(name) else None
                logger.record(f"{prefix}/{name}", value, exclude=exclude)

    def clear(self) -> None:
        """Forget the metrics that were not recorded."""
        self._waiting = {}


def close_when_unused(logger: Logger) -> None:
    """Close a logger's present outputs once nobody holds it: SB3 never does, and each of TensorBoard's has a thread."""
    weakref.finalize(logger, _close, list(logger.output_formats)).atexit = False


def _close(outputs: list[KVWriter]) -> None:
    for output in outputs:
        output.close()


def is_unread(logger: Logger) -> bool:
    """Whether `logger.dump` discards its values unseen: there is no output, and no patch."""
    return (
        not logger.output_formats
        and logger.level != DISABLED
        and type(logger) is Logger
        and _RECORDING.isdisjoint(vars(logger))
        and (Logger.record, Logger.dump) == (_RECORD, _DUMP)
    )


def records_unseen(logger: Logger) -> bool:
    """Whether `logger.record` only keeps the value until the next one of its name: there is no patch."""
    return type(logger) is Logger and _RECORDING.isdisjoint(vars(logger)) and Logger.record is _RECORD


def rollout_metrics(
    advantages: np.ndarray, actions: np.ndarray, trained_on: np.ndarray | None, policy: ActorCriticPolicy
) -> dict[str, float]:
    """Advantages before normalisation, and the share of actions that the action space cut off.

    Args:
        advantages: The rollout's advantages, `(T, N)`.
        actions: The actions as drawn, `(T, N, n)`.
        trained_on: `(T, N)`, the steps that are trained on; None for all.
        policy: The policy that drew the actions.
    """
    # float32 would overflow where rewards are very large, before their loss is refused.
    samples = ... if trained_on is None else trained_on
    found = advantages[samples].astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite ones are refused by the update
        metrics = {"advantage_mean": float(found.mean()), "advantage_std": float(found.std())}
    if isinstance(policy.action_space, spaces.Box):
        low, high = policy.action_space.low.flatten(), policy.action_space.high.flatten()
        drawn = actions[samples]
        saturated = np.abs(drawn) > 0.99 if policy.squash_output else (drawn < low) | (drawn > high)
        metrics["saturated_actions"] = float(saturated.mean())
    return metrics


def deviations(policy: ActorCriticPolicy, observations: Any) -> dict[str, float]:
    """σ of a Gaussian policy: its mean, and the σ of each dimension.

    Args:
        policy: Any policy.
        observations: Those of the last minibatch, as tensors, for a σ that depends on them.
    """
    if not isinstance(getattr(policy, "action_dist", None), DiagGaussianDistribution | StateDependentNoiseDistribution):
        return {}
    with th.no_grad(), unchecked_distributions():
        if policy.use_sde or not hasattr(policy, "log_std"):
            normal = policy.get_distribution(observations).distribution
            assert isinstance(normal, th.distributions.Normal), "checked above"
            per_dimension = normal.stddev.mean(dim=0)
        else:
            per_dimension = policy.log_std.exp()
        # SB3's own definition where there is a parameter to look at: gSDE's is not the action's deviation.
        std = policy.log_std.exp().mean() if hasattr(policy, "log_std") else per_dimension.mean()
    return {"std": std.item()} | {f"std_{i}": value.item() for i, value in enumerate(per_dimension)}


def _is_one_of_many(metric: str) -> bool:
    """One of a series, for each dimension or epoch: for TensorBoard, and not for the table on the terminal."""
    return metric.startswith(("std_", "approx_kl_epoch_"))


class Default:
    """Stands for a default that depends on the class, or on the training that goes on."""

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT = Default()


def record_hyperparameters(agent: OnPolicyAlgorithm, arguments: Iterable[str]) -> None:
    """Fill TensorBoard's HParams page, if there is a TensorBoard.

    Args:
        agent: The agent.
        arguments: Names of its constructor's arguments.
    """
    if not any(isinstance(output, TensorBoardOutputFormat) for output in agent.logger.output_formats):
        return
    shown: dict[str, bool | str | float | None] = {
        "algorithm": type(agent).__name__,
        "policy": agent.policy_class.__name__,
        "env": _env_name(agent),
        "n_envs": agent.n_envs,
    }
    for name in arguments:
        value = getattr(agent, name, None)
        if name not in _NOT_HYPERPARAMETERS and value is not None:
            shown[name] = _shown(value)
    agent.logger.record("hparams", HParam(shown, _HPARAM_METRICS), exclude=("stdout", "log", "json", "csv"))


def _env_name(agent: OnPolicyAlgorithm) -> str:
    assert agent.env is not None
    # Of environments in this process only: a spec need not survive the way from another one.
    envs = getattr(agent.env.unwrapped, "envs", None)
    spec = getattr(envs[0], "spec", None) if envs else None
    return spec.id if isinstance(spec, gym.envs.registration.EnvSpec) else type(agent.env).__name__


def _shown(value: Any) -> bool | str | float:
    """An argument as TensorBoard can show it; a schedule as its first and its last value."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, type):
        return value.__name__
    if not callable(value):
        return str(value)
    first, last = FloatSchedule(value)(1.0), FloatSchedule(value)(0.0)
    return first if first == last else f"{first:g} to {last:g}"
