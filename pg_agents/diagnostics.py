"""Diagnostics of a training: SB3 callbacks that work with any on-policy algorithm, SB3's own included.

They read what the rollout holds and change nothing: a training with them arrives at the same parameters.
docs/diagnostics.md says what to look for in each.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import ArrayLike
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import Distribution, kl_divergence
from stable_baselines3.common.logger import DISABLED, Figure, TensorBoardOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import explained_variance, obs_as_tensor

from pg_agents.agent import PolicyGradient
from pg_agents.checks import check_number
from pg_agents.objectives import normalise
from pg_agents.policies import unchecked_distributions

__all__ = ["AdvantageDiagnostics", "GradientDiagnostics", "PolicyDiagnostics", "PolicyPicture"]

_TENSORBOARD_ONLY = ("stdout", "log", "json", "csv")
_MAX_STATES = 12  # whose paths can be told apart in one picture
_MAX_NAMES = 40  # that find room beside it


class _Diagnostic(BaseCallback):
    """Measures the first rollout, and then one after every so many environment steps."""

    def __init__(self, every: int, verbose: int = 0) -> None:
        super().__init__(verbose)
        check_number("every", every, at_least=1, integer=True)
        self.every = every
        self._watched: Any = None
        self._measured_at = -np.inf

    def _on_training_start(self) -> None:
        self._check_model()
        # Whoever goes on with `reset_num_timesteps=False` goes on here too.
        if self.num_timesteps == 0 or self.model is not self._watched:
            self._watched = self.model
            self._restart()

    def _restart(self) -> None:
        """Forget what was seen of another training."""
        self._measured_at = -np.inf

    def _check_model(self) -> None:
        name, model = type(self).__name__, self.model
        if not isinstance(model, OnPolicyAlgorithm):
            raise ValueError(
                f"{name} is for on-policy algorithms, whose rollouts it reads, not {type(model).__name__}."
            )
        for attribute, kind in (("hidden_states_pi", "recurrent policies"), ("action_masks", "masked actions")):
            if hasattr(model.rollout_buffer, attribute):
                raise ValueError(f"{name} does not know {kind}, which {type(model).__name__} has.")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps - self._measured_at >= self.every and len(self._steps):
            self._measured_at = self.num_timesteps
            self._measure()

    def _measure(self) -> None:
        raise NotImplementedError

    @property
    def _policy(self) -> ActorCriticPolicy:
        policy = self.model.policy
        assert isinstance(policy, ActorCriticPolicy)
        return policy

    @property
    def _buffer(self) -> RolloutBuffer:
        assert isinstance(self.model, OnPolicyAlgorithm)
        return self.model.rollout_buffer

    @property
    def _steps(self) -> np.ndarray:
        """Numbers of the steps that are trained on, environment after environment."""
        buffer = self._buffer
        trained_on = getattr(buffer, "trained_on", None)
        return np.arange(buffer.pos * buffer.n_envs) if trained_on is None else np.flatnonzero(trained_on.T)

    def _stored(self, name: str, steps: np.ndarray) -> Any:
        """What the rollout holds of these steps, as tensors on the agent's device."""
        stored = getattr(self._buffer, name)
        env, time = np.divmod(steps, self._buffer.pos)
        if isinstance(stored, dict):
            return obs_as_tensor({key: array[time, env] for key, array in stored.items()}, self.model.device)
        return obs_as_tensor(stored[time, env], self.model.device)

    @contextmanager
    def _acting(self) -> Iterator[ActorCriticPolicy]:
        """The policy as it acts: dropout would draw numbers, and batch normalisation learn, and change the training."""
        policy = self._policy
        training = policy.training
        policy.set_training_mode(False)
        try:
            with unchecked_distributions():
                yield policy
        finally:
            policy.set_training_mode(training)

    @property
    def _tensorboards(self) -> list[TensorBoardOutputFormat]:
        """To write to at once: SB3 writes its log before an update, and not again after the last one."""
        if self.locals.get("log_interval", 1) is None or self.logger.level == DISABLED:
            return []
        return [output for output in self.logger.output_formats if isinstance(output, TensorBoardOutputFormat)]

    def _write(self, values: dict[str, Any]) -> None:
        for output in self._tensorboards:
            output.write(values, dict.fromkeys(values, ()), self.num_timesteps)

    def _distribution(self, observations: Any) -> Distribution:
        with th.no_grad(), self._acting() as policy:
            # SB3's policies give the same object each time, with another distribution in it.
            return copy.copy(policy.get_distribution(observations))


