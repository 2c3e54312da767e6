"""What a report has for those who copy from it: verdicts, numbers of figures, LaTeX, thresholds, TensorBoard."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from prose import saying, says
from synthetic import spread, write_cell, write_grid, write_results
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import plugin_data_pb2

from pg_zoo.cli import main
from pg_zoo.errors import UserError
from pg_zoo.pages import figures
from pg_zoo.pages.document import Bullets, Details, Heading, Table, Text
from pg_zoo.pages.latex import latex
from pg_zoo.pages.report import write_report
from pg_zoo.results import statistics
from pg_zoo.results.findings import Findings
from pg_zoo.results.statistics import Estimate
from pg_zoo.results.tables import read
from pg_zoo.words import digits_of


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few resamples, and blank figures."""
    monkeypatch.setattr(statistics, "N_RESAMPLES", 20)

    def blank(figure, file, *, format, **options):
        file.write("<svg></svg>" if format == "svg" else b"")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", blank)


def tables(markdown):
    """The rows of each table, without its rule, by caption."""
    found = re.findall(r"^(\*\*Table \d+\.\*\* .*)\n\n((?:\|.*\n)+)", markdown, re.M)
    return {
        caption: [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows.splitlines()]
        for caption, rows in found
    }


def table(folder, *words):
    """The one table whose caption has these words."""
    (found,) = (
        rows for caption, rows in tables((folder / "report.md").read_text()).items() if all(w in caption for w in words)
    )
    return found


# Verdicts and numbers


def test_the_verdicts_are_the_first_table(tmp_path):
    scores = {
        # s = 1 and 10 seeds: Student's interval is the difference ± 2.2622 / √10 = ± 0.72.
        "ppo": {"A-v0": spread(12.0, 1.0, 10), "B-v0": [7.0] * 10},
        "sb3/ppo": {"A-v0": [10] * 10, "B-v0": [7.0] * 10},
    }
    write_report(write_results(tmp_path, scores))
    text = (tmp_path / "report.md").read_text()
    assert text.index("**Table 1.**") < text.index("## In plain words")
    head, _, *rows = table(tmp_path, "Table 1")
    assert head == ["environment", "algorithm", "verdict", "against", "difference [95 %]", "n", "Holm"]
    assert rows == [
        ["A-v0", "`ppo`", "**better**", "`sb3/ppo`", "2.00 [1.28, 2.72]", "10", "holds"],
        ["B-v0", "`ppo`", "equal scores", "`sb3/ppo`", "0 [0, 0]", "10", ""],
    ]


def test_tables_and_figures_are_numbered_in_their_order(tmp_path):
    scores = {algo: {"A-v0": spread(1.0, 0.1, 3), "B-v0": spread(2.0, 0.1, 3)} for algo in ("ppo", "a2c")}
    write_report(write_results(tmp_path, scores, random={"A-v0": 0.0, "B-v0": 0.0}), formats=["markdown", "html"])
    for text in ((tmp_path / name).read_text() for name in ("report.md", "report.html")):
        for kind, at_least in (("Figure", 5), ("Table", 7)):
            numbers = [int(found) for found in re.findall(rf"(?:\*\*|<b>){kind} (\d+)\.", text)]
            assert numbers == [*range(1, len(numbers) + 1)]
            assert len(numbers) >= at_least


@pytest.mark.parametrize(
    ("estimates", "digits"),
    [
        ([(487.32, 470.1, 504.6), (20.0, 20.0, 20.0)], 0),  # ± 17
        ([(487.32, 470.1, 504.6), (302.5, 299.3, 305.7)], 1),  # ± 3.2 needs one more
        ([(0.835, 0.726, 0.944)], 2),
        ([(487.32, np.nan, np.nan)], 1),  # four significant digits
        ([(1000.0, 999.99999, 1000.00001)], 1),  # of very narrow ones no more than five
        ([(0.0, 0.0, 0.0)], 3),
    ],
)
def test_a_column_has_the_digits_of_its_narrowest_interval(estimates, digits):
    assert digits_of(estimates) == digits


