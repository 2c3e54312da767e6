"""What "drop-in for SB3" means for construction, saving and loading.

SB3's own classes are the oracle wherever they can be. Training is in test_dropin_rollouts.py, test_dropin_learning.py.
"""

import inspect
import subprocess
import sys
import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
from fakes import ALL, REFERENCES, SB3S, TinyEnv, same, short, tiny_vec_env, weights
from gymnasium import spaces
from rl_zoo3.utils import SimpleLinearSchedule
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import FloatSchedule

from pg_agents import A2C, PPO, TRPO, ActorCritic, ReinforceBaseline
from pg_agents.agent import DEFAULT

OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (16, 3)).astype(np.float32)


def reloaded(agent, path, cls=None, **kwargs):
    agent.save(path / "agent")
    return (cls or type(agent)).load(path / "agent", device="cpu", **kwargs)


def assert_same_agent(one, other):
    mine, reference = one.get_parameters(), other.get_parameters()
    assert same(mine["policy"], reference["policy"])
    assert str(mine["policy.optimizer"]) == str(reference["policy.optimizer"])
    np.testing.assert_array_equal(
        one.predict(OBSERVATIONS, deterministic=True)[0], other.predict(OBSERVATIONS, deterministic=True)[0]
    )


# Signatures


def parameters(function):
    return [parameter for parameter in inspect.signature(function).parameters.values() if parameter.name != "self"]


@pytest.mark.parametrize("cls", SB3S)
def test_the_constructor_takes_sb3s_arguments_in_sb3s_order_with_sb3s_defaults(cls):
    reference = [(p.name, p.default, p.kind) for p in parameters(REFERENCES[cls].__init__)]
    ours = [(p.name, p.default, p.kind) for p in parameters(cls.__init__)]
    assert ours[: len(reference)] == reference
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, _, kind in ours[len(reference) :])


@pytest.mark.parametrize("cls", ALL)
def test_learn_takes_sb3s_arguments_in_sb3s_order_with_sb3s_defaults(cls):
    reference = {p.name: (p.default, p.kind) for p in parameters(REFERENCES.get(cls, PPO).learn)}
    ours = {p.name: (p.default, p.kind) for p in parameters(cls.learn)}
    # The name of the class by default, for subclasses too.
    assert ours.pop("tb_log_name")[0] is None
    reference.pop("tb_log_name")
    assert ours.pop("schedules_end")[0] is None  # by keyword; not in SB3
    reference.pop("schedules_end", None)
    # Each class has a default of its own, which one signature stands for.
    assert ours.pop("log_interval")[0] is DEFAULT
    default = reference.pop("log_interval")[0]
    if cls is not ActorCritic:  # not in SB3; its rollouts are of one step
        assert cls.default_log_interval == (default if cls in SB3S else 1)
    assert list(ours.items()) == list(reference.items())


# 1. Loading


@pytest.mark.parametrize("cls", ALL)
def test_nothing_is_allocated_before_setup_model(cls):
    agent = cls(policy="MlpPolicy", env=None, device="cpu", _init_setup_model=False)
    assert not hasattr(agent, "policy")
    assert not hasattr(agent, "rollout_buffer")


@pytest.mark.parametrize("cls", ALL)
def test_a_model_of_one_environment_loads_with_two_and_trains(cls, tmp_path):
    agent = reloaded(short(cls).learn(20), tmp_path, env=tiny_vec_env(2))
    before = agent.num_timesteps
    agent.learn(20, reset_num_timesteps=False)
    assert agent.rollout_buffer.n_envs == agent.n_envs == 2
    assert agent.num_timesteps >= before + 20


@pytest.mark.parametrize("cls", ALL)
def test_a_model_loaded_without_an_environment_predicts(cls, tmp_path):
    agent = short(cls).learn(20)
    assert_same_agent(reloaded(agent, tmp_path), agent)


@pytest.mark.parametrize("cls", ALL)
def test_arguments_of_load_replace_the_saved_ones(cls, tmp_path):
    agent = reloaded(short(cls), tmp_path, env=TinyEnv(), gamma=0.5, learning_rate=0.25)
    agent.learn(8)
    assert (agent.gamma, agent.policy.optimizer.param_groups[0]["lr"]) == (0.5, 0.25)