class GradientDiagnostics(_Diagnostic):
    """Logs how large the policy's gradient is, how noisy, and whether it keeps its direction.

    The gradient is ĝ = 1/n Σ_i Â_i ∇ log π(a_i|s_i) over the n steps of a rollout, before the first step of the
    optimiser, by all parameters that π depends on, with Â normalised where the algorithm does so. The rollout is cut
    into blocks of successive steps, whose gradients are taken as independent:

    | key                 | what                                                                          |
    |---------------------|-------------------------------------------------------------------------------|
    | `gradient/norm`     | the norm of ĝ                                                                 |
    | `gradient/variance` | E ‖ĝ - E ĝ‖², summed over parameters, estimated from how the blocks differ     |
    | `gradient/snr`      | ‖E ĝ‖² / E ‖ĝ - E ĝ‖², without what noise adds to ‖ĝ‖²; 0 if nothing is left   |
    | `gradient/cosine`   | cosine of the angle to the gradient that was measured before                  |

    A rollout of a single step cannot be cut: `n_blocks` of them, one after the other, count as one of `n_blocks` steps.

    Args:
        every: Measure a rollout after every so many environment steps; 1 measures each.
        n_blocks: Into how many blocks a rollout is cut.
        verbose: As in SB3.

    Raises:
        ValueError: An argument is out of range, or (when training starts) the algorithm is not on-policy.
    """

    def __init__(self, every: int = 50_000, *, n_blocks: int = 8, verbose: int = 0) -> None:
        super().__init__(every, verbose)
        check_number("n_blocks", n_blocks, at_least=2, integer=True)
        self.n_blocks = n_blocks
        self._last: th.Tensor | None = None
        self._single: list[th.Tensor] = []

    def _restart(self) -> None:
        super()._restart()
        self._last = None
        self._single = []

    def _measure(self) -> None:
        gradients, shares = self._blocks()
        if len(gradients) == 1:
            self._single.append(gradients[0])
            if len(self._single) < self.n_blocks:
                self._measured_at = -np.inf  # what is missing comes with the next
                return
            gradients, shares = th.stack(self._single), th.full((self.n_blocks,), 1 / self.n_blocks)
        self._single = []
        mean = shares @ gradients
        squared = float(mean @ mean)
        spread = float(shares**2 @ ((gradients - mean) ** 2).sum(dim=1))
        variance = spread * len(shares) / (len(shares) - 1)
        self.logger.record("gradient/norm", squared**0.5)
        self.logger.record("gradient/variance", variance)
        if variance > 0:
            self.logger.record("gradient/snr", max(squared - variance, 0.0) / variance)
        if self._last is not None and squared > 0:
            self.logger.record("gradient/cosine", float(th.cosine_similarity(mean, self._last, dim=0)))
        self._last = mean

    def _blocks(self) -> tuple[th.Tensor, th.Tensor]:
        """The gradient of each block of the rollout, and its share of the steps."""
        steps = self._steps
        blocks = np.array_split(steps, min(self.n_blocks, len(steps)))
        advantages = self._stored("advantages", steps)
        if getattr(self.model, "normalize_advantage", False) and len(steps) > 1:
            advantages = normalise(advantages)
        weights = th.tensor_split(advantages, len(blocks))
        shares = th.tensor([len(block) / len(steps) for block in blocks])
        with self._acting() as policy:
            gradients = [self._gradient(policy, *block) for block in zip(blocks, weights, strict=True)]
        return th.stack(gradients).cpu(), shares

    def _gradient(self, policy: ActorCriticPolicy, steps: np.ndarray, advantages: th.Tensor) -> th.Tensor:
        """1/n Σ_i Â_i ∇ log π(a_i|s_i) over the n given steps, flattened."""
        actions = self._stored("actions", steps).float()  # as an update gets them
        if isinstance(policy.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        log_prob = policy.get_distribution(self._stored("observations", steps)).log_prob(actions)
        parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        objective = (advantages * log_prob).mean()
        found = th.autograd.grad(objective, parameters, allow_unused=True)
        return th.cat([gradient.flatten() for gradient in found if gradient is not None])


class AdvantageDiagnostics(_Diagnostic):
    """Logs the advantages of a rollout before they are normalised, and how much of the returns the critic explains.

    | key                            | what                                                                       |
    |--------------------------------|----------------------------------------------------------------------------|
    | `advantage/mean`               | mean of the advantages                                                     |
    | `advantage/std`                | their standard deviation                                                   |
    | `advantage/min`                | the smallest                                                               |
    | `advantage/max`                | the largest                                                                |
    | `advantage/positive`           | share of actions that were better than expected, 0 to 1                    |
    | `advantage/distribution`       | histogram, for TensorBoard                                                 |
    | `advantage/explained_variance` | 1 - Var(R - V) / Var(R), at most 1; not without a critic, nor if all R are  |
    |                                | the same                                                                   |

    Args:
        every: Measure a rollout after every so many environment steps; 1 measures each.
        verbose: As in SB3.

    Raises:
        ValueError: An argument is out of range, or (when training starts) the algorithm is not on-policy.
    """

    def __init__(self, every: int = 50_000, verbose: int = 0) -> None:
        super().__init__(every, verbose)

    def _measure(self) -> None:
        advantages = self._stored("advantages", self._steps).double().cpu()
        for name, value in (
            ("mean", advantages.mean()),
            ("std", advantages.std(correction=0)),
            ("min", advantages.min()),
            ("max", advantages.max()),
            ("positive", (advantages > 0).double().mean()),
        ):
            self.logger.record(f"advantage/{name}", float(value))
        if bool(th.isfinite(advantages).all()):
            self.logger.record("advantage/distribution", advantages, exclude=_TENSORBOARD_ONLY)
        if getattr(self.model, "has_critic", True):
            values, returns = (self._stored(name, self._steps).cpu().numpy() for name in ("values", "returns"))
            explained = explained_variance(values, returns)
            if np.isfinite(explained):
                self.logger.record("advantage/explained_variance", float(explained))


class PolicyDiagnostics(_Diagnostic):
    """Logs how random the policy is, and how far an update moved it; warns when a Gaussian collapses.

    | key                    | what                                                                              |
    |------------------------|-----------------------------------------------------------------------------------|
    | `policy/entropy`       | mean entropy over the rollout's states, in nats                                   |
    | `policy/entropy_share` | its share of the greatest possible, 0 to 1; not for Box actions, where none is     |
    | `policy/std_{i}`       | σ of the i-th action dimension of a Gaussian, mean over these states              |
    | `policy/kl`            | KL(π_old ‖ π) over these states after the update, exactly                         |
    | `policy/kl_epoch_{i}`  | the same after the i-th epoch, if there is another: the last is `policy/kl`       |

    TensorBoard gets the last two at once, at the step of the update; other logs with their next entry, if there is one.

    Args:
        every: Measure a rollout after every so many environment steps; 1 measures each.
        n_states: Measure on so many of the rollout's states, evenly spread.
        collapsed: Warn when σ of an action dimension falls below this part of half of that dimension's range (of 1,
            where it is not bounded, or the actions are squashed).
        verbose: As in SB3.

    Raises:
        ValueError: An argument is out of range, or (when training starts) the algorithm is not on-policy.

    Warns:
        UserWarning: σ has collapsed; once for each dimension and training.
    """

    def __init__(self, every: int = 50_000, *, n_states: int = 512, collapsed: float = 0.01, verbose: int = 0) -> None:
        super().__init__(every, verbose)
        check_number("n_states", n_states, at_least=1, integer=True)
        check_number("collapsed", collapsed, at_least=0)
        self.n_states = n_states
        self.collapsed = collapsed
        self._before: tuple[Any, Distribution] | None = None
        self._epoch_kls: list[float] = []
        self._warned: set[int] = set()

    def _on_training_start(self) -> None:
        super()._on_training_start()
        # An update that was interrupted has left them.
        self._before = None
        _unwatch(self.model)

    def _restart(self) -> None:
        super()._restart()
        self._warned = set()

    def _on_rollout_start(self) -> None:
        self._finish_update()

    def _on_training_end(self) -> None:
        self._finish_update()

    def _measure(self) -> None:
        steps = self._steps
        steps = steps[np.linspace(0, len(steps) - 1, min(self.n_states, len(steps)), dtype=int)]
        observations = self._stored("observations", steps)
        old = self._distribution(observations)
        self._before, self._epoch_kls = (observations, old), []
        entropy = old.entropy()
        if entropy is None:  # squashed: -log π of the actions taken estimates it
            entropy = -self._stored("log_probs", steps)
        self.logger.record("policy/entropy", float(entropy.mean()))
        greatest = _greatest_entropy(self._policy.action_space)
        if greatest > 0:
            self.logger.record("policy/entropy_share", float(entropy.mean()) / greatest)
        normal = getattr(old, "distribution", None)
        if isinstance(normal, th.distributions.Normal):
            self._record_deviations(normal.stddev.reshape(len(steps), -1).mean(dim=0).tolist())
        n_epochs = getattr(self.model, "n_epochs", 1)
        if n_epochs > 1:
            self._watch_epochs(n_epochs)

    def _record_deviations(self, deviations: list[float]) -> None:
        space, squashed = self._policy.action_space, self._policy.squash_output
        assert isinstance(space, spaces.Box)
        halves = (space.high.astype(float).flatten() - space.low.astype(float).flatten()) / 2
        for i, (deviation, half) in enumerate(zip(deviations, halves, strict=True)):
            self.logger.record(f"policy/std_{i}", deviation, exclude="stdout")
            limit = self.collapsed * (half if np.isfinite(half) and not squashed else 1.0)
            if deviation < limit and i not in self._warned:
                self._warned.add(i)
                warnings.warn(
                    f"The standard deviation of action dimension {i} has fallen to {deviation:.2g} after "
                    f"{self.num_timesteps} steps (warned of below {limit:.2g}): the policy hardly explores there any "
                    "more. If the return has stopped to rise, try a larger `ent_coef`, a smaller `learning_rate` or a "
                    "larger `log_std_init`.",
                    stacklevel=2,
                )

    def _kl(self) -> float:
        assert self._before is not None
        observations, old = self._before
        divergence = kl_divergence(old, self._distribution(observations))
        return float(divergence.reshape(divergence.shape[0], -1).sum(dim=1).mean())

    def _watch_epochs(self, n_epochs: int) -> None:
        """Measure whenever the update begins another epoch: SB3's callbacks are silent in an update."""
        model, buffer, read = self.model, self._buffer, self._buffer.get
        n_begun = 0

        def begin() -> None:
            nonlocal n_begun
            if n_begun > 0 and self._before is not None:
                self._epoch_kls.append(self._kl())
            n_begun += 1
            if n_begun == n_epochs:
                _unwatch(model)

        def get(batch_size: int | None = None) -> Any:
            begin()
            return read(batch_size)

        if isinstance(model, PolicyGradient):
            model.on_epoch = begin
        else:
            buffer.get = get  # type: ignore[method-assign]

    def _finish_update(self) -> None:
        _unwatch(self.model)  # where it ended before its last epoch
        if self._before is not None:
            found = {"policy/kl": self._kl()}
            found |= {f"policy/kl_epoch_{i}": kl for i, kl in enumerate(self._epoch_kls, start=1)}
            self._before = None
            self._write(found)
            for key, kl in found.items():
                self.logger.record(
                    key, kl, exclude=("tensorboard",) if key == "policy/kl" else ("tensorboard", "stdout")
                )


def _unwatch(model: Any) -> None:
    """Take back what `_watch_epochs` has put in."""
    vars(model.rollout_buffer).pop("get", None)
    if isinstance(model, PolicyGradient):
        model.on_epoch = None


class PolicyPicture(_Diagnostic):
    """Draws the policy for TensorBoard, where the actions are few, before a rollout and at the end: `policy/picture`.

    With three actions and at most 12 states, each state's path on the simplex, whose corners are the actions. Else a
    picture of the probabilities, states by actions.

    Args:
        states: Observations to show, as the policy gets them, of shape `(n, ...)`; None for all of a Discrete
            observation space.
        every: Draw after every so many environment steps.
        state_names: Of the states.
        action_names: Of the actions.
        draw: Draw, if there is a TensorBoard log; else only keep the probabilities.
        verbose: As in SB3.

    Attributes:
        timesteps: When the policy was looked at.
        probabilities: What was found then, each of shape `(n_states, n_actions)`.

    Raises:
        ValueError: An argument is out of range, or (when training starts) the actions or states cannot be drawn.
    """

    def __init__(
        self,
        states: ArrayLike | None = None,
        every: int = 50_000,
        *,
        state_names: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
        draw: bool = True,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, verbose)
        self.states = states
        self.state_names = state_names
        self.action_names = action_names
        self.draw = draw
        self.timesteps: list[int] = []
        self.probabilities: list[np.ndarray] = []

    def _check_model(self) -> None:
        super()._check_model()
        observations, actions = self.model.observation_space, self.model.action_space
        if isinstance(observations, spaces.Dict):
            raise ValueError("PolicyPicture does not know Dict observations.")
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(f"PolicyPicture draws the probabilities of Discrete actions, not of {actions}.")
        if self.states is not None:
            shown = np.asarray(self.states)
            if shown.ndim == 0 or shown.shape[1:] != observations.shape:
                raise ValueError(
                    f"`states` must be observations of shape (n, {', '.join(map(str, observations.shape or ()))}), but "
                    f"has the shape {shown.shape}."
                )
            self._shown = shown
        elif isinstance(observations, spaces.Discrete):
            self._shown = np.arange(observations.start, observations.start + observations.n)
        else:
            raise ValueError(f"`states` must be given where the observations are not Discrete, but {observations}.")
        for name, given, n in (
            ("state_names", self.state_names, len(self._shown)),
            ("action_names", self.action_names, int(actions.n)),
        ):
            if given is not None and len(given) != n:
                raise ValueError(f"`{name}` must be {n} names, but is {given!r}.")

    def _restart(self) -> None:
        super()._restart()
        self.timesteps, self.probabilities = [], []

    def _on_rollout_start(self) -> None:
        if self.num_timesteps - self._measured_at >= self.every:
            self._measure()

    def _on_rollout_end(self) -> None:
        """Nothing: the policy has not changed since the rollout began."""

    def _on_training_end(self) -> None:
        if self.num_timesteps > self._measured_at:
            self._measure()

    def _measure(self) -> None:
        self._measured_at = self.num_timesteps
        observations, _ = self._policy.obs_to_tensor(self._shown)
        found = self._distribution(observations).distribution
        assert isinstance(found, th.distributions.Categorical)
        self.timesteps.append(self.num_timesteps)
        self.probabilities.append(found.probs.cpu().numpy())
        if self.draw and self._tensorboards:
            self._write({"policy/picture": Figure(self.figure(), close=True)})

    def figure(self) -> Any:
        """The picture as a matplotlib figure; after training, of the policy that was learnt."""
        from matplotlib.figure import Figure as Canvas

        if not self.probabilities:
            raise ValueError("There is no policy to draw yet: hand this callback to `learn` first.")
        paths = np.stack(self.probabilities)
        _, n_states, n_actions = paths.shape
        actions = self.action_names or [f"action {i}" for i in range(n_actions)]
        states = self.state_names or [f"state {i}" for i in range(n_states)]
        canvas = Canvas(figsize=(5, 4.5), layout="constrained")
        axes = canvas.add_subplot(title=f"policy after {self.timesteps[-1]:,} steps")
        if n_actions == 3 and n_states <= _MAX_STATES:
            _draw_simplex(axes, paths, states, actions)
        else:
            picture = axes.imshow(paths[-1], vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            axes.set_xticks(range(n_actions), actions)
            named = range(0, n_states, -(-n_states // _MAX_NAMES))
            axes.set_yticks(named, [states[i] for i in named])
            canvas.colorbar(picture, label="probability")
        return canvas


def _draw_simplex(axes: Any, paths: np.ndarray, states: Sequence[str], actions: Sequence[str]) -> None:
    corners = np.array([[0, 0], [1, 0], [0.5, 0.75**0.5]])
    axes.plot(*corners[[0, 1, 2, 0]].T, color="0.3", linewidth=1)
    for corner, name, side in zip(corners, actions, ("top", "top", "bottom"), strict=True):
        axes.text(*corner, name, ha="center", va=side)
    for state, name in enumerate(states):
        points = paths[:, state] @ corners
        axes.plot(*points.T, linewidth=1, marker="o", markevery=[-1], label=name)
    axes.set(aspect="equal", xlim=(-0.1, 1.1), ylim=(-0.1, 1.0))
    axes.axis("off")
    if len(states) > 1:
        axes.legend(frameon=False, fontsize="small")


def _greatest_entropy(space: spaces.Space[Any]) -> float:
    """Of the uniform distribution over a finite space, in nats; 0 where there is none."""
    if isinstance(space, spaces.Discrete):
        return float(np.log(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return float(np.log(space.nvec).sum())
    if isinstance(space, spaces.MultiBinary):
        return float(np.log(2) * np.prod(space.shape))
    return 0.0
