"""A planar arm whose tip must reach a goal: continuous torque on 2, 7, 20 or any number of joints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.batched import Batched, Dynamics, Single, Step
from pg_envs.checks import check_choice, check_number
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, BLUE, GREEN, LIGHT, ORANGE, Canvas

DT = 0.05
NEAR = 0.05
Motion = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class ArmState(NamedTuple):
    """The state of the arms, with derived quantities that are needed several times.

    Joints come first in memory, so that sums along an arm are sums of long rows: the arrays are transposed views.

    Attributes:
        q: Angles of the joints, each relative to the previous link, of shape `(copies, n_joints)`.
        speed: Speeds of the joints, of the same shape.
        goal: Position of the goal, of shape `(copies, 2)`.
        tip: Position of the end of the last link, of shape `(copies, 2)`.
        pull: Jᵀ(goal - tip), the joint torques of a force on the tip towards the goal, of shape `(copies, n_joints)`.
    """

    q: np.ndarray
    speed: np.ndarray
    goal: np.ndarray
    tip: np.ndarray
    pull: np.ndarray


class ArmDynamics(Dynamics[ArmState]):
    """The arm's equations: see `TorqueArm`."""

    image_size = (480, 480)

    def __init__(self, n_joints: int = 2, dynamics: str = "geared") -> None:
        check_number("n_joints", n_joints, at_least=1, integer=True)
        check_choice("dynamics", dynamics, ("geared", "chain"))
        n = self.n_joints = int(n_joints)
        if dynamics == "geared":
            self._move: Motion = geared
            fastest = 2.5
            self.stiffness, self.damping = np.full(n, 30.0), 1.0
        else:
            from pg_envs.torque.chain import Chain  # imported on demand, because it is compiled

            chain = Chain(n, DT)
            self._move = chain.move
            fastest = chain.fastest()
            self.stiffness, self.damping = 16 / (n * chain.inertia), 0.6
        bounds = [1.0] * 2 * n + [0.2 * fastest] * n + [1.0, 1.0, 2.0, 2.0] + [6.0] * n
        high = 1.01 * np.array(bounds, dtype=np.float32)  # room for rounding
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (n,), np.float32)

    def start(self, rngs: Sequence[np.random.Generator]) -> ArmState:
        """At rest and almost straight, with a goal in the half disc in front."""
        q = 0.1 * np.stack([rng.standard_normal(self.n_joints) for rng in rngs], axis=1)
        base, radius, angle = np.stack([rng.random(3) for rng in rngs], axis=1)
        q[0] = 0.2 * base - 0.1
        radius, angle = 0.3 + 0.6 * radius, np.pi * (angle - 0.5)
        goal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return self._state(q, np.zeros_like(q), goal)

    def step(self, state: ArmState, actions: np.ndarray) -> Step[ArmState]:
        """The joints move; the reward is -|goal - tip| - .05 mean(a²) + .5 [|goal - tip| < .05]."""
        # These are copies only if some arms have just been reset.
        q, speed, forward = (np.ascontiguousarray(part.T) for part in (state.q, state.speed, actions))
        new = self._state(*self._move(q, speed, forward), state.goal)
        distance = self._distance(new)
        effort = np.einsum("ij,ij->i", actions, actions) / self.n_joints
        rewards = -distance - 0.05 * effort + 0.5 * (distance < NEAR)
        return new, rewards, np.zeros(len(distance), dtype=np.bool_)

    def observe(self, state: ArmState) -> np.ndarray:
        """The vector (cos q, sin q, .2 q', tip, goal - tip, 3 Jᵀ(goal - tip))."""
        q = state.q.astype(np.float32)
        parts = [np.cos(q), np.sin(q), 0.2 * state.speed, state.tip, state.goal - state.tip, 3 * state.pull]
        return np.concatenate([part.astype(np.float32, copy=False) for part in parts], axis=1)

    def info(self, state: ArmState) -> dict[str, np.ndarray]:
        """`distance` of the tip from the goal, and `is_success`, whether it is less than .05."""
        distance = self._distance(state)
        return {"distance": distance, "is_success": distance < NEAR}

    def controller(self, state: ArmState) -> np.ndarray:
        """A force that pulls the tip to the goal, by the transposed Jacobian, and damping: see `pull_and_damp`."""
        return self.pull_and_damp(state, self.stiffness, self.damping)

    def pull_and_damp(self, state: ArmState, stiffness: float | np.ndarray, damping: float) -> np.ndarray:
        """Actions `stiffness` Jᵀ(goal - tip) - `damping` q', clipped.

        Args:
            state: The arms' state.
            stiffness: Stiffness, one for all joints or one per joint.
            damping: Damping, the same for all joints.
        """
        actions: np.ndarray = np.clip(stiffness * state.pull - damping * state.speed, -1.0, 1.0)
        return actions

    def _state(self, q: np.ndarray, speed: np.ndarray, goal: np.ndarray) -> ArmState:
        """A state from angles and speeds with joints first, `(n_joints, copies)`."""
        # In float32, the observation's precision, NumPy's cos and sin are sixteen times as fast.
        angle = running_sum(q).astype(np.float32)
        # The vector from the base of link i to the tip, in lengths of a link: the sum of the links i, i + 1, ...
        x, y = (running_sum(part[::-1])[::-1] for part in (np.cos(angle), np.sin(angle)))
        tip = np.stack([x[0], y[0]], axis=1) / np.float32(self.n_joints)
        to_goal = np.ascontiguousarray((goal - tip).T / self.n_joints, dtype=np.float32)
        return ArmState(q.T, speed.T, goal, tip, (x * to_goal[1] - y * to_goal[0]).T)

    @staticmethod
    def _distance(state: ArmState) -> np.ndarray:
        away = state.goal - state.tip
        distance: np.ndarray = np.sqrt(away[:, 0] ** 2 + away[:, 1] ** 2)
        return distance

    def draw(self, state: ArmState, canvas: Canvas) -> None:
        """The reachable disc, the goal, links and joints."""
        canvas.view((-1.1, -1.1), (1.1, 1.1))
        canvas.circle((0, 0), 1.0, LIGHT)
        canvas.circle(state.goal[0], NEAR, GREEN)
        angles = np.cumsum(state.q[0])
        joints = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], axis=1), axis=0) / self.n_joints
        points = np.vstack([np.zeros(2), joints])
        canvas.line(list(points), BLUE, 6)
        for point in points[:-1]:
            canvas.circle(point, 0.02, BLACK)
        canvas.circle(points[-1], 0.025, ORANGE)


