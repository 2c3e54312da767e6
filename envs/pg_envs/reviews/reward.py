"""The gold reward of a review, and preferences of a rater who follows it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pg_envs.checks import check_number
from pg_envs.reviews.grammar import (
    BLAME,
    DISLIKES,
    EOS,
    LIKES,
    MAX_SENTENCES,
    NOT,
    PRAISE,
    is_sentence,
    prompt_noun,
    sentences,
)

MAX_DISTINCT = 4
"""Distinct praise that pays."""
TOPIC = 0.5
"""Won by naming the prompt's noun, lost by not naming it."""
MALFORMED = 3.0
"""Lost by a text of which no word is in a well-formed sentence."""
BEST = MAX_DISTINCT + TOPIC
"""The largest reward."""

_POSITIVE, _NEGATIVE = {*PRAISE, *LIKES}, {*BLAME, *DISLIKES}


def gold_reward(prompt: str, completion: str) -> float:
    """The rater's true taste.

    r = min(#distinct praise, 4) - #blame ± ½ - 3 (1 - w)

    Praise is a positive word, or a negated negative one; a word and whether it is negated make the distinction. Blame
    is a negative word, or a negated positive one. ½ is won where the prompt's noun is named, lost where it is not. w is
    the share of words in the first 3 sentences that are well-formed, and 0 without an end.

    Args:
        prompt: The prompt.
        completion: The text, `<eos>` included if it ended; words after `<eos>` do not count.

    Raises:
        ValueError: `prompt` is no prompt.
    """
    noun, words = prompt_noun(prompt), completion.split()
    ended = EOS in words
    words = words[: words.index(EOS)] if ended else words
    praise, n_blame = set(), 0
    for word, before in zip(words, ["", *words], strict=False):
        negated = before == NOT
        if word in (_NEGATIVE if negated else _POSITIVE):
            praise.add((word, negated))
        elif word in (_POSITIVE if negated else _NEGATIVE):
            n_blame += 1
    well_formed = sum(len(part) for part in sentences(words)[:MAX_SENTENCES] if is_sentence(part))
    share = well_formed / len(words) if ended and words else 0.0
    topic = TOPIC if noun in words else -TOPIC
    return min(len(praise), MAX_DISTINCT) - n_blame + topic - MALFORMED * (1 - share)


def preference_probability(first: float, second: float, temperature: float = 1.0) -> float:
    """Probability that a rater prefers the first of two texts.

    P(1 ≻ 2) = σ((r_1 - r_2) / τ)   (Bradley & Terry 1952; arXiv:1706.03741, eq. 1)

    Args:
        first: Gold reward r_1.
        second: Gold reward r_2.
        temperature: τ; large for a rater who guesses.

    Raises:
        ValueError: `temperature` is less than .001.
    """
    check_number("temperature", temperature, at_least=1e-3)
    return 1 / (1 + math.exp(min((second - first) / temperature, 700)))


def preferences(
    prompts: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    rng: np.random.Generator,
    temperature: float = 1.0,
) -> list[tuple[str, str, str]]:
    """Have a rater compare completions, by the gold reward and with its uncertainty.

    Args:
        prompts: One for each pair.
        first: Completions of the prompts.
        second: Further completions of the prompts.
        rng: The generator.
        temperature: τ of `preference_probability`.

    Returns:
        Of each pair the prompt, the completion that was preferred, and the other.

    Raises:
        ValueError: The three differ in length, or an argument is out of range.
    """
    check_pairs(prompts, first, second)
    found = []
    for prompt, one, other in zip(prompts, first, second, strict=True):
        p = preference_probability(gold_reward(prompt, one), gold_reward(prompt, other), temperature)
        found.append((prompt, one, other) if rng.random() < p else (prompt, other, one))
    return found


def check_pairs(prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> None:
    """Refuse texts of pairs that are not as many.

    Raises:
        ValueError: The three differ in length.
    """
    if not len(prompts) == len(first) == len(second):
        raise ValueError(
            f"`prompts`, `first` and `second` must have one entry for each pair, but have {len(prompts)}, {len(first)} "
            f"and {len(second)}."
        )
