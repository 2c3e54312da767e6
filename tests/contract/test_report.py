"""Every statement that a report can make, on results whose truth is known."""

import html.parser
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from prose import saying, says
from synthetic import spread, write_cell, write_grid, write_results

from pg_zoo.cli import main
from pg_zoo.errors import UserError
from pg_zoo.pages import figures
from pg_zoo.pages.document import Bullets, Details, Heading, Table, Text, markdown, page
from pg_zoo.pages.report import write_report
from pg_zoo.recipes.files import find_entry
from pg_zoo.results import statistics
from pg_zoo.results.findings import Findings, pairs, scale_of
from pg_zoo.results.statistics import Estimate
from pg_zoo.results.storage import COMMIT
from pg_zoo.results.tables import read
from pg_zoo.words import count, duration, interval, listed, number, ranges


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "N_RESAMPLES", 50)


@pytest.fixture
def drawn():
    """For tests that look at figures."""


@pytest.fixture(autouse=True)
def blank_figures(request, monkeypatch):
    """All other tests write reports with blank ones: drawing takes most of the time."""

    def blank(figure, file, *, format, **options):
        file.write("<svg></svg>" if format == "svg" else b"")

    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", blank)


def findings(folder, *chosen):
    results = read(folder)
    return Findings(results, list(chosen) or pairs(results.algos))


def sentences(folder, algo="ppo", baseline="sb3/ppo"):
    """By environment, what is said of it."""
    said = findings(folder, (algo, baseline)).sentences(algo, baseline)
    return dict(re.fullmatch(r"\*\*(.*?)\*\*: (.*)", sentence).groups() for sentence in said)


# Which algorithms are compared


@pytest.mark.parametrize(
    ("algos", "expected"),
    [
        (["a2c", "ppo", "sb3/a2c", "sb3/ppo"], [("a2c", "sb3/a2c"), ("ppo", "sb3/ppo")]),
        (["mine", "ppo", "sb3/dqn", "sb3/ppo"], [("mine", "sb3/dqn"), ("mine", "sb3/ppo"), ("ppo", "sb3/ppo")]),
        (["trpo", "contrib/trpo"], [("trpo", "contrib/trpo")]),
        (["a2c", "mine", "ppo"], [("a2c", "mine"), ("a2c", "ppo"), ("mine", "ppo")]),
        (["sb3/a2c", "sb3/ppo"], [("sb3/a2c", "sb3/ppo")]),
        (["ppo"], [("ppo", "random")]),
        ([], []),
    ],
)
def test_each_algorithm_is_compared_with_its_reference_or_else_with_what_there_is(algos, expected):
    assert pairs(algos, has_random=True) == expected


def test_all_others_are_compared_with_the_baseline():
    assert pairs(["a2c", "ppo", "sb3/ppo"], "a2c") == [("ppo", "a2c"), ("sb3/ppo", "a2c")]
    assert pairs(["a2c", "ppo"], "random", has_random=True) == [("a2c", "random"), ("ppo", "random")]
    with pytest.raises(UserError, match=saying("--baseline", "'pppo'", "'ppo'", "a2c, ppo")):
        pairs(["a2c", "ppo"], "pppo")


# What is said of a comparison


NOTHING = "nothing can be concluded"


def test_better_worse_and_no_difference_are_said_where_the_interval_says_so(tmp_path):
    scores = {
        # s = 1 and 10 seeds: Student's interval is the difference ± 2.2622 / √10 = ± 0.72.
        "ppo": {"A-v0": spread(12.0, 1.0, 10), "B-v0": spread(-12.0, 1.0, 10), "C-v0": spread(10.5, 1.0, 10)},
        "sb3/ppo": {"A-v0": [10] * 10, "B-v0": [-10] * 10, "C-v0": [10] * 10},
    }
    folder = write_results(tmp_path, scores)
    assert sentences(folder) == {
        "A-v0": "`ppo` is **better** than `sb3/ppo`: mean score 12 against 10, difference 2.00 [1.28, 2.72], "
        "10 seeds each. It holds after Holm's correction.",
        "B-v0": "`ppo` is **worse** than `sb3/ppo`: mean score -12 against -10, difference -2.00 [-2.72, -1.28], "
        "10 seeds each. It holds after Holm's correction.",
        "C-v0": "no difference shown between `ppo` and `sb3/ppo`: mean score 10.5 against 10, "
        "difference 0.50 [-0.22, 1.22], 10 seeds each.",
    }
    assert (
        findings(folder).tally("ppo", "sb3/ppo")
        == "better on 1, worse on 1, no difference shown on 1 of 3 environments"
    )


def test_what_does_not_hold_after_holms_correction_says_so(tmp_path):
    # t = 0.75 √10 = 2.37 with 9 degrees of freedom has p = 0.042, which three comparisons do not allow.
    scores = {
        "ppo": {env: spread(mean, 1.0, 10) for env, mean in (("A-v0", 10.75), ("B-v0", 10), ("C-v0", 10))},
        "sb3/ppo": {env: [10] * 10 for env in ("A-v0", "B-v0", "C-v0")},
    }
    said = sentences(write_results(tmp_path, scores))
    assert "`ppo` is **better** than `sb3/ppo`" in said["A-v0"]
    assert said["A-v0"].endswith("It does not hold after Holm's correction.")


def test_a_single_comparison_needs_no_correction(tmp_path):
    scores = {"ppo": {"A-v0": spread(11, 1.0, 10)}, "sb3/ppo": {"A-v0": spread(10, 1.0, 10, seed=1)}}
    assert "Holm" not in sentences(write_results(tmp_path, scores))["A-v0"]


