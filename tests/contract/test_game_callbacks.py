"""What callbacks hand over, keep and log, with SB3's algorithms and ours, on both engines."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
from pettingzoo import ParallelEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

import pg_agents
from pg_agents.envs.evaluation import deterministic_evaluation
from pg_envs import RPS, ExploitabilityCallback, HandOver, RPSMatch, SelfPlayVecEnv, SnapshotCallback, exploitability
from pg_envs.games.players import action_probabilities

OBSERVATIONS = ["none", "last"]
ALGORITHMS = {
    "SB3's PPO": lambda env: stable_baselines3.PPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=2, seed=0),
    "SB3's DQN": lambda env: stable_baselines3.DQN("MlpPolicy", env, learning_starts=8, seed=0, buffer_size=100),
    "autograd": lambda env: pg_agents.A2C("MlpPolicy", env, n_steps=16, seed=0, engine="autograd"),
    "compiled": lambda env: pg_agents.A2C("MlpPolicy", env, n_steps=16, seed=0, engine="mlp"),
}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_the_opponent_gets_the_policy_that_the_agent_plays_now(name, observation):
    env = make_vec_env("pg/RPSMatch-v0", 2, env_kwargs={"opponent": "oracle", "observation": observation})
    model = ALGORITHMS[name](env)
    for _ in range(2):  # a trained policy holds what autograd has left in it
        model.learn(48, callback=HandOver(), reset_num_timesteps=False)
    env.env_method("hand_over", model)
    seen = np.zeros((1, 3), np.float32) if observation == "last" else np.ones((1, 1), np.float32)
    for opponent in env.get_attr("opponent"):
        held = action_probabilities(opponent.policy, seen, 3)
        np.testing.assert_allclose(held, action_probabilities(model, seen, 3), atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*has not been told")  # the first training
def test_later_training_does_not_change_what_was_handed_over():
    env = make_vec_env("pg/RPSMatch-v0", 1, env_kwargs={"opponent": "oracle", "observation": "last"})
    model = ALGORITHMS["autograd"](env)
    model.learn(32)
    env.env_method("hand_over", model)
    held = env.get_attr("opponent")[0].policy
    seen = np.eye(3, dtype=np.float32)
    before = action_probabilities(held, seen, 3)
    model.learn(320)
    np.testing.assert_array_equal(action_probabilities(held, seen, 3), before)
    assert not np.array_equal(action_probabilities(model, seen, 3), before)


def test_policies_are_handed_over_to_other_processes():
    env = make_vec_env(  # "module:id", because the others have not imported it
        "pg_envs:pg/RPSMatch-v0", 2, env_kwargs={"opponent": "oracle", "observation": "last"}, vec_env_cls=SubprocVecEnv
    )
    ALGORITHMS["SB3's PPO"](env).learn(96, callback=HandOver())
    env.close()


def test_behind_vecnormalize_the_opponent_answers_the_policy_that_is_played():
    raw = make_vec_env("pg/RPSMatch-v0", 1, env_kwargs={"opponent": "oracle", "observation": "last"})
    model = ALGORITHMS["autograd"](VecNormalize(raw))
    model.learn(200, callback=HandOver())
    raw.env_method("hand_over", model)
    seen = np.eye(3, dtype=np.float32)
    held = action_probabilities(raw.get_attr("opponent")[0].policy, seen, 3)
    with_statistics = model.get_vec_normalize_env().normalize_obs(seen)
    played = model.policy.get_distribution(model.policy.obs_to_tensor(with_statistics)[0]).distribution.probs
    np.testing.assert_allclose(held, played.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_snapshots_can_be_taken_of_a_trained_model(name):
    env = SelfPlayVecEnv(RPS(observation="last"), 2, seat=0, opponent="snapshots")
    model = ALGORITHMS[name](env)
    model.learn(64, callback=SnapshotCallback(every=32))
    model.learn(64, callback=SnapshotCallback(every=32))
    assert len(env.snapshots) >= 4


def test_snapshots_are_refused_where_a_wrapper_changes_what_is_seen():
    env = SelfPlayVecEnv(RPS(observation="last"), 2, seat=0, opponent="snapshots")
    model = ALGORITHMS["autograd"](VecFrameStack(env, 2))
    with pytest.raises(ValueError, match="leave out wrappers that change observations"):
        model.learn(64, callback=SnapshotCallback())
    with pytest.raises(ValueError, match=r"`policy` must .*\(3,\), but has .*\(6,\)"):
        exploitability(model, RPS(observation="last"))


@pytest.mark.parametrize("name", ["SB3's PPO", "autograd", "compiled"])
def test_the_metrics_of_the_last_update_stay_in_the_logger(name):
    logged = []
    for callback in (None, ExploitabilityCallback(RPS())):
        model = ALGORITHMS[name](SelfPlayVecEnv(RPS(), 2))
        model.learn(256, callback=callback)
        logged.append({key for key in model.logger.name_to_value if key.startswith("train/")})
    assert logged[0] == logged[1] != set()


class Silent(ParallelEnv):
    """A game that says nothing of how to evaluate it."""

    metadata = {"name": "silent"}
    possible_agents = agents = ["a", "b"]

    def observation_space(self, agent):
        return gym.spaces.Box(0, 1, (1,))

    def action_space(self, agent):
        return gym.spaces.Discrete(2)


@pytest.mark.parametrize("wrap", [lambda env: env, VecNormalize])
def test_self_play_is_evaluated_with_its_own_randomness(wrap):
    assert not deterministic_evaluation(wrap(SelfPlayVecEnv(Silent(), 2)))
    assert deterministic_evaluation(wrap(DummyVecEnv([lambda: gym.make("CartPole-v1")])))


def test_a_users_opponent_is_never_asked_for_a_round_after_the_last():
    def by_heart(own, agents, n):
        return [0, 1, 2, 0, 1][len(own)]

    for mode in ("SameStep", "NextStep"):
        env = gym.make_vec("pg/RPSMatch-v0", 2, opponent=by_heart, n_rounds=5, autoreset_mode=mode)
        env.reset(seed=0)
        for _ in range(14):
            env.step(np.zeros(2, dtype=np.int64))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"observation": "..."}, "`observation` must be one of 'none', 'last' or a number of rounds"),
        ({"opponent": "a function"}, "`opponent` must be one of .* or an Opponent or a function, but is 'a function'"),
        ({"opponent": "fixed", "p": "abc"}, "`p` must be probabilities"),
        ({"opponent": "fixed", "p": [[1, 2], [3]]}, "`p` must be probabilities"),
    ],
)
def test_words_that_stand_for_a_value_are_not_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RPSMatch(**kwargs)


def test_a_model_that_sees_something_else_is_no_opponent():
    model = ALGORITHMS["autograd"](SelfPlayVecEnv(RPS(), 2))
    with pytest.raises(ValueError, match="`opponent` must observe"):
        SelfPlayVecEnv(RPS(observation="last"), 2, seat=0, opponent=model)


def test_an_oracle_that_knows_nobody_says_so():
    env = gym.make("pg/RPSMatch-v0", opponent="oracle").unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="The opponent 'oracle' has not been told the agent's policy"):
        env.step(0)
    env.step(0)  # once is enough


def test_the_opponent_of_an_evaluation_is_told_too():
    env, other = (pg_agents.make_vec("pg/RPSMatch-v0", 2, env_kwargs={"opponent": "oracle"}) for _ in range(2))
    model = ALGORITHMS["compiled"](env)
    model.learn(64, callback=HandOver(eval_env=other))
    told = [one.get_attr("opponent")[0].policy for one in (env, other)]
    np.testing.assert_array_equal(*told)
    with pytest.raises(ValueError, match="HandOver needs environments of pg/RPSMatch-v0"):
        pg_agents.A2C("MlpPolicy", "CartPole-v1").learn(5, callback=HandOver())
