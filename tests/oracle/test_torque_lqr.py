"""TorqueLQR against SciPy's solvers, published values, and rollouts of the environment itself."""

# ruff: noqa: N806

import gymnasium as gym
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import solve_discrete_are

import pg_envs  # noqa: F401
from pg_envs.torque.lqr import LQRDynamics, TorqueLQR, TorqueLQRVector

GAMMA = 0.99


def stiffness(n):
    """K: 4 tridiag(-1, 2, -1), last diagonal entry 4."""
    K = np.diag([8.0] * n) + np.diag([-4.0] * (n - 1), 1) + np.diag([-4.0] * (n - 1), -1)
    K[n - 1, n - 1] = 4.0
    return K


def costs(n):
    return np.diag([0.1 / n] * n + [0.01 / n] * n), np.diag([0.36 / n] * n)


def stepped(n, x, a):
    """The environment one step after the state x, the reward, and whether the episode has terminated."""
    env = TorqueLQR(n)
    env.reset()
    env.state[: 2 * n] = x
    _, reward, terminated, *_ = env.step(np.asarray(a, dtype=np.float32))
    return env, reward, terminated


# n, J*, zero action, worst |a| of the optimum over the box of first states.
@pytest.mark.parametrize(
    ("n", "best", "zero", "worst"),
    [(1, 0.3331, 0.9965, 0.35), (2, 0.3968, 1.1800, 0.64), (5, 0.4256, 1.4554, 0.92), (20, 0.4378, 2.1603, 0.94)],
)
def test_costs_are_those_of_the_published_table(n, best, zero, worst):
    dynamics = LQRDynamics(n)
    assert dynamics.optimal_cost(GAMMA) == pytest.approx(best, abs=5e-5)
    assert dynamics.cost_of_gain(np.zeros((n, 2 * n)), GAMMA) == pytest.approx(zero, abs=5e-5)
    gain, flow, largest = dynamics.optimal_gain(GAMMA), np.eye(2 * n), 0.0
    for _ in range(50):
        largest = max(largest, np.abs(gain @ flow).sum(axis=1).max())  # over x0 in the box, the worst corner
        flow = (dynamics.A - dynamics.B @ gain) @ flow
    assert largest == pytest.approx(worst, abs=5e-3)


@pytest.mark.parametrize(("n", "best"), [(1, 0.3331), (2, 0.3968), (5, 0.4256), (20, 0.4378)])
def test_the_optimum_that_the_metadata_state_is_the_riccati_solution_of_the_published_table(n, best):
    env = gym.make("pg/TorqueLQR-v0", n_joints=n)
    scores = env.metadata["reference_scores"](n_joints=n)
    A, B, (Q, R) = env.unwrapped.dynamics.A, env.unwrapped.dynamics.B, costs(n)

    def cost(gamma):
        return np.trace(solve_discrete_are(np.sqrt(gamma) * A, np.sqrt(gamma) * B, Q, R)) / 3

    assert cost(GAMMA) == pytest.approx(best, abs=5e-5)
    # Without discount, and after 100 steps hardly any cost is left.
    assert scores["optimum"] == pytest.approx(-cost(1.0), rel=3e-6)
    # Published: the optimal gain for the discount .99 is .06-.17 % above the optimum.
    assert 0.00055 <= scores["controller"] / scores["optimum"] - 1 <= 0.00175


@pytest.mark.parametrize("n", [1, 3])
def test_a_step_is_the_solution_of_the_differential_equation_with_held_torque(n):
    rng = np.random.default_rng(0)
    x, a = rng.uniform(-1, 1, 2 * n), rng.uniform(-1, 1, n).astype(np.float32)
    env = stepped(n, x, a)[0]
    exact = solve_ivp(
        lambda _, z: np.concatenate([z[n:], -stiffness(n) @ z[:n] - 0.2 * z[n:] + 6 * a]),
        (0, 0.1),
        x,
        rtol=1e-12,
        atol=1e-12,
    ).y[:, -1]
    np.testing.assert_allclose(env.state[: 2 * n], exact, atol=1e-9)


def test_reward_is_minus_the_cost_of_the_state_before_the_step():
    _, reward, terminated = stepped(1, [1.0, -0.5], [0.5])
    assert reward == pytest.approx(-0.1 * (1 + 0.1 * 0.25 + 0.1 * 9))
    assert not terminated


def test_discounted_cost_of_the_optimal_gain_in_the_environment_is_the_riccati_solution():
    n, steps = 2, 2000  # 0.99 ** 2000 = 2e-9
    env = gym.make_vec("pg/TorqueLQR-v0", 50, n_joints=n, max_episode_steps=steps + 1)
    x0, _ = env.reset(seed=0)
    dynamics = env.unwrapped.dynamics
    P = solve_discrete_are(np.sqrt(GAMMA) * dynamics.A, np.sqrt(GAMMA) * dynamics.B, *costs(n))
    expected = np.einsum("ci,ij,cj->c", x0, P, x0)
    cost = np.zeros(50)
    for t in range(steps):
        _, rewards, *_ = env.step(dynamics.controller(env.unwrapped.state))
        cost -= GAMMA**t * rewards
    np.testing.assert_allclose(cost, expected, rtol=1e-5)  # float32 observations of x0