def running_sum(rows: np.ndarray) -> np.ndarray:
    """Sums along the first axis, in an order that does not depend on the length of the rows."""
    sums = np.empty_like(rows)
    sums[0] = rows[0]
    for i in range(1, len(rows)):
        np.add(sums[i - 1], rows[i], out=sums[i])
    return sums


def geared(q: np.ndarray, speed: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step of joints whose rotor inertia dominates that of the links: q'' = 5a - 2q', with implicit damping.

    q' ← (q' + 5a dt) / (1 + 2 dt), then q ← q + q' dt.
    """
    speed = (speed + DT * 5 * actions) / (1 + 2 * DT)
    return q + DT * speed, speed


class TorqueArm(Single[ArmState]):
    """A planar arm of n joints whose tip must reach a goal and stay there.

    ## Description
    Continuous torque at scale: n joints, of which n - 2 are redundant. Joint bins for all joints are hopeless (100 bins
    on 20 joints are 10⁴⁰ actions); a Gaussian, or separate bins for each joint, are not.

    ## Action space
    `Box(-1, 1, (n,), float32)`: the torques of the motors, as fractions of their maximum.

    ## Observation space
    `Box(-b, b, (4n + 4,), float32)`:

    | entries | value |
    |---|---|
    | n | cos q, with the angles q of the joints, each relative to the previous link |
    | n | sin q |
    | n | .2 q', with the speeds q' |
    | 2 | the tip |
    | 2 | goal - tip |
    | n | 3 Jᵀ(goal - tip), the joint torques of a force on the tip towards the goal |

    ## Dynamics
    Links of length 1/n; no gravity; steps of .05.

    * `"geared"`: the inertia of the rotors, times the squared gear ratio, dominates that of the links: q'' = 5a - 2q',
      with implicit damping, q' ← (q' + .25a) / 1.1, q ← q + .05 q'.
    * `"chain"`: uniform rods of mass 1/n with their true mass matrix (`pg_envs.torque.chain`), rotors of inertia .02,
      torques of at most 20 I_i and damping 8 I_i, where I_i = .02 + ((n - i + 1)/n)³/3 is the inertia about joint i of
      the straight arm. A step has two substeps. Without damping, from speeds of about 1 rad/s, the energy stays within
      2 % for 100 steps (20 joints; .1 % on average).

    Angles and speeds are float64; the observation, the tip, and hence the reward are computed in float32.

    ## Rewards
    -|goal - tip| - .05 mean(a²) + .5 [|goal - tip| < .05], after the step.

    ## Start and end
    The arm starts at rest. The angle of its base is uniform in ±.1; the other angles are normal with standard deviation
    .1. The goal's radius is uniform in (.3, .9) and its angle in ±π/2. An episode is truncated after 100 steps
    (`gym.make`'s `max_episode_steps`) and never terminates. The info has `distance`, between tip and goal, and
    `is_success`, whether it is less than .05.

    ## Evaluation
    Deterministic. The reference is a controller that knows the Jacobian, a = k Jᵀ(goal - tip) - d q', with k = 30,
    d = 1 (geared), or k = 16 / (n I_i), d = .6 (chain). These gains are among the best of a coarse grid at 2, 7 and 20
    joints.

    ## Version history
    * v0: first version.

    Args:
        n_joints: Number of joints.
        dynamics: `"geared"` or `"chain"`.
        render_mode: None, `"rgb_array"` or `"human"`.
    """

    metadata: dict[str, Any] = {
        **Single.metadata,
        "reference_scores": partial(computed_scores, "pg/TorqueArm-v0"),
    }

    def __init__(self, n_joints: int = 2, dynamics: str = "geared", render_mode: str | None = None) -> None:
        super().__init__(ArmDynamics(n_joints, dynamics), render_mode)


class TorqueArmVector(Batched[ArmState]):
    """Many arms at once; see `TorqueArm` and, for the arguments, `Batched`."""

    def __init__(
        self,
        num_envs: int = 1,
        n_joints: int = 2,
        dynamics: str = "geared",
        max_episode_steps: int | None = 100,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            ArmDynamics(n_joints, dynamics),
            num_envs,
            max_episode_steps,
            autoreset_mode,
            render_mode,
            TorqueArm.metadata,
        )
