"""Groups of episodes: each starts in one way, and is judged by the others."""

import gymnasium as gym
import numpy as np
import pytest
from fakes import ScriptedEnv, Spy, TinyEnv, same, tiny_vec_env, weights
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from pg_agents import GRPO, REINFORCE, RLOO, imitate, make_vec
from pg_agents.baselines import LeaveOneOutBaseline, group_moments
from pg_agents.episodes import Episodes, in_groups

BOX = spaces.Box(0, 1, (2,), np.float32)


class Drawn(gym.Env):
    """Starts at a random place x, which is observed with t; each episode is one step longer than the last, up to five.

    Args:
        space: The observation space: a Box of two numbers, an image or a Dict.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, space=BOX):
        self.observation_space, self.episode = space, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t, self.episode = self.np_random.random(), 0, self.episode + 1
        return self.observe(), {"x": self.x}

    def step(self, action):
        self.t += 1
        return self.observe(), float(action), self.t > self.episode % 5, False, {}

    def observe(self):
        seen = np.array([self.x, self.t], np.float32)
        if isinstance(self.observation_space, spaces.Dict):
            return {"seen": seen, "also": np.array([self.x], np.float32)}
        return seen if self.observation_space is BOX else np.full((36, 36, 1), 255 * self.x, np.uint8)


def several(n, *args, vec_env=DummyVecEnv):
    return vec_env([lambda: Drawn(*args) for _ in range(n)])


DICT = spaces.Dict({"seen": BOX, "also": spaces.Box(0, 1, (1,), np.float32)})
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)


def vector(mode):
    return lambda: SyncVectorEnv([Drawn] * 3, autoreset_mode=mode)


ENVS = {
    "DummyVecEnv": lambda: several(3),
    "SubprocVecEnv": lambda: several(2, vec_env=SubprocVecEnv),
    "Monitor": lambda: DummyVecEnv([lambda: Monitor(Drawn())]),
    "VecMonitor": lambda: VecMonitor(several(2)),
    "VecNormalize": lambda: VecNormalize(several(2)),
    "VecExtractDictObs": lambda: VecExtractDictObs(several(2, DICT), "seen"),
    "SameStep": vector("SameStep"),
    "NextStep": vector("NextStep"),
    "Disabled": vector("Disabled"),
    "world": lambda: make_vec("pg/CartPole-v1", 3, seed=0),
    "world in VecNormalize": lambda: VecNormalize(make_vec("pg/CartPole-v1", 3, seed=0)),
    "Batched": lambda: make_vec("pg/CartPole-v1", 3, seed=0, env_kwargs={"autoreset_mode": "NextStep"}),
}


def starts(agent):
    """First observations of the episodes that are trained on, `(n_envs, n_episodes, ...)`."""
    buffer = agent.rollout_buffer
    found = []
    for i in range(buffer.n_envs):
        first = (buffer.episode_starts[:, i] == 1) & buffer.trained_on[:, i]
        found.append(buffer.observations[first, i])
    return np.array(found)


@pytest.mark.parametrize("env", ENVS)
def test_the_episodes_of_a_group_start_alike_and_those_of_different_groups_do_not(env):
    envs = ENVS[env]()
    agent = RLOO("MlpPolicy", envs, group_size=3, n_groups=2, seed=0)
    if isinstance(envs, VecNormalize):
        envs.training = False  # statistics that move would show one place as two
    seen = []
    for _ in range(2):
        agent.rollout()
        found = starts(agent)
        assert found.shape[:2] == (agent.n_envs, 6)
        in_groups = found.reshape(agent.n_envs, 2, 3, *found.shape[2:])
        assert (in_groups == in_groups[:, :, :1]).all()
        seen.append(in_groups[:, :, 0].reshape(agent.n_envs * 2, -1))
    places = np.concatenate(seen)
    assert len(np.unique(places, axis=0)) == len(places)
    agent.env.close()


def test_images_pass_through_the_wrapper_that_transposes_them():
    agent = RLOO("CnnPolicy", several(1, IMAGE), group_size=2, n_groups=2, seed=0)
    assert isinstance(agent.env, VecTransposeImage)
    agent.rollout()
    first = starts(agent)[0, :, 0, 0, 0]
    assert first[0] == first[1] != first[2] == first[3]


def test_dict_observations_start_alike():
    agent = RLOO("MultiInputPolicy", several(2, DICT), group_size=2, seed=0)
    agent.rollout()
    buffer = agent.rollout_buffer
    for i in range(2):
        first = (buffer.episode_starts[:, i] == 1) & buffer.trained_on[:, i]
        one, other = buffer.observations["also"][first, i]
        assert one == other == buffer.observations["seen"][first, i][1, 0]


def test_a_group_keeps_to_the_dynamics_of_its_environment():
    env = several(1)
    agent = RLOO("MlpPolicy", env, group_size=3, engine="autograd", seed=0)
    agent.rollout()
    buffer = agent.rollout_buffer
    ends = np.flatnonzero(buffer.terminated[:, 0])
    lengths = np.diff([-1, *ends])
    # Each second reset is the one with the seed: two further episodes for `Drawn`, whose lengths go on by two.
    assert ((lengths[1:] - lengths[:-1]) % 5 == 2).all()
    assert buffer.observations[:, 0, 1].tolist() == [t for length in lengths for t in range(length)]


def test_callbacks_see_the_observation_with_which_the_next_episode_starts():
    spy = Spy(step=lambda spy: (spy.locals["dones"][0], spy.locals["new_obs"][0].tolist()))
    agent = RLOO("MlpPolicy", several(1), group_size=2, seed=0)
    agent.rollout(spy)
    after_an_end = [observation for done, observation in spy.seen if done]
    assert after_an_end[0] == starts(agent)[0, 1].tolist()


@pytest.mark.parametrize("env", ["DummyVecEnv", "world"])
def test_a_training_that_is_stopped_leaves_the_environments_their_own_starts(env):
    agent = RLOO("MlpPolicy", ENVS[env](), group_size=3, seed=0)
    agent.learn(100, callback=Spy(lambda spy: False))
    first = agent.rollout_buffer.observations[0]
    assert (agent.env.reset() != first).any()


def test_the_seeds_come_from_the_agents_generator():
    def first(seed):
        agent = GRPO("MlpPolicy", several(2), group_size=2, seed=seed)
        agent.rollout()
        return starts(agent)

    np.testing.assert_array_equal(first(3), first(3))
    assert (first(3) != first(4)).any()


def test_training_goes_on_in_a_normalised_environment_that_was_never_reset(tmp_path):
    RLOO("MlpPolicy", VecNormalize(several(1)), group_size=2, seed=0).learn(5).save(tmp_path / "model")
    loaded = RLOO.load(tmp_path / "model", env=VecNormalize(several(1)), force_reset=False)
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded.num_timesteps > 5
    assert loaded.env.get_original_obs().shape == (1, 2)


# Refusals


def test_an_environment_whose_reset_is_not_determined_by_its_seed_is_refused():
    # Step t of episode k is observed as (k, t).
    agent = GRPO("MlpPolicy", DummyVecEnv([lambda: ScriptedEnv(3)]), seed=0)
    with pytest.raises(ValueError, match=r"environment 0 with the seed 0 .* \[\d\. 0\.\] and \[\d\. 0\.\]"):
        agent.learn(100)
    assert agent.num_timesteps == 0


def test_a_wrapper_with_memory_is_refused_and_the_alternative_named():
    agent = GRPO("MlpPolicy", VecFrameStack(several(1), 2), seed=0)
    with pytest.raises(ValueError, match=r"VecFrameStack would not notice.*FrameStackObservation"):
        agent.learn(100)


def test_vector_environments_without_seeds_for_each_copy_are_refused():
    agent = GRPO("MlpPolicy", gym.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point"), seed=0)
    with pytest.raises(ValueError, match=r"can be reset one by one with a seed.*metadata\['seeds_each_copy'\]"):
        agent.learn(100)


class Doubles(VecEnvWrapper):
    def reset(self):
        return 2 * self.venv.reset()

    def step_wait(self):
        observations, *rest = self.venv.step_wait()
        return 2 * observations, *rest

    def restarted(self, first, which):
        return 2 * first


def test_a_wrapper_of_ones_own_can_take_part():
    agent = RLOO("MlpPolicy", Doubles(several(1)), group_size=2, seed=0)
    agent.rollout()
    one, other = starts(agent)[0]
    assert (one == other).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group_size": 1}, "`group_size` must be an integer at least 2"),
        ({"group_size": None}, "`group_size` must be"),
        ({"n_groups": 0}, "`n_groups` must be an integer at least 1"),
        ({"scale": "sd"}, "`scale` must be one of 'std', 'none'"),
        ({"credit": "token"}, "`credit` must be one of 'episode', 'step'"),
        ({"kl_coef": 0.1, "kl_estimator": "exact"}, "is for kl_in='loss'"),
        ({"kl_coef": 0.1, "reference": "ppo"}, "`reference` must be a policy"),
        ({"kl_coef": 0.1, "kl_in": "loss", "prior": GRPO("MlpPolicy", TinyEnv()).policy}, "two penalties in one loss"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GRPO("MlpPolicy", TinyEnv(), **arguments)


class InFours(REINFORCE):
    """A class that takes both `n_episodes` and `group_size`."""

    group_size: int | None = 4
    n_groups: int = 1


def test_the_groups_determine_the_number_of_episodes(tmp_path):
    with pytest.raises(ValueError, match="`n_episodes` is 10, but n_groups=1 and group_size=4 make 4 episodes"):
        InFours("MlpPolicy", TinyEnv(), n_episodes=10)
    agent = InFours("MlpPolicy", TinyEnv(), n_groups=2)
    assert agent.n_episodes == 8
    agent.save(tmp_path / "model")
    assert InFours.load(tmp_path / "model", n_groups=3).n_episodes == 12
    with pytest.raises(ValueError, match="`n_episodes` is 10"):
        InFours.load(tmp_path / "model", n_episodes=10)


@pytest.mark.parametrize(
    ("name", "value"),
    [("reference", GRPO("MlpPolicy", TinyEnv()).policy), ("kl_estimator", "k3"), ("kl_in", "loss")],
)
def test_arguments_of_a_penalty_without_a_price_are_told(name, value):
    with pytest.warns(UserWarning, match=f"`{name}` has no effect, because `kl_coef` is 0") as told:
        RLOO("MlpPolicy", TinyEnv(), **{name: value})
    assert [one.filename for one in told] == [__file__]
    RLOO("MlpPolicy", TinyEnv(), kl_coef=0.1, **{name: value})


def test_a_reference_with_other_networks_is_refused_without_showing_them():
    other = GRPO("MlpPolicy", TinyEnv(), policy_kwargs={"net_arch": [3]}).policy
    with pytest.raises(ValueError, match=r"`reference` must be .* of the class ActorPolicy: .*") as refused:
        GRPO("MlpPolicy", TinyEnv(), kl_coef=0.1, reference=other)
    assert "Linear(" not in str(refused.value)


# The comparison within a group. Two groups of two; 99 stands where an episode was over already.

RETURNS = np.array([[6.0, 4.0], [2.0, 99.0], [1.0, 5.0], [3.0, 1.0]])
ALIVE = np.array([[True, True], [True, False], [True, True], [True, True]])
GROUPS = in_groups(Episodes(RETURNS, ALIVE), 2)


def test_moments_of_a_group_are_those_of_the_episodes_that_got_so_far():
    mean, deviation = group_moments(GROUPS)
    np.testing.assert_allclose(mean[:, 0], [[4, 4], [2, 3]])
    # √(Σ (x - x̄)² / (n - 1)); 0 where one episode is left.
    np.testing.assert_allclose(deviation[:, 0], [[np.sqrt(8), 0], [np.sqrt(2), np.sqrt(8)]])


def test_leaving_one_out_stays_in_the_group():
    found = LeaveOneOutBaseline()(GROUPS)
    np.testing.assert_allclose(found.reshape(4, 2)[ALIVE], [2, 0, 6, 3, 1, 1, 5])


class Paying(TinyEnv):
    """Pays 1 for each action 1, in episodes of five steps."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(action), *rest


