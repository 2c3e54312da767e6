"""Checks of what users and environments hand in; each failure names the argument, or the environment and the step."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from traceback import walk_tb
from typing import Any

import numpy as np
from gymnasium import spaces


def suggestion(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` Did you mean '...'?` for the nearest of the known names, or nothing where none is near.

    Args:
        name: What was given.
        known: What there is.
        cutoff: How near is near, from 0 to 1.
    """
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def constructor_arguments(cls: type[Any], common: type[Any]) -> list[str] | None:
    """Names of the arguments that a constructor takes, or None where its `**kwargs` could be anything.

    Args:
        cls: The class.
        common: The TypedDict that `**kwargs: Unpack[...]` in the constructor's signature stands for.
    """
    names = []
    # Not the class's own signature: that could be `__new__`'s.
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        if parameter.kind is not parameter.VAR_KEYWORD:
            names.append(parameter.name)
        elif common.__name__ in str(parameter.annotation):
            names.extend(common.__annotations__)
        else:
            return None
    return names


def check_keywords(cls: type[Any], common: type[Any], keywords: dict[str, Any]) -> None:
    """Refuse a keyword that a constructor does not take, and suggest the one that was probably meant.

    Args:
        cls: The class.
        common: As for `constructor_arguments`.
        keywords: What was given.

    Raises:
        TypeError: A keyword is unknown.
    """
    known = constructor_arguments(cls, common)
    if known is None:
        return
    for keyword in keywords:
        if keyword not in known:
            hint = suggestion(keyword, known)
            raise TypeError(f"{cls.__name__}() got an unexpected keyword argument {keyword!r}.{hint}")


def check_number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    integer: bool = False,
    infinite: bool = False,
    optional: bool = False,
    schedule: bool = False,
) -> None:
    """Refuse a number outside its range. Where a schedule may be given, any callable passes: its values come later.

    Raises:
        ValueError: The value is out of range or of the wrong kind.
    """
    if (schedule and callable(value)) or (optional and value is None):
        return
    kinds = (int, np.integer) if integer else (int, float, np.integer, np.floating)
    in_range = (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and (np.isfinite(value) or (infinite and not np.isnan(value)))
        and (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
    )
    if not in_range:
        bounds = [
            f"{words} {bound}"
            for words, bound in (("at least", at_least), ("greater than", above), ("at most", at_most))
            if bound is not None
        ]
        kind = "an integer" if integer else "a number"
        allowed = " and ".join([" ".join([kind, *bounds[:1]]), *bounds[1:]]) + (", or None" if optional else "")
        raise ValueError(f"`{name}` must be {allowed}, but is {value!r}.")


def check_choice(name: str, value: Any, allowed: Any) -> None:
    """Refuse a value that is not one of a few names.

    Raises:
        ValueError: The value is not among them; the message suggests the nearest.
    """
    if value not in allowed:
        hint = suggestion(str(value), allowed)
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, but is {value!r}.{hint}")


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


def check_finite(name: str, values: np.ndarray, step: int) -> None:
    """Refuse NaN and infinity, also what is infinite in float32, in an array whose first axis counts environments.

    Raises:
        ValueError: A value is not finite; the message names the environment.
    """
    if values.dtype.kind == "f" and not (np.abs(values) <= LARGEST).all():
        env = _first(~(np.abs(values) <= LARGEST))
        raise ValueError(f"The {name} of environment {env} is not finite, after {step} steps in all: {values[env]}.")


LARGEST = np.finfo(np.float32).max


def _categories(space: spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary) -> tuple[Any, Any]:
    """The first category of each component, and how many there are."""
    if isinstance(space, spaces.MultiBinary):
        return 0, 2
    return space.start, space.n if isinstance(space, spaces.Discrete) else space.nvec


def _first(wrong: np.ndarray) -> int:
    return int(np.argwhere(wrong)[0][0])


def explained(error: Exception, space: spaces.Space[Any], step: int) -> Exception:
    """What to raise for an error of `env.step` or `env.reset`: it says so if an observation does not fit its space.

    SB3's VecEnvs copy observations into arrays of the declared shape, and NumPy's complaint about that copy names
    neither the environment nor the space. Any other error is returned as it is.
    """
    frames = [frame.f_locals for frame, _ in walk_tb(error.__traceback__) if frame.f_code.co_name in _COPYING]
    if not frames:
        return error
    # DummyVecEnv copies one observation at a time; SubprocVecEnv all of them, from a list.
    one_at_a_time = "env_idx" in frames[0]
    first = frames[0]["env_idx"] if one_at_a_time else 0
    observations = [frames[0]["obs"]] if one_at_a_time else frames[0]["obs_list"]
    given = [_described(observation) for observation in observations]
    odd = next((index for index, one in enumerate(given) if one != _described(space.sample())), 0)
    explanation = ValueError(
        f"The observation of environment {first + odd} does not match its observation space, after {step} steps in "
        f"all: it has {given[odd]}, but the space is {space}."
    )
    explanation.__cause__ = error
    return explanation


_COPYING = {"_save_obs", "_stack_obs"}


def _described(observation: Any) -> str:
    return f"keys {sorted(observation)}" if isinstance(observation, dict) else f"shape {np.shape(observation)}"
