"""An argument that is assigned to a model is one of the constructor's: checked as there, and in effect from then on."""

import copy
import io
import math

import numpy as np
import pytest
import stable_baselines3
import torch as th
from fakes import Spy, TinyEnv, same, short, tiny_vec_env, weights
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import SubprocVecEnv

from pg_agents import A2C, A3C, GRPO, PPO, REINFORCE, TRPO, ActorCritic
from pg_agents.envs.make import make_vec

OUT_OF_RANGE = [
    ("clip_range", -0.1),
    ("clip_range", "lin_0.2"),
    ("clip_range_vf", -1.0),
    ("learning_rate", -1e-3),
    ("learning_rate", math.nan),
    ("gamma", 2.0),
    ("gae_lambda", 1.5),
    ("ent_coef", -1.0),
    ("vf_coef", None),
    ("batch_size", 0),
    ("batch_size", -3),
    ("batch_size", 1),
    ("n_epochs", 2.5),
    ("n_steps", 0),
    ("target_kl", 0.0),
    ("max_grad_norm", -0.5),
    ("value_learning_rate", 1e-3),
    ("engine", "fast"),
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_what_the_constructor_refuses_is_refused_in_its_words(name, value):
    agent = short(PPO)
    before = dict(vars(agent))
    with pytest.raises((ValueError, AssertionError, TypeError)) as assigned:
        setattr(agent, name, value)
    after = dict(vars(agent))
    assert all(after[one] is before[one] for one in PPO.declared if one in before and one != "clip_range")
    if name != "value_learning_rate":  # which PPO's constructor does not take
        with pytest.raises((ValueError, AssertionError, TypeError)) as constructed:
            short(PPO, **{name: value})
        assert str(assigned.value) == str(constructed.value)


IN_EFFECT = {
    "clip_range": (PPO, 0.01),
    "clip_range as a schedule": (PPO, lambda progress: 0.05 * progress),
    "clip_range_vf": (PPO, 0.1),
    "learning_rate": (PPO, 5e-6),
    "learning_rate as a schedule": (PPO, lambda progress: 1e-2 * progress),
    "gamma": (PPO, 0.5),
    "gae_lambda": (PPO, 0.5),
    "ent_coef": (PPO, 0.5),
    "vf_coef": (A2C, 2.0),
    "batch_size": (PPO, 4),
    "n_epochs": (PPO, 3),
    "n_steps": (PPO, 16),
    "max_grad_norm": (A2C, 1e-3),
    "normalize_advantage": (PPO, False),
    "target_kl": (TRPO, 1e-4),
    "kl_coef": (PPO, 2.0),
    "n_episodes": (REINFORCE, 2),
    "baseline": (REINFORCE, "constant"),
    "normalize_returns": (REINFORCE, True),
    "group_size": (GRPO, 3),
    "n_groups": (GRPO, 2),
    "value_learning_rate": (ActorCritic, 0.1),
}


CASES = [*((case, "mlp") for case in IN_EFFECT), *((case, "autograd") for case in list(IN_EFFECT)[::4])]


@pytest.mark.parametrize(("case", "engine"), CASES)
def test_an_assigned_argument_trains_as_a_given_one(case, engine):
    cls, value = IN_EFFECT[case]
    name = case.split()[0]
    grouped = {"group_size": 2} if cls is GRPO else {}
    made = cls if cls is GRPO else lambda *args, **kwargs: short(cls, args[1], **{"engine": engine, **kwargs})

    def trained(assigned, given):
        rate = {"learning_rate": 1e-2, **given}
        agent = made("MlpPolicy", TinyEnv(), **{"seed": 0, "engine": engine, **grouped, **rate})
        for argument in assigned:
            setattr(agent, argument, assigned[argument])
        return weights(agent.learn(32))

    assigned, given, other = trained({name: value}, {}), trained({}, {name: value}), trained({}, {})
    assert same(assigned, given)
    assert not same(given, other)


def test_a_learning_rate_assigned_between_two_trainings_is_that_of_the_optimiser():
    agent = short(PPO, learning_rate=1e-3).learn(8)
    agent.learning_rate = 5e-6
    agent.learn(8)
    assert agent.policy.optimizer.param_groups[0]["lr"] == 5e-6
    assert agent.logger.name_to_value["train/learning_rate"] == 5e-6


@pytest.mark.parametrize("world", [False, True])
def test_callbacks_change_arguments_as_sb3s_users_do(world):
    """`model.ent_coef` in a callback, `model.lr_schedule`, `_setup_lr_schedule`, and the number of steps."""
    seen = []

    def change(spy):
        agent = spy.model
        agent.ent_coef = 0.25
        if agent.num_timesteps >= 40:
            agent.lr_schedule = lambda progress: 0.5
        elif agent.num_timesteps >= 20:
            agent.learning_rate *= 0.5
            agent._setup_lr_schedule()
        agent.n_steps = 10
        seen.append(agent.learning_rate)

    env = make_vec("pg/CartPole-v1", 1, world=True) if world else TinyEnv()
    agent = A2C("MlpPolicy", env, n_steps=5, learning_rate=1e-2, seed=0, device="cpu")
    logged = []

    def log(spy):
        logged.append((spy.model.num_timesteps, spy.model.policy.optimizer.param_groups[0]["lr"]))

    agent.learn(55, callback=Spy(rollout_start=log, rollout_end=change), log_interval=1)
    assert logged == [(0, 1e-2), (5, 1e-2), (15, 1e-2), (25, 5e-3), (35, 2.5e-3), (45, 0.5)]
    assert agent.loss().ent_coef == 0.25
    assert agent.rollout_buffer.buffer_size == 10


def test_a_schedule_in_the_place_of_lr_schedule_is_followed_where_updates_are_compiled():
    """Of a world, A2C makes many updates in one call."""

    def rates(progress):
        return 1e-2 if progress > 0.5 else 0.0

    agents = [
        A2C("MlpPolicy", make_vec("pg/CartPole-v1", 2, world=True), learning_rate=rate, seed=0, device="cpu")
        for rate in (rates, 1e-2)
    ]
    agents[1].lr_schedule = rates
    for agent in agents:
        agent.learn(400)
    assert same(weights(agents[0]), weights(agents[1]))


@pytest.mark.parametrize(
    ("cls", "name", "value", "remedy"),
    [
        (PPO, "use_sde", True, "make a new agent"),
        (PPO, "policy_kwargs", {"net_arch": [8]}, "make a new agent"),
        (PPO, "rollout_buffer_class", None, "make a new agent"),
        (PPO, "stats_window_size", 10, "`load`"),
        (PPO, "seed", 3, "`set_random_seed`"),
        (PPO, "device", "cuda", "`load`"),
        (A2C, "rms_prop_eps", 1e-3, "make a new agent"),
        (GRPO, "reference", None, None),
        (GRPO, "n_episodes", 3, "GRPO has no argument `n_episodes`"),
        (PPO, "n_episodes", 3, "PPO has no argument `n_episodes`"),
        (A2C, "target_kl", 1e-9, "A2C has no argument `target_kl`"),
        (A2C, "n_epochs", 3, "A2C has no argument `n_epochs`"),
        (TRPO, "ent_coef", 5.0, "TRPO has no argument `ent_coef`"),
        (REINFORCE, "gae_lambda", 0.5, "REINFORCE has no argument `gae_lambda`"),
        (REINFORCE, "n_episodes", None, "at least 1|another kind of rollout"),
        (TRPO, "max_grad_norm", 0.5, "TRPO has no argument `max_grad_norm`"),
    ],
)
def test_what_cannot_change_says_so(cls, name, value, remedy):
    agent = cls("MlpPolicy", TinyEnv())
    if remedy is None:  # the value that it has
        setattr(agent, name, value)
        return
    before = getattr(agent, name, None)
    with pytest.raises(ValueError, match=f"`{name}`.*{remedy}|{remedy}"):
        setattr(agent, name, value)
    assert getattr(agent, name, None) is before


@pytest.mark.parametrize("cls", [PPO, stable_baselines3.PPO])
def test_assigned_arguments_are_saved_here_and_read_in_sb3(cls):
    agent, file = short(PPO), io.BytesIO()
    agent.clip_range, agent.learning_rate, agent.n_steps, agent.gamma = 0.1, 1e-2, 16, 0.5
    agent.save(file)
    loaded = cls.load(file, TinyEnv(), device="cpu")
    assert loaded.clip_range(1.0) == 0.1
    assert (loaded.learning_rate, loaded.lr_schedule(1.0), loaded.n_steps, loaded.gamma) == (1e-2, 1e-2, 16, 0.5)
    assert loaded.learn(16).num_timesteps == 16


def test_values_of_sb3s_scripts_are_taken():
    agent = short(PPO)
    agent.clip_range = FloatSchedule(0.1)  # `get_schedule_fn(0.1)` of older versions
    agent.learning_rate = np.float64(1e-3)
    agent.n_steps = np.int64(16)
    agent.my_own = "an attribute of a script"
    agent.learn(16)
    assert agent.logger.name_to_value["train/clip_range"] == 0.1


def test_workers_cannot_be_told_in_the_middle_of_their_training():
    def change(spy):
        spy.model.learning_rate = 1e-3

    agent = A3C("MlpPolicy", make_vec("pg/CartPole-v1", 1, world=True), n_workers=2, backend="threads", device="cpu")
    with pytest.raises(ValueError, match="`learning_rate` cannot change while 2 workers train"):
        agent.learn(40, callback=Spy(step=change))
    agent.learning_rate = 1e-3
    assert agent.lr_schedule(1.0) == 1e-3


def test_an_attribute_of_a_plugin_stays_its_own():
    class Mine(PPO):
        warmth = 1.0  # no argument

        def _setup_model(self):
            super()._setup_model()
            self.n_epochs = 3  # after the constructor's check

    agent = Mine("MlpPolicy", TinyEnv(), n_steps=8, batch_size=8, device="cpu")
    agent.warmth = "hot"
    assert (agent.n_epochs, agent.warmth) == (3, "hot")
    with pytest.raises(ValueError, match="`n_epochs` must be an integer at least 1, but is 0"):
        agent.n_epochs = 0


def test_a_class_may_set_arguments_that_it_does_not_take():
    class Mine(A2C):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.n_epochs = 2

        def train(self):
            self.target_kl = 0.5
            super().train()

    class OwnInit(PPO):
        def __init__(self, env):
            super().__init__("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")

    agent = Mine("MlpPolicy", TinyEnv(), device="cpu").learn(8)
    assert (agent.n_epochs, agent.target_kl) == (2, 0.5)
    with pytest.raises(ValueError, match="Mine has no argument `n_epochs`"):
        agent.n_epochs = 3
    other = OwnInit(TinyEnv())
    other.learning_rate = 1e-3  # which its parent takes
    assert other.lr_schedule(1.0) == 1e-3


def test_read_from_a_class_an_argument_is_its_default():
    class Mine(PPO):
        n_steps: int = 7

    assert (PPO.n_steps, A2C.n_steps, Mine.n_steps, PPO.n_epochs, PPO.target_kl) == (2048, 5, 7, 10, None)


def test_arguments_are_read_at_the_price_of_any_attribute():
    """A descriptor with a `__get__` would make every access a function call."""
    assert not hasattr(vars(PPO)["n_steps"], "__get__")
    assert vars(short(PPO))["n_steps"] == 8


# Copies


class Copies(BaseCallback):
    """Keeps a copy of the model."""

    def _on_step(self):
        if self.n_calls == 12:
            self.copy = copy.deepcopy(self.model)
        return True


@pytest.mark.parametrize("cls", [PPO, A2C, REINFORCE, TRPO])
@pytest.mark.parametrize("options", [{}, {"verbose": 1}, {"engine": "autograd", "tensorboard_log": "."}])
def test_a_model_can_be_copied_after_it_has_learnt(cls, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agent = short(cls, tiny_vec_env(2), **options).learn(16)
    copied = copy.deepcopy(agent)
    assert same(weights(copied), weights(agent))
    before = weights(agent)
    copied.learn(16)
    assert same(weights(agent), before)
    assert not same(weights(copied), before)
    assert copied.get_env().envs[0] is not agent.get_env().envs[0]


def test_a_copy_from_the_middle_of_a_training_predicts_as_the_model_did():
    callback = Copies()
    short(PPO, engine="autograd").learn(16, callback=callback)
    observation = np.zeros(3, dtype=np.float32)
    assert callback.copy.predict(observation, deterministic=True)[0] in (0, 1)
    assert not [one for one in callback.copy.policy.parameters() if one.grad_fn is not None]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_environments_in_processes_cannot_be_copied():
    env = SubprocVecEnv([TinyEnv], start_method="fork")
    agent = short(A2C, env).learn(8)
    with pytest.raises(TypeError, match=r"SubprocVecEnv, .*runs in other processes.*`save`.*`load`"):
        copy.deepcopy(agent)
    agent.learn(8)  # in the same processes
    env.close()


# Loading, and the number of steps


def test_load_on_a_model_warns_that_it_leaves_it_as_it_is(tmp_path):
    saved, agent = short(PPO, seed=1), short(PPO)
    saved.save(tmp_path / "saved")
    before = weights(agent)
    with pytest.warns(UserWarning, match=r"model = PPO\.load") as warned:
        loaded = agent.load(tmp_path / "saved")
    assert len(warned) == 1
    assert same(weights(agent), before)
    assert same(weights(loaded), weights(saved))
    with pytest.warns(UserWarning, match=r"model = GRPO\.load"):  # which has a `load` of its own
        GRPO("MlpPolicy", TinyEnv()).load(_saved(GRPO, tmp_path))
    assert type(PPO.load(tmp_path / "saved")) is PPO  # without a warning


def _saved(cls, folder):
    cls("MlpPolicy", TinyEnv()).save(folder / cls.__name__)
    return folder / cls.__name__


@pytest.mark.parametrize("steps", [-5, -1e6, math.nan, "1000", None, True])
def test_no_number_of_steps_is_refused(steps):
    agent = short(A2C)
    with pytest.raises(ValueError, match="`total_timesteps` must be a number of steps, at least 0"):
        agent.learn(steps)
    assert agent.num_timesteps == 0


@pytest.mark.parametrize("steps", [0, 1e1, np.int64(10)])
def test_sb3s_numbers_of_steps_are_taken(steps):
    assert short(A2C).learn(steps).num_timesteps == 16 * (steps > 0)


# Schedules


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
@pytest.mark.parametrize("name", ["learning_rate", "clip_range"])
def test_an_update_after_the_last_step_uses_a_schedules_last_value(name, engine):
    """2,048 of 1,000 steps: with a progress of -1.048, the rate would be negative, and the policy would unlearn."""
    told = []

    def falling(progress):
        told.append(progress)
        return 0.2 * progress

    agent = PPO(
        "MlpPolicy", TinyEnv(), n_epochs=1, batch_size=1024, engine=engine, seed=0, device="cpu", **{name: falling}
    )
    before = weights(agent)
    agent.learn(1000)
    assert agent.num_timesteps == 2048
    assert min(told) == 0
    assert agent.logger.name_to_value[f"train/{name}"] == 0
    assert same(weights(agent), before) == (name == "learning_rate")


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (A2C, {"n_steps": 64}),
        (TRPO, {"n_steps": 64, "batch_size": 64}),
        (ActorCritic, {"n_steps": 64, "value_learning_rate": lambda progress: math.sqrt(progress)}),
    ],
)
def test_no_schedule_is_told_a_progress_below_0(cls, arguments):
    told = []

    def rate(progress):
        told.append(progress)
        return 1e-3 * progress

    cls("MlpPolicy", TinyEnv(), learning_rate=rate, **arguments).learn(100)
    assert min(told) == 0


