"""Fisher matrices, natural gradients and trust regions against matrices, dense solvers and formulas."""

import copy

import numpy as np
import pytest
import torch as th
from fakes import SHORT, TinyEnv, same, short, weights
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from torch import nn

from pg_agents import A2C, NPG, TRPO, natural
from pg_agents.contract import Objective, Penalty
from pg_agents.theory import LinearActorCritic, TabularMDP, ascend, two_states

N_STATES = 7
CARTPOLE, PENDULUM = "CartPole-v1", "Pendulum-v1"


def network(n_outputs, seed=0):
    th.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, n_outputs)).double()


def states():
    return th.randn(N_STATES, 3, dtype=th.float64, generator=th.Generator().manual_seed(1))


def softmax_policy():
    net = network(3)
    return list(net.parameters()), lambda: CategoricalDistribution(3).proba_distribution(net(states()))


def gaussian_policy():
    net, log_std = network(2), nn.Parameter(th.tensor([0.3, -0.5], dtype=th.float64))
    policy = lambda: DiagGaussianDistribution(2).proba_distribution(net(states()), log_std)  # noqa: E731
    return [*net.parameters(), log_std], policy


def softmax_fisher(parameters, policy):
    """E_s[Σ_a π(a|s) ∇ log π(a|s) ∇ log π(a|s)ᵀ], each score by itself."""
    total = 0
    for s in range(N_STATES):
        for a in range(3):
            log_prob = policy().distribution.logits[s, a]
            score = natural.flat(th.autograd.grad(log_prob, parameters))
            total = total + log_prob.exp().detach() * th.outer(score, score)
    return (total / N_STATES).numpy()


def gaussian_fisher(parameters, policy):
    """E_s[Jᵀ diag(1/σ²) J] with the Jacobian J of the mean, and 2 for each log σ."""
    *_, log_std = parameters
    n, blocks = sum(one.numel() for one in parameters), 0
    for s in range(N_STATES):
        means = policy().distribution.mean[s]
        jacobian = th.stack(
            [natural.flat(th.autograd.grad(mean, parameters[:-1], retain_graph=True)) for mean in means]
        )
        blocks = blocks + jacobian.T @ th.diag(th.exp(-2 * log_std.detach())) @ jacobian / N_STATES
    fisher = 2 * np.eye(n)
    fisher[:-2, :-2] = blocks.numpy()
    return fisher


POLICIES = {"softmax": (softmax_policy, softmax_fisher), "Gaussian": (gaussian_policy, gaussian_fisher)}


def product_of(parameters, policy, damping=0.0):
    with th.no_grad():
        old = policy()
    return natural.fisher_product(natural.mean_divergence(policy(), old), parameters, damping)


@pytest.mark.parametrize("kind", POLICIES)
def test_the_fisher_product_is_that_of_the_explicit_matrix(kind):
    make, explicit = POLICIES[kind]
    parameters, policy = make()
    fisher, product = explicit(parameters, policy), product_of(parameters, policy)
    columns = np.stack([product(one).numpy() for one in th.eye(len(fisher), dtype=th.float64)])
    assert columns == pytest.approx(fisher, rel=1e-5, abs=1e-5 * np.abs(fisher).max())
    damped = product_of(parameters, policy, damping=0.25)(th.ones(len(fisher), dtype=th.float64)).numpy()
    assert damped == pytest.approx(fisher.sum(axis=1) + 0.25, rel=1e-5)


@pytest.mark.parametrize("kind", POLICIES)
def test_conjugate_gradients_find_what_a_dense_solver_finds(kind):
    make, explicit = POLICIES[kind]
    parameters, policy = make()
    damped = explicit(parameters, policy) + 0.1 * np.eye(sum(one.numel() for one in parameters))
    g = th.randn(len(damped), dtype=th.float64, generator=th.Generator().manual_seed(2))
    start = 1e-4 * th.ones_like(g)
    found = natural.conjugate_gradient(product_of(parameters, policy, 0.1), g, start, len(damped), tolerance=1e-20)
    assert found.numpy() == pytest.approx(np.linalg.solve(damped, g.numpy()), rel=1e-5)
    assert (start == 1e-4).all()