@pytest.mark.parametrize(
    ("n", "m", "why"),
    [
        (2, 2, ["2 seeds", "at least 3"]),
        (1, 1, ["1 seed", "at least 3"]),
        (5, 4, ["5 seeds", "`ppo`", 4, "`sb3/ppo`"]),
    ],
)
def test_too_few_or_unequal_seeds_allow_no_conclusion_however_far_apart(tmp_path, n, m, why):
    scores = {"ppo": {"A-v0": spread(100, 1.0, n)} if n > 1 else {"A-v0": [100.0]}, "sb3/ppo": {"A-v0": [0.0] * m}}
    folder = write_results(tmp_path, scores)
    assert says(sentences(folder)["A-v0"], NOTHING, "`ppo`", "`sb3/ppo`", *why)
    assert says(findings(folder).tally("ppo", "sb3/ppo"), NOTHING, 1, "1 environment")


def test_survivors_of_different_seeds_allow_no_conclusion(tmp_path):
    folder = write_results(tmp_path, {"ppo": {"A-v0": spread(100, 1.0, 5)}})
    write_grid(folder, ["ppo", "sb3/ppo"], ["A-v0"], range(10))
    for seed in range(5, 10):
        write_cell(folder, "sb3/ppo", "A-v0", seed, float(seed))
    assert says(sentences(folder)["A-v0"], NOTHING, "`ppo`", "`sb3/ppo`", "`ppo`", "0-4", "`sb3/ppo`", "5-9")


def test_a_failed_training_allows_no_conclusion_of_the_others(tmp_path):
    scores = {"ppo": {"A-v0": [100.0] * 5, "B-v0": [1.0] * 5}, "sb3/ppo": {"A-v0": [0.0] * 5, "B-v0": [0.0] * 5}}
    folder = write_results(tmp_path, scores)
    (folder / "failed").mkdir()
    (folder / "failed/sb3-ppo-A-v0-seed_7.txt").write_text("ValueError: no")
    said = sentences(folder)
    assert says(said["A-v0"], NOTHING, "`ppo`", "`sb3/ppo`", "`sb3/ppo`", "failed")
    assert "**better**" in said["B-v0"]


def grid_with(folder, scores, failed=()):
    """Results of `scores` in a grid that has more, some of which failed."""
    folder = write_results(folder, scores)
    (folder / "failed").mkdir()
    for algo, env, seed in failed:
        (folder / f"failed/{algo}-{env}-seed_{seed}.txt".replace("sb3/", "sb3-")).write_text("ValueError: no")
    return folder


@pytest.mark.parametrize(
    ("failed_seeds", "why"),
    [
        (range(5), ["all", "`mine`", "failed"]),
        (range(2), ["all", "`mine`", "failed", "missing"]),
        ((), ["all", "`mine`", "missing"]),
    ],
)
def test_an_environment_on_which_nothing_of_one_side_is_there_counts(tmp_path, failed_seeds, why):
    scores = {"mine": {"A-v0": spread(100, 1.0, 5)}, "sb3/ppo": {"A-v0": [0.0] * 5, "B-v0": [0.0] * 5}}
    folder = grid_with(tmp_path, scores, [("mine", "B-v0", seed) for seed in failed_seeds])
    said = sentences(folder, "mine")
    assert "`mine` is **better** than `sb3/ppo`" in said["A-v0"]
    assert says(said["B-v0"], NOTHING, "`mine`", "`sb3/ppo`", *why)
    tally = findings(folder, ("mine", "sb3/ppo")).tally("mine", "sb3/ppo")
    assert says(tally, "better", 1, NOTHING, 1, "2 environments")
    write_report(folder)
    assert f"{tally[0].upper()}{tally[1:]}." in (folder / "report.md").read_text()


def test_an_algorithm_that_failed_everywhere_is_told(tmp_path):
    scores = {"ppo": {"A-v0": [1.0] * 3}, "sb3/ppo": {"A-v0": [0.0] * 3}}
    folder = grid_with(tmp_path, scores, [("mine", "A-v0", seed) for seed in range(3)])
    write_grid(folder, ["mine", "ppo", "sb3/ppo"], ["A-v0"], range(3))
    lines = write_report(folder)
    assert says("\n".join(lines), "mine", "sb3/ppo", NOTHING, 1, "1 environment")
    assert says((folder / "report.md").read_text(), NOTHING, "`mine`", "`sb3/ppo`", "all", "`mine`", "failed")


def test_where_both_have_nothing_both_are_named(tmp_path):
    folder = write_results(tmp_path, {"random": {"A-v0": [1.0]}})
    write_grid(folder, ["ppo", "sb3/ppo"], ["A-v0"], range(3))
    assert says(sentences(folder)["A-v0"], NOTHING, "all", "`ppo`", "missing", "all", "`sb3/ppo`", "missing")


def origins(folder, **by_algo):
    """Results of two algorithms on two environments whose hyperparameters are from there, on the second one."""
    algos = {"ppo": by_algo["ppo"], "sb3/ppo": by_algo["sb3"]}
    write_grid(folder, algos, ["A-v0", "B-v0"], range(3))
    for algo, origin in algos.items():
        for seed in range(3):
            write_cell(folder, algo, "A-v0", seed, 1.0)
            write_cell(folder, algo, "B-v0", seed, 1.0, origin=origin)
    return folder


