"""Best of n: draw several completions and keep the one with the largest reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th

from pg_agents.checks import check_number
from pg_agents.language.generation import generate
from pg_agents.language.models import model_and_tokenizer
from pg_agents.language.rewards import check_reward, rewards_of
from pg_agents.language.texts import encode_prompts


class BestOfN(NamedTuple):
    """The best of n completions of each prompt.

    Attributes:
        completions: The best completion of each prompt.
        rewards: Its reward.
        kl: log n - (n - 1)/n, the KL divergence from the model, in nats for a text; an upper bound where completions
            recur (arXiv:2401.01879).
    """

    completions: list[str]
    rewards: np.ndarray
    kl: float


def best_of_n(
    sft: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    reward: Any,
    n: int = 16,
    *,
    max_new_tokens: int = 24,
    seed: int | None = None,
) -> BestOfN:
    """The best of n completions: what training has to beat at the same KL divergence.

    Args:
        sft: A `SupervisedFineTuning`, a Hugging Face causal language model, or a folder with one.
        tokenizer: Its tokenizer; None for that of the `SupervisedFineTuning` or the folder.
        prompts: The prompts.
        reward: As for `LanguagePPO`.
        n: Completions drawn for each prompt.
        max_new_tokens: Longest completion, the end included.
        seed: Seed of the samples.

    Raises:
        ValueError: An argument is out of range, or a reward is not a finite number.
    """
    check_number("n", n, at_least=1, integer=True)
    model, tokenizer = model_and_tokenizer(sft, tokenizer)
    encode_prompts(tokenizer, prompts)
    check_reward(reward, prompts[0], tokenizer.eos_token)
    generator = None if seed is None else th.Generator(model.device).manual_seed(seed)
    repeated = [prompt for prompt in prompts for _ in range(n)]
    found = generate(model, tokenizer, repeated, max_new_tokens=max_new_tokens, generator=generator)
    written = found.texts(tokenizer)[1]
    rewards = rewards_of(reward, found, tokenizer, (repeated, written)).reshape(len(prompts), n)
    best = rewards.argmax(axis=1) + n * np.arange(len(prompts))
    return BestOfN([written[i] for i in best], rewards.max(axis=1), math.log(n) - (n - 1) / n)
