"""Evidence from results that were made up so that the answer is known, and the table of it."""

import json

import pytest
import yaml

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


def test_the_interval_is_students(results):
    add_cells(results)
    found = evidence.from_cells(results, "ppo", "Pendulum-v1", ENTRY)
    # Deviations from -156 are 36, -24, -14, -4, 6: s = sqrt(2120 / 4), and t has its 97.5 % quantile at 2.776445.
    half = 2.776445 * (2120 / 4) ** 0.5 / 5**0.5
    assert found.interval == pytest.approx([-156 - half, -156 + half], rel=1e-6)


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
    (results / "benchmark.json").write_text(
        json.dumps({"format": 1, "cells": {"ppo": {"Pendulum-v1": [*range(1000, 1010)]}}})
    )
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 2
    assert "Seed 1005 is missing" in capsys.readouterr().err


def test_what_is_missing_of_another_algorithm_is_not_missing_here(results, zoo):
    add_cells(results)
    cells = {"a2c": {"Pendulum-v1": [*range(1000, 1010)]}, "ppo": {"Acrobot-v1": [1009]}}
    (results / "benchmark.json").write_text(json.dumps({"format": 1, "cells": cells}))
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 0


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
    with pytest.raises(UserError, match=r"has format 2, but this version of pg-agents reads 1"):
        evidence.read_cells(results)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ('{"format": 1, "algo": "ppo", "env": "Pendulum-v1"}', "(KeyError: 'command, date, "),
        ('{"format": 1, "al', "(JSONDecodeError: Unterminated string"),
        ("[1]", "(TypeError: "),
    ],
)
def test_a_damaged_cell_is_one_line_that_names_it(results, zoo, capsys, contents, said):
    add_cells(results)
    path = results / "cells/ppo/Pendulum-v1/seed_1002/cell.json"
    path.write_text(contents)
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path.parent} is damaged {said}" in line


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
        ([11.9, 13.0], 100_000, "not shown"),
        ([12.0, 13.0], 100_000, "higher"),
        ([12.0, 13.0], 100_001, "more steps"),
        ([7.0, 8.1], 50_000, "not shown"),
        ([7.0, 8.0], 50_000, "lower"),
        ([7.0, 8.0], 200_000, "more steps"),
    ],
)
def test_the_comparison_claims_only_what_the_intervals_say(interval, n_timesteps, answer):
    assert evidence.comparison(some_evidence(interval=interval, n_timesteps=n_timesteps), THEIRS) == answer
    assert evidence.comparison(some_evidence(), None) == ""
    assert evidence.comparison(some_evidence(), {**THEIRS, "env": "Pendulum-v0"}) == "older environment"


def test_the_table_has_one_row_for_each_entry(zoo, tmp_path):
    more = {"mean": -150.04, "interval": [-166.0, -138.0], "seeds": [1000, 1001], "random": -1172.0}
    some_evidence(**more, note="hard | slow").write(zoo)
    page = tmp_path / "zoo.md"
    assert main(["evidence", "--zoo", str(zoo), "-o", str(page)]) == 0
    text = page.read_text()
    assert (
        "| Pendulum-v1 | ppo | -150 [-166, -138] | 2 | 100,000 | 5.0 s | -1,172 |  | -172.2 ± 104.2, 100,000 steps | "
        "not shown | hard \\| slow |\n"
    ) in text
    assert "Where other work ran on the machine meanwhile, it is an upper bound." in text
    assert "Student's t" in text


def test_the_three_answers_are_counted_apart_and_what_cannot_be_compared_not_at_all():
    # rl_zoo3's, with 1.96 standard errors: Pendulum -172.2 ± 7.4, Acrobot -73.5 ± 0.8, CartPole 500 ± 0.
    pendulum = [some_evidence(interval=bounds) for bounds in ([-170.0, -160.0], [-150.0, -140.0], [-210.0, -200.0])]
    acrobot = some_evidence(env="Acrobot-v1", interval=[-100.0, -90.0], n_timesteps=1_000_000)
    more = some_evidence(env="CartPole-v1", interval=[500.0, 500.0], n_timesteps=100_001)
    older = some_evidence(env="LunarLander-v3", interval=[280.0, 290.0])
    unpublished = some_evidence(env="pg/RPSMatch-v0")
    text = evidence.table([*pendulum, acrobot, more, older, unpublished])
    assert (
        "4 scores can be compared with SB3's in rl_zoo3, at no more steps. higher: 1, not shown: 1, lower: 2.\n" in text
    )
    assert "| 242.1 ± 31.82, 1,000,000 steps (LunarLander-v2) | older environment |" in text
    assert "| more steps |" in text
    assert "can be compared" not in evidence.table([more, older, unpublished])


def test_published_scores_are_rl_zoo3s():
    published = evidence.published()
    older = published["ppo"]["LunarLander-v3"]
    assert older == {"env": "LunarLander-v2", "mean": 242.119, "std": 31.823, "steps": 1_000_000, "episodes": 369}
    assert published["a2c"]["Pendulum-v1"]["mean"] == -162.965
    assert {*published} == {"source", "a2c", "ppo"}
