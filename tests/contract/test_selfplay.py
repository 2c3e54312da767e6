"""`SelfPlayVecEnv` is an SB3 `VecEnv` for any game for two, and `win_rates` plays against a pool."""

import functools

import numpy as np
import pettingzoo
import pytest
from fakes import ALL, SHORT
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseParallelWrapper
from stable_baselines3 import A2C as SB3A2C
from stable_baselines3 import DQN
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecNormalize

from pg_agents import A2C, PPO
from pg_envs.games.callbacks import SnapshotCallback
from pg_envs.games.rps import RPS
from pg_envs.games.selfplay import SelfPlayVecEnv, Snapshot, WinRate, win_rates

ROCK, PAPER, SCISSORS = np.eye(3)


class Race(ParallelEnv):
    """Both run; each sees its own seed's number and how far it is, and leaves the game at its own finish.

    The reward is 10 times the agent's number plus the action, so that none can be mistaken for another.

    Args:
        finish: After how many steps each agent is out.
        cut: Whether it is truncated then, instead of terminated; or "both".
        actions: Number of each agent's actions.
    """

    metadata = {"name": "race", "render_modes": []}

    def __init__(self, finish=(2, 4), cut=(False, False), actions=(3, 3)):
        self.possible_agents = ["left", "right"]
        self.finish, self.cut, self.actions, self.log = finish, cut, actions, []
        self.rng = np.random.default_rng()

    @functools.cache  # noqa: B019
    def observation_space(self, agent):
        return spaces.Box(0, 100, (2,), np.float32)

    @functools.cache  # noqa: B019
    def action_space(self, agent):
        return spaces.Discrete(self.actions[self.possible_agents.index(agent)])

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.number, self.options, self.t = int(self.rng.integers(100)), options, 0
        self.agents = list(self.possible_agents)
        return self._per_agent(self._seen), self._per_agent(lambda agent: {"first": agent})

    def step(self, actions):
        assert set(actions) == set(self.agents), "an agent that is out was asked, or one that is in was not"
        self.log.append(actions)
        self.t += 1
        index = self.possible_agents.index
        over = self._per_agent(lambda agent: self.t == self.finish[index(agent)])
        results = (
            self._per_agent(self._seen),
            self._per_agent(lambda agent: 10 * index(agent) + actions[agent]),
            self._per_agent(lambda agent: over[agent] and self.cut[index(agent)] is not True),
            self._per_agent(lambda agent: over[agent] and self.cut[index(agent)] is not False),
            self._per_agent(lambda agent: {"t": self.t, "agent": agent}),
        )
        self.agents = [agent for agent in self.agents if not over[agent]]
        return results

    def _seen(self, agent):
        return np.array([self.number, self.t], dtype=np.float32)

    def _per_agent(self, of):
        return {agent: of(agent) for agent in self.agents}


def played(env, actions):
    """Observations, rewards, dones and infos of each step."""
    return [env.step(np.asarray(one)) for one in actions]


# Slots and seats


def test_slots_2k_and_2k_plus_1_are_the_seats_of_game_k():
    env = SelfPlayVecEnv(RPS("weighted"), 2)
    env.reset()

    _, rewards, *_ = env.step(np.array([0, 2, 1, 2]))  # rock beats scissors, which beat paper

    assert rewards.tolist() == [2, -2, -1, 1]
    assert env.num_envs == 4


def test_all_that_sb3_reads_at_the_end_of_a_game_is_there():
    env = SelfPlayVecEnv(Race(finish=(2, 2), cut=(True, False)), 2)
    env.seed(0)
    first = env.reset()

    (_, _, dones, _), (second, rewards, ended, infos) = played(env, [[1, 2, 0, 0], [0, 1, 2, 2]])

    assert not dones.any()
    assert ended.all()
    assert rewards.dtype == np.float32
    assert rewards.tolist() == [0, 11, 2, 12]
    assert [info["TimeLimit.truncated"] for info in infos] == [True, False, True, False]
    assert [info["episode"]["r"] for info in infos] == [1, 23, 2, 22]
    assert [info["opponent_return"] for info in infos] == [23, 1, 22, 2]
    assert [info["episode"]["l"] for info in infos] == [2] * 4
    np.testing.assert_array_equal([info["terminal_observation"] for info in infos], first + np.array([0, 2]))
    assert [info["agent"] for info in infos] == ["left", "right"] * 2
    np.testing.assert_array_equal(second[:, 1], 0)  # the next game has begun
    assert not np.array_equal(second[:, 0], first[:, 0])
    assert [info["first"] for info in env.reset_infos] == ["left", "right"] * 2


