"""A recipe builds of an entry what rl_zoo3's own `ExperimentManager` builds of it."""

import argparse
from contextlib import closing, contextmanager
from copy import deepcopy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import rl_zoo3.import_envs  # it registers environments without velocities
import yaml
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import EnvSpec
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import get_wrapper_class
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack, VecNormalize

from pg_agents.envs.make import make_vec
from pg_zoo.errors import UserError
from pg_zoo.lookup import find_algorithm, find_env
from pg_zoo.runs.endings import RecordedEndings
from pg_zoo.runs.recipe import is_atari, resolve

# Our names of rl_zoo3's algorithms. Its `ars` trains with one environment, whatever the entry says; ours does not.
NAMES = {"ppo": "sb3/ppo", "a2c": "sb3/a2c", "dqn": "sb3/dqn", "sac": "sb3/sac", "td3": "sb3/td3", "ddpg": "sb3/ddpg"}
NAMES |= {"trpo": "contrib/trpo", "tqc": "contrib/tqc", "qrdqn": "contrib/qrdqn", "crossq": "contrib/crossq"}
NAMES |= {"ppo_lstm": "contrib/recurrentppo", "ars": "contrib/ars"}
FILES = Path(rl_zoo3.__file__).parent / "hyperparams"
ENTRIES = {name: yaml.safe_load((FILES / f"{name}.yml").read_text()) for name in NAMES}
SEED = 7

# rl_zoo3 makes constant schedules of these, as SB3 does.
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")

# SB3's own opinion of some of rl_zoo3's entries.
pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")


class Images(gym.Env):
    """Episodes of five random images with channels last."""

    observation_space, action_space = spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.Discrete(2)

    def __init__(self, reward=1.0):
        self.given = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.integers(0, 256, (36, 36, 3), np.uint8), {}

    def step(self, action):
        self.t += 1
        return self.np_random.integers(0, 256, (36, 36, 3), np.uint8), self.given, self.t == 5, False, {}


@pytest.fixture(autouse=True)
def images(monkeypatch):
    find_env("pg/TorquePendulum-v0")  # registers all of this project's
    register(monkeypatch, "Images-v0", Images)


def register(monkeypatch, env, entry_point, **kwargs):
    monkeypatch.setitem(gym.registry, env, EnvSpec(env, entry_point=entry_point, kwargs=kwargs))


@contextmanager
def theirs(algo, env, entry, folder, **options):
    """rl_zoo3's manager, and the model that it sets up."""
    config = folder / "entry.yml"
    config.write_text(yaml.safe_dump({env: entry}))
    options = {"seed": SEED, "eval_freq": 10**6, "n_eval_envs": 2, "device": "cpu", **options}
    set_random_seed(SEED)
    manager = ExperimentManager(argparse.Namespace(), algo, env, str(folder / "logs"), config=str(config), **options)
    model, _ = manager.setup_experiment()
    with closing(model.get_env()), closing(eval_env_of(manager)):
        yield manager, model


def eval_env_of(manager):
    (callback,) = (one for one in manager.callbacks if isinstance(one, EvalCallback))
    return callback.eval_env


def recipe_of(algo, env, entry, **options):
    return resolve(NAMES[algo], find_algorithm(NAMES[algo]), env, entry, "a test", **options)


@contextmanager
def ours(recipe, vec_env="dummy"):
    """Evaluation environments and model, made in rl_zoo3's order."""
    set_random_seed(SEED)
    with closing(recipe.make_eval_envs(2, SEED, vec_env)) as eval_env, closing(recipe.make_envs(SEED, vec_env)) as env:
        yield eval_env, recipe.make_model(env, SEED, device="cpu")


def layers(env):
    """All wrappers from the outside in, and what they are set to."""
    found = []
    while hasattr(env, "venv"):
        found.append((type(env), settings(env)))
        env = env.venv
    # Ours mends only the end of SB3's processes.
    found.append((SubprocVecEnv if isinstance(env, SubprocVecEnv) else type(env), env.num_envs, env._seeds))
    for inner in getattr(env, "envs", ()):
        if isinstance(inner, RecordedEndings):  # ours: it only completes infos
            inner = inner.env
        while isinstance(inner, gym.Wrapper):
            found.append((type(inner), getattr(inner, "info_keywords", None), getattr(inner, "_skip", None)))
            inner = inner.env
        found.append((type(inner), inner.spec.kwargs, inner.action_space.np_random.bit_generator.state))
    return found


