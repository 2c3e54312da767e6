"""The compiled engine does what the autograd engine does: acting, values, updates, and what is logged of them."""

import math
import threading
from copy import deepcopy
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
from combinations import each_pair, each_value
from fakes import Spy
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule, set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize
from torch import nn

from pg_agents import A2C, PPO, REINFORCE, PolicyGradient, ReinforceBaseline
from pg_agents.contract import Batches, NotServedError, Objective, Penalty
from pg_agents.engines import threads
from pg_agents.engines.autograd import AutogradEngine
from pg_agents.engines.mlp.engine import MLPEngine
from pg_agents.objectives import score_function, score_function_weight
from pg_agents.priors import frozen_policy

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")

EPSILON = float(np.finfo(np.float32).eps)
BOX = spaces.Box(-1, 1, (3,), np.float32)
TWO = spaces.Discrete(2)
ALL = [PPO, A2C, REINFORCE, ReinforceBaseline]
SHORT = {
    PPO: {"n_steps": 32, "batch_size": 24, "n_epochs": 3, "learning_rate": 3e-3},
    A2C: {"n_steps": 12},
    REINFORCE: {"n_episodes": 2},
    ReinforceBaseline: {"n_episodes": 2},
}
OBSERVATION_SPACES = {
    "Box": BOX,
    "Box of float64": spaces.Box(-1, 1, (5,), np.float64),
    "Box of integers": spaces.Box(-3, 3, (4,), np.int32),
    "Box of bytes": spaces.Box(0, 5, (4,), np.uint8),
    "Box of two dimensions": spaces.Box(-1, 1, (3, 6), np.float32),
    "Discrete": spaces.Discrete(7),
    "MultiBinary": spaces.MultiBinary(9),
    "MultiBinary of two dimensions": spaces.MultiBinary([2, 3]),
    "MultiDiscrete": spaces.MultiDiscrete([3, 1, 5]),
    "Dict of vectors": spaces.Dict(
        {"b": BOX, "a": spaces.Box(-1, 1, (1,), np.float32), "c": spaces.Box(-3, 3, (2, 2), np.float32)}
    ),
    "Dict of one part": spaces.Dict({"only": spaces.Discrete(5)}),
    "Dict of everything": spaces.Dict(
        {
            "vector": BOX,
            "category": spaces.Discrete(4),
            "categories": spaces.MultiDiscrete([2, 3]),
            "bits": spaces.MultiBinary(3),
            "bits of two dimensions": spaces.MultiBinary([2, 2]),
            "matrix of float64": spaces.Box(-1, 1, (2, 3), np.float64),
            "bytes": spaces.Box(0, 5, (2,), np.uint8),
        }
    ),
}
PARTS = OBSERVATION_SPACES["Dict of everything"]
ACTION_SPACES = {
    "Discrete": spaces.Discrete(3),
    "Discrete of many": spaces.Discrete(37),
    "Box": spaces.Box(-1, 1, (2,), np.float32),
    "Box of one number": spaces.Box(-2, 2, (1,), np.float32),
    "Box of two dimensions": spaces.Box(-1, 1, (2, 3), np.float32),
    "Box of float64": spaces.Box(-1, 1, (2,), np.float64),
    "Box with bounds of its own": spaces.Box(np.float32([-1, 0.2]), np.float32([-0.5, 0.3])),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3, 4]),
    "MultiBinary": spaces.MultiBinary(3),
}
DISCRETE_AND_BOX = {"Discrete": TWO, "Box": ACTION_SPACES["Box"]}
ACTIVATIONS = {
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "ELU": nn.ELU,
    "ELU with a constant": partial(nn.ELU, alpha=0.3),
    "LeakyReLU": nn.LeakyReLU,
    "LeakyReLU with a slope": partial(nn.LeakyReLU, negative_slope=0.3),
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "Identity": nn.Identity,
}
every_action_space = pytest.mark.parametrize("action_space", ACTION_SPACES.values(), ids=ACTION_SPACES)
every_observation_space = pytest.mark.parametrize(
    "observation_space", OBSERVATION_SPACES.values(), ids=OBSERVATION_SPACES
)
every_algorithm = pytest.mark.parametrize("cls", ALL)


class Noisy(gym.Env):
    """Observations, rewards and ends are random, whatever the action is; remembers its actions."""

    def __init__(self, observation_space, action_space, ends=0.1):
        self.observation_space, self.action_space = deepcopy(observation_space), action_space
        self.ends, self.actions = ends, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.actions.append(deepcopy(action))
        self.t += 1
        reward, over = self.np_random.normal(), self.np_random.random() < self.ends
        return self.observation_space.sample(), float(reward), bool(over), self.t >= 20, {}


def make(cls=PPO, observation_space=BOX, action_space=TWO, n_envs=3, env_kwargs=None, **kwargs):
    env = DummyVecEnv([lambda: Noisy(observation_space, action_space, **(env_kwargs or {}))] * n_envs)
    kwargs = {**SHORT.get(cls, {}), "engine": "mlp", "seed": 0, **kwargs}
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    return cls(policy, env, device="cpu", **kwargs)


def collect(agent):
    """One rollout by the agent as it is."""
    _, callback = agent._setup_learn(10_000)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return agent


def evaluated(agent):
    """V and log π of what was just collected, by torch, of shape (n_steps, n_envs)."""
    buffer = agent.rollout_buffer
    shape = n_steps, n_envs = buffer.values.shape
    if isinstance(buffer.observations, dict):
        observations = {
            key: th.as_tensor(stored.reshape(n_steps * n_envs, *buffer.obs_shape[key]))
            for key, stored in buffer.observations.items()
        }
    else:
        observations = th.as_tensor(buffer.observations.reshape(n_steps * n_envs, *buffer.obs_shape))
    actions = th.as_tensor(buffer.actions.reshape(n_steps * n_envs, -1).astype(np.float32))
    if isinstance(agent.action_space, spaces.Discrete):
        actions = actions.flatten()
    with th.no_grad():
        values, log_probs, _ = agent.policy.evaluate_actions(observations, actions)
    return values.numpy().reshape(shape), log_probs.numpy().reshape(shape)


def parameters(agent):
    return {name: value.clone() for name, value in agent.policy.state_dict().items()}


def bits(agent):
    """All parameters and the optimiser's numbers, to be compared to the last bit."""
    numbers = list(agent.policy.state_dict().values())
    for state in agent.policy.optimizer.state_dict()["state"].values():
        numbers += [th.as_tensor(value, dtype=th.float32) for value in state.values()]
    return th.cat([number.flatten() for number in numbers]).numpy().tobytes()


class Moment:
    """What an update begins with, so that it can begin again."""

    def __init__(self, agent):
        self.agent = agent
        self.policy, self.optimizer = deepcopy([agent.policy.state_dict(), agent.policy.optimizer.state_dict()])
        self.buffer = deepcopy({name: it for name, it in vars(agent.rollout_buffer).items() if name != "estimator"})

        self.n_updates = agent._n_updates

    def restore(self):
        agent = self.agent
        agent._n_updates = self.n_updates
        agent.policy.load_state_dict(self.policy)
        agent.policy.optimizer.load_state_dict(deepcopy(self.optimizer))
        for name, value in self.buffer.items():
            setattr(agent.rollout_buffer, name, deepcopy(value))
        np.random.seed(1)  # noqa: NPY002 - what both shuffle with

    def update(self, engine):
        """Parameters, optimiser and metrics after an update by an engine."""
        self.restore()
        agent = self.agent
        agent._update_learning_rate(agent.policy.optimizer)
        loss = agent.loss(agent.loss_scale)
        batches = Batches(agent.n_epochs, agent.batch_size)
        summary = engine(agent.policy, agent.rollout_buffer, loss).update(
            agent.policy, agent.rollout_buffer, loss, batches
        )
        metrics = {**summary.metrics(), "n_epochs": summary.n_epochs, "stopped_by": summary.stopped_by or 0.0}
        return parameters(agent), deepcopy(agent.policy.optimizer.state_dict()), metrics


