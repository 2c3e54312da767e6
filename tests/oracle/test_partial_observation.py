"""The short corridor and the aliased gridworld against hand-made tables, linear systems and published values."""

import gymnasium as gym
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import pg_envs
from pg_envs import corridor, gridworld, normalised_score, reference_scores
from pg_envs.references import simulated_returns

LEFT, RIGHT = 0, 1
NORTH, EAST, SOUTH, WEST = range(4)


def returns(env_id, act, n=20_000):
    """Undiscounted returns of the first episode of each copy; `act` has observations and a generator."""
    env, rng = gym.make_vec(env_id, n), np.random.default_rng(0)
    observations, _ = env.reset(seed=0)
    total, running = np.zeros(n), np.ones(n, dtype=np.bool_)
    while running.any():
        observations, rewards, terminated, truncated, _ = env.step(act(observations, rng))
        total += np.where(running, rewards, 0)
        running &= ~(terminated | truncated)
    return total


def assert_mean(values, expected):
    """Within four standard errors."""
    assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5


def play(env_id, actions, start=None):
    """Rewards of a single environment, and whether it ended in the last step."""
    env = gym.make(env_id)
    env.reset(seed=0)
    if start is not None:
        env.unwrapped.state = [start]
    steps = [env.step(action) for action in actions]
    return [step[1] for step in steps], steps[-1][2]


def test_in_the_corridor_right_leads_left_only_in_the_middle():
    # The book's example 13.1, from the cells 0, 1, 2 in turn.
    assert play("pg/ShortCorridor-v0", [RIGHT, LEFT, RIGHT]) == ([-1, -1, -1], True)
    assert play("pg/ShortCorridor-v0", [LEFT, RIGHT, RIGHT]) == ([-1, -1, -1], False)
    rewards, over = play("pg/ShortCorridor-v0", [LEFT, RIGHT, LEFT, LEFT, LEFT, RIGHT])
    assert (len(rewards), over) == (6, True)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.586, 0.95])
def test_the_corridors_return_solves_its_linear_system(p):
    # V0 = -1 + (1-p) V0 + p V1;  V1 = -1 + p V0 + (1-p) V2;  V2 = -1 + (1-p) V1
    system = np.array([[p, -p, 0], [-p, 1, -(1 - p)], [0, -(1 - p), 1]])
    assert corridor.expected_return(p) == pytest.approx(np.linalg.solve(system, [-1, -1, -1])[0], rel=1e-12)


def test_the_corridors_best_policy_is_the_books():
    found = minimize_scalar(lambda p: -corridor.expected_return(p), bounds=(0, 1), options={"xatol": 1e-9})
    assert found.x == pytest.approx(2 - 2**0.5, abs=1e-6)
    assert reference_scores("pg/ShortCorridor-v0")["optimum"] == pytest.approx(-found.fun, abs=1e-9)
    # "about -11.6", and with ε = .1 "a value of less than -44 and -82": example 13.1.
    assert round(-found.fun, 2) == -11.66
    scores = reference_scores("pg/ShortCorridor-v0")
    assert round(scores["epsilon_greedy_right"], 1) == -44.2
    assert round(scores["epsilon_greedy_left"], 1) == -82.1


@pytest.mark.parametrize(
    ("p", "key"), [(2 - 2**0.5, "optimum"), (0.5, "random"), (0.05, "epsilon_greedy_left")], ids=lambda x: str(x)[:5]
)
def test_the_corridor_plays_as_its_equation_says(p, key):
    found = returns("pg/ShortCorridor-v0", lambda _, rng: (rng.random(20_000) < p).astype(int))
    assert_mean(found, reference_scores("pg/ShortCorridor-v0")[key])


def test_who_is_greedy_in_the_corridor_never_arrives():
    for action in (LEFT, RIGHT):
        assert (returns("pg/ShortCorridor-v0", lambda *_, a=action: np.full(3, a), n=3) == -1000).all()
        assert corridor.expected_return(float(action)) == -np.inf


