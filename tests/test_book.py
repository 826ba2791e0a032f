"""The book as a reader meets it: in a browser, from disk, wide and narrow, light and dark."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from course import faq

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
CHROMIUM = shutil.which("chromium")
CHROMIUM_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

AXE = {
    "preload": False,  # it would fetch style sheets, which a browser refuses on file://
    "resultTypes": ["violations"],
    "rules": {
        "label-content-name-mismatch": {"enabled": True}
    },  # off by default, but it found real ones
}

sys.path.append(str(ROOT / "book" / "_ext"))
from check_pages import pages  # noqa: E402

TOC = pages(ROOT)
CHAPTERS = [page for page in TOC if page.startswith("book/chapters/")]
SEEN = [*TOC, "search"]
WIDTHS = {"wide": 1280, "narrow": 390}


def build() -> None:
    done = subprocess.run(["make", "book"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    build()
    if CHROMIUM is None:
        pytest.skip("no `chromium` on the PATH: the book is built, but nobody has looked at it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@dataclass
class View:
    """One page in one window, and what the browser had to say about it."""

    name: str
    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self) -> "View":
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "requestfailed", lambda request: self.complaints.append(f"not loaded: {request.url}")
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda line: line.type in ("error", "warning") and self.complaints.append(line.text),
        )
        self.page.goto(f"{HTML.as_uri()}/{self.name}")
        # Until the mathematics is typeset, in its own fonts.
        self.page.evaluate(
            "async () => { await window.MathJax?.startup?.promise; await document.fonts.ready }"
        )
        return self


@pytest.fixture(
    scope="module",
    params=[("wide", "light"), ("narrow", "dark")],  # what fits hangs on no colour, nor these on it
    ids="-".join,
)
def window(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    width, theme = request.param
    size = {"width": WIDTHS[width], "height": 900}
    with browser.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce") as context:
        yield context


@pytest.fixture(scope="module", params=SEEN)
def view(window: BrowserContext, request: pytest.FixtureRequest) -> Iterator[View]:
    with window.new_page() as page:
        yield View(f"{request.param}.html", page).open()


def test_page_needs_no_network_and_no_script_fails(view: View) -> None:
    assert [
        url for url in view.requests if urlparse(url).scheme not in ("file", "data", "blob")
    ] == []
    assert view.complaints == []


@pytest.fixture(scope="module")
def shared() -> set[str]:
    """What the pages seen so far load from where all look for it."""
    return set()


def test_page_is_light(view: View, shared: set[str]) -> None:
    """What it weighs itself, with its pictures, and what all pages share and is loaded once."""
    pictures = view.page.evaluate("[...document.images].map((image) => image.src)")
    own = {view.page.url.partition("#")[0], *pictures}
    assert size(own) <= 1e6, f"{size(own) / 1e6:.2f} MB"
    loaded = {url.partition("?")[0] for url in set(view.requests) - own}
    shared |= {url for url in loaded if "/_static/" in url}
    assert size(shared) <= 2e6, sorted((size([url]), url) for url in shared)[-9:]
    assert "fontawesome.js" not in str(loaded)
    assert view.name == "search.html" or "searchindex" not in str(loaded)


def size(urls: Iterable[str]) -> int:
    paths = [Path(unquote(urlparse(url).path)) for url in urls if url.startswith("file:")]
    return sum(path.stat().st_size for path in paths if path.is_file())


def test_page_fits_the_window(view: View) -> None:
    too_wide = view.page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? [] :
            [...document.querySelectorAll("body *")]
                .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
                .map(e => `${e.tagName}.${e.className}`)"""
    )
    assert too_wide == []


def test_mathematics_is_typeset(view: View) -> None:
    raw = r"""() => [...document.querySelectorAll(".math")]
        .filter(e => !e.querySelector("mjx-container") || e.querySelector("mjx-merror"))
        .map(e => e.textContent)"""
    assert view.page.evaluate(raw) == []
    assert r"\(" not in view.page.locator("main").inner_text()


