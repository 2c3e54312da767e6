"""The environments of `pg_envs` as worlds: compiled code, plain Python and threads give the same numbers."""

import os
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import pg_envs
from pg_agents import REINFORCE, make_vec
from pg_envs.worlds import copies as worlds_copies

CASES = [
    ("pg/RPSMatch-v0", {"opponent": "frequency", "payoff": "rpsls", "n_rounds": 12}),
    ("pg/RPSMatch-v0", {"opponent": "pattern", "n_rounds": 12, "observation": "history(2)"}),
    ("pg/RPSMatch-v0", {"opponent": "snapshots", "n_rounds": 12}),
    ("pg/RPSMatch-v0", {"opponent": "fixed", "p": [0.5, 0.25, 0.25], "n_rounds": 12, "observation": "last"}),
    ("pg/PenaltyKick-v0", {"n_rounds": 9}),
    ("pg/TorqueBandit-v0", {"kind": "unequal"}),
    ("pg/ShortCorridor-v0", {}),
    ("pg/AliasedGridworld-v0", {}),
    ("pg/TorquePendulum-v0", {}),
    ("pg/TorquePendulum-v0", {"preset": "gymnasium"}),
    ("pg/TorqueLQR-v0", {"n_joints": 3}),
    ("pg/TorqueArm-v0", {"n_joints": 3}),
    ("pg/TorqueArm-v0", {"n_joints": 3, "dynamics": "chain"}),
]


def played(env_id, kwargs, n, steps=25):
    """Everything that copies answer to random actions, with episodes of at most 20 steps where there is a limit."""
    limit = {} if gym.spec(env_id).max_episode_steps is None else {"max_episode_steps": 20}
    env = gym.make_vec(env_id, n, **limit, **kwargs)
    space, rng = env.single_action_space, np.random.default_rng(0)
    seen = [env.reset(seed=3)[0]]
    for _ in range(steps):
        if isinstance(space, spaces.Box):
            actions = rng.uniform(-1.1, 1.1, (n, *space.shape)).astype(np.float32)
        else:
            actions = rng.integers(space.n, size=n)
        observations, rewards, terminated, truncated, infos = env.step(actions)
        last = [one for one in infos.get("final_obs", ()) if one is not None]
        seen += [observations, rewards, terminated, truncated, *last]
    return seen, env.unwrapped.state.copy()


def test_plain_python_gives_the_numbers_of_compiled_code():
    code = f"""
import pickle, sys, warnings
sys.path.insert(0, {os.path.dirname(__file__)!r})
warnings.simplefilter("ignore")
from {__name__.rpartition(".")[2]} import CASES, played
sys.stdout.buffer.write(pickle.dumps([played(*case, n=2) for case in CASES]))
"""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True).stdout
    for case, (said, state) in zip(CASES, pickle.loads(answer), strict=True):
        compiled_said, compiled_state = played(*case, n=2)
        for one, other in zip([*said, state], [*compiled_said, compiled_state], strict=True):
            # Python and Numba may have different libraries for sines and exponentials.
            close = 1e-6 if one.dtype == np.float32 else 1e-12
            np.testing.assert_allclose(one, other, rtol=close, atol=close, err_msg=str(case))


def test_two_threads_give_the_numbers_of_one(monkeypatch):
    monkeypatch.setattr(worlds_copies, "_may_use_threads", lambda: True)
    case = ("pg/TorqueArm-v0", {"n_joints": 4, "dynamics": "chain"})
    alone = played(*case, n=101)
    n_threads = []
    choose = lambda pace: n_threads.append(2) or 2  # noqa: E731
    monkeypatch.setattr(worlds_copies._Pace, "choose", choose)
    np.testing.assert_equal(played(*case, n=101), alone)
    assert len(n_threads) == 25


def test_wrong_actions_are_refused_by_two_threads_before_any_copy_moves(monkeypatch):
    monkeypatch.setattr(worlds_copies, "_may_use_threads", lambda: True)
    monkeypatch.setattr(worlds_copies._Pace, "choose", lambda pace: 2)
    env = gym.make_vec("pg/AliasedGridworld-v0", 100)
    env.reset(seed=0)
    before = env.unwrapped.state.copy()
    with pytest.raises(ValueError, match=r"`action` must be in Discrete\(4\), but is np.int64\(4\)"):
        env.step(np.arange(100) % 5)
    np.testing.assert_array_equal(env.unwrapped.state, before)


def beaten_by_habit(own, others, n):
    return (int(others[-1]) + 1) % n if len(others) else np.full(n, 1 / n)


@pytest.mark.parametrize("opponent", ["frequency", beaten_by_habit])
def test_held_matches_stay_as_they_are_and_go_on_as_if_nothing_had_been(opponent):
    moves = np.random.default_rng(0).integers(3, size=(12, 4))
    waited, straight = (gym.make_vec("pg/RPSMatch-v0", 4, opponent=opponent, n_rounds=20) for _ in range(2))
    waited.reset(seed=0)
    straight.reset(seed=0)
    rewards = []
    for t, row in enumerate(moves):
        if t == 5:
            waited.unwrapped.copies.held[1:3] = True
            for _ in range(3):
                _, given, terminated, truncated, _ = waited.step(np.zeros(4, dtype=np.int64))
                np.testing.assert_array_equal(given[1:3], 0)
                assert not (terminated | truncated).any()
            waited.unwrapped.copies.held[:] = False
        rewards.append((waited.step(row)[1], straight.step(row)[1]))
    kept = np.array(rewards)[:, :, 1:3]
    np.testing.assert_array_equal(kept[:, 0], kept[:, 1])


@pytest.mark.filterwarnings("ignore:.*has not been told")
def test_the_world_of_a_match_follows_the_policy_that_is_handed_over():
    env = gym.make_vec("pg/RPSMatch-v0", 5, opponent="oracle", n_rounds=30).unwrapped
    env.reset(seed=0)
    assert env.copies.address == 0  # steps in Python can warn
    for policy, answer in (([0.5, 0.3, 0.2], 1), ([0.2, 0.5, 0.3], 2), ([0.3, 0.2, 0.5], 0)):
        env.hand_over(policy)
        assert env.copies.address == env.copies.advance_address
        assert (env.step(np.zeros(5, dtype=np.int64))[4]["opponent_move"] == answer).all()


@pytest.mark.filterwarnings("ignore:.*has not been told")
@pytest.mark.parametrize("opponent", ["pattern", "oracle", beaten_by_habit])
def test_whole_matches_are_collected_whoever_the_opponent_is(opponent):
    env = make_vec("pg/RPSMatch-v0", 3, seed=0, env_kwargs={"opponent": opponent, "n_rounds": 6})
    REINFORCE("MlpPolicy", env, n_episodes=2, seed=0).learn(100)


def test_equations_in_numpy_train_too():
    class Echo(pg_envs.Dynamics):
        observation_space = spaces.Box(0, 1, (1,), np.float32)
        action_space = spaces.Discrete(2)

        def start(self, rngs):
            return (np.array([rng.integers(2, 6) for rng in rngs]),)

        def step(self, state, actions):
            return (state[0] - 1,), actions.astype(float), state[0] <= 1

        def observe(self, state):
            return np.ones((len(state[0]), 1), np.float32)

    model = REINFORCE("MlpPolicy", make_adapter(pg_envs.Batched(Echo(), 3)), n_episodes=2, seed=0)
    model.learn(100)


def make_adapter(env):
    from pg_agents.envs.adapter import VectorEnvAdapter

    return VectorEnvAdapter(env)
