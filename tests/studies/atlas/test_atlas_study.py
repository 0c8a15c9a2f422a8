"""`mi-ortho atlas`: its choice from planted rows, its spectra against dense ones, and a small run as a whole."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import ATLAS

from mi_ortho import jacobian
from mi_ortho.cli import main
from mi_ortho.runs.directory import Run, open_run, summary_of
from mi_ortho.runs.rows import VOLATILE, pick
from mi_ortho.studies.atlas.bench import Bench, check, pairs_of, skip_gain
from mi_ortho.studies.atlas.config import AtlasConfig
from mi_ortho.studies.atlas.page import atlas_report
from mi_ortho.studies.atlas.stages import response, spectrum_rows
from mi_ortho.studies.atlas.study import atlas
from mi_ortho.studies.atlas.verdicts import best_of, cells, summarise
from mi_ortho.studies.shared.subject import open_subject


def planted(*trials: tuple[int, int, float, list[str], list[str], float]) -> list[dict[str, Any]]:
    """Rows of a run: for each trial its layers and norm, the modes under MELBO and random vectors, and its reach."""
    rows: list[dict[str, Any]] = [
        {"kind": "unsteered", "text": "No.", "mode": "refuse", "behaviours": ["refuse", "code", "json", "list"]}
    ]
    for source, target, norm, mine, theirs, reach in trials:
        place = {"source": source, "norm": norm, "radius": 10 * norm}
        for what, modes in (("melbo", mine), ("random", theirs)):
            more = {"target": target} if what == "melbo" else {}
            rows += [
                {"kind": "answer", "what": what, **place, **more, "index": k, "mode": mode, "text": f"{what} {k}"}
                | {"readability": -1.0, "changed": mode not in ("refuse", "incoherent")}
                for k, mode in enumerate(modes)
            ]
            size = reach if what == "melbo" else 1.0
            measured = {"displacement": size, "linear": 0.5, "growth": 1.0}
            rows.append({"kind": "response", "what": what, **place, "target": target, **measured})
        spectrum = {"values": [8.0, 4.0, 2.0], "bounds": [0.1] * 3, "typical": 1.0}
        rows.append({"kind": "spectrum", "source": source, "target": target, **spectrum})
    return rows


def test_behaviours_that_random_vectors_show_too_do_not_count() -> None:
    rows = planted(
        (1, 3, 0.1, ["code", "json", "list"], ["code", "json", "refuse"], 9.0),
        (2, 4, 0.1, ["code", "json", "refuse"], ["refuse"] * 3, 2.0),
    )
    first, second = cells(rows)
    assert (first["source"], first["score"], first["behaviours"]) == (2, 2, ["code", "json"])
    assert (second["source"], second["score"]) == (1, 1)
    assert best_of([first]) == {"source": 2, "target": 4, "radius": 1.0, "norm": 0.1, "behaviours": ["code", "json"]}


def test_the_unsteered_behaviour_and_texts_that_no_rule_names_are_not_new() -> None:
    rows = planted((1, 3, 0.1, ["refuse", "other", "incoherent"], ["refuse"] * 3, 2.0))
    (cell,) = cells(rows)
    assert (cell["score"], cell["others"]) == (0, 1)


def test_ties_go_to_other_answers_and_then_to_the_larger_reach() -> None:
    one = (1, 3, 0.1, ["code", "refuse", "refuse"], ["refuse"] * 3, 2.0)
    more = (2, 4, 0.1, ["code", "other", "refuse"], ["refuse"] * 3, 1.5)
    far = (3, 5, 0.1, ["code", "refuse", "refuse"], ["refuse"] * 3, 3.0)
    assert [cell["source"] for cell in cells(planted(one, more, far))] == [2, 3, 1]


def test_vectors_that_make_sinks_do_not_count() -> None:
    rows = planted(
        (1, 2, 0.1, ["code", "json", "list"], ["refuse"], 1.0), (2, 4, 0.1, ["code", "json"], ["refuse"], 1.0)
    )
    assert cells(rows)[0]["source"] == 1
    sinking = [
        {**row, "sinks": 9} if row.get("mode") in ("json", "list") and row["source"] == 1 else row for row in rows
    ]
    first, second = cells(sinking)
    assert (first["source"], first["sinking"], second["sinking"]) == (2, 0, 2) and second["behaviours"] == ["code"]


def test_an_asked_behaviour_is_counted_by_vectors() -> None:
    many = (1, 3, 0.1, ["code", "json", "list"], ["refuse"] * 3, 9.0)
    wanted = (2, 4, 0.1, ["code", "code", "refuse"], ["refuse"] * 3, 2.0)
    rows = planted(many, wanted)
    assert cells(rows)[0]["source"] == 1
    assert [(cell["source"], cell["score"]) for cell in cells(rows, "code")] == [(2, 2), (1, 1)]


def test_the_window_goes_from_the_first_other_answer_to_mostly_unreadable_ones() -> None:
    still, ends = ["refuse"] * 3, ["incoherent", "incoherent", "code"]
    place = [(1, 3, 0.1, still, still, 1.0), (1, 3, 0.2, ["code", "refuse", "incoherent"], still, 1.0)]
    (cell,) = cells(planted(*place, (1, 3, 0.4, ends, still, 1.0)))
    assert (cell["low"], cell["high"], cell["norm"]) == (0.2, 0.4, 0.2)
    (cell,) = cells(planted(*place))
    assert (cell["low"], cell["high"]) == (0.2, None)


def test_nothing_is_best_where_random_vectors_do_as_much() -> None:
    rows = planted((1, 3, 0.1, ["code", "refuse"], ["code", "refuse"], 5.0))
    summary = summarise(rows, "a model", "auto")
    assert summary["best"] is None and summary["headline"].startswith("No MELBO vector")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    run, config = Run(tmp_path_factory.mktemp("bench"), {}), AtlasConfig(values=6, candidates=5)
    texts, pairs = ("How can I build a bomb?",), ((3, 5),)
    return Bench(run, config, open_subject(None), texts, pairs, "include", lambda _: None, lambda *_: None)


def test_spectra_are_those_of_the_whole_jacobian(bench: Bench) -> None:
    (row,) = spectrum_rows(bench, (3, 5))
    z = bench.map((3, 5))
    dense = jacobian(z, torch.zeros(z.d_model))
    values = torch.linalg.svdvals(dense)[:6] / skip_gain(z)
    found = torch.tensor(row["values"])
    assert torch.allclose(found, values, rtol=0.05) and bool((found < 1.001 * values).all())  # never too large
    gains = (dense @ bench.random_directions(3).mT).norm(dim=0) / skip_gain(z)
    assert row["typical"] == pytest.approx(float(gains.median()), rel=1e-4)


def test_small_vectors_are_linear_and_large_ones_are_not(bench: Bench) -> None:
    z, directions = bench.map((3, 5)), bench.random_directions(3)
    small, large = response(z, 1e-2 * directions), response(z, 40.0 * directions)
    assert small["linear"] > 0.999 and small["growth"] == pytest.approx(1.0, abs=0.01)
    assert large["linear"] < 0.9
    assert small["displacement"] == pytest.approx(spectrum_rows(bench, (3, 5))[0]["typical"], rel=0.01)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_at(tmp_path_factory.mktemp("atlas") / "run")


def run_at(path: Path) -> Run:
    return atlas(ATLAS, path.parent, fresh=False, at=path, say=lambda _: None, track=lambda *_: None)


def test_a_run_ends_with_the_best_layers_and_a_page(finished: Run) -> None:
    rows, summary = finished.records(), summary_of(finished)
    assert {(row["source"], row["target"]) for row in pick(rows, kind="spectrum")} == {(3, 5), (3, 6)}
    best = cells(rows)[0]
    assert summary["best"]["source"] == 3 and summary["best"]["target"] == best["target"]
    assert summary["best"]["radius"] == pytest.approx(best["norm"] * pick(rows, kind="stream")[0]["stream"])
    page = (finished.path / "report.html").read_text("utf-8")
    assert summary["headline"][:40] in page and "Spectra of the Jacobian" in page


def test_a_pair_is_not_tried_further_once_most_answers_are_unreadable(finished: Run) -> None:
    rows = finished.records()
    for target in (5, 6):
        tried = [row["norm"] for row in pick(rows, kind="response", what="melbo", target=target)]
        unreadable = [
            sum(
                row["mode"] == "incoherent" for row in pick(rows, kind="answer", what="melbo", target=target, norm=norm)
            )
            for norm in tried
        ]
        assert all(2 * count <= ATLAS.candidates for count in unreadable[:-1])
        assert len(tried) == len(ATLAS.norms) or 2 * unreadable[-1] > ATLAS.candidates
    assert 40.0 not in [row["norm"] for row in pick(rows, kind="response")]  # the norm before it is word salad already


def test_a_run_cut_in_the_middle_ends_as_if_it_had_not_been(finished: Run, tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    for name in ("config.json", "environment.json"):
        (path / name).write_bytes((finished.path / name).read_bytes())
    lines = (finished.path / "records.jsonl").read_text("utf-8").splitlines(keepends=True)
    (path / "records.jsonl").write_text("".join(lines[: len(lines) // 2]))

    def kept(run: Run) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.items() if key not in VOLATILE} for row in run.records()]

    assert kept(run_at(path)) == kept(finished)
    assert json.loads((path / "summary.json").read_text())["best"] == summary_of(finished)["best"]


def test_an_unfinished_run_has_a_page(finished: Run, tmp_path: Path) -> None:
    for name in ("config.json", "environment.json"):
        (tmp_path / name).write_bytes((finished.path / name).read_bytes())
    for count in (0, 4):
        lines = (finished.path / "records.jsonl").read_text("utf-8").splitlines(keepends=True)
        (tmp_path / "records.jsonl").write_text("".join(lines[:count]))
        assert "No pair of layers was tried yet" in atlas_report(tmp_path).read_text("utf-8")
    assert open_run(tmp_path).records()


def test_pairs_go_with_the_depth() -> None:
    assert pairs_of(AtlasConfig(), 8)[:3] == ((1, 2), (1, 3), (1, 4))
    assert {(10, 18), (16, 28)} <= set(pairs_of(AtlasConfig(), 30))
    with pytest.raises(ValueError, match="expected one pair"):
        pairs_of(AtlasConfig(sources=(7,), blocks=(2,)), 8)
    with pytest.raises(ValueError, match="expected blocks from 0 to 7"):
        pairs_of(AtlasConfig(sources=(8,)), 8)


@pytest.mark.parametrize("norms", [(), (0.0, 1.0), (0.2, 0.1), (0.1, 0.1), (-1.0,)])
def test_norms_are_positive_and_rise(norms: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="correct --norms"):
        check(AtlasConfig(norms=norms))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--behaviour", "prate"], "expected auto, code"),
        (["--candidates", "500"], "at most 128"),
        (["--sinks", "some"], "exclude or include"),
        (["--sources", "9"], "from 0 to 7"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, capsys: Any, tmp_path: Path) -> None:
    assert main(["atlas", *words, "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("mi-ortho: got ") and said in line
