"""The material of a language algorithm: model, tokenizer, prompts and reward, as given or from a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from pg_agents.envs.text import TextTask, text_task
from pg_agents.language.models import check_cache, check_positions, model_and_tokenizer, small_gpt2, word_tokenizer
from pg_agents.language.rewards import check_reward, readers
from pg_agents.language.supervised import SupervisedFineTuning
from pg_agents.language.texts import encode_prompts


@dataclass(frozen=True)
class Material:
    """Model, tokenizer, prompts and reward, checked against each other."""

    model: Any
    tokenizer: Any
    prompts: list[str] | None
    reward: Any
    max_new_tokens: int
    kl_coef: float | None = None

    @classmethod
    def of(cls, policy: Any, values: dict[str, Any]) -> Material:
        """The material in the arguments of a constructor.

        Args:
            policy: The model, in one of its forms.
            values: The constructor's arguments.

        Raises:
            ValueError: They do not fit each other.
        """
        prompts, reward, max_new_tokens = values["prompts"], values["reward"], values["max_new_tokens"]
        task = None if values["env"] is None else text_task(values["env"])
        if task is not None:
            prompts = task.prompts if prompts is None else prompts
            reward = task.reward if reward is None else reward
            max_new_tokens = min(max_new_tokens, task.max_new_tokens)
        if policy == "small_gpt2":
            if task is None:
                raise ValueError("`policy='small_gpt2'` learns the language of a task: give an `env` that states one.")
            policy = fine_tuned(task, values["seed"], values["n_examples"])
        model, tokenizer = model_and_tokenizer(policy, values["tokenizer"])
        check_cache(model)
        if prompts is not None:
            encoded = encode_prompts(tokenizer, prompts)
            for one in [model, *readers(reward)]:
                check_positions(one, max(map(len, encoded)), max_new_tokens)
            prompts = list(prompts)
        if reward is not None:
            check_reward(reward, prompts[0] if prompts else "", tokenizer.eos_token)
        return cls(model, tokenizer, prompts, reward, max_new_tokens, getattr(task, "kl_coef", None))


def fine_tuned(task: TextTask, seed: int | None = None, n_examples: int = 20_000) -> SupervisedFineTuning:
    """A small GPT-2 that has learnt the language of a task.

    The last ones that were made with a seed are kept: of several trainings in one process with one task and seed, the
    first alone fine-tunes.

    Args:
        task: The task.
        seed: Seed of the texts and of the parameters.
        n_examples: Number of texts.
    """
    key = (*map(tuple, (task.words, sorted(task.special.items()), task.prompts)), task.max_new_tokens, task.corpus)
    key = (*key, seed, n_examples)
    if seed is not None and key in _FINE_TUNED:
        return _FINE_TUNED[key]
    tokenizer = word_tokenizer(task.words, **task.special)
    n_positions = max(map(len, encode_prompts(tokenizer, task.prompts))) + task.max_new_tokens
    with th.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            th.manual_seed(seed)
        model = small_gpt2(tokenizer, n_positions=n_positions)
    made = SupervisedFineTuning(model, tokenizer, seed=seed).fit(task.corpus(n_examples, np.random.default_rng(seed)))
    if seed is not None:
        _FINE_TUNED[key] = made
        while len(_FINE_TUNED) > _N_KEPT:
            del _FINE_TUNED[next(iter(_FINE_TUNED))]
    return made


_N_KEPT = 16
_FINE_TUNED: dict[tuple[Any, ...], SupervisedFineTuning] = {}
