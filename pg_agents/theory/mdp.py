"""Tabular Markov decision processes, with exact values for all estimates of policy-gradient methods."""

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
    """A finite Markov decision process, with exact solutions (`solve`) and environments for training (`env`).

    Args:
        transitions: P(s'|s, a), of shape `(S, A, S)`. The rest of a row to 1 is the probability that the episode ends.
        rewards: r(s, a), of shape `(S, A)`.
        initial: Probabilities of the first state, of shape `(S,)`; None for state 0.
        gamma: Discount factor, from 0 to 1.
        horizon: Number of steps after which episodes are cut, so that values depend on the step; None for no cut.

    Raises:
        ValueError: A shape is wrong, or probabilities are negative, not finite, or sum to more than 1.
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
        # No comparison with NaN is true, so NaN is refused too.
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
        """A random process: transitions from a flat Dirichlet distribution, rewards from N(0, 1).

        Args:
            n_states: Number of states S.
            n_actions: Number of actions A.
            seed: Seed, which alone determines the drawn numbers.
            ends: Probability that a step ends the episode.
            gamma: Discount factor, from 0 to 1.
            horizon: Number of steps after which episodes are cut; None for no cut.

        Raises:
            ValueError: A number is out of range.
        """
        check_number("ends", ends, at_least=0, at_most=1)
        rng = np.random.default_rng(seed)
        transitions = (1 - ends) * rng.dirichlet(np.ones(n_states), (n_states, n_actions))
        rewards = rng.normal(size=(n_states, n_actions))
        return cls(transitions, rewards, rng.dirichlet(np.ones(n_states)), gamma, horizon)

    @property
    def n_states(self) -> int:
        """Number of states S."""
        return len(self.rewards)

    @property
    def n_actions(self) -> int:
        """Number of actions A."""
        return int(self.rewards.shape[1])

    def changed(self, **arguments: Any) -> TabularMDP:
        """A copy with other constructor arguments."""
        names = ("transitions", "rewards", "initial", "gamma", "horizon")
        return TabularMDP(**{**{name: getattr(self, name) for name in names}, **arguments})

    def solve(self, theta: ArrayLike | None = None) -> Solution:
        """Exact values, gradient and visits of the policy π(a|s) = softmax(θ[s])[a].

        Args:
            theta: θ, of shape `(S, A)`; None for zeros, the uniform policy.

        Raises:
            ValueError: θ has another shape or is not finite. A quantity that is infinite, because episodes need not
                end, raises the error when it is read.
        """
        logits = np.zeros(self.rewards.shape) if theta is None else np.array(theta, dtype=float)
        if logits.shape != self.rewards.shape:
            raise ValueError(f"`theta` must have the shape {self.rewards.shape}, but has {logits.shape}.")
        check_all_finite("theta", logits)
        return Solution(self, logits)

    def env(self) -> TabularEnv:
        """The process as a Gymnasium environment from `Discrete(S)` to `Discrete(A)`; a horizon is a time limit."""
        return TabularEnv(self)

    def vector_env(self, num_envs: int) -> TabularVectorEnv:
        """The process as a vector environment of `num_envs` copies."""
        return TabularVectorEnv(self, num_envs)


@dataclass(frozen=True, eq=False)
class Solution:
    """A policy's exact values, gradient and visits, computed when they are first read.

    With a horizon T, `V` and `visits` have shape `(T, S)`, and `Q` and `A` have shape `(T, S, A)`; without one, these
    are `(S,)` and `(S, A)`.

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
    def V(self) -> Floats:  # noqa: N802 - the usual name
        """State values: V = r_π + γ P_π V; with a horizon, V_t = r_π + γ P_π V_{t+1} from V_T = 0."""
        mdp = self.mdp
        if mdp.horizon is None:
            return _solved(np.eye(mdp.n_states) - mdp.gamma * self._transitions, self._rewards, _INFINITE_RETURN)
        values = np.zeros((mdp.horizon + 1, mdp.n_states))
        for t in reversed(range(mdp.horizon)):
            values[t] = self._rewards + mdp.gamma * self._transitions @ values[t + 1]
        return values[:-1]

    @cached_property
    def Q(self) -> Floats:  # noqa: N802
        """Action values: r(s, a) + γ Σ_s' P(s'|s, a) V(s')."""
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
        """Expected return: J = Σ_s μ(s) V(s), with the initial distribution μ."""
        return float(self.mdp.initial @ (self.V if self.mdp.horizon is None else self.V[0]))

    @cached_property
    def visits(self) -> Floats:
        """Expected discounted visits, η(s) = Σ_t γ^t P(s_t = s); with a horizon, the terms of this sum."""
        return self._visits(self.mdp.gamma)

    @cached_property
    def mean_length(self) -> float:
        """Expected number of steps in an episode, Σ_t P(s_t is reached)."""
        return float(self._visits(1.0).sum())

    @cached_property
    def gradient(self) -> Floats:
        """∂J/∂θ[s, a] = η(s) π(a|s) A(s, a), of shape `(S, A)`: the policy-gradient theorem (Sutton et al. 2000)."""
        return self._weighted(self.visits, self.A)

    @cached_property
    def expected_update(self) -> Floats:
        """`gradient` without γ^t, with η(s) = Σ_t P(s_t = s): the default mean update of the algorithms.

        With γ = 1 it equals `gradient`. With γ < 1 it is not the gradient of any function (Nota & Thomas,
        arXiv:1906.07073).
        """
        return self._weighted(self._visits(1.0), self.A)

    @cached_property
    def fisher(self) -> Floats:
        """F = E_s[E_a[∇ log π ∇ log πᵀ]], of shape `(S, A, A)`: one block for the parameters of each state.

        F_s = d(s) (diag π(.|s) - π(.|s) π(.|s)ᵀ), with the states in proportion to their visits, d(s) ∝ η(s). The
        parameters of different states have nothing in common.
        """
        visits = self.visits if self.mdp.horizon is None else self.visits.sum(axis=0)
        diagonal = self.policy[:, :, None] * np.eye(self.mdp.n_actions)
        blocks = diagonal - self.policy[:, :, None] * self.policy[:, None, :]
        fisher: Floats = (visits / visits.sum())[:, None, None] * blocks
        return fisher

    @cached_property
    def natural_gradient(self) -> Floats:
        """F⁺ ∇J, of shape `(S, A)` (Kakade 2002, section 2).

        Without a horizon it is A Σ_s η(s), up to a function of the state: the visits cancel (Kakade 2002, theorem 1).
        """
        return natural_direction(self.fisher, self.gradient)

    @cached_property
    def optimal_baseline(self) -> Floats:
        """The baseline with the smallest gradient variance, as a function of the state (and step); shaped as `V`.

        b*(s) = Σ_a π(a|s) |∇ log π(a|s)|² Q(s, a) / Σ_a π(a|s) |∇ log π(a|s)|²   (Greensmith et al. 2004, theorem 8)

        This minimises the variance of each step by itself. It also minimises that of the sum over an episode if no
        state occurs twice, because the gradients of different states have no component in common.
        """
        squares = 1 - 2 * self.policy + (self.policy**2).sum(axis=1, keepdims=True)  # |e_a - π|²
        weights = self.policy * squares
        baseline: Floats = (weights * self.Q).sum(axis=-1) / weights.sum(axis=-1)
        return baseline

    def expected_gae(self, critic: ArrayLike, gae_lambda: float, n_steps: int | None = None) -> Floats:
        """Mean of the generalised advantage estimate of each action, of shape `(S, A)`.

        E[Â | s, a] = d(s, a) + γλ Σ_s' P(s'|s, a) w(s'), with the expected TD error d = r + γ P V̂ - V̂ and its expected
        discounted sum from s' on, w = d_π + γλ P_π w. With V̂ = V or λ = 1 this is A, up to a function of the state.

        Args:
            critic: V̂, of shape `(S,)`, exact or not; its value after the end of an episode is 0.
            gae_lambda: λ, from 0 to 1.
            n_steps: Number of TD errors in the sum, so that λ = 1 gives the n-step return minus V̂; None for all until
                the end of the episode.

        Raises:
            ValueError: An argument is out of range, or there is a horizon, with which the mean depends on the step.
        """
        mdp, values = self.mdp, checked_critic(critic, self.mdp.n_states)
        check_number("gae_lambda", gae_lambda, at_least=0, at_most=1)
        check_number("n_steps", n_steps, at_least=1, integer=True, optional=True)
        if mdp.horizon is not None:
            raise ValueError("`expected_gae` is defined only for problems without a horizon.")
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
        """Mean of the policy gradient with `expected_gae`'s estimates, of shape `(S, A)`: Σ_b η π_a (δ_ab - π_b) Â_b.

        Its difference from `expected_update` (with `discount_updates`, from `gradient`) is the bias of the critic.

        Args:
            critic: V̂, as in `expected_gae`.
            gae_lambda: λ, from 0 to 1.
            n_steps: Number of TD errors, as in `expected_gae`. The gradient of a rollout of n steps is the mean over
                `n_steps` from 1 to n: its last step has one TD error left, its first step n.
            discount_updates: Whether step t has the weight γ^t. If not, as in all algorithms with a critic here,
                η(s) = Σ_t P(s_t = s).

        Raises:
            ValueError: An argument is out of range, or there is a horizon.
        """
        advantages = self.expected_gae(critic, gae_lambda, n_steps)
        centred = advantages - (self.policy * advantages).sum(axis=1, keepdims=True)
        return self._weighted(self.visits if discount_updates else self._visits(1.0), centred)

    def _weighted(self, visits: Floats, advantages: Floats) -> Floats:
        """η(s) π(a|s) Â(s, a), summed over the steps of a horizon."""
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


