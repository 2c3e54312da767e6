"""Registering a world with Gymnasium: the single environment and the vector environment under one id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import gymnasium as gym

from pg_envs.worlds.faces import WorldEnv, WorldVector
from pg_envs.worlds.world import METADATA, World

_OF_THE_FACE = ("num_envs", "max_episode_steps", "autoreset_mode", "render_mode")


class _Maker:
    """An entry point: makes a face of a world."""

    def __init__(
        self, face: type[Any], world: World | Callable[..., World] | str, metadata: Mapping[str, Any] | None
    ) -> None:
        self.face, self._world, self._metadata = face, world, metadata
        self.offers_copies = getattr(face, "offers_copies", False)

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, without making an environment."""
        if self._metadata is not None:
            return dict(self._metadata)
        world = self._imported()
        return dict(world.metadata if isinstance(world, World) else METADATA)

    def __call__(self, **arguments: Any) -> Any:
        of_the_face = {name: arguments.pop(name) for name in _OF_THE_FACE if name in arguments}
        world = self._imported()
        if not isinstance(world, World):
            world = world(**arguments)
        elif arguments:
            raise TypeError(f"This world has no arguments, but {sorted(arguments)} are given.")
        if self._metadata is not None:
            world = replace(world, metadata=self._metadata)
        return self.face(world, **of_the_face)

    def _imported(self) -> World | Callable[..., World]:
        if not isinstance(self._world, str):
            return self._world
        module, _, attribute = self._world.partition(":")
        world: World | Callable[..., World] = getattr(import_module(module), attribute)
        return world


def register_world(
    env_id: str,
    world: World | Callable[..., World] | str,
    *,
    max_episode_steps: int | None = None,
    reward_threshold: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Register a world: `gym.make(id)` makes one copy, `gym.make_vec(id, n)` many, and `pg_agents` compiles rollouts.

    Args:
        env_id: The id, such as `"Acme/Cart-v0"`. An id that is registered already is left as it is.
        world: The world; or a function of the environment's keyword arguments that makes one; or where to find either,
            such as `"acme.cart:CART"`, which is imported when it is needed.
        max_episode_steps: Time limit.
        reward_threshold: Mean return at which the task counts as solved.
        metadata: Metadata in place of the world's. They can be read without making an environment, unlike those of a
            world that a function makes.

    Raises:
        ValueError: `world` is a string that is not of the form `"module:attribute"`.
    """
    if isinstance(world, str) and not all(world.partition(":")):
        raise ValueError(f"`world` must be a World, a function or 'module:attribute', but is {world!r}.")
    if env_id in gym.registry:
        return
    gym.register(
        env_id,
        _Maker(WorldEnv, world, metadata),
        max_episode_steps=max_episode_steps,
        reward_threshold=reward_threshold,
        vector_entry_point=_Maker(WorldVector, world, metadata),
    )
