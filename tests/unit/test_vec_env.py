"""Gymnasium's vector environments as SB3's: what SB3's own `DummyVecEnv` shows of single ones is the known answer."""

from copy import deepcopy
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

from pg_agents.envs.adapter import VectorEnvAdapter
from pg_agents.envs.make import make_vec

SAME_STEP, NEXT_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
LIKE_SB3 = pytest.mark.parametrize("mode", [SAME_STEP, DISABLED])
ANY_MODE = pytest.mark.parametrize("mode", [SAME_STEP, DISABLED, NEXT_STEP])


class Scripted(gym.Env):
    """Every episode lasts `length` steps; after t steps of episode k the observation is 10k + t, the reward t."""

    observation_space = spaces.Box(0, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, length, time_limit=False):
        self.length, self.time_limit, self.episode = length, time_limit, -1
        self.actions, self.reset_options, self.weight = [], [], 1.0
        self.render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.reset_options.append(options)
        self.episode += 1
        self.t = 0
        return self._observation(), {"began": self.episode}

    def step(self, action):
        self.actions.append(action)
        self.t += 1
        over = self.t == self.length
        info = {"is_success": self.time_limit} if over else {}
        return self._observation(), float(self.t), over and not self.time_limit, over and self.time_limit, info

    def _observation(self):
        return np.array([10 * self.episode + self.t], dtype=np.float32)

    def render(self):
        return np.full((2, 2, 3), self.length, dtype=np.uint8)

    def scaled(self, factor, offset=0):
        return factor * self.length + offset


class Random(gym.Env):
    """Episodes of random length that end in any of the three ways, with as much to say as an environment may have."""

    metadata = {"render_modes": []}

    def __init__(self, observation_space=None, action_space=None):
        self.observation_space = deepcopy(observation_space or spaces.Box(-1, 1, (3,), np.float64))  # with its seed
        self.action_space = action_space or spaces.Discrete(3, start=-1)
        self.inventory = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.left = int(self.np_random.integers(1, 6))
        return self.observation_space.sample(), {"length": self.left, "_private": 0}

    def step(self, action):
        self.left -= 1
        ways = [(False, False)] if self.left else [(True, False), (False, True), (True, True)]
        terminated, truncated = ways[self.np_random.integers(len(ways))]
        info = {"left": self.left, "nested": {"deep": {"half": self.left / 2}, "flag": True}, "_private": 1}
        info.update(array=np.arange(2.0) + self.left, text="hello", inventory=self.inventory, nothing=None)
        if self.left % 2:
            info["odd"] = np.float32(self.left)
        if not self.left:
            info["is_success"] = terminated
        self.inventory.append(self.left)
        return self.observation_space.sample(), 0.1 * float(np.sum(action)) + self.left, terminated, truncated, info


