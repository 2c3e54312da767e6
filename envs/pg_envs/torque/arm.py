"""A planar arm whose tip must reach a goal: continuous torque on 2, 7, 20 or any number of joints."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_envs.checks import check_choice, check_number
from pg_envs.references import computed_scores
from pg_envs.rendering import BLACK, BLUE, GREEN, LIGHT, ORANGE, Canvas
from pg_envs.torque.chain import Chain, move
from pg_envs.worlds import World, WorldEnv, WorldVector, compiled, standard_normal, uniform
from pg_envs.worlds.world import METADATA

DT = 0.05
NEAR = 0.05
FASTEST = 2.5  # top speed of a geared joint

# A state is, n numbers each, the joints' angles q, their speeds, cos q, sin q, Jᵀ(goal - tip), and room for `geometry`;
# then the goal and the tip, two numbers each. The constants begin with n.


@compiled
def geometry(state: Any, n: int) -> None:
    """Write the quantities derived from the angles and the goal: cos q, sin q, the tip, and torques of a pull on it.

    The pull is the force goal - tip. Its torque on joint i is its product with the vector from the joint to the tip,
    turned by a right angle.
    """
    goal, tip, pull, place = 6 * n, 6 * n + 2, 4 * n, 5 * n
    along, across, x, y = 1.0, 0.0, 0.0, 0.0  # the direction of a link, and the sum of the links before it
    for i in range(n):
        cos, sin = math.cos(state[i]), math.sin(state[i])
        state[2 * n + i], state[3 * n + i] = cos, sin
        along, across = along * cos - across * sin, across * cos + along * sin
        state[pull + i], state[place + i] = x, y
        x += along
        y += across
    state[tip], state[tip + 1] = x / n, y / n
    towards, upwards = (state[goal] - x / n) / n, (state[goal + 1] - y / n) / n
    for i in range(n):
        state[pull + i] = (x - state[pull + i]) * upwards - (y - state[place + i]) * towards


@compiled
def paid(state: Any, action: Any, n: int) -> Any:
    """The reward -|goal - tip| - .05 mean(a²) + .5 [|goal - tip| < .05]."""
    x, y = state[6 * n] - state[6 * n + 2], state[6 * n + 1] - state[6 * n + 3]
    distance, effort = math.sqrt(x * x + y * y), 0.0
    for i in range(n):
        a = np.float64(action[i])
        effort += a * a
    return -distance - 0.05 * (effort / n) + (0.5 if distance < NEAR else 0.0)


def start(state: Any, random: Any, constants: Any) -> None:
    """At rest and almost straight, with a goal in the half disc in front."""
    n = int(constants[0])
    for i in range(n):
        state[i] = uniform(random, -0.1, 0.1) if i == 0 else 0.1 * standard_normal(random)
        state[n + i] = 0.0
    radius = uniform(random, 0.3, 0.9)
    angle = uniform(random, -math.pi / 2, math.pi / 2)
    state[6 * n], state[6 * n + 1] = radius * math.cos(angle), radius * math.sin(angle)
    geometry(state, n)


def step_geared(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """One step of joints whose rotor inertia dominates that of the links: q'' = 5a - 2q', with implicit damping.

    q' ← (q' + 5a dt) / (1 + 2 dt), then q ← q + q' dt.
    """
    n = int(constants[0])
    for i in range(n):
        speed = (state[n + i] + DT * 5 * np.float64(action[i])) / (1 + 2 * DT)
        state[n + i] = speed
        state[i] += DT * speed
    geometry(state, n)
    return paid(state, action, n), False


def step_chain(state: Any, action: Any, random: Any, constants: Any) -> tuple[float, bool]:
    """One step of uniform rods with their true mass matrix: see `chain.move`."""
    n = int(constants[0])
    move(state, action, constants)
    geometry(state, n)
    return paid(state, action, n), False


def observe(state: Any, observation: Any, constants: Any) -> None:
    """The vector (cos q, sin q, .2 q', tip, goal - tip, 3 Jᵀ(goal - tip))."""
    n = int(constants[0])
    for i in range(n):
        observation[i], observation[n + i] = state[2 * n + i], state[3 * n + i]
        observation[2 * n + i] = 0.2 * state[n + i]
        observation[3 * n + 4 + i] = 3.0 * state[4 * n + i]
    for k in range(2):
        observation[3 * n + k] = state[6 * n + 2 + k]
        observation[3 * n + 2 + k] = state[6 * n + k] - state[6 * n + 2 + k]


def info(n: int, states: np.ndarray) -> dict[str, np.ndarray]:
    """`distance` of the tip from the goal, and `is_success`, whether it is less than .05."""
    away = states[:, 6 * n : 6 * n + 2] - states[:, 6 * n + 2 :]
    distance = np.sqrt(away[:, 0] ** 2 + away[:, 1] ** 2)
    return {"distance": distance, "is_success": distance < NEAR}


def pull_and_damp(n: int, stiffness: float | np.ndarray, damping: float, states: np.ndarray) -> np.ndarray:
    """Actions `stiffness` Jᵀ(goal - tip) - `damping` q', clipped.

    Args:
        n: Number of joints.
        stiffness: Stiffness, one for all joints or one per joint.
        damping: Damping, the same for all joints.
        states: `(copies, n_state)`.
    """
    actions: np.ndarray = np.clip(stiffness * states[:, 4 * n : 5 * n] - damping * states[:, n : 2 * n], -1.0, 1.0)
    return actions


def draw(n: int, state: np.ndarray, canvas: Canvas) -> None:
    """The reachable disc, the goal, links and joints."""
    canvas.view((-1.1, -1.1), (1.1, 1.1))
    canvas.circle((0, 0), 1.0, LIGHT)
    canvas.circle(state[6 * n : 6 * n + 2], NEAR, GREEN)
    angles = np.cumsum(state[:n])
    joints = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], axis=1), axis=0) / n
    points = np.vstack([np.zeros(2), joints])
    canvas.line(list(points), BLUE, 6)
    for point in points[:-1]:
        canvas.circle(point, 0.02, BLACK)
    canvas.circle(points[-1], 0.025, ORANGE)


