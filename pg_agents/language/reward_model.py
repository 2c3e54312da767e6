"""A reward model: a number for each completion, learnt from preferences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from safetensors.torch import load_file, save_file
from torch.nn import functional as F  # noqa: N812 - torch's own convention
from typing_extensions import Self

from pg_agents.checks import check_number
from pg_agents.files.writing import replacing_folder
from pg_agents.language.fitting import Fit, Sizes
from pg_agents.language.generation import generate
from pg_agents.language.models import (
    check_folder,
    check_positions,
    disk_errors,
    evaluating,
    last_hidden,
    load_tokenizer,
    model_and_tokenizer,
    one_text,
    plain,
    precise,
    quietly,
    save_model,
)
from pg_agents.language.texts import Completions, by_length, tokenized

Preference = tuple[str, str, str]
"""A prompt, the preferred completion, and the other one."""


class Calibration(NamedTuple):
    """The model's accuracy as a function of its stated certainty.

    The pairs are sorted by the probability that the model gives to the preferred completion or the other, whichever is
    larger, and put into bins of equal size.

    Attributes:
        predicted: Mean of this probability, of each bin.
        observed: Share of the pairs of each bin in which it was right.
    """

    predicted: np.ndarray
    observed: np.ndarray


class _Scores(th.nn.Module):
    """A trunk, and a linear function of its output at a text's last token."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        with evaluating(trunk):
            size = last_hidden(trunk, one_text(trunk.device)).shape[1]
        self.trunk = trunk
        self.head = th.nn.Linear(size, 1)
        th.nn.init.zeros_(self.head.bias)
        th.nn.init.normal_(self.head.weight, std=1 / (size + 1) ** 0.5)

    def forward(self, completions: Completions) -> th.Tensor:
        scores: th.Tensor = self.head(precise(last_hidden(self.trunk, completions)))[:, 0]
        return scores


