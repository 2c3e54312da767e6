"""Language models as SB3 algorithms: training, callbacks, the log, files and errors."""

import json
import math
import warnings
import zipfile

import numpy as np
import pytest
import torch as th

pytest.importorskip("transformers")

import language as world
from prose import saying
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from pg_agents.language import (
    DirectPreference,
    LanguageGRPO,
    LanguagePPO,
    LanguageREINFORCE,
    LanguageRLOO,
    RewardModel,
    SupervisedFineTuning,
    best_of_n,
    small_gpt2,
    word_tokenizer,
)
from pg_agents.language.texts import encode_prompts, padded

TOKENIZER = world.tokenizer()
every_algorithm = pytest.mark.parametrize("algorithm", [LanguagePPO, LanguageREINFORCE, LanguageRLOO, LanguageGRPO])


def agent(algorithm=LanguagePPO, model=None, **arguments):
    arguments = {
        "tokenizer": TOKENIZER,
        "prompts": ["a", "b a"],
        "reward": lambda prompt, completion: float(completion.count("b")),
        "seed": 0,
        "device": "cpu",
        "max_new_tokens": 4,
        "n_episodes": 16,
        "batch_size": 8,
        **arguments,
    }
    return algorithm(world.model() if model is None else model, **arguments)


def parameters(agent):
    return th.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


class Watcher(BaseCallback):
    def __init__(self):
        super().__init__()
        self.batches = []

    def _on_step(self):
        self.batches.append((self.num_timesteps, self.locals["completions"], self.locals["infos"]))
        return True


# Training


@every_algorithm
def test_the_reward_rises(algorithm):
    made = agent(algorithm, kl_coef=0.0, learning_rate=1e-2, n_episodes=64, batch_size=32)
    before = np.mean([text.count("b") for text in made.generate(["a"] * 200)])
    made.learn(20 * 64 * 3)
    assert isinstance(made, BaseAlgorithm)
    assert np.mean([text.count("b") for text in made.generate(["a"] * 200)]) > before + 1


def test_a_step_is_a_token_and_callbacks_are_asked_once_for_each_batch():
    watcher = Watcher()
    made = agent().learn(100, callback=watcher)
    total = 0
    for num_timesteps, completions, infos in watcher.batches:
        total += int(completions.lengths.sum())
        assert num_timesteps == total
        assert len(infos) == 16
        assert [info["episode"]["l"] for info in infos] == completions.lengths.tolist()
        assert all(info["episode"]["r"] == info["completion"].count("b") for info in infos)
    assert total == made.num_timesteps >= 100 > watcher.batches[-2][0]


def test_prompts_are_completed_equally_often_and_in_groups():
    watcher = Watcher()
    agent(LanguageRLOO, prompts=["a", "b", "a b", "b b"], group_size=4).learn(1, callback=watcher)
    prompts = [info["prompt"] for info in watcher.batches[0][2]]
    groups = [prompts[first : first + 4] for first in range(0, 16, 4)]
    assert all(len(set(group)) == 1 for group in groups)
    assert {group[0] for group in groups} == {"a", "b", "a b", "b b"}


@every_algorithm
def test_the_same_seed_gives_the_same_run_and_another_one_another(algorithm):
    runs = [parameters(agent(algorithm, seed=seed).learn(120)) for seed in (1, 1, 2)]
    assert th.equal(runs[0], runs[1])
    assert not th.equal(runs[0], runs[2])


def test_two_agents_do_not_disturb_each_other():
    alone = parameters(agent().learn(120))
    first, second = agent(), agent(seed=5)
    first.learn(60)
    second.learn(60)
    th.manual_seed(99)
    first.learn(120 - first.num_timesteps, reset_num_timesteps=False)
    assert first.num_timesteps >= 120
    assert th.equal(alone, parameters(first))


