"""Where a refusal direction is read and where it is ablated: candidates, curves by layer, ablation matrix."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from mi_ortho.pages.data_table import table
from mi_ortho.pages.grid import Cell, grid
from mi_ortho.pages.page import Section
from mi_ortho.pages.plots import Panel, Series, curve
from mi_ortho.pages.sections import curves
from mi_ortho.pages.text import number, visible
from mi_ortho.runs.rows import Record, pick
from mi_ortho.studies.refusal.words import Words, words_of

LETTERS = {"not a number": "N", "last layers": "L", "KL too large": "K", "does not induce": "I"}


def _measures(words: Words) -> dict[str, str]:
    first, second = f"{words.noun} score of {words.first} prompts", f"{words.noun} score of {words.second} prompts"
    return {
        "bypass": f"Bypass: {first} with the candidate ablated everywhere; lower is better.",
        "induce": f"Induce: {second} with the candidate added where it was read; higher is better.",
        "kl": f"KL that ablating the candidate causes on {words.second} prompts, in nats; lower is better.",
    }


def candidate_section(rows: Sequence[Record]) -> Section | None:
    """A grid of layers and positions for each score; letters give reasons of rejection, a frame the selected one."""
    candidates, extraction = pick(rows, kind="candidate"), pick(rows, kind="extraction")
    if not candidates or not extraction:
        return None
    chosen = next((row for row in reversed(pick(rows, kind="selection")) if "site" in row), {})
    maps = Markup("").join(
        _map(candidates, extraction[-1], chosen, key, text) for key, text in _measures(words_of(rows)).items()
    )
    body = Markup('<div class="two">{}</div>').format(maps)
    columns = {
        "site": "Read at",
        "position": "Position",
        "norm": "Norm",
        "bypass": "Bypass",
        "induce": "Induce",
        "kl": "KL",
        "rejected": "Rejected for",
    }
    ended = pick(rows, kind="selection")
    lead = f"Selection: {ended[-1]['reason']}. " if ended else "Selection has not ended. "
    reasons = "; ".join(f"{letter} {reason}" for reason, letter in LETTERS.items())
    lead += f"Letters say why a candidate is rejected: {reasons}. No letter: admissible. Framed: selected."
    return Section("Candidates", body + table(candidates, columns, name="candidates"), lead, "candidates")


def _map(candidates: Sequence[Record], extraction: Record, chosen: Record, key: str, text: str) -> Markup:
    cells = {(row["site"], row["position"]): row for row in candidates}
    table_rows = [
        [_cell(cells.get((site, position)), chosen, key) for position in extraction["positions"]]
        for site in extraction["sites"]
    ]
    names = [f"{position} {token!r}" for position, token in zip(extraction["positions"], extraction["position_tokens"])]
    return grid(table_rows, extraction["sites"], names, caption=text, corner="read at")


def _cell(row: Record | None, chosen: Record, key: str) -> Cell:
    if row is None:
        return Cell(None, note="not scored")
    reasons = row["rejected"]
    framed = (row["site"], row["position"]) == (chosen.get("site"), chosen.get("position"))
    numbers = ", ".join(f"{name} {number(row[name])}" for name in ("bypass", "induce", "kl", "norm"))
    note = f"{row['site']}, position {row['position']}: {numbers}; {', '.join(reasons) or 'admissible'}"
    return Cell(row[key], "".join(LETTERS.get(reason, "?") for reason in reasons), note, framed)


def layer_section(rows: Sequence[Record]) -> Section | None:
    """Norm and the three scores by layer at the selected position, or the last position if none was selected."""
    candidates = pick(rows, kind="candidate")
    if not candidates:
        return None
    chosen = next((row["position"] for row in reversed(pick(rows, kind="selection")) if "site" in row), None)
    position = max(row["position"] for row in candidates) if chosen is None else chosen
    streams = list(dict.fromkeys(row["stream"] for row in candidates))
    parts = {
        stream: [row for row in candidates if (row["position"], row["stream"]) == (position, stream)]
        for stream in streams
    }
    panels = []
    charts = (
        (("norm",), "Norm of the difference", ""),
        (("bypass", "induce"), f"{words_of(rows).noun.capitalize()} score", "nats"),
        (("kl",), "KL of ablation", "nats"),
    )
    for letter, (keys, label, unit) in zip("abc", charts):
        series = [_series(part, stream, key, k) for k, (stream, part) in enumerate(parts.items()) for key in keys]
        panels.append(curve(Panel(label, unit, "layer", letter=letter, log=len(keys) == 1, group="layers"), series))
    legend = [
        (f"{key}{k}", f"{key}, {stream}", _COLOURS[key][k % 3])
        for k, stream in enumerate(streams)
        for key in ("norm", "bypass", "induce", "kl")
        if len(streams) > 1 or key in ("bypass", "induce")
    ]
    caption = f"Candidates of position {position}. Where the classes have the same mean there is no direction."
    return Section("By layer", curves(panels, caption, legend=legend), "", "layers", "Layers")


_COLOURS = {
    "norm": ("c0", "c2", "c7"),
    "bypass": ("c1", "c3", "c5"),
    "induce": ("c4", "c6", "c2"),
    "kl": ("c0", "c2", "c7"),
}


def _series(rows: Sequence[Record], stream: str, key: str, k: int) -> Series:
    points = [row for row in rows if row[key] is not None and math.isfinite(row[key])]
    points = [row for row in points if row[key] > 0] if key in ("norm", "kl") else points
    return Series(
        f"{key}, {stream}",
        [row["layer"] for row in points],
        [row[key] for row in points],
        _COLOURS[key][k % 3],
        key=f"{key}{k}",
    )


def matrix_section(rows: Sequence[Record]) -> Section | None:
    """Change of the refusal score by the layer a direction was read in (rows) and those it is ablated in (columns)."""
    sources = list({row["source"]: row for row in pick(rows, kind="matrix")}.values())
    if not sources:
        return None
    cells = [
        [Cell(score - row["before"], note=_where(row, k)) for k, score in enumerate(row["scores"])] for row in sources
    ]
    words = words_of(rows)
    caption = (
        f"Change of the mean {words.noun} score of {words.first} validation prompts, in nats: orange, it falls. A "
        "direction is ablated at block input, attention output and MLP output of the layers named by the column "
        "only. The last rows are random directions."
    )
    body = grid(
        cells,
        [str(row["source"]) for row in sources],
        [str(name) for name in sources[0]["columns"]],
        caption=caption,
        corner="read at",
    )
    lead = f"Unsteered the score is {number(sources[0]['before'])}. Must a direction be ablated where it was read?"
    return Section("Ablation matrix", body, lead, "matrix", "Matrix")


def _where(row: Record, k: int) -> str:
    layers = ", ".join(map(str, row["layers"][k]))
    return visible(f"{row['source']} ablated in layers {layers}: score {number(row['scores'][k])}")
