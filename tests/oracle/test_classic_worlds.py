"""Gymnasium is the oracle of the worlds that have its names."""

import math

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

import pg_envs
from pg_envs.classic.tables import Table
from pg_envs.worlds import below, uniform
from pg_envs.worlds.random import generator_state

MAP = ["SFFS", "FHFF", "FFFG"]


def pumping(observation, rng):
    """Push where the car goes; it arrives at the goal."""
    return 2 if observation[1] >= 0 else 0


def pumping_continuously(observation, rng):
    return np.array([rng.uniform(0.5, 1) if observation[1] >= 0 else rng.uniform(-1, -0.5)], dtype=np.float32)


def swinging(observation, rng):
    """Turn the joint with the speed of the first link; it comes up."""
    return 2 if observation[4] < 0 else 0


def wandering(observation, rng):
    """Mostly to the right, so along the cliff and down it; it arrives at the goal."""
    return rng.choice([0, 1, 1, 2])


CASES = [  # id, arguments, policy; random actions if it is None
    ("CartPole-v1", {}, None),
    ("CartPole-v1", {"sutton_barto_reward": True}, None),
    ("Pendulum-v1", {}, None),
    ("Pendulum-v1", {"g": 9.81}, None),
    ("Acrobot-v1", {}, None),
    ("Acrobot-v1", {}, swinging),
    ("MountainCar-v0", {}, None),
    ("MountainCar-v0", {}, pumping),
    ("MountainCar-v0", {"goal_velocity": 0.03}, pumping),
    ("MountainCarContinuous-v0", {}, None),
    ("MountainCarContinuous-v0", {}, pumping_continuously),
    ("MountainCarContinuous-v0", {"goal_velocity": 0.02}, pumping_continuously),
    ("FrozenLake-v1", {}, None),
    ("FrozenLake-v1", {"map_name": "8x8", "is_slippery": False}, None),
    ("FrozenLake-v1", {"desc": MAP, "success_rate": 0.7, "reward_schedule": (2, -1, -0.125)}, None),
    ("CliffWalking-v1", {}, wandering),
    ("CliffWalking-v1", {"is_slippery": True}, wandering),
    ("Taxi-v4", {}, None),
    ("Taxi-v4", {"is_rainy": True, "rainy_probability": 0.6}, None),
    ("Taxi-v4", {"is_rainy": True, "fickle_passenger": True}, None),
    ("Taxi-v4", {"fickle_passenger": True, "fickle_probability": 1.0}, None),
]
IDS = sorted({case[0] for case in CASES})
every_id = pytest.mark.parametrize("env_id", IDS)


def name(case):
    env_id, arguments, policy = case
    return "-".join([env_id[:-3], *arguments, *([policy.__name__] if policy else [])])


every_case = pytest.mark.parametrize(("env_id", "arguments", "policy"), CASES, ids=map(name, CASES))


class Draws:
    """What Gymnasium asks its generator for, from the generator of a world's copy."""

    def __init__(self, seed):
        self.state = generator_state(seed)

    def random(self):
        return uniform(self.state, 0.0, 1.0)

    def uniform(self, low, high, size=None):
        low, high = np.broadcast_arrays(low, high) if size is None else (np.full(size, low), np.full(size, high))
        numbers = [uniform(self.state, one, other) for one, other in zip(low.flat, high.flat, strict=True)]
        return np.array(numbers).reshape(low.shape)[()]

    def choice(self, values):
        return values[below(self.state, len(values))]


def pair(env_id, arguments, seed, **more):
    """Our environment and Gymnasium's, which draw the same numbers."""
    ours, theirs = gym.make(f"pg/{env_id}", **arguments, **more), gym.make(env_id, **arguments, **more)
    theirs.unwrapped.np_random = Draws(seed)
    return ours, theirs, ours.reset(seed=seed), theirs.reset()


