"""A prior: KL(π || π_prior) as part of the loss, in the log and in files, on both engines."""

from copy import deepcopy

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from fakes import ALL, SHORT, SQUASHING, TinyEnv
from gymnasium import spaces
from prose import saying
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import ConstantSchedule

from pg_agents import A2C, A3C, GRPO, PPO, REINFORCE, RLOO
from pg_agents.engines.autograd import evaluate
from pg_agents.objectives import loss as loss_of
from pg_agents.priors import frozen_policy

ENGINES = ["autograd", "mlp"]


def make(cls=PPO, action_space=None, observation_space=None, seed=0, **kwargs):
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    settings = {**SHORT.get(cls.__name__, {}), **kwargs}
    return cls(policy, TinyEnv(action_space, observation_space), seed=seed, device="cpu", **settings)


def moved(agent, size=0.3):
    """The agent, with other parameters."""
    generator = th.Generator().manual_seed(1)
    with th.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(size * th.randn(parameter.shape, generator=generator))
    return agent


def parameters(agent):
    return flat(agent.policy)


def flat(policy):
    return th.cat([parameter.detach().flatten() for parameter in policy.parameters()])


# The gradient


@pytest.mark.parametrize(
    ("action_space", "kind"),
    [
        (spaces.Discrete(3), th.distributions.Categorical),
        (spaces.Box(-1, 1, (2,), np.float32), th.distributions.Normal),
        (spaces.MultiBinary(2), th.distributions.Bernoulli),
    ],
    ids=["Discrete", "Box", "MultiBinary"],
)
def test_the_penaltys_gradient_is_that_of_torchs_closed_form(action_space, kind):
    prior = moved(make(PPO, action_space))
    agent = make(PPO, action_space, prior=prior, prior_kl_coef=0.7)
    agent.rollout()
    (samples,) = agent.rollout_buffer.get()

    def gradient(of):
        agent.policy.zero_grad()
        of.backward()
        return th.cat([one.grad.flatten() for one in agent.policy.parameters() if one.grad is not None])

    terms = loss_of(evaluate(agent.policy, samples), agent.loss())
    found = gradient(agent.prior_kl_coef * terms.penalty)
    ours = agent.policy.get_distribution(samples.observations).distribution
    theirs = prior.policy.get_distribution(samples.observations).distribution
    assert isinstance(ours, kind)
    divergence = th.distributions.kl_divergence(ours, theirs).reshape(len(samples.observations), -1).sum(dim=1).mean()
    assert terms.penalty.item() == pytest.approx(divergence.item(), rel=1e-5)
    th.testing.assert_close(found, gradient(0.7 * divergence))


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("engine", ENGINES)
def test_with_coefficient_0_a_prior_changes_no_bit(cls, engine):
    with_prior = make(cls, engine=engine, prior=moved(make(cls)), prior_kl_coef=0).learn(32)
    without = make(cls, engine=engine).learn(32)
    assert th.equal(parameters(with_prior), parameters(without))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "action_space", [spaces.Discrete(2), spaces.Box(-1, 1, (1,), np.float32)], ids=["Discrete", "Box"]
)
def test_with_a_large_coefficient_the_policy_returns_to_the_prior(engine, action_space):
    prior = moved(make(PPO, action_space), 0.2)

    def divergence(agent):
        observations = th.as_tensor(np.random.default_rng(0).uniform(-1, 1, (100, 3)), dtype=th.float32)
        with th.no_grad():
            ours, theirs = (one.policy.get_distribution(observations).distribution for one in (agent, prior))
        return th.distributions.kl_divergence(ours, theirs).mean().item()

    settings = {"n_steps": 64, "batch_size": 64, "n_epochs": 5, "learning_rate": 1e-2, "engine": engine}
    held = make(PPO, action_space, prior=prior, prior_kl_coef=1e4, **settings)
    before = divergence(held)
    assert divergence(held.learn(64 * 12)) < 0.02 * before
    free = make(PPO, action_space, **settings)
    assert divergence(free.learn(64 * 12)) > 0.2 * before


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_estimates_hold_the_policy_too(estimator):
    prior = make()
    settings = {"n_steps": 64, "batch_size": 64, "n_epochs": 5, "learning_rate": 1e-2}
    held = make(PPO, prior=prior, prior_kl_coef=1e3, prior_kl_estimator=estimator, **settings).learn(512)
    free = make(PPO, **settings).learn(512)
    observations = th.zeros(1, 3)
    with th.no_grad():
        shown = [one.policy.get_distribution(observations).distribution.probs for one in (prior, held, free)]
    assert abs(shown[1] - shown[0]).max() < 0.05 * abs(shown[2] - shown[0]).max()


