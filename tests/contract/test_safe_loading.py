"""What is no attack loads: our files, SB3's, sb3-contrib's, and those of their old versions."""

import io
import pickle
from collections import deque

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import constant_fn, get_linear_fn, get_schedule_fn
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import pg_agents
from pg_agents import PPO, REINFORCE, NotAllowedError, load_agent, load_normalization, load_policy
from pg_agents.files.agents import load_replay_buffer
from pg_agents.files.allowed import find
from pg_agents.files.archives import read_agent, read_pickle
from pg_agents.files.unpickling import loads
from pg_zoo.evidence.agents import AGENTS

SHIPPED = sorted(path.relative_to(AGENTS).as_posix() for path in AGENTS.rglob("*.zip"))
NORMALIZERS = sorted(path.relative_to(AGENTS).as_posix() for path in AGENTS.rglob("vecnormalize.pkl"))


def same(one, other):
    """Whether two objects are of the same types and have the same content."""
    if type(one) is not type(other):
        return False
    if isinstance(one, th.nn.Module):
        return all(map(th.equal, one.state_dict().values(), other.state_dict().values()))
    if isinstance(one, np.random.Generator):
        return one.bit_generator.state == other.bit_generator.state
    if isinstance(one, np.ndarray):
        return (
            one.dtype == other.dtype
            and one.flags.writeable == other.flags.writeable
            and one.tobytes() == other.tobytes()
        )
    if isinstance(one, th.Tensor):
        return th.equal(one, other)
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    if isinstance(one, type) or not hasattr(one, "__dict__"):
        return one == other
    return same(vars(one), vars(other))


def test_nothing_is_lost_on_the_way_from_here():
    assert (len(SHIPPED), len(NORMALIZERS)) == (51, 16)


@pytest.mark.parametrize("name", SHIPPED)
def test_agents_that_come_along_are_read_as_sb3_reads_them(name):
    data, parameters, _ = load_from_zip_file(AGENTS / name, device="cpu")
    file = read_agent(AGENTS / name)
    assert same(file.data, data)
    found = file.parameters()
    assert found.keys() == parameters.keys()
    assert all(map(th.equal, found["policy"].values(), parameters["policy"].values()))


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalisers_that_come_along_are_read_as_sb3_reads_them(name):
    assert same(vars(read_pickle(AGENTS / name)), vars(pickle.loads((AGENTS / name).read_bytes())))


class Masked(gym.Wrapper):
    def action_masks(self):
        return np.array([True, True])


SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 1}
OFF = {"learning_starts": 8, "buffer_size": 32, "batch_size": 8}
SDE = {"use_sde": True, "clip_range_vf": 0.2, "policy_kwargs": {"activation_fn": th.nn.ReLU}}
ONES = np.ones(1)
# Of SB3's and sb3-contrib's algorithms, with what else their files hold: policy, environment, arguments.
THEIRS = {
    "PPO": (stable_baselines3.PPO, "MlpPolicy", "CartPole-v1", SMALL),
    "PPO with gSDE": (stable_baselines3.PPO, "MlpPolicy", "Pendulum-v1", {**SMALL, **SDE}),
    "A2C": (stable_baselines3.A2C, "MlpPolicy", "CartPole-v1", {}),
    "DQN": (stable_baselines3.DQN, "MlpPolicy", "CartPole-v1", OFF),
    "SAC": (stable_baselines3.SAC, "MlpPolicy", "Pendulum-v1", OFF),
    "TD3": (stable_baselines3.TD3, "MlpPolicy", "Pendulum-v1", {**OFF, "action_noise": NormalActionNoise(ONES, ONES)}),
    "DDPG": (
        stable_baselines3.DDPG,
        "MlpPolicy",
        "Pendulum-v1",
        {**OFF, "action_noise": OrnsteinUhlenbeckActionNoise(ONES, ONES)},
    ),
    "TRPO": (sb3_contrib.TRPO, "MlpPolicy", "CartPole-v1", {"n_steps": 16, "batch_size": 16}),
    "MaskablePPO": (sb3_contrib.MaskablePPO, "MlpPolicy", Masked(gym.make("CartPole-v1")), SMALL),
    "RecurrentPPO": (sb3_contrib.RecurrentPPO, "MlpLstmPolicy", "CartPole-v1", SMALL),
    "QRDQN": (sb3_contrib.QRDQN, "MlpPolicy", "CartPole-v1", OFF),
    "TQC": (sb3_contrib.TQC, "MlpPolicy", "Pendulum-v1", OFF),
    "CrossQ": (sb3_contrib.CrossQ, "MlpPolicy", "Pendulum-v1", OFF),
    "ARS": (sb3_contrib.ARS, "LinearPolicy", "CartPole-v1", {"n_delta": 1}),
}


