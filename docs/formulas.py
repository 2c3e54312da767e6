"""Formulas as LaTeX: pages and docstrings are written once, in Unicode, and read well in a terminal and on GitHub too.

`latex` translates one formula, and `formulas` finds those of a sentence. `marking.py` marks them in a page, and
`typesetting.py` has KaTeX typeset what is marked.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass, replace

# Symbols

LETTERS = {
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon", "ζ": r"\zeta", "η": r"\eta",
    "θ": r"\theta", "κ": r"\kappa", "λ": r"\lambda", "μ": r"\mu", "ν": r"\nu", "ξ": r"\xi", "π": r"\pi",
    "ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau", "φ": r"\varphi", "χ": r"\chi", "ψ": r"\psi", "ω": r"\omega",
    "Γ": r"\Gamma", "Δ": r"\Delta", "Θ": r"\Theta", "Λ": r"\Lambda", "Φ": r"\Phi", "Ψ": r"\Psi", "Ω": r"\Omega",
    "∞": r"\infty", "½": r"\tfrac{1}{2}", "…": r"\ldots",
}  # fmt: skip
ACCENTS = {"\u0302": r"\hat", "\u0303": r"\tilde", "\u0304": r"\bar"}
PREFIXES = {"∇": r"\nabla", "∂": r"\partial"}
SUMS = {"Σ": r"\sum", "Π": r"\prod", "∫": r"\int"}
OPERATORS = {"+": "+", "-": "-", "−": "-", "±": r"\pm", "·": r"\cdot", "×": r"\times", "∘": r"\circ"}
RELATIONS = {
    "=": "=", "<": "<", ">": ">", "≤": r"\le", "≥": r"\ge", "<=": r"\le", ">=": r"\ge", "≠": r"\ne", "≈": r"\approx",
    "∈": r"\in", "∝": r"\propto", "≻": r"\succ", "~": r"\sim", "←": r"\leftarrow", "→": r"\to", "+=": r"\mathrel{+}=",
}  # fmt: skip
FUNCTIONS = {
    "log": r"\log", "exp": r"\exp", "min": r"\min", "max": r"\max", "cos": r"\cos", "sin": r"\sin",
    "tr": r"\operatorname{tr}", "diag": r"\operatorname{diag}", "argmax": r"\operatorname*{arg\,max}",
    "argmin": r"\operatorname*{arg\,min}", "KL": r"\operatorname{KL}",
}  # fmt: skip
# In a sentence these are words, unless what they apply to is glued to them.
ALSO_WORDS = {"min", "max", "exp", "tr"}
# Functions where brackets are glued to them, and words otherwise.
APPLIED = {"clip", "mean", "sd", "sg", "softmax", "sign", "Var"}
RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ᵀⁿ", [*"0123456789-+", r"\top", "n"], strict=True))
LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
TEXT = r"\text{"
OPEN, CLOSE = "([{", ")]}"
# Letters that are quantities where they stand alone; others are articles, units or names there.
ALONE = set("VQJGRTNFKPHMWEBbcdgijknpqrtuvwxyz")
CODE = "\ue000"  # stands for a piece of code, so that nothing in it is read

TOKEN = re.compile(
    rf"""
    (?P<break>\n[ ]*(?:[-*+]|\d+\.)[ ])
  | (?P<space>\s+)
  | (?P<code>{CODE}\d+{CODE})
  | (?P<script>[{"".join(RAISED)}]+ | [{"".join(LOWERED)}]+
      | [_^](?:\{{[^{{}}]*\}} | [A-Za-z0-9]+ | [{"".join(LETTERS)}]))
  | (?P<number>\d+(?:\.\d+)?e-?\d+ | \d+(?:[.,]\d+)* | \.\d+)
  | (?P<dots>\.\.\.)
  | (?P<word>[A-Za-z][A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)* | ['’]s\b)
  | (?P<letter>(?:[A-Za-z] | [{"".join(LETTERS)}])[{"".join(ACCENTS)}]?)
  | (?P<prefix>[{"".join(PREFIXES)}])
  | (?P<sum>[{"".join(SUMS)}])
  | (?P<root>√)
  | (?P<prime>'+)
  | (?P<norm>\|\| | ‖)
  | (?P<bar>\|)
  | (?P<relation>\+= | <= | >= | [{"".join(one for one in RELATIONS if len(one) == 1)}])
  | (?P<operator>[{re.escape("".join(OPERATORS))}])
  | (?P<slash>/)
  | (?P<markup>\*\*+)
  | (?P<star>\*)
  | (?P<comma>,)
  | (?P<open>[(\[{{])
  | (?P<close>[)\]}}])
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Token:
    """A piece of text, its kind, and whether nothing separates it from the piece before it."""

    kind: str
    text: str
    glued: bool
    start: int

    @property
    def end(self) -> int:
        """Where it ends in the text."""
        return self.start + len(self.text)


def decomposed(text: str) -> str:
    """Text in which accents are characters of their own."""
    return "".join(unicodedata.normalize("NFD", one) if one.isalpha() else one for one in text)


def tokens(text: str) -> list[Token]:
    """The pieces of a text."""
    found: list[Token] = []
    for match in TOKEN.finditer(text):
        kind = match.lastgroup or "other"
        glued = bool(found) and found[-1].kind not in ("space", "break")
        beside = text[match.end() : match.end() + 1] or " "
        is_factor = (found and glued and is_math(found[-1])) or beside in RAISED or beside in LOWERED
        if kind == "word" and is_product(match[0]) and is_factor:
            # The factors of BᵀPB: two letters glued to a formula.
            for position, letter in enumerate(match[0]):
                found.append(Token("letter", letter, glued or position > 0, match.start() + position))
            continue
        found.append(Token(kind, match[0], glued, match.start()))
    return found


def is_product(word: str) -> bool:
    """Whether a word can be the product of its letters."""
    return len(word) == 2 and word.isalpha() and word not in FUNCTIONS


def is_math(token: Token) -> bool:
    """Whether two letters glued to a token are factors."""
    return token.kind in ("script", "prime", "close") or token.text[0] in LETTERS or token.text == "·"


# Translation


@dataclass(frozen=True)
class Piece:
    """LaTeX of a part of a formula: a factor, a sum, a slash, or what ends a product."""

    kind: str
    tex: str
    glued: bool
    is_group: bool = False


class Parser:
    """Reads the tokens of one formula."""

    def __init__(self, found: list[Token], code: list[str], display: bool) -> None:
        self.tokens = [one for one in found if one.kind not in ("space", "break")]
        self.spaced_after = [
            following.kind in ("space", "break")
            for one, following in zip(found, [*found[1:], Token("space", "", False, 0)], strict=True)
            if one.kind not in ("space", "break")
        ]
        self.code, self.display, self.at = code, display, 0

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or the end."""
        position = self.at + ahead
        return self.tokens[position] if position < len(self.tokens) else Token("end", "", False, 0)

    def sequence(self) -> list[Piece]:
        """Pieces up to the end or to a closing bracket."""
        pieces: list[Piece] = []
        while self.peek().kind not in ("end", "close"):
            pieces.append(self.piece(pieces))
        return pieces

    def piece(self, before: list[Piece]) -> Piece:
        """The next piece."""
        token = self.peek()
        spaced = self.spaced_after[self.at] and not token.glued
        simple = {
            "relation": lambda: ("relation", f" {RELATIONS[token.text]} "),
            "operator": lambda: ("operator", f" {OPERATORS[token.text]} "),
            "star": lambda: ("operator", r" \cdot "),
            "bar": lambda: ("bar", r" \mid " if spaced else "|"),
            "norm": lambda: ("bar", r" \,\|\, " if spaced else r"\|"),
            "comma": lambda: ("comma", ", "),
            "other": lambda: ("comma", escaped(token.text) + " "),
            "slash": lambda: ("slash", "/"),
            "word": lambda: ("text", TEXT + escaped(token.text) + "}"),
        }
        if token.kind in simple and not (token.kind == "word" and self.is_function()):
            self.at += 1
            kind, tex = simple[token.kind]()
            if kind == "bar":
                tex += self.scripts("")
            if token.text in ".·" and not before:
                tex = r"\cdot"  # π(·|s)
            if kind == "operator" and (not before or before[-1].kind in ("operator", "relation", "sum", "comma")):
                tex = tex.strip()  # a sign
            return Piece(kind, tex, token.glued)
        return self.factor(before)

    def is_function(self) -> bool:
        """Whether the word that is next applies to something."""
        token, following = self.peek(), self.peek(1)
        applied = following.glued and following.kind in ("open", "script")
        return token.text in FUNCTIONS or applied or token.text.isupper()

    def factor(self, before: list[Piece]) -> Piece:
        """An atom with what is glued to it: scripts, primes, and the brackets of a call."""
        token = self.peek()
        self.at += 1
        kind, is_group, tex = "factor", False, ""
        if token.kind == "prefix":
            tex = PREFIXES[token.text] + self.scripts("")
            if self.peek().glued and self.peek().kind in ("letter", "word", "prefix"):
                operand = self.factor([])
                tex += " " + operand.tex
                if operand.tex in FUNCTIONS.values():  # ∂log σ
                    tex += " " + self.factor([]).tex
            return Piece(kind, tex, token.glued)
        if token.kind == "sum" and not self.is_matrix(token, before):
            return Piece("sum", SUMS[token.text] + self.scripts("Σ"), token.glued)
        if token.kind == "root":
            operand = self.factor([])
            return Piece(kind, rf"\sqrt{{{inner(operand)}}}", token.glued)
        if token.kind == "open":
            tex, is_group = self.group(token), True
        else:
            tex = self.atom(token, before)
        after = self.scripts(token.text)
        while self.peek().glued and self.peek().kind == "open" and not is_group:
            opening = self.peek()
            self.at += 1
            after += self.group(opening) + self.scripts(token.text)
        return Piece(kind, tex + after, token.glued, is_group and not after)

    def is_matrix(self, token: Token, before: list[Piece]) -> bool:
        """Whether Σ is a covariance: it has no index, and stands beside matrices or alone."""
        following = self.peek()
        alone = following.kind in ("end", "close", "relation", "operator", "comma")
        beside = bool(before) and before[-1].kind == "factor" and before[-1].tex[-1].isupper()
        return token.text == "Σ" and following.kind != "script" and (alone or beside)

    def atom(self, token: Token, before: list[Piece]) -> str:
        """LaTeX of one token."""
        text = token.text
        if token.kind == "code":
            name = escaped(self.code[int(text.strip(CODE))])
            return rf"\texttt{{{name}}}\,"
        if token.kind == "number":
            following = self.peek()
            is_indicator = text == "1" and following.glued and following.text == "{"
            return r"\mathbf{1}" if is_indicator else text.replace(",", "{,}")
        if token.kind == "dots":
            return r"\ldots"
        if token.kind == "sum":
            return r"\Sigma" if text == "Σ" else SUMS[text]
        if token.kind == "word":
            return FUNCTIONS.get(text, rf"\operatorname{{{text}}}")
        if token.kind == "letter":
            if text == "E" and self.is_expectation(before):
                return r"\mathbb{E}"
            letter = LETTERS.get(text[0], text[0])
            return f"{ACCENTS[text[1]]}{{{letter}}}" if len(text) == 2 else letter
        return escaped(text)

    def is_expectation(self, before: list[Piece]) -> bool:
        """Whether E is an expectation: something follows that it can apply to, and it divides nothing."""
        following = self.peek()
        glued = following.glued and (following.text == "[" or following.kind == "script")
        divides = bool(before) and before[-1].kind == "slash"
        return glued or following.kind in ("norm", "bar") or (following.kind == "letter" and not divides)

    def group(self, opening: Token) -> str:
        """Brackets and their content, high enough for it."""
        content = join(self.sequence(), self.display)
        closing = self.peek().text or CLOSE[OPEN.index(opening.text)]
        self.at += 1
        left, right = (rf"\{one}" if one in "{}" else one for one in (opening.text, closing))
        if r"\frac" in content or (r"\sum" in content and self.display):
            return rf"\left{left}{content}\right{right}"
        return f"{left}{content}{right}"

    def scripts(self, base: str) -> str:
        """What is raised or lowered beside a base; a prime belongs to the index of a sum or of π."""
        lowered, raised, primes = "", "", ""
        while (token := self.peek()).glued or token.kind == "script":
            if token.kind == "script":
                text = token.text
                if text[0] in RAISED:
                    raised += "".join(RAISED[one] for one in text)
                elif text[0] in LOWERED:
                    lowered += "".join(LOWERED[one] for one in text)
                elif text[0] == "^":
                    raised += self.index(text[1:])
                else:
                    lowered += self.index(text[1:])
                    if base in ("Σ", "π") and self.peek(1).kind == "prime":
                        self.at += 1
                        lowered += self.peek().text
            elif token.kind == "prime":
                primes += token.text
            elif token.kind == "star" and self.peek(1).kind != "letter":
                raised += "*"
            else:
                break
            self.at += 1
        raised = r"\prime " * len(primes) + raised if raised and primes else raised
        up = f"^{{{raised}}}" if raised else primes
        return (f"_{{{lowered}}}" if lowered else "") + up

    def index(self, text: str) -> str:
        """LaTeX of an index: words are upright."""
        text = text.strip("{}")
        if re.fullmatch("[A-Za-z]+", text):
            return rf"\mathrm{{{text}}}" if len(text) > 2 else text
        return latex(text, self.code)


def inner(piece: Piece) -> str:
    """LaTeX of a piece, without the brackets around it."""
    if not piece.is_group:
        return piece.tex
    return re.sub(r"^(\\left)?[([]|(\\right)?[)\]]$", "", piece.tex)


def join(pieces: list[Piece], display: bool) -> str:
    """LaTeX of pieces, with fractions where there is room for them."""
    pieces = list(pieces)
    while display and (at := next((n for n, one in enumerate(pieces) if one.kind == "slash"), None)) is not None:
        first, last = operands(pieces, at)
        if first == at or last == at:
            pieces[at] = replace(pieces[at], kind="comma")
            continue
        above, below = pieces[first:at], pieces[at + 1 : last + 1]
        parts = [inner(part[0]) if len(part) == 1 else join(part, display) for part in (above, below)]
        fraction = Piece("factor", rf"\frac{{{parts[0]}}}{{{parts[1]}}}", pieces[first].glued)
        pieces[first : last + 1] = [fraction]
    tex, before = "", ""
    for piece in pieces:
        # A command ends before a letter that follows.
        needs_space = bool(re.search(r"\\[A-Za-z]+$", tex)) and piece.tex[:1].isalpha()
        if piece.kind == before == "text":
            tex = f"{tex[:-1]} {piece.tex.removeprefix(TEXT)}"
            continue
        words = (piece.kind == "text" and before == "factor") or (
            before == "text" and piece.kind in ("factor", "sum", "bar")
        )
        beside = piece.kind in ("factor", "sum") and not piece.glued and tex and before != "slash"
        tex += (r"\ " if words else " " if needs_space or beside else "") + piece.tex
        before = piece.kind
    return re.sub(r"  +", " ", tex).strip()


def operands(pieces: list[Piece], at: int) -> tuple[int, int]:
    """From where to where a slash divides: what is glued to it, or, with spaces around it, the products beside it."""
    tight = pieces[at].glued and at + 1 < len(pieces) and pieces[at + 1].glued
    first = last = at
    while first > 0 and pieces[first - 1].kind in ("factor", "sum") and (not tight or pieces[first].glued):
        first -= 1
    while last + 1 < len(pieces) and pieces[last + 1].kind in ("factor", "sum"):
        following = pieces[last + 1]
        if last > at and (
            (tight and not following.glued) or (following.kind == "sum" and pieces[at + 1].kind != "sum")
        ):
            break
        last += 1
    return first, last


def escaped(text: str) -> str:
    """Text in which LaTeX finds nothing to obey."""
    return re.sub(r"([_#$%&{}])", r"\\\1", text)


def latex(formula: str, code: list[str] | None = None, *, display: bool = False) -> str:
    """LaTeX of a formula in Unicode.

    Args:
        formula: The formula.
        code: The pieces of code that placeholders in it stand for.
        display: There is room for fractions.
    """
    parser = Parser(tokens(decomposed(formula)), code or [], display)
    pieces = parser.sequence()
    while parser.peek().kind == "close":  # the other half of an interval
        pieces.append(Piece("comma", parser.peek().text, True))
        parser.at += 1
        pieces += parser.sequence()
    return join(pieces, display)


# Formulas in sentences


def formulas(text: str, *, with_code: bool = False) -> list[tuple[int, int]]:
    """Where the formulas of a text are: its starts and ends.

    Args:
        text: A sentence, with accents as characters of their own.
        with_code: A piece of code is a factor like others, and no word.
    """
    found = tokens(text)
    spans, at = [], 0
    while at < len(found):
        end = at
        while (after := step(found, end, at, with_code)) > end:
            end = after
        run = trimmed(found, at, end)
        if run and is_formula(run, found):
            spans.append((run[0].start, run[-1].end))
        at = max(end, at + 1)
    return spans


def step(found: list[Token], at: int, start: int, with_code: bool) -> int:
    """The end of what goes on a formula at a token, or the token itself if nothing does."""
    if at >= len(found):
        return at
    token = found[at]
    following = found[at + 1] if at + 1 < len(found) else Token("end", "", False, 0)
    if token.kind in (
        "space",
        "letter",
        "number",
        "prefix",
        "sum",
        "root",
        "norm",
        "bar",
        "relation",
        "operator",
        "slash",
    ):
        return at + 1
    if token.kind == "dots":
        return at + 1 if at > start else at
    if token.kind == "code":
        return at + 1 if with_code else at
    if token.kind == "star":
        ends_atom = token.glued and at > start and found[at - 1].kind in ("letter", "script", "close")
        return at + 1 if ends_atom and following.kind not in ("letter", "word") else at
    if token.kind in ("script", "prime"):
        base = found[at - 1].kind if at > start else ""
        based = token.glued and base in (
            "letter",
            "number",
            "script",
            "prime",
            "close",
            "prefix",
            "sum",
            "bar",
            "norm",
            "star",
            "word",
        )
        # A name of a program, such as n_steps
        is_name = re.fullmatch("_[a-z]{3,}", token.text) and at > start and re.fullmatch("[a-z]", found[at - 1].text)
        return at + 1 if based and not is_name else at
    if token.kind == "word":
        applied = following.glued and following.kind in ("open", "script")
        if token.text in FUNCTIONS and (applied or token.text not in ALSO_WORDS):
            return at + 1
        if following.glued and following.kind == "open" and (closing := match(found, at + 1)):
            has_letters = any(one.text[0] in LETTERS for one in found[at + 1 : closing])
            return at + 1 if token.text in APPLIED or (token.text.isupper() and has_letters) else at
        # An index is one letter: terminated_t
        indexed = following.glued and following.kind == "script" and len(following.text) == 2
        return at + 1 if indexed and not (token.text.startswith("'")) else at
    if token.kind == "open":
        closing = match(found, at)
        if not closing or closing - at > 80:
            return at
        is_call = token.glued and at > start and found[at - 1].kind in ("letter", "script", "word", "star")
        is_indicator = token.text == "{" and token.glued and found[at - 1].text == "1"
        if token.text == "{" and not is_indicator:
            return at
        content = found[at + 1 : closing]
        with_code = with_code or any(one.kind == "letter" for one in content)
        if is_call or is_indicator or is_mathematical(content, with_code):
            return closing + 1
    return at


def match(found: list[Token], at: int) -> int:
    """The bracket that closes one; 0 if none does. (Intervals can be open at one end.)."""
    depth = 0
    for position in range(at, len(found)):
        if found[position].kind in ("break", "markup"):
            return 0
        depth += (found[position].kind == "open") - (found[position].kind == "close")
        if depth == 0:
            return position
    return 0


def is_mathematical(content: list[Token], with_code: bool) -> bool:
    """Whether brackets that are no call hold a formula, or several with commas."""
    at = 0
    while at < len(content):
        is_between = content[at].kind in ("comma", "dots") or content[at].text in ("and", "or")
        after = at + 1 if is_between else step(content, at, 0, with_code)
        if after == at:
            return False
        at = after
    return bool(content)


OUTSIDE = ("space", "operator", "relation", "bar", "slash", "norm")


def trimmed(found: list[Token], start: int, end: int) -> list[Token]:
    """A formula without what is dangling at its ends."""
    run = found[start:end]
    while run and run[-1].kind in OUTSIDE:
        if run[-1].kind in ("bar", "norm") and sum(one.kind == run[-1].kind for one in run) % 2 == 0:
            break
        run = run[:-1]
    while run:
        first, second = run[0], run[1] if len(run) > 1 else Token("end", "", False, 0)
        is_sign = first.text in "-−±" and second.kind not in OUTSIDE and not first.glued
        opens_norm = first.kind in ("bar", "norm") and sum(one.kind == first.kind for one in run) % 2 == 0
        if first.kind in OUTSIDE and not is_sign and not opens_norm:
            run = run[1:]
        elif (
            first.text in ("a", "A", "I")
            and second.kind == "space"
            and run[2].kind not in ("relation", "operator", "slash")
        ):
            run = run[1:]  # an article
        else:
            return unbracketed(run)
    return run


def unbracketed(run: list[Token]) -> list[Token]:
    """A formula without the brackets of the sentence that it stands in."""
    is_group = run[0].text == "(" and match(run, 0) == len(run) - 1
    return run[1:-1] if is_group and all(one.kind != "comma" for one in run) else run


def is_formula(run: list[Token], found: list[Token]) -> bool:
    """Whether a sequence is certainly a formula, and no number, unit or name."""
    after = next((one for one in found if one.start == run[-1].end), Token("end", "", False, 0))
    if run[0].glued and run[0].start > 0:
        before = next(one for one in found if one.end == run[0].start)
        if (
            before.kind in ("word", "prime", "other", "number", "star", "code", "slash", "operator")
            and before.text != "*"
        ):
            return False
    kinds = {one.kind for one in run}
    letters = [one for one in run if one.kind == "letter"]
    special = any(one.text[0] in LETTERS or len(one.text) == 2 for one in letters) or kinds & {"prefix", "sum", "root"}
    hyphenated = after.glued and after.text == "-"
    if special or ("script" in kinds and (letters or "number" in kinds)):
        return True
    calls = any(
        two.kind == "open" and two.glued and one.kind in ("letter", "word", "star")
        for one, two in itertools.pairwise(run)
    )
    spaced = any(
        one.kind in ("relation", "operator", "slash") and not one.glued and two.kind == "space"
        for one, two in itertools.pairwise(run)
    )
    applied = any(one.text in FUNCTIONS and one.text not in ("KL", *ALSO_WORDS) for one in run)
    if calls or ((spaced or applied) and letters) or ("star" in kinds and letters):
        return True
    is_name = after.text == "." and is_initial(found, after)
    position = found.index(run[-1])
    is_defined = any(one.kind == "relation" for one in found[position + 1 : position + 3])
    is_quantity = run[0].text in ALONE or (is_defined and run[0].kind == "letter")
    return len(run) == 1 and is_quantity and not hyphenated and not is_name and after.text[:1] not in ("/", "+", "_")


def is_initial(found: list[Token], period: Token) -> bool:
    """Whether a letter and a period are the initial of a name: another one is beside it."""
    position = found.index(period)
    before = [one.kind for one in found[max(position - 4, 0) : position - 1]]
    after = [one.kind for one in found[position + 1 : position + 4]]
    return before[-3:] == ["letter", "other", "space"] or after == ["space", "letter", "other"]
