"""What "drop-in for SB3" means for rollouts. Construction and files are in test_dropin.py.

SB3's own classes are the oracle wherever they can be.
"""

import numpy as np
import pytest
import stable_baselines3
import torch as th
from fakes import (
    ALL,
    CLIPPING,
    FIRST_ORDER,
    NATURAL,
    REFERENCES,
    SB3S,
    SQUASHING,
    Spy,
    TinyEnv,
    same,
    short,
    tiny_vec_env,
    weights,
)
from gymnasium import spaces
from stable_baselines3.common.envs import (
    BitFlippingEnv,
    FakeImageEnv,
    IdentityEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from pg_agents import A2C, ReinforceBaseline

BOX = spaces.Box(np.float32([-1, 0]), np.float32([1, 3]))


# 9. collect_rollouts may be called directly


@pytest.mark.parametrize("cls", ALL)
def test_collect_rollouts_may_be_called_after_setup_learn(cls):
    agent = short(cls, tiny_vec_env(2))
    _, callback = agent._setup_learn(100)
    n_steps = agent.n_steps
    assert agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, n_rollout_steps=n_steps) is True
    assert agent.rollout_buffer.full
    assert agent.num_timesteps == callback.num_timesteps == 2 * agent.rollout_buffer.buffer_size


# 10*. The policy's forward is what acts


@pytest.mark.parametrize("cls", SB3S)
def test_actions_and_values_come_from_the_forward_of_a_policy_that_changes_it(cls):
    class Sevens(ActorCriticPolicy):
        def forward(self, obs, deterministic=False):
            actions, values, log_prob = super().forward(obs, deterministic)
            return th.ones_like(actions), th.full_like(values, 7.0), log_prob

    env = TinyEnv()
    agent = short(cls, env, Sevens).learn(8)
    assert np.all(agent.rollout_buffer.values == 7)
    assert np.all(agent.rollout_buffer.actions == 1)
    assert np.all(np.stack(env.actions) == 1)


# 11. The buffer at the end of a rollout, and after learn


@pytest.mark.parametrize("cls", ALL)
def test_the_buffer_is_filled_when_the_rollout_ends_and_keeps_its_actions_after_learn(cls):
    def look(spy):
        buffer = spy.model.rollout_buffer
        return buffer.size(), buffer.advantages.copy(), buffer.returns.copy(), buffer.actions.copy()

    spy = Spy(rollout_end=look)
    agent = short(cls, tiny_vec_env(2, time_limit=True)).learn(1, callback=spy)
    ((size, advantages, returns, actions),) = spy.seen
    assert size == agent.rollout_buffer.buffer_size == len(advantages) == agent.num_timesteps // 2
    assert np.abs(advantages).min() > 0
    assert np.abs(returns).min() > 0
    np.testing.assert_array_equal(np.sort(agent.rollout_buffer.actions, axis=None), np.sort(actions, axis=None))


# 12*. Environments of any kind


class BareVecEnv(VecEnv):
    """Never calls its parent's constructor, and has infos only where something is done."""

    num_envs, render_mode = 1, None

    def __init__(self, observation_space):
        self.env = TinyEnv(observation_space=observation_space, time_limit=True)
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space

    def reset(self):
        return self._batched(self.env.reset(seed=0)[0])

    def step_async(self, actions):
        self._actions = actions

    def step_wait(self):
        observation, reward, _, truncated, _ = self.env.step(self._actions[0])
        infos = []
        if truncated:
            infos = [{"terminal_observation": observation, "TimeLimit.truncated": True}]
            observation, _ = self.env.reset()
        return self._batched(observation), np.array([reward], np.float32), np.array([truncated]), infos

    def _batched(self, observation):
        if isinstance(observation, dict):
            return {name: value[None] for name, value in observation.items()}
        return observation[None]

    def seed(self, seed=None):
        return [None]

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False]

    def env_method(self, *args, **kwargs):
        raise NotImplementedError

    close = get_attr = set_attr = env_method


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("dictionary", [False, True])
def test_a_bare_vec_env_with_few_infos_trains_and_its_time_limits_are_bootstrapped_as_in_sb3(cls, dictionary):
    space = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Box(-1, 1, (2,), np.float64)})
    policy = "MultiInputPolicy" if dictionary else "MlpPolicy"
    agent = short(cls, BareVecEnv(space if dictionary else space["a"]), policy, engine="autograd").learn(40)
    assert agent.rollout_buffer.truncated.any()
    if cls in SB3S:
        theirs = short(REFERENCES[cls], BareVecEnv(space if dictionary else space["a"]), policy).learn(40)
        np.testing.assert_array_equal(agent.rollout_buffer.returns, theirs.rollout_buffer.returns)
        assert same(weights(agent), weights(theirs))


