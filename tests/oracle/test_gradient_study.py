"""What every course says of gradient estimators, of the gradients that the algorithms compute.

A claim about a mean is tested at a p-value of 1e-3, with the seeds given; one about a variance by intervals at 95 %
that do not meet.
"""

import itertools
from functools import cache

import numpy as np
import pytest
import stable_baselines3
import torch as th
from scipy import integrate

from pg_agents import A2C, GRPO, PPO, REINFORCE, RLOO, ActorCritic, ReinforceBaseline, theory
from pg_agents.estimators import gae, n_step, td_error
from pg_agents.theory import gradient_study

RNG = np.random.default_rng(0)
THETA = RNG.normal(size=(3, 2))
# Without an end but after three steps: adding a number to all rewards changes no gradient.
RACE = theory.TabularMDP.random(3, 2, seed=1, ends=0.0, horizon=3)
# Undiscounted, and soon over.
EPISODIC = theory.TabularMDP.random(3, 2, seed=2, ends=0.5)
V = EPISODIC.solve(THETA).V
UNBIASED = 1e-3
EPS = float(np.finfo(np.float32).eps)


def differs(one, other):
    return one.low > other.high


def is_about(estimate, expected):
    """Within twice the 95 % interval, about four standard errors."""
    return abs(estimate.value - expected) < estimate.high - estimate.low


@cache
def race(algorithm, offset=0, **arguments):
    """REINFORCE or the like on the race, with a number added to all rewards."""
    return gradient_study(algorithm, RACE.changed(rewards=RACE.rewards + offset), THETA, 100, **arguments)


@pytest.mark.parametrize("estimator", ["total_return", "reward_to_go"])
@pytest.mark.parametrize("baseline", ["none", "constant", "time", "leave_one_out"])
def test_no_baseline_changes_the_expected_gradient(baseline, estimator):
    study = race(REINFORCE, baseline=baseline, estimator=estimator)
    assert study.p_value > UNBIASED
    # Nor could a bias of a tenth of the gradient hide.
    assert study.relative_bias.high - study.relative_bias.low < 0.2


@pytest.mark.parametrize(
    "critic",
    [V, V - 3, np.array([5.0, -5.0, 0.0]), EPISODIC.solve(THETA).optimal_baseline],
    ids=["V", "low", "wrong", "optimal"],
)
def test_no_critic_as_a_baseline_changes_the_expected_gradient(critic):
    assert gradient_study(ReinforceBaseline, EPISODIC, THETA, 50, critic=critic, n_envs=128).p_value > UNBIASED


def test_a_learned_baseline_neither():
    learning = {"value_learning_rate": 0.05, "warm_up": 50}
    assert gradient_study(ReinforceBaseline, EPISODIC, THETA, 50, n_envs=128, **learning).p_value > UNBIASED


def test_discounting_without_discounted_updates_is_another_gradient():
    """γ^t is left out by everybody, and the mean is then not the gradient of the discounted return."""
    discounted = RACE.changed(gamma=0.5)
    solution = discounted.solve(THETA)
    with_it, without = (
        gradient_study(REINFORCE, discounted, THETA, 50, n_envs=128, discount_updates=updates)
        for updates in (True, False)
    )
    assert with_it.p_value > UNBIASED
    assert without.p_value < 1e-9
    assert without.compared_with(solution.expected_update).p_value > UNBIASED
    assert with_it.compared_with(solution.expected_update).p_value < 1e-9


def test_total_returns_and_rewards_to_go_have_the_same_mean_only_without_a_discount():
    """The total return has γ^t in it, the reward-to-go has not."""
    problem = RACE.changed(gamma=0.5)
    total = gradient_study(REINFORCE, problem, THETA, 50, n_envs=128, estimator="total_return")
    assert total.p_value > UNBIASED
    of_rewards_to_go = problem.solve(THETA).expected_update
    assert total.compared_with(of_rewards_to_go).p_value < 1e-9
    undiscounted = RACE.solve(THETA)
    assert undiscounted.expected_update == pytest.approx(undiscounted.gradient)


def test_the_score_function_has_mean_zero():
    study = gradient_study(lambda rollout: np.ones_like(rollout.rewards), EPISODIC, THETA, 50, n_envs=192)
    assert study.compared_with(np.zeros(6)).p_value > UNBIASED
    assert study.p_value < 1e-9