def test_the_model_given_stays_as_it_was():
    model = world.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = agent(model=model, learning_rate=1e-2).learn(100)
    assert all(th.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not th.equal(made.policy.model.state_dict()["lm_head.weight"], before["lm_head.weight"])


def test_cut_completions_can_be_penalised_and_left_out():
    watcher = Watcher()
    made = agent(missing_eos_penalty=5.0, mask_cut=True)
    made.learn(1, callback=watcher)
    _, completions, infos = watcher.batches[0]
    ended = completions.ended(world.EOS)
    assert 0 < ended.sum() < 16
    rewards = [info["completion"].count("b") - 5 * (not end) for info, end in zip(infos, ended, strict=True)]
    assert [info["episode"]["r"] for info in infos] == rewards
    assert th.equal(made.rollout_buffer.trained_on, ended)
    assert [info["completion"].endswith("<eos>") for info in infos] == ended.tolist()


def test_where_nothing_is_learnt_from_nothing_moves():
    made = agent(mask_cut=True, max_new_tokens=1, prompts=["b"], reward=lambda prompt, completion: 1.0)
    made.policy.model.lm_head.weight.data[world.EOS] -= 1e3 * made.policy.model.lm_head.weight.data[world.EOS].sign()
    made._draw = lambda encoded, longest: no_end(made, encoded)
    before = parameters(made)
    made.learn(1)
    assert th.equal(parameters(made), before)


def no_end(made, encoded):
    from pg_agents.language.texts import padded

    return padded(encoded, [[world.B]] * len(encoded), world.PAD)


def test_the_price_of_kl_follows_its_target():
    made = agent(kl_target=1e-4, kl_coef=0.1, learning_rate=1e-2)
    made.learn(300)
    assert made.kl_coef > 0.1


def test_rewards_add_up_and_reward_models_take_part():
    model = RewardModel(world.model(), TOKENIZER, seed=0, n_normalize=0)
    made = agent(reward=[lambda prompt, completion: 1.0, model])
    completions = made.write(["a", "b a"])
    texts = zip(*completions.texts(TOKENIZER), strict=True)
    np.testing.assert_allclose(made.rewards(completions), [1 + model(*pair) for pair in texts], rtol=1e-5)


# SB3's tools


def test_sb3s_callbacks_play_the_task_token_by_token(tmp_path):
    made = agent()
    evaluation = EvalCallback(
        made.get_env(), eval_freq=2, n_eval_episodes=3, best_model_save_path=str(tmp_path), verbose=0
    )
    made.learn(200, callback=[evaluation, CheckpointCallback(2, str(tmp_path / "checkpoints"))])
    assert np.isfinite(evaluation.last_mean_reward)
    assert LanguagePPO.load(tmp_path / "best_model").generate(["a"])
    checkpoint = next((tmp_path / "checkpoints").glob("*_steps.zip"))
    assert LanguagePPO.load(checkpoint).num_timesteps == int(checkpoint.stem.split("_")[-2])


def test_played_token_by_token_the_policy_is_the_one_that_writes():
    made = agent(prompts=["a"])
    env = made.get_env()
    rewards = evaluate_policy(made, env, n_eval_episodes=300, deterministic=False, return_episode_rewards=True)[0]
    written = [text.count("b") for text in made.generate(["a"] * 300)]
    assert np.mean(rewards) == pytest.approx(np.mean(written), abs=5 * np.std(written) * (2 / 300) ** 0.5)
    best = made.generate(["a"], deterministic=True)[0]
    assert evaluate_policy(made, env, n_eval_episodes=1)[0] == best.count("b")


# The progress bar that SB3 uses announces itself as experimental.
@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_stop_callbacks_and_the_progress_bar_count_rightly(capfd):
    made = agent().learn(10_000, callback=StopTrainingOnMaxEpisodes(40), progress_bar=True)
    assert made.num_timesteps < 4 * 3 * 16 + 1
    assert f"{made.num_timesteps}/10,000" in capfd.readouterr().out.replace(" ", "")


def test_the_log_says_how_texts_and_the_kl_divergence_are(tmp_path):
    made = agent(LanguageRLOO, group_size=4, kl_coef=0.25, learning_rate=1e-2)
    made.set_logger(configure(str(tmp_path), ["json", "tensorboard"]))
    made.learn(150)
    made.logger.close()
    rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    last = rows[-1]
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "train/grad_norm", "train/kl_coef"} <= last.keys()
    assert last["rollout/objective"] == pytest.approx(last["rollout/reward_mean"] - 0.25 * last["rollout/sequence_kl"])
    assert rows[0]["rollout/sequence_kl"] == pytest.approx(0, abs=1e-6)
    assert last["rollout/sequence_kl"] > 1e-4
    assert 0 <= last["rollout/flat_groups"] <= 1
    assert 1 <= last["rollout/length_mean"] <= 4
    events = next(tmp_path.glob("events*")).read_bytes()
    assert b"samples/completions" in events


