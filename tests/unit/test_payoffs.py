import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_envs.games.payoffs import move_names, payoff_matrix

ROCK, PAPER, SCISSORS, SPOCK, LIZARD = range(5)


def test_rock_beats_scissors_beats_paper_beats_rock():
    assert payoff_matrix().tolist() == [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]


def test_five_moves_are_rock_paper_scissors_lizard_spock():
    beats = {  # http://www.samkass.com/theories/RPSSL.html
        ROCK: {SCISSORS, LIZARD},
        PAPER: {ROCK, SPOCK},
        SCISSORS: {PAPER, LIZARD},
        LIZARD: {SPOCK, PAPER},
        SPOCK: {SCISSORS, ROCK},
    }
    for i, row in enumerate(payoff_matrix("rpsls")):
        assert set(np.flatnonzero(row == 1)) == beats[i]
    assert move_names(7) == ("rock", "paper", "scissors", "spock", "lizard", "move 5", "move 6")


@given(half=st.integers(1, 20))
def test_each_of_any_odd_number_of_moves_beats_half_of_the_others(half):
    matrix = payoff_matrix("standard", 2 * half + 1)
    assert np.array_equal(matrix, -matrix.T)
    assert ((matrix == 1).sum(axis=1) == half).all()
    assert ((matrix == -1).sum(axis=1) == half).all()


def test_the_weighted_game_is_in_equilibrium_at_one_half_paper_and_uniform_loses_a_third():
    matrix = payoff_matrix("weighted")
    assert np.array_equal(np.array([0.25, 0.5, 0.25]) @ matrix, np.zeros(3))
    assert matrix.mean(axis=1).max() == pytest.approx(1 / 3)
    assert (matrix.max(axis=0) >= 1).all()  # every pure move is beaten by a whole point


def test_a_matrix_is_copied_and_may_have_any_size():
    given_matrix = np.array([[0.0, 2.5], [-2.5, 0.0]])
    matrix = payoff_matrix(given_matrix, 2)
    given_matrix[0, 1] = 7
    assert matrix.tolist() == [[0, 2.5], [-2.5, 0]]
    assert matrix.dtype == np.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_actions": 4}, "`n_actions` must be odd.*but is 4"),
        ({"n_actions": 1}, "`n_actions` must be an integer at least 2"),
        ({"n_actions": 3.0}, "`n_actions` must be an integer"),
        ({"payoff": "weigthed"}, "`payoff` must be one of .*Did you mean 'weighted'"),
        ({"payoff": "weighted", "n_actions": 5}, "`n_actions` must be 3 with this payoff"),
        ({"payoff": np.zeros((3, 3)), "n_actions": 5}, "`n_actions` must be 3 with this payoff"),
        ({"payoff": [[0, 1], [1, 0]]}, r"`payoff` .*but A\[0, 1\] is 1 and A\[1, 0\] is 1"),
        ({"payoff": np.eye(3)}, r"A\[0, 0\] is 1"),
        ({"payoff": [[0, 1, 2]]}, r"`payoff` .*shape \(1, 3\)"),
        ({"payoff": [[0]]}, r"`payoff` .*shape \(1, 1\)"),
        ({"payoff": [[0, np.inf], [-np.inf, 0]]}, "`payoff` .*finite"),
        ({"payoff": [["a"]]}, "`payoff` must be one of"),
        ({"payoff": None}, "`payoff` must be one of"),
    ],
)
def test_a_wrong_payoff_says_so(arguments, message):
    with pytest.raises(ValueError, match=message):
        payoff_matrix(**arguments)
