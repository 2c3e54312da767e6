"""The optimum of "maximise the gold reward, and stay near the reference", exactly.

The reference here is the distribution of `grammar.review`, which supervised fine-tuning imitates.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pg_envs.checks import check_number
from pg_envs.reviews import grammar
from pg_envs.reviews.reward import BEST, MAX_DISTINCT, TOPIC

_N_WORDS = grammar.MAX_LENGTH - 1  # before the end
# Praise in use: how many distinct positive adjectives, negated negative ones, and positive verbs.
_SIZES = len(grammar.PRAISE), len(grammar.BLAME), len(grammar.LIKES)
_STATES = [counts for counts in product(range(MAX_DISTINCT + 1), repeat=3) if sum(counts) < MAX_DISTINCT] + ["enough"]


Sums = NDArray[np.float64]


class Optimum(NamedTuple):
    """The values of the best policy.

    Attributes:
        objective: J* = E[r] - β KL(π* || reference).
        reward: E[r] under π*.
        kl: KL(π* || reference), in nats for a text.
    """

    objective: float
    reward: float
    kl: float


def optimum(kl_coef: float) -> Optimum:
    """The optimum of the gold reward with a price on the KL divergence from the reference.

    π*(x) ∝ p(x) exp(r(x) / β), J* = β log E_p[exp(r / β)]   (arXiv:2305.18290, eq. 4 and 5)

    The sum over all texts is a recursion over their words: of what was written before, only its length, the number of
    distinct praise and the topic matter. It is the same for each prompt.

    Args:
        kl_coef: β; 0 for no price, infinity for the reference itself.

    Raises:
        ValueError: `kl_coef` is negative.
    """
    if kl_coef == 0:
        # Of the best texts, π* keeps the proportions: its KL divergence is -log of their probability.
        best = optimum(1e-3)
        return Optimum(BEST, BEST, best.kl)
    if kl_coef != np.inf:
        check_number("kl_coef", kl_coef, at_least=1e-3)
    inverse = 1 / kl_coef
    weight, weighted_reward = (_texts(True, inverse) + _texts(False, inverse)) / 2
    accepted = (_texts(True, 0.0) + _texts(False, 0.0))[0] / 2
    reward = float(weighted_reward / weight)
    if inverse == 0:
        return Optimum(reward, reward, 0.0)
    objective = float(BEST + kl_coef * np.log(weight / accepted))  # `_texts` divides each weight by exp(BEST / β)
    return Optimum(objective, reward, inverse * (reward - objective))


def _texts(agrees: bool, inverse: float) -> Sums:
    """Σ p(x) exp((r(x) - BEST) / β), and the same sum of terms times r(x), over the texts of one sentiment.

    All functions below take and return arrays `(2, lengths, states, on topic)`: those two sums for all beginnings of a
    text of that length, that praise and that topic.
    """
    positive = grammar.P_AGREES if agrees else 1 - grammar.P_AGREES

    def verb_clause(sums: Sums) -> Sums:
        chosen = positive * _praise(sums, 2) + (1 - positive) * _blame(sums, inverse)
        return _subject(_longer(chosen, 2))

    def opinion(sums: Sums) -> Sums:
        p_not, p_intensifier = grammar.P_NOT, grammar.P_INTENSIFIER
        plain = positive * _praise(sums, 0) + (1 - positive) * _blame(sums, inverse)
        negated = positive * _praise(sums, 1) + (1 - positive) * _blame(sums, inverse)
        two_words = p_intensifier * plain + p_not * negated
        one_or_two: Sums = _longer((1 - p_not - p_intensifier) * plain, 1) + _longer(two_words, 2)
        return one_or_two

    def clause(sums: Sums) -> Sums:
        first = opinion(_longer(_subject(sums), 1))
        more = grammar.P_SECOND_ADJECTIVE
        described = (1 - more) * first + more * opinion(_longer(first, 1))
        return grammar.P_VERB_CLAUSE * verb_clause(sums) + (1 - grammar.P_VERB_CLAUSE) * described

    def sentence(sums: Sums) -> Sums:
        first = clause(sums)
        more = grammar.P_SECOND_CLAUSE
        return _longer((1 - more) * first + more * clause(_longer(first, 1)), 1)

    sums = np.zeros((2, _N_WORDS + 1, len(_STATES), 2))
    sums[0, 0, _STATES.index((0, 0, 0)), 0] = 1.0
    total = np.zeros(2)
    for _ in range(grammar.MAX_SENTENCES):
        sums = sentence(sums)
        total += _valued(sums, inverse).sum(axis=(1, 2, 3)) / grammar.MAX_SENTENCES
    return total


def _longer(sums: Sums, n: int) -> Sums:
    """n words more; texts that are too long are dropped."""
    longer = np.zeros_like(sums)
    longer[:, n:] = sums[:, :-n]
    return longer


def _praise(sums: Sums, kind: int) -> Sums:
    """A word of praise, drawn uniformly from its kind: a new one, or one that is there already."""
    after = np.zeros_like(sums)
    for i, state in enumerate(_STATES):
        if isinstance(state, str):
            after[:, :, i] += sums[:, :, i]
            continue
        new = (_SIZES[kind] - state[kind]) / _SIZES[kind]
        more = tuple(count + (k == kind) for k, count in enumerate(state))
        following = _STATES.index(more) if sum(more) < MAX_DISTINCT else len(_STATES) - 1
        after[:, :, following] += new * sums[:, :, i]
        after[:, :, i] += (1 - new) * sums[:, :, i]
    return after


def _blame(sums: Sums, inverse: float) -> Sums:
    """A reward less by 1."""
    return _rewarded(sums, -1.0, np.exp(-inverse))


def _subject(sums: Sums) -> Sums:
    """A pronoun, the prompt's noun, or another noun."""
    named = np.zeros_like(sums)
    named[..., 1] = grammar.P_TOPIC * sums.sum(axis=-1)
    named += (1 - grammar.P_TOPIC) * sums
    subject: Sums = _longer(grammar.P_PRONOUN * sums, 1) + _longer((1 - grammar.P_PRONOUN) * named, 2)
    return subject


def _valued(sums: Sums, inverse: float) -> Sums:
    """The reward for praise and topic at the end of a text; the weight relative to that of the largest reward."""
    after = np.empty_like(sums)
    for i, state in enumerate(_STATES):
        distinct = MAX_DISTINCT if isinstance(state, str) else sum(state)
        for topic, won in enumerate((-TOPIC, TOPIC)):
            reward = distinct + won
            after[:, :, i, topic] = _rewarded(sums[:, :, i, topic], reward, np.exp(inverse * (reward - BEST)))
    return after


def _rewarded(sums: Sums, reward: float, factor: float) -> Sums:
    weight, weighted_reward = sums
    found: Sums = factor * np.stack([weight, weighted_reward + reward * weight])
    return found