@pytest.mark.parametrize("name", ["learning_rate", "clip_range", "ent_coef"])
def test_a_schedule_below_0_is_0_there_and_says_so(name):
    agent = short(PPO, **{name: lambda progress: progress - 0.75})
    with pytest.warns(UserWarning, match=f"`{name}` is a schedule whose value falls below 0"):
        agent.learn(16)
    if name == "learning_rate":
        assert _rate(agent) == 0
    elif name == "clip_range":
        assert agent.logger.name_to_value["train/clip_range"] == 0


@pytest.mark.parametrize("world", [False, True])
def test_training_in_pieces_under_one_schedule_is_one_training(world):
    """In a world, A2C makes whole spans of updates in compiled code."""

    def agent():
        env = make_vec("pg/CartPole-v1", 2, world=True) if world else tiny_vec_env(2)
        return A2C("MlpPolicy", env, learning_rate=lambda progress: 1e-2 * progress, seed=0, device="cpu")

    whole = agent().learn(600)
    pieces, other = agent(), agent()
    for number in range(3):
        pieces.learn(200, reset_num_timesteps=number == 0, schedules_end=600)
        other.learn(200, reset_num_timesteps=number == 0)
    assert pieces.num_timesteps == whole.num_timesteps == 600
    assert same(weights(pieces), weights(whole))
    assert not same(weights(other), weights(whole))  # each piece ran the whole schedule


def test_where_schedules_end_is_for_one_call_and_stays_at_the_last_value_beyond():
    agent = short(A2C, learning_rate=lambda progress: progress)
    rates = []
    agent.learn(32, schedules_end=16, callback=Spy(rollout_start=lambda spy: rates.append(_rate(spy.model))))
    assert [*rates[1:], _rate(agent)] == [0.5, 0, 0, 0]
    agent.learn(16)
    assert _rate(agent) == 0  # its own end again
    with pytest.raises(ValueError, match="`schedules_end` must be a number of steps, at least 1, but is 0"):
        agent.learn(8, schedules_end=0)


def _rate(agent):
    return agent.policy.optimizer.param_groups[0]["lr"]


def test_the_learning_rate_of_loaded_parameters_gives_way_to_the_models_own():
    """As in SB3; its users look for it in the optimiser's state."""
    agent = short(PPO, learning_rate=1e-3)
    parameters = agent.get_parameters()
    parameters["policy.optimizer"]["param_groups"][0]["lr"] = 5e-6
    agent.set_parameters(parameters)
    agent.learn(8)
    assert _rate(agent) == 1e-3
    assert isinstance(agent.policy.optimizer, th.optim.Adam)
