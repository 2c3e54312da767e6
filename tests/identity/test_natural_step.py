"""A compiled natural step is the autograd engine's, and F v of either engine that of the matrix by its definition."""

import itertools
import threading
from copy import copy, deepcopy
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch as th
from combinations import each_value
from fakes import TinyEnv
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

import pg_agents
from pg_agents import NPG, TRPO, natural
from pg_agents.contract import Batches, NaturalStep, NotFiniteError, Penalty
from pg_agents.engines import threads
from pg_agents.engines.autograd import AutogradEngine
from pg_agents.engines.mlp import natural as compiled
from pg_agents.engines.mlp.engine import MLPEngine
from pg_agents.objectives import KL_ESTIMATORS

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")

ENGINES = {"autograd": lambda *_: AutogradEngine(), "mlp": MLPEngine}
ACTIONS = {
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
    "Box": spaces.Box(-1, 1, (2,)),
}
BOX = ACTIONS["Box"]
OBSERVATIONS = {
    "Box": spaces.Box(-1, 1, (3,)),
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "Dict": spaces.Dict({"box": spaces.Box(-1, 1, (2, 2)), "category": spaces.Discrete(3)}),
}
ACTIVATIONS = {
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "ELU": nn.ELU,
    "LeakyReLU": nn.LeakyReLU,
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "Identity": nn.Identity,
}
STD = {"state_dependent_std": True}


