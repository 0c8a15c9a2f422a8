"""One rule of resumption: a stage counts when its last mark is there, whoever reads it, and however old the run is."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mi_ortho.runs.directory import Run, open_run, start
from mi_ortho.runs.rows import Row, ended, forget, pick, stage, unended, whole


def mark(name: str, state: str) -> Row:
    return {"kind": "stage", "stage": name, "state": state}


def rows(*values: int) -> list[Row]:
    return [{"x": value} for value in values]


A, Z = mark("a", "begun"), mark("a", "done")


@pytest.mark.parametrize(
    ("lines", "counted", "stages", "cut"),
    [
        ([], [], set(), 0),
        ([A, *rows(1, 2), Z], [1, 2], {"a"}, 0),
        ([A, Z], [], {"a"}, 0),
        (rows(5), [5], set(), 0),
        ([*rows(5), A, *rows(1)], [5], set(), 2),
        ([A], [], set(), 1),
        ([A, *rows(1), A, *rows(1, 2), Z, *rows(6)], [1, 2, 6], {"a"}, 0),
        ([A, *rows(1), Z, mark("b", "begun"), *rows(2), mark("b", "done")], [1, 2], {"a", "b"}, 0),
        ([A, *rows(1), Z, mark("b", "begun"), *rows(2)], [1], {"a"}, 2),
    ],
)
def test_only_whole_stages_count(lines: list[Row], counted: list[int], stages: set[str], cut: int) -> None:
    assert [row["x"] for row in whole(lines)] == counted
    assert (ended(lines), unended(lines)) == (stages, cut)


def test_rows_that_carried_stage_and_attempt_themselves_count_by_their_last_row() -> None:
    lines = [
        {"kind": "n", "stage": "a", "attempt": 0, "x": 1},
        {"kind": "n", "stage": "a", "attempt": 1, "x": 2},
        {"kind": "done", "stage": "a", "attempt": 1},
        {"kind": "n", "stage": "b", "attempt": 0, "x": 3},
        {"kind": "completion", "stage": "refuses then answers", "x": 4},  # a word of its own, no mark
        {"kind": "search", "attempt": 7, "x": 5},
    ]
    assert [row["x"] for row in whole(lines)] == [2, 4, 5] and ended(lines) == {"a"}


def test_marks_with_a_network_and_batches_recorded_again() -> None:
    begun, done = ({"kind": "stage", "network": "model", "stage": "gap", "state": s} for s in ("begun", "done"))
    again: list[Row] = [{"kind": "vector", "index": 0, "seconds": 1.0}, {"kind": "vector", "index": 0, "seconds": 2.0}]
    lines = [begun, *rows(1), begun, *rows(1, 2), done, *again, {"kind": "coin"}, {"kind": "coin"}]
    assert [row.get("x") for row in whole(lines)] == [1, 2, None, None, None] and ended(lines) == {"model gap"}


def test_selection_keeps_the_order() -> None:
    lines: list[Row] = [{"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 2, "c": 3}]
    assert pick(lines, a=1, b=2) == [lines[0], lines[2]] and pick(lines, b=None) == [lines[1]]


def count(run: Run, calls: list[str], name: str, found: Sequence[Row]) -> None:
    def compute() -> Sequence[Row]:
        calls.append(name)
        return found

    stage(run, name, compute, old=lambda row: row.get("kind") == name)


def test_a_stage_is_computed_once_and_a_cut_one_again(tmp_path: Path) -> None:
    calls: list[str] = []
    with start(tmp_path, "x", {"n": 1}) as run:
        for _ in range(2):
            count(run, calls, "a", rows(1, 2))
        count(run, calls, "b", rows(3))
    assert calls == ["a", "b"]
    records = run.path / "records.jsonl"
    whole_file = records.read_bytes()
    for size in range(len(whole_file)):  # killed after any byte
        records.write_bytes(whole_file[:size])
        done = [json.loads(line) for line in whole_file[:size].split(b"\n")[:-1]]
        assert open_run(run.path).records() == whole(done)
        calls.clear()
        with start(tmp_path, "x", {"n": 1}) as again:
            count(again, calls, "a", rows(1, 2))
            count(again, calls, "b", rows(3))
        assert records.read_bytes() == whole_file
        assert calls == [name for name in ("a", "b") if name not in ended(done)]


def test_rows_of_older_runs_count_when_others_follow_and_are_computed_again_at_the_end(tmp_path: Path) -> None:
    calls: list[str] = []
    old: list[Row] = [{"kind": "a", "x": 1}, {"kind": "a", "x": 2}, {"kind": "b", "x": 3}, {"kind": "cost"}]
    with start(tmp_path, "x", {"n": 1}) as run:
        for row in old:
            run.record(row)
        count(run, calls, "a", rows(9))
        count(run, calls, "b", [{"kind": "b", "x": 3}, {"kind": "b", "x": 4}])
        assert calls == ["b"]
        assert [row.get("x") for row in run.records()] == [1, 2, None, 3, 4]
        forget(run, lambda row: row.get("kind") in ("a", "b"))
        assert [row.get("x") for row in run.records()] == [None, 3, 4]  # what is marked stays


@pytest.mark.parametrize("line", ["3", "[1]", '"x"', "null"])
def test_a_record_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    with start(tmp_path, "x", {}) as run:
        run.record({"x": 1})
    with open(run.path / "records.jsonl", "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match="line 2 of .* expected a JSON object"):
        run.records()


def test_json_nested_too_deeply_is_one_line(tmp_path: Path) -> None:
    deep: Any = "[" * 100_000 + "]" * 100_000
    with start(tmp_path, "x", {}) as run:
        (run.path / "records.jsonl").write_text(f"{deep}\n{{}}\n")
        with pytest.raises(ValueError, match="line 1 of .* is damaged"):
            run.records()
    (run.path / "config.json").write_text(deep)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        open_run(run.path)
    assert "\n" not in str(caught.value)
