"""`pg-zoo crosscheck` says "equal" of what is SB3's, and finds what is not."""

import json
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from prose import says

import pg_agents
from pg_agents import natural
from pg_agents.agent import PolicyGradient
from pg_zoo.cli import main
from pg_zoo.commands import crosscheck
from pg_zoo.crosscheck import parameters
from pg_zoo.crosscheck.scores import ScoreCheck, compare_scores
from pg_zoo.errors import UserError
from pg_zoo.evidence.entries import Entry
from pg_zoo.lookup import find_env
from pg_zoo.options import parse
from pg_zoo.pages.crosscheck import Row, document, tallies
from pg_zoo.results import storage
from pg_zoo.results.statistics import Equivalence
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.grid import run_grid
from pg_zoo.runs.training import run_cell

PPO = {"n_timesteps": 256, "n_envs": 2, "n_steps": 32, "batch_size": 32, "n_epochs": 2, "policy": "MlpPolicy"}
TRPO = {"n_timesteps": 256, "n_envs": 2, "n_steps": 32, "batch_size": 32, "n_critic_updates": 2, "policy": "MlpPolicy"}
A2C = {"n_timesteps": 160, "n_envs": 2, "n_steps": 8, "policy": "MlpPolicy"}


def cell(algo="ppo", env="CartPole-v1", **hyperparams):
    find_env(env)
    return Cell(algo, env, 0, {**{"ppo": PPO, "a2c": A2C, "trpo": TRPO}[algo], **hyperparams}, "here")


@pytest.mark.parametrize(
    "hyperparams",
    [
        {},
        {"learning_rate": "lin_0.01", "ent_coef": 0.01},
        {"normalize": True, "gamma": 0.9},
        {"normalize": "dict(norm_obs=False, norm_reward=True)"},
        {"policy_kwargs": "dict(net_arch=[8], activation_fn=nn.ReLU, ortho_init=False)"},
        {"use_sde": True, "sde_sample_freq": 4, "env": "Pendulum-v1", "n_steps": 64},
        {"env_wrapper": [{"rl_zoo3.wrappers.HistoryWrapper": {"horizon": 2}}], "env": "MountainCarContinuous-v0"},
        {"frame_stack": 2},
        {"env": "pg/RPSMatch-v0", "env_kwargs": {"opponent": "pattern", "n_rounds": 7}},
    ],
    ids=str,
)
@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_an_entry_of_any_kind_is_compared(algo, hyperparams):
    one = cell(algo, **hyperparams)
    found = parameters.compare_parameters(one, 2)
    assert str(found) == "equal"
    # All of this short training, because it ends before 5000 steps.
    assert found.updates == np.ceil(one.n_timesteps / (one.hyperparams["n_steps"] * 2))


@pytest.mark.parametrize(
    "hyperparams",
    [{"learning_rate": "lin_0.01", "normalize": True}, {"env": "Pendulum-v1", "use_sde": True, "target_kl": 0.03}],
    ids=str,
)
def test_trpo_is_compared_with_sb3_contribs(hyperparams):
    assert parameters.counterpart(cell("trpo")).algo == "contrib/trpo"
    assert str(parameters.compare_parameters(cell("trpo", **hyperparams), 2)) == "equal"
    assert says(str(parameters.compare_parameters(cell("trpo", step_size=0.1), 2)), "cannot be compared", "step_size")


def test_a_broken_trpo_is_found(monkeypatch):
    search = natural.line_search
    monkeypatch.setattr(natural, "line_search", lambda accepts, trials, factor: search(accepts, trials, 0.9 * factor))
    # The first trials are too long.
    found = parameters.compare_parameters(cell("trpo", target_kl=0.5, cg_damping=1e-5), 2)
    assert found.contradicts


def test_as_many_updates_are_compared_as_were_asked_for(monkeypatch):
    monkeypatch.setattr(parameters, "MIN_STEPS", 100)
    assert parameters.compare_parameters(cell("ppo"), 3).updates == 3
    assert parameters.compare_parameters(cell("ppo"), 1).updates == 2  # 64 steps are less than 100
    assert parameters.compare_parameters(cell("ppo", n_timesteps=10_000), 5).updates == 5


