"""The figures of a `family` run: the numbers to know first, curves by index, the cosine matrix."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import einops
import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from mi_ortho.nulls.chance import CONTROLS, RANDOM_BASES, control
from mi_ortho.pages.plots import Panel, Series, curve, finite, wide
from mi_ortho.pages.text import number
from mi_ortho.runs.rows import Record
from mi_ortho.studies.family.page_records import FamilyRun
from mi_ortho.studies.family.verdicts import AT_CAP

Cosines = tuple[Float[Tensor, "n n"], dict[int, str]]  # of all vectors, and where each group of them starts


def panels(run: FamilyRun, match: str) -> Markup:
    """The curves of one match: loss, norm, both divergences, log-odds, and how many vectors keep the behaviour."""
    measured = [
        ("loss", "Relative activation loss", "Lₖ", {"no effect": 1.0}),
        ("norm", "Norm", "‖θₖ‖", _line(run.base, "norm", "base vector") | cap_line(run)),
        ("kl_base_vector", "KL(base ‖ vector)", "nats", {}),
        ("kl_vector_base", "KL(vector ‖ base)", "nats", {}),
        (
            "log_odds",
            "Log-odds of the behaviour",
            "nats",
            _line(run.base, "log_odds", "base") | _line(run.unsteered, "log_odds", "unsteered"),
        ),
        ("posterior", "Posterior of the behaviour", "share", _line(run.base, "posterior", "base")),
    ]
    curves = [(title, unit, lines, _series(run, match, key)) for key, title, unit, lines in measured]
    curves.append(("Vectors that keep the behaviour", "count up to k", {}, _counts(run, match)))
    curves = [item for item in curves if any(finite(one.y) for one in item[3])]
    end = run.end(match)[0]
    return Markup("").join(
        curve(
            Panel(
                title,
                unit,
                lines=lines,
                end=end,
                log=title.startswith("KL") and wide(series),
                whole=unit.startswith("count"),
                group=match,
                letter="abcdefg"[k],
            ),
            series,
        )
        for k, (title, unit, lines, series) in enumerate(curves)
    )


def cap_line(run: FamilyRun) -> dict[str, float]:
    """The largest norm that the search allowed; empty without one."""
    times, norm = run.config.get("fixed_norm") or run.config.get("norm_cap"), run.base.get("norm")
    return {"norm cap": float(times) * float(norm)} if times and isinstance(norm, int | float) else {}


def at_cap(run: FamilyRun, match: str) -> int:
    """How many vectors of a family lie at the norm cap."""
    cap = next(iter(cap_line(run).values()), math.inf)
    return sum(isinstance(row.get("norm"), int | float) and row["norm"] >= AT_CAP * cap for row in run.family(match))


def legend(run: FamilyRun, match: str) -> list[tuple[str, str, str]]:
    """The legend of the curves of a match, as (key, label, style); " dots" after the style: points without a line."""
    entries = [("family", "the family", "family")]
    entries += [("shrunk", "family, norm shrunk at fixed effect", "second")] * any(
        row.get("norm_shrunk") for row in run.family(match)
    )
    entries += [("null", "linear null (conjugate gradients)", "null")] * bool(run.null and match == "activation")
    styles = {name: control(name).colour for name in run.controls(match)}
    return entries + [(name, control(name).label, style + " dots" * (style != "c1")) for name, style in styles.items()]


def cosines(run: FamilyRun) -> Cosines | None:
    """The cosines among base and all families, and where each group starts; None where no vectors are stored."""
    groups = [(name, run.vectors[name]) for name in ("base", "kl", "activation") if name in run.vectors]
    if not groups:
        return None
    rows = [(name, einops.rearrange(value, "... d_model -> (...) d_model").double()) for name, value in groups]
    stacked = torch.nn.functional.normalize(torch.cat([value for _, value in rows]), dim=-1)
    starts = list(accumulate((len(value) for _, value in rows), initial=0))
    products = stacked @ stacked.T
    return (products + products.T) / 2, {start: name for start, (name, _) in zip(starts, rows)}


def largest_cosines(matrix: Float[Tensor, "n n"], starts: Mapping[int, str]) -> list[tuple[str, float, int]]:
    """The largest |cosine| over all pairs of distinct vectors: base with each family, and across the two families."""
    edges = [*starts, len(matrix)]
    parts = {name: torch.arange(low, high) for (low, name), high in zip(starts.items(), edges[1:])}
    off = (matrix - torch.diag(torch.diag(matrix))).abs().nan_to_num(0.0)
    base = parts.pop("base", torch.arange(0))
    families = [(name, torch.cat([base, rows])) for name, rows in parts.items()]
    largest = [
        (f"base and the {name} family", off[rows][:, rows].max().item(), len(rows))
        for name, rows in families
        if len(rows) > 1
    ]
    if len(parts) == 2:
        one, two = parts.values()
        largest.append(("between the two families", off[one][:, two].max().item(), len(one) + len(two)))
    return largest


def tiles(run: FamilyRun, matrix: Cosines | None) -> list[tuple[str, str]]:
    """The few numbers to know first, as (number, what it counts)."""
    figures = []
    for match in run.matches:
        family = run.family(match)
        figures.append(
            (
                f"{sum(map(run.keeps, family))} / {len(family)}",
                f"orthogonal vectors that keep the behaviour{_at_most(run, family)} ({match} match)",
            )
        )
        if scaled := run.control(match, "scaled_to_base"):
            kept = sum(map(run.keeps, scaled))
            figures.append((f"{kept} / {len(scaled)}", f"of them keep it at the base's own norm ({match} match)"))
        controls = [row for name in ("isotropic", "covariance") for row in run.control(match, name)]
        if controls:
            figures.append(
                (
                    f"{sum(map(run.keeps, controls))} / {len(controls)}",
                    f"random vectors of the same norms, isotropic and covariance-matched, that do ({match} match)",
                )
            )
    if matrix:
        worst = max((value for name, value, _ in largest_cosines(*matrix) if name.startswith("base")), default=None)
        figures.append((number(worst, 2), "largest |cos| between two vectors of a family"))
    return figures


def _at_most(run: FamilyRun, family: Sequence[Record]) -> str:
    norms = [float(row["norm"]) for row in family if isinstance(row.get("norm"), int | float)]
    base = run.base.get("norm")
    return f" at up to {max(norms) / base:.2g} × the base's norm" if norms and base else ""


def _series(run: FamilyRun, match: str, key: str) -> list[Series]:
    """The family and everything it is compared with, for one measure."""
    colours, family = run.colours, run.family(match)
    series = [
        _one_series(run.control(match, name), key, control(name).label, control(name).colour, name)
        for name in run.controls(match)
    ]
    last = max((row["index"] for row in family), default=0)
    null = [row for row in run.null if row["index"] <= last] if match == "activation" else []
    series.append(_one_series(null, key, "linear null", "null", "null"))
    if key == "norm":
        series.append(_one_series(family, "norm_shrunk", "shrunk at fixed effect", "second", "shrunk"))
    marks = [colours.get(str(row.get("mode")), "m7") for row in family]
    values = [row.get(key) for row in family]
    indexes = [row["index"] for row in family]
    family_series = Series("family", indexes, values, "family", "family", marks, column=("family", key))
    return [one for one in series if finite(one.y) and not (key == "norm" and one.dots)] + [family_series]


def _one_series(rows: Sequence[Record], key: str, label: str, style: str, name: str) -> Series:
    dots = name in CONTROLS and name not in RANDOM_BASES
    column = (label, key) if name in CONTROLS else ("family", key) if name == "shrunk" else None
    values = [row.get(key) for row in rows]
    return Series(label, [row["index"] for row in rows], values, style, name, dots=dots, column=column)


def _counts(run: FamilyRun, match: str) -> list[Series]:
    """How many vectors up to each index keep the behaviour: the family, and controls measured from 0 without gaps."""
    family = run.family(match)
    sets = [(control(name).label, run.control(match, name), control(name).colour, name) for name in run.controls(match)]
    sets = [one for one in sets if [row["index"] for row in one[1]] == list(range(len(one[1])))] + [
        ("family", family, "family", "family")
    ]
    return [
        Series(
            label, [row["index"] for row in rows], list(accumulate(float(run.keeps(row)) for row in rows)), style, name
        )
        for label, rows, style, name in sets
    ]


def _line(row: Record, key: str, label: str) -> dict[str, float]:
    return {label: float(row[key])} if isinstance(row.get(key), int | float) else {}
