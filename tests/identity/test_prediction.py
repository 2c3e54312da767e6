"""Compiled prediction = SB3's: the same actions, shapes, types, random numbers, errors and side effects."""

import threading
from unittest import mock

import numpy as np
import pytest
import stable_baselines3
import torch as th
from fakes import SHORT, SQUASHING, TinyEnv
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from torch import nn

from pg_agents import A2C, PPO, REINFORCE
from pg_agents.engines.mlp import tables

ACTIONS = {
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3, 19]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(-1, 1, (3,)),
    "narrow Box": spaces.Box(-0.1, 0.1, (2, 3)),
    "Box of float64": spaces.Box(-0.5, 0.5, (2,), np.float64),
}
OBSERVATIONS = {
    "Box": spaces.Box(-1, 1, (4,)),
    "Box of float64": spaces.Box(-1, 1, (2, 2), np.float64),
    "bytes": spaces.Box(0, 3, (4,), np.uint8),
    "Discrete": spaces.Discrete(6),
    "MultiBinary": spaces.MultiBinary(4),
}
SIZES = (None, 1, 3, 8, 64, 65, 150)  # of a batch; None for an observation alone. The kernels take 64 at once.


@pytest.fixture(autouse=True, scope="module")
def _kernels():
    tables.load_kernels()


@pytest.fixture(autouse=True)
def _checked_distributions():
    # Some errors are torch's own, which others may have switched off.
    before = th.distributions.Distribution._validate_args
    th.distributions.Distribution.set_default_validate_args(True)
    yield
    th.distributions.Distribution.set_default_validate_args(before)


def build(observations="Box", actions="Discrete", cls=A2C, **kwargs):
    """An agent that was never trained, with parameters of which none is zero."""
    env = TinyEnv(ACTIONS.get(actions, actions), OBSERVATIONS.get(observations, observations))
    agent = cls("MlpPolicy", env, seed=0, device="cpu", **kwargs)
    generator = th.Generator().manual_seed(0)
    for parameter in agent.policy.parameters():
        parameter.data += 0.3 * th.randn(parameter.shape, generator=generator)
    return agent


def batch(agent, size):
    space = agent.observation_space
    space.seed(0)
    return np.asarray(space.sample()) if size is None else np.stack([space.sample() for _ in range(size)])


def asks_torch(agent, observation, **kwargs):
    """Whether a prediction runs torch's layers; the prediction is right in any case."""
    with mock.patch("torch.nn.functional.linear", wraps=nn.functional.linear) as linear:
        actions, _ = agent.predict(observation, deterministic=True, **kwargs)
        asked = linear.called
    wanted, _ = agent.policy.predict(observation, deterministic=True)
    np.testing.assert_allclose(actions, wanted, atol=1e-5)
    return asked


def assert_equal(given, wanted):
    assert type(given) is type(wanted)
    assert (given.shape, given.dtype) == (wanted.shape, wanted.dtype)
    # 64 units of size 1, each rounded to 24 bits; categories could differ where two are equally probable to that.
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_the_most_probable_actions_are_those_of_the_policy(observations, actions):
    agent = build(observations, actions)
    for size in SIZES:
        observation = batch(agent, size)
        with mock.patch("torch.nn.functional.linear", side_effect=AssertionError("torch was asked")):
            given, state = agent.predict(observation, deterministic=True)
        assert state is None
        assert_equal(given, agent.policy.predict(observation, deterministic=True)[0])


@pytest.mark.parametrize("actions", ACTIONS)
def test_sampled_actions_are_those_of_the_policy_and_use_up_the_same_random_numbers(actions):
    agent = build("Box", actions)
    for size in SIZES:
        observation, found = batch(agent, size), []
        for answer in (agent.predict, agent.policy.predict):
            th.manual_seed(7)
            found.append((np.stack([answer(observation)[0] for _ in range(20)]), th.rand(3)))
        (given, numbers), (wanted, same_numbers) = found
        assert_equal(given, wanted)
        assert th.equal(numbers, same_numbers)
        assert (wanted != wanted[0]).any()


@pytest.mark.parametrize("cls", [PPO, REINFORCE])
@pytest.mark.parametrize("std", [{}, {"policy_kwargs": {"state_dependent_std": True}}], ids=["", "own std"])
def test_other_policies(cls, std):
    agent = build("Box", "Box", cls, **std)
    observation = batch(agent, 8)
    assert not asks_torch(agent, observation)
    th.manual_seed(1)
    given = agent.predict(observation)[0]
    th.manual_seed(1)
    assert_equal(given, agent.policy.predict(observation)[0])


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU, nn.SiLU, nn.GELU, nn.LeakyReLU])
def test_other_networks(activation):
    agent = build("Box", "Box", policy_kwargs={"activation_fn": activation, "net_arch": [7, 33]})
    assert not asks_torch(agent, batch(agent, 5))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, np.bool_])
