"""Hooks for mkdocs: the results of the benchmarks and the exercises' tasks are pages of the site too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add benchmarks/results and the exercises to the site, so that the links of other pages find them."""
    for path in sorted((ROOT / "benchmarks" / "results").iterdir()):
        if path.suffix in (".md", ".png"):
            files.append(File.generated(config, f"benchmarks/results/{path.name}", abs_src_path=str(path)))
    for path in sorted((ROOT / "exercises").glob("*/README.md")):
        files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adapt links: benchmarks/ and exercises/ are beside docs/ in the repository, but folders of the site."""
    above = "../" * page.file.src_uri.count("/")
    for folder in ("benchmarks", "exercises"):
        markdown = markdown.replace(f"]({above}../{folder}/", f"]({above}{folder}/")
    return markdown.replace(f"]({above}docs/", f"]({above}")
