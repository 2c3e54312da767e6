"""Training with several workers: what callbacks, files and logs see, and how it ends."""

import multiprocessing
import os
import signal
import time

import gymnasium as gym
import pytest
import torch as th
from fakes import FaultyEnv, Spy, TinyEnv, same, tiny_vec_env, weights
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from pg_agents import A3C, make_vec
from pg_agents.asynchronous.contract import Order
from pg_agents.asynchronous.parcels import Parcel, pack
from pg_agents.asynchronous.processes import Processes

ENVS = {"processes": TinyEnv, "threads": "pg/CartPole-v1"}


def a3c(backend="processes", env=None, **kwargs):
    env = ENVS[backend] if env is None else env
    engine = "mlp" if backend == "threads" else "autograd"
    return A3C("MlpPolicy", env, device="cpu", **{"n_workers": 2, "n_steps": 4, "seed": 0, "engine": engine, **kwargs})


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("backend", ENVS)
def test_all_steps_are_taken_and_told_to_callbacks(backend):
    spy = Spy(step=lambda spy: (spy.num_timesteps, spy.locals["worker"], spy.locals["dones"].shape))
    agent = a3c(backend)
    before = weights(agent)
    agent.learn(90, callback=spy)
    assert agent.num_timesteps == 92  # whole updates
    assert [told for told, *_ in spy.seen] == [*range(1, 93)]
    assert {worker for _, worker, _ in spy.seen} == {0, 1}
    assert {shape for *_, shape in spy.seen} == {(1,)}
    assert spy.events.count("rollout_start") == spy.events.count("rollout_end") == agent._n_updates == 23
    assert spy.events[-1] == "training_end"
    assert not same(before, weights(agent))


@pytest.mark.parametrize("backend", ENVS)
def test_skipped_callbacks_are_counted_as_if_they_had_been_called(backend, tmp_path):
    checkpoints = CheckpointCallback(40, str(tmp_path))
    a3c(backend).learn(100, callback=checkpoints, progress_bar=False)
    assert checkpoints.n_calls == 100
    assert {path.name for path in tmp_path.iterdir()} == {"rl_model_40_steps.zip", "rl_model_80_steps.zip"}


@pytest.mark.parametrize("backend", ENVS)
def test_a_callback_ends_the_training(backend):
    agent = a3c(backend)
    agent.learn(10_000, callback=lambda *_: agent.num_timesteps < 30)
    assert agent.num_timesteps == 30