def one_epoch_less(monkeypatch):
    train = PolicyGradient.train
    monkeypatch.setattr(PolicyGradient, "train", lambda self: (setattr(self, "n_epochs", 1), train(self)))


def other_lambda(monkeypatch):
    estimate = PolicyGradient.estimate
    monkeypatch.setattr(
        PolicyGradient, "estimate", lambda self, rollout: (setattr(self, "gae_lambda", 0.5), estimate(self, rollout))[1]
    )


def slightly_other_learning_rate(monkeypatch):
    update = PolicyGradient._update_learning_rate

    def broken(self, optimizer):
        update(self, optimizer)
        optimizer.param_groups[0]["lr"] *= 1 + 1e-6

    monkeypatch.setattr(PolicyGradient, "_update_learning_rate", broken)


def other_clip_range(monkeypatch):
    coefficient = pg_agents.PPO.coefficient

    def broken(self, name):
        return 0.01 if name == "clip_range" else coefficient(self, name)

    monkeypatch.setattr(pg_agents.PPO, "coefficient", broken)


@pytest.mark.parametrize("fault", [one_epoch_less, other_lambda, slightly_other_learning_rate, other_clip_range])
def test_a_broken_ppo_is_found(fault, monkeypatch):
    fault(monkeypatch)
    found = parameters.compare_parameters(cell(learning_rate=0.01), 2)
    assert found.contradicts
    assert str(found).startswith("**different**: up to ")


def test_other_statistics_of_the_normalisation_are_found(monkeypatch):
    learnt = parameters._learnt

    def shifted(one, updates):
        arrays, done = learnt(one, updates)
        if one.algo == "ppo":
            assert {"normalisation.returns.var", "normalisation..mean", "optimizer.0.exp_avg"} <= set(arrays)
            arrays["normalisation..mean"] = np.nextafter(arrays["normalisation..mean"], 9)
        return arrays, done

    monkeypatch.setattr(parameters, "_learnt", shifted)
    assert set(parameters.compare_parameters(cell(normalize=True), 2).differences) == {"normalisation..mean"}


@pytest.mark.parametrize(
    ("hyperparams", "named"),
    [
        ({"kl_target": 0.01}, "kl_target"),
        ({"kl_coef": 0.1, "kl_target": 0.01}, "kl_coef, kl_target"),
        ({"ent_coef": "lin_0.01"}, "ent_coef"),
        ({"policy_kwargs": {"state_dependent_std": True}, "env": "Pendulum-v1"}, "state_dependent_std"),
    ],
    ids=str,
)
def test_what_sb3_does_not_have_is_named(hyperparams, named):
    found = parameters.compare_parameters(cell(**hyperparams), 2)
    assert str(found).startswith("cannot be compared: ")
    assert named in str(found)
    assert not found.contradicts


@pytest.fixture
def check(tmp_path, monkeypatch):
    """A function that runs the command on entries of its own, in this process, and returns status and page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(crosscheck, "in_order", lambda function, tasks, jobs: (function(*task) for task in tasks))

    def here(cells, folder, jobs):
        for one in cells:
            run_cell(one, folder / one.path)
            yield one, None

    monkeypatch.setattr(crosscheck, "run_grid", partial(run_grid, backend=here))

    def check(entries, *options):
        own = [Entry(*one, tmp_path) for one in entries]
        monkeypatch.setattr(crosscheck, "entries", lambda: own)
        status = main(["crosscheck", "--jobs", "1", *options])
        page = Path("runs/crosscheck/crosscheck.md")
        return status, page.read_text() if page.is_file() else ""

    return check


def rows_of(page):
    """The cells of each table's rows, without the heads."""
    tables = [[line for line in part.splitlines() if line.startswith("|")] for part in page.split("\n## ")]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]] for table in tables if table]


def test_an_entry_that_fails_does_not_stop_the_others(check, capsys):
    entries = [("ppo", "CartPole-v1", {**PPO, "gamma": 2}), ("a2c", "CartPole-v1", A2C), ("a2c", "No-v0", A2C)]
    status, page = check(entries, "--seeds", "0")
    assert status == 1
    ((failed, equal, missing),) = rows_of(page)
    assert failed[:2] == ["CartPole-v1", "ppo"]
    assert says(page, "exit status", 1)
    assert "**failed**" in failed[3]
    assert "`gamma` must be" in failed[3]
    assert equal == ["CartPole-v1", "a2c", "10", "equal"]
    assert "'No-v0'" in missing[3]
    out = capsys.readouterr().out
    assert says(out, "a2c", "CartPole-v1", "equal")
    assert says(out.splitlines()[-2], "Parameters", "equal 1", "different 0", "failed 2")


