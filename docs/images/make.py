"""Draw the pictures of docs/environments.md: `python docs/images/make.py`. It needs no display."""

from pathlib import Path

import gymnasium as gym
from matplotlib.image import imsave

import pg_envs  # noqa: F401 - registers the ids

PICTURES = {
    "rps_match": ("pg/RPSMatch-v0", {}, 9),
    "penalty_kick": ("pg/PenaltyKick-v0", {}, 9),
    "torque_bandit": ("pg/TorqueBandit-v0", {}, 1),
    "short_corridor": ("pg/ShortCorridor-v0", {}, 1),
    "aliased_gridworld": ("pg/AliasedGridworld-v0", {}, 0),
    "torque_pendulum": ("pg/TorquePendulum-v0", {}, 12),
    "torque_lqr": ("pg/TorqueLQR-v0", {"n_joints": 5}, 3),
    "torque_arm": ("pg/TorqueArm-v0", {"n_joints": 7}, 30),
}


def main() -> None:
    for name, (env_id, kwargs, n_steps) in PICTURES.items():
        env = gym.make(env_id, render_mode="rgb_array", **kwargs)
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(n_steps):
            actions = env.unwrapped.copies.controller()
            env.step(env.action_space.sample() if actions is None else actions[0])
        imsave(Path(__file__).with_name(f"{name}.png"), env.render())


if __name__ == "__main__":
    main()
