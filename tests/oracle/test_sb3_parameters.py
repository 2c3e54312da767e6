"""PPO, A2C and TRPO arrive at SB3's parameters, bit for bit: both run the same operations in the same order.

Models are built and trained one after the other, because both draw from torch's global generator.
"""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.envs import (
    FakeImageEnv,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

import pg_agents

ENVS = {
    "CartPole-v1": partial(gym.make, "CartPole-v1"),
    "Pendulum-v1": partial(gym.make, "Pendulum-v1"),
    "dict": partial(SimpleMultiObsEnv, random_start=False),
    "image": partial(FakeImageEnv, screen_height=40, screen_width=40, n_channels=1, discrete=False),
    "multi_discrete": partial(IdentityEnvMultiDiscrete, dim=3, ep_length=7),
    "multi_binary": partial(IdentityEnvMultiBinary, dim=3, ep_length=7),
    "discrete_observation": partial(gym.make, "FrozenLake-v1"),
}
POLICIES = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}


def make_env(name, seed):
    # SB3's small environments draw from their spaces and, when built, from NumPy's global generator.
    np.random.seed(seed)  # noqa: NPY002
    env = ENVS[name]()
    env.observation_space.seed(seed)
    env.action_space.seed(seed)
    return Monitor(env)


def vec_env(name, n_envs, seed, cls=DummyVecEnv):
    env = cls([partial(make_env, name, seed + index) for index in range(n_envs)])
    env.seed(seed)
    return env


def trained(module, algorithm, env_name, n_envs, wrap=lambda env: env, vec_env_cls=DummyVecEnv, n_updates=4, **kwargs):
    """The agent after `n_updates` iterations, and the state of all that it learnt."""
    env = wrap(vec_env(env_name, n_envs, 7, vec_env_cls))
    agent = getattr(module, algorithm)(POLICIES.get(env_name, "MlpPolicy"), env, seed=3, device="cpu", **kwargs)
    agent.learn(n_updates * agent.n_steps * n_envs)
    env.close()
    return agent


def assert_same(ours, theirs):
    assert ours.num_timesteps == theirs.num_timesteps
    mine, reference = ours.get_parameters(), theirs.get_parameters()
    assert mine["policy"].keys() == reference["policy"].keys()
    for name, value in reference["policy"].items():
        assert th.equal(mine["policy"][name], value), name
    assert str(mine["policy.optimizer"]) == str(reference["policy.optimizer"])
    for name in ("values", "returns", "advantages", "rewards", "actions", "log_probs"):
        np.testing.assert_array_equal(getattr(ours.rollout_buffer, name), getattr(theirs.rollout_buffer, name), name)


def same_as_sb3(algorithm, *args, **kwargs):
    theirs = trained(sb3_contrib if algorithm == "TRPO" else stable_baselines3, algorithm, *args, **kwargs)
    ours = trained(pg_agents, algorithm, *args, engine="autograd", **kwargs)
    assert_same(ours, theirs)
    return ours, theirs


PPO_SHORT = {"n_steps": 32, "batch_size": 32, "n_epochs": 3}


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("env", ENVS)
def test_ppo_has_sb3s_parameters(env, n_envs):
    same_as_sb3("PPO", env, n_envs, **PPO_SHORT)


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("env", ENVS)
def test_a2c_has_sb3s_parameters(env, n_envs):
    same_as_sb3("A2C", env, n_envs, n_updates=8)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"target_kl": 0.001},
        {"clip_range_vf": 0.1},
        {"clip_range_vf": LinearSchedule(0.5, 0.1, 1.0)},
        {"learning_rate": LinearSchedule(1e-3, 0.0, 1.0), "clip_range": lambda progress: 0.3 * progress + 0.05},
        {"ent_coef": 0.05, "vf_coef": 0.2, "max_grad_norm": 0.1},
        {"normalize_advantage": False, "gae_lambda": 0.8, "gamma": 0.9},
        {"batch_size": 48, "n_steps": 64},
        {"policy_kwargs": {"net_arch": [16], "activation_fn": th.nn.ReLU, "ortho_init": False}},
        {"policy_kwargs": {"optimizer_class": RMSpropTFLike}},
        {"policy_kwargs": {"share_features_extractor": False}},
        {"stats_window_size": 5},
    ],
    ids=lambda kwargs: " ".join(kwargs),
)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")  # SB3's own, for 48 of 64
def test_every_option_of_ppo_does_what_it_does_in_sb3(kwargs):
    same_as_sb3("PPO", "CartPole-v1", 4, **{**PPO_SHORT, **kwargs})


@pytest.mark.parametrize(
    "kwargs",
    [
        {"use_rms_prop": False},
        {"rms_prop_eps": 1e-3},
        {"normalize_advantage": True},
        {"learning_rate": LinearSchedule(1e-2, 0.0, 1.0), "ent_coef": 0.01},
        {"gae_lambda": 0.9, "n_steps": 16, "max_grad_norm": 0.1, "vf_coef": 0.1},
        {"policy_kwargs": {"optimizer_class": th.optim.SGD}},
    ],
    ids=lambda kwargs: " ".join(kwargs),
)
def test_every_option_of_a2c_does_what_it_does_in_sb3(kwargs):
    same_as_sb3("A2C", "CartPole-v1", 4, n_updates=8, **kwargs)


