"""The parts all reports share: tables of any rows, verdicts, completions, estimates, and the template around them."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_run import HOSTILE
from test_report_browser import browser, opened  # noqa: F401 (a fixture)
from test_viz import parse

from mi_ortho import Verdict, pages, start
from mi_ortho.pages import data_table, sections, text

COLUMNS = {"index": "#", "mode": "behaviour", "norm": "norm", "gone": "gone", "text": "completion"}


def rows(count: int = 70) -> list[dict[str, object]]:
    return [
        {
            "index": i,
            "mode": ("code", "refuse", "poem")[i % 3],
            "norm": 100.0 - i,
            "unused": "secret",
            "gone": None if i % 5 else i,
            "text": HOSTILE[i % len(HOSTILE)],
        }
        for i in range(count)
    ]


def table_data(html: str) -> dict[str, Any]:
    return json.loads(next(content for _, content in parse(html).scripts if content.startswith('{"fields"')))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = start(tmp_path_factory.mktemp("runs"), "demo", {"seed": 3, "name": HOSTILE[0]}, facts={"model": "embedded"})
    with run:
        for row in rows():
            run.record(row)
        verdict = Verdict("A claim", "at least 0.2", "a share", 0.4, (0.3, 0.5), 0.2, 0.05, True)
        run.summary({"headline": "What came out", "verdicts": [verdict], "tiles": [["12 / 40", "that work"]]})
    series = [pages.Series("one", [0.1, 1.0, 10.0], [1.0, 2.0, 3.0], "family", "one")]
    curve = pages.curve(pages.Panel("A", logx=True), series)
    picture = pages.heat_map(torch.eye(3), title="t", row_names=["r<b>", "s", "t"], column_names=["x", "y", "z"])
    found = [
        pages.table_section("All rows", run.records(), COLUMNS, anchor="rows", chips=["mode"], name="demo"),
        pages.Section("Curves", pages.curves([curve], "c", legend=[("one", "one", "family")])),
        pages.Section("Estimates", pages.estimates("E", [pages.Estimate(HOSTILE[1], 0.4, (0.3, 0.5))], threshold=0.2)),
        pages.Section("Texts", pages.completions([pages.Card("plain", "a b"), pages.Card("steered", HOSTILE[0])])),
        pages.Section("Map", picture),
    ]
    return pages.write_report(run.path, "Demo", found)


def test_report_has_the_common_parts_around_its_own(report: Path) -> None:
    shown = " ".join(parse(report.read_text(encoding="utf-8").split('id="main"')[1]).shown)
    order = ["1 supported", "12 / 40", "A claim", "What was run", "All rows", "Curves", "run started"]
    places = [shown.index(part) for part in order]
    assert places == sorted(places) and report.stat().st_size < 300_000


def test_report_of_an_unfinished_run_says_so(tmp_path: Path) -> None:
    with start(tmp_path, "demo", {}) as run:
        run.record({"a": 1})
    shown = pages.write_report(run.path, "Demo", []).read_text(encoding="utf-8")
    assert "Unfinished run: 1 rows so far" in shown and "no summary yet" in shown


def test_table_holds_the_chosen_columns_and_any_text() -> None:
    given = table_data(str(pages.table(rows(), COLUMNS, chips=["mode"])))
    assert given["fields"] == list(COLUMNS) and given["long"] == ["text"] and len(given["rows"]) == 70
    assert [row[4] for row in given["rows"][:7]] == [text.clip(text.visible(one), 4000) for one in HOSTILE]
    assert given["modes"] == {"code": "m0", "refuse": "m1", "poem": "m6"} and "secret" not in json.dumps(given)


def test_table_stays_within_its_budget() -> None:
    html = str(pages.table([{"a": i, "b": "x" * 3000} for i in range(6000)], {"a": "a", "b": "b"}))
    assert len(html) < 1_000_000 and "1000 further rows are left out" in html
    with pytest.raises(ValueError, match="no columns"):
        pages.table([], {})


def test_columns_of_few_texts_can_be_filtered() -> None:
    assert re.findall('data-filter="(.*?)"', str(pages.table(rows(), COLUMNS))) == ["mode", ""]


def test_short_tables_and_columns_that_do_not_repeat_have_nothing_to_filter() -> None:
    found = [{"a": f"{k} of 9", "b": "xy"[k % 2], "ids": [k, 2077]} for k in range(9)]
    columns = {"a": "a", "b": "b", "ids": "ids"}
    assert re.findall('data-filter="(.*?)"', str(pages.table(found, columns))) == ["b", ""]
    assert re.findall('data-filter="(.*?)"', str(pages.table(found[:3], columns))) == []
    assert "1, 2077" in str(pages.table(found, columns))  # a list of ids, not of 2 and 77


def test_a_category_has_one_colour_on_every_page() -> None:
    texts = [pages.Card(name, name, name) for name in ("refuse", "json", "code", "other")]
    tables = [
        str(pages.table([{"m": card.mode} for card in order], {"m": "m"}, chips=["m"]))
        for order in (texts, texts[::-1])
    ]
    given = [table_data(html)["modes"] for html in tables]
    assert given[0] == given[1] == {"code": "m0", "refuse": "m1", "json": "m4", "other": "m7"}
    shown = str(pages.completions(texts))
    assert all(f'"chip {colour}">{mode}<' in shown for mode, colour in given[0].items())


def test_logarithmic_axes_of_small_range_have_plain_numbers() -> None:
    def labels(values: list[float]) -> list[str]:
        drawn = pages.curve(pages.Panel("t", log=True), [pages.Series("one", [0, 1, 2], values)])
        return re.findall(r"<text[^>]*>([^<]*)</text>", str(drawn).split("vector index k")[1])

    assert labels([1.0, 3.0, 8.0]) == ["1", "2", "5"] and labels([0.02, 0.03, 0.04])[-1] == "0.04"
    assert "×" not in str(pages.curve(pages.Panel("t", log=True), [pages.Series("one", [0, 1], [1e-5, 1.0])]))


def test_rings_of_controls_are_hollow_on_any_paper() -> None:
    drawn = str(pages.estimates("E", [pages.Estimate("one", 0.4, (0.3, 0.5), "control")]))
    assert "fill: var(--paper)" in drawn and "#ffffff" not in drawn


def test_words_that_differ_are_marked_and_nothing_runs() -> None:
    assert str(sections.marked("a <b> kite", "a kite")) == "a <mark>&lt;b&gt;</mark> kite"
    cards = [pages.Card("one", "same words"), pages.Card("two", "same <i>words</i>", "code")]
    html = str(pages.completions(cards, prompt="<u>"))
    found = parse(html)
    assert html.count("<mark>") == 1 and not {"i", "u", "b>"} & {tag for tag, _ in found.tags}


def test_settings_are_flat() -> None:
    assert data_table.settings({"a": {"b": 1, "c": None}, "d": [1, 2]}) == [("a.b", "1"), ("d", "1, 2")]


def test_matrix_names_must_fit() -> None:
    with pytest.raises(ValueError, match="2 row and 0 column names"):
        pages.heat_map(torch.eye(3), title="t", row_names=["a", "b"])


@pytest.mark.parametrize("log", [False, True])
def test_figure_files_stand_alone(log: bool) -> None:
    panel = pages.Panel("Loss", "share", "norm", logx=log, lines={"threshold": 1.5})
    drawn = pages.standalone(panel, [pages.Series("one <two>", [0.5, 1.0, 10.0], [1.0, 2.0, 3.0], "c1", "a", dots=log)])
    rows = [pages.Estimate("linear & more", 0.4, (0.3, 0.5)), pages.Estimate("none", None, None, "control")]
    for svg in (drawn, pages.estimates_svg(rows, threshold=0.2)):
        ElementTree.fromstring(svg)
        assert "var(--" not in svg and len(svg) < 20_000
    assert "0.123<" in pages.estimates_svg([pages.Estimate("x", 0.1234)])  # shown as it is, not as a coordinate
    assert "one &lt;two&gt;" in drawn and "linear &amp; more" in pages.estimates_svg(rows)
    with pytest.raises(ValueError, match="no estimates"):
        pages.estimates_svg([])


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_report_works_in_a_browser(browser: Any, report: Path, width: int) -> None:  # noqa: F811
    page = next(opened(browser, report, width))
    page.click(".rows th button:text-is('norm')")
    column = "rows => rows.map(row => row.cells[2].textContent)"
    assert page.eval_on_selector_all(".rows tbody tr", column)[:2] == ["31", "32"]
    page.select_option('[data-filter="mode"]', "refuse")
    assert page.text_content(".shown") == "23 of 23 rows shown"
    page.locator(".panel").first.focus()
    page.keyboard.press("ArrowRight")
    assert "one" in page.inner_text("#tip")
    page.locator(".heat").first.focus()
    page.keyboard.press("ArrowRight")
    assert "r<b> · y" in page.inner_text("#tip")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.heard == [("request", report.as_uri())] and page.evaluate("window.pwned") is None
    page.close()