def test_conjugate_gradients_stop_at_the_tolerance_and_after_the_steps():
    calls = []
    matrix = th.diag(th.tensor([1.0, 2.0, 3.0, 4.0], dtype=th.float64))
    product = lambda v: [calls.append(v), matrix @ v][1]  # noqa: E731
    g = th.ones(4, dtype=th.float64)
    assert (natural.conjugate_gradient(product, g, 1 / th.diag(matrix), 10) == 1 / th.diag(matrix)).all()
    assert len(calls) == 1
    natural.conjugate_gradient(product, g, th.zeros_like(g), 2)
    assert len(calls) == 1 + 3


@pytest.mark.parametrize("mean_over_dimensions", [False, True])
def test_the_divergence_is_the_sum_or_the_mean_over_dimensions(mean_over_dimensions):
    def of(new, old):
        return float(natural.mean_divergence(new, old, mean_over_dimensions=mean_over_dimensions))

    factor = 1 / 2 if mean_over_dimensions else 1
    gaussian = lambda mean: DiagGaussianDistribution(2).proba_distribution(th.tensor([mean]), th.zeros(2))  # noqa: E731
    assert of(gaussian([1.0, 2.0]), gaussian([0.0, 0.0])) == pytest.approx(factor * (1 / 2 + 4 / 2))
    # KL of probabilities 0.8 and 0.5: 0.8 log 1.6 + 0.2 log 0.4
    logit, kl = np.log(4), 0.8 * np.log(1.6) + 0.2 * np.log(0.4)
    coins = lambda logit: BernoulliDistribution(2).proba_distribution(th.full((3, 2), logit))  # noqa: E731
    assert of(coins(logit), coins(0.0)) == pytest.approx(factor * 2 * kl)
    pair = lambda logit: MultiCategoricalDistribution([2, 2]).proba_distribution(  # noqa: E731
        th.tensor([[logit, 0.0, logit, 0.0]])
    )
    assert of(pair(logit), pair(0.0)) == pytest.approx(2 * kl)


def test_the_line_search_returns_the_first_fraction_that_is_accepted():
    assert natural.line_search(lambda fraction: fraction < 0.3, 10, 0.5) == 0.25
    assert natural.line_search(lambda fraction: fraction < 0.3, 2, 0.5) is None


# The engine's step


class Rewarding(TinyEnv):
    """Three states in turn, three actions; the payment depends on both."""

    def __init__(self):
        super().__init__(spaces.Discrete(3), spaces.Discrete(3))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        _, _, *ends, info = super().step(action)
        return self.t % 3, float(action == self.t % 3) + 0.1 * action, *ends, info


def table(agent):
    return agent.policy.action_net.weight.detach().numpy().T.astype(np.float64)


def test_a_step_of_npg_is_the_dense_solution():
    agent = short(NPG, Rewarding(), LinearActorCritic, n_steps=60, batch_size=60, step_size=0.5, cg_damping=0.2)
    agent.policy.action_net.weight.data = th.tensor([[0.5, 0.0, 0.0], [0.0, -0.5, 0.2], [0.1, 0.0, 0.3]])
    before = table(agent)
    agent.learn(60)
    buffer = agent.rollout_buffer
    state, action = buffer.observations.astype(int).reshape(-1), buffer.actions.astype(int).reshape(-1)
    advantages = buffer.advantages.reshape(-1).astype(np.float64)
    advantages = (advantages - advantages.mean()) / advantages.std(ddof=1)
    policy = np.exp(before) / np.exp(before).sum(axis=1, keepdims=True)
    g, fisher = np.zeros((3, 3)), np.zeros((3, 3, 3, 3))
    for s, a, advantage in zip(state, action, advantages, strict=True):
        g[s] += advantage * (np.eye(3)[a] - policy[s]) / 60
        fisher[s, :, s, :] += (np.diag(policy[s]) - np.outer(policy[s], policy[s])) / 60
    expected = np.linalg.solve(fisher.reshape(9, 9) + 0.2 * np.eye(9), g.reshape(9)).reshape(3, 3)
    # The residual of the conjugate gradients is below 1e-5.
    assert table(agent) - before == pytest.approx(0.5 * expected, rel=1e-4, abs=1e-4)


