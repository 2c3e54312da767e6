"""Learning from a batch of completions: epochs over minibatches of whole completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch as th

from pg_agents.contract import Batches, Loss, NotFiniteError, Summary
from pg_agents.language.objectives import TokenBatch
from pg_agents.language.policy import LanguagePolicy
from pg_agents.language.texts import Completions
from pg_agents.objectives import loss as loss_of
from pg_agents.objectives import mean_kl, normalise


@dataclass(frozen=True)
class TextRollout:
    """Completions, what was known of them when they were written, and how good they were.

    Attributes:
        completions: The texts.
        scores: Their rewards, nothing added or subtracted, `(N,)`.
        log_probs: log π of the policy that wrote them, `(N, T)`.
        reference_log_probs: log π_ref, `(N, T)`.
        values: V before each token, `(N, T)`.
        advantages: The advantage of each token, `(N, T)`.
        returns: The critic's regression target, `(N, T)`.
        trained_on: `(N,)`, False for completions that nothing is learnt from.
    """

    completions: Completions
    scores: np.ndarray
    log_probs: th.Tensor
    reference_log_probs: th.Tensor
    values: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    trained_on: th.Tensor

    def __len__(self) -> int:
        return len(self.completions)

    def take(self, rows: th.Tensor) -> TextRollout:
        """Some completions, without the columns that are padding in all of them."""
        completions = self.completions.take(rows)
        n = completions.actions.shape[1]
        parts = {
            name: getattr(self, name)[rows, :n]
            for name in ("log_probs", "reference_log_probs", "values", "advantages", "returns")
        }
        return replace(
            self,
            completions=completions,
            scores=self.scores[rows.cpu().numpy()],
            trained_on=self.trained_on[rows],
            **parts,
        )


def update(
    policy: LanguagePolicy,
    optimizer: th.optim.Optimizer,
    rollout: TextRollout,
    form: Loss,
    batches: Batches,
    *,
    batch_tokens: int | None,
    generator: th.Generator,
    on_epoch: Callable[[], None] | None = None,
) -> Summary:
    """Train the policy on a batch of completions.

    Args:
        policy: The policy.
        optimizer: Of its trained parameters.
        rollout: The completions.
        form: Minimised.
        batches: Epochs, and completions of a minibatch.
        batch_tokens: Largest number of tokens, padding included, whose gradient is computed at once; the gradients of
            the parts of a minibatch add up. None for all at once.
        generator: Draws the order of the completions.
        on_epoch: Called before each epoch.

    Raises:
        NotFiniteError: The loss or its gradient is not finite; the parameters are those before that step.
    """
    means: dict[str, list[float]] = defaultdict(list)
    metrics: dict[str, float] = {}
    stopped_by = None
    trained = policy.trained
    rows = rollout.trained_on.nonzero()[:, 0].cpu()
    for epoch in range(batches.n_epochs):
        if on_epoch is not None:
            on_epoch()
        epoch_kl = []
        order = rows[th.randperm(len(rows), generator=generator)]
        for some in th.split(order, batches.batch_size or len(rows)):
            found = accumulate(policy, optimizer, rollout.take(some.to(rollout.trained_on.device)), form, batch_tokens)
            epoch_kl.append(found.pop("kl"))
            if form.max_kl is not None and epoch_kl[-1] > form.max_kl:
                stopped_by = epoch_kl[-1]
                break
            norm = float(th.nn.utils.clip_grad_norm_(trained, form.max_grad_norm or float("inf")))
            if not np.isfinite(norm):
                raise NotFiniteError(f"The loss is {found['loss']}, and its gradient's norm {norm}", epoch)
            optimizer.step()
            found["grad_norm"] = norm
            metrics["loss"] = found.pop("loss")
            for name, value in found.items():
                means[name].append(value)
        metrics[f"approx_kl_epoch_{epoch + 1}"] = metrics["approx_kl"] = float(np.mean(epoch_kl))
        if stopped_by is not None:
            break
    optimizer.zero_grad()
    return Summary(
        n_epochs=epoch + 1,
        metrics=lambda: {name: float(np.mean(values)) for name, values in means.items()} | metrics,
        stopped_by=stopped_by,
    )


def accumulate(
    policy: LanguagePolicy,
    optimizer: th.optim.Optimizer,
    minibatch: TextRollout,
    form: Loss,
    batch_tokens: int | None,
) -> dict[str, float]:
    """Leave the gradient of a minibatch's loss in the parameters, as the sum of those of its parts.

    Args:
        policy: The policy.
        optimizer: Of its trained parameters.
        minibatch: The completions.
        form: The loss.
        batch_tokens: As for `update`.

    Returns:
        Means over the minibatch's tokens: the loss and its terms, the metrics, and an estimate of the KL divergence
        from the policy that wrote the completions.
    """
    optimizer.zero_grad()
    alive = minibatch.completions.alive
    n_tokens = int(alive.sum())
    advantages = minibatch.advantages
    if form.normalize_advantage and n_tokens > 1:
        advantages = th.zeros_like(advantages).masked_scatter(alive, normalise(advantages[alive]))
    minibatch = replace(minibatch, advantages=advantages)
    means: dict[str, float] = defaultdict(float)
    for rows in minibatch.completions.parts(batch_tokens):
        batch = token_batch(policy, minibatch.take(rows), n_tokens / len(minibatch), with_entropy=form.ent_coef != 0)
        terms = loss_of(batch, form)
        share = len(batch.log_prob) / n_tokens
        (share * terms.total).backward()  # type: ignore[no-untyped-call]
        means["loss"] += share * terms.total.item()
        means["policy_loss"] += share * terms.policy.item()
        means["entropy_loss"] += share * terms.entropy.item()
        if terms.value is not None:
            means["value_loss"] += share * terms.value.item()
        for name, value in form.metrics(batch).items():
            means[name] += share * value.detach().mean().item()
        means["kl"] += share * mean_kl(batch)
    return dict(means)


def token_batch(
    policy: LanguagePolicy, part: TextRollout, mean_length: float, *, with_entropy: bool = False
) -> TokenBatch:
    """Run the current policy on completions: the real tokens of all of them, one after the other.

    Args:
        policy: The policy.
        part: The completions.
        mean_length: Mean length of the completions of the whole minibatch.
        with_entropy: Work out the entropy at each token, too.
    """
    completions = part.completions
    alive = completions.alive
    out, values = policy.evaluate(completions)
    log_probs = out.log_probs[alive]  # (batch, vocabulary)
    log_prob = log_probs.gather(1, completions.actions[alive][:, None])[:, 0]
    old_values = part.values[alive]
    return TokenBatch(
        log_prob=log_prob,
        old_log_prob=part.log_probs[alive],
        advantages=part.advantages[alive],
        values=old_values if values is None else values[alive],
        old_values=old_values,
        returns=part.returns[alive],
        entropy=-(log_probs.exp() * log_probs).sum(dim=1) if with_entropy else None,
        completion=alive.nonzero()[:, 0],
        lengths=completions.lengths,
        mean_length=mean_length,
        reference_log_prob=part.reference_log_probs[alive],
    )
