"""Worlds: environments written once, for one copy, as scalar functions that Numba can compile.

A `World` is three functions on one copy's arrays, and the spaces. Its faces are `WorldEnv`, a `gymnasium.Env`, and
`WorldVector`, a `gymnasium.vector.VectorEnv`, whose copies the compiled rollouts of `pg_agents` step too.
`register_world` registers both under one id, and `check_world` is the conformance check.
"""

from pg_envs.worlds.checking import check_world
from pg_envs.worlds.compiling import compiled
from pg_envs.worlds.faces import WorldEnv, WorldVector
from pg_envs.worlds.random import below, standard_normal, uniform
from pg_envs.worlds.registering import register_world
from pg_envs.worlds.world import World

__all__ = [
    "World",
    "WorldEnv",
    "WorldVector",
    "below",
    "check_world",
    "compiled",
    "register_world",
    "standard_normal",
    "uniform",
]
