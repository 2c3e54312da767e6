"""Compiles an objective's weight ψ, after a comparison with the objective's own derivative."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from pg_agents.contract import NotServedError, Objective
from pg_agents.objectives import check_weight

MAX_COEFFICIENTS = 3

_compiled: dict[tuple[Any, ...], Any] = {}


def compiled_weight(objective: Objective) -> Any:
    """The weight as a compiled function with an address.

    Raises:
        NotServedError: There is no weight, or it cannot be compiled.
        WrongWeightError: It is not the derivative of the objective's value.
    """
    function, n_coefficients = objective.weight, len(objective.coefficients)
    assert function is not None, "checked by `check_served`"
    name = getattr(function, "__qualname__", repr(function))
    if not isinstance(function, FunctionType) or function.__closure__:
        # The compiled function would ignore later changes of the variables that it encloses.
        raise NotServedError(f"{name} is no plain function; values that it depends on can be coefficients")
    if n_coefficients > MAX_COEFFICIENTS:
        raise NotServedError(f"{name} has {n_coefficients} coefficients, more than {MAX_COEFFICIENTS}")
    if function.__code__.co_argcount != 3 + n_coefficients:
        raise NotServedError(
            f"{name} takes {function.__code__.co_argcount} arguments, but is given log π, the ratio, the advantage and "
            f"{n_coefficients} coefficients"
        )
    check_weight(objective)
    key = (*identity(function), n_coefficients)
    if key not in _compiled:
        try:
            _compiled[key] = compiled_function(function, n_coefficients)
        except Exception as error:  # Numba has many, and says too much
            raise NotServedError(f"Numba cannot compile {name}") from error
    return _compiled[key]


def identity(function: Callable[..., float] | None) -> tuple[Any, ...]:
    """Equal for two functions of the same code: a method may define its weight anew in every call."""
    return getattr(function, "__code__", function), getattr(function, "__defaults__", None)


def compiled_function(function: Callable[..., float], n_coefficients: int) -> Any:
    """A weight as a C function of float32 numbers: log π, the ratio, the advantage and the coefficients."""
    import numba

    signature = numba.float32(*[numba.float32] * (3 + n_coefficients))
    try:
        return numba.cfunc(signature, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no file to keep it beside: written at a prompt
        return numba.cfunc(signature, error_model="numpy")(function)