def settings(wrapper):
    if isinstance(wrapper, VecNormalize):
        names = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys", "training")
        return {name: getattr(wrapper, name) for name in names}
    return wrapper.stacked_obs.n_stack if isinstance(wrapper, VecFrameStack) else None


def meaning(arguments):
    """A constructor's arguments, with schedules as their values at some moments and noise as its numbers."""
    found = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, ActionNoise):
            found[name] = (type(value), value._mu.tolist(), value._sigma.tolist())
        elif callable(value) and not isinstance(value, type):
            found[name] = tuple(map(value, (1.0, 0.4, 0.0)))
        elif name in SCHEDULES and isinstance(value, (int, float)):
            found[name] = (value,) * 3
    return found


def assert_same_parameters(one, other):
    parameters, others = one.policy.state_dict(), other.policy.state_dict()
    assert parameters.keys() == others.keys()
    for name, value in parameters.items():
        np.testing.assert_array_equal(value.numpy(), others[name].numpy(), name)
    assert statistics(one) == statistics(other)


def statistics(model):
    env = model.get_vec_normalize_env()
    running = [getattr(env, name) for name in ("obs_rms", "ret_rms") if hasattr(env, name)]
    return [(one.mean.tolist(), one.var.tolist(), one.count) for one in running]


def assert_same(algo, env, entry, folder, vec_env="dummy", recipe_options=None, **options):
    recipe = recipe_of(algo, env, entry, **(recipe_options or {}))
    with (
        theirs(algo, env, entry, folder, vec_env_type=vec_env, **options) as (manager, model),
        ours(recipe, vec_env) as (our_eval_env, our_model),
    ):
        our_env = our_model.get_env()
        assert layers(our_env) == layers(model.get_env())
        assert layers(our_eval_env) == layers(eval_env_of(manager))
        used = recipe.settled(our_env).arguments
        if recipe.trained_agent:
            used = {name: used[name] for name in used.keys() - {"policy", "policy_kwargs"}}
        assert meaning(used) == meaning(manager._hyperparams)
        assert recipe.n_timesteps == manager.n_timesteps
        assert recipe.deterministic_evaluation == manager.deterministic_eval
        assert type(our_model) is type(model)
        assert our_model.seed == model.seed == SEED
        for progress in (1.0, 0.4, 0.0):
            assert our_model.lr_schedule(progress) == model.lr_schedule(progress)
        assert_same_parameters(our_model, model)
        return our_model


@pytest.mark.parametrize(
    ("algo", "env"),
    [
        ("ppo", "CartPole-v1"),  # schedules
        ("ppo", "MountainCarContinuous-v0"),  # normalisation, arguments of the policy
        ("ppo", "Acrobot-v1"),
        ("a2c", "CartPole-v1"),
        ("a2c", "Pendulum-v1"),  # exploration that depends on the state
        ("a2c", "MountainCar-v0"),
        ("trpo", "CartPole-v1"),
        ("trpo", "MountainCar-v0"),
        ("dqn", "CartPole-v1"),
        ("dqn", "MountainCar-v0"),
        ("sac", "Pendulum-v1"),
        ("sac", "MountainCarContinuous-v0"),
        ("td3", "Pendulum-v1"),  # normal noise
        ("ddpg", "MountainCarContinuous-v0"),  # Ornstein-Uhlenbeck noise
        ("tqc", "Pendulum-v1"),
        ("qrdqn", "CartPole-v1"),
        ("crossq", "Pendulum-v1"),
        ("ppo_lstm", "CartPoleNoVel-v1"),
    ],
)
def test_environments_arguments_and_parameters_are_those_of_rl_zoo3(algo, env, tmp_path):
    assert_same(algo, env, ENTRIES[algo][env], tmp_path)


