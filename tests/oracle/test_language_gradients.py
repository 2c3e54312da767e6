"""Language models: probabilities, gradients and optima, against transformers and against all texts listed."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th

pytest.importorskip("transformers")

import language as world
from transformers import LlamaConfig, LlamaForCausalLM

from pg_agents import estimators
from pg_agents.contract import Batches
from pg_agents.language import (
    LanguageGRPO,
    LanguagePPO,
    LanguageREINFORCE,
    LanguageRLOO,
    generate,
)
from pg_agents.language.models import run
from pg_agents.language.objectives import MEANS, VARIANTS, TokenBatch, averaged, clipped
from pg_agents.language.policy import Scored
from pg_agents.language.rlhf import adapted, as_rollout
from pg_agents.language.texts import padded
from pg_agents.language.updating import TextRollout, accumulate, update
from pg_agents.objectives import check_weight

TOKENIZER = world.tokenizer()
ALGORITHMS = [LanguagePPO, LanguageREINFORCE, LanguageRLOO, LanguageGRPO]
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def llama():
    th.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.5,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).eval()


def agent(algorithm=LanguagePPO, model=None, **arguments):
    arguments = {"reward": world.reward, "seed": 0, "device": "cpu", "max_new_tokens": world.LONGEST, **arguments}
    return algorithm(world.model() if model is None else model, TOKENIZER, ["a"], **arguments)


# Probabilities


@pytest.mark.parametrize("model", [world.model, llama])
def test_log_probabilities_are_transformers_own_with_and_without_padding(model):
    model = model()
    prompts = [[world.A], [world.B, world.A, world.B], [world.A, world.A]]
    batch = padded(prompts, [[world.B, world.EOS], [world.A], [world.B, world.B, world.A]], world.PAD)
    with th.no_grad():
        found = th.where(batch.alive, run(model, batch).of(batch.actions), 0.0).sum(dim=1)
        np.testing.assert_allclose(found, world.log_probs(model, batch), atol=1e-5)
        for row in range(3):
            alone = batch.take(th.tensor([row]))
            assert alone.mask.all()
            np.testing.assert_allclose(run(model, alone).of(alone.actions).sum(), found[row], atol=1e-5)


def test_all_texts_together_have_probability_1():
    with th.no_grad():
        assert float(world.log_probs(world.model(), world.texts()).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_texts_are_drawn_with_their_probabilities():
    model, n = world.model(), 20_000
    prompts = ["a"] * (n // 2) + ["b a"] * (n // 2)  # of two lengths, so that one is padded
    drawn = generate(model, TOKENIZER, prompts, max_new_tokens=3, generator=th.Generator().manual_seed(0))
    texts = world.texts()
    with th.no_grad():
        p = world.log_probs(model, texts).exp().numpy()
    keys = [tuple(row[alive].tolist()) for row, alive in zip(texts.actions, texts.alive, strict=True)]
    drawn_keys = [tuple(row[alive].tolist()) for row, alive in zip(drawn.actions, drawn.alive, strict=True)]
    counts = np.array([drawn_keys[: n // 2].count(key) for key in keys])
    assert counts.sum() == n // 2
    chi_squared = ((counts - p * n / 2) ** 2 / (p * n / 2)).sum()
    assert chi_squared == pytest.approx(len(p) - 1, abs=4 * (2 * (len(p) - 1)) ** 0.5)


def test_a_cache_gives_the_probabilities_of_the_whole_text():
    model = llama()
    prompts = ["a", "b a b", "a a"]
    drawn = generate(model, TOKENIZER, prompts, max_new_tokens=5, deterministic=True)
    best = run(model, drawn).log_probs.argmax(dim=-1)
    assert th.equal(best[drawn.alive], drawn.actions[drawn.alive])


def test_after_the_end_there_is_padding():
    drawn = generate(world.model(), TOKENIZER, ["a"] * 50, max_new_tokens=5, generator=th.Generator().manual_seed(0))
    for actions, alive, ended in zip(drawn.actions, drawn.alive, drawn.ended(world.EOS), strict=True):
        n = int(alive.sum())
        assert alive[:n].all()
        assert ended == (actions[n - 1] == world.EOS)
        assert ended or n == 5
        assert (actions[n:] == world.PAD).all()
        assert world.EOS not in actions[: n - 1]


# Advantages


def scored(**values):
    return Scored(**{name: values.get(name, th.zeros(2, 3)) for name in Scored._fields})


TWO = padded([[world.A]] * 2, [[world.A, world.EOS], [world.B, world.A, world.B]], world.PAD)


def test_a_completion_is_a_column_with_its_reward_at_the_end_and_the_price_at_each_token():
    log_prob = th.tensor([[-1.0, -2.0, 0.0], [-1.0, -1.0, -1.0]])
    reference = th.tensor([[-1.5, -1.0, 0.0], [-2.0, -1.0, 0.5]])
    rollout = as_rollout(TWO, np.array([2.0, -1.0]), scored(log_prob=log_prob, reference_log_prob=reference), 0.1, "k1")
    np.testing.assert_allclose(rollout.rewards.T, [[-0.05, 2.1, 0], [-0.1, 0, -0.85]], atol=1e-6)
    assert rollout.terminated.T.tolist() == [[False, True, True], [False, False, True]]
    assert rollout.trained_on.T.tolist() == [[True, True, False], [True, True, True]]


def test_ppos_advantages_are_gae_on_a_table():
    values = th.tensor([[0.5, 1.0, 0.0], [0.0, -1.0, 2.0]])
    ppo = agent(gamma=0.9, gae_lambda=0.8, kl_coef=0.0)
    rollout = ppo.rollout(TWO, np.array([2.0, -1.0]), scored(values=values))
    γ, λ = 0.9, 0.8
    first = [γ * 1 - 0.5 + γ * λ * (2 - 1), 2 - 1]
    second = [γ * -1 - 0 + γ * λ * (γ * 2 + 1 + γ * λ * (-1 - 2)), γ * 2 + 1 + γ * λ * (-1 - 2), -1 - 2]
    np.testing.assert_allclose(rollout.advantages, [[*first, 0], second], atol=1e-6)
    np.testing.assert_allclose((rollout.returns - values)[TWO.alive], [*first, *second], atol=1e-6)
    ends = np.array([[False], [True]])  # the first completion alone, by `estimators.gae`
    deltas = estimators.td_error(np.array([[0.0], [2.0]]), values[:1, :2].T.numpy(), np.array([[1.0], [0.0]]), ends, γ)
    np.testing.assert_allclose(rollout.advantages[0, :2], estimators.gae(deltas, ends, γ, λ)[:, 0], atol=1e-6)


def test_critics_are_replaced_by_the_other_completions():
    three = padded([[world.A]] * 4, [[world.A, world.EOS], [world.B, world.EOS], [world.EOS], [world.B] * 3], world.PAD)
    rewards = np.array([1.0, 2.0, 4.0, 9.0])
    zeros = scored(**{name: th.zeros(4, 3) for name in Scored._fields})

    def advantages(algorithm, **arguments):
        found = agent(algorithm, kl_coef=0.0, n_episodes=4, **arguments).rollout(three, rewards, zeros).advantages
        assert (found[~three.alive] == 0).all()
        columns = [set(row[alive].tolist()) for row, alive in zip(found, three.alive, strict=True)]
        return [pytest.approx(value, abs=1e-5) for (value,) in columns]  # all tokens of a completion have the same

    assert advantages(LanguageRLOO, group_size=2) == [-1.0, 1.0, -5.0, 5.0]
    assert advantages(LanguageRLOO, group_size=4) == [1 - 5, 2 - 14 / 3, 4 - 4, 9 - 7 / 3]
    assert advantages(LanguageREINFORCE) == [-3.0, -2.0, 0.0, 5.0]
    assert advantages(LanguageREINFORCE, baseline="none") == [1.0, 2.0, 4.0, 9.0]
    assert advantages(LanguageGRPO, group_size=2, scale="none") == [-0.5, 0.5, -2.5, 2.5]
    σ = 0.5**0.5
    expected = [-0.5 / (σ + 1e-4), 0.5 / (σ + 1e-4), -2.5 / (5 * σ + 1e-4), 2.5 / (5 * σ + 1e-4)]
    assert expected == advantages(LanguageGRPO, group_size=2)


# Gradients, in 64 bits and over all texts


def gradient(module):
    return th.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])


def exact_gradients(policy, kl_coef):
    """∇ E[r] and ∇ KL(π || π_ref), as sums over all texts."""
    texts = world.texts()
    log_p, log_reference = (
        th.where(texts.alive, run(model, texts).of(texts.actions), 0.0).sum(dim=1)
        for model in (policy.model, policy.reference)
    )
    p = log_p.exp()
    found = []
    for quantity in ((p * th.as_tensor(world.REWARDS)).sum(), (p * (log_p - log_reference)).sum()):
        policy.model.zero_grad()
        quantity.backward(retain_graph=True)
        found.append(gradient(policy.model).clone())
    return found[0], found[1]


def moved(algorithm, number=0, **arguments):
    """An agent in 64 bits whose policy has left the reference; another one for each number."""
    made = agent(algorithm, world.model(number).double(), **arguments)
    made.policy.double()
    generator = th.Generator().manual_seed(3 + number)
    with th.no_grad():
        for parameter in made.policy.model.parameters():
            parameter += 0.2 * th.randn(parameter.shape, generator=generator, dtype=th.float64)
    return made


def expected_gradient(made, rollout, probabilities):
    """-∇ of the agent's loss, as the mean over texts, or groups of texts, with given probabilities."""
    weights = probabilities[:, None] * len(probabilities)
    rollout = TextRollout(**{**vars(rollout), "advantages": rollout.advantages.double() * weights})
    accumulate(made.policy, made.policy.optimizer, rollout, made.loss(), None)
    return -gradient(made.policy.model)


