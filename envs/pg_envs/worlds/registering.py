"""Registering a world with Gymnasium: the single environment and the vector environment under one id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym

from pg_envs.worlds.faces import WorldEnv, WorldVector
from pg_envs.worlds.world import METADATA, World


class _Maker:
    """An entry point: makes a face of a world."""

    def __init__(self, face: type[Any], world: World | Callable[..., World], metadata: Mapping[str, Any]) -> None:
        self.face, self._world = face, world
        self.metadata = dict(metadata)

    def __call__(self, **arguments: Any) -> Any:
        names = ("num_envs", "max_episode_steps", "autoreset_mode", "render_mode")
        of_the_face = {name: arguments.pop(name) for name in names if name in arguments}
        if isinstance(self._world, World):
            if arguments:
                raise TypeError(f"This world has no arguments, but {sorted(arguments)} are given.")
            return self.face(self._world, **of_the_face)
        return self.face(self._world(**arguments), **of_the_face)


def register_world(
    env_id: str,
    world: World | Callable[..., World],
    *,
    max_episode_steps: int | None = None,
    reward_threshold: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Register a world: `gym.make(id)` makes one copy, `gym.make_vec(id, n)` many, and `pg_agents` compiles rollouts.

    Args:
        env_id: The id, such as `"Acme/Cart-v0"`. An id that is registered already is left as it is.
        world: The world, or a function of the environment's keyword arguments that makes one.
        max_episode_steps: Time limit.
        reward_threshold: Mean return at which the task counts as solved.
        metadata: Metadata that can be read without making the environment; None for those of the world, which a
            function does not tell before it is called.
    """
    if env_id in gym.registry:
        return
    if metadata is None:
        metadata = world.metadata if isinstance(world, World) else METADATA
    gym.register(
        env_id,
        _Maker(WorldEnv, world, metadata),
        max_episode_steps=max_episode_steps,
        reward_threshold=reward_threshold,
        vector_entry_point=_Maker(WorldVector, world, metadata),
    )