def their_state(env):
    return [env.unwrapped.s] if hasattr(env.unwrapped, "s") else np.asarray(env.unwrapped.state)


def close(ours, theirs, tolerance):
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(close(ours[key], theirs[key], tolerance) for key in theirs)
    return np.allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@every_case
def test_the_same_draws_and_actions_give_gymnasiums_trajectory(env_id, arguments, policy):
    """State for state: each step begins in Gymnasium's state, since rounding errors grow from step to step."""
    ours, theirs, (observation, info), (expected, expected_info) = pair(env_id, arguments, seed=3)
    theirs.action_space.seed(0)
    rng, n_ended, n_cut = np.random.default_rng(0), 0, 0
    # Pendulum's torque is squared in float32 by the C library's `powf`, which may round .004 the other way.
    of_reward = 2.0**-32 if env_id == "Pendulum-v1" else 1e-12
    epsilon = 2.0**-22  # two units in the last place of float32: one beyond 1e-12 can change its rounding
    for _ in range(3000 if env_id == "Taxi-v4" else 1200):
        assert close(observation, expected, epsilon)
        assert close(info, expected_info, 1e-12)
        action = theirs.action_space.sample() if policy is None else policy(expected, rng)
        if "action_mask" in info and rng.random() < 0.8:
            useful = np.flatnonzero(expected_info["action_mask"])
            action = 4 if 4 in useful and rng.random() < 0.5 else rng.choice(useful)
        observation, reward, terminated, truncated, info = ours.step(action)
        expected, expected_reward, *expected_end, expected_info = theirs.step(action)
        assert reward == pytest.approx(expected_reward, rel=1e-12, abs=of_reward)
        assert [terminated, truncated] == expected_end
        state = their_state(theirs)
        assert close(ours.unwrapped.state[: len(state)], state, 1e-12)
        ours.unwrapped.state[: len(state)] = state
        n_ended, n_cut = n_ended + terminated, n_cut + truncated
        if terminated or truncated:
            (observation, info), (expected, expected_info) = ours.reset(), theirs.reset()
    assert n_ended or env_id == "Pendulum-v1" or (policy is None and env_id[0] in "AM")
    assert n_cut or env_id not in {"Pendulum-v1", "Taxi-v4"}


@every_id
def test_the_specification_is_gymnasiums(env_id):
    ours, theirs = gym.spec(f"pg/{env_id}"), gym.spec(env_id)
    assert (ours.max_episode_steps, ours.reward_threshold) == (theirs.max_episode_steps, theirs.reward_threshold)
    one, other = gym.make(f"pg/{env_id}"), gym.make(env_id)
    assert (one.observation_space, one.action_space) == (other.observation_space, other.action_space)
    assert one.metadata["render_fps"] == other.metadata["render_fps"]
    assert type(one.reset(seed=0)[0]) is type(other.reset(seed=0)[0])


@every_id
def test_pictures_are_gymnasiums(env_id):
    ours, theirs, _, _ = pair(env_id, {}, seed=1, render_mode="rgb_array")
    theirs.action_space.seed(0)
    for _ in range(4):
        image = ours.render()
        np.testing.assert_array_equal(image, theirs.render())
        action = theirs.action_space.sample()
        ours.step(action), theirs.step(action)
    assert not np.array_equal(image, ours.render()) or env_id in {"FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"}
    vector = gym.make_vec(f"pg/{env_id}", 2, render_mode="rgb_array")
    vector.reset(seed=1)
    assert [one.shape for one in vector.render()] == [image.shape] * 2


