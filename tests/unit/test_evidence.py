"""Evidence from results that were made up so that the answer is known, and the table of it."""

import json

import numpy as np
import pytest
import yaml
from prose import says

from pg_zoo.cli import main
from pg_zoo.errors import UserError
from pg_zoo.evidence import scored
from pg_zoo.evidence.scored import Evidence
from pg_zoo.pages.scores import comparison, table
from pg_zoo.results.storage import COMMIT, read_cells

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
    stored |= {"seeds": [1000, 1001], "scores": [1.0, 1.0], "mean": 1.0, "interval": [0.5, 1.5], "final_episodes": 100}
    return Evidence(**{**cell, **stored, "command": "pg-zoo benchmark", **changed})


def test_evidence_says_what_the_cells_say(results, zoo, capsys):
    add_cells(results, scores=SCORES[:3], steps_per_second=1e4, wall_time=10.0)
    add_cells(results, scores=SCORES[3:], first_seed=1003, date="2026-01-02T00:00:00+00:00", command="pg-zoo again")
    add_cells(results, algo="random", scores=[-1000.0, -1200.0])
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 0
    path = zoo / "evidence/ppo/Pendulum-v1.json"
    assert capsys.readouterr().out == f"{path}\n"
    found = scored.read(path)
    assert (found.algo, found.env, found.hyperparams, found.n_timesteps) == ("ppo", "Pendulum-v1", ENTRY, 100_000)
    assert (found.seeds, found.scores, found.mean) == ([1000, 1001, 1002, 1003, 1004], SCORES, -156.0)
    assert (found.steps_per_second, found.wall_time, found.final_episodes) == (1e4, 10.0, 100)
    assert (found.date, found.command) == ("2026-01-02T00:00:00+00:00", "pg-zoo again")
    assert (found.random, found.best) == (-1100.0, None)
    assert found == scored.from_cells(results, "ppo", "Pendulum-v1", ENTRY)


def test_the_interval_is_students(results):
    add_cells(results)
    found = scored.from_cells(results, "ppo", "Pendulum-v1", ENTRY)
    # Deviations from -156 are 36, -24, -14, -4, 6: s = sqrt(2120 / 4), and t has its 97.5 % quantile at 2.776445.
    half = 2.776445 * (2120 / 4) ** 0.5 / 5**0.5
    assert found.interval == pytest.approx([-156 - half, -156 + half], rel=1e-6)


def test_a_note_stays_when_the_evidence_is_measured_again(results, zoo):
    add_cells(results)
    some_evidence(note="out of reach").write(zoo)
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 0
    found = scored.read(zoo / "evidence/ppo/Pendulum-v1.json")
    assert (found.note, found.fresh) == ("out of reach", True)


OLD = {"hyperparams": {**ENTRY, "gamma": 0.9}, "note": "old"}


@pytest.mark.parametrize("first_seed", [1000, 1003, 1006])
def test_seeds_that_have_scored_an_earlier_version_of_the_entry_are_no_evidence(results, zoo, capsys, first_seed):
    path = some_evidence(**OLD, seeds=[1006, 1007, 1008], scores=[1.0] * 3).write(zoo)
    before = path.read_bytes()
    add_cells(results, first_seed=first_seed)
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 2
    warning = capsys.readouterr().err.splitlines()[0]
    facts = ["ppo", "Pendulum-v1", "1006-1008", "gamma", None, 0.9, "`pg-zoo benchmark --first-seed 1009`"]
    assert says(warning, "pg-zoo: warning: ", *facts, "--same-seeds")
    assert path.read_bytes() == before


def test_fresh_seeds_after_a_change_are_evidence(results, zoo):
    some_evidence(**OLD, seeds=[1006, 1007, 1008], scores=[1.0] * 3).write(zoo)
    add_cells(results, first_seed=1009)
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 0
    found = scored.read(zoo / "evidence/ppo/Pendulum-v1.json")
    assert (found.hyperparams, found.seeds[0], found.note, found.fresh) == (ENTRY, 1009, "old", True)


