"""Bias, variance and signal-to-noise ratio of the gradient that the algorithms of this package compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch as th
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.env_util import make_vec_env

from pg_agents.agent import CommonArguments, PolicyGradient
from pg_agents.buffers import Rollout
from pg_agents.checks import check_number, constructor_arguments
from pg_agents.engines.autograd import Minibatch
from pg_agents.estimators import Floats as Estimates
from pg_agents.objectives import score_function
from pg_agents.theory.linear_quadratic import LinearQuadratic
from pg_agents.theory.mdp import TabularMDP
from pg_agents.theory.policies import LinearActorCritic, LinearPolicy, set_parameters

Floats = NDArray[np.float64]
AdvantageEstimator = Callable[[Rollout], Estimates]

CONFIDENCE = 0.95
_ROUNDING = 1e-8  # of variances: gradients are float32


class Estimate(NamedTuple):
    """A number with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class GradientStudy:
    """What many gradients of one policy say of the estimator that they come from.

    Attributes:
        gradients: One for each batch, of shape `(n_batches, d)`, flattened as `exact` is.
        exact: ∇J, of shape `(d,)`: θ by states and actions; or K by rows, then log σ.
        episodes: Episodes in a batch, in the mean.
    """

    gradients: Floats
    exact: Floats
    episodes: float

    @property
    def mean(self) -> Floats:
        """Mean over the batches, of shape `(d,)`."""
        mean: Floats = self.gradients.mean(axis=0)
        return mean

    @property
    def bias(self) -> Floats:
        """Mean minus ∇J, of shape `(d,)`."""
        return self.mean - self.exact

    @cached_property
    def relative_bias(self) -> Estimate:
        """Bias along the true gradient, as a part of it: E[g]·∇J / |∇J|² - 1, with Student's interval.

        0 moves J up as fast as ∇J does, -1 leaves it where it is.
        """
        return _mean(self.gradients @ self.exact / (self.exact @ self.exact) - 1)

    @cached_property
    def p_value(self) -> float:
        """How probable so large a bias, in any direction, would be if there were none (Hotelling's T² test)."""
        from scipy import stats

        n, covariance = len(self.gradients), np.cov(self.gradients, rowvar=False).reshape(len(self.exact), -1)
        # A softmax's gradients sum to 0 over the actions of a state: in such a direction they vary by rounding alone.
        rank = int(np.linalg.matrix_rank(covariance, rtol=_ROUNDING, hermitian=True))
        squared = n * self.bias @ np.linalg.pinv(covariance, rtol=_ROUNDING, hermitian=True) @ self.bias
        return float(stats.f.sf(squared * (n - rank) / (rank * (n - 1)), rank, n - rank))

    @cached_property
    def variance(self) -> Estimate:
        """Variance of a batch's gradient, summed over its components: E |g - E[g]|²."""
        n = len(self.gradients)
        return _mean(((self.gradients - self.mean) ** 2).sum(axis=1) * n / (n - 1))

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio |E[g]|² / E |g - E[g]|² of a batch, without what noise adds to |mean|²."""
        signal = float(self.mean @ self.mean) - self.variance.value / len(self.gradients)
        return max(signal, 0.0) / self.variance.value


def _mean(numbers: Floats) -> Estimate:
    from scipy import stats

    value, error = float(numbers.mean()), float(stats.sem(numbers))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(numbers) - 1)) * error
    return Estimate(value, value - half, value + half)


def gradient_study(
    algorithm: type[PolicyGradient] | AdvantageEstimator,
    problem: TabularMDP | LinearQuadratic,
    parameters: ArrayLike | tuple[ArrayLike, ArrayLike] | None = None,
    n_batches: int = 1000,
    *,
    critic: ArrayLike | None = None,
    n_envs: int = 32,
    warm_up: int = 10,
    seed: int = 0,
    **arguments: Any,
) -> GradientStudy:
    """Collect batches with a policy that stays where it is, and keep the gradient that the algorithm computes of each.

    Args:
        algorithm: An algorithm of this package or a plugin's; or a function of a `Rollout` that returns the weights of
            ∇ log π, of shape `(T, N)`, for whole episodes.
        problem: Where the exact gradient is known.
        parameters: Of the policy: θ for a `TabularMDP`, (K, log σ) for a `LinearQuadratic`; None for zeros.
        n_batches: How many gradients.
        critic: V(s) of the critic, of shape `(S,)`, where there is one: exact, wrong, or any baseline. None: zeros.
        n_envs: Copies of the problem's environment: a batch is an episode of each, or `n_steps` steps.
        warm_up: Batches before, in which baselines that remember settle, and rollouts that cut episodes get away from
            the first states.
        seed: Of all that is random.
        **arguments: Of the algorithm. Not given, the discount is the problem's, nothing is added to the gradient or
            cut off from it, and PPO makes one step of each rollout. With `value_learning_rate`, where the algorithm
            has that, the critic learns.

    Returns:
        Gradients and the exact one. Of rollouts that cut episodes, where gradients are means over steps, they are
        multiplied by the mean length of an episode, which makes the two comparable.

    Raises:
        TypeError: The algorithm does not know an argument.
        ValueError: There are too few batches, or shapes do not fit.
    """
    check_number("n_batches", n_batches, at_least=2, integer=True)
    check_number("n_envs", n_envs, at_least=1, integer=True)
    check_number("warm_up", warm_up, at_least=0, integer=True)
    if not (isinstance(algorithm, type) and issubclass(algorithm, PolicyGradient)):
        arguments = {"estimator": algorithm, **arguments}
        algorithm = _Estimated
    given, exact, mean_length = _setting(problem, parameters)
    if isinstance(problem, TabularMDP):
        env: Any = problem.vector_env(n_envs)
    else:
        env = make_vec_env(problem.env, n_envs, seed=seed)
    policy = LinearActorCritic if algorithm.has_critic else LinearPolicy
    defaults = {**_NEUTRAL, "gamma": problem.gamma}
    n_steps = arguments.get("n_steps", _DEFAULT_STEPS)
    defaults |= {"n_steps": n_steps, "batch_size": n_steps * n_envs}
    known = {name: value for name, value in defaults.items() if name in _arguments_of(algorithm)}
    agent = algorithm(
        policy,
        env,
        seed=seed,
        device="cpu",
        engine="autograd",
        policy_kwargs={"optimizer_class": th.optim.SGD},
        **{**known, **arguments},
    )
    if critic is not None:
        if not (algorithm.has_critic and isinstance(problem, TabularMDP)):
            raise ValueError(f"`critic` is for an algorithm with a critic on a TabularMDP, not {algorithm.__name__}.")
        values = np.array(critic, dtype=float)
        if values.shape != (problem.n_states,):
            raise ValueError(f"`critic` must have the shape ({problem.n_states},), but has {values.shape}.")
        given["value_net.weight"] = th.tensor(values[None])
    set_parameters(agent.policy, given)

    watched = [parameter for name, parameter in agent.policy.named_parameters() if name in _ACTOR]
    _, callback = agent._setup_learn(1)
    gradients, steps = [], 0
    assert agent.env is not None
    with agent._few_threads():
        for batch in range(warm_up + n_batches):
            agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
            counted = getattr(agent.rollout_buffer, "counted", None)
            agent.train()
            if batch >= warm_up:
                gradients.append(np.concatenate([_flat(parameter) for parameter in watched]))
                steps += agent.n_steps * n_envs if counted is None else int(counted.sum())
    env.close()
    # A loss is minimised, J is maximised.
    scale = -mean_length if agent.n_episodes is None else -1.0
    return GradientStudy(scale * np.array(gradients), exact, steps / n_batches / mean_length)


# Nothing but the weighted score in the gradient, and all of it.
_NEUTRAL: dict[str, Any] = {
    "learning_rate": 0.0,
    "value_learning_rate": 0.0,
    "ent_coef": 0.0,
    "max_grad_norm": None,
    "normalize_advantage": False,
    "n_epochs": 1,
    "n_episodes": 1,
}
_DEFAULT_STEPS = 16
_ACTOR = ("action_net.weight", "log_std")


class _Estimated(PolicyGradient):
    """A policy gradient over whole episodes with the weights that a function gives."""

    def __init__(
        self,
        policy: Any,
        env: Any,
        learning_rate: float = 0.0,
        n_episodes: int = 1,
        gamma: float = 1.0,
        *,
        estimator: AdvantageEstimator,
        max_grad_norm: float | None = None,
        **common: Any,
    ) -> None:
        self.estimator = estimator
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            gamma=gamma,
            n_episodes=n_episodes,
            max_grad_norm=max_grad_norm,
            **common,
        )

    def estimate(self, rollout: Rollout) -> tuple[Estimates, Estimates]:
        """What the function says, and no target for the critic, which does not learn."""
        return self.estimator(rollout), rollout.values

    def objective(self, batch: Minibatch) -> th.Tensor:
        """ψ log π(a|s)."""
        return score_function(batch.log_prob, batch.advantages)


def _arguments_of(algorithm: type[PolicyGradient]) -> list[str]:
    return list(constructor_arguments(algorithm, CommonArguments) or [])


def _setting(problem: TabularMDP | LinearQuadratic, parameters: Any) -> tuple[dict[str, th.Tensor], Floats, float]:
    """The policy's parameters by name, the exact gradient, and the mean length of an episode."""
    if isinstance(problem, TabularMDP):
        solution = problem.solve(parameters)
        # The layer maps states to actions, so its weight is θ transposed.
        given = {"action_net.weight": th.tensor(solution.theta.T)}
        return given, solution.gradient.T.ravel(), solution.mean_length
    zeros = np.zeros(problem.B.T.shape), np.zeros(len(problem.R))
    solved = problem.solve(*(zeros if parameters is None else parameters))
    given = {"action_net.weight": th.tensor(solved.K), "log_std": th.tensor(solved.log_std)}
    by_gain, by_std = solved.gradient
    # In the order of `named_parameters`, where a module's own come before those of its layers.
    return given, np.concatenate([by_std, by_gain.ravel()]), float(problem.horizon)


def _flat(parameter: th.nn.Parameter) -> Floats:
    assert parameter.grad is not None
    flat: Floats = parameter.grad.double().numpy().ravel()
    return flat