@pytest.mark.parametrize("n", [1, 4])
def test_cost_of_a_gain_is_the_discounted_sum_of_propagated_moments(n):
    dynamics, (Q, R) = LQRDynamics(n), costs(n)
    rng = np.random.default_rng(1)
    gain, offset = dynamics.optimal_gain() + rng.normal(0, 0.02, (n, 2 * n)), rng.normal(0, 0.1, n)
    mean, second, cost = np.zeros(2 * n), np.eye(2 * n) / 3, 0.0
    for t in range(3000):
        of_actions = gain @ second @ gain.T - 2 * np.outer(offset, gain @ mean) + np.outer(offset, offset)
        cost += GAMMA**t * (np.trace(Q @ second) + np.trace(R @ of_actions))
        closed, push = dynamics.A - dynamics.B @ gain, dynamics.B @ offset
        second = closed @ second @ closed.T + 2 * np.outer(closed @ mean, push) + np.outer(push, push)
        mean = closed @ mean + push
    assert dynamics.cost_of_gain(gain, GAMMA, offset) == pytest.approx(cost, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.9, 0.99, 1.0])
def test_no_other_gain_costs_less(gamma):
    dynamics = LQRDynamics(3)
    best, gain = dynamics.optimal_cost(gamma), dynamics.optimal_gain(gamma)
    assert dynamics.cost_of_gain(gain, gamma) == pytest.approx(best, rel=1e-9)
    rng = np.random.default_rng(0)
    assert all(dynamics.cost_of_gain(gain + rng.normal(0, 0.05, gain.shape), gamma) > best for _ in range(50))


def test_a_gain_that_diverges_costs_infinitely_much():
    assert LQRDynamics(1).cost_of_gain(np.array([[0.0, -5.0]])) == np.inf


@pytest.mark.parametrize("n", [1, 2])
def test_optimum_is_the_least_squares_solution_over_all_actions_of_an_episode(n):
    dynamics, (Q, R), steps = LQRDynamics(n), costs(n), 100
    # x_0 ... x_99 = F x_0 + G a_0 ... a_98: one quadratic problem, and a_99 = 0.
    powers = [np.eye(2 * n)]
    for _ in range(steps):
        powers.append(dynamics.A @ powers[-1])
    F = np.vstack(powers[:steps])
    G = np.zeros((2 * n * steps, n * steps))
    for t in range(1, steps):
        for s in range(t):
            G[2 * n * t : 2 * n * (t + 1), n * s : n * (s + 1)] = powers[t - 1 - s] @ dynamics.B
    weights = np.kron(np.eye(steps), Q)
    hessian = G.T @ weights @ G + np.kron(np.eye(steps), R)
    actions = -np.linalg.solve(hessian, G.T @ weights @ F)
    x = F + G @ actions
    cost = np.trace(x.T @ weights @ x + actions.T @ np.kron(np.eye(steps), R) @ actions) / 3
    assert dynamics.optimum() == pytest.approx(-cost, rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_discounting_costs_less_than_a_fifth_of_a_percent_of_the_undiscounted_optimum(n):
    dynamics = LQRDynamics(n)
    gain, (Q, R) = dynamics.optimal_gain(GAMMA), costs(n)
    second, cost = np.eye(2 * n) / 3, 0.0
    for _ in range(100):
        cost += np.trace((Q + gain.T @ R @ gain) @ second)
        second = (dynamics.A - dynamics.B @ gain) @ second @ (dynamics.A - dynamics.B @ gain).T
    assert 0.00055 <= cost / -dynamics.optimum() - 1 <= 0.00175  # published: .06-.17 % above the finite-horizon optimum


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("policy", ["zero", "random", "controller"])
def test_known_returns_are_those_of_simulated_episodes(policy, n):
    env, rng = gym.make_vec("pg/TorqueLQR-v0", 4000, n_joints=n, max_episode_steps=101), np.random.default_rng(0)
    dynamics = env.unwrapped.dynamics
    act = {
        "zero": lambda: np.zeros((4000, n)),
        "random": lambda: rng.uniform(-1, 1, (4000, n)),
        "controller": lambda: dynamics.controller(env.unwrapped.state),
    }[policy]
    env.reset(seed=0)
    returns = sum(env.step(act())[1] for _ in range(100))
    assert dynamics.known_returns()[policy] == pytest.approx(returns.mean(), abs=4 * returns.std() / np.sqrt(4000))


def test_no_actions_leave_the_observation_space_and_the_worst_come_close():
    dynamics = LQRDynamics(2)
    env = TorqueLQRVector(4, 2, max_episode_steps=None)
    reach = env.single_observation_space.high[0]
    response = []
    flow = dynamics.B
    for _ in range(1500):
        response.append(flow)
        flow = dynamics.A @ flow
    signs = np.sign(np.array(response)[::-1])  # (t, 2n, n): what drives each entry of the state highest at the end
    env.reset()
    env.state[:, :4] = 1
    largest = 0.0
    for t in range(len(signs)):
        observations, *_ = env.step(signs[t].astype(np.float32))
        largest = max(largest, np.abs(env.state[:, :4]).max())
        assert observations in env.observation_space
    assert 0.9 * reach < largest <= reach


@pytest.mark.parametrize("n_joints", [0, -1, 1.5, True])
def test_a_wrong_number_of_joints_is_refused(n_joints):
    with pytest.raises(ValueError, match="`n_joints` must be an integer at least 1"):
        gym.make("pg/TorqueLQR-v0", n_joints=n_joints)
