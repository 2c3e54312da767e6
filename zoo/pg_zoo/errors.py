"""What users are told in one line: mistakes of theirs, and plugins that had to be left out."""

from __future__ import annotations

import sys
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
    """Turn exceptions into a `UserError`, except at verbosity 2, which shows where they come from.

    Args:
        *kinds: Which exceptions; all others pass.
        verbose: What the user asked for with `--verbose`.

    Raises:
        UserError: One of them was raised.
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        if verbose > 1:
            raise
        # These say all there is to say in their messages; of others, the type may be the best part.
        telling = isinstance(error, (ValueError, TypeError, AssertionError, OSError)) and str(error)
        raise UserError(str(error) if telling else f"{type(error).__name__}: {error}") from error
