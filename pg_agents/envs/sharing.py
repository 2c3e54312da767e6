"""Environments that an evaluation shares with a training: which they are, and what happens to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.layers import layers


def share_episodes(one: VecEnv, other: VecEnv) -> bool:
    """Whether a step of one is a step of the other, in all environments or some, whatever wraps them."""
    return not _innermost(one).isdisjoint(_innermost(other))


def _innermost(env: VecEnv) -> set[int]:
    last = layers(env)[-1]
    if isinstance(last, VectorEnvAdapter):
        return {id(last.env.unwrapped)}
    if isinstance(last, DummyVecEnv):
        return {id(single.unwrapped) for single in last.envs}
    return {id(last)}


def copied_env(env: VecEnv, memo: dict[int, Any]) -> VecEnv:
    """A copy of an environment, in `deepcopy`'s `memo` too.

    Raises:
        TypeError: It cannot be copied.
    """
    last: Any = layers(env)[-1]
    last = last.env.unwrapped if isinstance(last, VectorEnvAdapter) else last
    try:
        if hasattr(last, "processes"):  # a copy would close their pipes
            raise TypeError("it runs in other processes")
        return deepcopy(env, memo)
    except Exception as reason:  # environments fail in many ways
        raise TypeError(
            f"The agent cannot be copied, because its environment, a {type(last).__name__}, cannot "
            f"({type(reason).__name__}: {reason}): `save` the agent, and `load` it with `env`."
        ) from reason


@contextmanager
def frozen(env: VecEnv) -> Iterator[None]:
    """Leave the statistics of every `VecNormalize` as they are, whatever happens in the environment."""
    normalizations = [one for one in layers(env) if isinstance(one, VecNormalize) and one.training]
    for one in normalizations:
        one.training = False
    try:
        yield
    finally:
        for one in normalizations:
            one.training = True


@contextmanager
def lent(model: Any, env: VecEnv) -> Iterator[None]:
    """Let an evaluation play in an environment. If it is the model's own, the next rollout begins new episodes.

    Args:
        model: An agent, or a policy.
        env: The environment.

    Raises:
        ValueError: The model is in the middle of a rollout there.
    """
    own = model.get_env() if hasattr(model, "get_env") else None
    if own is None or not share_episodes(own, env):
        yield
        return
    is_collecting = getattr(model, "is_collecting", None)
    if is_collecting:
        raise ValueError(
            f"`env` is the environment in which this {type(model).__name__} is being trained, whose episodes would "
            "break off in mid-rollout: evaluate in another one, such as make_vec_env(id, n), or between rollouts, in a "
            "callback's `_on_rollout_end`."
        )
    try:
        yield
    finally:
        if is_collecting is not None:  # any other model may be in mid-rollout
            model._last_obs = None