# The forms of a prior


def test_a_prior_is_a_copy_that_does_not_train():
    other = make(PPO, engine="autograd").learn(16)  # its last distribution is part of a graph
    before = parameters(other)
    agent = make(A2C, prior=other.policy)
    moved(other)
    assert isinstance(agent.prior, ActorCriticPolicy)
    agent.learn(64)
    assert th.equal(th.cat([one.flatten() for one in agent.prior.parameters()]), before)
    assert not any(one.requires_grad for one in agent.prior.parameters())
    assert not hasattr(agent.prior, "optimizer")


@pytest.mark.parametrize("cls", [PPO, REINFORCE, sb3.PPO, sb3.A2C], ids=["PPO", "REINFORCE", "SB3's PPO", "SB3's A2C"])
def test_a_prior_is_read_from_the_file_of_any_agent(cls, tmp_path):
    other = moved(cls("MlpPolicy", TinyEnv(), policy_kwargs={"net_arch": [5]}, seed=0, device="cpu"))
    other.save(tmp_path / "other")
    agent = make(PPO, prior=str(tmp_path / "other"))
    assert type(agent.prior) is type(other.policy)
    assert all(th.equal(a, b) for a, b in zip(agent.prior.parameters(), other.policy.parameters(), strict=True))


@pytest.mark.parametrize(
    ("prior", "error", "facts"),
    [
        (lambda: 3, TypeError, ["`prior`", "int"]),
        (lambda: sb3.DQN("MlpPolicy", TinyEnv(), buffer_size=10), TypeError, ["`prior`", "DQN", "DQNPolicy"]),
        (lambda: make(PPO, spaces.Discrete(3)), ValueError, ["`prior`", "action_space", "Discrete(3)", "Discrete(2)"]),
        (lambda: make(PPO, None, spaces.Discrete(3)), ValueError, ["`prior`", "observation_space", "Discrete(3)"]),
        (lambda: "no/such/file.zip", FileNotFoundError, ["no/such/file.zip"]),
    ],
)
def test_what_cannot_be_a_prior_is_refused(prior, error, facts):
    with pytest.raises(error, match=saying(*facts)):
        make(PPO, prior=prior())


def test_files_without_a_policy_that_acts_at_random_are_refused(tmp_path):
    sb3.DQN("MlpPolicy", TinyEnv(), buffer_size=10).save(tmp_path / "dqn")
    with pytest.raises(TypeError, match=saying("`prior`", "dqn", "DQNPolicy")):
        frozen_policy(tmp_path / "dqn")


def test_a_squashed_policy_and_a_clipped_prior_are_refused():
    space = spaces.Box(-1, 1, (2,), np.float32)
    with pytest.raises(ValueError, match=saying("`prior`", "the agent's policy", "squashed")):
        make(PPO, space, prior=make(PPO, space), **SQUASHING)
    make(PPO, space, prior=make(PPO, space, **SQUASHING), **SQUASHING).learn(16)


def test_a_prior_may_be_replaced():
    agent, other = make(prior=make()), moved(make())
    assert th.equal(flat(agent.penalty().reference), flat(make().policy))
    agent.prior = other
    assert th.equal(flat(agent.penalty().reference), flat(other.policy))
    assert not any(one.requires_grad for one in agent.prior.parameters())
    agent.prior = make(PPO, spaces.Discrete(3))
    with pytest.raises(ValueError, match=saying("`prior`", "action_space", "Discrete(3)", "Discrete(2)")):
        agent.learn(8)
    agent.prior = None
    assert agent.penalty() is None