OURS, DEFAULT = "'B-v0' in ppo.yml of pg-agents 0.1.0", "'default' in ppo.yml of rl_zoo3 2.9.2"


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (OURS, DEFAULT, [["`sb3/ppo`", "rl_zoo3", "untuned", "B-v0"]]),
        (OURS, f"{DEFAULT}, with --n-timesteps", [["`sb3/ppo`", "rl_zoo3", "untuned", "B-v0"]]),
        ("the algorithm's own defaults", OURS, [["`ppo`", "class", "untuned", "B-v0"]]),
        (OURS, "'B-v0' in ppo.yml of rl_zoo3 2.9.2", []),
        (DEFAULT, DEFAULT, []),
        (DEFAULT, "the algorithm's own defaults", []),
    ],
)
def test_an_untuned_default_against_tuned_values_is_told(tmp_path, ours, theirs, said):
    folder = origins(tmp_path, ppo=ours, sb3=theirs)
    found = findings(folder).untuned("ppo", "sb3/ppo")
    assert [says(line, *facts) for line, facts in zip(found, said, strict=True)] == [True] * len(said)
    lines = write_report(folder)
    assert {line.replace("`", "") + "." for line in found} <= {*lines}
    text = (folder / "report.md").read_text()
    assert [says(text, "**Tuned against untuned**", line) for line in found] == [True] * len(said)
    assert ("untuned" in text) == bool(said)


def test_an_untuned_reference_of_several_algorithms_is_told_once(tmp_path):
    folder = origins(tmp_path, ppo=OURS, sb3=DEFAULT)
    for seed in range(3):
        write_cell(folder, "mine", "B-v0", seed, 1.0, origin="'B-v0' in mine.yml of acme 1.0")
    lines = write_report(folder, baseline="sb3/ppo")
    assert sum(says(line, "untuned", "B-v0") for line in lines) == 1


def test_how_an_entry_is_found_tells_an_untuned_one_apart():
    assert [find_entry("sb3/ppo", env)[1].partition(" in ")[0] for env in ("CartPole-v1", "pg/RPSMatch-v0")] == [
        *("'CartPole-v1'", "'default'")
    ]


def test_different_hyperparameters_are_told(tmp_path):
    folder = write_results(tmp_path, {"ppo": {"A-v0": [1.0, 2.0, 3.0]}, "sb3/ppo": {"A-v0": [1.0, 2.0, 3.0]}})
    assert findings(folder).unlike_hyperparams("ppo", "sb3/ppo") == {}
    for seed in range(3):
        write_cell(folder, "a2c", "A-v0", seed, 1.0, hyperparams={"n_timesteps": 10_000, "n_envs": 8, "gamma": 0.9})
    assert findings(folder).unlike_hyperparams("a2c", "sb3/ppo") == {"A-v0": ["gamma", "n_envs"]}
    write_report(folder, baseline="sb3/ppo")
    assert says((folder / "report.md").read_text(), "different hyperparameters", "gamma", "n_envs", "A-v0")


def test_the_same_score_in_every_seed_is_equal_and_another_one_is_a_difference(tmp_path):
    scores = {"ppo": {"A-v0": [500] * 5, "B-v0": [500] * 5}, "sb3/ppo": {"A-v0": [500] * 5, "B-v0": [9] * 5}}
    said = sentences(write_results(tmp_path, scores))
    assert says(said["A-v0"], "`ppo`", "`sb3/ppo`", "**equal scores**", "bit for bit", "5 seeds", 500)
    assert says(said["B-v0"], "**better**", "`sb3/ppo`", 500, 9, "491 [491, 491]")


def test_unequal_steps_are_told(tmp_path):
    folder = write_results(tmp_path, {"ppo": {"A-v0": [1.0, 2.0, 3.0]}})
    for seed in range(3):
        write_cell(folder, "sb3/ppo", "A-v0", seed, float(seed), steps=30_000)
        write_cell(folder, "a2c", "A-v0", seed, float(seed), steps=10_500)
    assert says(sentences(folder)["A-v0"], "3 seeds", "10,000", "30,000 steps")
    assert "steps" not in sentences(folder, baseline="a2c")["A-v0"]


def test_several_environments_together_by_hand(tmp_path):
    # Normalised, `ppo` has 1 on both, `sb3/ppo` 0.5 and 0; the best means, 20 and 200, are 1, random's 0 and 100 are 0.
    scores = {"ppo": {"A-v0": [20] * 3, "B-v0": [200] * 3}, "sb3/ppo": {"A-v0": [10] * 3, "B-v0": [100] * 3}}
    folder = write_results(tmp_path, scores, random={"A-v0": 0.0, "B-v0": 100.0})
    assert sentences(folder)["2 environments together"] == (
        "`ppo` is **better** than `sb3/ppo`: mean normalised score 1 against 0.25, difference 0.75 [0.75, 0.75], "
        "3 seeds each; difference of the IQMs 0.75 [0.75, 0.75], probability of improvement 1 [1, 1]. "
        "It holds after Holm's correction."
    )


def test_one_environment_alone_is_not_put_together(tmp_path):
    scores = {"ppo": {"A-v0": [1.0, 2.0, 3.0]}, "sb3/ppo": {"A-v0": [1.0, 2.0, 4.0]}}
    assert list(sentences(write_results(tmp_path, scores, random={"A-v0": 0.0}))) == ["A-v0"]


