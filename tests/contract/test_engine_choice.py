"""Which engine serves an agent, and that whoever cannot be served is told why, and is trained all the same."""

import importlib.util
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from combinations import each_pair, each_value
from fakes import ALL, SHORT, SQUASHING, FaultyEnv, Spy, TinyEnv, short, tiny_vec_env, weights
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

import pg_agents.engines.mlp
from pg_agents import A2C, PPO, REINFORCE, PolicyGradient, ReinforceBaseline
from pg_agents.buffers import DictEpisodeBuffer, DictRolloutBuffer, EpisodeBuffer, RolloutBuffer
from pg_agents.contract import Objective
from pg_agents.engines import compiling, threads
from pg_agents.engines.mlp import tables
from pg_agents.objectives import score_function

every_algorithm = pytest.mark.parametrize("cls", ALL)
BOX = spaces.Box(-1, 1, (3,), np.float32)


def engine_of(agent):
    return agent.engine_in_use


def why_not(printed):
    """What was printed beside the log's tables, what SB3 says, and the line before the first compiling."""
    return [line for line in printed.splitlines() if line and line[0] not in "|-" and "Using cpu device" not in line
            and not line.startswith("Wrapping the env") and line != compiling.LINE]  # fmt: skip


# What the engine is for


KINDS = [spaces.Discrete(2), spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)]


@pytest.mark.parametrize(("cls", "action_space"), each_value(ALL, KINDS))
def test_small_networks_on_the_cpu_are_served_and_nobody_needs_to_know(cls, action_space, capsys):
    agent = short(cls, TinyEnv(action_space), verbose=1).learn(8)
    assert agent.engine == "auto"
    assert engine_of(agent) == "mlp"
    assert why_not(capsys.readouterr().out) == []


PARTS = spaces.Dict({"a": BOX, "b": spaces.Discrete(2), "c": spaces.MultiDiscrete([2, 3]), "d": spaces.MultiBinary(2)})
POLICIES = [{}, {"state_dependent_std": True}, {"share_features_extractor": False}]


@pytest.mark.parametrize(("cls", "policy_kwargs"), each_pair(ALL, POLICIES))
def test_observations_of_several_parts_are_served(cls, policy_kwargs, capsys):
    env = TinyEnv(spaces.Box(-1, 1, (2,), np.float32), PARTS)
    agent = short(cls, env, "MultiInputPolicy", policy_kwargs=policy_kwargs, verbose=1).learn(8)
    assert engine_of(agent) == "mlp"
    assert why_not(capsys.readouterr().out) == []


@every_algorithm
def test_observations_of_several_categories_are_served(cls):
    assert engine_of(short(cls, TinyEnv(observation_space=spaces.MultiDiscrete([2, 3]))).learn(8)) == "mlp"


@every_algorithm
def test_an_engine_may_be_named(cls):
    for name in ("mlp", "autograd"):
        assert engine_of(short(cls, engine=name).learn(8)) == name


def test_an_engine_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"`engine` must be one of 'auto', 'autograd', 'mlp', but is 'mpl'.*'mlp'\?"):
        short(A2C, engine="mpl")


# What it cannot serve


class Doubled(BaseFeaturesExtractor):
    """Features of somebody's own."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=3)

    def forward(self, observations):
        return 2 * observations


class OwnFlatten(FlattenExtractor):
    """Also of somebody's own."""

    def forward(self, observations):
        return 2 * super().forward(observations)


class OwnPolicy(ActorCriticPolicy):
    """Does something else, somewhere."""


class OtherObjective(A2C):
    """Twice the objective, and no weight to it."""

    def objective(self):
        objective = super().objective()
        return Objective(lambda batch: 2 * objective(batch))


class HalfValues(A2C):
    """Compares something of its own with the returns."""

    def value_prediction(self, batch):
        return batch.values / 2


# A branch on a class's name would take it for the base of all algorithms.
NAMESAKE = type("PolicyGradient", (A2C,), {"value_prediction": HalfValues.value_prediction})


class Reversed(RolloutBuffer):
    """Gives minibatches of its own."""

    def get(self, batch_size=None):
        yield from super().get(batch_size)


class ReversedEpisodes(EpisodeBuffer):
    """The same, of whole episodes."""

    def get(self, batch_size=None):
        yield from super().get(batch_size)


def scored(batch, *coefficients):
    return score_function(batch.log_prob, batch.advantages)


def uncompilable(log_prob, ratio, advantage):
    return {}.get(str(advantage), th.as_tensor(advantage)).item()


class Uncompilable(A2C):
    """Its weight is no arithmetic of numbers."""

    def objective(self):
        return Objective(scored, uncompilable)


def four_coefficients(log_prob, ratio, advantage, a, b, c, d):
    return advantage


class FourCoefficients(A2C):
    """More than the engine passes on."""

    def objective(self):
        return Objective(scored, four_coefficients, (1.0, 2.0, 3.0, 4.0))