_INFINITE_RETURN = "Episodes need not end, and gamma is 1, so the return is infinite. Set a horizon or gamma < 1."
_INFINITE_LENGTH = (
    "Episodes need not end, so their mean length and the visits of states are infinite. Set a horizon, or transitions "
    "that end episodes."
)


def _solved(matrix: Floats, vector: Floats, if_singular: str) -> Floats:
    if np.linalg.matrix_rank(matrix) < len(matrix):
        raise ValueError(if_singular)
    return np.array(np.linalg.solve(matrix, vector), dtype=float)


def natural_direction(fisher: Floats, gradient: Floats) -> Floats:
    """F⁺ g, state by state.

    Args:
        fisher: F of each state, `(S, A, A)`.
        gradient: g, `(S, A)`.
    """
    # Adding a number to all of a state's parameters changes nothing, so F is singular. Where the policy is as good as
    # deterministic, F is 0, and its reciprocal would overflow before.
    fisher = np.where(np.abs(fisher) < 1e-200, 0, fisher)
    direction: Floats = np.einsum("sab,sb->sa", np.linalg.pinv(fisher, rcond=1e-10, hermitian=True), gradient)
    return direction


def check_all_finite(name: str, values: Floats) -> None:
    """Refuse NaN and infinity.

    Raises:
        ValueError: An element is not finite; the message gives its index.
    """
    if not np.isfinite(values).all():
        where = tuple(np.argwhere(~np.isfinite(values))[0].tolist())
        raise ValueError(f"`{name}` must be finite, but {name}{list(where)} is {values[where]}.")


