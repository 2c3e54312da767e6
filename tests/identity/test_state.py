"""The captured state of environments: put back into others of the same kind, it gives the same steps."""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from pg_agents import make_vec
from pg_agents.files import values
from pg_agents.resuming.state import NotFittingError, NotStorableError, capture, put_back

ENVS: dict[str, Callable[[], VecEnv]] = {
    "DummyVecEnv": lambda: VecNormalize(make_vec_env("CartPole-v1", 3)),
    "stack": lambda: VecFrameStack(VecNormalize(make_vec_env("Pendulum-v1", 2)), 4),
    "world": lambda: VecNormalize(make_vec("CartPole-v1", 3, world=True)),
    "game": lambda: VecMonitor(make_vec("pg/PenaltyKick-v0", 3)),
    "vector": lambda: make_vec("CartPole-v1", 3),
    "toy": lambda: make_vec_env("FrozenLake-v1", 2),
    "wrappers": lambda: make_vec_env(
        "Pendulum-v1",
        2,
        wrapper_class=lambda env: gym.wrappers.NormalizeReward(gym.wrappers.NormalizeObservation(env)),
    ),
}


@pytest.mark.filterwarnings("ignore:The environment is already wrapped")
@pytest.mark.parametrize("kind", ENVS)
def test_another_environment_goes_on_alike(tmp_path: Path, kind: str) -> None:
    env, other = ENVS[kind](), ENVS[kind]()
    env.seed(3)
    env.reset()
    env.action_space.seed(0)
    actions = [np.array([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(60)]
    for action in actions[:30]:
        env.step(action)
    values.write(capture(env), tmp_path, "env")
    other.reset()
    put_back(other, values.read(tmp_path, "env"))
    for action in actions[30:]:
        (obs, rewards, dones, infos), after = env.step(action), other.step(action)
        assert np.array_equal(obs, after[0])
        assert np.array_equal(rewards, after[1])
        assert np.array_equal(dones, after[2])
        assert [info.get("episode", {}).get("r") for info in infos] == [
            info.get("episode", {}).get("r") for info in after[3]
        ]


def test_the_state_is_a_copy() -> None:
    env = make_vec_env("CartPole-v1", 2, seed=1)
    env.reset()
    state = capture(env)
    action = np.zeros(2, dtype=np.int64)
    first = env.step(action)[0].copy()
    for _ in range(30):
        env.step(action)
    put_back(env, state)
    assert np.array_equal(env.step(action)[0], first)


class Colour(enum.Enum):
    RED, BLUE = "red", "blue"


class Slotted:
    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class Thing:
    def __init__(self, seed: int) -> None:
        self.generators = [np.random.default_rng(seed), np.random.RandomState(seed), random.Random(seed)]
        self.shared = self.generators[0]
        self.numbers = np.arange(4.0) + seed
        self.view = self.numbers[1:]
        self.items = deque([seed, {"a": (seed, [seed])}], maxlen=5)
        self.colour = Colour.RED if seed else Colour.BLUE
        self.slotted, self.me = Slotted(seed), self
        self.objects = np.array([seed, "a", None], dtype=object)
        self.network = th.nn.Linear(2, 2)
        self.function: Any = lambda: seed


def test_everything_is_put_back_in_place() -> None:
    one, other = Thing(1), Thing(0)
    one.shared.random(), one.generators[2].random()
    kept = other.numbers, other.items, other.shared, other.function
    put_back(other, capture(one))
    assert np.array_equal(other.numbers, [1, 2, 3, 4])
    assert np.array_equal(other.view, [2, 3, 4])
    assert np.shares_memory(other.view, other.numbers)
    assert (other.items, other.colour, other.slotted.number) == (one.items, Colour.RED, 1)
    assert other.objects.tolist() == [1, "a", None]
    assert kept == (other.numbers, other.items, other.shared, other.function) or all(
        a is b for a, b in zip(kept, (other.numbers, other.items, other.shared, other.function), strict=True)
    )
    assert other.me is other
    assert other.shared is other.generators[0]
    assert th.equal(other.network.weight, one.network.weight)
    assert [other.shared.random(), other.generators[1].random(), other.generators[2].random()] == [
        one.shared.random(), one.generators[1].random(), one.generators[2].random()
    ]  # fmt: skip


def test_attributes_that_were_not_there_go() -> None:
    one, other = Thing(1), Thing(1)
    other.new = 3  # type: ignore[attr-defined]
    put_back(other, capture(one))
    assert not hasattr(other, "new")


class Simulator:
    """Its state is in compiled code; it tells it."""

    def __init__(self) -> None:
        self.engine = (i for i in range(3))  # a generator, which cannot be read
        self.at = 0

    def checkpoint_state(self) -> dict[str, int]:
        return {"at": self.at}

    def restore_checkpoint_state(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def test_tensors_and_arrays_that_were_not_there_come() -> None:
    numbers: dict[str, Any] = {"tensor": th.arange(3), "array": np.arange(3)}
    new = put_back(dict.fromkeys(numbers), capture(numbers))
    assert th.equal(new["tensor"], numbers["tensor"])
    assert np.array_equal(new["array"], numbers["array"])


def test_an_object_can_tell_its_state() -> None:
    one, other = Simulator(), Simulator()
    one.at = 2
    put_back([other], capture([one]))
    assert other.at == 2


@pytest.mark.parametrize(
    ("anything", "message"),
    [
        ({"a": (i for i in range(3))}, r"dict\['a'\] is a builtins\.generator"),
        ([iter([1, 2])], r"list\[0\] is a builtins\.list_iterator"),
        ({(1, object()): 2}, "which is not a plain value"),
    ],
)
def test_what_cannot_be_read_is_named(anything: Any, message: str) -> None:
    with pytest.raises(NotStorableError, match=message):
        capture(anything)


def test_other_processes_cannot_be_read() -> None:
    env = SubprocVecEnv([lambda: gym.make("CartPole-v1")])
    try:
        with pytest.raises(NotStorableError, match="SubprocVecEnv"):
            capture(env)
    finally:
        env.close()


def test_another_structure_is_refused_by_its_place() -> None:
    state = capture(make_vec_env("CartPole-v1", 1))
    with pytest.raises(NotFittingError, match=r"envs\[0\]"):
        put_back(make_vec_env("Pendulum-v1", 1), state)
