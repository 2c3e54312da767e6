"""`pg-zoo report`: the report on a stored benchmark."""

from __future__ import annotations

import math

from pg_zoo.errors import UserError, one_line
from pg_zoo.lookup import check_report_packages
from pg_zoo.options import ReportOptions


def report(args: ReportOptions) -> None:
    """Run `pg-zoo report`.

    Raises:
        UserError: There are no readable results, an option does not fit them, or a file cannot be written.
    """
    thresholds = None if args.threshold is None else _thresholds(args.threshold)
    check_report_packages()
    if args.verbose:
        print(f"Reading the results in {args.folder}, and drawing figures", flush=True)
    from pg_zoo.pages.report import write_report

    with one_line(OSError, verbose=args.verbose):
        lines = write_report(
            args.folder,
            output=args.output,
            baseline=args.baseline,
            formats=args.format,
            thresholds=thresholds,
            tensorboard=args.tensorboard,
        )
    if args.verbose:
        print(*lines, sep="\n")


def _thresholds(texts: list[str]) -> float | dict[str, float]:
    """`475` for all environments, or `CartPole-v1:475 Pendulum-v1:-200`."""
    if len(texts) == 1 and ":" not in texts[0]:
        return _score(texts[0])
    found = {}
    for text in texts:
        env, colon, score = text.rpartition(":")
        if not colon:
            raise UserError(f"--threshold takes one SCORE, or ENV:SCORE for each environment, but was given {text!r}.")
        found[env] = _score(score)
    return found


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"--threshold takes a number, or ENV:NUMBER, but was given {text!r}.")
    return score