def checked_critic(critic: ArrayLike, n_states: int) -> Floats:
    """V(s) as an array of shape `(n_states,)`.

    Raises:
        ValueError: The shape is another, or a value is not finite.
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
        """Draw the next state; the observation of a termination is the old state."""
        observations, rewards, terminated, truncated, infos = self._copy.step(np.array([action]))
        last = infos["final_obs"][0] if terminated[0] or truncated[0] else observations[0]
        return int(last), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}


class TabularVectorEnv(VectorEnv[Any, Any, Any]):
    """Copies of a `TabularMDP` that share a random generator.

    Args:
        mdp: The decision process.
        num_envs: Number of copies.
    """

    def __init__(self, mdp: TabularMDP, num_envs: int = 1) -> None:
        self.mdp, self.num_envs = mdp, num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "seeds_each_copy": True}
        self.single_observation_space = spaces.Discrete(mdp.n_states)
        self.single_action_space = spaces.Discrete(mdp.n_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._first = np.cumsum(mdp.initial)
        self._next = np.cumsum(mdp.transitions, axis=2)
        # In spite of rounding, a draw close to 1 must lead to the last possible state, not to the end of the episode.
        self._first[self._first > self._first[-1] - 1e-9] = np.inf
        endless = np.isclose(self._next[..., -1:], 1)
        self._next[endless & (self._next > self._next[..., -1:] - 1e-9)] = np.inf

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Draw all first states; or those of the copies of a `reset_mask`, each by its own seed."""
        if options and "reset_mask" in options:
            return self._restarted(options["reset_mask"], seed)
        super().reset(seed=seed[0] if isinstance(seed, list) else seed)
        self._states = self._drawn(np.broadcast_to(self._first, (self.num_envs, self.mdp.n_states)))
        self._n_steps = np.zeros(self.num_envs, dtype=int)
        return self._states.copy(), {}

    def _restarted(self, mask: NDArray[np.bool_], seeds: Any) -> tuple[Any, dict[str, Any]]:
        for i in np.flatnonzero(mask).tolist():
            seed = seeds[i] if isinstance(seeds, list) else None
            draw = (self.np_random if seed is None else np.random.default_rng(seed)).random()
            self._states[i], self._n_steps[i] = (draw >= self._first).sum(), 0
        return self._states.copy(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Draw all next states; a finished episode leaves its last state in `final_obs`, and the next one starts."""
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
        """An index drawn from each row of cumulative probabilities; the row's length if the draw exceeds all."""
        draws = self.np_random.random(len(cumulative))[:, None]
        drawn: NDArray[np.int64] = (draws >= cumulative).sum(axis=1)
        return drawn
