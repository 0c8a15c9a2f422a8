"""Two family runs side by side: curves on the same axes, completions index by index, cosines between the families."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import einops
import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from mi_ortho.pages.data_table import table
from mi_ortho.pages.matrices import heat_map
from mi_ortho.pages.page import Section
from mi_ortho.pages.plots import Panel, Series, curve, finite, wide
from mi_ortho.pages.sections import Card, completions, curves, note
from mi_ortho.pages.text import number
from mi_ortho.runs.rows import Record
from mi_ortho.studies.family.finished import MATCH_TITLES
from mi_ortho.studies.family.page_records import FamilyRun, load_family

_RANDOM = FamilyRun.shown("isotropic").colour
_MEASURES = (
    ("loss", "Relative activation loss", "Lₖ"),
    ("norm", "Norm", "‖θₖ‖"),
    ("kl_base_vector", "KL(base ‖ vector)", "nats"),
    ("kl_vector_base", "KL(vector ‖ base)", "nats"),
    ("log_odds", "Log-odds of the behaviour", "nats"),
)
_LEGEND = [
    ("a", "A, the family", "family"),
    ("b", "B, the family", "c1"),
    ("ra", "A, random vectors of its norms", f"{_RANDOM} dots"),
    ("rb", "B, random vectors of its norms", "c4 dots"),
]


def family_sections(first: Path, second: Path) -> list[Section]:
    """Curves, completions and cosines of two family runs, and a remark on matches that only one of them has."""
    one, other = load_family(first), load_family(second)
    shared = [match for match in one.matches if match in other.matches]
    sections = [_curves(one, other, match) for match in shared]
    alone = [match for match in dict.fromkeys([*one.matches, *other.matches]) if match not in shared]
    if alone:
        text = f"Only one of the runs has vectors of this match: {', '.join(alone)}. Their curves are left out."
        sections.append(Section("Left out", note(text)))
    return [*sections, _completions(one, other, shared), _cosines(one, other)]


def _curves(one: FamilyRun, other: FamilyRun, match: str) -> Section:
    charts = [(title, unit, _series(one, other, match, key)) for key, title, unit in _MEASURES]
    charts.append(("Vectors that keep the behaviour", "count up to k", _keep_counts(one, other, match)))
    charts = [item for item in charts if any(finite(series.y) for series in item[2])]
    panels = [
        curve(
            Panel(
                title,
                unit,
                log=title.startswith("KL") and wide(series),
                whole=unit.startswith("count"),
                group=f"two-{match}",
                letter="abcdef"[k],
            ),
            series,
        )
        for k, (title, unit, series) in enumerate(charts)
    ]
    caption = (
        "Both runs on the same axes; dots are random vectors of the same norms at the same index. Hover, tap, or use "
        "the arrow keys for the numbers; click a name to hide a line. Losses and divergences are against each run's "
        "own base vector."
    )
    legend = [entry for entry in _LEGEND if any(series.key == entry[0] for _, _, lines in charts for series in lines)]
    title = MATCH_TITLES.get(match, match)
    return Section(title, curves(panels, caption, legend=legend), "", f"curves-{match}", f"Curves ({match})")


def _series(one: FamilyRun, other: FamilyRun, match: str, key: str) -> list[Series]:
    random = [] if key == "norm" else [("ra", one, _RANDOM), ("rb", other, "c4")]
    lines = [_of(run.control(match, "isotropic"), key, name, style, dots=True) for name, run, style in random]
    lines += [_of(other.family(match), key, "b", "c1"), _of(one.family(match), key, "a", "family")]
    return [series for series in lines if finite(series.y)]


def _keep_counts(one: FamilyRun, other: FamilyRun, match: str) -> list[Series]:
    lines = []
    for name, run, style in (("b", other, "c1"), ("a", one, "family")):
        rows = run.family(match)
        counts = list(accumulate(float(run.keeps(row)) for row in rows))
        lines.append(Series(_label(name), [row["index"] for row in rows], counts, style, name))
    return lines


def _of(rows: Sequence[Record], key: str, name: str, style: str, *, dots: bool = False) -> Series:
    return Series(_label(name), [row["index"] for row in rows], [row.get(key) for row in rows], style, name, dots=dots)


def _label(name: str) -> str:
    return next(label for key, label, _ in _LEGEND if key == name)


def _completions(one: FamilyRun, other: FamilyRun, shared: Sequence[str]) -> Section:
    """Unsteered and base completions with differences marked, then a table of the indices in both runs."""
    pairs = [("Unsteered", one.unsteered, other.unsteered), ("Base vector", one.base, other.base)]
    cards = [
        completions(
            [
                Card(f"{title}, {name}", str(row.get("text") or ""), row.get("mode"), _norm(row))
                for name, row in (("A", a), ("B", b))
                if row
            ]
        )
        for title, a, b in pairs
    ]
    rows = [row for match in shared for row in _shared_rows(one, other, match)]
    if not rows:
        body = note("No vector of the two runs has the same match and index.")
        return Section("Completions", Markup("").join([*cards, body]), "", "completions")
    columns = {
        "match": "match",
        "index": "index",
        "mode_a": "behaviour A",
        "mode_b": "behaviour B",
        "kept": "keeps",
        "norm_a": "norm A",
        "norm_b": "norm B",
        "loss_a": "loss A",
        "loss_b": "loss B",
        "text_a": "completion A",
        "text_b": "completion B",
    }
    counts = {name: sum(row["kept"] == name for row in rows) for name in ("both", "only A", "only B", "neither")}
    shares = "; ".join(f"{name}: {count}" for name, count in counts.items())
    lead = f"Of {len(rows)} indices in both runs, vectors that keep their base's behaviour: {shares}."
    body = table(rows, columns, name="completions", chips=["mode_a", "mode_b"])
    return Section("Completions", Markup("").join([*cards, body]), lead, "completions")


def _shared_rows(one: FamilyRun, other: FamilyRun, match: str) -> list[dict[str, Any]]:
    table = []
    at = {row["index"]: row for row in other.family(match)}
    for a in one.family(match):
        b = at.get(a["index"])
        if b is not None:
            kept = {(True, True): "both", (True, False): "only A", (False, True): "only B", (False, False): "neither"}
            sides = [(name, row) for name, row in (("a", a), ("b", b))]
            values = {f"{key}_{name}": row.get(key) for key in ("mode", "norm", "loss", "text") for name, row in sides}
            word = kept[one.keeps(a), other.keeps(b)]
            table.append({"match": match, "index": a["index"], "kept": word, **values})
    return table


def _cosines(one: FamilyRun, other: FamilyRun) -> Section:
    """Cosines of every vector of A with every vector of B."""
    sides = [stacked(run.vectors) for run in (one, other)]
    reason = _incomparable(one, other, sides)
    if reason:
        return Section("Cosines between the runs", note(reason), "", "cosines", "Cosines")
    (a, marks), (b, _) = (side for side in sides if side is not None)
    products = a @ b.T
    width = a.shape[1]
    share = float((products**2).mean()) * width
    largest = float(products.abs().max())
    body = heat_map(products, title="Cosine of every vector of A (down) with every vector of B (across)", ticks=marks)
    lead = (
        f"The two bases have cosine {number(float(products[0, 0]), 2)}. Over all pairs the mean squared cosine is "
        f"{number(share)} times that of unrelated directions (1/{width}); the largest |cosine| is {number(largest)}. "
        "Rows are the vectors of A, columns those of B, each with its base first."
    )
    return Section("Cosines between the runs", body, lead, "cosines", "Cosines")


def _incomparable(one: FamilyRun, other: FamilyRun, sides: Sequence[object]) -> str:
    if any(side is None for side in sides):
        return "One of the runs has no vectors stored, so cosines between them are left out."
    if one.environment.get("model_hash") != other.environment.get("model_hash"):
        return "The runs are of different weights; a cosine between their vectors means nothing and is left out."
    if one.config.get("source") != other.config.get("source"):
        return "The runs add their vectors after different blocks; cosines between them are left out."
    widths = {value.shape[-1] for run in (one, other) for value in run.vectors.values()}
    return "" if len(widths) == 1 else "The vectors of the runs differ in width; cosines between them are left out."


def stacked(vectors: Mapping[str, Tensor]) -> tuple[Float[Tensor, "n d_model"], dict[int, str]] | None:
    """Base and families as unit rows, and where each group starts; None if no vectors are stored."""
    groups = [(name, vectors[name]) for name in ("base", "kl", "activation") if name in vectors]
    rows = [einops.rearrange(value, "... d_model -> (...) d_model").double() for _, value in groups]
    if not rows:
        return None
    starts = list(accumulate((len(value) for value in rows), initial=0))
    return torch.nn.functional.normalize(torch.cat(rows), dim=-1), {
        start: name for start, (name, _) in zip(starts, groups)
    }


def _norm(row: Record) -> str:
    return f"‖θ‖ = {number(row['norm'])}" if isinstance(row.get("norm"), int | float) else ""