def test_rloos_gradient_is_that_of_the_expected_return_less_the_price_of_kl():
    made = moved(LanguageRLOO, kl_coef=0.3, group_size=2, n_episodes=2)
    n = len(world.texts())
    pairs = np.stack(np.meshgrid(range(n), range(n)), axis=-1).reshape(-1)  # all pairs, one after the other
    texts = world.texts().take(th.as_tensor(pairs))
    known = made.policy.score(texts)
    rollout = made.rollout(texts, world.REWARDS[pairs], Scored(*(part.double() for part in known)))
    p = known.log_prob.sum(dim=1).exp().reshape(-1, 2).prod(dim=1).repeat_interleave(2)
    found = expected_gradient(made, rollout, p / 2)
    of_reward, of_kl = exact_gradients(made.policy, 0.3)
    np.testing.assert_allclose(found, of_reward - 0.3 * of_kl, atol=2e-6)


def kl_gradient(kl_in, kl_estimator, number=0):
    """The direction in which a penalty alone moves a policy, and the exact one."""
    made = moved(LanguageREINFORCE, number, kl_coef=1.0, kl_in=kl_in, kl_estimator=kl_estimator, baseline="none")
    texts = world.texts()
    known = made.policy.score(texts)
    p = known.log_prob.sum(dim=1).exp()
    rollout = made.rollout(texts, np.zeros(len(texts)), known)
    if kl_in == "reward":
        found = expected_gradient(made, rollout, p)
    else:
        batch_loss = made.loss()
        weighted = batch_loss.objective

        def value(batch, *coefficients):
            return weighted.value(batch, *coefficients) * (p * len(p))[batch.completion]

        form = replace(batch_loss, objective=replace(weighted, value=value))
        everything = texts.tokens.numel()  # in one part, so that `p` has the batch's order
        accumulate(made.policy, made.policy.optimizer, rollout, form, everything)
        found = -gradient(made.policy.model)
    return found, -exact_gradients(made.policy, 1.0)[1]