def test_an_end_that_is_also_the_time_limits_is_an_end():
    env = SelfPlayVecEnv(Race(finish=(1, 1), cut=("both", True)), 1)
    env.reset()
    *_, infos = env.step(np.array([0, 0]))
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]


def test_observations_and_rewards_are_the_callers_own():
    env = SelfPlayVecEnv(Race(finish=(9, 9)), 1)
    env.reset()
    observations, rewards, *_ = env.step(np.array([1, 1]))
    env.step(np.array([2, 2]))

    assert observations[:, 1].tolist() == [1, 1]
    assert rewards.tolist() == [1, 11]


def test_an_agent_that_drops_out_waits_without_reward_until_the_game_ends():
    env = SelfPlayVecEnv(Race(finish=(2, 4), cut=(False, True)), 1)
    env.seed(0)
    number = env.reset()[0, 0]

    steps = played(env, [[1, 1]] * 4)

    assert [rewards.tolist() for _, rewards, *_ in steps] == [[1, 11], [1, 11], [0, 11], [0, 11]]
    assert [dones.tolist() for _, _, dones, _ in steps] == [[False, False]] * 3 + [[True, True]]
    assert [infos[0].get("waiting", False) for *_, infos in steps] == [False, False, True, True]
    assert [seen[0].tolist() for seen, *_ in steps[:3]] == [[number, 1], [number, 2], [number, 2]]
    left, right = steps[-1][3]
    assert (left["episode"]["r"], left["episode"]["l"], left["opponent_return"]) == (2, 2, 44)
    assert left["terminal_observation"].tolist() == [number, 2]
    assert (left["TimeLimit.truncated"], right["TimeLimit.truncated"]) == (False, True)
    assert right["terminal_observation"].tolist() == [number, 4]


@pytest.mark.parametrize("seat", [0, "left"])
def test_a_learner_in_one_seat_begins_anew_as_soon_as_it_is_out(seat):
    env = SelfPlayVecEnv(Race(finish=(2, 4)), 2, seat=seat, opponent=ROCK)
    env.reset()

    steps = played(env, [[1, 2]] * 4)

    assert env.num_envs == 2
    assert [dones.tolist() for _, _, dones, _ in steps] == [[False] * 2, [True] * 2] * 2
    assert [rewards.tolist() for _, rewards, *_ in steps] == [[1, 2]] * 4
    assert [info["opponent_return"] for info in steps[1][3]] == [20, 20]


def test_a_learner_plays_on_when_its_opponent_is_out():
    env = SelfPlayVecEnv(Race(finish=(2, 4)), 1, seat="right", opponent=PAPER)
    env.reset()

    steps = played(env, [[2]] * 4)

    assert [bool(dones[0]) for _, _, dones, _ in steps] == [False, False, False, True]
    assert steps[-1][3][0]["episode"]["r"] == 4 * 12
    assert steps[-1][3][0]["opponent_return"] == 2
    assert [set(actions) for actions in env.games[0].log] == [{"left", "right"}] * 2 + [{"right"}] * 2


# Opponents


@pytest.mark.parametrize(
    ("opponent", "move"),
    [
        (PAPER, 1),
        ([0, 1, 0], 1),
        (lambda observation: 2, 2),
        (lambda observation: [0.0, 0.0, 1.0], 2),
        (lambda observation: np.roll(ROCK, int(observation[1]) + 1), 1),
    ],
)
@pytest.mark.parametrize("seat", [0, 1])
def test_a_fixed_opponent_holds_the_other_seat(opponent, move, seat):
    env = SelfPlayVecEnv(Race(finish=(9, 9)), 3, seat=seat, opponent=opponent)
    env.reset()
    env.step(np.zeros(3, dtype=int))

    other = ["right", "left"][seat]
    assert [game.log[0][other] for game in env.games] == [move] * 3


