"""Checks of observations and rewards; each failure names the environment and the step."""

from __future__ import annotations

from collections.abc import Mapping
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


def check_storable(
    observations: Any, space: spaces.Space[Any], step: int, key: str = "", *, normalized: bool = False
) -> None:
    """Refuse observations that a rollout buffer of a space would change.

    Args:
        observations: As a VecEnv returns them.
        space: The policy's and the buffer's.
        step: Environment steps taken so far, for the message.
        key: Key of the observation in a Dict space, for the message.
        normalized: They come from a `VecNormalize`.

    Raises:
        ValueError: Numbers that the space's type does not hold.
    """
    if isinstance(space, spaces.Dict):
        for subkey, part in space.spaces.items():
            check_storable(observations[subkey], part, step, subkey, normalized=normalized)
    elif (lost := _lost(np.asarray(observations), space)) is not None:
        name = f"observation {key!r}" if key else "observation"
        remedy = (
            " VecNormalize makes fractions, but the policy was made for integers: save the agent, and "
            "load(path, env=...) makes one for fractions, with the same parameters."
            if normalized
            else ""
        )
        raise ValueError(f"The {name} after {step} steps {_stored_as(*lost, space)}.{remedy}")


def check_as_given(env: int | None, observation: Any, space: spaces.Space[Any], key: str = "") -> None:
    """Refuse what an environment returns as an observation if storing it in arrays of its space would change it.

    Args:
        env: Number of the environment; None where many of them answer together.
        observation: As the environment returns it.
        space: Its space, of many observations where many answer together.
        key: Key of the observation in a Dict space, for the message.

    Raises:
        ValueError: Wrong keys, a wrong number of numbers, or numbers that the space's type does not hold.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, Mapping) or sorted(observation) != sorted(space.spaces):
            raise misfit(env, observation, space)
        for subkey, part in space.spaces.items():
            check_as_given(env, observation[subkey], part, subkey)
        return
    try:
        values = np.asarray(observation)
    except ValueError as error:  # rows of different lengths
        raise misfit(env, observation, space, key) from error
    shape = space.shape or ()
    if (
        not (_fits(values.shape, shape) or (env is None and values.shape == (*shape, 1)))
        or values.dtype.kind not in "biuf"
    ):
        raise misfit(env, observation, space, key)
    if (lost := _lost(values, space)) is not None:
        raise ValueError(f"{_of(env, key)} {_stored_as(*lost, space)}.")


def _fits(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether NumPy stores an array in one of another shape, each number once."""
    while shape and len(given) > len(shape) and given[0] == 1:
        given = given[1:]
    return given == shape or (given == () and set(shape) == {1})


def _lost(values: np.ndarray, space: spaces.Space[Any]) -> tuple[Any, Any] | None:
    """The first number that the space's integers do not hold, and what would be stored; None if there is none."""
    if space.dtype is None or values.dtype == space.dtype or space.dtype.kind not in "biu":
        return None
    with np.errstate(invalid="ignore"):
        stored = values.astype(space.dtype)
    differs = stored != values
    return (values[differs][0], stored[differs][0]) if differs.any() else None


def _stored_as(given: Any, stored: Any, space: spaces.Space[Any]) -> str:
    return f"does not match its observation space: it has the number {given}, which {space} would store as {stored}"


def are_finite(observation: Any) -> bool:
    """Whether an observation, an array or a dictionary of arrays, has neither NaN nor infinity."""
    if isinstance(observation, dict):
        return all(map(are_finite, observation.values()))
    values = np.asarray(observation)
    return values.dtype.kind != "f" or bool(_are_finite(values).all())


def _are_finite(values: np.ndarray) -> Any:
    # float16 has no number as large as that.
    return np.isfinite(values) if values.dtype.itemsize < 4 else np.abs(values) <= LARGEST


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
    env = _first(~_are_finite(values))
    return f"The {name} of environment {env} is not finite", values[env]


def _categories(space: spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary) -> tuple[Any, Any]:
    """The first category of each component, and how many there are."""
    if isinstance(space, spaces.MultiBinary):
        return 0, 2
    return space.start, space.n if isinstance(space, spaces.Discrete) else space.nvec


def _first(wrong: np.ndarray) -> int:
    return int(np.argwhere(wrong)[0][0])


def _of(env: int | None, key: str = "") -> str:
    part = f" {key!r}" if key else ""
    return f"The observation{part} of {'the environments' if env is None else f'environment {env}'}"


def misfit(env: int | None, observation: Any, space: spaces.Space[Any], key: str = "") -> ValueError:
    """The error for an observation that cannot be stored in an array of its space's shape.

    Args:
        env: Number of the environment; None where many of them answer together.
        observation: The observation.
        space: Its space.
        key: Key of the observation in a Dict space.
    """
    given = f"keys {sorted(observation)}" if isinstance(observation, Mapping) else _kind(observation)
    return ValueError(
        f"{_of(env, key)} does not match its observation space: it has {given}, but the space is {space}."
    )


def _kind(observation: Any) -> str:
    try:
        values = np.asarray(observation)
    except ValueError:
        return "rows of different lengths"
    if values.dtype.kind not in "biuf":
        return f"the type {type(observation).__name__}"
    return f"shape {values.shape}"