# 13*. The state between rollouts


@pytest.mark.parametrize("cls", SB3S)
def test_set_env_clears_the_last_observation_and_force_reset_false_keeps_it(cls):
    agent, env = short(cls).learn(8), TinyEnv()
    kept = agent._last_obs
    agent.set_env(env, force_reset=False)
    assert agent._last_obs is kept
    agent.set_env(env)
    assert agent._last_obs is None
    agent.learn(8, reset_num_timesteps=False)
    assert env.n_resets == 1 + 8 // 5


@pytest.mark.parametrize("cls", ALL)
def test_the_last_observation_and_episode_starts_are_saved(cls, tmp_path):
    agent = short(cls, tiny_vec_env(2), n_steps=7) if cls is A2C else short(cls, tiny_vec_env(2))
    agent.learn(14)
    agent.save(tmp_path / "agent")
    for force_reset in (False, True):
        loaded = cls.load(tmp_path / "agent", env=tiny_vec_env(2), device="cpu", force_reset=force_reset)
        np.testing.assert_array_equal(loaded._last_episode_starts, agent._last_episode_starts)
        if force_reset:
            assert loaded._last_obs is None
        else:
            np.testing.assert_array_equal(loaded._last_obs, agent._last_obs)


@pytest.mark.parametrize("cls", SB3S)
def test_a_second_learn_goes_on_in_the_middle_of_the_episode(cls):
    env = TinyEnv(length=100)
    agent = short(cls, env).learn(8)
    agent.learn(8, reset_num_timesteps=False)
    assert (env.n_resets, env.t) == (1, 16)
    assert agent.rollout_buffer.episode_starts.sum() == 0


# 14. Exact step counts


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_every_step_and_reset_of_the_environments_is_accounted_for(cls, n_envs):
    env = tiny_vec_env(n_envs)
    spy = Spy(step=lambda spy: (spy.num_timesteps, spy.model.num_timesteps))
    agent = short(cls, env).learn(23, callback=spy)
    assert spy.seen == [(n_envs * n_calls, n_envs * n_calls) for n_calls in range(1, spy.n_calls + 1)]
    assert [len(tiny.actions) * n_envs for tiny in env.envs] == [agent.num_timesteps] * n_envs
    assert [tiny.n_resets for tiny in env.envs] == [1 + agent.num_timesteps // n_envs // 5] * n_envs
    assert agent.num_timesteps >= 23


# 15*. Training mode


class BatchNormExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 3)
        self.norm, self.modes = th.nn.BatchNorm1d(3), []

    def forward(self, observations):
        self.modes.append((self.training, th.is_grad_enabled()))
        return self.norm(observations)


@pytest.mark.parametrize("cls", ALL)
def test_batch_norm_statistics_change_in_train_only(cls):
    def statistics(spy):
        return spy.model.policy.features_extractor.norm.running_mean.clone()

    spy = Spy(rollout_start=statistics, rollout_end=statistics, training_end=statistics)
    policy_kwargs = {"features_extractor_class": BatchNormExtractor, "share_features_extractor": True}
    agent = short(cls, tiny_vec_env(2), policy_kwargs=policy_kwargs)
    agent.policy.features_extractor.modes.clear()  # ReinforceBaseline looks once which parameters are the critic's
    agent.learn(60, callback=spy)
    means = spy.seen
    # [rollout_start, rollout_end] of each update, then training_end: equal in pairs, different between them.
    for start, end, after in zip(means[0::2], means[1::2], means[2::2], strict=False):
        assert th.equal(start, end)
        assert not th.equal(end, after)
    assert len(means) >= 5
    # Collecting computes no gradients, training does; so does not the look at a natural step.
    looks = {(True, False)} if cls in NATURAL else set()
    assert set(agent.policy.features_extractor.modes) == {(False, False), (True, True)} | looks


def test_a_learning_rate_of_the_critic_leaves_batch_norm_as_it_was():
    policy_kwargs = {"features_extractor_class": BatchNormExtractor}
    agent = short(ReinforceBaseline, value_learning_rate=0.1, policy_kwargs=policy_kwargs)
    assert agent.policy.features_extractor.norm.num_batches_tracked == 0
    agent.learn(8)


# 16. gSDE


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize(("sde_sample_freq", "per_rollout"), [(-1, [2]), (4, [2, 2, 2])])
def test_gsde_noise_is_drawn_for_all_environments_in_each_rollout(cls, sde_sample_freq, per_rollout, monkeypatch):
    agent = short(cls, tiny_vec_env(2, BOX, length=8), use_sde=True, sde_sample_freq=sde_sample_freq)
    drawn = []
    monkeypatch.setattr(agent.policy, "reset_noise", drawn.append)
    agent.learn(1)
    assert drawn == per_rollout