class Native(VectorEnv):
    """Three copies in one, in the mode SAME_STEP; episodes of three steps; overwrites the arrays that it returned."""

    metadata = {"autoreset_mode": SAME_STEP}
    num_envs = 3

    def __init__(self, num_envs=3, render_mode=None, max_episode_steps=3):
        self.single_observation_space = spaces.Box(0, 9, (2,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, 3)
        self.action_space = spaces.MultiDiscrete([2, 2, 2], dtype=np.int8)
        self.render_mode, self.level = render_mode, 7
        self.observations, self.rewards = np.zeros((3, 2), np.float32), np.zeros(3, np.float32)
        self.over = np.zeros(3, dtype=bool)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        self.observations[:] = 0
        return self.observations, {}

    def step(self, actions):
        assert self.action_space.contains(actions)
        self.t += 1
        self.rewards[:] = actions
        self.observations[:] = self.t
        self.over[:] = self.t == 3
        infos = {"energy": np.arange(3) + self.t, "shared": "text", "position": self.observations}
        if self.t == 3:
            infos["final_obs"] = np.full((3, 2), 3, np.float32)
            self.observations[:] = self.t = 0
        return self.observations, self.rewards, self.over, np.zeros(3, dtype=bool), infos

    def action_masks(self):
        return np.arange(6).reshape(3, 2) % 2 == 0

    def difficulty(self, factor):
        return self.level * factor


def adapted(mode, *makers):
    return VectorEnvAdapter(SyncVectorEnv(makers, autoreset_mode=mode))


def scripted(mode):
    return adapted(mode, partial(Scripted, 2), partial(Scripted, 3, time_limit=True))


def monitored(*makers):
    return DummyVecEnv([lambda make=make: Monitor(make()) for make in makers])


def without_time(infos):
    """Infos that two runs have in common, after a look at the one thing that differs."""
    infos = [dict(info) for info in infos]
    for info in infos:
        if "episode" in info:
            assert set(info["episode"]) == {"r", "l", "t"}
            assert 0 <= info["episode"]["t"] < 600
            info["episode"] = {key: info["episode"][key] for key in "rl"}
    return infos


def dtypes(observations):
    if isinstance(observations, dict):
        return {key: array.dtype for key, array in observations.items()}
    return [array.dtype for array in observations] if isinstance(observations, tuple) else observations.dtype


def assert_same_steps(env, oracle, n_steps, seed=3):
    for each in (env, oracle):
        each.seed(seed)
        each.action_space.seed(seed)
    np.testing.assert_equal(env.reset(), oracle.reset())
    np.testing.assert_equal(env.reset_infos, oracle.reset_infos)
    n_episodes = 0
    for _ in range(n_steps):
        actions = np.array([oracle.action_space.sample() for _ in range(oracle.num_envs)])
        ours, theirs = env.step(actions), oracle.step(actions)
        for our, their in zip(ours[:3], theirs[:3], strict=True):
            np.testing.assert_equal(our, their)
        assert [dtypes(our) for our in ours[:3]] == [dtypes(their) for their in theirs[:3]]
        np.testing.assert_equal(without_time(ours[3]), without_time(theirs[3]))
        np.testing.assert_equal(env.reset_infos, oracle.reset_infos)
        assert not env.reset_rows.any()
        n_episodes += ours[2].sum()
    assert n_episodes > 10


# Ends of episodes


def played(env, n_steps=6):
    """(observation, reward, done) of each environment and step, and the infos."""
    first = env.reset()
    steps = [env.step(np.zeros(env.num_envs, dtype=int)) for _ in range(n_steps)]
    table = [[(int(obs[i, 0]), int(rew[i]), bool(done[i])) for obs, rew, done, _ in steps] for i in range(env.num_envs)]
    return first, table, [infos for *_, infos in steps]


@LIKE_SB3
def test_the_next_episode_begins_in_the_last_ones_final_step(mode):
    env = scripted(mode)
    first, (short, long), infos = played(env)
    assert first.tolist() == [[0], [0]]
    assert short == [(1, 1, False), (10, 2, True), (11, 1, False), (20, 2, True), (21, 1, False), (30, 2, True)]
    assert long == [(1, 1, False), (2, 2, False), (10, 3, True), (11, 1, False), (12, 2, False), (20, 3, True)]
    assert infos[0] == [{"TimeLimit.truncated": False}] * 2
    ends = [(infos[1][0], 2, False, 3, 2), (infos[3][0], 12, False, 3, 2), (infos[2][1], 3, True, 6, 3)]
    for info, last, truncated, total, length in ends:
        assert info["terminal_observation"].tolist() == [last]
        assert info["TimeLimit.truncated"] is truncated
        assert info["is_success"] is truncated
        assert without_time([info])[0]["episode"] == {"r": total, "l": length}
        assert set(info) == {"terminal_observation", "TimeLimit.truncated", "is_success", "episode"}
    assert env.reset_infos == [{"began": 3}, {"began": 2}]


def test_in_next_step_mode_a_reset_row_lies_between_episodes():
    env = scripted(NEXT_STEP)
    env.reset()
    rows, infos = [], []
    for _ in range(6):
        observations, rewards, dones, info = env.step(np.zeros(2, dtype=int))
        rows.append([*zip(observations[:, 0], rewards, dones, env.reset_rows, strict=True)])
        infos.append(info)
    short, long = zip(*rows, strict=True)
    end, reset = (True, False), (False, True)
    step = (False, False)
    assert short == ((1, 1, *step), (2, 2, *end), (10, 0, *reset), (11, 1, *step), (12, 2, *end), (20, 0, *reset))
    assert long == ((1, 1, *step), (2, 2, *step), (3, 3, *end), (10, 0, *reset), (11, 1, *step), (12, 2, *step))
    assert infos[2][0] == infos[3][1] == {"TimeLimit.truncated": False, "reset_row": True}
    assert [infos[1][0]["terminal_observation"].tolist(), infos[2][1]["terminal_observation"].tolist()] == [[2], [3]]
    assert [infos[1][0]["TimeLimit.truncated"], infos[2][1]["TimeLimit.truncated"]] == [False, True]
    # Reset rows do not count as steps of the episode.
    episodes = [without_time([info])[0]["episode"] for info in (infos[1][0], infos[4][0], infos[2][1])]
    assert episodes == [{"r": 3, "l": 2}, {"r": 3, "l": 2}, {"r": 6, "l": 3}]
    assert env.reset_infos == [{"began": 2}, {"began": 1}]


@LIKE_SB3
@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3,), np.float64),
        spaces.Box(0, 255, (4, 5, 3), np.uint8),
        spaces.Discrete(5),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Dict({"z": spaces.Box(-1, 1, (2,), np.float32), "a": spaces.Discrete(3)}),
        spaces.Tuple([spaces.Box(-1, 1, (2,), np.float32), spaces.MultiBinary(2)]),
    ],
    ids=str,
)
def test_everything_is_as_in_dummy_vec_env_for_all_observations(mode, space):
    makers = [partial(Random, space)] * 3
    assert_same_steps(adapted(mode, *makers), monitored(*makers), 20)