def make(cls=TRPO, actions=ACTIONS["Discrete"], observations=OBSERVATIONS["Box"], n_envs=3, **kwargs):
    """An agent with a rollout of 75 samples, more than one block of the kernels, and parameters of which none is 0."""
    env = DummyVecEnv([lambda: TinyEnv(actions, deepcopy(observations), length=7)] * n_envs)
    policy = "MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy"
    kwargs = {"n_steps": 75 // n_envs, "batch_size": 20, "n_critic_updates": 3, "seed": 0, **kwargs}
    agent = cls(policy, env, engine="mlp", device="cpu", **kwargs)
    generator = th.Generator().manual_seed(0)
    for parameter in agent.policy.parameters():
        parameter.data += 0.1 * th.randn(parameter.shape, generator=generator)
    return collect(agent)


def collect(agent):
    """One rollout by the agent as it is."""
    _, callback = agent._setup_learn(10_000)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return agent


def small(**kwargs):
    return {"policy_kwargs": {"net_arch": [6, 5], **kwargs}}


def update(agent, engine="mlp", *, step=None, critic=None, **changes):
    """The metrics of a natural update. It leaves the rollout, and draws the same random numbers each time."""
    loss = replace(agent.loss(), **changes)
    step, critic = step or agent.natural_step(), critic or Batches(agent.n_critic_updates, agent.batch_size)
    buffer = deepcopy({name: it for name, it in vars(agent.rollout_buffer).items() if name != "estimator"})
    np.random.seed(1)  # noqa: NPY002 - what both shuffle with
    th.manual_seed(1)
    try:
        chosen = ENGINES[engine](agent.policy, agent.rollout_buffer, loss)
        return chosen.natural_update(agent.policy, agent.rollout_buffer, loss, step, critic).metrics()
    finally:
        vars(agent.rollout_buffer).update(buffer)


def results(agent, **kwargs):
    """By engine: parameters, state of the optimiser and metrics after an update from the same moment."""
    policy, optimizer = deepcopy([agent.policy.state_dict(), agent.policy.optimizer.state_dict()])
    found = {}
    for engine in ENGINES:
        agent.policy.load_state_dict(policy)
        agent.policy.optimizer.load_state_dict(deepcopy(optimizer))
        metrics = update(agent, engine, **kwargs)
        found[engine] = deepcopy([agent.policy.state_dict(), agent.policy.optimizer.state_dict()["state"], metrics])
    return policy, found["autograd"], found["mlp"]


def assert_same_update(agent, **kwargs):
    """Both engines do the same.

    Tolerances: F v is a sum over the samples in another order. Conjugate gradients multiply its rounding by the
    condition number of F + 0.1 I, which is some hundreds here: 1e-3 of the largest change. Adam divides each of the
    critic's gradients by its size, so that where it is all but 0 a rounding becomes a part of a step.
    """
    before, (wanted, wanted_state, wanted_metrics), (given, state, metrics) = results(agent, **kwargs)
    largest = {
        of_critic: max((wanted[name] - before[name]).abs().max() for name in wanted if ("value" in name) == of_critic)
        for of_critic in (False, True)
    }
    for name, value in wanted.items():
        of_critic = "value" in name
        tolerance = (5e-2 if of_critic else 1e-3) * largest[of_critic] + 1e-6
        assert (given[name] - value).abs().max() <= tolerance, name
    assert state.keys() == wanted_state.keys()
    for number, values in wanted_state.items():
        assert state[number].keys() == values.keys()
        for name, value in values.items():
            scale = max(float(other[name].abs().max()) for other in wanted_state.values())
            th.testing.assert_close(state[number][name], value, rtol=1e-2, atol=1e-3 * scale)
    assert metrics.keys() == wanted_metrics.keys()
    for name, value in wanted_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    return metrics


# The Fisher matrix


def outcomes(distribution):
    """Actions and their probabilities, such that sums over them are expectations of the score's products.

    All actions, where they can be counted. A product of two scores of a Gaussian is a polynomial of degree 4 in each
    action, for which three points of the Gauss-Hermite quadrature are exact.
    """
    inner = distribution.distribution
    if isinstance(inner, th.distributions.Normal):
        nodes, weights = np.polynomial.hermite_e.hermegauss(3)
        for chosen in itertools.product(range(3), repeat=inner.mean.shape[1]):
            chosen = list(chosen)
            actions = inner.mean + inner.stddev * th.tensor(nodes[chosen], dtype=th.float32)
            probability = np.prod(weights[chosen] / np.sqrt(2 * np.pi))
            yield actions.detach(), th.full((len(actions),), float(probability))
        return
    if isinstance(inner, list):
        n_samples, sizes = len(inner[0].logits), [one.logits.shape[1] for one in inner]
    elif isinstance(inner, th.distributions.Categorical):
        n_samples, sizes = len(inner.logits), [inner.logits.shape[1]]
    else:
        n_samples, sizes = len(inner.logits), [2] * inner.logits.shape[1]
    for chosen in itertools.product(*map(range, sizes)):
        actions = th.tensor([chosen] * n_samples, dtype=th.float32)
        if isinstance(inner, th.distributions.Categorical):
            actions = actions.flatten()
        yield actions, distribution.log_prob(actions).exp().detach()


def explicit_fisher(agent, parameters):
    """E_s[Σ_a π(a|s) ∇ log π(a|s) ∇ log π(a|s)ᵀ] over the rollout, (n, n)."""
    flat = th.as_tensor(agent.rollout_buffer.observations.reshape(75, -1))
    fisher = th.zeros(2 * [sum(parameter.numel() for parameter in parameters)], dtype=th.float64)
    for actions, probabilities in outcomes(agent.policy.get_distribution(flat)):
        log_prob = agent.policy.get_distribution(flat).log_prob(actions)
        each = th.autograd.grad(log_prob, parameters, th.eye(len(flat)), is_grads_batched=True)
        scores = th.cat([part.flatten(1) for part in each], dim=1).double()
        fisher += scores.T @ (scores * probabilities[:, None]) / len(flat)
    return fisher


FISHERS = {
    **{name: (space, {}) for name, space in ACTIONS.items()},
    "Box, sigma of the state": (BOX, STD),
    "Box, a sigma at its limit": (BOX, STD),
    "mean over dimensions": (BOX, {}),
    "mean over bits": (ACTIONS["MultiBinary"], {}),
    "no hidden layer": (ACTIONS["Discrete"], {"net_arch": []}),
    "no hidden layer, sigma of the state": (BOX, {"net_arch": [], **STD}),
    "wide": (ACTIONS["Discrete"], {"net_arch": [19, 17]}),
    "gSDE": (BOX, {}),
    "gSDE, one deviation for all actions": (BOX, {"full_std": False}),
    "gSDE, no hidden layer": (BOX, {"net_arch": [], "use_expln": True}),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "activation"), each_value({name: name for name in FISHERS}, ACTIVATIONS))
def test_f_v_is_that_of_the_explicit_matrix(name, activation, engine):
    space, kwargs = FISHERS[name]
    agent = make(NPG, space, use_sde="gSDE" in name, **small(activation_fn=activation, **kwargs))
    if "limit" in name:
        with th.no_grad():
            agent.policy.log_std_net.bias[0] = 30
        agent = collect(agent)
    over_dimensions = name.startswith("mean")
    step = NaturalStep(cg_damping=0.1, mean_over_dimensions=over_dimensions, line_search_max_iter=0)
    with mock.patch.object(natural, "move", return_value={}) as move:
        update(agent, engine, step=step)
        parameters, g, product, *_ = move.call_args.args
        vectors = th.randn(4, len(g), generator=th.Generator().manual_seed(0))
        vectors[0] = g / g.norm()
        found = th.stack([product(vector) for vector in vectors])
    matrix = explicit_fisher(agent, parameters) / (2 if over_dimensions else 1) + 0.1 * th.eye(len(g))
    # Rounding: sums of 75 samples, in float32.
    wanted = (vectors.double() @ matrix).float()
    th.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


