"""Errors and warnings for users, in one line each."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_LONGEST = 1500  # characters of a message
_OURS = {"pg_agents", "pg_envs", "pg_zoo"}
_GIVEN: set[str] = set()


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
            raise _shown(error) from error
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
        raise _shown(error) from error


def _shown(error: Exception) -> UserError:
    """The one line about an exception of the user's own code, whose traceback has been shown."""
    with suppress(OSError):
        sys.stderr.writelines(traceback.format_exception(type(error), error, _own_code(error)))
    return UserError(f"{type(error).__name__}: {error}")


def _own_code(error: Exception) -> TracebackType | None:
    """The traceback from the first call of the user's own code; None if there is none."""
    place, own = error.__traceback__, _own_packages()
    while place is not None and not _is_own(place.tb_frame, own):
        place = place.tb_next
    return place


def count_as_own(module: str) -> None:
    """Count a module that the user has named, and its package, as the user's own code, wherever it is installed."""
    _GIVEN.add(module.partition(".")[0])


def _is_own(frame: FrameType, own: set[str]) -> bool:
    """Whether code is the user's own: neither ours nor Python's nor installed, unless it is a plugin's.

    The errors of other code are about what it was given, and its own lines say nothing to the user.

    Args:
        frame: The code.
        own: Packages that count as own, wherever they are installed.
    """
    package, path = str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_code.co_filename
    if package in _OURS:
        return False
    if package == "__main__" or package in own:
        return True
    installed = not {"site-packages", "dist-packages"}.isdisjoint(Path(path).parts)
    return not (installed or package in sys.stdlib_module_names or path.startswith("<"))


def _own_packages() -> set[str]:
    """The packages that the user has named, and those of registered plugins, which are read anew from the disk."""
    from pg_agents import registry

    groups = (registry.ALGORITHMS, registry.ENVS, registry.HYPERPARAMS, registry.ENGINES)
    return _GIVEN | {entry.module.partition(".")[0] for group in groups for entry in entry_points(group=group)}


@contextmanager
def warnings_on_one_line() -> Iterator[None]:
    """Show warnings for users without their line of code, each once."""
    said: set[str] = set()
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **source: Any) -> None:
            if category is UserWarning:
                if str(message) not in said:
                    warn(str(message))
                said.add(str(message))
            else:
                shown(message, category, *place, **source)

        warnings.showwarning = show
        yield


def is_of_environment(error: Exception) -> bool:
    """Whether an exception has passed through a method of the user's own environment or wrapper."""
    from gymnasium import Env
    from gymnasium.vector import VectorEnv

    walked = traceback.walk_tb(error.__traceback__)
    frames = [frame for frame, _ in walked if isinstance(frame.f_locals.get("self"), Env | VectorEnv)]
    own = _own_packages() if frames else set()
    return any(_is_own(frame, own) for frame in frames)
