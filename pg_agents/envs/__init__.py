"""Environments as SB3's `VecEnv`s: adapting, making, stepping and evaluating them."""

from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.envpool import EnvPoolVector
from pg_agents.envs.evaluation import deterministic_evaluation

__all__ = ["EnvPoolVector", "VectorEnvAdapter", "deterministic_evaluation"]