def test_the_agent_in_the_gridworld_sees_the_walls():
    # North, east, south, west: a skull's, a grey, the treasure's, the other grey and the other skull's cell.
    walls = [[1, 0, 0, 1], [1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]]
    # Up against the wall in the north of each cell, nothing moves.
    env = gym.make_vec("pg/AliasedGridworld-v0", 5)
    env.reset(seed=0)
    env.unwrapped.state[:, 0] = np.arange(5)
    np.testing.assert_array_equal(env.step(np.full(5, NORTH))[0], walls)


@pytest.mark.parametrize(
    ("start", "actions", "rewards", "over"),
    [
        (0, [EAST, EAST, SOUTH], [-0.05, -0.05, 1], True),
        (4, [WEST, WEST, SOUTH], [-0.05, -0.05, 1], True),
        (0, [SOUTH], [-1], True),
        (4, [SOUTH], [-1], True),
        (0, [WEST, NORTH, SOUTH], [-0.05, -0.05, -1], True),  # against two walls first
        (1, [SOUTH, NORTH, EAST, NORTH, SOUTH], [-0.05, -0.05, -0.05, -0.05, 1], True),
        (4, [EAST, WEST, SOUTH], [-0.05, -0.05, -0.05], False),
    ],
)
def test_in_the_gridworld_walls_stop_and_rooms_end(start, actions, rewards, over):
    assert play("pg/AliasedGridworld-v0", actions, start) == (pytest.approx(rewards), over)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_the_gridworlds_return_is_the_closed_form(p):
    # From a grey cell v = 1 - .05 - .1 (1 - p) / p = 1.05 - .1 / p; from a corner .05 less; the mean over four starts.
    assert gridworld.expected_return(p) == pytest.approx(1.025 - 0.05 * (1 / p + 1 / (1 - p)), rel=1e-12)


def test_the_gridworlds_best_policy_tosses_a_fair_coin():
    found = minimize_scalar(lambda p: -gridworld.expected_return(p), bounds=(0.01, 0.99), options={"xatol": 1e-9})
    assert found.x == pytest.approx(0.5, abs=1e-6)
    assert reference_scores("pg/AliasedGridworld-v0")["optimum"] == pytest.approx(0.825, abs=1e-12)
    assert -found.fun == pytest.approx(0.825, abs=1e-9)


def grid_policy(p_east, epsilon):
    def act(observations, rng):
        grey = (observations[:, 0] == 1) & (observations[:, 2] == 1)
        coin = np.where(rng.random(len(grey)) < p_east, EAST, WEST)
        shortest = np.where(observations[:, 3] == 1, EAST, np.where(observations[:, 1] == 1, WEST, SOUTH))
        chosen = np.where(grey, coin, shortest)
        return np.where(rng.random(len(grey)) < epsilon, rng.integers(4, size=len(grey)), chosen)

    return act


@pytest.mark.parametrize(("p_east", "epsilon", "key"), [(0.5, 0, "optimum"), (1, 0.1, None), (0.5, 1, "random")])
def test_the_gridworld_plays_as_its_linear_system_says(p_east, epsilon, key):
    exact = gridworld.expected_return(p_east, epsilon)
    assert_mean(returns("pg/AliasedGridworld-v0", grid_policy(p_east, epsilon)), exact)
    if key is not None:
        assert reference_scores("pg/AliasedGridworld-v0")[key] == pytest.approx(exact)


def test_east_and_west_are_alike_in_the_gridworld_with_a_little_randomness():
    scores = reference_scores("pg/AliasedGridworld-v0")
    for p_east in (0, 1):
        assert gridworld.expected_return(p_east, 0.1) == pytest.approx(scores["epsilon_greedy"])


def test_who_is_greedy_in_the_gridworld_does_not_arrive_from_half_of_the_starts():
    found = returns("pg/AliasedGridworld-v0", grid_policy(1, 0))
    arrived = found > -1
    np.testing.assert_allclose(found[~arrived], -10)  # 200 steps
    assert_mean(arrived.astype(float), 0.5)
    assert gridworld.expected_return(1) == -np.inf


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan"), "half"])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match="`p_right` must be a number at least 0 and at most 1"):
        corridor.expected_return(wrong)
    with pytest.raises(ValueError, match="`p_east` must"):
        gridworld.expected_return(wrong)
    with pytest.raises(ValueError, match="`epsilon` must"):
        gridworld.expected_return(0.5, wrong)


