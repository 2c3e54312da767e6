"""The `pg-zoo` command: train agents, replay them, list what is installed."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pg_zoo.errors import UserError
from pg_zoo.options import (
    BenchmarkOptions,
    CrosscheckOptions,
    EnjoyOptions,
    EvidenceOptions,
    ListOptions,
    Options,
    ReportOptions,
    ResumeOptions,
    TrainOptions,
    TuneOptions,
    parse,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Its arguments; by default those of the process.

    Returns:
        The exit status: 0; 1 if trainings or a check failed; 2 for a mistake in the command line or in files that it
        names, which is explained on one line of stderr.
    """
    with _terminated_like_ctrl_c():
        return _main(argv)


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM, with which schedulers end long jobs, like Ctrl-C: finished work is kept."""
    if threading.current_thread() is not threading.main_thread():  # only that one may choose
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _main(argv: Sequence[str] | None) -> int:
    try:
        options = parse(argv)
        return 0 if options is None else _run(options) or 0
    except UserError as error:
        print(f"pg-zoo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pg-zoo: interrupted", file=sys.stderr)
        return 130


def _run(options: Options) -> int | None:
    # Imported here, because torch and rl_zoo3 take seconds, which a help text must not take.
    match options:
        case TrainOptions():
            from pg_zoo.commands.train import train

            train(options)
        case ResumeOptions():
            from pg_zoo.commands.train import resume

            resume(options)
        case EnjoyOptions():
            from pg_zoo.commands.enjoy import enjoy

            enjoy(options)
        case BenchmarkOptions():
            from pg_zoo.runs.processes import prepare

            if options.backend == "local":
                prepare()  # at once: this process needs as long for loading the same
            from pg_zoo.commands.benchmark import benchmark

            return benchmark(options)
        case ReportOptions():
            from pg_zoo.commands.report import report

            report(options)
        case CrosscheckOptions():
            from pg_zoo.commands.crosscheck import crosscheck

            return crosscheck(options)
        case TuneOptions():
            from pg_zoo.commands.tune import tune

            tune(options)
        case EvidenceOptions():
            from pg_zoo.commands.evidence import evidence

            evidence(options)
        case ListOptions():
            from pg_zoo.commands.list import show

            show(options.algo, options.env)
    return None
