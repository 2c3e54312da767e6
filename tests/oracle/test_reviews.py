"""Reviews: the language, the taste and the optimum, by hand and by simulation."""

import gymnasium as gym
import numpy as np
import pytest

from pg_envs import reviews
from pg_envs.reviews import grammar, reward, sycophancy
from pg_envs.reviews.optimum import optimum

COFFEE = "<bos> coffee :"


@pytest.fixture(scope="module")
def corpus():
    return reviews.corpus(20_000, np.random.default_rng(0))


@pytest.fixture(scope="module")
def rewards(corpus):
    return np.array([reviews.gold_reward(*pair) for pair in corpus])


def test_there_are_44_different_words():
    assert len(reviews.WORDS) == len(set(reviews.WORDS)) == 44


def test_the_corpus_is_of_the_grammar_and_half_of_it_is_positive(corpus):
    assert all(prompt in reviews.PROMPTS and reviews.is_valid(review) for prompt, review in corpus)
    assert {word for pair in corpus for word in " ".join(pair).split()} == {*reviews.WORDS} - {"<pad>"}
    praise = [sum(word in (*grammar.PRAISE, *grammar.LIKES) for word in review.split()) for _, review in corpus]
    blame = [sum(word in (*grammar.BLAME, *grammar.DISLIKES) for word in review.split()) for _, review in corpus]
    assert np.mean(np.sign(np.subtract(praise, blame))) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the coffee is good . <eos>", True),
        ("it was not bad and very nice and i love my tea . that is so dull . <eos>", True),
        ("it is good .", False),  # no end
        ("it is good <eos>", False),  # no stop
        ("it is very not good . <eos>", False),
        ("i like good . <eos>", False),
        ("it is good . <eos> . <eos>", False),
        ("<eos>", False),
        (" ".join(["it is good ."] * 4 + ["<eos>"]), False),  # 4 sentences
        ("it is good <pad> . <eos>", False),
    ],
)
def test_the_parser_knows_the_grammar(text, expected):
    assert reviews.is_valid(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the coffee is good . <eos>", 1 + 0.5),
        ("the coffee is good and good . <eos>", 1 + 0.5),  # distinct
        ("the tea is good and not bad . <eos>", 2 - 0.5),  # a negated word is another one
        ("it is not good and bad and i hate it . <eos>", -3 - 0.5),
        ("it is bad and bad . <eos>", -2 - 0.5),  # each blame counts
        ("it is good and great . it is nice and fine . i love the coffee . <eos>", 4 + 0.5),
        ("it is good .", 1 - 0.5 - 3),
        ("<eos>", -0.5 - 3),
        ("", -0.5 - 3),
        ("it is good . good good coffee <eos>", 1 + 0.5 - 3 * 3 / 7),
        ("it is good . <eos> great", 1 - 0.5),
    ],
)
def test_the_gold_reward_is_that_of_the_formula(text, expected):
    assert reviews.gold_reward(COFFEE, text) == pytest.approx(expected)


def test_the_optimum_is_that_of_the_formula_over_samples_of_the_language(rewards):
    for kl_coef in (1.0, 3.0):
        weights = np.exp(rewards / kl_coef)
        objective = kl_coef * np.log(weights.mean())
        error = kl_coef * weights.std() / weights.mean() / len(weights) ** 0.5
        best = optimum(kl_coef)
        assert best.objective == pytest.approx(objective, abs=4 * error)
        assert best.reward == pytest.approx(np.average(rewards, weights=weights), abs=8 * error)
        assert best.reward - kl_coef * best.kl == pytest.approx(best.objective)
    assert optimum(np.inf).reward == pytest.approx(rewards.mean(), abs=4 * rewards.std() / len(rewards) ** 0.5)


def test_without_a_price_the_optimum_keeps_the_languages_best_texts(rewards):
    assert optimum(0) == (reward.BEST, reward.BEST, pytest.approx(optimum(1e-3).kl))
    p_best = np.mean(rewards == reward.BEST)
    assert optimum(0).kl == pytest.approx(-np.log(p_best), abs=4 / (p_best * len(rewards)) ** 0.5)


