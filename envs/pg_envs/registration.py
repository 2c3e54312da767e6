"""The ids of all environments: `register()`, which is also the entry point of the group `pg_agents.envs`."""

from __future__ import annotations

import gymnasium as gym
import pettingzoo

_ENVS: dict[str, tuple[str, int | None]] = {
    # id: (module:class, time limit); the vector version is module:classVector.
    "pg/RPSMatch-v0": ("pg_envs.games.match:RPSMatch", None),
    "pg/PenaltyKick-v0": ("pg_envs.games.penalty_kick:PenaltyKick", None),
    "pg/TorqueBandit-v0": ("pg_envs.torque.bandit:TorqueBandit", None),
    "pg/ShortCorridor-v0": ("pg_envs.corridor:ShortCorridor", 1000),
    "pg/AliasedGridworld-v0": ("pg_envs.gridworld:AliasedGridworld", 200),
    "pg/TorquePendulum-v0": ("pg_envs.torque.pendulum:TorquePendulum", 200),
    "pg/TorqueLQR-v0": ("pg_envs.torque.lqr:TorqueLQR", 100),
    "pg/TorqueArm-v0": ("pg_envs.torque.arm:TorqueArm", 100),
}


def register() -> None:
    """Register the ids with Gymnasium and PettingZoo. Further calls do nothing."""
    for env_id, (entry_point, limit) in _ENVS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point, max_episode_steps=limit, vector_entry_point=f"{entry_point}Vector")
    if "pg_envs/rps-v0" not in pettingzoo.parallel_registry:
        pettingzoo.register("parallel", "pg_envs/rps-v0", "pg_envs.games.rps:RPS")
        pettingzoo.register("aec", "pg_envs/rps-v0", "pg_envs.games.rps:aec_env")
