"""Bias, variance and signal-to-noise ratio of the gradients that this package's algorithms compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv

import pg_agents
from pg_agents.agent import PolicyGradient
from pg_agents.arguments import argument, constructor_arguments
from pg_agents.checks import check_number, suggestion
from pg_agents.contract import Objective, Rollout
from pg_agents.engines import threads
from pg_agents.estimators import Floats as Estimates
from pg_agents.objectives import score_function
from pg_agents.theory.linear_quadratic import LinearQuadratic
from pg_agents.theory.mdp import TabularMDP, checked_critic
from pg_agents.theory.policies import LinearActorCritic, LinearPolicy, set_parameters

Floats = NDArray[np.float64]
AdvantageEstimator = Callable[[Rollout], Estimates]

CONFIDENCE = 0.95
_ROUNDING = 1e-8  # relative rounding error of variances of float32 gradients


class Estimate(NamedTuple):
    """A number with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class GradientStudy:
    """Bias, variance and signal-to-noise ratio of a gradient estimator, from many gradients of one policy.

    Attributes:
        gradients: Gradients, one per batch, of shape `(n_batches, d)`, flattened like `exact`.
        exact: ∇J, of shape `(d,)`: by θ in row order, or by K in row order and then by log σ.
        episodes: Mean number of episodes in a batch.
    """

    gradients: Floats
    exact: Floats
    episodes: float

    def __repr__(self) -> str:
        """A summary in one line, without the gradients, which would fill pages."""
        parts = [f"{len(self.gradients)} batches of {self.episodes:.3g} episodes"]
        if self.exact.any():
            parts.append(f"relative bias {_in_words(self.relative_bias)}")
        parts += [f"variance {_in_words(self.variance)}", f"snr {self.snr:.3g}"]
        return f"GradientStudy({', '.join(parts)})"

    def compared_with(self, expected: ArrayLike) -> GradientStudy:
        """A study of the same gradients with another `exact`, such as `Solution.gae_gradient`.

        Args:
            expected: The new `exact`, of any shape with d numbers.

        Raises:
            ValueError: `expected` has another size.
        """
        other = np.array(expected, dtype=float).ravel()
        if other.shape != self.exact.shape:
            raise ValueError(f"`expected` must have {len(self.exact)} numbers, but has the shape {np.shape(expected)}.")
        return GradientStudy(self.gradients, other, self.episodes)

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
    def components(self) -> tuple[Estimate, ...]:
        """Mean of each component of the gradient, with Student's interval."""
        return tuple(_mean(component) for component in self.gradients.T)

    @cached_property
    def relative_bias(self) -> Estimate:
        """Bias along the true gradient, relative to its size: E[g]·∇J / |∇J|² - 1, with Student's interval.

        At 0, J rises as fast as along ∇J; at -1, it stays as it is.

        Raises:
            ValueError: ∇J is 0.
        """
        if not self.exact.any():
            raise ValueError("`relative_bias` is relative to ∇J, but ∇J is 0. Use `bias` and `p_value`.")
        return _mean(self.gradients @ self.exact / (self.exact @ self.exact) - 1)

    @cached_property
    def p_value(self) -> float:
        """Probability of a bias at least this large, in any direction, if the true bias is 0 (Hotelling's T² test).

        In directions without variance, a bias beyond rounding makes it 0. If there is no variance at all and no bias,
        it is 1.

        Raises:
            ValueError: The batches are too few to span all directions in which gradients vary; more batches than
                components are always enough.
        """
        from scipy import stats

        n, d = self.gradients.shape
        covariance = np.cov(self.gradients, rowvar=False).reshape(d, d)
        # A softmax's gradients sum to 0 over the actions of a state: in such a direction they vary by rounding alone.
        variances, directions = np.linalg.eigh(covariance)
        varies = variances > _ROUNDING * variances[-1]
        rank = int(varies.sum())
        if rank == n - 1 < d:  # the largest rank that n batches can have
            raise ValueError(
                f"`p_value` needs more batches than {n}; more than {d}, the number of components, are always enough."
            )
        along = directions.T @ self.bias
        size = max(np.linalg.norm(self.gradients, axis=1).max(), np.linalg.norm(self.exact))
        if np.linalg.norm(along[~varies]) > _ROUNDING**0.5 * size:
            return 0.0
        if rank == 0:
            return 1.0
        squared = n * (along[varies] ** 2 / variances[varies]).sum()
        return float(stats.f.sf(squared * (n - rank) / (rank * (n - 1)), rank, n - rank))

    @cached_property
    def variance(self) -> Estimate:
        """Variance of a batch's gradient, summed over components: E |g - E[g]|²."""
        n = len(self.gradients)
        return _mean(((self.gradients - self.mean) ** 2).sum(axis=1) * n / (n - 1))

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio |E[g]|² / E |g - E[g]|² of a batch, with the noise's share of |mean|² subtracted.

        It is infinite without noise, and NaN without signal and noise.
        """
        noise = self.variance.value
        signal = max(float(self.mean @ self.mean) - noise / len(self.gradients), 0.0)
        if noise == 0:
            return np.inf if signal > 0 else np.nan
        return signal / noise


def _in_words(estimate: Estimate) -> str:
    value, low, high = estimate
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


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
    """Collect many batches with one fixed policy, and keep the gradient that the algorithm computes for each.

    Args:
        algorithm: An algorithm class of this package or of a plugin; or a function of a `Rollout` of whole episodes
            that returns the weights of ∇ log π, of shape `(T, N)`.
        problem: A problem with a known gradient, whose episodes end or have a horizon.
        parameters: Parameters of the policy: θ for a `TabularMDP`, (K, log σ) for a `LinearQuadratic`; None for zeros.
        n_batches: Number of gradients; for `p_value`, more than the gradient has components.
        critic: Values V(s) of the critic, exact or not, of shape `(S,)`; None for zeros. For a `TabularMDP`, and an
            algorithm with a critic, only.
        n_envs: Number of copies of the environment: a batch is one episode of each, one group of episodes, or `n_steps`
            steps.
        warm_up: Number of batches before the first gradient. Baselines with a memory settle in them, and rollouts that
            cut episodes move away from the first states.
        seed: Seed of everything random.
        **arguments: Arguments of the algorithm; for a function `n_episodes`, `gamma` and `max_grad_norm`. By default
            the discount is that of the problem, nothing is added to the gradient or clipped from it, and PPO takes one
            step per rollout. With `value_learning_rate`, if the algorithm has one, the critic learns; the policy
            never does.

    Returns:
        The gradients and the exact one. The gradients of rollouts that cut episodes are means over steps, so they are
        multiplied by the mean length of an episode, which makes them comparable with ∇J.

    Raises:
        TypeError: `algorithm` or `problem` is of another type, or an argument is unknown.
        ValueError: A number is out of range, a shape is wrong, episodes need not end, or the policy would move.
    """
    check_number("n_batches", n_batches, at_least=2, integer=True)
    check_number("n_envs", n_envs, at_least=1, integer=True)
    check_number("warm_up", warm_up, at_least=0, integer=True)
    check_number("seed", seed, at_least=0, integer=True)
    _check_kinds(algorithm, problem)
    _check_names(algorithm, arguments)
    if not (isinstance(algorithm, type) and issubclass(algorithm, PolicyGradient)):
        arguments = {"estimator": algorithm, **arguments}
        algorithm = _Estimated
    given, exact, mean_length = _setting(problem, parameters)
    if isinstance(problem, TabularMDP):
        env: Any = problem.vector_env(n_envs)
    else:
        env = make_vec_env(problem.env, n_envs, seed=seed)
    policy = LinearActorCritic if algorithm.has_critic else LinearPolicy
    names = constructor_arguments(algorithm)
    n_steps = arguments.get("n_steps", _DEFAULT_STEPS)
    defaults = {**_NEUTRAL, "gamma": problem.gamma, "n_steps": n_steps}
    whole = not {"n_episodes", "group_size"}.isdisjoint(names)
    defaults["batch_size"] = None if whole else n_steps * n_envs
    known = {name: value for name, value in defaults.items() if name in names}
    agent = algorithm(
        policy,
        env,
        seed=seed,
        device="cpu",
        engine="autograd",
        policy_kwargs={"optimizer_class": th.optim.SGD},
        **{**known, **arguments},
    )
    _check_one_gradient(agent)
    if critic is not None:
        if not (algorithm.has_critic and isinstance(problem, TabularMDP)):
            raise ValueError(f"`critic` is for an algorithm with a critic on a TabularMDP, not {algorithm.__name__}.")
        given["value_net.weight"] = th.tensor(checked_critic(critic, problem.n_states)[None])
    set_parameters(agent.policy, given)

    actor = {name: parameter for name, parameter in agent.policy.named_parameters() if name in _ACTOR}
    before = {name: parameter.detach().clone() for name, parameter in actor.items()}
    gradients, steps = [], 0
    with threads.for_policy(agent.policy):
        for batch in range(warm_up + n_batches):
            buffer = agent.rollout()
            trained_on = getattr(buffer, "trained_on", None)
            agent.train()
            if batch >= warm_up:
                gradients.append(_gradient(actor, isinstance(problem, TabularMDP)))
                steps += agent.n_steps * n_envs if trained_on is None else int(trained_on.sum())
    env.close()
    if not all(th.equal(before[name], parameter) for name, parameter in actor.items()):
        raise ValueError(
            f"{algorithm.__name__} moves its policy even with `learning_rate` 0, but the policy must stay fixed."
        )
    # A loss is minimised, J is maximised.
    scale = -mean_length if agent.n_episodes is None else -1.0
    return GradientStudy(scale * np.array(gradients), exact, steps / n_batches / mean_length)


# With these, the gradient is the weighted score and nothing else.
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

    learning_rate: float | Schedule = 0.0
    n_episodes: int = argument(default=1, at_least=1, integer=True)
    gamma: float = 1.0
    estimator: AdvantageEstimator = argument(kw_only=True)
    max_grad_norm: InitVar[float | None] = argument(default=None, kw_only=True)

    def estimate(self, rollout: Rollout) -> tuple[Estimates, Estimates]:
        """The function's weights, and no new targets for the critic, which does not learn."""
        return self.estimator(rollout), rollout.values

    def objective(self) -> Objective:
        """ψ log π(a|s)."""
        return Objective(lambda batch: score_function(batch.log_prob, batch.advantages))