@LIKE_SB3
@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Box(-1, 1, (2, 2), np.float64),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
    ],
    ids=str,
)
def test_everything_is_as_in_dummy_vec_env_for_all_actions(mode, space):
    makers = [partial(Random, None, space)] * 3
    assert_same_steps(adapted(mode, *makers), monitored(*makers), 20)


def episodes_of(env, i, n_steps):
    """Transitions of one environment under a policy that looks only at the observation, without reset rows."""
    env.seed(5)
    observations, transitions = env.reset(), []
    for _ in range(n_steps):
        actions = np.where(observations[:, 0] > 0, 1, -1)
        before = observations[i]
        observations, rewards, dones, infos = env.step(actions)
        if not infos[i].pop("reset_row", False):
            after = infos[i].get("terminal_observation", observations[i])
            transitions.append((before, actions[i], rewards[i], dones[i], after, without_time(infos)[i]))
    return transitions


@pytest.mark.parametrize("i", [0, 1, 2])
def test_without_its_reset_rows_the_next_step_mode_is_the_same(i):
    makers = [Random] * 3
    ours = episodes_of(adapted(NEXT_STEP, *makers), i, 80)
    theirs = episodes_of(monitored(*makers), i, 80)
    assert 50 < len(ours) < 80
    np.testing.assert_equal(ours, theirs[: len(ours)])


