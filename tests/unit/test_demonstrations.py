"""Demonstrations: arrays with their episodes, a policy's episodes, and Minari's format."""

import gymnasium as gym
import numpy as np
import pytest
from fakes import TinyEnv
from gymnasium import spaces
from prose import saying
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pg_agents import Demonstrations, collect_demonstrations, make_vec
from pg_agents.demonstrations import as_demonstrations, read_minari, write_minari

DICT = spaces.Dict({"place": spaces.Box(-1, 1, (2,), np.float32), "kind": spaces.Discrete(3)})


class Counter(gym.Env):
    """Observes how many steps were taken in all; the action is the reward. Its episodes have 2, 3, 4, ... steps."""

    observation_space = spaces.Box(0, 1000, (1,), np.float32)
    action_space = spaces.Discrete(5)

    def __init__(self):
        self.n, self.length = 0, 1

    def reset(self, *, seed=None, options=None):
        self.length, self.t = self.length + 1, 0
        return np.array([self.n], np.float32), {}

    def step(self, action):
        self.n, self.t = self.n + 1, self.t + 1
        over = self.t == self.length
        return np.array([self.n], np.float32), float(action), over and self.length != 3, over and self.length == 3, {}


class Always:
    """Takes one action."""

    def __init__(self, action):
        self.action = action

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full(len(observation), self.action), state


def test_returns_are_discounted_within_an_episode():
    # The second episode has no end of its own.
    given = Demonstrations(np.zeros((5, 1)), np.zeros(5), rewards=[1, 2, 4, 8, 16], ends=[0, 1, 0, 0, 0])
    assert given.n_episodes == 2
    assert given.returns(0.5).tolist() == [2, 2, 12, 16, 16]
    assert given.episode_returns.tolist() == [3, 28]
    assert given.terminated.tolist() == [False, True, False, False, True]
    assert repr(given) == "Demonstrations(2 episodes, 5 steps, mean return 15.5)"


def test_episodes_are_recorded_as_they_were_played():
    found = collect_demonstrations(Always(2), Counter(), n_episodes=3)
    assert found.observations[:, 0].tolist() == list(range(9))
    assert found.actions.tolist() == [2] * 9
    assert found.rewards.tolist() == [2] * 9
    assert np.flatnonzero(found.ends).tolist() == [1, 4, 8]
    assert np.flatnonzero(found.terminated).tolist() == [1, 8]  # the episode of three steps ran into a time limit
    assert found.last_observations[:, 0].tolist() == [2, 5, 9]
    assert (found.observation_space, found.action_space) == (Counter.observation_space, Counter.action_space)


def test_environments_contribute_evenly_many_episodes():
    env = DummyVecEnv([Counter, Counter])
    found = collect_demonstrations(Always(1), env, n_episodes=3)
    lengths = np.diff(np.flatnonzero([True, *found.ends]))
    # One from the first environment and two from the second: not the three that ended first.
    assert sorted(lengths.tolist()) == [2, 2, 3]


def test_resets_of_a_vector_environment_are_no_steps():
    env = make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point", seed=0)
    found = collect_demonstrations(Always(1), env, n_episodes=4)
    # CartPole gives 1 for each step, and a pole that is pushed one way falls within a dozen of them.
    assert (found.rewards == 1).all()
    assert (found.episode_returns >= 8).all()
    firsts = found.observations[np.flatnonzero([True, *found.ends[:-1]])]
    assert (np.abs(firsts) <= 0.05).all()


