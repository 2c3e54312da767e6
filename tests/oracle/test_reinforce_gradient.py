"""The gradient of REINFORCE and ReinforceBaseline against closed forms, through the agents' own loops."""

import numpy as np
import pytest
import torch as th
from combinations import each_value
from problems import Bandit, TabularPolicy, TwoStates, expected_return
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from pg_agents import REINFORCE, ReinforceBaseline

SGD = {"net_arch": [], "optimizer_class": th.optim.SGD}


def test_one_update_on_a_bandit_is_the_worked_example():
    """θ = (0, 0), first action, return 2, step 0.1: θ = (0.1, -0.1) and π(a_1) = 0.5498."""
    agent = REINFORCE(TabularPolicy, Bandit(), learning_rate=0.1, n_episodes=1, gamma=1.0, policy_kwargs=SGD, seed=0)
    assert agent.policy.theta.tolist() == [[0.0, 0.0]]
    for _ in range(50):
        agent.learn(1)
        if agent.rollout_buffer.actions.item() == 0:
            break
        # The other arm pays nothing, so it teaches nothing.
        assert agent.policy.theta.tolist() == [[0.0, 0.0]]
    assert agent.policy.theta.numpy() == pytest.approx(np.array([[0.1, -0.1]]), abs=1e-7)
    probability = agent.policy.get_distribution(th.tensor([0])).distribution.probs[0, 0].item()
    assert probability == pytest.approx(0.5498, abs=5e-5)


def test_the_entropy_bonus_adds_its_own_gradient():
    """No rewards, one step: θ += α c ∇H, with ∂H/∂θ_1 = π_1 π_2 (log π_2 - log π_1) for two actions."""

    class Unpaid(Bandit):
        def step(self, action):
            return 0, 0.0, True, False, {}

    agent = REINFORCE(TabularPolicy, Unpaid(), learning_rate=0.5, ent_coef=0.2, policy_kwargs=SGD, seed=0)
    with th.no_grad():
        agent.policy.action_net.weight.copy_(th.tensor([[1.0], [0.0]]))
    agent.learn(1)
    p = 1 / (1 + np.exp(-1))
    step = 0.5 * 0.2 * p * (1 - p) * np.log((1 - p) / p)
    assert agent.policy.theta.numpy() == pytest.approx(np.array([[1 + step, -step]]), abs=1e-7)


THETA = th.tensor([[0.3, -0.2], [0.1, 0.6]], dtype=th.float64)


def exact_gradient(gamma):
    theta = THETA.clone().requires_grad_()
    (gradient,) = th.autograd.grad(expected_return(theta, gamma), theta)
    return gradient.numpy()


def sampled_gradients(agent, n_batches):
    """The gradient of each of many batches at `THETA`: the step size is 0, so the policy stays where it is."""
    with th.no_grad():
        agent.policy.action_net.weight.copy_(THETA.T)
    _, callback = agent._setup_learn(1)
    gradients = []
    for _ in range(n_batches):
        assert agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
        agent.train()
        # A loss is minimised, J is maximised.
        gradients.append(-agent.policy.action_net.weight.grad.T.double().numpy())
    return np.array(gradients)


def distance(gradients, exact):
    """From the mean to the exact gradient, component by component, in standard errors that a tenth of it exceeds."""
    error = gradients.std(axis=0, ddof=1) / np.sqrt(len(gradients))
    assert (4 * error < 0.1 * np.linalg.norm(exact)).all()
    return np.abs(gradients.mean(axis=0) - exact) / error


def assert_unbiased(gradients, exact):
    # Of four components at once, 4.4 standard errors are exceeded once in 20,000 runs.
    assert distance(gradients, exact).max() < 4.4


ESTIMATORS = {
    "reward to go": {"estimator": "reward_to_go", "gamma": 1.0},
    "total return": {"estimator": "total_return", "gamma": 1.0},
    "reward to go, discounted": {"estimator": "reward_to_go", "gamma": 0.7, "discount_updates": True},
    "total return, discounted": {"estimator": "total_return", "gamma": 0.7},
}


