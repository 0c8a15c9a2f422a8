"""What the report of a `family` run reads, and its figures: curves by index, behaviour strips, the cosine matrix."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import einops
import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from mi_ortho.files import read_json
from mi_ortho.runs import open_run
from mi_ortho.viz.plots import Panel, Series, curve, finite

Row = Mapping[str, Any]
CONTROLS = {  # name in the records → (label, colour)
    "random_base": ("family of a random base", "c1"),
    "isotropic": ("random, isotropic", "c2"),
    "covariance": ("random, covariance-matched", "c3"),
    "span": ("random in the family's span", "c4"),
    "negated": ("the vector negated, −θ", "c5"),
    "scaled_to_base": ("scaled to the base's norm", "c6"),
}
MATCHES = {"kl": "Match on the next-token distribution", "activation": "Match on the target activations"}


@dataclass(frozen=True, eq=False)
class FamilyRun:
    """A run directory as read: settings, machine, summary, rows, vectors and the arrays of the visuals."""

    config: Row
    environment: Row
    summary: Row
    rows: Sequence[Row]
    vectors: Mapping[str, Tensor]
    visuals: Row
    arrays: Mapping[str, Tensor]

    def where(self, **wanted: object) -> list[Row]:
        """The rows whose fields have these values."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())]

    @property
    def base(self) -> Row:
        """The row of the base vector, empty where the run has none yet."""
        return next(iter(self.where(kind="base")), {})

    @property
    def unsteered(self) -> Row:
        """The first prompt's row without steering, empty where the run has none yet."""
        return next(iter(self.where(kind="unsteered")), {})

    @property
    def matches(self) -> list[str]:
        """The matches this run has vectors of, those known first."""
        found = {str(row.get("match")) for row in self.where(kind="vector")}
        return [match for match in MATCHES if match in found] + sorted(found - set(MATCHES))

    def family(self, match: str) -> list[Row]:
        """The vectors of one match by index."""
        return sorted(self.where(kind="vector", match=match), key=lambda row: row["index"])

    def control(self, match: str, name: str) -> list[Row]:
        """One control of one match by index."""
        return sorted(self.where(kind="control", match=match, control=name), key=lambda row: row["index"])

    def controls(self, match: str) -> list[str]:
        """The controls measured for a match, those known first."""
        found = {str(row.get("control")) for row in self.where(kind="control", match=match)}
        return [name for name in CONTROLS if name in found] + sorted(found - set(CONTROLS))

    def keeps(self, row: Row) -> bool:
        """Whether a row's behaviour is the base's."""
        return bool(row["keeps"] if row.get("keeps") is not None else self.base and row.get("mode") == self.base.get("mode"))

    def end(self, match: str) -> tuple[int | None, str]:
        """Where the family of a match ends by the summary (the first index outside), and the reason given."""
        found = (self.summary.get("end") or {}).get(match)
        if isinstance(found, Mapping):
            index = next((found[key] for key in ("index", "end", "count") if isinstance(found.get(key), int | float)), None)
            return (None if index is None else int(index)), str(found.get("reason") or found.get("rule") or "")
        return (int(found) if isinstance(found, int | float) else None), ""

    def mode_colours(self) -> dict[str, str]:
        """A colour class for every mode: the base's first, then the unsteered one, then by how often each appears."""
        counted = Counter(str(row["mode"]) for row in self.rows if row.get("mode") is not None)
        first = [str(row["mode"]) for row in (self.base, self.unsteered) if row.get("mode") is not None]
        order = list(dict.fromkeys([*first, *(mode for mode, _ in counted.most_common())]))
        return {mode: f"m{min(k, 7)}" for k, mode in enumerate(order)}


def load_family(path: Path) -> FamilyRun:
    """Read a run directory, finished or not; parts that are not there yet are empty."""
    run = open_run(path)

    def part(name: str) -> Row:
        found = read_json(path / name) if (path / name).is_file() else {}
        return found if isinstance(found, Mapping) else {}

    arrays = run.load_tensors("visuals") if run.has("visuals") else {}
    summary, visuals = part("summary.json"), part("visuals.json")
    return FamilyRun(run.config, part("environment.json"), summary, run.records(), run.load_rows("vectors"), visuals, arrays)


def label_of(control: str) -> str:
    """A control's name for a reader."""
    return CONTROLS.get(control, (control.replace("_", " "), ""))[0]


