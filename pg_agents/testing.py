"""`check_agent`: what an algorithm's own test-suite runs to know that Stable-Baselines3's users can use it.

    from pg_agents.testing import check_agent

    def test_mine_behaves_like_an_algorithm_of_sb3():
        check_agent(Mine)
"""

from __future__ import annotations

import csv
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from pg_agents.agent import CommonArguments
from pg_agents.checks import constructor_arguments

__all__ = ["check_agent"]

ACTIONS: dict[str, spaces.Space[Any]] = {
    "Discrete": spaces.Discrete(3),
    "Box": spaces.Box(np.float32([-1, 2]), np.float32([1, 6])),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
}
_FLAT = spaces.Box(-1, 1, (3,), np.float32)
_IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
OBSERVATIONS: dict[str, spaces.Space[Any]] = {  # by the policy that reads them
    "MlpPolicy": _FLAT,
    "CnnPolicy": _IMAGE,
    "MultiInputPolicy": spaces.Dict({"flat": _FLAT, "category": spaces.Discrete(3)}),
}
# Small enough that every update takes a moment; given to constructors that have arguments of these names.
SHORT = {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "n_episodes": 1}


def check_agent(cls: type[BaseAlgorithm], **kwargs: Any) -> None:
    """Check that an on-policy algorithm keeps the contract of Stable-Baselines3.

    It trains for a few dozen steps on tiny environments: every kind of action space that the algorithm supports, with
    flat, image and Dict observations where it has policies for them, and with one and two environments. It checks what
    `learn` and `predict` return, seeds, files, checkpoints, callbacks, logging and interruption.

    Args:
        cls: The algorithm.
        **kwargs: Arguments for its constructor. Those among `n_steps`, `batch_size`, `n_epochs` and `n_episodes` that
            it takes are small unless given here.

    Raises:
        AssertionError: It does not keep the contract; the message says what is wrong and what is expected.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cases = _supported_cases(cls, kwargs)
        for case in cases:
            _check_training(case)
            _check_predictions(case)
        for case, check in product(_plainest(cases), _PROTOCOL):
            check(case)
    _require(not caught, lambda: f"{cls.__name__} must not warn, but warned: {caught[0].message}")


def _require(condition: Any, message: str | Callable[[], str]) -> None:
    # Not `assert`, which `python -O` leaves out.
    if not condition:
        raise AssertionError(message if isinstance(message, str) else message())


# What is checked on


class _TinyEnv(gym.Env[Any, Any]):
    """Episodes of five steps; every other one is cut by a time limit. Observations are random."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.n_steps, self.n_episodes, self.t = 0, 0, 0
        self.interrupt_at: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        _require(
            self.action_space.contains(action) or self.action_space.contains(np.asarray(action, self.action_space.dtype)),
            lambda: f"The environment must be given actions of {self.action_space}, but was given {action!r}.",
        )
        self.n_steps += 1
        if self.n_steps == self.interrupt_at:
            raise KeyboardInterrupt
        self.t += 1
        over = self.t == 5
        self.n_episodes += over
        time_limit = self.n_episodes % 2 == 0
        reward = float(np.sum(action)) + self.t
        return self.observation_space.sample(), reward, over and not time_limit, over and time_limit, {}


@dataclass(frozen=True)
class _Case:
    """One algorithm on one kind of environment."""

    cls: type[BaseAlgorithm]
    policy: str
    action: str
    n_envs: int
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How messages call it."""
        envs = "1 environment" if self.n_envs == 1 else f"{self.n_envs} environments"
        return f"{self.cls.__name__} ({self.policy}, {self.action} actions, {envs})"

    def env(self) -> DummyVecEnv:
        """A new environment."""
        # Copies of the spaces: each environment draws from its own.
        observation_space, action_space = OBSERVATIONS[self.policy], ACTIONS[self.action]
        return DummyVecEnv([lambda: _TinyEnv(_copied(observation_space), _copied(action_space))] * self.n_envs)

    def agent(self, **kwargs: Any) -> BaseAlgorithm:
        """A new agent."""
        arguments: dict[str, Any] = {"env": self.env(), "seed": 0, "device": "cpu", **self.kwargs, **kwargs}
        return self.cls(self.policy, **arguments)

    def load(self, path: Path, **kwargs: Any) -> BaseAlgorithm:
        """The agent in a file."""
        return self.cls.load(path, device="cpu", **kwargs)

    def observations(self) -> Any:
        """Five observations of every environment, one after the other."""
        env = self.env()
        env.seed(7)
        return self.agent(env=env).env.reset()  # type: ignore[union-attr]


def _copied(space: spaces.Space[Any]) -> spaces.Space[Any]:
    from copy import deepcopy

    return deepcopy(space)
