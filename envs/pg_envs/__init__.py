"""Environments that show why policy gradients exist. Importing this module registers their ids."""

from pg_envs.corridor import ShortCorridor
from pg_envs.registration import register

__all__ = ["ShortCorridor", "register"]

register()
