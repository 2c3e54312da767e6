"""What all checkers share: loading an exercise, comparing it with what is right, and naming the mistake."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch as th

HERE = Path(__file__).parent
NAMES = (
    "theorem",
    "reinforce",
    "baseline",
    "actor_critic",
    "gae",
    "ppo_clip",
    "gaussian",
    "rock_paper_scissors",
    "rlhf",
)


class WrongError(Exception):
    """The one sentence that says what is wrong with an exercise."""


def load(path: Path) -> ModuleType:
    """A Python file as a module, read anew at each call."""
    spec = importlib.util.spec_from_file_location("_".join(path.with_suffix("").parts[-2:]), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verdict(name: str, path: Path) -> tuple[bool, str]:
    """Whether the exercise in a file is right, and one sentence about it."""
    try:
        exercise = load(path)
        _check_functions(name, exercise)
        said = load(HERE / name / "checker.py").check(exercise)
    except WrongError as wrong:
        return False, str(wrong)
    except SyntaxError as error:
        return False, f"The file is not Python: {error}."
    except Exception as error:  # the student's code can raise anything
        mine = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        if not mine:
            raise
        return False, f"Line {mine[-1].lineno} raises {type(error).__name__}: {error}"
    return True, said


def _check_functions(name: str, exercise: ModuleType) -> None:
    """The functions of the skeleton are there."""
    for function, value in vars(load(HERE / name / "exercise.py")).items():
        if isinstance(value, FunctionType) and not callable(getattr(exercise, function, None)):
            raise WrongError(f"The file has no function `{function}`.")


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a student's function.

    Raises:
        WrongError: The function is not filled in yet, or forgets its `return`.
    """
    result = function(*arguments)
    if result is ... or (isinstance(result, tuple) and any(part is ... for part in result)):
        raise WrongError(f"`{function.__name__}` is not filled in yet: it still returns `...`.")
    if result is None:
        raise WrongError(f"`{function.__name__}` returns None. Does it end in `return`?")
    return result


def compare(what: str, found: Any, right: Any, mistakes: Mapping[str, Any]) -> None:
    """Accept the right numbers, and name the mistake that leads to the numbers found.

    Args:
        what: The quantity, as the subject of a sentence.
        found: The student's numbers.
        right: The right numbers.
        mistakes: The sentence about each mistake, and the numbers to which the mistake leads.

    Raises:
        WrongError: The numbers are not the right ones.
    """
    numbers, expected = _numbers(found), _numbers(right)
    if numbers.shape != expected.shape:
        raise WrongError(f"{what} has the shape {numbers.shape}, but should have {expected.shape}.")
    if _equal(numbers, expected):
        return
    for sentence, consequence in mistakes.items():
        if _equal(numbers, _numbers(consequence)):
            raise WrongError(sentence)
    raise WrongError(f"{what} is {_written(numbers)}, but should be {_written(expected)}.")


def gradients(function: Callable[..., Any], inputs: Sequence[th.Tensor], others: Sequence[Any] = ()) -> Any:
    """Gradients of the sum of a student's objective by its first arguments, 0 where there is none.

    Raises:
        WrongError: The objective is not a tensor, or depends on none of the inputs.
    """
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    objective = called(function, *leaves, *others)
    if not isinstance(objective, th.Tensor):
        raise WrongError(f"`{function.__name__}` must return a tensor, but returns a {type(objective).__name__}.")
    if not objective.requires_grad:
        raise WrongError(f"`{function.__name__}` has no gradient: everything in it is detached.")
    found = th.autograd.grad(objective.sum(), leaves, allow_unused=True)
    return [th.zeros_like(leaf) if one is None else one for leaf, one in zip(leaves, found, strict=True)]


def _numbers(values: Any) -> np.ndarray:
    if isinstance(values, th.Tensor):
        values = values.detach().numpy()
    elif isinstance(values, (list, tuple)) and any(isinstance(value, th.Tensor) for value in values):
        values = [_numbers(value) for value in values]
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise WrongError(f"Numbers are expected, but {values!r} is returned.") from None


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-5, atol=1e-7)


def _written(numbers: np.ndarray) -> str:
    return np.array2string(numbers, precision=4, separator=", ", suppress_small=True).replace("\n", "")
