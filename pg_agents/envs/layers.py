"""The wrappers of a `VecEnv`, and what they wrap."""

from __future__ import annotations

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper


def layers(env: VecEnv) -> list[VecEnv]:
    """A vector environment and those that it wraps, from the outermost."""
    found = [env]
    while isinstance(env, VecEnvWrapper):
        env = env.venv
        found.append(env)
    return found
