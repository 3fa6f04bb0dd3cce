"""The built book in a real browser, with the network cut.

    make book && make browser

Every page: nothing fails to load, nothing is asked of another server, no console error, no
broken picture or link, no page wider than the screen. Every widget is moved through its frames
by its own controls, and its picture changes.

SSNAS_SITE         the folder of the built site (default: book/_build/html)
SSNAS_BROWSER      "required": no browser, or no site, is a failure and not a skip
SSNAS_SCREENSHOTS  a folder: pages at phone and desktop width, light and dark, and their weight
"""

from __future__ import annotations

import base64
import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
SITE = Path(os.environ.get("SSNAS_SITE", ROOT / "book" / "_build" / "html"))
REQUIRED = os.environ.get("SSNAS_BROWSER") == "required"
SHOTS = os.environ.get("SSNAS_SCREENSHOTS")
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
WIDGETS = ".ssnas-widget"
PICTURES = """widget => [...widget.querySelectorAll("img")].filter(i => i.offsetParent)
    .map(i => i.src + i.naturalWidth).join()"""

# solutions are looked at too
OPEN = """document.querySelectorAll(".toggle-hidden")
    .forEach(e => e.classList.remove("toggle-hidden"))"""


def pages() -> list[str]:
    """Paths of all pages, without those that only lead to another."""
    found = [path for path in SITE.glob("**/*.html") if "_static" not in path.parts]
    return sorted(
        path.relative_to(SITE).as_posix()
        for path in found
        if 'http-equiv="refresh"' not in path.read_text(errors="replace")[:2000].lower()
    )


@dataclass
class Seen:
    """What one page showed."""

    problems: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)  # absolute
    anchors: set[str] = field(default_factory=set)
    widgets: int = 0
    frames: int = 0
    weight: int = 0  # bytes of all that the page loaded


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def missing(what: str) -> None:
    if REQUIRED:
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        missing("no Chromium: install it (apt-get install chromium) to look at the built book.")
    api = pytest.importorskip("playwright.sync_api") if not REQUIRED else None
    if api is None:
        from playwright import sync_api as api
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    if not pages():
        missing(f"no site in {SITE}: make book builds it.")
    with served(SITE) as url:
        yield url


