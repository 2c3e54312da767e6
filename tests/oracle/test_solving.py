"""Exploitability against linear programs, hand-computed games and brute force."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from pettingzoo import ParallelEnv
from scipy.optimize import linprog
from stable_baselines3 import DQN
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.vec_env import VecNormalize

from pg_agents import A2C, PPO
from pg_envs.games.rps import RPS
from pg_envs.games.selfplay import SelfPlayVecEnv
from pg_envs.games.solving import best_response, exploitability, matrix_game, nash, nash_conv

STANDARD = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])  # rock, paper, scissors
# Cooperate or betray; years in prison. Not zero-sum.
PRISONERS = (np.array([[-1.0, -3.0], [0.0, -2.0]]), np.array([[-1.0, 0.0], [-3.0, -2.0]]))


def largest(payoffs):
    """max_p p·payoffs over the simplex, by a linear program."""
    n = len(payoffs)
    found = linprog(-payoffs, A_eq=np.ones((1, n)), b_eq=[1], bounds=(0, 1))
    return -found.fun


def value_of(payoffs):
    """Value of a zero-sum game, by von Neumann's program for its dual: min max, not max min."""
    n, m = payoffs.shape
    found = linprog(
        np.r_[np.zeros(m), 1],
        A_ub=np.c_[payoffs, -np.ones(n)],
        b_ub=np.zeros(n),
        A_eq=np.r_[np.ones(m), 0][None],
        b_eq=[1],
        bounds=[(0, 1)] * m + [(None, None)],
    )
    return found.fun


@pytest.fixture(params=range(20))
def random_game(request):
    rng = np.random.default_rng(request.param)
    n, m = rng.integers(2, 7, size=2)
    first, second = rng.normal(size=(2, n, m))
    return first, second, rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))


def test_best_response_and_nash_conv_are_those_of_linear_programs(random_game):
    first, second, p, q = random_game
    best, other = largest(first @ q), largest(p @ second)

    assert best_response(q, (first, second), 0).value == pytest.approx(best, abs=1e-9)
    assert best_response(p, (first, second), 1).value == pytest.approx(other, abs=1e-9)
    gains = best - p @ first @ q + other - p @ second @ q
    assert nash_conv((p, q), (first, second)) == pytest.approx(gains, abs=1e-9)
    assert exploitability((p, q), (first, second)) == pytest.approx(gains / 2, abs=1e-9)


def test_nash_has_the_value_of_the_dual_program_and_cannot_be_exploited(random_game):
    payoffs, _, p, q = random_game
    found = nash(payoffs)

    assert found.value == pytest.approx(value_of(payoffs), abs=1e-9)
    assert nash_conv((found.row, found.column), payoffs) == pytest.approx(0, abs=1e-9)
    # One seat alone loses to the value what its opponent's best response wins beyond it.
    assert exploitability(p, payoffs, seat=0) == pytest.approx(found.value + largest(-p @ payoffs), abs=1e-9)
    assert exploitability(q, payoffs, seat=1) == pytest.approx(largest(payoffs @ q) - found.value, abs=1e-9)


def test_in_a_symmetric_zero_sum_game_exploitability_is_what_the_best_response_wins(random_game):
    *_, p, _ = random_game
    rng = np.random.default_rng(len(p))
    payoffs = np.triu(rng.normal(size=(len(p), len(p))), 1)
    payoffs -= payoffs.T

    assert exploitability(p, payoffs) == pytest.approx(largest(payoffs @ p), abs=1e-9)
    assert nash_conv(p, payoffs) == pytest.approx(2 * largest(payoffs @ p), abs=1e-9)
    assert exploitability(p, payoffs, seat=1) == pytest.approx(exploitability(p, payoffs), abs=1e-9)


@pytest.mark.parametrize(
    ("payoff", "policy", "expected"),
    [
        ("standard", [1 / 3, 1 / 3, 1 / 3], 0.0),
        ("standard", [1.0, 0.0, 0.0], 1.0),
        ("standard", [0.5, 0.25, 0.25], 0.25),  # paper: .5 - .25
        ("weighted", [1 / 3, 1 / 3, 1 / 3], 1 / 3),
        ("weighted", [0.25, 0.5, 0.25], 0.0),
        ("weighted", [0.0, 0.0, 1.0], 2.0),
        ("rpsls", [0.2] * 5, 0.0),
        ("rpsls", [0.5, 0.5, 0.0, 0.0, 0.0], 0.5),  # paper draws with itself and beats rock
    ],
)
def test_exploitability_of_known_mixtures(payoff, policy, expected):
    assert exploitability(policy, RPS(payoff)) == pytest.approx(expected, abs=1e-12)


def test_nash_of_weighted_rock_paper_scissors_is_the_published_one():
    found = nash(RPS("weighted"))

    np.testing.assert_allclose(found.row, [0.25, 0.5, 0.25], atol=1e-9)
    np.testing.assert_allclose(found.column, [0.25, 0.5, 0.25], atol=1e-9)


