"""Language models from the command line: training, replay, search spaces, benchmark and report."""

import os
import re
import subprocess
import sys

import numpy as np
import optuna
import pytest
import torch as th

pytest.importorskip("transformers")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pg_agents import make, registry
from pg_agents.envs.text import text_task
from pg_agents.language import LanguagePPO
from pg_agents.language.material import fine_tuned
from pg_envs import reviews
from pg_zoo.cli import main
from pg_zoo.commands.enjoy import enjoy
from pg_zoo.options import parse
from pg_zoo.pages.report import write_report
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.grid import run_grid
from pg_zoo.runs.training import resolved, run_cell
from pg_zoo.tuning.spaces import search_space

ENV = "pg/Reviews-v0"
ALGORITHMS = ["language_ppo", "language_reinforce", "language_rloo", "language_grpo"]
TINY = {"n_examples": 64, "n_episodes": 16, "batch_size": 16, "n_epochs": 1}


def tiny(algo="language_ppo", **arguments):
    return make(algo, "small_gpt2", env=ENV, device="cpu", **{"seed": 0, **TINY, **arguments})


def weights(agent):
    return th.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


def run(*argv):
    assert main([*argv]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    argv = ["train", "--algo", "language_ppo", "--env", ENV, "-n", "900", "--seed", "3", "--device", "cpu"]
    argv += ["-f", str(folder / "logs"), "-tb", str(folder / "runs"), "--verbose", "0"]
    argv += ["--eval-freq", "300", "--eval-episodes", "2", "--save-freq", "500", "--hyperparams"]
    run(*argv, *(f"{name}:{value}" for name, value in TINY.items()))
    return folder


def test_a_training_is_evaluated_and_saved_after_so_many_tokens(trained):
    folder = trained / "logs/language_ppo/pg-Reviews-v0_1"
    with np.load(folder / "evaluations.npz") as evaluations:
        timesteps = evaluations["timesteps"]
    # A batch has 16 completions of 1 to 24 tokens: each evaluation is the first at or above another multiple of 300.
    assert len(timesteps) in (2, 3)
    assert (np.diff([0, *timesteps // 300]) >= 1).all()
    assert (timesteps % 300 < 16 * 24).all()
    assert {path.name for path in folder.glob("*.zip")} >= {"best_model.zip", "pg-Reviews-v0.zip"}
    saved = sorted(int(re.findall(r"\d+", path.name)[0]) for path in folder.glob("rl_model_*_steps.zip"))
    assert [step // 500 for step in saved] in ([1], [1, 2])


def test_tensorboard_has_completions_and_evaluations(trained):
    (log,) = (trained / "runs").rglob("events.out.tfevents.*")
    tags = EventAccumulator(str(log.parent)).Reload().Tags()
    assert "samples/completions/text_summary" in tags["tensors"]
    assert {"eval/mean_reward", "rollout/objective"} <= {*tags["scalars"]}


@pytest.mark.parametrize("which", [[], ["--load-best"]])
def test_a_replay_prints_texts_with_their_rewards(trained, which, capsys):
    argv = ["enjoy", "--algo", "language_ppo", "--env", ENV, "-f", str(trained / "logs"), "-n", "80", "--no-render"]
    enjoy(parse([*argv, *which]))
    shown = re.findall(r"^Episode \d+: reward (\S+), length (\d+): (<bos> \w+ :) (.*)$", capsys.readouterr().out, re.M)
    assert len(shown) >= 80 // reviews.MAX_LENGTH
    for reward, length, prompt, completion in shown:
        assert (float(reward), int(length)) == (reviews.gold_reward(prompt, completion), len(completion.split()))


def test_a_training_goes_on_with_the_parameters_that_it_had(trained):
    before = trained / "logs/language_ppo/pg-Reviews-v0_1/pg-Reviews-v0.zip"
    argv = ["train", "--algo", "language_ppo", "--env", ENV, "-n", "1", "--seed", "4", "-f", str(trained / "on")]
    argv += ["--device", "cpu", "--verbose", "0", "--eval-freq", "-1", "-i", str(before)]
    run(*argv, "--hyperparams", "learning_rate:0", *(f"{name}:{value}" for name, value in TINY.items()))
    after = trained / "on/language_ppo/pg-Reviews-v0_1/pg-Reviews-v0.zip"
    one, other = (LanguagePPO.load(path, device="cpu") for path in (before, after))
    assert th.equal(weights(one), weights(other))


def test_an_agent_that_was_loaded_without_its_prompts_reads_the_texts_of_its_task(trained):
    path = trained / "logs/language_ppo/pg-Reviews-v0_1/pg-Reviews-v0.zip"
    texts = np.zeros((2, 27), dtype=np.int64)
    texts[:, :3] = [[reviews.WORDS.index(word) for word in prompt.split()] for prompt in reviews.PROMPTS[:2]]
    with_task, without = LanguagePPO.load(path, env=ENV, device="cpu"), LanguagePPO.load(path, device="cpu")
    expected, _ = with_task.predict(texts, deterministic=True)
    for observation in (texts, texts[:, :20]):  # padded as in the environment, and less
        assert np.array_equal(without.predict(observation, deterministic=True)[0], expected)


def test_a_folder_is_a_policy_and_no_class(tmp_path):
    sft = fine_tuned(text_task(ENV), 0, 64)
    folder = tmp_path / "sft.v1"
    sft.model.save_pretrained(folder)
    sft.tokenizer.save_pretrained(folder)
    cell = Cell("language_rloo", ENV, 5, {"n_timesteps": 1, "policy": str(folder), "learning_rate": 0.0, **TINY})
    run_cell(cell, tmp_path / "cell")
    agent = make("language_rloo", str(folder), env=ENV, device="cpu")
    assert th.equal(weights(agent), weights(tiny("language_rloo")))


def test_fine_tuning_is_done_once_for_a_task_a_seed_and_a_size():
    task = text_task(ENV)
    first = fine_tuned(task, 0, 64)
    before = {name: value.clone() for name, value in first.model.state_dict().items()}
    tiny().learn(100)
    again = fine_tuned(text_task(ENV), 0, 64)
    assert again is first
    assert all(th.equal(value, before[name]) for name, value in again.model.state_dict().items())
    for other in (fine_tuned(task, 1, 64), fine_tuned(task, 0, 65), fine_tuned(task, None, 64)):
        assert not th.equal(other.model.lm_head.weight, first.model.lm_head.weight)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_what_a_search_space_proposes_is_accepted(algo):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, _ = search_space(algo)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(8):
        hyperparams = space(study.ask(), None, None)
        assert not {"n_timesteps", "policy", "kl_coef"} & {*hyperparams}  # the price is the task's
        resolved(Cell(algo, ENV, 0, {"n_timesteps": 100, "n_examples": 64, **hyperparams}))


def test_without_an_entry_the_policy_is_the_only_one_there_is():
    cell = resolved(Cell("language_grpo", ENV, 0, {"n_timesteps": 100, "n_examples": 64}))
    assert cell.hyperparams["policy"] == "small_gpt2"


def test_a_benchmark_of_two_algorithms_has_a_report_that_says_what_is_maximised(tmp_path):
    def here(cells, folder, jobs):
        for cell in cells:
            run_cell(cell, folder / cell.path)
            yield cell, None

    hyperparams = {"n_timesteps": 300, "policy": "small_gpt2", **TINY}
    cells = [
        Cell(algo, ENV, seed, hyperparams, eval_points=2, eval_episodes=2, final_episodes=4, keep_agent=True)
        for seed in range(2)
        for algo in ("language_reinforce", "language_rloo")
    ]
    assert run_grid(cells, tmp_path, backend=here) == []
    write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    known = reviews.optimum(0.1)
    assert f"The largest J is {known.objective:.4g}, " in report
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in report.splitlines() if "(known)" in line]
    assert {name: score for name, _, score, *_ in rows} == {
        "random (known)": "-4.237",
        "reference (known)": f"{reviews.optimum(np.inf).reward:.4g}",
        "optimal (known)": f"{known.reward:.4g}",
    }
    assert registry.algorithm("language_rloo").load(tmp_path / cells[1].path / "agent.zip").num_timesteps >= 300


def test_other_environments_are_refused_by_name(capsys):
    argv = ["train", "--algo", "language_ppo", "--env", "CartPole-v1", "-f", "unused"]
    assert main(argv) == 2
    assert capsys.readouterr().err == (
        "pg-zoo: error: `env` must state a `text_task`, as pg/Reviews-v0 does, but is 'CartPole-v1'.\n"
    )


def test_registered_language_models_import_none_of_their_packages():
    code = (
        "import sys; from pg_agents import registry; "
        "print(len([registry.algorithm(name) for name in registry.plugins(registry.ALGORITHMS)]), "
        "*{'transformers', 'tokenizers', 'peft'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == [str(len(registry.plugins(registry.ALGORITHMS)))]


def test_without_the_extra_one_line_says_what_to_install_and_all_else_works():
    code = """
import sys
sys.modules["transformers"] = None  # as if it were not installed
import pg_agents
from pg_zoo.cli import main
try:
    pg_agents.make("language_ppo", "small_gpt2", env="pg/Reviews-v0")
except pg_agents.registry.PluginError as error:
    print(error, file=sys.stderr)
assert main(["train", "--algo", "language_ppo", "--env", "pg/Reviews-v0"]) == 2
assert main(["list"]) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ, "COLUMNS": "250"}
    )
    needs = 'language models need the extra `language`: pip install "pg-agents[language]"'
    assert done.stderr.splitlines() == [f"language_ppo: {needs}", f"pg-zoo: error: language_ppo: {needs}"]
    for algo in ALGORITHMS:
        assert re.search(rf"{algo} +Language\w+ +pg-agents \S+; {re.escape(needs)}", done.stdout)
    assert re.search(r" ppo +PPO +pg-agents", done.stdout)
