"""What numbers options take."""

from __future__ import annotations

from pg_agents.checks import check_number
from pg_zoo.errors import one_line
from pg_zoo.options import Options

MAX_ENVS = 100_000  # environments at a time; a slip of the pen would take all memory
MAX_PROCESSES = 1000  # environments in processes of their own
MAX_SEEDS = 10_000  # trainings of one kind
MAX_POINTS = 10_000  # evaluations along a training
MAX_THREADS = 1024
MAX_STEPS = 10**15  # of a training: more than a processor takes in a thousand years
LARGEST_SEED = 2**32 - 1  # of NumPy's global generator


def check_options(
    args: Options, *names: str, at_least: int, at_most: int | None = None, optional: bool = False
) -> None:
    """Check options that are whole numbers.

    Args:
        args: The options.
        *names: Which.
        at_least: The smallest number that is allowed.
        at_most: The largest; None for none.
        optional: Whether there may be no number.

    Raises:
        UserError: One is out of range.
    """
    with one_line(ValueError):
        for name in names:
            number = getattr(args, name)
            check_number(
                f"--{name.replace('_', '-')}",
                number,
                at_least=at_least,
                at_most=at_most,
                integer=True,
                optional=optional,
            )