@pytest.mark.parametrize(("cls", "policy", "env", "arguments"), THEIRS.values(), ids=THEIRS)
def test_their_agents_are_loaded_as_they_load_them(cls, policy, env, arguments):
    file = io.BytesIO()
    cls(policy, env, device="cpu", **arguments).learn(16).save(file)
    ours, theirs = load_agent(cls, file, device="cpu"), cls.load(file, device="cpu")
    for name in load_from_zip_file(file, device="cpu")[0]:
        assert same(getattr(ours, name), getattr(theirs, name)), name
    assert all(map(th.equal, ours.policy.state_dict().values(), theirs.policy.state_dict().values()))
    assert same(ours.get_parameters(), theirs.get_parameters())


@pytest.mark.parametrize("trust", [False, True])
def test_training_goes_on_alike(trust, tmp_path):
    stable_baselines3.PPO("MlpPolicy", "CartPole-v1", **SMALL, seed=0, device="cpu").learn(32).save(tmp_path / "ppo")
    env = make_vec_env("CartPole-v1", 1, seed=1)
    theirs = stable_baselines3.PPO.load(tmp_path / "ppo", make_vec_env("CartPole-v1", 1, seed=1), device="cpu")
    ours = PPO.load(tmp_path / "ppo", env, device="cpu", trust=trust, engine="autograd")
    for model in (theirs, ours):
        model.set_random_seed(2)
        model.learn(32)
    assert all(map(th.equal, ours.policy.parameters(), theirs.policy.parameters()))


@pytest.mark.parametrize("kwargs", [{}, {"state_dependent_std": True}])
@pytest.mark.parametrize("cls", [PPO, REINFORCE])
def test_policies_are_loaded(cls, kwargs, tmp_path):
    policy = cls("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, device="cpu").policy
    policy.save(tmp_path / "policy")
    found = load_policy(type(policy), tmp_path / "policy", "cpu")
    assert type(found) is type(policy)
    assert all(map(th.equal, found.parameters(), policy.parameters()))
    # The class's own `load` runs the code of a file, if it is SB3's, and none if it is ours.
    again = type(policy).load(tmp_path / "policy", "cpu")
    assert all(map(th.equal, again.parameters(), policy.parameters()))


@pytest.mark.parametrize("cls", [stable_baselines3.DQN, stable_baselines3.SAC, sb3_contrib.RecurrentPPO])
def test_their_policies_are_loaded(cls, tmp_path):
    name = next(iter(cls.policy_aliases))
    policy = cls(name, "CartPole-v1" if cls is not stable_baselines3.SAC else "Pendulum-v1", device="cpu").policy
    policy.save(tmp_path / "policy")
    found = load_policy(type(policy), tmp_path / "policy", "cpu")
    assert all(map(th.equal, found.state_dict().values(), policy.state_dict().values()))


def test_a_normaliser_wraps_environments(tmp_path):
    env = VecNormalize(make_vec_env("CartPole-v1", 2))
    PPO("MlpPolicy", env, **SMALL, device="cpu").learn(32)
    env.save(str(tmp_path / "vecnormalize.pkl"))
    found = load_normalization(tmp_path / "vecnormalize.pkl", make_vec_env("CartPole-v1", 3))
    assert found.num_envs == 3
    assert same(found.obs_rms, env.obs_rms)
    assert same(found.ret_rms, env.ret_rms)
    with pytest.raises(ValueError, match=r"must hold a VecNormalize, but holds dict"):
        load_normalization(io.BytesIO(pickle.dumps({})), env.venv)
    with pytest.raises(AssertionError, match="spaces"):
        load_normalization(tmp_path / "vecnormalize.pkl", make_vec_env("Pendulum-v1", 1))


def test_a_replay_buffer_is_read(tmp_path):
    model = stable_baselines3.DQN("MlpPolicy", "CartPole-v1", **OFF, device="cpu").learn(20)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    other = stable_baselines3.DQN("MlpPolicy", "CartPole-v1", **OFF, device="cpu")
    load_replay_buffer(other, tmp_path / "buffer.pkl")
    assert other.replay_buffer.size() == 20
    assert same(other.replay_buffer, model.replay_buffer)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 2, (3,), np.float32),
        spaces.Box(0, 255, (3, 4, 4), np.uint8),
        spaces.Discrete(3, start=2),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary([2, 2]),
        spaces.Dict(a=spaces.Discrete(2), b=spaces.Dict(c=spaces.Box(0, 1, (1,)))),
        spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (2,))]),
    ],
    ids=str,
)
def test_spaces_are_read_whole_and_those_of_gym_too(space):
    space.seed(3)
    # One part, so that names are written out.
    written = pickle.dumps(space, protocol=2)
    found = loads(written, source="here")
    assert found == space
    assert repr(found.sample()) == repr(pickle.loads(written).sample())
    old = loads(written.replace(b"cgymnasium.spaces.", b"cgym.spaces."), source="here")
    assert old == space
    assert type(old) is type(space)


