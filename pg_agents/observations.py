"""Checks of observations and rewards; each failure names the environment and the step."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

LARGEST = float(np.finfo(np.float32).max)


def check_observations(observations: Any, space: spaces.Space[Any], n_envs: int, step: int, key: str = "") -> None:
    """Refuse observations of `n_envs` environments that do not fit their space, or are not finite.

    Bounds of a Box are not checked: many environments leave theirs, and learning does not depend on them.

    Args:
        observations: As a VecEnv returns them.
        space: The space of one environment's observation.
        n_envs: Number of environments.
        step: Environment steps taken so far, for the message.
        key: Key of the observation in a Dict space, for the message.

    Raises:
        ValueError: Wrong keys or shape, a category that does not exist, NaN or infinity.
    """
    name = f"observation {key!r}" if key else "observation"
    if isinstance(space, spaces.Dict):
        given = sorted(observations) if isinstance(observations, dict) else type(observations).__name__
        if given != sorted(space.spaces):
            raise ValueError(
                f"The {name} after {step} steps has {given}, but the observation space has {sorted(space.spaces)}."
            )
        for subkey, subspace in space.spaces.items():
            check_observations(observations[subkey], subspace, n_envs, step, subkey)
        return
    expected = (n_envs, *(space.shape or ()))
    if np.shape(observations) not in (expected, (*expected, 1)):
        raise ValueError(
            f"The {name} after {step} steps has shape {np.shape(observations)}, but {n_envs} environments with the "
            f"observation space {space} give {expected}."
        )
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        categories = np.reshape(observations, expected)
        low, size = _categories(space)
        wrong = ~((categories >= low) & (categories < low + size) & (categories == np.floor(categories)))
        if wrong.any():
            env = _first(wrong)
            raise ValueError(
                f"The {name} of environment {env} is {categories[env]}, outside its space {space}, after {step} steps "
                "in all."
            )
    else:
        check_finite(name, observations, step)


def are_finite(observation: Any) -> bool:
    """Whether an observation, an array or a dictionary of arrays, has neither NaN nor infinity."""
    if isinstance(observation, dict):
        return all(map(are_finite, observation.values()))
    values = np.asarray(observation)
    return values.dtype.kind != "f" or bool((np.abs(values) <= LARGEST).all())


def check_finite(name: str, values: np.ndarray, step: int) -> None:
    """Refuse NaN and infinity, in float32 too, in an array whose first axis counts environments.

    Raises:
        ValueError: A value is not finite; the message names the environment.
    """
    if (said := not_finite(name, values)) is not None:
        raise ValueError(f"{said[0]}, after {step} steps in all: {said[1]}.")


def not_finite(name: str, values: np.ndarray) -> tuple[str, Any] | None:
    """The first environment whose values are not finite in float32, in words, and its values; None if all are.

    Args:
        name: The quantity.
        values: Its first axis counts environments.
    """
    if are_finite(values):
        return None
    env = _first(~(np.abs(values) <= LARGEST))
    return f"The {name} of environment {env} is not finite", values[env]


def _categories(space: spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary) -> tuple[Any, Any]:
    """The first category of each component, and how many there are."""
    if isinstance(space, spaces.MultiBinary):
        return 0, 2
    return space.start, space.n if isinstance(space, spaces.Discrete) else space.nvec


def _first(wrong: np.ndarray) -> int:
    return int(np.argwhere(wrong)[0][0])


def misfit(env: int, observation: Any, space: spaces.Space[Any]) -> ValueError:
    """The error for an observation that cannot be stored in an array of its space's shape.

    Args:
        env: Number of the environment.
        observation: The observation.
        space: Its space.
    """
    given = f"keys {sorted(observation)}" if isinstance(observation, dict) else f"shape {np.shape(observation)}"
    return ValueError(
        f"The observation of environment {env} does not match its observation space: it has {given}, but the space is "
        f"{space}."
    )
