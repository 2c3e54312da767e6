"""Bias, variance and signal-to-noise ratio of the gradient that the algorithms of this package compute."""

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
_ROUNDING = 1e-8  # of variances: gradients are float32


class Estimate(NamedTuple):
    """A number with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class GradientStudy:
    """What many gradients of one policy say of the estimator that they come from.

    Attributes:
        gradients: One for each batch, of shape `(n_batches, d)`, flattened as `exact` is.
        exact: ∇J, of shape `(d,)`: by θ[s, a], row after row; or by K, row after row, and then by log σ.
        episodes: Episodes in a batch, in the mean.
    """

    gradients: Floats
    exact: Floats
    episodes: float

    def __repr__(self) -> str:
        """What it found, in a line; the gradients themselves would fill pages."""
        parts = [f"{len(self.gradients)} batches of {self.episodes:.3g} episodes"]
        if self.exact.any():
            parts.append(f"relative bias {_in_words(self.relative_bias)}")
        parts += [f"variance {_in_words(self.variance)}", f"snr {self.snr:.3g}"]
        return f"GradientStudy({', '.join(parts)})"

    def compared_with(self, expected: ArrayLike) -> GradientStudy:
        """The same gradients beside another `exact`, such as `Solution.gae_gradient`, of its size.

        Raises:
            ValueError: It has another size.
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
        """The mean of each component of the gradient, with Student's interval."""
        return tuple(_mean(component) for component in self.gradients.T)

    @cached_property
    def relative_bias(self) -> Estimate:
        """Bias along the true gradient, as a part of it: E[g]·∇J / |∇J|² - 1, with Student's interval.

        0 moves J up as fast as ∇J does, -1 leaves it where it is.

        Raises:
            ValueError: ∇J is 0.
        """
        if not self.exact.any():
            raise ValueError("`relative_bias` is a part of ∇J, but ∇J is 0 here. See `bias` and `p_value`.")
        return _mean(self.gradients @ self.exact / (self.exact @ self.exact) - 1)

    @cached_property
    def p_value(self) -> float:
        """How probable so large a bias, in any direction, would be if there were none (Hotelling's T² test).

        Where the gradients do not vary, any bias beyond rounding makes it 0, and none is no reason to doubt: 1.

        Raises:
            ValueError: There are so few batches that they cannot show all directions in which gradients vary. More
                than components are always enough.
        """
        from scipy import stats

        n, d = self.gradients.shape
        covariance = np.cov(self.gradients, rowvar=False).reshape(d, d)
        # A softmax's gradients sum to 0 over the actions of a state: in such a direction they vary by rounding alone.
        variances, directions = np.linalg.eigh(covariance)
        varies = variances > _ROUNDING * variances[-1]
        rank = int(varies.sum())
        if rank == n - 1 < d:  # as many as so few numbers can have
            raise ValueError(
                f"`p_value` needs more batches than {n}. More than {d}, the components, are always enough."
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
        """Variance of a batch's gradient, summed over its components: E |g - E[g]|²."""
        n = len(self.gradients)
        return _mean(((self.gradients - self.mean) ** 2).sum(axis=1) * n / (n - 1))

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio |E[g]|² / E |g - E[g]|² of a batch, without what noise adds to |mean|².

        Infinite where there is no noise, and NaN where there is nothing at all.
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
    """Collect batches with a policy that stays where it is, and keep the gradient that the algorithm computes of each.

    Args:
        algorithm: An algorithm of this package or a plugin's; or a function of a `Rollout` that returns the weights of
            ∇ log π, of shape `(T, N)`, for whole episodes.
        problem: Where the exact gradient is known. Its episodes must end, or have a horizon.
        parameters: Of the policy: θ for a `TabularMDP`, (K, log σ) for a `LinearQuadratic`; None for zeros.
        n_batches: How many gradients; for `p_value`, more than the gradient has components.
        critic: V(s) of the critic, of shape `(S,)`, on a `TabularMDP` with an algorithm that has a critic, or a
            function: exact, wrong, or any baseline. None: zeros.
        n_envs: Copies of the problem's environment: a batch is an episode of each, or `n_steps` steps.
        warm_up: Batches before, in which baselines that remember settle, and rollouts that cut episodes get away from
            the first states.
        seed: Of all that is random.
        **arguments: Of the algorithm; for a function `n_episodes`, `gamma` and `max_grad_norm`. Not given, the
            discount is the problem's, nothing is added to the gradient or cut off from it, and PPO makes one step of
            each rollout. With `value_learning_rate`, where the algorithm has that, the critic learns; the policy never
            does.

    Returns:
        Gradients and the exact one. Of rollouts that cut episodes, where gradients are means over steps, they are
        multiplied by the mean length of an episode, which makes the two comparable.

    Raises:
        TypeError: `algorithm` or `problem` is something else, or does not know an argument.
        ValueError: A number is out of range, shapes do not fit, episodes need not end, or the policy would move.
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
    defaults["batch_size"] = None if "n_episodes" in names else n_steps * n_envs
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
            f"{algorithm.__name__} moves its policy without a `learning_rate`, but it must stay where it is."
        )
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

    learning_rate: float | Schedule = 0.0
    n_episodes: int = argument(default=1, at_least=1, integer=True)
    gamma: float = 1.0
    estimator: AdvantageEstimator = argument(kw_only=True)
    max_grad_norm: InitVar[float | None] = argument(default=None, kw_only=True)

    def estimate(self, rollout: Rollout) -> tuple[Estimates, Estimates]:
        """What the function says, and no target for the critic, which does not learn."""
        return self.estimator(rollout), rollout.values

    def objective(self) -> Objective:
        """ψ log π(a|s)."""
        return Objective(lambda batch: score_function(batch.log_prob, batch.advantages))


_MADE_BY_THE_STUDY = {
    "policy": "it is linear in the observation",
    "env": "it is made of `problem`",
    "policy_kwargs": "the policy is linear, with plain SGD",
    "use_sde": "the policy's noise is that of the closed form",
    "engine": "it is 'autograd', torch's own gradients",
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
        hint = " Give the problem itself, not an environment." if isinstance(problem, _ENVIRONMENTS) else ""
        raise TypeError(
            f"`problem` must be a TabularMDP or a LinearQuadratic, of which the gradient is known, but is {problem!r}."
            f"{hint}"
        )


_ENVIRONMENTS = (gym.Env, gym.vector.VectorEnv, VecEnv)


def _check_names(algorithm: Any, arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if name in _MADE_BY_THE_STUDY:
            raise TypeError(f"`{name}` is {value!r}, but cannot be chosen: {_MADE_BY_THE_STUDY[name]}.")
    if arguments.get("learning_rate", 0) != 0:
        raise ValueError(
            f"`learning_rate` must be 0, because the policy stays where it is, but is {arguments['learning_rate']!r}. "
            "Where the algorithm has a `value_learning_rate`, that lets its critic learn."
        )
    for name, value in arguments.items():
        if not isinstance(algorithm, type) and name not in (*_OF_FUNCTIONS, "learning_rate"):
            raise TypeError(
                f"`{name}` is {value!r}, but a function as `algorithm`, which weighs whole episodes, has no arguments "
                f"but {', '.join(map(repr, _OF_FUNCTIONS))}."
            )


def _check_one_gradient(agent: PolicyGradient) -> None:
    n_samples = agent.n_steps * agent.n_envs if agent.n_episodes is None else np.inf
    if agent.n_epochs != 1 or (agent.batch_size is not None and agent.batch_size < n_samples):
        largest = "None" if agent.n_episodes is not None else f"{n_samples} ({agent.n_steps} of {agent.n_envs} copies)"
        raise ValueError(
            f"A rollout gives one gradient: `n_epochs` must be 1 and `batch_size` all of it, {largest}, but these are "
            f"{agent.n_epochs} and {agent.batch_size}."
        )


def _setting(problem: TabularMDP | LinearQuadratic, parameters: Any) -> tuple[dict[str, th.Tensor], Floats, float]:
    """The policy's parameters by name, the exact gradient, and the mean length of an episode."""
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
    """Of the loss, in the order of `GradientStudy.exact`."""
    found: list[Floats] = []
    for name in _ACTOR:
        if name in actor:
            gradient = actor[name].grad
            assert gradient is not None
            found.append((gradient.T if transposed else gradient).double().numpy().ravel())
    return np.concatenate(found)
