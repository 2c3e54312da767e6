"""`register_world`: what is known of an id before anything is made, and what making passes on."""

import pickle
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from pg_envs.worlds import World, register_world
from pg_zoo.results.scales import known_scores


@pytest.fixture(autouse=True)
def _left_as_it_was():
    yield
    gym.registry.pop("Test/Counter-v0", None)


def start(state, random):
    state[0] = 0.0


def step(state, action, random, constants):
    state[0] += constants[0]
    return constants[0], False


def observe(state, observation):
    observation[0] = state[0]


STATED = {"render_modes": [], "render_fps": 7, "reference_scores": {"optimum": 4.0, "random": 4.0}}


def counter(by=1.0):
    return World(start, step, observe, 1, spaces.Box(-9.0, 9.0, (1,)), spaces.Discrete(2), constants=(by,))


def test_both_versions_are_made_with_the_environments_arguments():
    register_world("Test/Counter-v0", counter, max_episode_steps=3, reward_threshold=2.5)
    spec = gym.spec("Test/Counter-v0")
    assert (spec.max_episode_steps, spec.reward_threshold) == (3, 2.5)
    env, envs = gym.make("Test/Counter-v0", by=2.0), gym.make_vec("Test/Counter-v0", 2, by=0.5)
    env.reset(seed=0), envs.reset(seed=0)
    assert [env.step(0)[1:4] for _ in range(3)] == [(2.0, False, cut) for cut in (False, False, True)]
    assert [envs.step(np.zeros(2, int))[3].tolist() for _ in range(3)] == [[cut] * 2 for cut in (False, False, True)]
    with pytest.raises(TypeError, match="'to'"):
        gym.make("Test/Counter-v0", to=3)


def test_a_world_itself_has_no_arguments():
    register_world("Test/Counter-v0", counter())
    assert gym.make("Test/Counter-v0").reset(seed=0)[0] == 0
    for make in (gym.make, gym.make_vec):
        with pytest.raises(TypeError, match=r"This world has no arguments, but \['by'\] are given"):
            make("Test/Counter-v0", by=2.0)


def test_a_string_is_imported_when_an_environment_is_made(tmp_path, monkeypatch):
    (tmp_path / "test_registering_later.py").write_text(f"from {__name__} import counter\n")
    monkeypatch.syspath_prepend(tmp_path)
    register_world("Test/Counter-v0", "test_registering_later:counter", metadata=STATED)
    spec = pickle.loads(pickle.dumps(gym.spec("Test/Counter-v0")))
    assert spec.entry_point.metadata == STATED
    assert "test_registering_later" not in sys.modules
    env = gym.make("Test/Counter-v0", by=3.0)
    assert sys.modules.pop("test_registering_later")
    assert env.metadata["render_fps"] == 7
    assert gym.make_vec("Test/Counter-v0", 2).metadata["reference_scores"] == STATED["reference_scores"]


def test_scores_that_a_world_states_are_read_without_making_it():
    def made():
        raise AssertionError("nobody asked for an environment")

    register_world("Test/Counter-v0", made, metadata=STATED)
    assert known_scores("Test/Counter-v0") == STATED["reference_scores"]


def test_an_id_that_is_taken_stays_what_it_is():
    before = gym.spec("CartPole-v1")
    register_world("CartPole-v1", counter)
    assert gym.spec("CartPole-v1") is before


@pytest.mark.parametrize("world", ["counter", "module:", ":counter", ""])
def test_a_string_that_names_nothing_is_refused(world):
    with pytest.raises(
        ValueError, match=f"`world` must be a World, a function or 'module:attribute', but is '{world}'"
    ):
        register_world("Test/Counter-v0", world)