class WrongNumber(FourCoefficients):
    """Its weight takes more coefficients than it gives."""

    def objective(self):
        return Objective(scored, four_coefficients, (1.0,))


class OwnCombined(CombinedExtractor):
    """Features of parts of somebody's own."""

    def forward(self, observations):
        return 2 * super().forward(observations)


class ReversedParts(DictRolloutBuffer):
    """Gives minibatches of its own, of observations with parts."""

    def get(self, batch_size=None):
        yield from super().get(batch_size)


class ReversedEpisodesOfParts(DictEpisodeBuffer):
    """The same, of whole episodes."""

    def get(self, batch_size=None):
        yield from super().get(batch_size)


IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
NORMALISED_IMAGE = spaces.Box(0, 1, (3, 36, 36), np.float32)
OF_NORMALISED_IMAGES = {"features_extractor_kwargs": {"normalized_image": True}, "normalize_images": False}


def image_env():
    return TinyEnv(observation_space=IMAGE)


def small_image_env():
    """Too small for `CnnPolicy`."""
    return TinyEnv(observation_space=spaces.Box(0, 255, (8, 8, 1), np.uint8))


def parts_env(**parts):
    return TinyEnv(observation_space=spaces.Dict({"vector": BOX, "category": spaces.Discrete(2), **parts}))


def of_parts(**kwargs):
    return {"policy": "MultiInputPolicy", **kwargs}


def frozen(agent):
    agent.policy.mlp_extractor.policy_net[0].weight.requires_grad_(False)


def hooked(agent):
    agent.policy.value_net.register_forward_hook(lambda module, given, output: None)


def method_replaced(agent):
    agent.policy.evaluate_actions = agent.policy.evaluate_actions


def tied(agent):
    agent.policy.mlp_extractor.value_net[0] = agent.policy.mlp_extractor.policy_net[0]
    agent.policy.optimizer = th.optim.Adam(agent.policy.parameters())


def optimiser_of_others(agent):
    agent.policy.optimizer = th.optim.Adam(agent.policy.action_net.parameters())


def groups(agent):
    parameters = list(agent.policy.parameters())
    agent.policy.optimizer = th.optim.Adam([{"params": parameters[:1], "eps": 1e-3}, {"params": parameters[1:]}])


def optimizer(cls, **kwargs):
    return {"policy_kwargs": {"optimizer_class": cls, "optimizer_kwargs": kwargs}}


def activation(cls):
    return {"policy_kwargs": {"activation_fn": cls}}


BOX_ACTIONS = spaces.Box(-1, 1, (2,), np.float32)
# By name: the agent's class, its environment, arguments, and what the reason must name.
CONSTRUCTED = {
    "CnnPolicy": (A2C, image_env, {"policy": "CnnPolicy"}, "ActorCriticCnnPolicy"),
    "images": (A2C, small_image_env, {}, "images"),
    "an image among others": (A2C, lambda: parts_env(image=IMAGE), of_parts(), "images"),
    "an image among others, in episodes": (REINFORCE, lambda: parts_env(image=IMAGE), of_parts(), "images"),
    "a normalised image among others": (
        A2C,
        lambda: parts_env(image=NORMALISED_IMAGE),
        of_parts(policy_kwargs=OF_NORMALISED_IMAGES),
        "flatten",
    ),
    "derived features of parts": (
        A2C,
        parts_env,
        of_parts(policy_kwargs={"features_extractor_class": OwnCombined}),
        "OwnCombined",
    ),
    "buffer of parts": (A2C, parts_env, of_parts(rollout_buffer_class=ReversedParts), "ReversedParts"),
    "episode buffer of parts": (
        REINFORCE,
        parts_env,
        of_parts(rollout_buffer_class=ReversedEpisodesOfParts),
        "ReversedEpisodesOfParts",
    ),
    "squashed gSDE": (A2C, lambda: TinyEnv(BOX_ACTIONS), SQUASHING, "`squash_output`"),
    "features": (A2C, TinyEnv, {"policy_kwargs": {"features_extractor_class": Doubled}}, "Doubled"),
    "derived features": (A2C, TinyEnv, {"policy_kwargs": {"features_extractor_class": OwnFlatten}}, "OwnFlatten"),
    "policy class": (A2C, TinyEnv, {"policy": OwnPolicy}, "OwnPolicy"),
    "activation": (A2C, TinyEnv, activation(nn.Sigmoid), "Sigmoid"),
    "approximate activation": (A2C, TinyEnv, activation(lambda: nn.GELU("tanh")), "GELU"),
    "activation with parameters": (A2C, TinyEnv, activation(nn.PReLU), "PReLU"),
    "optimiser": (PPO, TinyEnv, optimizer(th.optim.AdamW), "AdamW"),
    "optimiser SGD": (PPO, TinyEnv, optimizer(th.optim.SGD), "SGD"),
    "weight decay": (PPO, TinyEnv, optimizer(th.optim.Adam, weight_decay=0.1), "weight_decay"),
    "AMSGrad": (PPO, TinyEnv, optimizer(th.optim.Adam, amsgrad=True), "amsgrad"),
    "momentum": (PPO, TinyEnv, optimizer(th.optim.RMSprop, momentum=0.5), "momentum"),
    "centred": (PPO, TinyEnv, optimizer(th.optim.RMSprop, centered=True), "centered"),
    "upwards": (PPO, TinyEnv, optimizer(th.optim.Adam, maximize=True), "maximize"),
    "objective": (OtherObjective, TinyEnv, {}, "weight"),
    "value prediction": (HalfValues, TinyEnv, {}, "value_prediction"),
    "value prediction of a class of our name": (NAMESAKE, TinyEnv, {}, "value_prediction"),
    "buffer": (A2C, TinyEnv, {"rollout_buffer_class": Reversed}, "Reversed"),
    "episode buffer": (REINFORCE, TinyEnv, {"rollout_buffer_class": ReversedEpisodes}, "ReversedEpisodes"),
}
# The same of what is done to an agent after it was made.
CHANGED = {
    "frozen parameter": (frozen, "frozen"),
    "forward hook": (hooked, "hook"),
    "method replaced": (method_replaced, "method"),
    "shared layer": (tied, "share"),
    "optimiser of other parameters": (optimiser_of_others, "optimiser"),
    "optimiser with groups": (groups, "groups"),
}
# What only compiling shows.
COMPILED = {
    "uncompilable weight": (Uncompilable, "uncompilable"),
    "four coefficients": (FourCoefficients, "four_coefficients"),
    "wrong number of coefficients": (WrongNumber, "four_coefficients"),
}


