"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Container, Sequence


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Container[int] = ()) -> str:
    """A table, without a line break at its end.

    Args:
        columns: The head.
        rows: The cells of each row.
        right: Indices of the columns that are aligned to the right.
    """
    rule = ["---:" if index in right else "---" for index in range(len(columns))]
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in (columns, *rows))
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))
