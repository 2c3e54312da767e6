"""The vocabulary that agents, engines, buffers and diagnostics share.

| who      | says to      | with                                          |
|----------|--------------|-----------------------------------------------|
| buffer   | agent        | `Rollout`: how good was each action?          |
| agent    | engine       | `Loss` and `Batches`: one update              |
| engine   | agent        | `Summary`: how the update went                |
| engine   | objective    | `Minibatch`: the samples to differentiate     |
| loop     | actor        | observations, then the completed `Step`       |

Nothing here knows an agent, an engine or a buffer class of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents.estimators import Bools, Floats, td_target


@dataclass(frozen=True)
class Rollout:
    """Input of an estimator: arrays of shape `(T, N)`, as `pg_agents.estimators` defines them.

    Attributes:
        rewards: The environment's rewards, nothing added.
        values: V(s_t).
        next_values: V(s_{t+1}); at a truncated step, V of the episode's last state.
        terminated: The task ended after this step.
        truncated: A time limit cut the episode after this step.
        bootstrapped_rewards: The rewards with γ V(s_{t+1}) added where a time limit cut, rounded as SB3 rounds it.
        trained_on: The step is trained on. False for the reset steps of a vector environment, and for the steps of an
            environment that has contributed its whole episodes.
    """

    rewards: Floats
    values: Floats
    next_values: Floats
    terminated: Bools
    truncated: Bools
    bootstrapped_rewards: Floats
    trained_on: Bools

    @property
    def ends(self) -> Bools:
        """The episode ended after this step, for either reason."""
        return self.terminated | self.truncated

    def td_errors(self, gamma: float) -> Floats:
        """`estimators.td_error` of the rollout, equal to SB3's to the last bit."""
        # r + γV is rounded once when SB3 stores it in float32; adding it again here could differ in the last bit.
        targets = td_target(self.rewards, self.next_values, self.terminated, gamma)
        return np.where(self.truncated, self.bootstrapped_rewards, targets) - self.values


@dataclass(slots=True)
class Step:
    """One step of `N` environments, as the loop hands it to the buffer when the environments have answered.

    Attributes:
        rewards: `(N,)`, with γ V(s_{t+1}) added where a time limit cut an episode.
        env_rewards: `(N,)`, nothing added.
        episode_starts: `(N,)`, the step is the first of its episode.
        resets: `(N,)`, the step was a reset and no transition; None if it was a transition everywhere.
        ends: Terminated, truncated, and V of the last state where truncated, each `(N,)`; None if no episode ended.
    """

    rewards: np.ndarray
    env_rewards: np.ndarray
    episode_starts: np.ndarray
    resets: Bools | None = None
    ends: tuple[Bools, Bools, Floats] | None = None


@dataclass
class Minibatch:
    """Input of an objective: tensors of shape `(batch,)`; those of the current policy carry gradients.

    Attributes:
        log_prob: log π(a|s) under the current policy.
        old_log_prob: log π(a|s) under the policy that collected the rollout.
        advantages: The advantage of each action, normalised if the loss asks for it.
        values: V(s) of the current critic.
        old_values: V(s) of the critic that collected the rollout.
        returns: The critic's regression target.
        entropy: Entropy of π(.|s), or None where it has no closed form.
        policy: The policy.
        stored: Gives observations and actions as they are stored, tensors with one row per sample.
    """

    log_prob: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    values: th.Tensor
    old_values: th.Tensor
    returns: th.Tensor
    entropy: th.Tensor | None
    policy: ActorCriticPolicy | None = field(default=None, repr=False)
    stored: Callable[[], tuple[Any, th.Tensor]] | None = field(default=None, repr=False)

    @cached_property
    def log_ratio(self) -> th.Tensor:
        """Log of the importance weight."""
        return self.log_prob - self.old_log_prob

    @cached_property
    def ratio(self) -> th.Tensor:
        """Importance weight π(a|s) / π_old(a|s)."""
        return th.exp(self.log_ratio)

    @property
    def observations(self) -> Any:
        """s, as the policy takes it."""
        return self._samples[0]

    @property
    def actions(self) -> th.Tensor:
        """a, as the policy drew it (not clipped)."""
        return self._samples[1]

    @cached_property
    def distribution(self) -> Distribution:
        """π(.|s) of the current policy, by a further forward pass."""
        if self.policy is None:
            raise ValueError("This minibatch has no policy: it holds random samples, not those of a rollout.")
        return self.policy.get_distribution(self.observations)

    @cached_property
    def _samples(self) -> tuple[Any, th.Tensor]:
        if self.stored is None:
            raise ValueError("This minibatch has no observations or actions: it holds random samples.")
        return self.stored()