@ANY_MODE
def test_a_reset_in_mid_episode_begins_everything_anew(mode):
    env = scripted(mode)
    env.reset()
    for _ in range(2):  # the first environment's episode has ended
        env.step(np.zeros(2, dtype=int))
    first, tables, infos = played(env, n_steps=3)
    assert not env.reset_rows[1]
    assert [table[1][1:] for table in tables] == [(2, True), (2, False)]
    assert infos[1][0]["episode"]["l"] == 2
    assert infos[2][1]["episode"]["l"] == 3
    assert infos[2][1]["episode"]["r"] == 6
    assert env.reset_infos[1]["began"] == (first[1, 0] // 10) + (mode is not NEXT_STEP)


@ANY_MODE
def test_statistics_of_the_vector_environment_are_replaced_by_monitors(mode):
    env = VectorEnvAdapter(RecordEpisodeStatistics(SyncVectorEnv([partial(Scripted, 2)] * 2, autoreset_mode=mode)))
    _, _, infos = played(env, n_steps=2)
    assert [info["episode"] for info in without_time(infos[1])] == [{"r": 3.0, "l": 2}] * 2
    assert {key: type(value) for key, value in infos[1][0]["episode"].items()} == {"r": float, "l": int, "t": float}


def test_returns_are_added_before_rewards_are_rounded_to_float32():
    class Cents(Scripted):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, 1000.000_001, *rest

    _, _, infos = played(adapted(NEXT_STEP, partial(Cents, 2), partial(Cents, 3)), n_steps=6)
    # The second ends in the step in which the first is reset.
    assert infos[2][0]["reset_row"]
    assert [infos[1][0]["episode"]["r"], infos[2][1]["episode"]["r"]] == [2000.000_002, 3000.000_003]


# Native vector environments


def test_native_cartpole_is_played_as_gymnasium_plays_it():
    ours, raw = (gym.make_vec("CartPole-v1", 4, vectorization_mode="vector_entry_point") for _ in range(2))
    env = VectorEnvAdapter(ours)
    env.seed(1)
    np.testing.assert_array_equal(env.reset(), raw.reset(seed=1)[0])
    actions = np.random.default_rng(0).integers(2, size=(200, 4), dtype=np.int32)
    since, before = np.zeros(4, dtype=int), np.zeros(4, dtype=bool)
    n_episodes = 0
    for action in actions:
        observations, rewards, dones, infos = env.step(action)
        expected, expected_rewards, terminated, truncated, _ = raw.step(action)
        np.testing.assert_array_equal(observations, expected)
        np.testing.assert_array_equal(rewards, expected_rewards)
        np.testing.assert_array_equal(dones, terminated | truncated)
        np.testing.assert_array_equal(env.reset_rows, before)
        since = np.where(before, 0, since + 1)
        for i in np.flatnonzero(dones):
            np.testing.assert_array_equal(infos[i]["terminal_observation"], expected[i])
            assert infos[i]["episode"]["l"] == infos[i]["episode"]["r"] == since[i]  # a reward of 1 for each step
            n_episodes += 1
        before = dones
    assert observations.flags.c_contiguous
    assert n_episodes > 20


def test_native_cartpole_is_cut_by_its_time_limit():
    env = make_vec("CartPole-v1", 2, env_kwargs={"max_episode_steps": 4})
    env.reset()
    steps = [env.step(np.array([t % 2, t % 2])) for t in range(9)]
    assert [done.tolist() for _, _, done, _ in steps] == [[t in (3, 8)] * 2 for t in range(9)]
    assert steps[3][3][0]["TimeLimit.truncated"] is True
    assert [steps[t][3][1]["episode"]["l"] for t in (3, 8)] == [4, 4]


def test_what_a_step_returned_is_not_overwritten_by_the_next_one():
    env = VectorEnvAdapter(Native())
    first = env.reset()
    steps = [env.step(np.array([0, 1, action])) for action in (0, 1, 0, 1)]
    assert first.tolist() == [[0, 0]] * 3
    assert [observations[0, 0] for observations, *_ in steps] == [1, 2, 0, 1]
    assert [rewards.tolist() for _, rewards, *_ in steps] == [[0, 1, 0], [0, 1, 1], [0, 1, 0], [0, 1, 1]]
    assert [dones.tolist() for _, _, dones, _ in steps] == [[t == 2] * 3 for t in range(4)]
    info = {"TimeLimit.truncated": False, "shared": "text"}
    np.testing.assert_equal(steps[0][3], [{**info, "energy": i + 1, "position": np.ones(2)} for i in range(3)])
    last = without_time(steps[2][3])[2]
    info.update(energy=5, position=np.zeros(2), terminal_observation=np.full(2, 3), episode={"r": 1, "l": 3})
    np.testing.assert_equal(last, info)


@ANY_MODE
def test_environments_that_share_their_observations_are_not_seen_to_change(mode):
    env = VectorEnvAdapter(SyncVectorEnv([partial(Scripted, 2)] * 2, copy=False, autoreset_mode=mode))
    first, (table, _), infos = played(env, n_steps=2)
    assert first.tolist() == [[0], [0]]
    assert [observation for observation, *_ in table] == [1, 2 if mode is NEXT_STEP else 10]
    assert infos[1][0]["terminal_observation"].tolist() == [2]


def test_infos_do_not_change_with_the_environments_state():
    env = adapted(SAME_STEP, Random)
    env.reset()
    _, _, _, (info,) = env.step(np.zeros(1, dtype=int))
    inventory = list(info["inventory"])
    env.step(np.zeros(1, dtype=int))
    assert info["inventory"] == inventory


def test_a_reset_row_has_reward_0_whatever_the_environment_says():
    class Generous(CartPoleVectorEnv):
        def step(self, action):
            observations, rewards, *rest = super().step(action)
            return observations, rewards + 1, *rest

    env = VectorEnvAdapter(Generous(2, max_episode_steps=2))
    env.reset()
    steps = [env.step(np.array([0, 1])) for _ in range(5)]
    assert [rewards.tolist() for _, rewards, *_ in steps] == [[2, 2], [2, 2], [0, 0], [2, 2], [2, 2]]
    assert [steps[t][3][0]["episode"]["r"] for t in (1, 4)] == [4, 4]


def test_only_what_has_ended_is_taken_from_a_partial_reset():
    class Forgetful(SyncVectorEnv):
        def reset(self, *, seed=None, options=None):
            mask = (options or {}).get("reset_mask", np.ones(2, dtype=bool))
            observations, infos = super().reset(seed=seed, options=options)
            return np.where(mask[:, None], observations, -1), infos

    env = VectorEnvAdapter(Forgetful([partial(Scripted, 2), partial(Scripted, 3)], autoreset_mode=DISABLED))
    _, (short, long), _ = played(env, n_steps=3)
    assert [short[1][0], long[1][0]] == [10, 2]
    assert [short[2][0], long[2][0]] == [11, 10]


def test_reset_rows_do_not_depend_on_what_is_done_with_dones():
    env = scripted(NEXT_STEP)
    env.reset()
    env.step(np.zeros(2, dtype=int))
    env.step(np.zeros(2, dtype=int))[2][:] = False
    env.step(np.zeros(2, dtype=int))
    assert env.reset_rows.tolist() == [True, False]


def test_same_step_mode_without_last_observations_is_an_error():
    class Forgetful(Native):
        def step(self, actions):
            *results, infos = super().step(actions)
            infos.pop("final_obs", None)
            return (*results, infos)

    env = VectorEnvAdapter(Forgetful())
    played(env, n_steps=2)
    with pytest.raises(ValueError, match=r"SAME_STEP, but its infos have no 'final_obs' for environment 0"):
        env.step(np.zeros(3, dtype=int))


# Seeds and options


@pytest.mark.parametrize("make", [partial(make_vec, "CartPole-v1", 3), partial(adapted, SAME_STEP, Random, Random)])
def test_a_seed_makes_the_next_reset_reproducible_and_only_that(make):
    env = make()
    assert env.seed(np.int64(4)) == [4 + i for i in range(env.num_envs)]
    first, second = env.reset(), env.reset()
    env.seed(4)
    np.testing.assert_array_equal(env.reset(), first)
    np.testing.assert_array_equal(env.reset(), second)
    assert not np.array_equal(first, second)
    env.seed(5)
    assert not np.array_equal(env.reset(), first)


def test_seed_none_draws_seeds_from_numpys_generator_as_in_sb3():
    np.random.seed(0)  # noqa: NPY002 - SB3's
    ours = adapted(SAME_STEP, Random, Random).seed()
    np.random.seed(0)  # noqa: NPY002
    assert ours == monitored(Random, Random).seed()


@ANY_MODE
@pytest.mark.parametrize("options", [{"a": np.ones(2)}, [{"a": np.ones(2)}, {"a": np.ones(2)}]], ids=["one", "each"])
def test_options_are_used_for_one_reset(mode, options):
    env = scripted(mode)
    env.set_options(options)
    env.reset()
    played(env, n_steps=3)
    for given in env.get_attr("reset_options"):
        np.testing.assert_equal(given[0], {"a": np.ones(2)})
        assert not any(given[1:])


@pytest.mark.parametrize(
    "options",
    [[{}], [{"a": 1}, {"a": 2}], [{"a": np.zeros(2)}, {"a": np.ones(2)}], {"reset_mask": np.ones(2, dtype=bool)}],
)
def test_options_that_a_vector_environment_cannot_take_are_refused(options):
    with pytest.raises(ValueError, match=r"`options` must"):
        scripted(SAME_STEP).set_options(options)


# Attributes and methods


def test_single_environments_are_reached_one_by_one():
    env = scripted(SAME_STEP)
    assert env.get_attr("length") == [2, 3]
    assert env.get_attr("length", 1) == env.get_attr("length", [-1]) == [3]
    assert env.env_method("scaled", 10, offset=1) == [21, 31]
    assert env.env_method("scaled", 10, indices=[1, 0]) == [30, 20]
    env.set_attr("weight", [1, 2], indices=0)
    assert env.get_attr("weight") == [[1, 2], 1.0]
    assert env.has_attr("scaled")
    assert not env.has_attr("action_masks")
    with pytest.raises(AttributeError, match="action_masks"):
        env.env_method("action_masks")


def test_an_attribute_is_set_where_the_environment_reads_it():
    env = adapted(SAME_STEP, lambda: gym.wrappers.TimeLimit(Scripted(3), 9))
    env.set_attr("length", 5)
    assert env.env.envs[0].unwrapped.length == 5


def test_a_native_environment_answers_for_all():
    env = VectorEnvAdapter(RecordEpisodeStatistics(Native()))
    assert env.get_attr("level") == [7, 7, 7]
    assert env.get_attr("level", indices=[0, 2]) == [7, 7]
    env.set_attr("level", 8)
    assert env.env.unwrapped.level == 8
    env.set_attr("new", 9)
    assert env.env.unwrapped.new == 9
    assert env.env_method("difficulty", 2) == [16, 16, 16]
    assert [mask.tolist() for mask in env.env_method("action_masks")] == [[True, False]] * 3
    assert env.has_attr("action_masks")
    with pytest.raises(AttributeError, match=r"no attribute 'action_mask'. Did you mean 'action_masks'\?"):
        env.env_method("action_mask")
    for call in (partial(env.set_attr, "level", 0), partial(env.env_method, "difficulty", 2)):
        with pytest.raises(ValueError, match=r"`indices` must be None, for all 3 environments"):
            call(indices=[0])


@pytest.mark.parametrize("indices", [2, -3, [0, 9], 0.5, "all"])
def test_indices_out_of_range_are_refused(indices):
    with pytest.raises(ValueError, match=r"`indices` must be None, an integer from 0 to 1 or several, but is"):
        scripted(SAME_STEP).get_attr("length", indices)


def test_monitor_is_not_missed_and_other_wrappers_are_known():
    limited = adapted(SAME_STEP, lambda: gym.wrappers.TimeLimit(Scripted(3), 9), partial(Scripted, 3))
    assert limited.env_is_wrapped(Monitor) == [True, True]
    assert limited.env_is_wrapped(gym.wrappers.TimeLimit) == [True, False]
    assert limited.env_is_wrapped(gym.wrappers.TimeLimit, indices=1) == [False]
    native = VectorEnvAdapter(RecordEpisodeStatistics(Native()))
    assert native.env_is_wrapped(Monitor, indices=0) == [True]
    assert native.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3
    assert native.env_is_wrapped(RecordEpisodeStatistics) == [True] * 3


def test_environments_in_worker_processes():
    make = partial(gym.make, "CartPole-v1", max_episode_steps=3)
    env = VectorEnvAdapter(AsyncVectorEnv([make, make], context="spawn", autoreset_mode=SAME_STEP))
    oracle = monitored(make, make)
    for each in (env, oracle):
        each.seed(0)
    np.testing.assert_array_equal(env.reset(), oracle.reset())
    for _ in range(4):
        ours, theirs = env.step(np.array([0, 1])), oracle.step(np.array([0, 1]))
        np.testing.assert_equal([*ours[:3], without_time(ours[3])], [*theirs[:3], without_time(theirs[3])])
    assert env.get_attr("gravity", indices=1) == [9.8]
    env.set_attr("marks", [1, 2])
    assert env.get_attr("marks") == [[1, 2], [1, 2]]
    assert env.env_method("has_wrapper_attr", "gravity") == [True, True]
    assert env.has_attr("action_masks") is False
    with pytest.raises(AttributeError, match="no attribute 'action_masks'"):
        env.env_method("action_masks")
    with pytest.raises(ValueError, match="cannot reach them one by one"):
        env.set_attr("gravity", 1, indices=0)
    with pytest.raises(NotImplementedError, match="AsyncVectorEnv cannot say"):
        env.env_is_wrapped(gym.wrappers.TimeLimit)
    assert env.step(np.array([0, 1]))[0].shape == (2, 4)  # no error above has ended a worker
    env.close()
    env.close()


def test_rendering():
    env = scripted(SAME_STEP)
    assert env.render_mode == "rgb_array"
    assert env.metadata is env.env.metadata  # VecVideoRecorder reads `render_fps` there
    assert [image[0, 0, 0] for image in env.get_images()] == [2, 3]
    assert env.render().shape == (4, 2, 3)  # two images in one
    with pytest.warns(UserWarning, match="render mode is None"):
        assert VectorEnvAdapter(Native()).get_images() == [None] * 3


def test_closing_twice_closes_once():
    closed = []

    class Noisy(Scripted):
        def close(self):
            closed.append(self.length)

    env = adapted(SAME_STEP, partial(Noisy, 2), partial(Noisy, 3))
    env.close()
    env.close()
    assert closed == [2, 3]


# Under SB3's wrappers and algorithms


class Still:
    """A model that always takes action 0."""

    def predict(self, observations, state=None, episode_start=None, deterministic=True):
        return np.zeros(len(observations), dtype=int), state


@ANY_MODE
def test_evaluate_policy_counts_what_monitor_would(mode):
    rewards, lengths = evaluate_policy(Still(), scripted(mode), 4, return_episode_rewards=True)
    assert (rewards, lengths) == ([3, 6, 3, 6], [2, 3, 2, 3])


@LIKE_SB3
@pytest.mark.parametrize("wrapper", [VecNormalize, partial(VecFrameStack, n_stack=3)], ids=["normalize", "stack"])
def test_under_wrappers_everything_is_as_over_dummy_vec_env(mode, wrapper):
    makers = [Random] * 3
    env = wrapper(adapted(mode, *makers))
    assert_same_steps(env, wrapper(monitored(*makers)), 20)


def test_vec_normalize_can_be_saved_and_sees_reset_rows(tmp_path):
    env = VecNormalize(scripted(NEXT_STEP))
    played(env, n_steps=3)
    assert env.reset_rows.tolist() == [True, False]
    env.save(tmp_path / "statistics.pkl")
    loaded = VecNormalize.load(tmp_path / "statistics.pkl", scripted(NEXT_STEP))
    np.testing.assert_array_equal(loaded.obs_rms.mean, env.obs_rms.mean)


@LIKE_SB3
def test_vec_monitor_has_the_same_statistics(mode):
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        env = VecMonitor(scripted(mode))
    _, _, infos = played(env)
    assert without_time(infos[2])[1]["episode"] == {"r": 6, "l": 3}


@LIKE_SB3
def test_ppo_learns_the_very_same_as_from_dummy_vec_env(mode):
    make = partial(gym.make, "CartPole-v1")
    ours, theirs = (
        PPO("MlpPolicy", env, n_steps=50, batch_size=50, n_epochs=2, seed=0, device="cpu").learn(200)
        for env in (adapted(mode, make, make), monitored(make, make))
    )
    for our, their in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert th.equal(our, their)
    assert without_time({"episode": info} for info in ours.ep_info_buffer) == without_time(
        {"episode": info} for info in theirs.ep_info_buffer
    )


# Bad input


def test_what_is_no_vector_environment_is_refused():
    with pytest.raises(TypeError, match=r"`env` must be a gymnasium.vector.VectorEnv, but is <.*make_vec_env"):
        VectorEnvAdapter(gym.make("CartPole-v1"))


@pytest.mark.parametrize("mode", [None, "Never"])
def test_an_unknown_autoreset_mode_is_refused(mode):
    env = Native()
    env.metadata = {} if mode is None else {"autoreset_mode": mode}
    with pytest.raises(ValueError, match=rf"AutoresetMode.NEXT_STEP, .*but is {mode!r}"):
        VectorEnvAdapter(env)


def test_a_mode_may_be_given_by_its_value():
    env = Native()
    env.metadata = {"autoreset_mode": "SameStep"}
    assert VectorEnvAdapter(env).autoreset_mode is SAME_STEP


def test_spaces_that_sb3_does_not_know_are_refused():
    nested = spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})})
    with pytest.raises(NotImplementedError, match="Nested observation spaces are not supported"):
        adapted(SAME_STEP, partial(Random, nested))
    with pytest.raises(ValueError, match=r"action space must be one of Box, Discrete.*but is Tuple"):
        adapted(SAME_STEP, partial(Random, None, spaces.Tuple([spaces.Discrete(2)])))


