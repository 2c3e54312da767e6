"""Completions drawn from a language model: its own distribution, with temperature 1 and nothing cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th

from pg_agents.checks import check_number
from pg_agents.language.models import (
    cache_name,
    check_cache,
    check_positions,
    check_tokenizer,
    evaluating,
    places,
    precise,
)
from pg_agents.language.texts import Completions, encode_prompts, padded

SPARSE = 0.75  # share of texts that have not ended, at which the others leave the cache


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 24,
    generator: th.Generator | None = None,
    deterministic: bool = False,
    batch_size: int = 512,
) -> Completions:
    """Draw a completion for each prompt.

    Args:
        model: A Hugging Face causal language model.
        tokenizer: Its tokenizer.
        prompts: The prompts; one that occurs several times gets as many completions.
        max_new_tokens: Longest completion, the end included; a longer one is cut.
        generator: Draws the tokens; None for torch's own.
        deterministic: Take the most probable token each time, and draw nothing.
        batch_size: Completions that are written at once.

    Raises:
        ValueError: There is no prompt, the tokenizer has no end or padding, or the model too few positions or no
            cache of keys and values.
    """
    check_tokenizer(tokenizer)
    encoded = encode_prompts(tokenizer, prompts)
    check_positions(model, max(map(len, encoded)), max_new_tokens)
    check_cache(model)
    parts = [
        draw(
            model,
            padded(rows := encoded[first : first + batch_size], [[]] * len(rows), tokenizer.pad_token_id),
            eos=tokenizer.eos_token_id,
            pad=tokenizer.pad_token_id,
            max_new_tokens=max_new_tokens,
            generator=generator,
            deterministic=deterministic,
        )
        for first in range(0, len(encoded), batch_size)
    ]
    return parts[0] if len(parts) == 1 else joined(parts, tokenizer.pad_token_id)


def draw(
    model: Any,
    prompts: Completions,
    *,
    eos: int,
    pad: int,
    max_new_tokens: int,
    generator: th.Generator | None = None,
    deterministic: bool = False,
) -> Completions:
    """Draw a completion for each of a batch of prompts, token by token with a cache of keys and values.

    Args:
        model: A Hugging Face causal language model.
        prompts: Completions without a token.
        eos: Token of the end.
        pad: Token of padding, which follows the end.
        max_new_tokens: Longest completion, the end included.
        generator: Draws the tokens; None for torch's own.
        deterministic: Take the most probable token each time.

    Returns:
        The prompts with completions, on the model's device.
    """
    prompts = prompts.to(model.device)
    check_number("max_new_tokens", max_new_tokens, at_least=1, integer=True)
    name = cache_name(model)
    new = (0, max_new_tokens)
    tokens, mask = (
        th.nn.functional.pad(part, new, value=fill) for part, fill in ((prompts.tokens, pad), (prompts.mask, False))
    )
    rows = th.arange(len(prompts), device=model.device)  # those in the cache
    running = th.ones_like(rows, dtype=th.bool)
    cache, first = None, 0
    with evaluating(model):
        for n in range(prompts.n_prompt, prompts.n_prompt + max_new_tokens):
            seen = mask[rows, :n]
            told = {name: value[:, first:] for name, value in places(model, seen).items()}
            told["attention_mask"] = seen.long()
            out = model(input_ids=tokens[rows, first:n], use_cache=True, **{name: cache}, **told)
            cache, first = out[name], n
            logits = precise(out.logits[:, -1])
            if deterministic:
                chosen = logits.argmax(dim=-1)
            else:
                chosen = th.multinomial(th.softmax(logits, dim=-1), 1, generator=generator)[:, 0]
            tokens[rows[running], n], mask[rows[running], n] = chosen[running], True
            running = running & (chosen != eos)
            n_running = int(running.sum())
            if not n_running:
                break
            if n_running <= SPARSE * len(rows) and can_drop_rows(cache):
                cache.batch_select_indices(running.nonzero()[:, 0])
                rows, running = rows[running], running[running]
    return Completions(tokens[:, : n + 1], mask[:, : n + 1], prompts.n_prompt)


def can_drop_rows(cache: Any) -> bool:
    """Whether all layers of a cache can forget some of the texts."""
    parts = [cache, *getattr(cache, "layers", [])]
    return all(hasattr(part, "batch_select_indices") for part in parts)


def joined(parts: Sequence[Completions], pad: int) -> Completions:
    """Batches as one.

    Args:
        parts: The batches.
        pad: Token of padding.
    """
    n_prompt = max(part.n_prompt for part in parts)
    n_completion = max(part.actions.shape[1] for part in parts)

    def widened(values: th.Tensor, part: Completions, fill: int) -> th.Tensor:
        sides = (n_prompt - part.n_prompt, n_completion - part.actions.shape[1])
        return th.nn.functional.pad(values, sides, value=fill)

    return Completions(
        th.cat([widened(part.tokens, part, pad) for part in parts]),
        th.cat([widened(part.mask, part, False) for part in parts]),
        n_prompt,
    )
