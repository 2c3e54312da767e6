"""The penalty kick and the torque bandit against published values, exact arithmetic and plain Python."""

import itertools
from fractions import Fraction

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import norm

import pg_envs  # noqa: F401 - registers the ids
from pg_envs import DiscretizerVector
from pg_envs.games.penalty_kick import KEEPERS, PenaltyKick, won, won_by_gaussian
from pg_envs.references import simulated_returns
from pg_envs.torque.bandit import TorqueBandit, reward


def shoot(shots, seed=0):
    """Where the keepers stood, and the rewards, given shots of shape (rounds, matches)."""
    envs = gym.make_vec("pg/PenaltyKick-v0", shots.shape[1], n_rounds=len(shots))
    envs.reset(seed=seed)
    places, rewards = [], []
    for row in shots:
        _, won_now, terminated, _, infos = envs.step(row[:, None].astype(np.float32))
        rewards.append(won_now)
        places.append(infos["final_info"]["keeper"] if terminated.all() else infos["keeper"])
    return np.array(places), np.array(rewards)


def test_half_the_shots_to_each_side_are_worth_the_value_of_the_game():
    assert won([-0.8, 0.8]).min() == 0
    assert won([-0.8, 0.8], [0.4, 0.6]).min() == pytest.approx(-0.2)


@given(at=st.floats(-1, 1))
def test_any_fixed_shot_is_worth_minus_one(at):
    assert won(at).min() == -1


@given(shots=st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_two_places_of_the_keeper_hold_anybody_to_the_value_of_the_game(shots):
    places = np.isclose(abs(KEEPERS), 0.35)
    assert places.sum() == 2
    assert won(shots)[places].mean() <= 1e-12


def test_the_best_gaussian_is_worth_about_what_was_published():
    found = minimize(lambda x: -won_by_gaussian(x[0], abs(x[1])).min(), (0.1, 1.0), method="Nelder-Mead")
    assert -found.fun == pytest.approx(-0.5327, abs=1e-4)
    assert -found.fun == pytest.approx(-0.524, abs=0.01)  # the value on a grid
    assert abs(found.x) == pytest.approx([0, 0.7], abs=0.05)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.7), (0.5, 0.3), (-1.4, 2.0)])
def test_what_a_gaussian_wins_is_the_integral_of_its_density(mean, std):
    for place in (0, 7, 18, 36):
        keeper = KEEPERS[place]
        breaks = sorted({-0.9, 0.9, *np.clip([keeper - 0.55, keeper + 0.55], -0.9, 0.9)})
        goals = 0.0
        for low, high in itertools.pairwise(breaks):
            if abs((low + high) / 2 - keeper) > 0.55:
                goals += quad(norm(mean, std).pdf, low, high)[0]
        assert won_by_gaussian(mean, std)[place] == pytest.approx(2 * goals - 1, abs=1e-7)


def test_the_keeper_stands_where_most_shots_would_have_been_held():
    shots = np.random.default_rng(0).uniform(-1, 1, (30, 20))
    places, rewards = shoot(shots)
    for column, keepers, won_now in zip(shots.T, places.T, rewards.T, strict=True):
        for t in range(30):
            held = [sum(abs(a) <= 0.9 and abs(a - k) <= 0.55 for a in column[:t]) for k in KEEPERS]
            assert held[np.argmin(abs(KEEPERS - keepers[t]))] == max(held)
            goal = abs(column[t]) <= 0.9 and abs(column[t] - keepers[t]) > 0.55
            assert won_now[t] == (1 if goal else -1)


def test_bins_at_the_very_end_of_the_keepers_reach_are_held_in_spite_of_rounding():
    envs = DiscretizerVector(gym.make_vec("pg/PenaltyKick-v0", 2000, n_rounds=1), 21)
    bins = np.arange(2000) % 21
    envs.reset(seed=0)
    _, rewards, _, _, infos = envs.step(bins[:, None])
    for number, keeper, won_now in zip(bins.tolist(), infos["final_info"]["keeper"], rewards, strict=True):
        shot, place = Fraction(number - 10, 10), Fraction(round(keeper * 20), 20)
        goal = abs(shot) <= Fraction(9, 10) and abs(shot - place) > Fraction(55, 100)
        assert won_now == (1 if goal else -1)


def test_the_first_keeper_stands_anywhere():
    places, _ = shoot(np.zeros((1, 37 * 400)))
    counts = np.bincount(np.round(places[0] * 20 + 18).astype(int), minlength=37)
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400)


def test_the_returns_that_are_known_are_those_of_matches():
    known = PenaltyKick().world.known_returns
    zero = simulated_returns("pg/PenaltyKick-v0", "zero", n_episodes=5000)
    assert abs(zero.mean() - known["zero"]) < 5 * zero.std() / np.sqrt(5000)
    posts = np.random.default_rng(1).choice([-0.9, 0.9], (50, 10_000))
    returns = shoot(posts)[1].sum(axis=0)
    assert abs(returns.mean() - known["two_posts"]) < 5 * returns.std() / np.sqrt(10_000)


def test_shots_beyond_the_box_are_clipped_and_miss():
    env = PenaltyKick(n_rounds=1)
    for shot in (-7.0, 0.95, 7.0):
        env.reset(seed=0)
        assert env.step(np.array([shot], dtype=np.float32))[1] == -1


def test_wrong_arguments_of_the_penalty_kick_say_so():
    with pytest.raises(ValueError, match="`n_rounds` must be an integer at least 1"):
        PenaltyKick(n_rounds=0)
    with pytest.raises(ValueError, match=r"`probabilities` must be 2 .*sum.* 1"):
        won([0.1, 0.2], [0.9, 0.2])
    with pytest.raises(ValueError, match="`std` must be a number"):
        won_by_gaussian(0, 0)


@pytest.mark.parametrize(
    ("kind", "torque", "expected"),
    [
        ("narrow", -0.6, 1.0),
        ("narrow", 0.6, 1.0),
        ("narrow", 0.65, np.exp(-0.5)),  # one width off
        ("narrow", 0.0, np.exp(-72.0)),
        ("unequal", -0.4, 0.6),
        ("unequal", -0.1, 0.6 * np.exp(-0.5)),
        ("unequal", 0.7, 1.0),
        ("unequal", 0.8, np.exp(-2.0)),
    ],
)
def test_the_torque_bandit_pays_what_its_peaks_say(kind, torque, expected):
    env = TorqueBandit(kind)
    env.reset(seed=0)
    _, paid, terminated, truncated, _ = env.step(np.array([torque]))
    # Actions are float32, so (a - m) / w is off by up to 2⁻²⁴ / .05 where it is 2, its largest value but for 12 at 0.
    assert paid == pytest.approx(expected, rel=3e-6)
    assert (terminated, truncated) == (True, False)


@pytest.mark.parametrize("kind", ["narrow", "unequal"])
def test_no_torque_pays_more_than_the_optimum(kind):
    paid = reward(np.linspace(-1, 1, 20_001), kind)
    assert paid.max() == pytest.approx(TorqueBandit(kind).world.optimum, rel=1e-12)


def test_a_torque_bandit_of_no_kind_says_so():
    with pytest.raises(ValueError, match=r"`kind` must be one of 'narrow', 'unequal', but is 'narow'. Did you mean"):
        TorqueBandit("narow")