@pytest.mark.parametrize("cls", SB3S)
def test_custom_objects_replace_what_a_file_holds(cls, tmp_path):
    # What users of old files are told to write.
    custom_objects = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.125}
    agent = reloaded(short(REFERENCES[cls]), tmp_path, cls, custom_objects=custom_objects)
    assert (agent.learning_rate, agent.lr_schedule(1.0)) == (0, 0)
    assert cls is not PPO or agent.clip_range(1.0) == 0.125


# 2*. Everything can be pickled at any moment


@pytest.mark.parametrize("cls", ALL)
def test_checkpoints_in_the_middle_of_a_rollout_load_and_train_on(cls, tmp_path):
    agent = short(cls, tiny_vec_env(2))
    agent.learn(24, callback=CheckpointCallback(3, str(tmp_path), "agent"))
    checkpoints = sorted(tmp_path.glob("agent_*_steps.zip"))
    assert len(checkpoints) >= 3
    for checkpoint in checkpoints:
        loaded = cls.load(checkpoint, env=tiny_vec_env(2), device="cpu")
        loaded.learn(16, reset_num_timesteps=False)
        assert loaded.num_timesteps > int(checkpoint.stem.split("_")[1])


# 3. No warnings (pytest turns those of the other tests into errors; lazy imports need a new process)


