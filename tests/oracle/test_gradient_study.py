"""What every course says of gradient estimators, of the gradients that the algorithms compute.

A claim about a mean is tested at a p-value of 1e-3, with the seeds given; one about a variance by intervals at 95 %
that do not meet.
"""

import numpy as np
import pytest
import torch as th

from pg_agents import A2C, PPO, REINFORCE, ActorCritic, ReinforceBaseline, theory
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


def raised(mdp, offset):
    return mdp.changed(rewards=mdp.rewards + offset)


def differs(one, other):
    return one.low > other.high


@pytest.mark.parametrize("estimator", ["total_return", "reward_to_go"])
@pytest.mark.parametrize("baseline", ["none", "constant", "time", "leave_one_out"])
def test_no_baseline_changes_the_expected_gradient(baseline, estimator):
    study = gradient_study(REINFORCE, raised(RACE, 2), THETA, 200, baseline=baseline, estimator=estimator)
    assert study.p_value > UNBIASED
    # Nor could a bias of a fifth of the gradient hide.
    assert study.relative_bias.high - study.relative_bias.low < 0.4


@pytest.mark.parametrize(
    "critic",
    [V, V - 3, np.array([5.0, -5.0, 0.0]), EPISODIC.solve(THETA).optimal_baseline],
    ids=["V", "low", "wrong", "optimal"],
)
def test_no_critic_as_a_baseline_changes_the_expected_gradient(critic):
    assert gradient_study(ReinforceBaseline, EPISODIC, THETA, 200, critic=critic).p_value > UNBIASED


def test_a_learned_baseline_neither():
    study = gradient_study(ReinforceBaseline, EPISODIC, THETA, 200, value_learning_rate=0.05, warm_up=50)
    assert study.p_value > UNBIASED


def test_discounting_without_discounted_updates_is_another_gradient():
    """γ^t is left out by everybody, and the mean is then not the gradient of the discounted return."""
    discounted = RACE.changed(gamma=0.5)
    assert gradient_study(REINFORCE, discounted, THETA, 200, discount_updates=True).p_value > UNBIASED
    assert gradient_study(REINFORCE, discounted, THETA, 200).p_value < 1e-9


def test_the_score_function_has_mean_zero():
    study = gradient_study(lambda rollout: np.ones_like(rollout.rewards), EPISODIC, THETA, 300)
    zero = theory.GradientStudy(study.gradients, np.zeros_like(study.exact), study.episodes)
    assert zero.p_value > UNBIASED
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
        study = gradient_study(ReinforceBaseline, bandit, theta[None], 400, critic=baseline, n_envs=8)
        variance = [8 * number for number in study.variance]  # of one episode
        # Wider than 95 %, which one of three misses too often.
        half = 2 * (variance[2] - variance[0])
        assert variance[0] == pytest.approx(exact[name], abs=half)
        assert half < 0.35 * exact[name]
    assert exact["best"] < exact["V"] < exact["none"] / 20


def test_variance_grows_with_the_square_of_the_rewards():
    plain = gradient_study(REINFORCE, RACE, THETA, 100)
    scaled = gradient_study(REINFORCE, RACE.changed(rewards=10 * RACE.rewards), THETA, 100)
    # The same draws: an identity, up to float32.
    assert scaled.variance.value == pytest.approx(100 * plain.variance.value, rel=1e-4)
    assert scaled.snr == pytest.approx(plain.snr, rel=1e-3)


def test_variance_grows_with_the_horizon_and_that_of_the_total_return_faster():
    def variance(horizon, estimator):
        longer = RACE.changed(horizon=horizon)
        return gradient_study(REINFORCE, longer, THETA, 300, estimator=estimator).variance

    total, to_go = ({h: variance(h, name) for h in (2, 4, 8)} for name in ("total_return", "reward_to_go"))
    for shorter, longer in ((2, 4), (4, 8)):
        assert differs(total[longer], total[shorter])
        assert differs(to_go[longer], to_go[shorter])
    assert differs(total[4], to_go[4])
    assert differs(total[8], to_go[8])
    assert total[8].value / total[2].value > to_go[8].value / to_go[2].value


def test_adding_a_number_to_all_rewards_drowns_plain_reinforce_and_not_the_baselined():
    for baseline, drowns in (("none", True), ("time", False), ("leave_one_out", False)):
        before, after = (
            gradient_study(REINFORCE, raised(RACE, offset), THETA, 200, baseline=baseline) for offset in (0, 20)
        )
        assert after.exact == pytest.approx(before.exact)
        assert (after.snr < before.snr / 20) == drowns
        assert (after.variance.value < 1.5 * before.variance.value) != drowns


LONG = theory.TabularMDP.random(3, 2, seed=10, ends=0.3)
WRONG = LONG.solve(THETA).V + np.array([2.0, -2.0, 1.0])


def of_gae(gae_lambda, critic, n_batches=200):
    def estimator(rollout):
        return gae(rollout.td_errors(1.0), rollout.ends, 1.0, gae_lambda)

    return gradient_study(estimator, LONG, THETA, n_batches, critic=critic)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_gae_has_the_bias_that_theory_says(gae_lambda):
    """The expected gradient for every λ in closed form; with λ = 1, it is the gradient whatever the critic."""
    expected, study = LONG.solve(THETA).gae_gradient(WRONG, gae_lambda), of_gae(gae_lambda, WRONG)
    assert theory.GradientStudy(study.gradients, expected.T.ravel(), study.episodes).p_value > UNBIASED
    assert (study.p_value > UNBIASED) == (gae_lambda == 1)