def test_the_optimal_baseline_has_the_least_variance_and_v_is_close():
    """On a bandit, where E |∇ log π|² (r - b)² - |∇J|² is a sum over three actions."""
    rewards, theta = np.array([6.0, 3.0, 4.0]), np.array([0.8, 0.0, 0.0])
    bandit = theory.TabularMDP(np.zeros((1, 3, 1)), rewards[None])
    solution, policy = bandit.solve(theta[None]), np.exp(theta) / np.exp(theta).sum()
    squares = ((np.eye(3) - policy) ** 2).sum(axis=1)
    exact = {}
    for name, baseline in (("best", solution.optimal_baseline), ("V", solution.V), ("none", np.zeros(1))):
        exact[name] = (policy * squares * (rewards - baseline) ** 2).sum() - (solution.gradient**2).sum()
        study = gradient_study(ReinforceBaseline, bandit, theta[None], 250, critic=baseline, n_envs=8)
        # y = x - E x of one episode, and of the mean of n = 8:
        # E |ȳ|⁴ = (E |y|⁴ + (n - 1) ((E |y|²)² + 2 tr C²)) / n³, with C = E y yᵀ.
        scores = (np.eye(3) - policy) * (rewards - baseline)[:, None] - solution.gradient
        fourth, covariance = policy @ (scores**2).sum(axis=1) ** 2, (policy[:, None] * scores).T @ scores
        fourth = (fourth + 7 * (exact[name] ** 2 + 2 * (covariance**2).sum())) / 8**3
        error = ((fourth - (exact[name] / 8) ** 2) / 250) ** 0.5
        assert study.variance.value == pytest.approx(exact[name] / 8, abs=4 * error)
    assert exact["best"] < exact["V"] < exact["none"]


def test_variance_grows_with_the_square_of_the_rewards():
    scaled = gradient_study(REINFORCE, RACE.changed(rewards=16 * RACE.rewards), THETA, 100)
    plain = race(REINFORCE)
    # The same draws, and a power of two: nothing is rounded differently.
    assert (scaled.gradients == 16 * plain.gradients).all()
    assert scaled.variance.value == 256 * plain.variance.value
    assert scaled.snr == plain.snr


def moments(mdp, estimator):
    """Mean and variance of an episode's gradient, summed over all trajectories: an independent answer."""
    policy, steps = mdp.solve(THETA).policy, mdp.horizon
    taken = np.array(list(itertools.product(range(3), range(2), repeat=steps))).T  # s_0, a_0, s_1, ... in rows
    states, actions = taken[::2], taken[1::2]
    moves = mdp.transitions[states[:-1], actions[:-1], states[1:]]
    probability = mdp.initial[states[0]] * moves.prod(axis=0) * policy[states, actions].prod(axis=0)
    returns = np.cumsum(mdp.rewards[states, actions][::-1], axis=0)[::-1]
    weights = returns if estimator == "reward_to_go" else np.broadcast_to(returns[0], returns.shape)
    scores = np.eye(3)[states][..., None] * (np.eye(2)[actions] - policy[states])[..., None, :]
    gradients = np.einsum("tn,tnsa->nsa", weights, scores).reshape(-1, 6)
    mean = probability @ gradients
    return mean, probability @ (gradients**2).sum(axis=1) - mean @ mean


def test_variance_grows_with_the_horizon_and_that_of_the_total_return_faster():
    total, to_go = {}, {}
    for horizon in (2, 3, 4, 5):
        longer = RACE.changed(horizon=horizon)
        for name, variances in (("total_return", total), ("reward_to_go", to_go)):
            mean, variances[horizon] = moments(longer, name)
            assert mean == pytest.approx(longer.solve(THETA).gradient.ravel())
            if horizon in (2, 4):
                study = gradient_study(REINFORCE, longer, THETA, 150, estimator=name)
                assert is_about(study.variance, variances[horizon] / 32)
    for shorter, longer in itertools.pairwise(total):
        assert total[shorter] < total[longer]
        assert to_go[shorter] < to_go[longer]
        assert total[longer] / total[shorter] > to_go[longer] / to_go[shorter]
    assert all(total[horizon] > to_go[horizon] for horizon in total)


