"""Hooks for mkdocs: results of benchmarks and tasks of exercises are pages of the site, and formulas are typeset."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

from cards import with_labels
from marking import Formulas
from typesetting import typeset_page

ROOT = Path(__file__).parents[1]
# Workloads of the first page's figure.
SHOWN = (
    "PPO defaults, CartPole, 1 env, world",
    "PPO defaults, CartPole, 1 env",
    "PPO 8 envs × 256 steps, CartPole, world",
    "A2C defaults, CartPole, 8 envs, world",
)
LOG = get_plugin_logger("site")
# What a browser loads by itself, unlike a link.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc(?:set)?=[\"']?(https?:)?//|@import|url\(['\"]?https?:"
)
STYLED = re.compile(
    r"<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=[\"']?(?:https?:)?//"
)


def on_config(config: Any) -> Any:
    """Formulas are found in pages and, by the same extension, in docstrings."""
    config.markdown_extensions.append(Formulas())
    return config


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
    if page.is_homepage:
        markdown = markdown.replace("<!-- bars -->", bars((ROOT / "benchmarks/results/throughput.md").read_text()))
    for folder in ("benchmarks", "exercises"):
        markdown = markdown.replace(f"]({above}../{folder}/", f"]({above}{folder}/")
    return markdown.replace(f"]({above}docs/", f"]({above}")


def bars(results: str) -> str:
    """HTML of a few rows of the table of throughput, each with a bar for the reference and one for ours."""
    rows = {cells[0]: cells for line in results.splitlines() if len(cells := line.strip("| ").split(" | ")) == 7}
    if missing := set(SHOWN) - set(rows):
        raise PluginError(f"The first page shows rows that benchmarks/results/throughput.md lacks: {sorted(missing)}")
    shown = []
    for workload in SHOWN:
        reference, ours = rows[workload][3:5]
        ratio = round(float(rows[workload][5].strip("*")))
        share = 100 * float(reference.replace(",", "")) / float(ours.replace(",", ""))
        shown.append(
            f"<dt>{workload}</dt><dd><span class='bar theirs' style='width: {share:.1f}%'></span> SB3: {reference}</dd>"
            f"<dd><span class='bar ours'></span> ours: {ours}, × {ratio}</dd>"
        )
    return f'<dl class="bars">{"".join(shown)}</dl>'


def on_page_content(html: str, **_: Any) -> str:
    """Open the code that a page shows: it is what the page is about. Label the cells of tables."""
    html = html.replace('<details class="mkdocstrings-source"', '<details open class="mkdocstrings-source"')
    return with_labels(html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Typeset the formulas, after the search has read the page; nothing may be loaded from another server."""
    if foreign := LOADED.search(output) or STYLED.search(output):
        LOG.warning(f"{page.file.src_uri} loads a file from another server: {foreign[0]}")
    return typeset_page(output, lambda message: LOG.warning(f"{page.file.src_uri}: {message}"))


def on_post_build(config: Any) -> None:
    """Check that the site has KaTeX's style and the fonts that it names."""
    style = Path(config.site_dir) / "katex" / "katex.min.css"
    fonts = set(re.findall(r"fonts/[\w-]+\.woff2", style.read_text()))
    if missing := sorted(one for one in fonts if not (style.parent / one).exists()):
        LOG.warning(f"fonts of KaTeX are missing: {missing}")