@dataclass(frozen=True)
class Objective:
    """The quantity that an algorithm maximises, one number per sample, as a value.

    Attributes:
        value: `value(batch, *coefficients)`, a tensor of shape `(batch,)`.
        weight: ψ = ∂ value / ∂ log π(a|s) in closed form, `weight(log_prob, ratio, advantage, *coefficients)` of one
            sample's numbers: a function that Numba compiles for float32. None leaves the derivative to autograd.
        coefficients: Their values in this update, at most 3 for a compiled engine.
        metrics: Further quantities of each sample, `metric(batch, *coefficients)` of shape `(batch,)`, whose mean over
            the minibatches is logged as `train/<name>`.
        settings: Numbers in force in this update, logged as `train/<name>`.
    """

    value: Callable[..., th.Tensor]
    weight: Callable[..., float] | None = None
    coefficients: tuple[float, ...] = ()
    metrics: Mapping[str, Callable[..., th.Tensor]] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.coefficients, tuple):
            raise TypeError(f"`coefficients` of an Objective must be a tuple, but is {self.coefficients!r}.")

    def __call__(self, batch: Minibatch) -> th.Tensor:
        """The value of each sample."""
        return self.value(batch, *self.coefficients)


@dataclass(frozen=True)
class Penalty:
    """β KL(π || π_ref), which the loss adds: the price of moving away from a reference policy.

    Attributes:
        reference: π_ref, with the spaces of the policy that is trained.
        kl_coef: β.
        estimator: A name in `objectives.KL_ESTIMATORS`, or `"exact"` for the closed form.
    """

    reference: ActorCriticPolicy
    kl_coef: float
    estimator: str = "exact"


@dataclass(frozen=True)
class Loss:
    """One update's loss, fixed at its beginning: schedules are numbers here. `objectives.loss` is its formula.

    Attributes:
        objective: Maximised.
        ent_coef: Coefficient c of the entropy bonus.
        vf_coef: Coefficient v of the value loss.
        value_clip: The largest change of V from its value in the rollout; None for no limit.
        trains_critic: The value loss is part of the loss.
        scale: Factor of the whole loss: 1, or the mean number of steps of an episode.
        normalize_advantage: Each minibatch's advantages are shifted and scaled to mean 0 and standard deviation 1.
        max_grad_norm: The gradient is scaled down to this norm; None leaves it as it is.
        tracks_kl: The policy moves while it is trained on one rollout, so its KL divergence from the old one counts.
        max_kl: The update stops when the estimated KL divergence of a minibatch exceeds this; None for no limit.
        value_prediction: Replaces the prediction in the value loss; None for V, clipped by `value_clip`.
        metrics: Further quantities of each sample to log, as `Objective.metrics` are.
        penalty: The price of moving away from a reference policy; None for none.
    """

    objective: Objective
    ent_coef: float = 0.0
    vf_coef: float = 0.0
    value_clip: float | None = None
    trains_critic: bool = False
    scale: float = 1.0
    normalize_advantage: bool = False
    max_grad_norm: float | None = None
    tracks_kl: bool = False
    max_kl: float | None = None
    value_prediction: Callable[[Minibatch], th.Tensor] | None = None
    metrics: Callable[[Minibatch], dict[str, th.Tensor]] = lambda batch: {}
    penalty: Penalty | None = None


