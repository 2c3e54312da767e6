"""Language models as files and with adapters, and what fits together: agents, reward models, environments."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th

pytest.importorskip("transformers")

import language as world
from prose import saying
from transformers import AutoModelForCausalLM, OPTConfig, OPTForCausalLM

from pg_agents.language import (
    DirectPreference,
    LanguagePPO,
    LanguageREINFORCE,
    LanguageRLOO,
    RewardModel,
    SupervisedFineTuning,
    best_of_n,
    word_tokenizer,
)
from pg_agents.language.models import between_libraries, evaluating

TOKENIZER = world.tokenizer()
TEXTS = world.texts()
PREFERENCES = [("a", "b b <eos>", "a <eos>"), ("a", "b <eos>", "a a <eos>")] * 20


def reward(prompt, completion):
    return float(completion.count("b"))


def agent(algorithm=LanguagePPO, model=None, **arguments):
    arguments = {
        "tokenizer": TOKENIZER,
        "prompts": ["a", "b a"],
        "reward": reward,
        "seed": 0,
        "device": "cpu",
        "max_new_tokens": 4,
        "n_episodes": 16,
        "batch_size": 8,
        "learning_rate": 1e-2,
        **arguments,
    }
    return algorithm(world.model() if model is None else model, **arguments)


def load(path, **arguments):
    return LanguagePPO.load(path, prompts=["a", "b a"], reward=reward, device="cpu", **arguments)


def parameters(agent):
    return th.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


def log_probs(model):
    return world.log_probs(model, TEXTS).detach().numpy()


def adapted(name="default"):
    """A model with an adapter that changes it."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, task_type="CAUSAL_LM", fan_in_fan_out=True, init_lora_weights=False)
    with between_libraries():
        return peft.get_peft_model(world.model(), config, adapter_name=name).eval()


# What `save` replaces


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_save_replaces_nothing_but_agents(tmp_path, is_folder):
    kept = tmp_path / "thesis" / "chapter.tex" if is_folder else tmp_path / "thesis"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("five years")
    with pytest.raises(ValueError, match=saying("`path`", "thesis", "chapter.tex" if is_folder else "a file")):
        agent().save(tmp_path / "thesis")
    assert kept.read_text() == "five years"
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # an empty folder, and an older agent
        agent().save(tmp_path / "empty")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty", "thesis"]
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(ValueError, match=saying("`path`", "folder.zip", "is a folder")):
        agent().save(tmp_path / "folder.zip")


# Adapters


@pytest.mark.parametrize("kind", ["folder", "zip", "fine-tuning", "reward"])
def test_what_cannot_be_written_to_its_end_leaves_what_there_was(tmp_path, kind):
    limits = pytest.importorskip("resource")
    path = tmp_path / ("agent.zip" if kind == "zip" else "agent")
    trained = agent()
    writers = {
        "fine-tuning": SupervisedFineTuning(world.model(), TOKENIZER),
        "reward": RewardModel(world.model(), TOKENIZER),
    }
    save = writers.get(kind, trained).save
    save(path)

    def files():
        return {found.relative_to(tmp_path): found.read_bytes() for found in tmp_path.rglob("*") if found.is_file()}

    old, before = files(), limits.getrlimit(limits.RLIMIT_FSIZE)
    for size in sorted({len(data) - 1 for data in old.values()}):
        limits.setrlimit(limits.RLIMIT_FSIZE, (size, before[1]))
        try:
            with pytest.raises(OSError, match=f"File too large.*{path.name}"):
                save(path)
        finally:
            limits.setrlimit(limits.RLIMIT_FSIZE, before)
        assert files() == old
    save(path)
    assert files().keys() == old.keys()