def construct(cls, make_env, kwargs, **more):
    kwargs = {"policy": "MlpPolicy", **SHORT.get(cls.__name__, {"n_steps": 8}), **kwargs}
    return cls(kwargs.pop("policy"), make_env(), device="cpu", seed=0, **kwargs, **more)


def assert_served_by_autograd(agent, reason, capsys):
    capsys.readouterr()
    before = weights(agent)
    agent.learn(16)
    (line,) = why_not(capsys.readouterr().out)
    assert line.startswith("Using the autograd engine; the compiled one does not serve this agent: ")
    assert reason in line
    assert line.endswith(".")
    assert engine_of(agent) == "autograd"
    assert any(not th.equal(before[name], value) for name, value in weights(agent).items())


def refused(reason):
    return rf"`engine` is 'mlp', which does not serve this agent: [^\n]*{reason}[^\n]*engine='auto' takes autograd"


@pytest.mark.parametrize(("cls", "make_env", "kwargs", "reason"), CONSTRUCTED.values(), ids=CONSTRUCTED)
def test_an_agent_that_cannot_be_served_is_trained_by_autograd_with_one_line_that_says_why(
    cls, make_env, kwargs, reason, capsys
):
    assert_served_by_autograd(construct(cls, make_env, kwargs, verbose=1), reason, capsys)


@pytest.mark.parametrize(("cls", "make_env", "kwargs", "reason"), CONSTRUCTED.values(), ids=CONSTRUCTED)
def test_the_compiled_engine_is_refused_at_once_to_an_agent_that_it_cannot_serve(cls, make_env, kwargs, reason):
    with pytest.raises(ValueError, match=refused(reason)):
        construct(cls, make_env, kwargs, engine="mlp")


FROM_1 = [spaces.Discrete(3, start=1), spaces.MultiDiscrete([3, 3], start=[0, 1])]


@pytest.mark.parametrize("space", FROM_1, ids=str)
def test_observations_that_do_not_count_from_0_are_served_as_the_policy_counts_them(space):
    for policy, observation_space in {
        "MlpPolicy": space,
        "MultiInputPolicy": spaces.Dict({"a": BOX, "b": space}),
    }.items():
        assert engine_of(short(A2C, TinyEnv(observation_space=observation_space), policy, engine="mlp")) == "mlp"


def test_without_verbose_nothing_is_said(capsys):
    agent = construct(PPO, TinyEnv, optimizer(th.optim.AdamW)).learn(16)
    assert engine_of(agent) == "autograd"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("change", "reason"), CHANGED.values(), ids=CHANGED)
def test_what_was_changed_since_it_was_made_is_noticed_at_the_next_learn(change, reason, capsys):
    agent = short(A2C, verbose=1).learn(8)
    assert engine_of(agent) == "mlp"
    change(agent)
    assert_served_by_autograd(agent, reason, capsys)
    with pytest.raises(ValueError, match=refused(reason)):
        agent.engine = "mlp"


class OwnNoise(StateDependentNoiseDistribution):
    pass


def own_noise(agent):
    noise = agent.policy.action_dist
    agent.policy.action_dist = OwnNoise(noise.action_dim)
    vars(agent.policy.action_dist).update(vars(noise))


def learnt_features(agent):
    agent.policy.action_dist.learn_features = True