def test_the_log_has_the_usual_keys_and_the_staleness(tmp_path):
    a3c("threads", tensorboard_log=str(tmp_path)).learn(2_000, log_interval=50)
    events = EventAccumulator(str(tmp_path / "A3C_1"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "train/learning_rate", "train/grad_norm"}
    assert tags >= {"train/policy_loss", "train/value_loss", "train/entropy_loss", "train/explained_variance"}
    assert tags >= {"train/staleness", "train/staleness_max", "rollout/advantage_mean", "rollout/ep_raw_rew_mean"}
    assert len(events.Scalars("train/staleness")) >= 8


@pytest.mark.parametrize("backend", ENVS)
def test_ctrl_c_keeps_what_was_learnt(backend, tmp_path):
    agent = a3c(backend)
    before = weights(agent)

    def interrupt(*_):
        if agent.num_timesteps == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return True

    with pytest.raises(KeyboardInterrupt):
        agent.learn(100_000, callback=interrupt)
    assert not same(before, weights(agent))
    agent.save(tmp_path / "agent")
    loaded = A3C.load(tmp_path / "agent", ENVS[backend]() if backend == "processes" else agent.env, n_workers=1)
    assert same(weights(loaded), weights(agent))
    assert loaded.learn(8, reset_num_timesteps=False).num_timesteps == agent.num_timesteps + 8


def test_a_workers_error_ends_the_training():
    with pytest.raises(ZeroDivisionError, match="at step 30") as caught:
        a3c(env=lambda: FaultyEnv(at=30, error=ZeroDivisionError("at step 30"))).learn(10_000)
    assert "fakes.py" in str(caught.value.__cause__)  # the traceback of the worker


class UnreadableError(Exception):
    """Is pickled, but not read again: pickle gives `__init__` the one argument of `Exception`."""

    def __init__(self, what, step):
        super().__init__(f"{what} at step {step}")


def test_an_error_that_cannot_be_sent_is_told_with_its_traceback():
    with pytest.raises(RuntimeError, match="UnreadableError: no luck at step 30") as caught:
        a3c(env=lambda: FaultyEnv(at=30, error=UnreadableError("no luck", 30))).learn(10_000)
    assert "fakes.py" in str(caught.value.__cause__)


def test_a_gradient_that_is_not_finite_ends_the_training():
    with pytest.raises(FloatingPointError, match="not finite"):
        a3c("threads", learning_rate=1e30).learn(10_000)


def test_a_worker_that_is_killed_ends_the_training():
    def kill(*_):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
        return True

    with pytest.raises(RuntimeError, match=r"Worker \d \(process \d+\) has died, with exit code -9"):
        a3c().learn(10_000, callback=kill)


def two_processes():
    agent = a3c()
    content = pack(agent)
    return Processes(agent.policy, [Parcel(content, start, n) for n, start in enumerate(agent.starts(2))])


def test_processes_are_served_in_turn():
    workers = two_processes()
    try:
        for worker in (0, 0, 1, 1):
            workers.submit(worker, Order(1, 0, 100))
        served = []
        for _ in range(2):
            assert all(pipe.poll(60) for pipe in workers._pipes)
            served.append(workers.next_report()[0])
        assert served == [0, 1]
    finally:
        workers.close()


def test_workers_end_with_their_parent():
    workers = two_processes()
    for pipe in workers._pipes:  # as when the parent dies
        pipe.close()
    for process in multiprocessing.active_children():
        process.join(20)
        assert process.exitcode == 0


def test_workers_begin_differently_and_learn_after_learn_too():
    agent = a3c()
    first, second = agent.starts(2), agent.starts(2)
    seeds = [start.seed for start in (*first, *second)]
    assert len(set(seeds)) == 4
    assert not th.equal(first[0].torch, second[0].torch)


def first_observations(agent):
    """Of each worker of the next `learn`."""
    content, starts = pack(agent), agent.starts(agent.n_workers)
    with th.random.fork_rng():  # a worker that is opened seeds torch's generator
        opened = [Parcel(content, start, n).open() for n, start in enumerate(starts)]
        return [tuple(worker.env.reset()[0]) for worker in opened]


@pytest.mark.parametrize("env", ["pg/CartPole-v1", "CartPole-v1"])
def test_without_a_seed_no_two_workers_see_the_same_episode(env):
    agent = a3c(env=env, seed=None, n_workers=3)
    agent.env.reset()  # a copy has the state of its generator
    assert len({seen for _ in range(3) for seen in first_observations(agent)}) == 9


def test_workers_begin_from_the_seed_that_was_set_last():
    agent, env = a3c(env="pg/CartPole-v1"), make_vec("pg/CartPole-v1", 2)
    first_observations(agent)
    agent.set_random_seed(5)
    env.seed(5)
    assert first_observations(agent) == [tuple(seen) for seen in env.reset()]
    assert len({*first_observations(agent), *map(tuple, env.reset())}) == 4


# What is refused


class Unpicklable(TinyEnv):
    def __reduce__(self):
        raise TypeError("no")


class WithBuffers(FlattenExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = nn.BatchNorm1d(3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"backend": "thread"}, "`backend` must be one of 'auto', 'threads', 'processes', 'ray', but is 'thread'"),
        ({"n_workers": 0}, "`n_workers` must be an integer at least 1, but is 0"),
        ({"delay": -1, "n_workers": 1}, "`delay` must be an integer at least 0, but is -1"),
        ({"delay": 1}, "`delay` is 1, which one worker in this process simulates, but `n_workers` is 2"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        A3C("MlpPolicy", TinyEnv(), **{"n_workers": 2, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"backend": "threads"}, "its environment is no world"),
        ({"backend": "threads", "env": "pg/CartPole-v1"}, "its engine is 'autograd', not 'mlp'"),
        ({"env": Unpicklable()}, r"cannot be copied for the workers \(TypeError: no\). Give an id, or a function"),
        ({"env": VecNormalize(tiny_vec_env())}, "statistics of a VecNormalize are not shared"),
        ({"policy_kwargs": {"features_extractor_class": WithBuffers}}, "also has buffers"),
        ({"policy_kwargs": {"optimizer_class": th.optim.SGD}}, "`optimizer_class` must be one of Adam, RMSprop"),
        (
            {"policy_kwargs": {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"momentum": 0.1}}},
            "`momentum` of RMSprop must not be set",
        ),
    ],
)
def test_what_workers_cannot_share_is_refused(kwargs, message):
    arguments = {"env": TinyEnv(), **kwargs}
    backend = arguments.pop("backend", "auto")
    agent = A3C("MlpPolicy", n_workers=2, backend=backend, engine="autograd", device="cpu", **arguments)
    with pytest.raises(ValueError, match=message):
        agent.learn(8)


def test_environments_that_gymnasium_made_are_made_again_where_they_cannot_be_copied():
    env = gym.make("CartPole-v1", max_episode_steps=7)
    env.unwrapped.lock = open(os.devnull)  # noqa: SIM115 - which cannot be pickled
    agent = a3c(env=env)
    agent.learn(60)
    assert max(episode["l"] for episode in agent.ep_info_buffer) == 7
    env.unwrapped.lock.close()