def test_seeds_that_are_not_fresh_need_an_option_and_the_table_says_so_until_there_are_fresh_ones(results, zoo, capsys):
    some_evidence(**OLD).write(zoo)
    add_cells(results)
    assert main(["evidence", str(results), "--zoo", str(zoo), "--same-seeds"]) == 0
    # Measured once more, they are no fresher.
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 0
    said = "an earlier version of the entry was scored with some of these seeds |"
    assert f" | old; {said}\n" in table(scored.collect(zoo))
    add_cells(results.with_name("fresh"), first_seed=1005)
    assert main(["evidence", str(results.with_name("fresh")), "--zoo", str(zoo)]) == 0
    assert said not in table(scored.collect(zoo))
    assert capsys.readouterr().err == ""


def test_evidence_names_all_commits_that_it_is_of_and_they_need_not_be_the_same(results):
    add_cells(results, scores=SCORES[:2], versions={"pg-agents": "0.1.0"})  # as they were stored at first
    add_cells(results, scores=SCORES[2:4], first_seed=1002, versions={"pg-agents": "0.1.0", COMMIT: "1a"})
    add_cells(results, scores=SCORES[4:], first_seed=1004, versions={"pg-agents": "0.1.0", COMMIT: "2b+changes"})
    found = scored.from_cells(results, "ppo", "Pendulum-v1", ENTRY)
    assert found.versions == {"pg-agents": "0.1.0", COMMIT: "1a, 2b+changes"}


def test_evidence_holds_the_best_known_score_and_that_of_random_actions(results):
    add_cells(results, env="pg/ShortCorridor-v0")
    add_cells(results, env="CartPole-v1")
    add_cells(results, algo="random", env="CartPole-v1", scores=[20.0, 24.0])
    corridor = scored.from_cells(results, "ppo", "pg/ShortCorridor-v0", ENTRY)
    assert (corridor.random, corridor.best) == (-12.0, (pytest.approx(-11.65685), "optimum"))
    cartpole = scored.from_cells(results, "ppo", "CartPole-v1", ENTRY)
    assert (cartpole.random, cartpole.best) == (22.0, (475.0, "solved"))
    assert scored.read(cartpole.write(results)) == cartpole


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([{"first_seed": 999}], [999, "tuning", 1000]),
        ([{"scores": SCORES[:4]}], ["at least 5 seeds"]),
        ([{}, {"first_seed": 1006}], [1005, "missing"]),
        ([{"hyperparams": {**ENTRY, "n_timesteps": 2e5}}], ["n_timesteps", 200000.0, 100000.0]),
        ([{"hyperparams": {**ENTRY, "gamma": 0.9}}], ["gamma", 0.9, None]),
        ([{}, {"first_seed": 1005, "versions": {"pg-agents": "0.2.0"}}], ["differ", "versions"]),
        ([{"algo": "a2c"}], ["no entry"]),
    ],
)
def test_what_is_no_evidence_is_left_out_and_says_why(results, zoo, capsys, cells, said):
    for some in cells:
        add_cells(results, **some)
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 2
    why, error = capsys.readouterr().err.splitlines()
    assert says(why, *said)
    assert says(error, "pg-zoo: error: ", results, "no evidence")
    assert not (zoo / "evidence").exists()


def test_a_grid_that_is_not_finished_is_no_evidence_yet(results, zoo, capsys):
    add_cells(results)
    (results / "benchmark.json").write_text(
        json.dumps({"format": 1, "cells": {"ppo": {"Pendulum-v1": [*range(1000, 1010)]}}})
    )
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 2
    assert says(capsys.readouterr().err, 1005, "missing")


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
    assert says(capsys.readouterr().err, "seed_1005.txt", "failed")


