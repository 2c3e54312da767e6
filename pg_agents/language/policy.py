"""The policy of a language model, as SB3 knows policies."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs

from pg_agents.language.models import Outputs, between_libraries, evaluating, has_adapter, one_text, plain, precise, run
from pg_agents.language.texts import Completions


class Scored(NamedTuple):
    """The quantities of policy and reference at the tokens of completions, each `(N, T)`; 0 for padding.

    Attributes:
        log_prob: log π.
        reference_log_prob: log π_ref.
        values: V of the text before the token; 0 without a critic.
        kl: KL(π(.|s) || π_ref(.|s)) over the whole vocabulary.
        entropy: Entropy of π(.|s).
    """

    log_prob: th.Tensor
    reference_log_prob: th.Tensor
    values: th.Tensor
    kl: th.Tensor
    entropy: th.Tensor


class LanguagePolicy(BasePolicy):
    """A language model with its reference and, for an actor-critic, a value head.

    Args:
        model: A causal language model, which is copied. Of one with an adapter of `peft`, the adapter is trained.
        has_critic: Whether there is a value head, a linear function of the last layer's output.
        lora: A `peft.LoraConfig`, or its arguments as a dictionary: the model stays, and low-rank additions are
            trained. None trains what the model does not have frozen.
        pad: Token of padding.
        generator: Draws the tokens; None for torch's own.
        observation_space: Texts, padded at their end.
        action_space: Tokens.

    Attributes:
        model: The model that is trained.
        value_head: V as a function of the last layer's output; None without a critic.
        generator: Draws the tokens.

    Raises:
        TypeError: `lora` is neither.
        ValueError: All parameters of the model are frozen.
    """

    def __init__(
        self,
        model: Any,
        *,
        has_critic: bool,
        lora: Any,
        pad: int,
        generator: th.Generator | None = None,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
    ) -> None:
        super().__init__(observation_space, action_space)
        self.pad, self.generator = pad, generator
        self.model: Any = deepcopy(model) if lora is None else with_adapter(plain(model), lora)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ValueError(
                "`policy` must have parameters to train, but all are frozen: model.requires_grad_(True), or "
                "PeftModel.from_pretrained(..., is_trainable=True)."
            )
        # The model as given; with `lora`, that is the trained one without its adapter.
        self._reference: Any = plain(model).requires_grad_(False) if lora is None else None
        self.value_head = th.nn.Linear(self._width(), 1) if has_critic else None
        if self.value_head is not None:
            th.nn.init.zeros_(self.value_head.weight)
            th.nn.init.zeros_(self.value_head.bias)
        self.set_training_mode(False)

    def _width(self) -> int:
        with evaluating(self.model):
            return run(self.model, one_text(self.model.device)).hidden.shape[-1]

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is trained, and the model stays."""
        return has_adapter(self.model)

    @property
    def trained(self) -> list[th.nn.Parameter]:
        """The parameters that are trained."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def set_training_mode(self, mode: bool) -> None:
        """Nothing: dropout would make the policy that learns another than the one that wrote, so there is none."""
        self.train(False)

    def evaluate(self, completions: Completions) -> tuple[Outputs, th.Tensor | None]:
        """Run the model on completions: what it says of each token, and V `(N, T)` of the text before it."""
        out = run(self.model, completions)
        return out, None if self.value_head is None else self.value_head(precise(out.hidden))[..., 0]

    def score(self, completions: Completions, batch_tokens: int | None = None) -> Scored:
        """Log-probabilities, values and KL divergence of completions, without gradients.

        Args:
            completions: The completions.
            batch_tokens: Largest number of tokens at once, padding included.
        """
        shape = completions.actions.shape
        dtype = precise(next(self.parameters()).new_empty(0)).dtype
        found = [th.zeros(shape, dtype=dtype, device=completions.tokens.device) for _ in Scored._fields]
        with evaluating(self):
            for rows in completions.parts(batch_tokens):
                some = completions.take(rows)
                out, values = self.evaluate(some)
                reference = self._reference_outputs(some)
                p = out.log_probs.exp()
                parts = Scored(
                    out.of(some.actions),
                    reference.of(some.actions),
                    th.zeros_like(p[..., 0]) if values is None else values,
                    (p * (out.log_probs - reference.log_probs)).sum(dim=-1),
                    -(p * out.log_probs).sum(dim=-1),
                )
                n = some.actions.shape[1]
                for whole, part in zip(found, parts, strict=True):
                    whole[rows, :n] = th.where(some.alive, part, 0.0)
        return Scored(*found)

    def _reference_outputs(self, completions: Completions) -> Outputs:
        if self._reference is None:
            with self.model.disable_adapter():
                return run(self.model, completions)
        return run(self._reference, completions)

    @property
    def reference(self) -> Any:
        """The reference model; None where it is the model without the adapter of `lora`."""
        return self._reference

    def forward(self, observation: th.Tensor, deterministic: bool = False) -> th.Tensor:
        """The next token of each text; see `_predict`."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """The next token of each text `(N, length)`, padded at its end.

        A policy may write padding itself, within a text; only behind the text's last other token is it padding.
        """
        assert isinstance(observation, th.Tensor), "texts are arrays"
        observation = observation.long()
        columns = th.arange(observation.shape[1], device=observation.device)
        last = (columns * (observation != self.pad)).argmax(dim=1)
        n = int(last.max()) + 1
        padding = observation.new_full((len(observation), 1), self.pad)
        tokens = th.cat([observation[:, :n], padding], dim=1)
        mask = th.arange(n + 1, device=observation.device) <= last[:, None]
        texts = Completions(tokens, mask, 1)  # every token but the first as a completion
        with evaluating(self):
            log_probs = run(self.model, texts).log_probs[th.arange(len(tokens)), last]
        if deterministic:
            return log_probs.argmax(dim=-1)
        return th.multinomial(log_probs.exp(), 1, generator=self.generator)[:, 0]


def with_adapter(model: Any, lora: Any) -> Any:
    """A model with low-rank additions.

    Args:
        model: A causal language model, which is changed.
        lora: A `peft.LoraConfig`, or its arguments as a dictionary.

    Raises:
        ImportError: `peft` is not installed.
        TypeError: `lora` is neither.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError('`lora` needs peft: pip install "pg-agents[language]"') from error
    config = LoraConfig(**{"task_type": "CAUSAL_LM", **lora}) if isinstance(lora, dict) else lora
    if not isinstance(config, LoraConfig):
        raise TypeError(f"`lora` must be a peft.LoraConfig or a dictionary of its arguments, but is {lora!r}.")
    with between_libraries():
        return get_peft_model(model, config)