def test_the_kl_divergence_is_that_of_all_texts():
    made = agent(prompts=["a"], max_new_tokens=world.LONGEST, n_episodes=4096, learning_rate=1e-2, batch_size=None)
    made.learn(4096 * 3)
    texts = world.texts()
    log_p, log_reference = (scored.sum(dim=1).double() for scored in made.policy.score(texts)[:2])
    exact = float((log_p.exp() * (log_p - log_reference)).sum())
    drawn = made.write(["a"] * 4096)
    terms = made.policy.score(drawn).kl.sum(dim=1)
    assert float(terms.mean()) == pytest.approx(exact, abs=5 * float(terms.std()) / 64)
    assert exact > 1e-3


def test_the_entropy_is_that_of_real_tokens():
    made = agent(seed=3).learn(1, log_interval=None)
    texts = made.rollout_buffer.completions
    assert texts.lengths.min() < texts.lengths.max()
    entropies, model = [], world.model().requires_grad_(False)
    for tokens, mask in zip(texts.tokens, texts.mask, strict=True):
        n = int(mask[: texts.n_prompt].sum())
        row = tokens[mask][None]
        log_p = model(input_ids=row, attention_mask=th.ones_like(row)).logits.log_softmax(dim=-1)[0, n - 1 : -1]
        entropies.append(-(log_p.exp() * log_p).sum(dim=-1))
    assert made.logger.name_to_value["rollout/entropy"] == pytest.approx(float(th.cat(entropies).mean()), rel=1e-5)


# Models and tokenizers


def tokenizer_with(template, *special):
    made = word_tokenizer(world.WORDS, bos="a")
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[(word, world.WORDS.index(word)) for word in special]
    )
    return made


def test_rewards_are_told_the_prompts_as_they_were_given():
    seen = set()

    def reward(prompt, completion):
        seen.add(prompt)
        return 0.0

    made = agent(tokenizer=tokenizer_with("b $A", "b"), reward=reward, max_new_tokens=3)
    made.learn(1)
    evaluate_policy(made, made.get_env(), n_eval_episodes=8)
    best_of_n(world.model(), made.tokenizer, ["a", "b a"], reward, 2, max_new_tokens=3)
    assert seen == {"a", "b a"}
    assert made.rollout_buffer.completions.tokens[:, :3].unique(dim=0).tolist() == [[0, 3, 2], [3, 3, 2]]


def test_prompts_are_not_ended_by_tokenizers_that_end_texts():
    assert encode_prompts(tokenizer_with("$A <eos>", "<eos>"), ["a", "b a"]) == [[2], [3, 2]]


def test_parts_have_at_most_so_many_tokens():
    texts = padded([[2] * n for n in (10, 1, 3, 3, 2)], [[3] * n for n in (1, 10, 4, 4, 2)], 0)
    parts = list(texts.parts(25))
    assert sorted(th.cat(parts).tolist()) == [0, 1, 2, 3, 4]
    assert max(texts.take(rows).tokens.numel() for rows in parts) <= 25
    assert len(parts) < 5
    assert [len(rows) for rows in texts.parts(1)] == [1] * 5


@pytest.mark.parametrize(
    "number", [np.float32(0.5), th.tensor(0.5), th.tensor([0.5], requires_grad=True), np.ones(1) / 2]
)
def test_a_reward_may_be_any_kind_of_number(number):
    made = agent(reward=lambda prompt, completion: number).learn(1)
    assert made.rollout_buffer.scores.tolist() == [0.5] * 16


