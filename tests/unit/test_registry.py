"""The registry: names to classes, and plugins that cannot be used."""

import warnings
from types import SimpleNamespace

import gymnasium as gym
import pytest
import sb3_contrib
import stable_baselines3
from gymnasium.envs.classic_control import CartPoleEnv

import pg_agents
from pg_agents import registry


def entry(name, value, distribution="acme", version="1.0"):
    return SimpleNamespace(name=name, value=value, dist=SimpleNamespace(name=distribution, version=version))


@pytest.fixture
def install(monkeypatch):
    """Make the registry see these entry points of a group, and no others."""

    def install(group, *entries):
        monkeypatch.setattr(registry, "entry_points", lambda group: installed.get(group, []))
        installed[group] = entries

    installed = {}
    monkeypatch.setattr(registry, "_REGISTERED", {})
    return install


def register_an_environment():
    gym.register("RegistryTest-v0", entry_point=CartPoleEnv)


def fail():
    raise RuntimeError("out of order")


@pytest.fixture
def no_environment_left_behind():
    yield
    gym.registry.pop("RegistryTest-v0", None)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("reinforce", pg_agents.REINFORCE),
        ("reinforce_baseline", pg_agents.ReinforceBaseline),
        ("actor_critic", pg_agents.ActorCritic),
        ("a2c", pg_agents.A2C),
        ("a3c", pg_agents.A3C),
        ("ppo", pg_agents.PPO),
        ("sb3/ppo", stable_baselines3.PPO),
        ("sb3/a2c", stable_baselines3.A2C),
        ("contrib/trpo", sb3_contrib.TRPO),
    ],
)
def test_a_name_stands_for_its_class(name, cls):
    assert registry.algorithm(name) is cls


def test_every_reference_that_is_listed_can_be_imported():
    names = registry.reference_algorithms()
    assert {registry.algorithm(name).__name__.lower() for name in names} == {name.split("/")[1] for name in names}


def test_our_algorithms_come_from_our_own_distribution():
    assert registry.algorithms()["ppo"].distribution == f"pg-agents {pg_agents.__version__}"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("pppo", "ppo"),
        ("reinforse", "reinforce"),
        ("sb3/pp", "sb3/ppo"),
        ("PPO", "ppo"),
        ("recurrentppo", "contrib/recurrentppo"),
        ("xyzzy", None),
    ],
)
def test_an_unknown_name_suggests_the_nearest(typed, meant):
    hint = f" Did you mean '{meant}'?" if meant else ""
    with pytest.raises(ValueError, match=f"^Unknown algorithm '{typed}'.{hint.replace('?', '.')} Known: a2c, "):
        registry.algorithm(typed)


def test_an_unknown_name_says_how_a_plugin_becomes_known():
    with pytest.raises(ValueError, match=r"'mine'\..* group pg_agents\.algorithms, is installed: pip install -e \.$"):
        registry.algorithm("mine")


def test_make_hands_on_what_the_constructor_takes():
    model = pg_agents.make("ppo", "MlpPolicy", "CartPole-v1", n_steps=32, batch_size=16, seed=3)
    assert type(model) is pg_agents.PPO
    assert (model.n_steps, model.batch_size, model.seed) == (32, 16, 3)


def test_listing_imports_nothing(install):
    install(registry.ALGORITHMS, entry("broken", "a_module_that_does_not_exist:Algorithm"))
    assert registry.plugins(registry.ALGORITHMS)["broken"].distribution == "acme 1.0"


def test_a_plugin_that_cannot_be_imported_is_named_with_its_distribution(install):
    install(registry.ALGORITHMS, entry("broken", "a_module_that_does_not_exist:Algorithm"))
    with pytest.raises(registry.PluginError, match=r"'broken' .* of acme 1\.0 .*a_module_that_does_not_exist"):
        registry.algorithm("broken")


def test_a_plugin_that_is_no_algorithm_is_refused(install):
    install(registry.ALGORITHMS, entry("number", "math:pi"))
    with pytest.raises(registry.PluginError, match=r"'number' of acme 1\.0 is 3\.14.*not a subclass"):
        registry.algorithm("number")


def test_two_plugins_of_one_name_are_an_error_that_names_both(install):
    install(registry.ALGORITHMS, entry("twin", "math:pi", "acme"), entry("twin", "math:e", "zenith"))
    with pytest.raises(registry.PluginError, match=r"'twin': math:pi of acme 1\.0 and math:e of zenith 1\.0"):
        registry.algorithms()


def test_one_distribution_that_is_found_twice_is_no_duplicate(install):
    install(registry.ALGORITHMS, entry("ppo", "math:pi"), entry("ppo", "math:pi"))
    assert list(registry.plugins(registry.ALGORITHMS)) == ["ppo"]


@pytest.mark.usefixtures("no_environment_left_behind")
def test_environments_are_registered_once(install):
    install(registry.ENVS, entry("acme", f"{__name__}:register_an_environment"))
    assert registry.register_envs() == {"acme": ("RegistryTest-v0",)}
    # Gymnasium warns of an id that is registered again.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.register_envs() == {"acme": ("RegistryTest-v0",)}


@pytest.mark.usefixtures("no_environment_left_behind")
@pytest.mark.parametrize(
    "make",
    [
        lambda env_id: pg_agents.make("sb3/a2c", "MlpPolicy", env_id).env,
        lambda env_id: pg_agents.A2C("MlpPolicy", env_id).env,
        lambda env_id: pg_agents.make_vec(env_id),
    ],
    ids=["make", "constructor", "make_vec"],
)
def test_the_id_of_a_plugins_environment_is_known_in_python(install, make):
    install(registry.ENVS, entry("acme", f"{__name__}:register_an_environment"))
    assert isinstance(make("RegistryTest-v0").envs[0].unwrapped, CartPoleEnv)


@pytest.mark.usefixtures("no_environment_left_behind")
def test_an_environment_plugin_that_fails_is_left_out_with_a_warning(install):
    install(registry.ENVS, entry("a_bad", f"{__name__}:fail"), entry("good", f"{__name__}:register_an_environment"))
    with pytest.warns(registry.PluginWarning, match=r"'a_bad' \(acme 1\.0\) are left out: RuntimeError: out of order"):
        registered = registry.register_envs()
    assert registered == {"good": ("RegistryTest-v0",)}