def test_an_opponent_plays_its_probabilities():
    env = SelfPlayVecEnv(RPS(max_cycles=1000), 20, seat=0, opponent=[0.2, 0.3, 0.5])
    env.seed(0)
    env.reset()
    for _ in range(500):
        env.step(np.zeros(20, dtype=int))

    counts = np.sum([game.unwrapped._counts[1] for game in env.games], axis=0)
    deviation = np.sqrt(10_000 * 0.25)  # at most, of a count of 10,000 draws
    np.testing.assert_allclose(counts, [2000, 3000, 5000], atol=4 * deviation)


def test_a_model_is_an_opponent_that_plays_its_distribution():
    env = SelfPlayVecEnv(RPS(max_cycles=100), 10)
    model = PPO("MlpPolicy", env, n_steps=100, batch_size=100, seed=0, learning_rate=0.01).learn(2000)
    probabilities = model.policy.get_distribution(model.policy.obs_to_tensor(np.ones((1, 1)))[0]).distribution.probs

    against = SelfPlayVecEnv(RPS(max_cycles=1000), 10, seat=1, opponent=model)
    against.seed(0)
    against.reset()
    for _ in range(500):
        against.step(np.zeros(10, dtype=int))

    shares = np.sum([game.unwrapped._counts[0] for game in against.games], axis=0) / 5000
    np.testing.assert_allclose(shares, probabilities[0].detach().numpy(), atol=4 * np.sqrt(0.25 / 5000))


def test_snapshots_are_the_learner_as_it_was():
    env = SelfPlayVecEnv(RPS(), 4, seat=0, opponent="snapshots")
    model = A2C("MlpPolicy", env, seed=0, learning_rate=0.01)
    before = Snapshot(model)
    early = {name: value.clone() for name, value in model.policy.state_dict().items()}

    model.learn(2000, callback=SnapshotCallback(every=500, keep=3))

    assert [snapshot.num_timesteps for snapshot in env.snapshots] == [1000, 1500, 2000]
    assert not all(value.equal(early[name]) for name, value in model.policy.state_dict().items())
    assert all(value.equal(early[name]) for name, value in before.policy.state_dict().items())
    seen = np.ones((5, 1), dtype=np.float32)
    last = env.snapshots[-1].action_probabilities(seen, 3)
    assert not np.allclose(last, before.action_probabilities(seen, 3))
    # It remembers what it said to each observation, and says something else to another.
    other, same = env.snapshots[-1].action_probabilities(np.array([[0], [1]], dtype=np.float32), 3)
    np.testing.assert_array_equal(same, last[0])
    assert not np.allclose(other, same)


def test_each_game_draws_its_snapshot_and_keeps_it_to_the_end():
    env = SelfPlayVecEnv(Race(finish=(50, 50)), 200, seat=0, opponent="snapshots")
    env.seed(0)
    env.snapshots.extend([ROCK, PAPER, SCISSORS])
    env.reset()
    for _ in range(3):
        env.step(np.zeros(200, dtype=int))

    moves = np.array([[actions["right"] for actions in game.log] for game in env.games])
    assert (moves == moves[:, :1]).all()
    assert np.bincount(moves[:, 0]).min() > 40  # of 67 expected; 4 standard deviations


def test_an_opponent_without_snapshots_says_what_is_missing():
    env = SelfPlayVecEnv(RPS(), 2, seat=0, opponent="snapshots")
    with pytest.raises(ValueError, match="SnapshotCallback"):
        PPO("MlpPolicy", env, n_steps=50, batch_size=100).learn(100)


def test_a_snapshot_of_a_model_behind_vec_normalize_keeps_its_statistics():
    env = VecNormalize(SelfPlayVecEnv(RPS(observation="last"), 4, seat=0, opponent="snapshots"))
    model = PPO("MlpPolicy", env, n_steps=50, batch_size=100, seed=0)

    model.learn(400, callback=SnapshotCallback(every=100))

    snapshots = env.unwrapped.snapshots
    counts = [snapshot.get_vec_normalize_env().obs_rms.count for snapshot in snapshots]
    assert counts == sorted(set(counts))


