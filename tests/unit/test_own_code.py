"""Which code counts as the user's own, whose errors are shown with their traceback."""

from importlib.metadata import EntryPoint

import pytest
from gymnasium import Env

from pg_agents import registry
from pg_zoo import errors, lookup
from pg_zoo.errors import UserError, is_of_environment

INSTALLED = "/usr/lib/python3/site-packages"
SOURCE = """
class Faulty(Env):
    def step(self, action):
        raise ValueError("out of order")
"""


def error_in(name, path):
    """An error of an environment in the module with this name and path."""
    module = {"__name__": name, "Env": Env}
    exec(compile(SOURCE, path, "exec"), module)
    try:
        module["Faulty"]().step(0)
    except ValueError as error:
        error.__traceback__ = error.__traceback__.tb_next  # without this file, which is no library
        return error


@pytest.mark.parametrize(
    ("name", "path", "own"),
    [
        ("mine", "/home/me/mine.py", True),
        ("__main__", "/home/me/mine.py", True),
        ("mujoco.viewer", f"{INSTALLED}/mujoco/viewer.py", False),
        ("yaml", "/usr/lib/python3/dist-packages/yaml.py", False),
        ("json.decoder", "/usr/lib/python3/json/decoder.py", False),
        ("pg_envs.games", "/home/me/pg-agents/envs/pg_envs/games.py", False),
        ("numba_made_this", "<string>", False),
    ],
)
def test_what_is_neither_installed_nor_pythons_nor_ours_is_the_users(name, path, own):
    error = error_in(name, path)
    assert is_of_environment(error) is own
    assert (errors._own_code(error) is not None) is own


def test_a_plugin_is_the_users_own_wherever_it_is_installed(monkeypatch):
    error = error_in("acme.envs", f"{INSTALLED}/acme/envs.py")
    assert not is_of_environment(error)
    entry = EntryPoint("acme", "acme.plugin:register", registry.ENVS)
    monkeypatch.setattr(errors, "entry_points", lambda group: [entry] if group == registry.ENVS else [])
    assert is_of_environment(error)


def test_gym_packages_are_the_users_own_wherever_they_are_installed(monkeypatch):
    monkeypatch.setattr(errors, "_GIVEN", set())
    error = error_in("acme.envs", f"{INSTALLED}/acme/envs.py")
    with pytest.raises(UserError, match="acme"):
        lookup.import_packages(["acme.registration"])
    assert is_of_environment(error)
