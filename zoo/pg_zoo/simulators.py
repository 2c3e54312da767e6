"""What simulators write to stderr by themselves, from C."""

from __future__ import annotations

import importlib.util
from functools import cache

import gymnasium as gym

from pg_zoo.errors import warn

# About the files of Gymnasium's models, which a user cannot change.
_OF_THE_MODELS = "is deprecated"


def say_once(env_id: str) -> None:
    """Have MuJoCo, if an environment uses it, say each thing once and on one line, and not in a file of its own.

    Args:
        env_id: A registered id.
    """
    if "mujoco" in str(gym.spec(env_id).entry_point) and importlib.util.find_spec("mujoco") is not None:
        _replace_handler()


@cache
def _replace_handler() -> None:
    import mujoco

    said: set[str] = set()

    def handle(message: str) -> None:
        kind = message.partition(". Time")[0]  # the simulation's clock is another one each time
        if kind not in said and _OF_THE_MODELS not in message:
            said.add(kind)
            warn(f"MuJoCo: {message}")

    mujoco.set_mju_user_warning(handle)
