"""GRPO and RLOO are REINFORCE with a group's baseline, on every face of an environment."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from pg_agents import GRPO, REINFORCE, RLOO, make_vec


def parameters(agent):
    return th.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()]).numpy()


class GroupMean(REINFORCE):
    """REINFORCE whose baseline is the mean return of the episodes that start in the same way."""

    group_size: int | None = 4
    n_groups: int = 2

    def estimate(self, rollout):
        weights, returns = np.zeros_like(rollout.rewards), np.zeros_like(rollout.rewards)
        for i in range(rollout.rewards.shape[1]):
            ends = np.flatnonzero(rollout.ends[:, i])[: self.n_episodes]
            episodes = [slice(start + 1, end + 1) for start, end in zip([-1, *ends[:-1]], ends, strict=True)]
            totals = [rollout.rewards[episode, i].sum() for episode in episodes]
            for number, episode in enumerate(episodes):
                first = number - number % self.group_size
                returns[episode, i] = totals[number]
                weights[episode, i] = totals[number] - np.mean(totals[first : first + self.group_size])
        return weights, returns


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_grpo_without_clip_scale_and_further_epochs_is_reinforce_with_the_groups_mean(engine):
    def trained(cls, **arguments):
        env = make_vec("pg/CartPole-v1", 2, seed=0)
        common = {"gamma": 1.0, "learning_rate": 1e-3, "engine": engine, "seed": 0}
        if engine == "autograd":  # whose steps depend on the gradient's scale
            common["policy_kwargs"] = {"optimizer_class": th.optim.SGD}
        return cls("MlpPolicy", env, group_size=4, **common, **arguments).learn(2000)

    ours = trained(GRPO, n_groups=2, n_epochs=1, batch_size=None, clip_range=np.inf, scale="none")
    textbook = trained(GroupMean, n_groups=2)
    assert ours.num_timesteps == textbook.num_timesteps
    # float32; log π of the rollout and of the update can differ in the last bit, and so can their ratio from 1.
    np.testing.assert_allclose(parameters(ours), parameters(textbook), rtol=1e-3, atol=1e-5)
    assert np.abs(parameters(ours) - parameters(GRPO("MlpPolicy", ours.env, seed=0))).max() > 1e-3


@pytest.mark.parametrize(("credit", "estimator"), [("episode", "total_return"), ("step", "reward_to_go")])
def test_rloo_is_reinforce_with_leave_one_out_where_all_episodes_are_one_group(credit, estimator):
    # The corridor has one start state.
    common = {"gamma": 0.9, "learning_rate": 1e-2, "seed": 0, "engine": "autograd"}
    ours = RLOO("MlpPolicy", gym.make("pg/ShortCorridor-v0"), group_size=4, credit=credit, **common).learn(300)
    textbook = REINFORCE(
        "MlpPolicy", gym.make("pg/ShortCorridor-v0"), n_episodes=4, baseline="leave_one_out", estimator=estimator,
        **common,
    ).learn(300)  # fmt: skip
    np.testing.assert_array_equal(parameters(ours), parameters(textbook))


FACES = {
    "copies": lambda n: make_vec("pg/CartPole-v1", n, seed=0),
    "vector": lambda n: gym.make_vec("pg/CartPole-v1", n, autoreset_mode="NextStep"),
    "SyncVectorEnv": lambda n: SyncVectorEnv([lambda: gym.make("pg/CartPole-v1")] * n, autoreset_mode="Disabled"),
    "DummyVecEnv": lambda n: DummyVecEnv([lambda: gym.make("pg/CartPole-v1")] * n),
}


@pytest.mark.parametrize("cls", [GRPO, RLOO])
def test_a_worlds_faces_give_the_same_training(cls):
    def trained(face):
        agent = cls("MlpPolicy", FACES[face](2), group_size=3, seed=0, engine="autograd")
        for _ in range(3):  # updates: copies that wait count no steps, as other environments do
            agent.learn(1, reset_num_timesteps=False)
        return agent

    expected = parameters(trained("copies"))
    for face in FACES:
        np.testing.assert_array_equal(parameters(trained(face)), expected, err_msg=face)


@pytest.mark.parametrize("env", ["pg/CartPole-v1", "pg/FrozenLake-v1"])
def test_planned_starts_are_those_of_resets_with_their_seeds(env):
    """FrozenLake's dynamics are random: the copy's generator goes on from the seed, as after a reset."""
    planned, reset = gym.make_vec(env, 2), gym.make_vec(env, 2)
    seeds = np.array([[5, 5, 7], [2**31 - 1, 5, 0]])
    planned.unwrapped.copies.plan(seeds)
    one, other = planned.reset()[0], reset.reset(seed=seeds[:, 0].tolist())[0]
    begun, rng = np.ones(2, dtype=int), np.random.default_rng(0)
    while (begun < 3).all():
        np.testing.assert_array_equal(one, other)
        actions = rng.integers(planned.single_action_space.n, size=2)
        one, rewards, terminated, truncated, _ = planned.step(actions)
        other, rewards_too, *ends, _ = reset.step(actions)
        np.testing.assert_array_equal(rewards, rewards_too)
        np.testing.assert_array_equal([terminated, truncated], ends)
        dones = terminated | truncated
        if dones.any():
            following = seeds[[0, 1], np.minimum(begun, 2)].tolist()
            other = reset.reset(seed=following, options={"reset_mask": dones.copy()})[0]
            begun += dones


def test_after_its_planned_starts_a_copy_goes_on_as_usual():
    env = gym.make_vec("pg/CartPole-v1", 1)
    env.reset(seed=3)
    env.unwrapped.copies.plan(np.array([[9]]))
    observations = [env.reset()[0] for _ in range(3)]
    expected = gym.make_vec("pg/CartPole-v1", 1)
    np.testing.assert_array_equal(observations, [expected.reset(seed=9)[0], expected.reset()[0], expected.reset()[0]])
    env.unwrapped.copies.plan(np.array([[9, 9]]))
    env.unwrapped.copies.plan(None)
    np.testing.assert_array_equal(env.reset()[0], expected.reset()[0])
