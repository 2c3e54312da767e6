"""Errors and warnings for users, in one line each."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LONGEST = 1500  # characters of a message


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

    An exception out of the user's own environment keeps its traceback, too: the message alone does not find a fault in
    code.

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
        if verbose > 1 or is_of_environment(error):
            raise
        # The messages of these are complete sentences; of others, the type may be the most useful part.
        is_sentence = isinstance(error, (ValueError, TypeError, AssertionError, OSError)) and str(error)
        raise UserError(str(error) if is_sentence else f"{type(error).__name__}: {error}") from error


# Whose environments and wrappers raise errors for users, in complete sentences.
_KNOWN = {"gymnasium", "pg_agents", "pg_envs", "pg_zoo", "rl_zoo3", "sb3_contrib", "stable_baselines3"}


def is_of_environment(error: Exception) -> bool:
    """Whether an exception has passed through a method of an environment or wrapper that is no library's."""
    from gymnasium import Env
    from gymnasium.vector import VectorEnv

    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in _KNOWN and isinstance(frame.f_locals.get("self"), Env | VectorEnv):
            return True
    return False
