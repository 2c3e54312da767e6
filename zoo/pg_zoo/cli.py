"""The `pg-zoo` command: train agents, replay them, list what is installed."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

from pg_zoo.errors import UserError, say, warnings_on_one_line
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
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could come next
        from pg_zoo.completion import complete

        complete()
    with _standard_streams(), _ended_like_ctrl_c():
        return _main(argv)


@contextmanager
def _standard_streams() -> Iterator[None]:
    """Have stdin, stdout and stderr, which may be closed, and an stdout that can show every name in some way."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # In this order, and before any other file, it takes the number that is free: other processes have it, too.
            setattr(sys, name, open(os.devnull, mode, errors="backslashreplace"))  # noqa: SIM115 - for as long as the process lives
    before = sys.stdout
    if before is sys.__stdout__ and isinstance(before, io.TextIOWrapper):
        before.flush()
        raw = _Stdout(before.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            cast(Any, raw) if before.write_through else io.BufferedWriter(raw),  # as python -u has it
            before.encoding,
            "backslashreplace",
            line_buffering=before.line_buffering,
            write_through=before.write_through,
        )
    try:
        yield
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        sys.stdout = before


class _Stdout(io.FileIO):
    """A file that remembers why it could not be written, whoever has caught the error."""

    problem = ""

    def write(self, data: Any, /) -> int:
        """Write; what comes after an error goes nowhere."""
        if self.problem:
            return len(data)
        try:
            return super().write(data)
        except OSError as error:
            self.problem = error.strerror or str(error)
            raise


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM, with which schedulers end long jobs, and a terminal that closes like Ctrl-C: work is kept."""
    if threading.current_thread() is not threading.main_thread():  # only that one may choose
        yield
        return
    ends = [signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
        ends.append(signal.SIGHUP)
    before = {end: signal.signal(end, signal.default_int_handler) for end in ends}
    try:
        yield
    finally:
        for end, handler in before.items():
            signal.signal(end, handler)


def _main(argv: Sequence[str] | None) -> int:
    try:
        _check_current_folder()
        options = parse(argv)
        with warnings_on_one_line():
            status = 0 if options is None else _run(options) or 0
        message = ""
        sys.stdout.flush()
    except UserError as error:
        message, status = f"error: {error}", 2
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    except OSError as error:  # of what the commands do not expect to fail
        message, status = f"error: {error}", 2
    if problem := _problem_of_stdout():
        # What went wrong before may well have been this.
        message, status = f"error: The output cannot be written: {problem}.", status or 2
    if message:
        say(message)
    return status


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:  # a library that torch loads would end the process
        raise UserError("The current folder is gone: change to one that is there.") from error


def _problem_of_stdout() -> str:
    """Why stdout could not be written, if so."""
    with suppress(OSError):
        sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    return str(getattr(getattr(buffer, "raw", buffer), "problem", ""))


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
            print("Loading ...", flush=True)  # which takes seconds
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