RACE_VISITS = RACE.solve(THETA).visits  # P(s_t = s)
STEPS_LEFT = np.array([[3.0], [2.0], [1.0]])
MEAN_LEFT = (RACE_VISITS * STEPS_LEFT).sum(axis=0) / RACE_VISITS.sum(axis=0)  # where the state is known
TO_GO, TOTAL = {"estimator": "reward_to_go"}, {"estimator": "total_return"}


@pytest.mark.parametrize(
    ("algorithm", "arguments", "left_over"),
    [
        (REINFORCE, {"baseline": "none", **TO_GO}, STEPS_LEFT),
        (REINFORCE, {"baseline": "none", **TOTAL}, np.full((3, 1), 3.0)),
        (REINFORCE, {"baseline": "constant", **TO_GO}, STEPS_LEFT - 2),
        # It can know the state, but not the step; it wavers far less than the interval is wide.
        (ReinforceBaseline, {"value_learning_rate": 0.2, "warm_up": 50}, STEPS_LEFT - MEAN_LEFT),
        (REINFORCE, {"baseline": "constant", **TOTAL}, None),
        (REINFORCE, {"baseline": "time", **TO_GO}, None),
        (REINFORCE, {"baseline": "time", **TOTAL}, None),
        (REINFORCE, {"baseline": "leave_one_out", **TO_GO}, None),
        (REINFORCE, {"baseline": "leave_one_out", **TOTAL}, None),
    ],
)
def test_a_number_added_to_all_rewards_drowns_the_gradient_unless_the_baseline_can_take_it_off(
    algorithm, arguments, left_over
):
    """With r + c, ĝ gains c Σ_t (T - t - b) ∇ log π, or with total returns c Σ_t (T - b) ∇ log π: mean zero, and noise.

    Its variance is c² Σ_t Σ_s P(s_t = s) (T - t - b)² E|∇ log π|² / episodes, as scores of two steps do not correlate.
    """
    before, after = race(algorithm, 0, **arguments), race(algorithm, 20, **arguments)
    assert after.exact == pytest.approx(before.exact)
    if left_over is None:
        # The same draws: equal, but for the rounding of returns below 64 + 64 in each of three steps.
        assert after.gradients == pytest.approx(before.gradients, abs=3 * 64 * EPS)
        return
    gained = theory.GradientStudy((after.gradients - before.gradients) / 20, np.zeros(6), 32)
    squares = 1 - (RACE.solve(THETA).policy ** 2).sum(axis=1)  # E|e_a - π|²
    assert gained.p_value > UNBIASED
    assert is_about(gained.variance, (RACE_VISITS * left_over**2 * squares).sum() / 32)
    # The signal-to-noise ratio was above 1, and is below.
    assert before.variance.high < before.exact @ before.exact < after.variance.low


LONG = theory.TabularMDP.random(3, 2, seed=10, ends=0.3)
WRONG = LONG.solve(THETA).V + np.array([2.0, -2.0, 1.0])
UNTRAINED = np.zeros(3)


@cache
def of_gae(gae_lambda, critic, gamma=1.0):
    def estimator(rollout):
        return gae(rollout.td_errors(gamma), rollout.ends, gamma, gae_lambda)

    return gradient_study(estimator, LONG.changed(gamma=gamma), THETA, 100, critic=critic)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_gae_has_the_bias_that_theory_says(gae_lambda):
    """The expected gradient for every λ in closed form; with λ = 1, it is the gradient whatever the critic."""
    study = of_gae(gae_lambda, tuple(WRONG))
    assert study.compared_with(LONG.solve(THETA).gae_gradient(WRONG, gae_lambda)).p_value > UNBIASED
    assert (study.p_value > UNBIASED) == (gae_lambda == 1)


def test_with_a_discount_the_bias_is_that_of_updates_without_it():
    """No algorithm with a critic has γ^t: states count as often as they are visited."""
    study, solution = of_gae(0.5, tuple(WRONG), gamma=0.8), LONG.changed(gamma=0.8).solve(THETA)
    assert study.compared_with(solution.gae_gradient(WRONG, 0.5)).p_value > UNBIASED
    assert study.compared_with(solution.gae_gradient(WRONG, 0.5, discount_updates=True)).p_value < 1e-9
    exact = solution.gae_gradient(solution.V, 0.5)
    assert exact == pytest.approx(solution.expected_update)
    assert solution.gae_gradient(solution.V, 0.5, discount_updates=True) == pytest.approx(solution.gradient)