@dataclass(frozen=True)
class NaturalStep:
    """The form of a step of the policy along the natural gradient, θ += α F⁻¹ g.

    g is the gradient of E[objective], and F the Fisher matrix of the policy, E_s[E_a[∇ log π ∇ log πᵀ]], both over the
    rollout. Conjugate gradients find s with (F + `cg_damping` I) s = g.

    Attributes:
        step_size: α; None for the largest step whose KL divergence is `target_kl` to second order,
            α = √(2 δ / sᵀ (F + `cg_damping` I) s).
        target_kl: δ; also the limit of the line search.
        cg_max_steps: Iterations of the conjugate gradients.
        cg_damping: Added to the diagonal of F.
        line_search_max_iter: Steps that are tried until one improves the objective with a KL divergence below
            `target_kl`; if none does, the policy stays as it is. 0 takes the first step without a trial.
        line_search_shrinking_factor: By which α is multiplied after each trial that fails.
        sub_sampling_factor: Every so many-th sample of the rollout is used; all train the critic.
        mean_over_dimensions: The KL divergence of Gaussian and Bernoulli actions is the mean over the action's
            dimensions, as in sb3-contrib, and not the sum. F is its Hessian, so it is smaller by the same factor.
            (That of MultiDiscrete actions is the sum in either case.)
    """

    step_size: float | None = None
    target_kl: float = 0.01
    cg_max_steps: int = 15
    cg_damping: float = 0.1
    line_search_max_iter: int = 10
    line_search_shrinking_factor: float = 0.8
    sub_sampling_factor: int = 1
    mean_over_dimensions: bool = False


@dataclass(frozen=True)
class Batches:
    """The epochs and the minibatches of an update.

    Attributes:
        n_epochs: Passes over the rollout.
        batch_size: Samples of a minibatch; None for all at once.
    """

    n_epochs: int = 1
    batch_size: int | None = None


@dataclass(frozen=True)
class Summary:
    """The outcome of an update.

    Attributes:
        n_epochs: Epochs begun.
        metrics: Gives the metrics to log, by their key without `train/`. It may be called later, or not at all.
        stopped_by: KL divergence that stopped the update in its last epoch, if one did.
    """

    n_epochs: int
    metrics: Callable[[], dict[str, Any]]
    stopped_by: float | None = None


class NotServedError(ValueError):
    """The reason for which an engine does not serve a policy, a buffer or a loss."""


class WrongWeightError(NotServedError):
    """An objective's `weight` is not the derivative of its `value`; the message shows a sample."""


class NotFiniteError(FloatingPointError):
    """An engine met a number that is not finite, and left the parameters as they were before that step.

    Attributes:
        n_epochs: Epochs of the update that were completed.
        actions: `(N, ...)`, of an actor: those that it has drawn, some of which may be the numbers in question.
    """

    def __init__(self, message: str, n_epochs: int = 0, actions: np.ndarray | None = None) -> None:
        super().__init__(message)
        self.n_epochs, self.actions = n_epochs, actions


class EndlessEpisodeError(ValueError):
    """An episode of an evaluation does not end.

    Args:
        index: The environment's number.
        limit: Number of steps after which the evaluation was given up.
        unnoticed: Ends of the environment's were no ends of its `Monitor`.
    """

    def __init__(self, index: int, limit: float, unnoticed: bool = False) -> None:
        remedy = (
            "Its ends are hidden from `Monitor`, which must be outside the wrapper that ends an episode: "
            "Monitor(TimeLimit(env, ...))"
            if unnoticed
            else "Give the environment a time limit (gymnasium.wrappers.TimeLimit)"
        )
        super().__init__(
            f"The episode of environment {index} has not ended after {limit:,} steps of the evaluation. {remedy}, or "
            "raise `max_episode_steps`, the longest episode that an evaluation allows."
        )