def advantages_of(cls, **arguments):
    """Rewards and advantages of two groups of three episodes, `(2, 3, 5)`."""
    agent = cls("MlpPolicy", DummyVecEnv([Paying]), group_size=3, n_groups=2, seed=0, **arguments)
    buffer = agent.rollout()
    return buffer.env_rewards.reshape(2, 3, 5), buffer.advantages.reshape(2, 3, 5)


def test_grpo_compares_total_returns_in_units_of_their_deviation():
    rewards, advantages = advantages_of(GRPO)
    total = rewards.sum(axis=2, keepdims=True)
    deviation = total.std(axis=1, ddof=1, keepdims=True)
    expected = np.broadcast_to((total - total.mean(axis=1, keepdims=True)) / np.maximum(deviation, 1e-8), rewards.shape)
    np.testing.assert_allclose(advantages, expected, rtol=1e-5, atol=1e-6)
    assert (deviation > 0).any()


def test_grpo_without_a_scale_compares_what_follows_a_step_with_the_group():
    rewards, advantages = advantages_of(GRPO, credit="step", scale="none")
    to_go = rewards[..., ::-1].cumsum(axis=2)[..., ::-1]
    np.testing.assert_allclose(advantages, to_go - to_go.mean(axis=1, keepdims=True), rtol=1e-5, atol=1e-6)


