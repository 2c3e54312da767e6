"""What the command line says of environments that it does not find."""

import importlib.util

import pytest

from pg_zoo.errors import UserError
from pg_zoo.lookup import find_env


def test_a_minigrid_without_its_package_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'MiniGrid-Nowhere-v0'.* pip install 'pg-agents\[envs\]'"):
        find_env("MiniGrid-Nowhere-v0")


def test_a_game_for_several_agents_is_named_as_one():
    with pytest.raises(UserError, match=r"'pg_envs/rps-v0'.* PettingZoo game"):
        find_env("pg_envs/rps-v0")