def test_with_an_exact_critic_there_is_no_bias():
    solution = LONG.solve(THETA)
    for gae_lambda in np.linspace(0, 1, 11):
        assert solution.gae_gradient(solution.V, gae_lambda) == pytest.approx(solution.gradient)


@pytest.mark.parametrize("critic", [UNTRAINED, WRONG], ids=["untrained", "wrong"])
@pytest.mark.parametrize("ends", [0.3, 0.1])
def test_bias_falls_with_lambda_to_nothing(critic, ends):
    solution = theory.TabularMDP.random(3, 2, seed=10, ends=ends).solve(THETA)
    biases = [
        np.linalg.norm(solution.gae_gradient(critic, gae_lambda) - solution.gradient)
        for gae_lambda in np.linspace(0, 1, 11)
    ]
    assert (np.diff(biases) < 0).all()
    assert biases[-1] == pytest.approx(0)


def test_with_an_untrained_critic_variance_rises_with_lambda():
    low, middle, high = (of_gae(gae_lambda, tuple(UNTRAINED)).variance for gae_lambda in (0.0, 0.9, 1.0))
    assert differs(middle, low)
    assert differs(high, low)
    assert high.value > middle.value


def test_a_badly_wrong_critic_adds_variance_of_its_own():
    """λ = 0 then has both: the most bias and the most variance."""
    wrong, untrained = (of_gae(0.0, tuple(critic)).variance for critic in (WRONG, UNTRAINED))
    assert differs(wrong, untrained)
    assert differs(wrong, of_gae(1.0, tuple(WRONG)).variance)


@pytest.mark.parametrize("offset", [-10, 10])
def test_a_low_critic_makes_td_like_what_ends_the_episode_and_a_high_one_the_opposite(offset):
    """V̂ = V + c: the error is -c wherever the episode ends and 0 elsewhere.

    Action 1 ends it with probability 1/2, action 0 never. The policy takes each with 1/2, so that episodes last 4 steps
    and the bias for action 1 is 4 · 1/2 · 1/2 (-c/2 - 0) = -c/2.
    """
    leave = theory.TabularMDP([[[1.0], [0.5]]], [[1.0, 1.0]])  # every step pays 1
    solution = leave.solve()
    assert solution.gradient[0, 1] < 0  # so going on is better.

    def td(rollout):
        return td_error(rollout.rewards, rollout.values, rollout.next_values, rollout.terminated, 1.0)

    study = gradient_study(td, leave, None, 50, critic=solution.V + offset, n_envs=128)
    assert study.compared_with(study.exact + np.array([offset, -offset]) / 2).p_value > UNBIASED
    going_on, ending = study.components
    # A critic 10 too low says: end it.
    assert going_on.high < 0 < ending.low if offset < 0 else ending.high < 0 < going_on.low


def test_the_one_step_actor_critic_has_the_gradient_of_td_errors():
    for critic in (V, np.array([5.0, -5.0, 0.0])):
        study = gradient_study(ActorCritic, EPISODIC, THETA, 150, critic=critic, n_steps=1, n_envs=64)
        assert study.compared_with(EPISODIC.solve(THETA).gae_gradient(critic, 0.0)).p_value > UNBIASED
        # One step of each environment, and an episode lasts two; by a linear system, so to some roundings of float64.
        assert study.episodes == pytest.approx(64 / 2, rel=1e-12)


def of_n_steps(problem, n_steps, critic, theta=None):
    def estimator(rollout):
        ends = (rollout.terminated, rollout.truncated)
        return n_step(rollout.rewards, rollout.next_values, *ends, 1.0, n_steps) - rollout.values

    return gradient_study(estimator, problem, theta, 50, critic=critic, n_envs=128)


def test_n_steps_with_an_exact_critic_are_unbiased():
    assert of_n_steps(EPISODIC, 3, V, THETA).p_value > UNBIASED


# From state 0 either action leads to a state of its own, which the next steps leave with probability .3.
FORK = theory.TabularMDP(
    [[[0, 1, 0], [0, 0, 1]], [[0, 0.7, 0], [0, 0.7, 0]], [[0, 0, 0.7], [0, 0, 0.7]]], [[0, 0], [1, 1], [0, 0]]
)


FORK_CRITIC = FORK.solve().V + np.array([0, -5, 5])