def test_prisoners_who_cooperate_gain_one_each_by_betrayal():
    cooperate, betray = [1.0, 0.0], [0.0, 1.0]

    assert nash_conv((cooperate, cooperate), PRISONERS) == 2.0
    assert nash_conv((cooperate, betray), PRISONERS) == 1.0  # of -3 to -2; the betrayer is content
    assert exploitability(betray, PRISONERS) == 0.0
    assert best_response(cooperate, PRISONERS, 1).policy.tolist() == betray


def test_a_pair_of_numbers_is_a_policy_of_two_actions_and_not_two_policies():
    pennies = np.array([[1.0, -1.0], [-1.0, 1.0]])

    # One seat matches and the other must not: with p in both, gains are max(2p - 1, 1 - 2p) ∓ (2p - 1)².
    assert nash_conv([0.75, 0.25], pennies) == pytest.approx(0.5 - 0.25 + 0.5 + 0.25)
    assert nash_conv(([0.75, 0.25], [0.25, 0.75]), pennies) == pytest.approx(0.5 + 0.25 + 0.5 - 0.25)


# Models


def with_probabilities(model, probabilities):
    """Let a linear policy play these, whatever it sees."""
    with th.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(th.log(th.tensor(probabilities)))
    return model


@pytest.mark.parametrize("algorithm", [PPO, A2C, SB3PPO])
def test_a_model_is_as_exploitable_as_its_probabilities(algorithm):
    game = RPS("weighted")
    model = algorithm("MlpPolicy", SelfPlayVecEnv(game, 2), policy_kwargs={"net_arch": []}, n_steps=64)
    with_probabilities(model, [0.5, 0.3, 0.2])
    expected = max(np.array([[0, -1, 2], [1, 0, -1], [-2, 1, 0]]) @ [0.5, 0.3, 0.2])

    rounding = 2e-6  # float32's logits
    assert exploitability(model, game) == pytest.approx(expected, abs=rounding)
    assert exploitability(model.policy, game.payoffs) == pytest.approx(expected, abs=rounding)
    assert nash_conv((model, [0.25, 0.5, 0.25]), game) == pytest.approx(expected, abs=rounding)


def test_a_model_is_asked_in_float64_so_that_its_probabilities_sum_to_one():
    model = PPO("MlpPolicy", SelfPlayVecEnv(RPS(), 2), n_steps=64, seed=0)
    game = (np.ones((3, 3)), np.ones((3, 3)))

    assert nash_conv(model, game) == pytest.approx(0, abs=1e-15)


def test_dqn_plays_one_action_and_loses_every_round():
    game = RPS()
    model = DQN("MlpPolicy", SelfPlayVecEnv(game, 2), seed=0, buffer_size=10)
    greedy = int(model.predict(np.ones(1, dtype=np.float32), deterministic=True)[0])

    assert exploitability(model, game) == 1.0
    assert best_response(model, game, 1).policy.argmax() == (greedy + 1) % 3


def test_a_model_behind_vec_normalize_sees_what_it_saw_in_training():
    game = RPS(observation="last")
    env = VecNormalize(SelfPlayVecEnv(game, 2))
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0, learning_rate=0.01).learn(2048)

    def as_trained(observation):
        seen = env.normalize_obs(observation)
        with th.no_grad():
            return model.policy.get_distribution(model.policy.obs_to_tensor(seen)[0]).distribution.probs[0].numpy()

    assert exploitability(model, game) == pytest.approx(exploitability(as_trained, game), abs=1e-5)


# Games with memory


def brute_force(game, policy, rounds):
    """The best sum of rewards against a policy of one who knows every line of play, replayed from its beginning."""

    def best(history):
        if len(history) == rounds:
            return 0.0
        probabilities = policy(replay(game, history))
        values = []
        for reply in range(3):
            value = 0.0
            for move, probability in enumerate(probabilities):
                if probability:
                    line = [*history, (reply, move)]
                    value += probability * (STANDARD[reply, move] + best(line))
            values.append(value)
        return max(values)

    return best([])


def replay(game, line):
    observations, _ = game.reset()
    for actions in line:
        observations, *_ = game.step(dict(zip(game.possible_agents, actions, strict=True)))
    return observations["player_1"]


def beats_the_last(observation):
    """Uniform at first, then mostly what would have beaten the other's last move."""
    last = observation[:3].astype(np.float64)
    return np.roll(0.7 * last + 0.1, 1) if last.any() else np.full(3, 1 / 3)


@pytest.mark.parametrize("observation", ["last", "history(1)", "history(2)"])
def test_a_policy_with_memory_loses_to_the_best_of_all_lines_of_play(observation):
    game = RPS(observation=observation, max_cycles=3)
    policy = beats_the_last

    value = best_response(policy, game, 0).value

    assert value == pytest.approx(brute_force(RPS(observation=observation, max_cycles=4), policy, 3) / 3, abs=1e-12)


def test_who_answers_the_last_move_is_beaten_in_every_round_but_the_first():
    def policy(observation):
        return int(observation.argmax() + 1) % 3 if observation.any() else [1 / 3] * 3

    game = RPS(observation="last", max_cycles=50)

    assert best_response(policy, game, 0).value == pytest.approx(49 / 50)
    assert exploitability(policy, game) == pytest.approx(49 / 50)
    assert nash_conv((policy, [1 / 3] * 3), game) == pytest.approx(49 / 50)