def test_one_run_cannot_outweigh_other_environments_when_they_are_put_together(tmp_path):
    scores = {"ppo": {"A-v0": [10, 10, 10]}, "a2c": {"A-v0": [-1000, -5, 25]}}
    found = findings(write_results(tmp_path, scores, random={"A-v0": 0.0}))
    assert found.normalised("a2c", ["A-v0"]).tolist() == [[-1], [-0.5], [2]]


# What scores are measured by


def scale(folder, env):
    return scale_of(read(folder), env)


def test_one_is_the_known_optimum(tmp_path):
    import pg_envs

    env = "pg/AliasedGridworld-v0"
    folder = write_results(tmp_path, {"ppo": {env: [0.0, 0.1, 0.2]}}, random={env: -0.9})
    known = pg_envs.reference_scores(env)
    found = scale(folder, env)
    # The exact value of random actions is better than a measured one.
    assert (found.random, found.one, found.best) == (known["random"], known["optimum"], (0.825, "optimum"))
    assert found.normalise(0.5) == pytest.approx(pg_envs.normalised_score(0.5, known))


def test_the_known_optimum_is_that_of_the_environments_own_arguments(tmp_path):
    import pg_envs

    env, kwargs = "pg/TorqueLQR-v0", {"n_joints": 2}
    folder = write_results(tmp_path, {"ppo": {env: [-1.0] * 3}}, hyperparams={"env_kwargs": kwargs})
    assert scale(folder, env).one == pg_envs.reference_scores(env, **kwargs)["optimum"]
    assert scale(folder, env).one != pg_envs.reference_scores(env)["optimum"]


def test_one_is_a_reference_controller_where_no_optimum_is_known(tmp_path):
    env = "pg/TorquePendulum-v0"
    found = scale(write_results(tmp_path, {"ppo": {env: [-50.0] * 3}}), env)
    assert "controller" in found.why
    assert -11 < found.one < -8


def test_one_is_the_reward_threshold_where_nothing_is_known(tmp_path):
    folder = write_results(tmp_path, {"ppo": {"CartPole-v1": [500] * 3}}, random={"CartPole-v1": 20.0})
    found = scale(folder, "CartPole-v1")
    assert (found.random, found.one, found.threshold, found.best) == (20, 475, 475, None)
    assert "solved" in found.why


@pytest.mark.parametrize("env", ["Pendulum-v1", "NotInstalled-v0"])
def test_one_is_the_best_mean_where_there_is_no_threshold_either(tmp_path, env):
    scores = {"ppo": {env: [-100.0, -300.0, -200.0]}, "a2c": {env: [-900.0] * 3}}
    found = scale(write_results(tmp_path, scores, random={env: -1200.0}), env)
    assert (found.random, found.one, found.threshold) == (-1200, -200, None)
    assert says(found.why, "mean", "`ppo`", "best")


@pytest.mark.parametrize(
    ("env", "random", "why"),
    [
        ("Pendulum-v1", -100.0, ["random", "-100", "`ppo`", "-200"]),
        ("Pendulum-v1", None, ["random", "not known"]),
        # Rock-paper-scissors: nobody loses who plays at random.
        ("pg/RPSMatch-v0", 0.0, ["random", 0, "exact optimum", 0]),
    ],
)
def test_nothing_is_normalised_where_there_is_nothing_to_measure_by(tmp_path, env, random, why):
    folder = write_results(tmp_path, {"ppo": {env: [-200.0] * 3}}, random={} if random is None else {env: random})
    found = scale(folder, env)
    assert found.one is None
    assert says(found.why, *why)


# What is left out


def test_environments_with_fewer_seeds_of_one_algorithm_are_left_out_of_what_is_put_together(tmp_path):
    scores = {
        "ppo": {"A-v0": [1.0] * 3, "B-v0": [1.0] * 3, "C-v0": [1.0] * 2, "D-v0": [1.0] * 3},
        "a2c": {"A-v0": [2.0] * 3, "B-v0": [2.0] * 2, "C-v0": [2.0] * 2, "D-v0": [2.0] * 3},
        "sb3/ppo": {"A-v0": [3.0] * 3},
    }
    random = {"A-v0": 0.0, "B-v0": 0.0, "C-v0": 0.0, "D-v0": 5.0}
    found = findings(write_results(tmp_path, scores, random=random))
    chosen = found.select(["ppo", "a2c"])
    assert (chosen.envs, chosen.n_seeds) == (("A-v0",), 3)
    assert list(chosen.left_out) == ["B-v0", "C-v0", "D-v0"]
    assert says(chosen.left_out["B-v0"], "3 seeds", 2, "`a2c`")
    assert says(chosen.left_out["C-v0"], "3 seeds", 2, "`ppo`", 2, "`a2c`")
    assert says(chosen.left_out["D-v0"], "random", 5, "`a2c`", 2)
    assert says(found.select(["ppo", "sb3/ppo"]).left_out["D-v0"], "3 seeds", 0, "`sb3/ppo`")


def test_unequal_numbers_of_seeds_are_not_put_together(tmp_path):
    scores = {"ppo": {"A-v0": [1.0] * 4, "B-v0": [1.0] * 4}, "sb3/ppo": {"A-v0": [2.0] * 3, "B-v0": [2.0] * 3}}
    folder = write_results(tmp_path, scores, random={"A-v0": 0.0, "B-v0": 0.0})
    left_out = findings(folder).select(["ppo", "sb3/ppo"]).left_out
    assert [*left_out] == ["A-v0", "B-v0"]
    assert all(says(why, "3 seeds", 4, "`ppo`") for why in left_out.values())
    assert list(sentences(folder)) == ["A-v0", "B-v0"]