# Hyperparameters with the same effect


@pytest.mark.parametrize(
    ("ours", "theirs", "defaults", "unlike"),
    [
        ({"batch_size": 64}, {}, ({}, {"batch_size": 64}), []),
        ({"batch_size": 64}, {}, ({}, {"batch_size": 32}), ["batch_size"]),
        ({"n_envs": 1, "normalize": False}, {}, ({}, {}), []),
        ({"n_envs": 8}, {}, ({}, {}), ["n_envs"]),
        # Both leave it out, and the algorithms differ in their defaults.
        ({}, {}, ({"gamma": 0.99}, {"gamma": 0.9}), ["gamma"]),
        # An argument that the other does not have matters only if it is set.
        ({}, {}, ({"engine": "auto"}, {}), []),
        ({"kl_target": 0.01}, {}, ({}, {"gamma": 0.9}), ["kl_target"]),
    ],
)
def test_hyperparameters_differ_if_their_effective_values_do(tmp_path, ours, theirs, defaults, unlike):
    write_grid(tmp_path, ["ppo", "sb3/ppo"], ["A-v0"], range(1))
    for algo, values, known in (("ppo", ours, defaults[0]), ("sb3/ppo", theirs, defaults[1])):
        write_cell(tmp_path, algo, "A-v0", 0, 1.0, hyperparams={"n_timesteps": 9, **values}, defaults=known)
    found = Findings(read(tmp_path), [("ppo", "sb3/ppo")]).unlike_hyperparams("ppo", "sb3/ppo")
    assert found == ({"A-v0": unlike} if unlike else {})


# Thresholds


def test_steps_and_seconds_to_a_threshold_by_hand(tmp_path):
    """Each run has evaluations after 3,000, 6,000 and 10,000 steps, with 1/4, 1/2 and all of its score."""
    scores = {"ppo": {"CartPole-v1": [100.0, 200.0, 200.0]}, "a2c": {"CartPole-v1": [100.0, 50.0, 200.0]}}
    write_results(tmp_path, scores, random={"CartPole-v1": 20.0})
    write_report(tmp_path, thresholds=100)
    rows = table(tmp_path, "CartPole-v1", "at least 100")
    assert rows[0] == ["algorithm", "reached 100", "steps [95 %]", "seconds [95 %]"]
    # ppo: 10,000, 6,000 and 6,000 steps. s = 2,309.4, so ± 4.3027 s / √3 = ± 5,737. Seconds: 10, 7 and 8.
    assert rows[3] == ["`ppo`", "3 of 3", "7,333 [1,596, 13,070]", "8.3 [4.5, 12.1]"]
    # a2c: 10,000, never, 6,000. The one that never got there counts with its 10,000 steps.
    assert rows[2][:2] == ["`a2c`", "2 of 3"]
    assert rows[2][2].startswith("≥ 8,667 [")
    assert rows[2][3].startswith("≥ 9.7 [")
    write_report(tmp_path)  # by default, the return that solves it
    rows = table(tmp_path, "CartPole-v1", "at least 475")[2:]
    assert [row[1:3] for row in rows] == [["0 of 3", "≥ 10,000"]] * 2


def test_the_mean_time_to_a_threshold_counts_censored_runs_with_their_end():
    curves = [np.array([[10.0, 1.0], [20.0, 5.0]]), np.array([[10.0, 1.0], [30.0, 2.0]]), np.array([[10.0, 9.0]])]
    time, reached, n = statistics.mean_time_to(5.0, curves)
    assert (time.value, reached, n) == ((20 + 30 + 10) / 3, 2, 3)