_MADE_BY_THE_STUDY = {
    "policy": "it is linear in the observation",
    "env": "it is made from `problem`",
    "policy_kwargs": "the policy is linear, with plain SGD",
    "use_sde": "the policy's noise is that of the closed form",
    "engine": "it is 'autograd', for torch's own gradients",
    "device": "it is the CPU",
    "_init_setup_model": "the networks are needed",
}
_OF_FUNCTIONS = ("n_episodes", "gamma", "max_grad_norm")


def _check_kinds(algorithm: Any, problem: Any) -> None:
    known = issubclass(algorithm, PolicyGradient) if isinstance(algorithm, type) else callable(algorithm)
    if not known:
        name = algorithm if isinstance(algorithm, str) else getattr(algorithm, "__name__", "")
        ours = [f"pg_agents.{name}" for name in pg_agents.__all__]
        raise TypeError(
            "`algorithm` must be a class derived from pg_agents.PolicyGradient, or a function of a Rollout, but is "
            f"{algorithm!r}.{suggestion(f'pg_agents.{name}', ours, cutoff=0.9)}"
        )
    if not isinstance(problem, (TabularMDP, LinearQuadratic)):
        hint = " Pass the problem itself, not an environment." if isinstance(problem, _ENVIRONMENTS) else ""
        raise TypeError(
            f"`problem` must be a TabularMDP or a LinearQuadratic, whose gradient is known, but is {problem!r}.{hint}"
        )