def test_an_unfinished_environment_leaves_the_others_together(tmp_path):
    scores = {"ppo": {"A-v0": [1.0] * 4}, "sb3/ppo": {"A-v0": [2.0] * 3}}
    for algo in scores:
        scores[algo] |= {"B-v0": [1.0, 2.0, 3.0], "C-v0": [1.0, 2.0, 3.0]}
    folder = write_results(tmp_path, scores, random={"A-v0": 0.0, "B-v0": 0.0, "C-v0": 0.0})
    chosen = findings(folder).select(["ppo", "sb3/ppo"])
    assert (chosen.envs, [*chosen.left_out]) == (("B-v0", "C-v0"), ["A-v0"])


def test_another_task_under_the_same_name_is_told_and_not_compared(tmp_path):
    folder = write_results(tmp_path, {"ppo": {"A-v0": [1.0, 2.0, 3.0]}}, hyperparams={"env_kwargs": {"size": 2}})
    for seed in range(3):
        write_cell(folder, "sb3/ppo", "A-v0", seed, float(seed), hyperparams={"env_kwargs": {"size": 3}})
    found = findings(folder)
    assert sentences(folder) == {}
    assert found.tally("ppo", "sb3/ppo") == "no environment has both"
    assert says(found.notes()[-1], "A-v0", "{'size': 2}", "{'size': 3}")
    assert says(found.select(["ppo"]).left_out["A-v0"], "not the same task")


def test_notes_tell_of_missing_and_failed_cells_and_mixed_versions(tmp_path):
    folder = write_results(tmp_path, {"ppo": {"A-v0": [1.0] * 4}}, seeds=range(5), random={"A-v0": 0.0})
    write_cell(folder, "random", "A-v0", 4, 0.0, versions={"torch": "2.14.0"})
    (folder / "failed").mkdir()
    (folder / "failed/ppo-A-v0-seed_4.txt").write_text("Traceback\nRuntimeError: it broke\n")
    missing, failed, mixed = findings(folder).notes()
    assert says(missing, 1, 10, "`pg-zoo benchmark -o somewhere`")
    assert says(failed, 1, "failed", "“What was run”")
    assert says(mixed, "torch", "2.13.0", "2.14.0")
    write_report(folder)
    page = (folder / "report.md").read_text()
    assert says(page, "ppo-A-v0-seed_4", "RuntimeError: it broke", "`failed/ppo-A-v0-seed_4.txt`")
    assert "* `ppo` on A-v0: seeds 4" in page


@pytest.mark.parametrize(
    ("commits", "said"),
    [
        (["1a", "1a+changes"], [["commits", "1a", "1a+changes"]]),
        ([None, "1a"], [["commits", "unknown", "1a"]]),
        (["1a", "1a"], []),
        ([None, None], []),
    ],
)
def test_cells_made_by_different_code_are_told(tmp_path, commits, said):
    write_grid(tmp_path, [], ["A-v0"], range(2))
    for seed, commit in enumerate(commits):
        versions = {"torch": "2.13.0"} | ({COMMIT: commit} if commit else {})
        write_cell(tmp_path, "random", "A-v0", seed, 0.0, versions=versions)
    notes = findings(tmp_path).notes()
    assert [says(note, *facts) for note, facts in zip(notes, said, strict=True)] == [True] * len(said)