def fork_bias(n_steps):
    """Of that critic: π_0 π_1 (Â_0 - Â_1) errs by .7^(n - 1) (-5 - 5) / 4, and no other state does."""
    return np.array([[-1, 1], [0, 0], [0, 0]]) * 2.5 * 0.7 ** (n_steps - 1)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_n_steps_have_the_bias_of_the_critic_after_them(n_steps):
    solution = FORK.solve()
    study = of_n_steps(FORK, n_steps, FORK_CRITIC)
    assert study.compared_with(solution.gradient + fork_bias(n_steps)).p_value > UNBIASED
    assert study.p_value < 1e-9


def test_the_bias_of_n_steps_vanishes_as_n_grows():
    solution = FORK.solve()
    for n_steps in range(1, 50):
        expected = solution.gae_gradient(FORK_CRITIC, 1.0, n_steps)
        assert expected == pytest.approx(solution.gradient + fork_bias(n_steps))


def test_a_rollout_that_cuts_episodes_cuts_the_sum_of_td_errors_too():
    """Its last step has one TD error, the one before two: with a wrong critic another bias than whole episodes have."""
    problem = LONG.changed(gamma=0.8)
    solution = problem.solve(THETA)
    study = gradient_study(A2C, problem, THETA, 75, critic=WRONG, gae_lambda=0.9, n_steps=3, n_envs=128)
    cut = np.mean([solution.gae_gradient(WRONG, 0.9, n_steps) for n_steps in (1, 2, 3)], axis=0)
    assert study.compared_with(cut).p_value > UNBIASED
    assert study.compared_with(solution.gae_gradient(WRONG, 0.9)).p_value < 1e-9


@pytest.mark.parametrize("algorithm", [A2C, PPO])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.95])
def test_rollouts_that_cut_episodes_have_the_gradient_times_the_rate_of_episodes(algorithm, gae_lambda):
    study = gradient_study(algorithm, EPISODIC, THETA, 50, critic=V, gae_lambda=gae_lambda, n_steps=4, n_envs=192)
    assert study.p_value > UNBIASED
    assert study.episodes == pytest.approx(4 * 192 / 2, rel=1e-12)


def test_with_a_discount_a2c_has_the_gradient_without_it_in_the_states():
    problem = LONG.changed(gamma=0.8)
    solution = problem.solve(THETA)
    study = gradient_study(A2C, problem, THETA, 50, critic=solution.V, n_steps=8, n_envs=128)
    assert study.compared_with(solution.expected_update).p_value > UNBIASED
    assert study.p_value < 1e-9


def test_a_gaussians_gradient_of_the_mean_is_the_distance_over_the_variance():
    """∂ log N(a; μ, σ²) / ∂μ = (a - μ) / σ², and by log σ it is ((a - μ)² / σ²) - 1, through the agent's own policy."""
    problem = theory.LinearQuadratic([[1.0]], [[1.0]], [[1.0]], [[1.0]], horizon=1)
    agent = REINFORCE(theory.LinearPolicy, problem.env(), seed=0)
    with th.no_grad():
        agent.policy.action_net.weight.fill_(0.5)
        agent.policy.log_std.fill_(np.log(2.0))
    _, log_prob, _ = agent.policy.evaluate_actions(th.tensor([[3.0]]), th.tensor([[2.5]]))
    log_prob.sum().backward()
    # μ = 1.5 and σ² = 4: (2.5 - 1.5) / 4, times the observation 3 by the chain rule.
    assert agent.policy.action_net.weight.grad.item() == pytest.approx(3 * 0.25)
    assert agent.policy.log_std.grad.item() == pytest.approx(0.25 - 1)


@pytest.mark.parametrize("baseline", ["none", "time"])
def test_on_a_linear_quadratic_problem_the_gradient_is_the_closed_form(baseline):
    problem = theory.LinearQuadratic([[0.9]], [[1.0]], [[1.0]], [[0.5]], W=[[0.1]], horizon=3)
    study = gradient_study(REINFORCE, problem, ([[-0.2]], [-1.0]), 200, baseline=baseline)
    assert study.p_value > UNBIASED
    assert is_about(study.relative_bias, 0)


