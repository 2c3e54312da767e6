"""KaTeX at build time: the formulas in the pages of the site are typeset already, and need no script."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("katex")
MARKED = re.compile(r'<span class="formula" data-mode="(\w+)" data-tex="([^"]*)">(.*?)</span>', re.DOTALL)


class FormulaError(Exception):
    """KaTeX cannot read a formula."""


@cache
def katex() -> Any:
    """A JavaScript engine that has loaded KaTeX."""
    from py_mini_racer import MiniRacer

    engine = MiniRacer()
    engine.eval((FOLDER / "katex.min.js").read_text())
    return engine


@cache
def typeset(tex: str, mode: str) -> str:
    """HTML and MathML of a formula.

    Args:
        tex: Its LaTeX.
        mode: "inline"; "large" for the height of an equation in a line; "display" for an equation of its own.

    Raises:
        FormulaError: It is no LaTeX that KaTeX knows.
    """
    options = {"displayMode": mode == "display", "throwOnError": True, "strict": "error", "output": "htmlAndMathml"}
    source = json.dumps(rf"\displaystyle {tex}" if mode == "large" else tex)
    call = f"try {{ katex.renderToString({source}, {json.dumps(options)}) }} catch (error) {{ '!' + error.message }}"
    shown = str(katex().eval(call))
    if shown.startswith("!"):
        raise FormulaError(f"{shown[1:]} (in {tex})")
    return shown.replace(r"\displaystyle ", "")  # in the copy of the LaTeX


def typeset_page(page: str, report: Callable[[str], None]) -> str:
    """A page with its formulas typeset; one that cannot be is reported, and stays as the page has it."""

    def shown(found: re.Match[str]) -> str:
        mode, tex = found[1], html.unescape(found[2])
        try:
            return f'<span class="formula formula-{mode}">{typeset(tex, mode)}</span>'
        except FormulaError as error:
            report(str(error))
            return found[3]

    return MARKED.sub(shown, page)