# The report


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported")
    envs = {"CartPole-v1": (400, 20), "pg/AliasedGridworld-v0": (0.5, -0.73)}
    scores = {
        algo: {env: spread(mean, abs(mean) / 10, 5, seed=i) for env, (mean, _) in envs.items()}
        for i, algo in enumerate(["ppo", "sb3/ppo"])
    }
    write_results(folder, scores, random={env: random for env, (_, random) in envs.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "N_RESAMPLES", 50)
        lines = write_report(folder)
    return SimpleNamespace(folder=folder, lines=lines, markdown=(folder / "report.md").read_text())


def test_the_user_is_told_what_was_found_and_where_it_is(reported):
    found, where = reported.lines
    assert says(found, "ppo", "sb3/ppo", "no difference shown", 2, "2 environments")
    assert where == f"Report: {reported.folder / 'report.html'}"


def test_a_report_has_its_parts(reported):
    headings = re.findall(r"^## (.*)", reported.markdown, re.M)
    assert headings == [
        "Verdicts",
        "In plain words",
        "All environments together",
        "CartPole-v1",
        "pg/AliasedGridworld-v0",
        "Speed",
        "What was run",
        "How the numbers are made",
    ]
    shown = re.findall(r"!\[.*?\]\((.*?)\)", reported.markdown)
    assert len(shown) == 8
    written = {path.relative_to(reported.folder).as_posix() for path in reported.folder.glob("figures/*")}
    assert written == {*shown} | {name.replace(".png", ".pdf") for name in shown}


def test_the_scores_of_an_environment_by_hand(reported):
    section = reported.markdown.partition("\n## CartPole-v1\n")[2]
    table = [line for line in section.splitlines() if line.startswith("|")]
    assert table[0] == ("| algorithm | seeds | mean [95 %] | IQM [95 %] | worst seed | best seed | normalised [95 %] |")
    # s = 40 and 5 seeds: ± 2.776 · 40 / √5 = 49.66; normalised (400 − 20) / 455 = 0.835 ± 49.66 / 455 = 0.109.
    scores = spread(400, 40, 5)
    assert table[2].startswith("| `ppo` | 5 | 400 [350, 450] | ")
    # All numbers of a column have the same digits.
    assert table[2].endswith(f" | {min(scores):.0f} | {max(scores):.0f} | 0.84 [0.73, 0.94] |")
    assert table[4] == "| `random` | 5 | 20 [20, 20] | 20 [20, 20] | 20 | 20 | 0.00 [0.00, 0.00] |"
    assert says(section, "Random", 20, "solved", 475, "normalisation")
    assert table[5] == "| algorithm | steps | training time | steps/s (range) | memory (MiB) |"
    assert table[7] == "| `ppo` | 10,000 | 12.0 s | 833 (714 to 1,000) | 300 |"


def test_random_actions_are_a_row_of_what_it_costs(reported):
    section = reported.markdown.partition("\n## CartPole-v1\n")[2]
    assert "\n| `random` | 0 |  |  | 300 |\n" in section


def test_random_actions_are_compared_with_by_probability_of_improvement(reported):
    # All runs of both score higher than random actions.
    assert "\n| `ppo` | `random` | 1 [1, 1] |\n| `sb3/ppo` | `random` | 1 [1, 1] |\n" in reported.markdown


@pytest.mark.parametrize(
    ("envs", "name"),
    [
        (["pg/AliasedGridworld-v0", "pg/TorqueBandit-v0"], "optimal (known)"),
        (["pg/AliasedGridworld-v0", "CartPole-v1"], "upper end"),
        (["pg/TorquePendulum-v0"], "upper end"),  # that of a controller, which can be surpassed
    ],
)
def test_the_last_row_of_aggregates_is_optimal_where_the_optimum_is_known(tmp_path, envs, name):
    scores = {"ppo": {env: [0.1, 0.2, 0.3] for env in envs}}
    write_report(write_results(tmp_path, scores, random=dict.fromkeys(envs, -20.0)))
    text = (tmp_path / "report.md").read_text()
    together = text.partition("\n## All environments together\n")[2].partition("\n## ")[0]
    assert f"\n| {name} | 1 | 1 | 1 | 0 |\n" in together


def test_a_controllers_score_is_not_called_optimal(tmp_path):
    import pg_envs

    write_report(write_results(tmp_path, {"ppo": {"pg/TorquePendulum-v0": [-50.0] * 3}}))
    text = (tmp_path / "report.md").read_text()
    known = pg_envs.reference_scores("pg/TorquePendulum-v0")["controller"]
    assert f"\n| controller (known) |  | {known:.3f} |" in text
    assert "optimal (known)" not in text


def test_known_optima_are_rows(reported):
    assert "| optimal (known) |  | 0.825 |  |  |  | 1 |" in reported.markdown
    assert "the exact optimum is 0.825" in reported.markdown


def test_what_is_one_after_normalisation_is_said_for_each_environment(reported):
    assert "* on CartPole-v1: the return at which it counts as solved, 475\n" in reported.markdown
    assert "* on pg/AliasedGridworld-v0: the exact optimum, 0.825\n" in reported.markdown


def test_hyperparameters_come_with_the_defaults_of_what_they_leave_out(tmp_path):
    write_results(tmp_path, {"ppo": {"A-v0": [1, 2, 3]}}, hyperparams={"gamma": 0.9}, defaults={"n_steps": 2048})
    write_report(tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "A-v0:\n  gamma: 0.9\n  # The algorithm's defaults:\n  # n_steps: 2048\n" in page
    write_cell(tmp_path, "ppo", "A-v0", 3, 3.0, hyperparams={"gamma": 0.9}, defaults={"n_steps": 64})
    with pytest.raises(UserError, match=saying("ppo", "A-v0", "defaults", "seed 3", "seed 0")):
        write_report(tmp_path)


def test_every_figure_says_how_many_seeds_it_is_of(reported):
    captions = re.findall(r"!\[.*\n\n(.*)", reported.markdown)
    assert len(captions) == 5
    assert all(re.search(r"\b5 seeds\b", caption) for caption in captions)


class Page(html.parser.HTMLParser):
    """Its tags, which must match, and what they refer to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.refers, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.refers += [(tag, value) for name, value in attributes if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_that_needs_nothing_else(reported):
    text = (reported.folder / "report.html").read_text()
    parsed = Page(text)
    assert parsed.open == []
    assert not {"script", "link", "img", "iframe", "object"} & {*parsed.tags}
    assert all(value.startswith("#") for _, value in parsed.refers)
    assert not re.search(r"@import|url\((?!#)", text)
    assert parsed.tags.count("svg") == 8


def test_no_two_parts_of_the_page_have_one_name_and_all_that_is_referred_to_is_there(reported):
    parsed = Page((reported.folder / "report.html").read_text())
    assert len(parsed.ids) == len({*parsed.ids})
    assert {value[1:] for _, value in parsed.refers} <= {*parsed.ids}


def test_figures_take_the_pages_own_colour_of_text(reported):
    text = (reported.folder / "report.html").read_text()
    assert "currentColor" in text
    assert "prefers-color-scheme: dark" in text
    assert "#000000" not in text


def test_the_tables_are_there_for_pandas(reported):
    results = read(reported.folder)
    for name in ("cells", "curves", "evaluations"):
        again = pd.read_csv(reported.folder / f"{name}.csv", float_precision="round_trip")
        pd.testing.assert_frame_equal(again, getattr(results, name), check_dtype=False)


def test_the_same_results_give_the_same_files_byte_for_byte(reported, drawn, tmp_path):
    np.random.seed(7)  # noqa: NPY002 - whatever state NumPy's generator is in
    write_report(reported.folder, output=tmp_path / "again")
    names = {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*")}
    assert len(names) == 21
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (reported.folder / name).read_bytes(), name


@pytest.mark.parametrize(
    ("scores", "random", "said"),
    [
        ({"ppo": {"A-v0": [1.0, 2.0, 3.0]}}, {}, "nothing to compare"),
        ({"ppo": {"A-v0": [1.0, 2.0, 3.0]}}, {"A-v0": 0.0}, "`ppo` against `random`"),
        ({"ppo": {"A-v0": [1.0]}, "a2c": {"A-v0": [2.0]}}, {"A-v0": 0.0}, "No environment qualifies."),
        ({"ppo": {"A-v0": [5.0] * 3}, "a2c": {"A-v0": [5.0] * 3}}, {"A-v0": 0.0}, "**equal scores**"),
        (
            {"ppo": {"A-v0": [1.0] * 3}, "a2c": {"B-v0": [2.0] * 3}},
            {},
            "Nothing can be concluded on 2 of 2",
        ),
        ({"random": {"A-v0": [1.0] * 3}}, {}, "nothing to compare"),
    ],
    ids=["one algorithm", "one and random", "one seed", "identical", "apart", "random alone"],
)
def test_results_with_little_in_them_have_a_report_too(tmp_path, scores, random, said):
    folder = write_results(tmp_path, scores, random=random)
    write_report(folder)
    assert said in (folder / "report.md").read_text()
    assert Page((folder / "report.html").read_text()).open == []


def test_algorithms_that_were_never_asked_for_on_the_same_environment_are_not_compared(tmp_path):
    folder = write_results(tmp_path, {"ppo": {"A-v0": [1.0] * 3}, "a2c": {"B-v0": [2.0] * 3}})
    cells = {"ppo": {"A-v0": [0, 1, 2]}, "a2c": {"B-v0": [0, 1, 2]}}
    (folder / "benchmark.json").write_text(json.dumps({"format": 1, "command": "pg-zoo", "cells": cells}))
    assert findings(folder).tally("a2c", "ppo") == "no environment has both"


def test_trainings_without_curves_have_a_report_too(tmp_path):
    write_grid(tmp_path, ["ppo"], ["CartPole-v1"], range(3))
    for seed in range(3):
        write_cell(tmp_path, "ppo", "CartPole-v1", seed, 100.0 + seed, peak_memory_mib=None)
        write_cell(tmp_path, "random", "CartPole-v1", seed, 20.0)
    write_report(tmp_path)
    assert "CartPole-v1_steps" not in (tmp_path / "report.md").read_text()


def test_many_algorithms_and_environments_have_a_report_too(tmp_path, drawn):
    algos, envs = [*(f"a{i}" for i in range(6)), "sb3/ppo"], ["A-v0", "B-v0"]  # more than there are colours
    scores = {algo: {env: spread(i, 1.0, 3) for env in envs} for i, algo in enumerate(algos)}
    write_report(write_results(tmp_path, scores, random=dict.fromkeys(envs, -5.0)))
    assert Page((tmp_path / "report.html").read_text()).open == []


# The command


def test_the_command_writes_where_it_is_told_and_compares_with_whom_it_is_told(tmp_path, capsys):
    scores = {
        "ppo": {"A-v0": [1.0, 2.0, 3.0]},
        "a2c": {"A-v0": [11.0, 12.0, 13.0]},
        "sb3/ppo": {"A-v0": [1.0, 2.0, 3.0]},
    }
    folder = write_results(tmp_path / "runs", scores)
    assert main(["report", str(folder), "--baseline", "a2c", "-o", str(tmp_path / "here")]) == 0
    reading, missing, first, second, where = capsys.readouterr().out.splitlines()
    assert says(reading, folder)
    assert says(missing, 3, 12, "pg-zoo benchmark -o somewhere")
    assert says(first, "ppo", "a2c", "worse", 1, 1)
    assert says(second, "sb3/ppo", "a2c", "worse", 1, 1)
    assert where == f"Report: {tmp_path / 'here/report.html'}"
    assert not (folder / "report.html").exists()
    assert main(["report", str(folder), "--verbose", "0"]) == 0
    assert capsys.readouterr().out == ""
    assert (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ([], ["folder", "pg-zoo report --help"]),
        (["nowhere"], ["nowhere", "no benchmark.json", "`pg-zoo benchmark`"]),
        (["runs", "--baseline", "sb3/pp"], ["--baseline", "'sb3/pp'", "ppo, random"]),
        (["runs", "-o", "runs/benchmark.json"], ["-o/--output", "runs/benchmark.json", "Not a directory"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, arguments, facts):
    monkeypatch.chdir(tmp_path)
    write_results("runs", {"ppo": {"A-v0": [1.0, 2.0, 3.0]}}, random={"A-v0": 0.0})
    before = {*tmp_path.rglob("*")}
    assert main(["report", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, "pg-zoo: error: ", *facts)
    assert {*tmp_path.rglob("*")} == before


def test_a_full_disk_leaves_the_old_report(tmp_path, monkeypatch, capsys):
    folder = write_results(tmp_path, {"ppo": {"A-v0": [1.0, 2.0, 3.0]}}, random={"A-v0": 0.0})
    (folder / "cells.csv").write_text("old")
    write = Path.write_bytes

    def full(path, data):
        if "cells.csv" not in path.name:
            return write(path, data)
        write(path, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["report", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, "pg-zoo: error: ", "-o/--output", folder, "No space left on device")
    assert (folder / "cells.csv").read_text() == "old"
    assert not list(folder.rglob(".*"))


@pytest.mark.parametrize("package", ["pandas", "rliable", "matplotlib"])
def test_without_the_extra_a_line_says_how_to_get_it(package, tmp_path, monkeypatch, warm):
    monkeypatch.chdir(tmp_path)
    missing = f"import sys; assert {package!r} not in sys.modules; sys.modules[{package!r}] = None"
    status, _, errors = warm.run("report", "x", before=missing)
    (line,) = errors.splitlines()
    assert says(line, "pg-zoo: error: ", package, "pip install 'pg-agents[report]'")
    assert status == 2


# Words and marks


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        ((487.32, 470.1, 504.6), "487 [470, 505]"),
        ((0.5, 0.41, 0.59), "0.500 [0.410, 0.590]"),
        ((-182.345, -183.5, -181.2), "-182.3 [-183.5, -181.2]"),
        # Better: the lower bound must be seen to be above 0.
        ((2.0, 0.004, 4.0), "2.000 [0.004, 4.000]"),
        ((0.0, 0.0, 0.0), "0 [0, 0]"),
        ((500.0, 500.0, 500.0), "500 [500, 500]"),
        ((12345.6, 11000.0, 13700.0), "12,346 [11,000, 13,700]"),
        ((3.14159, np.nan, np.nan), "3.142"),
        ((-0.001, -2.0, 2.0), "0.0 [-2.0, 2.0]"),
    ],
)
def test_an_interval_has_the_digits_that_it_deserves(estimate, text):
    assert interval(Estimate(*estimate)) == text


def test_numbers_in_words():
    assert [number(value) for value in (0, -0.0, 3.14159, 123456.7, -1234.5, 0.00012345)] == [
        *("0", "0", "3.142", "123,457", "-1,234", "0.0001234")
    ]
    assert [duration(seconds) for seconds in (1.25, 119, 120, 7199, 7200)] == [
        *("1.2 s", "119.0 s", "2.0 min", "120.0 min", "2.0 h")
    ]
    assert [count(1, "seed"), count(2, "seed")] == ["1 seed", "2 seeds"]
    assert [listed([]), listed(["a"]), listed(["a", "b", "c"])] == ["", "a", "a, b and c"]
    assert ranges([5, 0, 1, 2, 9, 8]) == "0-2, 5, 8-9"


def test_markup_of_names_and_messages_cannot_break_the_page():
    blocks = [
        Heading(2, "a <b> & `c<d>`"),
        Text("**x < y** and 2 * 3 * 4"),
        Bullets(["<script>alert(1)</script>"]),
        Table(["a|b"], [["c|d"]]),
        Details("<i>", "</details>"),
    ]
    text = page("<title>", blocks)
    assert Page(text).open == []
    assert "script" not in Page(text).tags
    assert '<h2 id="a-b-c-d">a &lt;b&gt; &amp; <code>c&lt;d&gt;</code></h2>' in text
    assert "<p><b>x &lt; y</b> and 2 * 3 * 4</p>" in text
    assert "| a\\|b |\n| --- |\n| c\\|d |" in markdown(blocks)


def test_drawing_leaves_matplotlibs_settings_alone(drawn):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    look = figures.Look(["ppo"])
    figures.png(figures.throughput(look, {"A-v0": {"ppo": np.array([1.0, 2.0])}}))
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


EVIL = '<script>alert(1)</script>"onload="x'


def test_html_in_names_stays_text():
    blocks = [Heading(1, EVIL), Text(f"{EVIL} [x](javascript:x) `{EVIL}` a < b"), Bullets([EVIL])]
    blocks += [Table(["", EVIL], [[EVIL, "1"]]), Details(EVIL, f"```\n{EVIL}\n````\n{EVIL}")]
    written, shown = markdown(blocks), page(EVIL, blocks)
    assert "<script" not in shown
    # Code in backquotes and within a longer fence is text in Markdown.
    outside = re.sub(r"`{5}\n.*?\n`{5}\n|`[^`\n]+`", "", written, flags=re.DOTALL)
    assert "<script" not in outside
    assert "](" not in outside
    assert "a < b" in written


def test_hostile_names_in_results_stay_text_and_lead_nowhere(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "a/b/results"
    outside.mkdir()
    evil = f"../../../outside/{EVIL}"
    scores = {
        "algo": {"env": [1.0, 2.0], "CartPole-v1": [1.0, 2.0]},
        "ppo": {"env": [1.0, 2.0], "CartPole-v1": [2.0, 3.0]},
    }
    write_results(folder, scores)
    name = json.dumps(evil)
    for file in folder.rglob("*.json"):
        written = (
            file.read_text().replace('"env": "env"', f'"env": {name}').replace('"algo": "algo"', f'"algo": {name}')
        )
        file.write_text(written.replace('{"env": [', f"{{{name}: [").replace('"algo": {', f"{name}: {{"))
    write_report(folder)
    assert "<script" not in (folder / "report.html").read_text()
    assert "script" in (folder / "report.html").read_text()
    markdown = re.sub(r"```+\n.*?\n```+\n|`[^`\n]+`", "", (folder / "report.md").read_text(), flags=re.DOTALL)
    assert "<script" not in markdown
    assert not list(outside.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "a"}