class Scaled(LinearActorCritic):
    """The same policies as `LinearActorCritic`'s, with other parameters: θ = (1, 10, 0.2) φ for the three states."""

    def _rebuild(self):
        super()._rebuild()
        self.register_buffer("scale", th.tensor([1.0, 10.0, 0.2]))

    def _get_action_dist_from_latent(self, latent_pi):
        return super()._get_action_dist_from_latent(latent_pi * self.scale)


@pytest.mark.parametrize(("cls", "is_invariant"), [(NPG, True), (A2C, False)])
def test_the_natural_gradient_does_not_depend_on_the_parameters_and_the_plain_one_does(cls, is_invariant):
    kwargs = {"step_size": 0.1, "cg_damping": 0.0, "batch_size": 60} if cls is NPG else {"learning_rate": 0.1}
    moved = []
    for policy in (LinearActorCritic, Scaled):
        agent = short(cls, Rewarding(), policy, **{"n_steps": 60, **kwargs}, engine="autograd")
        agent.learn(60)
        observations = th.arange(3)
        moved.append(agent.policy.get_distribution(observations).distribution.probs.detach().numpy() - 1 / 3)
    assert np.abs(moved[0]).max() > 0.01
    difference = np.abs(moved[1] - moved[0]).max() / np.abs(moved[0]).max()
    assert difference < 1e-3 if is_invariant else difference > 0.5


def test_an_unlimited_step_has_the_divergence_asked_for_to_second_order():
    agent = short(NPG, Rewarding(), LinearActorCritic, n_steps=60, batch_size=60, target_kl=1e-4, cg_damping=1e-6)
    agent.learn(60)
    assert agent.logger.name_to_value["train/kl_divergence_loss"] == pytest.approx(1e-4, rel=0.05)


# The trust region


def divergence(new, old, observations):
    """KL(π || π_old) at each observation, from π's parameters."""
    with th.no_grad():
        p, q = (policy.get_distribution(th.as_tensor(observations)).distribution for policy in (new, old))
    if hasattr(p, "probs"):
        p, q = p.probs.double().numpy(), q.probs.double().numpy()
        return (p * np.log(p / q)).sum(axis=1)
    ratio = (p.stddev / q.stddev).double().numpy()
    shift = ((p.mean - q.mean) / q.stddev).double().numpy()
    return (0.5 * (ratio**2 + shift**2 - 1) - np.log(ratio)).sum(axis=1)


@pytest.mark.parametrize("engine", ["autograd", "mlp"])
@pytest.mark.parametrize("env", [CARTPOLE, PENDULUM])
@pytest.mark.parametrize("seed", range(3))
def test_every_accepted_step_stays_within_the_trust_region(env, seed, engine, monkeypatch):
    agent = short(TRPO, env, n_steps=128, batch_size=128, seed=seed, cg_damping=1e-4, target_kl=0.02, engine=engine)
    train, found = agent.train, []

    def watched():
        old = copy.deepcopy(agent.policy)
        observations = agent.rollout_buffer.observations.reshape(-1, *agent.observation_space.shape)
        train()
        found.append(divergence(agent.policy, old, observations).mean())

    monkeypatch.setattr(agent, "train", watched)
    agent.learn(5 * 128)
    # Rounding of probabilities in float32.
    assert max(found) <= 0.02 + 1e-6
    assert max(found) > 0.002


