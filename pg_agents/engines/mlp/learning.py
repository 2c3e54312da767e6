"""Learning in compiled code: one update's data laid out, the kernels run, and its metrics."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces

from pg_agents.buffers import EstimatorMixin
from pg_agents.contract import Loss, Minibatch, NotFiniteError, Penalty, Summary
from pg_agents.engines import threads
from pg_agents.engines.autograd import not_finite
from pg_agents.engines.mlp.memory import address
from pg_agents.engines.mlp.served import OPTIMIZERS, PENALTIES
from pg_agents.engines.mlp.tables import Program
from pg_agents.logs import deviations
from pg_agents.objectives import kl_divergence, mean_kl, predicted_values
from pg_agents.policies import unchecked_distributions

TRY_AGAIN = 16  # updates
# In samples times parameters: below, starting a thread costs more than it saves.
WORTH_A_THREAD = 1e7


class Pace:
    """Chooses one or two threads by the time that updates took: where the other core is busy, two cost time.

    The result does not depend on the number of threads.
    """

    def __init__(self) -> None:
        self._seconds = {2: 0.0, 1: 0.0}  # for a sample; 0 until it was tried
        self._n_updates = 0

    @contextmanager
    def chosen(self, n_samples: int) -> Iterator[int]:
        """The number of threads for the update in this context; every 16th time the slower one, to measure again.

        Args:
            n_samples: Samples of the update, over all epochs.
        """
        faster = min(self._seconds, key=lambda n_threads: self._seconds[n_threads])
        self._n_updates += 1
        n_threads = 3 - faster if self._n_updates % TRY_AGAIN == 0 else faster
        start = time.perf_counter()
        yield n_threads
        self._seconds[n_threads] = (time.perf_counter() - start) / n_samples


class Stored:
    """A rollout as the kernels read it, step after step.

    Args:
        program: The policy's tables.
        buffer: The rollout.

    Raises:
        IndexError: An action is outside its space.
    """

    def __init__(self, program: Program, buffer: EstimatorMixin) -> None:
        self._action_space = program.policy.action_space
        n_steps, n_envs = buffer.values.shape
        self.n_steps, self.n_envs = int(n_steps), int(n_envs)
        self.observations = program.rows.pack(buffer.observations, n_steps * n_envs)
        given: Any = buffer.observations
        shapes: Any = buffer.obs_shape
        self._given = (
            {key: array.reshape(-1, *shapes[key]) for key, array in given.items()}
            if program.rows.is_dict
            else given.reshape(-1, *shapes)
        )
        self.actions = np.ascontiguousarray(buffer.actions, dtype=np.float32)
        if program.is_categorical:
            program.check_actions(self.actions)
        self.old_log_probs, self.old_values, self.advantages, self.returns = (
            np.ascontiguousarray(array, dtype=np.float32).reshape(n_steps * n_envs)
            for array in (buffer.log_probs, buffer.values, buffer.advantages, buffer.returns)
        )

    def places(self, samples: np.ndarray) -> np.ndarray:
        """The rows of these samples, which are numbered environment after environment."""
        places = np.arange(self.n_steps * self.n_envs).reshape(self.n_steps, self.n_envs).T.ravel()
        return np.asarray(places[samples])

    def observations_at(self, places: np.ndarray) -> Any:
        """As the buffer's `get` gives them."""
        if isinstance(self._given, dict):
            return {key: th.from_numpy(given[places]) for key, given in self._given.items()}
        return th.from_numpy(self._given[places])

    def actions_at(self, places: np.ndarray) -> th.Tensor:
        """As the policy takes them."""
        flat: np.ndarray = self.actions.reshape(self.n_steps * self.n_envs, -1)[places]
        if isinstance(self._action_space, spaces.Discrete):
            flat = flat.astype(np.int64).reshape(-1)
        return th.from_numpy(flat)


# Arrays of a rollout and of an update that the kernels reach through their addresses.
_STORED = ("observations", "actions", "old_log_probs", "advantages", "returns", "old_values")
_ARRAYS = ("samples", "coefficients", "reference", "norms", "progress", "squares")
# Those that they write for each sample of each epoch.
_BY_SAMPLE = ("log_probs", "entropies", "values", "scaled_advantages", "divergences")
# Those with a row for each epoch.
_BY_EPOCH = ("samples", *_BY_SAMPLE, "norms")