@pytest.mark.parametrize(
    ("algo", "env", "steps"),
    [
        ("ppo", "CartPole-v1", 300),
        ("a2c", "Pendulum-v1", 200),
        ("trpo", "CartPole-v1", 1100),
        ("dqn", "CartPole-v1", 1100),
        ("sac", "Pendulum-v1", 150),
    ],
)
def test_a_training_arrives_at_rl_zoo3s_parameters(algo, env, steps, tmp_path):
    entry = ENTRIES[algo][env]
    with theirs(algo, env, entry, tmp_path) as (_, model), ours(recipe_of(algo, env, entry)) as (_, our_model):
        before = deepcopy(our_model.policy.state_dict())
        for one in (our_model, model):
            set_random_seed(SEED)  # both draw from the global generators
            one.learn(steps)
        assert_same_parameters(our_model, model)
        assert any((value != before[name]).any() for name, value in our_model.policy.state_dict().items())


@pytest.mark.parametrize("algo", NAMES)
def test_every_entry_means_what_rl_zoo3_makes_of_it(algo, tmp_path, monkeypatch):
    for env, entry in ENTRIES[algo].items():
        if env not in gym.registry:
            register(monkeypatch, env, "not_installed:Env")
        if not has_its_wrappers(entry):
            entry = {name: value for name, value in entry.items() if name != "env_wrapper"}
        recipe = recipe_of(algo, env, entry)
        manager = ExperimentManager(argparse.Namespace(), algo, env, str(tmp_path))
        arguments, env_wrapper, callbacks, vec_env_wrapper = manager._preprocess_hyperparams({**entry})
        assert meaning(recipe.arguments) == meaning(arguments)
        names = ("n_envs", "n_timesteps", "frame_stack")
        assert [getattr(recipe, name) for name in names] == [getattr(manager, name) for name in names]
        assert recipe.normalization == (manager.normalize_kwargs if manager.normalize else None)
        assert (recipe.env_wrapper is None) == (env_wrapper is None)
        assert (recipe.vec_env_wrapper, recipe.callbacks) == (vec_env_wrapper, callbacks) == (None, [])


def has_its_wrappers(entry):
    try:
        get_wrapper_class(entry)
    except ImportError:
        return False
    return True


SMALL = {"n_timesteps": 16, "policy": "MlpPolicy", "n_steps": 8, "batch_size": 8, "n_epochs": 1}
SKIP = {"rl_zoo3.wrappers.FrameSkip": {"skip": 2}}
GRAY = {"gymnasium.wrappers.transform_observation.GrayscaleObservation": {"keep_dim": True}}
PYTHON = {
    "policy_kwargs": "dict(net_arch=[int(2 * np.sqrt(4))], activation_fn=nn.ELU)",
    "normalize": "dict(gamma=0.5, clip_obs=2 * 3)",
    "monitor_kwargs": "{'info_keywords': tuple()}",
}


@pytest.mark.parametrize(
    ("env", "entry"),
    [
        ("Images-v0", {"policy": "CnnPolicy", "env_wrapper": [SKIP, GRAY], "frame_stack": 2, "n_envs": 2}),
        ("Images-v0", {"policy": "CnnPolicy", "normalize": "{'norm_obs': False, 'norm_reward': True}", "gamma": 0.9}),
        ("CartPole-v1", {"normalize": {"clip_obs": 2.0}, "gamma": 0.9, "frame_stack": 3}),
        ("CartPole-v1", {"normalize": {}, "env_wrapper": "gymnasium.wrappers.FlattenObservation"}),
        ("CartPole-v1", {"normalize": False, "vec_env_wrapper": "stable_baselines3.common.vec_env.VecCheckNan"}),
        ("CartPole-v1", {"monitor_kwargs": "dict(info_keywords=('x',))", "env_wrapper": None, "frame_stack": None}),
        ("CartPole-v1", {"policy": "stable_baselines3.common.policies.ActorCriticPolicy"}),
        ("CartPole-v1", {"policy_kwargs": {"net_arch": [5], "optimizer_kwargs": {"eps": 0.1}}}),
    ],
)
def test_what_rl_zoo3s_own_entries_do_not_show_is_built_alike(env, entry, tmp_path):
    assert_same("ppo", env, {**SMALL, **entry}, tmp_path)


