"""The examples run, shortened, and those that need no long training show what they say."""

import importlib
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("[!_]*.py") if path.stem != "common")

WITHOUT_SEEDS = ("gradient_estimators", "natural_gradient", "score_function", "smoothness")


@pytest.fixture(autouse=True)
def _in_the_folder_of_the_examples(monkeypatch):
    # One of them installs a plugin, which later tests should not find.
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.syspath_prepend(str(EXAMPLES))


# Where Box2D is installed: its import crashes if this warning of its own is an error.
@pytest.mark.filterwarnings("ignore:builtin type")
@pytest.mark.parametrize("name", NAMES)
def test_an_example_ends_in_its_figure(name, tmp_path, capsys):
    seeds = [] if name in WITHOUT_SEEDS else ["--seeds", "2"]
    importlib.import_module(name).main([*seeds, "--scale", "0.02", "--jobs", "1", "--output", str(tmp_path)])
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "Wrote" in said
    # What it names is there afterwards.
    assert all(Path(path).is_file() for path in re.findall(r"^Report: (.*)$", said, re.M))


@pytest.mark.parametrize(
    ("given", "is_whole"),
    [([], True), (["--seeds", "10"], True), (["--seeds", "2"], False), (["--scale", "0.2"], False)],
)
def test_a_shortened_example_leaves_the_figure_of_the_documentation_alone(given, is_whole):
    common = importlib.import_module("common")
    assert (common.arguments("", given, seeds=10).output == common.FIGURES) == is_whole
    assert common.arguments("", [*given, "--output", "here"], seeds=10).output == Path("here")


def test_every_example_has_its_figure_in_the_docs():
    pages = [(EXAMPLES.parent / "docs" / page).read_text() for page in ("examples.md", "theorem.md")]
    for name in NAMES:
        assert (EXAMPLES.parent / "docs" / "images" / "examples" / f"{name}.png").exists()
        assert any(f"images/examples/{name}.png" in page for page in pages)


def test_many_epochs_move_the_policy_far_without_a_clip_and_not_with_it():
    ppo_clip = importlib.import_module("ppo_clip")
    ends = {name: ppo_clip.epochs(name, seed=0, n_epochs=15)[-1] for name in ppo_clip.OBJECTIVES}
    (kl, outside), (free_kl, free_outside) = ends["clip 0.2"], ends["no clip"]
    assert free_kl > 10 * kl
    assert ends["KL penalty, β = 1"][0] < free_kl / 10
    assert outside < 0.5 < free_outside


def test_the_softmaxs_return_is_smooth_and_the_greedy_one_a_staircase():
    smoothness = importlib.import_module("smoothness")
    rng = np.random.default_rng(1)
    mdp = smoothness.TabularMDP.random(n_states=3, n_actions=2, seed=1, horizon=5)
    points = np.linspace(-4, 4, 801)
    softmax, slopes, greedy = smoothness.along(mdp, rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), points)
    # Central differences of the curve are its exact gradient.
    assert np.gradient(softmax, points)[1:-1] == pytest.approx(slopes[1:-1], abs=1e-3)
    # Each of the three states changes its action at most once along a line; in between, nothing changes.
    steps = np.abs(np.diff(greedy)) > 1e-9
    assert 1 <= steps.sum() <= 3
    assert np.abs(np.diff(softmax)).max() < 0.02


def test_the_plain_gradient_rests_on_the_plateau_and_the_natural_one_is_the_same_in_other_parameters():
    example = importlib.import_module("natural_gradient")
    plain, stay = example.paths(False, [[1.0], [1.0]], 1500)
    natural, natural_stay = example.paths(True, [[1.0], [1.0]], 150)
    assert plain[-1] > 1.9
    assert natural[-1] > 1.9
    assert example.on_plateau(plain) > 0.7
    assert example.on_plateau(natural) < 0.2
    other = [[1.0], [3.0]]
    assert example.paths(True, other, 150)[1] == pytest.approx(natural_stay, abs=1e-6)
    assert np.abs(example.paths(False, other, 1500)[1] - stay).max() > 0.2
