"""An extension of Markdown that marks the formulas of pages and docstrings, for KaTeX.

A formula in Unicode is found where it stands (`formulas.py`), and LaTeX between dollar signs is taken as it is. A
paragraph that is a formula becomes an equation. So does a formula that three spaces and its source in parentheses
follow, and it has its source's number:

    Â r, with r = π(a|s) / π_old(a|s)   (arXiv:1707.06347, eq. 6)
"""

from __future__ import annotations

import html
import re
import unicodedata

from formulas import CODE, decomposed, formulas, latex
from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

PROTECTED = re.compile(
    r"(?P<ticks>`+)(?P<code>.+?)(?P=ticks)"  # code
    r"|\$\$(?P<display>[^$]+)\$\$|(?<![\w$\\])\$(?P<inline>[^\s$](?:[^$\n]*[^\s$])?)\$(?!\w)"  # LaTeX
    r"|!\[[^\]]*\]\([^)]*\)|\]\([^)\s]*\)|\]\[[^\]]*\]"  # pictures, the targets of links
    r"|<[/!A-Za-z][^>\n]*>|https?://[^\s)>]+|&#?\w+;"  # HTML, addresses
    r"|\x02[^\x03]*\x03|\[TOC\]",  # what other extensions have taken out
    re.DOTALL,
)
SOURCE = re.compile(
    r" {3,}\((?P<source>(?:[^()]|\([^()]*\))*)\)(?P<rest>.*)\Z"
    r"|\n\((?P<below>(?:[^()]|\([^()]*\))*(?:\d|http)(?:[^()]|\([^()]*\))*)\)\.?\Z",
    re.DOTALL,
)
# Papers become links, except those that are links already.
LINKED_OR_PAPER = re.compile(r"`[^`]+`|\[[^\]]*\]\([^)]*\)|arXiv:(\d{4}\.\d{4,5})")
NUMBER = re.compile(r"eq\. ([\d.]*\d(?:(?:, | and )\d[\d.]*\d?)*)")
LIST = re.compile(r"\s*(?:[-*+]|\d+\.)\s")
# Words of an equation, such as "maximise J subject to".
CONNECTIVES = {
    *("maximise", "minimise", "subject", "to", "with", "where", "for", "all", "over", "the", "mean", "tokens"),
    *("and", "or", "then", "if", "by", "GAE"),
}


