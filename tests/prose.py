"""Tests of messages by their facts (arguments, values, verdicts), so that wording can improve without test edits."""

import re


def saying(*facts):
    """A regular expression, also for `match=`: the facts in this order, with any words between them.

    A fact is a number, a word or several words. It does not match inside a longer number or word.
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
