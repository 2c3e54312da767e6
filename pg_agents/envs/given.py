"""Observations as environments return them, looked at before a `VecEnv` has copied them into arrays of their space."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.layers import layers
from pg_agents.observations import check_as_given


@contextmanager
def checked_as_given(env: VecEnv) -> Iterator[None]:
    """Check every observation that single environments, or a vector environment, return inside the block.

    Arrays round, and repeat what is too short: a `VecEnv` shows observations that its environments never gave.

    Args:
        env: The environments, in any wrappers. Those in other processes pass on what they are given; there is nothing
            to look at before `check_storable` does.

    Raises:
        ValueError: An observation does not match its space.
    """
    vec_env = layers(env)[-1]
    if isinstance(vec_env, VectorEnvAdapter):
        vec_env.looks = True
        try:
            yield
        finally:
            vec_env.looks = False
        return
    if not isinstance(vec_env, DummyVecEnv) or "_save_obs" in vars(vec_env):
        yield
        return
    save = vec_env._save_obs

    def check_and_save(index: int, observation: Any) -> None:
        check_as_given(index, observation, vec_env.observation_space)
        save(index, observation)

    vec_env._save_obs = check_and_save  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del vec_env._save_obs