# That no baseline biases either estimator, test_gradient_study.py shows on episodes of equal lengths.
@pytest.mark.parametrize(("kwargs", "baseline"), each_value(ESTIMATORS, ["none", "constant", "time", "leave_one_out"]))
def test_reinforce_has_the_exact_gradient_as_its_mean(kwargs, baseline):
    # Eight environments, whose episodes are of different lengths: a preference for short ones would show here.
    env = make_vec_env(TwoStates, 8)
    agent = REINFORCE(
        TabularPolicy, env, learning_rate=0.0, n_episodes=3, baseline=baseline, policy_kwargs=SGD, seed=1, **kwargs
    )
    assert_unbiased(sampled_gradients(agent, 300), exact_gradient(kwargs["gamma"]))


def test_without_discounted_updates_the_mean_is_another_one():
    """What `discount_updates` is for; and these tests can tell the two apart.

    A component that is not biased would be 7 standard errors off once in 10^11 runs.
    """
    env = make_vec_env(TwoStates, 8)
    agent = REINFORCE(TabularPolicy, env, learning_rate=0.0, n_episodes=3, gamma=0.7, policy_kwargs=SGD, seed=1)
    assert distance(sampled_gradients(agent, 300), exact_gradient(0.7)).max() > 7


class TabularActorCritic(ActorCriticPolicy):
    """`TabularPolicy` beside a critic that is far off: V(s) = 5 w[s] - 3."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.action_net = nn.Linear(self.mlp_extractor.latent_dim_pi, 2, bias=False)
        nn.init.constant_(self.value_net.weight, 5.0)
        nn.init.constant_(self.value_net.bias, -3.0)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1))


def test_a_wrong_critic_leaves_the_mean_of_reinforce_with_baseline_exact():
    """Time limits included: V is in no return, so not even a wrong one can bias the gradient."""
    env = make_vec_env(TwoStates, 8)
    agent = ReinforceBaseline(
        TabularActorCritic, env, learning_rate=0.0, n_episodes=3, gamma=1.0, policy_kwargs=SGD, seed=1
    )
    assert_unbiased(sampled_gradients(agent, 300), exact_gradient(1.0))


def test_each_baseline_has_less_variance_than_none():
    """With all rewards raised by 10, which changes what is good by nothing."""

    class Raised(TwoStates):
        rewards = TwoStates.rewards + 10

    def variance(baseline):
        env = make_vec_env(Raised, 8)
        agent = REINFORCE(
            TabularPolicy, env, learning_rate=0.0, gamma=1.0, baseline=baseline, policy_kwargs=SGD, seed=1
        )
        return sampled_gradients(agent, 60)[1:].var(axis=0).sum()

    none = variance("none")
    for baseline in ("constant", "time", "leave_one_out"):
        assert variance(baseline) < 0.5 * none, baseline


def test_value_learning_rate_moves_the_critic_alone():
    """SGD with step 0 for the actor: α_w times the gradient of the value loss, and nothing else, moves."""
    env = make_vec_env(TwoStates, 2)
    agent = ReinforceBaseline(
        "MlpPolicy", env, learning_rate=0.0, value_learning_rate=0.01, vf_coef=0.5, policy_kwargs=SGD, seed=1
    )
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(1)
    after = agent.policy.state_dict()
    assert th.equal(before["action_net.weight"], after["action_net.weight"])
    assert th.equal(before["action_net.bias"], after["action_net.bias"])
    buffer = agent.rollout_buffer
    errors = (buffer.returns - buffer.values).flatten()[buffer.trained_on.T.flatten()]
    # 1/2 (G - V)², summed over each episode's steps and averaged over 2 environments x 4 episodes.
    step = 0.01 * errors.sum() / 8
    assert (after["value_net.bias"] - before["value_net.bias"]).item() == pytest.approx(step, rel=1e-4)
