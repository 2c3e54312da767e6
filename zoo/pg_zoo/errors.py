"""Errors and warnings for users, in one line each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that a user can mend; the command line shows the message, on one line, and no traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"pg-zoo: warning: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def one_line(*kinds: type[Exception], verbose: int = 1) -> Iterator[None]:
    """Turn exceptions into a `UserError`, except at verbosity 2, which shows their tracebacks.

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
        # The messages of these are complete sentences; of others, the type may be the most useful part.
        is_sentence = isinstance(error, (ValueError, TypeError, AssertionError, OSError)) and str(error)
        raise UserError(str(error) if is_sentence else f"{type(error).__name__}: {error}") from error
