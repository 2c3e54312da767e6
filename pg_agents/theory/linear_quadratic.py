"""Linear-quadratic problems under linear Gaussian policies: return and gradient in closed form."""

# ruff: noqa: N802, N803, N806 - matrices have their usual capital letters

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from pg_agents.checks import check_number
from pg_agents.theory.mdp import check_all_finite

Floats = NDArray[np.float64]


class LinearQuadratic:
    """x' = A x + B u + w with the reward -(x·Q x + u·R u), w ~ N(0, W) and x_0 ~ N(0, X), for `horizon` steps.

    Args:
        A: Effect of the state on the next state, of shape `(n, n)`.
        B: Effect of the action on the next state, of shape `(n, m)`.
        Q: Cost of the state, of shape `(n, n)`.
        R: Cost of the action, of shape `(m, m)`.
        W: Covariance of the noise, of shape `(n, n)`; None for no noise.
        X: Covariance of the first state, of shape `(n, n)`; None for the identity.
        gamma: Discount factor, from 0 to 1.
        horizon: Number of steps in an episode.

    Raises:
        ValueError: Shapes do not match, a number is out of range or not finite, or `W` or `X` is not a covariance.
    """

    def __init__(
        self,
        A: ArrayLike,
        B: ArrayLike,
        Q: ArrayLike,
        R: ArrayLike,
        W: ArrayLike | None = None,
        X: ArrayLike | None = None,
        gamma: float = 1.0,
        horizon: int = 10,
    ) -> None:
        self.A, self.B = np.array(A, dtype=float), np.array(B, dtype=float)
        if self.A.ndim != 2 or self.B.ndim != 2 or not self.A.shape == (len(self.B), len(self.B)):
            raise ValueError(f"`A` must be (n, n) and `B` (n, m), but these are {self.A.shape} and {self.B.shape}.")
        n, m = self.B.shape
        self.Q, self.R = np.array(Q, dtype=float), np.array(R, dtype=float)
        self.W = np.zeros((n, n)) if W is None else np.array(W, dtype=float)
        self.X = np.eye(n) if X is None else np.array(X, dtype=float)
        for name, size in (("Q", n), ("R", m), ("W", n), ("X", n)):
            if getattr(self, name).shape != (size, size):
                raise ValueError(f"`{name}` must be ({size}, {size}), but is {getattr(self, name).shape}.")
        for name in "ABQRWX":
            check_all_finite(name, getattr(self, name))
        for name in "WX":
            _check_covariance(name, getattr(self, name))
        check_number("gamma", gamma, at_least=0, at_most=1)
        check_number("horizon", horizon, at_least=1, integer=True)
        self.gamma, self.horizon = float(gamma), horizon

    def solve(self, K: ArrayLike, log_std: ArrayLike) -> GaussianSolution:
        """Return and gradient of the policy u ~ N(K x, diag σ²).

        Args:
            K: Gain of the mean action, of shape `(m, n)`.
            log_std: log σ, of shape `(m,)`.

        Raises:
            ValueError: A shape is wrong, or a number is not finite.
        """
        gain, spread = np.array(K, dtype=float), np.array(log_std, dtype=float)
        if gain.shape != self.B.T.shape or spread.shape != self.R.shape[:1]:
            raise ValueError(
                f"`K` must be {self.B.T.shape} and `log_std` {self.R.shape[:1]}, but these are {gain.shape} and "
                f"{spread.shape}."
            )
        check_all_finite("K", gain)
        check_all_finite("log_std", spread)
        return GaussianSolution(self, gain, spread)

    def env(self) -> LinearQuadraticEnv:
        """The problem as a Gymnasium environment, with action limits too far away to matter."""
        return LinearQuadraticEnv(self)


