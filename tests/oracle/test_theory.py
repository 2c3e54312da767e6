"""`pg_agents.theory` against numbers worked out by hand, finite differences, and simulation."""

# ruff: noqa: SIM300 - V, A and J are no constants

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pg_agents import theory

RNG = np.random.default_rng(0)


def softmax(theta):
    exp = np.exp(theta)
    return exp / exp.sum(axis=-1, keepdims=True)


def test_a_bandit_by_hand():
    """π = (.75, .25), r = (2, 0): J = 1.5, ∂J/∂θ_a = π_a (r_a - J)."""
    bandit = theory.TabularMDP(np.zeros((1, 2, 1)), [[2.0, 0.0]])
    solution = bandit.solve([[np.log(3), 0.0]])
    assert solution.J == pytest.approx(1.5)
    assert solution.gradient == pytest.approx(np.array([[0.375, -0.375]]))
    assert (solution.V, solution.mean_length) == (pytest.approx([1.5]), pytest.approx(1.0))
    assert solution.A == pytest.approx(np.array([[0.5, -1.5]]))
    # |e_a - π|² = .125 and 1.125: weights .09375 and .28125 of Q = 2 and 0.
    assert solution.optimal_baseline == pytest.approx([0.5])


def test_a_loop_by_hand():
    """One state that is left with probability p = π(1): J = r(0)/p - r(0) + r(1), length 1/p."""
    loop = theory.TabularMDP([[[1.0], [0.0]]], [[-1.0, 5.0]])
    solution = loop.solve([[0.0, 0.0]])
    assert (solution.J, solution.mean_length) == (pytest.approx(4.0), pytest.approx(2.0))
    # dJ/dp = 1/p² = 4 and dp/dθ_1 = p (1 - p) = 1/4.
    assert solution.gradient == pytest.approx(np.array([[-1.0, 1.0]]))


@pytest.mark.parametrize("horizon", [None, 1, 7])
@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_the_policy_gradient_theorem_is_the_slope_of_the_return(gamma, horizon):
    mdp = theory.TabularMDP.random(4, 3, seed=2, gamma=gamma, horizon=horizon)
    theta, step = RNG.normal(size=(4, 3)), 1e-5
    slopes = np.zeros_like(theta)
    for index in np.ndindex(*theta.shape):
        ahead, behind = theta.copy(), theta.copy()
        ahead[index] += step
        behind[index] -= step
        slopes[index] = (mdp.solve(ahead).J - mdp.solve(behind).J) / (2 * step)
    # Central differences: an error of the step's square.
    assert mdp.solve(theta).gradient == pytest.approx(slopes, abs=1e-7)


def test_a_long_horizon_is_no_horizon():
    theta = RNG.normal(size=(5, 3))
    endless = theory.TabularMDP.random(seed=3).solve(theta)
    long = theory.TabularMDP.random(seed=3, horizon=400).solve(theta)
    # An episode lasts so long with probability .9^400.
    assert long.J == pytest.approx(endless.J, abs=1e-12)
    assert long.gradient == pytest.approx(endless.gradient, abs=1e-12)
    assert long.V[0] == pytest.approx(endless.V, abs=1e-12)
    assert long.visits.sum(axis=0) == pytest.approx(endless.visits, abs=1e-12)


@pytest.mark.parametrize("horizon", [None, 3])
def test_values_and_visits_are_those_of_the_environment(horizon):
    mdp = theory.TabularMDP.random(3, 2, seed=4, ends=0.3, gamma=0.9, horizon=horizon)
    theta = RNG.normal(size=(3, 2))
    solution, policy = mdp.solve(theta), softmax(theta)
    env, rng = mdp.env(), np.random.default_rng(5)
    if horizon is not None:
        check_env(env, skip_render_check=True)
    returns, lengths, visits = [], [], np.zeros(3)
    for episode in range(3000):
        state, _ = env.reset(seed=5 if episode == 0 else None)
        total, discount, over, steps = 0.0, 1.0, False, 0
        while not over:
            visits[state] += discount
            state, reward, terminated, truncated, _ = env.step(rng.choice(2, p=policy[state]))
            total, discount, steps = total + discount * reward, 0.9 * discount, steps + 1
            over = terminated or truncated
            assert not (terminated and truncated)
        returns.append(total)
        lengths.append(steps)
    for sample, expected in ((returns, solution.J), (lengths, solution.mean_length)):
        error = np.std(sample, ddof=1) / np.sqrt(len(sample))
        assert np.mean(sample) == pytest.approx(expected, abs=4 * error)
    found = solution.visits if horizon is None else solution.visits.sum(axis=0)
    # Visits in an episode are fewer than 10, with a standard deviation below 1.5.
    assert visits / 3000 == pytest.approx(found, abs=4 * 1.5 / np.sqrt(3000))