def test_distributions_without_a_closed_form_ask_for_an_estimate():
    space = spaces.Box(-1, 1, (2,), np.float32)
    prior = make(PPO, space, use_sde=True)  # another class of distributions in SB3
    with pytest.raises(ValueError, match=saying("`prior_kl_estimator`", "exact", "k2")):
        make(PPO, space, prior=prior)
    make(PPO, space, prior=prior, prior_kl_estimator="k2").learn(16)


def test_arguments_out_of_range_or_without_effect_are_told():
    with pytest.raises(ValueError, match=saying("`prior_kl_coef`", "at least 0", -1)):
        make(PPO, prior=make(), prior_kl_coef=-1)
    with pytest.raises(ValueError, match=saying("`prior_kl_estimator`", "k1")):
        make(PPO, prior=make(), prior_kl_estimator="k1")
    for name, value in (("prior_kl_coef", 0.3), ("prior_kl_estimator", "k2")):
        with pytest.warns(UserWarning, match=saying(f"`{name}`", "no effect")):
            make(PPO, **{name: value})


# The log, and files


@pytest.mark.parametrize("engine", ENGINES)
def test_divergence_and_coefficient_are_logged_and_can_be_annealed(engine, tmp_path):
    prior = moved(make())
    agent = make(PPO, engine=engine, prior=prior, prior_kl_coef=lambda progress: 0.4 * progress, kl_coef=0.5)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(32)
    agent.logger.close()
    table = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True, deletechars="")
    # A row is written before its rollout's update, and shows the one before.
    assert table["train/prior_kl_coef"][1:] == pytest.approx([0.3, 0.2, 0.1])
    assert (table["train/prior_kl"][1:] > 0).all()
    assert (table["train/kl_coef"][1:] == 0.5).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cls", [GRPO, RLOO, A3C])
def test_groups_and_asynchronous_workers_are_drawn_to_a_prior(cls, engine):
    def distance(**arguments):
        settings = {"n_steps": 40} if cls is A3C else {"group_size": 8}
        agent = make(cls, engine=engine, learning_rate=1e-2, **settings, **arguments).learn(600)
        with th.no_grad():
            shown = [one.policy.get_distribution(th.zeros(1, 3)).distribution.probs for one in (agent, prior)]
        return abs(shown[0] - shown[1]).max().item()

    prior = moved(make(cls), 0.2)
    assert distance(prior=prior, prior_kl_coef=1e3) < 0.3 * distance()


@pytest.mark.parametrize("cls", [*ALL, GRPO, RLOO, A3C])
def test_training_with_a_prior_goes_on_from_a_file(cls, tmp_path):
    agent = make(cls, prior=moved(make(cls)), prior_kl_coef=ConstantSchedule(2.0))
    agent.learn(16)
    agent.save(tmp_path / "agent")
    again = cls.load(tmp_path / "agent", env=agent.env, device="cpu")
    assert all(th.equal(a, b) for a, b in zip(again.prior.parameters(), agent.prior.parameters(), strict=True))
    assert again.penalty().kl_coef == 2.0
    before = parameters(again)
    again.learn(16)
    assert not th.equal(parameters(again), before)
    assert cls.load(tmp_path / "agent", prior=None).penalty() is None
    assert deepcopy(again).penalty().kl_coef == 2.0


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_files_with_and_without_a_prior_load_in_sb3(cls, tmp_path):
    theirs = getattr(sb3, cls.__name__)
    for prior in (None, moved(make(cls))):
        agent = make(cls, prior=prior)
        agent.save(tmp_path / "agent")
        loaded = theirs.load(tmp_path / "agent", env=TinyEnv(), device="cpu")
        assert th.equal(parameters(loaded), parameters(agent))
        loaded.learn(16)


def test_an_agent_starts_at_its_prior_and_is_drawn_back_to_it(tmp_path):
    start = moved(make())
    start.save(tmp_path / "prior")
    agent = PPO.load(tmp_path / "prior", TinyEnv(), prior=tmp_path / "prior", prior_kl_coef=0.5)
    assert th.equal(parameters(agent), parameters(start))
    assert all(th.equal(a, b) for a, b in zip(agent.prior.parameters(), start.policy.parameters(), strict=True))