@pytest.mark.parametrize(("change", "reason"), [(own_noise, "OwnNoise"), (learnt_features, "`learn_features`")])
def test_other_noise_of_gsde_is_noticed_at_the_next_learn(change, reason, capsys):
    agent = short(A2C, TinyEnv(BOX_ACTIONS), use_sde=True, verbose=1).learn(8)
    assert engine_of(agent) == "mlp"
    change(agent)
    assert_served_by_autograd(agent, reason, capsys)


@pytest.mark.parametrize("network", ["policy_net", "value_net"])
def test_a_network_that_does_not_fit_the_observations_is_refused(network):
    """It would read beyond them."""
    agent = short(A2C, engine="mlp")
    getattr(agent.policy.mlp_extractor, network)[0] = nn.Linear(200, 64)
    agent.policy.optimizer = th.optim.Adam(agent.policy.parameters())
    with pytest.raises(ValueError, match=refused(r"has the shape \(64, 200\), but must have \(64, 3\)")):
        agent.learn(8)


@pytest.mark.parametrize(("cls", "reason"), COMPILED.values(), ids=COMPILED)
def test_a_weight_that_cannot_be_compiled_is_left_to_autograd(cls, reason, capsys):
    assert_served_by_autograd(construct(cls, TinyEnv, {}, verbose=1), reason, capsys)
    with pytest.raises(ValueError, match=refused(reason)):
        construct(cls, TinyEnv, {}, engine="mlp").learn(8)


def test_an_objective_that_is_replaced_in_one_agent_is_used(capsys):
    agent = short(A2C, verbose=1)
    agent.objective = lambda: Objective(lambda batch: 2 * batch.log_prob)
    assert_served_by_autograd(agent, "weight", capsys)


def test_an_agent_that_is_served_again_gets_the_engine_back():
    agent = short(A2C)
    for served in (True, False, True):
        agent.policy.value_net.weight.requires_grad_(served)
        assert engine_of(agent.learn(8)) == ("mlp" if served else "autograd")


@pytest.mark.parametrize("engine", ["auto", "autograd"])
def test_a_frozen_parameter_stays_where_it_is(engine):
    agent = short(PPO, engine=engine)
    agent.policy.mlp_extractor.policy_net[0].weight.requires_grad_(False)
    before = weights(agent)
    agent.learn(16)
    after = weights(agent)
    moved = {name for name in before if not th.equal(before[name], after[name])}
    assert moved == before.keys() - {"mlp_extractor.policy_net.0.weight"}


# Algorithms of others


class Own(PolicyGradient):
    """Maximises a tamed advantage: Â r / (1 + c r)."""

    def __init__(self, policy, env, tameness=0.3, **kwargs):
        self.tameness = tameness
        kwargs = {"n_steps": 16, "batch_size": 8, "n_epochs": 2, **kwargs}
        super().__init__(policy, env, learning_rate=1e-3, gamma=0.9, vf_coef=0.5, **kwargs)

    def objective(self):
        return Objective(tamed, coefficients=(self.tameness,))


def tamed(batch, tameness):
    return batch.advantages * batch.ratio / (1 + tameness * batch.ratio)


def tamed_weight(log_prob, ratio, advantage, tameness):
    return advantage * ratio / (1 + tameness * ratio) ** 2


class OwnWithWeight(Own):
    """And says what its derivative is."""

    def objective(self):
        return replace(super().objective(), weight=tamed_weight)


class OwnWithAnotherObjective(OwnWithWeight):
    """Its weight has the sign of another objective."""

    def objective(self):
        return replace(super().objective(), value=lambda batch, tameness: -tamed(batch, tameness))


class LogRatio:
    """An objective to mix in."""

    def objective(self):
        return Objective(lambda batch: batch.advantages * batch.log_ratio)


class Mixed(LogRatio, PPO):
    """Takes it before PPO's."""


def test_an_algorithm_that_declares_an_objective_alone_runs_on_autograd(capsys):
    assert_served_by_autograd(Own("MlpPolicy", TinyEnv(), verbose=1, device="cpu"), "weight", capsys)


def test_an_algorithm_that_declares_its_weight_too_gets_the_engine():
    assert engine_of(OwnWithWeight("MlpPolicy", TinyEnv(), device="cpu").learn(8)) == "mlp"


def test_an_objective_that_is_mixed_in_brings_its_own_weight():
    assert engine_of(Mixed("MlpPolicy", TinyEnv(), n_steps=16, batch_size=8, device="cpu").learn(8)) == "autograd"


def test_a_weight_that_is_not_the_derivative_of_the_objective_is_refused():
    sample = r"tamed_weight` is not the derivative .* log π = .* ratio .* advantage .* the weight is .* the derivative"
    agent = OwnWithAnotherObjective("MlpPolicy", TinyEnv(), device="cpu")
    with pytest.warns(UserWarning, match=rf"Using the autograd engine, because .*{sample}"):
        agent.learn(8)
    assert engine_of(agent) == "autograd"
    with pytest.raises(ValueError, match=refused(sample)):
        OwnWithAnotherObjective("MlpPolicy", TinyEnv(), device="cpu", engine="mlp").learn(8)