# Seeds


def trajectory(seed, **kwargs):
    env = SelfPlayVecEnv(Race(), 3, **kwargs)
    env.seed(seed)
    seen = [env.reset()]
    for _ in range(20):
        observations, rewards, *_ = env.step(np.ones(env.num_envs, dtype=int))
        seen += [observations, rewards]
    return np.concatenate([np.ravel(one) for one in seen])


@pytest.mark.parametrize("kwargs", [{}, {"seat": 0, "opponent": [0.5, 0.5, 0.0]}])
def test_a_seed_repeats_everything_and_another_does_not(kwargs):
    np.testing.assert_array_equal(trajectory(3, **kwargs), trajectory(3, **kwargs))
    assert not np.array_equal(trajectory(3, **kwargs), trajectory(4, **kwargs))


def test_game_k_has_the_seed_s_plus_k():
    env = SelfPlayVecEnv(Race(), 5)
    env.seed(7)
    numbers = env.reset()[::2, 0]
    assert numbers.tolist() == [np.random.default_rng(7 + k).integers(100) for k in range(5)]


def test_copies_of_a_game_that_was_already_seeded_do_not_play_the_same():
    game = Race()
    game.reset(seed=0)
    state = game.rng.bit_generator.state

    numbers = SelfPlayVecEnv(game, 20).reset()[::2, 0]

    assert len(set(numbers.tolist())) > 5
    assert game.rng.bit_generator.state == state  # the caller's own is not played


def test_training_twice_with_one_seed_gives_the_same_parameters():
    def trained():
        env = SelfPlayVecEnv(RPS(observation="last"), 4, seat=1, opponent=[0.5, 0.2, 0.3])
        return PPO("MlpPolicy", env, n_steps=50, batch_size=100, seed=5).learn(400).policy.state_dict()

    one, two = trained(), trained()
    assert all(one[name].equal(two[name]) for name in one)


def test_options_are_passed_to_the_game_once():
    env = SelfPlayVecEnv(Race(finish=(1, 1)), 2)
    env.set_options({"track": "wet"})
    env.reset()
    assert env.get_attr("options") == [{"track": "wet"}] * 4
    env.step(np.zeros(4, dtype=int))
    assert env.get_attr("options") == [None] * 4


# What SB3 asks of a VecEnv


class Named(BaseParallelWrapper):
    """A wrapper that adds an attribute and a method."""

    def __init__(self, env):
        super().__init__(env)
        self.name, self.calls = "wrapper", 0

    def call(self, increment):
        self.calls += increment
        return self.calls


def test_attributes_and_methods_reach_the_games_through_wrappers():
    env = SelfPlayVecEnv(lambda: Named(Race()), 2)

    assert env.get_attr("name", indices=[0, 3]) == ["wrapper", "wrapper"]
    assert env.get_attr("finish") == [(2, 4)] * 4
    env.set_attr("finish", (1, 1), indices=2)
    assert [game.env.finish for game in env.games] == [(2, 4), (1, 1)]
    env.set_attr("name", "mine")
    assert [game.name for game in env.games] == ["mine", "mine"]
    assert env.env_method("call", 2) == [2, 2, 2, 2]  # once for both seats
    assert env.env_method("call", 2, indices=[0]) == [4]
    assert not env.has_attr("nothing")
    assert env.env_is_wrapped(Named) == [True] * 4
    assert env.env_is_wrapped(BaseParallelWrapper, indices=[1]) == [True]
    assert env.env_is_wrapped(VecMonitor) == [False] * 4
    assert env.env_is_wrapped(Monitor) == [True] * 4


def test_games_must_be_evaluated_with_their_own_randomness():
    assert SelfPlayVecEnv(Race(), 1).metadata["deterministic_evaluation"] is False
    assert SelfPlayVecEnv(Race(), 1).metadata["name"] == "race"