def test_an_entry_stays_as_it_is_whatever_is_built_of_it():
    # SB3's A2C writes its optimiser into the arguments of its policy.
    entry = {"n_timesteps": 9, "policy": "MlpPolicy", "policy_kwargs": {"net_arch": [5]}, "normalize": {}, "gamma": 0.5}
    recipe, before = recipe_of("a2c", "CartPole-v1", entry), deepcopy(entry)
    with ours(recipe) as (_, model):
        assert "optimizer_class" in model.policy_kwargs
        assert recipe.settled(model.get_env()).entry == entry == before


def test_trusted_expressions_have_rl_zoo3s_values(tmp_path):
    model = assert_same("ppo", "CartPole-v1", {**SMALL, **PYTHON}, tmp_path, recipe_options={"trust": True})
    assert model.policy.net_arch == [4]
    with pytest.raises(UserError, match=r"monitor_kwargs is .*, which is code"):
        recipe_of("ppo", "CartPole-v1", {**SMALL, **PYTHON})


@pytest.mark.parametrize("kwargs", [{}, {"eval_env_kwargs": {"reward": 4.0}}])
def test_evaluation_environments_have_the_arguments_of_training_or_their_own(kwargs, tmp_path):
    entry = {**SMALL, "policy": "CnnPolicy", "env_kwargs": {"reward": 3.0}}
    # Without this option, rl_zoo3 forgets the entry's arguments in evaluation.
    option = {"env_kwargs": entry["env_kwargs"]}
    assert_same("ppo", "Images-v0", entry, tmp_path, recipe_options=kwargs, **kwargs, **option)


def test_environments_in_processes_of_their_own_are_built_alike(tmp_path):
    assert_same("ppo", "CartPole-v1", {**SMALL, "n_envs": 2, "normalize": True}, tmp_path, "subproc")


def test_callbacks_are_made_with_their_arguments():
    name = "stable_baselines3.common.callbacks.LogEveryNTimesteps"
    (callback,) = recipe_of("ppo", "CartPole-v1", {**SMALL, "callback": [{name: {"n_steps": 8}}]}).callbacks
    assert (type(callback).__name__, callback.n_steps) == ("LogEveryNTimesteps", 8)


@pytest.mark.parametrize(
    ("algo", "env", "entry"),
    [
        ("ppo", "Pendulum-v1", {**SMALL, "normalize": True, "learning_rate": "lin_0.01"}),
        ("sac", "Pendulum-v1", {"n_timesteps": 99, "policy": "MlpPolicy", "buffer_size": 50, "gamma": 0.5}),
    ],
)
def test_a_trained_agent_goes_on_with_its_statistics_and_its_replay_buffer(algo, env, entry, tmp_path):
    (tmp_path / "run" / env).mkdir(parents=True)
    with ours(recipe_of(algo, env, entry)) as (_, model):
        model.learn(24)
        model.save(tmp_path / "run/model.zip")
        if model.get_vec_normalize_env():
            model.get_vec_normalize_env().save(str(tmp_path / "run" / env / "vecnormalize.pkl"))
        if algo == "sac":
            model.save_replay_buffer(tmp_path / "run/replay_buffer.pkl")
    agent = {"trained_agent": str(tmp_path / "run/model.zip")}
    entry = {**entry, "gamma": 0.25, "policy_kwargs": {"net_arch": [7]}}
    trained = assert_same(algo, env, entry, tmp_path, recipe_options=agent, **agent)
    assert_same_parameters(trained, model)
    assert trained.gamma == 0.25
    assert algo != "sac" or trained.replay_buffer.pos == 24


def test_statistics_are_only_loaded_with_a_trained_agent(tmp_path, monkeypatch):
    # rl_zoo3 would take these, and unpickle them, from any folder in which it is started.
    (tmp_path / "CartPole-v1").mkdir()
    (tmp_path / "CartPole-v1/vecnormalize.pkl").write_bytes(b"anything")
    monkeypatch.chdir(tmp_path)
    with ours(recipe_of("ppo", "CartPole-v1", SMALL)) as (_, model):
        assert model.get_vec_normalize_env() is None