def learnt(cls, engine, **kwargs):
    """By how much an update moves the parameters, on a rollout that autograd has collected."""
    agent = cls("MlpPolicy", tiny_vec_env(2), seed=0, engine="autograd", device="cpu", **kwargs)
    _, callback = agent._setup_learn(32)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    agent.engine, agent._engine_in_use = engine, None
    before = th.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()
    agent.train()
    assert engine_of(agent) == engine
    return th.nn.utils.parameters_to_vector(agent.policy.parameters()).detach() - before


def assert_same_steps(given, wanted):
    """Adam and RMSprop make of a rounding in a gradient, where it is small, 1e-2 of a step at most."""
    assert wanted.abs().max() > 0
    th.testing.assert_close(given, wanted, rtol=0, atol=1e-2 * wanted.abs().max().item())


@pytest.mark.parametrize("tameness", [0.0, 0.3, 2.0])
def test_an_algorithm_with_a_weight_learns_the_same_as_without(tameness):
    wanted = learnt(Own, "autograd", tameness=tameness)
    assert_same_steps(learnt(OwnWithWeight, "mlp", tameness=tameness), wanted)


class Scheduled(OwnWithWeight):
    """Its coefficient depends on the progress."""

    asked: tuple[float, ...] = ()

    def objective(self):
        progress = self._current_progress_remaining
        self.asked = (*self.asked, progress)
        return Objective(lambda batch, factor: factor * batch.advantages * batch.log_ratio, times, (progress,))


def times(log_prob, ratio, advantage, factor):
    return factor * advantage


def test_a_weight_is_asked_for_its_coefficients_at_each_update():
    agent = Scheduled("MlpPolicy", TinyEnv(), device="cpu").learn(48)
    assert sorted({round(progress, 6) for progress in agent.asked}) == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-5)


def scaling(factor):
    """An algorithm whose weight is a closure."""

    def scaled(log_prob, ratio, advantage):
        return factor * advantage

    class Scaled(A2C):
        def objective(self):
            return Objective(lambda batch: factor * scored(batch), scaled)

    return Scaled


def test_a_weight_that_depends_on_more_than_its_arguments_is_left_to_autograd(capsys):
    """Closures over 2 and over -3 have the same code, and must not be taken for each other."""
    for factor in (2.0, -3.0):
        assert_served_by_autograd(construct(scaling(factor), TinyEnv, {}, verbose=1), "scaled", capsys)
        with pytest.raises(ValueError, match=refused("scaled")):
            construct(scaling(factor), TinyEnv, {}, engine="mlp").learn(8)


# Numba


@pytest.fixture
def fresh_kernels():
    """As if nothing had been compiled in this process yet."""
    tables.load_kernels.cache_clear()
    yield
    tables.load_kernels.cache_clear()


@pytest.mark.usefixtures("fresh_kernels")
def test_without_numba_everything_works(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "numba" else find(name, *rest))
    assert_served_by_autograd(short(A2C, verbose=1), "Numba is not installed", capsys)
    with pytest.raises(ValueError, match=refused("Numba is not installed")):
        short(A2C, engine="mlp").learn(8)


class Failing:
    """Finds the kernels, and fails to import them, as Numba does where it cannot keep what it has compiled."""

    def __init__(self, error):
        self.error = error

    def find_spec(self, name, path=None, target=None):
        if name == "pg_agents.engines.mlp.kernels":
            raise self.error


@pytest.mark.usefixtures("fresh_kernels")
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cannot cache function 'exp32': no locator available for file 'kernels.py'"),
        ImportError("Numba needs NumPy 2.0 or less. Got NumPy 9.9."),
        OSError(30, "Read-only file system"),
        SystemError("initialization of _internal failed\nwithout raising an exception"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_with_a_numba_that_does_not_work_everything_works(error, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "pg_agents.engines.mlp.kernels", raising=False)
    monkeypatch.delattr(pg_agents.engines.mlp, "kernels", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Failing(error), *sys.meta_path])
    assert_served_by_autograd(short(A2C, verbose=1), str(error).splitlines()[0], capsys)
    with pytest.raises(ValueError, match="`engine` is 'mlp', which does not serve this agent"):
        short(A2C, engine="mlp").learn(8)


def run_python(code):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_and_making_an_agent_and_asking_it_compiles_nothing():
    printed = run_python("""
        import sys
        import numpy as np
        from pg_agents import PPO
        compiling = {"numba", "llvmlite", "pg_agents.engines.mlp.kernels", "pg_agents.engines.mlp.simd"}
        print("imported", *compiling & sys.modules.keys())
        PPO("MlpPolicy", "CartPole-v1", device="cpu")
        agent = PPO("MlpPolicy", "CartPole-v1", device="cpu", engine="mlp")
        print("made", *compiling & sys.modules.keys())
        agent.predict(np.zeros(4, np.float32), deterministic=True)
        print("asked", *compiling & sys.modules.keys())
    """)
    assert printed == ["imported", "made", "asked"]


