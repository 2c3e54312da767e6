"""A page of text, tables and figures, as Markdown with separate pictures or as one HTML file."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from pg_zoo.pages import figures
from pg_zoo.pages.tables import markdown_table


@dataclass(frozen=True)
class Heading:
    """A heading; the page's title has level 1. All texts may contain `**bold**`, and code in backquotes."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table, its caption and the caption's number; with `numbers`, all columns but the first are aligned right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True
    caption: str = ""
    label: str = ""


@dataclass(frozen=True)
class Pictures:
    """Figures by file name without suffix, side by side if there is room, their caption, and its number."""

    figures: dict[str, Figure]
    caption: str
    label: str = ""


@dataclass(frozen=True)
class Details:
    """Preformatted text, folded until its summary is clicked."""

    summary: str
    text: str


Block = Heading | Text | Bullets | Table | Pictures | Details


def numbered(blocks: Sequence[Block]) -> list[Block]:
    """The blocks with `Table 1`, `Table 2`, ... and `Figure 1`, ... as labels of tables with captions and figures."""
    tables, shown = itertools.count(1), itertools.count(1)
    found: list[Block] = []
    for block in blocks:
        if isinstance(block, Pictures):
            block = replace(block, label=f"Figure {next(shown)}")
        elif isinstance(block, Table) and block.caption:
            block = replace(block, label=f"Table {next(tables)}")
        found.append(block)
    return found


def _captioned(block: Table | Pictures) -> str:
    return f"**{block.label}.** {block.caption}" if block.label else block.caption


def markdown(blocks: Sequence[Block]) -> str:
    """The page as Markdown; it shows the files `figures/<name>.png`, whose contents `pictures` returns.

    Names that contain HTML or links stay text.
    """
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _plain(text: str) -> str:
    """Text without HTML and links, outside of `code`."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", part).replace("](", "]&#40;") for part in parts[::2]]
    return "".join(parts)


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_plain(text)}"
        case Text(text):
            return _plain(text)
        case Bullets(items):
            return "\n".join(f"* {_plain(item)}" for item in items)
        case Table(columns, rows, numbers):
            head, *body = ([*map(_plain, row)] for row in (columns, *rows))
            table = markdown_table(head, body, range(1, len(columns)) if numbers else ())
            return f"{_plain(_captioned(block))}\n\n{table}" if block.caption else table
        case Pictures(shown):
            return " ".join(f"![{name}](figures/{name}.png)" for name in shown) + f"\n\n{_plain(_captioned(block))}"
        case Details(summary, text):
            fence = "`" * (1 + max([2, *map(len, re.findall("`+", text))]))
            return (
                f"<details><summary>{html.escape(summary)}</summary>\n\n{fence}\n{text.rstrip()}\n{fence}\n\n</details>"
            )


def pictures(blocks: Sequence[Block]) -> dict[str, bytes]:
    """The figures as files, by name: the PNGs that the Markdown shows, and the PDFs that LaTeX does."""
    return {
        f"{name}.{suffix}": draw(figure)
        for block in blocks
        if isinstance(block, Pictures)
        for name, figure in block.figures.items()
        for suffix, draw in (("png", figures.png), ("pdf", figures.pdf))
    }


def page(title: str, blocks: Sequence[Block]) -> str:
    """The page as one self-contained HTML file with style and figures, without scripts."""
    sections = [block.text for block in blocks if isinstance(block, Heading) and block.level == 2]
    links = " ".join(f'<a href="#{_anchor(text)}">{_inline(text)}</a>' for text in sections)
    body = "\n".join(map(_html, blocks))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"<nav>{links}</nav>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f'<h{level} id="{_anchor(text)}">{_inline(text)}</h{level}>'
        case Text(text):
            return f"<p>{_inline(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>"
        case Table(columns, rows, numbers):
            head = _row("th", columns)
            body = "\n".join(_row("td", row) for row in rows)
            kind = ' class="numbers"' if numbers else ""
            above = f'<p class="caption">{_inline(_captioned(block))}</p>\n' if block.caption else ""
            return (
                f'{above}<div class="wide"><table{kind}>\n<thead>{head}</thead>\n<tbody>{body}</tbody>\n</table></div>'
            )
        case Pictures(shown):
            drawn = "\n".join(
                f'<div style="{_size(figure)}" role="img" aria-label="{html.escape(name)}">'
                f"{figures.svg(figure, name)}</div>"
                for name, figure in shown.items()
            )
            caption = f"<figcaption>{_inline(_captioned(block))}</figcaption>"
            return f'<figure><div class="pictures">{drawn}</div>\n{caption}</figure>'
        case Details(summary, text):
            return f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>"


def _size(figure: Figure) -> str:
    """The CSS width: as drawn, or as narrow as the page."""
    return f"flex-basis:{6.2 * figure.get_figwidth():.0f}rem"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_inline(cell)}</{tag}>" for cell in cells) + "</tr>"


def _inline(text: str) -> str:
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", text)


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


_CSS = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5c6470; --back: #ffffff; --line: #dde1e6; --shade: #f4f6f8;
  --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a3abb6; --back: #15181c; --line: #343a42;
  --shade: #1e2329; --link: #7db8f5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 0 1rem 4rem; overflow-wrap: break-word; }
nav { position: sticky; top: 0; z-index: 1; display: flex; gap: 1.1rem; overflow-x: auto; padding: .6rem 1rem;
  background: var(--back); border-bottom: 1px solid var(--line); white-space: nowrap; font-size: .9rem; }
a { color: var(--link); text-decoration: none; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1.6rem 0 .6rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line);
  scroll-margin-top: 3rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
li { margin: .25rem 0; }
code { font: .9em ui-monospace, Menlo, Consolas, monospace; background: var(--shade); padding: .05em .3em;
  border-radius: 4px; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
.numbers th:not(:first-child), .numbers td:not(:first-child) { text-align: right; white-space: nowrap; }
@media (max-width: 40rem) { table { font-size: .8rem; } th, td { padding: .3rem .35rem; } }
figure { margin: 1rem 0; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
.pictures > div { flex-grow: 0; flex-shrink: 1; min-width: 0; }
.pictures svg { display: block; width: 100%; height: auto; }
figcaption, .caption { color: var(--soft); font-size: .9rem; margin-top: .3rem; }
.caption { margin: 1.2rem 0 0; }
.caption + .wide { margin-top: .3rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
pre { overflow-x: auto; background: var(--shade); padding: .7rem 1rem; border-radius: 6px;
  font: .85rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
"""
