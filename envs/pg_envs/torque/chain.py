"""Motion of a planar chain of rods with its true mass matrix, in O(n) operations for n rods.

All formulas are in the angles φ_i of the rods against the x axis; joint i's angle is q_i = φ_i - φ_{i-1}. There is no
gravity. For rods of mass m = 1/n and length l = 1/n, with W_ij = m l² a_ij, a_ij = n - max(i, j) + 1/2, a_ii = n - i +
1/3, Lagrange's equations are

    Σ_j W_ij (cos(φ_i - φ_j) φ_j'' + sin(φ_i - φ_j) φ_j'²) = t_i - t_{i+1},    t_i = τ_i - d_i q_i' - A q_i'',

where t_i is the torque that passes joint i: the motor's, less damping and what turns its rotor of inertia A = .02.

The functions are compiled, because NumPy needs some 3,000 calls for a step of 20 joints. They treat one chain after the
other, so that a chain's motion does not depend on how many there are.
"""

# ruff: noqa: N803, N806 - inertias have the capital letters that every book gives them

from __future__ import annotations

import math

import numpy as np
from numba import float64, int64, njit, void

ROTOR = 0.02

compiled = njit(nogil=True, cache=True, error_model="numpy")


class Chain:
    """A chain of n rods on motors, each as strong as the inertia that it turns when the arm is straight.

    Args:
        n_joints: n.
        dt: Time of a step.
        substeps: Into how many parts a step is divided.
        damping: Of a joint, as a multiple of that inertia. 8 gives a joint alone the top speed of the geared arm, 2.5.

    Attributes:
        inertia: That each joint turns when the arm is straight, `(n,)`.
        max_torque: Of the motors, 20 times that.
        damping: `(n,)`.
    """

    def __init__(self, n_joints: int, dt: float = 0.05, substeps: int = 2, damping: float = 8.0) -> None:
        self.n = n_joints
        self.dt = dt
        self.substeps = substeps
        self.inertia = ROTOR + (np.arange(n_joints, 0, -1) / n_joints) ** 3 / 3
        self.max_torque = 20 * self.inertia
        self.damping = damping * self.inertia

    def move(self, q: np.ndarray, speed: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Angles and speeds of the joints after one step.

        Args:
            q: Angles before it, `(n, copies)`.
            speed: Speeds before it, likewise.
            actions: Torques as parts of the largest, likewise.
        """
        new_q, new_speed = np.empty_like(q), np.empty_like(speed)
        torques = self.max_torque[:, None] * actions
        move(q.T, speed.T, torques.T, self.damping, self.dt, self.substeps, new_q.T, new_speed.T)
        return new_q, new_speed

    def fastest(self) -> float:
        """A speed that no joint can reach, because before it the damping takes more power than the motors have.

        Energy grows only while Σ d_i q_i'² < Σ τ_i |q_i'|, so only where Σ I_i q_i'² ≤ (20 / 8)² Σ I_i; there it is at
        most n / 2 times that sum, as the mass matrix is at most n diag(I), and A q_i'² / 2 cannot be more.
        """
        return float(20 / 8 * np.sqrt(self.n * self.inertia.sum() / ROTOR))

    def mass_matrix(self, angles: np.ndarray) -> np.ndarray:
        """W_ij cos(φ_i - φ_j) with what the rotors add, from the rods' angles `(n,)`."""
        outer = np.arange(self.n, 0, -1)
        a = np.minimum.outer(outer, outer) - 0.5 - np.eye(self.n) / 6
        joints = np.eye(self.n) - np.eye(self.n, k=-1)
        matrix: np.ndarray = a * np.cos(np.subtract.outer(angles, angles)) / self.n**3 + ROTOR * joints.T @ joints
        return matrix

    def energy(self, q: np.ndarray, speed: np.ndarray) -> float:
        """Kinetic energy φ'·Mφ' / 2 of one chain; there is no other."""
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

    The rods from i on, whose joint is accelerated by a while rod i gets α, answer with the torque Jα + h·a and the
    force hα + Ma. Joint i's own equation, (J + A) α + h·a = A α' with α' of the rod before, fixes α. So they answer a
    and α' in the same form, with J A / (J + A), h A / (J + A) and M - hhᵀ / (J + A), and from the other end of the rod
    before with J + 2 r·h + r·Mr, h + Mr and M, where r is that rod turned by a right angle. A rod is as good as half
    its mass at either end and the inertia -m l² / 6.

    Args:
        x: The rods' x components, `(n,)`.
        y: The rods' y components, `(n,)`.
        A: Inertia of each joint's rotor, with what stands for it, `(n,)`.
        factors: Receives 1 / (J + A), (A - r·h) / (J + A), the parts of h, and those of h / (J + A), `(6, n)`.
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
        passed_on = left + kx * y[i - 1] - ky * x[i - 1]  # without a meaning for the first rod
        factors[0, i], factors[1, i] = inverse, passed_on
        factors[2, i], factors[3, i], factors[4, i], factors[5, i] = gx, gy, kx, ky
        xx, xy, yy = xx - gx * kx + m, xy - gx * ky, yy - gy * ky + m
        J, hx, hy = J * left, gx * left, gy * left


@compiled
def solve(x: np.ndarray, y: np.ndarray, factors: np.ndarray, torques: np.ndarray, result: np.ndarray) -> None:
    """The accelerations φ'' that torques on the rods give: torques on to the base, accelerations back to the tip.

    The mass matrix is symmetric: what part of a torque goes on to the rod before, that part of the rod's acceleration
    comes back.

    Args:
        x: As in `factor`.
        y: As in `factor`.
        factors: What `factor` gave.
        torques: `(n,)`.
        result: Receives the accelerations, `(n,)`.
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

    a_ij = Σ_{k ≥ i} [j ≤ k] - 1/2, except where i = j, which does not matter.
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


# One signature for arrays in any order, so that a batch and a single chain share one compilation.
@njit(
    void(float64[:, :], float64[:, :], float64[:, :], float64[:], float64, int64, float64[:, :], float64[:, :]),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def move(
    q: np.ndarray,
    speed: np.ndarray,
    torques: np.ndarray,
    damping: np.ndarray,
    dt: float,
    substeps: int,
    new_q: np.ndarray,
    new_speed: np.ndarray,
) -> None:
    """One step of chains, in substeps by the midpoint rule.

    A substep takes the forces where the chain would be after half of it, at the mean of the speeds before and after,
    which a first solution predicts. Damping is by the speed after the substep, so that it may be as stiff as it likes.

    Args:
        q: Angles of the joints, `(copies, n)`.
        speed: Their speeds, likewise.
        torques: Their motors', likewise.
        damping: d, `(n,)`.
        dt: Time of the step.
        substeps: How many.
        new_q: Receives the angles after the step, `(copies, n)`.
        new_speed: Receives the speeds, likewise.
    """
    copies, n = q.shape
    h = dt / substeps
    A = ROTOR + h * damping
    angle, turn, x, y, drive, push, acceleration, mean = np.empty((8, n))
    factors = np.empty((6, n))
    for c in range(copies):
        phi, omega = 0.0, 0.0
        for i in range(n):
            phi += q[c, i]
            omega += speed[c, i]
            angle[i], turn[i] = phi, omega
        for _ in range(substeps):
            after = 0.0
            for i in range(n - 1, -1, -1):
                middle = angle[i] + h / 2 * turn[i]
                x[i], y[i] = math.cos(middle) / n, math.sin(middle) / n
                own = torques[c, i] - damping[i] * (turn[i] - (turn[i - 1] if i > 0 else 0.0))
                drive[i] = own - after
                after = own
            factor(x, y, A, factors)
            mean[:] = turn
            for _ in range(2):
                push[:] = drive
                subtract_centrifugal(x, y, mean, push)
                solve(x, y, factors, push, acceleration)
                for i in range(n):
                    mean[i] = turn[i] + h / 2 * acceleration[i]
            for i in range(n):
                angle[i] += h * mean[i]
                turn[i] += h * acceleration[i]
        phi, omega = 0.0, 0.0
        for i in range(n):
            new_q[c, i], new_speed[c, i] = angle[i] - phi, turn[i] - omega
            phi, omega = angle[i], turn[i]