# Reference scores


class FiveSteps(gym.Env):
    """Rewards each step with the sum of a two-dimensional action, and 1."""

    observation_space = gym.spaces.Box(0, 1, (1,))

    def __init__(self, low=-1.0, never_ends=False):
        self.action_space = gym.spaces.Box(low, 1, (2,))
        self.never_ends = never_ends

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        over = self.t == 5 and not self.never_ends
        return np.zeros(1, np.float32), 1.0 + float(action.sum()), over, False, {}


def register(monkeypatch, env, **kwargs):
    spec = gym.envs.registration.EnvSpec("FiveSteps-v0", entry_point=env, disable_env_checker=True, **kwargs)
    monkeypatch.setitem(gym.registry, "FiveSteps-v0", spec)
    monkeypatch.setattr(pg_envs.references, "_cache", {})
    return "FiveSteps-v0"


@pytest.fixture
def five_steps(monkeypatch):
    return register(monkeypatch, FiveSteps)


class StatesAMapping(FiveSteps):
    metadata = {"render_modes": [], "reference_scores": {"optimum": 15.0, "random": 5.0}}


def scores_from(low, never_ends=False):
    return {"optimum": 15.0, "worst": 5 + 10 * low}


class StatesAFunction(FiveSteps):
    metadata = {"render_modes": [], "reference_scores": scores_from}


class StatesASimulation(FiveSteps):
    metadata = {"render_modes": [], "reference_scores": lambda n_episodes=7: {"random": float(n_episodes)}}


class StatesNonsense(FiveSteps):
    metadata = {"render_modes": [], "reference_scores": 15.0}


def test_environments_of_others_are_simulated_with_random_and_zero_actions(five_steps):
    scores = reference_scores(five_steps, n_episodes=300)
    assert scores.keys() == {"random", "zero"}
    assert scores["zero"] == 5
    # Ten uniform numbers: variance 10 / 3.
    assert abs(scores["random"] - 5) < 4 * (10 / 3 / 300) ** 0.5
    assert reference_scores("CartPole-v1", n_episodes=3).keys() == {"random"}


def test_an_environment_of_others_states_its_scores_as_a_mapping(monkeypatch):
    env_id = register(monkeypatch, StatesAMapping, max_episode_steps=5)
    assert reference_scores(env_id) == reference_scores(env_id, max_episode_steps=5) == {"optimum": 15, "random": 5}
    reference_scores(env_id).clear()
    assert reference_scores(env_id) == {"optimum": 15, "random": 5}
    assert normalised_score(10, gym.make(env_id).metadata["reference_scores"]) == 0.5


def test_an_environment_of_others_states_its_scores_as_a_function_of_its_arguments(monkeypatch):
    env_id = register(monkeypatch, StatesAFunction, kwargs={"low": 0.5})
    assert reference_scores(env_id) == {"optimum": 15, "worst": 10}
    assert reference_scores(env_id, low=-1, never_ends=True) == {"optimum": 15, "worst": -5}
    with pytest.raises(TypeError, match="high"):
        reference_scores(env_id, high=1)


def test_a_function_that_simulates_is_told_how_many_episodes(monkeypatch):
    env_id = register(monkeypatch, StatesASimulation)
    assert (reference_scores(env_id), reference_scores(env_id, n_episodes=3)) == ({"random": 1000}, {"random": 3})


def test_what_is_stated_does_not_hold_for_another_time_limit(monkeypatch):
    env_id = register(monkeypatch, StatesAMapping, max_episode_steps=5)
    scores = reference_scores(env_id, max_episode_steps=2, n_episodes=2)
    assert (scores.keys(), scores["zero"]) == ({"random", "zero"}, 2)


def test_reference_scores_that_are_neither_mapping_nor_function_are_refused(monkeypatch):
    with pytest.raises(TypeError, match=r"FiveSteps-v0 must be a mapping or a function .* 15\.0"):
        reference_scores(register(monkeypatch, StatesNonsense))


