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