def arm_world(n_joints: int = 2, dynamics: str = "geared") -> World:
    """The arm; see `TorqueArm`, also for the arguments."""
    check_number("n_joints", n_joints, at_least=1, integer=True)
    check_choice("dynamics", dynamics, ("geared", "chain"))
    n = int(n_joints)
    if dynamics == "chain":
        return chain_world(Chain(n, DT))
    return _world(n, step_geared, np.array([float(n)]), FASTEST, partial(pull_and_damp, n, 30.0, 1.0))


def chain_world(chain: Chain) -> World:
    """An arm that moves as a chain."""
    controller = partial(pull_and_damp, chain.n, 16 / (chain.n * chain.inertia), 0.6)
    return _world(chain.n, step_chain, chain.constants(), chain.fastest(), controller)


def _world(
    n: int,
    step: Callable[..., tuple[float, bool]],
    constants: np.ndarray,
    fastest: float,
    controller: Callable[[np.ndarray], np.ndarray],
) -> World:
    bounds = [1.0] * 2 * n + [0.2 * fastest] * n + [1.0, 1.0, 2.0, 2.0] + [6.0] * n
    high = 1.01 * np.array(bounds, dtype=np.float32)  # room for rounding
    return World(
        start,
        step,
        observe,
        n_state=6 * n + 4,
        observation_space=spaces.Box(-high, high, dtype=np.float32),
        action_space=spaces.Box(-1.0, 1.0, (n,), np.float32),
        constants=constants,
        info=partial(info, n),
        draw=partial(draw, n),
        controller=controller,
        image_size=(480, 480),
        metadata=TorqueArm.metadata,
    )


class TorqueArm(WorldEnv):
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
        **METADATA,
        "reference_scores": partial(computed_scores, "pg/TorqueArm-v0"),
    }

    def __init__(self, n_joints: int = 2, dynamics: str = "geared", render_mode: str | None = None) -> None:
        super().__init__(arm_world(n_joints, dynamics), render_mode)


class TorqueArmVector(WorldVector):
    """Many arms at once; see `TorqueArm` and, for the arguments, `WorldVector`."""

    def __init__(
        self,
        num_envs: int = 1,
        n_joints: int = 2,
        dynamics: str = "geared",
        max_episode_steps: int | None = 100,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(arm_world(n_joints, dynamics), num_envs, max_episode_steps, autoreset_mode, render_mode)