def test_a_long_evaluation_loads_what_was_compiled_before_and_a_short_one_nothing(tmp_path, monkeypatch):
    tables.load_kernels()
    printed = run_python("""
        import sys
        from pg_agents import PPO, evaluate_policy, make_vec
        agent = PPO("MlpPolicy", "CartPole-v1", device="cpu", seed=0)
        for n_episodes in (1, 100):
            evaluate_policy(agent, make_vec("CartPole-v1", 1, seed=0), n_episodes)
            print("numba" in sys.modules, agent._predictor() is not None)
    """)
    assert printed == ["False", "False", "True", "True"]
    assert tables.kernels_are_kept()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert not tables.kernels_are_kept()


# Numbers that are not finite


def with_nan(what):
    """An agent's numbers are spoilt when its second rollout has ended."""

    def spoil(spy):
        agent = spy.model
        if agent.num_timesteps < 2 * 2 * 16:
            return
        buffer = agent.rollout_buffer
        spoilt = {"advantage": buffer.advantages, "return": buffer.returns, "log_prob": buffer.log_probs}
        kind, value = what
        if kind == "parameter":
            with th.no_grad():
                agent.policy.mlp_extractor.policy_net[0].weight[3, 1] = value
        elif kind == "value parameter":
            with th.no_grad():
                agent.policy.value_net.bias[0] = value
        else:
            spoilt[kind][5, 1] = value
        spy.before = weights(agent), str(agent.policy.optimizer.state_dict()), agent._n_updates

    return spoil


NOT_FINITE = [
    ("advantage", np.inf),
    ("advantage", -np.inf),
    ("advantage", np.nan),
    ("advantage", 1e38),
    ("return", np.inf),
    ("return", np.nan),
    ("return", 1e30),
    ("parameter", np.nan),
    ("value parameter", np.nan),
    ("value parameter", np.inf),
]


# A2C's loss has no old log-probabilities.
@pytest.mark.parametrize(
    ("what", "cls"), [*each_value(NOT_FINITE, [A2C, PPO]), pytest.param(("log_prob", np.nan), PPO, id="log_prob")]
)
def test_a_loss_that_is_not_finite_is_refused_in_the_same_words(cls, what):
    kwargs = {"batch_size": 32, "n_epochs": 1, "normalize_advantage": False} if cls is PPO else {}
    said, messages = r"The (loss|gradient's norm) is .* after 64 steps", []
    if "parameter" in what[0]:  # it is named, before there is a loss
        said = rf"The parameter '\w+[\w.]+' is {what[1]} in the update after 64 steps"
    for engine in ("autograd", "mlp"):
        spy = Spy(rollout_end=with_nan(what))
        agent = short(cls, tiny_vec_env(2), engine=engine, n_steps=16, **kwargs)
        with pytest.raises(FloatingPointError, match=said) as error:
            agent.learn(1000, callback=spy, log_interval=None)
        messages.append(str(error.value))
        before, optimizer_before, n_updates = spy.before
        after = weights(agent)
        assert all(th.equal(before[name].nan_to_num(7.0), after[name].nan_to_num(7.0)) for name in before)
        assert str(agent.policy.optimizer.state_dict()) == optimizer_before
        assert agent._n_updates == n_updates
        assert agent.num_timesteps == 64
    assert messages[1] == messages[0]


def test_the_minibatches_before_one_that_is_not_finite_were_learnt_from():
    # What both shuffle with: the sample that is spoilt, number 19, comes in the second of two minibatches.
    seed = next(seed for seed in range(99) if 19 in np.random.RandomState(seed).permutation(32)[16:])
    results = []
    for engine in ("autograd", "mlp"):
        agent = short(PPO, tiny_vec_env(2), engine="autograd", n_steps=16, batch_size=16, normalize_advantage=False)
        _, callback = agent._setup_learn(1000)
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, 16)
        agent.rollout_buffer.advantages[3, 1] = np.nan
        agent.engine, agent._engine_in_use = engine, None
        before = weights(agent)
        np.random.seed(seed)  # noqa: NPY002
        with pytest.raises(FloatingPointError):
            agent.train()
        steps = {state["step"].item() for state in agent.policy.optimizer.state.values()}
        results.append((steps, agent._n_updates, weights(agent)))
        assert all(th.isfinite(value).all() for value in weights(agent).values())
        assert all(not th.equal(before[name], value) for name, value in weights(agent).items())
    assert results[0][:2] == results[1][:2] == ({1.0}, 0)
    for name, value in results[0][2].items():
        # 1e-3 of Adam's step, where a gradient is small.
        th.testing.assert_close(results[1][2][name], value, rtol=0, atol=1e-3 * agent.learning_rate)


def parts(a=(0, 0, 0), b=0, c=(1, 1)):
    return {"a": np.float32(a), "b": b, "c": c, "d": [0, 1]}