_ENVIRONMENTS = (gym.Env, gym.vector.VectorEnv, VecEnv)


def _check_names(algorithm: Any, arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if name in _MADE_BY_THE_STUDY:
            raise TypeError(f"`{name}` is {value!r}, but cannot be chosen: {_MADE_BY_THE_STUDY[name]}.")
    if arguments.get("learning_rate", 0) != 0:
        raise ValueError(
            f"`learning_rate` must be 0, because the policy is fixed, but is {arguments['learning_rate']!r}. If the "
            "algorithm has a `value_learning_rate`, its critic can learn with that."
        )
    for name, value in arguments.items():
        if not isinstance(algorithm, type) and name not in (*_OF_FUNCTIONS, "learning_rate"):
            raise TypeError(
                f"`{name}` is {value!r}, but a function as `algorithm` weighs whole episodes and takes only "
                f"{', '.join(map(repr, _OF_FUNCTIONS))}."
            )


def _check_one_gradient(agent: PolicyGradient) -> None:
    n_samples = agent.n_steps * agent.n_envs if agent.n_episodes is None else np.inf
    if agent.n_epochs != 1 or (agent.batch_size is not None and agent.batch_size < n_samples):
        largest = "None" if agent.n_episodes is not None else f"{n_samples} ({agent.n_steps} of {agent.n_envs} copies)"
        raise ValueError(
            f"Each rollout must give one gradient: `n_epochs` must be 1 and `batch_size` the whole rollout, {largest}, "
            f"but these are {agent.n_epochs} and {agent.batch_size}."
        )


def _setting(problem: TabularMDP | LinearQuadratic, parameters: Any) -> tuple[dict[str, th.Tensor], Floats, float]:
    """Parameters of the policy by name, the exact gradient, and the mean length of an episode."""
    if isinstance(problem, TabularMDP):
        solution = problem.solve(parameters)
        # The layer maps states to actions, so its weight is θ transposed.
        given = {"action_net.weight": th.tensor(solution.theta.T)}
        return given, solution.gradient.ravel(), solution.mean_length
    if parameters is not None and not (isinstance(parameters, (tuple, list)) and len(parameters) == 2):
        raise ValueError(f"`parameters` must be a pair (K, log σ) for a LinearQuadratic, but is {parameters!r}.")
    zeros = np.zeros(problem.B.T.shape), np.zeros(len(problem.R))
    solved = problem.solve(*(zeros if parameters is None else parameters))
    given = {"action_net.weight": th.tensor(solved.K), "log_std": th.tensor(solved.log_std)}
    by_gain, by_std = solved.gradient
    return given, np.concatenate([by_gain.ravel(), by_std]), float(problem.horizon)


def _gradient(actor: dict[str, th.nn.Parameter], transposed: bool) -> Floats:
    """Gradient of the loss, in the order of `GradientStudy.exact`."""
    found: list[Floats] = []
    for name in _ACTOR:
        if name in actor:
            gradient = actor[name].grad
            assert gradient is not None
            found.append((gradient.T if transposed else gradient).double().numpy().ravel())
    return np.concatenate(found)