@pytest.mark.parametrize("actions", [np.zeros(3, dtype=int), np.zeros((2, 1), dtype=int), 0])
def test_actions_of_a_wrong_shape_are_refused(actions):
    env = scripted(SAME_STEP)
    env.reset()
    with pytest.raises(ValueError, match=r"`actions` must have shape \(2,\), but has \("):
        env.step(actions)


def test_infos_that_are_lists_already_are_refused():
    env = VectorEnvAdapter(DictInfoToList(SyncVectorEnv([Random], autoreset_mode=SAME_STEP)))
    with pytest.raises(TypeError, match="DictInfoToList is not needed"):
        env.reset()


# make_vec


@pytest.fixture
def registered():
    """Registers an id for the duration of a test."""

    def register(**kwargs):
        gym.register("Scripted-v0", entry_point=Scripted, kwargs={"length": 2}, **kwargs)
        return "Scripted-v0"

    yield register
    gym.registry.pop("Scripted-v0", None)


def test_make_vec_takes_the_native_version():
    env = make_vec("CartPole-v1", 3, seed=0)
    assert isinstance(env.env, CartPoleVectorEnv)
    assert env.num_envs == 3
    raw = gym.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point")
    np.testing.assert_array_equal(env.reset(), raw.reset(seed=0)[0])
    raw.single_action_space.seed(0)
    assert [env.action_space.sample() for _ in range(20)] == [raw.single_action_space.sample() for _ in range(20)]
    assert env.render_mode == "rgb_array"


