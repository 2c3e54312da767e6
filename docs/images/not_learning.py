"""Draw the pictures of docs/questions/it_does_not_learn.md: `python docs/images/not_learning.py`, in ten minutes.

Each case is a training that fails for one reason, and the same training with this reason removed.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from pg_agents import PPO, REINFORCE, make_vec
from pg_agents.diagnostics import AdvantageDiagnostics, PolicyDiagnostics

matplotlib.use("agg")
FOLDER = Path(__file__).parent / "questions"
RETURN = "rollout/ep_rew_mean"


@dataclass(frozen=True)
class Case:
    """A reason for which an agent does not learn.

    Attributes:
        failing: Trains with a seed and a number of steps, under this label.
        mended: Likewise, without the reason.
        key: The logged quantity that shows the reason.
        n_steps: Length of the training.
        log_scale: The axis of this quantity is logarithmic.
    """

    failing: tuple[str, Callable[[int], Any]]
    mended: tuple[str, Callable[[int], Any]]
    key: str
    n_steps: int = 100_000
    log_scale: bool = False


def ppo(env: VecEnv | gym.Env, seed: int, **settings: Any) -> PPO:
    """PPO with small rollouts of several environments."""
    return PPO("MlpPolicy", env, **{"n_steps": 256, "batch_size": 256, "seed": seed, "device": "cpu", **settings})


def envs(env_id: str, seed: int, *wrappers: Callable[[gym.Env], gym.Env], **settings: Any) -> VecEnv:
    """Eight environments, in which the returns that are logged are those inside the wrappers."""

    def wrapped(env: gym.Env) -> gym.Env:
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return make_vec_env(env_id, 8, seed=seed, wrapper_class=wrapped, **settings)


def hundredfold(env: gym.Env) -> gym.Env:
    return gym.wrappers.TransformReward(env, lambda reward: 100 * float(reward))


def far_from_the_origin(env: gym.Env) -> gym.Env:
    return gym.wrappers.TransformObservation(env, lambda observation: 1000 + observation, env.observation_space)


def percent(env: gym.Env) -> gym.Env:
    return gym.wrappers.RescaleAction(env, np.float32(-100), np.float32(100))


def rescaled(env: gym.Env) -> gym.Env:
    return gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


class Shaped(gym.Wrapper):
    """MountainCar whose reward also counts the gain of energy: γ Φ(s') - Φ(s), which moves no optimum."""

    def reset(self, **kwargs: Any) -> Any:
        """Remember the first potential."""
        observation, info = self.env.reset(**kwargs)
        self.potential = self.energy(observation)
        return observation, info

    def step(self, action: Any) -> Any:
        """Add the gain."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        potential = self.energy(observation)
        gain, self.potential = 0.99 * potential - self.potential, potential
        return observation, float(reward) + gain, terminated, truncated, info

    @staticmethod
    def energy(observation: np.ndarray) -> float:
        """Height and speed of the car, 0 at rest in the valley."""
        return float(100 * (np.sin(3 * observation[0]) + 1) + 40_000 * observation[1] ** 2)


PENDULUM = {"gamma": 0.95, "gae_lambda": 0.95, "learning_rate": 1e-3}
CASES = {
    "sparse": Case(
        ("reward at the goal only", lambda seed: ppo(envs("MountainCar-v0", seed), seed, learning_rate=1e-3)),
        ("with a shaped reward", lambda seed: ppo(envs("MountainCar-v0", seed, Shaped), seed, learning_rate=1e-3)),
        "advantage/std",
        n_steps=150_000,
    ),
    "entropy": Case(
        ("step size 0.1", lambda seed: REINFORCE("MlpPolicy", "CartPole-v1", 0.1, seed=seed)),
        ("step size 0.003", lambda seed: REINFORCE("MlpPolicy", "CartPole-v1", 0.003, seed=seed)),
        "policy/entropy_share",
    ),
    "step_size": Case(
        ("step size 0.03", lambda seed: ppo(make_vec("CartPole-v1", 8, world=True), seed, learning_rate=0.03)),
        ("step size 0.001", lambda seed: ppo(make_vec("CartPole-v1", 8, world=True), seed, learning_rate=0.001)),
        "policy/kl",
        log_scale=True,
    ),
    "reward_scale": Case(
        ("hundredfold rewards", lambda seed: ppo(envs("Pendulum-v1", seed, hundredfold), seed, **PENDULUM)),
        (
            "with VecNormalize",
            lambda seed: ppo(VecNormalize(envs("Pendulum-v1", seed, hundredfold), norm_obs=False), seed, **PENDULUM),
        ),
        "advantage/explained_variance",
    ),
    "observations": Case(
        ("1,000 added to observations", lambda seed: ppo(envs("CartPole-v1", seed, far_from_the_origin), seed)),
        (
            "with VecNormalize",
            lambda seed: ppo(VecNormalize(envs("CartPole-v1", seed, far_from_the_origin), norm_reward=False), seed),
        ),
        "policy/entropy_share",
        n_steps=50_000,
    ),
    "actions": Case(
        ("actions in [-100, 100]", lambda seed: ppo(envs("Pendulum-v1", seed, percent), seed, **PENDULUM)),
        ("with RescaleAction", lambda seed: ppo(envs("Pendulum-v1", seed, percent, rescaled), seed, **PENDULUM)),
        "policy/std_0",
    ),
    "endless": Case(
        ("no time limit", lambda seed: ppo(envs("Pendulum-v1", seed, env_kwargs={"max_episode_steps": -1}), seed)),
        ("TimeLimit of 200 steps", lambda seed: ppo(envs("Pendulum-v1", seed), seed, **PENDULUM)),
        "rollout/ep_len_mean",
        n_steps=50_000,
    ),
}


class Curves(KVWriter):
    """The logged values of a training, by key."""

    def __init__(self) -> None:
        self.values: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        """Keep the numbers."""
        for key, value in key_values.items():
            if isinstance(value, (int, float, np.floating)):
                self.values[key].append((step, float(value)))


def train(make: Callable[[int], Any], seed: int, n_steps: int) -> Curves:
    curves = Curves()
    model = make(seed)
    model.set_logger(Logger(None, [curves]))
    every = max(n_steps // 40, 1)
    model.learn(n_steps, callback=[AdvantageDiagnostics(every=every), PolicyDiagnostics(every=every)])
    model.get_env().close()
    return curves


def draw(name: str, case: Case, n_seeds: int, scale: float, folder: Path) -> None:
    """Return on the left, the quantity that shows the reason on the right; a thin line for each seed, a thick mean."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    panels = figure.subplots(1, 2)
    for (label, make), colour in ((case.failing, "tab:red"), (case.mended, "tab:blue")):
        runs = [train(make, seed, int(case.n_steps * scale)) for seed in range(n_seeds)]
        for axes, key in zip(panels, (RETURN, case.key), strict=True):
            lines = [np.array(run.values[key]) for run in runs if run.values[key]]
            for line in lines:
                axes.plot(*line.T, color=colour, linewidth=0.6, alpha=0.5)
            axes.plot(*mean(lines), color=colour, linewidth=2, label=label)
            axes.set(xlabel="steps", title=key)
            print(name, label, key, [f"{line[-1][1]:.3g}" for line in lines], flush=True)
    if case.log_scale:
        panels[1].set_yscale("log")
    panels[0].legend(frameon=False, fontsize="small")
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=100)


def mean(lines: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of curves over seeds, between the points at which each was logged; empty if nothing was."""
    if not lines:
        return np.array([]), np.array([])
    steps = np.linspace(max(line[0, 0] for line in lines), min(line[-1, 0] for line in lines), 200)
    return steps, np.mean([np.interp(steps, *line.T) for line in lines], axis=0)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=[], metavar="case", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the length of training (default 1)")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the pictures")
    options = parser.parse_args(given)
    for name in options.cases or CASES:
        draw(name, CASES[name], options.seeds, options.scale, options.output)


if __name__ == "__main__":
    main()
