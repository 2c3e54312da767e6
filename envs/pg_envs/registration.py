"""The ids of all environments: `register()`, which is also the entry point of the group `pg_agents.envs`."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import pettingzoo

from pg_envs.references import computed_scores
from pg_envs.worlds.registering import register_world

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
    "pg/Reviews-v0": ("pg_envs.reviews.environment:Reviews", None),
}

_WORLDS: dict[str, tuple[str, int | None, float | None, int]] = {
    # id: (function in pg_envs.classic, time limit, reward threshold, pictures per second), as in Gymnasium.
    "pg/CartPole-v1": ("cartpole:cartpole", 500, 475.0, 50),
    "pg/Pendulum-v1": ("pendulum:pendulum", 200, None, 30),
    "pg/Acrobot-v1": ("acrobot:acrobot", 500, -100.0, 15),
    "pg/MountainCar-v0": ("mountain_car:mountain_car", 200, -110.0, 30),
    "pg/MountainCarContinuous-v0": ("mountain_car:mountain_car_continuous", 999, 90.0, 30),
    "pg/FrozenLake-v1": ("toy_text:frozen_lake", 100, 0.70, 4),
    "pg/CliffWalking-v1": ("toy_text:cliff_walking", None, None, 4),
    "pg/Taxi-v4": ("toy_text:taxi", 200, 8, 4),
}


def register() -> None:
    """Register the ids with Gymnasium and PettingZoo. Further calls do nothing."""
    for env_id, (entry_point, limit) in _ENVS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point, max_episode_steps=limit, vector_entry_point=f"{entry_point}Vector")
    for env_id, (function, limit, threshold, fps) in _WORLDS.items():
        register_world(
            env_id,
            f"pg_envs.classic.{function}",
            max_episode_steps=limit,
            reward_threshold=threshold,
            metadata={
                "render_modes": ["rgb_array", "human"],
                "render_fps": fps,
                "reference_scores": partial(computed_scores, env_id),
            },
        )
    if "pg_envs/rps-v0" not in pettingzoo.parallel_registry:
        pettingzoo.register("parallel", "pg_envs/rps-v0", "pg_envs.games.rps:RPS")
        pettingzoo.register("aec", "pg_envs/rps-v0", "pg_envs.games.rps:aec_env")