@pytest.mark.parametrize(
    ("kl_in", "kl_estimator", "least", "most"),
    [
        ("reward", "k1", 0.99999, 1.0),
        ("loss", "k2_sequence", 0.99999, 1.0),
        ("loss", "k2", 0.76, 0.997),
        ("loss", "k3", 0.72, 0.986),
        ("reward", "k2", 0.17, 0.93),
        ("reward", "k3", -0.34, 0.65),
    ],
)
def test_kl_estimators_point_as_exactly_as_they_are_known_to(kl_in, kl_estimator, least, most):
    cosines = []
    for number in range(5):
        found, exact = kl_gradient(kl_in, kl_estimator, number)
        cosines.append(float(th.cosine_similarity(found, exact, dim=0)))
        if least > 0.999:
            np.testing.assert_allclose(found, exact, atol=2e-6)
    assert least <= min(cosines)
    assert max(cosines) <= most + 1e-9
    assert max(cosines) > most - 0.02


def test_k1_in_the_loss_would_have_no_gradient():
    made = moved(LanguageREINFORCE)
    texts = world.texts()
    log_p = th.where(texts.alive, run(made.policy.model, texts).of(texts.actions), 0.0).sum(dim=1)
    (log_p.detach().exp() * log_p).sum().backward()
    np.testing.assert_allclose(gradient(made.policy.model), 0, atol=1e-9)
    with pytest.raises(ValueError, match=r"kl_estimator.*'k1'"):
        agent(kl_in="loss")