def test_rloo_leaves_the_episode_itself_out():
    rewards, advantages = advantages_of(RLOO)
    total = rewards.sum(axis=2, keepdims=True)
    expected = total - (total.sum(axis=1, keepdims=True) - total) / 2
    np.testing.assert_allclose(advantages, np.broadcast_to(expected, rewards.shape), rtol=1e-5, atol=1e-6)


def test_length_normalization_gives_every_episode_the_same_weight():
    def rolled_out(given):
        agent = GRPO("MlpPolicy", several(1), group_size=4, scale="none", length_normalization=given, seed=0)
        agent.rollout()
        return agent

    both = rolled_out(False), rolled_out(True)
    plain, normalised = (agent.rollout_buffer for agent in both)
    ends = np.flatnonzero(plain.terminated[:, 0])
    lengths = np.diff([-1, *ends])
    np.testing.assert_allclose(
        normalised.advantages[:, 0], plain.advantages[:, 0] * np.repeat(lengths.mean() / lengths, lengths), rtol=1e-5
    )
    assert [agent.loss_scale for agent in both] == [pytest.approx(lengths.mean()), 1]


# The reference policy


def reference_log_prob(policy, buffer):
    observations, actions = (buffer.to_torch(array[:, 0]) for array in (buffer.observations, buffer.actions))
    return policy.get_distribution(observations).log_prob(actions.flatten()).detach().numpy()


