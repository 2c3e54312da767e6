"""Tables of the site on a narrow screen: rows become cards, whose cells name their columns (`style.css`)."""

from __future__ import annotations

import re

_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_HEADING = re.compile(r"<th\b[^>]*>(.*?)</th>", re.DOTALL)
_ROW = re.compile(r"<tr>.*?</tr>", re.DOTALL)
_CELL = re.compile(r"<td\b")
_TAG = re.compile(r"<[^>]+>")


def with_labels(html: str) -> str:
    """A page whose cells have the heading of their column as `data-label`.

    Args:
        html: The page's content, as Markdown has made it.
    """
    return _TABLE.sub(lambda table: _labelled(table[0]), html)


def _labelled(table: str) -> str:
    labels = [_TAG.sub("", heading).strip().replace('"', "&quot;") for heading in _HEADING.findall(table)]

    def label_row(row: re.Match[str]) -> str:
        names = iter(labels)
        return _CELL.sub(lambda _: f'<td data-label="{next(names, "")}"', row[0])

    return _ROW.sub(label_row, table)