def test_with_a_wrong_critic_bias_falls_and_variance_rises_with_lambda():
    solution, lambdas = LONG.solve(THETA), np.linspace(0, 1, 11)
    biases = [np.linalg.norm(solution.gae_gradient(WRONG, number) - solution.gradient) for number in lambdas]
    assert (np.diff(biases) < 0).all()
    assert biases[-1] == pytest.approx(0)
    assert all(solution.gae_gradient(solution.V, number) == pytest.approx(solution.gradient) for number in lambdas)
    low, high = (of_gae(gae_lambda, solution.V).variance for gae_lambda in (0.0, 1.0))
    assert differs(high, low)


def test_with_an_untrained_critic_bias_falls_and_variance_rises_with_lambda():
    longer, zeros = theory.TabularMDP.random(3, 2, seed=10, ends=0.1), np.zeros(3)
    solution = longer.solve(THETA)
    biases = [np.linalg.norm(solution.gae_gradient(zeros, number) - solution.gradient) for number in (0.0, 0.9, 1.0)]
    assert biases[0] > 5 * biases[1] > biases[2]
    assert biases[2] == pytest.approx(0)

    def variance(gae_lambda):
        def estimator(rollout):
            return gae(rollout.td_errors(1.0), rollout.ends, 1.0, gae_lambda)

        return gradient_study(estimator, longer, THETA, 60, critic=zeros, n_envs=8).variance

    assert differs(variance(1.0), variance(0.0))


def test_a_low_critic_makes_td_like_what_ends_the_episode():
    """V̂ = V - c: the error is c wherever the episode ends and 0 elsewhere."""
    leave = theory.TabularMDP([[[1.0], [0.5]]], [[1.0, 1.0]])  # every step pays 1, and action 1 may end it
    solution = leave.solve()
    assert solution.gradient[0, 1] < 0  # so going on is better,

    def td(rollout):
        return td_error(rollout.rewards, rollout.values, rollout.next_values, rollout.terminated, 1.0)

    low = gradient_study(td, leave, None, 200, critic=solution.V - 10)
    assert low.mean[1] - 5 * low.gradients.std(axis=0)[1] / np.sqrt(200) > 0  # but a critic 10 too low says: end it.
    assert low.bias[1] > 0
    high = gradient_study(td, leave, None, 200, critic=solution.V + 10)
    assert high.bias[1] + 5 * high.gradients.std(axis=0)[1] / np.sqrt(200) < 0


def test_the_one_step_actor_critic_has_the_gradient_of_td_errors():
    for critic in (V, np.array([5.0, -5.0, 0.0])):
        study = gradient_study(ActorCritic, EPISODIC, THETA, 300, critic=critic, n_steps=1)
        expected = EPISODIC.solve(THETA).gae_gradient(critic, 0.0)
        assert theory.GradientStudy(study.gradients, expected.T.ravel(), study.episodes).p_value > UNBIASED
        assert study.episodes == pytest.approx(32 / 2)  # one step of each environment, and an episode lasts two


@pytest.mark.parametrize("n_steps", [1, 3])
def test_n_steps_with_an_exact_critic_are_unbiased(n_steps):
    def estimator(rollout):
        ends = (rollout.terminated, rollout.truncated)
        return n_step(rollout.rewards, rollout.next_values, *ends, 1.0, n_steps) - rollout.values

    assert gradient_study(estimator, EPISODIC, THETA, 300, critic=V).p_value > UNBIASED


@pytest.mark.parametrize("algorithm", [A2C, PPO])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.95])
def test_rollouts_that_cut_episodes_have_the_gradient_times_the_rate_of_episodes(algorithm, gae_lambda):
    study = gradient_study(algorithm, EPISODIC, THETA, 300, critic=V, gae_lambda=gae_lambda, n_steps=8)
    assert study.p_value > UNBIASED
    assert study.episodes == pytest.approx(8 * 32 / 2)


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
    study = gradient_study(REINFORCE, problem, ([[-0.2]], [-0.5]), 300, baseline=baseline)
    assert study.p_value > UNBIASED
    assert study.relative_bias.low < 0 < study.relative_bias.high


def test_intervals_and_p_values_are_those_of_a_known_distribution():
    rng = np.random.default_rng(4)
    exact, covariance = np.array([1.0, -2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
    studies = [theory.GradientStudy(rng.multivariate_normal(exact, covariance, 50), exact, 1.0) for _ in range(400)]
    inside = np.mean([study.relative_bias.low < 0 < study.relative_bias.high for study in studies])
    assert inside == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 400) ** 0.5)
    assert np.mean([study.p_value < 0.1 for study in studies]) == pytest.approx(0.1, abs=4 * (0.09 / 400) ** 0.5)
    assert np.mean([study.variance.value for study in studies]) == pytest.approx(3.0, rel=0.05)
    assert np.mean([study.snr for study in studies]) == pytest.approx(5 / 3, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n_batches": 1}, "`n_batches` must be an integer at least 2, but is 1"),
        ({"critic": np.zeros(3)}, "`critic` is for an algorithm with a critic on a TabularMDP, not REINFORCE"),
        ({"algorithm": A2C, "critic": np.zeros(2)}, r"`critic` must have the shape \(3,\), but has \(2,\)"),
        ({"parameters": np.zeros(2)}, "`theta` must have the shape"),
        ({"n_step": 3}, "n_step"),
    ],
)
def test_mistakes_are_refused(arguments, said):
    with pytest.raises((ValueError, TypeError), match=said):
        gradient_study(**{"algorithm": REINFORCE, "problem": EPISODIC, **arguments})
