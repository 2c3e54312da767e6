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
            texts = completions.texts(tokenizer) if texts is None else texts
            found = np.array([_number(part, prompt, completion) for prompt, completion in zip(*texts, strict=True)])
        wrong = np.flatnonzero(~np.isfinite(found))
        if len(wrong):
            prompts, written = completions.texts(tokenizer)
            raise ValueError(
                f"The reward of the prompt {prompts[wrong[0]]!r} with the completion {written[wrong[0]]!r} must be a "
                f"finite number, but is {found[wrong[0]]}."
            )
        total += found
    return total


def check_reward(reward: Any, prompt: str, completion: str) -> None:
    """Refuse a reward that does not give a number, by asking for that of one completion.

    Raises:
        TypeError: It is neither a function nor a reward model.
        ValueError: It gives something else.
    """
    parts: list[Any] = list(reward) if isinstance(reward, Sequence) else [reward]
    if not parts:
        raise ValueError("`reward` must have at least one function or reward model, but is empty.")
    for part in parts:
        if not callable(part):
            raise TypeError(
                "`reward` must be a function of (prompt, completion) that returns a number, a RewardModel, or a list "
                f"of them, but has {part!r}."
            )
        if not isinstance(part, ScoresTokens):
            _number(part, prompt, completion)


def _number(reward: RewardFunction, prompt: str, completion: str) -> float:
    found = reward(prompt, completion)
    if np.size(found) != 1:
        raise ValueError(
            f"`reward` must return one number for a prompt and a completion, but returned {np.size(found)} for "
            f"{prompt!r} and {completion!r}."
        )
    return float(np.asarray(found, dtype=np.float64).reshape(()))


def _same_vocabulary(one: Any, other: Any) -> bool:
    return one is other or one.get_vocab() == other.get_vocab()
