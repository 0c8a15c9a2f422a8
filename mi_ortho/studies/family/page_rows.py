"""The rows behind the report's tables and figures, prepared once and looked up by all of them."""

from typing import Any

from mi_ortho.nulls.chance import control
from mi_ortho.pages.data_table import text_limit
from mi_ortho.pages.text import clip, visible
from mi_ortho.runs.rows import Record
from mi_ortho.studies.family.page_records import FamilyRun

MEASURES = ("norm", "norm_shrunk", "loss", "kl_base_vector", "kl_vector_base", "log_odds")
FIELDS = ("match", "what", "index", "status", *MEASURES, "mode", "keeps", "transfer", "text")
_KINDS = ("unsteered", "base", "melbo", "melbo_control", "vector", "control", "mean", "transfer")
_CODED = ("match", "what", "status", "mode", "keeps")


def what(row: Record) -> str:
    """What a row measures, in words."""
    names = {
        "unsteered": "unsteered",
        "base": "base",
        "melbo": "MELBO candidate",
        "melbo_control": "random at MELBO's norm",
        "vector": "family",
    }
    if row["kind"] == "control":
        return control(str(row.get("control"))).label
    if row["kind"] == "mean":
        return f"{row.get('scale')} of the first {row.get('n')}"
    if row["kind"] == "transfer":
        return f"held out: {clip(visible(row.get('prompt_text', '')), 60)}"
    return names.get(str(row["kind"]), str(row["kind"]))


def table_data(run: FamilyRun) -> dict[str, Any]:
    """What the page's script reads: field names, a list of values for each row (repeated texts as numbers), colours."""
    rows = _table_rows(run)
    texts = [str(row.get("text") or "") for row in rows]
    minor = [row["kind"] in ("control", "melbo_control", "transfer") for row in rows]
    room = max(200_000, 600_000 - 60 * len(rows))  # a quarter of it for controls and held-out completions
    limits = {
        part: text_limit([text for text, is_minor in zip(texts, minor) if is_minor == part], budget)
        for part, budget in ((True, room // 4), (False, room * 3 // 4))
    }
    longest = {id(row): limits[is_minor] for row, is_minor in zip(rows, minor)}
    columns = {field: [_cell(run, row, field, longest[id(row)]) for row in rows] for field in FIELDS}
    levels = {field: list(dict.fromkeys(columns[field])) for field in _CODED}
    for field, names in levels.items():
        codes = {name: code for code, name in enumerate(names)}
        columns[field] = [codes[name] for name in columns[field]]
    return {
        "fields": FIELDS,
        "levels": levels,
        "rows": [list(values) for values in zip(*columns.values())],
        "modes": run.colours,
    }


def row_numbers(run: FamilyRun) -> dict[int, int]:
    """The position of each row in the table, by `id(row)`; rows of one strip are adjacent and sorted by index."""
    return {id(row): k for k, row in enumerate(_table_rows(run))}


def _table_rows(run: FamilyRun) -> list[Record]:
    rows = [row for row in run.rows if row.get("kind") in _KINDS]
    names = ("match", "control", "prompt_text")
    return sorted(
        rows,
        key=lambda row: (_KINDS.index(row["kind"]), *(str(row.get(name)) for name in names), row.get("index") or 0),
    )


def averages(run: FamilyRun, match: str) -> tuple[list[str], list[tuple[int, list[Record | None]]]]:
    """The scales, and for each n the row at each scale (None where it was not measured)."""
    rows = run.where(kind="mean", match=match)
    order = ["plain", "sqrt_n", "sum"]
    names = {str(row.get("scale")) for row in rows}
    scales = [scale for scale in order if scale in names] + sorted(names - set(order))
    cells = {(row.get("n"), str(row.get("scale"))): row for row in rows}
    return scales, [(n, [cells.get((n, scale)) for scale in scales]) for n in sorted({row["n"] for row in rows})]


def _cell(run: FamilyRun, row: Record, field: str, longest: int) -> object:
    if field == "what":
        return what(row)
    if field == "text":
        return clip(visible(row.get("text") or ""), longest)
    if field == "keeps":
        return (
            run.keeps(row)
            if row.get("mode") is not None and row["kind"] not in ("unsteered", "melbo_control")
            else None
        )
    return row.get(field)