def of_actor(agent):
    names = ("policy_net", "action_net", "log_std")
    return {name: value for name, value in weights(agent).items() if any(part in name for part in names)}


class NeverBetter(TRPO):
    """Its objective falls with every step, but has the usual gradient."""

    def objective(self):
        return Objective(lambda batch: batch.advantages * batch.ratio - 1e9 * (batch.ratio - 1) ** 2)


def test_a_line_search_that_fails_leaves_the_policy_to_the_last_bit_and_trains_the_critic():
    env = TinyEnv(spaces.Box(-1, 1, (2,)))
    agent = NeverBetter("MlpPolicy", env, seed=0, device="cpu", engine="autograd", **SHORT["TRPO"])
    actor, everything = of_actor(agent), weights(agent)
    agent.learn(24)
    assert same(of_actor(agent), actor)
    assert not same(weights(agent), everything)
    critic = {name for name in everything if name not in actor}
    moved = {name for name, value in weights(agent).items() if not th.equal(value, everything[name])}
    assert moved == critic
    # The optimiser has never seen the policy's parameters.
    state = agent.policy.optimizer.state
    assert {name for name, one in agent.policy.named_parameters() if one in state} == critic
    log = agent.logger.name_to_value
    assert (log["train/is_line_search_success"], log["train/kl_divergence_loss"]) == (0, 0)


@pytest.mark.parametrize("cls", [TRPO, NPG])
def test_without_a_gradient_nothing_moves_the_policy(cls):
    agent = short(cls, TinyEnv(), engine="autograd")
    actor = of_actor(agent)
    collect = agent.collect_rollouts

    def collect_zeros(*args, **kwargs):
        goes_on = collect(*args, **kwargs)
        agent.rollout_buffer.advantages[:] = 0
        return goes_on

    agent.collect_rollouts = collect_zeros
    agent.learn(16)
    assert same(of_actor(agent), actor)
    assert agent.logger.name_to_value["train/is_line_search_success"] == 0


@pytest.mark.parametrize("cls", [TRPO, NPG])
def test_parameters_are_found_by_what_the_policy_depends_on_not_by_their_names(cls):
    class Misnamed(LinearActorCritic):
        def _rebuild(self):
            super()._rebuild()
            self.value_of_actions = nn.Linear(3, 3)

        def _get_action_dist_from_latent(self, latent_pi):
            return super()._get_action_dist_from_latent(self.value_of_actions(latent_pi))

    agent = short(cls, Rewarding(), Misnamed, engine="autograd", n_steps=32, batch_size=32)
    nn.init.orthogonal_(agent.policy.action_net.weight)
    before = weights(agent)
    agent.learn(32)
    moved = {name for name, value in weights(agent).items() if not th.equal(value, before[name])}
    assert {"value_of_actions.weight", "value_of_actions.bias", "action_net.weight"} <= moved


# The exact natural gradient of small problems


def process(seed, horizon=None):
    mdp = TabularMDP.random(n_states=4, n_actions=3, seed=seed, gamma=0.9, horizon=horizon)
    return mdp, np.random.default_rng(seed).normal(size=(4, 3))