def test_observations_of_another_type(dtype):
    agent = build("Box", "Box")
    assert not asks_torch(agent, np.array([[1, 0, 1, 1], [0, 1, 0, 1]], dtype))


@pytest.mark.parametrize("number", [3, np.int64(3), np.array(3, np.int32)])
def test_a_number_as_observation(number):
    agent = build("Discrete")
    assert not asks_torch(agent, number)


def test_layouts_of_memory():
    agent = build("Box", "Box")
    observation = np.asfortranarray(batch(agent, 8))
    assert not asks_torch(agent, observation)
    assert not asks_torch(agent, observation[::-2])


def test_a_list_is_an_observation_too():
    assert asks_torch(build("Box", "Box"), [0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("observations", "wrong"),
    [
        ("Box", np.zeros(3, np.float32)),
        ("Box", np.zeros((2, 3), np.float32)),
        ("Box", np.zeros((1, 1, 4), np.float32)),
        ("Box", np.array(["a"] * 4)),
        ("Box", np.full(4, np.nan, np.float32)),
        ("Box", np.full(4, 1e300)),
        ("Box", (np.zeros(4, np.float32), {})),
        ("Box", {"a": np.zeros(4)}),
        ("Box", None),
        ("Discrete", np.array([6])),
        ("Discrete", np.array([-1])),
        ("Discrete", np.zeros((2, 1), int)),
        ("MultiBinary", np.zeros(5, np.int8)),
    ],
)
@pytest.mark.parametrize("deterministic", [True, False])
def test_errors_are_sb3s(observations, wrong, deterministic):
    agent, errors = build(observations), []
    agent.predict(batch(agent, 2))
    for answer in (agent.predict, agent.policy.predict):
        with pytest.raises(Exception) as error:  # noqa: PT011 - any
            answer(wrong, deterministic=deterministic)
        errors.append((error.type, str(error.value)))
    assert errors[0] == errors[1]


def test_states_come_back_as_in_sb3():
    agent, state = build(), (np.ones(2),)
    assert agent.predict(batch(agent, 2), state, np.ones(2, bool), deterministic=True)[1] is state


def test_what_was_returned_never_changes():
    agent = build("Box", "Box")
    first = agent.predict(batch(agent, 4), deterministic=True)[0]
    before = first.copy()
    agent.predict(-batch(agent, 4), deterministic=True)
    np.testing.assert_array_equal(first, before)


def test_the_policy_is_in_evaluation_mode_afterwards():
    agent = build()
    agent.policy.set_training_mode(True)
    assert not asks_torch(agent, batch(agent, 2))
    assert not any(module.training for module in agent.policy.modules())


# Predictions follow the policy


def test_they_follow_parameters_that_were_set_trained_or_given_other_memory(tmp_path):
    agent, other = build("Box", "Box", **SHORT["A2C"]), build("Box", "Box")
    observation = batch(agent, 5)
    agent.predict(observation)
    with th.no_grad():
        agent.policy.action_net.bias += 0.05
    assert not asks_torch(agent, observation)
    agent.set_parameters(other.get_parameters())
    assert not asks_torch(agent, observation)
    for parameter in agent.policy.parameters():
        parameter.data = parameter.data * 0.9
    assert not asks_torch(agent, observation)
    agent.policy.action_net.bias = nn.Parameter(th.zeros(3))
    assert not asks_torch(agent, observation)
    agent.policy.action_net = nn.Linear(64, 3)
    assert not asks_torch(agent, observation)
    agent = build("Box", "Box", **SHORT["A2C"])
    agent.predict(observation)
    assert not asks_torch(agent.learn(64), observation)
    agent.save(tmp_path / "agent")
    loaded = A2C.load(tmp_path / "agent", device="cpu")
    assert not asks_torch(loaded, observation)
    found = [model.predict(observation, deterministic=True)[0] for model in (loaded, agent)]
    np.testing.assert_array_equal(*found)


def doubled(function):
    return lambda *args, **kwargs: 2 * function(*args, **kwargs)


CHANGES = {
    "a hook": lambda policy: policy.mlp_extractor.register_forward_hook(lambda module, given, result: None),
    "a hook before": lambda policy: policy.action_net.register_forward_pre_hook(lambda module, given: None),
    "another module": lambda policy: setattr(policy, "action_net", nn.Sequential(nn.Linear(64, 3), nn.Dropout())),
    "another forward": lambda policy: setattr(policy.action_net, "forward", doubled(policy.action_net.forward)),
    "_predict": lambda policy: setattr(policy, "_predict", policy._predict),
    "get_distribution": lambda policy: setattr(policy, "get_distribution", policy.get_distribution),
    "obs_to_tensor": lambda policy: setattr(policy, "obs_to_tensor", policy.obs_to_tensor),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("trained", [False, True], ids=["never trained", "trained"])
def test_a_policy_that_was_changed_answers_itself(change, trained):
    agent = build("Box", "Box", **SHORT["A2C"])
    if trained:
        agent.learn(16)
    observation = batch(agent, 5)
    assert not asks_torch(agent, observation)
    change(agent.policy)
    assert asks_torch(agent, observation)
    assert asks_torch(agent, observation)


def test_a_policy_that_was_replaced_answers_itself():
    agent = build("Box", "Box")
    observation = batch(agent, 5)
    assert not asks_torch(agent, observation)

    class Other(ActorCriticPolicy):
        pass

    agent.policy = Other(agent.observation_space, agent.action_space, lambda progress: 1e-3)
    assert asks_torch(agent, observation)


@pytest.mark.parametrize("owner", ["the policy", "its class"])
def test_a_predict_that_was_replaced_is_called(owner, monkeypatch):
    agent = build()
    agent.predict(batch(agent, 2))
    target = agent.policy if owner == "the policy" else BasePolicy
    monkeypatch.setattr(target, "predict", lambda *args, **kwargs: ("another", None))
    assert agent.predict(batch(agent, 2)) == ("another", None)


def test_a_hook_of_all_modules_is_called():
    agent = build()
    agent.predict(batch(agent, 2))
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, result: None)
    try:
        assert asks_torch(agent, batch(agent, 2))
    finally:
        handle.remove()


@pytest.mark.parametrize("kwargs", [{"engine": "autograd"}, SQUASHING])
def test_other_engines_and_policies_ask_torch(kwargs):
    agent = build("Box", "Box", **kwargs)
    assert asks_torch(agent, batch(agent, 3))


def test_gsdes_means_are_compiled_and_its_samples_are_the_policys():
    agent = build("Box", "narrow Box", use_sde=True, policy_kwargs={"log_std_init": -4.0})
    for size in SIZES:
        observation = batch(agent, size)
        assert not asks_torch(agent, observation)
        assert_equal(agent.predict(observation)[0], agent.policy.predict(observation)[0])
        assert (agent.predict(observation)[0] != agent.predict(observation, deterministic=True)[0]).any()


def test_dictionaries_ask_torch():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
    agent = A2C("MultiInputPolicy", TinyEnv(None, space), seed=0, device="cpu")
    assert asks_torch(agent, space.sample())


def test_autograd_predicts_what_sb3_predicts_bit_for_bit():
    ours, sb3s = (
        cls("MlpPolicy", TinyEnv(ACTIONS["Box"], OBSERVATIONS["Box"]), seed=0, device="cpu", **kwargs)
        for cls, kwargs in ((A2C, {"engine": "autograd"}), (stable_baselines3.A2C, {}))
    )
    ours.policy.load_state_dict(sb3s.policy.state_dict())
    for deterministic in (True, False):
        found = []
        for agent in (ours, sb3s):
            th.manual_seed(3)
            found.append(agent.predict(batch(ours, 50), deterministic=deterministic)[0])
        np.testing.assert_array_equal(*found)


def test_two_runs_agree_bit_for_bit_in_sampled_predictions_afterwards():
    found = []
    for _ in range(2):
        agent = A2C("MlpPolicy", TinyEnv(ACTIONS["Box"]), seed=5, device="cpu", **SHORT["A2C"]).learn(40)
        agent.observation_space.seed(2)
        found.append([agent.predict(agent.observation_space.sample())[0] for _ in range(20)])
    np.testing.assert_array_equal(*found)


def test_predictions_during_training_change_nothing():
    weights = []
    for watched in (False, True):
        agent = A2C("MlpPolicy", TinyEnv(ACTIONS["Box"]), seed=5, device="cpu", **SHORT["A2C"])
        evaluation = EvalCallback(TinyEnv(ACTIONS["Box"]), n_eval_episodes=1, eval_freq=3, verbose=0, warn=False)
        agent.learn(80, callback=evaluation if watched else None)
        weights.append(nn.utils.parameters_to_vector(agent.policy.parameters()).detach().numpy())
    np.testing.assert_array_equal(*weights)


def test_threads_do_not_disturb_each_other():
    agent = build("Box", "Box")
    observations = [batch(agent, 64) * scale for scale in (1, -1)]
    wanted = [agent.predict(observation, deterministic=True)[0] for observation in observations]
    wrong = []

    def ask(number):
        for _ in range(300):
            if not np.array_equal(agent.predict(observations[number], deterministic=True)[0], wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
