"""What TensorBoard shows is what the documentation says, and what it says is true."""

import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from fakes import TinyEnv
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pg_agents import A2C, A3C, GRPO, NPG, PPO, REINFORCE, RLOO, TRPO, ActorCritic, ReinforceBaseline

DOCUMENTED = set(re.findall(r"^\| `([^`]+)`", (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(), re.M))

TINY_TRPO = {"n_steps": 64, "batch_size": 32, "n_critic_updates": 2}
TINY_PPO = {"n_steps": 64, "batch_size": 32, "n_epochs": 2}


class Successes(gym.Wrapper):
    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "is_success": terminated}


def events(folder):
    (log,) = folder.rglob("events.out.tfevents.*")
    return EventAccumulator(str(log.parent)).Reload()


def logged(folder, cls, env, **kwargs):
    """All keys of a short training, in TensorBoard and in CSV."""
    agent = cls("MlpPolicy", env, seed=0, device="cpu", **kwargs)
    agent.set_logger(configure(str(folder), ["tensorboard", "csv"]))
    agent.learn(600, log_interval=1)
    agent.logger.close()
    header = (folder / "progress.csv").read_text().splitlines()[0]
    return set(events(folder).Tags()["scalars"]) | set(header.split(","))


def test_every_logged_key_is_documented_and_every_documented_key_is_logged(tmp_path):
    keys = (
        logged(tmp_path / "1", PPO, "Pendulum-v1", clip_range_vf=1.0, **TINY_PPO)
        | logged(tmp_path / "2", PPO, Monitor(Successes(gym.make("CartPole-v1"))), kl_target=0.01, **TINY_PPO)
        | logged(tmp_path / "3", A2C, "Pendulum-v1", use_sde=True)
        | logged(tmp_path / "4", REINFORCE, "CartPole-v1")
        | logged(tmp_path / "5", ReinforceBaseline, "CartPole-v1", value_learning_rate=1e-3)
        | logged(tmp_path / "6", GRPO, "CartPole-v1", group_size=4, kl_coef=0.1)
        | logged(tmp_path / "7", RLOO, "CartPole-v1", group_size=4, kl_coef=0.1, kl_in="loss", kl_estimator="k2")
        | logged(tmp_path / "8", A2C, "CartPole-v1", prior=A2C("MlpPolicy", "CartPole-v1", seed=1, device="cpu"))
        | logged(tmp_path / "9", TRPO, "CartPole-v1", **TINY_TRPO)
        | logged(tmp_path / "10", A3C, "CartPole-v1", delay=1)
    )
    # TensorBoard's own keys for the metrics of the HParams page are the logged ones; CSV has the rest.
    assert {re.sub(r"_\d+$", "_{i}", key) for key in keys} == DOCUMENTED - {"hparams"}


@pytest.mark.parametrize(
    ("cls", "page", "kwargs"),
    [
        (REINFORCE, "reinforce", {"n_episodes": 1}),
        (ReinforceBaseline, "reinforce_baseline", {"n_episodes": 1, "value_learning_rate": 1e-3}),
        (ActorCritic, "actor_critic", {}),
        (A2C, "a2c", {}),
        (A3C, "a3c", {"delay": 1}),
        (PPO, "ppo", {"clip_range_vf": 1.0, **TINY_PPO}),
        (PPO, "ppo", {"kl_target": 0.01, **TINY_PPO}),
        (GRPO, "grpo", {"group_size": 2, "kl_coef": 0.1}),
        (RLOO, "rloo", {"group_size": 2, "kl_coef": 0.1, "kl_in": "loss", "kl_estimator": "k2"}),
        (NPG, "npg", TINY_TRPO),
        (TRPO, "trpo", TINY_TRPO),
    ],
)
def test_the_page_of_an_algorithm_names_what_it_logs(cls, page, kwargs, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "algorithms" / f"{page}.md").read_text()
    keys = {re.sub(r"_\d+$", "_{i}", key) for key in logged(tmp_path, cls, "Pendulum-v1", **kwargs)}
    own = {key for key in keys if key.startswith("train/") or (key.startswith("rollout/") and "ep_" not in key)}
    assert {"rollout/saturated_actions", "train/policy_objective" if issubclass(cls, NPG) else "train/loss"} <= own
    assert own <= set(re.findall(r"`([a-z_/{}]+)`", text))


def test_the_hparams_page_shows_the_arguments_that_were_given(tmp_path):
    kwargs = {"gamma": 0.9, "learning_rate": lambda progress: 0.125 * progress, **TINY_PPO}
    PPO("MlpPolicy", "CartPole-v1", tensorboard_log=str(tmp_path), **kwargs).learn(128)
    # The page is stored in the run's plugin data, under the hparams plugin's name.
    accumulator = events(tmp_path)
    content = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for name in (b"gamma", b"CartPole-v1", b"ActorCriticPolicy", b"n_epochs", b"0.125 to 0", b"engine"):
        assert name in content
    for name in (b"stats_window_size", b"Schedule", b"device"):
        assert name not in content


def test_the_hparams_page_has_all_arguments_of_a2c(tmp_path):
    A2C("MlpPolicy", "CartPole-v1", tensorboard_log=str(tmp_path), rms_prop_eps=0.25).learn(5, log_interval=1)
    content = events(tmp_path).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"rms_prop_eps" in content
    assert b"use_rms_prop" in content


def test_environments_of_other_processes_are_not_asked_for_what_may_not_travel(tmp_path):
    def make():
        gym.register("Unpicklable-v0", entry_point=lambda **kwargs: gym.make("CartPole-v1").unwrapped)
        return gym.make("Unpicklable-v0")

    env = SubprocVecEnv([make, make])
    A2C("MlpPolicy", env, tensorboard_log=str(tmp_path)).learn(20)
    env.close()


