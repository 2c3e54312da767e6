"""Hooks for mkdocs: the results of the benchmarks are pages of the site too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add benchmarks/results to the site, so that the links of other pages find them."""
    for path in sorted((ROOT / "benchmarks" / "results").iterdir()):
        if path.suffix in (".md", ".png"):
            files.append(File.generated(config, f"benchmarks/results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adapt links: benchmarks/ is beside docs/ in the repository, but a folder of the site."""
    above = "../" * page.file.src_uri.count("/")
    return markdown.replace(f"]({above}../benchmarks/", f"]({above}benchmarks/")
