"""The rows behind the report's tables and behaviour strips, prepared once and looked up by every figure."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mi_ortho.viz.records import FamilyRun, Row, label_of
from mi_ortho.viz.text import clip, json_script, number, visible

FIELDS = (
    "match",
    "what",
    "index",
    "status",
    "norm",
    "norm_shrunk",
    "loss",
    "kl_base_vector",
    "kl_vector_base",
    "log_odds",
    "mode",
    "keeps",
    "transfer",
    "text",
)
_KINDS = ("unsteered", "base", "melbo", "melbo_control", "vector", "control", "mean", "transfer")
_BUDGET = 500_000  # characters of model text in a page


def what(row: Row) -> str:
    """What a row measures, in words."""
    names = {
        "unsteered": "unsteered",
        "base": "base",
        "melbo": "MELBO candidate",
        "melbo_control": "random at MELBO's norm",
        "vector": "family",
    }
    if row["kind"] == "control":
        return label_of(str(row.get("control")))
    if row["kind"] == "mean":
        return f"{row.get('scale')} of the first {row.get('n')}"
    if row["kind"] == "transfer":
        return f"held out: {clip(visible(row.get('prompt_text', '')), 60)}"
    return names.get(str(row["kind"]), str(row["kind"]))


def table_data(run: FamilyRun) -> dict[str, Any]:
    """What the page's script reads: fields, one list of values a row, and the colour of each mode."""
    rows = [row for row in run.rows if row.get("kind") in _KINDS]
    longest = text_limit([str(row.get("text") or "") for row in rows])
    values = [[_cell(run, row, field, longest) for field in FIELDS] for row in rows]
    return {"fields": FIELDS, "rows": values, "modes": run.mode_colours()}


def row_numbers(run: FamilyRun) -> dict[int, int]:
    """Where each row of the records stands in the table (by identity)."""
    return {id(row): k for k, row in enumerate(row for row in run.rows if row.get("kind") in _KINDS)}


def text_limit(texts: Sequence[str], budget: int = _BUDGET) -> int:
    """The longest each text may be so that all of them fit into the budget.

    >>> text_limit(["a" * 10, "b" * 100], 60)
    50
    """
    limits = [4000, 2000, 1000, 500, 300, 200, 100, 50, 20]
    return next((limit for limit in limits if sum(min(len(text), limit) for text in texts) <= budget), limits[-1])


def strips(run: FamilyRun, match: str) -> list[dict[str, Any]]:
    """The behaviour of the family and of each control by index, one strip each."""
    family, where = run.family(match), row_numbers(run)
    width = 1 + max(row["index"] for row in family)
    found = [strip(run, "family", family, width, where)]
    return found + [
        strip(run, label_of(name), run.control(match, name), width, where, name) for name in run.controls(match)
    ]


def transfer_strips(run: FamilyRun, match: str) -> list[dict[str, Any]]:
    """The behaviour on each held-out prompt by index of the vector."""
    rows, where = run.where(kind="transfer", match=match), row_numbers(run)
    if not rows:
        return []
    width = 1 + max(row["index"] for row in [*rows, *run.family(match)])
    prompts = list(dict.fromkeys(str(row.get("prompt_text")) for row in rows))
    return [
        strip(run, prompt, [row for row in rows if str(row.get("prompt_text")) == prompt], width, where)
        for prompt in prompts
    ]


def strip(
    run: FamilyRun, label: str, rows: Sequence[Row], width: int, where: Mapping[int, int], key: str = ""
) -> dict[str, Any]:
    """One strip: an SVG with a cell for every index measured; full height where the behaviour is kept, lower where it is not."""
    colours = run.mode_colours()
    cells = [(int(row["index"]), colours.get(str(row.get("mode")), "m7"), run.keeps(row)) for row in rows]
    step = _step([index for index, _, _ in cells], width)
    drawn = Markup("").join(
        Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
            colour, index, 0 if kept else 0.45, round(step - min(0.12, width / 900), 3), 1 if kept else 0.55
        )
        for index, colour, kept in cells
    )
    svg = Markup('<svg viewBox="0 0 {} 1" preserveAspectRatio="none" aria-hidden="true">{}</svg>').format(width, drawn)
    kept = sum(kept for _, _, kept in cells)
    data = json_script({"rows": [[int(row["index"]), where[id(row)]] for row in rows], "width": width, "step": step})
    return {
        "label": visible(label),
        "svg": svg,
        "kept": kept,
        "measured": len(cells),
        "data": data,
        "key": key,
        "share": kept / max(1, len(cells)),
    }


def averages(run: FamilyRun, match: str) -> tuple[list[str], list[tuple[int, list[Row | None]]]]:
    """The scales, and for each n the row at each scale (None where it was not measured)."""
    rows = run.where(kind="mean", match=match)
    order = ["plain", "sqrt_n", "sum"]
    found = {str(row.get("scale")) for row in rows}
    scales = [scale for scale in order if scale in found] + sorted(found - set(order))
    cells = {(row.get("n"), str(row.get("scale"))): row for row in rows}
    return scales, [(n, [cells.get((n, scale)) for scale in scales]) for n in sorted({row["n"] for row in rows})]


def settings(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as flat pairs of texts, those left at None omitted."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += settings(value, f"{prefix}{key}.")
        elif value is None:
            continue
        elif isinstance(value, list | tuple):
            found.append((f"{prefix}{key}", visible(", ".join(str(item) for item in value))))
        else:
            found.append((f"{prefix}{key}", visible(value) if isinstance(value, str) else number(value)))
    return found


def _step(indexes: Sequence[int], width: int) -> int:
    """How wide a cell is: the distance of measured indexes where they are regular, so that sparse strips have no holes."""
    gaps = {b - a for a, b in zip(sorted(set(indexes)), sorted(set(indexes))[1:])}
    return min(gaps) if gaps and len(gaps) == 1 else 1


def _cell(run: FamilyRun, row: Row, field: str, longest: int) -> object:
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
