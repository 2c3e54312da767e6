"""Environments: Gymnasium's vector environments as SB3's, how they are made, stepped and evaluated."""

from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.evaluation import deterministic_evaluation

__all__ = ["VectorEnvAdapter", "deterministic_evaluation"]
