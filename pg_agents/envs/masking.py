"""Masks of actions that an environment does not allow, for agents that take them, as sb3-contrib's `MaskablePPO`."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

_MASKS = "action_masks"  # sb3-contrib's name of the method and of the argument


class _Masked:
    """An agent that is told which actions are allowed, wherever it predicts."""

    def __init__(self, model: Any, env: VecEnv) -> None:
        self.model, self.env = model, env

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """The agent's actions in the environments as they are at this moment."""
        masks = np.stack(self.env.env_method(_MASKS))
        found: tuple[np.ndarray, tuple[np.ndarray, ...] | None] = self.model.predict(
            observation, state, episode_start, deterministic, action_masks=masks
        )
        return found


def with_masks(model: PolicyPredictor, env: VecEnv) -> PolicyPredictor:
    """The agent; with the environment's masks wherever it predicts, if it takes masks and the environment has them.

    Args:
        model: Any agent.
        env: The environment that it acts in.
    """
    takes_masks = _MASKS in inspect.signature(model.predict).parameters
    return _Masked(model, env) if takes_masks and env.has_attr(_MASKS) else model
