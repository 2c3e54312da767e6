"""Motion of a planar chain of rods with its true mass matrix, in O(n) operations for n rods.

All formulas are in the angles φ_i of the rods against the x axis; joint i's angle is q_i = φ_i - φ_{i-1}. There is no
gravity. For rods of mass m = 1/n and length l = 1/n, with W_ij = m l² a_ij, a_ij = n - max(i, j) + 1/2, a_ii = n - i +
1/3, Lagrange's equations are

    Σ_j W_ij (cos(φ_i - φ_j) φ_j'' + sin(φ_i - φ_j) φ_j'²) = t_i - t_{i+1},    t_i = τ_i - d_i q_i' - A q_i'',

where t_i is the torque through joint i: that of the motor, less damping and the acceleration of its rotor, of inertia
A = .02.

"""

# ruff: noqa: N803, N806 - inertias have the capital letters of the literature

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pg_envs.worlds import compiled

ROTOR = 0.02


class Chain:
    """A chain of n rods with motors, each as strong as the inertia about its joint when the arm is straight.

    Args:
        n_joints: Number of joints, n.
        dt: Duration of a step.
        substeps: Number of parts of a step.
        damping: Damping of a joint, as a multiple of that inertia. 8 gives a single joint the top speed of the geared
            arm, 2.5.

    Attributes:
        inertia: Inertia about each joint when the arm is straight, of shape `(n,)`.
        max_torque: Largest torque of each motor, 20 times the inertia, of shape `(n,)`.
        damping: Damping of each joint, of shape `(n,)`.
    """

    def __init__(self, n_joints: int, dt: float = 0.05, substeps: int = 2, damping: float = 8.0) -> None:
        self.n = n_joints
        self.dt = dt
        self.substeps = substeps
        self.inertia = ROTOR + (np.arange(n_joints, 0, -1) / n_joints) ** 3 / 3
        self.max_torque = 20 * self.inertia
        self.damping = damping * self.inertia

    def constants(self) -> np.ndarray:
        """The constants of `move`: n, the duration and number of substeps, the largest torques, and the damping."""
        return np.concatenate([[self.n, self.dt / self.substeps, self.substeps], self.max_torque, self.damping])

    def fastest(self) -> float:
        """A bound on the speed of the joints: below it, damping already takes more power than the motors supply.

        Energy grows only while Σ d_i q_i'² < Σ τ_i |q_i'|, hence only where Σ I_i q_i'² ≤ (20 / 8)² Σ I_i. There the
        energy is at most n / 2 times that sum, because the mass matrix is at most n diag(I). A q_i'² / 2 is at most the
        energy.
        """
        return float(20 / 8 * np.sqrt(self.n * self.inertia.sum() / ROTOR))

    def mass_matrix(self, angles: np.ndarray) -> np.ndarray:
        """W_ij cos(φ_i - φ_j) plus the inertia of the rotors, for rod angles of shape `(n,)`."""
        outer = np.arange(self.n, 0, -1)
        a = np.minimum.outer(outer, outer) - 0.5 - np.eye(self.n) / 6
        joints = np.eye(self.n) - np.eye(self.n, k=-1)
        matrix: np.ndarray = a * np.cos(np.subtract.outer(angles, angles)) / self.n**3 + ROTOR * joints.T @ joints
        return matrix

    def energy(self, q: np.ndarray, speed: np.ndarray) -> float:
        """Kinetic energy φ'·Mφ' / 2 of one chain, which is its total energy."""
        turn = np.cumsum(speed)
        return float(turn @ self.mass_matrix(np.cumsum(q)) @ turn) / 2

    def accelerations(self, angles: np.ndarray, turn: np.ndarray, torques: np.ndarray) -> np.ndarray:
        """φ'' of one chain without damping, from φ, φ' and the torques on the rods, all `(n,)`."""
        x, y, push, result = np.cos(angles) / self.n, np.sin(angles) / self.n, torques.copy(), np.empty(self.n)
        rotors, factors = np.full(self.n, ROTOR), np.empty((6, self.n))
        subtract_centrifugal(x, y, turn, push)
        factor(x, y, rotors, factors)
        solve(x, y, factors, push, result)
        return result


@compiled
def factor(x: np.ndarray, y: np.ndarray, A: np.ndarray, factors: np.ndarray) -> None:
    """Factorise the mass matrix by the articulated-body recursion (Featherstone, 1983), from the tip to the base.

    If joint i has the linear acceleration a and rod i the angular acceleration α, the rods from i on react with the
    torque Jα + h·a and the force hα + Ma. The equation of joint i, (J + A) α + h·a = A α', with α' of the previous rod,
    determines α. The reaction to a and α' therefore has the same form, with J A / (J + A), h A / (J + A) and
    M - hhᵀ / (J + A). At the other end of the previous rod it becomes J + 2 r·h + r·Mr, h + Mr and M, where r is that
    rod rotated by a right angle. A rod is equivalent to half its mass at either end and the inertia -m l² / 6.

    Args:
        x: The rods' x components, of shape `(n,)`.
        y: The rods' y components, of shape `(n,)`.
        A: Inertia of each joint's rotor, including implicit damping, of shape `(n,)`.
        factors: Receives 1 / (J + A), (A - r·h) / (J + A), the parts of h, and those of h / (J + A), of shape `(6, n)`.
    """
    n = len(x)
    m = 1 / n
    J, hx, hy = 0.0, 0.0, 0.0
    xx, xy, yy = m / 2, 0.0, m / 2
    for i in range(n - 1, -1, -1):
        rx, ry = -y[i], x[i]
        gx, gy = hx + xx * rx + xy * ry, hy + xy * rx + yy * ry
        J += rx * (hx + gx) + ry * (hy + gy) - m / n**2 / 6
        inverse = 1 / (J + A[i])
        kx, ky, left = gx * inverse, gy * inverse, A[i] * inverse
        passed_on = left + kx * y[i - 1] - ky * x[i - 1]  # meaningless for the first rod
        factors[0, i], factors[1, i] = inverse, passed_on
        factors[2, i], factors[3, i], factors[4, i], factors[5, i] = gx, gy, kx, ky
        xx, xy, yy = xx - gx * kx + m, xy - gx * ky, yy - gy * ky + m
        J, hx, hy = J * left, gx * left, gy * left


