"""Look at every page of the built site in a browser, narrow and wide, light and dark.

    tox -e docs && pip install playwright && python docs/check_site.py
    python docs/check_site.py --screenshots pictures --only algorithms/ppo theorem

It needs Chromium: the system's, or another one with `--browser`. Checked are: nothing is wider than the window unless
it scrolls by itself, no code scrolls sideways in a wide window, text has the contrast that WCAG 2 AA asks for, formulas
are typeset, pictures are there, nothing comes from another server or is missing, and the search finds words and shows
its hits.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Request, sync_playwright

SITE = Path(__file__).parents[1] / "site"
WIDTHS = (400, 1400)
SCHEMES = {"light": "default", "dark": "slate"}  # and the theme's names of them
LONGEST = 9000  # pixels of a picture
PATIENCE = 20  # seconds for a search
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


def watched(page: Page, host: str) -> list[str]:
    """A list that fills with what goes wrong while a page loads."""
    wrong: list[str] = []

    def see_request(request: Request) -> None:
        if host not in request.url and not request.url.startswith(("data:", "blob:")):
            wrong.append(f"loads {request.url}")

    page.on("request", see_request)
    page.on("response", lambda one: wrong.append(f"{one.status} for {one.url}") if one.status >= 400 else None)
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    return wrong


def views(page: Page) -> Iterator[tuple[int, str]]:
    """Show a page that is loaded in each width and colour scheme."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme, name in SCHEMES.items():
            page.evaluate("(name) => document.body.setAttribute('data-md-color-scheme', name)", name)
            page.wait_for_timeout(300)  # colours change slowly
            yield width, scheme


def settle(page: Page) -> None:
    """Complete a page that is loaded: all pictures, all fonts."""
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    page.evaluate("document.fonts.ready.then(() => true)")


def check_search(page: Page, width: int) -> list[str]:
    """What is wrong with the search."""
    wrong = []
    if width < 1000:
        page.locator("label.md-header__button[for=__search]").click()
    box = page.locator("input.md-search__input")
    box.click()
    for word in SEARCHED:
        box.fill("")
        box.press_sequentially(word)  # the search listens to keys
        hit = page.locator(".md-search-result__item").filter(has_text=re.compile(word, re.IGNORECASE)).first
        area, end = None, time.monotonic() + PATIENCE  # the list is drawn again while words are found
        while time.monotonic() < end and not (area and area["height"] >= 20 and area["y"] <= 600):
            page.wait_for_timeout(200)
            area = hit.bounding_box() if hit.is_visible() else None
        if not area:
            wrong.append(f'the search for "{word}" shows no hit')
        elif area["height"] < 20 or area["y"] > 600:
            wrong.append(f'the first hit for "{word}" cannot be seen: {area}')
    return wrong


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

    def tell(name: str, wrong: list[str]) -> int:
        for one in wrong:
            print(f"{name}: {one}", flush=True)
        return len(wrong)

    with served(options.site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=["--no-sandbox"])
        context = browser.new_context(reduced_motion="reduce")
        for name in pages:
            page = context.new_page()
            wrong = watched(page, address.split("/")[2])
            page.goto(f"{address}/{name}/".replace("/./", "/"), wait_until="load")
            settle(page)
            n_wrong += tell(name, wrong)
            for width, scheme in views(page):
                n_wrong += tell(f"{name}, {width} px, {scheme}", page.evaluate(CHECKS, width >= 1400))
                if options.screenshots:
                    options.screenshots.mkdir(parents=True, exist_ok=True)
                    file = f"{name.replace('/', '_')}-{width}-{scheme}.png"
                    height = min(page.evaluate("document.documentElement.scrollHeight"), LONGEST)
                    area = {"x": 0, "y": 0, "width": width, "height": height}
                    page.screenshot(path=options.screenshots / file, full_page=True, clip=area)
            page.close()
        for width in WIDTHS:
            page = context.new_page()
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(address, wait_until="load")
            n_wrong += tell(f"search, {width} px", check_search(page, width))
            page.close()
        browser.close()
    print(f"{len(pages)} pages, {len(WIDTHS)} widths, {len(SCHEMES)} schemes: {n_wrong} faults")
    return min(n_wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
