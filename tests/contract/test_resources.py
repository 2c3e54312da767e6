"""Trainings leave nothing behind, and do not disturb each other in threads and processes."""

import gc
import multiprocessing
import os
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch as th
from fakes import TinyEnv
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pg_agents import A2C, PPO, REINFORCE
from pg_agents.envs.evaluation import EvalCallback
from pg_agents.envs.make import make_vec

SHORT = {PPO: {"n_steps": 16, "batch_size": 16, "n_epochs": 2}, A2C: {"n_steps": 8}, REINFORCE: {"n_episodes": 1}}
ENVS = {
    "world": partial(make_vec, "CartPole-v1", 2, world=True),
    "DummyVecEnv": partial(make_vec_env, "CartPole-v1", 2),
}
SMALL = {"net_arch": [8]}

on_linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc")


def agent_in(envs, cls, seed=0, **kwargs):
    return cls("MlpPolicy", ENVS[envs](), seed=seed, policy_kwargs=SMALL, device="cpu", **SHORT[cls], **kwargs)


def bits(agent):
    return b"".join(one.detach().numpy().tobytes() for one in agent.policy.parameters())


def blocks():
    """Blocks of memory that Python's objects fill."""
    gc.collect()
    return sys.getallocatedblocks()


@pytest.mark.parametrize("envs", ENVS)
@pytest.mark.parametrize("cls", SHORT)
def test_a_longer_training_needs_no_more_objects(cls, envs, tmp_path):
    def watchers():
        return [
            CheckpointCallback(50, tmp_path),
            EvalCallback(ENVS[envs](), eval_freq=100, n_eval_episodes=1, verbose=0),
        ]

    agent = agent_in(envs, cls, tensorboard_log=str(tmp_path)).learn(1500, callback=watchers())
    before = blocks()
    agent.learn(1500, callback=watchers())
    assert blocks() < 1.005 * before  # SB3's Monitor and EvalCallback keep a few numbers of each episode


def test_trainings_in_one_process_leave_no_objects():
    def train():
        for cls in SHORT:
            for envs in ENVS:
                agent_in(envs, cls).learn(32)

    train()
    train()
    before = blocks()
    for _ in range(8):  # 48 trainings
        train()
    assert blocks() < 1.001 * before


def test_tensorboard_leaves_no_threads(tmp_path):
    n_threads = threading.active_count()
    agent = agent_in("world", A2C, tensorboard_log=str(tmp_path))
    for _ in range(3):
        agent.learn(16)
    agent.logger.record("rollout/of_mine", 1.0)
    agent.dump_logs()
    assert threading.active_count() == n_threads + 1  # the agent may log again
    del agent
    gc.collect()
    assert threading.active_count() == n_threads


@on_linux
def test_saving_and_loading_leave_no_file_open(tmp_path):
    env = VecNormalize(DummyVecEnv([TinyEnv]))
    agent = A2C("MlpPolicy", env, policy_kwargs=SMALL).learn(10)
    n_files = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        agent.save(tmp_path / "agent")
        env.save(tmp_path / "statistics.pkl")
        VecNormalize.load(tmp_path / "statistics.pkl", DummyVecEnv([TinyEnv]))
        agent = A2C.load(tmp_path / "agent", env=env)
    assert len(os.listdir("/proc/self/fd")) <= n_files


@pytest.mark.parametrize("envs", ENVS)
@pytest.mark.parametrize("cls", [A2C, REINFORCE])
def test_trainings_in_two_threads_are_those_one_after_the_other(cls, envs):
    """Their engine draws actions from a generator of each agent; PPO's shuffling draws from NumPy's, as SB3's does."""
    pytest.importorskip("numba")
    expected = [bits(agent_in(envs, cls, seed, engine="mlp").learn(500)) for seed in (1, 2)]
    agents = [agent_in(envs, cls, seed, engine="mlp") for seed in (1, 2)]
    in_threads(agents)
    assert [bits(agent) for agent in agents] == expected


@pytest.mark.parametrize("engines", [("autograd", "autograd"), ("auto", "autograd"), ("auto", "auto")])
def test_any_two_trainings_may_share_a_process(engines):
    agents = [agent_in("world", PPO, seed, engine=engine) for seed, engine in enumerate(engines)]
    in_use = [agent.engine_in_use for agent in agents]
    in_threads(agents)
    assert [agent.engine_in_use for agent in agents] == in_use
    for agent in agents:
        assert agent.num_timesteps == 512
        assert np.isfinite(np.frombuffer(bits(agent), np.float32)).all()


def in_threads(agents):
    errors = []

    def train(agent):
        try:
            agent.learn(500)
        except BaseException as error:  # raised below
            errors.append(error)

    threads = [threading.Thread(target=train, args=(agent,)) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def train_elsewhere(queue, cls, engine, method):
    if method == "spawn":  # torch draws a policy's first parameters in another way on several threads
        th.set_num_threads(1)
    queue.put(bits(agent_in("world", cls, engine=engine).learn(200)))


@pytest.mark.parametrize(("method", "engine"), [("fork", "auto"), ("fork", "autograd"), ("spawn", "auto")])
def test_a_child_process_trains_as_its_parent_did(method, engine):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    n_threads = th.get_num_threads()
    try:
        th.set_num_threads(1)
        expected = bits(agent_in("world", PPO, engine=engine).learn(200))
        th.set_num_threads(2)
        th.randn(500, 500) @ th.randn(500, 500)  # OpenMP's threads have begun, and a forked child has none of them
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=train_elsewhere, args=(queue, PPO, engine, method), daemon=True)
        child.start()
        try:
            assert queue.get(timeout=120) == expected
        finally:
            child.join(5)
            child.kill()
            child.join()
    finally:
        th.set_num_threads(n_threads)