def test_make_vec_keeps_the_time_limit_of_the_id():
    with pytest.warns(DeprecationWarning, match="CartPole-v0 is out of date"):
        assert make_vec("CartPole-v0", 2).env.max_episode_steps == 200
    assert make_vec("CartPole-v1", 2).env.max_episode_steps == 500


@pytest.mark.parametrize("kwargs", [{"wrapper_class": gym.wrappers.NormalizeObservation}, {"vec_env_cls": DummyVecEnv}])
def test_make_vec_takes_single_environments_where_arguments_need_them(kwargs):
    assert type(make_vec("CartPole-v1", 2, **kwargs)) is DummyVecEnv


def test_make_vec_takes_single_environments_where_there_is_no_native_version(registered):
    for env_id, env_kwargs in [("Pendulum-v1", None), (lambda: Scripted(2), None), (Scripted, {"length": 2})]:
        assert type(make_vec(env_id, 2, env_kwargs=env_kwargs)) is DummyVecEnv
    assert type(make_vec(registered(vector_entry_point="not_installed:VectorEnv"))) is DummyVecEnv


def test_make_vec_takes_single_environments_where_the_native_version_does_not_know_an_argument(registered):
    # `Native` does not know `length`, nor `time_limit`.
    assert type(make_vec(registered(vector_entry_point=Native), env_kwargs={"time_limit": True})) is DummyVecEnv


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_make_vec_makes_gymnasiums_own_vector_environments_in_same_step_mode(mode, monkeypatch):
    # Not through "fork", of which newer Pythons warn.
    monkeypatch.setattr("gymnasium.vector.AsyncVectorEnv", partial(AsyncVectorEnv, context="spawn"))
    env = make_vec("CartPole-v1", 1, seed=0, vectorization_mode=mode)
    assert type(env.env) is {"sync": SyncVectorEnv, "async": AsyncVectorEnv}[mode]
    assert env.autoreset_mode is SAME_STEP
    np.testing.assert_array_equal(env.reset(), gym.make("CartPole-v1").reset(seed=0)[:1])
    env.close()