def test_a_model_with_an_adapter_is_its_own_reference_and_goes_on_from_a_file(tmp_path):
    model = adapted()
    assert np.abs(log_probs(model) - log_probs(world.model())).max() > 1e-2
    made = agent(model=model)
    score = made.policy.score(TEXTS)
    np.testing.assert_allclose(score.kl, 0, atol=1e-6)
    np.testing.assert_allclose(score.reference_log_prob.sum(dim=1), log_probs(model), atol=1e-5)
    n_trained = sum(parameter.numel() for parameter in made.policy.trained)
    assert n_trained == 2 * (16 + 48) + 17  # A, B and the value head
    made.learn(60)
    made.save(tmp_path / "tuned")
    loaded = load(tmp_path / "tuned")
    for one, other in zip(loaded.policy.score(TEXTS), made.policy.score(TEXTS), strict=True):
        np.testing.assert_array_equal(one, other)
    for one in (made, loaded):
        one.learn(50, reset_num_timesteps=False)
    assert th.equal(parameters(loaded), parameters(made))


def test_an_adapter_upon_an_adapter_leaves_the_model_as_it_was_given():
    model = adapted()
    made = agent(model=model, lora={"r": 2})
    np.testing.assert_allclose(made.policy.score(TEXTS).reference_log_prob.sum(dim=1), log_probs(model), atol=1e-5)