def test_intervals_and_p_values_are_those_of_a_known_distribution():
    rng = np.random.default_rng(4)
    exact, covariance = np.array([1.0, -2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
    studies = [theory.GradientStudy(rng.multivariate_normal(exact, covariance, 50), exact, 1.0) for _ in range(400)]
    inside = np.mean([study.relative_bias.low < 0 < study.relative_bias.high for study in studies])
    assert inside == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 400) ** 0.5)
    assert np.mean([study.p_value < 0.1 for study in studies]) == pytest.approx(0.1, abs=4 * (0.09 / 400) ** 0.5)
    # Of the trace of a sample covariance: E = tr Σ = 3, and the variance is 2 tr Σ² / (n - 1).
    error = (2 * (covariance**2).sum() / 49 / 400) ** 0.5
    assert np.mean([study.variance.value for study in studies]) == pytest.approx(3.0, abs=4 * error)
    # E snr = E |mean|² E 1/trace - 1/n, with E 1/X = ∫ E exp(-tX) dt, and trace = Σ λ_i χ²(49) / 49.
    eigenvalues = np.linalg.eigvalsh(covariance)
    inverse, _ = integrate.quad(lambda t: np.prod((1 + 2 * eigenvalues * t / 49) ** -24.5), 0, np.inf)
    ratios = [study.snr for study in studies]
    expected = (exact @ exact + 3 / 50) * inverse - 1 / 50
    assert np.mean(ratios) == pytest.approx(expected, abs=4 * np.std(ratios) / 400**0.5)


def study_of(gradients, exact):
    return theory.GradientStudy(np.array(gradients, dtype=float), np.array(exact, dtype=float), 1.0)


def test_an_estimator_that_is_always_zero_is_biased_unless_the_gradient_is():
    zero = gradient_study(lambda rollout: np.zeros_like(rollout.rewards), EPISODIC, THETA, 10)
    assert zero.p_value == 0
    assert zero.relative_bias == pytest.approx((-1, -1, -1), rel=1e-12)
    assert np.isnan(zero.snr)
    worthless = gradient_study(REINFORCE, EPISODIC.changed(rewards=np.zeros((3, 2))), THETA, 10)
    assert worthless.p_value == 1
    with pytest.raises(ValueError, match="`relative_bias` is relative to ∇J, but ∇J is 0"):
        _ = worthless.relative_bias


def test_a_bias_where_nothing_varies_cannot_hide():
    gradients = np.array([1, 2]) + RNG.normal(size=(50, 1)) * [[1, 0]]
    assert study_of(gradients, [1, 2]).p_value > UNBIASED
    assert study_of(gradients, [1, 2.01]).p_value == 0
    assert study_of(gradients, [1, 2 * (1 + EPS)]).p_value > UNBIASED  # rounding is no bias
    assert study_of(np.ones((50, 2)), [1, 1]).p_value == 1
    assert study_of(np.ones((50, 2)), [1, 1]).snr == np.inf


def test_a_p_value_needs_batches_enough_to_show_what_varies():
    """θ has six numbers, but gradients vary in three directions, which four batches could all have by chance."""
    with pytest.raises(ValueError, match=r"`p_value` needs more batches than 4; more than 6, the number of components"):
        _ = gradient_study(REINFORCE, EPISODIC, THETA, 4).p_value
    assert gradient_study(REINFORCE, EPISODIC, THETA, 7).p_value > UNBIASED
    assert study_of([[1.0], [2.0]], [1.5]).p_value == pytest.approx(1)  # one component, two batches: Student's t


def test_gradients_are_in_the_order_of_the_parameters():
    """One state of three is where episodes stay, and K beside log σ: only there is something else than 0."""
    stuck = theory.TabularMDP(np.zeros((3, 2, 3)), np.ones((3, 2)), [0, 1, 0])
    found = gradient_study(REINFORCE, stuck, None, 20).gradients
    assert (found[:, [0, 1, 4, 5]] == 0).all()
    assert (found[:, [2, 3]] != 0).any(axis=0).all()
    # Nothing is seen, so K = (0, 0) gets no gradient.
    blind = theory.LinearQuadratic(np.eye(2), np.ones((2, 1)), np.eye(2), [[1.0]], X=np.zeros((2, 2)), horizon=1)
    by_gain, by_std = np.split(gradient_study(REINFORCE, blind, None, 20).gradients, [2], axis=1)
    assert (by_gain == 0).all()
    assert (by_std != 0).all()


