"""The captured state of environments: put back into others of the same kind, it gives the same steps."""

from __future__ import annotations

import ctypes
import enum
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from functools import partial
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
from pg_agents.resuming.state import NotFittingError, NotStorableError, capture, put_back, snapshot

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


@dataclass(frozen=True)
class Phase:
    name: str
    speeds: tuple[float, ...]


@dataclass
class Enemy:
    x: float
    phase: Phase | None = None


class Holder:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def test_the_order_of_a_set_stays() -> None:
    numbers = {8, 0}
    holder = Holder(numbers=numbers)
    put_back(holder, capture(holder))
    assert list(holder.numbers) == [8, 0]  # type: ignore[attr-defined]
    assert holder.numbers is numbers  # type: ignore[attr-defined]
    state = capture(holder)
    numbers.clear(), numbers.update([0, 8])
    put_back(holder, state)
    assert list(numbers) == [8, 0]


def test_sets_whose_order_depends_on_memory_are_refused() -> None:
    with pytest.raises(NotStorableError, match="places in memory"):
        capture({Holder(), Holder()})


def test_frozen_objects_are_replaced() -> None:
    phases = Phase("slow", (1.0,)), Phase("fast", (2.0,))
    holder = Holder(phase=phases[0])
    state = capture(holder)
    put_back(holder, state)
    assert holder.phase is phases[0]  # type: ignore[attr-defined]
    holder.phase = phases[1]  # type: ignore[attr-defined]
    put_back(holder, state)
    assert holder.phase == Phase("slow", (1.0,))  # type: ignore[attr-defined]
    assert phases == (Phase("slow", (1.0,)), Phase("fast", (2.0,)))


def test_the_very_objects_can_be_restored() -> None:
    enemies = Enemy(1.0), Enemy(2.0)
    holder = Holder(enemy=enemies[0])
    before = snapshot(holder)
    holder.enemy = enemies[1]  # type: ignore[attr-defined]
    put_back(holder, before.state, objects=before.objects)
    assert holder.enemy is enemies[0]  # type: ignore[attr-defined]
    assert enemies == (Enemy(1.0), Enemy(2.0))


def test_objects_of_known_modules_are_made() -> None:
    fresh = Holder(enemies=[])
    put_back(fresh, capture(Holder(enemies=[Enemy(0.5, Phase("slow", (1.0,)))])))
    assert fresh.enemies == [Enemy(0.5, Phase("slow", (1.0,)))]  # type: ignore[attr-defined]


def test_no_object_of_another_module_is_made() -> None:
    state = capture(Holder(enemy=Enemy(0.5)))
    state["attributes"]["enemy"]["class"] = "subprocess.Popen"
    with pytest.raises(NotFittingError, match=r"enemy.*subprocess\.Popen"):
        put_back(Holder(enemy=None), state)


IMMUTABLE = [
    *(range(1, 9, 2), slice(1, None), datetime(2020, 1, 2, 3, tzinfo=timezone.utc)),
    *(date(2020, 1, 2), timedelta(days=1)),
    *(Decimal("1.50"), Fraction(1, 3), Path("a") / "b", np.datetime64("2020-01-01"), np.timedelta64(3, "s")),
]


@pytest.mark.parametrize("value", IMMUTABLE, ids=[type(value).__name__ for value in IMMUTABLE])
def test_immutable_values_are_kept(value: Any, tmp_path: Path) -> None:
    values.write(capture(Holder(value=value)), tmp_path, "state")
    state = values.read(tmp_path, "state")
    for before in (None, value):
        fresh = Holder(value=before)
        put_back(fresh, state)
        assert fresh.value == value  # type: ignore[attr-defined]
        assert type(fresh.value) is type(value)  # type: ignore[attr-defined]


def test_dates_in_arrays_are_kept(tmp_path: Path) -> None:
    days = np.array(["2020-01-01", "NaT"], "datetime64[D]")
    values.write(capture(Holder(days=days)), tmp_path, "state")
    fresh = Holder(days=None)
    put_back(fresh, values.read(tmp_path, "state"))
    np.testing.assert_array_equal(fresh.days, days)  # type: ignore[attr-defined]
    assert fresh.days.dtype == days.dtype  # type: ignore[attr-defined]


def counter(seen: list[int], n: int = 0) -> Callable[[], int]:
    def count() -> int:
        nonlocal n
        n += 1
        seen.append(n)
        return n

    return count


class Ticking:
    def __init__(self) -> None:
        self.inner = Enemy(0.0)
        self.count, self.tick, self.add = counter([]), self.inner.__repr__, partial([].append, [0])


def test_what_functions_hold_is_kept() -> None:
    one, other = Ticking(), Ticking()
    one.count(), one.count(), one.add.args[0].append(3)
    one.inner.x = 2.0
    put_back(other, capture(one))
    assert other.count() == 3
    assert other.add.args[0] == [0, 3]
    assert other.inner == Enemy(2.0)


def test_bare_generators_are_kept() -> None:
    one, other = Holder(bits=np.random.PCG64(1)), Holder(bits=np.random.PCG64(2))
    put_back(other, capture(one))
    assert other.bits.random_raw() == one.bits.random_raw()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(1, dtype=[("n", int)]),
        np.zeros(1, dtype=np.longdouble),
        ctypes.c_int(3),
        type("Power", (int,), {})(3),
        type("Bag", (dict,), {"__init__": lambda self: setattr(self, "n", 1)})(),
    ],
)
def test_states_that_would_be_lost_are_refused(value: Any) -> None:
    with pytest.raises(NotStorableError):
        capture(Holder(value=value))


def test_deep_structures_are_refused_because_files_have_limits() -> None:
    deep: Any = None
    for _ in range(100):
        deep = Enemy(0.0, deep)
    with pytest.raises(NotStorableError, match="in each other"):
        capture(deep)


def test_modules_keep_what_learns_and_what_counts() -> None:
    class Counting(th.nn.Linear):
        n = 0

        def __init__(self) -> None:
            super().__init__(2, 2)
            self.n = 0

    one, other = Counting(), Counting()
    one.weight.requires_grad_(False)
    one.n = 5
    put_back(other, capture(one))
    assert (other.weight.requires_grad, other.bias.requires_grad, other.n) == (False, True, 5)


def test_arrays_that_compiled_code_knows_keep_their_shapes() -> None:
    one, other = make_vec("CartPole-v1", 4, world=True), make_vec("CartPole-v1", 4, world=True)
    one.reset(), other.reset()
    for name in ("episode_lengths", "episode_returns"):
        state = capture(one)
        state["attributes"][name]["array"] = state["attributes"][name]["array"][:1].copy()
        with pytest.raises(NotFittingError, match=name):
            put_back(other, state)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(states=state["states"][:1]),
        lambda state: state.update(held=state["held"].astype(np.int64)),
        lambda state: state.update(constants=state["constants"][:0]),
        lambda state: state.update(_planned=state["_planned"].astype(np.float64)),
        lambda state: state.update(_planned=np.zeros((1, 9, 6), np.int64)),
        lambda state: state["_n_begun"].fill(-9),
        lambda state: state.pop("observed"),
    ],
)
def test_copies_refuse_arrays_of_another_kind(change: Callable[[dict[str, Any]], None]) -> None:
    copies = make_vec("CartPole-v1", 4, world=True).env.unwrapped.copies
    state = capture(copies)
    change(state["state"])
    with pytest.raises(NotFittingError):
        put_back(copies, state)
