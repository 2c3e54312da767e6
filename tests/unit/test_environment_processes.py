"""Environments in processes of their own: an error in one says where it was, and costs no agent."""

import os
import signal
from functools import partial

import pytest
from fakes import FaultyEnv, TinyEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecMonitor, VecNormalize

from pg_agents import A2C, evaluate_policy
from pg_agents.envs.processes import EnvironmentFailedError, ProcessesVecEnv

OUT_OF_ORDER = partial(FaultyEnv, at=7, error=ValueError("out of order"))


def forked(cls, *makers):
    """With "fork", SB3's class notices of several processes only that the first has ended."""
    return cls(list(makers), start_method="fork")


def learning(env):
    """What is raised by a training in which the last environment fails in its seventh step, and the agent."""
    agent = A2C("MlpPolicy", env, n_steps=5, seed=0, device="cpu", engine="autograd")
    with pytest.raises(EnvironmentFailedError) as failed:
        agent.learn(100)
    env.close()
    return failed.value, agent


@pytest.mark.parametrize("wrapper", [lambda env: env, VecNormalize])
def test_an_error_comes_with_the_number_of_its_environment_and_with_its_traceback(wrapper):
    error, _ = learning(wrapper(forked(ProcessesVecEnv, TinyEnv, OUT_OF_ORDER)))
    assert str(error) == "Environment 1 raised ValueError: out of order"
    assert "fakes.py" in str(error.__cause__)
    assert "raise self.error" in str(error.__cause__)


@pytest.mark.parametrize("cls", [ProcessesVecEnv, SubprocVecEnv])
def test_the_agent_is_saved_and_goes_on_with_new_environments(cls, tmp_path):
    _, agent = learning(forked(cls, OUT_OF_ORDER))
    assert agent.num_timesteps == 6
    agent.save(tmp_path / "agent")
    loaded = A2C.load(tmp_path / "agent", env=make_vec_env(TinyEnv, 1), device="cpu")
    assert loaded.learn(10, reset_num_timesteps=False).num_timesteps == 16


def test_of_a_process_of_sb3s_class_what_is_known_is_said():
    error, _ = learning(VecNormalize(forked(SubprocVecEnv, OUT_OF_ORDER)))
    assert str(error).startswith("The process of environment 0 has ended, with exit code 1. SB3's SubprocVecEnv leaves")
    assert isinstance(error.__cause__, (EOFError, ConnectionResetError))


@pytest.mark.parametrize("cls", [ProcessesVecEnv, SubprocVecEnv])
def test_a_process_that_is_killed_is_named_with_its_signal(cls):
    env = forked(cls, TinyEnv)
    os.kill(env.processes[0].pid, signal.SIGKILL)
    env.processes[0].join()
    error, _ = learning(env)
    assert str(error).startswith("The process of environment 0 has ended, with exit code -9: it may have run out of")
    assert "traceback" not in str(error)


class TalkativeEnv(TinyEnv):
    """One that sends more than a pipe holds."""

    def step(self, action):
        observation, *rest, _ = super().step(action)
        return observation, *rest, {"words": "word" * 250_000}


@pytest.mark.parametrize("sibling", [TinyEnv, TalkativeEnv])
def test_sb3s_class_is_closed_after_an_error_whatever_the_other_environments_have_answered(sibling):
    env = forked(SubprocVecEnv, OUT_OF_ORDER, sibling)
    processes = env.processes
    learning(VecNormalize(env))
    assert env.closed
    assert [process.exitcode for process in processes] == [1, 0]


def test_an_error_of_a_callback_is_its_own():
    def callback(*_):
        raise EOFError("of a file")

    env = forked(ProcessesVecEnv, TinyEnv)
    with pytest.raises(EOFError, match="of a file"):
        A2C("MlpPolicy", env, device="cpu", engine="autograd").learn(10, callback=callback)
    env.close()


def test_an_environment_that_cannot_be_made_leaves_no_process():
    def broken():
        raise OSError("no such level")

    with pytest.raises(EnvironmentFailedError, match="Environment 0 raised OSError: no such level"):
        forked(ProcessesVecEnv, broken, TinyEnv)


def test_an_evaluation_says_it_too():
    env = VecMonitor(forked(ProcessesVecEnv, OUT_OF_ORDER))
    with pytest.raises(EnvironmentFailedError, match="Environment 0 raised ValueError: out of order"):
        evaluate_policy(A2C("MlpPolicy", TinyEnv(), device="cpu"), env)
    env.close()
