"""Look at every page of the built site in a browser, narrow and wide, light and dark.

    tox -e docs && pip install playwright && python docs/check_site.py
    python docs/check_site.py --screenshots /tmp/pages --only algorithms/ppo theorem

It needs Chromium: the system's, or another one with `--browser`. Checked are: nothing is wider than the window unless
it scrolls by itself, no code scrolls sideways in a wide window, text has the contrast that WCAG 2 AA asks for, formulas
are typeset, pictures are there, nothing comes from another server or is missing, and the search finds words and shows
its hits.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

SITE = Path(__file__).parents[1] / "site"
WIDTHS = (400, 1400)
SCHEMES = ("light", "dark")
SEARCHED = ("baseline", "resume", "GRPO")
CHECKS = Path(__file__).with_name("check_page.js").read_text()


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; gives the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def check(page: Page, address: str, width: int) -> list[str]:
    """What is wrong with a page."""
    wrong: list[str] = []
    host = address.split("/")[2]
    page.on(
        "request",
        lambda one: (
            None if host in one.url or one.url.startswith(("data:", "blob:")) else wrong.append(f"loads {one.url}")
        ),
    )
    page.on("response", lambda one: wrong.append(f"{one.status} for {one.url}") if one.status >= 400 else None)
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.goto(address, wait_until="load")
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    page.evaluate("document.fonts.ready.then(() => true)")
    return wrong + page.evaluate(CHECKS, width >= 1400)


def check_search(page: Page, address: str, width: int) -> list[str]:
    """What is wrong with the search."""
    wrong = []
    page.goto(address, wait_until="load")
    if width < 1000:
        page.locator("label.md-header__button[for=__search]").click()
    box = page.locator("input.md-search__input")
    box.click()
    for word in SEARCHED:
        box.fill(word)
        hits = page.locator(".md-search-result__item")
        try:
            hits.first.wait_for(state="visible", timeout=10_000)
        except Exception:
            wrong.append(f'the search for "{word}" shows no hit')
            continue
        page.wait_for_timeout(300)
        area = hits.first.bounding_box()
        if not area or area["height"] < 20 or area["y"] > 800 or word.lower() not in hits.first.inner_text().lower():
            wrong.append(f'the first hit for "{word}" cannot be seen: {area}, {hits.first.inner_text()[:60]}')
    return wrong


def contexts(browser: Browser) -> Iterator[tuple[int, str, Page]]:
    """A fresh window for each width and colour scheme."""
    for width in WIDTHS:
        for scheme in SCHEMES:
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,  # type: ignore[arg-type]
                reduced_motion="reduce",
            )
            yield width, scheme, context.new_page()
            context.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, default=SITE, help="folder of the built site")
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"), help="Chromium")
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of the pages")
    parser.add_argument("--only", nargs="+", help="pages, such as algorithms/ppo; all without this option")
    options = parser.parse_args()
    pages = sorted(str(path.parent.relative_to(options.site)) for path in options.site.rglob("index.html"))
    pages = [one for one in pages if not options.only or one in options.only]
    n_wrong = 0
    with served(options.site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=["--no-sandbox"])
        for width, scheme, page in contexts(browser):
            for name in [*pages, "search"]:
                target = f"{address}/{name}/".replace("/./", "/")
                fresh = page.context.new_page()
                wrong = check_search(fresh, f"{address}/", width) if name == "search" else check(fresh, target, width)
                for one in wrong:
                    print(f"{name}, {width} px, {scheme}: {one}", flush=True)
                n_wrong += len(wrong)
                if options.screenshots:
                    options.screenshots.mkdir(parents=True, exist_ok=True)
                    file = f"{name.replace('/', '_')}-{width}-{scheme}.png"
                    fresh.screenshot(path=options.screenshots / file, full_page=name != "search")
                fresh.close()
        browser.close()
    print(f"{len(pages)} pages, {len(WIDTHS)} widths, {len(SCHEMES)} schemes: {n_wrong} faults")
    return min(n_wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