@every_algorithm
def test_the_gradients_of_parts_add_up_to_that_of_the_minibatch(algorithm):
    made = moved(algorithm, n_episodes=40, ent_coef=0.1)
    texts = world.texts()
    rollout = made.rollout(texts, world.REWARDS, made.policy.score(texts))
    gradients = []
    for batch_tokens in (None, 20, 1):
        accumulate(made.policy, made.policy.optimizer, rollout, made.loss(), batch_tokens)
        gradients.append(gradient(made.policy))
    assert gradients[0].abs().max() > 1e-4
    for other in gradients[1:]:
        np.testing.assert_allclose(other, gradients[0], rtol=1e-6, atol=1e-9)


def test_advantages_are_normalised_over_real_tokens():
    made = moved(LanguagePPO)
    rollout = made.rollout(world.texts(), world.REWARDS, made.policy.score(world.texts()))
    shifted = replace(rollout, advantages=3 * rollout.advantages + 5 * rollout.completions.alive)
    gradients = []
    for one in (rollout, shifted):
        accumulate(made.policy, made.policy.optimizer, one, made.loss(), None)
        gradients.append(gradient(made.policy.model))
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-5, atol=1e-8)


def token_batch(**values):
    lengths = th.tensor([1, 3])
    numbers = th.linspace(-1, 1, 4)
    arguments = {
        "log_prob": numbers - 1,
        "old_log_prob": th.flip(numbers, [0]) - 1,
        "advantages": th.tensor([2.0, -1.0, -1.0, -1.0]),
        "values": numbers,
        "old_values": numbers,
        "returns": numbers,
        "entropy": None,
        "completion": th.tensor([0, 1, 1, 1]),
        "lengths": lengths,
        "mean_length": 2.0,
        "reference_log_prob": numbers * 0.5,
    }
    return TokenBatch(**{**arguments, **values})


def test_means_are_over_tokens_completions_or_sums():
    batch = token_batch()
    x = th.tensor([1.0, 2.0, 3.0, 4.0])
    means = {name: float((weights(batch, 5) * x).mean()) for name, weights in MEANS.items()}
    assert means == pytest.approx({"token": 2.5, "completion": (1 + 3) / 2, "constant": (1 + 9) / 2 / 5, "sum": 5.0})