TRPO_SHORT = {"n_steps": 32, "batch_size": 32, "n_critic_updates": 3}


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("env", ENVS)
def test_trpo_has_sb3_contribs_parameters(env, n_envs):
    # Images take their time.
    short = {**TRPO_SHORT, "n_steps": 8, "batch_size": 8, "cg_max_steps": 3} if env in POLICIES else TRPO_SHORT
    ours, _ = same_as_sb3("TRPO", env, n_envs, **short)
    assert ours._n_updates == 4


@pytest.mark.parametrize(
    "kwargs",
    [
        {"learning_rate": LinearSchedule(1e-3, 0.0, 1.0), "batch_size": 64},
        {"cg_max_steps": 1, "cg_damping": 0.5},
        {"line_search_shrinking_factor": 0.5, "line_search_max_iter": 3, "target_kl": 0.05},
        {"n_critic_updates": 1, "gae_lambda": 0.8, "gamma": 0.9},
        {"normalize_advantage": False, "sub_sampling_factor": 3},
        {"policy_kwargs": {"net_arch": [16], "activation_fn": th.nn.ReLU, "ortho_init": False}},
        {"policy_kwargs": {"optimizer_class": RMSpropTFLike}},
        {"policy_kwargs": {"share_features_extractor": False}},
    ],
    ids=lambda kwargs: " ".join(kwargs),
)
def test_every_option_of_trpo_does_what_it_does_in_sb3_contrib(kwargs):
    same_as_sb3("TRPO", "CartPole-v1", 4, **{**TRPO_SHORT, **kwargs})


def test_line_searches_that_fail_leave_what_sb3_contribs_leave():
    # So large a step misjudges its divergence, and there is no second trial.
    kwargs = {"target_kl": 2.0, "cg_damping": 1e-5, "line_search_max_iter": 1}
    ours, _ = same_as_sb3("TRPO", "CartPole-v1", 4, **TRPO_SHORT, **kwargs)
    assert ours.logger.name_to_value["train/is_line_search_success"] == 0


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
@pytest.mark.parametrize("kwargs", [{}, {"sde_sample_freq": 4}, {"policy_kwargs": {"squash_output": True}}], ids=str)
def test_gsde_is_sb3s(algorithm, kwargs):
    # Squashed actions have no entropy in closed form: its bonus is then estimated from log π.
    same_as_sb3(algorithm, "Pendulum-v1", 2, use_sde=True, n_steps=64, ent_coef=0.1, **kwargs)


@pytest.mark.parametrize("kwargs", [{}, {"sde_sample_freq": 4}, {"policy_kwargs": {"squash_output": True}}], ids=str)
def test_gsde_of_trpo_is_sb3_contribs(kwargs):
    same_as_sb3("TRPO", "Pendulum-v1", 2, use_sde=True, **TRPO_SHORT, **kwargs)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "TRPO"])
def test_time_limits_under_reward_normalisation_are_bootstrapped_as_in_sb3(algorithm):
    # 4 x 256 steps of Pendulum's episodes of 200: float64 rewards, time limits inside the rollouts.
    ours, theirs = same_as_sb3(algorithm, "Pendulum-v1", 2, wrap=VecNormalize, n_steps=256)
    assert ours.rollout_buffer.truncated.any()
    np.testing.assert_array_equal(ours.env.obs_rms.mean, theirs.env.obs_rms.mean)


def test_rewards_of_subprocesses_are_bootstrapped_as_in_sb3():
    same_as_sb3("PPO", "Pendulum-v1", 2, vec_env_cls=SubprocVecEnv, **{**PPO_SHORT, "n_steps": 256})


def test_frame_stacks_are_sb3s():
    same_as_sb3("PPO", "CartPole-v1", 2, wrap=partial(VecFrameStack, n_stack=3), **PPO_SHORT)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "TRPO"])
def test_both_log_the_same_values(algorithm):
    ours, theirs = same_as_sb3(algorithm, "Pendulum-v1", 2, n_steps=64)
    mine, reference = ours.logger.name_to_value, theirs.logger.name_to_value
    assert set(reference) <= set(mine)
    for key in reference:
        # Means of a few float32 numbers, summed in another order and precision.
        assert mine[key] == pytest.approx(reference[key], rel=1e-5, abs=1e-7), key


class DriftingEnv(gym.Env):
    """Float64 actions of two dimensions, float64 observations, a time limit and terminations."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Box(-0.5, 2.0, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.normal(size=3), 0
        return self.state, {}

    def step(self, action):
        assert action.dtype == np.float64
        assert self.action_space.contains(action)
        self.steps += 1
        self.state = self.state + self.np_random.normal(size=3) + action.sum()
        return self.state, float(-np.abs(self.state).sum()), bool(self.state[0] > 9), self.steps >= 11, {}


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "TRPO"])
def test_float64_actions_of_several_dimensions_are_handled_as_in_sb3(algorithm, monkeypatch):
    monkeypatch.setitem(ENVS, "drifting", DriftingEnv)
    ours, _ = same_as_sb3(algorithm, "drifting", 2, n_steps=64)
    assert ours.predict(np.zeros(3))[0].dtype == np.float64


def test_a_second_call_of_learn_goes_on_as_in_sb3():
    agents = []
    for module in (stable_baselines3, pg_agents):
        engine = {"engine": "autograd"} if module is pg_agents else {}
        agent = trained(module, "PPO", "CartPole-v1", 2, **PPO_SHORT, **engine)
        # The environments are closed, but CartPole without a window has nothing to close.
        agents.append(agent.learn(256, reset_num_timesteps=False))
    assert_same(agents[1], agents[0])
