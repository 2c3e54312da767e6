"""Tabular Markov decision processes with everything that policy-gradient methods estimate, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from pg_agents.checks import check_number

Floats = NDArray[np.float64]


class TabularMDP:
    """A finite Markov decision process, whose exact solution `solve` gives and which `env` lets any agent train on.

    Args:
        transitions: P(s'|s, a), of shape `(S, A, S)`. What a row lacks to 1 is the probability that the episode ends.
        rewards: r(s, a), of shape `(S, A)`.
        initial: Probabilities of the first state, of shape `(S,)`; None starts in state 0.
        gamma: Discount factor, from 0 to 1.
        horizon: Episodes are cut after so many steps, and values depend on the step; None never cuts.

    Raises:
        ValueError: A shape does not fit, or probabilities are negative, not finite, or sum to more than 1.
    """

    def __init__(
        self,
        transitions: ArrayLike,
        rewards: ArrayLike,
        initial: ArrayLike | None = None,
        gamma: float = 1.0,
        horizon: int | None = None,
    ) -> None:
        self.transitions, self.rewards = np.array(transitions, dtype=float), np.array(rewards, dtype=float)
        if self.rewards.ndim != 2 or self.transitions.shape != (*self.rewards.shape, len(self.rewards)):
            raise ValueError(
                f"`transitions` must have the shape (S, A, S) and `rewards` (S, A), but these are "
                f"{self.transitions.shape} and {self.rewards.shape}."
            )
        self.initial = np.eye(len(self.rewards))[0] if initial is None else np.array(initial, dtype=float)
        if self.initial.shape != self.rewards.shape[:1] or not (
            np.isclose(self.initial.sum(), 1) and self.initial.min() >= 0
        ):
            raise ValueError(f"`initial` must be {len(self.rewards)} probabilities that sum to 1, but is {initial!r}.")
        # Written so that NaN is refused, which no comparison is true of.
        fine = (self.transitions >= 0).all(axis=2) & (self.transitions.sum(axis=2) <= 1 + 1e-9)
        if not fine.all():
            state, action = np.argwhere(~fine)[0]
            raise ValueError(
                f"`transitions[{state}, {action}]` must be probabilities, with a sum of at most 1, but is "
                f"{self.transitions[state, action]}."
            )
        check_all_finite("rewards", self.rewards)
        check_number("gamma", gamma, at_least=0, at_most=1)
        check_number("horizon", horizon, at_least=1, integer=True, optional=True)
        self.gamma, self.horizon = float(gamma), horizon

    @classmethod
    def random(
        cls,
        n_states: int = 5,
        n_actions: int = 3,
        *,
        seed: int = 0,
        ends: float = 0.1,
        gamma: float = 1.0,
        horizon: int | None = None,
    ) -> TabularMDP:
        """One with transitions drawn from a flat Dirichlet distribution and rewards from N(0, 1).

        Args:
            n_states: S.
            n_actions: A.
            seed: What it depends on, and on nothing else.
            ends: Probability that an episode ends with a step.
            gamma: As above.
            horizon: As above.
        """
        check_number("ends", ends, at_least=0, at_most=1)
        rng = np.random.default_rng(seed)
        transitions = (1 - ends) * rng.dirichlet(np.ones(n_states), (n_states, n_actions))
        rewards = rng.normal(size=(n_states, n_actions))
        return cls(transitions, rewards, rng.dirichlet(np.ones(n_states)), gamma, horizon)

    @property
    def n_states(self) -> int:
        """S."""
        return len(self.rewards)

    @property
    def n_actions(self) -> int:
        """A."""
        return int(self.rewards.shape[1])

    def changed(self, **arguments: Any) -> TabularMDP:
        """The same with other constructor arguments."""
        names = ("transitions", "rewards", "initial", "gamma", "horizon")
        return TabularMDP(**{**{name: getattr(self, name) for name in names}, **arguments})

    def solve(self, theta: ArrayLike | None = None) -> Solution:
        """All that there is to know of the policy π(a|s) = softmax(θ[s])[a].

        Args:
            theta: θ, of shape `(S, A)`; None for zeros, the uniform policy.

        Raises:
            ValueError: θ has another shape or is not finite. What is infinite, because episodes need not end, is
                refused when it is asked for.
        """
        logits = np.zeros(self.rewards.shape) if theta is None else np.array(theta, dtype=float)
        if logits.shape != self.rewards.shape:
            raise ValueError(f"`theta` must have the shape {self.rewards.shape}, but has {logits.shape}.")
        check_all_finite("theta", logits)
        return Solution(self, logits)

    def env(self) -> TabularEnv:
        """A Gymnasium environment of it, `Discrete(S)` to `Discrete(A)`; a horizon is a time limit."""
        return TabularEnv(self)

    def vector_env(self, num_envs: int) -> TabularVectorEnv:
        """Many copies, stepped at once."""
        return TabularVectorEnv(self, num_envs)


@dataclass(frozen=True, eq=False)
class Solution:
    """A policy's exact value, gradient and state distribution, worked out when they are asked for.

    With a horizon T, `V` and `visits` have the shape `(T, S)`, `Q` and `A` `(T, S, A)`; otherwise they lack the first
    axis.

    Attributes:
        mdp: The decision process.
        theta: θ, of shape `(S, A)`.
    """

    mdp: TabularMDP
    theta: Floats

    @cached_property
    def policy(self) -> Floats:
        """π(a|s), of shape `(S, A)`."""
        shifted = np.exp(self.theta - self.theta.max(axis=1, keepdims=True))
        policy: Floats = shifted / shifted.sum(axis=1, keepdims=True)
        return policy

    @cached_property
    def V(self) -> Floats:  # noqa: N802 - the name that every book gives it
        """Values: V = r_π + γ P_π V, or V_t = r_π + γ P_π V_{t+1} from V_T = 0."""
        mdp = self.mdp
        if mdp.horizon is None:
            return _solved(np.eye(mdp.n_states) - mdp.gamma * self._transitions, self._rewards, _INFINITE_RETURN)
        values = np.zeros((mdp.horizon + 1, mdp.n_states))
        for t in reversed(range(mdp.horizon)):
            values[t] = self._rewards + mdp.gamma * self._transitions @ values[t + 1]
        return values[:-1]

    @cached_property
    def Q(self) -> Floats:  # noqa: N802
        """Values of actions: r(s, a) + γ Σ P(s'|s, a) V(s')."""
        mdp, following = self.mdp, self.V
        if mdp.horizon is not None:
            following = np.concatenate([self.V[1:], np.zeros((1, mdp.n_states))])
        values: Floats = mdp.rewards + mdp.gamma * np.einsum("san,...n->...sa", mdp.transitions, following)
        return values

    @cached_property
    def A(self) -> Floats:  # noqa: N802
        """Advantages: Q - V."""
        advantages: Floats = self.Q - self.V[..., None]
        return advantages

    @property
    def J(self) -> float:  # noqa: N802
        """Expected return: Σ μ(s) V(s), of the first step."""
        return float(self.mdp.initial @ (self.V if self.mdp.horizon is None else self.V[0]))

    @cached_property
    def visits(self) -> Floats:
        """Discounted expected visits, η(s) = Σ_t γ^t P(s_t = s); with a horizon, the terms of this sum."""
        return self._visits(self.mdp.gamma)

    @cached_property
    def mean_length(self) -> float:
        """Expected number of steps of an episode, Σ_t P(s_t is reached)."""
        return float(self._visits(1.0).sum())

    @cached_property
    def gradient(self) -> Floats:
        """∂J/∂θ[s, a] = η(s) π(a|s) A(s, a), of shape `(S, A)`: the policy-gradient theorem (Sutton et al. 2000)."""
        return self._weighted(self.visits, self.A)

    @cached_property
    def expected_update(self) -> Floats:
        """`gradient` with η(s) = Σ_t P(s_t = s), without γ^t: what the algorithms have as their mean by default.

        With γ = 1 it is `gradient`. With γ < 1 it is the gradient of no function (Nota & Thomas, arXiv:1906.07073).
        """
        return self._weighted(self._visits(1.0), self.A)

    @cached_property
    def optimal_baseline(self) -> Floats:
        """The function of state (and step) that leaves the gradient of log π the least variance; shaped as `V`.

        b*(s) = Σ_a π(a|s) |∇ log π(a|s)|² Q(s, a) / Σ_a π(a|s) |∇ log π(a|s)|²   (Greensmith et al. 2004, theorem 8)

        This is of each step by itself. For the sum over an episode it is the optimum where no state comes twice: the
        gradients of different states have no component in common.
        """
        squares = 1 - 2 * self.policy + (self.policy**2).sum(axis=1, keepdims=True)  # |e_a - π|²
        weights = self.policy * squares
        baseline: Floats = (weights * self.Q).sum(axis=-1) / weights.sum(axis=-1)
        return baseline

    def expected_gae(self, critic: ArrayLike, gae_lambda: float, n_steps: int | None = None) -> Floats:
        """What generalised advantage estimation gives for an action in the mean, of shape `(S, A)`.

        E[Â | s, a] = d(s, a) + γλ Σ P(s'|s, a) w(s'), with d = r + γ P V̂ - V̂, the expected TD error, and w its
        expected sum from s' on, w = d_π + γλ P_π w. With V̂ = V or λ = 1 this is A, up to a function of the state.

        Args:
            critic: V̂, of shape `(S,)`, right or wrong; 0 after the end of an episode.
            gae_lambda: λ, from 0 to 1.
            n_steps: Sum so many TD errors and no more: λ = 1 makes this the n-step return minus V̂. None sums to the
                end of the episode.

        Raises:
            ValueError: An argument is out of range, or there is a horizon, at which the step would matter.
        """
        mdp, values = self.mdp, checked_critic(critic, self.mdp.n_states)
        check_number("gae_lambda", gae_lambda, at_least=0, at_most=1)
        check_number("n_steps", n_steps, at_least=1, integer=True, optional=True)
        if mdp.horizon is not None:
            raise ValueError("`expected_gae` is of problems without a horizon.")
        errors = mdp.rewards + mdp.gamma * mdp.transitions @ values - values[:, None]
        mean, decay = (self.policy * errors).sum(axis=1), mdp.gamma * gae_lambda
        if n_steps is None:
            sums = _solved(np.eye(mdp.n_states) - decay * self._transitions, mean, _INFINITE_RETURN)
        else:
            sums = np.zeros(mdp.n_states)
            for _ in range(n_steps - 1):
                sums = mean + decay * self._transitions @ sums
        expected: Floats = errors + decay * mdp.transitions @ sums
        return expected

    def gae_gradient(
        self, critic: ArrayLike, gae_lambda: float, n_steps: int | None = None, *, discount_updates: bool = False
    ) -> Floats:
        """What a policy gradient with these estimates is in the mean, of shape `(S, A)`: Σ_b η π_a (δ_ab - π_b) Â_b.

        Its difference from `expected_update`, or with `discount_updates` from `gradient`, is the critic's bias.

        Args:
            critic: As for `expected_gae`.
            gae_lambda: As for `expected_gae`.
            n_steps: As for `expected_gae`. A rollout of n steps has the mean over `n_steps` from 1 to n: it cuts the
                sum of its last step after one TD error, that of its first after n.
            discount_updates: Whether step t has the weight γ^t; without, as in all algorithms with a critic here,
                η(s) = Σ_t P(s_t = s).

        Raises:
            ValueError: An argument is out of range, or there is a horizon.
        """
        advantages = self.expected_gae(critic, gae_lambda, n_steps)
        centred = advantages - (self.policy * advantages).sum(axis=1, keepdims=True)
        return self._weighted(self.visits if discount_updates else self._visits(1.0), centred)

    def _weighted(self, visits: Floats, advantages: Floats) -> Floats:
        """η(s) π(a|s) Â(s, a), summed over steps where there is a horizon."""
        terms: Floats = visits[..., None] * self.policy * advantages
        return terms if self.mdp.horizon is None else np.asarray(terms.sum(axis=0))

    @cached_property
    def _transitions(self) -> Floats:
        transitions: Floats = np.einsum("sa,san->sn", self.policy, self.mdp.transitions)
        return transitions

    @cached_property
    def _rewards(self) -> Floats:
        rewards: Floats = (self.policy * self.mdp.rewards).sum(axis=1)
        return rewards

    def _visits(self, gamma: float) -> Floats:
        mdp = self.mdp
        if mdp.horizon is None:
            return _solved(np.eye(mdp.n_states) - gamma * self._transitions.T, mdp.initial, _INFINITE_LENGTH)
        visits = [mdp.initial]
        for _ in range(mdp.horizon - 1):
            visits.append(gamma * self._transitions.T @ visits[-1])
        return np.array(visits)


_INFINITE_RETURN = "Episodes need not end, and gamma is 1: the return is infinite. Give a horizon or gamma < 1."
_INFINITE_LENGTH = (
    "Episodes need not end, so they have no mean length, and states no number of visits. Give a horizon, or "
    "transitions that end."
)


def _solved(matrix: Floats, vector: Floats, if_singular: str) -> Floats:
    if np.linalg.matrix_rank(matrix) < len(matrix):
        raise ValueError(if_singular)
    return np.array(np.linalg.solve(matrix, vector), dtype=float)


def check_all_finite(name: str, values: Floats) -> None:
    """Refuse NaN and infinity.

    Raises:
        ValueError: There is one; the message says where.
    """
    if not np.isfinite(values).all():
        where = tuple(np.argwhere(~np.isfinite(values))[0].tolist())
        raise ValueError(f"`{name}` must be finite, but {name}{list(where)} is {values[where]}.")


def checked_critic(critic: ArrayLike, n_states: int) -> Floats:
    """V(s) as an array.

    Raises:
        ValueError: It has another shape than `(n_states,)`, or is not finite.
    """
    values = np.array(critic, dtype=float)
    if values.shape != (n_states,):
        raise ValueError(f"`critic` must have the shape ({n_states},), but has {values.shape}.")
    check_all_finite("critic", values)
    return values


class TabularEnv(gym.Env[Any, Any]):
    """A `TabularMDP` as a Gymnasium environment.

    Args:
        mdp: The decision process.
    """

    def __init__(self, mdp: TabularMDP) -> None:
        self._copy = TabularVectorEnv(mdp, 1)
        self.observation_space = self._copy.single_observation_space
        self.action_space = self._copy.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Draw the first state."""
        super().reset(seed=seed)
        observations, infos = self._copy.reset(seed=seed)
        return int(observations[0]), infos

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Draw the next state. After a termination the observation is the old one."""
        observations, rewards, terminated, truncated, infos = self._copy.step(np.array([action]))
        last = infos["final_obs"][0] if terminated[0] or truncated[0] else observations[0]
        return int(last), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}


class TabularVectorEnv(VectorEnv[Any, Any, Any]):
    """Many copies of a `TabularMDP`, which share a random generator.

    Args:
        mdp: The decision process.
        num_envs: How many.
    """

    def __init__(self, mdp: TabularMDP, num_envs: int = 1) -> None:
        self.mdp, self.num_envs = mdp, num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = spaces.Discrete(mdp.n_states)
        self.single_action_space = spaces.Discrete(mdp.n_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._first = np.cumsum(mdp.initial)
        self._next = np.cumsum(mdp.transitions, axis=2)
        # Without rounding: what a draw of nearly 1 may lead to is the last state that has a probability, not the end.
        self._first[self._first > self._first[-1] - 1e-9] = np.inf
        endless = np.isclose(self._next[..., -1:], 1)
        self._next[endless & (self._next > self._next[..., -1:] - 1e-9)] = np.inf

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Draw all first states."""
        super().reset(seed=seed[0] if isinstance(seed, list) else seed)
        self._states = self._drawn(np.broadcast_to(self._first, (self.num_envs, self.mdp.n_states)))
        self._n_steps = np.zeros(self.num_envs, dtype=int)
        return self._states.copy(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Draw all next states; where an episode ended, the next one begins, and `final_obs` is the last state."""
        rewards = self.mdp.rewards[self._states, actions]
        following = self._drawn(self._next[self._states, actions])
        terminated = following == self.mdp.n_states
        self._states = np.where(terminated, self._states, following)
        self._n_steps += 1
        truncated = np.zeros_like(terminated) if self.mdp.horizon is None else self._n_steps == self.mdp.horizon
        truncated &= ~terminated
        ended, infos = terminated | truncated, {}
        if ended.any():
            infos = {"final_obs": self._states.astype(object), "_final_obs": ended}
            first = self._drawn(np.broadcast_to(self._first, (int(ended.sum()), self.mdp.n_states)))
            self._states[ended], self._n_steps[ended] = first, 0
        return self._states.copy(), rewards, terminated, truncated, infos

    def _drawn(self, cumulative: Floats) -> NDArray[np.int64]:
        """A number for each row of cumulative probabilities; the row's length for what they lack to 1."""
        draws = self.np_random.random(len(cumulative))[:, None]
        drawn: NDArray[np.int64] = (draws >= cumulative).sum(axis=1)
        return drawn