def test_references_and_random_actions_need_no_entry(results, zoo, capsys):
    add_cells(results)
    add_cells(results, algo="sb3/ppo")
    add_cells(results, algo="random")
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["missing"], ["missing", "results", "pg-zoo benchmark"]),
        (["--zoo", "missing"], ["missing", "<algo>.yml"]),
        (["-o", "missing/zoo.md"], ["no folder", "missing"]),
    ],
)
def test_a_mistake_is_one_line(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evidence", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, *said)
    assert not list(tmp_path.iterdir())


def test_results_of_another_version_are_refused(results):
    add_cells(results, format=2)
    with pytest.raises(UserError, match=r"has format 2, but this version of pg-agents reads 1"):
        read_cells(results)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ('{"format": 1, "algo": "ppo", "env": "Pendulum-v1"}', "KeyError: 'command, date, "),
        ('{"format": 1, "al', "JSONDecodeError: Unterminated string"),
        ("[1]", "TypeError: "),
    ],
)
def test_a_damaged_cell_is_one_line_that_names_it(results, zoo, capsys, contents, said):
    add_cells(results)
    path = results / "cells/ppo/Pendulum-v1/seed_1002/cell.json"
    path.write_text(contents)
    assert main(["evidence", str(results), "--zoo", str(zoo)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, path.parent, said)


def test_a_file_that_is_no_evidence_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"algo": "ppo"}')
    with pytest.raises(UserError, match=r"x\.json contains no evidence"):
        scored.read(tmp_path / "x.json")


def test_evidence_of_an_entry_that_was_changed_is_not_shown(zoo, capsys):
    some_evidence().write(zoo)
    assert [found.env for found in scored.collect(zoo)] == ["Pendulum-v1"]
    (zoo / "ppo.yml").write_text(yaml.safe_dump({"Pendulum-v1": {**ENTRY, "gamma": 0.9}}))
    assert scored.collect(zoo) == []
    assert "the entry has changed since (gamma is None and not 0.9)" in capsys.readouterr().err


# Theirs has the standard error 5 / sqrt(25) = 1, with 24 degrees of freedom; ours, with the deviations below, s = 2 and
# so 2 / sqrt(4) = 1, with 3. Welch: t has (1 + 1)^2 / (1/24 + 1/3) = 32/3 degrees of freedom and its 97.5 % quantile at
# 2.20941 (between 2.22814 for 10 and 2.20099 for 11), so that a difference is shown beyond 2.20941 sqrt(2) = 3.1246.
THEIRS = {"mean": 10.0, "std": 5.0, "episodes": 25, "steps": 100_000}
DEVIATIONS = (-(3**0.5), -(3**0.5), 3**0.5, 3**0.5)


def with_mean(mean, **changed):
    return some_evidence(mean=mean, scores=[mean + d for d in DEVIATIONS], seeds=[*range(1000, 1004)], **changed)


@pytest.mark.parametrize(
    ("mean", "n_timesteps", "answer"),
    [
        (13.12, 100_000, "not shown"),
        (13.13, 100_000, "higher"),
        (13.13, 100_001, "more steps"),
        (6.88, 50_000, "not shown"),
        (6.87, 50_000, "lower"),
        (6.87, 200_000, "more steps"),
    ],
)
def test_the_comparison_claims_only_what_the_interval_of_the_difference_says(mean, n_timesteps, answer):
    ours = with_mean(mean, n_timesteps=n_timesteps)
    assert comparison(ours, THEIRS) == answer
    assert comparison(ours, None) == ""
    # Of an older environment, the direction is told too, but more steps are none to compare with.
    older = answer if answer == "more steps" else f"{answer} (older environment)"
    assert comparison(ours, {**THEIRS, "env": "Pendulum-v0"}) == older


def test_a_difference_is_shown_where_the_two_intervals_overlap_but_that_of_the_difference_leaves_out_0():
    # -192.7 with standard error 6.3, of 10 seeds, against -172.225 with 3.80: 20.5 is 2.78 times its own, 7.36.
    scores = [-192.7 + 6.3 * 10**0.5 * d * (0.9**0.5) for d in (-1, 1) * 5]
    ours = some_evidence(scores=scores, seeds=[*range(1000, 1010)], mean=-192.7, interval=[-207.0, -178.4])
    assert np.std(scores, ddof=1) / 10**0.5 == pytest.approx(6.3)
    assert comparison(ours, scored.published()["ppo"]["Pendulum-v1"]) == "lower"


