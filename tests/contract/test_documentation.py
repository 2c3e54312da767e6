"""The code in README and docs runs as it stands there (with shorter trainings)."""

import re
from pathlib import Path

import pytest

from pg_zoo.benchmark import run_grid
from pg_zoo.cell import Cell, run_cell
from pg_zoo.report import write_report

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


def test_every_link_between_pages_leads_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