def test_a_picture_shows_all_games():
    env = SelfPlayVecEnv(RPS(render_mode="rgb_array"), 4)
    env.reset()
    one = env.games[0].render()

    assert env.render().shape == (2 * one.shape[0], 2 * one.shape[1], 3)


def test_evaluate_policy_reads_the_returns_of_both_seats():
    env = SelfPlayVecEnv(RPS(), 2, seat=0, opponent=SCISSORS)
    model = PPO("MlpPolicy", env, n_steps=50, batch_size=100)

    returns, lengths = evaluate_policy(model, env, 4, return_episode_rewards=True, deterministic=False)

    assert lengths == [50] * 4
    assert all(abs(one) <= 50 for one in returns)


def trains(algorithm, env):
    kwargs = SHORT[algorithm.__name__] if algorithm in ALL else {}
    if algorithm is SB3PPO:
        kwargs = {"n_steps": 8, "batch_size": 8}
    model = algorithm("MlpPolicy", env, seed=0, policy_kwargs={"net_arch": [4]}, **kwargs)
    return model.learn(64 if algorithm is not DQN else 128)


@pytest.mark.parametrize("algorithm", [*ALL, SB3PPO, SB3A2C, DQN])
def test_all_algorithms_train_in_all_kinds_of_seats(algorithm):
    for kwargs in ({}, {"seat": 1, "opponent": ROCK}):
        model = trains(algorithm, SelfPlayVecEnv(RPS(max_cycles=4), 2, **kwargs))
        assert model.num_timesteps >= 64
        assert all(info["l"] == 4 for info in model.ep_info_buffer)
        if not kwargs:
            assert np.mean([info["r"] for info in model.ep_info_buffer]) == 0  # zero-sum


@pytest.mark.parametrize("algorithm", [*ALL, SB3A2C])
def test_all_algorithms_train_where_agents_drop_out(algorithm):
    trains(algorithm, SelfPlayVecEnv(Race(finish=(2, 5), cut=(False, True)), 2))


def test_vec_env_wrappers_go_around_it():
    env = VecFrameStack(VecNormalize(SelfPlayVecEnv(RPS(observation="last"), 2)), 2)
    model = PPO("MlpPolicy", env, n_steps=50, batch_size=100, seed=0).learn(400)
    assert model.ep_info_buffer[-1]["l"] == 50


# Games that are not ours


def test_pettingzoos_own_rock_paper_scissors_is_played_and_scored_by_its_rules():
    env = SelfPlayVecEnv(pettingzoo.make("parallel", "classic/rps-v2", max_cycles=2), 2)
    env.reset()

    steps = played(env, [[0, 1, 2, 0], [1, 1, 2, 1]])

    assert [rewards.tolist() for _, rewards, *_ in steps] == [[-1, 1, -1, 1], [0, 0, 1, -1]]
    assert steps[0][0].tolist() == [1, 0, 0, 2]  # what the other played
    assert [info["TimeLimit.truncated"] for info in steps[1][3]] == [True] * 4
    assert [info["episode"]["r"] for info in steps[1][3]] == [-1, 1, 0, 0]


def test_both_rock_paper_scissors_pay_the_same():
    theirs = SelfPlayVecEnv(lambda: pettingzoo.make("parallel", "classic/rps-v2", num_actions=5, max_cycles=100), 1)
    ours = SelfPlayVecEnv(RPS("rpsls", max_cycles=100), 1)
    theirs.reset(), ours.reset()

    for actions in np.ndindex(5, 5):
        np.testing.assert_array_equal(theirs.step(np.array(actions))[1], ours.step(np.array(actions))[1])


