"""Draw the animations of the site's first page: `python docs/images/animations.py`. It takes a minute.

Each is a WebP that repeats, and a PNG of one frame for readers who have asked their system for less motion.
"""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pg_agents import PPO, load_agent
from pg_envs import RPS, ExploitabilityCallback
from pg_envs.games.simplex import draw_simplex, on_simplex
from pg_zoo.evidence.agents import AGENTS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from self_play import FIRST_SEED, SETTLING, Task, agent

SIZE = 360


def arm(n_episodes: int = 4, n_steps: int = 44) -> list[Image.Image]:
    """The bundled agent reaches for one goal after the other."""
    model = load_agent(PPO, AGENTS / "ppo" / "pg-TorqueArm-v0_1" / "pg-TorqueArm-v0.zip")
    env = gym.make("pg/TorqueArm-v0", render_mode="rgb_array")
    frames = []
    for episode in range(n_episodes):
        observation, _ = env.reset(seed=episode)
        for step in range(n_steps):
            if step % 2 == 0:
                frames.append(Image.fromarray(env.render()).resize((SIZE, SIZE), Image.Resampling.LANCZOS))
            action, _ = model.predict(observation, deterministic=True)
            observation, *_ = env.step(action)
    return frames


def self_play(n_frames: int = 72) -> list[Image.Image]:
    """Two players with one policy, each other's opponent, from a preference for rock to the equilibrium."""
    task = Task("A2C", "standard", SETTLING)
    model = agent(task, FIRST_SEED)
    path = ExploitabilityCallback(RPS("standard"), every=2, figure=False)
    model.learn(task.n_timesteps, callback=path)
    points = on_simplex(np.array(path.policies))
    # As much of the way, not of the time, in each frame: the end is slow.
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return [drawn(points[: np.searchsorted(way, share * way[-1]) + 1]) for share in np.linspace(0, 1, n_frames)]


def drawn(points: np.ndarray) -> Image.Image:
    """The path so far."""
    figure = Figure(figsize=(3.6, 3.6), dpi=SIZE / 3.6)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    draw_simplex(axes, ("rock", "paper", "scissors"), np.full(3, 1 / 3))
    axes.plot(*points.T, color="#4051b5", linewidth=1.2)
    axes.plot(*points[-1], "o", color="#4051b5", markersize=9)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def write(name: str, frames: list[Image.Image], milliseconds: int, pause: int) -> None:
    """Write the animation, with a pause at its end, and its last frame."""
    target = Path(__file__).with_name(name)
    durations = [milliseconds] * (len(frames) - 1) + [pause]
    frames[0].save(
        target.with_suffix(".webp"),
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        quality=70,
        method=6,
    )
    frames[-1].quantize(64).save(target.with_suffix(".png"), optimize=True)


def main() -> None:
    write("arm", arm(), 80, 600)
    write("self_play", self_play(), 80, 2500)


if __name__ == "__main__":
    main()
