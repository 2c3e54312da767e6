"""Policies without a critic, and with a standard deviation that the network gives."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.policies import ActorCriticPolicy

from pg_agents import A2C, PPO, REINFORCE, ReinforceBaseline, policies
from pg_agents.policies import LOG_STD_MAX, LOG_STD_MIN, ActorPolicy

STATE_DEPENDENT = {"policy_kwargs": {"state_dependent_std": True}}
PENDULUM = {"policy": "MlpPolicy", "env": "Pendulum-v1", "seed": 0, "device": "cpu"}


@pytest.mark.parametrize(
    ("policy", "env"),
    [
        ("MlpPolicy", lambda: gym.make("CartPole-v1")),
        ("CnnPolicy", lambda: FakeImageEnv(screen_height=40, screen_width=40, n_channels=1)),
        ("MultiInputPolicy", SimpleMultiObsEnv),
    ],
)
def test_reinforce_has_no_critic(policy, env):
    agent = REINFORCE(policy, env(), seed=0, device="cpu")
    observation, _ = agent.policy.obs_to_tensor(agent.observation_space.sample())
    assert agent.policy.predict_values(observation).tolist() == [[0.0]]
    assert not [name for name, _ in agent.policy.named_parameters() if "value" in name]
    optimised = sum(len(group["params"]) for group in agent.policy.optimizer.param_groups)
    assert optimised == len(list(agent.policy.parameters()))


@pytest.mark.parametrize(
    ("net_arch", "sizes"),
    [(None, [64, 64, 2]), ([8], [8, 2]), ({"pi": [5, 4]}, [5, 4, 2]), ({"pi": [3], "vf": []}, [3, 2]), ([], [2])],
)
def test_an_actor_has_the_layers_that_net_arch_says(net_arch, sizes):
    agent = REINFORCE("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": net_arch})
    assert [len(parameter) for parameter in agent.policy.parameters() if parameter.ndim == 2] == sizes


def test_layers_for_a_critic_that_is_not_there_are_refused():
    with pytest.raises(ValueError, match="`net_arch` has layers for a value function"):
        REINFORCE("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": {"pi": [8], "vf": [8]}})


def test_an_actor_policy_is_saved_and_loaded_on_its_own(tmp_path):
    policy = REINFORCE("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}).policy
    policy.save(tmp_path / "policy.pth")
    loaded = ActorPolicy.load(tmp_path / "policy.pth")
    assert all(th.equal(a, b) for a, b in zip(policy.parameters(), loaded.parameters(), strict=True))


def test_a_policy_without_a_critic_is_refused_where_one_is_learnt(tmp_path):
    with pytest.raises(ValueError, match="PPO learns a value function, but its policy ActorPolicy has none"):
        PPO(ActorPolicy, "CartPole-v1")
    REINFORCE("MlpPolicy", "CartPole-v1").save(tmp_path / "model")
    with pytest.raises(ValueError, match="A2C learns a value function"):
        A2C.load(tmp_path / "model")


def test_a_file_of_an_algorithm_that_collects_steps_is_refused_where_episodes_are_collected(tmp_path):
    PPO("MlpPolicy", "CartPole-v1").save(tmp_path / "model")
    for cls in (REINFORCE, ReinforceBaseline):
        with pytest.raises(ValueError, match="`n_episodes` must be"):
            cls.load(tmp_path / "model")


def test_reinforce_ignores_the_critic_of_a_policy_that_has_one():
    agent = REINFORCE(ActorCriticPolicy, "CartPole-v1", seed=0)
    before = agent.policy.value_net.weight.clone()
    agent.learn(100)
    assert th.equal(before, agent.policy.value_net.weight)
    assert "train/value_loss" not in agent.logger.name_to_value


@pytest.mark.parametrize("cls", [REINFORCE, ReinforceBaseline, A2C, PPO])
def test_sigma_depends_on_the_state_when_asked_and_only_then(cls):
    observations = th.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 8.0]])

    def deviations(**kwargs):
        agent = cls(**PENDULUM, **kwargs)
        with th.no_grad():
            return agent.policy.get_distribution(observations).distribution.stddev.flatten()

    first, second = deviations()
    assert first == second == pytest.approx(1)
    first, second = deviations(**STATE_DEPENDENT)
    assert first != second
    # An orthogonal layer of gain 0.01 on 64 tanh units: |log σ| < 0.01 sqrt(64).
    assert first.log().abs() < 0.08
    assert second.log().abs() < 0.08


def test_sigma_is_learnt_as_a_function_of_the_state():
    """Of the actions ±0.1 in one state and ±3 in the other, μ = 0 with σ = 0.1 and σ = 3 is the likeliest Gaussian."""
    policy = PPO(**PENDULUM, learning_rate=0.01, **STATE_DEPENDENT).policy
    states, actions = th.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]), th.tensor([[0.1], [3.0]])
    for _ in range(500):
        loss = -sum(policy.evaluate_actions(states, sign * actions)[1].mean() for sign in (1, -1))
        policy.optimizer.zero_grad()
        loss.backward()
        policy.optimizer.step()
    assert policy.get_distribution(states).distribution.stddev.flatten().tolist() == pytest.approx([0.1, 3.0], rel=0.1)


def test_sigma_stays_within_its_bounds():
    policy = PPO(**PENDULUM, **STATE_DEPENDENT).policy
    for bias, bound in ((1e3, LOG_STD_MAX), (-1e3, LOG_STD_MIN)):
        th.nn.init.constant_(policy.log_std_net.bias, bias)
        std = policy.get_distribution(th.zeros(1, 3)).distribution.stddev.item()
        assert np.log(std) == pytest.approx(bound)


def test_log_std_init_sets_sigma():
    policy = PPO(**PENDULUM, policy_kwargs={"state_dependent_std": True, "log_std_init": -1.0}).policy
    assert policy.get_distribution(th.zeros(1, 3)).distribution.stddev.item() == pytest.approx(np.exp(-1), rel=0.08)


@pytest.mark.parametrize("cls", [REINFORCE, ReinforceBaseline, A2C, PPO])
def test_an_agent_with_sigma_of_the_state_trains_saves_and_loads(cls, tmp_path):
    agent = cls(**PENDULUM, **STATE_DEPENDENT).learn(256)
    assert "train/std_0" in agent.logger.name_to_value
    agent.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=gym.make("Pendulum-v1"))
    observation = agent.observation_space.sample()
    assert loaded.predict(observation, deterministic=True)[0] == agent.predict(observation, deterministic=True)[0]
    loaded.learn(256)


@pytest.mark.parametrize(
    ("env", "kwargs", "reason"),
    [("CartPole-v1", {}, "Discrete"), ("Pendulum-v1", {"use_sde": True}, "gSDE")],
)
def test_sigma_of_the_state_needs_a_gaussian(env, kwargs, reason):
    with pytest.raises(ValueError, match=rf"`state_dependent_std=True` needs a Box action space.*{reason}"):
        PPO("MlpPolicy", env, **STATE_DEPENDENT, **kwargs)


@pytest.mark.parametrize("kwargs", [{}, {"full_std": False}, {"use_expln": True}], ids=str)
@pytest.mark.parametrize("n_envs", [1, 3, 20])
def test_noise_is_drawn_as_sb3_draws_it_bit_for_bit(kwargs, n_envs):
    policy = A2C("MlpPolicy", gym.make("Pendulum-v1"), use_sde=True, policy_kwargs=kwargs, device="cpu").policy
    found = []
    for draw in (policies.reset_noise, ActorCriticPolicy.reset_noise):
        th.manual_seed(5)
        draw(policy, n_envs)
        noise = policy.action_dist
        found.append((noise.exploration_mat, noise.exploration_matrices, noise.weights_dist.stddev, th.rand(1)))
    assert all(map(th.equal, *found))


def test_an_agent_with_gsde_can_be_copied_after_training():
    agent = A2C(**PENDULUM, use_sde=True).learn(8)
    policy = copy.deepcopy(agent.policy)
    assert th.equal(policy.action_dist.exploration_mat, agent.policy.action_dist.exploration_mat)


class CustomPolicy(ActorCriticPolicy):
    pass


class Silent(ActorCriticPolicy):
    def reset_noise(self, n_envs=1):
        super().reset_noise(n_envs)
        self.action_dist.exploration_mat = th.zeros_like(self.action_dist.exploration_mat)


def test_noise_of_a_policys_own_is_asked_for():
    policy = A2C(Silent, "Pendulum-v1", use_sde=True, device="cpu").policy
    policies.reset_noise(policy, 1)
    assert not policy.action_dist.exploration_mat.any()


def test_sigma_of_the_state_is_refused_for_a_policy_that_does_not_have_it():
    with pytest.raises(ValueError, match="not for CustomPolicy"):
        PPO(CustomPolicy, "Pendulum-v1", **STATE_DEPENDENT)


def test_the_callers_policy_kwargs_are_left_as_they_were():
    kwargs = {"state_dependent_std": True, "net_arch": [8]}
    A2C("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs)
    assert kwargs == {"state_dependent_std": True, "net_arch": [8]}


@pytest.mark.parametrize("cls", [REINFORCE, ReinforceBaseline, A2C, PPO])
def test_the_policy_arguments_of_a_file_may_be_repeated_on_loading_and_others_are_refused(cls, tmp_path):
    cls(**PENDULUM).save(tmp_path / "plain")
    cls(**PENDULUM, **STATE_DEPENDENT).save(tmp_path / "sigma")
    cls.load(tmp_path / "sigma", **STATE_DEPENDENT)
    cls.load(tmp_path / "plain", policy_kwargs={"state_dependent_std": False})
    for file, kwargs in (("plain", STATE_DEPENDENT), ("sigma", {"policy_kwargs": {"state_dependent_std": False}})):
        with pytest.raises(ValueError, match="The specified policy kwargs do not equal the stored policy kwargs"):
            cls.load(tmp_path / file, **kwargs)