def test_a_reward_model_with_another_word_for_the_end_sees_the_end():
    class Judge:
        tokenizer = word_tokenizer(("<pad>", "</s>", "a", "b"), bos="a", eos="</s>")

        def scores(self, completions):
            raise AssertionError("the tokens are another vocabulary's")

        def __call__(self, prompt, completion):
            return float(completion.endswith("</s>")) + 2.0 * ("<eos>" in completion)

    made = agent(reward=Judge()).learn(1)
    ended = made.rollout_buffer.completions.ended(1).numpy()
    assert set(ended) == {True, False}
    np.testing.assert_array_equal(made.rollout_buffer.scores, ended)


def test_dropout_is_off():
    model = world.model()
    for module in model.modules():
        if isinstance(module, th.nn.Dropout):
            module.p = 0.5
    made = agent(model=model.train(), n_epochs=1, batch_size=None).learn(1, log_interval=None)
    assert made.logger.name_to_value["train/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert made.logger.name_to_value["train/grad_norm"] > 0
    direct = DirectPreference(model, TOKENIZER, n_epochs=1).fit([("a", "b <eos>", "a <eos>")])
    assert direct.history == pytest.approx([math.log(2)], abs=1e-6)


# Files


@every_algorithm
def test_training_goes_on_from_a_file_as_if_nothing_had_happened(algorithm, tmp_path):
    through = agent(algorithm).learn(200)
    half = agent(algorithm).learn(100)
    half.save(tmp_path / "half")
    files = {file.suffix for file in (tmp_path / "half").rglob("*") if file.is_file()}
    assert files <= {".json", ".safetensors", ".jinja"}
    loaded = algorithm.load(tmp_path / "half", prompts=half.prompts, reward=half.reward, device="cpu")
    assert th.equal(parameters(loaded), parameters(half))
    loaded.learn(200 - loaded.num_timesteps, reset_num_timesteps=False)
    assert loaded.num_timesteps == through.num_timesteps
    assert th.equal(parameters(loaded), parameters(through))


def test_a_file_is_a_model_for_transformers(tmp_path):
    made = agent(learning_rate=1e-2).learn(100)
    made.save(tmp_path / "aligned")
    model, tokenizer = (cls.from_pretrained(tmp_path / "aligned") for cls in (AutoModelForCausalLM, AutoTokenizer))
    texts = world.texts()
    np.testing.assert_allclose(
        world.log_probs(model, texts).detach(), made.policy.score(texts).log_prob.sum(dim=1), atol=1e-5
    )
    assert tokenizer("b a")["input_ids"] == [world.B, world.A]
    made.save(tmp_path / "aligned")  # again, over the older one
    again = LanguagePPO(tmp_path / "aligned", prompts=["a"], reward=made.reward, device="cpu", max_new_tokens=4)
    assert th.equal(again.policy.reference.lm_head.weight, made.policy.model.lm_head.weight)


def test_what_is_loaded_can_write_without_prompts_and_reward_and_be_told_others(tmp_path):
    made = agent(learning_rate=1e-2, kl_coef=0.3, n_epochs=2)
    made.save(tmp_path / "agent.zip")
    assert zipfile.is_zipfile(tmp_path / "agent.zip")
    loaded = LanguagePPO.load(tmp_path / "agent", kl_coef=0.7)
    assert (loaded.kl_coef, loaded.n_epochs, loaded.max_new_tokens) == (0.7, 2, 4)
    assert loaded.generate(["a"] * 3) == made.generate(["a"] * 3)
    with pytest.raises(ValueError, match=saying("`prompts`", "None")):
        loaded.learn(10)
    with pytest.raises(ValueError, match=saying("LanguagePPO", "LanguageRLOO")):
        LanguageRLOO.load(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"pg_agents\.json"):
        LanguagePPO.load(tmp_path)
    agent(learning_rate=lambda left: 1e-3 * left).save(tmp_path / "scheduled")
    with pytest.raises(ValueError, match="`learning_rate` was a function"):
        LanguagePPO.load(tmp_path / "scheduled")


def test_adapters_train_beside_a_model_that_stays(tmp_path):
    pytest.importorskip("peft")
    lora = {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    model = world.model()
    made = agent(model=model, lora=lora, learning_rate=1e-2)
    texts = world.texts()
    np.testing.assert_allclose(made.policy.score(texts).kl, 0, atol=1e-7)
    n_trained = sum(parameter.numel() for parameter in made.policy.trained)
    assert n_trained == 2 * (16 + 48) + 17  # A, B and the value head
    made.learn(150)
    after = made.policy.score(texts)
    assert after.kl.max() > 1e-6
    np.testing.assert_allclose(after.reference_log_prob.sum(dim=1), world.log_probs(model, texts).detach(), atol=1e-5)
    made.save(tmp_path / "adapter")
    loaded = LanguagePPO.load(tmp_path / "adapter", prompts=made.prompts, reward=made.reward, device="cpu")
    np.testing.assert_array_equal(loaded.policy.score(texts).log_prob, after.log_prob)
    for one in (made, loaded):
        one.learn(50, reset_num_timesteps=False)
    assert th.equal(parameters(loaded), parameters(made))


# Errors


class NoEnd:
    eos_token_id, pad_token_id, eos_token = None, 0, None


class NoPad:
    eos_token_id, pad_token_id, eos_token = 1, None, "<eos>"


class OnePad:
    eos_token_id = pad_token_id = 1
    eos_token = "<eos>"


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"prompts": []}, ValueError, saying("`prompts`", "empty")),
        ({"prompts": "a"}, ValueError, saying("`prompts`", "list", "'a'")),
        ({"prompts": ["a", ""]}, ValueError, saying("`prompts`", "''")),
        ({"prompts": ["a", "a cat"]}, ValueError, saying("`prompts`", "'a cat'", "'<pad>'")),
        ({"reward": "short"}, TypeError, saying("`reward`", "function", "'short'")),
        ({"tokenizer": NoEnd()}, ValueError, saying("`tokenizer`", "`eos_token`")),
        ({"tokenizer": NoPad()}, ValueError, saying("`tokenizer`", "`pad_token`")),
        ({"tokenizer": OnePad()}, ValueError, saying("`tokenizer`", "padding", "<eos>")),
        ({"max_new_tokens": 7}, ValueError, saying("`max_new_tokens`", "at most 6", "but is 7", "8 positions")),
        ({"reward": lambda prompt, completion: [1.0, 2.0]}, ValueError, saying("`reward`", "one number", "[1.0, 2.0]")),
        ({"reward": lambda prompt, completion: None}, ValueError, saying("`reward`", "one number", "None")),
        ({"reward": lambda prompt, completion: "3"}, ValueError, saying("`reward`", "one number", "'3'")),
        (
            {"reward": lambda prompt, completion: -math.inf},
            ValueError,
            saying("prompt 'a'", "'<eos>'", "finite", "inf"),
        ),
        ({"reward": []}, ValueError, saying("`reward`", "empty")),
        ({"reward": 3}, TypeError, saying("`reward`", "function", "3")),
        ({"kl_coef": -0.1}, ValueError, saying("`kl_coef`", "at least 0", "-0.1")),
        ({"kl_in": "los"}, ValueError, saying("`kl_in`", "'los'", "'loss'")),
        ({"kl_coef": 0, "kl_target": 1}, ValueError, saying("`kl_coef`", "above 0", "`kl_target`")),
        ({"kl_in": "loss"}, ValueError, saying("`kl_estimator`", "'k2'", "'k1'")),
        ({"n_episode": 3}, TypeError, saying("n_episode", "n_episodes")),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(arguments, error, said):
    with pytest.raises(error, match=said):
        agent(**arguments)