class Moving(REINFORCE):
    """An algorithm that does not ask the learning rate."""

    def train(self):
        super().train()
        with th.no_grad():
            self.policy.action_net.weight += 1


ENDLESS = theory.TabularMDP.random(3, 2, ends=0.0, gamma=0.9)
LQ = theory.LinearQuadratic([[1.0]], [[1.0]], [[1.0]], [[1.0]])


def ones(rollout):
    return np.ones_like(rollout.rewards)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n_batches": 1}, "`n_batches` must be an integer at least 2, but is 1"),
        ({"seed": -1}, "`seed` must be an integer at least 0, but is -1"),
        ({"critic": np.zeros(3)}, "`critic` is for an algorithm with a critic on a TabularMDP, not REINFORCE"),
        ({"algorithm": A2C, "critic": np.zeros(2)}, r"`critic` must have the shape \(3,\), but has \(2,\)"),
        ({"algorithm": A2C, "critic": [0, np.nan, 0]}, r"`critic` must be finite, but critic\[1\] is nan"),
        ({"parameters": np.zeros(2)}, "`theta` must have the shape"),
        ({"parameters": np.full((3, 2), np.inf)}, r"`theta` must be finite, but theta\[0, 0\] is inf"),
        ({"n_step": 3}, "n_step"),
        (
            {"algorithm": stable_baselines3.PPO},
            r"`algorithm` must be a class derived from .* Did you mean 'pg_agents.PPO'",
        ),
        ({"algorithm": "A2C"}, r"but is 'A2C'. Did you mean 'pg_agents.A2C'"),
        ({"algorithm": 3}, r"`algorithm` must be .*, or a function of a Rollout, but is 3\.$"),
        ({"problem": EPISODIC.env()}, "`problem` must be a TabularMDP or .* Pass the problem itself"),
        ({"problem": EPISODIC.vector_env(2)}, "`problem` must be a TabularMDP or .* Pass the problem itself"),
        ({"problem": "CartPole-v1"}, r"`problem` must be a TabularMDP .* but is 'CartPole-v1'\.$"),
        ({"problem": ENDLESS}, "Episodes need not end, so their mean length"),
        ({"problem": LQ, "parameters": [[1.0]]}, r"`parameters` must be a pair \(K, log σ\)"),
        ({"problem": LQ, "parameters": np.zeros((2, 1, 1))}, r"`parameters` must be a pair \(K, log σ\)"),
        ({"engine": "mlp"}, "`engine` is 'mlp', but cannot be chosen: it is 'autograd'"),
        ({"device": "cuda"}, "`device` is 'cuda', but cannot be chosen: it is the CPU"),
        ({"policy_kwargs": {}}, r"`policy_kwargs` is {}, but cannot be chosen"),
        ({"learning_rate": 0.1}, "`learning_rate` must be 0, because .*, but is 0.1. .* `value_learning_rate`"),
        ({"algorithm": PPO, "n_epochs": 2}, r"must be 1 and `batch_size` the whole rollout, 512 .* are 2 and 512"),
        ({"algorithm": PPO, "batch_size": 64}, r"512 \(16 of 32 copies\), but these are 1 and 64"),
        ({"algorithm": Moving}, "Moving moves its policy even with `learning_rate` 0"),
        ({"algorithm": ones, "n_steps": 3}, "`n_steps` is 3, but a function as `algorithm`.* 'n_episodes', 'gamma'"),
        ({"algorithm": ones, "estimator": "total_return"}, "`estimator` is 'total_return', but a function"),
    ],
)
def test_mistakes_are_refused(arguments, said):
    with pytest.raises((ValueError, TypeError), match=said):
        gradient_study(**{"algorithm": REINFORCE, "problem": EPISODIC, "n_batches": 2, "warm_up": 0, **arguments})


def test_gradients_are_compared_with_one_of_their_size():
    with pytest.raises(ValueError, match=r"`expected` must have 6 numbers, but has the shape \(2, 2\)"):
        race(REINFORCE, baseline="none", estimator="reward_to_go").compared_with(np.zeros((2, 2)))


# Groups

# A sure 2.5, or a gamble: 40 times in 100 a long way to 8 or 9, and else nothing.
GAMBLE = np.zeros((3, 2, 3))
GAMBLE[0, 1, 1], GAMBLE[1, :, 2] = 0.4, 1
GROUPS = theory.TabularMDP(GAMBLE, [[2.5, 0], [0, 1], [9, 8]], initial=[0.8, 0.1, 0.1], horizon=3)
GROUPS_GRADIENT = GROUPS.solve(THETA).gradient.ravel()