@compiled
def solve(x: np.ndarray, y: np.ndarray, factors: np.ndarray, torques: np.ndarray, result: np.ndarray) -> None:
    """The accelerations φ'' from torques on the rods: torques pass down to the base, accelerations back up to the tip.

    The mass matrix is symmetric, so a rod passes on the same fraction of its torque to the previous rod as it receives
    of that rod's acceleration.

    Args:
        x: The rods' x components, of shape `(n,)`.
        y: The rods' y components, of shape `(n,)`.
        factors: The result of `factor`.
        torques: Torques on the rods, of shape `(n,)`.
        result: Receives the accelerations, of shape `(n,)`.
    """
    n = len(x)
    inverse, passed_on, hx, hy, kx, ky = factors
    torque, fx, fy = torques[n - 1], 0.0, 0.0
    for i in range(n - 1, 0, -1):
        result[i] = torque * inverse[i]
        torque = torques[i - 1] + (x[i - 1] * fy - y[i - 1] * fx) + passed_on[i] * torque
        fx, fy = fx - hx[i] * result[i], fy - hy[i] * result[i]
    result[0] = torque * inverse[0]
    ax, ay = 0.0, 0.0
    for i in range(1, n):
        result[i] += passed_on[i] * result[i - 1] - (kx[i] * ax + ky[i] * ay)
        ax, ay = ax - y[i - 1] * result[i - 1], ay + x[i - 1] * result[i - 1]


@compiled
def subtract_centrifugal(x: np.ndarray, y: np.ndarray, turn: np.ndarray, torques: np.ndarray) -> None:
    """Subtract Σ_j W_ij sin(φ_i - φ_j) φ_j'² from torques, by two running sums.

    a_ij = Σ_{k ≥ i} [j ≤ k] - 1/2, except for i = j, where the sine is 0.
    """
    n = len(x)
    m = 1 / n
    sx, sy = 0.0, 0.0
    for k in range(n):
        sx += m * turn[k] ** 2 * x[k]
        sy += m * turn[k] ** 2 * y[k]
    tx, ty = -sx / 2, -sy / 2
    for i in range(n - 1, -1, -1):
        tx += sx
        ty += sy
        torques[i] -= y[i] * tx - x[i] * ty
        sx -= m * turn[i] ** 2 * x[i]
        sy -= m * turn[i] ** 2 * y[i]


@compiled
def move(state: Any, action: Any, constants: Any) -> None:
    """One step of a chain, in substeps by the midpoint rule.

    A substep takes the forces at the chain's predicted position after half of it, with the mean of the speeds before
    and after, which a first solution predicts. Damping acts on the speed after the substep, so it may be arbitrarily
    stiff.

    Args:
        state: Its first 2n numbers are the angles and the speeds of the joints, which are read and written.
        action: Torques of the motors as fractions of the largest, n numbers.
        constants: Those of `Chain.constants`.
    """
    n, h, substeps = int(constants[0]), constants[1], int(constants[2])
    work = np.empty((15, n))
    angle, turn, x, y, drive, push, acceleration, mean, A = (
        work[0], work[1], work[2], work[3], work[4], work[5], work[6], work[7], work[8]
    )  # fmt: skip
    factors = work[9:]
    phi, omega = 0.0, 0.0
    for i in range(n):
        phi += state[i]
        omega += state[n + i]
        angle[i], turn[i] = phi, omega
        A[i] = ROTOR + h * constants[3 + n + i]
    for _ in range(substeps):
        after, before = 0.0, 0.0
        for i in range(n - 1, -1, -1):
            middle = angle[i] + h / 2 * turn[i]
            x[i], y[i] = math.cos(middle) / n, math.sin(middle) / n
            before = turn[i - 1] if i > 0 else 0.0
            own = constants[3 + i] * np.float64(action[i]) - constants[3 + n + i] * (turn[i] - before)
            drive[i] = own - after
            after = own
        factor(x, y, A, factors)
        for i in range(n):
            mean[i] = turn[i]
        for _ in range(2):
            for i in range(n):
                push[i] = drive[i]
            subtract_centrifugal(x, y, mean, push)
            solve(x, y, factors, push, acceleration)
            for i in range(n):
                mean[i] = turn[i] + h / 2 * acceleration[i]
        for i in range(n):
            angle[i] += h * mean[i]
            turn[i] += h * acceleration[i]
    phi, omega = 0.0, 0.0
    for i in range(n):
        state[i], state[n + i] = angle[i] - phi, turn[i] - omega
        phi, omega = angle[i], turn[i]