def has_kinks(agent):
    """Whether a number that is rounded to the other side of a kink makes a gradient another one."""
    kinked = (nn.ReLU, nn.LeakyReLU, nn.ELU)
    return isinstance(agent, PPO) or any(isinstance(module, kinked) for module in agent.policy.modules())


def assert_near(given_, wanted, scale, single, mean, name):
    """Differences of single numbers, and their root mean square, as fractions of a scale; and some roundings."""
    difference = (given_ - wanted).abs()
    rounding = 4 * EPSILON * wanted.abs().max().item()
    assert difference.max().item() <= single * scale + rounding, name
    assert difference.square().mean().sqrt().item() <= mean * scale + rounding, name


def assert_same_update(agent):
    """From this moment on, both engines do the same.

    Tolerances: a gradient is a sum over up to some hundred samples, whose terms may cancel each other, in another
    order: 1e-4 of a tensor's largest number, about 1000 roundings, or 10 roundings of the largest of all tensors. One
    of 100 samples on the other side of a kink is 1e-2 of a few numbers. Adam and RMSprop divide each gradient by its
    size, so that where it is all but 0 a rounding becomes a part of a step: 5e-2 of the largest for single numbers,
    1e-2 on the average over a tensor. Metrics are means of numbers of order 1 that may cancel.
    """
    moment = Moment(agent)
    wanted, wanted_optimizer, wanted_metrics = moment.update(lambda *_: AutogradEngine())
    given_, given_optimizer, metrics = moment.update(MLPEngine)
    largest_step = max((wanted[name] - moment.policy[name]).abs().max().item() for name in wanted)
    for name, value in wanted.items():
        assert_near(given_[name], value, largest_step, 5e-2, 1e-2, name)
    assert given_optimizer["param_groups"] == wanted_optimizer["param_groups"]
    assert given_optimizer["state"].keys() == wanted_optimizer["state"].keys()
    states, (single, mean) = wanted_optimizer["state"], (5e-2, 1e-3) if has_kinks(agent) else (1e-4, 1e-4)
    for number, state in states.items():
        assert given_optimizer["state"][number].keys() == state.keys()
        for name, value in state.items():
            if name == "step":
                assert given_optimizer["state"][number][name] == value
                continue
            scale = value.abs().max().item() + 1e-2 * max(other[name].abs().max().item() for other in states.values())
            found = given_optimizer["state"][number][name]
            assert_near(found, value, scale, single, mean, f"{name} of parameter {number}")
    assert metrics.keys() == wanted_metrics.keys()
    for name, value in wanted_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4, abs=5e-6), name
    return metrics


# Updates


PPO_OPTIONS = {
    "defaults": {},
    "one epoch": {"n_epochs": 1},
    "ten epochs": {"n_epochs": 10},
    "clipped often": {"clip_range": 0.02, "learning_rate": 1e-2, "n_epochs": 6},
    "never clipped": {"clip_range": math.inf},
    "clipped very often": {"clip_range": 1e-3, "learning_rate": 1e-2},
    "scheduled clip ranges": {"clip_range": LinearSchedule(0.1, 0, 1), "clip_range_vf": LinearSchedule(0.1, 0, 1)},
    "clipped values": {"clip_range_vf": 0.02, "learning_rate": 1e-2},
    "penalty": {"kl_coef": 0.7, "learning_rate": 1e-2},
    "adaptive penalty": {"kl_target": 0.01, "learning_rate": 1e-2},
    "entropy bonus": {"ent_coef": 0.3},
    "scheduled coefficients": {"ent_coef": lambda remaining: remaining, "vf_coef": lambda remaining: 2 * remaining},
    "no value loss": {"vf_coef": 0.0},
    "large value loss": {"vf_coef": 3.0},
    "not normalised": {"normalize_advantage": False},
    "no limit of the gradient": {"max_grad_norm": None},
    "infinite limit of the gradient": {"max_grad_norm": math.inf},
    "small gradients": {"max_grad_norm": 1e-3},
    "scheduled learning rate": {"learning_rate": LinearSchedule(1e-2, 0, 1)},
    "learning rate 0": {"learning_rate": 0.0},
    "batch of all": {"batch_size": 96},
    "batch larger than all": {"batch_size": 1000},
    "batch None": {"batch_size": None},
    "batches of 1": {"batch_size": 1, "normalize_advantage": False, "n_epochs": 1},
    "a last batch of 1": {"batch_size": 95},
    "betas and eps of Adam": {"policy_kwargs": {"optimizer_kwargs": {"betas": (0.5, 0.9), "eps": 1e-2}}},
    "RMSprop": {"policy_kwargs": {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.9}}},
    "biases and deviation of its own": {
        "action_space": ACTION_SPACES["Box"],
        "policy_kwargs": {"log_std_init": -1.5, "ortho_init": False},
    },
    "separate extractors": {"policy_kwargs": {"share_features_extractor": False}},
    "large lambda": {"gae_lambda": 1.0, "gamma": 1.0},
}


# Options and spaces meet in different parts of the kernels: each option is tried in one of the two.
@pytest.mark.parametrize(("options", "action_space"), each_value(PPO_OPTIONS, DISCRETE_AND_BOX))
def test_ppo_updates_as_autograd_does(options, action_space):
    agent = collect(make(PPO, **{"action_space": action_space, **options}))
    agent._current_progress_remaining = 0.6
    assert_same_update(agent)
    # And on, with moments that are not 0 and parameters that have moved.
    assert_same_update(collect(agent))


