"""Policies that cannot read the observations are refused in one sentence; those that hardly learn cause a warning."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from fakes import TinyEnv
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction
from prose import saying
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize

from pg_agents import A2C, PPO, REINFORCE
from pg_agents.checks import check_boolean
from pg_agents.envs.make import make_vec
from pg_agents.suitability import suitable_policy

BOX = spaces.Box(-1, 1, (3,), np.float32)


def image(*shape, high=255, dtype=np.uint8):
    return spaces.Box(0, high, shape, dtype)


UNREADABLE = {
    "Sequence": (spaces.Sequence(BOX), ["Sequence", "ObservationWrapper"]),
    "Text": (spaces.Text(5), ["Text(", "FlattenObservation"]),
    "Graph": (spaces.Graph(BOX, None), ["Graph(", "ObservationWrapper"]),
    "OneOf": (spaces.OneOf([BOX, spaces.Discrete(2)]), ["OneOf(", "FlattenObservation"]),
    "Tuple": (spaces.Tuple([BOX, BOX]), ["Tuple(", "FlattenObservation"]),
    "Dict of Text": (spaces.Dict({"a": BOX, "b": spaces.Text(5)}), ["Dict(", "part Text(", "FlattenObservation"]),
    "Dict of Dict": (spaces.Dict({"a": spaces.Dict({"b": BOX})}), ["part Dict(", "FlattenObservation"]),
}


@pytest.mark.parametrize(("space", "facts"), UNREADABLE.values(), ids=UNREADABLE)
def test_observations_that_no_policy_reads_are_refused_with_a_remedy(space, facts):
    with pytest.raises(ValueError, match=saying("No policy reads the observation space", *facts)):
        PPO("MlpPolicy", TinyEnv(None, space))


def test_they_are_refused_before_an_array_is_made_for_them():
    with pytest.raises(ValueError, match="No policy reads the observation space Sequence"):
        make_vec(lambda **_: TinyEnv(None, spaces.Sequence(BOX)), 2)


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (0,)), spaces.Dict(a=spaces.Box(-1, 1, (2, 0)))], ids=str)
def test_observations_without_numbers_are_refused(space):
    with pytest.raises(ValueError, match=r"No policy reads .* no numbers"):
        PPO("MlpPolicy", TinyEnv(None, space))


def test_normalised_images_are_left_to_the_policy_for_images():
    envs = VecNormalize(make_vec_env(lambda: TinyEnv(None, image(36, 36, 3)), 1))
    with pytest.raises(ValueError, match=saying("CnnPolicy scales images itself", "VecNormalize", "norm_obs=False")):
        A2C("CnnPolicy", envs)


@pytest.mark.parametrize("name", ["Text", "OneOf", "Tuple", "Dict of Text", "Dict of Dict"])
def test_the_remedy_helps(name):
    space, _ = UNREADABLE[name]
    A2C("MlpPolicy", gym.wrappers.FlattenObservation(TinyEnv(None, space)), n_steps=4, engine="autograd").learn(4)


MISFITS = {
    "Dict policy on a Box": (
        "MultiInputPolicy",
        BOX,
        {},
        ["MultiInputPolicy reads a Dict", "Box(-1.0", "MlpPolicy fits"],
    ),
    "Dict policy on an image": ("MultiInputPolicy", image(64, 64, 3), {}, ["MultiInputPolicy", "CnnPolicy fits"]),
    "Dict policy on numbers": ("MultiInputPolicy", spaces.Discrete(3), {}, ["MultiInputPolicy", "MlpPolicy fits"]),
    "flat policy on a Dict": (ActorCriticPolicy, spaces.Dict({"a": BOX}), {}, ["MlpPolicy", "MultiInputPolicy does"]),
    "small image": ("CnnPolicy", image(8, 8, 3), {}, ["CnnPolicy", "36 x 36", "8 x 8", "MlpPolicy"]),
    "low image": ("CnnPolicy", image(64, 20, 1), {}, ["CnnPolicy", "36 x 36", "64 x 20"]),
    "small image in a Dict": (
        "MultiInputPolicy",
        spaces.Dict({"vector": BOX, "eye": image(7, 7, 3)}),
        {},
        ["MultiInputPolicy", "36 x 36", "'eye'", "7 x 7"],
    ),
    "bytes that are no image": (
        "CnnPolicy",
        image(40, 40, 3, high=7),
        {},
        ["CnnPolicy reads images of bytes", "(40, 40, 3)", "MlpPolicy fits"],
    ),
    "image of fractions": (
        "CnnPolicy",
        image(3, 64, 64, high=1, dtype=np.float32),
        {},
        ["CnnPolicy reads images", "normalize_images=False"],
    ),
    "fractions with their channels last": (
        "CnnPolicy",
        image(64, 64, 3, high=1, dtype=np.float32),
        {"normalize_images": False},
        ["CnnPolicy", "channels first", "(64, 64, 3)"],
    ),
}


@pytest.mark.parametrize(("policy", "space", "kwargs", "facts"), MISFITS.values(), ids=MISFITS)
def test_a_policy_for_other_observations_is_refused_with_the_one_that_fits(policy, space, kwargs, facts):
    with pytest.raises(ValueError, match=saying(*facts)):
        A2C(policy, TinyEnv(None, space), policy_kwargs=kwargs)


@pytest.mark.parametrize("space", [BOX, image(64, 64, 3), image(4, 84, 84), image(7, 7, 3), spaces.Dict({"a": BOX})])
def test_the_suitable_policy_is_taken(space):
    A2C(suitable_policy(space), TinyEnv(None, space))


@pytest.mark.parametrize("space", [image(64, 64, 3), image(3, 64, 64), image(64, 64, 3, high=1, dtype=np.float32)])
def test_an_image_that_is_read_as_numbers_causes_one_warning(space):
    with pytest.warns(UserWarning, match=saying("MlpPolicy", "12,288 numbers", "CnnPolicy")) as caught:
        REINFORCE("MlpPolicy", TinyEnv(None, space))
    assert len(caught) == 1
    assert caught[0].filename == __file__


def box(low, high, dtype=np.float32):
    return spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


FAR = {
    "wide": (box([-1e6], [1e6]), ["-1e+06", "1e+06", "between -3 and 3", "RescaleAction"]),
    "above": (box([1], [10]), ["from 1 to 10", "between 1 and 3", "84 % of them at 1", "RescaleAction"]),
    "clipped": (box([1], [2]), ["from 1 to 2", "between 1 and 2", "84 % of them at 1"]),
    "out of reach": (box([-9], [-8]), ["from -9 to -8", "between -8 and -8", "100 % of them at -8"]),
    "one of two": (box([-1, 0], [1, 50]), ["from 0 to 50 in dimension 1", "between 0 and 3"]),
    "bytes": (box([0, 0], [255, 255], np.uint8), ["uint8", "from 0 to 255", "MultiDiscrete"]),
}


@pytest.mark.parametrize(("space", "facts"), FAR.values(), ids=FAR)
def test_actions_that_are_hardly_reached_cause_one_warning(space, facts):
    with pytest.warns(UserWarning, match=saying(*facts)) as caught:
        agent = PPO("MlpPolicy", TinyEnv(space), n_steps=8, batch_size=8)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    agent.learn(8)  # says nothing again


NEAR = [
    *(box([-bound], [bound]) for bound in (0.01, 0.4, 1, 2, 3, 5)),
    box([-1, 0, 0], [1, 1, 1]),  # CarRacing's
    box([-1e9], [1e9]),  # no bounds
    box([0, 0], [5, 5], np.int64),
]


@pytest.mark.parametrize("space", NEAR, ids=str)
def test_actions_that_are_reached_cause_none(space):
    PPO("MlpPolicy", TinyEnv(space), n_steps=8, batch_size=8)


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")  # Gymnasium's, of its own RescaleAction
def test_what_makes_far_actions_reachable_is_seen():
    wide = box([-1e6], [1e6])
    PPO("MlpPolicy", RescaleAction(TinyEnv(wide), -1.0, 1.0))
    PPO("MlpPolicy", TinyEnv(box([-30], [30])), policy_kwargs={"log_std_init": 2.5})
    PPO("MlpPolicy", TinyEnv(box([-1], [1])), policy_kwargs={"log_std_init": -2.0})  # as rl_zoo3 begins on MuJoCo
    PPO("MlpPolicy", TinyEnv(wide), use_sde=True, policy_kwargs={"squash_output": True})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PPO("MlpPolicy", TinyEnv(wide), use_sde=True)
    assert len(caught) == 1


TEXTS = [
    {"use_sde": "False"},
    {"normalize_advantage": "no"},
    {"policy_kwargs": {"ortho_init": "False"}},
    {"policy_kwargs": {"state_dependent_std": "False"}},
]


@pytest.mark.parametrize("given", TEXTS, ids=str)
def test_a_text_is_no_truth_value(given):
    with pytest.raises(ValueError, match=r"must be True or False, but is the text '(False|no)'"):
        PPO("MlpPolicy", TinyEnv(box([-1], [1])), **given)


@pytest.mark.parametrize("value", [None, 2, 0.5, 1.0, [], "", np.ones(2)], ids=repr)
def test_only_true_and_false_are_truth_values_and_their_numbers(value):
    with pytest.raises(ValueError, match="`use_sde` must be True or False, but is"):
        A2C("MlpPolicy", TinyEnv(box([-1], [1])), use_sde=value)
    for allowed in (True, False, np.bool_(True), 0, 1, np.int64(1)):
        check_boolean("use_sde", allowed)


def test_a_text_is_no_truth_value_when_an_agent_is_loaded(tmp_path):
    A2C("MlpPolicy", TinyEnv()).save(tmp_path / "agent")
    with pytest.raises(ValueError, match="`normalize_advantage` must be True or False"):
        A2C.load(tmp_path / "agent", normalize_advantage="False")


def test_normalised_images_are_no_images():
    space = spaces.Dict({"eye": image(7, 7, 3), "a": BOX})
    A2C("MultiInputPolicy", VecNormalize(make_vec_env(lambda: TinyEnv(None, space), 1)), n_steps=4).learn(8)
