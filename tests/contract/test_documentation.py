"""The code in README and docs runs as it stands there (with shorter trainings)."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/plugins.md"]


# The progress bar that SB3 uses announces itself as experimental.
@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize("page", PAGES)
def test_the_python_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S))
    assert "import" in code
    exec(compile(re.sub(r"\b\d+_000\b", "300", code), page, "exec"), {})


def test_every_link_between_pages_leads_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