def test_normalised_environments_show_what_was_before_and_learn_nothing():
    env = VecNormalize(DummyVecEnv([Counter]))
    env.obs_rms.update(np.array([[3.0], [5.0]]))
    mean = env.obs_rms.mean.copy()
    found = collect_demonstrations(Always(2), env, n_episodes=2)
    assert found.observations[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert found.last_observations[:, 0] == pytest.approx([2, 5], abs=1e-5)
    assert found.rewards.tolist() == [2] * 5
    assert env.obs_rms.mean == mean
    assert env.training


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ({"observations": np.zeros((0, 2)), "actions": np.zeros(0)}, ["`demonstrations`", "no steps"]),
        ({"observations": np.zeros((3, 2)), "actions": np.zeros(2)}, ["`observations`", 3, "`actions`", 2]),
        ({"observations": np.zeros((2, 2)), "actions": np.zeros(2), "rewards": [1, 2, 3]}, ["`rewards`", 3, 2]),
        ({"observations": np.zeros((2, 2)), "actions": np.zeros(2), "ends": [[0, 1]]}, ["`ends`", "(1, 2)"]),
        ({"observations": np.array([[0.0], [np.nan]]), "actions": np.zeros(2)}, ["`observations`", "step 1", "nan"]),
        (
            {"observations": {"a": np.zeros((2, 1)), "b": np.zeros((1, 1))}, "actions": np.zeros(2)},
            ["`observations['b']`", 1, 2],
        ),
        (
            {"observations": np.zeros((2, 1)), "actions": np.zeros(2), "last_observations": np.zeros((2, 1))},
            ["`last_observations`", 2, 1],
        ),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(arguments, facts):
    with pytest.raises(ValueError, match=saying(*facts)):
        Demonstrations(**arguments)


def test_other_things_are_no_demonstrations():
    with pytest.raises(TypeError, match=saying("`demonstrations`", "ndarray")):
        as_demonstrations(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=saying("`n_episodes`", 0)):
        collect_demonstrations(Always(1), Counter(), n_episodes=0)


# Minari


@pytest.fixture
def minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return pytest.importorskip("minari")


def agent_of(env):
    class Sampler:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.array([env.action_space.sample() for _ in range(env.num_envs)]), state

    return Sampler()


@pytest.mark.parametrize(
    ("action_space", "observation_space"),
    [
        (spaces.Discrete(3), spaces.Box(-1, 1, (3,), np.float32)),
        (spaces.Box(-2, 2, (2,), np.float32), DICT),
        (spaces.MultiDiscrete([2, 3]), spaces.Discrete(4)),
        (spaces.MultiBinary(3), spaces.Box(0, 255, (5, 4, 3), np.uint8)),
    ],
    ids=["Discrete", "Box, Dict", "MultiDiscrete", "MultiBinary, image"],
)
def test_what_is_written_in_minaris_format_is_read_back(minari, action_space, observation_space):
    env = DummyVecEnv([lambda: TinyEnv(action_space, observation_space, time_limit=True)])
    env.action_space.seed(0)
    written = collect_demonstrations(agent_of(env), env, n_episodes=3, seed=0)
    dataset = write_minari(written, "tiny/sampled-v0", description="A test.")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 15)
    for found in (read_minari("tiny/sampled-v0"), read_minari(dataset)):
        assert (found.observation_space, found.action_space) == (observation_space, action_space)
        for name in ("observations", "actions", "rewards", "ends", "terminated", "last_observations"):
            np.testing.assert_equal(getattr(found, name), getattr(written, name))


def test_minaris_own_episodes_are_read(minari):
    from minari.data_collector import EpisodeBuffer

    episodes = [
        EpisodeBuffer(
            observations=[np.array([n], np.float32) for n in range(first, first + 3)],
            actions=[0, 1],
            rewards=[1.0, 2.0],
            terminations=[False, ended],
            truncations=[False, not ended],
            infos={},
        )
        for first, ended in ((0, True), (10, False))
    ]
    space = Counter.observation_space
    about = dict.fromkeys(("code_permalink", "author", "author_email", "algorithm_name", "description"), "none")
    with pytest.warns(UserWarning, match="spec|eval_env"):
        minari.create_dataset_from_buffers(
            "counter-v0", episodes, observation_space=space, action_space=spaces.Discrete(5), **about
        )
    found = as_demonstrations("counter-v0")
    assert found.observations[:, 0].tolist() == [0, 1, 10, 11]
    assert found.last_observations[:, 0].tolist() == [2, 12]
    assert found.terminated.tolist() == [False, True, False, False]
    assert found.ends.tolist() == [False, True, False, True]


def test_a_dataset_that_is_not_here_is_not_fetched(minari):
    with pytest.raises(FileNotFoundError, match=saying("pointmaze/none-v3", "minari download")):
        as_demonstrations("pointmaze/none-v3")


def test_a_format_with_rewards_needs_rewards(minari):
    with pytest.raises(ValueError, match=saying("`rewards`")):
        write_minari(Demonstrations(np.zeros((2, 1)), np.zeros(2)), "none-v0")


def test_a_gym_environment_goes_in_with_its_id(minari):
    found = collect_demonstrations(Always(1), "CartPole-v1", n_episodes=2, seed=0)
    dataset = write_minari(found, "pole/pushed-v0", "CartPole-v1", algorithm_name="always 1")
    assert dataset.spec.env_spec.id == "CartPole-v1"
    assert make_vec_env("CartPole-v1").observation_space == dataset.observation_space