def test_make_vec_fails_as_gymnasium_does(registered):
    with pytest.raises(gym.error.NameNotFound, match="CartPoleo"):
        make_vec("CartPoleo-v1")
    with pytest.raises(gym.error.Error, match=r"does.* have a vector entry point"):
        make_vec("Pendulum-v1", vectorization_mode="vector_entry_point")
    with pytest.raises(TypeError, match="gravity_of_doubt"):
        make_vec(registered(vector_entry_point=Native), env_kwargs={"gravity_of_doubt": 1})


def test_make_vec_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"`n_envs` must be an integer at least 1, but is 0"):
        make_vec("CartPole-v1", 0)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'wraper_class'. Did you mean 'wrapper_class'\?"):
        make_vec("CartPole-v1", wraper_class=None)
    with pytest.raises(ValueError, match=r"`vectorization_mode` must be one of .*'asink'. Did you mean 'async'\?"):
        make_vec("CartPole-v1", vectorization_mode="asink")
    with pytest.raises(ValueError, match=r"`monitor_dir` cannot be combined with `vectorization_mode` 'sync'"):
        make_vec("CartPole-v1", vectorization_mode="sync", monitor_dir="logs")
    with pytest.raises(ValueError, match=r"which is not an id, cannot be combined"):
        make_vec(Scripted, vectorization_mode="sync")