def test_zero_action_is_none_where_it_is_not_in_the_box(five_steps):
    assert reference_scores(five_steps, n_episodes=2, low=0.5).keys() == {"random"}


def test_an_episode_that_does_not_end_is_an_error(five_steps, monkeypatch):
    monkeypatch.setattr(pg_envs.references, "TOO_LONG", 100)
    with pytest.raises(ValueError, match="has not ended after 100 steps: give it a `max_episode_steps`"):
        reference_scores(five_steps, never_ends=True)


def test_scores_are_computed_once_and_belong_to_the_caller(five_steps, monkeypatch):
    first = reference_scores(five_steps, n_episodes=2, low=-0.5)
    monkeypatch.setattr(pg_envs.references, "_returns", None)
    again = reference_scores(five_steps, n_episodes=2, low=-0.5)
    assert first == again
    again.clear()
    assert reference_scores(five_steps, n_episodes=2, low=-0.5) == first


def test_what_could_change_is_computed_anew():
    class Mood:
        def __init__(self):
            self.move = 0

        def __call__(self, own, others, n):
            return self.move

    mood, weighted = Mood(), {"payoff": "weighted", "n_rounds": 5, "n_episodes": 50}
    first = reference_scores("pg/RPSMatch-v0", opponent=mood, **weighted)["random"]
    mood.move = 1
    assert reference_scores("pg/RPSMatch-v0", opponent=mood, **weighted)["random"] != first


def test_simulated_returns_depend_on_the_seed_alone():
    first, again, other = (
        simulated_returns("pg/AliasedGridworld-v0", "random", n_episodes=9, seed=s) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("env_id", ["pg/ShortCorridor-v0", "pg/AliasedGridworld-v0"])
def test_what_is_simulated_agrees_with_what_is_known_exactly(env_id):
    assert_mean(simulated_returns(env_id, "random", n_episodes=5000), reference_scores(env_id)["random"])


def test_a_score_is_normalised_between_random_and_the_best():
    scores = {"optimum": 4.0, "controller": 3.0, "random": -1.0}
    assert [normalised_score(score, scores) for score in (-1, 4, 1.5)] == [0, 1, 0.5]
    assert normalised_score(3, {"controller": 3.0, "random": -1.0}) == 1
    assert normalised_score(-1, {"value": 0.0, "random": -2.0}) == 0.5


@pytest.mark.parametrize("scores", [{"random": 0.0}, {"optimum": 1.0}, {"optimum": 0.0, "random": 0.0}])
def test_a_score_that_cannot_be_normalised_says_why(scores):
    with pytest.raises(ValueError, match="`scores`"):
        normalised_score(0.5, scores)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("pg/ShortCoridor-v0",), gym.error.NameNotFound, "Did you mean"),
        (("pg/ShortCorridor-v7",), gym.error.VersionNotFound, "v0"),
    ],
)
def test_scores_of_an_unknown_environment_suggest_a_known_one(arguments, error, said):
    with pytest.raises(error, match=said):
        reference_scores(*arguments)


def test_wrong_arguments_of_scores_are_named():
    with pytest.raises(ValueError, match="`n_episodes` must be an integer at least 1"):
        reference_scores("pg/ShortCorridor-v0", n_episodes=0)
    with pytest.raises(ValueError, match="`n_joints`"):
        reference_scores("pg/TorqueLQR-v0", n_joints=0)
    with pytest.raises(ValueError, match="`policy` must be one of 'controller', 'random', 'zero'"):
        simulated_returns("pg/ShortCorridor-v0", "best")
    with pytest.raises(ValueError, match="`policy` is 'zero', which pg/ShortCorridor-v0 does not have"):
        simulated_returns("pg/ShortCorridor-v0", "zero")


def test_another_time_limit_makes_exact_scores_unknown():
    scores = reference_scores("pg/TorqueLQR-v0", max_episode_steps=1)
    assert set(scores) == {"controller", "random", "zero"}
    # One step without torque costs .1 (θ² + .1 θ'²), whose mean over the start is .1 * 1.1 / 3.
    assert scores["zero"] == pytest.approx(-0.11 / 3, rel=0.1)