def tf_like(**kwargs):
    return {"policy_kwargs": {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": kwargs}}


OTHER_OPTIONS = {
    "A2C": (A2C, {}),
    "A2C, normalised": (A2C, {"normalize_advantage": True, "ent_coef": 0.1}),
    "A2C with Adam": (A2C, {"use_rms_prop": False}),
    "A2C with another eps": (A2C, {"rms_prop_eps": 0.1}),
    "A2C with RMSprop as in TensorFlow": (A2C, tf_like(eps=1e-5)),
    "A2C with another RMSprop as in TensorFlow": (A2C, tf_like(eps=0.5, alpha=0.7)),
    "A2C without limit": (A2C, {"max_grad_norm": None, "vf_coef": 0.0}),
    "A2C, one sample": (A2C, {"n_steps": 1, "n_envs": 1}),
    "REINFORCE": (REINFORCE, {}),
    "REINFORCE, total return": (REINFORCE, {"estimator": "total_return", "baseline": "leave_one_out"}),
    "REINFORCE, discounted": (REINFORCE, {"discount_updates": True, "gamma": 0.9, "baseline": "constant"}),
    "REINFORCE, normalised": (REINFORCE, {"normalize_returns": True, "baseline": "time", "ent_coef": 0.1}),
    "REINFORCE, limited": (REINFORCE, {"max_grad_norm": 0.3, "learning_rate": LinearSchedule(1e-2, 0, 1)}),
    "REINFORCE, one episode": (REINFORCE, {"n_episodes": 1, "n_envs": 1}),
    "REINFORCE with RMSprop": (REINFORCE, {"policy_kwargs": {"optimizer_class": th.optim.RMSprop}}),
    "ReinforceBaseline": (ReinforceBaseline, {}),
    "ReinforceBaseline, normalised": (ReinforceBaseline, {"normalize_advantage": True, "ent_coef": 0.1}),
    "ReinforceBaseline, limited": (ReinforceBaseline, {"max_grad_norm": 0.3, "vf_coef": 2.0}),
    "ReinforceBaseline, two rates": (ReinforceBaseline, {"value_learning_rate": 1e-2}),
    "ReinforceBaseline, schedules": (
        ReinforceBaseline,
        {"value_learning_rate": lambda remaining: 0.1 * remaining, "learning_rate": LinearSchedule(1e-2, 0, 1)},
    ),
}


@pytest.mark.parametrize(("algorithm", "action_space"), each_value(OTHER_OPTIONS, DISCRETE_AND_BOX))
def test_other_algorithms_update_as_with_autograd(algorithm, action_space):
    cls, options = algorithm
    agent = collect(make(cls, action_space=action_space, **options))
    agent._current_progress_remaining = 0.6
    assert_same_update(agent)
    assert_same_update(collect(agent))


@pytest.mark.parametrize(("action_space", "cls"), each_value(ACTION_SPACES, ALL))
def test_every_action_space_is_learnt_as_with_autograd(cls, action_space):
    coefficients = {"ent_coef": 0.1, "learning_rate": 3e-3}
    assert_same_update(collect(make(cls, action_space=action_space, **coefficients)))


@pytest.mark.parametrize(("observation_space", "cls"), each_value(OBSERVATION_SPACES, ALL))
def test_every_observation_space_is_acted_in_and_learnt_as_with_autograd(observation_space, cls):
    agent = collect(make(cls, observation_space))
    assert_log_probs_and_values_are_the_policys(agent)
    assert_same_update(agent)


@pytest.mark.parametrize("cls", [REINFORCE, ReinforceBaseline])
def test_whole_episodes_of_observations_with_parts_are_learnt_as_with_autograd(cls):
    """More of them than the buffer has room for at the beginning."""
    agent = make(cls, PARTS, n_episodes=3, env_kwargs={"ends": 0.0})
    agent.rollout_buffer.initial_size = 16
    collect(agent)
    assert len(agent.rollout_buffer.values) == 3 * 20
    assert_log_probs_and_values_are_the_policys(agent)
    assert_same_update(agent)


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_every_activation_is_learnt_as_with_autograd(activation):
    # Observations large enough to reach all parts of the activation.
    space = spaces.Box(-6, 6, (3,), np.float32)
    kwargs = {"activation_fn": activation, "net_arch": {"pi": [50, 33], "vf": [20]}, "ortho_init": False}
    assert_same_update(collect(make(PPO, space, policy_kwargs=kwargs)))


@pytest.mark.parametrize(("cls", "hidden"), each_value(ALL, [[], [16], [40, 7, 21]]))
def test_a_deviation_that_depends_on_the_state_is_learnt_as_with_autograd(cls, hidden):
    kwargs = {"state_dependent_std": True, "net_arch": hidden}
    agent = make(cls, action_space=ACTION_SPACES["Box of two dimensions"], ent_coef=0.1, policy_kwargs=kwargs)
    with th.no_grad():
        agent.policy.log_std_net.weight.normal_(std=0.1)
    assert_same_update(collect(agent))


NOISES = {
    "a deviation for each action": {},
    "one deviation for all actions": {"full_std": False},
    "expln": {"use_expln": True},
}


def gsde(**policy_kwargs):
    return {"use_sde": True, "action_space": ACTION_SPACES["Box of two dimensions"], "policy_kwargs": policy_kwargs}


@pytest.mark.parametrize(("cls", "hidden", "noise"), each_value(ALL, [[], [16], [40, 7, 21]], NOISES))
def test_gsde_is_learnt_as_with_autograd(cls, hidden, noise):
    agent = make(cls, ent_coef=0.1, **gsde(net_arch=hidden, **noise))
    with th.no_grad():
        agent.policy.log_std.normal_(std=0.5)
    assert_same_update(collect(agent))
    assert_same_update(collect(agent))


@pytest.mark.parametrize(("n_envs", "noise"), each_value([1, 3, 70], NOISES))
def test_gsde_explores_as_with_autograd(n_envs, noise):
    """The same noise, from torch's generator, in observations that do not depend on the actions."""
    rollouts = []
    for engine in ("autograd", "mlp"):
        agent = make(A2C, n_envs=n_envs, engine=engine, n_steps=9, sde_sample_freq=4, **gsde(**noise))
        with th.no_grad():
            agent.policy.log_std.normal_(std=0.5)
        rollouts.append(collect(agent).rollout_buffer)
    theirs, ours = rollouts
    # Sums of 64 numbers, of order 1 together.
    for name in ("actions", "log_probs", "values"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-5, err_msg=name)
    assert len(np.unique(ours.actions)) == ours.actions.size


def test_a_deviation_that_is_no_number_is_refused_as_with_autograd():
    for engine in ("autograd", "mlp"):
        agent = make(A2C, engine=engine, **gsde())
        with th.no_grad():
            agent.policy.log_std[0, 0] = np.nan
        with pytest.raises(ValueError, match="The parameter 'log_std' is nan"):
            agent.learn(12)


class Pulled(PPO):
    """PPO that stays near another policy, of random parameters."""

    estimator = "exact"
    _reference = None

    def penalty(self):
        if self._reference is None:
            self._reference = frozen_policy(self.policy)
            with th.no_grad():
                for parameter in self._reference.parameters():
                    parameter.add_(0.2 * th.randn_like(parameter))
        return Penalty(self._reference, 0.7, self.estimator)


@pytest.mark.parametrize(
    ("estimator", "action_space", "state_dependent_std"),
    [
        *each_pair(["k1", "k2", "k3", "exact"], ACTION_SPACES, {"": False}),
        *each_value(["k2", "exact"], {"Box": ACTION_SPACES["Box"]}, {"state-dependent": True}),
        *each_value(["k2", "exact"], {"Box": ACTION_SPACES["Box"]}, {"gSDE": None}),
    ],
)
def test_the_way_back_to_a_reference_policy_is_learnt_as_with_autograd(estimator, action_space, state_dependent_std):
    kwargs = {"policy_kwargs": {"state_dependent_std": bool(state_dependent_std)}, **SHORT[PPO]}
    kwargs["use_sde"] = state_dependent_std is None
    agent = make(Pulled, action_space=action_space, **kwargs)
    agent.estimator = estimator
    assert_same_update(collect(agent))


def test_a_deviation_beyond_its_limits_has_no_gradient():
    agent = make(A2C, action_space=ACTION_SPACES["Box"], ent_coef=0.1, policy_kwargs={"state_dependent_std": True})
    with th.no_grad():
        agent.policy.log_std_net.bias.copy_(th.tensor([21.0, 0.5]))
    collect(agent)
    assert_same_update(agent)
    assert agent.policy.log_std_net.bias[0] == 21
    assert agent.policy.log_std_net.bias[1] != 0.5


@pytest.mark.parametrize("action_space", [spaces.Discrete(1), spaces.MultiDiscrete([1, 1])], ids=str)
def test_where_there_is_no_choice_there_is_nothing_to_learn(action_space):
    agent = collect(make(REINFORCE, action_space=action_space, ent_coef=0.1))
    assert (agent.rollout_buffer.actions == 0).all()
    assert (agent.rollout_buffer.log_probs == 0).all()
    before = parameters(agent)
    agent.train()
    # Rounding may be left of a gradient, of which Adam makes steps of a size below gradient / eps.
    for name, value in parameters(agent).items():
        th.testing.assert_close(value, before[name], rtol=0, atol=0.01 * agent.learning_rate)


def test_a_critic_that_reinforce_has_no_use_for_is_left_as_it_is():
    """REINFORCE with a policy that has a critic all the same."""
    env = DummyVecEnv([lambda: Noisy(BOX, TWO)])
    agent = collect(REINFORCE(ActorCriticPolicy, env, seed=0, engine="mlp", device="cpu"))
    before = agent.policy.value_net.weight.clone()
    assert_same_update(agent)
    assert th.equal(agent.policy.value_net.weight, before)


class SeveralPasses(PolicyGradient):
    """The policy gradient, repeated on the same samples."""

    def __init__(self, policy, env, **kwargs):
        super().__init__(policy, env, learning_rate=1e-3, gamma=0.9, **kwargs)

    def objective(self):
        return Objective(lambda batch: score_function(batch.log_prob, batch.advantages), score_function_weight)


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("size", [{"n_steps": 20}, {"n_episodes": 2}], ids=["steps", "episodes"])
def test_an_algorithm_of_ones_own_may_pass_several_times_over_a_rollout(batch_size, size):
    assert_same_update(collect(make(SeveralPasses, n_epochs=3, batch_size=batch_size, vf_coef=0.5, **size)))


def test_an_update_is_stopped_at_the_same_minibatch():
    agent = collect(make(PPO, n_epochs=20, target_kl=0.004, learning_rate=1e-3))
    metrics = assert_same_update(agent)
    n_epochs = metrics["n_epochs"]
    assert metrics["stopped_by"] > 1.5 * 0.004
    assert metrics["approx_kl"] > 0
    # Not at once, and in the middle of an epoch: of its 4 minibatches some were learnt from, and some were not.
    assert 2 <= n_epochs < 20
    step = next(iter(agent.policy.optimizer.state.values()))["step"].item()
    assert 4 * (n_epochs - 1) < step < 4 * n_epochs


def test_an_early_stop_is_printed(capsys):
    agent = collect(make(PPO, n_epochs=20, target_kl=0.004, learning_rate=1e-3, verbose=1))
    capsys.readouterr()
    agent.train()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Early stopping at step {agent._n_updates - 1} due to reaching max kl: 0.0")


def test_stopping_in_the_first_minibatch_leaves_the_parameters_alone():
    agent = collect(make(PPO, target_kl=1e-4).learn(1))
    with th.no_grad():
        agent.policy.action_net.weight += th.randn(2, 64)  # not the policy that collected the rollout any more
    before = parameters(agent)
    metrics = assert_same_update(agent)
    assert all(th.equal(before[name], value) for name, value in parameters(agent).items())
    assert "grad_norm" not in metrics


# Gradients themselves


DISTRIBUTIONS = {
    "Categorical": {"action_space": ACTION_SPACES["Discrete"]},
    "MultiCategorical": {"action_space": ACTION_SPACES["MultiDiscrete"]},
    "Bernoulli": {"action_space": ACTION_SPACES["MultiBinary"]},
    "DiagGaussian": {"action_space": ACTION_SPACES["Box"]},
    "state-dependent deviation": {
        "action_space": ACTION_SPACES["Box"],
        "policy_kwargs": {"state_dependent_std": True},
    },
    **{f"gSDE, {name}": gsde(**noise) for name, noise in NOISES.items()},
}
SEEN = {
    "Box": {},
    **{name: {"observation_space": OBSERVATION_SPACES[name]} for name in OBSERVATION_SPACES if "Dict" in name},
}


def off_the_kinks(agent, clip_range):
    """Let the old policy and critic be such that ratios and changes of value lie on each side of the clip ranges.

    None is nearer than a twentieth to where the clipped objective or the clipped value loss has a kink.
    """
    (values, log_probs), rng = evaluated(agent), np.random.default_rng(0)
    ratios = rng.choice(np.float32([0.5, 0.9, 1.1, 1.5]), values.shape)
    changes = rng.choice(np.float32([-0.5, -0.1, 0.1, 0.5]), values.shape)
    agent.rollout_buffer.log_probs = log_probs - np.log(ratios)
    agent.rollout_buffer.values = values - changes
    assert all(abs(ratios - edge).min() > 0.05 for edge in (1 - clip_range, 1 + clip_range))
    assert abs(abs(changes) - clip_range).min() > 0.05


@pytest.mark.parametrize(("problem", "seen"), each_value(DISTRIBUTIONS, SEEN))
def test_the_kernels_gradient_is_autograds(problem, seen):
    """Of one minibatch of 96 samples, read from Adam: its first moment is (1 - β_1) g after one step from zero.

    Each number is a sum of 96 terms in float32 whose order differs: 1e-4 of it, and where terms cancel, 1e-5 of the
    largest number of its parameter.
    """
    clip_range = 0.2
    agent = make(
        PPO,
        batch_size=None,
        n_epochs=1,
        clip_range=clip_range,
        clip_range_vf=clip_range,
        ent_coef=0.1,
        max_grad_norm=None,
        **problem,
        **seen,
    )
    with th.no_grad():
        for parameter in agent.policy.parameters():  # none is 0, nor any gradient for that reason
            parameter += 0.1 * th.randn(parameter.shape)
    off_the_kinks(collect(agent), clip_range)
    moment = Moment(agent)

    def gradients(engine):
        _, optimizer, _ = moment.update(engine)
        ((beta, _),) = (group["betas"] for group in optimizer["param_groups"])
        return [optimizer["state"][number]["exp_avg"] / (1 - beta) for number in range(len(names))]

    names = [name for name, _ in agent.policy.named_parameters()]
    for name, given_, wanted in zip(names, gradients(MLPEngine), gradients(lambda *_: AutogradEngine()), strict=True):
        assert wanted.abs().min() > 0, name
        rounding = 1e-5 * wanted.abs().max().item()
        th.testing.assert_close(given_, wanted, rtol=1e-4, atol=rounding, msg=lambda said, name=name: f"{name}: {said}")


# Any shape


ALONE = [space for space in OBSERVATION_SPACES.values() if not isinstance(space, spaces.Dict)]


@st.composite
def problems(draw, cls):
    """Networks, spaces and batches of any shape."""
    layers = st.lists(st.integers(1, 70), max_size=3)
    networks = {"pi": draw(layers)} if cls is REINFORCE else {"pi": draw(layers), "vf": draw(layers)}
    policy_kwargs = {"net_arch": networks}
    action_space = draw(
        st.one_of(
            st.sampled_from(list(ACTION_SPACES.values())),
            st.builds(spaces.Discrete, st.integers(2, 40)),
            st.builds(lambda n: spaces.Box(-1, 1, (n,), np.float32), st.integers(1, 20)),
            st.builds(spaces.MultiDiscrete, st.lists(st.integers(2, 9), min_size=1, max_size=6)),
            st.builds(spaces.MultiBinary, st.integers(1, 20)),
        )
    )
    kwargs = {}
    if isinstance(action_space, spaces.Box):
        deviation = draw(st.sampled_from(["constant", "of a network", "gSDE"]))
        policy_kwargs["state_dependent_std"], kwargs["use_sde"] = deviation == "of a network", deviation == "gSDE"
    observation_space = draw(
        st.one_of(
            st.sampled_from(list(OBSERVATION_SPACES.values())),
            st.builds(lambda n: spaces.Box(-1, 1, (n,), np.float32), st.integers(1, 70)),
            st.builds(spaces.Discrete, st.integers(1, 70)),
            st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 9), min_size=1, max_size=6)),
            st.builds(
                spaces.Dict, st.dictionaries(st.text("ab", min_size=1, max_size=2), st.sampled_from(ALONE), min_size=1)
            ),
        )
    )
    kwargs["n_envs"] = draw(st.one_of(st.integers(1, 6), st.sampled_from([16, 17, 65])))
    if cls is PPO:
        n_steps = draw(st.integers(2, 30))
        # Not more than 10 minibatches: over many steps differences grow, and ratios come to lie where the clip is.
        least = -(-n_steps * kwargs["n_envs"] // 10)
        kwargs |= {
            "batch_size": draw(st.integers(least, least + 200)),
            "n_steps": n_steps,
            "n_epochs": draw(st.integers(1, 2)),
            "clip_range_vf": draw(st.sampled_from([None, 0.05])),
        }
        kwargs["normalize_advantage"] = kwargs["batch_size"] > 1
    elif cls is A2C:
        kwargs["n_steps"] = draw(st.integers(1, 30))
    else:
        kwargs["n_episodes"] = draw(st.integers(1, 3))
    kwargs["ent_coef"] = draw(st.sampled_from([0.0, 0.05]))
    return {**kwargs, "policy_kwargs": policy_kwargs, "observation_space": observation_space,
            "action_space": action_space}  # fmt: skip


# Hypothesis varies what it has found: that each activation and each algorithm has its share is seen to here.
@pytest.mark.parametrize(("activation", "cls"), each_value(ACTIVATIONS, ALL))
@settings(deadline=None, derandomize=True, max_examples=12)
@given(data=st.data())
def test_any_shape_is_acted_with_and_learnt_as_with_autograd(cls, activation, data):
    problem = data.draw(problems(cls))
    problem["policy_kwargs"]["activation_fn"] = activation
    agent = collect(make(cls, **problem))
    assert_log_probs_and_values_are_the_policys(agent)
    assert_same_update(agent)


# Two threads


@pytest.fixture
def critics(monkeypatch):
    """Names of the threads that are started, of updates however small."""
    names, start = [], threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: names.append(thread.name) or start(thread))
    monkeypatch.setattr("pg_agents.engines.mlp.learning.WORTH_A_THREAD", 0)
    return names


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"action_space": ACTION_SPACES["Box"], "clip_range_vf": 0.1, "policy_kwargs": {"net_arch": {"vf": [200]}}},
        {"target_kl": 1e-4},
    ],
    ids=["Discrete", "Box", "early stop"],
)
def test_two_threads_arrive_at_the_same_bits_as_one(options, critics):
    agent = collect(make(PPO, **{"batch_size": 8, "n_epochs": 10, **options}))
    moment, results = Moment(agent), []
    for n_threads in (1, 2, 2, 2, 2, 2, 2):
        with threads.allowed(n_threads):
            _, _, metrics = moment.update(MLPEngine)
        results.append((bits(agent), metrics))
    assert results[1:] == results[:1] * 6
    assert len(critics) == 6