@pytest.mark.parametrize("horizon", [None, 3])
def test_the_fisher_matrix_of_a_process_is_the_mean_outer_product_of_scores(horizon):
    mdp, theta = process(0, horizon)
    solution = mdp.solve(theta)
    visits = solution.visits if horizon is None else solution.visits.sum(axis=0)
    for s in range(4):
        scores = np.eye(3) - solution.policy[s]  # of each action, in a row
        expected = sum(solution.policy[s, a] * np.outer(scores[a], scores[a]) for a in range(3))
        assert solution.fisher[s] == pytest.approx(visits[s] / visits.sum() * expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_natural_gradient_is_the_advantage(seed):
    # The weights of the best compatible approximation of A, which for a table is A itself (Kakade 2002, theorem 1).
    mdp, theta = process(seed)
    solution = mdp.solve(theta)
    centred = solution.A - solution.A.mean(axis=1, keepdims=True)
    assert solution.natural_gradient == pytest.approx(solution.visits.sum() * centred)


def test_a_natural_step_has_the_largest_gain_of_all_with_its_divergence():
    mdp, theta = process(0)
    solution = mdp.solve(theta)
    step = solution.natural_gradient

    def squared_length(step):
        return np.einsum("sa,sab,sb->", step, solution.fisher, step)

    for direction in np.random.default_rng(0).normal(size=(100, 4, 3)):
        other = direction * np.sqrt(squared_length(step) / squared_length(direction))
        assert (solution.gradient * other).sum() <= (solution.gradient * step).sum()


@pytest.mark.parametrize("seed", range(3))
def test_ascent_along_the_natural_gradient_does_not_depend_on_the_parameters(seed):
    mdp, theta = process(seed)
    scale = np.exp(np.random.default_rng(10 + seed).normal(size=(4, 3)))

    def policies(**kwargs):
        return np.array([mdp.solve(one).policy for one in ascend(mdp, theta, 20, 0.02, **kwargs)])

    natural, plain = policies(natural=True), policies()
    assert policies(natural=True, scale=scale) == pytest.approx(natural, abs=1e-6)
    assert np.abs(policies(scale=scale) - plain)[-1].max() > 0.3 * np.abs(plain[-1] - plain[0]).max()
    # And it ascends.
    assert (np.diff([mdp.solve(one).J for one in ascend(mdp, theta, 20, 0.02, natural=True)]) > 0).all()


def test_kakades_two_states_are_his():
    gamma = 0.9999
    mdp = two_states(gamma)
    stays = mdp.solve([[np.log(4), 0], [-np.log(4), 0]])
    # By hand: the stationary distribution of staying with 0.8 and 0.2 is 0.8 and 0.2, and pays 0.8² + 2 · 0.2².
    assert (1 - gamma) * stays.visits == pytest.approx([0.8, 0.2], rel=1e-6)
    assert (1 - gamma) * stays.J == pytest.approx(0.72, rel=1e-6)
    # Both learn to stay where they are, which empties state 1: only the plain gradient loses sight of it.
    plain, natural = stays.gradient, stays.natural_gradient
    assert plain[0, 0] > 3 * plain[1, 0] > 0
    assert natural[1, 0] > natural[0, 0] > 0


def test_a_deterministic_policy_has_a_natural_gradient_of_zero():
    solution = two_states().solve([[2000.0, 0.0], [2000.0, 0.0]])
    assert (solution.natural_gradient == 0).all()


@pytest.mark.parametrize("scale", [0.0, [[1.0], [np.nan]]])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="`scale` must be finite and not 0"):
        ascend(two_states(), np.zeros((2, 2)), 1, 0.1, scale=scale)


class Anchored(NPG):
    """Has a reference policy, and nothing else to maximise."""

    reference = None

    def objective(self):
        return Objective(lambda batch: 0 * batch.ratio)

    def penalty(self):
        return None if self.reference is None else Penalty(self.reference, 1.0)


def test_a_penalty_is_part_of_what_is_maximised():
    def probabilities(policy):
        return policy.get_distribution(th.arange(3)).distribution.probs.detach()

    kwargs = {"n_steps": 60, "batch_size": 60, "step_size": 0.5, "cg_damping": 1e-4, "engine": "autograd"}
    agent = Anchored(LinearActorCritic, Rewarding(), device="cpu", seed=0, **kwargs)
    agent.reference = copy.deepcopy(agent.policy)
    agent.reference.action_net.weight.data = th.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.2], [0.3, 0.0, 0.6]])
    agent.learn(60)
    first = agent.logger.name_to_value["train/reference_kl"]
    agent.learn(600)
    assert agent.logger.name_to_value["train/reference_kl"] < 1e-3 * first
    assert probabilities(agent.policy) == pytest.approx(probabilities(agent.reference), abs=1e-2)
