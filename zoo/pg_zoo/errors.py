"""Errors and warnings for users, in one line each."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

_LONGEST = 1500  # characters of a message
# Their errors are about what they were given, and their own lines of code say nothing to the user.
_OTHERS = {
    "pg_agents",
    "pg_envs",
    "pg_zoo",
    "stable_baselines3",
    "sb3_contrib",
    "rl_zoo3",
    "gymnasium",
    "torch",
    "numpy",
}
# Whose environments and wrappers raise errors for users, in complete sentences.
_KNOWN = _OTHERS - {"numpy", "torch"}


class UserError(Exception):
    """A mistake that a user can mend; the command line shows the message, on one line, and no traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line_of(message))


def one_line_of(text: str) -> str:
    """Text on one line for a terminal: control characters as escapes, and no middle where there is too much of it."""
    if len(text) > 2 * _LONGEST:
        text = text[:_LONGEST] + text[-_LONGEST:]
    line = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in " ".join(text.split())
    )
    half = _LONGEST // 2
    return line if len(line) <= _LONGEST else f"{line[:half]} [...] {line[-half:]}"


def say(message: str) -> None:
    """One line on stderr; nothing where nobody can read it."""
    with suppress(OSError):
        print(f"pg-zoo: {one_line_of(message)}", file=sys.stderr)


def warn(message: str) -> None:
    """One line on stderr."""
    say(f"warning: {message}")


@contextmanager
def one_line(*kinds: type[Exception], verbose: int = 1) -> Iterator[None]:
    """Turn exceptions into a `UserError`, except at verbosity 2, which shows their tracebacks.

    The traceback of an exception out of the user's own environment is shown, too: the message alone does not find a
    fault in code.

    Args:
        *kinds: The kinds of exceptions to turn; all others pass.
        verbose: The value of `--verbose`.

    Raises:
        UserError: An exception of these kinds was raised.
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        if verbose > 1:
            raise
        if is_of_environment(error):
            _show_own_code(error)
            raise UserError(f"{type(error).__name__}: {error}") from error
        # The messages of these are complete sentences; of others, the type may be the most useful part.
        text, advice = str(error), getattr(error, "advice", "")
        if advice:  # of a file that is refused, for Python
            text = text.replace(advice, "--trust")
        is_sentence = isinstance(error, (ValueError, TypeError, AssertionError, OSError)) and text
        raise UserError(text if is_sentence else f"{type(error).__name__}: {error}") from error


@contextmanager
def own_code_in_full(passes: Callable[[Exception], bool], verbose: int = 1) -> Iterator[None]:
    """Show errors of the user's own code, such as an environment, with the traceback, from that code on.

    Args:
        passes: Whether an exception is about something else.
        verbose: The value of `--verbose`; at 2, all exceptions pass.

    Raises:
        UserError: An exception was raised in the user's code. Its traceback is on stderr.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if verbose > 1 or _own_code(error) is None or passes(error):
            raise
        _show_own_code(error)
        raise UserError(f"{type(error).__name__}: {error}") from error


def _show_own_code(error: Exception) -> None:
    with suppress(OSError):
        sys.stderr.writelines(traceback.format_exception(type(error), error, _own_code(error)))


def _own_code(error: Exception) -> TracebackType | None:
    """The traceback from the first call of code that is of no library which we know; None if there is none."""
    place = error.__traceback__
    while place is not None:
        package = str(place.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if package == "__main__" or package not in _OTHERS | sys.stdlib_module_names:
            return place
        place = place.tb_next
    return None


@contextmanager
def warnings_on_one_line() -> Iterator[None]:
    """Show warnings for users without their line of code."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **source: Any) -> None:
            if category is UserWarning:
                warn(str(message))
            else:
                shown(message, category, *place, **source)

        warnings.showwarning = show
        yield


def is_of_environment(error: Exception) -> bool:
    """Whether an exception has passed through a method of an environment or wrapper that is no library's."""
    from gymnasium import Env
    from gymnasium.vector import VectorEnv

    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in _KNOWN and isinstance(frame.f_locals.get("self"), Env | VectorEnv):
            return True
    return False