class Copies(Protocol):
    """Copies of an environment that compiled code can step, each with a generator of its own.

    A Gymnasium vector environment offers them as its attribute `copies`, and must take its own steps with the same
    function. Its class says so by `offers_copies = True`, so that an id with this `vector_entry_point` means the
    copies; a subclass with a `step` or `reset` of its own has to say so again. At `address` is a C function of ten
    int64, all but the last three of them addresses,

        advance(table, actions, rewards, terminated, truncated, observations, last_observations, restarts, first, after)

    which takes one step of the copies `first` to `after` - 1. It reads `actions`, int64 for discrete ones and float32
    for a Box. It writes float64 `rewards`, bool `terminated` and `truncated`, float32 `observations`, and, where
    `restarts` is 1 and an episode ends, the `last_observations` of that episode and the first one of the next as its
    observation. It returns the number of episodes that ended. The next episode of a copy for which seeds are planned
    starts as if the copy had been reset with the next of them.

    Copies may also have the methods `info` and `last_info`, which give the entries of the info dictionary as arrays
    `(copies,)`, now and at the end of the episodes that ended in the last step. `is_success` is read from there.

    Attributes:
        address: Address of the function; 0 if there is no compiler.
        table: One row, whose address is the function's first argument.
        held: `(copies,)` bool: copies that stay as they are, with reward 0.
        observed: `(copies, n)` float32: the last observation of each copy; the function is given this array for its
            `observations`, as well as the next two.
        terminated: `(copies,)` bool, of the last step.
        truncated: `(copies,)` bool, of the last step.
    """

    observed: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    address: int
    table: np.ndarray | None
    held: np.ndarray

    def plan(self, seeds: np.ndarray | None) -> None:
        """Start the next episodes of each copy from given seeds, in every kind of reset; for an `address`.

        Args:
            seeds: `(copies, k)`, for the next k episodes; None to forget them.
        """
        ...