def test_adapters_of_other_names_are_found_again(tmp_path):
    made = agent(model=adapted("style")).learn(1)
    made.save(tmp_path / "tuned")
    assert th.equal(parameters(load(tmp_path / "tuned")), parameters(made))


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_what_is_written_with_an_adapter_is_a_whole_model(tmp_path, lora):
    made = agent(model=adapted() if lora is None else None, lora=lora).learn(60)
    made.save(tmp_path / "tuned")
    known = made.policy.score(TEXTS).log_prob.sum(dim=1)
    np.testing.assert_allclose(log_probs(AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")), known, atol=1e-5)
    again = agent(model=tmp_path / "tuned", tokenizer=None)
    np.testing.assert_allclose(again.policy.score(TEXTS).reference_log_prob.sum(dim=1), known, atol=1e-5)


def test_fine_tuning_and_preferences_take_models_with_adapters(tmp_path):
    peft = pytest.importorskip("peft")
    tuning = SupervisedFineTuning(adapted(), TOKENIZER, n_epochs=1, seed=0).fit([("a", "b b")] * 40)
    tuning.save(tmp_path / "tuned")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")
    np.testing.assert_allclose(log_probs(whole), log_probs(tuning.model), atol=1e-5)
    with between_libraries():
        gone_on = peft.PeftModel.from_pretrained(world.model(), tmp_path / "tuned" / "adapter").eval()
    np.testing.assert_allclose(log_probs(gone_on), log_probs(tuning.model), atol=1e-5)
    with pytest.raises(ValueError, match=saying("adapter only", "PeftModel.from_pretrained")):
        agent(model=tmp_path / "tuned" / "adapter")
    with pytest.raises(ValueError, match=saying("`policy`", "frozen", "is_trainable=True")):
        agent(model=gone_on)
    found = RewardModel(tuning, n_epochs=8, learning_rate=1e-2, n_normalize=64, max_new_tokens=4, seed=0)
    found.fit(PREFERENCES)
    assert found("a", "b b <eos>") > found("a", "a <eos>")
    assert found.std != 1
    assert DirectPreference(tuning, batch_size=8, seed=0).fit(PREFERENCES).history[-1] < np.log(2) - 1e-3


def test_low_rank_additions_warn_of_nothing_and_are_told_rightly():
    pytest.importorskip("peft")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agent(lora={"r": 8})
    assert not [str(warning.message) for warning in caught]
    with pytest.raises(TypeError, match=saying("`lora`", "LoraConfig", "3")):
        agent(lora=3)


# Reward models


def test_a_reward_model_knows_its_positions_before_any_work():
    made = RewardModel(world.model(), TOKENIZER, max_new_tokens=8)
    before = made("a", "b <eos>")
    with pytest.raises(ValueError, match=saying("`max_new_tokens`", "at most 7", "but is 8")):
        made.fit(PREFERENCES)
    assert made("a", "b <eos>") == before


def test_a_loaded_reward_model_is_there_to_give_rewards(tmp_path):
    RewardModel(world.model(), TOKENIZER).save(tmp_path)
    loaded = RewardModel.load(tmp_path)
    with pytest.raises(ValueError, match=saying("`calibration`", "`fit`")):
        loaded.calibration()
    before = loaded("a", "b <eos>")
    with pytest.raises(ValueError, match=saying("`fit`", "RewardModel")):
        loaded.fit(PREFERENCES)
    assert loaded("a", "b <eos>") == before


# What fits together


def test_more_tokens_than_embeddings_are_refused_before_any_work():
    large = word_tokenizer([*world.WORDS, "c"], bos="a")
    for made in (SupervisedFineTuning, RewardModel, DirectPreference, agent):
        arguments = {"model": world.model(), "tokenizer": large} if made is agent else {}
        with pytest.raises(ValueError, match=saying("`tokenizer`", "4", "5", "model.resize_token_embeddings")):
            made(**arguments) if arguments else made(world.model(), large)
    with pytest.raises(ValueError, match="`tokenizer`"):
        best_of_n(world.model(), large, ["a"], reward)


def test_heads_are_as_wide_as_what_the_model_predicts_from(tmp_path):
    th.manual_seed(0)
    config = OPTConfig(
        vocab_size=4,
        hidden_size=16,
        word_embed_proj_dim=8,  # as OPT-350m has it
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        pad_token_id=world.PAD,
        bos_token_id=world.A,
        eos_token_id=world.EOS,
        do_layer_norm_before=False,
    )
    model = OPTForCausalLM(config)
    made = agent(model=model).learn(1)
    assert made.policy.value_head.in_features == 8
    found = RewardModel(model, TOKENIZER, n_epochs=1, n_normalize=0, seed=0).fit(PREFERENCES)
    found.save(tmp_path)
    assert RewardModel.load(tmp_path)("a", "b <eos>") == pytest.approx(found("a", "b <eos>"), abs=1e-6)


def test_evaluating_leaves_every_part_in_its_mode():
    model = world.model().train()
    model.transformer.h[0].eval()
    before = [part.training for part in model.modules()]
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == before


# Files


def test_ordinary_numbers_and_paths_are_saved(tmp_path):
    made = agent(tensorboard_log=tmp_path / "runs", kl_coef=np.float32(0.5), n_episodes=np.int64(16)).learn(1)
    made.save(tmp_path / "agent")
    loaded = load(tmp_path / "agent")
    assert (loaded.tensorboard_log, loaded.kl_coef, loaded.n_episodes) == (str(tmp_path / "runs"), 0.5, 16)


def test_the_random_state_is_what_the_next_draws_follow_from():
    one, other = agent(), agent(seed=7)
    one.generate(["a"])
    one._next_prompts()
    other.set_random_state(one.random_state())
    assert other.generate(["a"] * 20) == one.generate(["a"] * 20)
    assert all(th.equal(value, one.random_state()[name]) for name, value in other.random_state().items())


def test_files_that_hold_no_agent_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=saying("`path`", "nowhere")):
        LanguagePPO.load(tmp_path / "nowhere")
    (tmp_path / "torn.zip").write_bytes(b"PK\3\4 no more")
    with pytest.raises(ValueError, match=saying("`path`", "torn.zip")):
        LanguagePPO.load(tmp_path / "torn")
    made = agent()
    made.save(tmp_path / "agent.zip")
    content = bytearray((tmp_path / "agent.zip").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "agent.zip").write_bytes(content)
    with pytest.raises(ValueError, match=saying("`path`", "agent.zip", "CRC")):
        LanguagePPO.load(tmp_path / "agent.zip")


def test_a_class_loads_files_whose_arguments_it_takes(tmp_path):
    class Mine(LanguagePPO):
        clip_range: float = 0.1

    agent(clip_range=0.3).save(tmp_path / "ppo")
    assert Mine.load(tmp_path / "ppo").clip_range == 0.3
    agent(LanguageRLOO).save(tmp_path / "rloo")
    with pytest.raises(ValueError, match=saying("LanguageRLOO", "LanguageREINFORCE", "group_size")):
        LanguageREINFORCE.load(tmp_path / "rloo")


def test_sb3s_arguments_of_files_mean_what_they_do_there(tmp_path, capsys):
    made = agent(learning_rate=lambda left: 1e-3 * left)
    made.save(tmp_path / "agent")
    loaded = LanguagePPO.load(tmp_path / "agent", custom_objects={"learning_rate": 0.25}, print_system_info=True)
    assert loaded.learning_rate == 0.25
    assert "Stable-Baselines3" in capsys.readouterr().out
    with pytest.raises(ValueError, match=saying("`force_reset`", "True")):
        LanguagePPO.load(tmp_path / "agent", force_reset=False)
    for name in ("exclude", "include"):
        with pytest.raises(ValueError, match=saying(f"`{name}`", "None", "'policy'")):
            made.save(tmp_path / "agent", **{name: ["policy"]})


def test_the_window_of_the_statistics_is_saved(tmp_path):
    made = agent().learn(60)
    assert len(made.ep_info_buffer) >= 32
    made.save(tmp_path / "agent")
    loaded = load(tmp_path / "agent")
    assert list(loaded.ep_info_buffer) == list(made.ep_info_buffer)
    assert loaded.ep_info_buffer.maxlen == 100


# Playing


class TextWorld:
    """An environment that states a text task; everything else of one is not asked for."""

    def __init__(self):
        self.text_task = SimpleNamespace(
            words=world.WORDS,
            special={},
            prompts=["b b", "b a b"],
            max_new_tokens=3,
            reward=lambda prompt, completion: 7.0,
            corpus=lambda n, generator: [],
        )

    def get_wrapper_attr(self, name):
        return getattr(self, name)


def test_an_environment_that_is_set_is_trained_on():
    made = agent().learn(1)
    made.set_env(TextWorld())
    seen = []
    made.learn(1, callback=lambda local, _: seen.extend(local["infos"]))
    assert {(info["prompt"], info["episode"]["r"]) for info in seen} == {("b b", 7.0), ("b a b", 7.0)}
    assert max(info["episode"]["l"] for info in seen) <= 3
    env = made.get_env()
    assert env.reset().shape == (1, 6)
    assert made.predict(env.reset())[0].shape == (1,)
    for other in ("CartPole-v1", agent().get_env()):
        with pytest.raises(ValueError, match=saying("`env`", "`text_task`")):
            made.set_env(other)
    with pytest.raises(ValueError, match="`force_reset`"):
        made.set_env(TextWorld(), force_reset=False)


def test_playing_one_agent_does_not_disturb_another():
    observation = agent().get_env().reset()
    found = []
    for disturbs in (False, True):
        one, other = agent(), agent(seed=5)
        for _ in range(8):
            found.append(int(one.predict(observation, deterministic=False)[0][0]))
            if disturbs:
                other.predict(observation, deterministic=False)
                th.rand(1)
    assert found[:8] == found[8:]
    assert len(set(found)) > 1


def test_padding_within_a_text_is_a_token():
    policy = agent(prompts=["a"]).policy
    rows = [[world.A, world.PAD, *rest, last] for last in (world.B, world.A) for rest in ([], [world.B], [world.PAD])]
    with th.no_grad():
        expected = [int(policy.model(input_ids=th.tensor([row])).logits[0, -1].argmax()) for row in rows]
    padded = th.tensor([row + [world.PAD] * (5 - len(row)) for row in rows])
    assert policy(padded, deterministic=True).tolist() == expected