def episodes_from(state, steps=3):
    """Probability, return, length and score of every episode from a state."""
    policy, found = GROUPS.solve(THETA).policy, []
    for action in range(2):
        score = np.zeros((3, 2))
        score[state] = np.eye(2)[action] - policy[state]
        following = GROUPS.transitions[state, action]
        ended = 1.0 if steps == 1 else 1 - following.sum()
        rest = [(ended, 0.0, 0, np.zeros((3, 2)))]
        if steps > 1:
            rest += [
                (following[after] * p, value, length, later)
                for after in range(3)
                for p, value, length, later in episodes_from(after, steps - 1)
            ]
        found += [
            (policy[state, action] * p, GROUPS.rewards[state, action] + value, 1 + length, score + later)
            for p, value, length, later in rest
        ]
    return found


def expected_of_pairs(advantage, weight=lambda length: 1.0):
    """E[w(T_1) Â(R_1, R_2) Σ_t ∇ log π] for groups of two, summed over all pairs of episodes."""
    expected = np.zeros(6)
    for state in range(3):
        probability, value, length, score = map(np.array, zip(*episodes_from(state), strict=True))
        against = advantage(value[:, None], value[None]) @ probability
        weights = probability * against * weight(length)
        expected += GROUPS.initial[state] * np.einsum("n,nsa->sa", weights, score).ravel()
    return expected


def minus_mean(own, other):
    return (own - other) / 2


def in_deviations(own, other):
    return np.sign(np.round(own - other, 9)) / np.sqrt(2)  # (R_1 - R_2) / 2 over the sample's |R_1 - R_2| / √2


@cache
def of_pairs(algorithm, **arguments):
    return gradient_study(algorithm, GROUPS, THETA, 50, group_size=2, n_envs=256, seed=1, **arguments)


def test_leaving_one_out_of_a_group_is_unbiased():
    assert of_pairs(RLOO).p_value > UNBIASED
    assert of_pairs(RLOO, credit="step").p_value > UNBIASED
    assert expected_of_pairs(lambda own, other: own - other) == pytest.approx(GROUPS_GRADIENT)


def test_a_groups_mean_shrinks_the_gradient_by_an_episodes_share_in_it():
    study = of_pairs(GRPO, scale="none")
    assert study.p_value < 1e-9
    assert study.compared_with(GROUPS_GRADIENT / 2).p_value > UNBIASED
    assert expected_of_pairs(minus_mean) == pytest.approx(GROUPS_GRADIENT / 2)


@pytest.mark.parametrize(
    ("arguments", "advantage", "weight"),
    [
        ({"scale": "std"}, in_deviations, np.ones_like),
        ({"scale": "none", "length_normalization": True}, minus_mean, lambda length: 1 / length),
        ({"scale": "std", "length_normalization": True}, in_deviations, lambda length: 1 / length),
    ],
    ids=["deviation", "length", "both"],
)
def test_dividing_by_the_deviation_or_the_length_can_turn_the_gradient_round(arguments, advantage, weight):
    study, expected = of_pairs(GRPO, **arguments), expected_of_pairs(advantage, weight)
    assert study.compared_with(expected).p_value > UNBIASED
    # The gamble pays more on average, and the gradient says so. These say the opposite.
    assert GROUPS_GRADIENT[1] > 0.1
    assert expected[1] < -0.02
    assert study.compared_with(np.abs(expected) * np.sign(GROUPS_GRADIENT)).p_value < 1e-9


def test_in_deviations_a_start_with_hardly_anything_to_gain_counts_like_any_other():
    rewards = np.array([[1.0, 0.0], [100.0, 0.0]])
    bandits = theory.TabularMDP(np.zeros((2, 2, 2)), rewards, initial=[0.5, 0.5])
    study = gradient_study(GRPO, bandits, None, 50, group_size=4, n_envs=256)
    small, large = np.abs(study.mean.reshape(2, 2)).mean(axis=1)
    exact = np.abs(bandits.solve().gradient).mean(axis=1)
    assert exact[1] / exact[0] == pytest.approx(100)
    assert large / small == pytest.approx(1, rel=0.1)
