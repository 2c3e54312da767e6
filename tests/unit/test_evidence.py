"""Evidence from results that were made up so that the answer is known, and the table of it."""

import json

import numpy as np
import pytest
import yaml
from scipy import stats

from pg_zoo import evidence
from pg_zoo.cli import main
from pg_zoo.errors import UserError
from pg_zoo.evidence import Evidence

ENTRY = {"n_timesteps": 1e5, "policy": "MlpPolicy", "learning_rate": "lin_0.001"}
SCORES = [-120.0, -180.0, -170.0, -160.0, -150.0]
OF_A_CELL = {
    "format": 1,
    "hyperparams": ENTRY,
    "n_timesteps": 100_352,
    "deterministic": True,
    "steps_per_second": 2e4,
    "wall_time": 5.0,
    "versions": {"pg-agents": "0.1.0"},
    "machine": {"cpu": "x", "cores": 2},
    "command": "pg-zoo benchmark",
    "date": "2026-01-01T00:00:00+00:00",
    "options": {"eval_points": 20, "eval_episodes": 10, "final_episodes": 100},
}


def add_cells(results, algo="ppo", env="Pendulum-v1", scores=SCORES, first_seed=1000, **changed):
    for seed, score in enumerate(scores, first_seed):
        cell = results / "cells" / algo.replace("/", "-") / env.replace("/", "-") / f"seed_{seed}"
        cell.mkdir(parents=True)
        stored = {**OF_A_CELL, "algo": algo, "env": env, "seed": seed, "score": score, **changed}
        (cell / "cell.json").write_text(json.dumps(stored))


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def zoo(tmp_path):
    """A hyperparameter folder with one entry of ppo, for Pendulum."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "ppo.yml").write_text(yaml.safe_dump({"default": {"n_timesteps": 1e6}, "Pendulum-v1": ENTRY}))
    return folder


def some_evidence(**changed):
    cell = {name: OF_A_CELL[name] for name in ("deterministic", "steps_per_second", "wall_time", "versions", "machine")}
    stored = {"algo": "ppo", "env": "Pendulum-v1", "hyperparams": ENTRY, "n_timesteps": 100_000, "date": "2026-01-01"}
    stored |= {"seeds": [1000], "scores": [1.0], "mean": 1.0, "interval": [0.5, 1.5], "final_episodes": 100}
    return Evidence(**{**cell, **stored, "command": "pg-zoo benchmark", **changed})


def test_evidence_says_what_the_cells_say(results, zoo, capsys):
    add_cells(results, scores=SCORES[:3], steps_per_second=1e4, wall_time=10.0)
    add_cells(results, scores=SCORES[3:], first_seed=1003, date="2026-01-02T00:00:00+00:00", command="pg-zoo again")
    add_cells(results, algo="random", scores=[-1000.0, -1200.0])
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 0
    path = zoo / "evidence/ppo/Pendulum-v1.json"
    assert capsys.readouterr().out == f"{path}\n"
    found = evidence.read(path)
    assert (found.algo, found.env, found.hyperparams, found.n_timesteps) == ("ppo", "Pendulum-v1", ENTRY, 100_000)
    assert (found.seeds, found.scores, found.mean) == ([1000, 1001, 1002, 1003, 1004], SCORES, -156.0)
    assert (found.steps_per_second, found.wall_time, found.final_episodes) == (1e4, 10.0, 100)
    assert (found.date, found.command) == ("2026-01-02T00:00:00+00:00", "pg-zoo again")
    assert (found.random, found.best) == (-1100.0, None)
    assert found == evidence.from_cells(results, "ppo", "Pendulum-v1", ENTRY)


def test_the_interval_is_scipys_percentile_bootstrap():
    theirs = stats.bootstrap((SCORES,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    # The quantile of 10,000 resamples has a standard error of sqrt(.025 .975 / 1e4) / density, which is below 1 here.
    assert evidence.bootstrap_interval(SCORES) == pytest.approx([theirs.low, theirs.high], abs=3)
    assert evidence.bootstrap_interval([500.0] * 5) == [500.0, 500.0]


def test_a_note_stays_when_the_evidence_is_measured_again(results, zoo):
    add_cells(results)
    some_evidence(note="out of reach").write(zoo)
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 0
    assert evidence.read(zoo / "evidence/ppo/Pendulum-v1.json").note == "out of reach"


def test_best_and_random_scores_of_our_own_environments_are_the_known_ones():
    assert evidence.references("pg/ShortCorridor-v0", None, []) == (-12.0, (pytest.approx(-11.65685), "optimum"))
    assert evidence.references("CartPole-v1", None, [{"score": 20.0}, {"score": 24.0}]) == (22.0, (475.0, "solved"))


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([{"first_seed": 999}], "Seed 999 may have been seen by tuning: evidence needs seeds from 1000 on"),
        ([{"scores": SCORES[:4]}], "at least 5 seeds, but"),
        ([{}, {"first_seed": 1006}], "Seed 1005 is missing"),
        ([{"hyperparams": {**ENTRY, "n_timesteps": 2e5}}], "n_timesteps is 200000.0 and not 100000.0"),
        ([{"hyperparams": {**ENTRY, "gamma": 0.9}}], "gamma is 0.9 and not None"),
        ([{}, {"first_seed": 1005, "versions": {"pg-agents": "0.2.0"}}], "differ in versions"),
        ([{"algo": "a2c"}], "there is no entry"),
    ],
)
def test_what_is_no_evidence_is_left_out_and_says_why(results, zoo, capsys, cells, said):
    for some in cells:
        add_cells(results, **some)
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert said in errors[0]
    assert errors[1:] == [f"pg-zoo: error: {results} holds no evidence of any entry."]
    assert not (zoo / "evidence").exists()


def test_a_grid_that_is_not_finished_is_no_evidence_yet(results, zoo, capsys):
    add_cells(results)
    (results / "benchmark.json").write_text(json.dumps({"format": 1, "grid": {"seeds": [*range(1000, 1010)]}}))
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 2
    assert "Seed 1005 is missing" in capsys.readouterr().err


def test_a_seed_that_failed_is_not_passed_over(results, zoo, capsys):
    add_cells(results)
    (results / "failed").mkdir()
    (results / "failed/ppo-Pendulum-v1-seed_1005.txt").write_text("Traceback")
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 2
    assert "seed_1005.txt failed: evidence without it would flatter" in capsys.readouterr().err


def test_references_and_random_actions_need_no_entry(results, zoo, capsys):
    add_cells(results)
    add_cells(results, algo="sb3/ppo")
    add_cells(results, algo="random")
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["missing"], "missing holds no results of pg-zoo benchmark"),
        (["--zoo", "missing"], "missing is no folder of <algo>.yml files"),
        (["-o", "missing/zoo.md"], "there is no folder missing"),
    ],
)
def test_a_mistake_is_one_line(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evidence", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())


def test_results_of_another_version_are_refused(results):
    add_cells(results, format=2)
    with pytest.raises(UserError, match=r"has format 2, but this version of pg-zoo reads 1"):
        evidence.read_cells(results)


def test_a_file_that_is_no_evidence_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"algo": "ppo"}')
    with pytest.raises(UserError, match=r"x\.json is no evidence"):
        evidence.read(tmp_path / "x.json")


def test_evidence_of_an_entry_that_was_changed_is_not_shown(zoo, capsys):
    some_evidence().write(zoo)
    assert [found.env for found in evidence.collect(zoo)] == ["Pendulum-v1"]
    (zoo / "ppo.yml").write_text(yaml.safe_dump({"Pendulum-v1": {**ENTRY, "gamma": 0.9}}))
    assert evidence.collect(zoo) == []
    assert "the entry has changed since (gamma is None and not 0.9)" in capsys.readouterr().err


# Theirs: 10 ± 1.96, from 5 / sqrt(25).
THEIRS = {"mean": 10.0, "std": 5.0, "episodes": 25, "steps": 100_000}


@pytest.mark.parametrize(
    ("interval", "n_timesteps", "answer"),
    [
        ([11.9, 13.0], 100_000, "yes: no difference shown"),
        ([12.0, 13.0], 100_000, "yes: higher score"),
        ([12.0, 13.0], 100_001, "no: more steps"),
        ([7.0, 8.1], 50_000, "yes: no difference shown"),
        ([7.0, 8.0], 50_000, "no: lower score"),
        ([7.0, 8.0], 200_000, "no: lower score and more steps"),
    ],
)
def test_the_comparison_claims_only_what_the_intervals_say(interval, n_timesteps, answer):
    assert evidence.comparison(some_evidence(interval=interval, n_timesteps=n_timesteps), THEIRS) == answer
    assert evidence.comparison(some_evidence(), None) == ""


def test_the_table_has_one_row_for_each_entry(zoo, tmp_path):
    more = {"mean": -150.04, "interval": [-166.0, -138.0], "seeds": [1000, 1001], "random": -1172.0}
    some_evidence(**more, note="Hard.").write(zoo)
    page = tmp_path / "zoo.md"
    assert main(["evidence", "--zoo", str(zoo), "-o", str(page)]) == 0
    text = page.read_text()
    assert "1 of 1 entries with a published score are at least as good with no more steps." in text
    assert (
        "| Pendulum-v1 | ppo | -150 [-166, -138] | 2 | 100,000 | 5.0 s | -1,172 |  | -172 ± 104, 100,000 steps | "
        "yes: no difference shown |\n"
    ) in text
    assert text.endswith("Notes:\n\n- ppo on Pendulum-v1: Hard.\n")


def test_published_scores_are_rl_zoo3s():
    published = evidence.published()
    older = published["ppo"]["LunarLander-v3"]
    assert older == {"env": "LunarLander-v2", "mean": 242.119, "std": 31.823, "steps": 1_000_000, "episodes": 369}
    assert published["a2c"]["Pendulum-v1"]["mean"] == -162.965
    assert {*published} == {"source", "a2c", "ppo"}


@pytest.mark.parametrize(
    ("value", "shown"), [(9359.2, "9,359"), (-172.2, "-172"), (97.25, "97.2"), (-3.754, "-3.75"), (0.8251, "0.825")]
)
def test_numbers_have_about_three_digits(value, shown):
    assert evidence.number(value) == shown
