"""Draw the pictures of docs/questions/it_does_not_learn.md: `python docs/images/not_learning.py`, in two minutes.

Each case is a training that fails for one reason, and the same training with this reason removed.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from gymnasium import spaces
from matplotlib.figure import Figure
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from pg_agents import PPO, REINFORCE, make_vec
from pg_agents.diagnostics import AdvantageDiagnostics, PolicyDiagnostics
from pg_envs.classic.pendulum import pendulum
from pg_envs.worlds import WorldVector

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


def ppo(env: Any, seed: int, **settings: Any) -> PPO:
    """PPO with small rollouts of several environments."""
    return PPO("MlpPolicy", env, **{"n_steps": 256, "batch_size": 256, "seed": seed, "device": "cpu", **settings})


def world(env_id: str) -> VecEnv:
    """Eight copies of a world; what wrappers change around it does not change the returns that are logged."""
    return make_vec(env_id, 8, world=True)


class Changed(VecEnvWrapper):
    """An environment whose observations, rewards and actions are multiplied or shifted.

    Args:
        venv: The environment.
        shift: Added to observations.
        reward: Factor of rewards.
        limit: Bound of the actions, which are scaled to the environment's own; None for those.
    """

    def __init__(self, venv: VecEnv, shift: float = 0, reward: float = 1, limit: float | None = None) -> None:
        own = venv.action_space
        self.factor = 1.0 if limit is None else float(own.high[0]) / limit
        action_space = own if limit is None else spaces.Box(-limit, limit, own.shape, np.float32)
        super().__init__(venv, action_space=action_space)
        self.shift, self.reward = np.float32(shift), np.float32(reward)

    def reset(self) -> Any:
        """The first observations, shifted."""
        return self.venv.reset() + self.shift

    def step_async(self, actions: np.ndarray) -> None:
        """Act with scaled actions."""
        self.venv.step_async(actions if self.factor == 1 else (self.factor * actions).astype(np.float32))

    def step_wait(self) -> Any:
        """Shifted observations, also the last ones of episodes, and scaled rewards."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for i in np.flatnonzero(dones):
            infos[i]["terminal_observation"] = infos[i]["terminal_observation"] + self.shift
        return observations + self.shift, rewards * self.reward, dones, infos


class Shaped(VecEnvWrapper):
    """MountainCar whose reward also counts the gain of energy: γ Φ(s') - Φ(s), which moves no optimum."""

    def reset(self) -> Any:
        """Remember the first potentials."""
        observations = self.venv.reset()
        self.potential = self.energy(observations)
        return observations

    def step_wait(self) -> Any:
        """Add the gain, at the end of an episode that of its last state."""
        observations, rewards, dones, infos = self.venv.step_wait()
        last = observations.copy()
        for i in np.flatnonzero(dones):
            last[i] = infos[i]["terminal_observation"]
        gain = 0.99 * self.energy(last) - self.potential
        self.potential = self.energy(observations)
        return observations, (rewards + gain).astype(np.float32), dones, infos

    @staticmethod
    def energy(observations: np.ndarray) -> np.ndarray:
        """Height and speed of the cars, 0 at rest in the valley."""
        return 100 * (np.sin(3 * observations[:, 0]) + 1) + 40_000 * observations[:, 1] ** 2


PENDULUM = {"gamma": 0.95, "gae_lambda": 0.95, "learning_rate": 1e-3}
CAR, POLE, SWING = (partial(world, name) for name in ("MountainCar-v0", "CartPole-v1", "Pendulum-v1"))
CASES = {
    "sparse": Case(
        ("reward at the goal only", lambda seed: ppo(CAR(), seed, learning_rate=1e-3)),
        ("with a shaped reward", lambda seed: ppo(Shaped(CAR()), seed, learning_rate=1e-3)),
        "advantage/std",
        n_steps=200_000,
    ),
    "entropy": Case(
        ("step size 0.1", lambda seed: REINFORCE("MlpPolicy", "pg/CartPole-v1", 0.1, seed=seed)),
        ("step size 0.003", lambda seed: REINFORCE("MlpPolicy", "pg/CartPole-v1", 0.003, seed=seed)),
        "policy/entropy_share",
    ),
    "step_size": Case(
        ("step size 0.03", lambda seed: ppo(POLE(), seed, learning_rate=0.03)),
        ("step size 0.001", lambda seed: ppo(POLE(), seed, learning_rate=0.001)),
        "policy/kl",
        log_scale=True,
    ),
    "reward_scale": Case(
        ("hundredfold rewards", lambda seed: ppo(Changed(SWING(), reward=100), seed, **PENDULUM)),
        (
            "with VecNormalize",
            lambda seed: ppo(VecNormalize(Changed(SWING(), reward=100), norm_obs=False), seed, **PENDULUM),
        ),
        "advantage/explained_variance",
    ),
    "observations": Case(
        ("1,000 added to observations", lambda seed: ppo(Changed(POLE(), shift=1000), seed)),
        ("with VecNormalize", lambda seed: ppo(VecNormalize(Changed(POLE(), shift=1000), norm_reward=False), seed)),
        "policy/entropy_share",
    ),
    "actions": Case(
        ("actions in [-100, 100]", lambda seed: ppo(Changed(SWING(), limit=100), seed, **PENDULUM)),
        ("actions in [-1, 1]", lambda seed: ppo(Changed(SWING(), limit=1), seed, **PENDULUM)),
        "policy/std_0",
    ),
    "endless": Case(
        ("no time limit", lambda seed: ppo(WorldVector(pendulum(), 8), seed, **PENDULUM)),
        ("TimeLimit of 200 steps", lambda seed: ppo(SWING(), seed, **PENDULUM)),
        "rollout/ep_len_mean",
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