def test_without_a_discount_in_the_states_the_update_is_another():
    """Two states in a row, two actions, r = 1 for action 1 of the second; γ = 1/2 and the uniform policy.

    In the second state Q = (0, 1) and V = 1/2: π A = ±1/4, visited once, discounted 1/2 times. The first gives nothing.
    """
    transitions = np.zeros((2, 2, 2))
    transitions[0, :, 1] = 1
    solution = theory.TabularMDP(transitions, [[0, 0], [0, 1]], gamma=0.5).solve()
    assert solution.gradient == pytest.approx(np.array([[0, 0], [-1, 1]]) / 8)
    assert solution.expected_update == pytest.approx(np.array([[0, 0], [-1, 1]]) / 4)
    undiscounted = theory.TabularMDP.random(4, 3, seed=2, horizon=5).solve(RNG.normal(size=(4, 3)))
    assert undiscounted.expected_update == pytest.approx(undiscounted.gradient)


def test_gae_of_two_steps_by_hand():
    """The same with V̂ = (1, 1) and λ = 1/2: δ = 1/2 - 1 in the first state; r - 1 in the second, in the mean -1/2.

    So Â = -1/2 - (1/2)(1/2)(1/2) = -5/8 in the first state, and in one step -1/2.
    """
    transitions = np.zeros((2, 2, 2))
    transitions[0, :, 1] = 1
    solution = theory.TabularMDP(transitions, [[0, 0], [0, 1]], gamma=0.5).solve()
    assert solution.expected_gae([1, 1], 0.5) == pytest.approx(np.array([[-5 / 8, -5 / 8], [-1, 0]]))
    assert solution.expected_gae([1, 1], 0.5, n_steps=1) == pytest.approx(np.array([[-1 / 2, -1 / 2], [-1, 0]]))
    assert solution.expected_gae([1, 1], 0.5, n_steps=2) == pytest.approx(solution.expected_gae([1, 1], 0.5))
    with pytest.raises(ValueError, match=r"`critic` must have the shape \(2,\), but has \(3,\)"):
        solution.expected_gae(np.zeros(3), 0.5)
    with pytest.raises(ValueError, match="`n_steps` must be an integer at least 1, or None, but is 0"):
        solution.gae_gradient([1, 1], 0.5, 0)


