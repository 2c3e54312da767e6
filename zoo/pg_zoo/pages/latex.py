"""A page as a LaTeX document, with tables of booktabs and figures as PDF, for pdflatex."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pg_zoo.pages.document import Block, Bullets, Details, Heading, Pictures, Table, Text

_HEAD = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage[utf8]{inputenc}
\usepackage[margin=1in]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\extrafloats{500}
\setlength{\belowcaptionskip}{6pt}
\sloppy
% A table or figure that is too wide for the page is scaled to its width.
\newcommand{\fitted}[1]{\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{#1}}
"""
_SECTIONS = {2: "section", 3: "subsection"}
_SMALL = (
    "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho varsigma sigma tau upsilon "
)
_SMALL += "varphi chi psi omega"
_CAPITAL = "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
_GREEK = dict(zip("αβγδεζηθικλμνξπρςστυφχψωΓΔΘΛΞΠΣΥΦΨΩ", re.findall(r"\w+", f"{_SMALL} {_CAPITAL}"), strict=True))
_SPECIAL = {
    **{letter: f"\\{letter}" for letter in "#$%&_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": "-{}",  # no ligatures: -- is not an en dash
    "“": "``",
    "”": "''",
    "–": "--",
    "−": "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "√": r"$\surd$",
    "∞": r"$\infty$",
    "≈": r"$\approx$",
    "…": r"\ldots{}",
    "¼": r"$\frac{1}{4}$",
    "½": r"$\frac{1}{2}$",
    "¾": r"$\frac{3}{4}$",
    **{letter: f"$^{{{power}}}$" for power, letter in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{letter: f"$_{{{index}}}$" for index, letter in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    **{letter: f"$\\{name}$" for letter, name in _GREEK.items()},
}
# What T1 fonts and `inputenc` have beyond ASCII.
_LETTERS = re.compile(r"[ -~À-ÖØ-öø-ÿ]")


def latex(title: str, blocks: Sequence[Block]) -> str:
    """The document; it shows the files `figures/<name>.pdf`, which `pg_zoo.pages.document.pictures` returns.

    Names stay text, whatever is in them. Letters that pdflatex lacks are shown by their numbers.

    Args:
        title: Its title, which a `Heading` of level 1 need not repeat.
        blocks: Its contents.
    """
    body = "\n\n".join(_latex(block) for block in blocks if not (isinstance(block, Heading) and block.level == 1))
    document = _environment("document", ["\\maketitle", "", body])
    return f"{_HEAD}\\title{{{_inline(title)}}}\n\\author{{}}\n\\date{{}}\n{document}\n"


def _latex(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"\\{_SECTIONS.get(level, 'subsubsection')}{{{_inline(text)}}}"
        case Text(text):
            return _inline(text)
        case Bullets(items):
            return _environment("itemize", [f"\\item {{}}{_inline(item)}" for item in items])
        case Table():
            return _table(block)
        case Pictures():
            return _figure(block)
        case Details(summary, text):
            return f"\\paragraph{{{_inline(summary)}}}\n{_verbatim(text)}"


def _environment(name: str, lines: Sequence[str], options: str = "") -> str:
    return "\n".join([f"\\begin{{{name}}}{options}", *lines, f"\\end{{{name}}}"])


def _table(table: Table) -> str:
    columns = "l" + ("r" if table.numbers else "l") * (len(table.columns) - 1)
    head, *body = (_row(row) for row in (table.columns, *table.rows))
    rows = ["\\toprule", head, "\\midrule", *body, "\\bottomrule"]
    tabular = f"\\fitted{{%\n{_environment('tabular', rows, f'{{{columns}}}')}}}"
    above = [f"\\caption{{{_inline(table.caption)}}}", *_label(table.label)] if table.caption else []
    return _environment("table", ["\\centering", *above, tabular], "[htbp]")


def _row(cells: Sequence[str]) -> str:
    row = f"{' & '.join(map(_inline, cells))} \\\\"
    # The command at the end of the line above would take these for its own.
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def _figure(pictures: Pictures) -> str:
    width = 0.49 if len(pictures.figures) > 1 else 0.7
    shown = [f"\\includegraphics[width={width}\\linewidth]{{figures/{name}.pdf}}" for name in pictures.figures]
    lines = ["\\centering", *shown, f"\\caption{{{_inline(pictures.caption)}}}", *_label(pictures.label)]
    return _environment("figure", lines, "[htbp]")


def _label(label: str) -> list[str]:
    """The label `figure:2` for `Figure 2`."""
    return [f"\\label{{{label.lower().replace(' ', ':')}}}"] if label else []


def _verbatim(text: str) -> str:
    lines = "".join(letter if letter == "\n" or _LETTERS.match(letter) else _number(letter) for letter in text.rstrip())
    lines = lines.replace("\\end{verbatim}", "\\end {verbatim}")
    return _environment("footnotesize", [_environment("verbatim", [lines])])


def _inline(text: str) -> str:
    """Text with `code` and **bold**."""
    parts = re.split(r"`([^`]+)`", text)
    for place, part in enumerate(parts):
        if place % 2:
            parts[place] = f"\\texttt{{{_escaped(part)}}}"
        else:
            part = re.sub(r"(?<!\w)-(?=\d)", "−", part)  # of negative numbers
            pieces = re.split(r"\*\*([^*]+)\*\*", part)
            pieces = [f"\\textbf{{{_escaped(one)}}}" if i % 2 else _escaped(one) for i, one in enumerate(pieces)]
            parts[place] = "".join(pieces)
    return "".join(parts)


def _escaped(text: str) -> str:
    return "".join(_letter(letter) for letter in text)


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    return letter if _LETTERS.match(letter) else " " if letter.isspace() else _number(letter)


def _number(letter: str) -> str:
    return f"[U+{ord(letter):04X}]"