class RewardModel:
    """Learns a reward from preferences, by the model of Bradley and Terry.

    maximise E[log σ(r(prompt, preferred) - r(prompt, other))]   (arXiv:2203.02155, eq. 1; arXiv:1706.03741)

    The trunk is a copy of the fine-tuned model's, and the head is a linear function of its last hidden state. After
    training, rewards are shifted and scaled to mean 0 and standard deviation 1 on samples of the fine-tuned model, so
    that a `kl_coef` means the same for every reward model. A text that was cut differs from one that ended by its last
    token.

    Args:
        sft: A `SupervisedFineTuning`, a Hugging Face causal language model, or a folder with one; it is copied.
        tokenizer: Its tokenizer; None for that of the `SupervisedFineTuning` or the folder.
        learning_rate: Largest step size of AdamW; it rises and falls once.
        n_epochs: Passes over the preferences.
        batch_size: Pairs of a step.
        validation: Share of the preferences that is held out.
        max_grad_norm: The gradient is scaled down to this norm.
        n_normalize: Samples of the fine-tuned model for the normalisation; 0 for none.
        max_new_tokens: Their longest completion.
        seed: Seed of the head, the order of the preferences and the samples.
        device: Torch device; None for the model's.

    Attributes:
        accuracy: Share of the held-out pairs in which the preferred completion has the larger reward.
        loss: Mean of -log σ on the held-out pairs, in nats.
        mean: Mean reward before normalisation.
        std: Standard deviation before normalisation.

    Raises:
        ValueError: An argument is out of range, or the tokenizer has no end or padding.
    """

    def __init__(
        self,
        sft: Any,
        tokenizer: Any = None,
        *,
        learning_rate: float = 2e-3,
        n_epochs: int = 4,
        batch_size: int = 16,
        validation: float = 0.1,
        max_grad_norm: float = 1.0,
        n_normalize: int = 1024,
        max_new_tokens: int = 24,
        seed: int | None = None,
        device: th.device | str | None = None,
    ) -> None:
        check_number("validation", validation, at_least=0, at_most=0.9)
        check_number("n_normalize", n_normalize, at_least=0, integer=True)
        if n_normalize == 1:
            raise ValueError("`n_normalize` must be 0 or at least 2, but is 1: one sample has no standard deviation.")
        check_number("max_new_tokens", max_new_tokens, at_least=1, integer=True)
        self._language_model, self.tokenizer = model_and_tokenizer(sft, tokenizer)
        self.validation, self.n_normalize, self.max_new_tokens = validation, n_normalize, max_new_tokens
        self._fit = Fit(learning_rate, n_epochs, batch_size, max_grad_norm, seed)
        with th.random.fork_rng(enabled=seed is not None):
            if seed is not None:
                th.manual_seed(seed)
            self._scores = _Scores(plain(self._language_model).base_model).to(device or self._language_model.device)
        self.mean, self.std = 0.0, 1.0
        self.accuracy = self.loss = float("nan")
        self._held_out_gaps: np.ndarray = np.zeros(0)

    @property
    def trunk(self) -> Any:
        """The model below the head."""
        return self._scores.trunk

    def fit(self, preferences: Sequence[Preference]) -> Self:
        """Train on preferences, measure the model on those held out, and normalise it.

        Args:
            preferences: The prompt, the preferred completion, and the other one of each pair. A completion that
                was not cut ends with the end's word.

        Returns:
            Itself.

        Raises:
            ValueError: There are too few preferences, a text, or a prompt with `max_new_tokens` of the normalisation,
                is longer than the model's positions, or the model was loaded.
            FloatingPointError: The loss is not finite.
        """
        if isinstance(self._language_model, _Trunk):
            raise ValueError("`fit` needs the fine-tuned model, which is not saved: RewardModel(sft).fit(preferences).")
        prompts = [prompt for prompt, *_ in preferences]
        chosen, other = (self._tokenized(prompts, [pair[side] for pair in preferences]) for side in (1, 2))
        if self.n_normalize:
            check_positions(self._language_model, chosen.n_prompt, self.max_new_tokens)
        train, held_out = self._fit.split(len(preferences), self.validation)

        def gaps(rows: th.Tensor) -> th.Tensor:
            found: th.Tensor = self._scores(chosen.take(rows)) - self._scores(other.take(rows))
            return found

        sizes = pair_sizes(chosen, other)
        for _ in self._fit.epochs(self._scores, train, lambda rows: -F.logsigmoid(gaps(rows)).sum(), sizes):
            pass
        with evaluating(self._scores):
            found = [gaps(rows) for rows in th.split(held_out, 512)] if len(held_out) else []
        self._held_out_gaps = th.cat(found).cpu().numpy() if found else np.zeros(0)
        if found:
            self.accuracy = float((self._held_out_gaps > 0).mean() + (self._held_out_gaps == 0).mean() / 2)
            self.loss = float(np.logaddexp(0, -self._held_out_gaps).mean())
        if self.n_normalize:
            self._normalise(prompts)
        return self

    def calibration(self, n_bins: int = 10) -> Calibration:
        """Predicted and observed frequencies of the held-out preferences.

        Args:
            n_bins: Number of bins, of equal size.

        Raises:
            ValueError: Fewer preferences were held out than there are bins, or none since the model was made or
                loaded.
        """
        check_number("n_bins", n_bins, at_least=1, integer=True)
        gaps = self._held_out_gaps
        if not len(gaps):
            raise ValueError(
                "`calibration` needs preferences that `fit` has held out, with `validation` above 0. They are not "
                "saved, so that a loaded model has none."
            )
        if len(gaps) < n_bins:
            raise ValueError(f"`n_bins` must be at most {len(gaps)}, the held-out preferences, but is {n_bins}.")
        sure, right = 1 / (1 + np.exp(-np.abs(gaps))), (gaps > 0) + (gaps == 0) / 2
        bins = np.array_split(np.argsort(sure, kind="stable"), n_bins)
        return Calibration(
            np.array([sure[rows].mean() for rows in bins]), np.array([right[rows].mean() for rows in bins])
        )

    def scores(self, completions: Completions, batch_size: int = 512) -> th.Tensor:
        """The reward of each completion, `(N,)`, on the model's device.

        Args:
            completions: Completions of a model with the same tokenizer.
            batch_size: Completions that are scored at once.
        """
        device = self._scores.head.weight.device
        with evaluating(self._scores):
            order = by_length(completions.mask.sum(dim=1))
            found = [self._scores(completions.take(part).to(device)) for part in th.split(order, batch_size)]
            raw = th.cat(found)[order.argsort().to(device)]
        return (raw - self.mean) / self.std

    def __call__(self, prompt: str, completion: str) -> float:
        """The reward of one completion, which ends with the end's word if it was not cut."""
        return float(self.scores(tokenized(self.tokenizer, [prompt], [completion]))[0])

    def save(self, folder: str | Path) -> None:
        """Write the model and the tokenizer to a folder, for `load`.

        Other files in the folder stay. All is replaced at once, when it is whole.
        """
        numbers = {"mean": self.mean, "std": self.std, "accuracy": self.accuracy, "loss": self.loss}
        Path(folder).parent.mkdir(parents=True, exist_ok=True)
        with disk_errors(folder), replacing_folder(folder, keeps_others=True) as beside:
            save_model(self._scores.trunk, beside, self.tokenizer)
            save_file(dict(self._scores.head.state_dict()), beside / "reward_head.safetensors")
            (beside / "reward.json").write_text(json.dumps(numbers), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, device: th.device | str = "cpu") -> Self:
        """A model that `save` has written, to give rewards with.

        Args:
            folder: The folder.
            device: Torch device.

        Raises:
            ValueError: The folder holds no reward model.
        """
        from transformers import AutoModel

        check_folder(folder)
        if not (Path(folder) / "reward.json").is_file():
            raise ValueError(f"The folder {str(folder)!r} must hold a reward model, with a file reward.json.")
        with quietly():
            trunk = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        reward = cls(_Trunk(trunk), load_tokenizer(folder), device=device)
        reward._scores.head.load_state_dict(load_file(Path(folder) / "reward_head.safetensors"))
        for name, value in json.loads((Path(folder) / "reward.json").read_text(encoding="utf-8")).items():
            setattr(reward, name, value)
        return reward

    def _tokenized(self, prompts: Sequence[str], completions: Sequence[str]) -> Completions:
        batch = tokenized(self.tokenizer, prompts, completions).to(self._scores.head.weight.device)
        check_positions(self._language_model, batch.n_prompt, batch.actions.shape[1])
        return batch

    def _normalise(self, prompts: Sequence[str]) -> None:
        generator = th.Generator(self._language_model.device)
        generator.manual_seed(int(th.randint(2**62, ())) if self._fit.seed is None else self._fit.seed)
        some = [prompts[i % len(prompts)] for i in range(self.n_normalize)]
        samples = generate(
            self._language_model, self.tokenizer, some, max_new_tokens=self.max_new_tokens, generator=generator
        )
        self.mean, self.std = 0.0, 1.0
        found = self.scores(samples).double()
        self.mean, self.std = float(found.mean()), max(float(found.std()), 1e-8)


def pair_sizes(chosen: Completions, other: Completions) -> Sizes:
    """Sizes of pairs: each counts as one."""
    lengths = (chosen.mask.sum(dim=1) + other.mask.sum(dim=1)).cpu()
    return Sizes(th.ones_like(lengths), lengths)


class _Trunk:
    """A model without a head, where a language model is expected."""

    def __init__(self, trunk: Any) -> None:
        self.base_model, self.config, self.device = trunk, trunk.config, trunk.device
        self.get_input_embeddings = trunk.get_input_embeddings