@contextmanager
def opened(
    browser: Any, base: str, page: str, size: str = "desktop", scheme: str = "light"
) -> Iterator[tuple[Any, Seen]]:
    """A page that can reach `base` only, with all that goes wrong on it noted."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=1
    )
    tab, seen = context.new_page(), Seen()

    def route(way: Any) -> None:
        if way.request.url.startswith((base, "data:", "blob:")):
            way.continue_()
        else:
            seen.problems.append(f"asks another server: {way.request.url}")
            way.abort()

    def response(answer: Any) -> None:
        if answer.status >= 400:
            seen.problems.append(f"status {answer.status}: {answer.url}")
        elif answer.url.startswith(base):
            seen.weight += int(answer.headers.get("content-length", 0))

    tab.route("**/*", route)
    tab.on("response", response)
    # an aborted request has been noted already
    tab.on(
        "requestfailed",
        lambda failed: (
            seen.problems.append(f"failed: {failed.url}") if failed.url.startswith(base) else None
        ),
    )
    tab.on("pageerror", lambda error: seen.problems.append(f"script error: {error}"))
    tab.on("console", lambda said: seen.problems.append(f"console: {said.text}")
           if said.type == "error" else None)  # fmt: skip
    tab.goto(urljoin(base, page), wait_until="networkidle")
    yield tab, seen
    context.close()


def look(tab: Any, seen: Seen) -> None:
    """Pictures, links and width of an open page."""
    for image in tab.query_selector_all("img"):
        source, alt = image.get_attribute("src") or "", image.get_attribute("alt")
        name = source[:60]
        if image.evaluate("i => !i.complete || i.naturalWidth === 0"):
            seen.problems.append(f"broken picture: {name}")
        if not (alt or "").strip() or alt == source or (alt or "").startswith("_images/"):
            seen.problems.append(f"picture without alt text: {name}")
    if any("|---" in text for text in tab.locator("p").all_inner_texts()):
        seen.problems.append("a table shown as its source")
    seen.links = tab.eval_on_selector_all("a[href]", "links => links.map(a => a.href)")
    seen.anchors = set(tab.eval_on_selector_all("[id]", "all => all.map(e => e.id)"))
    tab.evaluate(OPEN)
    wide = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    if wide > 1:
        seen.problems.append(f"{wide} pixels wider than the screen")


def move_widgets(tab: Any, seen: Seen, patience: int = 15_000) -> None:
    """Move every control of every widget, and see the picture change."""
    expected = tab.locator('script[type="application/vnd.jupyter.widget-view+json"]').count()
    try:
        tab.wait_for_function(
            f"document.querySelectorAll('{WIDGETS}').length >= {expected}", timeout=patience
        )
    except Exception:
        seen.problems.append(f"{tab.locator(WIDGETS).count()} of {expected} widgets shown")
    for number, widget in enumerate(tab.query_selector_all(WIDGETS)):
        seen.widgets += 1
        controls = [
            *(functools.partial(slide, tab, handle)
              for handle in widget.query_selector_all(".noUi-handle")),
            *(functools.partial(choose, select) for select in widget.query_selector_all("select")),
            *(functools.partial(press, group)
              for group in widget.query_selector_all(".widget-toggle-buttons")),
        ]  # fmt: skip
        if not controls:
            seen.problems.append(f"widget {number} has nothing to move")
        for control in controls:
            shown: list[str] = []
            control(lambda shown=shown, widget=widget: shown.append(widget.evaluate(PICTURES)))
            seen.frames += len(shown)
            if len(set(shown)) < 2:
                seen.problems.append(f"widget {number}: the picture never changes")
            if not all(shown) and not widget.query_selector("select"):
                seen.problems.append(f"widget {number}: a frame without a picture")


def slide(tab: Any, handle: Any, note: Callable[[], None]) -> None:
    """From the left end to the right one, by the keyboard."""
    handle.focus()
    tab.keyboard.press("Home")
    last = None
    for _ in range(500):
        note()
        place = handle.get_attribute("aria-valuenow")
        if place == last:
            return
        last = place
        tab.keyboard.press("ArrowRight")


def choose(select: Any, note: Callable[[], None]) -> None:
    """Every option, and back, so that the other controls begin where the page does."""
    start = select.evaluate("s => s.selectedIndex")
    for place in range(len(select.query_selector_all("option"))):
        select.select_option(index=place)
        note()
    select.select_option(index=start)


def press(group: Any, note: Callable[[], None]) -> None:
    for button in group.query_selector_all("button"):
        button.click()
        note()


def broken_links(
    links: list[str], base: str, anchors: dict[str, set[str]], folder: Path = SITE
) -> list[str]:
    """Links inside the site that lead nowhere; `anchors` holds the ids of each page."""
    wrong = []
    for link in sorted(set(links)):
        target, anchor = urldefrag(link)
        if not target.startswith(base):
            continue
        path = unquote(urlsplit(target).path).lstrip("/") or "index.html"
        anchor = unquote(anchor)
        if not (folder / path).is_file():
            wrong.append(f"no page: {link}")
        elif anchor and path in anchors and anchor not in anchors[path]:
            wrong.append(f"no such place: {link}")
    return wrong


LINKS: dict[str, list[str]] = {}
ANCHORS: dict[str, set[str]] = {}


@pytest.mark.parametrize("page", pages() or ["index.html"])
def test_page_loads_whole_and_its_widgets_move(page: str, browser: Any, site: str):
    with opened(browser, site, page) as (tab, seen):
        look(tab, seen)
        move_widgets(tab, seen)
        LINKS[page], ANCHORS[page] = seen.links, seen.anchors
    print(f"{page}: {seen.weight / 1e6:.2f} MB, {seen.widgets} widgets, {seen.frames} moves")
    if SHOTS:
        for size in SIZES:
            for scheme in ("light", "dark"):
                with opened(browser, site, page, size, scheme) as (tab, other):
                    look(tab, other)
                    name = f"{page.removesuffix('.html').replace('/', '-')}-{size}-{scheme}.png"
                    tab.wait_for_timeout(500)
                    tab.screenshot(path=Path(SHOTS) / name, full_page=True)
                    seen.problems += [f"{size}, {scheme}: {text}" for text in other.problems]
    assert seen.problems == []


def test_links_between_pages_lead_somewhere(browser: Any, site: str):
    if not LINKS:
        pytest.skip("no page was opened")
    wrong = {page: broken_links(links, site, ANCHORS) for page, links in LINKS.items()}
    assert {page: found for page, found in wrong.items() if found} == {}


WHOLE = """<!doctype html><html><body style="margin:0"><h1 id="top">Whole</h1>
<a href="page.html#top">here</a><img alt="A dot." src="dot.png"></body></html>"""
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
SLIDER = """<div class="ssnas-widget"><div class="noUi-handle" tabindex="0" aria-valuenow="0"
onkeydown="if (event.key == 'ArrowRight') this.setAttribute('aria-valuenow', '1')"></div>
<img alt="Still." src="dot.png"></div>"""
DEFECTS = {
    "a script that fails": ("<script>undefined_name()</script>", "script error"),
    "an error on the console": ("<script>console.error('no')</script>", "console: no"),
    "a script from elsewhere": ('<script src="http://example.org/a"></script>', "another server"),
    "a style that is not there": ('<link rel="stylesheet" href="no.css">', "status 404"),
    "a broken picture": ('<img alt="None." src="none.png">', "broken picture"),
    "a picture without alt text": ('<img src="dot.png">', "without alt text"),
    "a page that is too wide": ('<div style="width:3000px">wide</div>', "wider than the screen"),
    "a table that is none": ("<p>|a|b| |---|---| |1|2|</p>", "table shown as its source"),
    "a link to no page": ('<a href="no.html">x</a>', "no page"),
    "a link to no place": ('<a href="page.html#no">x</a>', "no such place"),
    "a widget that stays dead": (SLIDER, "the picture never changes"),
    "a widget that is not shown": (
        '<script type="application/vnd.jupyter.widget-view+json">{}</script>', "0 of 1 widgets",
    ),
}  # fmt: skip


@pytest.mark.parametrize("defect", [None, *DEFECTS])
def test_what_is_wrong_with_a_page_is_found(defect: str | None, browser: Any, tmp_path: Path):
    body, message = DEFECTS[defect] if defect else ("", "")
    (tmp_path / "dot.png").write_bytes(base64.b64decode(DOT))
    (tmp_path / "page.html").write_text(WHOLE.replace("<img", f"{body}<img", 1))
    with served(tmp_path) as base, opened(browser, base, "page.html") as (tab, seen):
        look(tab, seen)
        move_widgets(tab, seen, patience=500)
        seen.problems += broken_links(seen.links, base, {"page.html": seen.anchors}, tmp_path)
    if defect is None:
        assert seen.problems == []
        assert seen.weight > len(WHOLE)
    else:
        assert any(message in text for text in seen.problems), seen.problems
