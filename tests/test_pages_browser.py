"""Every kind of page in headless Chromium: no request, no error, everything drawn, hostile text shown as text."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_pages import write_atlas, write_explored, write_folder, write_melbo, write_pair, write_recorded
from fake_run import HOSTILE, write_run
from test_report_browser import DRAWN, browser, draw_all, opened  # noqa: F401 (a fixture)

from experiments.lab.claims import load
from experiments.lab.reporting import write_experiment_report
from mi_ortho import open_run, pages
from mi_ortho.pages.text import visible
from mi_ortho.studies.atlas.page import atlas_report
from mi_ortho.studies.dct.page import dct_report
from mi_ortho.studies.explore.page import explore_report
from mi_ortho.studies.family.page import family_report
from mi_ortho.studies.family.page_melbo import melbo_report
from mi_ortho.studies.geometry.page import geometry_report
from mi_ortho.studies.nulls.page import nulls_report
from mi_ortho.studies.overview.index import run_index
from mi_ortho.studies.overview.two_runs import run_comparison
from mi_ortho.studies.presence.page import presence_report
from mi_ortho.studies.refusal.page import refusal_report

pytestmark = pytest.mark.browser


def experiment_page(path: Path) -> Path:
    return write_experiment_report(load("derivatives_are_local"), open_run(path))


PAGES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Path]]] = {
    "family": (lambda path: write_run(path, sizes={"kl": 50, "activation": 14}), family_report),
    "family beyond its end": (lambda path: write_run(path, sizes={"kl": 20, "activation": 8}), family_report),
    "melbo": (write_melbo, melbo_report),
    "nulls": (lambda path: write_recorded("nulls", path), nulls_report),
    "presence": (lambda path: write_recorded("presence", path), presence_report),
    "geometry": (lambda path: write_recorded("geometry", path), geometry_report),
    "refusal": (lambda path: write_recorded("refusal", path), refusal_report),
    "atlas": (write_atlas, atlas_report),
    "dct": (lambda path: write_recorded("dct", path), dct_report),
    "explore": (lambda path: write_explored(path, heads=8, size=40), explore_report),
    "index": (write_folder, run_index),
    "compare": (write_pair, lambda path: run_comparison(*sorted((path / "family").iterdir()))),
    "experiment": (lambda path: write_recorded("derivatives_are_local", path), experiment_page),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root, known = tmp_path_factory.mktemp("pages"), dict[str, Path]()

    def make(name: str) -> Path:
        if name not in known:
            write, draw = PAGES[name]
            known[name] = draw(write(root / name))
        return known[name]

    return make


def faults(page: Any, width: int) -> list[str]:
    """What a reader would find broken on an open page."""
    # reading the same canvas again, as this test does, makes Chromium advise a setting
    found = [f"{kind}: {text}" for kind, text in page.heard[1:] if "willReadFrequently" not in text]
    if page.evaluate("window.pwned") is not None:
        found.append("a text ran")
    if page.evaluate("document.querySelectorAll('main img, main iframe, main object, main link').length"):
        found.append("a text became markup")
    wide = page.evaluate("document.documentElement.scrollWidth")
    if wide > width:
        found.append(f"{wide} pixels wide")
    for canvas in page.query_selector_all("canvas"):
        if canvas.is_visible() and canvas.evaluate(DRAWN) < 2:
            found.append("an empty canvas")
    for svg in page.query_selector_all(".panel svg, .estimates svg"):
        widths = "svg => [...svg.querySelectorAll('path, line')].map(one => one.getBoundingClientRect().width)"
        if svg.is_visible() and max([0, *svg.evaluate(widths)]) < 20:
            found.append("an empty drawing")
    for visual in page.query_selector_all(".drawing"):
        if visual.is_visible() and not visual.evaluate("one => one.childElementCount"):
            found.append("a visual that was not drawn")
    return found + crooked_rows(page) + crooked_heads(page)


def print_faults(page: Any) -> list[str]:
    """What has no place on paper: parts cut off, controls that do nothing there, words broken to fit a column."""
    return page.evaluate("""() => {
      const seen = one => one.getClientRects().length > 0, found = [];
      const all = selector => [...document.querySelectorAll(selector)].filter(seen);
      for (const one of all("main .scroll, main .grid, main .completion")) {
        const hides = getComputedStyle(one).overflowX !== "visible" && one.scrollWidth > one.clientWidth + 1;
        if (hides) found.push("cut off: " + one.textContent.trim().slice(0, 40));
      }
      for (const one of all("nav, .command button, .filters button, .filters select, input, .more, .step, summary"))
        if (one.tagName !== "SUMMARY" || !one.parentElement.open) found.push("a control: " + one.textContent);
      for (const one of all(".verdicts thead th, .rows thead th")) {
        const words = document.createRange(), box = one.getBoundingClientRect();
        words.selectNodeContents(one);
        if (words.getBoundingClientRect().right > box.right + 1) found.push("cut heading: " + one.textContent);
      }
      if (getComputedStyle(document.body).backgroundColor !== "rgb(255, 255, 255)") found.push("no white paper");
      return found;
    }""")


def crooked_heads(page: Any) -> list[str]:
    """Headings that do not stand over the numbers of their column."""
    return page.evaluate("""() => [...document.querySelectorAll(".data table")].flatMap(table => {
      const rows = [...table.tBodies[0].rows], heads = [...table.tHead.rows[0].cells];
      return heads.filter((head, k) => rows.length && rows.every(row => row.cells[k].className === "n")
        && getComputedStyle(head).textAlign !== "right").map(head => "a crooked heading: " + head.textContent);
    })""")


def crooked_rows(page: Any) -> list[str]:
    """Row names of heat maps that do not stand beside the middle of their rows, or are larger than these."""
    return page.evaluate("""() => [...document.querySelectorAll(".framed")].flatMap(frame => {
      const names = [...frame.querySelectorAll(".rownames span")];
      const box = frame.querySelector("canvas").getBoundingClientRect(), step = box.height / names.length;
      return names.filter((name, k) => {
        const own = name.getBoundingClientRect(), away = (own.top + own.bottom) / 2 - box.top - (k + 0.5) * step;
        const lies_over_others = parseFloat(getComputedStyle(name).fontSize) > step;
        return Math.abs(away) > 0.3 * step || own.height > 1.5 * step || lies_over_others;
      }).map(name => "a crooked row name: " + name.textContent);
    })""")


def sort_every_table(page: Any) -> int:
    """Sort each table by each heading, twice, and check the order of its numbers."""
    sorted_columns = 0
    for box in page.query_selector_all(".data"):
        heads = box.query_selector_all("thead th button")
        for k, head in enumerate(heads):
            head.evaluate("one => one.click()")
            cells = box.eval_on_selector_all("tbody tr", f"rows => rows.map(row => row.cells[{k}].textContent)")
            values = [float(cell) for cell in cells if re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?", cell)]
            if len(values) == len([cell for cell in cells if cell != "–"]) > 1:
                assert values == sorted(values), (head.inner_text(), values)
                assert cells == [cell for cell in cells if cell != "–"] + [cell for cell in cells if cell == "–"]
                sorted_columns += 1
    return sorted_columns


@pytest.mark.parametrize("name", PAGES)
def test_page_works_and_nothing_in_it_runs(browser: Any, made: Callable[[str], Path], name: str) -> None:  # noqa: F811
    path = made(name)
    assert path.stat().st_size < 3_000_000
    page = next(opened(browser, path, 1280))
    draw_all(page)
    assert faults(page, 1280) == []
    assert (sort_every_table(page) > 0) == (name != "explore")  # which has no table
    for details in page.query_selector_all("details"):
        details.evaluate("one => { one.open = true; }")
    shown = page.evaluate("document.documentElement.textContent")
    assert sum(visible(text)[:60] in shown for text in HOSTILE) >= (1 if name in ("geometry", "experiment") else 4)
    assert page.heard == [("request", path.as_uri())] and page.evaluate("window.pwned") is None
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(150)
    assert faults(page, 390) == []
    page.evaluate("document.querySelectorAll('main > section details').forEach(one => { one.open = false; })")
    page.set_viewport_size({"width": 703, "height": 1000})  # what A4 leaves between its margins
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_timeout(150)
    assert faults(page, 703) == [] and print_faults(page) == [] and page.is_visible("h1")
    page.close()


def test_every_check_can_fail(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "bad.html"
    wide = '<div style="width:2000px">w</div><canvas></canvas><div class="panel"><svg></svg></div>'
    drawing = '<div class="drawing" style="height:20px"></div><img src="https://example.invalid/x.png">'
    names = '<div class="framed"><div class="rownames"><span>a</span></div><canvas height="900"></canvas></div>'
    cells = "<thead><tr><th>n</th></tr></thead><tbody><tr><td class='n'>1</td></tr></tbody>"
    names += f'<div class="data"><table>{cells}</table></div>'
    paper = '<nav>n</nav><details><summary>s</summary></details><div class="scroll" style="width:9px;overflow:auto">'
    paper += 'cutcutcut</div><table class="verdicts"><thead><tr><th style="display:block;width:9px">Threshold</th></tr>'
    paper += "</thead></table>"
    path.write_text(f"<main>{wide}{drawing}{names}{paper}</main><script>window.pwned = 1; throw Error('e')</script>")
    page = next(opened(browser, path, 1280))
    page.wait_for_timeout(200)
    found = " | ".join(faults(page, 1280) + print_faults(page))
    for wanted in (
        "example.invalid",
        "error: e",
        "a text ran",
        "became markup",
        "pixels wide",
        "empty canvas",
        "empty drawing",
        "was not drawn",
        "crooked row name: a",
        "crooked heading: n",
        "a control: n",
        "a control: s",
        "cut off: cutcutcut",
        "cut heading: Threshold",
        "no white paper",
    ):
        assert wanted in found, wanted
    page.close()


def test_names_stand_beside_short_rows(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    drawn = pages.heat_map(torch.randn(16, 90), title="t", row_names=[f"vector {k}" for k in range(16)])
    path = pages.write_page(tmp_path / "x.html", pages.page("t", [pages.Section("s", drawn)]))
    for width in (1280, 390):
        page = next(opened(browser, path, width))
        assert faults(page, width) == []
        page.close()


def test_notebook_frame_draws_inside_its_sandbox(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    words = ["a", *HOSTILE]
    visuals = [
        pages.token_values(words, torch.linspace(-1, 1, len(words))),
        pages.attention(words, torch.rand(2, len(words), len(words)).tril()),
        pages.logits(words, torch.randn(len(words), 7), HOSTILE.__getitem__, ids=[1] * len(words)),
        pages.token_values(["a", "\n", "b\n"], torch.randn(3, 4)),
        pages.compare(["a"], {name: torch.ones(4, 1, 1) for name in "abc"}),
        pages.attention(["a"] * 70, torch.rand(9, 70, 70).tril()),
    ]
    path = tmp_path / "notebook.html"
    path.write_text("<script>window.here = 1</script>" + "".join(one._repr_html_() for one in visuals))
    page = next(opened(browser, path, 1280))
    for frame, visual in zip(page.query_selector_all("iframe"), visuals):
        frame.scroll_into_view_if_needed()
        inside = frame.content_frame()
        for _ in range(60):  # a busy machine takes seconds to draw; the frame's policy forbids waiting inside it
            page.wait_for_timeout(400)
            if inside.evaluate("document.querySelector('.drawing')?.childElementCount > 0"):
                break
        assert inside.evaluate("document.querySelector('.drawing').childElementCount") > 0, visual.component
        assert inside.evaluate("document.documentElement.scrollHeight <= innerHeight"), visual.component
        shown = (
            inside.evaluate("document.querySelector('.drawing').textContent").replace("\u2060", "").replace("\xa0", " ")
        )
        assert HOSTILE[0][:30] in shown or words != visual.props["tokens"] or visual.component == "AttentionHeads"
        assert inside.evaluate("(() => { try { return parent.here; } catch { return 'closed'; } })()") == "closed"
        if visual.component == "Logits":
            inside.locator(".steps button").nth(2).focus()
            page.keyboard.press("ArrowLeft")
            assert "after token 1" in inside.evaluate("document.querySelector('.drawing').textContent")
    assert page.heard == [("request", path.as_uri())] and page.evaluate("window.pwned") is None
    page.close()
