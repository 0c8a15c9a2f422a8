"""What the sections of the null models' report share: names of groups and effects, lines from rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from mi_ortho.nulls.chance import CONTROLS
from mi_ortho.pages.plots import Series
from mi_ortho.runs.rows import pick
from mi_ortho.studies.family.finished import MATCH_NAMES

Rows = Sequence[Mapping[str, Any]]


EFFECTS = {"kl": "share of the base's gain in log-odds", "activation": "share of the base's displacement"}


GROUPS = (
    ("base", "base", "c1"),
    ("family", "family", "family"),
    *((name, CONTROLS[name].label, CONTROLS[name].colour) for name in ("mixed", "isotropic", "mixture")),
)


def xy(rows: Rows, x: str, y: str) -> tuple[list[float], list[float]]:
    """Two columns, without rows where either is missing."""
    points = [(float(row[x]), float(row[y])) for row in rows if row.get(x) is not None and row.get(y) is not None]
    return [a for a, _ in points], [b for _, b in points]


def line(label: str, rows: Rows, x: str, y: str, style: str, *, dots: bool = False) -> list[Series]:
    xs, ys = xy(rows, x, y)
    return [Series(label, xs, ys, style, key=label, dots=dots)] if xs else []


def named(rows: Rows) -> list[dict[str, Any]]:
    """Rows with the match in words."""
    return [{**row, "match": MATCH_NAMES.get(str(row.get("match")), row.get("match"))} for row in rows]


def matches_of(rows: Rows, kind: str) -> list[str]:
    return [match for match in MATCH_NAMES if pick(rows, kind=kind, match=match)]