def test_constructing_training_saving_and_loading_raise_no_warning_in_a_new_process(tmp_path):
    code = f"""
import warnings, gymnasium, stable_baselines3, tensorboard
warnings.simplefilter("error")
from pg_agents.agent import DEFAULT
from pg_agents import A2C, PPO, REINFORCE, TRPO, ReinforceBaseline
for cls in (A2C, PPO, REINFORCE, TRPO, ReinforceBaseline):
    cls("MlpPolicy", "CartPole-v1", device="cpu").learn(1).save({str(tmp_path / "agent")!r})
    cls.load({str(tmp_path / "agent")!r}, env=gymnasium.make("CartPole-v1"), device="cpu").learn(1)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")


# 4. Schedules


def test_the_clip_range_is_a_float_schedule_before_and_after_load(tmp_path):
    agent = short(PPO, clip_range=0.3, clip_range_vf=0.4)
    for each in (agent, reloaded(agent, tmp_path)):
        assert isinstance(each.clip_range, FloatSchedule)
        assert isinstance(each.clip_range_vf, FloatSchedule)
        assert (each.clip_range(1.0), each.clip_range_vf(0.5)) == (0.3, 0.4)


def test_a_file_of_sb3s_whose_schedule_has_fallen_below_zero_loads_without_a_warning(tmp_path):
    schedule = SimpleLinearSchedule(0.2)
    settings = {"n_steps": 64, "batch_size": 64, "n_epochs": 1, "clip_range": schedule, "device": "cpu"}
    stable_baselines3.PPO("MlpPolicy", "CartPole-v1", **settings).learn(65).save(tmp_path / "theirs")
    assert PPO.load(tmp_path / "theirs").coefficient("clip_range") == schedule(0)


def test_a_lambda_stays_reachable_in_the_clip_range():
    def clip_range(progress):
        return 0.1 * progress

    assert short(PPO, clip_range=clip_range).clip_range.value_schedule is clip_range


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("learning_rate", [1e-3, np.float64(1e-3), lambda progress: np.float64(1e-3) * progress])
def test_the_learning_rate_stays_as_given_and_its_schedule_gives_plain_floats(cls, learning_rate, tmp_path):
    agent = short(cls, learning_rate=learning_rate)
    assert agent.learning_rate is learning_rate
    for each in (agent, reloaded(agent, tmp_path, trust=True)):  # a lambda is code
        assert type(each.lr_schedule(1.0)) is float
        assert each.lr_schedule(1.0) == 1e-3


# 5. State dictionaries


@pytest.mark.parametrize("cls", [PPO, A2C, ReinforceBaseline, ActorCritic])
@pytest.mark.parametrize("use_sde", [False, True])
def test_the_state_dict_has_the_keys_of_actor_critic_policy(cls, use_sde):
    env = TinyEnv(spaces.Box(-1, 1, (2,)))
    keys = list(short(stable_baselines3.PPO, env, use_sde=use_sde).policy.state_dict())
    assert list(short(cls, env, use_sde=use_sde).policy.state_dict()) == keys


# What torch says of the very first release of Python 3.13.
@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")
@pytest.mark.parametrize("cls", ALL)
def test_a_compiled_policy_trains_is_saved_and_is_loaded(cls, tmp_path):
    agent = short(cls)
    agent.policy = th.compile(agent.policy, backend="eager")
    before = weights(agent)
    agent.learn(20)
    assert not same(weights(agent), before)
    assert not any(name.startswith("_orig_mod") for name in agent.get_parameters()["policy"])
    loaded = reloaded(agent, tmp_path, env=TinyEnv())
    assert_same_agent(loaded, agent)
    loaded.learn(8)


# 6. Buffer classes


class Counting:
    def __init__(self, *args, label="", **kwargs):
        super().__init__(*args, **kwargs)
        self.label, self.added = label, 0

    def add(self, *args, **kwargs):
        self.added += 1
        super().add(*args, **kwargs)


class CountingBuffer(Counting, RolloutBuffer):
    pass


class CountingDictBuffer(Counting, DictRolloutBuffer):
    pass


@pytest.mark.parametrize("cls", SB3S)
@pytest.mark.parametrize(
    ("buffer_class", "policy", "env"),
    [(CountingBuffer, "MlpPolicy", TinyEnv), (CountingDictBuffer, "MultiInputPolicy", SimpleMultiObsEnv)],
)
def test_a_buffer_class_and_its_arguments_are_really_used(cls, buffer_class, policy, env, tmp_path):
    given = {"rollout_buffer_class": buffer_class, "rollout_buffer_kwargs": {"label": "mine"}}
    agent = short(cls, env(), policy, **given).learn(16)
    assert type(agent.rollout_buffer) is buffer_class
    assert (agent.rollout_buffer.label, agent.rollout_buffer.added) == ("mine", 16)
    given = {"rollout_buffer_class": buffer_class}
    assert type(reloaded(agent, tmp_path, custom_objects=given).rollout_buffer) is buffer_class


@pytest.mark.parametrize("cls", SB3S)
def test_a_custom_buffer_trains_to_the_same_parameters_as_sb3s(cls):
    theirs = short(REFERENCES[cls], rollout_buffer_class=CountingBuffer).learn(64)
    ours = short(cls, rollout_buffer_class=CountingBuffer).learn(64)
    assert_same_agent(ours, theirs)


# 7. SB3's complaints, in its words


def complaint(action):
    """Type and text of what an action raises, or warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            action()
        except Exception as error:
            return type(error), str(error)
    return None


BOX = spaces.Box(-1, 1, (2,), np.float32)
MISTAKES = {
    "buffer class": {"rollout_buffer_class": object},
    "buffer arguments": {"rollout_buffer_kwargs": {"unknown": 1}},
    "gSDE on discrete actions": {"use_sde": True},
    "squash_output without gSDE": {"env": TinyEnv(BOX), "policy_kwargs": {"squash_output": True}},
    "unbounded actions": {"env": TinyEnv(spaces.Box(-np.inf, np.inf, (2,), np.float32))},
    "unsupported actions": {"env": TinyEnv(spaces.Text(3))},
    "unknown policy": {"policy": "MlpPolicyy"},
    "MlpPolicy for Dict": {"env": SimpleMultiObsEnv()},
    "CnnPolicy for vectors": {"policy": "CnnPolicy"},
    "unknown argument of the policy": {"policy_kwargs": {"net_arc": [8]}},
}
MISTAKES_OF_PPO = {
    "negative clip_range_vf": {"clip_range_vf": -0.1},
    "one sample to normalise": {"n_steps": 1},
    "minibatches of one to normalise": {"batch_size": 1},
    "truncated last minibatch": {"n_steps": 12},
    "batch larger than the rollout": {"batch_size": 32},
}
MISTAKES_OF_TRPO = ("one sample to normalise", "truncated last minibatch", "batch larger than the rollout")