def test_a_reward_model_must_have_positions_for_the_longest_text(reward_model):
    with pytest.raises(ValueError, match=saying("`max_new_tokens`", "at most 6", "but is 10", "8 positions")):
        agent(model=world.model(n_positions=16), reward=reward_model, max_new_tokens=10)


@pytest.mark.parametrize("n", [0, -1, 1.5])
def test_completions_have_at_least_one_token(n):
    with pytest.raises(ValueError, match=saying("`max_new_tokens`", "at least 1" if n != 1.5 else "integer", str(n))):
        agent().generate(["a"], max_new_tokens=n)


def test_a_recurrent_model_is_refused():
    from transformers import MambaConfig, MambaForCausalLM  # which takes seconds

    config = MambaConfig(vocab_size=4, hidden_size=8, num_hidden_layers=1, state_size=4, pad_token_id=0, eos_token_id=1)
    with pytest.raises(ValueError, match=saying("`policy`", "token by token", "MambaForCausalLM")):
        agent(model=MambaForCausalLM(config))


def test_a_folder_of_16_bits_is_trained_with_32(tmp_path):
    world.model().to(th.bfloat16).save_pretrained(tmp_path)
    made = agent(model=tmp_path)
    assert {parameter.dtype for parameter in made.policy.parameters()} == {th.float32}


