"""Linear-quadratic control of a torsional chain: continuous torque on many joints, with an exact optimum."""

# ruff: noqa: N803, N806 - matrices have the capital letters of the literature

from __future__ import annotations

import math
from functools import cached_property, partial
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.checks import check_number
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, BLUE, GREY, LIGHT, Canvas
from pg_envs.worlds import World, WorldEnv, WorldVector, uniform
from pg_envs.worlds.world import METADATA

STIFFNESS, DAMPING = 4.0, 0.2
MAX_TORQUE = 6.0
DT = 0.1
HORIZON = 100


# A state is x, 2n numbers, the angles and the speeds, and room for the action a, n numbers, and the next x. The
# constants are n, the costs of the squares of (x, a), and the columns of the matrix that takes (x, a) to the next x.


def start(state: Any, random: Any, constants: Any) -> None:
    """Angles and speeds uniform in [-1, 1]."""
    for i in range(2 * int(constants[0])):
        state[i] = uniform(random, -1.0, 1.0)


def step(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """The next state Ax + Ba, and the reward -(x·Qx + a·Ra)."""
    n = int(constants[0])
    size, total, cost = 2 * n, 3 * n, 0.0
    for i in range(n):
        state[size + i] = action[i]
    for i in range(total):
        cost += constants[1 + i] * (state[i] * state[i])
    for i in range(size):
        state[total + i] = 0.0
    j = 0
    while j + 3 < total:  # four columns at once: a sum is read and written once for all of them
        column = 1 + total + j * size
        first, second, third, fourth = state[j], state[j + 1], state[j + 2], state[j + 3]
        for i in range(size):
            new = state[total + i] + constants[column + i] * first
            new += constants[column + size + i] * second
            new += constants[column + 2 * size + i] * third
            state[total + i] = new + constants[column + 3 * size + i] * fourth
        j += 4
    while j < total:
        column, last = 1 + total + j * size, state[j]
        for i in range(size):
            state[total + i] += constants[column + i] * last
        j += 1
    for i in range(size):
        state[i] = state[total + i]
    return -cost, False


def observe(state: Any, observation: Any, constants: Any) -> None:
    """x."""
    for i in range(2 * int(constants[0])):
        observation[i] = state[i]


class LQRDynamics:
    """The chain's equations, x' = Ax + Ba with the cost x·Qx + a·Ra, and their solution: see `TorqueLQR`.

    Attributes:
        A: Matrix from state to next state, of shape `(2n, 2n)`.
        B: Matrix from action to next state, of shape `(2n, n)`.
        Q: Cost of the state, diagonal, of shape `(2n, 2n)`.
        R: Cost of the action, diagonal, of shape `(n, n)`.
    """

    def __init__(self, n_joints: int = 1) -> None:
        from scipy.linalg import expm

        check_number("n_joints", n_joints, at_least=1, integer=True)
        n = self.n_joints = int(n_joints)
        K = STIFFNESS * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
        K[-1, -1] = STIFFNESS
        zero, one = np.zeros((n, n)), np.eye(n)
        # Of (x, a), where a is constant during the step.
        flow = expm(DT * np.block([[zero, one, zero], [-K, -DAMPING * one, MAX_TORQUE * one], [zero, zero, zero]]))
        self.A, self.B = flow[: 2 * n, : 2 * n], flow[: 2 * n, 2 * n :]
        self.Q = DT / n * np.diag([1.0] * n + [0.1] * n)
        self.R = DT / n * 0.1 * MAX_TORQUE**2 * one

    def world(self) -> World:
        """The chain as a world."""
        n, reach = self.n_joints, self._reach()
        columns, side = min(n, 5), 100 if n > 2 else 200
        matrix = np.column_stack([self.A, self.B])
        return World(
            start,
            step,
            observe,
            n_state=5 * n,
            observation_space=spaces.Box(-reach, reach, (2 * n,), np.float32),
            action_space=spaces.Box(-1.0, 1.0, (n,), np.float32),
            constants=np.concatenate([[n], self.Q.diagonal(), self.R.diagonal(), matrix.T.ravel()]),
            draw=self.draw,
            controller=self.controller,
            optimum=self.optimum,
            known_returns=self.known_returns,
            image_size=(side * columns, side * math.ceil(n / columns)),
            metadata=TorqueLQR.metadata,
        )

    def optimal_gain(self, gamma: float = 0.99) -> np.ndarray:
        """K of the optimal actions a = -Kx for the discount gamma, of shape `(n, 2n)`.

        K = (R + γ BᵀPB)⁻¹ γ BᵀPA.
        """
        return self._gain(gamma, self._riccati(gamma))

    def optimal_cost(self, gamma: float = 0.99) -> float:
        """Mean discounted cost J* of an endless episode under the best policy.

        J* = E x₀·Px₀ = tr(P) / 3, because x₀ is uniform in [-1, 1]. It is exact if no optimal action is clipped, which
        holds up to 20 joints.
        """
        return float(np.trace(self._riccati(gamma))) / 3

    def cost_of_gain(self, gain: np.ndarray, gamma: float = 0.99, offset: np.ndarray | None = None) -> float:
        """Mean discounted cost of an endless episode under a = offset - gain x, without clipping.

        J = E x₀·Px₀ with P = Q + KᵀRK + γ (A - BK)ᵀ P (A - BK), a Lyapunov equation; infinite if the cost diverges.

        Args:
            gain: K, of shape `(n, 2n)`.
            gamma: Discount.
            offset: Of shape `(n,)`, or None for zeros.
        """
        from scipy.linalg import block_diag, solve_discrete_lyapunov

        n = self.n_joints
        # x is extended by a constant 1, so that a = -Lx and the offset is a column of L.
        L = np.column_stack([gain, np.zeros(n) if offset is None else -np.asarray(offset)])
        A, B = block_diag(self.A, 1.0), np.vstack([self.B, np.zeros(n)])
        spread = np.append(np.full(2 * n, 1 / 3), 1.0)
        if not np.any(L[:, -1]):
            A, B, L, spread = self.A, self.B, L[:, :-1], spread[:-1]
        Q = self.Q if len(spread) == 2 * n else block_diag(self.Q, 0.0)
        closed = math.sqrt(gamma) * (A - B @ L)
        if np.abs(np.linalg.eigvals(closed)).max() >= 1:
            return math.inf
        P = solve_discrete_lyapunov(closed.T, Q + L.T @ self.R @ L)
        return float(P.diagonal() @ spread)

    def optimum(self) -> float:
        """Minus the mean cost of 100 steps under the best policy, which knows the time left: Riccati's recursion.

        P ← Q + AᵀPA - AᵀPB (R + BᵀPB)⁻¹ BᵀPA, from 0.
        """
        P = np.zeros_like(self.Q)
        for _ in range(HORIZON):
            P = self.Q + self.A.T @ P @ (self.A - self.B @ self._gain(1.0, P))
        return -float(np.trace(P)) / 3

    def known_returns(self) -> dict[str, float]:
        """Exact returns of zero actions, random actions and the controller.

        E xxᵀ ← (A - BK) E xxᵀ (A - BK)ᵀ + s BBᵀ under a = noise - Kx, where the noise has the variance s.
        """
        returns = {}
        none = np.zeros_like(self._best_gain)
        for policy, K, s in (("zero", none, 0.0), ("random", none, 1 / 3), ("controller", self._best_gain, 0.0)):
            moments, cost, closed = np.eye(2 * self.n_joints) / 3, 0.0, self.A - self.B @ K
            for _ in range(HORIZON):
                cost += np.trace((self.Q + K.T @ self.R @ K) @ moments) + s * np.trace(self.R)
                moments = closed @ moments @ closed.T + s * self.B @ self.B.T
            returns[policy] = -float(cost)
        return returns

    def controller(self, states: np.ndarray) -> np.ndarray:
        """The optimal actions for the discount .99."""
        x = states[:, : 2 * self.n_joints]
        # One product per copy: a matrix product would add in an order that depends on their number.
        wanted = np.matmul(-self._best_gain, x[..., None])[..., 0]
        actions: np.ndarray = np.clip(wanted, -1.0, 1.0)
        return actions

    @cached_property
    def _best_gain(self) -> np.ndarray:
        return self.optimal_gain()

    def _reach(self) -> float:
        """A bound on all angles and speeds: the sum over time of the largest effects of the start and the actions."""
        start, forced, flow = np.zeros(2 * self.n_joints), np.zeros(2 * self.n_joints), np.eye(2 * self.n_joints)
        while np.abs(flow).sum(axis=1).max() > 0.01:
            start = np.maximum(start, np.abs(flow).sum(axis=1))
            forced += np.abs(flow @ self.B).sum(axis=1)
            flow = self.A @ flow
        return float(math.ceil((start + forced).max() / 0.99))  # the rest is at most a hundredth of the total

    def _riccati(self, gamma: float) -> np.ndarray:
        from scipy.linalg import solve_discrete_are

        check_number("gamma", gamma, at_least=0, at_most=1)
        root = math.sqrt(gamma)
        P: np.ndarray = solve_discrete_are(root * self.A, root * self.B, self.Q, self.R)
        return P

    def _gain(self, gamma: float, P: np.ndarray) -> np.ndarray:
        PB = gamma * self.B.T @ P
        gain: np.ndarray = np.linalg.solve(self.R + PB @ self.B, PB @ self.A)
        return gain

    def draw(self, state: np.ndarray, canvas: Canvas) -> None:
        """A dial per joint, whose hand points up at the angle 0."""
        columns = min(self.n_joints, 5)
        rows = math.ceil(self.n_joints / columns)
        canvas.view((-0.5, -rows + 0.5), (columns - 0.5, 0.5))
        for joint, angle in enumerate(state[: self.n_joints]):
            centre = np.array([joint % columns, -(joint // columns)])
            canvas.line([centre - np.array([0.6, 0]), centre], GREY, 2)
            canvas.circle(centre, 0.4, LIGHT)
            canvas.line([centre, centre + np.array([0, 0.4])], GREY, 2)
            canvas.line([centre, centre + 0.4 * np.array([np.sin(angle), np.cos(angle)])], BLUE, 5)
            canvas.circle(centre, 0.05, BLACK)


class TorqueLQR(WorldEnv):
    """A chain of discs joined by springs that must be brought to rest with little torque; its optimum is known exactly.

    ## Description
    The linear-quadratic regulator: the dynamics are linear and the cost is quadratic, so the best policy is linear and
    its cost solves a Riccati equation. The distance of a learnt policy from the optimum is known exactly for any number
    of joints.

    ## Action space
    `Box(-1, 1, (n,), float32)`: the torques of the joints, as fractions of 6. The actions of the best policy are at
    most .94 from any start (n up to 20), so they are never clipped.

    ## Observation space
    `Box(-b, b, (2n,), float32)`: the angles θ, then the speeds θ'. No sequence of actions can exceed b, which is 41 for
    one joint; the best policy stays below 2.

    ## Dynamics
    θ'' = -Kθ - .2 θ' + 6a with K = 4 tridiag(-1, 2, -1) whose last diagonal entry is 4: discs of inertia 1, springs of
    stiffness 4 between them and from the first to a wall; the last one is free. The solution is exact for steps of .1
    with constant torque: the next state x = (θ, θ') is Ax + Ba.

    ## Rewards
    -(.1/n) (θ·θ + .1 θ'·θ' + .1 τ·τ), with the torque τ = 6a, the state before the step, and n the number of joints.

    ## Start and end
    θ and θ' are uniform in [-1, 1]. An episode is truncated after 100 steps (`gym.make`'s `max_episode_steps`) and
    never terminates.

    ## Evaluation
    Deterministic. `env.unwrapped.dynamics` has the exact answers: `optimal_cost(gamma)`, `optimal_gain(gamma)`,
    `cost_of_gain(gain, gamma)`, and `optimum()`, minus the cost of 100 undiscounted steps under the best policy.

    ## Version history
    * v0: first version.

    Args:
        n_joints: Number of discs.
        render_mode: None, `"rgb_array"` or `"human"`.
    """

    metadata: dict[str, Any] = {
        **METADATA,
        "render_fps": 10,
        "reference_scores": partial(computed_scores, "pg/TorqueLQR-v0"),
    }

    def __init__(self, n_joints: int = 1, render_mode: str | None = None) -> None:
        self.dynamics = LQRDynamics(n_joints)
        super().__init__(self.dynamics.world(), render_mode)


class TorqueLQRVector(WorldVector):
    """Many chains at once; see `TorqueLQR` and, for the arguments, `WorldVector`."""

    def __init__(
        self,
        num_envs: int = 1,
        n_joints: int = 1,
        max_episode_steps: int | None = HORIZON,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        self.dynamics = LQRDynamics(n_joints)
        super().__init__(self.dynamics.world(), num_envs, max_episode_steps, autoreset_mode, render_mode)