def test_the_table_has_one_row_for_each_entry(zoo, tmp_path):
    more = {"mean": -150.04, "interval": [-166.0, -138.0], "scores": [-177.0, -123.0], "random": -1172.0}
    some_evidence(**more, note="hard | slow").write(zoo)
    page = tmp_path / "zoo.md"
    assert main(["evidence", "--zoo", str(zoo), "-o", str(page)]) == 0
    text = page.read_text()
    assert (
        "| Pendulum-v1 | ppo | -150 [-166, -138] | 2 | 100 | 100,000 | 5.0 s | -1,172 |  | "
        "-172.2 ± 104.2, 100,000 steps | not shown | hard \\| slow |\n"
    ) in text
    assert "Student's t" in text


def test_the_three_answers_are_counted_apart_and_what_cannot_be_compared_not_at_all():
    # rl_zoo3's, with 1.96 standard errors: Pendulum -172.2 ± 7.4, Acrobot -73.5 ± 0.8, LunarLander 242 ± 3.3.
    pendulum = [with_mean(mean) for mean in (-170.0, -140.0, -210.0)]
    acrobot = with_mean(-90.0, env="Acrobot-v1", n_timesteps=1_000_000)
    more = with_mean(500.0, env="CartPole-v1", n_timesteps=100_001)
    older = with_mean(290.0, env="LunarLander-v3")
    unpublished = some_evidence(env="pg/RPSMatch-v0")
    text = table([*pendulum, acrobot, more, older, unpublished])
    assert (
        "4 scores can be compared with SB3's in rl_zoo3, with no more steps. higher: 1, not shown: 1, lower: 2.\n"
        "1 score can be compared with SB3's in rl_zoo3 of an older environment, with no more steps. higher: 1, "
        "not shown: 0, lower: 0.\n"
    ) in text
    assert "| 242.1 ± 31.82, 1,000,000 steps (LunarLander-v2) | higher (older environment) |" in text
    assert "| more steps |" in text
    assert "can be compared" not in table([more, unpublished])


def test_evidence_and_its_row_say_where_training_stepped(results, zoo):
    add_cells(results, vec_env="envpool")
    add_cells(results.with_name("own"), first_seed=2000)
    envpool, own = (
        scored.from_cells(path, "ppo", "Pendulum-v1", ENTRY) for path in (results, results.with_name("own"))
    )
    assert (envpool.vec_env, own.vec_env) == ("envpool", "own")
    assert scored.read(envpool.write(zoo)) == envpool
    *_, of_envpool, of_own = table([envpool, own]).splitlines()
    assert of_envpool.endswith("| trained in EnvPool's version |")
    assert of_own.endswith("|  |")


def test_random_actions_score_one_number_on_an_environment_that_of_most_episodes():
    few = with_mean(0.0, algo="a2c", random=-191.1)
    many = with_mean(0.0, random=-184.4, final_episodes=101)
    unknown = with_mean(0.0, algo="reinforce")
    other_task = with_mean(0.0, algo="mine", random=-5.0, hyperparams={"env_kwargs": {"g": 9.0}})
    rows = table([few, many, unknown, other_task]).splitlines()[-4:]
    assert [row.split(" | ")[7] for row in rows] == ["-184.4", "-184.4", "-184.4", "-5"]


def test_the_row_says_of_how_many_episodes_each_score_is():
    *_, head, _, row = table([with_mean(0.0, final_episodes=50)]).splitlines()
    assert dict(zip(head.split(" | "), row.split(" | "), strict=True))["episodes"] == "50"


@pytest.mark.parametrize(
    ("interval", "said"), [([200.0, 204.0], "reached"), ([190.0, 210.0], "not shown"), ([180.0, 199.0], "not reached")]
)
def test_the_table_says_whether_a_task_is_solved_where_the_interval_does(interval, said):
    *_, row = table([with_mean(sum(interval) / 2, interval=interval, best=(200.0, "solved"))]).splitlines()
    assert f"| solved: 200, {said} |" in row


def test_published_scores_are_rl_zoo3s():
    published = scored.published()
    older = published["ppo"]["LunarLander-v3"]
    assert older == {"env": "LunarLander-v2", "mean": 242.119, "std": 31.823, "steps": 1_000_000, "episodes": 369}
    assert published["a2c"]["Pendulum-v1"]["mean"] == -162.965
    assert published["trpo"]["Swimmer-v5"]["mean"] == 365.663
    assert {*published} == {"source", "a2c", "ppo", "trpo"}