def die(entry, updates, gym_packages):
    os._exit(3)


def test_a_process_that_dies_is_a_row(monkeypatch, tmp_path):
    monkeypatch.setattr(crosscheck, "_examine", die)
    entry = Entry("a2c", "CartPole-v1", A2C, tmp_path)
    failed = parameters.ParameterCheck(reason="**failed**: its process ended with status 3", failed=True)
    options = parse(["crosscheck", "--updates", "1", "--jobs", "1"])
    assert list(crosscheck._parameters([entry], options)) == [(entry, None, failed)]


def test_scores_are_compared_and_stored(check, capsys):
    options = ["--seeds", "2", "--max-steps", "64", "--final-episodes", "3", "--margin", "1"]
    status, page = check([("ppo", "CartPole-v1", PPO)], *options)
    assert status == 0
    assert says(capsys.readouterr().out.splitlines()[-3], "Parameters", "equal 1", "different 0")
    ((parameters,), (scores,)) = rows_of(page)
    assert parameters[3] == "equal"
    stored = sorted(Path("runs/crosscheck/cells").glob("*/CartPole-v1/*/cell.json"))
    read = [json.loads(path.read_text()) for path in stored]
    assert [one["n_timesteps"] for one in read] == [64, 64, 0, 64, 64]
    assert [one["options"]["final_episodes"] for one in read] == [3, 3, 100, 3, 3]  # random: what the margin rests on
    assert says(page, "mean return", "3 episodes")
    ours, random, theirs = (
        [one["score"] for one in read if one["algo"] == algo] for algo in ("ppo", "random", "sb3/ppo")
    )
    assert scores[:3] == ["CartPole-v1", "ppo", "64"]
    assert scores[3] == f"{np.mean(ours):.2f} ± {np.std(ours, ddof=1):.2f}"
    assert scores[4] == f"{np.mean(theirs):.2f} ± {np.std(theirs, ddof=1):.2f}"
    assert scores[6] == f"{475 - random[0]:.1f} (solved)"
    before = [path.stat().st_mtime_ns for path in stored]
    check([("ppo", "CartPole-v1", PPO)], *options)
    assert before == [path.stat().st_mtime_ns for path in stored]


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict", "contradicts"),
    [
        # 0.1 of the way from 25 to the 475 at which CartPole is solved: 45.
        ([30, 30, 30], [69, 69, 69], "equivalent, but neither beats random by more than the margin", False),
        ([30, 30, 30], [71, 71, 71], "equivalent", False),
        ([500, 500, 500], [500, 500, 500], "equivalent", False),
        ([500, 500, 500], [456, 456, 456], "equivalent", False),
        ([500, 500, 500], [454, 454, 454], "**different**", True),
        ([100, 300, 500], [100, 300, 500], "not shown with 3 seeds", False),
        ([500, 500], [500, 500, 500], "**failed trainings: 1**", True),
    ],
)
def test_stored_scores_have_a_verdict(ours, theirs, verdict, contradicts, tmp_path):
    store(tmp_path, ours, theirs)
    found = compare_scores(cell(), tmp_path, 3, 100_000, 0.1)
    assert (found.verdict, found.contradicts) == (verdict, contradicts)
    if found.result:
        assert (found.result.margin, found.speedup, found.steps, found.engine) == (45, 6, 256, "mlp")


