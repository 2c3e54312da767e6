"""Our periodic callbacks count environment steps, whatever the number of environments; SB3's may never act."""

import itertools
import warnings

import pytest
import stable_baselines3
from fakes import TinyEnv, short, tiny_vec_env
from stable_baselines3.common import callbacks
from stable_baselines3.common.callbacks import EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env

from pg_agents import A2C, PPO, REINFORCE, CheckpointCallback, EvalCallback
from pg_agents.envs.make import make_vec
from pg_agents.looking import calls_until, passes_multiple


def steps_in(folder):
    return sorted(int(path.stem.split("_")[-2]) for path in folder.glob("*.zip"))


@pytest.mark.parametrize(
    ("n_envs", "every", "steps"),
    [
        (16, 1000, [1008, 2000, 3008, 4000]),  # all multiples of 16, each the first at or above one of 1,000
        (1, 7, [7, 14, 21]),
        (3, 10, [12, 21, 30]),
        (4, 3, [4, 8, 12, 16, 20, 24]),  # more environments than steps: at every call
    ],
)
def test_files_and_evaluations_come_after_so_many_steps(n_envs, every, steps, tmp_path):
    total = 4096 if n_envs == 16 else 30 if n_envs == 3 else 24
    agent = A2C("MlpPolicy", tiny_vec_env(n_envs), n_steps=total // n_envs, seed=0, device="cpu")
    evaluation = EvalCallback(
        make_vec_env(TinyEnv, 1), eval_freq=every, n_eval_episodes=1, verbose=0, log_path=str(tmp_path / "log")
    )
    agent.learn(total, callback=[CheckpointCallback(every, str(tmp_path)), evaluation])
    assert steps_in(tmp_path) == steps
    assert evaluation.evaluations_timesteps == steps


def test_a_count_goes_on_in_the_next_training_and_begins_anew_with_the_steps(tmp_path):
    agent = short(A2C, tiny_vec_env(2))
    callback = CheckpointCallback(20, str(tmp_path))
    agent.learn(32, callback=callback)
    agent.learn(32, callback=callback, reset_num_timesteps=False)
    assert steps_in(tmp_path) == [20, 40, 60]
    later = CheckpointCallback(50, str(tmp_path / "later"))  # 64 steps are behind it
    agent.learn(48, callback=later, reset_num_timesteps=False)
    assert steps_in(tmp_path / "later") == [100]
    agent.learn(64, callback=later)
    assert steps_in(tmp_path / "later") == [50, 100]


def test_worlds_are_left_at_the_steps_that_the_callbacks_need(tmp_path):
    found = []
    for world in (True, False):
        env = make_vec("pg/CartPole-v1", 3, world=True)
        agent = PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu")
        callback = CheckpointCallback(100, str(tmp_path / str(world)))
        if not world:
            callback.next_look = lambda: 1
        agent.learn(768, callback=callback)
        found.append(steps_in(tmp_path / str(world)))
    assert found == [[102, 201, 300, 402, 501, 600, 702]] * 2


def test_copies_that_wait_for_the_others_do_not_step(tmp_path):
    """A call then counts fewer steps than there are environments."""
    env = make_vec("pg/CartPole-v1", 4, world=True)
    agent = REINFORCE("MlpPolicy", env, n_episodes=2, seed=0, device="cpu")
    agent.learn(600, callback=CheckpointCallback(50, str(tmp_path)))
    steps = steps_in(tmp_path)
    assert [step // 50 for step in steps] == list(range(1, agent.num_timesteps // 50 + 1))
    assert all(step % 50 < 4 for step in steps)


@pytest.mark.parametrize("n_envs", [1, 3, 16])
def test_the_call_foretold_is_the_one_that_passes_a_multiple(n_envs):
    class Callback:
        model = A2C("MlpPolicy", tiny_vec_env(n_envs), device="cpu")

    for every in (1, 7, 48):
        for now in (0, 5, 96):
            Callback.model.num_timesteps = now
            calls = calls_until(every, Callback)
            steps = [now + number * n_envs for number in range(calls + 1)]
            passed = [passes_multiple(every, *pair) for pair in itertools.pairwise(steps)]
            assert passed == [False] * (calls - 1) + [True]


def test_algorithms_of_sb3_take_them(tmp_path):
    model = stable_baselines3.DQN("MlpPolicy", tiny_vec_env(2), learning_starts=1000, buffer_size=100, device="cpu")
    evaluation = EvalCallback(make_vec_env(TinyEnv, 1), eval_freq=10, n_eval_episodes=1, verbose=0)
    model.learn(40, callback=[CheckpointCallback(15, str(tmp_path)), evaluation])
    assert steps_in(tmp_path) == [16, 30]
    assert evaluation.last_mean_reward > 0


# SB3's own


@pytest.mark.parametrize("kind", ["checkpoint", "evaluation", "inside a list"])
def test_sb3s_callbacks_that_will_never_act_are_named_when_learn_begins(kind, tmp_path):
    agent = A2C("MlpPolicy", tiny_vec_env(16), n_steps=4, device="cpu")
    evaluation = callbacks.EvalCallback(make_vec_env(TinyEnv, 16), eval_freq=100, verbose=0)
    checkpoint = callbacks.CheckpointCallback(100, str(tmp_path))
    callback = {"checkpoint": checkpoint, "evaluation": evaluation, "inside a list": [[checkpoint], evaluation][1:]}
    with pytest.warns(
        UserWarning, match=r"SB3's (Eval|Checkpoint)Callback will not act.*=100 counts calls.* 12,"
    ) as told:
        agent.learn(192, callback=callback[kind])
    assert len(told) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("n_envs", "every", "callback"),
    [
        (16, 12, callbacks.CheckpointCallback),  # the twelfth call of twelve
        (16, 100, CheckpointCallback),  # which counts steps
        (1, 1000, callbacks.CheckpointCallback),  # calls are steps
        (16, 2, lambda every, folder: EveryNTimesteps(100, callbacks.CheckpointCallback(every, folder))),
    ],
)
def test_nothing_is_said_of_callbacks_that_act_or_count_steps(n_envs, every, callback, tmp_path):
    agent = A2C("MlpPolicy", tiny_vec_env(n_envs), n_steps=4, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.learn(192 if n_envs > 1 else 8, callback=callback(every, str(tmp_path)))