class Tug(ParallelEnv):
    """Pulling a rope: continuous actions of different sizes, dictionaries as observations, seats of different kinds."""

    metadata = {"name": "tug"}

    def __init__(self):
        self.possible_agents = ["strong", "weak"]

    def observation_space(self, agent):
        return spaces.Dict({"rope": spaces.Box(-9, 9, (1,), np.float32), "tired": spaces.Discrete(2)})

    def action_space(self, agent):
        return spaces.Box(-1, 1, (2 if agent == "strong" else 1,), np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.rope, self.t = list(self.possible_agents), 0.0, 0
        return self._seen(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.t += 1
        pull = float(actions["strong"].sum() - actions["weak"].sum())
        self.rope = float(np.clip(self.rope + pull, -9, 9))
        agents, over = self.agents, self.t == 5
        self.agents = [] if over else agents
        seen = self._seen()
        return (
            seen, {"strong": pull, "weak": -pull}, dict.fromkeys(agents, False), dict.fromkeys(agents, over),
            {agent: {} for agent in agents},
        )  # fmt: skip

    def _seen(self):
        seen = {"rope": np.array([self.rope], dtype=np.float32), "tired": np.int64(self.t > 3)}
        return dict.fromkeys(self.possible_agents, seen)


def test_seats_of_different_sizes_need_a_seat_and_the_error_says_so():
    with pytest.raises(ValueError, match=r"`seat` must be given.*action space of strong is Box.*weak is Box"):
        SelfPlayVecEnv(Tug(), 2)
    with pytest.raises(
        ValueError, match=r"`seat` must be given.*left is Discrete\(3\), that of right is Discrete\(2\)"
    ):
        SelfPlayVecEnv(Race(actions=(3, 2)), 2)


@pytest.mark.parametrize(("seat", "shape"), [("strong", (2,)), ("weak", (1,))])
def test_one_seat_of_an_asymmetric_game_is_learnt_against_the_other(seat, shape):
    other = Tug().action_space("weak" if seat == "strong" else "strong")
    env = SelfPlayVecEnv(Tug(), 3, seat=seat, opponent=lambda observation: np.full(other.shape, observation["rope"][0]))
    model = PPO("MultiInputPolicy", env, n_steps=10, batch_size=30, seed=0).learn(90)

    against = SelfPlayVecEnv(Tug(), 3, seat=1 if seat == "strong" else 0, opponent=model)
    seen = against.reset()
    assert env.action_space.shape == shape
    assert {key: value.shape for key, value in seen.items()} == {"rope": (3, 1), "tired": (3,)}
    steps = [against.step(np.zeros((3, *other.shape))) for _ in range(5)]
    assert [bool(dones.all()) for _, _, dones, _ in steps] == [False] * 4 + [True]


# Win rates


def test_paper_beats_rock_loses_to_scissors_and_draws_with_itself():
    rock, scissors, paper = win_rates(PAPER, {"rock": ROCK, "scissors": SCISSORS, "paper": PAPER}, RPS(), 10)

    assert (rock.opponent, rock.wins, rock.draws, rock.losses, rock.mean_return) == ("rock", 10, 0, 0, 50)
    assert (scissors.wins, scissors.draws, scissors.losses, scissors.mean_return) == (0, 0, 10, -50)
    assert (paper.wins, paper.draws, paper.losses, paper.mean_return) == (0, 10, 0, 0)
    assert "rock: won 1.000 [0.722, 1.000] of 10 games" in str(rock)


def test_win_rates_of_one_round_are_the_probabilities():
    (row,) = win_rates([0.5, 0.3, 0.2], [[0.1, 0.2, 0.7]], RPS(max_cycles=1), 20_000)

    wins, draws = 0.5 * 0.7 + 0.3 * 0.1 + 0.2 * 0.2, 0.5 * 0.1 + 0.3 * 0.2 + 0.2 * 0.7
    assert row.rate == pytest.approx(wins, abs=4 * np.sqrt(wins * (1 - wins) / 20_000))
    assert row.draws / row.games == pytest.approx(draws, abs=4 * np.sqrt(draws * (1 - draws) / 20_000))
    assert row.interval[0] < row.rate < row.interval[1]


@pytest.mark.parametrize(
    ("wins", "games", "expected"),
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_the_interval_is_wilsons_as_published(wins, games, expected):
    row = WinRate("", games, wins, 0, 0.0)
    assert row.interval == pytest.approx(expected, abs=5e-5)


def test_both_seats_are_played_half_of_the_games_each():
    # Always 2 against always 0: 2 a step, for 2 steps on the left or 4 on the right, where each step pays 10 more.
    (row,) = win_rates(SCISSORS, [ROCK], Race(finish=(2, 4)), 30)
    assert row.mean_return == (2 * 2 + 4 * 12) / 2
    (left,) = win_rates(SCISSORS, [ROCK], Race(finish=(2, 4)), 30, seat=0)
    assert left.mean_return == 4


def test_models_and_snapshots_play_for_win_rates_and_a_seed_repeats_them():
    env = SelfPlayVecEnv(RPS(), 4, seat=0, opponent="snapshots")
    model = A2C("MlpPolicy", env, seed=0).learn(800, callback=SnapshotCallback(every=400))

    rows, again = (win_rates(model, env.snapshots, RPS(), 100, seed=3) for _ in range(2))

    assert rows == again
    assert [row.opponent for row in rows] == [f"snapshot at {n} steps" for n in (0, 400, 800)]
    assert all(row.games == 100 for row in rows)


# Wrong arguments


class Alone(Race):
    def __init__(self):
        super().__init__()
        self.possible_agents = ["left"]


@pytest.mark.parametrize(
    ("wrong", "error", "complaint"),
    [
        (lambda: SelfPlayVecEnv(RPS(), 0), ValueError, "`n_games` must be an integer at least 1"),
        (lambda: SelfPlayVecEnv(RPS(), seat=2, opponent=ROCK), ValueError, "`seat` must be one of"),
        (lambda: SelfPlayVecEnv(RPS(), seat="player", opponent=ROCK), ValueError, "Did you mean 'player_1'"),
        (lambda: SelfPlayVecEnv(RPS(), seat=0), ValueError, "give both, or neither"),
        (lambda: SelfPlayVecEnv(RPS(), opponent=ROCK), ValueError, "give both, or neither"),
        (lambda: SelfPlayVecEnv(RPS(), seat=0, opponent="snapshot"), ValueError, "Did you mean 'snapshots'"),
        (lambda: SelfPlayVecEnv(RPS(), seat=0, opponent=[0.5, 0.5]), ValueError, "probabilities of 3 actions"),
        (lambda: SelfPlayVecEnv(Tug(), seat=0, opponent=[0.5, 0.5]), ValueError, "`opponent` must be a model"),
        (lambda: SelfPlayVecEnv(Alone()), ValueError, "must be for two agents"),
        (lambda: SelfPlayVecEnv(pettingzoo.make("aec", "classic/rps-v2")), TypeError, "aec_to_parallel"),
        (lambda: SelfPlayVecEnv("rps"), TypeError, "`game` must be a PettingZoo ParallelEnv"),
        (lambda: SelfPlayVecEnv(lambda: "rps"), TypeError, "must make a PettingZoo ParallelEnv"),
        (lambda: SelfPlayVecEnv(functools.cache(RPS)), ValueError, "another game each time"),
        (lambda: SelfPlayVecEnv(RPS(), 2).step(np.zeros(2, dtype=int)), ValueError, "`actions` must have 4"),
        (lambda: win_rates(ROCK, ROCK, RPS()), ValueError, "`opponents` must be several"),
        (lambda: win_rates(ROCK, [PAPER], RPS(), 0), ValueError, "`n_games`"),
        (lambda: SnapshotCallback(every=0), ValueError, "`every`"),
    ],
)
def test_what_is_wrong_is_named(wrong, error, complaint):
    with pytest.raises(error, match=complaint):
        wrong()


def test_an_opponent_for_other_actions_is_refused_at_once():
    model = PPO("MlpPolicy", SelfPlayVecEnv(RPS("rpsls"), 1), n_steps=50, batch_size=100)
    with pytest.raises(ValueError, match=r"must act in Discrete\(3\)"):
        SelfPlayVecEnv(RPS(), seat=0, opponent=model)


def test_snapshots_of_something_else_are_refused():
    env = SelfPlayVecEnv(RPS(), 2)
    model = PPO("MlpPolicy", VecNormalize(env), n_steps=50, batch_size=100)
    model.learn(100, callback=SnapshotCallback())  # allowed: another environment may play against them
    with pytest.raises(ValueError, match="must train in a SelfPlayVecEnv"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=50, batch_size=50).learn(50, callback=SnapshotCallback())
