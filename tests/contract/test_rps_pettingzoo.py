"""PettingZoo's own checks of the game, and what they leave out."""

import warnings

import numpy as np
import pettingzoo
import pytest

import pg_envs  # noqa: F401 - registers the game
from pg_envs.games.rps import RPS, aec_env

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PettingZoo's tests import its own environments in the old way
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test, seed_test

GAMES = [
    {},
    {"payoff": "weighted", "observation": "last"},
    {"payoff": "rpsls", "observation": "history(3)"},
    {"n_actions": 7, "max_cycles": 3},
    {"payoff": [[0.0, 0.5], [-0.5, 0.0]]},
]


@pytest.mark.parametrize("arguments", GAMES)
@pytest.mark.filterwarnings("ignore:Observation")  # is a single number, is all zeros: both are meant
def test_pettingzoo_finds_nothing_wrong(arguments):
    api_test(aec_env(**arguments), num_cycles=100)
    parallel_api_test(RPS(**arguments), num_cycles=100)
    seed_test(lambda: aec_env(**arguments), num_cycles=20)
    parallel_seed_test(lambda: RPS(**arguments), num_cycles=20)


def test_it_renders_in_all_modes_without_a_display(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(RPS.metadata, "render_fps", 1000)
    render_test(aec_env)


def test_the_line_of_text_is_the_round():
    game = RPS(payoff="weighted", render_mode="ansi")
    game.reset()
    assert game.render() == "round 0: nobody has moved yet"
    game.step({"player_0": 0, "player_1": 2})
    assert game.render() == "round 1: player_0 rock, player_1 scissors (score 2 : -2)"


def test_both_kinds_are_registered_and_take_max_cycles():
    for kind in ("parallel", "aec"):
        game = pettingzoo.make(kind, "pg_envs/rps-v0", payoff="weighted", max_cycles=7)
        assert isinstance(game.unwrapped, RPS)
        assert game.unwrapped.max_cycles == 7
    assert pettingzoo.make("parallel", "pg_envs/rps-v0").max_cycles == 50


def test_payoffs_are_what_the_seats_win():
    game = RPS(payoff=[[0, 3, -1], [-3, 0, 2], [1, -2, 0]], max_cycles=100)
    game.reset()
    for i in range(3):
        for j in range(3):
            _, rewards, _, _, _ = game.step({"player_0": i, "player_1": j})
            assert rewards == {"player_0": game.payoffs[0][i, j], "player_1": game.payoffs[1][i, j]}
            assert rewards["player_0"] == -rewards["player_1"]


def test_a_game_terminates_after_its_rounds_and_is_then_empty():
    game = RPS(max_cycles=2)
    game.reset()
    moves = {"player_0": 1, "player_1": 1}
    assert game.step(moves)[2:4] == ({"player_0": False, "player_1": False},) * 2
    assert game.step(moves)[2:4] == ({"player_0": True, "player_1": True}, {"player_0": False, "player_1": False})
    assert game.agents == []
    assert game.step({}) == ({}, {}, {}, {}, {})


def test_a_player_sees_its_own_side_of_the_history():
    game = RPS(observation="history(2)")
    first, _ = game.reset()
    assert first["player_0"].tolist() == [0] * 12
    game.step({"player_0": 0, "player_1": 2})
    second = game.step({"player_0": 1, "player_1": 1})[0]
    rock, paper, scissors = np.eye(3)
    assert second["player_0"].tolist() == np.concatenate([paper, paper, rock, scissors]).tolist()
    assert second["player_1"].tolist() == np.concatenate([paper, paper, scissors, rock]).tolist()


def test_a_player_sees_the_others_last_move():
    game = RPS(observation="last")
    game.reset()
    observations = game.step({"player_0": 0, "player_1": 2})[0]
    assert observations["player_0"].tolist() == [0, 0, 1]
    assert observations["player_1"].tolist() == [1, 0, 0]


@pytest.mark.parametrize("move", [3, -1, 1.0, None, np.array([1])])
def test_an_illegal_move_is_refused_by_name(move):
    game = RPS()
    game.reset()
    with pytest.raises(ValueError, match="'player_1' must be an integer from 0 to 2"):
        game.step({"player_0": 0, "player_1": move})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_actions": 4}, "`n_actions` must be odd"),
        ({"max_cycles": 0}, "`max_cycles` must be an integer at least 1"),
        ({"observation": "history"}, "`observation` must be one of"),
        ({"observation": "history(0)"}, "`observation` must be one of"),
        ({"observation": None}, "`observation` must be one of"),
        ({"render_mode": "rgb"}, "`render_mode` must be one of"),
    ],
)
def test_a_wrong_argument_says_so(arguments, message):
    with pytest.raises(ValueError, match=message):
        RPS(**arguments)