def test_hindsight_replay_and_the_success_of_goals_are_rl_zoo3s(tmp_path, monkeypatch):
    register(monkeypatch, "parking-v0", BitFlippingEnv, continuous=True, max_steps=4)
    model = assert_same("tqc", "parking-v0", {**ENTRIES["tqc"]["parking-v0"], "buffer_size": 50}, tmp_path)
    assert type(model.replay_buffer).__name__ == "HerReplayBuffer"
    assert model.get_env().envs[0].info_keywords == ("is_success",)


def kind(name, module):
    """An environment of which rl_zoo3 tells the kind by its name or module."""
    return type(name, (CartPoleEnv,), {"__module__": module})


@pytest.mark.parametrize(
    ("env", "entry_point"),
    [
        ("Pong-v0", kind("AtariEnv", "ale_py.env")),
        ("Grid-v0", kind("Grid", "minigrid.envs")),
        ("Reach-v0", kind("Reach", "panda_gym.envs")),
        ("Push-v0", kind("Push", "gym.envs.robotics")),
    ],
)
@pytest.mark.parametrize("monitor", [{}, {"monitor_kwargs": "dict(info_keywords=('x',))"}])
def test_kinds_of_environments_are_told_apart_as_in_rl_zoo3(env, entry_point, monitor, tmp_path, monkeypatch):
    register(monkeypatch, env, entry_point)
    assert_same("ppo", env, {**SMALL, **monitor}, tmp_path)
    assert is_atari(env) == ExperimentManager.is_atari(env) == (env == "Pong-v0")


@pytest.mark.parametrize(
    ("algo", "env", "entry", "message"),
    [
        ("td3", "Pendulum-v1", {"noise_type": "normal"}, "`noise_type` and `noise_std` go together"),
        ("td3", "Pendulum-v1", {"noise_type": "pink", "noise_std": 1}, "must be normal or ornstein-uhlenbeck.*'pink'"),
        ("dqn", "CartPole-v1", {"noise_type": "normal", "noise_std": 1}, "sb3/dqn has no hyperparameter 'noise_"),
        ("td3", "Images-v0", {"noise_type": "normal", "noise_std": 1}, "needs actions in a Box.* Discrete"),
    ],
)
def test_noise_that_cannot_be_made_is_refused_in_words(algo, env, entry, message):
    with pytest.raises(UserError, match=message), ours(recipe_of(algo, env, {"policy": "MlpPolicy", **entry})):
        pass


def test_noise_can_be_switched_off():
    entry = {"n_timesteps": 9, "noise_type": None, "noise_std": 0.1}
    with ours(recipe_of("td3", "Pendulum-v1", entry)) as (_, model):
        assert model.action_noise is None


def test_native_environments_have_the_same_layers_and_seeds():
    entry = {**SMALL, "n_envs": 3, "normalize": True, "gamma": 0.5, "frame_stack": 2}
    with ours(recipe_of("ppo", "pg/TorquePendulum-v0", entry), "native") as (eval_env, model):
        for env, trains in ((model.get_env(), True), (eval_env, False)):
            assert isinstance(env, VecFrameStack)
            assert (env.venv.gamma, env.venv.training, env.venv.norm_reward) == (0.5, trains, trains)
            native = make_vec("pg/TorquePendulum-v0", env.num_envs)
            native.seed(SEED)
            env.reset()
            with closing(native):
                np.testing.assert_array_equal(env.venv.get_original_obs(), native.reset())


@pytest.mark.parametrize("kind", ["native", "envpool"])
@pytest.mark.parametrize("entry", [{"env_wrapper": SKIP}, {"monitor_kwargs": {"allow_early_resets": True}}])
def test_environments_that_step_at_once_cannot_be_wrapped_one_by_one(entry, kind):
    recipe = recipe_of("ppo", "pg/TorquePendulum-v0", {**SMALL, **entry})
    with pytest.raises(UserError, match=f"--vec-env {kind} has no single environments"), ours(recipe, kind):
        pass
