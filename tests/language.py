"""A world of 4 tokens in which all 40 texts can be listed, for the tests of `pg_agents.language`."""

from itertools import product

import numpy as np
import torch as th

from pg_agents.language.models import small_gpt2, word_tokenizer
from pg_agents.language.texts import Completions, padded

WORDS = ("<pad>", "<eos>", "a", "b")
PAD, EOS, A, B = range(4)
LONGEST = 3


def tokenizer():
    return word_tokenizer(WORDS, bos="a")


def model(seed=0, **kwargs):
    """A small GPT-2 whose distribution is not uniform."""
    th.manual_seed(seed)
    made = small_gpt2(tokenizer(), **{"n_positions": 8, "width": 16, "n_layers": 1, "n_heads": 2, **kwargs})
    with th.no_grad():
        for parameter in made.parameters():
            parameter += 0.15 * th.randn_like(parameter)
    return made.eval()


def texts(n_copies=1):
    """Every completion of the prompt `a`: up to 3 tokens, to the first end."""
    found = [
        row
        for n in range(1, LONGEST + 1)
        for row in product(range(4), repeat=n)
        if EOS not in row[:-1] and (row[-1] == EOS or n == LONGEST)
    ] * n_copies
    return padded([[A]] * len(found), found, PAD)


def log_probs(model, completions: Completions):
    """log π of whole completions, by transformers' own forward, one text at a time and without padding."""
    found = []
    for tokens, mask in zip(completions.tokens, completions.mask, strict=True):
        row = tokens[mask][None]
        n = int(mask[: completions.n_prompt].sum())
        logits = model(input_ids=row).logits.log_softmax(dim=-1)[0]
        found.append(logits[th.arange(n - 1, row.shape[1] - 1), row[0, n:]].sum())
    return th.stack(found)


REWARDS = np.random.default_rng(1).normal(size=len(texts()))
"""Of each text, in the order of `texts`."""

_OF_TEXT = {
    tuple(tokens[alive].tolist()): reward
    for tokens, alive, reward in zip(texts().actions, texts().alive, REWARDS, strict=True)
}


def reward(prompt: str, completion: str) -> float:
    """The reward of a text."""
    return _OF_TEXT[tuple(WORDS.index(word) for word in completion.split())]