def panels(run: FamilyRun, match: str) -> Markup:
    """The curves of one match: loss, norm, both divergences, log-odds, and how many vectors keep the behaviour."""
    measured = [
        ("loss", "Relative activation loss", "Lₖ", {"no effect": 1.0}),
        ("norm", "Norm", "‖θₖ‖", _line(run.base, "norm", "base vector")),
        ("kl_base_vector", "KL(base ‖ vector)", "nats", {}),
        ("kl_vector_base", "KL(vector ‖ base)", "nats", {}),
        ("log_odds", "Log-odds of the behaviour", "nats", _line(run.base, "log_odds", "base") | _line(run.unsteered, "log_odds", "unsteered")),
    ]
    drawn = [(title, unit, lines, _series(run, match, key)) for key, title, unit, lines in measured]
    drawn.append(("Vectors that keep the behaviour", "count up to k", {}, _counts(run, match)))
    drawn = [item for item in drawn if any(finite(one.y) for one in item[3])]
    end = run.end(match)[0]
    return Markup("").join(
        curve(Panel(title, unit, lines=lines, end=end, log=_wide(unit, title, series), group=match, letter="abcdef"[k]), series)
        for k, (title, unit, lines, series) in enumerate(drawn)
    )


def legend(run: FamilyRun, match: str) -> list[tuple[str, str, str]]:
    """What the curves of a match show: (key, label, line style)."""
    found = [("family", "the family", "family")]
    found += [("shrunk", "family, norm shrunk at fixed effect", "second")] * any(row.get("norm_shrunk") for row in run.family(match))
    found += [("null", "linear null (conjugate gradients)", "null")] * bool(run.where(kind="linear_null", match=match))
    return found + [(name, label_of(name), CONTROLS.get(name, ("", "c7"))[1]) for name in run.controls(match)]


def cosines(run: FamilyRun) -> tuple[Float[Tensor, "n n"], dict[int, str]] | None:
    """The cosines among base and all families, and where each group starts; none where no vectors are stored."""
    groups = [(name, run.vectors[name]) for name in ("base", "kl", "activation") if name in run.vectors]
    if not groups:
        return None
    rows = [(name, einops.rearrange(value, "... d_model -> (...) d_model").double()) for name, value in groups]
    stacked = torch.nn.functional.normalize(torch.cat([value for _, value in rows]), dim=-1)
    starts = list(accumulate((len(value) for _, value in rows), initial=0))
    return stacked @ stacked.T, {start: name for start, (name, _) in zip(starts, rows)}


def largest_cosines(matrix: Float[Tensor, "n n"], starts: Mapping[int, str]) -> list[tuple[str, float, int]]:
    """The largest |cosine| over all pairs of distinct vectors within base plus each family, and across the two families."""
    edges = [*starts, len(matrix)]
    parts = {name: torch.arange(low, high) for (low, name), high in zip(starts.items(), edges[1:])}
    off = (matrix - torch.diag(torch.diag(matrix))).abs().nan_to_num(0.0)
    base = parts.pop("base", torch.arange(0))
    found = [(name, torch.cat([base, rows])) for name, rows in parts.items()]
    largest = [(f"base and the {name} family", off[rows][:, rows].max().item(), len(rows)) for name, rows in found if len(rows) > 1]
    if len(parts) == 2:
        one, two = parts.values()
        largest.append(("between the two families", off[one][:, two].max().item(), len(one) + len(two)))
    return largest


def _series(run: FamilyRun, match: str, key: str) -> list[Series]:
    """The family and everything it is compared with, for one measure."""
    colours, family = run.mode_colours(), run.family(match)
    found = [_of(run.control(match, name), key, label_of(name), CONTROLS.get(name, ("", "c7"))[1], name) for name in run.controls(match)]
    null = sorted(run.where(kind="linear_null", match=match), key=lambda row: row["index"])
    found.append(_of(null, key, "linear null", "null", "null"))
    if key == "norm":
        found.append(_of(family, "norm_shrunk", "shrunk at fixed effect", "second", "shrunk"))
    marks = [colours.get(str(row.get("mode")), "m7") for row in family]
    own = Series("family", [row["index"] for row in family], [row.get(key) for row in family], "family", "family", marks)
    return [one for one in found if finite(one.y) and not (key == "norm" and one.style in {"c2", "c3", "c4", "c5", "c6"})] + [own]


def _of(rows: Sequence[Row], key: str, label: str, style: str, name: str) -> Series:
    return Series(label, [row["index"] for row in rows], [row.get(key) for row in rows], style, name)


def _counts(run: FamilyRun, match: str) -> list[Series]:
    """How many vectors up to each index keep the behaviour, for the family and every control measured at (nearly) every index."""
    family = run.family(match)
    sets = [(label_of(name), run.control(match, name), CONTROLS.get(name, ("", "c7"))[1], name) for name in run.controls(match)]
    sets = [one for one in sets if len(one[1]) >= 0.9 * len(family)] + [("family", family, "family", "family")]
    return [Series(label, [row["index"] for row in rows], list(accumulate(float(run.keeps(row)) for row in rows)), style, name)
            for label, rows, style, name in sets]


def _line(row: Row, key: str, label: str) -> dict[str, float]:
    return {label: float(row[key])} if isinstance(row.get(key), int | float) else {}


def _wide(unit: str, title: str, series: Sequence[Series]) -> bool:
    """Whether a divergence spans so much that only a logarithmic axis shows it."""
    values = [value for one in series for value in finite(one.y)]
    return title.startswith("KL") and min(values) > 0 and max(values) > 30 * min(values)