def test_raw_return_is_that_of_the_environment_under_normalised_rewards():
    env = VecMonitor(VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")])))
    agent = PPO("MlpPolicy", env, seed=0, device="cpu", **TINY_PPO).learn(256)
    logged = agent.logger.name_to_value
    agent.dump_logs()
    # A CartPole episode's return is its length; VecMonitor saw the normalised rewards.
    lengths = [info["l"] for info in agent.ep_info_buffer]
    assert list(agent.episode_statistics.finished) == lengths
    assert [info["r"] for info in agent.ep_info_buffer] != lengths
    assert logged is agent.logger.name_to_value


def test_raw_return_needs_no_monitor():
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2)
    agent = A2C("MlpPolicy", env, seed=0, device="cpu").learn(400)
    assert len(agent.ep_info_buffer) == 0
    assert sum(agent.episode_statistics.finished) + agent.episode_statistics.running.sum() == 400


# The first dimension clips nearly every action, and the second hardly any.
WIDE = spaces.Box(np.float32([-1e-4, -5]), np.float32([1e-4, 5]))


def test_saturated_actions_are_those_that_were_clipped():
    agent = A2C("MlpPolicy", TinyEnv(WIDE), n_steps=500, seed=0, device="cpu").learn(500, log_interval=None)
    # Half the components: N(0, 1) is within 1e-4 once in 12,500 draws, and beyond 5 once in two million.
    assert agent.logger.name_to_value["rollout/saturated_actions"] == pytest.approx(0.5, abs=0.004)


def test_saturated_actions_of_a_squashed_policy_are_those_near_the_bounds():
    kwargs = {"use_sde": True, "policy_kwargs": {"squash_output": True, "log_std_init": 1.0}}
    agent = A2C("MlpPolicy", "Pendulum-v1", n_steps=500, seed=0, device="cpu", **kwargs).learn(500, log_interval=None)
    actions = agent.rollout_buffer.actions
    share = ((actions < -0.99) | (actions > 0.99)).mean()
    assert 0.05 < share < 0.95
    assert agent.logger.name_to_value["rollout/saturated_actions"] == pytest.approx(share)


def test_deviations_are_those_of_each_dimension():
    agent = PPO("MlpPolicy", TinyEnv(WIDE), learning_rate=0.0, seed=0, device="cpu", **TINY_PPO)
    with th.no_grad():
        agent.policy.log_std.copy_(th.tensor([0.5, 2.0]).log())
    agent.learn(64)
    logged = agent.logger.name_to_value
    assert (logged["train/std_0"], logged["train/std_1"]) == pytest.approx((0.5, 2.0))
    assert logged["train/std"] == pytest.approx(1.25)


def test_gradient_norm_is_the_one_before_clipping():
    env = make_vec_env("CartPole-v1", 2, seed=0)
    agent = A2C("MlpPolicy", env, max_grad_norm=1e-3, n_steps=32, seed=0, device="cpu", engine="autograd")
    agent.learn(64, log_interval=None)
    clipped = th.cat([parameter.grad.flatten() for parameter in agent.policy.parameters()]).norm().item()
    assert clipped == pytest.approx(1e-3, rel=1e-3)
    assert agent.logger.name_to_value["train/grad_norm"] > 0.1


def test_advantages_are_logged_as_they_were_before_normalisation():
    agent = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu", **TINY_PPO).learn(64, log_interval=None)
    advantages = agent.rollout_buffer.advantages
    assert agent.logger.name_to_value["rollout/advantage_mean"] == pytest.approx(advantages.mean(), rel=1e-5)
    assert agent.logger.name_to_value["rollout/advantage_std"] == pytest.approx(advantages.std(), rel=1e-5)


def test_kl_of_each_epoch_grows_from_zero_and_the_last_is_sb3s():
    agent = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu", n_steps=64, batch_size=64, n_epochs=3).learn(64)
    logged = agent.logger.name_to_value
    # The first epoch is a single minibatch, at which the policy is still the old one.
    assert logged["train/approx_kl_epoch_1"] == pytest.approx(0, abs=1e-7)
    assert 0 < logged["train/approx_kl_epoch_2"] < logged["train/approx_kl_epoch_3"]
    assert logged["train/approx_kl_epoch_3"] == logged["train/approx_kl"]


class Counting(A2C):
    """Counts how often its metrics are worked out."""

    n_computed = 0

    def minibatch_metrics(self, batch):
        self.n_computed += 1
        return {}


def test_a_log_that_nobody_sees_is_worked_out_once_at_the_end():
    agent = Counting("MlpPolicy", "CartPole-v1", device="cpu", engine="mlp").learn(50, log_interval=1)
    assert agent.n_computed == 1
    assert "train/policy_loss" in agent.logger.name_to_value


@pytest.mark.parametrize("owner", ["the class", "the logger"])
def test_a_spy_on_the_log_sees_every_metric(owner, monkeypatch):
    agent = Counting("MlpPolicy", "CartPole-v1", device="cpu", engine="mlp")
    agent.set_logger(configure(None, []))
    seen = []
    if owner == "the class":
        monkeypatch.setattr(Logger, "dump", lambda self, step=0: seen.append(dict(self.name_to_value)))
    else:
        agent.logger.dump = lambda step=0: seen.append(dict(agent.logger.name_to_value))
    agent.learn(30, log_interval=1)
    # The first dump comes before the first update.
    assert ["train/policy_loss" in values for values in seen] == [False, *[True] * 5]
