"""Supervised fine-tuning: a language model learns to write as examples do."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from typing_extensions import Self

from pg_agents.checks import check_number
from pg_agents.files.writing import replacing_folder
from pg_agents.language.fitting import Fit, Sizes
from pg_agents.language.models import check_positions, disk_errors, evaluating, model_and_tokenizer, run, save_model
from pg_agents.language.texts import Completions, tokenized


class Losses(NamedTuple):
    """Means over the tokens of completions, in nats.

    Attributes:
        train: During the epoch, on the examples learnt from.
        validation: After it, on those held out; NaN if there are none.
    """

    train: float
    validation: float


class SupervisedFineTuning:
    """Maximum likelihood on completions, given their prompts.

    minimise -E[log π(completion | prompt)], the mean over the tokens of the completions   (arXiv:2203.02155, step 1)

    After each epoch the loss on held-out examples is measured. The parameters are those of the best epoch in the end,
    and training stops when `patience` epochs in succession have not been better.

    Args:
        model: A Hugging Face causal language model, which is trained in place, or a folder with one.
        tokenizer: Its tokenizer; None for the folder's.
        learning_rate: Largest step size of AdamW; it rises and falls once (arXiv:1708.07120).
        n_epochs: Passes over the examples.
        batch_size: Examples of a step.
        validation: Share of the examples that is held out.
        patience: Epochs without improvement after which training stops.
        max_grad_norm: The gradient is scaled down to this norm.
        seed: Seed of the order of the examples.
        device: Torch device; None for the model's.

    Attributes:
        model: The model.
        tokenizer: The tokenizer.
        history: `Losses` of each epoch.

    Raises:
        ValueError: An argument is out of range, or the tokenizer has no end or padding.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        learning_rate: float = 4e-3,
        n_epochs: int = 3,
        batch_size: int = 64,
        validation: float = 0.05,
        patience: int = 2,
        max_grad_norm: float = 1.0,
        seed: int | None = None,
        device: th.device | str | None = None,
    ) -> None:
        check_number("validation", validation, at_least=0, at_most=0.9)
        check_number("patience", patience, at_least=1, integer=True)
        self.model, self.tokenizer = model_and_tokenizer(model, tokenizer)
        if device is not None:
            self.model.to(device)
        self.validation, self.patience = validation, patience
        self._fit = Fit(learning_rate, n_epochs, batch_size, max_grad_norm, seed)
        self.history: list[Losses] = []

    def fit(self, pairs: Sequence[tuple[str, str]]) -> Self:
        """Train on pairs of prompt and completion.

        Args:
            pairs: The examples; the end is added to a completion that has none.

        Returns:
            Itself.

        Raises:
            ValueError: There are too few pairs, or one is longer than the model's positions.
            FloatingPointError: The loss is not finite.
        """
        prompts, completions = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        examples = tokenized(self.tokenizer, prompts, completions, adds_end=True).to(self.model.device)
        check_positions(self.model, examples.n_prompt, examples.actions.shape[1])
        train, held_out = self._fit.split(len(examples), self.validation)
        best, n_worse = (float("inf"), deepcopy(self.model.state_dict())), 0
        sizes = Sizes(examples.lengths.cpu(), examples.mask.sum(dim=1).cpu())
        for losses in self._fit.epochs(self.model, train, lambda rows: self._loss(examples.take(rows)), sizes):
            found = Losses(losses, self._mean_loss(examples, held_out))
            self.history.append(found)
            if not len(held_out):
                continue
            if found.validation < best[0]:
                best, n_worse = (found.validation, deepcopy(self.model.state_dict())), 0
            else:
                n_worse += 1
            if n_worse >= self.patience:
                break
        if len(held_out):
            self.model.load_state_dict(best[1])
        self.model.eval()
        return self

    def save(self, folder: str | Path) -> None:
        """Write model and tokenizer to a folder, from which they can be loaded.

        A model with an adapter of `peft` is written with it, and the adapter alone to the folder `adapter` below. Other
        files in the folder stay. All is replaced at once, when it is complete.
        """
        Path(folder).parent.mkdir(parents=True, exist_ok=True)
        with disk_errors(folder), replacing_folder(folder, keeps_others=True) as beside:
            save_model(self.model, beside, self.tokenizer)

    def _loss(self, examples: Completions) -> th.Tensor:
        log_probs = run(self.model, examples).of(examples.actions)
        return -log_probs[examples.alive].sum()

    def _mean_loss(self, examples: Completions, rows: th.Tensor) -> float:
        if not len(rows):
            return float("nan")
        with evaluating(self.model):
            total = sum((float(self._loss(examples.take(part))) for part in th.split(rows, 512)), 0.0)
        return total / int(examples.lengths[rows].sum())