@pytest.mark.parametrize("cls", FIRST_ORDER)
def test_a_squashed_distribution_without_entropy_trains(cls):
    agent = short(cls, TinyEnv(BOX), ent_coef=0.1, **SQUASHING)
    before = weights(agent)
    agent.learn(8)
    assert agent.policy.evaluate_actions(th.zeros(1, 3), th.zeros(1, 2))[2] is None
    assert np.isfinite(agent.logger.name_to_value["train/entropy_loss"])
    assert not same(weights(agent), before)


# 17*. Stored and executed actions


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("kind", [CLIPPING, SQUASHING], ids=["clipped", "squashed"])
def test_the_policys_action_is_stored_and_the_environments_executed(cls, kind):
    env = TinyEnv(BOX)
    policy_kwargs = {**kind.get("policy_kwargs", {}), "log_std_init": 1.0}
    agent = short(cls, env, **{**kind, "policy_kwargs": policy_kwargs})
    spy = Spy(rollout_end=lambda spy: spy.model.rollout_buffer.actions[:, 0].copy())
    agent.learn(1, callback=spy)
    (stored,), executed = spy.seen, np.stack(env.actions)
    if kind is CLIPPING:
        assert not all(map(BOX.contains, stored))
        np.testing.assert_array_equal(executed, np.clip(stored, BOX.low, BOX.high))
    else:
        assert np.abs(stored).max() <= 1
        np.testing.assert_allclose(executed, BOX.low + (stored + 1) / 2 * (BOX.high - BOX.low), rtol=1e-6)


# 18. Spaces


DICT = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
        "float64": spaces.Box(-1, 1, (2,), np.float64),
        "discrete": spaces.Discrete(3),
        "binary": spaces.MultiBinary(2),
    }
)
ENVS = {
    "Discrete": lambda: IdentityEnv(3, ep_length=9),
    "Box": lambda: IdentityEnvBox(ep_length=9),
    "MultiDiscrete": lambda: IdentityEnvMultiDiscrete(3, ep_length=9),
    "MultiBinary": lambda: IdentityEnvMultiBinary(3, ep_length=9),
    "image": lambda: FakeImageEnv(screen_height=36, screen_width=36),
    "Dict": lambda: SimpleMultiObsEnv(random_start=False),
    "bit flipping": lambda: BitFlippingEnv(n_bits=3, max_steps=3),
    "mixed Dict": lambda: TinyEnv(observation_space=DICT),
    "two dimensions": lambda: TinyEnv(spaces.Box(-1, 1, (2, 3), np.float32)),
    "float64": lambda: TinyEnv(spaces.Box(-1, 1, (2,), np.float64), spaces.Box(-1, 1, (2,), np.float64)),
    "matrix observations": lambda: TinyEnv(observation_space=spaces.Box(-1, 1, (2, 3))),
    "integer observations": lambda: TinyEnv(observation_space=spaces.Box(0, 9, (2,), np.int64)),
}


def policy_for(env):
    is_dict = isinstance(env.observation_space, spaces.Dict)
    return "MultiInputPolicy" if is_dict else "CnnPolicy" if isinstance(env, FakeImageEnv) else "MlpPolicy"


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("name", ENVS)
def test_every_space_trains_saves_and_predicts_what_sb3s_policy_does(cls, name, tmp_path):
    env = DummyVecEnv([ENVS[name], ENVS[name]])
    agent = short(cls, env, policy_for(env.envs[0])).learn(8)
    agent.save(tmp_path / "agent")
    loaded = cls.load(tmp_path / "agent", env=DummyVecEnv([ENVS[name]]), device="cpu")
    reference = short(stable_baselines3.A2C, DummyVecEnv([ENVS[name]]), policy_for(env.envs[0]))
    observation = agent.env.reset()
    for deterministic in (True, False):
        actions, state = agent.predict(observation, deterministic=deterministic)
        expected, _ = reference.predict(observation, deterministic=deterministic)
        assert (actions.shape, actions.dtype, state) == (expected.shape, expected.dtype, None)
        assert all(map(env.action_space.contains, actions))
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], agent.predict(observation, deterministic=True)[0]
    )


@pytest.mark.parametrize("cls", ALL)
def test_environments_in_other_processes_train_as_in_this_one(cls):
    here = short(cls, DummyVecEnv([TinyEnv, TinyEnv])).learn(8)
    env = SubprocVecEnv([TinyEnv, TinyEnv])
    elsewhere = short(cls, env).learn(8)
    env.close()
    assert same(weights(elsewhere), weights(here))
