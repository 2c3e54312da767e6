"""Motion of a planar chain of rods with its true mass matrix, for many chains at once, in O(n) operations.

Everything here is in the angles φ of the links against the x axis, joints first: arrays of shape `(n, copies)`, and
vectors of the plane `(2, n, copies)`. There is no gravity. With W_ij = m l² a_ij, a_ij = n - max(i, j) + 1/2 and
a_ii = n - i + 1/3, for n rods of mass m = 1/n and length l = 1/n,

    Σ_j W_ij (cos(φ_i - φ_j) φ_j'' + sin(φ_i - φ_j) φ_j'²) = t_i - t_{i+1},    t_i = τ_i - d_i q_i' - b q_i'',

where t_i is joint i's torque and q_i = φ_i - φ_{i-1} its angle: the motor's, less damping and what turns its rotor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ARMATURE = 0.02


def running_sum(rows: np.ndarray) -> np.ndarray:
    """Sums along the first axis, in an order that does not depend on the length of the rows."""
    sums = np.empty_like(rows)
    sums[0] = rows[0]
    for i in range(1, len(rows)):
        np.add(sums[i - 1], rows[i], out=sums[i])
    return sums


def differences(rows: np.ndarray) -> np.ndarray:
    """The inverse of `running_sum`."""
    return np.concatenate([rows[:1], rows[1:] - rows[:-1]])


class Factor(NamedTuple):
    """What a factorised mass matrix knows of one joint, in the terms of `Chain.factor`; arrays of shape `(copies,)`."""

    inverse: np.ndarray  # 1 / (J + A)
    share: np.ndarray  # A / (J + A)
    hx: np.ndarray
    hy: np.ndarray
    kx: np.ndarray  # h / (J + A)
    ky: np.ndarray


class Chain:
    """A chain of n rods.

    Args:
        n_joints: n.
        dt: Time of a step.
        substeps: Into how many parts a step is divided.
        damping: Of a joint, as a multiple of the inertia that it turns when the arm is straight.

    Attributes:
        max_torque: Of each joint, `(n, 1)`: 20 times that inertia.
    """

    def __init__(self, n_joints: int, dt: float = 0.05, substeps: int = 2, damping: float = 8.0) -> None:
        self.n = n = n_joints
        self.m = self.l = 1 / n
        self.h = dt / substeps
        self.substeps = substeps
        outer = np.arange(n, 0, -1)[:, None]  # n - i + 1: how many links joint i turns
        inertia = ARMATURE + (outer / n) ** 3 / 3
        self.max_torque = 20 * inertia
        self.damping = damping * inertia
        self._weights = outer - 0.5

    def move(self, q: np.ndarray, speed: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Angles and speeds of the joints after one step, from those before and the torques as parts of the largest.

        Each substep is the midpoint rule: forces where the chain would be after half the substep, with the mean of the
        speeds before and after, which a second solution corrects. The damping is that of the speed after the substep,
        so that it can be as stiff as it likes.
        """
        angle, turn = running_sum(q), running_sum(speed)
        torque = self.max_torque * actions
        armature = (ARMATURE + self.h * self.damping)[:, 0]
        for _ in range(self.substeps):
            links = self.links(angle + self.h / 2 * turn)
            factors = self.factor(links, armature)
            joint = torque - self.damping * differences(turn)
            drive = joint.copy()
            drive[:-1] -= joint[1:]
            mean = turn
            for _ in range(2):
                acceleration = self.solve(links, armature, factors, drive - self.centrifugal(links, mean))
                mean = turn + self.h / 2 * acceleration
            angle = angle + self.h * mean
            turn = turn + self.h * acceleration
        return differences(angle), differences(turn)

    def links(self, angle: np.ndarray) -> np.ndarray:
        """The links as vectors l (cos φ, sin φ), of shape `(2, n, copies)`."""
        # NumPy's cos and sin are sixteen times as fast in float32, and its 1e-7 is below the midpoint rule's error.
        angle = angle.astype(np.float32)
        return self.l * np.stack([np.cos(angle), np.sin(angle)]).astype(np.float64)

    def centrifugal(self, links: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """The torques Σ_j W_ij sin(φ_i - φ_j) φ_j'², by two running sums."""
        pull = links * (self.m * turn * turn)
        total = [
            # j ≤ i, then j > i; j = i does not matter
            self._weights * running_sum(rows) + (running_sum((self._weights * rows)[::-1])[::-1] - self._weights * rows)
            for rows in pull
        ]
        torque: np.ndarray = links[1] * total[0] - links[0] * total[1]
        return torque

    def factor(self, links: np.ndarray, armature: np.ndarray) -> list[Factor]:
        """Factorise the mass matrix by the articulated-body recursion, from the tip to the base.

        The links from i on, accelerated by a at joint i while link i gets α, answer with the torque Jα + h·a and the
        force hα + Ma. Joint i's own equation, (J + A) α + h·a = A α', with α' of the link before and its rotor's
        inertia A, fixes α: they answer a and α' in the same form, with J A / (J + A), h A / (J + A) and
        M - hhᵀ / (J + A). To this the link before is added, seen from its own joint: J + 2 r·h + r·Mr, h + Mr and M,
        with r the link turned by a right angle.
        """
        m, own = self.m, self.m * self.l**2 / 3
        x, y = links
        factors = []
        J, hx, hy = np.array([own]), -0.5 * m * y[-1], 0.5 * m * x[-1]
        xx, xy, yy = m, 0.0, m  # M, which is symmetric
        for i in range(self.n - 1, -1, -1):
            inverse = 1 / (J + armature[i])
            share, kx, ky = armature[i] * inverse, hx * inverse, hy * inverse
            factors.append(Factor(inverse, share, hx, hy, kx, ky))
            if i > 0:
                rx, ry = -y[i - 1], x[i - 1]
                xx, xy, yy = xx - hx * kx, xy - hx * ky, yy - hy * ky
                hx, hy = share * hx, share * hy
                vx, vy = hx + (xx * rx + xy * ry), hy + (xy * rx + yy * ry)
                J = share * J + (own + rx * (hx + vx) + ry * (hy + vy))
                hx, hy = vx + 0.5 * m * rx, vy + 0.5 * m * ry
                xx, yy = xx + m, yy + m
        return factors[::-1]

    def solve(
        self, links: np.ndarray, armature: np.ndarray, factors: list[Factor], torques: np.ndarray
    ) -> np.ndarray:
        """The accelerations φ'' that torques on the links give: torques on to the base, accelerations back."""
        x, y = links
        accelerations = np.empty_like(torques)
        torque, fx, fy = torques[-1], 0.0, 0.0
        for i in range(self.n - 1, -1, -1):
            inverse, _, hx, hy, _, _ = factors[i]
            own = np.multiply(torque, inverse, out=accelerations[i])
            if i > 0:
                fx, fy = fx - hx * own, fy - hy * own
                torque = torques[i - 1] + armature[i] * own + (x[i - 1] * fy - y[i - 1] * fx)
        ax, ay = -own * y[0], own * x[0]
        for i in range(1, self.n):
            _, share, _, _, kx, ky = factors[i]
            own = accelerations[i]
            own += share * accelerations[i - 1] - (kx * ax + ky * ay)
            ax, ay = ax - own * y[i], ay + own * x[i]
        return accelerations

    def mass_matrix(self, angle: np.ndarray) -> np.ndarray:
        """M_ij = W_ij cos(φ_i - φ_j) and the rotors' inertia, for each copy: `(copies, n, n)`."""
        outer = np.arange(self.n, 0, -1)
        a = np.minimum.outer(outer, outer) - 0.5 - np.eye(self.n) / 6
        turned = np.eye(self.n) - np.eye(self.n, k=-1)
        cosines: np.ndarray = np.cos(angle.T[:, :, None] - angle.T[:, None, :])
        return self.m * self.l**2 * a * cosines + ARMATURE * turned.T @ turned

    def energy(self, q: np.ndarray, speed: np.ndarray) -> np.ndarray:
        """Kinetic energy φ'·Mφ' / 2, `(copies,)`; there is no other."""
        turn = running_sum(speed).T
        energy: np.ndarray = np.einsum("ci,cij,cj->c", turn, self.mass_matrix(running_sum(q)), turn) / 2
        return energy