def test_a_penalty_in_the_reward_is_the_log_ratio_to_the_reference():
    other = GRPO("MlpPolicy", Paying(), seed=5)
    other.policy.action_net.bias.data[0] += 1
    agent = GRPO(
        "MlpPolicy", DummyVecEnv([Paying]), kl_coef=0.5, reference=other.policy, credit="step", group_size=2, seed=0
    )
    buffer = agent.rollout()
    log_ratio = buffer.log_probs[:, 0] - reference_log_prob(other.policy, buffer)
    assert np.abs(log_ratio).max() > 0.01
    rewards = (buffer.env_rewards[:, 0] - 0.5 * log_ratio).reshape(2, 5)
    expected = rewards[:, ::-1].cumsum(axis=1)[:, ::-1].ravel()
    np.testing.assert_allclose(buffer.returns[:, 0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(buffer.rewards, buffer.env_rewards)
    assert agent.logger.name_to_value["rollout/reference_kl"] == pytest.approx(log_ratio.mean(), rel=1e-4)


def test_the_reference_is_the_policy_of_the_first_learn_also_after_loading(tmp_path):
    agent = GRPO("MlpPolicy", tiny_vec_env(), group_size=2, kl_coef=0.1, kl_in="loss", kl_estimator="k3", seed=0)
    agent.policy.action_net.bias.data += 1  # what is there when training begins
    before = weights(agent)
    agent.learn(20)
    assert not same(weights(agent), before)
    assert same(agent.reference_policy.state_dict(), before)
    agent.learn(20, reset_num_timesteps=False)
    agent.save(tmp_path / "model")
    loaded = GRPO.load(tmp_path / "model", env=tiny_vec_env(2))
    loaded.learn(20, reset_num_timesteps=False)
    assert same(loaded.reference_policy.state_dict(), before)
    assert loaded.penalty().reference is loaded.reference_policy


def test_a_penalty_may_begin_on_loading(tmp_path):
    GRPO("MlpPolicy", tiny_vec_env(), group_size=2, seed=0).learn(20).save(tmp_path / "model")
    loaded = GRPO.load(tmp_path / "model", env=tiny_vec_env(), kl_coef=0.1)
    before = weights(loaded)
    loaded.learn(20)
    assert same(loaded.reference_policy.state_dict(), before)


@pytest.mark.parametrize("cls", [GRPO, RLOO])
def test_a_reference_given_on_loading_replaces_the_files(cls, tmp_path):
    agent = cls("MlpPolicy", tiny_vec_env(), group_size=2, kl_coef=0.1, seed=0).learn(10)
    agent.save(tmp_path / "model")
    other = cls("MlpPolicy", TinyEnv(), seed=5)
    loaded = cls.load(tmp_path / "model", env=tiny_vec_env(), reference=other.policy)
    assert same(loaded.reference_policy.state_dict(), weights(other))
    assert same(weights(loaded), weights(agent))
    loaded.learn(10)
    assert same(loaded.reference_policy.state_dict(), weights(other))


def test_parameters_without_a_reference_leave_it(tmp_path):
    trained = RLOO("MlpPolicy", tiny_vec_env(), group_size=2, seed=0).learn(10)
    trained.save(tmp_path / "model")
    reference = RLOO("MlpPolicy", TinyEnv(), seed=5)
    for parameters in (str(tmp_path / "model"), trained.get_parameters()):
        agent = RLOO("MlpPolicy", tiny_vec_env(), kl_coef=0.1, reference=reference.policy, seed=1)
        agent.set_parameters(parameters)
        assert same(weights(agent), weights(trained))
        assert same(agent.reference_policy.state_dict(), weights(reference))


def test_a_reference_is_taken_of_a_policy_that_has_trained():
    # Autograd leaves the last distribution in the policy, which is part of a graph.
    settings = {"group_size": 2, "engine": "autograd", "seed": 0}
    agent = GRPO("MlpPolicy", tiny_vec_env(), **settings).learn(1)
    shown = GRPO("MlpPolicy", tiny_vec_env(), kl_coef=0.1, **settings)
    imitate(shown, (np.zeros((4, 3)), np.zeros(4)), n_epochs=1, validation_fraction=0)
    agent.kl_coef = 0.1
    for one in (agent, shown):
        before = weights(one)
        one.learn(1)
        assert same(one.reference_policy.state_dict(), before)
        assert not any(parameter.requires_grad for parameter in one.reference_policy.parameters())


def test_the_size_of_a_group_may_change_on_loading(tmp_path):
    RLOO("MlpPolicy", tiny_vec_env(), group_size=2, seed=0).learn(20).save(tmp_path / "model")
    loaded = RLOO.load(tmp_path / "model", env=tiny_vec_env(), group_size=3, n_groups=2).learn(10)
    assert loaded.rollout_buffer.trained_on.sum() == 6 * 5


def test_a_price_keeps_the_policy_near_the_reference():
    def distance(**arguments):
        agent = GRPO("MlpPolicy", DummyVecEnv([Paying] * 2), group_size=4, n_epochs=8, seed=0, **arguments).learn(400)
        return sum(float((new - old).square().sum()) for new, old in zip(
            agent.policy.state_dict().values(), GRPO("MlpPolicy", Paying(), seed=0).policy.state_dict().values(),
            strict=True,
        ))  # fmt: skip

    free = distance()
    assert distance(kl_coef=10.0) < free / 2
    assert distance(kl_coef=10.0, kl_in="loss", kl_estimator="exact") < free / 2


def test_the_spread_within_groups_is_logged():
    agent = RLOO("MlpPolicy", DummyVecEnv([Paying] * 2), group_size=3, seed=0)
    buffer = agent.rollout()
    totals = buffer.env_rewards.reshape(3, 5, 2).sum(axis=1)
    deviations = totals.std(axis=0, ddof=1)
    logged = agent.logger.name_to_value
    assert logged["rollout/group_std"] == pytest.approx(deviations.mean(), rel=1e-5)
    assert logged["rollout/flat_groups"] == (deviations == 0).mean()