def test_the_optimal_baseline_has_the_least_variance():
    """Of one step: E |∇ log π|² (Q - b)² is a parabola in b, whose lowest point is looked for on a grid."""
    solution = theory.TabularMDP.random(3, 3, seed=6).solve(RNG.normal(size=(3, 3)))
    grid = np.linspace(-10, 10, 200_001)
    for state, policy in enumerate(solution.policy):
        squares = ((np.eye(3) - policy) ** 2).sum(axis=1)
        variance = sum(p * s * (q - grid) ** 2 for p, s, q in zip(policy, squares, solution.Q[state], strict=True))
        assert solution.optimal_baseline[state] == pytest.approx(grid[variance.argmin()], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"transitions": np.zeros((2, 2, 3))}, r"`transitions` must have the shape .* \(2, 2, 3\)"),
        ({"transitions": np.full((2, 2, 2), 0.6)}, r"`transitions\[0, 0\]` must be prob.* is \[0.6 0.6\]"),
        ({"transitions": [[[0, 0], [0, 0]], [[0, 0], [1.5, -0.5]]]}, r"`transitions\[1, 1\]` must .* is \[ 1.5 -0.5\]"),
        ({"transitions": [[[0, 0], [0, np.nan]], [[0, 0], [0, 0]]]}, r"`transitions\[0, 1\]` must .* is \[ 0. nan\]"),
        ({"initial": [1.5, -0.5]}, r"`initial` must be 2 probabilities that sum to 1, but is \[1.5, -0.5\]"),
        ({"initial": [1.0, np.nan]}, "`initial` must be 2 probabilities that sum to 1"),
        ({"initial": [0.5, 0.4]}, r"`initial` must be 2 probabilities that sum to 1, but is \[0.5, 0.4\]"),
        ({"rewards": [[0, np.nan], [0, 0]]}, r"`rewards` must be finite, but rewards\[0, 1\] is nan"),
        ({"gamma": 1.5}, "`gamma` must be a number at least 0 and at most 1, but is 1.5"),
        ({"horizon": 0}, "`horizon` must be an integer at least 1"),
    ],
)
def test_what_is_no_decision_process_is_refused(arguments, said):
    mdp = theory.TabularMDP(np.zeros((2, 2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=said):
        mdp.changed(**arguments)


def test_an_infinite_return_is_refused():
    endless = theory.TabularMDP([[[1.0], [1.0]]], [[1.0, 1.0]])
    with pytest.raises(ValueError, match="Set a horizon or gamma < 1"):
        _ = endless.solve().J
    discounted = endless.changed(gamma=0.5).solve()
    assert discounted.J == pytest.approx(2.0)
    for infinite in ("mean_length", "expected_update"):
        with pytest.raises(ValueError, match="Episodes need not end, so their mean length"):
            getattr(discounted, infinite)
    with pytest.raises(ValueError, match=r"`theta` must have the shape \(1, 2\)"):
        endless.solve(np.zeros((2, 2)))


LQ = theory.LinearQuadratic(
    [[0.9, 0.3], [-0.2, 0.8]], [[0.0], [1.0]], np.eye(2), [[0.2]], W=[[0.1, 0.02], [0.02, 0.2]], gamma=0.9, horizon=4
)


def test_one_step_of_a_scalar_problem_by_hand():
    """Q = 1, R = 2, x ~ N(0, 1), u = N(K x, σ²): J = -(1 + 2 K² + 2 σ²)."""
    problem = theory.LinearQuadratic([[1.0]], [[1.0]], [[1.0]], [[2.0]], horizon=1)
    solution = problem.solve([[0.5]], [np.log(2)])
    assert solution.J == pytest.approx(-9.5)
    by_gain, by_std = solution.gradient
    assert (by_gain, by_std) == (pytest.approx(np.array([[-2.0]])), pytest.approx([-16.0]))


def test_the_gaussian_gradient_is_the_slope_of_the_return():
    gain, log_std, step = np.array([[-0.1, -0.4]]), np.array([-0.5]), 1e-5
    by_gain, by_std = LQ.solve(gain, log_std).gradient

    def slope(in_gain, in_std):
        ahead = LQ.solve(gain + step * in_gain, log_std + step * in_std).J
        return (ahead - LQ.solve(gain - step * in_gain, log_std - step * in_std).J) / (2 * step)

    unit = np.eye(2)[:, None]
    assert by_gain == pytest.approx(np.array([[slope(unit[0], 0), slope(unit[1], 0)]]), abs=1e-7)
    assert by_std == pytest.approx([slope(0, 1)], abs=1e-7)


def test_the_gaussian_return_is_the_environments():
    gain, spread = np.array([[-0.1, -0.4]]), 0.6
    env, rng, returns = LQ.env(), np.random.default_rng(7), []
    for episode in range(4000):
        state, _ = env.reset(seed=7 if episode == 0 else None)
        total, over, discount = 0.0, False, 1.0
        while not over:
            state, reward, _, over, _ = env.step(gain @ state + spread * rng.normal(size=1))
            total, discount = total + discount * reward, discount * 0.9
        returns.append(total)
    error = np.std(returns, ddof=1) / np.sqrt(len(returns))
    assert np.mean(returns) == pytest.approx(LQ.solve(gain, [np.log(spread)]).J, abs=4 * error)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"A": np.eye(3)}, r"`A` must be \(n, n\) and `B` \(n, m\)"),
        ({"R": np.eye(2)}, r"`R` must be \(1, 1\), but is \(2, 2\)"),
        ({"gamma": -1}, "`gamma`"),
        ({"W": [[1, 2], [2, 1]]}, "`W` must be a covariance, with no negative eigenvalue, but has -1"),
        ({"X": [[1, 0.5], [0, 1]]}, "`X` must be a covariance, but is not symmetric"),
        ({"Q": [[1, 0], [0, np.nan]]}, r"`Q` must be finite, but Q\[1, 1\] is nan"),
    ],
)
def test_what_is_no_linear_quadratic_problem_is_refused(arguments, said):
    fine = {"A": np.eye(2), "B": np.ones((2, 1)), "Q": np.eye(2), "R": np.eye(1)}
    with pytest.raises(ValueError, match=said):
        theory.LinearQuadratic(**{**fine, **arguments})
    with pytest.raises(ValueError, match=r"`K` must be \(1, 2\) and `log_std` \(1,\)"):
        theory.LinearQuadratic(**fine).solve(np.zeros(2), [0.0])


def test_a_singular_covariance_is_one():
    """x_0 = (z, z) with z ~ N(0, 1), no noise, and nothing done: the state stays."""
    problem = theory.LinearQuadratic(np.eye(2), np.zeros((2, 1)), np.eye(2), [[1.0]], X=np.ones((2, 2)), horizon=2)
    env = problem.env()
    (first, _), (second, *_) = env.reset(seed=0), env.step(np.zeros(1, dtype=np.float32))
    assert first[0] == pytest.approx(first[1], rel=1e-6)
    assert (second == first).all()


def test_agents_train_on_both():
    from pg_agents import PPO

    for env in (theory.TabularMDP.random(horizon=5).env(), LQ.env()):
        assert isinstance(env, gym.Env)
        PPO("MlpPolicy", env, n_steps=32, batch_size=16, seed=0).learn(64)


def test_a_study_is_shown_in_one_line():
    """By hand: 1, 2 and 3 along ∇J = (2, 0) are relative biases of -.5, 0 and .5, with Student's t = 4.303 of 2."""
    study = theory.GradientStudy(np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]), np.array([2.0, 0.0]), 32.0)
    half = 4.303 * 0.5 / 3**0.5
    said = f"GradientStudy(3 batches of 32 episodes, relative bias 0 [{-half:.3g}, {half:.3g}], variance 1 "
    assert repr(study).startswith(said)
    # 2² less the 1/3 that noise adds, to a variance of 1.
    assert repr(study).endswith("snr 3.67)")
    without = theory.GradientStudy(study.gradients, np.zeros(2), 32.0)
    assert "relative bias" not in repr(without)
