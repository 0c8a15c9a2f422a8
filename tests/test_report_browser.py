"""The report in headless Chromium: no request, no error, every visual drawn, hostile text shown as text."""

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_run import HOSTILE, write_run

from mi_ortho.pages.text import visible
from mi_ortho.studies.family.page import family_report

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DRAWN = """canvas => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data, seen = new Set();
  for (let k = 0; k < data.length; k += 4) if (data[k + 3]) seen.add(data[k] * 65536 + data[k + 1] * 256 + data[k + 2]);
  return seen.size;
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_report(write_run(tmp_path_factory.mktemp("family")))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        found = tools.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report at desktop width, with everything the browser asked for or complained about in `heard`."""
    yield from opened(browser, report, 1280)


@pytest.fixture(scope="module")
def phone(browser: Any, report: Path) -> Iterator[Any]:
    """The report at phone width, in the dark theme."""
    yield from opened(browser, report, 390, color_scheme="dark")


def opened(browser: Any, report: Path, width: int, **options: str) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    page.heard = []
    page.on("request", lambda request: page.heard.append(("request", request.url)))
    page.on("console", lambda message: page.heard.append((message.type, message.text)))
    page.on("pageerror", lambda error: page.heard.append(("error", str(error))))
    page.goto(report.as_uri())
    yield page
    page.close()


