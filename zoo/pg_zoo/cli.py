"""The `pg-zoo` command: train agents, replay them, list what is installed."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pg_zoo.errors import UserError
from pg_zoo.options import make_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Its arguments; by default those of the process.

    Returns:
        The exit status: 0; 1 where trainings failed or a check did; 2 for a mistake in what was asked, which is
        explained on one line of stderr.
    """
    with _terminated_like_ctrl_c():
        return _main(argv)


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """Take SIGTERM, by which schedulers end what runs too long, for Ctrl-C: what there is is kept."""
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
        parser = make_parser()
        args, unknown = parser.parse_known_args(argv)
        if unknown:
            command = f"pg-zoo {args.subcommand}" if args.subcommand else "pg-zoo"
            raise UserError(f"unrecognized arguments: {' '.join(unknown)} (see {command} --help)")
        if args.subcommand is None:
            parser.print_help()
        else:
            return _run(args) or 0
    except UserError as error:
        print(f"pg-zoo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pg-zoo: interrupted", file=sys.stderr)
        return 130
    return 0


def _run(args: argparse.Namespace) -> int | None:
    # Imported only now: torch and rl_zoo3 take seconds, which nobody should wait for to read a help text.
    if args.subcommand == "train":
        from pg_zoo.commands.train import train

        train(args)
    elif args.subcommand == "enjoy":
        from pg_zoo.commands.enjoy import enjoy

        enjoy(args)
    elif args.subcommand == "benchmark":
        from pg_zoo.commands.benchmark import benchmark

        return benchmark(args)
    elif args.subcommand == "report":
        from pg_zoo.commands.report import report

        report(args)
    elif args.subcommand == "crosscheck":
        from pg_zoo.commands.crosscheck import crosscheck

        return crosscheck(args)
    elif args.subcommand == "tune":
        from pg_zoo.commands.tune import tune

        tune(args)
    elif args.subcommand == "evidence":
        from pg_zoo.commands.evidence import evidence

        evidence(args)
    else:
        from pg_zoo.commands.list import show

        show(args.algo, args.env)
    return None