def test_images_say_what_they_show(view: View) -> None:
    for image in view.page.locator("article img, article svg[role=img]").all():
        text = image.get_attribute("alt") or image.get_attribute("aria-label") or ""
        assert len(text) > 15 and not text.lower().endswith((".png", ".svg", ".jpg")), (
            f"no real text alternative: {text!r}"
        )


def test_page_is_accessible(view: View) -> None:
    # One style sheet colours all code, so one page shows whether it can be read; on every page the
    # thousands of coloured words would take most of the time, even as elements to be passed over.
    narrow = view.page.viewport_size["width"] == WIDTHS["narrow"]
    shows_code = view.name == f"{CHAPTERS[0]}.html" and not narrow
    excluded = None if shows_code else {"exclude": [[".highlight pre"]]}
    if not shows_code:
        view.page.locator(".highlight pre").evaluate_all(
            "blocks => blocks.forEach(b => b.replaceChildren(b.textContent))"
        )
    found = Axe().run(view.page, context=excluded, options=AXE)
    assert found.violations_count == 0, found.generate_report()


def test_the_map_shows_what_is_done(browser: Browser, tmp_path: Path) -> None:
    with browser.new_context() as context, context.new_page() as page:
        page.goto(f"{HTML.as_uri()}/book/course-map.html")
        boxes = page.locator(".course-drawing svg a")
        linked = {box.get_attribute("href").removesuffix(".html") for box in boxes.all()}
        assert linked == {name.removeprefix("book/") for name in CHAPTERS}
        bar = boxes.filter(has_text="Tensors").locator(".done")
        assert float(bar.get_attribute("width")) == 0

        file = tmp_path / ".course-progress.json"
        file.write_text('{"tensors": {"chunk": "passed", "grid": "not yet"}, "gone": {}}')
        page.set_input_files("input[type=file]", file)
        total = page.locator(".course-progress-sum")
        expect(total).to_contain_text("1 of")
        assert 0 < float(bar.get_attribute("width")) < 40
        other = tmp_path / "other.json"
        other.write_text("not JSON")
        page.set_input_files("input[type=file]", other)
        expect(total).to_contain_text("is not a .course-progress.json")

        page.goto(f"{HTML.as_uri()}/book/chapters/tensors.html")
        page.get_by_label("I have done this chapter").check()
        page.goto(f"{HTML.as_uri()}/book/course-map.html")
        assert float(bar.get_attribute("width")) > 100
        assert "1 chapter ticked" in total.inner_text()


def test_pages_follow_the_map(browser: Browser) -> None:
    plan = yaml.safe_load((ROOT / "book" / "syllabus.yml").read_text(encoding="utf-8"))["parts"]
    parts = [name for name in TOC if name.startswith("book/parts/")]
    assert len(parts) == len(plan)
    order = []
    for page, part in zip(parts, plan, strict=True):
        order += [page, *(f"book/chapters/{chapter}" for chapter in part["chapters"])]
    assert [name for name in TOC if name in order] == [name for name in order if name in TOC]
    with browser.new_page() as page:
        page.goto(f"{HTML.as_uri()}/book/course-map.html")
        page.locator("article").get_by_role("link", name="what this part is about").nth(1).click()
        assert page.url.endswith(f"{parts[1]}.html")
        page.locator(".prev-next-area a.right-next").click()
        assert page.url.endswith(f"{TOC[TOC.index(parts[1]) + 1]}.html")


def test_a_part_shows_its_chapters_and_what_is_done(browser: Browser) -> None:
    with browser.new_context() as context, context.new_page() as page:
        page.goto(f"{HTML.as_uri()}/book/chapters/convolution.html")
        page.get_by_label("I have done this chapter").check()
        page.goto(f"{HTML.as_uri()}/book/parts/convolutional-networks.html")
        part = page.locator(".of-a-part")
        chapters = page.locator(".course-drawing a").count()
        assert 3 <= chapters <= part.count()
        assert page.locator(".course-drawing a.finished").count() == 1
        assert "1 chapter ticked" in page.locator(".course-progress-sum").inner_text()
        assert not page.locator("input[type=file]").count()
        first = part.first.inner_text()
        assert "Derive convolution from a dense layer" in first
        assert re.search(r"卷积与池化 · \d+ minutes · 7 exercises: .*easy.* · after Tensors", first)
        part.first.get_by_role("link").click()
        assert page.url.endswith("/book/chapters/convolution.html")


