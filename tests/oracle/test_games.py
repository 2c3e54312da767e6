"""Opponents against plain Python, hand-computed values and PettingZoo's own game."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env

import pg_envs  # noqa: F401 - registers the ids
from pg_agents import PPO, make_vec
from pg_envs.games.hand_over import HandOver
from pg_envs.games.match import RPSMatch
from pg_envs.games.memoryless import Memoryless
from pg_envs.games.observations import View
from pg_envs.games.opponents import Opponent, OracleOpponent, SnapshotsOpponent
from pg_envs.games.payoffs import payoff_matrix
from pg_envs.games.repeated import Match

ROCK, PAPER, SCISSORS = range(3)


def play(moves, seed=0, **arguments):
    """The opponent's moves and the rewards in many matches, given the agent's moves of shape (rounds, matches)."""
    moves = np.asarray(moves)
    envs = gym.make_vec("pg/RPSMatch-v0", moves.shape[1], n_rounds=len(moves), **arguments)
    envs.reset(seed=seed)
    answers, rewards = [], []
    for row in moves:
        _, reward, terminated, _, infos = envs.step(row)
        rewards.append(reward)
        answers.append(infos["final_info"]["opponent_move"] if terminated.all() else infos["opponent_move"])
    return np.array(answers), np.array(rewards)


def random_moves(n_actions, rounds=40, matches=20):
    return np.random.default_rng(0).integers(n_actions, size=(rounds, matches))


@pytest.mark.parametrize("n_actions", [3, 5, 7])
def test_who_wins_is_what_pettingzoo_says(n_actions):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pettingzoo.classic import rps_v2

        theirs = rps_v2.parallel_env(num_actions=n_actions, max_cycles=n_actions**2 + 1)
    theirs.reset()
    for i in range(n_actions):
        for j in range(n_actions):
            rewards = theirs.step({"player_0": i, "player_1": j})[1]
            assert payoff_matrix("standard", n_actions)[i, j] == rewards["player_0"]
    theirs.close()


@pytest.mark.parametrize("payoff", ["standard", "weighted", "rpsls"])
@pytest.mark.parametrize("opponent", ["frequency", "pattern"])
def test_exploiters_play_what_would_have_won_most(opponent, payoff):
    matrix = payoff_matrix(payoff)
    moves = random_moves(len(matrix))
    answers, rewards = play(moves, opponent=opponent, payoff=payoff)
    assert np.array_equal(rewards, matrix[moves, answers])
    for agents, theirs in zip(moves.T, answers.T, strict=True):
        for t in range(1, len(agents)):
            past = range(t)
            if opponent == "pattern":
                past = [s for s in range(1, t) if (agents[s - 1], theirs[s - 1]) == (agents[t - 1], theirs[t - 1])]
            gains = [sum(-matrix[agents[s], b] for s in past) for b in range(len(matrix))]
            assert gains[theirs[t]] == max(gains)


def test_a_pure_move_loses_every_round_but_the_first_to_the_frequency_opponent():
    answers, rewards = play(np.full((50, 10), ROCK), opponent="frequency")
    assert (answers[1:] == PAPER).all()
    assert (rewards[1:] == -1).all()


def test_ties_are_broken_evenly():
    answers, _ = play(np.full((2, 9000), ROCK), opponent="frequency", n_actions=5)
    first = np.bincount(answers[0], minlength=5)
    # Five standard deviations of a binomial count.
    assert np.abs(first - 9000 / 5).max() < 5 * np.sqrt(9000 * 0.2 * 0.8)
    second = np.bincount(answers[1], minlength=5)  # paper and spock beat rock
    assert second[[0, 2, 4]].sum() == 0
    assert abs(second[1] - 4500) < 5 * np.sqrt(9000 * 0.25)


def test_the_uniform_mixture_wins_nothing_in_either_direction():
    for opponent in ("frequency", "pattern", "uniform"):
        _, rewards = play(random_moves(3, 50, 4000), opponent=opponent)
        # A win, a loss or a draw each a third of the time: standard deviation sqrt(2/3).
        assert abs(rewards.mean()) < 5 * np.sqrt(2 / 3 / rewards.size)


def test_the_fixed_opponent_plays_its_mixture():
    answers, _ = play(random_moves(3, 50, 2000), opponent="fixed", p=[0.5, 0.0, 0.5])
    assert (answers != PAPER).all()
    assert abs((answers == ROCK).mean() - 0.5) < 5 * np.sqrt(0.25 / answers.size)
    repeated = answers[1:] == answers[:-1]  # half the time, if rounds are independent
    assert abs(repeated.mean() - 0.5) < 5 * np.sqrt(0.25 / repeated.size)


def test_the_oracle_answers_the_policy_that_it_was_told():
    oracle = OracleOpponent()
    for policy, answer in (([0.5, 0.3, 0.2], PAPER), ([0.2, 0.5, 0.3], SCISSORS), ([0.3, 0.2, 0.5], ROCK)):
        RPSMatch(oracle).hand_over(policy)
        answers, _ = play(random_moves(3), opponent=oracle)
        assert (answers == answer).all()


def test_the_oracle_answers_what_the_agent_does_where_it_sees_something():
    oracle = OracleOpponent()
    # After the opponent's move j the agent plays the same; before the first round, rock.
    oracle.hand_over(lambda seen: int(np.argmax(seen)))
    answers, _ = play(random_moves(3, 7, 5), opponent=oracle, observation="last")
    assert answers[:, 0].tolist() == [PAPER, SCISSORS, ROCK, PAPER, SCISSORS, ROCK, PAPER]
    assert (answers == answers[:, :1]).all()


def test_snapshots_are_drawn_for_a_whole_match_with_equal_chances():
    snapshots = SnapshotsOpponent()
    for move in (ROCK, SCISSORS):
        snapshots.hand_over(np.eye(3)[move])
    answers, _ = play(random_moves(3, 5, 4000), opponent=snapshots)
    assert (answers == answers[0]).all()
    assert set(answers[0]) == {ROCK, SCISSORS}
    assert abs((answers[0] == ROCK).mean() - 0.5) < 5 * np.sqrt(0.25 / 4000)


def test_a_snapshot_sees_the_match_from_its_own_side():
    snapshots = SnapshotsOpponent()
    snapshots.hand_over(lambda seen: int(np.argmax(seen)))  # repeats the agent's last move
    moves = random_moves(3)
    answers, _ = play(moves, opponent=snapshots, observation="last")
    assert np.array_equal(answers[1:], moves[:-1])


@pytest.mark.filterwarnings("ignore:.*has not been told")  # what follows listens only
@pytest.mark.parametrize("native", [True, False])
def test_the_callback_hands_over_the_policy_of_each_rollout(native):
    told = []

    class Listener(OracleOpponent):
        def hand_over(self, policy):
            told.append(policy)

    arguments = {"opponent": Listener()}
    env = (
        make_vec("pg/RPSMatch-v0", 2, env_kwargs=arguments)
        if native
        else make_vec_env("pg/RPSMatch-v0", 1, env_kwargs=arguments)
    )
    model = PPO("MlpPolicy", env, n_steps=50, batch_size=50 * env.num_envs, learning_rate=0.01, seed=0)
    model.learn(3 * 50 * env.num_envs, callback=HandOver())
    assert len(told) == 3
    assert told[0] == pytest.approx([1 / 3] * 3, abs=0.05)
    assert not np.array_equal(told[1], told[2])


def test_a_function_sees_what_both_have_played():
    seen = []

    def copycat(own, agents, n_actions):
        seen.append((own.tolist(), agents.tolist(), n_actions))
        return agents[-1] if len(agents) else np.array([0.0, 0.0, 1.0])

    moves = np.array([[ROCK], [PAPER], [ROCK]])
    answers, rewards = play(moves, opponent=copycat)
    assert answers[:, 0].tolist() == [SCISSORS, ROCK, PAPER]
    assert rewards[:, 0].tolist() == [1, 1, -1]
    assert seen == [([], [], 3), ([2], [0], 3), ([2, 0], [0, 1], 3)]


@pytest.mark.parametrize(
    "answer", [3, -1, 1.0, None, "rock", [0.5, 0.5], [0.5, 0.5, 0.5], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5], [[1, 0, 0]]]
)
def test_an_opponents_illegal_move_is_refused_by_name(answer):
    def cheat(own, agents, n_actions):
        return answer

    env = RPSMatch(opponent=cheat)
    env.reset()
    with pytest.raises(ValueError, match="cheat may play an integer from 0 to 2, or 3 probabilities"):
        env.step(0)


def test_an_opponent_of_ones_own_needs_one_method():
    class Stone(Opponent):
        def play(self, match, memory):
            return np.zeros(5, dtype=int)

    answers, _ = play(np.full((4, 5), PAPER), opponent=Stone())
    assert (answers == ROCK).all()
    with pytest.raises(ValueError, match=r"Stone may play .* but plays array"):
        play(np.full((4, 6), PAPER), opponent=Stone())  # five moves for six matches


def test_copies_play_as_single_environments_do_whoever_the_opponent_is():
    oracle, snapshots = OracleOpponent(), SnapshotsOpponent()
    oracle.hand_over([0.31, 0.3, 0.39])
    for policy in ([0.2, 0.3, 0.5], [0.6, 0.1, 0.3], [0.0, 1.0, 0.0]):
        snapshots.hand_over(np.array(policy))
    moves = random_moves(3, 20, 7)
    odd = np.array([[0, 0.1, -0.7], [-0.1, 0, 0.3], [0.7, -0.3, 0]])
    for opponent in ("frequency", "pattern", oracle, snapshots, lambda own, agents, n: np.full(n, 1 / n)):
        together = play(moves, opponent=opponent, payoff=odd, seed=3)
        for i in range(7):
            alone = play(moves[:, i : i + 1], opponent=opponent, payoff=odd, seed=3 + i)
            assert np.array_equal(together[0][:, i], alone[0][:, 0])
            assert np.array_equal(together[1][:, i], alone[1][:, 0])


def match(payoff="standard", n_rounds=50):
    matrix = payoff_matrix(payoff)
    return Match(matrix, n_rounds, View("none", len(matrix)))


def test_what_a_mixture_wins_in_two_rounds_is_what_one_works_out_by_hand():
    p = np.array([0.5, 0.3, 0.2])
    # Nothing in the first round; the answer to move i in the second is i + 1: it beats i, and loses to i + 2.
    by_hand = -(p**2).sum() + (p * p[[2, 0, 1]]).sum()
    assert Memoryless(match(n_rounds=2)).mean_return(p) == pytest.approx(by_hand, abs=1e-14)


@pytest.mark.parametrize("payoff", ["standard", "weighted"])
def test_what_a_mixture_wins_is_what_it_wins_in_the_environment(payoff):
    p = np.array([0.45, 0.35, 0.2])
    moves = np.random.default_rng(0).choice(3, size=(50, 5000), p=p)
    returns = play(moves, opponent="frequency", payoff=payoff)[1].sum(axis=0)
    expected = Memoryless(match(payoff)).mean_return(p)
    assert abs(returns.mean() - expected) < 5 * returns.std() / np.sqrt(5000)


def test_the_best_mixture_against_frequency_is_uniform_in_the_standard_game_only():
    mixture, value = Memoryless(match()).best()
    assert mixture == pytest.approx([1 / 3] * 3, abs=1e-4)
    assert value == pytest.approx(0, abs=1e-9)
    weighted = Memoryless(match("weighted"))
    mixture, value = weighted.best()
    assert value > weighted.mean_return(np.array([0.25, 0.5, 0.25])) + 0.1
    nearby = np.random.default_rng(0).dirichlet(200 * mixture, 200)
    assert max(weighted.mean_return(p) for p in nearby) <= value


@pytest.mark.parametrize(
    ("arguments", "optimum"),
    [
        ({"opponent": "fixed", "p": [0.5, 0.25, 0.25]}, 50 * 0.25),  # paper: wins against rock, loses to scissors
        ({"opponent": "fixed", "p": [0, 0, 1], "payoff": "weighted", "n_rounds": 10}, 20),
        ({"opponent": "uniform"}, 0),
        ({"opponent": "uniform", "payoff": "weighted", "n_rounds": 3}, 1),
        ({"opponent": "oracle", "payoff": "weighted"}, 0),
        ({"opponent": "frequency"}, 0),
        ({"opponent": "frequency", "payoff": "weighted", "n_rounds": 1}, 1 / 3),  # which guesses in the first round
        ({"opponent": "frequency", "observation": "last"}, None),
        ({"opponent": "pattern"}, None),
        ({"opponent": "snapshots"}, None),
    ],
)
def test_the_optimum_is_known_where_it_can_be_computed(arguments, optimum):
    found = RPSMatch(**arguments).copies.optimum()
    assert found == (None if optimum is None else pytest.approx(optimum, abs=1e-9))


def test_the_line_of_text_is_the_round():
    env = gym.make("pg/RPSMatch-v0", opponent="fixed", p=[0, 0, 1], payoff="weighted", render_mode="ansi")
    env.reset(seed=0)
    env.step(ROCK)
    assert env.render() == "round 1: agent rock, opponent scissors (score 2 : -2)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"opponent": "patern"}, "`opponent` must be one of .*Did you mean 'pattern'"),
        ({"opponent": OracleOpponent}, "`opponent` must be one of"),
        ({"opponent": "fixed"}, "`p` must be given with the opponent 'fixed'"),
        ({"opponent": "uniform", "p": [1, 0, 0]}, "`p` .*belongs to the opponent 'fixed'"),
        ({"opponent": "fixed", "p": [0.5, 0.5]}, "`p` must have 3 probabilities"),
        ({"opponent": "fixed", "p": [0.5, 0.6, -0.1]}, "`p` must be probabilities"),
        ({"n_rounds": 0}, "`n_rounds` must be an integer at least 1"),
        ({"n_actions": 4}, "`n_actions` must be odd"),
        ({"payoff": np.ones((3, 3))}, "`payoff` .*skew-symmetric"),
        ({"observation": "history(-1)"}, "`observation` must be one of"),
    ],
)
def test_a_wrong_argument_says_so(arguments, message):
    with pytest.raises(ValueError, match=message):
        RPSMatch(**arguments)