FAULTS = {
    "NaN": {"observation": np.float32([0, np.nan, 0])},
    "infinity": {"observation": np.float32([0, 0, -np.inf])},
    "NaN in float64": {
        "observation": np.array([0, np.nan, 0]),
        "observation_space": spaces.Box(-1, 1, (3,), np.float64),
    },
    "infinity in float32": {
        "observation": np.array([0, 1e300, 0]),
        "observation_space": spaces.Box(-np.inf, np.inf, (3,), np.float64),
    },
    "category": {"observation": 7, "observation_space": spaces.Discrete(3)},
    "negative category": {"observation": -1, "observation_space": spaces.Discrete(3)},
    "no bit": {"observation": np.int8([0, 2, 0]), "observation_space": spaces.MultiBinary(3)},
    "one of several categories": {"observation": [0, 3], "observation_space": spaces.MultiDiscrete([3, 3])},
    "NaN in a part": {"observation": parts(a=[0, np.nan, 0]), "observation_space": PARTS},
    "category in a part": {"observation": parts(b=2), "observation_space": PARTS},
    "one of several categories in a part": {"observation": parts(c=[0, -1]), "observation_space": PARTS},
    "reward NaN": {"reward": np.nan},
    "reward infinity": {"reward": np.inf},
    "last observation": {"observation": np.float32([0, np.nan, 0]), "at": 15, "time_limit": True},
    "last observation with parts": {
        "observation": parts(a=[0, np.nan, 0]),
        "observation_space": PARTS,
        "at": 15,
        "time_limit": True,
    },
}


@pytest.mark.parametrize(("fault", "cls"), each_value(FAULTS, [A2C, PPO, ReinforceBaseline]))
def test_a_faulty_environment_is_named_in_the_same_words_by_both_engines(cls, fault):
    space = fault.get("observation_space", BOX)
    messages = []
    for engine in ("autograd", "mlp"):
        env = DummyVecEnv([lambda: TinyEnv(observation_space=space), lambda: FaultyEnv(**fault)])
        policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
        agent = short(cls, env, policy, engine=engine)
        before = weights(agent)
        with pytest.raises(ValueError, match=r"environment 1.* after \d+ steps in all") as error:
            agent.learn(200)
        messages.append((str(error.value), agent.num_timesteps, agent._n_updates))
        assert before.keys() == weights(agent).keys()
    assert messages[0] == messages[1]


ACTIVATIONS = [nn.Identity, nn.Tanh, nn.ReLU, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.GELU]


@pytest.mark.parametrize(("activation_fn", "action_space"), each_value(ACTIVATIONS, KINDS))
def test_no_layer_hides_a_parameter_that_is_no_number(activation_fn, action_space):
    """It is found by who acts, and by who learns."""
    kwargs = {"policy_kwargs": {"activation_fn": activation_fn, "net_arch": [20, 4]}, "engine": "mlp", "n_steps": 8}
    agent = short(A2C, TinyEnv(action_space), **kwargs)
    spy = Spy(rollout_end=lambda spy: spoil(spy.model.policy))
    for name, parameter in agent.policy.named_parameters():

        def spoil(policy, name=name):
            with th.no_grad():
                policy.get_parameter(name).view(-1)[-1] = np.nan

        start = weights(agent)
        spoil(agent.policy)
        with pytest.raises(ValueError, match=r"policy's outputs are not finite after \d+ steps"):
            agent.learn(8)
        agent.policy.load_state_dict(start)
        with pytest.raises(FloatingPointError, match="is nan"):
            agent.learn(8, callback=spy)
        assert parameter.isnan().sum() == 1
        agent.policy.load_state_dict(start)


# Interruptions


@pytest.fixture
def two_threads():
    """More than one, to see whether they are given back."""
    before = th.get_num_threads()
    th.set_num_threads(2)
    yield
    th.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("engine", ["autograd", "mlp"])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError], ids=str)
def test_torchs_threads_are_given_back(engine, error):
    during = []

    def step(spy):
        during.append(th.get_num_threads())
        if error is not None and len(during) == 11:
            raise error
        return True

    agent = short(PPO, engine=engine)
    if error is None:
        agent.learn(16, callback=Spy(step))
    else:
        with pytest.raises(error):
            agent.learn(16, callback=Spy(step))
    assert set(during) == {1}
    assert th.get_num_threads() == 2


@pytest.mark.parametrize(
    ("cls", "when", "engine"), each_pair(ALL, ["step", "rollout_start", "rollout_end"], ["autograd", "mlp"])
)
def test_ctrl_c_in_a_callback_leaves_a_model_that_can_be_saved_and_trained_on(cls, when, engine, tmp_path):
    def interrupt(spy):
        if spy.model.num_timesteps >= 20:
            raise KeyboardInterrupt
        return True

    spy = Spy(interrupt) if when == "step" else Spy(**{when: interrupt})
    agent = short(cls, engine=engine)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(1000, callback=spy)
    agent.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=TinyEnv())
    held = weights(loaded)
    assert all(th.equal(value, held[name]) for name, value in weights(agent).items())
    for one in (agent, loaded):
        before = weights(one)
        one.learn(40, reset_num_timesteps=False)
        assert any(not th.equal(before[name], value) for name, value in weights(one).items())
        assert all(th.isfinite(value).all() for value in weights(one).values())