def test_run_locally_copies_the_commands(browser: Browser) -> None:
    with browser.new_context() as context, context.new_page() as page:
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto(f"{HTML.as_uri()}/book/chapters/convolution.html")
        button = page.get_by_role("button", name="Run locally")
        button.focus()
        page.keyboard.press("Space")
        expect(page.get_by_role("status").filter(has_text="Copied")).to_be_visible()
        copied = page.evaluate("navigator.clipboard.readText()").splitlines()
        assert copied[0].startswith("git clone https://")
        assert copied[1:] == [
            f"cd {copied[0].rpartition('/')[2]}",
            "make .venv/.ready",
            ".venv/bin/jupyter lab notebooks/convolution.ipynb",
        ]
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")
        button.click()
        expect(page.get_by_role("status").filter(has_text="does not copy")).to_be_visible()
        assert page.locator("#run-locally pre").is_visible()


def test_without_scripts_run_locally_leads_to_the_commands(browser: Browser) -> None:
    with browser.new_context(java_script_enabled=False) as context, context.new_page() as page:
        page.goto(f"{HTML.as_uri()}/book/chapters/convolution.html")
        url = page.get_by_role("link", name="Run locally").get_attribute("href")
        place = page.locator(url)
        place.locator("summary").click()
        assert "git clone" in place.locator("pre").inner_text()


def test_the_index_leads_to_the_section(browser: Browser) -> None:
    with browser.new_page() as page:
        page.goto(f"{HTML.as_uri()}/book/a-to-z.html")
        under_c = page.locator("section#index-c li")
        for entry in ("cross-correlation", "corr2d", "nn.Conv2d"):  # term, exercise, library
            found = under_c.filter(has_text=re.compile(f"^{re.escape(entry)} "))
            url = found.get_by_role("link", name="Convolution", exact=True).get_attribute("href")
            assert re.fullmatch(r"chapters/convolution\.html#.+", url), entry
        found.get_by_role("link", name="Convolution", exact=True).click()
        section = page.locator(f"section{url[url.index('#') :]}")
        assert "nn.Conv2d" in section.inner_text()


def test_links_into_pages_find_their_place(browser: Browser) -> None:
    """Those of the index and the glossary's terms, which no other check of the build looks at."""
    places: dict[str, set[str]] = {}
    for name in ("book/a-to-z", *CHAPTERS):
        text = (HTML / f"{name}.html").read_text(encoding="utf-8")
        for target, place in re.findall(r'href="([^"#:]*\.html)#([^"]+)"', text):
            file = ((HTML / name).parent / target).resolve()
            if str(file) not in places:
                ids = re.findall(r'\bid="([^"]+)"', file.read_text(encoding="utf-8"))
                places[str(file)] = set(ids)
            assert unquote(place) in places[str(file)], f"{name}: {target}#{place}"
    assert len(places) > len(CHAPTERS)


def test_an_erratum_opens_by_its_address(browser: Browser) -> None:
    with browser.new_page() as page:
        page.goto(f"{HTML.as_uri()}/book/errata.html#e111")
        assert page.locator("#e111").get_by_text("Right:").is_visible()
        assert not page.locator("#e102").get_by_text("Right:").is_visible()
        page.emulate_media(media="print")
        assert page.locator("#e102").get_by_text("Right:").is_visible()


def test_the_keyboard_comes_first_to_the_text(browser: Browser) -> None:
    with browser.new_page() as page:
        page.goto(f"{HTML.as_uri()}/book/parts/foundations.html")
        page.keyboard.press("Tab")
        skip = page.locator(":focus")
        expect(skip).to_have_text(re.compile("skip to main content", re.IGNORECASE))
        expect(skip).to_be_in_viewport()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        for _ in range(12):
            focused = page.locator(":focus")
            assert focused.evaluate("e => e.closest('main, article') !== null")
            outline = focused.evaluate("e => getComputedStyle(e).outlineStyle")
            assert outline != "none", focused.evaluate("e => e.outerHTML")
            page.keyboard.press("Tab")


