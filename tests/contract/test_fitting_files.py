"""What a pickle holds fits together: compiled code and PyTorch take the shapes of spaces for granted."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from pg_agents import PPO, NotAllowedError
from pg_agents.files.unpickling import loads


def changed(space: Any, **attributes: Any) -> Any:
    vars(space).update(attributes)
    return space


SPACES: dict[str, Callable[[], Any]] = {
    "low": lambda: changed(spaces.Box(-1, 1, (3,)), low=np.zeros(1, np.float32)),
    "high": lambda: changed(spaces.Box(-1, 1, (3,)), high=np.zeros((3, 1), np.float32)),
    "shape": lambda: changed(spaces.Box(-1, 1, (1,)), _shape=(4000,)),
    "shape of floats": lambda: changed(spaces.Box(-1, 1, (1,)), _shape=(1.0,)),
    "type": lambda: changed(spaces.Box(-1, 1, (3,)), dtype=np.dtype(np.float64)),
    "mask": lambda: changed(spaces.Box(-1, 1, (3,)), bounded_below=np.ones(1, bool)),
    "mask of numbers": lambda: changed(spaces.Box(-1, 1, (3,)), bounded_above=np.ones(3)),
    "n": lambda: changed(spaces.Discrete(3), n=-1),
    "n of texts": lambda: changed(spaces.Discrete(3), n="3"),
    "start": lambda: changed(spaces.Discrete(3), start=0.5),
    "type of a number": lambda: changed(spaces.Discrete(3), dtype=np.dtype(float)),
    "counts": lambda: changed(spaces.MultiDiscrete([2, 3]), nvec=np.array([2])),
    "no counts": lambda: changed(spaces.MultiDiscrete([2, 3]), nvec=np.array([2, 0])),
    "starts": lambda: changed(spaces.MultiDiscrete([2, 3]), start=np.array([0])),
    "bits": lambda: changed(spaces.MultiBinary(3), n=4000),
    "bits of two axes": lambda: changed(spaces.MultiBinary([3, 2]), n=(3, 3)),
    "a part": lambda: spaces.Dict(a=changed(spaces.Box(-1, 1, (1,)), _shape=(4000,))),
    "no part": lambda: changed(spaces.Dict(a=spaces.Discrete(2)), spaces={"a": 1}),
}


@pytest.mark.parametrize("name", SPACES)
def test_a_space_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"other shapes or types than it says"):
        loads(pickle.dumps(SPACES[name]()), source="here")


def test_an_agent_reads_no_foreign_memory_for_its_actions(tmp_path: Any) -> None:
    agent = PPO("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [2]})
    agent.action_space.low = agent.action_space.low[:0].copy()
    agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"action_space.*other shapes or types than it says"):
        PPO.load(tmp_path / "agent")


def test_an_array_that_is_finished_later_is_checked_then() -> None:
    written = pickle.dumps(changed(spaces.Box(-1, 1, (1,)), low=np.zeros(3, np.float32)), protocol=2)
    assert written.count(b"_reconstruct") == 1
    with pytest.raises(ValueError, match=r"than it says"):
        loads(written, source="here")


def test_a_module_without_its_tables_is_refused() -> None:
    half = th.nn.Linear.__new__(th.nn.Linear)
    vars(half)["training"] = True
    with pytest.raises(ValueError, match=r"Linear does not have its _modules"):
        loads(pickle.dumps(half), source="here")
    wrong = th.nn.Linear(1, 1)
    vars(wrong)["_modules"] = {"a": 1}
    with pytest.raises(ValueError, match=r"Linear does not have its _modules"):
        loads(pickle.dumps(wrong), source="here")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_old_generators_are_read_whole(protocol: int, tmp_path: Any) -> None:
    old, twister = np.random.RandomState(3), np.random.Generator(np.random.MT19937(1))
    old.randn(), twister.random(3)
    written = pickle.dumps([old, twister], protocol)
    found, expected = loads(written, source="here"), pickle.loads(written)
    assert found[0].randn() == expected[0].randn()  # the second of a pair
    np.testing.assert_array_equal(found[0].rand(700), expected[0].rand(700))
    np.testing.assert_array_equal(found[1].random(700), expected[1].random(700))
    state = old.get_state(legacy=False)
    state["state"]["pos"] = 10**6  # beyond the numbers of the generator
    with pytest.raises(NotAllowedError, match="unknown state"):
        loads(_with_state(state), source="here")


def _with_state(state: dict[str, Any]) -> bytes:
    class Reduced:
        def __reduce__(self) -> Any:
            constructor = np.random.RandomState(0).__reduce__()[0]
            return constructor, ("MT19937",), state

    return pickle.dumps(Reduced())


def test_an_agent_with_an_old_generator_is_saved_and_loaded_again(tmp_path: Any) -> None:
    agent = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [2]})
    agent.noise = np.random.RandomState(3)
    agent.save(tmp_path / "first")
    PPO.load(tmp_path / "first").save(tmp_path / "second")
    assert PPO.load(tmp_path / "second").noise.rand() == np.random.RandomState(3).rand()