# Whole updates


UPDATES = {
    "defaults": {},
    "a larger region": {"target_kl": 0.1},
    "few steps of CG": {"cg_max_steps": 2},
    "many steps of CG": {"cg_max_steps": 60, "cg_damping": 0.5},
    "a search that shrinks the step": {"target_kl": 0.5, "line_search_shrinking_factor": 0.5},
    "sub-sampled": {"sub_sampling_factor": 2},
    "sub-sampled to one block": {"sub_sampling_factor": 9},
    "not normalised": {"normalize_advantage": False},
    "one environment": {"n_envs": 1},
    "70 environments": {"n_envs": 70, "n_steps": 2},
    "batch of all": {"batch_size": None},
    "NPG": {"cls": NPG},
    "NPG with a fixed step": {"cls": NPG, "step_size": 0.02},
    "RMSprop": {"policy_kwargs": {"optimizer_class": th.optim.RMSprop}},
    "no hidden layer": {"policy_kwargs": {"net_arch": []}},
    "other layers": {"policy_kwargs": {"net_arch": {"pi": [20, 65], "vf": [7]}}},
    **{name: {"policy_kwargs": {"activation_fn": of}} for name, of in ACTIVATIONS.items()},
}


@pytest.mark.parametrize(("options", "actions"), each_value(UPDATES, ACTIONS))
def test_a_natural_update_is_autograds(options, actions):
    agent = make(**{"actions": actions, **options})
    assert_same_update(agent)
    # And on, with moments of the optimiser that are not 0.
    assert_same_update(collect(agent))


SPREADS = {
    "one sigma": {},
    "sigma of the state": STD,
    "sigma of the state, no hidden layer": {"net_arch": [], **STD},
    "gSDE": {"full_std": True},
    "gSDE, one deviation for all actions": {"full_std": False},
}


@pytest.mark.parametrize(("kwargs", "observations", "cls"), each_value(SPREADS, OBSERVATIONS, [TRPO, NPG]))
def test_a_natural_update_is_autograds_with_any_observations_and_deviations(kwargs, observations, cls):
    assert_same_update(make(cls, BOX, observations, use_sde="full_std" in kwargs, policy_kwargs=kwargs))


def test_a_clipped_value_is_regressed_as_autograd_does_it():
    assert_same_update(make(), value_clip=0.01)


@pytest.mark.parametrize(("estimator", "actions"), each_value([*KL_ESTIMATORS, "exact"], ACTIONS))
def test_a_natural_update_with_a_reference_policy_is_autograds(estimator, actions):
    agent = make(actions=actions)
    metrics = assert_same_update(agent, penalty=Penalty(make(actions=actions, seed=1).policy, 0.7, estimator))
    assert metrics["reference_kl"] != 0


def test_a_natural_update_after_a_compiled_rollout_is_autograds():
    env = pg_agents.make_vec("pg/CartPole-v1", 3)
    agent = TRPO("MlpPolicy", env, n_steps=40, batch_size=20, n_critic_updates=2, seed=0, engine="mlp").learn(240)
    assert_same_update(collect(agent))


def test_an_actor_without_a_critic_takes_its_step():
    agent = make(NPG, policy_kwargs={"net_arch": [8]})
    metrics = assert_same_update(agent, trains_critic=False)
    assert "value_loss" not in metrics
    assert not agent.policy.optimizer.state


def bits(agent):
    """Of the policy, by the names of its parameters, and of the optimiser's state."""
    state = agent.policy.optimizer.state_dict()["state"]
    moments = [th.as_tensor(one).numpy().tobytes() for values in state.values() for one in values.values()]
    return {name: one.numpy().tobytes() for name, one in agent.policy.state_dict().items()}, moments


def changed(before, after):
    """Names of the parameters that differ."""
    return {name for name in before[0] if before[0][name] != after[0][name]}


def critics_parameters(agent):
    return {name for name in agent.policy.state_dict() if "value" in name}


@pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS)
def test_a_search_that_fails_leaves_the_policy_to_the_last_bit(actions):
    agent = make(actions=actions)
    before = bits(agent)
    step = NaturalStep(step_size=1e3, line_search_max_iter=3, line_search_shrinking_factor=0.9)
    metrics = update(agent, step=step)
    assert metrics["is_line_search_success"] == metrics["kl_divergence_loss"] == 0
    assert changed(before, bits(agent)) == critics_parameters(agent)


@pytest.mark.parametrize("seed", range(5))
def test_a_step_that_is_accepted_stays_in_the_region_by_torch(seed):
    agent = make(actions=BOX, seed=seed, target_kl=0.05)
    observations = th.as_tensor(agent.rollout_buffer.observations.reshape(75, -1))
    with th.no_grad():
        old = copy(agent.policy.get_distribution(observations))
    metrics = update(agent)
    with th.no_grad():
        new = agent.policy.get_distribution(observations)
    kl = natural.mean_divergence(new, old, mean_over_dimensions=True)
    assert metrics["is_line_search_success"] == 1
    assert 0 < float(kl) <= 0.05
    assert metrics["kl_divergence_loss"] == pytest.approx(float(kl), rel=1e-4)


@pytest.fixture(params=[1, 2])
def n_threads(request, monkeypatch):
    """Of updates, however small."""
    names, start = [], threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: names.append(thread.name) or start(thread))
    monkeypatch.setattr(compiled, "WORTH_A_THREAD", 0)
    with threads.allowed(request.param):
        yield request.param
    assert names == ["pg_agents critic"] * len(names)
    assert bool(names) == (request.param == 2)


def test_an_infinite_advantage_is_refused_before_anything_moves():
    agent = make()
    agent.rollout_buffer.advantages[3, 1] = np.inf
    before = bits(agent)
    with pytest.raises(NotFiniteError, match="loss is inf"):
        update(agent, normalize_advantage=False)
    assert bits(agent) == before


def test_an_infinite_return_is_refused_and_the_critic_stays(n_threads):
    agent = make(batch_size=None)
    agent.rollout_buffer.returns[3, 1] = np.inf
    before = bits(agent)
    with pytest.raises(NotFiniteError, match="loss is inf"):
        update(agent)
    after = bits(agent)
    assert changed(before, after) == before[0].keys() - critics_parameters(agent)
    assert all(state["step"] == 0 for state in agent.policy.optimizer.state.values())


def test_an_exception_in_the_search_ends_the_other_thread():
    agent = make(n_critic_updates=10_000)
    with (
        threads.allowed(2),
        mock.patch.object(compiled, "WORTH_A_THREAD", 0),
        mock.patch.object(natural, "line_search", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        update(agent)
    assert "pg_agents critic" not in {thread.name for thread in threading.enumerate()}
    steps = {float(state["step"]) for state in agent.policy.optimizer.state.values()}
    assert max(steps) < 40_000


@pytest.mark.parametrize("engine", ENGINES)
def test_an_interrupted_trial_leaves_the_policy_to_the_last_bit(engine, monkeypatch):
    agent = make()
    before = deepcopy(agent.policy.state_dict())
    write, written = natural.write, []

    def interrupted(values, parameters):
        write(values, parameters)
        if not written:
            written.append(values)
            raise KeyboardInterrupt

    monkeypatch.setattr(natural, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        update(agent, engine)
    for name, value in agent.policy.state_dict().items():
        assert "value" in name or th.equal(value, before[name]), name


@pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS)
def test_two_threads_arrive_at_the_same_bits_as_one(actions, monkeypatch):
    monkeypatch.setattr(compiled, "WORTH_A_THREAD", 0)
    found = []
    for n_threads in (1, 2):
        agent = make(actions=actions)
        with threads.allowed(n_threads):
            for _ in range(3):
                metrics = update(agent)
        found.append((bits(agent), metrics))
    assert found[0] == found[1]


@pytest.mark.parametrize("cls", [TRPO, NPG])
def test_both_engines_log_the_same_keys(cls):
    keys = []
    for engine in ENGINES:
        agent = make(cls, BOX)
        agent.engine = engine
        agent.learn(150, log_interval=None)
        assert agent.engine_in_use == engine
        keys.append(set(agent.logger.name_to_value))
    assert keys[0] == keys[1]
    assert keys[0] >= {
        f"train/{name}"
        for name in (
            *("policy_objective", "value_loss", "kl_divergence_loss", "explained_variance"),
            *("is_line_search_success", "std"),
        )
    }
