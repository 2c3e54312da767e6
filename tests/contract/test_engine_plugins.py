"""Engines of other packages, which are found through entry points of the group `pg_agents.engines`."""

import re
import sys
from itertools import count
from pathlib import Path

import pytest
import torch as th
from fakes import TinyEnv, short
from gymnasium import spaces
from prose import saying, says

from pg_agents import PPO, TRPO
from pg_agents.registry import PluginError

PAGE = (Path(__file__).parents[2] / "docs/plugins.md").read_text()
(ENGINE,) = re.findall(r"^```python\n((?:(?!```).)*class TimedEngine.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
_modules = count()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution with one engine: what `pip install` leaves behind of it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(distribution, name, code, factory):
        module = f"acme_engine_{next(_modules)}"
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[pg_agents.engines]\n{name} = {module}:{factory}\n")
        return module

    return install


def agent(engine, **kwargs):
    return short(PPO, TinyEnv(spaces.Discrete(2)), engine=engine, seed=0, **kwargs)


def test_the_engine_of_the_page_acts_and_learns(install):
    module = install("acme", "timed", ENGINE, "make_timed")
    ours, theirs = agent("autograd").learn(16), agent("timed").learn(16)
    assert theirs.engine_in_use == "timed"
    assert type(theirs._engine).__module__ == module
    assert theirs.logger.name_to_value["train/seconds"] > 0
    assert all(map(th.equal, theirs.policy.parameters(), ours.policy.parameters()))


def test_an_agent_is_saved_and_loaded_with_the_name_of_its_engine(install, tmp_path):
    install("acme", "timed", ENGINE, "make_timed")
    agent("timed").learn(8).save(tmp_path / "agent")
    loaded = PPO.load(tmp_path / "agent", env=TinyEnv(spaces.Discrete(2)))
    assert (loaded.engine, loaded.learn(8).engine_in_use) == ("timed", "timed")


def test_listing_an_engine_imports_nothing(install):
    module = install("acme", "broken", "raise RuntimeError('out of order')", "make")
    agent("auto").learn(8)
    assert module not in sys.modules
    with pytest.raises(PluginError, match=saying("'broken'", "acme 1.0", "out of order")):
        agent("broken").learn(8)


def test_an_unknown_name_is_refused_with_those_that_there_are(install):
    install("acme", "timed", ENGINE, "make_timed")
    with pytest.raises(ValueError, match=saying("`engine`", "'auto'", "'autograd'", "'mlp'", "'timed'", "'timid'")):
        agent("timid")


def test_two_engines_of_one_name_are_an_error_that_names_both(install):
    install("acme", "timed", ENGINE, "make_timed")
    install("zenith", "timed", ENGINE, "make_timed")
    with pytest.raises(PluginError, match="'timed'") as error:
        agent("timed")
    assert all(says(str(error.value), distribution) for distribution in ("acme 1.0", "zenith 1.0"))


REFUSING = """
from pg_agents.contract import NotServedError


def make(policy, buffer, loss):
    raise NotServedError(f"it cannot clip the gradient to {loss.max_grad_norm}")
"""


def test_the_reason_of_an_engine_that_does_not_serve_is_a_value_error(install):
    install("acme", "choosy", REFUSING, "make")
    model = agent("choosy", max_grad_norm=0.25)
    with pytest.raises(ValueError, match=saying("`engine`", "'choosy'", "cannot clip the gradient to 0.25")):
        model.learn(8)


FIRST_ORDER = """
from pg_agents.engines.autograd import AutogradEngine


class FirstOrder:
    name = "first"

    def __init__(self):
        self.engine = AutogradEngine()
        for method in ("fits", "actor", "values", "final_values", "update"):
            setattr(self, method, getattr(self.engine, method))


def make(policy, buffer, loss):
    return FirstOrder()
"""


def test_an_engine_without_natural_steps_is_named_before_anything_is_collected(install):
    install("acme", "first", FIRST_ORDER, "make")
    model = short(TRPO, TinyEnv(spaces.Discrete(2)), engine="first")
    with pytest.raises(ValueError, match=saying("`engine`", "'first'", "`natural_update`", "TRPO", "'auto'")):
        model.learn(8)
    assert model.num_timesteps == 0
    agent("first").learn(8)


PREDICTING = (
    ENGINE
    + """

class Constant:
    def fits(self):
        return True

    def predict(self, observation, deterministic):
        return observation[0] if deterministic else None


class PredictingEngine(TimedEngine):
    def predictor(self, policy):
        return Constant()


def make_predicting(policy, buffer, loss):
    return PredictingEngine()
"""
)


def test_an_engine_with_a_predictor_answers_where_it_can_and_the_policy_elsewhere(install):
    install("acme", "predicting", PREDICTING, "make_predicting")
    model = agent("predicting")
    observation = model.observation_space.sample()
    assert model.predict(observation, deterministic=True)[0] in (0, 1)  # no engine has been made yet
    model.learn(8)
    assert model.predict(observation, deterministic=True) == (observation[0], None)
    assert model.predict(observation)[0] in (0, 1)
