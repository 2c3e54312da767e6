"""What search spaces are made of: parts for `search_space` of an algorithm, which `pg-zoo tune` asks.

They draw from an Optuna trial and return what a hyperparameter file would say: numbers of two digits, `lin_...` for
what falls linearly to 0, `dict(...)` for the policy's arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

if TYPE_CHECKING:
    from optuna import Trial


def uniform(trial: Trial, name: str, low: float, high: float) -> float:
    """A number between two others."""
    return _rounded(trial.suggest_float(name, low, high))


def log_uniform(trial: Trial, name: str, low: float, high: float) -> float:
    """A positive number whose order of magnitude is open."""
    return _rounded(trial.suggest_float(name, low, high, log=True))


def one_minus(trial: Trial, name: str, low: float, high: float) -> float:
    """1 less a number whose order of magnitude is open: a discount factor."""
    return round(1 - log_uniform(trial, f"one_minus_{name}", low, high), 9)


def power_of_two(trial: Trial, name: str, low: int, high: int) -> int:
    """A power of two between two others."""
    return int(2 ** trial.suggest_int(f"log2_{name}", low.bit_length() - 1, high.bit_length() - 1))


def schedule(trial: Trial, name: str, low: float, high: float) -> float | str:
    """A number as of `log_uniform`, constant or falling linearly to 0."""
    value = log_uniform(trial, name, low, high)
    falls = trial.suggest_categorical(f"{name}_schedule", ["constant", "linear"]) == "linear"
    return f"lin_{value}" if falls else value


def episodes(trial: Trial, n_envs: int) -> dict[str, Any]:
    """Between 2 and 64 whole episodes for an update, shared among at most `n_envs` environments."""
    n_episodes = power_of_two(trial, "n_episodes", 2, 64)
    n_envs = min(n_envs, n_episodes)
    return {"n_envs": n_envs, "n_episodes": n_episodes // n_envs}


def normalisation(trial: Trial, observation_space: spaces.Space[Any]) -> dict[str, Any]:
    """Whether observations and rewards are normalised, where that can be done."""
    if not isinstance(observation_space, spaces.Box) or is_image_space(observation_space):
        return {}
    return {"normalize": True} if trial.suggest_categorical("normalize", [False, True]) else {}


def policy(trial: Trial, action_space: spaces.Space[Any]) -> dict[str, Any]:
    """Size and activation of the networks, and for continuous actions how they explore."""
    found: dict[str, Any] = {}
    kwargs = []
    if (width := power_of_two(trial, "width", 32, 256)) != 64:
        kwargs.append(f"net_arch=[{width}, {width}]")
    if trial.suggest_categorical("activation", ["Tanh", "ReLU"]) == "ReLU":
        kwargs.append("activation_fn=nn.ReLU")
    if isinstance(action_space, spaces.Box):
        kwargs.append(f"log_std_init={uniform(trial, 'log_std_init', -3, 0.5)}")
        if trial.suggest_categorical("use_sde", [False, True]):
            found = {"use_sde": True, "sde_sample_freq": power_of_two(trial, "sde_sample_freq", 4, 64)}
    return {**found, "policy_kwargs": f"dict({', '.join(kwargs)})"} if kwargs else found


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