class Actor(Protocol):
    """Acts for one rollout, and stores each step in the rollout buffer.

    Attributes:
        checks: `act` raises `NotFiniteError` for observations that are not finite; the loop need not check them.
    """

    checks: bool

    def act(self, observations: Any, episode_starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Choose an action for each environment.

        Args:
            observations: One of each environment, as a VecEnv returns them.
            episode_starts: `(N,)`, the observation is the first of its episode.

        Returns:
            Actions as drawn, and the same as the environment takes them.

        Raises:
            NotFiniteError: The policy's outputs are not finite, actions among them.
        """
        ...

    def outputs(self) -> tuple[Any, th.Tensor, th.Tensor]:
        """The observations of the last `act` as tensors, V, and log π of the actions."""
        ...

    def store(self, step: Step) -> None:
        """Put the step that began with the last `act` into the rollout buffer."""
        ...

    def is_current(self) -> bool:
        """The actor still reads the policy's parameters; False after they were given other memory."""
        ...


class Engine(Protocol):
    """Acts and learns with a policy. Parameters and the optimiser's state are the policy's own at any moment.

    An engine that can take the environments' steps too, in compiled code, has a method

        roll(actor, env, running, *, gamma, bootstraps) -> CompiledSteps

    for its actor, a `pg_agents.envs.compiled.CompiledEnv`, the returns of the running episodes `(N,)` that it keeps up
    to date, the discount of the value that completes a reward where a time limit cut an episode, and whether it does.
    It also has a method that plays whole episodes,

        episodes(policy, env, observations, n_episodes, generator, *, deterministic, max_episode_steps)
            -> list of (return, length)

    `n_episodes` `(N,)` of each environment, from the first `observations` on, listed in the order of their ends. It
    raises an `EndlessEpisodeError` for an episode of more than `max_episode_steps`. One that can also train in compiled
    code, with parameters that others move at the same time, has a method

        loop(env, buffer, loss, *, gamma, gae_lambda) -> CompiledLoop
    """

    name: str

    def fits(self, policy: ActorCriticPolicy, loss: Loss) -> bool:
        """Whether this engine still serves the policy and the loss, which may have been replaced."""
        ...

    def actor(
        self,
        policy: ActorCriticPolicy,
        buffer: RolloutBuffer,
        generator: Callable[[], np.random.Generator],
        to_environment: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Actor:
        """An actor for the next rollout.

        Args:
            policy: The policy.
            buffer: The rollout buffer that the actor fills; empty.
            generator: Gives the random generator of an engine that does not draw from torch's.
            to_environment: Turns drawn actions into the environment's; None for `policies.environment_actions`.
        """
        ...

    def values(self, policy: ActorCriticPolicy, observations: Any) -> th.Tensor:
        """V of a batch of observations, of shape `(batch,)`."""
        ...

    def final_values(self, policy: ActorCriticPolicy, observations: list[Any]) -> th.Tensor:
        """V of single observations, each the last of an episode, of shape `(n,)`."""
        ...

    def update(
        self,
        policy: ActorCriticPolicy,
        buffer: RolloutBuffer,
        loss: Loss,
        batches: Batches,
        on_epoch: Callable[[], None] | None = None,
    ) -> Summary:
        """Train the policy on a filled buffer.

        Args:
            policy: The policy, with its optimiser.
            buffer: The rollout, advantages and returns included.
            loss: Minimised.
            batches: Epochs and size of the minibatches.
            on_epoch: Called before each epoch.

        Raises:
            NotFiniteError: A parameter is not finite, before anything has moved, or the loss or its gradient is not;
                the parameters are those before that step.
        """
        ...


@runtime_checkable
class MovesElsewhere(Protocol):
    """An engine whose steps can move parameters that are not those at which it computes the gradient."""

    def update_elsewhere(
        self,
        policy: ActorCriticPolicy,
        buffer: RolloutBuffer,
        loss: Loss,
        batches: Batches,
        parameters: Sequence[th.Tensor],
    ) -> Summary:
        """As `Engine.update`, with the gradient at the policy, which stays as it is.

        Args:
            policy: The policy, with its optimiser.
            buffer: The rollout, advantages and returns included.
            loss: Minimised.
            batches: Epochs and size of the minibatches.
            parameters: Moved by the optimiser's steps, in the order of `policy.parameters()`.

        Raises:
            NotFiniteError: The loss or its gradient is not finite; that step was not taken.
        """
        ...


@runtime_checkable
class FollowsNaturalGradient(Protocol):
    """An engine that can also move a policy along the natural gradient."""

    def natural_update(
        self,
        policy: ActorCriticPolicy,
        buffer: RolloutBuffer,
        loss: Loss,
        step: NaturalStep,
        critic: Batches,
    ) -> Summary:
        """One natural step of the policy, then regression of the critic on the returns, both from a filled buffer.

        The optimiser moves the parameters that only the critic has, and no others.

        Args:
            policy: The policy, with its optimiser.
            buffer: The rollout, advantages and returns included.
            loss: Its objective, less the penalty, is maximised; `normalize_advantage` holds for the whole rollout.
            step: The policy's step.
            critic: Epochs and size of the critic's minibatches.

        Returns:
            With the metrics `policy_objective`, `kl_divergence_loss`, `is_line_search_success`, `value_loss`, and
            `std` where SB3 logs it.

        Raises:
            NotFiniteError: The objective's gradient, or the critic's, is not finite; the parameters are those before
                that step.
        """
        ...


class CompiledSteps(Protocol):
    """Steps of policy and environments in compiled code, which write the rollout buffer.

    Attributes:
        is_finite: All numbers of the last `run` were finite.
        n_transitions: Steps that environments took in the last `run`, over all of them.
        terminated: `(N,)` bool of the last step.
        truncated: `(N,)` bool of the last step; it can be both.
        episodes: Of each episode that ended in the last `run`: row, environment, return, return in the rewards that the
            environment's adapter rounds, length.
        observations: Those that follow the last step, as a `VecEnv` returns them.
        starts: `(N,)` bool: they are the first of an episode.
    """

    is_finite: bool
    n_transitions: int
    terminated: Bools
    truncated: Bools
    episodes: list[tuple[int, int, float, float, int]]
    observations: np.ndarray
    starts: Bools

    def run(self, observations: np.ndarray, starts: Bools, n_steps: int, stops_at_end: bool) -> int:
        """Take steps of every environment, as far as the buffer has room; how many were completed.

        Args:
            observations: `(N, ...)`: those to act on first.
            starts: `(N,)` bool: they are the first of an episode.
            n_steps: The largest number of steps.
            stops_at_end: Stop after a step in which an episode has ended.
        """
        ...

    def refusal(self, n_steps: int) -> str:
        """The number that was not finite in the last `run`, with its environment, in words.

        Neither the statistics of episodes nor those of `VecNormalize` have counted the step of an observation or a
        reward that was refused.

        Args:
            n_steps: Environment steps taken so far.
        """
        ...


class CompiledLoop(Protocol):
    """Rollouts and updates one after the other in compiled code, whose steps move shared parameters.

    Attributes:
        rewards: `(steps, N)` float32 of the last `run`, before the bootstrap.
        dones: `(steps, N)` bool: an episode ended.
        truncated: `(steps, N)` bool: a time limit ended it.
        is_finite: All numbers of the last `run` were finite.
        refused: The part of the update after those made in the last `run` that was not finite: "parameter", "rollout",
            "gradient", or None.
        n_transitions: Steps of single environments in the last rollout, those of a refused step included.
    """

    rewards: np.ndarray
    dones: np.ndarray
    truncated: np.ndarray
    is_finite: bool
    refused: str | None
    n_transitions: int

    def run(
        self,
        observations: np.ndarray,
        starts: Bools,
        running: np.ndarray,
        noise: np.random.Generator,
        coefficients: np.ndarray,
        parameters: Sequence[th.Tensor],
        counts: np.ndarray,
        worker: int,
    ) -> int:
        """Make updates, each from a rollout at the shared parameters; how many were made.

        Args:
            observations: `(N, ...)`: those to act on first.
            starts: `(N,)` bool: they are the first of an episode.
            running: `(N,)`: returns of the running episodes, kept up to date.
            noise: Random numbers for the actions. It moves on by those of the rollouts that were begun.
            coefficients: `(3, updates)` float64: learning rate, `ent_coef` and `vf_coef` of each update.
            parameters: The shared parameters, in the order of the policy's.
            counts: `(workers,)` int64: updates that each worker has applied.
            worker: The number of this one.
        """
        ...

    def refusal(self, n_steps: int) -> Exception:
        """The error that names the number that was not finite in the last `run`; no update was made with it.

        Args:
            n_steps: Environment steps taken before that `run`.
        """
        ...

    def stop(self) -> None:
        """End a `run` in another thread after its present update, and all later ones at once."""
        ...

    @property
    def staleness(self) -> tuple[int, int]:
        """Updates of others between pull and push in the last `run`: the sum over its updates, and the largest."""
        ...

    @property
    def episodes(self) -> list[tuple[int, int, float, float, int]]:
        """Of each episode that ended in the last `run`: as `CompiledSteps` has them."""
        ...

    @property
    def observations(self) -> np.ndarray:
        """Those that follow the last step."""
        ...

    @property
    def starts(self) -> Bools:
        """`(N,)` bool: they are the first of an episode."""
        ...


class Predictor(Protocol):
    """Answers for one policy as SB3's `policy.predict` does, with actions that equal torch's up to rounding."""

    def fits(self) -> bool:
        """Whether the policy is still the one that the predictor was made for, apart from the parameters' values."""
        ...

    def predict(self, observation: Any, deterministic: bool) -> np.ndarray | None:
        """The actions for an observation, or for a batch of them.

        Args:
            observation: As for SB3's `predict`.
            deterministic: The most probable actions, not sampled ones.

        Returns:
            Actions of the shapes and types that SB3 gives; None to leave the answer, or the error, to the policy.
        """
        ...


@runtime_checkable
class Predicts(Protocol):
    """An engine that also serves `predict`. Agents with any other engine ask the policy."""

    def predictor(self, policy: ActorCriticPolicy) -> Predictor:
        """A predictor of the policy, which reads the parameters as they are at each call.

        Raises:
            NotServedError: The policy has to answer itself.
        """
        ...


EngineFactory = Callable[[ActorCriticPolicy, RolloutBuffer, Loss], Engine]
"""Makes an engine, or raises `NotServedError`. Entry points of the group `pg_agents.engines` name such factories."""