def test_output_and_page_tell_how_many_are_shown_and_how_many_are_not():
    def scores(difference, half, failed=0):
        result = Equivalence(difference, difference - half, difference + half, margin=1.0, n=3)
        return ScoreCheck([0.0] * 3, [0.0] * 3, 10, result=None if half is None else result, failed=failed)

    entry, equal = Entry("ppo", "CartPole-v1", PPO, Path()), parameters.ParameterCheck(3, {})
    rows = [
        Row(entry, equal, one)
        for one in (scores(0, 0.5), scores(0, 0.9), scores(0, 1.5), scores(-1, 0.5), scores(0, 2), scores(-3, 1))
    ]
    rows += [
        Row(entry, equal, ScoreCheck([0.0] * 2, [0.0] * 3, 10, failed=1)),
        Row(entry, equal, ScoreCheck([0.0] * 3, [0.0] * 3, 10)),
        Row(entry, parameters.ParameterCheck(3, {"x": 0.1})),
        Row(entry, parameters.ParameterCheck(reason="SB3 has no y")),
    ]
    said = [
        "Parameters: equal 8, different 1, not compared 1",
        "Scores: equivalent 2, not shown 3, different 1, no margin 1, failed 1",
    ]
    assert tallies(rows) == said
    page = document(rows, SimpleNamespace(updates=3, seeds=3, max_steps=10, final_episodes=7, margin=0.1))
    assert all(f"\n**{line}.**\n" in page for line in said)
    # That something is not shown contradicts nothing.
    assert [row.contradicts for row in rows] == [False] * 5 + [True, True, False, True, False]


def test_the_help_says_what_the_exit_status_means(capsys):
    with pytest.raises(SystemExit):
        main(["crosscheck", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "It does not say that all scores are shown to be equivalent" in out


def test_a_page_that_cannot_be_written_is_one_line_that_names_the_option(check, capsys):
    Path("file").touch()
    assert check([("a2c", "CartPole-v1", A2C)], "--seeds", "0", "--write", "file/page.md")[0] == 2
    assert says(capsys.readouterr().err, "pg-zoo: error: ", "--write", "file", "File exists")
    Path("runs/crosscheck/crosscheck.md").mkdir()
    assert check([("a2c", "CartPole-v1", A2C)], "--seeds", "0")[0] == 2
    assert says(capsys.readouterr().err, "pg-zoo: error: ", "-o/--output", "runs/crosscheck", "Is a directory")


def test_scores_of_another_version_prove_nothing(tmp_path):
    store(tmp_path, [500, 500], [500, 500], torch_version="1.0")
    with pytest.raises(UserError, match="has scores made with another version of torch: choose another -o"):
        compare_scores(cell(), tmp_path, 2, 100_000, 0.1)


def store(tmp_path, ours, theirs, torch_version=th.__version__):
    for algo, scores, speed in (("ppo", ours, 9000), ("sb3/ppo", theirs, 1500), ("random", [25], 0)):
        # Seed 3 is of some other run in the same folder.
        for seed, score in enumerate([*scores, *[9999] * (len(scores) == 3)]):
            # The rest of what a cell tells does not matter here.
            path = tmp_path / "cells" / algo.replace("/", "-") / "CartPole-v1" / f"seed_{seed}/cell.json"
            path.parent.mkdir(parents=True)
            record = dict.fromkeys(storage._OF_A_CELL) | {"format": 1, "algo": algo, "env": "CartPole-v1"}
            record |= {"versions": {"torch": torch_version}, "engine": "mlp"}
            path.write_text(json.dumps({**record, "seed": seed, "score": score, "steps_per_second": speed}))


def test_the_page_tells_how_it_was_made(check, tmp_path):
    status, _ = check([("a2c", "CartPole-v1", A2C)], "--seeds", "0", "--write", "docs/page.md")
    page = (tmp_path / "docs/page.md").read_text()
    assert status == 0
    assert f"pg-agents {pg_agents.__version__}, stable-baselines3 2." in page
    assert "## Scores" not in page


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--algos", "reinforce"], ["--algos", "'reinforce'", "a2c, ppo"]),
        (["--envs", "CartPol-v1"], ["'CartPol-v1'", "'CartPole-v1'"]),
        (["--updates", "0"], ["--updates", "at least 1", 0]),
        (["--seeds", "1"], ["--seeds", "at least 2", 1]),
        (["--margin", "0"], ["--margin", "greater than 0", "0.0"]),
        (["--max-steps", "0"], ["--max-steps", 0]),
        (["--final-episodes", "0"], ["--final-episodes", 0]),
        (["--jobs", "0"], ["--jobs", 0]),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["crosscheck", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, *said)
    assert not list(tmp_path.iterdir())