class Update:
    """One update of a policy.

    Args:
        program: The policy's tables.
        pace: Chooses the number of threads.
        stored: The rollout.
        samples: `(epochs, samples)`: in which order they are learnt from.
        batch_size: Samples of a minibatch; None for all at once.
        loss: The loss.
        weight: Address of the compiled weight.
    """

    log_probs: np.ndarray
    entropies: np.ndarray
    values: np.ndarray
    scaled_advantages: np.ndarray
    divergences: np.ndarray
    actor_begins_at: ClassVar[int] = 0  # minibatches that the actor's thread has gone through

    def __init__(
        self,
        program: Program,
        pace: Pace,
        stored: Stored,
        samples: np.ndarray,
        batch_size: int | None,
        loss: Loss,
        weight: int,
    ) -> None:
        self.program, self.pace, self.stored, self.loss = program, pace, stored, loss
        optimizer = program.policy.optimizer
        group, kernels = optimizer.param_groups[0], program.kernels
        self.samples = samples
        n_epochs, n_samples = samples.shape
        self.n_samples = int(n_samples)
        self.batch_size = int(batch_size or n_samples)
        self.trains_critic = loss.trains_critic and bool(program.policies[0]["has_critic"])
        beta_1, beta_2 = group.get("betas", (0, group.get("alpha")))
        row: dict[str, Any] = {
            "n_samples": n_samples,
            "n_steps": stored.n_steps,
            "n_envs": stored.n_envs,
            "n_epochs": n_epochs,
            "batch_size": self.batch_size,
            "trains_critic": self.trains_critic,
            "normalize_advantage": loss.normalize_advantage,
            "ent_coef": loss.ent_coef,
            "vf_coef": loss.vf_coef,
            "scale": loss.scale,
            "value_clip": np.inf if loss.value_clip is None else loss.value_clip,
            "max_grad_norm": np.inf if loss.max_grad_norm is None else loss.max_grad_norm,
            "max_kl": loss.max_kl if loss.tracks_kl and loss.max_kl is not None else np.inf,
            "weight": weight,
            "n_coefficients": len(loss.objective.coefficients),
            "penalty": kernels.NO_PENALTY,
            "kl_coef": 0.0,
            "optimizer": getattr(kernels, OPTIMIZERS[type(optimizer)]),
            "beta_1": beta_1,
            "beta_2": beta_2,
            "epsilon": group["eps"],
        }
        self.coefficients = np.array(loss.objective.coefficients, np.float32)
        self.reference = np.zeros(0, np.float32)
        if loss.penalty is not None:
            row["penalty"] = getattr(kernels, PENALTIES[loss.penalty.estimator])
            row["kl_coef"] = loss.penalty.kl_coef
            self.reference = self._reference(loss.penalty)
        written = np.zeros((len(_BY_SAMPLE), n_epochs * n_samples), np.float32)
        first, stride = address(written), written.strides[0]
        for number, name in enumerate(_BY_SAMPLE):
            setattr(self, name, written[number])
            row[name] = first + number * stride
        self.norms = np.zeros(n_epochs * -(-n_samples // self.batch_size))
        self.progress, self.squares = np.zeros(5, np.int64), np.zeros(4)
        self.progress[0] = self.actor_begins_at
        for owner, names in ((stored, _STORED), (self, _ARRAYS)):
            for name in names:
                row[name] = address(getattr(owner, name))
        # All at once: one by one, its numbers take ten times as long.
        self.table = np.array([tuple(map(row.__getitem__, kernels.UPDATE.names))], kernels.UPDATE)

    def run(self, on_epoch: Callable[[], None] | None = None) -> Summary:
        """Update the parameters.

        Args:
            on_epoch: Called before each epoch.

        Raises:
            NotFiniteError: A parameter or a gradient was not finite.
        """
        program, kernels = self.program, self.program.kernels
        program.check_parameters()
        program.bind_optimizer(0, 1 + self.trains_critic)
        if on_epoch is None:
            code, n_begun = self._run_epochs(len(self.samples))
        else:
            code, n_begun = self._run_epoch_by_epoch(on_epoch)
        program.count_steps(n_begun - (code != kernels.DONE))
        per_epoch = len(self.norms) // len(self.samples)
        self.stopped = code == kernels.STOPPED
        self.n_begun, self.per_epoch = n_begun, per_epoch
        n_epochs = -(-n_begun // per_epoch)
        if code == kernels.NOT_FINITE:
            raise NotFiniteError(not_finite(self.metrics()["loss"], float(self.norms[n_begun - 1])), n_epochs - 1)
        stopped_by = None
        if self.stopped:
            stopped_by = mean_kl(self.minibatch(slice(self._start(n_begun - 1), self._end(n_begun - 1))))
        return Summary(n_epochs, self.metrics, stopped_by)

    def _run_epoch_by_epoch(self, on_epoch: Callable[[], None]) -> tuple[int, int]:
        """As `_run_epochs` with all of them, which one call after the other adds up to, bit for bit."""
        n_begun, program = 0, self.program
        for epoch in range(len(self.samples)):
            on_epoch()
            if not (program.fits(program.policy) and program.can_learn()):
                raise RuntimeError(
                    "`on_epoch` has replaced parameters, modules or the optimiser's state in the middle of an update, "
                    "which the compiled engine does not follow: engine='autograd' does."
                )
            for name in _BY_EPOCH:
                of_epochs = getattr(self, name).reshape(len(self.samples), -1)
                self.table[name] = address(of_epochs[epoch])
            self.progress[:] = 0
            code, n_begun_now = self._run_epochs(1)
            n_begun += n_begun_now
            if code != program.kernels.DONE:
                break
        return code, n_begun

    def _run_epochs(self, n_epochs: int) -> tuple[int, int]:
        """Run the kernels; returns their code, and the number of minibatches that they began."""
        self.table["n_epochs"] = n_epochs
        n_samples = n_epochs * self.n_samples
        can_share = self.trains_critic and threads.available() > 1
        if can_share and n_samples * self.program.n_parameters > WORTH_A_THREAD:
            with self.pace.chosen(n_samples) as n_threads:
                code = self._run(0, 2) if n_threads == 1 else self._run_on_two_threads()
        else:
            code = self._run(0, 1 + self.trains_critic)
        return code, int(self.progress[3])

    def _run(self, first_tower: int, last_tower: int) -> int:
        return self.program.train(address(self.table), first_tower, last_tower)

    def _run_on_two_threads(self) -> int:
        critic = threading.Thread(target=self._run, args=(1, 2), name="pg_agents critic")
        try:
            critic.start()
            return self._run(0, 1)
        finally:
            # An interrupted update must not leave the other thread running: it would outlive the arrays it works on.
            self.progress[2] = 1
            if critic.ident is not None:
                critic.join()

    def metrics(self) -> dict[str, Any]:
        """The autograd engine's metrics, from the arrays that the kernels filled: means over minibatches."""
        loss = self.loss
        ends = np.array([self._end(number) for number in range(self.n_begun)])
        lengths = ends - np.array([self._start(number) for number in range(self.n_begun)])
        batch = self.minibatch(slice(0, int(ends[-1])))
        # The mean over minibatches of the mean over each: samples of a smaller minibatch weigh more.
        share = th.from_numpy(np.repeat(1 / (lengths * self.n_begun), lengths))

        def mean(per_sample: th.Tensor, samples: slice = slice(None)) -> float:
            return float((per_sample[samples] * share[samples]).sum() / share[samples].sum())

        last = slice(int(ends[-1] - lengths[-1]), int(ends[-1]))
        with th.no_grad(), unchecked_distributions():
            parts = {"policy_loss": -loss.objective(batch), "entropy_loss": -batch.entropy}  # type: ignore[operator]
            if self.trains_critic:
                parts["value_loss"] = (batch.returns - predicted_values(batch, loss.value_clip)) ** 2
            if loss.penalty is not None:
                parts["reference_kl"] = th.from_numpy(self.divergences[: int(ends[-1])])
            parts |= loss.metrics(batch)
            divergence = kl_divergence(batch.ratio, batch.log_ratio) if loss.tracks_kl else None
            spread = deviations(self.program.policy, self.stored.observations_at(self._places(last)))
        metrics = {name: mean(part) for name, part in parts.items()} | spread
        if divergence is not None:
            for epoch in range(-(-self.n_begun // self.per_epoch)):
                samples = slice(epoch * self.n_samples, (epoch + 1) * self.n_samples)
                metrics[f"approx_kl_epoch_{epoch + 1}"] = metrics["approx_kl"] = mean(divergence, samples)
        norms = self.norms[: self.n_begun - self.stopped]
        if len(norms):
            metrics["grad_norm"] = float(norms.mean())
        total = mean(parts["policy_loss"], last) + loss.ent_coef * mean(parts["entropy_loss"], last)
        if self.trains_critic:
            total += loss.vf_coef * mean(parts["value_loss"], last)
        if loss.penalty is not None:
            total += loss.penalty.kl_coef * mean(parts["reference_kl"], last)
        metrics["loss"] = total * loss.scale
        return metrics

    def _reference(self, penalty: Penalty) -> np.ndarray:
        """The reference policy's log π of the stored actions, or its outputs, as `kernels.UPDATE` has them."""
        everything = np.arange(self.stored.n_steps * self.stored.n_envs)
        with th.no_grad(), unchecked_distributions():
            reference = penalty.reference.get_distribution(self.stored.observations_at(everything))
            pi: Any = reference.distribution
            if penalty.estimator != "exact":
                found = reference.log_prob(self.stored.actions_at(everything))
            elif self.program.is_gaussian:
                found = th.cat([pi.mean, pi.stddev.log()], dim=1)
            else:
                found = th.cat([part.logits for part in pi], dim=1) if isinstance(pi, list) else pi.logits
        width = 1 if penalty.estimator != "exact" else self.program.n_outputs * (1 + self.program.is_gaussian)
        if found.numel() != everything.size * width:
            raise ValueError(
                f"The reference policy gives {found.numel()} numbers for {everything.size} samples, but must give "
                f"{width} for each, as the policy does."
            )
        return np.ascontiguousarray(found.numpy(), dtype=np.float32)

    def _start(self, minibatch: int) -> int:
        """The first sample of a minibatch, among those of all epochs."""
        epoch, number = divmod(minibatch, self.per_epoch)
        return epoch * self.n_samples + number * self.batch_size

    def _end(self, minibatch: int) -> int:
        epoch = minibatch // self.per_epoch
        return min(self._start(minibatch) + self.batch_size, (epoch + 1) * self.n_samples)

    def _places(self, samples: slice) -> np.ndarray:
        return self.stored.places(self.samples.reshape(-1)[samples])

    def minibatch(self, samples: slice) -> Minibatch:
        """Some of the samples, as the kernels have last seen them."""
        stored, places = self.stored, self._places(samples)
        return Minibatch(
            log_prob=th.from_numpy(self.log_probs[samples]),
            old_log_prob=th.from_numpy(stored.old_log_probs[places]),
            advantages=th.from_numpy(self.scaled_advantages[samples]),
            values=th.from_numpy(self.values[samples]),
            old_values=th.from_numpy(stored.old_values[places]),
            returns=th.from_numpy(stored.returns[places]),
            entropy=th.from_numpy(self.entropies[samples]),
            policy=self.program.policy,
            stored=lambda: (stored.observations_at(places), stored.actions_at(places)),
        )


class Regression(Update):
    """An update of the critic alone: the loss is `vf_coef` E[(R - V)²] and has no other part."""

    # To the kernels the actor's thread is far ahead, and its gradient is 0.
    actor_begins_at = int(np.iinfo(np.int64).max)

    def fit(self) -> None:
        """Update the critic's parameters. Another thread may use the actor's meanwhile.

        Raises:
            NotFiniteError: A gradient was not finite.
        """
        program, kernels = self.program, self.program.kernels
        program.bind_optimizer(1, 2)
        self.table["n_epochs"] = len(self.samples)
        self.per_epoch = len(self.norms) // len(self.samples)
        code = self._run(1, 2)
        self.n_begun = int(self.progress[1])
        program.count_steps(self.n_begun - (code == kernels.NOT_FINITE))
        if code == kernels.NOT_FINITE:
            norm = math.sqrt(self.squares[2 * ((self.n_begun - 1) % 2) + 1])
            raise NotFiniteError(not_finite(float(self.losses()[-1]), norm))

    def abort(self) -> None:
        """Make `fit`, running in another thread, end after the present minibatch."""
        self.progress[2] = 1
        self.progress[0] = 0

    def losses(self) -> np.ndarray:
        """E[(R - V)²] of each minibatch, before its step."""
        starts = np.array([self._start(number) for number in range(self.n_begun)])
        ends = np.array([self._end(number) for number in range(self.n_begun)])
        batch = self.minibatch(slice(0, int(ends[-1])))
        squares = (batch.returns - predicted_values(batch, self.loss.value_clip)) ** 2
        means: np.ndarray = np.add.reduceat(squares.numpy(), starts) / (ends - starts)
        return means
