"""`pg-zoo evidence`: store evidence for entries, and show the table of all evidence."""

from __future__ import annotations

from pathlib import Path

from pg_zoo.errors import UserError, one_line
from pg_zoo.evidence.scored import collect, update
from pg_zoo.options import EvidenceOptions
from pg_zoo.pages.scores import table
from pg_zoo.results.storage import write_whole, writing


def evidence(args: EvidenceOptions) -> None:
    """Run `pg-zoo evidence`.

    Raises:
        UserError: An option is invalid, or the results contain no evidence.
    """
    zoo = None if args.zoo is None else Path(args.zoo)
    output = None if args.output is None else Path(args.output)
    if output is not None and not output.parent.is_dir():
        raise UserError(f"-o/--output is {args.output}, but there is no folder {output.parent}.")
    if args.results is not None:
        n_written = 0
        for path in update(Path(args.results), zoo, same_seeds=args.same_seeds):
            print(path, flush=True)
            n_written += 1
        if not n_written:
            raise UserError(f"{args.results} contains no evidence for any entry.")
    if output is not None:
        with one_line(OSError), writing(output, "-o/--output"):
            write_whole(output, table(collect(zoo)))
        print(output)
    elif args.results is None:
        print(table(collect(zoo)), end="")