@pytest.mark.parametrize(
    ("cls", "mistake"),
    [
        *((cls, mistake) for cls in SB3S for mistake in MISTAKES),
        *((PPO, mistake) for mistake in MISTAKES_OF_PPO),
        *((TRPO, mistake) for mistake in MISTAKES_OF_TRPO),
    ],
)
def test_mistakes_are_refused_in_sb3s_words(cls, mistake):
    arguments = {**MISTAKES, **MISTAKES_OF_PPO}[mistake]
    theirs = complaint(lambda: short(REFERENCES[cls], **arguments))
    assert theirs is not None
    assert complaint(lambda: short(cls, **arguments)) == theirs


@pytest.mark.parametrize("cls", SB3S)
@pytest.mark.parametrize(
    "wrong",
    [
        lambda: tiny_vec_env(2),
        lambda: TinyEnv(spaces.Discrete(3)),
        lambda: TinyEnv(observation_space=spaces.Box(-1, 1, (4,))),
    ],
)
def test_a_wrong_environment_is_refused_by_set_env_and_load_in_sb3s_words(cls, wrong, tmp_path):
    assert complaint(lambda: short(cls).set_env(wrong())) == complaint(lambda: short(REFERENCES[cls]).set_env(wrong()))
    assert complaint(lambda: reloaded(short(cls), tmp_path, env=wrong())) == complaint(
        lambda: reloaded(short(REFERENCES[cls]), tmp_path, env=wrong())
    )


def test_one_step_and_minibatches_of_one_train_without_normalisation():
    agent = short(PPO, n_steps=1, batch_size=1, normalize_advantage=False)
    before = weights(agent)
    agent.learn(3)
    assert agent.num_timesteps == 3
    assert not same(weights(agent), before)


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_an_infinite_gradient_norm_is_allowed_as_in_sb3(cls):
    theirs = short(REFERENCES[cls], max_grad_norm=float("inf")).learn(32)
    assert_same_agent(short(cls, max_grad_norm=float("inf"), engine="autograd").learn(32), theirs)


# 8. Optimisers


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("optimizer", [th.optim.Adam, th.optim.AdamW, th.optim.SGD, th.optim.Adagrad, RMSpropTFLike])
def test_any_optimiser_trains_and_is_saved(cls, optimizer, tmp_path):
    agent = short(cls, policy_kwargs={"optimizer_class": optimizer, "optimizer_kwargs": None})
    before = weights(agent)
    agent.learn(16)
    assert type(agent.policy.optimizer) is optimizer
    assert not same(weights(agent), before)
    assert_same_agent(reloaded(agent, tmp_path), agent)


@pytest.mark.parametrize("optimizer", [th.optim.Adam, th.optim.AdamW, th.optim.SGD, th.optim.RMSprop, RMSpropTFLike])
def test_any_optimiser_takes_a_learning_rate_of_the_critic(optimizer):
    policy_kwargs = {"optimizer_class": optimizer, "optimizer_kwargs": {"weight_decay": 0.125}}
    agent = short(ReinforceBaseline, value_learning_rate=0.5, policy_kwargs=policy_kwargs).learn(8)
    groups = agent.policy.optimizer.param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(3e-3, 0.125), (0.5, 0.125)]


@pytest.mark.parametrize("cls", SB3S)
@pytest.mark.parametrize("given", [{}, {"optimizer_kwargs": {"eps": 1e-4}}, {"optimizer_class": th.optim.SGD}], ids=str)
def test_the_optimiser_is_chosen_as_in_sb3(cls, given):
    theirs = short(REFERENCES[cls], policy_kwargs=dict(given)).policy.optimizer
    ours = short(cls, policy_kwargs=dict(given)).policy.optimizer
    assert type(ours) is type(theirs)
    assert ours.defaults == theirs.defaults


