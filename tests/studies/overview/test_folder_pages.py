"""Pages over several runs: the index of a folder, and two runs side by side."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_run import HOSTILE, write_run
from test_report_browser import browser, opened  # noqa: F401 (a fixture)
from test_sections import table_data
from test_viz import parse

from mi_ortho import RunError, Verdict, pages, start
from mi_ortho.cli import main
from mi_ortho.pages.text import visible
from mi_ortho.studies.family.page_records import load_family
from mi_ortho.studies.overview.folder import run_entries
from mi_ortho.studies.overview.index import address, run_index
from mi_ortho.studies.overview.two_runs import run_comparison


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
        pages.write_report(run.path, "First", [])
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
    run_index(root)
    return root


def indexed(folder: Path) -> list[dict[str, Any]]:
    table = table_data((folder / "index.html").read_text(encoding="utf-8"))
    return [dict(zip(table["fields"], row)) for row in table["rows"]]


def test_index_lists_every_run_with_what_it_came_to(folder: Path) -> None:
    rows = {row["run"]: row for row in indexed(folder)}
    assert len(rows) == 5 and not any("nested" in name or "notes" in name for name in rows)
    finished = next(row for name, row in rows.items() if name.startswith("first/"))
    assert [finished[name] for name in ("supported", "not_supported", "undecided", "seconds")] == [2, 1, 1, 12]
    assert finished["command"] == "one claim" and finished["state"] == "finished"
    begun = next(row for name, row in rows.items() if name.startswith("second/"))
    assert begun["state"] == "unfinished" and "2 rows so far" in begun["headline"] and begun["supported"] is None
    assert begun["seconds"] is None and begun["command"] == "second"
    assert rows["javascript:alert(1)/a b#c"]["seconds"] == 60
    for name, reason in (("torn", "config.json"), ("list", "summary.json")):
        assert rows[name]["state"] == "broken" and reason in rows[name]["headline"]


def test_index_headline_counts_only_what_is_there(folder: Path) -> None:
    text = " ".join(parse((folder / "index.html").read_text(encoding="utf-8")).shown)
    assert "2 finished runs; 3 of 7 predictions supported." in text  # the fake family has one verdict of each kind
    assert "1 unfinished runs" not in text and "unfinished runs" in text


def test_index_survives_a_moved_folder_and_names_no_place_outside(folder: Path, tmp_path: Path) -> None:
    html = parse((folder / "index.html").read_text(encoding="utf-8"))
    table = table_data((folder / "index.html").read_text(encoding="utf-8"))
    links = [link for link in table["links"]["command"] if link]
    assert len(links) == 2 and all(link.startswith("./") for link in links)
    assert not {tag for tag, _ in html.tags} & {"img", "iframe", "link", "base"}
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert [one.path for one in run_entries(moved)] == [one.path for one in run_entries(folder)]


def test_links_cannot_be_programs() -> None:
    assert address("javascript:alert(1)/x") == "./javascript%3Aalert%281%29/x"
    with pytest.raises(ValueError, match="relative address"):
        pages.table([{"a": "x"}], {"a": "a"}, links={"a": ["javascript:alert(1)"]})
    with pytest.raises(ValueError, match="2 links"):
        pages.table([{"a": "x"}], {"a": "a"}, links={"a": [None, None]})


def test_index_of_nothing_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match="there is no run"):
        run_index(tmp_path)
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


# --- two runs


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two family runs: the second has another seed and radius, fewer vectors, one more claim and its own base."""
    root = tmp_path_factory.mktemp("pair") / "family"
    one = write_run(root / "20260102T030405-00000001", sizes={"kl": 12, "activation": 6})
    other = write_run(root / "20260102T030406-00000002", seed=5, sizes={"kl": 9})
    edit(other / "config.json", seed=5, radius=12.5, note=HOSTILE[1])
    summary = json.loads((other / "summary.json").read_text())
    extra = {"claim": HOSTILE[0], "value": 1.0, "threshold": 0.5, "supported": True}
    edit(other / "summary.json", verdicts=[*summary["verdicts"][1:], extra], counts={"kl": {"found": 9}})
    return one, other


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def tables(html: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table of a page by its name."""
    contents = [json.loads(content) for _, content in parse(html).scripts if content.startswith('{"fields"')]
    return {one["name"]: [dict(zip(one["fields"], row)) for row in one["rows"]] for one in contents}


def test_comparison_tells_what_differs(pair: tuple[Path, Path]) -> None:
    html = run_comparison(*pair).read_text(encoding="utf-8")
    by_name, text = tables(html), " ".join(parse(html).shown)
    assert {(row["key"], row["a"], row["b"]) for row in by_name["settings"]} == {
        ("seed", "0", "5"),
        ("radius", "24", "12.5"),
        ("note", "–", HOSTILE[1]),
    }
    assert "Two runs of family that differ in radius, seed, note." in text
    numbers = {row["key"]: row for row in by_name["numbers"]}
    assert numbers["counts.kl.found"] == {"key": "counts.kl.found", "a": 64, "b": 9, "change": -55}
    assert numbers["counts.activation.keeps"]["b"] is None and not any("verdicts" in key for key in numbers)
    assert text.count("not judged") == 2 and HOSTILE[0] in parse(html).shown
    assert "Only one of the runs has vectors of this match: activation" in text


def test_comparison_joins_completions_by_index(pair: tuple[Path, Path]) -> None:
    completions = tables(run_comparison(*pair).read_text(encoding="utf-8"))["completions"]
    rows = [load_family(path).family("kl") for path in pair]
    assert [row["index"] for row in completions] == list(range(9))
    for row, a, b in zip(completions, *rows):
        assert (row["mode_a"], row["mode_b"]) == (a["mode"], b["mode"])
        assert (
            row["kept"]
            == {(1, 1): "both", (1, 0): "only A", (0, 1): "only B", (0, 0): "neither"}[
                bool(a["keeps"]), bool(b["keeps"])
            ]
        )
        assert row["text_b"] == visible(b["text"])[:4000]


def test_comparison_draws_both_runs_on_one_axis(pair: tuple[Path, Path]) -> None:
    scripts = parse(run_comparison(*pair).read_text(encoding="utf-8")).scripts
    panels = [json.loads(content) for _, content in scripts if content.startswith('{"box"')]
    losses = {one["key"]: one["y"] for one in panels[0]["series"]}
    assert len(panels) == 6 and set(losses) == {"a", "b", "ra", "rb"}
    rows = [load_family(path).family("kl") for path in pair]
    for name, family in zip("ab", rows):
        assert len(losses[name]) == len(family)
        expected = [None if row["loss"] is None else pytest.approx(row["loss"], rel=1e-3) for row in family]
        assert losses[name] == expected and expected[2] is None


def test_cosines_only_between_comparable_vectors(pair: tuple[Path, Path], tmp_path: Path) -> None:
    html = str(run_comparison(*pair).read_text(encoding="utf-8"))
    assert "The two bases have cosine 1." in " ".join(parse(html).shown)  # the fake runs share their base
    other = Path(shutil.copytree(pair[1], tmp_path / pair[1].name))
    edit(other / "environment.json", model_hash="00", command="family")
    text = " ".join(parse(run_comparison(pair[0], other, tmp_path / "x.html").read_text()).shown)
    assert "of different weights" in text and "The two bases" not in text
    (other / "vectors.safetensors").unlink()
    assert "no vectors stored" in run_comparison(pair[0], other, tmp_path / "x.html").read_text()


def test_runs_of_different_commands_are_refused(
    pair: tuple[Path, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = next((folder / "first").glob("2*")), next((folder / "second").glob("2*"))
    with pytest.raises(RunError, match="a run of `family` and a run of `one_claim`; expected two runs of one command"):
        run_comparison(pair[0], first, tmp_path / "x.html")
    with pytest.raises(RunError, match="twice"):
        run_comparison(first, first)
    assert main(["compare", str(first), str(second)]) == 2 and main(["compare", str(first), str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("mi-ortho: got") == 2 and not (tmp_path / "x.html").exists()


def test_runs_without_curves_still_compare(tmp_path: Path) -> None:
    paths = []
    for seed in (1, 2):
        with start(tmp_path, "demo", {"seed": seed}) as run:
            run.summary({"headline": "h", "seconds": seed, "verdicts": [verdict(seed == 1)]})
            paths.append(run.path)
    text = " ".join(parse(run_comparison(*paths).read_text()).shown)
    assert "supported" in text and "not supported" in text and "that differ in seed." in text


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_comparison_works_in_a_browser(browser: Any, pair: tuple[Path, Path], width: int) -> None:  # noqa: F811
    path = run_comparison(*pair)
    page = next(opened(browser, path, width))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("a", "b"):
        wide = f"all => Math.min(...all.map(one => one.getBBox().width)) > {width / 10}"
        assert page.eval_on_selector_all(f".panel svg path.s-{name}, .panel svg g.s-{name}", wide)
    page.locator(".panel").first.focus()
    page.keyboard.press("ArrowRight")
    tip = page.inner_text("#tip")
    assert "A, the family" in tip and "B, the family" in tip
    page.locator(".heat").focus()
    page.keyboard.press("ArrowRight")
    assert "base 0 · kl 0" in page.inner_text("#tip")
    assert HOSTILE[0] in page.inner_text("main") and HOSTILE[1] in page.inner_text("main")
    assert page.heard == [("request", path.as_uri())] and page.evaluate("window.pwned") is None
    page.close()
