"""Scores are measured by what an environment states, by its threshold, or by a substitute, in this order."""

from functools import partial

import gymnasium as gym
import pytest
from fakes import TinyEnv
from gymnasium.envs.registration import EnvSpec
from prose import says

from pg_zoo.results.scales import Mark, Scale, find_scale, known_scores

PUBLISHED = Mark(100.0, "SB3's published score")


class Stated(TinyEnv):
    metadata = {"render_modes": [], "reference_scores": {"optimum": 8.0, "controller": 7.0, "random": 4.0}}


def sized(size=1, *, bonus=0):
    return {"value": 10.0 * size + bonus, "equilibrium": 3.0, "random": float(size)}


class Sized(TinyEnv):
    metadata = {"render_modes": [], "reference_scores": partial(sized, bonus=0.5)}

    def __init__(self, size=1):
        super().__init__()


def with_limit(max_episode_steps=50):
    return {"optimum": float(max_episode_steps)}


class Limited(TinyEnv):
    metadata = {"render_modes": [], "reference_scores": with_limit}


class Faulty(TinyEnv):
    metadata = {"render_modes": [], "reference_scores": 3.0}


def made(**kwargs):
    return Sized(**kwargs)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    def register(env_id, entry_point, **spec):
        monkeypatch.setitem(gym.registry, env_id, EnvSpec(env_id, entry_point, **spec))

    register("Stated-v0", Stated, max_episode_steps=50, reward_threshold=6.0)
    register("Sized-v0", f"{__name__}:Sized", max_episode_steps=50, kwargs={"size": 3})
    register("Made-v0", made, max_episode_steps=50, kwargs={"size": 3})
    register("Limited-v0", Limited, max_episode_steps=50)
    register("Faulty-v0", Faulty, reward_threshold=6.0)
    register("Broken-v0", "a_module_that_is_not_installed:Env", reward_threshold=6.0)


@pytest.mark.parametrize(
    ("env", "kwargs", "expected"),
    [
        ("Stated-v0", {}, {"optimum": 8, "controller": 7, "random": 4}),
        ("Sized-v0", {}, {"value": 30.5, "equilibrium": 3, "random": 3}),
        ("Sized-v0", {"size": 2}, {"value": 20.5, "equilibrium": 3, "random": 2}),
        ("Made-v0", {"size": 2}, {"value": 20.5, "equilibrium": 3, "random": 2}),
        ("Stated-v0", {"max_episode_steps": 50}, {"optimum": 8, "controller": 7, "random": 4}),
        # Stated scores hold for the registered time limit alone.
        ("Stated-v0", {"max_episode_steps": 40}, {}),
        ("Sized-v0", {"max_episode_steps": 40}, {}),
        ("Limited-v0", {"max_episode_steps": 40}, {"optimum": 40}),
        ("CartPole-v1", {}, {}),
        ("Broken-v0", {}, {}),
        ("NotRegistered-v0", {}, {}),
    ],
)
def test_an_environment_states_its_scores_in_its_metadata(env, kwargs, expected, capsys):
    assert known_scores(env, kwargs) == expected
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("env", "kwargs", "why"), [("Faulty-v0", {}, "float"), ("Sized-v0", {"length": 2}, "length")])
def test_faulty_statements_are_left_out_with_a_warning(env, kwargs, why, capsys):
    assert known_scores(env, kwargs) == {}
    assert says(capsys.readouterr().err, "warning", "reference_scores", env, why)


@pytest.mark.parametrize(
    ("env", "measured", "expected"),
    [
        ("Stated-v0", [0.0], (4, (8, "optimum"), 6, 8)),  # what is stated is exact, what is measured is not
        ("Sized-v0", [], (3, (30.5, "value"), None, 30.5)),
        ("Faulty-v0", [1.0, 3.0], (2, None, 6, 6)),
        ("CartPole-v1", [20.0, 24.0], (22, None, 475, 475)),
        ("Pendulum-v1", [-1200.0], (-1200, None, None, 100)),
        ("Pendulum-v1", [], (None, None, None, None)),
    ],
)
def test_one_is_the_best_known_score_or_the_threshold_or_the_substitute(env, measured, expected):
    found = find_scale(env, {}, measured, PUBLISHED)
    assert (found.random, found.best, found.threshold, found.one) == expected


def test_an_environment_that_states_random_actions_alone_is_measured_by_its_threshold(monkeypatch):
    # Two of the earlier definitions disagreed here: scores of a stated environment had no threshold.
    monkeypatch.setitem(Stated.metadata, "reference_scores", {"random": 4.0})
    found = find_scale("Stated-v0", {}, [], PUBLISHED)
    assert found.goal == (6.0, "solved")
    assert (found.random, found.one, found.why) == (4.0, 6.0, "the return at which it counts as solved")


@pytest.mark.parametrize(
    ("scale", "end", "one", "why"),
    [
        (Scale(20.0, None, 475.0, PUBLISHED), (475, "solved"), 475, ["solved"]),
        (Scale(-200.0, None, None, PUBLISHED), PUBLISHED, 100, ["SB3's published score"]),
        (Scale(-200.0, None, None), None, None, ["no score is known"]),
        (Scale(None, None, 475.0), (475, "solved"), None, ["random actions is not known"]),
        # A game in which nobody beats random play: a lower end does not take its place.
        (Scale(0.0, Mark(0.0, "value"), 1.0, PUBLISHED), (0, "value"), None, ["random", 0, "the game's value"]),
    ],
)
def test_nothing_is_normalised_unless_the_end_is_better_than_random(scale, end, one, why):
    assert (scale.end, scale.one) == (end, one)
    assert says(scale.why, *why)


def test_random_actions_are_0_and_the_best_known_score_is_1():
    scale = Scale(-10.0, Mark(30.0, "optimum"), None)
    assert scale.normalise([-10.0, 0.0, 30.0, 50.0]).tolist() == [0, 0.25, 1, 1.5]