def _check_covariance(name: str, matrix: Floats) -> None:
    if not np.allclose(matrix, matrix.T):
        raise ValueError(f"`{name}` must be a covariance, but is not symmetric: {matrix.tolist()}.")
    eigenvalues = np.linalg.eigvalsh(matrix)
    lowest = eigenvalues.min()
    if lowest < -1e-9 * np.abs(eigenvalues).max():  # beyond rounding
        raise ValueError(
            f"`{name}` must be a covariance, with no negative eigenvalue, but has {lowest:.3g}: {matrix.tolist()}."
        )


@dataclass(frozen=True, eq=False)
class GaussianSolution:
    """The exact return and gradient of a linear Gaussian policy.

    Attributes:
        problem: The linear-quadratic problem.
        K: Gain of the mean action, of shape `(m, n)`.
        log_std: log σ, of shape `(m,)`.
    """

    problem: LinearQuadratic
    K: Floats
    log_std: Floats

    @property
    def J(self) -> float:
        """Expected return.

        J = -(tr P_0 X + c_0) with P_t = Q + KᵀRK + γ (A + BK)ᵀ P_{t+1} (A + BK) and
        c_t = tr R Σ + γ (tr P_{t+1} (B Σ Bᵀ + W) + c_{t+1}), from P_T = 0 and c_T = 0, where Σ = diag σ².
        """
        return float(self._return(th.tensor(self.K), th.tensor(self.log_std)))

    @cached_property
    def gradient(self) -> tuple[Floats, Floats]:
        """∂J/∂K and ∂J/∂log σ, in the shapes of K and log σ: the derivative of `J`'s recursion."""
        parameters = [th.tensor(array, requires_grad=True) for array in (self.K, self.log_std)]
        by_gain, by_std = th.autograd.grad(self._return(*parameters), parameters)
        return by_gain.numpy(), by_std.numpy()

    def _return(self, K: th.Tensor, log_std: th.Tensor) -> th.Tensor:
        problem = self.problem
        A, B, Q, R, W, X = (th.tensor(getattr(problem, name)) for name in "ABQRWX")
        closed, noise = A + B @ K, th.diag(th.exp(2 * log_std))
        P, c = th.zeros_like(Q), th.zeros((), dtype=th.float64)
        for _ in range(problem.horizon):
            c = th.trace(R @ noise) + problem.gamma * (th.trace(P @ (B @ noise @ B.T + W)) + c)
            P = Q + K.T @ R @ K + problem.gamma * closed.T @ P @ closed
        return -(th.trace(P @ X) + c)


class LinearQuadraticEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A `LinearQuadratic` problem as a Gymnasium environment.

    Args:
        problem: The problem.
    """

    def __init__(self, problem: LinearQuadratic) -> None:
        self.problem = problem
        n, m = problem.B.shape
        self.observation_space = spaces.Box(-np.inf, np.inf, (n,), np.float32)
        # Stable-Baselines3 requires limits.
        self.action_space = spaces.Box(-1e9, 1e9, (m,), np.float32)
        self._state, self._n_steps = np.zeros(n), 0
        self._first, self._noise = _root(problem.X), _root(problem.W)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw the first state."""
        super().reset(seed=seed)
        self._n_steps = 0
        self._state = self._first @ self.np_random.normal(size=len(self._first))
        return self._state.astype(np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move to the next state, for the negative cost as the reward; the last step is a time limit."""
        problem, x, u = self.problem, self._state, np.asarray(action, dtype=float)
        reward = -float(x @ problem.Q @ x + u @ problem.R @ u)
        self._state = problem.A @ x + problem.B @ u + self._noise @ self.np_random.normal(size=len(x))
        self._n_steps += 1
        return self._state.astype(np.float32), reward, False, self._n_steps == problem.horizon, {}


def _root(covariance: Floats) -> Floats:
    """L with L Lᵀ = Σ, which unlike Cholesky's exists for a singular Σ too."""
    variances, directions = np.linalg.eigh(covariance)
    root: Floats = directions * np.sqrt(np.maximum(variances, 0))
    return root
