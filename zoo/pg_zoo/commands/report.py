"""`pg-zoo report`: the report on a stored benchmark."""

from __future__ import annotations

from pg_zoo.errors import one_line
from pg_zoo.lookup import check_report_packages
from pg_zoo.options import ReportOptions


def report(args: ReportOptions) -> None:
    """Run `pg-zoo report`.

    Raises:
        UserError: There are no readable results, the baseline is not among them, or a file cannot be written.
    """
    check_report_packages()
    if args.verbose:
        print(f"Reading the results in {args.folder}, and drawing figures", flush=True)
    from pg_zoo.pages.report import write_report

    with one_line(OSError, verbose=args.verbose):
        lines = write_report(args.folder, output=args.output, baseline=args.baseline)
    if args.verbose:
        print(*lines, sep="\n")