def test_the_critic_learns_returns():
    arguments = {"learning_rate": 1e-2, "kl_coef": 0.0, "n_episodes": 64, "gae_lambda": 1.0}
    made = agent(reward=lambda prompt, _: float(len(prompt)), **arguments).learn(5000, log_interval=None)
    assert made.logger.name_to_value["train/explained_variance"] > 0.5


def test_an_entropy_bonus_makes_texts_less_certain():
    entropies = {}
    for ent_coef in (-1.0, 0.0, 1.0):
        made = agent(ent_coef=ent_coef, reward=lambda prompt, _: 0.0, kl_coef=0.0, learning_rate=1e-2)
        entropies[ent_coef] = made.learn(600, log_interval=None).logger.name_to_value["rollout/entropy"]
    assert entropies[-1.0] < entropies[0.0] - 0.1 < entropies[1.0] - 0.2


def test_a_function_is_a_callback_beside_the_progress_bar():
    asked = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rich
        agent().learn(1, callback=lambda *_: asked.append(1) is None, progress_bar=True)
    assert asked == [1]


def test_groups_must_fill_an_update():
    with pytest.raises(ValueError, match=saying("`n_episodes`", "multiple of `group_size`", "5", "16")):
        agent(LanguageRLOO, group_size=5)


def test_a_folder_without_a_model_is_named():
    with pytest.raises(ValueError, match=saying("'gpt2'", "config.json", "Nothing is downloaded")):
        agent(model="gpt2")


def test_a_reward_that_is_no_number_names_its_text():
    made = agent(reward=lambda prompt, completion: math.nan if "b b" in completion else 0.0)
    with pytest.raises(ValueError, match=r"prompt '(b )?a' with the completion '.*b b.*' must be .*, but is nan"):
        made.learn(1000)


def test_a_loss_that_is_not_finite_leaves_the_parameters_as_they_were():
    made = agent(reward=lambda prompt, completion: 1e30, normalize_advantage=False)
    before = parameters(made)
    with pytest.raises(FloatingPointError, match=r"after \d+ tokens.*learning_rate"):
        made.learn(1000)
    assert th.isfinite(parameters(made)).all()
    assert th.equal(parameters(made), before)


def test_vocabularies_are_checked():
    with pytest.raises(ValueError, match=saying("`words`", "'a'")):
        word_tokenizer(["<pad>", "<bos>", "<eos>", "a", "a"])
    with pytest.raises(ValueError, match=saying("`bos`", "'<bos>'")):
        word_tokenizer(["<pad>", "<eos>", "a"])


# Learning from examples and preferences

PAIRS = [("a", "b b <eos>"), ("b", "a")] * 100


def test_supervised_fine_tuning_learns_completions_and_their_end():
    th.manual_seed(0)
    tuning = SupervisedFineTuning(
        small_gpt2(TOKENIZER, n_positions=8, width=16), TOKENIZER, learning_rate=1e-2, batch_size=8, seed=0
    )
    tuning.fit(PAIRS)
    assert tuning.history[-1].validation < 0.5 < tuning.history[0].train
    found = agent(LanguageREINFORCE, tuning).generate(["a", "b"], deterministic=True)
    assert found == ["b b <eos>", "a <eos>"]


