"""Rewards of completions: functions of prompt and completion, reward models, or several of them added up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch as th

from pg_agents.language.texts import Completions

RewardFunction = Callable[[str, str], float]
"""Of a prompt and a completion, which has the end's word if it was not cut."""


@runtime_checkable
class ScoresTokens(Protocol):
    """A reward that reads tokens, as `RewardModel` does: for models with the same tokenizer."""

    tokenizer: Any

    def scores(self, completions: Completions) -> th.Tensor:
        """The reward of each completion, `(N,)`."""
        ...


Reward = RewardFunction | ScoresTokens | Sequence[RewardFunction | ScoresTokens]


def rewards_of(
    reward: Reward, completions: Completions, tokenizer: Any, texts: tuple[list[str], list[str]] | None = None
) -> np.ndarray:
    """The reward of each completion, `(N,)`; several rewards are added up.

    Args:
        reward: A function, a reward model, or a list of them.
        completions: The completions.
        tokenizer: The tokenizer with which they were written.
        texts: Prompts and completions as words, if they are known.

    Raises:
        ValueError: A reward is not one finite number; the message names prompt and completion.
    """
    parts: list[Any] = list(reward) if isinstance(reward, Sequence) else [reward]
    total = np.zeros(len(completions))
    for part in parts:
        if isinstance(part, ScoresTokens) and _same_vocabulary(part.tokenizer, tokenizer):
            found = part.scores(completions).double().cpu().numpy()
        else:
            prompts, written = texts = completions.texts(tokenizer) if texts is None else texts
            if isinstance(part, ScoresTokens):
                written = [_with_end(text, tokenizer.eos_token, part.tokenizer.eos_token) for text in written]
            found = np.array([_number(part, *pair) for pair in zip(prompts, written, strict=True)])
        wrong = np.flatnonzero(~np.isfinite(found))
        if len(wrong):
            prompts, written = texts or completions.texts(tokenizer)
            raise ValueError(_not_finite(prompts[wrong[0]], written[wrong[0]], found[wrong[0]]))
        total += found
    return total


def readers(reward: Any) -> list[Any]:
    """The models of those rewards that are models, which have a longest text."""
    parts = list(reward) if isinstance(reward, (list, tuple)) else [reward]
    return [part.trunk for part in parts if hasattr(part, "trunk")]


def check_reward(reward: Any, prompt: str, completion: str) -> None:
    """Refuse a reward that does not give a number, by asking for that of one completion.

    Raises:
        TypeError: It is neither a function nor a reward model.
        ValueError: It gives something else.
    """
    parts: list[Any] = list(reward) if isinstance(reward, Sequence) and not isinstance(reward, str) else [reward]
    if not parts:
        raise ValueError("`reward` must have at least one function or reward model, but is empty.")
    for part in parts:
        if not callable(part):
            raise TypeError(
                "`reward` must be a function of (prompt, completion) that returns a number, a RewardModel, or a list "
                f"of them, but has {part!r}."
            )
        if not isinstance(part, ScoresTokens) and not np.isfinite(found := _number(part, prompt, completion)):
            raise ValueError(_not_finite(prompt, completion, found))


def _not_finite(prompt: str, completion: str, found: float) -> str:
    return (
        f"The reward of the prompt {prompt!r} with the completion {completion!r} must be a finite number, but is "
        f"{found}."
    )


def _number(reward: RewardFunction, prompt: str, completion: str) -> float:
    found = reward(prompt, completion)
    if isinstance(found, th.Tensor):
        found = found.detach().double().cpu()
    given = np.asarray(found)
    if given.size != 1 or given.dtype.kind not in "biuf":
        raise ValueError(
            f"`reward` must return one number for a prompt and a completion, but returned {found!r} for {prompt!r} and "
            f"{completion!r}."
        )
    return float(given.reshape(()))


def _with_end(text: str, old: str, new: str) -> str:
    return text.removesuffix(old) + new if text.endswith(old) else text


def _same_vocabulary(one: Any, other: Any) -> bool:
    return one is other or one.get_vocab() == other.get_vocab()