def train_and_wait(agent):
    agent.train()
    time.sleep(60)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer's signal")
def test_ctrl_c_in_an_update_that_two_threads_share_ends_both(monkeypatch):
    def interrupt(signum, frame):
        raise KeyboardInterrupt

    started, start = [], threading.Thread.start

    def start_and_interrupt(thread):
        started.append(thread)
        start(thread)
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    agent = short(PPO, n_epochs=200, engine="mlp").learn(8)
    monkeypatch.setattr("pg_agents.engines.mlp.learning.WORTH_A_THREAD", 0)
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        with threads.allowed(2), pytest.raises(KeyboardInterrupt):
            train_and_wait(agent)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert [thread.is_alive() for thread in started] == [False]
    before = weights(agent)
    agent.learn(8)
    assert all(th.isfinite(value).all() for value in weights(agent).values())
    assert any(not th.equal(before[name], value) for name, value in weights(agent).items())


# Policies that are replaced


def another_policy(agent, **kwargs):
    return agent.policy_class(
        agent.observation_space, agent.action_space, agent.lr_schedule, **{**agent.policy_kwargs, **kwargs}
    )


def replace_policy(agent):
    agent.policy = another_policy(agent)


def replace_layer(agent):
    agent.policy.value_net = nn.Linear(64, 1)
    agent.policy.optimizer = th.optim.Adam(agent.policy.parameters(), lr=1e-3, eps=1e-5)


def replace_activation(agent):
    agent.policy.mlp_extractor.value_net[1] = nn.ReLU()


def replace_optimiser(agent):
    agent.policy.optimizer = th.optim.AdamW(agent.policy.parameters(), lr=1e-3, weight_decay=0.5)


def add_weight_decay(agent):
    agent.policy.optimizer.param_groups[0]["weight_decay"] = 0.5


def freeze(agent):
    agent.policy.value_net.weight.requires_grad_(False)


def move(agent):
    """The same numbers elsewhere, as `policy.to(...)` there and back leaves them."""
    for parameter in agent.policy.parameters():
        parameter.data = parameter.data.clone()


CHANGES = [replace_policy, replace_layer, replace_activation, replace_optimiser, add_weight_decay, freeze, move]
every_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


def trained(engine, change, when):
    """Parameters after three updates, and a change before the last, with actions that are not left to chance."""

    def sure(agent):
        with th.no_grad():
            agent.policy.action_net.weight.zero_()
            agent.policy.action_net.bias.copy_(th.tensor([200.0, -200.0]))

    def once(agent):
        th.manual_seed(3)
        change(agent)
        sure(agent)

    agent = short(A2C, TinyEnv(), engine=engine, use_rms_prop=False, learning_rate=1e-3)
    sure(agent)
    if when == "between learns":
        agent.learn(16)
        once(agent)
        agent.learn(8, reset_num_timesteps=False)
    else:
        spy = Spy(**{when: lambda spy: once(spy.model) if spy.events.count(when) == 3 else None})
        agent.learn(24, callback=spy)
    assert agent._n_updates == 3
    return weights(agent)


@every_change
@pytest.mark.parametrize("when", ["between learns", "rollout_start", "rollout_end"])
def test_what_is_changed_in_a_policy_is_noticed(change, when):
    wanted, given = trained("autograd", change, when), trained("auto", change, when)
    assert wanted.keys() == given.keys()
    for name, value in wanted.items():
        # Of each of 3 steps of Adam, of size 1e-3, 1e-2 where a gradient is small.
        th.testing.assert_close(given[name], value, rtol=0, atol=3e-5, msg=lambda it, name=name: f"{name}: {it}")


def test_a_policy_that_is_replaced_in_mid_rollout_acts_from_the_next_step_on():
    def replace(spy):
        agent = spy.model
        if agent.num_timesteps == 4:
            agent.policy = another_policy(agent)
            with th.no_grad():
                agent.policy.value_net.weight.zero_()
                agent.policy.value_net.bias.fill_(7)
        return True

    agent = short(A2C, engine="auto", learning_rate=0.0).learn(8, callback=Spy(replace))
    values = agent.rollout_buffer.values.flatten()
    assert (values[:4] != 7).all()
    assert (values[4:] == 7).all()


def test_a_buffer_that_is_not_the_agents_own_can_be_filled():
    agent = short(A2C).learn(8)
    _, callback = agent._setup_learn(100)
    other = RolloutBuffer(6, agent.observation_space, agent.action_space, "cpu")
    other.estimator = agent.estimate
    agent.collect_rollouts(agent.env, callback, other, 6)
    assert other.full
    assert np.abs(other.log_probs).min() > 0
