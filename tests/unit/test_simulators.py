"""Simulators say a thing once, on one line, whatever they write themselves."""

import gymnasium as gym
import pytest

from pg_zoo import simulators

mujoco = pytest.importorskip("mujoco")

UNSTABLE = "Nan, Inf or huge value in QACC at DOF 0. The simulation is unstable. Time = {}."


@pytest.fixture
def handler(monkeypatch):
    """The function that MuJoCo calls, which is put back afterwards."""
    before = mujoco.get_mju_user_warning()
    simulators._replace_handler.cache_clear()
    simulators.say_once("HalfCheetah-v5")
    yield mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(before)
    simulators._replace_handler.cache_clear()


def test_a_model_of_gymnasium_is_made_without_a_word(handler, capfd):
    gym.make("HalfCheetah-v5").close()
    assert capfd.readouterr() == ("", "")


def test_an_unstable_simulation_is_warned_of_once(handler, capsys):
    for time in (0.1, 0.2):
        handler(UNSTABLE.format(time))
    assert capsys.readouterr().err == f"pg-zoo: warning: MuJoCo: {UNSTABLE.format(0.1)}\n"