def test_learning_with_two_threads_arrives_at_the_same_bits_as_with_one(critics):
    before = th.get_num_threads()
    results = []
    try:
        for n_threads in (1, 2):
            agent = make(PPO)
            th.set_num_threads(n_threads)
            available = Spy(step=lambda spy: threads.available())
            agent.learn(600, callback=available)
            assert set(available.seen) == {n_threads}
            results.append(bits(agent))
    finally:
        th.set_num_threads(before)
    assert results[0] == results[1]
    assert critics != []


# Acting


def assert_log_probs_and_values_are_the_policys(agent):
    """To float32's accuracy: of sums of up to 40 numbers, each of order 1 or, in log π of a Gaussian, 10."""
    buffer, (values, log_probs) = agent.rollout_buffer, evaluated(agent)
    np.testing.assert_allclose(buffer.values, values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(buffer.log_probs, log_probs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_envs", [1, 16, 64, 65, 130])
def test_any_number_of_environments_is_acted_in(n_envs):
    for space in (ACTION_SPACES["Box"], ACTION_SPACES["MultiDiscrete"]):
        agent = collect(make(A2C, action_space=space, n_envs=n_envs, n_steps=3))
        assert_log_probs_and_values_are_the_policys(agent)
        assert_same_update(agent)


def test_each_of_many_environments_gets_the_action_of_its_own_observation():
    """Action = observation, by a policy that leaves no choice."""
    space = spaces.Discrete(130)
    agent = make(A2C, space, space, n_envs=130, n_steps=4, policy_kwargs={"net_arch": []})
    with th.no_grad():
        agent.policy.action_net.weight.copy_(100 * th.eye(130))
        agent.policy.value_net.weight.copy_(th.arange(130.0))
    buffer = collect(agent).rollout_buffer
    np.testing.assert_array_equal(buffer.actions, buffer.observations)
    np.testing.assert_array_equal(buffer.values, buffer.observations.reshape(4, 130))
    given_ = [[int(action) for action in env.actions] for env in agent.env.envs]
    np.testing.assert_array_equal(np.transpose(given_), buffer.actions.reshape(4, 130))


def test_each_part_of_an_observation_meets_its_own_weights():
    """A value that is read off the observation: the keys in the order of the alphabet, categories as unit vectors."""
    space = spaces.Dict(
        {
            "c": spaces.Discrete(3),
            "b": spaces.MultiDiscrete([2, 3]),
            "a": spaces.Box(-1, 1, (1,)),
            "d": spaces.MultiBinary(2),
        }
    )
    agent = make(A2C, space, n_steps=50, policy_kwargs={"net_arch": []})
    with th.no_grad():
        agent.policy.value_net.weight.copy_(th.tensor([1.0, 10, 20, 100, 200, 300, 1000, 2000, 3000, 1e4, 2e4]))
    buffer = collect(agent).rollout_buffer
    a, b, c, d = (buffer.observations[key] for key in "abcd")
    first, second = b[..., 0], b[..., 1]
    expected = (
        a[..., 0] + 10 * (1 + first) + 100 * (1 + second) + 1000 * (1 + c[..., 0]) + 1e4 * d[..., 0] + 2e4 * d[..., 1]
    )
    np.testing.assert_allclose(buffer.values, expected, rtol=1e-6)


@pytest.mark.parametrize("observation", [-1.0, 3.0, 1e30, -1e30, np.nan, np.inf])
def test_a_number_that_is_no_category_is_no_index(observation):
    """Nothing that comes of it is finite, so that it is refused, as by torch; its neighbours are left alone."""
    agent = make(A2C, spaces.MultiDiscrete([3, 3, 3]), policy_kwargs={"net_arch": []})
    with th.no_grad():
        agent.policy.value_net.weight.copy_(th.tensor([1.0, 2, 3, 10, 20, 30, 100, 200, 300]))
    given_ = np.array([[1, observation, 2], [1, 0, 2]])
    values = agent._engine.values(agent.policy, given_)
    assert math.isnan(values[0])
    assert values[1] == 2 + 10 + 300


class Constant(Noisy):
    """Every observation is the same."""

    def step(self, action):
        self.actions.append(deepcopy(action))
        return np.full(3, 0.5, np.float32), 0.0, False, False, {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full(3, 0.5, np.float32), {}


def drawn(action_space, n_envs=130, n_steps=100, **kwargs):
    """An agent that has acted in one state, and its actions, one in each row."""
    env = DummyVecEnv([lambda: Constant(BOX, action_space)] * n_envs)
    agent = A2C("MlpPolicy", env, n_steps=n_steps, seed=3, engine="mlp", device="cpu", **kwargs)
    with th.no_grad():  # probabilities far from equal
        th.manual_seed(1)
        agent.policy.action_net.bias.normal_(std=0.7)
    actions = collect(agent).rollout_buffer.actions
    return agent, actions.reshape(n_envs * n_steps, -1)


def distribution(agent):
    with th.no_grad():
        return agent.policy.get_distribution(th.full((1, 3), 0.5)).distribution


def chi_square_p(counts, probabilities):
    expected = counts.sum() * probabilities
    assert expected.min() >= 5
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), len(counts) - 1
    return th.special.gammaincc(*th.tensor([freedom / 2, statistic / 2], dtype=th.float64)).item()


def joint(marginals):
    """Probabilities of all combinations of independent choices."""
    product = np.ones(1)
    for marginal in marginals:
        product = np.outer(product, marginal).ravel()
    return product


# A probability of 1e-4 that a right implementation fails; the seed is fixed, so that it does not come and go.
@pytest.mark.parametrize("name", ["Discrete", "Discrete of many", "MultiDiscrete", "MultiBinary"])
def test_actions_are_as_frequent_as_they_are_probable(name):
    space = ACTION_SPACES[name]
    agent, actions = drawn(space)
    found = distribution(agent)
    if isinstance(space, spaces.MultiDiscrete):
        marginals, sizes = [one.probs[0].numpy().astype(float) for one in found], space.nvec
    elif isinstance(space, spaces.MultiBinary):
        one = found.probs[0].numpy().astype(float)
        marginals, sizes = [np.array([1 - p, p]) for p in one], [2] * len(one)
    else:
        marginals, sizes = [found.probs[0].numpy().astype(float)], [space.n]
    combination = np.ravel_multi_index(actions.T.astype(int), sizes)
    counts = np.bincount(combination, minlength=np.prod(sizes))
    assert chi_square_p(counts, joint(marginals)) > 1e-4


@pytest.mark.parametrize("noise", [{}, {"use_sde": True, "sde_sample_freq": 1}], ids=["independent", "gSDE"])
def test_gaussian_actions_are_spread_as_the_policy_says(noise):
    agent, actions = drawn(spaces.Box(-1, 1, (3,), np.float32), policy_kwargs={"log_std_init": -0.4}, **noise)
    found = distribution(agent)
    noise = (actions - found.mean.numpy()) / found.stddev.numpy()
    n = len(noise)
    # Four standard errors, of a mean (1/√n), of a deviation (1/√2n), of correlations and of the share within ±σ.
    assert np.abs(noise.mean(axis=0)).max() < 4 / math.sqrt(n)
    assert np.abs(noise.std(axis=0) - 1).max() < 4 / math.sqrt(2 * n)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 4 / math.sqrt(n)
    within = math.erf(1 / math.sqrt(2))
    assert np.abs((np.abs(noise) < 1).mean(axis=0) - within).max() < 4 * math.sqrt(within * (1 - within) / n)
    # No environment, step or dimension shares another's noise: float32 leaves few coincidences.
    assert len(np.unique(noise)) > 0.99 * noise.size


def test_the_next_rollout_has_other_noise():
    agent = make(A2C, action_space=ACTION_SPACES["Box"], learning_rate=0.0)
    first = collect(agent).rollout_buffer.actions.copy()
    assert not np.isin(collect(agent).rollout_buffer.actions, first).any()


def test_an_action_of_probability_0_is_never_drawn():
    agent, _ = drawn(spaces.Discrete(4))
    with th.no_grad():
        agent.policy.action_net.bias.copy_(th.tensor([-200.0, 0.0, -200.0, -200.0]))
    assert (collect(agent).rollout_buffer.actions == 1).all()


class Watching(VecEnvWrapper):
    """Notes what all environments together are given."""

    def __init__(self, venv):
        super().__init__(venv)
        self.given = []

    def reset(self):
        return self.venv.reset()

    def step_async(self, actions):
        self.given.append(actions.copy())
        self.venv.step_async(actions)

    def step_wait(self):
        return self.venv.step_wait()


@pytest.mark.parametrize("n_envs", [1, 65])
@every_action_space
def test_environments_are_given_actions_of_the_same_kind_as_by_autograd(action_space, n_envs):
    kinds = []
    for engine in ("autograd", "mlp"):
        env = Watching(DummyVecEnv([lambda: Noisy(BOX, action_space)] * n_envs))
        A2C("MlpPolicy", env, n_steps=2, engine=engine, device="cpu", seed=0).learn(2)
        single = env.venv.envs[0].actions[0]
        together = env.given[0]
        kinds.append((type(single), np.shape(single), np.asarray(single).dtype, together.shape, together.dtype))
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(("name", "n_envs"), each_value([name for name in ACTION_SPACES if "Box" in name], [1, 70]))
def test_environments_are_given_clipped_actions_and_the_buffer_has_them_as_drawn(name, n_envs):
    space = ACTION_SPACES[name]
    env = Watching(DummyVecEnv([lambda: Noisy(BOX, space)] * n_envs))
    wide = {"log_std_init": 1.0}
    agent = collect(A2C("MlpPolicy", env, n_steps=100, engine="mlp", device="cpu", seed=0, policy_kwargs=wide))
    stored = agent.rollout_buffer.actions.reshape(100, n_envs, *space.shape)
    assert (stored < space.low).any()
    assert (stored > space.high).any()
    np.testing.assert_array_equal(np.stack(env.given), np.clip(stored, space.low, space.high))


@pytest.mark.parametrize(("n_envs", "observation_space"), each_pair([1, 2, 70], {"Box": BOX, "Dict": PARTS}))
def test_the_value_after_the_rollout_and_at_a_time_limit_is_the_policys(n_envs, observation_space):
    short = {"n_steps": 20, "gae_lambda": 0.0, "gamma": 0.5}
    agent = make(A2C, observation_space, env_kwargs={"ends": 0.0}, n_envs=n_envs, **short)
    buffer = collect(agent).rollout_buffer
    with th.no_grad():
        last = agent.policy.predict_values(agent.policy.obs_to_tensor(agent._last_obs)[0]).numpy().flatten()
    # The last step, the 20th, was cut by the time limit: its target is V of the observation that it led to.
    assert buffer.truncated[-1].all()
    with th.no_grad():
        final = [agent.policy.obs_to_tensor(obs)[0] for obs in terminal_observations(agent)]
        expected = [agent.policy.predict_values(obs).item() for obs in final]
    np.testing.assert_allclose(buffer.final_values[-1], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(agent._engine.values(agent.policy, agent._last_obs), last, rtol=1e-5, atol=1e-6)


@every_observation_space
def test_callbacks_and_metrics_see_the_same_observations_as_with_autograd(observation_space):
    class Looking(PPO):
        """Keeps the minibatches that its metrics are given."""

        def minibatch_metrics(self, batch):
            self.seen.append(batch.observations)
            return {}

    agents, told = [], []
    for engine in ("autograd", "mlp"):
        agent = make(Looking, observation_space, engine=engine, n_steps=32, n_epochs=1, batch_size=96)
        agent.seen, spy = [], Spy(step=lambda spy: spy.locals["obs_tensor"])
        agents.append(agent.learn(96, callback=spy, log_interval=None))
        told.append(spy.seen)
    th.testing.assert_close(told[1], told[0], rtol=0, atol=0)
    (wanted,), (given_,) = (agent.seen for agent in agents)
    th.testing.assert_close(given_, wanted, rtol=0, atol=0)


def terminal_observations(agent):
    return [info["terminal_observation"] for info in agent.env.buf_infos]


def test_normalised_observations_are_acted_on_and_stored_as_they_are():
    env = VecNormalize(DummyVecEnv([lambda: Noisy(spaces.Box(-50, 9, (3,), np.float64), TWO)] * 2))
    agent = collect(PPO("MlpPolicy", env, n_steps=16, batch_size=8, engine="mlp", seed=0, device="cpu"))
    assert_log_probs_and_values_are_the_policys(agent)
    assert_same_update(agent)


def test_normalised_parts_of_observations_are_acted_on_and_stored_as_they_are():
    space = spaces.Dict({"large": spaces.Box(-50, 9, (3,), np.float32), "category": spaces.Discrete(3)})
    env = VecNormalize(DummyVecEnv([lambda: Noisy(space, TWO)] * 2), norm_obs_keys=["large"])
    agent = collect(PPO("MultiInputPolicy", env, n_steps=64, batch_size=32, engine="mlp", seed=0, device="cpu"))
    assert np.abs(agent.rollout_buffer.observations["large"]).max() < 10
    assert_log_probs_and_values_are_the_policys(agent)
    assert_same_update(agent)


# One memory


def during(**at):
    """Does something to the agent at some events."""
    return Spy(**{event: lambda spy, act=act: act(spy.model) for event, act in at.items()})


@every_algorithm
def test_training_is_seen_by_whoever_looks_at_the_policy(cls, tmp_path):
    """In the middle of training, through all of SB3's ways to look."""
    seen = []

    def look(agent):
        observations = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
        tensor = th.as_tensor(observations)
        agent.save(tmp_path / "model")
        loaded = cls.load(tmp_path / "model")
        given_, held = agent.get_parameters(), loaded.get_parameters()
        assert all(th.equal(given_["policy"][name], held["policy"][name]) for name in given_["policy"])
        state = agent.policy.optimizer.state_dict()["state"]
        assert str(held["policy.optimizer"]["state"]) == str(state)
        with th.no_grad():
            probabilities = agent.policy.get_distribution(tensor).distribution.probs
            values = agent.policy.predict_values(tensor)
        action, _ = agent.predict(observations, deterministic=True)
        np.testing.assert_array_equal(action, probabilities.argmax(dim=1))
        # What acts sees the same.
        if agent.has_critic:
            np.testing.assert_allclose(agent._engine.values(agent.policy, observations), values.flatten(), atol=1e-5)
        n_steps = next(iter(state.values()))["step"].item() if state else 0
        seen.append((n_steps, probabilities.numpy().tobytes()))

    make(cls, n_envs=1).learn(150, callback=during(rollout_start=look))
    counts, probabilities = zip(*seen, strict=True)
    assert len(seen) > 2
    # 32 steps in batches of 24 are 2 minibatches, 3 times.
    assert list(counts) == [number * (6 if cls is PPO else 1) for number in range(len(counts))]
    assert len(set(probabilities)) == len(probabilities)


def value_of_7_and_action_1(agent):
    new = parameters(agent)
    new["value_net.weight"].zero_()
    new["value_net.bias"].fill_(7)
    new["action_net.bias"].copy_(th.tensor([-300.0, 300.0]))
    return new


@pytest.mark.parametrize("way", ["set_parameters", "load_state_dict", "in place"])
def test_parameters_that_a_callback_sets_in_mid_rollout_act_at_once(way):
    def change(agent):
        if agent.num_timesteps != 3 * 5:
            return
        new = value_of_7_and_action_1(agent)
        if way == "set_parameters":
            agent.set_parameters({"policy": new}, exact_match=False)
        elif way == "load_state_dict":
            agent.policy.load_state_dict(new)
        else:
            with th.no_grad():
                for name, parameter in agent.policy.named_parameters():
                    parameter.copy_(new[name])

    agent = make(A2C, n_steps=12)
    agent.learn(36, callback=during(step=change))
    buffer = agent.rollout_buffer
    values = buffer.values.reshape(3, 12).T if buffer.generator_ready else buffer.values
    actions = buffer.actions.reshape(3, 12).T if buffer.generator_ready else buffer.actions
    assert (values[:5] != 7).all()
    assert (values[5:] == 7).all()
    assert len(np.unique(actions[:5])) == 2
    assert (actions[5:] == 1).all()


@pytest.mark.parametrize("way", ["in place", "replaced", "drawn anew"])
def test_noise_of_gsde_that_a_callback_changes_is_that_which_explores(way):
    def change(agent):
        noise = agent.policy.action_dist
        if agent.num_timesteps != 3 * 5:
            return
        if way == "in place":
            noise.exploration_matrices.zero_()
        elif way == "replaced":
            noise.exploration_matrices = th.zeros_like(noise.exploration_matrices)
        else:
            with th.no_grad():
                agent.policy.log_std.fill_(-100.0)
            agent.policy.reset_noise(3)

    agent = make(A2C, n_steps=12, learning_rate=0.0, **gsde())
    agent.learn(36, callback=during(step=change))
    buffer = agent.rollout_buffer
    with th.no_grad():
        means = agent.policy.get_distribution(th.as_tensor(buffer.observations.reshape(36, 3))).mode().numpy()
    explored = np.abs(buffer.actions - means.reshape(12, 3, 6))
    assert explored[:5].min() > 1e-5
    assert explored[5:].max() < 1e-5


@pytest.mark.parametrize("shape", [(3, 64, 5), (3, 6, 64), (3, 64, 6, 1)])
def test_noise_of_gsde_that_does_not_fit_is_refused(shape):
    def change(agent):
        agent.policy.action_dist.exploration_matrices = th.zeros(shape)

    with pytest.raises(
        NotServedError, match=r"gSDE's noise is an array of torch.float32 with the shape .*\(3, 64, 6\)"
    ):
        make(A2C, n_steps=12, **gsde()).learn(36, callback=during(step=change))


def test_an_optimiser_that_a_callback_resets_begins_anew():
    def reset_it(agent):
        empty = agent.policy.optimizer_class(agent.policy.parameters(), lr=1e-3, **agent.policy.optimizer_kwargs)
        agent.policy.optimizer.load_state_dict(empty.state_dict())

    agent = make(PPO).learn(96 * 3, callback=during(rollout_end=reset_it))
    steps = {state["step"].item() for state in agent.policy.optimizer.state.values()}
    assert steps == {3 * 4}  # 3 epochs of 4 minibatches


@pytest.mark.parametrize("way", ["load_state_dict", "set_parameters", "in place"])
def test_moments_that_a_callback_sets_are_those_that_are_learnt_with(way):
    def change(agent):
        optimizer = agent.policy.optimizer
        state = deepcopy(optimizer.state_dict())
        for number in state["state"].values():
            number["step"].fill_(100)
            number["exp_avg_sq"].fill_(1e6)
        if way == "load_state_dict":
            optimizer.load_state_dict(state)
        elif way == "set_parameters":
            agent.set_parameters({"policy.optimizer": state}, exact_match=False)
        else:
            for number in optimizer.state.values():
                number["step"].fill_(100)
                number["exp_avg_sq"].fill_(1e6)

    def at_the_second(agent):
        if agent.num_timesteps == 2 * 96:
            change(agent)

    agent = make(PPO).learn(2 * 96, callback=during(rollout_end=at_the_second))
    assert agent._n_updates == 2 * 3
    for state in agent.policy.optimizer.state.values():
        assert state["step"] == 100 + 12
        # 12 times 0.999 of it, to which gradients of norm 0.5 add little.
        assert state["exp_avg_sq"].min().item() == pytest.approx(1e6 * 0.999**12, rel=1e-5)


def test_engines_can_be_changed_between_learns():
    agent = make(PPO)
    for number, engine in enumerate(["mlp", "autograd", "auto", "autograd", "mlp"], 1):
        agent.engine = engine
        before = bits(agent)
        agent.learn(96, reset_num_timesteps=False)
        assert bits(agent) != before
        assert agent.engine_in_use == ("autograd" if engine == "autograd" else "mlp")
        steps = {state["step"].item() for state in agent.policy.optimizer.state.values()}
        assert steps == {number * 12}
    assert_same_update(collect(agent))


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_a_model_goes_on_in_sb3(cls, tmp_path):
    agent = make(cls, action_space=ACTION_SPACES["Box"]).learn(200)
    agent.save(tmp_path / "model")
    env = DummyVecEnv([lambda: Noisy(BOX, ACTION_SPACES["Box"])] * 3)
    theirs = getattr(stable_baselines3, cls.__name__).load(tmp_path / "model", env=env, device="cpu")
    assert bits(theirs) == bits(agent)
    theirs.learn(100, reset_num_timesteps=False)
    assert bits(theirs) != bits(agent)
    # And back.
    theirs.save(tmp_path / "theirs")
    ours = cls.load(tmp_path / "theirs", env=env, engine="mlp", device="cpu")
    assert bits(ours) == bits(theirs)
    assert_same_update(collect(ours))


@pytest.mark.parametrize(("cls", "observation_space"), each_pair(ALL, {"Box": BOX, "Dict": PARTS}))
def test_a_loaded_model_learns_as_the_saved_one_does(cls, observation_space, tmp_path):
    agent = make(cls, observation_space).learn(100)
    agent.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=agent.env)
    for one in (agent, loaded):
        one.set_random_seed(5)
        one.learn(100)
    assert bits(loaded) == bits(agent)


# Chance


@every_algorithm
@pytest.mark.parametrize("action_space", DISCRETE_AND_BOX.values(), ids=DISCRETE_AND_BOX)
def test_a_seed_determines_every_bit(cls, action_space):
    def run(seed):
        agent = make(cls, action_space=action_space, seed=seed).learn(150)
        actions = [agent.predict(np.zeros((50, 3), np.float32))[0] for _ in range(2)]
        return bits(agent), np.stack(actions).tobytes(), agent._last_obs.tobytes()

    first = run(4)
    assert run(4) == first
    assert all(one != other for one, other in zip(run(5), first, strict=True))


def test_without_a_seed_the_global_one_determines_every_bit():
    def run():
        set_random_seed(8)
        agent = make(A2C, seed=None)
        agent.env.seed(0)
        return bits(agent.learn(100))

    assert run() == run()


def test_unseeded_runs_differ():
    assert bits(make(A2C, seed=None).learn(100)) != bits(make(A2C, seed=None).learn(100))


@pytest.mark.parametrize("action_space", DISCRETE_AND_BOX.values(), ids=DISCRETE_AND_BOX)
def test_seeding_again_in_mid_training_reproduces_what_follows(action_space):
    agent = make(PPO, action_space=action_space).learn(100)
    start = deepcopy(agent.get_parameters())
    results = []
    for seed in (6, 6, 7):
        agent.set_parameters(deepcopy(start))
        agent.set_random_seed(seed)
        agent.learn(200)
        results.append(bits(agent))
    assert results[0] == results[1] != results[2]


# The log


@every_algorithm
@pytest.mark.parametrize("action_space", DISCRETE_AND_BOX.values(), ids=DISCRETE_AND_BOX)
def test_both_engines_log_the_same_keys(cls, action_space):
    keys = []
    for engine in ("autograd", "mlp"):
        agent = make(cls, action_space=action_space, engine=engine).learn(150, log_interval=None)
        keys.append(set(agent.logger.name_to_value))
    assert keys[0] == keys[1]
    assert "train/loss" in keys[0]


LOGGED = {
    "schedules": {"clip_range": LinearSchedule(0.04, 0, 1), "clip_range_vf": LinearSchedule(0.1, 0, 1)},
    "scheduled coefficients": {"ent_coef": lambda remaining: remaining, "vf_coef": lambda remaining: remaining},
    "adaptive penalty": {"kl_target": 1e-9},
    "deviation of each state": {"action_space": ACTION_SPACES["Box"], "policy_kwargs": {"state_dependent_std": True}},
}


def train_log(agent, moment, engine, later):
    """What is logged of an update, if somebody looks at once, or later."""
    moment.restore()
    agent.kl_coef = 1.0 if agent.kl_target else None
    agent.engine, agent._engine_in_use = engine, None
    agent._current_progress_remaining = 0.6
    agent.logger.name_to_value.clear()
    agent.train()
    if later:  # schedules have moved on, and the policy has acted
        agent._current_progress_remaining = 0.1
        agent.policy(th.ones(1, 3))
    return {key: value for key, value in agent.logger.name_to_value.items() if key.startswith("train/")}


@pytest.mark.parametrize(("engine", "later"), [("autograd", True), ("mlp", False), ("mlp", True)])
@pytest.mark.parametrize("options", LOGGED.values(), ids=LOGGED)
def test_what_is_logged_is_of_the_update_whenever_somebody_looks(options, engine, later):
    """SB3 writes the log of an update after the next rollout."""
    agent = make(PPO, **{"learning_rate": 1e-2, **options})
    if hasattr(agent.policy, "log_std_net"):
        with th.no_grad():
            agent.policy.log_std_net.weight.normal_(std=0.1)
    moment = Moment(collect(agent))
    wanted = train_log(agent, moment, "autograd", later=False)
    given_ = train_log(agent, moment, engine, later)
    assert given_.keys() == wanted.keys()
    for key, value in wanted.items():
        assert given_[key] == pytest.approx(value, rel=1e-4, abs=5e-6), key


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("engine", ["autograd", "mlp"])
def test_the_deviations_of_all_dimensions_are_those_of_their_mean(engine, later):
    agent = collect(make(PPO, action_space=ACTION_SPACES["Box"], learning_rate=1e-2))
    log = train_log(agent, Moment(agent), engine, later)
    assert (log["train/std_0"] + log["train/std_1"]) / 2 == pytest.approx(log["train/std"], rel=1e-6)


class Replaces(BaseCallback):
    """Gives the action head other memory, with doubled weights, at the steps that it is asked at or given."""

    def __init__(self, at=None):
        super().__init__()
        self.at = at

    def _on_step(self):
        if self.at is None or self.num_timesteps in self.at:
            weight = self.model.policy.action_net.weight
            weight.data = 2 * weight.data
        return True


@pytest.mark.parametrize("env", ["CartPole-v1", "pg/CartPole-v1"])
def test_a_callback_of_sb3s_that_looks_now_and_then_is_followed_at_that_step(env):
    """`EveryNTimesteps` is known not to look in between; a callback that is asked in every step is not."""

    def rollout(callback):
        agent = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu", engine="mlp")
        buffer = agent.rollout(callback)
        return buffer.observations, buffer.actions, buffer.values, buffer.log_probs

    every, own = rollout(EveryNTimesteps(5, Replaces())), rollout(Replaces({5, 10, 15, 20, 25, 30}))
    assert all(np.array_equal(*pair) for pair in zip(every, own, strict=True))
    assert not np.array_equal(every[3], rollout(None)[3])
