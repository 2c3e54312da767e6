"""Direct preference optimisation: from preferences to a policy, without a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch as th
from torch.nn import functional as F  # noqa: N812 - torch's own convention
from typing_extensions import Self

from pg_agents.checks import check_number
from pg_agents.language.fitting import Fit
from pg_agents.language.generation import generate
from pg_agents.language.models import check_positions, evaluating, model_and_tokenizer, run
from pg_agents.language.reward_model import Preference, pair_sizes
from pg_agents.language.texts import Completions, tokenized


class DirectPreference:
    """Fits a policy whose implicit reward β log π / π_ref explains preferences.

    minimise -E[log σ(β log π(chosen)/π_ref(chosen) - β log π(other)/π_ref(other))]   (arXiv:2305.18290, eq. 7)

    Args:
        sft: A `SupervisedFineTuning`, a Hugging Face causal language model or a folder with one: the reference, and
            the policy at first. It is copied.
        tokenizer: Its tokenizer; None for that of the `SupervisedFineTuning` or the folder.
        kl_coef: β, the price of a nat of KL divergence from the reference.
        learning_rate: Largest step size of AdamW; it rises and falls once.
        n_epochs: Passes over the preferences.
        batch_size: Pairs of a step.
        max_grad_norm: The gradient is scaled down to this norm.
        seed: Seed of the order of the preferences.
        device: Torch device; None for the model's.

    Attributes:
        model: The policy.
        tokenizer: The tokenizer.
        history: The mean loss of each epoch.

    Raises:
        ValueError: An argument is out of range, or the tokenizer has no end or padding.
    """

    def __init__(
        self,
        sft: Any,
        tokenizer: Any = None,
        *,
        kl_coef: float = 0.1,
        learning_rate: float = 1e-3,
        n_epochs: int = 3,
        batch_size: int = 64,
        max_grad_norm: float = 1.0,
        seed: int | None = None,
        device: th.device | str | None = None,
    ) -> None:
        check_number("kl_coef", kl_coef, above=0)
        source, self.tokenizer = model_and_tokenizer(sft, tokenizer)
        self.reference, self.model = deepcopy(source).eval().requires_grad_(False), deepcopy(source)
        for model in (self.reference, self.model):
            model.to(device or source.device)
        self.kl_coef = kl_coef
        self._fit = Fit(learning_rate, n_epochs, batch_size, max_grad_norm, seed)
        self.history: list[float] = []

    def fit(self, preferences: Sequence[Preference]) -> Self:
        """Train on preferences.

        Args:
            preferences: The prompt, the preferred completion, and the other one of each pair. A completion that
                was not cut ends with the end's word.

        Returns:
            Itself.

        Raises:
            ValueError: There is no preference, or a text is longer than the model's positions.
            FloatingPointError: The loss is not finite.
        """
        prompts = [prompt for prompt, *_ in preferences]
        sides = [tokenized(self.tokenizer, prompts, [pair[side] for pair in preferences]) for side in (1, 2)]
        chosen, other = (side.to(self.model.device) for side in sides)
        for side in (chosen, other):
            check_positions(self.model, side.n_prompt, side.actions.shape[1])
        with evaluating(self.reference):
            parts = th.split(th.arange(len(preferences)), 512)
            known = [th.cat([_log_prob(self.reference, side.take(part)) for part in parts]) for side in (chosen, other)]

        def loss(rows: th.Tensor) -> th.Tensor:
            gains = [
                _log_prob(self.model, side.take(rows)) - log_prob[rows]
                for side, log_prob in zip((chosen, other), known, strict=True)
            ]
            return -F.logsigmoid(self.kl_coef * (gains[0] - gains[1])).sum()

        rows = th.arange(len(preferences))
        # Dropout would make the policy another than the one that is compared with the reference.
        self.history += self._fit.epochs(self.model, rows, loss, pair_sizes(chosen, other), dropout=False)
        self.model.eval()
        return self

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int = 24, deterministic: bool = False) -> list[str]:
        """Completions of prompts, drawn from torch's generator.

        Args:
            prompts: The prompts.
            max_new_tokens: Longest completion, the end included.
            deterministic: Take the most probable token each time.
        """
        found = generate(
            self.model, self.tokenizer, prompts, max_new_tokens=max_new_tokens, deterministic=deterministic
        )
        return found.texts(self.tokenizer)[1]


def _log_prob(model: Any, completions: Completions) -> th.Tensor:
    """log π of whole completions, `(N,)`."""
    log_probs = run(model, completions).of(completions.actions)
    return th.where(completions.alive, log_probs, 0.0).sum(dim=1)