def starts(env_id, n):
    """First states: ours, and Gymnasium's, with its own generator."""
    vector, theirs = gym.make_vec(f"pg/{env_id}", n), gym.make(env_id)
    vector.reset(seed=0)
    theirs.reset(seed=0)
    states = []
    for _ in range(n):
        theirs.reset()
        states.append(their_state(theirs))
    return vector.copies.states[:, : len(states[0])], np.array(states)


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"]
)
def test_first_states_have_gymnasiums_distribution(env_id):
    ours, theirs = starts(env_id, 2000)
    for i in range(ours.shape[1]):
        assert stats.ks_2samp(ours[:, i], theirs[:, i]).pvalue > 1e-3  # the seeds are fixed
        np.testing.assert_allclose(ours[:, i].min(), theirs[:, i].min(), atol=0.005 * np.ptp(theirs[:, i]))
        np.testing.assert_allclose(ours[:, i].max(), theirs[:, i].max(), atol=0.005 * np.ptp(theirs[:, i]))
    correlations = np.corrcoef(ours[:, ours.std(axis=0) > 0], rowvar=False)
    assert np.abs(correlations - np.eye(len(np.atleast_2d(correlations)))).max() < 5 / math.sqrt(2000)


@pytest.mark.parametrize(("env_id", "arguments"), [("FrozenLake-v1", {"desc": MAP}), ("Taxi-v4", {})])
def test_first_states_have_the_probabilities_of_gymnasiums_table(env_id, arguments):
    vector, n = gym.make_vec(f"pg/{env_id}", 1000, **arguments), 60_000
    vector.reset(seed=0)
    expected = gym.make(env_id, **arguments).unwrapped.initial_state_distrib
    states = np.concatenate([vector.reset()[0] for _ in range(n // 1000)])
    frequencies = np.bincount(states, minlength=len(expected)) / n
    assert np.array_equal(frequencies > 0, expected > 0)
    assert (np.abs(frequencies - expected) <= 5 * np.sqrt(expected * (1 - expected) / n)).all()


@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [
        ("FrozenLake-v1", {}),
        ("FrozenLake-v1", {"desc": MAP, "success_rate": 0.6, "reward_schedule": (5, -1, 0.5)}),
        ("CliffWalking-v1", {"is_slippery": True}),
        ("Taxi-v4", {"is_rainy": True}),
        ("Taxi-v4", {}),
    ],
)
def test_transitions_have_the_probabilities_of_gymnasiums_table(env_id, arguments):
    table, n = gym.make(env_id, **arguments).unwrapped.P, 100
    pairs = [(state, action) for state in table for action in table[state]]
    vector = gym.make_vec(f"pg/{env_id}", len(pairs), autoreset_mode="Disabled", **arguments)
    vector.reset(seed=0)
    outcomes = []
    for _ in range(n):
        vector.reset(options={"reset_mask": np.ones(len(pairs), dtype=bool)})
        vector.copies.states[:, 0] = [state for state, _ in pairs]
        after, rewards, terminated, _, infos = vector.step(np.array([action for _, action in pairs]))
        outcomes.append(np.stack([after, rewards, terminated, infos["prob"]], axis=-1))
    for (state, action), seen in zip(pairs, np.stack(outcomes, axis=1).tolist(), strict=True):
        expected, probability = {}, {}
        for p, *outcome in table[state][action]:
            expected[tuple(outcome)] = expected.get(tuple(outcome), 0) + p
            probability.setdefault(tuple(outcome), []).append(p)
        assert {tuple(outcome[:3]) for outcome in seen} <= expected.keys()
        for outcome, p in expected.items():
            found = [one for one in seen if tuple(one[:3]) == outcome]
            assert abs(len(found) / n - p) <= 6 * math.sqrt(p * (1 - p) / n) + 1e-12
            assert {one[3] for one in found} <= set(probability[outcome])


@pytest.mark.parametrize(
    ("env_id", "argument"),
    [
        ("CartPole-v1", "g"),
        ("Pendulum-v1", "gravity"),
        ("Acrobot-v1", "g"),
        ("MountainCar-v0", "goal"),
        ("MountainCarContinuous-v0", "goal"),
        ("FrozenLake-v1", "slippery"),
        ("CliffWalking-v1", "slippery"),
        ("Taxi-v4", "rainy"),
    ],
)
def test_unknown_arguments_are_refused_by_name(env_id, argument):
    for make in (gym.make, gym.make_vec):
        with pytest.raises(TypeError, match=f"'{argument}'"):
            make(f"pg/{env_id}", **{argument: 1})


@pytest.mark.parametrize(
    ("env_id", "arguments", "why"),
    [
        ("Pendulum-v1", {"g": "9.8"}, "`g` must be a number, but is '9.8'"),
        ("MountainCar-v0", {"goal_velocity": math.nan}, "`goal_velocity` must be a number, but is nan"),
        ("FrozenLake-v1", {"map_name": "4x5"}, "`map_name` must be one of None, '4x4', '8x8', but is '4x5'"),
        ("FrozenLake-v1", {"desc": ["SF", "FX"]}, "`desc` must be equally long rows of the letters S, F, H and G"),
        ("FrozenLake-v1", {"desc": ["SF", "F"]}, "`desc` must be equally long rows"),
        ("FrozenLake-v1", {"desc": ["FF", "FG"]}, "S among them, but is"),
        ("FrozenLake-v1", {"success_rate": 1.5}, "at least 0 and have the sum 1, but are"),
    ],
)
def test_bad_arguments_are_refused(env_id, arguments, why):
    with pytest.raises(ValueError, match=why):
        gym.make(f"pg/{env_id}", **arguments)


def test_frozen_lake_takes_maps_as_gymnasium_does():
    array = gym.make("FrozenLake-v1", desc=MAP).unwrapped.desc  # bytes
    ours, again = (gym.make("pg/FrozenLake-v1", desc=desc).unwrapped.world for desc in (array, MAP))
    np.testing.assert_array_equal(ours.constants, again.constants)
    random = gym.make("pg/FrozenLake-v1", map_name=None)
    assert random.observation_space.n == 64


def test_exact_scores_are_the_known_ones():
    # 13 steps lead round the cliff; a player without haste crosses the slippery lake with probability 14/17.
    assert pg_envs.reference_scores("pg/CliffWalking-v1")["optimum"] == -13
    assert Table.of(gym.make("FrozenLake-v1").unwrapped).optimum(None) == pytest.approx(14 / 17)
    assert gym.make("pg/Taxi-v4", fickle_passenger=True).unwrapped.world.optimum is None


@pytest.mark.parametrize(
    ("env_id", "arguments"), [("FrozenLake-v1", {"map_name": "8x8"}), ("Taxi-v4", {"is_rainy": True})]
)
def test_the_exact_score_of_random_actions_is_the_mean_of_episodes(env_id, arguments):
    returns = pg_envs.references.simulated_returns(f"pg/{env_id}", "random", n_episodes=1000, **arguments)
    scores = pg_envs.reference_scores(f"pg/{env_id}", **arguments)
    assert abs(returns.mean() - scores["random"]) < 4 * returns.std() / math.sqrt(1000)
    assert scores["random"] < scores["optimum"]


def test_without_a_time_limit_random_actions_score_as_with_a_long_one():
    table = Table.of(gym.make("FrozenLake-v1").unwrapped)
    assert table.random(None) == pytest.approx(table.random(1000), abs=1e-12)
    assert table.random(100) < table.random(None)
    assert pg_envs.reference_scores("pg/CliffWalking-v1")["random"] < -10_000


def test_random_actions_score_as_in_gymnasium():
    ours = pg_envs.reference_scores("pg/CartPole-v1")
    theirs = pg_envs.references.simulated_returns("CartPole-v1", "random", n_episodes=300)
    assert ours.keys() == {"random"}
    assert abs(ours["random"] - theirs.mean()) < 4 * theirs.std() / math.sqrt(300)
    assert pg_envs.reference_scores("pg/Pendulum-v1").keys() == {"random", "zero"}
