"""Which recorded rows count, and which stages a run that goes on need not compute again.

A stage is whole or absent. Its rows lie in records.jsonl between two marks, `{"kind": "stage", "stage": NAME, "state":
"begun"}` and the same with "done", and are written together, after all that the stage computed and saved. An attempt
without its second mark never counts: it is left out when rows are read, and cut off when the run goes on. What is
recorded by itself (a search whose vector is on disk) is one row, which is there or not.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mi_ortho.runs.directory import Run

Row = dict[str, Any]  # as it is written
Record = Mapping[str, Any]  # a row as it is read
R = TypeVar("R", bound=Mapping[str, Any])
VOLATILE = ("seconds", "cpu_seconds", "megabytes")  # of rows and summaries: what differs between two equal runs
# kinds that earlier versions recorded again, row by row, when a batch was interrupted
_AGAIN = ("unsteered", "melbo", "melbo_control", "base", "search", "vector", "control", "mean", "shrunk", "linear_null")
_AGAIN += ("passage", "text", "layer", "presence", "sets", "contrast", "probes", "strongest", "tokens")


def pick(rows: Sequence[R], **values: object) -> list[R]:
    """The rows with these values, in recorded order.

    >>> pick([{"kind": "vector", "index": 0}, {"kind": "base"}], kind="vector")
    [{'kind': 'vector', 'index': 0}]
    """
    return [row for row in rows if all(row.get(key) == value for key, value in values.items())]


def numbers(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """One column as floats, without missing values; booleans count as 0 and 1.

    >>> numbers([{"norm": 2}, {"norm": None}, {}], "norm")
    [2.0]
    """
    return [float(value) for row in rows if isinstance(value := row.get(name), (int, float))]


def whole(lines: Sequence[Row]) -> list[Row]:
    """The rows that count, without marks: those recorded by themselves, and of each stage the attempts that ended.

    >>> begun, done = ({"kind": "stage", "stage": "a", "state": state} for state in ("begun", "done"))
    >>> whole([begun, {"x": 1}, begun, {"x": 2}, done, begun, {"x": 3}])
    [{'x': 2}]
    """
    counting: list[Row] = []
    attempt: list[Row] | None = None
    texts: set[str] = set()
    finished = {_attempt(row) for row in lines if row.get("kind") == "done" and _is_marked(row)}
    for row in lines:
        if _is_mark(row):
            counting += (attempt or []) if row["state"] == "done" else []
            attempt = [] if row["state"] == "begun" else None
        elif attempt is not None:
            attempt.append(row)
        elif _counts(row, finished, texts):
            counting.append(row)
    return counting


def ended(lines: Sequence[Row]) -> set[str]:
    """The names of the stages that are whole."""
    marks = {_name(row) for row in lines if _is_mark(row) and row["state"] == "done"}
    return marks | {str(row["stage"]) for row in lines if row.get("kind") == "done" and _is_marked(row)}


def unended(lines: Sequence[Row]) -> int:
    """How many lines at the end belong to an attempt that was cut: from its mark on."""
    marks = [k for k, row in enumerate(lines) if _is_mark(row)]
    return len(lines) - marks[-1] if marks and lines[marks[-1]]["state"] == "begun" else 0


def stage(
    run: "Run",
    name: str,
    compute: Callable[[], Sequence[Mapping[str, object]]],
    *,
    old: Callable[[Row], bool] | None = None,
) -> None:
    """Record the rows that a stage computes, unless the run holds all of them already.

    Args:
        run: where to.
        name: of the stage; one name stands for one computation.
        compute: everything the stage does; may save tensors, which a later attempt replaces.
        old: whether a row is one of this stage, in runs begun by versions that did not mark stages. Such rows count if
            other rows follow them; at the end of the records they may be cut, and are computed again.
    """
    if name in run.ended or (old is not None and _is_there(run, old)):
        return
    run.record_stage(name, compute())


def forget(run: "Run", old: Callable[[Row], bool]) -> None:
    """Drop the rows of an attempt that an earlier version left unmarked and unfinished."""
    lines = run.lines()
    mine = set(_unmarked_places(lines, old))
    if mine:
        run.rewrite([row for k, row in enumerate(lines) if k not in mine])


def _is_there(run: "Run", old: Callable[[Row], bool]) -> bool:
    lines = run.lines()
    mine = _unmarked_places(lines, old)
    if mine and any(row.get("kind") != "cost" for row in lines[mine[-1] + 1 :]):
        return True
    forget(run, old)
    return False


def _unmarked_places(lines: Sequence[Row], old: Callable[[Row], bool]) -> list[int]:
    """The indices of the rows that `old` accepts and that lie in no marked stage."""
    places, inside = [], False
    for k, row in enumerate(lines):
        if _is_mark(row):
            inside = row["state"] == "begun"
        elif not inside and not _is_marked(row) and old(row):
            places.append(k)
    return places


def _is_mark(row: Row) -> bool:
    return row.get("kind") == "stage" and row.get("state") in ("begun", "done")


def _is_marked(row: Row) -> bool:
    """Whether an earlier version wrote stage and attempt into the row itself; an attempt ended by a row "done"."""
    return "stage" in row and "attempt" in row


def _name(mark: Row) -> str:
    """The name of a stage; earlier versions wrote a network's name beside it."""
    return f"{mark['network']} {mark['stage']}" if "network" in mark else str(mark["stage"])


def _attempt(row: Row) -> tuple[object, ...]:
    return (row["stage"], row["attempt"])


def _counts(row: Row, finished: set[tuple[object, ...]], texts: set[str]) -> bool:
    """Whether a row outside marks counts: not one of a cut attempt, nor one recorded again."""
    if _is_marked(row):
        return _attempt(row) in finished and row.get("kind") != "done"
    if row.get("kind") not in _AGAIN:
        return True
    same = json.dumps({key: value for key, value in row.items() if key not in VOLATILE}, sort_keys=True)
    new = same not in texts
    texts.add(same)
    return new