@pytest.mark.parametrize("cls", ALL)
def test_the_callers_policy_arguments_are_left_alone(cls):
    given = {"net_arch": [4], "ortho_init": False}
    short(cls, policy_kwargs=given)
    assert given == {"net_arch": [4], "ortho_init": False}


@pytest.mark.parametrize("cls", SB3S)
def test_the_policy_arguments_given_to_the_constructor_may_be_given_to_load_and_no_others(cls, tmp_path):
    given = {"net_arch": [4]}
    agent = short(cls, policy_kwargs=given)
    assert_same_agent(reloaded(agent, tmp_path, policy_kwargs=given), agent)
    with pytest.raises(ValueError, match="The specified policy kwargs do not equal the stored policy kwargs"):
        reloaded(agent, tmp_path, policy_kwargs={"net_arch": [5]})


# Files travel both ways


@pytest.mark.parametrize("cls", SB3S)
@pytest.mark.parametrize("env", [TinyEnv, partial(TinyEnv, BOX)], ids=["discrete", "box"])
def test_a_file_goes_from_sb3_to_us_and_back_and_training_goes_on_as_if_it_had_not(cls, env, tmp_path):
    agent = short(REFERENCES[cls], env()).learn(32)
    stayed = reloaded(agent, tmp_path, env=env())
    stayed.set_random_seed(1)
    stayed.learn(32, reset_num_timesteps=False)

    for visited in (cls, REFERENCES[cls], cls):
        engine = {"engine": "autograd"} if visited is cls else {}
        loaded = reloaded(agent, tmp_path, visited, env=env(), **engine)
        assert type(loaded) is visited
        assert_same_agent(loaded, agent)
        agent = loaded
    agent.set_random_seed(1)
    agent.learn(32, reset_num_timesteps=False)
    assert_same_agent(agent, stayed)
    assert agent.num_timesteps == stayed.num_timesteps == 64


WITHOUT_OURS = """
import sys, warnings
sys.modules["pg_agents"] = None  # importing it now raises
import gymnasium, sb3_contrib, stable_baselines3
for module, name, path in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # SB3 warns of what it cannot unpickle
            agent = getattr(sys.modules[module], name).load(path, env=gymnasium.make("CartPole-v1"))
            print(name, agent.learn(16, reset_num_timesteps=False).num_timesteps)
    except Exception as error:
        print(name, repr(error))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """What became of a file of each class in a process without our package, by the name of the class."""
    arguments = []
    for cls in SB3S:
        path = tmp_path_factory.mktemp("ours") / "agent"
        short(cls, gym.make("CartPole-v1")).learn(32).save(path)
        arguments += [REFERENCES[cls].__module__.partition(".")[0], cls.__name__, path]
    finished = subprocess.run([sys.executable, "-c", WITHOUT_OURS, *arguments], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")
    return dict(line.split(" ", 1) for line in finished.stdout.splitlines())


@pytest.mark.parametrize("cls", SB3S)
def test_a_file_of_ours_loads_where_our_package_is_not_installed(cls, elsewhere):
    assert elsewhere[cls.__name__] == "48"


@pytest.mark.parametrize("cls", SB3S)
def test_a_subclass_of_sb3s_policy_is_accepted(cls, tmp_path):
    class Narrow(ActorCriticPolicy):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, net_arch=[4], **kwargs)

    agent = short(cls, policy=Narrow).learn(16)
    # Of a class within a function, the file has the code.
    assert_same_agent(reloaded(agent, tmp_path, trust=True), agent)


def test_a_subclass_with_arguments_of_its_own_is_constructed_and_loaded(tmp_path):
    class Mine(A2C):
        def __init__(self, *args, own=1, **kwargs):
            super().__init__(*args, **kwargs)
            self.own = own

    agent = Mine("MlpPolicy", TinyEnv(), own=2, n_steps=8, device="cpu").learn(8)
    assert reloaded(agent, tmp_path, env=TinyEnv()).learn(8).own == 2


def test_an_agent_without_an_environment_says_how_to_get_one():
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    agent.env = None
    with pytest.raises(AssertionError, match=r"PPO has no environment: give `load\(..., env=...\)` one"):
        agent.learn(8)