def test_without_scripts_the_pictures_remain(browser: Browser) -> None:
    with browser.new_context(java_script_enabled=False) as context, context.new_page() as page:
        page.goto(f"{HTML.as_uri()}/book/chapters/convolution.html")
        places = page.locator(".moving")
        assert places.count() == 2
        for place in places.all():
            assert not place.is_visible()
            assert place.locator("xpath=preceding-sibling::div[1]//img").is_visible()


def test_a_printed_page_holds_the_text_alone(browser: Browser) -> None:
    with browser.new_page(viewport={"width": 680, "height": 960}) as page:
        view = View("book/chapters/convolution.html", page).open()
        page.emulate_media(media="print")
        for part in (".bd-sidebar-primary", ".bd-header-article", ".moving-controls", ".copybtn"):
            assert not page.locator(part).first.is_visible(), part
        assert page.locator("article figure img").first.is_visible()
        test_page_fits_the_window(view)
        cut = "e => e.filter((pre) => pre.scrollWidth > pre.clientWidth + 1).length"
        assert page.locator("article pre").evaluate_all(cut) == 0, "lines of code are cut off"


def test_a_term_tells_its_meaning(browser: Browser) -> None:
    with browser.new_page() as page:
        page.goto(f"{HTML.as_uri()}/book/chapters/transformer.html")
        term = page.locator("a.term", has_text="softmax").first
        shown = "e => getComputedStyle(e, '::after').content"
        assert term.evaluate(shown) == "none"
        term.focus()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Tab")  # by the keyboard, which alone makes the focus visible
        assert "softmax 函数" in term.evaluate(shown)
        names = [name.lower() for name in page.locator("a.term").all_text_contents()]
        assert 5 < len(names) == len(set(names))
        # What the page itself teaches is explained there, and what comes later is not known yet.
        assert not {"beam search", "cross-attention", "distillation"} & set(names)


def test_the_folder_opens_at_the_front_page(browser: Browser) -> None:
    page = browser.new_page()
    page.goto((HTML / "index.html").as_uri())
    page.wait_for_url("**/book/index.html")
    page.close()


def test_search_finds_english_and_chinese(browser: Browser) -> None:
    for query in ("convolution", "张量"):
        view = View(f"search.html?q={query}", browser.new_page()).open()
        view.page.wait_for_selector("#search-results li a")
        view.page.wait_for_timeout(300)  # time for a failing script to fail
        assert view.complaints == []
        view.page.close()


def links(page: str, browser: Browser) -> list[str]:
    tab = browser.new_page()
    tab.goto(f"{HTML.as_uri()}/{page}.html")
    # Not link.href: in the drawing of the course that is no text.
    whole = "links => links.map(a => new URL(a.getAttribute('href'), document.baseURI).href)"
    urls = tab.eval_on_selector_all("a[href]", whole)
    tab.close()
    return urls


@pytest.mark.parametrize("page", TOC)
def test_links_lead_somewhere(page: str, browser: Browser) -> None:
    urls = links(page, browser)
    local = {Path(unquote(urlparse(url).path)) for url in urls if url.startswith("file:")}
    assert [path for path in local if not path.exists()] == []
    colab = [url for url in urls if "colab.research.google.com" in url]
    if page not in CHAPTERS:
        assert colab == []
        return
    notebook = f"notebooks/{Path(page).name}.ipynb"
    assert len(colab) == 1 and colab[0].endswith(f"/blob/main/{notebook}")
    assert HTML / notebook in local
    assert (HTML / notebook).read_bytes() == (ROOT / notebook).read_bytes()


def test_a_message_leads_to_its_paragraph(browser: Browser) -> None:
    html = (HTML / "book" / "faq.html").read_text(encoding="utf-8")
    assert [m for m in faq.MESSAGES if f'<section id="{faq.anchor(m)}">' not in html] == []