def wait_until(page: Any, condition: str) -> None:
    """Poll a condition (the page's policy forbids the browser driver's own way of waiting, which needs eval)."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never became true: {condition}")


def draw_all(page: Any) -> None:
    """Bring every visual into view, hidden choices included, and wait until each is drawn."""
    for button in page.query_selector_all(".choices button"):
        button.click()
        page.locator(".choice:not([hidden])").scroll_into_view_if_needed()
        wait_until(page, "!!document.querySelector('.choice:not([hidden]) .drawing').childElementCount")
    for visual in page.locator(".visual").all():
        if visual.is_visible():
            visual.scroll_into_view_if_needed()
    wait_until(page, "[...document.querySelectorAll('.drawing')].every(one => one.childElementCount)")
    page.wait_for_timeout(300)


def column(page: Any, name: str) -> list[str]:
    heads = [head.inner_text().strip() for head in page.query_selector_all(".rows thead th")]
    k = next(k for k, head in enumerate(heads) if re.sub(r"\s+", " ", head) == name)
    return page.eval_on_selector_all(".rows tbody tr", f"rows => rows.map(row => row.cells[{k}].textContent)")


def table_shows(page: Any, **filters: str) -> None:
    for name in ("match", "what", "mode"):
        page.select_option(f'[data-filter="{name}"]', filters.get(name, ""))
    page.fill('[data-filter="text"]', filters.get("text", ""))


def test_nothing_is_requested_nothing_fails_and_no_text_runs(page: Any, report: Path) -> None:
    draw_all(page)
    assert page.heard == [("request", report.as_uri())]
    assert page.evaluate("window.pwned") is None


def test_policy_stops_a_script_that_gets_in(browser: Any, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.got_in = 1'}))"
    )
    assert page.evaluate("window.got_in") is None
    page.close()


def test_every_visual_has_drawn_pixels(page: Any) -> None:
    draw_all(page)
    canvases = [one for one in page.query_selector_all("canvas") if one.is_visible()]
    assert len(canvases) >= 2 + 5 * 4 + 5  # matrices, five rows of four heads, four small heads and a large one
    assert min(one.evaluate(DRAWN) for one in canvases) >= 3
    for panel in page.query_selector_all(".panel svg"):
        assert panel.evaluate("svg => svg.querySelector('.s-family').getBBox().width") > 100
    colours = page.eval_on_selector_all(
        ".colored-tokens span", "all => all.map(one => getComputedStyle(one).backgroundColor)"
    )
    assert len(set(colours)) > 20
    assert (
        page.eval_on_selector_all(
            ".strip svg path", "all => Math.min(...all.map(one => one.getBoundingClientRect().width))"
        )
        > 2
    )


def test_tokens_appear_as_they_are(page: Any) -> None:
    draw_all(page)
    shown = page.inner_text(".visual[data-component=ColoredTokens]").replace("\u2060", "").replace("\xa0", " ")
    for token in ("<div>", "</script>", '<img src=x onerror="window.pwned = 3">', "&amp;", "<|im_start|>", "שלום"):
        assert token in shown


@pytest.mark.parametrize("k", range(len(HOSTILE)))
def test_hostile_completion_is_shown_as_text(page: Any, k: int) -> None:
    wanted = visible(HOSTILE[k])[:3999]
    table_shows(page, what="family")
    page.click(".more") if page.is_visible(".more") else None
    assert any(shown.startswith(wanted) for shown in column(page, "completion"))
    page.evaluate(
        "k => { const one = document.querySelector('.explorer input'); one.value = k;"
        "one.dispatchEvent(new Event('input')) }",
        4 + k,
    )
    assert page.text_content(".explorer .vector").startswith(wanted)


def test_sorting_and_filtering(page: Any) -> None:
    table_shows(page, what="family", match="activation")
    page.click(".rows th button:text-is('norm')")
    up = [float(one) for one in column(page, "norm")]
    assert len(up) == 32 and up == sorted(up) and len(set(up)) > 10
    assert page.get_attribute(".rows th[aria-sort=ascending]", "scope") == "col"
    page.click(".rows th button:text-is('norm')")
    assert [float(one) for one in column(page, "norm")] == up[::-1]
    page.click(".rows th button:text-is('loss L')")
    table_shows(page, what="family", match="kl", text="onerror")
    assert column(page, "index") == ["5"]
    table_shows(page, what="held out", mode="refuse")
    assert column(page, "what") and set(column(page, "behaviour")) == {"refuse"}
    assert all(one.startswith("held out: ") for one in column(page, "what"))


def test_missing_numbers_sort_last(page: Any) -> None:
    table_shows(page, what="family", match="kl")
    page.reload()
    page.select_option('[data-filter="match"]', "kl")
    page.click(".more")
    for _ in range(2):
        page.click(".rows th button:text-is('loss L')")
        assert column(page, "loss L")[-1] == "–" and len(column(page, "loss L")) == 64


def test_csv_holds_every_row_and_no_formula(page: Any) -> None:
    table_shows(page, match="kl", what="family")
    with page.expect_download() as waiting:
        page.click(".csv")
    with open(waiting.value.path(), encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64 and [int(row["index"]) for row in sorted(rows, key=lambda row: int(row["index"]))] == list(
        range(64)
    )
    by_index = {int(row["index"]): row for row in rows}
    assert by_index[5]["text"] == visible(HOSTILE[1]) and by_index[2]["loss"] == ""
    assert not [value for row in rows for value in row.values() if re.match(r"[=+@]", value)]


def test_keyboard_reaches_the_numbers(page: Any) -> None:
    panel = page.locator(".panel").nth(1)
    panel.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    tip = page.inner_text("#tip")
    assert "vector index k" in tip and "family" in tip and "behaviour" in tip
    assert page.input_value(".explorer[data-match=kl] input") == "3"
    page.keyboard.press("Escape")
    assert not page.is_visible("#tip")
    page.locator(".heat").nth(1).focus()
    page.keyboard.press("ArrowRight")
    assert "base 0 · kl 0" in page.inner_text("#tip")


def test_hovering_a_strip_names_the_vector(page: Any) -> None:
    cells = page.locator(".strip.first .cells").first
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 10.5 / 64, box["y"] + box["height"] / 2)
    assert "index 10" in page.inner_text("#tip") and "norm" in page.inner_text("#tip")
    page.mouse.click(box["x"] + box["width"] * 10.5 / 64, box["y"] + box["height"] / 2)
    assert page.input_value(".explorer[data-match=kl] input") == "10"


def test_slider_marks_what_differs_from_the_base(page: Any) -> None:
    page.evaluate(
        "const one = document.querySelector('.explorer[data-match=activation] input'); one.value = 1;"
        "one.dispatchEvent(new Event('input'))"
    )
    explorer = page.locator(".explorer[data-match=activation]")
    assert explorer.locator("mark").count() >= 1 and "CONVERGED" in explorer.inner_text()
    before = explorer.locator("output").inner_text()
    explorer.locator("[data-step='1']").click()
    assert (before, explorer.locator("output").inner_text()) == ("1", "2")


def test_legend_hides_a_series(page: Any) -> None:
    button = page.locator(".legend button[data-series=random_base]").first
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not page.locator(".panel .s-random_base").first.is_visible()
    button.click()
    assert page.locator(".panel .s-random_base").first.is_visible()


def test_theme_follows_the_reader(page: Any, phone: Any) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    assert phone.evaluate(background) != light
    page.click("#theme")
    assert page.evaluate(background) == phone.evaluate(background)
    page.click("#theme")
    assert page.evaluate(background) == light


def test_phone_needs_no_sideways_scrolling(phone: Any) -> None:
    draw_all(phone)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert (
        phone.evaluate(
            "parseFloat(getComputedStyle(document.querySelector('.panel text')).fontSize)"
            " * document.querySelector('.panel svg').getBoundingClientRect().width / 255.6"
        )
        > 9
    )
    assert [kind for kind, _ in phone.heard] == ["request"]


def test_print_shows_all_and_leaves_the_controls_out(page: Any) -> None:
    page.emulate_media(media="print")
    assert not page.is_visible("nav") and not page.is_visible(".explorer") and page.is_visible(".panel svg")
    page.emulate_media(media="screen")
