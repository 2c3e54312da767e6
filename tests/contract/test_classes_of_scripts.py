"""Classes of a script are in its files as code, which does not run: the caller gives the classes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import hostile
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from pg_agents import A2C, PPO, NotAllowedError
from pg_agents.files.unpickling import loads

SCRIPT = """
import sys
import warnings
from functools import partial

import numpy as np
import torch as th
from stable_baselines3 import PPO as TheirPPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from pg_agents import PPO


class Layer(th.nn.Linear):
    pass


class Extractor(BaseFeaturesExtractor):
    numbers = {"a": np.arange(3), (1, 2): {3}, "b": th.optim.Adam}

    def __init__(self, space, n=3):
        super().__init__(space, n)
        self.layer = Layer(4, n)
        assert partial(int, "1")() == 1

    @property
    def size(self):
        return warnings and Extractor

    def forward(self, observations):
        return self.layer(observations)


class Policy(ActorCriticPolicy):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, features_extractor_class=Extractor)


if __name__ == "__main__":
    own = {"features_extractor_class": Extractor, "net_arch": [4], "optimizer_class": th.optim.Adam}
    agents = [PPO("MlpPolicy", "CartPole-v1", policy_kwargs=own), PPO(Policy, "CartPole-v1")]
    for i, agent in enumerate(agents):
        agent.save(f"agent{i}")
        loaded = PPO.load(f"agent{i}", custom_objects={"Extractor": Extractor, "Policy": Policy})
        assert type(loaded.policy.features_extractor) is Extractor
        for key, value in agent.policy.state_dict().items():
            assert th.equal(loaded.policy.state_dict()[key], value)
        TheirPPO.load(f"agent{i}")
        try:
            PPO.load(f"agent{i}")
        except ValueError as error:
            assert "as code" in str(error), error
        else:
            raise AssertionError
    assert type(PPO.load("agent0", policy_kwargs=own).policy.features_extractor) is Extractor
    print("done")
"""


def test_a_script_loads_what_it_has_saved(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


class Extractor(BaseFeaturesExtractor):
    def __init__(self, space: Any, n: int = 4) -> None:
        super().__init__(space, n)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations


def of_a_script(cls: type) -> type:
    cls.__module__, cls.__qualname__ = "__main__", cls.__name__
    return cls


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_policy_kwargs_given_again_take_the_place_of_code(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Extractor, "__module__", "__main__")
    given = {"features_extractor_class": Extractor, "net_arch": [4]}
    file = io.BytesIO()
    agent = algorithm("MlpPolicy", "CartPole-v1", policy_kwargs=given)
    agent.save(file)
    file.seek(0)
    with pytest.raises(NotAllowedError, match=r"the class __main__.Extractor as code"):
        algorithm.load(file)
    file.seek(0)
    loaded = algorithm.load(file, policy_kwargs=given)
    assert type(loaded.policy.features_extractor) is Extractor
    assert loaded.policy_kwargs == agent.policy_kwargs
    assert type(loaded.policy.optimizer) is type(agent.policy.optimizer)


def test_code_in_the_body_of_a_class_does_not_run() -> None:
    class Fires:
        def __reduce__(self) -> Any:
            return hostile.fire, ()

    @of_a_script
    class Mine:
        found = (Fires(), np.arange(3))

    hostile.FIRED.clear()
    written = cloudpickle.dumps([Mine, 1, {"a": Mine}])
    assert loads(written, source="here", classes={("__main__", "Mine"): Extractor}) == [Extractor, 1, {"a": Extractor}]
    assert not hostile.FIRED
    cloudpickle.loads(written)
    assert hostile.FIRED


def test_what_a_body_has_made_is_not_used_elsewhere() -> None:
    array, function = np.arange(3), lambda: 1

    @of_a_script
    class Mine:
        found = array
        run = function

    classes = {("__main__", "Mine"): Extractor}
    for shared in (array, function):
        with pytest.raises(NotAllowedError, match="shares objects with a class"):
            loads(cloudpickle.dumps([Mine, shared]), source="here", classes=classes)


def test_a_class_of_another_name_is_not_taken() -> None:
    @of_a_script
    class Other:
        pass

    with pytest.raises(NotAllowedError, match=r"the class __main__.Other as code"):
        loads(cloudpickle.dumps(Other), source="here", classes={("__main__", "Extractor"): Extractor})


def test_a_body_that_does_not_end_is_refused() -> None:
    unfinished = b"\x80\x04ccloudpickle.cloudpickle\n_class_setstate\n."
    with pytest.raises(NotAllowedError, match="class as code"):
        loads(unfinished, source="here")


def test_a_policy_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    @of_a_script
    class Mine(ActorCriticPolicy):
        pass

    file = io.BytesIO()
    PPO(Mine, "CartPole-v1", policy_kwargs={"net_arch": [2]}).save(file)
    file.seek(0)
    assert type(PPO.load(file, custom_objects={"any": Mine}).policy) is Mine