def test_supervised_fine_tuning_stops_when_examples_held_out_get_worse_and_keeps_the_best():
    th.manual_seed(0)
    rng = np.random.default_rng(0)
    noise = [("a", " ".join(rng.choice(["a", "b"], size=5))) for _ in range(40)]
    tuning = SupervisedFineTuning(
        small_gpt2(TOKENIZER, n_positions=8, width=32),
        TOKENIZER,
        learning_rate=2e-2,
        n_epochs=60,
        validation=0.5,
        seed=0,
    ).fit(noise)
    losses = [losses.validation for losses in tuning.history]
    assert len(losses) < 60
    best = int(np.argmin(losses))
    assert best == len(losses) - 1 - tuning.patience


def preferences(n=400):
    """Of two random texts the one with more `b` is preferred, with probability σ(2 × difference)."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n):
        one, other = (" ".join([*rng.choice(["a", "b"], size=3), "<eos>"]) for _ in range(2))
        p = 1 / (1 + np.exp(-2 * (one.count("b") - other.count("b"))))
        found.append(("a", one, other) if rng.random() < p else ("a", other, one))
    return found


@pytest.fixture(scope="module")
def reward_model():
    return RewardModel(world.model(), TOKENIZER, learning_rate=1e-2, validation=0.25, max_new_tokens=4, seed=0).fit(
        preferences()
    )


def test_a_reward_model_learns_what_is_preferred(reward_model):
    texts = ["a a a <eos>", "a b a <eos>", "b b a <eos>", "b b b <eos>"]
    rewards = [reward_model("a", text) for text in texts]
    assert rewards == sorted(rewards)
    assert 0.7 < reward_model.accuracy <= 1
    predicted, observed = reward_model.calibration(4)
    assert (np.diff(predicted) >= 0).all()
    assert (predicted >= 0.5).all()
    np.testing.assert_allclose(observed.mean(), reward_model.accuracy)
    assert np.abs(observed - predicted).mean() < 0.2


def test_a_reward_model_is_normalised_on_the_reference(reward_model):
    made = agent(reward=reward_model, prompts=["a"])
    rewards = made.rewards(made.write(["a"] * 2000))
    assert rewards.mean() == pytest.approx(0, abs=5 / 1000**0.5)
    assert rewards.std() == pytest.approx(1, abs=0.15)


def test_a_reward_model_is_saved_and_loaded(reward_model, tmp_path):
    reward_model.save(tmp_path / "reward")
    loaded = RewardModel.load(tmp_path / "reward")
    assert loaded("a", "b a <eos>") == pytest.approx(reward_model("a", "b a <eos>"), abs=1e-6)
    assert loaded.accuracy == reward_model.accuracy
    agent().save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"reward\.json"):
        RewardModel.load(tmp_path / "agent")


def test_direct_preference_moves_towards_what_is_preferred_and_leaves_the_model():
    model = world.model()
    before = model.lm_head.weight.clone()
    made = DirectPreference(model, TOKENIZER, learning_rate=3e-3, seed=0).fit(preferences())
    assert made.history[-1] < made.history[0] <= np.log(2) + 0.05
    assert th.equal(model.lm_head.weight, before)
    th.manual_seed(0)
    writers = made.generate, agent(LanguageREINFORCE, model).generate
    n_b = [np.mean([text.count("b") for text in write(["a"] * 300, max_new_tokens=4)]) for write in writers]
    assert n_b[0] > n_b[1]


def test_the_best_of_n_has_the_largest_reward_and_its_known_kl_divergence():
    reward = lambda prompt, completion: float(completion.count("b"))  # noqa: E731
    found = best_of_n(world.model(), TOKENIZER, ["a"] * 500, reward, n=4, max_new_tokens=3, seed=0)
    assert [reward("a", text) for text in found.completions] == found.rewards.tolist()
    one = best_of_n(world.model(), TOKENIZER, ["a"] * 2000, reward, n=1, max_new_tokens=3, seed=1)
    expected = np.sort(one.rewards.reshape(500, 4), axis=1)[:, -1]
    assert found.rewards.mean() == pytest.approx(expected.mean(), abs=5 * expected.std() * (2 / 500) ** 0.5)
    assert (one.kl, found.kl) == (0, math.log(4) - 3 / 4)
