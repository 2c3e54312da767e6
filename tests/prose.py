"""What a message says, whatever its words: tests ask for the facts, so that a sentence can be improved."""

import re


def saying(*facts):
    """A pattern, for `match=` too: these names, values and verdicts in this order, with any words between them.

    A fact is a word, a number or several words; it does not match within a longer word or number.
    """
    return "(?s)" + ".*".join(map(_whole, facts))


def says(text, *facts):
    """Whether a text has these facts in this order."""
    return re.search(saying(*facts), text) is not None


def _whole(fact):
    text = str(fact)
    before = r"(?<![\w.-])(?<!\d,)" if text[0].isdigit() else r"(?<!\w)" if text[0].isalnum() else ""
    after = r"(?![\w]|[.,]\d)" if text[-1].isdigit() else r"(?!\w)" if text[-1].isalnum() else ""
    return before + re.escape(text) + after