class Formulas(Extension):
    """Marks formulas for KaTeX."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - Markdown's name
        """Find formulas after blocks of code and HTML have been taken out."""
        md.preprocessors.register(Marker(md), "formulas", 15)


class Marker(Preprocessor):
    """Replaces each formula of a page by HTML, which Markdown then leaves alone."""

    def run(self, lines: list[str]) -> list[str]:
        """The lines of a page, block by block."""
        marked: list[str] = []
        in_list = False
        for block in re.split(r"(\n(?:[ ]*\n)+|(?<=\n)#[^\n]*\n)", "\n" + "\n".join(lines)):
            first = block.lstrip("\n")
            if first.strip() and not first.startswith(" "):
                in_list = bool(LIST.match(first))
            is_code = first.startswith("    ") and not in_list and not self.equation(block)
            skipped = not first.strip() or is_code or first.startswith(("#", ">>>")) or "::: " in block
            newline = block[: block.startswith("\n")]
            marked.append(block if skipped else newline + self.block(block[len(newline) :]))
        return "".join(marked)[1:].split("\n")

    def block(self, block: str) -> str:
        """A paragraph, a table, or a list."""
        if "|" in block and all(line.lstrip().startswith("|") for line in block.split("\n") if line.strip()):
            return "\n".join(self.row(line) for line in block.split("\n"))
        if not re.match(r"\s*[>|!]", block) and not LIST.match(block) and (equation := self.equation(block)):
            return equation
        return self.sentence(block)

    def row(self, line: str) -> str:
        """A row of a table, cell by cell."""
        hidden, code = self.hide(line.replace(r"\|", "\ue001"))
        cells = [self.marked(cell.replace("\ue001", "|"), code) for cell in hidden.split("|")]
        return self.reveal("|".join(cells), code).replace("\ue001", r"\|")

    def sentence(self, text: str) -> str:
        """A text with its formulas marked."""
        hidden, code = self.hide(text)
        return self.reveal(self.marked(hidden, code), code)

    def hide(self, text: str) -> tuple[str, list[str]]:
        """A text with placeholders for what holds no formula, and those pieces."""
        pieces: list[str] = []
        if "<a " not in text:
            text = LINKED_OR_PAPER.sub(lambda one: paper_link(one[1]) if one[1] else one[0], text)

        def placeholder(found: re.Match[str]) -> str:
            pieces.append(found[0])
            return f"{CODE}{len(pieces) - 1}{CODE}"

        return PROTECTED.sub(placeholder, text), pieces

    def reveal(self, text: str, pieces: list[str]) -> str:
        """The text with its pieces back, LaTeX between dollar signs marked."""
        return re.sub(rf"{CODE}(\d+){CODE}", lambda found: self.piece(pieces[int(found[1])]), text)

    def piece(self, piece: str) -> str:
        """A piece as it was, unless it is LaTeX."""
        found = PROTECTED.fullmatch(piece)
        if found and (tex := found["display"] or found["inline"]):
            marked = span(tex.strip(), tex.strip(), display=bool(found["display"]))
            return self.stored(marked)
        return piece

    def stored(self, marked: str) -> str:
        """A placeholder of Markdown's for HTML."""
        placeholder: str = self.md.htmlStash.store(marked)
        return placeholder

    def marked(self, text: str, code: list[str], *, display: bool = False) -> str:
        """A text whose formulas are placeholders of Markdown's."""
        text = decomposed(text)
        names = [re.sub(r"^`+|`+$", "", one) for one in code]
        done, parts = 0, []
        for start, end in formulas(text, with_code=display):
            formula = text[start:end]
            tex = latex(formula, names, display=display)
            readable = re.sub(rf"{CODE}(\d+){CODE}", lambda found: names[int(found[1])], formula)
            parts += [text[done:start], self.stored(span(tex, readable, display=False, large=display))]
            done = end
        return unicodedata.normalize("NFC", "".join([*parts, text[done:]]))

    def equation(self, block: str) -> str:
        """A paragraph that is an equation, with its number and its source; nothing if it is none."""
        indent = re.match(r"\n*( *)", block)
        text = re.sub(r"(?m)^ +", "", block.strip("\n")) if indent else block
        given = SOURCE.search(text)
        source = (given["source"] or given["below"]) if given else ""
        body = text[: given.start()] if given else text
        hidden, code = self.hide(body)
        plain = decomposed(hidden)
        found = formulas(plain, with_code=True)
        if not found or not (given or is_nothing_else(plain, found)) or "\x02" in body:
            return ""
        if found[0][0] > 0 and plain.split()[0].lower() not in CONNECTIVES:
            return ""
        rows = re.sub(r"(?<!,)\n", " ", hidden).split("\n")
        shown = [self.reveal(self.marked(row, code, display=True), code) for row in rows]
        number = NUMBER.search(source)
        parts = ['<div class="equation">']
        parts += [f'<p class="equation-row">{self.inline(row)}</p>' for row in shown]
        if number:
            parts.append(f'<p class="equation-number">({number[1].replace(" and ", ", ")})</p>')
        if given:
            parts.append(f'<p class="equation-source">{self.inline(self.sentence(source))}</p>')
        parts.append("</div>")
        rest = (given["rest"] or "").strip(" ,.;\n") if given else ""
        after = "\n\n" + self.sentence(rest) if rest else ""
        return self.stored("".join(parts)) + after

    def inline(self, row: str) -> str:
        """HTML of a row: its words, its code, and the formulas that are stored already."""
        stash = self.md.htmlStash
        row = html.escape(re.sub(r"\s+", " ", row), quote=False)
        row = re.sub(r"`+(.+?)`+", r"<code>\1</code>", row)
        row = re.sub(r"\[([^\]]+)\]\((https?:[^)]+)\)|(https?://[^\s;,<)]+)", as_link, row)
        return re.sub(r"\x02wzxhzdk:(\d+)\x03", lambda found: str(stash.rawHtmlBlocks[int(found[1])]), row)


def is_nothing_else(text: str, found: list[tuple[int, int]]) -> bool:
    """Whether a paragraph is a long formula, or several with words such as "with" between them."""
    left, done = [], 0
    for start, end in found:
        left.append(text[done:start])
        done = end
    words = re.sub(r"[.,;:]", " ", " ".join([*left, text[done:]])).split()
    is_long = sum(end - start for start, end in found) > 20
    return is_long and set(words) <= CONNECTIVES and len(words) <= 3 * len(found) and "|" not in text.split("\n")[0][:1]


def as_link(found: re.Match[str]) -> str:
    """HTML of a link of Markdown's, or of a bare address."""
    address = found[2] or found[3]
    return f'<a href="{address}">{found[1] or address}</a>'


def paper_link(number: str) -> str:
    """A link to a paper."""
    return f"[arXiv:{number}](https://arxiv.org/abs/{number})"


def span(tex: str, readable: str, *, display: bool, large: bool = False) -> str:
    """HTML that holds a formula: LaTeX for KaTeX, and the text that the search finds."""
    mode = "display" if display else "large" if large else "inline"
    content = html.escape(unicodedata.normalize("NFC", readable), quote=False)
    return f'<span class="formula" data-mode="{mode}" data-tex="{html.escape(tex)}">{content}</span>'