@pytest.mark.parametrize(
    ("given", "found"),
    [(["475"], 475.0), (["-200"], -200.0), (["A-v0:1", "ns/B-v0:-2e3"], {"A-v0": 1.0, "ns/B-v0": -2000.0})],
)
def test_thresholds_of_the_command_line(monkeypatch, given, found):
    seen = []
    monkeypatch.setattr("pg_zoo.pages.report.write_report", lambda folder, **options: seen.append(options) or [])
    assert main(["report", "x", "--threshold", *given]) == 0
    assert seen[0]["thresholds"] == found


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        (["high"], ["--threshold", "'high'"]),
        (["nan"], ["--threshold", "'nan'"]),
        (["A-v0:1", "2"], ["--threshold", "ENV:SCORE", "'2'"]),
        (["C-v0:1"], ["--threshold", "'C-v0'", "A-v0"]),
    ],
)
def test_a_threshold_that_is_none_is_one_line(tmp_path, capsys, given, facts):
    folder = write_results(tmp_path, {"ppo": {"A-v0": [1.0, 2.0, 3.0]}})
    assert main(["report", str(folder), "--threshold", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says(line, "pg-zoo: error: ", *facts)


# Figures


def test_an_algorithm_has_its_colour_in_every_report():
    reports = [["ppo"], ["a2c", "mine", "ppo", "sb3/ppo"], ["mine", "reinforce", "sb3/ppo"], ["zzz", "ppo"]]
    looks = [figures.Look(algos) for algos in reports]
    for algo in ("ppo", "mine", "sb3/ppo"):
        assert len({look.color(algo) for look in looks if algo in look.algos}) == 1
        assert len({look.line(algo)["marker"] for look in looks if algo in look.algos}) == 1


def test_no_two_algorithms_of_a_report_share_a_colour_while_there_are_enough():
    algos = ["ppo", "sb3/ppo", *(f"mine_{i}" for i in range(10))]
    look = figures.Look(algos)
    assert len({look.color(algo) for algo in algos}) == 12
    assert figures.Look([*algos, "one more"]).color("one more")


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return np.dot(
        [0.2126, 0.7152, 0.0722], [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    )


@pytest.mark.parametrize("page", ["#ffffff", "#15181c"])
def test_all_colours_have_contrast_on_the_light_and_on_the_dark_page(page):
    look = figures.Look(["ppo", "sb3/ppo", *(f"mine_{i}" for i in range(10))])
    for color in {look.color(algo) for algo in look.algos}:
        one, other = sorted([luminance(color), luminance(page)])
        assert (other + 0.05) / (one + 0.05) >= 3  # WCAG's for graphics


def test_no_figure_is_wider_than_a_phone():
    algos = [f"algorithm_{i}" for i in range(9)]
    look, one = figures.Look(algos), Estimate(0.5, 0.4, 0.6)
    curves = {algo: (np.arange(3.0), Estimate(*np.ones((3, 3)))) for algo in algos}
    pairs = {(x, y): one for x in algos for y in algos if x < y}
    drawn = [
        figures.aggregates(look, {algo: dict.fromkeys(statistics.AGGREGATES, one) for algo in algos}),
        figures.improvement(algos, pairs),
        figures.throughput(look, {env: {algo: np.ones(3) for algo in algos} for env in "ABCDE"}),
        figures.learning_curves(look, curves, {}, seconds=False),
        figures.performance_profiles(look, np.arange(3.0), {algo: curves[algo][1] for algo in algos}),
    ]
    assert {figure.get_figwidth() for figure in drawn} == {figures.WIDTH}


@pytest.mark.parametrize(("n", "thin"), [(1, 0), (2, 2), (5, 5), (6, 0)])
def test_few_seeds_have_a_line_each(tmp_path, monkeypatch, n, thin):
    drawn = []
    draw = figures.learning_curves
    monkeypatch.setattr(
        figures, "learning_curves", lambda *args, **kwargs: drawn.append(draw(*args, **kwargs)) or drawn[-1]
    )
    write_report(write_results(tmp_path, {"ppo": {"A-v0": [*range(n)]}}))
    for figure in drawn:
        (axes,) = figure.axes
        assert sum(line.get_linewidth() < 1 for line in axes.lines) == thin
    assert ("Thin lines" in (tmp_path / "report.md").read_text()) == bool(thin)


# LaTeX

HOSTILE = r"\input{x} 50% & #1_$a$ ~^ {b} <c> 'd' `e` ü ∇ --"


def environments(text):
    """Names of environments that are open at the end, which checks that each one ends where it should."""
    stack = []
    for kind, name in re.findall(
        r"\\(begin|end)\{(\w+)\}", re.sub(r"(?s)(begin\{verbatim\}).*?(\\end\{verbatim\})", r"\1\2", text)
    ):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    return stack


def test_names_are_text_in_latex():
    evil = HOSTILE.replace("`", "")
    blocks = [Text(f"{evil} **{evil}** `{evil}`"), Bullets([evil, "[x]"]), Table([evil, "b"], [["a & b", evil]])]
    blocks += [Details(evil, f"{evil}\n\\end{{verbatim}}\\input{{x}}"), Heading(2, evil)]
    text = latex(evil, blocks)
    assert environments(text) == []
    outside = re.sub(r"(?s)\\begin\{verbatim\}.*?\\end\{verbatim\}", "", text)
    assert "\\input" not in outside.replace("\\inputenc", "")
    assert "∇" not in text
    body = outside.partition("\\begin{document}")[2].replace("\\fitted{%\n", "")
    assert not re.search(r"(?<!\\)[#%$_^~]", body)
    rows = [line for line in body.splitlines() if line.endswith("\\\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [1, 1]


@pytest.fixture
def in_latex(tmp_path):
    scores = {
        "ppo": {"CartPole-v1": spread(400, 40, 5), "my_env/50%-v0": spread(1, 0.1, 5)},
        "sb3/ppo": {"CartPole-v1": spread(300, 40, 5), "my_env/50%-v0": spread(1, 0.1, 5)},
    }
    write_results(tmp_path, scores, random={"CartPole-v1": 20.0, "my_env/50%-v0": 0.0})
    lines = write_report(tmp_path, formats=["latex"])
    return SimpleNamespace(folder=tmp_path, lines=lines, text=(tmp_path / "report.tex").read_text())


def test_a_report_in_latex_has_tables_with_intervals_and_figures_that_are_there(in_latex):
    text = in_latex.text
    assert in_latex.lines[-1] == f"Report: {in_latex.folder / 'report.tex'}"
    assert not list(in_latex.folder.glob("report.[hm]*"))
    assert environments(text) == []
    shown = re.findall(r"\\includegraphics\[.*?\]\{(.*?)\}", text)
    assert len(shown) == 8
    assert all((in_latex.folder / name).is_file() and name.endswith(".pdf") for name in shown)
    first = text.partition(r"\begin{table}")[2].partition(r"\end{table}")[0]
    assert [rule for rule in (r"\toprule", r"\midrule", r"\bottomrule") if rule in first] == [
        *(r"\toprule", r"\midrule", r"\bottomrule")
    ]
    assert r"CartPole-{}v1 & \texttt{ppo} & \textbf{better} & \texttt{sb3/ppo} & " in first
    assert re.search(r"\d+ \[-?(\{\})?\d+, \d+\] & 5 & ", first)
    assert r"\label{table:1}" in first
    assert text.count(r"\label{figure:") == 5


def test_negative_numbers_have_a_minus_in_latex_and_names_their_hyphen():
    _, row = re.findall(r"^.* & .*$", latex("", [Table(["name", "score"], [["a-1", "-0.5 [-2, -1]"]])]), re.M)
    assert row == r"a-{}1 & $-$0.5 [$-$2, $-$1] \\"


def test_formulas_in_latex_are_formulas():
    text = latex("", [Text("½ σ² β, θ₀ → ∇")])
    assert r"$\frac{1}{2}$ $\sigma$$^{2}$ $\beta$, $\theta$$_{0}$ [U+2192] [U+2207]" in text


def test_a_bracket_that_begins_a_row_is_no_option_of_the_row_above():
    text = latex("", [Table(["[a", "b"], [["[1, 2]", "3"], ["*", "4"], ["x", "[5]"]])])
    assert [line for line in text.splitlines() if line.endswith("\\\\")] == [
        r"{}[a & b \\",
        r"{}[1, 2] & 3 \\",
        r"{}* & 4 \\",
        r"x & [5] \\",
    ]


def test_every_row_of_a_latex_table_has_its_columns(in_latex):
    found = re.findall(r"(?s)\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", in_latex.text)
    assert len(found) >= 8
    for columns, body in found:
        for row in body.splitlines():
            if row.endswith("\\\\"):
                assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1


# TensorBoard


def hparams_of(path):
    """What a file of events says to TensorBoard's HParams, and its scalars."""
    found, scalars = {}, {}
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                data = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
                found[data.WhichOneof("data")] = getattr(data, data.WhichOneof("data"))
            else:
                scalars[value.tag] = value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value
    return found, scalars


def test_the_numbers_of_a_report_reach_tensorboards_hparams(tmp_path):
    scores = {"ppo": {"CartPole-v1": [100.0, 200.0, 300.0]}}
    write_results(tmp_path, scores, random={"CartPole-v1": 20.0}, defaults={"gamma": 0.9, "use_sde": False})
    lines = write_report(tmp_path, tensorboard=True)
    assert lines[-1] == f"TensorBoard: tensorboard --logdir {tmp_path / 'tensorboard'}, HParams"
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    experiment = hparams_of(path)[0]["experiment"]
    assert {info.name.tag for info in experiment.metric_infos} >= {"report/score", "report/mean_low"}
    kinds = {info.name: info.type for info in experiment.hparam_infos}
    assert (kinds["algo"], kinds["use_sde"], kinds["gamma"]) == (1, 2, 3)  # text, truth value, number
    (path,) = (tmp_path / "tensorboard/ppo/CartPole-v1/seed_1").iterdir()
    found, scalars = hparams_of(path)
    start = found["session_start_info"]
    assert start.group_name == "ppo CartPole-v1"  # one row for all seeds
    assert start.hparams["gamma"].number_value == 0.9
    assert start.hparams["algo"].string_value == "ppo"
    assert found["session_end_info"].status == 1  # success
    # s = 100 and 3 seeds: 200 ± 4.3027 · 100 / √3 = 248.4. CartPole is solved at 475, random actions have 20.
    known = {"score": 200, "normalised": 180 / 455, "mean": 200, "mean_low": 200 - 248.41, "mean_high": 200 + 248.41}
    assert {name: scalars[f"report/{name}"] for name in known} == pytest.approx(known, rel=1e-4)
    before = {path: path.read_bytes() for path in (tmp_path / "tensorboard").rglob("events*")}
    write_report(tmp_path, tensorboard=True)  # replaces the files, and adds none
    assert {path: path.read_bytes() for path in (tmp_path / "tensorboard").rglob("events*")} == before


# A first look


def test_a_first_look_says_what_it_cannot_conclude(tmp_path):
    scores = {"ppo": {"A-v0": [1.0, 2.0, 3.0]}, "a2c": {"A-v0": [1.0, 2.0, 4.0]}}
    lines = write_report(write_results(tmp_path, scores, full_steps=100_000))
    said = "cannot tell which algorithm is better after a full training"
    assert says(lines[0], "--quick", "10,000 of 100,000 steps", "3 seeds", said)
    assert says((tmp_path / "report.md").read_text(), "A first look", said, "**Table 1.**")
    for path in tmp_path.rglob("cell.json"):
        path.write_text(path.read_text().replace('"full_steps": 100000', '"full_steps": null'))
    write_report(tmp_path)
    assert said not in (tmp_path / "report.md").read_text()


def test_formats_are_those_asked_for(tmp_path):
    folder = write_results(tmp_path, {"ppo": {"A-v0": [1.0, 2.0, 3.0]}})
    assert main(["report", str(folder), "--format", "latex", "html", "--verbose", "0"]) == 0
    assert {path.name for path in folder.glob("report.*")} == {"report.tex", "report.html"}


def test_an_environment_without_results_has_no_threshold(tmp_path):
    folder = write_results(tmp_path, {"ppo": {"A-v0": [1.0, 2.0, 3.0]}})
    with pytest.raises(UserError, match=saying("--threshold", "'B-v0'")):
        write_report(folder, thresholds={"B-v0": 1.0})
