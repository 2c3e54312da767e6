"""Texts as tensors of tokens: prompts and their completions, padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch as th


@dataclass(frozen=True)
class Completions:
    """A batch of prompts with their completions.

    Prompts are padded on the left and completions on the right, so that all completions begin in column `n_prompt`.

    Attributes:
        tokens: `(N, P + T)`.
        mask: `(N, P + T)`, False for padding.
        n_prompt: P, the columns of the prompts.
    """

    tokens: th.Tensor
    mask: th.Tensor
    n_prompt: int

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def actions(self) -> th.Tensor:
        """The tokens of the completions, `(N, T)`."""
        return self.tokens[:, self.n_prompt :]

    @property
    def alive(self) -> th.Tensor:
        """`(N, T)`, whether the completion has a token t; the end is one."""
        return self.mask[:, self.n_prompt :]

    @property
    def lengths(self) -> th.Tensor:
        """Tokens of each completion, the end included, `(N,)`."""
        return self.alive.sum(dim=1)

    def ended(self, eos: int) -> th.Tensor:
        """`(N,)`, whether the completion ends with the end-of-sequence token, and was not cut."""
        last = (self.lengths - 1).clamp(min=0)
        is_eos: th.Tensor = self.actions.gather(1, last[:, None])[:, 0] == eos
        return is_eos & (self.lengths > 0)

    def take(self, rows: th.Tensor) -> Completions:
        """Some rows, without the columns that are padding in all of them."""
        tokens, mask = self.tokens[rows], self.mask[rows]
        used = mask.any(dim=0)
        first = int(used[: self.n_prompt].int().argmax())
        beyond = int(used.nonzero()[-1]) + 1
        return Completions(tokens[:, first:beyond], mask[:, first:beyond], self.n_prompt - first)

    def to(self, device: th.device | str) -> Completions:
        """The same on a device."""
        return Completions(self.tokens.to(device), self.mask.to(device), self.n_prompt)

    def parts(self, batch_tokens: int | None) -> Iterator[th.Tensor]:
        """Rows in parts with a limited number of tokens, padding included; rows of similar length come together.

        A row that is longer is a part of its own. Without a limit the parts are what is fastest: on a CPU two, which
        have less padding than the whole.
        """
        if batch_tokens is None:
            yield from by_length(self.mask.sum(dim=1)).tensor_split(n_parts(self.tokens.device, len(self)))
            return
        if self.tokens.numel() <= batch_tokens:
            yield th.arange(len(self), device=self.tokens.device)
            return
        order = by_length(self.mask.sum(dim=1))
        sides = self.mask[:, : self.n_prompt].sum(dim=1), self.lengths
        first, widths = 0, [0, 0]  # the columns of a part are its longest prompt and its longest completion
        for last, row in enumerate(zip(*(side[order].tolist() for side in sides), strict=True)):
            wider = [max(pair) for pair in zip(widths, row, strict=True)]
            if last > first and (last + 1 - first) * sum(wider) > batch_tokens:
                yield order[first:last]
                first, wider = last, list(row)
            widths = wider
        yield order[first:]

    def texts(self, tokenizer: Any) -> tuple[list[str], list[str]]:
        """Prompts and completions as words; a completion that ended has the end's word.

        Args:
            tokenizer: The tokenizer.
        """
        n = self.n_prompt

        def decode(tokens: th.Tensor, mask: th.Tensor) -> list[str]:
            rows = [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]
            found: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=False)
            return found

        return decode(self.tokens[:, :n], self.mask[:, :n]), decode(self.tokens[:, n:], self.mask[:, n:])


def by_length(lengths: th.Tensor) -> th.Tensor:
    """Rows in the order of their lengths, `(N,)`."""
    return lengths.argsort(stable=True)


def n_parts(device: th.device, n: int) -> int:
    """The number of parts in which n texts of different lengths are fastest."""
    return min(2, n) if device.type == "cpu" else 1


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """The tokens of each prompt.

    Raises:
        ValueError: There is no prompt, or a prompt has no token or padding.
    """
    listed = hasattr(prompts, "__len__") and not isinstance(prompts, str)
    if not listed or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"`prompts` must be a list of texts, but is {prompts!r}.")
    if len(prompts) == 0:
        raise ValueError("`prompts` must have at least one text, but is empty.")
    encoded: list[list[int]] = tokenizer(list(prompts))["input_ids"]
    # Some tokenizers end every text, but a prompt continues.
    plain, eos = tokenizer(list(prompts), add_special_tokens=False)["input_ids"], [tokenizer.eos_token_id]
    encoded = [
        tokens[:-1] if tokens[-1:] == eos and given[-1:] != eos else tokens
        for tokens, given in zip(encoded, plain, strict=True)
    ]
    for prompt, tokens in zip(prompts, encoded, strict=True):
        if not tokens:
            raise ValueError(f"`prompts` must not have a text without tokens, but has {prompt!r}.")
        if tokenizer.pad_token_id in tokens:
            raise ValueError(
                f"`prompts` must have words that the tokenizer knows, but {prompt!r} has padding, "
                f"{tokenizer.pad_token!r}, as which some tokenizers read words that they do not know."
            )
    return encoded


def encode_completions(tokenizer: Any, completions: Sequence[str], *, adds_end: bool = False) -> list[list[int]]:
    """The tokens of each completion.

    Args:
        tokenizer: The tokenizer.
        completions: The completions.
        adds_end: Whether the end-of-sequence token is added where it is missing.

    Raises:
        ValueError: A completion has no token.
    """
    encoded: list[list[int]] = tokenizer(list(completions), add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id
    if adds_end:
        return [tokens if tokens[-1:] == [eos] else [*tokens, eos] for tokens in encoded]
    for completion, tokens in zip(completions, encoded, strict=True):
        if not tokens:
            raise ValueError(f"A completion must have at least one token, but {completion!r} has none.")
    return encoded


def padded(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad: int) -> Completions:
    """Rows of tokens as a batch.

    Args:
        prompts: Tokens of the prompts.
        completions: Tokens of the completions, as many.
        pad: The padding token.
    """
    n_prompt = max(map(len, prompts))
    n_completion = max(map(len, completions), default=0)
    tokens = th.full((len(prompts), n_prompt + n_completion), pad)
    mask = th.zeros_like(tokens, dtype=th.bool)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        used = slice(n_prompt - len(prompt), n_prompt + len(completion))
        tokens[row, used] = th.tensor([*prompt, *completion])
        mask[row, used] = True
    return Completions(tokens, mask, n_prompt)


def tokenized(
    tokenizer: Any, prompts: Sequence[str], completions: Sequence[str], *, adds_end: bool = False
) -> Completions:
    """Prompts and completions as a batch.

    Args:
        tokenizer: The tokenizer.
        prompts: The prompts.
        completions: The same number of completions.
        adds_end: Whether the end-of-sequence token is added to completions where it is missing.

    Raises:
        ValueError: There is no prompt, or a text has no token.
    """
    encoded = encode_prompts(tokenizer, prompts), encode_completions(tokenizer, completions, adds_end=adds_end)
    return padded(*encoded, tokenizer.pad_token_id)
