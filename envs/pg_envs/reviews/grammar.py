"""The language of the reviews: 44 words, a grammar over their kinds, a sampler and a parser.

```
TEXT = (CL (& CL)? .){1,3} <eos>
CL   = (D N | T) C A? J (& A? J)?  |  I V (D N | T)
```

with D `the my this`, N a noun, T `it that`, C `is was`, A an intensifier or `not`, J an adjective, I `i`, V a verb, and
& `and`. A review answers a prompt, `<bos> NOUN :`. Texts are words with single spaces between them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

PAD, BOS, EOS, COLON, STOP, NOT = "<pad>", "<bos>", "<eos>", ":", ".", "not"
NOUNS = ("coffee", "tea", "soup", "bread", "film", "book", "song", "game")
PRAISE = ("good", "great", "nice", "fine", "lovely", "superb")
BLAME = ("bad", "awful", "poor", "dull", "terrible", "horrid")
INTENSIFIERS = ("very", "really", "so")
LIKES = ("like", "love", "enjoy")
DISLIKES = ("hate", "dislike", "regret")
DETERMINERS, PRONOUNS, COPULAS = ("the", "my", "this"), ("it", "that"), ("is", "was")
AND, I = "and", "i"  # noqa: E741 - the word

WORDS = (
    *(PAD, BOS, EOS, COLON),
    *(*NOUNS, *PRAISE, *BLAME, *INTENSIFIERS, NOT, *LIKES, *DISLIKES),
    *(*DETERMINERS, *PRONOUNS, *COPULAS, AND, I, STOP),
)
"""The vocabulary; a word's token is its place here."""

MAX_LENGTH = 24
"""Words of a completion, the end included."""
PROMPT_LENGTH = 3
MAX_SENTENCES = 3

PROMPTS = tuple(f"{BOS} {noun} {COLON}" for noun in NOUNS)

# Probabilities of the sampler. A review is positive or negative, and most of its opinions agree with it.
P_POSITIVE = 0.5
P_AGREES = 0.85
P_SECOND_CLAUSE = 0.3
P_VERB_CLAUSE = 0.25
P_PRONOUN = 0.5
P_TOPIC = 0.75  # a noun is the prompt's
P_SECOND_ADJECTIVE = 0.25
P_NOT = 0.15
P_INTENSIFIER = 0.3

_KINDS = {
    "n": NOUNS,
    "j": PRAISE + BLAME,
    "a": (*INTENSIFIERS, NOT),
    "v": LIKES + DISLIKES,
    "d": DETERMINERS,
    "t": PRONOUNS,
    "c": COPULAS,
    "&": (AND,),
    "i": (I,),
    ".": (STOP,),
}
_KIND = {word: kind for kind, words in _KINDS.items() for word in words}
_CLAUSE = "(?:(?:dn|t)ca?j(?:&a?j)?|iv(?:dn|t))"
_SENTENCE = re.compile(f"{_CLAUSE}(?:&{_CLAUSE})?[.]")


def prompt_noun(prompt: str) -> str:
    """The noun of a prompt.

    Raises:
        ValueError: The text is no prompt.
    """
    if prompt not in PROMPTS:
        raise ValueError(f"`prompt` must be one of {', '.join(map(repr, PROMPTS))}, but is {prompt!r}.")
    return prompt.split()[1]


def review(noun: str, rng: np.random.Generator) -> str:
    """Draw a review of at most `MAX_LENGTH` words, the end included; a longer one is drawn again.

    Args:
        noun: The prompt's.
        rng: The generator.
    """
    while True:
        agrees = rng.random() < P_POSITIVE
        words: list[str] = []
        for _ in range(rng.integers(1, MAX_SENTENCES + 1)):
            words += _clause(noun, agrees, rng)
            if rng.random() < P_SECOND_CLAUSE:
                words += [AND, *_clause(noun, agrees, rng)]
            words.append(STOP)
        if len(words) < MAX_LENGTH:
            return " ".join([*words, EOS])


def corpus(n: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Draw prompts, each noun equally often in the mean, and a review for each.

    Args:
        n: Number of pairs.
        rng: The generator.

    Returns:
        Pairs of prompt and review.
    """
    nouns = [NOUNS[i] for i in rng.integers(len(NOUNS), size=n)]
    return [(f"{BOS} {noun} {COLON}", review(noun, rng)) for noun in nouns]


def sentences(words: Sequence[str]) -> list[list[str]]:
    """The words in parts, each up to a full stop and with it; the last part may have none."""
    parts: list[list[str]] = [[]]
    for word in words:
        parts[-1].append(word)
        if word == STOP:
            parts.append([])
    return parts if parts[-1] else parts[:-1]


def is_sentence(words: Sequence[str]) -> bool:
    """Whether words are `CL (& CL)? .`."""
    return _SENTENCE.fullmatch("".join(_KIND.get(word, "?") for word in words)) is not None


def is_valid(completion: str) -> bool:
    """Whether a completion is a `TEXT`, the end included, of at most `MAX_LENGTH` words."""
    words = completion.split()
    parts = sentences(words[:-1])
    ends = bool(words) and words[-1] == EOS and len(words) <= MAX_LENGTH
    return ends and 1 <= len(parts) <= MAX_SENTENCES and all(map(is_sentence, parts))


def _clause(noun: str, agrees: bool, rng: np.random.Generator) -> list[str]:
    if rng.random() < P_VERB_CLAUSE:
        verbs = LIKES if _is_positive(agrees, rng) else DISLIKES
        return [I, _one(verbs, rng), *_subject(noun, rng)]
    words = [*_subject(noun, rng), _one(COPULAS, rng), *_opinion(agrees, rng)]
    if rng.random() < P_SECOND_ADJECTIVE:
        words += [AND, *_opinion(agrees, rng)]
    return words


def _subject(noun: str, rng: np.random.Generator) -> list[str]:
    if rng.random() < P_PRONOUN:
        return [_one(PRONOUNS, rng)]
    if rng.random() >= P_TOPIC:
        noun = _one([other for other in NOUNS if other != noun], rng)
    return [_one(DETERMINERS, rng), noun]


def _opinion(agrees: bool, rng: np.random.Generator) -> list[str]:
    positive, draw = _is_positive(agrees, rng), rng.random()
    if draw < P_NOT:
        return [NOT, _one(BLAME if positive else PRAISE, rng)]
    adverbs = [_one(INTENSIFIERS, rng)] if draw < P_NOT + P_INTENSIFIER else []
    return [*adverbs, _one(PRAISE if positive else BLAME, rng)]


def _is_positive(agrees: bool, rng: np.random.Generator) -> bool:
    return (rng.random() < P_AGREES) == agrees


def _one(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]
