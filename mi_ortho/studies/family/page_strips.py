"""The behaviour of many vectors at a glance: one cell for each vector, one strip for each control or prompt."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup

from mi_ortho.nulls.chance import control
from mi_ortho.pages.text import json_script, visible
from mi_ortho.runs.rows import Record
from mi_ortho.studies.family.page_records import FamilyRun
from mi_ortho.studies.family.page_rows import row_numbers

_SINGLE = 200  # up to this many cells are drawn one by one, with gaps; of more, equal neighbours are merged


def strips(run: FamilyRun, match: str) -> list[dict[str, Any]]:
    """The behaviour of the family and of each control by index, one strip each."""
    family, where = run.family(match), row_numbers(run)
    width = 1 + max(row["index"] for row in family)
    named = [("family", family)] + [(control(name).label, run.control(match, name)) for name in run.controls(match)]
    return [strip(run, label, rows, width, where) for label, rows in named]


def transfer_strips(run: FamilyRun, match: str) -> list[dict[str, Any]]:
    """The behaviour on each held-out prompt by index of the vector."""
    rows, where = run.where(kind="transfer", match=match), row_numbers(run)
    if not rows:
        return []
    width = 1 + max(row["index"] for row in [*rows, *run.family(match)])
    prompts: dict[str, list[Record]] = {}
    for row in sorted(rows, key=lambda row: row["index"]):
        prompts.setdefault(str(row.get("prompt_text")), []).append(row)
    return [strip(run, prompt, chosen, width, where) for prompt, chosen in prompts.items()]


def strip(run: FamilyRun, label: str, rows: Sequence[Record], width: int, where: Mapping[int, int]) -> dict[str, Any]:
    """One strip: a cell for every measured index, of full height if the behaviour is kept and lower if not."""
    step = _step([int(row["index"]) for row in rows])
    cells = [(int(row["index"]), run.colours.get(str(row.get("mode")), "m7"), run.keeps(row)) for row in rows]
    svg = Markup('<svg viewBox="0 0 {} 1" preserveAspectRatio="none" aria-hidden="true">{}</svg>')
    kept = sum(kept for _, _, kept in cells)
    data = {"first": where[id(rows[0])] if rows else 0, "count": len(rows), "width": width, "step": step}
    return {
        "label": visible(label),
        "svg": svg.format(width, _paths(cells, step, width)),
        "kept": kept,
        "measured": len(cells),
        "data": json_script(data),
    }


def _paths(cells: Sequence[tuple[int, str, bool]], step: int, width: int) -> Markup:
    """The cells as one path for each colour."""
    paths: dict[str, str] = {}
    for index, length, colour, kept in _runs(cells, step, merge=len(cells) > _SINGLE):
        wide, top = length - (0 if len(cells) > _SINGLE else min(0.12, width / 900)), 0 if kept else 0.45
        paths[colour] = paths.get(colour, "") + f"M{index} {top}h{wide:.4g}v{1 - top:.4g}h{-wide:.4g}z"
    return Markup("").join(Markup('<path class="{}" d="{}"/>').format(colour, path) for colour, path in paths.items())


def _runs(cells: Sequence[tuple[int, str, bool]], step: int, *, merge: bool) -> list[tuple[int, int, str, bool]]:
    """Cells as (start, length, colour, kept); neighbours that look alike become one when `merge`."""
    alike = groupby(enumerate(cells), key=lambda item: (item[1][0] - step * item[0], *item[1][1:]))
    groups = [[cell for _, cell in items] for _, items in alike]
    if not merge:
        groups = [[cell] for group in groups for cell in group]
    return [(group[0][0], step * len(group), group[0][1], group[0][2]) for group in groups]


def _step(indexes: Sequence[int]) -> int:
    """The width of a cell: the distance between measured indexes if it is constant (so sparse strips have no gaps)."""
    gaps = {b - a for a, b in zip(sorted(set(indexes)), sorted(set(indexes))[1:])}
    return min(gaps) if len(gaps) == 1 else 1