def test_the_best_response_table_wins_what_it_promises():
    game = RPS(observation="last", max_cycles=5)
    solved = matrix_game(game)
    found = best_response(beats_the_last, solved, 0)
    seen = [tuple(row) for row in np.hstack(solved.observations)]

    def expected(line):
        """Sum of rewards over all moves of the policy, the responder following its table."""
        observations, _ = game.reset()
        total = 0.0
        for actions in line:
            observations, *_ = game.step(dict(zip(game.possible_agents, actions, strict=True)))
        if len(line) == 5:
            return 0.0
        situation = seen.index((*observations["player_0"], *observations["player_1"]))
        reply = int(found.policy[len(line), situation].argmax())
        for move, probability in enumerate(beats_the_last(observations["player_1"])):
            total += probability * (STANDARD[reply, move] + expected([*line, (reply, move)]))
        return total

    assert expected([]) / 5 == pytest.approx(found.value, abs=1e-12)


def test_memory_that_is_not_used_changes_nothing():
    for observation in ("last", "history(2)"):
        game = RPS("weighted", observation=observation, max_cycles=7)
        assert exploitability([0.5, 0.3, 0.2], game) == pytest.approx(exploitability([0.5, 0.3, 0.2], RPS("weighted")))


# What cannot be solved


class Rounds(ParallelEnv):
    """Rock-paper-scissors with a flaw."""

    payoffs = (STANDARD, -STANDARD)

    def __init__(self, flaw):
        self.flaw, self.possible_agents, self.metadata = flaw, ["a", "b"], {"name": "rounds"}

    def observation_space(self, agent):
        return spaces.Discrete(4)

    def action_space(self, agent):
        return spaces.Discrete(3)

    def reset(self, seed=None, options=None):
        self.agents, self.line = ["a", "b"], []
        return dict.fromkeys(self.agents, 0), {"a": {}, "b": {}}

    def step(self, actions):
        move, other = actions["a"], actions["b"]
        self.line.append(move)
        reward = STANDARD[move, other] * (2 if self.flaw == "reward" else 1)
        seen = self.line[-2] + 1 if self.flaw == "hidden" and len(self.line) > 1 else move + 1
        over = len(self.line) == 9 or (self.flaw == "early" and move == other == 0)
        dones, no = dict.fromkeys(self.agents, over), dict.fromkeys(self.agents, False)
        return dict.fromkeys(self.agents, seen), {"a": reward, "b": -reward}, dones, no, {"a": {}, "b": {}}


@pytest.mark.parametrize(
    ("flaw", "complaint"),
    [("reward", "are not its payoffs"), ("hidden", "does not follow"), ("early", "same number of rounds")],
)
def test_a_game_that_is_not_its_table_is_refused(flaw, complaint):
    with pytest.raises(ValueError, match=complaint):
        exploitability([1 / 3] * 3, Rounds(flaw))


def test_a_game_without_a_flaw_is_solved_whatever_its_agents_and_observations():
    assert exploitability(lambda seen: seen - 1 if seen else [1 / 3] * 3, Rounds(None)) > 0.4


def test_too_much_memory_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="see less, or estimate with `win_rates`"):
        matrix_game(RPS(n_actions=7, observation="history(2)"))


class NoPayoffs(Rounds):
    payoffs = property()


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda: exploitability([0.5, 0.5], STANDARD), "probabilities of 3 actions"),
        (lambda: exploitability([0.5, 0.6, -0.1], STANDARD), "not negative"),
        (lambda: exploitability([0.5, 0.5, np.nan], STANDARD), "not negative"),
        (lambda: exploitability([0.4, 0.4, 0.4], STANDARD), "with sum 1"),
        (lambda: exploitability("rock", STANDARD), "'rock'"),
        (lambda: exploitability([1, 0, 0], gym.make("pg/ShortCorridor-v0")), "unwrapped.payoffs"),
        (lambda: exploitability([1, 0, 0], NoPayoffs(None)), "unwrapped.payoffs"),
        (lambda: exploitability([1, 0, 0], [1.0, 2.0]), "a matrix, or a pair"),
        (lambda: exploitability([1, 0, 0], STANDARD * np.inf), "finite"),
        (lambda: exploitability([1, 0, 0], ([[1, 2]], [[1], [2]])), "of one shape"),
        (lambda: best_response([1, 0, 0], STANDARD, 2), "`seat` must be one of 0, 1"),
        (lambda: nash(PRISONERS), "zero-sum"),
        (lambda: exploitability([1, 0], PRISONERS, seat=0), "zero-sum"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")  # 0 · ∞ in a case above
def test_what_is_wrong_is_named(wrong, complaint):
    with pytest.raises(ValueError, match=complaint):
        wrong()


def test_every_pure_policy_of_weighted_rock_paper_scissors_loses_at_least_one_a_round():
    assert [exploitability(pure, RPS("weighted")) for pure in np.eye(3)] == [1.0, 1.0, 2.0]