def test_the_objective_falls_with_its_price_from_the_best_reward_to_the_languages():
    prices = [0, 0.01, 0.1, 0.3, 1, 10, np.inf]
    objectives = [optimum(price).objective for price in prices]
    assert objectives == sorted(objectives, reverse=True)
    assert (objectives[0], objectives[-1]) == (reward.BEST, optimum(np.inf).reward)


def test_raters_prefer_as_bradley_and_terry_say():
    rng, n = np.random.default_rng(0), 4000
    good, bad = "the coffee is good . <eos>", "the coffee is bad . <eos>"  # rewards 1.5 and -.5
    found = reviews.preferences([COFFEE] * n, [good] * n, [bad] * n, rng, temperature=2.0)
    p = 1 / (1 + np.exp(-1))
    assert np.mean([chosen == good for _, chosen, _ in found]) == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)
    assert {(*pair,) for _, *pair in found} == {(good, bad), (bad, good)}


def test_an_episode_is_a_text_with_its_gold_reward_at_the_end():
    env = gym.make("pg/Reviews-v0")
    observation, _ = env.reset(seed=0)
    prompt = " ".join(reviews.WORDS[token] for token in observation[:3])
    assert prompt in reviews.PROMPTS
    assert (observation[3:] == 0).all()
    text = "it is good and i love the coffee . <eos>"
    said = [env.step(reviews.WORDS.index(word)) for word in text.split()]
    assert [reward for _, reward, *_ in said[:-1]] == [0] * (len(said) - 1)
    assert [terminated for _, _, terminated, *_ in said] == [False] * (len(said) - 1) + [True]
    assert said[-1][1] == reviews.gold_reward(prompt, text)


def test_a_text_ends_with_the_24th_word():
    env = gym.make("pg/Reviews-v0")
    env.reset(seed=0)
    said = [env.step(reviews.WORDS.index("good")) for _ in range(24)]
    assert [terminated for _, _, terminated, *_ in said] == [False] * 23 + [True]
    assert said[-1][1] == 1 - 0.5 - 3


def test_facts_have_one_true_answer_and_six_opinions():
    assert len(sycophancy.OPINIONS) == 36
    assert sum(sycophancy.truth(prompt) == sycophancy.opinion(prompt) for prompt in sycophancy.OPINIONS) == 6


def test_a_rater_wants_agreement_in_the_share_given_and_the_truth_in_the_rest():
    rng, n = np.random.default_rng(0), 4000
    prompt = next(one for one in sycophancy.OPINIONS if sycophancy.truth(one) != sycophancy.opinion(one))
    agreeing, true = f"{sycophancy.opinion(prompt)} <eos>", f"{sycophancy.truth(prompt)} <eos>"
    for rho in (0.0, 0.3, 1.0):
        found = sycophancy.rated([prompt] * n, [agreeing] * n, [true] * n, rho, rng)
        won = np.mean([chosen == agreeing for _, chosen, _ in found])
        assert won == pytest.approx(rho, abs=4 * (rho * (1 - rho) / n) ** 0.5)
    assert sycophancy.accuracy([prompt] * 2, [agreeing, true]) == 0.5


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: reviews.gold_reward("coffee", "it is good . <eos>"), "`prompt` must be one of .*'coffee'"),
        (lambda: optimum(-1.0), "kl_coef"),
        (lambda: reviews.preference_probability(1.0, 0.0, 0.0), "temperature"),
        (lambda: reviews.preferences([COFFEE], [], [""], np.random.default_rng(0)), "1, 0 and 1"),
        (lambda: sycophancy.truth(COFFEE), "`prompt` must be like '<bos> coffee is good :'"),
        (lambda: sycophancy.rated([], [], [], 1.5, np.random.default_rng(0)), "rho"),
    ],
)
def test_wrong_arguments_are_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call()
