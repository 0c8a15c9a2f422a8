"""Pages over several runs: the index of a folder, and two runs side by side."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_run import HOSTILE, write_run
from test_report_browser import browser, opened  # noqa: F401 (a fixture)
from test_sections import table_data
from test_viz import parse

from mi_ortho import RunError, Verdict, start, viz
from mi_ortho.cli import main
from mi_ortho.viz.folder import run_entries
from mi_ortho.viz.index import address


def verdict(supported: bool | None) -> Verdict:
    return Verdict("A claim", "at least 0.2", "a share", 0.4, (0.3, 0.5), 0.2, 0.05, supported)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, one unfinished, two broken ones, a run inside a run, and files that are no runs."""
    root = tmp_path_factory.mktemp("all runs")
    with start(root, "first", {"seed": 1}, facts={"model": HOSTILE[1], "experiment": "one_claim"}) as run:
        run.record({"a": 1})
        verdicts = [verdict(one) for one in (True, True, False, None)]
        run.summary({"headline": HOSTILE[0], "verdicts": verdicts, "seconds": 12.4})
        viz.write_report(run.path, "First", [])
    with start(run.path, "nested", {"seed": 3}) as inside:
        inside.summary({"headline": "inside another run"})
    with start(root, "second", {"seed": 2}) as begun:
        begun.record({"a": 1})
        begun.record({"a": 2})
    write_run(root / "javascript:alert(1)" / "a b#c", sizes={"kl": 5})
    (root / "javascript:alert(1)" / "a b#c" / "report.html").write_text("<title>opened</title>")
    for name, file, content in (("torn", "config.json", '{"a'), ("list", "summary.json", "[]")):
        (root / name).mkdir()
        (root / name / "config.json").write_text("{}")
        (root / name / file).write_text(content)
    (root / "notes").mkdir()
    (root / "notes" / "todo.txt").write_text("no run")
    os.utime(root / "javascript:alert(1)" / "a b#c" / "summary.json", (1767323105, 1767323105))  # 60 s after its start
    viz.run_index(root)
    return root


def indexed(folder: Path) -> list[dict[str, Any]]:
    given = table_data((folder / "index.html").read_text(encoding="utf-8"))
    return [dict(zip(given["fields"], row)) for row in given["rows"]]


def test_index_lists_every_run_with_what_it_came_to(folder: Path) -> None:
    rows = {row["run"]: row for row in indexed(folder)}
    assert len(rows) == 5 and not any("nested" in name or "notes" in name for name in rows)
    finished = next(row for name, row in rows.items() if name.startswith("first/"))
    assert [finished[name] for name in ("supported", "refuted", "undecided", "seconds")] == [2, 1, 1, 12]
    assert finished["command"] == "one claim" and finished["state"] == "finished"
    begun = next(row for name, row in rows.items() if name.startswith("second/"))
    assert begun["state"] == "unfinished" and "2 rows so far" in begun["headline"] and begun["supported"] is None
    assert begun["seconds"] is None and begun["command"] == "second"
    assert rows["javascript:alert(1)/a b#c"]["seconds"] == 60
    for name, reason in (("torn", "config.json"), ("list", "summary.json")):
        assert rows[name]["state"] == "broken" and reason in rows[name]["headline"]


def test_index_headline_counts_only_what_is_there(folder: Path) -> None:
    shown = " ".join(parse((folder / "index.html").read_text(encoding="utf-8")).shown)
    assert "2 finished runs; 3 of 7 predictions supported." in shown  # the fake family has one verdict of each kind
    assert "1 unfinished runs" not in shown and "unfinished runs" in shown


def test_index_survives_a_moved_folder_and_names_no_place_outside(folder: Path, tmp_path: Path) -> None:
    found = parse((folder / "index.html").read_text(encoding="utf-8"))
    given = table_data((folder / "index.html").read_text(encoding="utf-8"))
    links = [link for link in given["links"]["command"] if link]
    assert len(links) == 2 and all(link.startswith("./") for link in links)
    assert not {tag for tag, _ in found.tags} & {"img", "iframe", "link", "base"}
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert [one.path for one in run_entries(moved)] == [one.path for one in run_entries(folder)]


def test_links_cannot_be_programs() -> None:
    assert address("javascript:alert(1)/x") == "./javascript%3Aalert%281%29/x"
    with pytest.raises(ValueError, match="relative address"):
        viz.table([{"a": "x"}], {"a": "a"}, links={"a": ["javascript:alert(1)"]})
    with pytest.raises(ValueError, match="2 links"):
        viz.table([{"a": "x"}], {"a": "a"}, links={"a": [None, None]})


def test_index_of_nothing_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match="there is no run"):
        viz.run_index(tmp_path)
    assert main(["report", "--index", str(tmp_path / "gone")]) == 2 and main(["report"]) == 2
    errors = capsys.readouterr().err
    assert "make a run first" in errors and "expected one, or --index" in errors


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_index_sorts_and_opens_reports(browser: Any, folder: Path, width: int) -> None:  # noqa: F811
    page = next(opened(browser, folder / "index.html", width))
    cells = "rows => rows.map(row => row.cells[6].textContent)"
    page.click(".rows th button:text-is('cost, s')")
    assert page.eval_on_selector_all(".rows tbody tr", cells)[:2] == ["12", "60"]
    page.click(".rows th button:text-is('cost, s')")
    assert page.eval_on_selector_all(".rows tbody tr", cells)[:2] == ["60", "12"]
    page.select_option('[data-filter="state"]', "broken")
    assert page.text_content(".shown") == "2 of 2 rows shown"
    page.select_option('[data-filter="state"]', "")
    assert HOSTILE[0] in page.inner_text(".rows") and page.evaluate("window.pwned") is None
    assert page.heard == [("request", (folder / "index.html").as_uri())]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click(".rows tbody tr:first-child a")
    assert page.title() == "opened"
    page.close()
