"""The code in README and docs runs as it stands there (with shorter trainings)."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from pg_agents import registry
from pg_zoo.cli import main
from pg_zoo.options import parse
from pg_zoo.pages.report import write_report
from pg_zoo.recipes.trust import data_only
from pg_zoo.runs import backends
from pg_zoo.runs.cell import Cell
from pg_zoo.runs.grid import run_grid
from pg_zoo.runs.training import run_cell

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md")) if "```python" in page.read_text()),
]


def run_a_benchmark():
    """What the page about `pg-zoo benchmark` reads: a smaller `runs/first`, in this process."""

    def here(cells, folder, jobs):
        for cell in cells:
            run_cell(cell, folder / cell.path)
            yield cell, None

    run_grid([Cell("random", "CartPole-v1", seed, {}) for seed in range(3)], Path("runs/first"), backend=here)
    write_report("runs/first")


# The progress bar that SB3 uses announces itself as experimental.
@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize("page", PAGES)
def test_the_python_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S))
    assert "import" in code
    if page == "docs/benchmark.md":
        run_a_benchmark()
    exec(compile(re.sub(r"\b\d+_000\b", "300", code), page, "exec"), {})


# What makes a command short; of an option that is given twice, the last one counts.
SHORT = {
    "train": "-n 64 --eval-freq -1 --verbose 0",
    "enjoy": "-n 20",
    "list": "",
    "benchmark": "-n 64 --seeds 1 --eval-points 0 --final-episodes 1",
    "report": "",
    "crosscheck": "--algos a2c",
}
NOT_OURS = ("pip", "tox", "tensorboard", "pre-commit", "pytest", "mkdocs", "python")  # begin the other commands
STAND_INS = {"mine": "ppo", "signed": "ppo"}  # an algorithm of the reader's own is here one of ours
# Evidence needs an entry of the reader's own to belong to, and a search, however short, is some twenty trainings.
ONLY_READ = ("evidence", "tune")


def commands(page):
    """Those in the blocks of a page that have no language."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```\n(.*?)^```", re.sub(r"^```\w+\n.*?^```\n", "", text, flags=re.M | re.S), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(part, comments=True) for line in lines for part in line.split(" && ") if part.strip()]


WITH_COMMANDS = [
    page
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
    ]
    if commands(page)
]


@pytest.fixture
def in_this_process(monkeypatch):
    """Trainings of the command line, which otherwise each take a process of their own."""

    def here(cells, folder, jobs):
        for cell in cells:
            run_cell(cell, folder / cell.path)
            yield cell, None

    monkeypatch.setitem(backends.BACKENDS, "local", here)


@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize("page", WITH_COMMANDS)
@pytest.mark.usefixtures("in_this_process")
def test_the_commands_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = commands("docs/benchmark.md") if page == "README.md" else []
    for name, *argv in commands(page):
        if name != "pg-zoo":
            assert name in NOT_OURS
        elif [name, *argv] in elsewhere:
            continue  # the same words are run there
        elif argv[0] in ONLY_READ:
            assert parse(argv).subcommand == argv[0]
        else:
            argv = [STAND_INS.get(word, word) for word in argv]
            assert main([*argv, *SHORT[argv[0]].split()]) == 0, argv


def test_every_script_that_a_page_names_is_there():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for script in re.findall(r"python ([\w/]+(?:\.py)?)[` ]", page.read_text()):
            assert (ROOT / script).exists(), f"{page.name}: {script}"


def test_what_the_page_about_plugins_says_of_files_is_what_is_read():
    blocks = dict(re.findall(r"^```(toml|yaml)\n(.*?)^```", (ROOT / "docs/plugins.md").read_text(), re.M | re.S))
    groups = tomllib.loads(blocks["toml"])["project"]["entry-points"]
    assert list(groups) == [registry.ALGORITHMS, registry.ENVS, registry.HYPERPARAMS, registry.ENGINES]
    entry = yaml.safe_load(blocks["yaml"])["CartPole-v1"]
    assert data_only(entry, "the page") == entry


def test_every_link_between_pages_leads_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
