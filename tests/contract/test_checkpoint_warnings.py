"""What a checkpoint does not hold is named when the training begins, not when it is resumed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from pg_agents import PPO, Checkpoint
from pg_agents.buffers import RolloutBuffer
from pg_agents.resuming.state import NotFittingError

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0, "policy_kwargs": {"net_arch": [4]}}


def small(cls: type[PPO] = PPO, **kwargs: Any) -> PPO:
    return cls("MlpPolicy", "CartPole-v1", **SMALL, **kwargs)


class Adds(BaseCallback):
    """Gives the agent an attribute."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.make = make

    def _on_step(self) -> bool:
        self.model.added = self.make()
        return True


@pytest.mark.parametrize("make", [lambda: th.nn.Linear(1, 1), lambda: [th.nn.Linear(1, 1)]])
def test_what_a_callback_gives_the_agent_is_named_and_left_out(make: Callable[[], Any], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"agent\.added, a .*, was not there after construction"):
        small().learn(48, callback=[Checkpoint(tmp_path, 16), Adds(make)])
    with pytest.warns(UserWarning, match=r"agent\.added, a .*, is left out"):
        agent = PPO.resume(tmp_path)
    with pytest.warns(UserWarning, match=r"agent\.added"):
        assert agent.learn_on(64, callback=[Adds(make)]).num_timesteps == 64


def test_numbers_that_a_callback_gives_the_agent_are_kept_without_a_word(tmp_path: Path) -> None:
    made = {
        "a": [np.arange(3), th.ones(2)],
        "generators": [np.random.default_rng(0), np.random.RandomState(3), th.Generator().manual_seed(3)],
    }
    small().learn(32, callback=[Checkpoint(tmp_path, 16), Adds(lambda: made)])
    added = PPO.resume(tmp_path).added
    assert added["a"][0].tolist() == [0, 1, 2]
    assert [added["generators"][i].random() for i in (0, 1)] == [made["generators"][i].random() for i in (0, 1)]
    assert added["generators"][2].get_state().equal(made["generators"][2].get_state())


class Sgd(PPO):
    """Makes another optimiser."""

    def _setup_model(self) -> None:
        super()._setup_model()
        self.policy.optimizer = th.optim.SGD(self.policy.parameters(), lr=0.01, momentum=0.9)


def test_an_optimiser_that_was_replaced_is_named(tmp_path: Path) -> None:
    agent = small()
    agent.policy.optimizer = th.optim.SGD(agent.policy.parameters(), lr=0.01, momentum=0.9)
    with pytest.warns(UserWarning, match=r"agent\.policy\.optimizer was replaced after construction by a .*SGD"):
        agent.learn(32, callback=Checkpoint(tmp_path, 16))
    with pytest.raises(NotFittingError, match=r"Adam.*but the checkpoint's had .*SGD.*optimizer_class"):
        PPO.resume(tmp_path)


def test_parameters_in_other_groups_are_named(tmp_path: Path) -> None:
    agent = small()
    groups = [{"params": list(agent.policy.parameters())[:2]}, {"params": list(agent.policy.parameters())[2:]}]
    agent.policy.optimizer = th.optim.Adam(groups)
    with pytest.warns(UserWarning, match=r"agent\.policy\.optimizer was replaced"):
        agent.learn(32, callback=Checkpoint(tmp_path, 16))


def test_an_optimiser_of_the_constructor_is_not_named(tmp_path: Path) -> None:
    small(Sgd).learn(32, callback=Checkpoint(tmp_path, 16))
    assert type(Sgd.resume(tmp_path).policy.optimizer) is th.optim.SGD


class Shaped(PPO):
    """Keeps an argument under another name."""

    def __init__(self, *args: Any, shape: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shape = shape


def test_an_argument_under_another_name_is_asked_for(tmp_path: Path) -> None:
    small(Shaped, shape=abs).learn(32, callback=Checkpoint(tmp_path, 16))
    with pytest.raises(ValueError, match=r"no attribute 'shape'.*shape=\.\.\."):
        Shaped.resume(tmp_path)
    assert Shaped.resume(tmp_path, shape=abs)._shape is abs


class Counting(RolloutBuffer):
    """Counts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.count = 0
        super().__init__(*args, **kwargs)


def test_the_state_of_a_buffer_of_ones_own_is_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"a Counting, are left out of checkpoints: count\."):
        small(rollout_buffer_class=Counting).learn(32, callback=Checkpoint(tmp_path, 16))


class Thing:
    """An object."""


class Keeps(BaseCallback):
    """Has parts of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.thing, self.pairs = Thing(), {(1, 2): 3}
        self.function, self.path, self.inner = print, Path("a"), [Adds(int)]
        self.number, self.table = 1, {"a": np.ones(2)}

    def _on_step(self) -> bool:
        return True


def test_attributes_of_callbacks_that_are_left_out_are_named_once(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        small().learn(48, callback=[Checkpoint(tmp_path, 16), Keeps()])
    texts = [str(one.message) for one in told if "left out" in str(one.message)]
    assert [text.partition(",")[0] for text in texts] == ["Keeps.thing", "Keeps.pairs"]


class Inner(BaseCallback):
    """Trains the agent inside its training, once."""

    is_done = False

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if not self.is_done:
            self.is_done = True
            self.model.learn(16, reset_num_timesteps=False)


def test_a_training_inside_a_training_leaves_its_checkpoints_alone(tmp_path: Path) -> None:
    agent = small().learn(64, callback=[Checkpoint(tmp_path, 16), Inner()])
    assert agent.current_run is None
    assert list(tmp_path.glob("step_*"))


def test_learn_forgets_what_was_interrupted(tmp_path: Path) -> None:
    small().learn(32, callback=Checkpoint(tmp_path, 16))
    before = sorted(path.name for path in tmp_path.iterdir())
    agent = PPO.resume(tmp_path)
    with pytest.warns(UserWarning, match="`learn` begins a new training .* `learn_on` goes on"):
        agent.learn(32)
    with pytest.raises(ValueError, match="`learn_on` goes on with what `resume` has read"):
        agent.learn_on(64)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
