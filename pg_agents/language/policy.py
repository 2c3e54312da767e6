"""The policy of a language model, as SB3 knows policies."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs

from pg_agents.language.models import Outputs, between_libraries, evaluating, precise, run, width
from pg_agents.language.texts import Completions


class Scored(NamedTuple):
    """What policy and reference say of the tokens of completions, each `(N, T)`; 0 for padding.

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
        model: A causal language model, which is copied.
        has_critic: Whether there is a value head, a linear function of the last layer's output.
        lora: A `peft.LoraConfig`, or its arguments as a dictionary: the model stays, and low-rank additions are
            trained. None trains all parameters.
        pad: Token of padding.
        observation_space: Texts, padded at their end.
        action_space: Tokens.

    Attributes:
        model: The model that is trained.
        value_head: V as a function of the last layer's output; None without a critic.
    """

    def __init__(
        self,
        model: Any,
        *,
        has_critic: bool,
        lora: Any,
        pad: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
    ) -> None:
        super().__init__(observation_space, action_space)
        self.pad = pad
        self.model: Any = deepcopy(model)
        self.has_adapter = lora is not None or hasattr(model, "disable_adapter")
        if lora is not None:
            self.model = with_adapter(self.model, lora)
        # Without its adapter, a model with one is the reference.
        self._reference: Any = None if self.has_adapter else deepcopy(model).requires_grad_(False)
        self.value_head = th.nn.Linear(width(model), 1) if has_critic else None
        if self.value_head is not None:
            th.nn.init.zeros_(self.value_head.weight)
            th.nn.init.zeros_(self.value_head.bias)
        self.set_training_mode(False)

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
        if self.has_adapter:
            with self.model.disable_adapter():
                return run(self.model, completions)
        return run(self._reference, completions)

    @property
    def reference(self) -> Any:
        """The reference model; None where it is the model without its adapter."""
        return self._reference

    def forward(self, observation: th.Tensor, deterministic: bool = False) -> th.Tensor:
        """The next token of each text; see `_predict`."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """The next token of each text `(N, length)`, padded at its end."""
        assert isinstance(observation, th.Tensor), "texts are arrays"
        observation = observation.long()
        mask = observation != self.pad
        n = int(mask.sum(dim=1).max())
        padding = observation.new_full((len(observation), 1), self.pad)
        tokens = th.cat([observation[:, :n], padding], dim=1)
        texts = Completions(tokens, tokens != self.pad, 1)  # every token but the first as a completion
        with evaluating(self):
            log_probs = run(self.model, texts).log_probs[th.arange(len(tokens)), mask.sum(dim=1) - 1]
        return log_probs.argmax(dim=-1) if deterministic else th.multinomial(log_probs.exp(), 1)[:, 0]


def with_adapter(model: Any, lora: Any) -> Any:
    """A model with low-rank additions.

    Args:
        model: A causal language model, which is changed.
        lora: A `peft.LoraConfig`, or its arguments as a dictionary.

    Raises:
        ImportError: `peft` is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError('`lora` needs peft: pip install "pg-agents[language]"') from error
    config = LoraConfig(**{"task_type": "CAUSAL_LM", **lora}) if isinstance(lora, dict) else lora
    with between_libraries():
        return get_peft_model(model, config)