def test_generators_of_old_spaces_are_left_out():
    space = spaces.Discrete(2)
    vars(space)["_np_random"] = np.random.RandomState(0)
    assert loads(pickle.dumps(space), source="here").sample() in (0, 1)


@pytest.mark.parametrize("number", [0.25, 1e-5])
def test_schedules_that_old_versions_wrote_as_code_have_their_values(number):
    with pytest.warns(UserWarning, match="deprecated"):
        old = [constant_fn(number), get_linear_fn(number, 0.125, 0.5), get_schedule_fn(number)]
    for schedule in [*old, {"deep": [old[0]]}["deep"][0]]:
        found = loads(cloudpickle.dumps(schedule), source="here")
        assert [found(progress) for progress in (1, 0.75, 0.5, 0)] == [schedule(p) for p in (1, 0.75, 0.5, 0)]


@pytest.mark.parametrize("module", ["utils.utils", "rl_zoo3.utils"])
def test_old_schedules_of_rl_zoo3_have_their_values(module):
    initial_value = 0.5

    def func(progress_remaining):
        return progress_remaining * initial_value

    func.__qualname__, func.__module__ = "linear_schedule.<locals>.func", module
    found = loads(cloudpickle.dumps(func), source="here")
    assert [found(progress) for progress in (1, 0.75, 0)] == [0.5, 0.375, 0]


def test_every_algorithm_is_loaded_without_trust(tmp_path):
    for name in ("A2C", "ActorCritic", "GRPO", "NPG", "REINFORCE", "RLOO", "ReinforceBaseline", "TRPO"):
        cls = getattr(pg_agents, name)
        env = DummyVecEnv([lambda: gym.make("CartPole-v1")])
        cls("MlpPolicy", env, learning_rate=0.5, device="cpu").save(tmp_path / name)
        assert cls.load(tmp_path / name, device="cpu").learning_rate == 0.5


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        PPO.load(tmp_path / "nowhere")


NAMES = [
    ("torch.nn.modules.activation", "Tanh"),
    ("torch.optim.adam", "Adam"),
    ("stable_baselines3.common.policies", "ActorCriticPolicy"),
    ("pg_agents.policies", "ActorPolicy"),
    ("pg_agents.buffers", "EpisodeBuffer"),
    ("sb3_contrib.common.recurrent.policies", "RecurrentActorCriticPolicy"),
    ("stable_baselines3.common.sb2_compat.rmsprop_tf_like", "RMSpropTFLike"),
    ("numpy", "float32"),
    ("torch", "float32"),
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_classes_are_found_by_name(module, name):
    assert name in repr(find(module, name))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch.nn.modules.module", "Module.apply"),
        ("torch.nn.modules.linear", "math"),
        ("torch.nn.modules.nowhere", "Linear"),
        ("torch.optim.nowhere", "Adam"),
        ("torch.nn.functional", "relu"),
        ("torch.nn.modulesx", "Linear"),
        ("stable_baselines3.ppo.ppo", "PPO"),
        ("stable_baselines3.common.vec_env.subproc_vec_env", "SubprocVecEnv"),
        ("stable_baselines3.common.monitor", "Monitor"),
        ("stable_baselines3.common.logger", "Logger"),
        ("stable_baselines3.common.callbacks", "EvalCallback"),
        ("pg_agents.algorithms.ppo", "PPO"),
        ("pg_agents.language.policy", "LanguagePolicy"),
        ("gymnasium", "make"),
        ("gymnasium.spaces.box", "np"),
        ("numpy", "memmap"),
        ("numpy", "load"),
        ("functools", "partial"),
        ("operator", "attrgetter"),
        ("", ""),
        ("..", "x"),
        ("torch.nn.modules.", "Linear"),
    ],
)
def test_other_objects_are_not_found(module, name):
    with pytest.raises(NotAllowedError, match=module or "is not among"):
        find(module, name)


def test_files_in_folders_of_ones_own_are_found_with_and_without_their_ending(tmp_path):
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "one")
    for path in (tmp_path / "one", tmp_path / "one.zip", str(tmp_path / "one")):
        assert PPO.load(path, device="cpu").n_steps == 2048
    with open(tmp_path / "one.zip", "rb") as file:
        assert PPO.load(file, device="cpu").n_steps == 2048
        assert not file.closed  # as in SB3