def test_variants_of_grpo_are_their_formulas():
    batch = token_batch()
    log_r, a = batch.log_ratio.numpy(), batch.advantages.numpy()
    r = np.exp(log_r)

    def values(name):
        variant = VARIANTS[name]
        return variant.objective(*variant.clip_range)(batch).numpy()

    np.testing.assert_allclose(values("grpo"), np.minimum(r * a, np.clip(r, 0.8, 1.2) * a), rtol=1e-5)
    np.testing.assert_allclose(values("dapo"), np.minimum(r * a, np.clip(r, 0.8, 1.28) * a), rtol=1e-5)
    s = np.exp(np.array([log_r[0], *[log_r[1:].mean()] * 3]))
    np.testing.assert_allclose(values("gspo"), np.minimum(s * a, np.clip(s, 1 - 3e-4, 1 + 4e-4) * a), rtol=1e-5)
    np.testing.assert_allclose(values("cispo"), a * np.clip(r, 0, 5) * batch.log_prob.numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "cispo"])
def test_variants_have_the_weights_of_their_values(name):
    variant = VARIANTS[name]
    check_weight(variant.objective(*variant.clip_range))


def test_a_penalty_in_the_loss_is_subtracted_before_the_mean():
    batch = token_batch()
    plain = clipped(0.2, 0.2)
    found = averaged(plain, "completion", 5, 0.5, "k2")(batch)
    k2 = (batch.log_prob - batch.reference_log_prob) ** 2 / 2
    expected = (plain(batch) - 0.5 * k2) * 2 / th.tensor([1.0, 3.0, 3.0, 3.0])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_price_of_kl_moves_towards_its_target_and_not_too_fast():
    assert adapted(0.1, 4.0, 4.0) == 0.1
    assert adapted(0.1, 4.4, 4.0) == pytest.approx(0.1 * 1.01)
    assert adapted(0.1, 40.0, 4.0) == pytest.approx(0.1 * 1.02)
    assert adapted(0.1, 0.0, 4.0) == pytest.approx(0.1 * 0.98)


def test_an_update_ends_where_the_kl_divergence_is_too_large():
    made = agent(n_episodes=40, learning_rate=0.1, target_kl=0.01)
    texts = world.texts()
    rollout = made.rollout(texts, world.REWARDS, made.policy.score(texts))
    summary = update(
        made.policy,
        made.policy.optimizer,
        rollout,
        made.loss(),
        Batches(20, 10),
        batch_tokens=None,
        generator=th.Generator(),
    )
    assert summary.stopped_by > 0.015
    assert summary.n_epochs < 20


# Optima


def exact(policy):
    """π of all texts."""
    return policy.score(world.texts()).log_prob.sum(dim=1).exp().numpy()


@pytest.mark.parametrize(
    ("algorithm", "arguments"),
    [
        (LanguagePPO, {"gae_lambda": 1.0, "n_epochs": 2, "normalize_advantage": False}),
        (LanguageREINFORCE, {"baseline": "leave_one_out"}),
        (LanguageRLOO, {}),
        (LanguageGRPO, {"variant": "dr_grpo", "n_epochs": 2}),
    ],
)
def test_unbiased_algorithms_reach_the_optimum(algorithm, arguments):
    kl_coef = 1.0
    made = agent(
        algorithm,
        kl_coef=kl_coef,
        n_episodes=256,
        batch_size=256,
        learning_rate=lambda left: 0.02 * left,
        **arguments,
    )
    reference = exact(made.policy)
    best = reference * np.exp(world.REWARDS / kl_coef)
    best /= best.sum()
    assert np.abs(best - reference).sum() / 2 > 0.2
    made.learn(int(200 * 256 * 2.6), log_interval=None)
    assert np.abs(exact(made.policy) - best).sum() / 2 < 0.02


@every_algorithm
def test_with_a_very_large_price_the_policy_stays_the_reference(algorithm):
    made = agent(algorithm, kl_coef=30.0, n_episodes=64, learning_rate=lambda left: 1e-3 * left)
    before = exact(made.policy)
    made.learn(20 * 64 * 2)
    assert np.abs(exact(made.policy) - before).sum() / 2 < 0.05
