"""The report of a `geometry` run: growth, updates, shared directions, likeness and flatness, beside their nulls."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from mi_ortho.nulls.chance import CONTROLS
from mi_ortho.pages.estimates import Estimate, estimates
from mi_ortho.pages.grid import Cell, grid
from mi_ortho.pages.matrices import heat_map
from mi_ortho.pages.page import Section
from mi_ortho.pages.plots import Panel, Series, curve
from mi_ortho.pages.sections import curves, glossary, left_out_section, note, table_section, write_report
from mi_ortho.runs.directory import Run, open_run
from mi_ortho.runs.rows import Record, pick

DEPTH = "layer"
_READABLE = 12  # layers up to which a matrix is a table of numbers
LINES = {"mean_variance": "Mean variance", "max_variance": "Largest variance", "mean_norm": "Mean norm"}
TERMS = [
    ("pre, mid, post", "The residual stream before a block, between its attention and its MLP, and after it."),
    ("mean, largest variance", "Of each feature over prompts, at the last token; mean and largest over features."),
    ("AICc", "Akaike's criterion, corrected for few points: the law with the smaller one describes a curve better."),
    ("overlap", "Mean squared cosine of the principal angles between two spaces; d/D by chance for d of D directions."),
    ("CKA", "Likeness of two layers on the same prompts, blind to rotation; 1 is equal. Too high with few prompts."),
    ("Procrustes distance", "What is left of one layer after the best rotation of the other; 0 is equal."),
    ("carried", "Share of one layer's variance that a map from another predicts, on prompts not fitted on."),
    ("detour", "Path length along the graph of nearest neighbours over straight distance; high when curved."),
    ("triangle defect", "How much longer a cut through a geodesic triangle is than in the plane; above 0 on a sphere."),
    ("untrained, shuffled", "Controls: random initial weights; the model's own weights, permuted within each matrix."),
]


def geometry_report(run_dir: Path) -> Path:
    """Write report.html of a `geometry` run, finished or not; parts that were not measured are left out."""
    run = open_run(run_dir)
    rows = run.records()
    sections = [
        _growth(rows),
        _sets(rows),
        _updates(rows),
        _directions(rows, run),
        _likeness(rows),
        _flat(rows),
        _fits(rows),
        left_out_section(rows),
        glossary(TERMS),
    ]
    return write_report(run_dir, "Layer geometry", [section for section in sections if section is not None])


def _series(rows: Sequence[Record], label: str, style: str, *, y: str = "value", key: str = "") -> Series:
    """A column over depth as one line; a depth recorded twice counts once."""
    points = {row["depth"]: row[y] for row in rows}
    return Series(label, sorted(points), [points[depth] for depth in sorted(points)], style, key or label.split()[0])


def _network_line(network: str) -> tuple[str, str]:
    """A network's label and the style of its line."""
    control = CONTROLS.get(network)
    return (control.label, control.colour) if control else (network, "family")


def _growth(rows: Sequence[Record]) -> Section | None:
    points = pick(rows, kind="point", network="model", group="all")
    if not points:
        return None
    panels = [_growth_panel(rows, statistic, letter) for statistic, letter in zip(LINES, "abc")]
    legend = [
        ("pre", "pre", "family"),
        ("mid", "mid", "c6"),
        ("exponential", "exponential fit to pre", "null"),
        ("power", "power fit to pre", "second"),
        ("untrained", f"{CONTROLS['untrained'].label}, pre", CONTROLS["untrained"].colour),
    ]
    caption = (
        "Both streams by layer, logarithmic: a straight line is exponential growth. Points where nothing varies "
        "(the embedding of a last token that all prompts share) are left out."
    )
    body = curves(panels, caption, legend=legend)
    gaps = pick(rows, kind="gap", network="model")
    if gaps:
        body += estimates(
            "log(variance of mid / variance of pre), with 95 % intervals over prompts",
            [*_intervals(gaps, "layer {}"), *_untrained_gap(rows)],
        )
    return Section("Growth by layer", body, "", "growth", "Growth")


def _growth_panel(rows: Sequence[Record], statistic: str, letter: str) -> Markup:
    def points(network: str, stream: str) -> list[Record]:
        return pick(rows, kind="point", network=network, group="all", statistic=statistic, stream=stream)

    pre = points("model", "pre")
    fits = pick(rows, kind="fit", network="model", group="all", statistic=statistic, stream="pre")
    series = [_series(pre, "pre", "family")]
    series += [_series(points("model", "mid"), "mid", "c6")] * bool(points("model", "mid"))
    for form, style in (("exponential", "null"), ("power", "second")):
        for fit in pick(fits, form=form)[:1]:
            line = [{"depth": row["depth"], "value": _fitted(fit, row["depth"])} for row in pre]
            series.append(_series(line, f"{form} fit", style))
    series += [_series(points("untrained", "pre"), *_network_line("untrained"))] * bool(points("untrained", "pre"))
    return curve(Panel(LINES[statistic], "over prompts", DEPTH, log=True, letter=letter, group="growth"), series)


def _fitted(fit: Record, depth: int) -> float:
    at = depth if fit["form"] == "exponential" else math.log(depth + 1)
    return math.exp(fit["intercept"] + fit["slope"] * at)


def _intervals(rows: Sequence[Record], label: str) -> list[Estimate]:
    once = {row["depth"]: row for row in rows}
    return [Estimate(label.format(k), once[k]["value"], (once[k]["low"], once[k]["high"])) for k in sorted(once)]


def _untrained_gap(rows: Sequence[Record]) -> list[Estimate]:
    untrained = f"{CONTROLS['untrained'].label}, mean over layers"
    mean = [("mean over layers", "model", "value"), (untrained, "untrained", "control")]
    gaps = [(label, pick(rows, kind="mean_gap", network=network), style) for label, network, style in mean]
    return [
        Estimate(label, part[0]["value"], (part[0]["low"], part[0]["high"]), style)
        for label, part, style in gaps
        if part
    ]


def _sets(rows: Sequence[Record]) -> Section | None:
    points = pick(rows, kind="point", network="model")
    names = [name for name in dict.fromkeys(row.get("group") for row in points) if name != "all"]
    if not names:
        return None
    panels, styles = [], ("family", "c1", "c4", "c5")
    charts = [(stream, statistic) for statistic in ("mean_variance", "max_variance") for stream in ("pre", "mid")]
    for letter, (stream, statistic) in zip("abcd", charts):
        parts = [pick(points, group=name, stream=stream, statistic=statistic) for name in names]
        series = [_series(part, str(name), style) for name, part, style in zip(names, parts, styles) if part]
        if series:
            panel = Panel(f"{LINES[statistic]}, {stream}", "", DEPTH, log=True, letter=letter, group="sets")
            panels.append(curve(panel, series))
    legend = [(str(name).split()[0], str(name), style) for name, style in zip(names, styles)]
    return Section("The two sets of prompts", curves(panels, "The same curves for each set alone.", legend=legend))


def _updates(rows: Sequence[Record]) -> Section | None:
    networks = {name: pick(rows, kind="update", network=name) for name in ("model", "untrained", "shuffled")}
    if not networks["model"]:
        return None
    panels = []
    columns = {
        "norm": "Length of a block's addition",
        "outward": "Cosine with the state before it",
        "alignment": "Cosine with the next block's addition",
    }
    for letter, (column, title) in zip("abc", columns.items()):
        series = [_series(part, *_network_line(name), y=column) for name, part in networks.items() if part]
        panels.append(curve(Panel(title, "", DEPTH, log=column == "norm", letter=letter, group="updates"), series))
    legend = [(name, *_network_line(name)) for name, part in networks.items() if part]
    caption = "If every layer moved the state equally far, the first curve would be flat."
    return Section("What each block adds", curves(panels, caption, legend=legend), "", "updates", "Updates")


def _directions(rows: Sequence[Record], run: Run) -> Section | None:
    overlaps = pick(rows, kind="overlap", network="model")
    if not overlaps:
        return None
    bars = []
    for row in overlaps:
        bars.append(Estimate(str(row["part"]), row["value"]))
        chance = (row["chance_low"], row["chance_high"])
        bars.append(Estimate(f"{row['part']}: by chance", row["chance"], chance, "control"))
        bars += [
            Estimate(f"{row['part']}: {CONTROLS['shuffled'].label}", other["value"], None, "control")
            for other in pick(rows, kind="overlap", network="shuffled", part=row["part"])[:1]
        ]
    body = estimates(f"Mean overlap of the {overlaps[0]['k']} leading directions between layers", bars)
    if run.has("overlap"):
        matrix = run.load_tensors("overlap")["both"]
        names = [f"{part} {layer}" for layer in range(len(matrix) // 2) for part in ("attention", "MLP")]
        body += heat_map(
            matrix,
            title="Overlap of the spaces that output matrices write to",
            scales=(("linear", -float(matrix.max()), float(matrix.max())),),
            captions=("Overlap of the leading directions of every two output matrices.",),
            row_names=names,
            column_names=names,
        )
    return Section("Shared directions of the weights", body, "", "directions", "Directions")


def _likeness(rows: Sequence[Record]) -> Section | None:
    likeness = pick(rows, kind="likeness", network="model")
    carried = pick(rows, kind="carried", network="model")
    if not likeness or not carried:
        return None
    size = 1 + max(row["source"] for row in likeness)
    figures = Markup("")
    pictures = (("cka", "CKA"), ("shuffled", "CKA with shuffled prompts (null)"), ("procrustes", "Procrustes distance"))
    for column, title in pictures:
        figures += _matrix(_grid(likeness, column, size), title)
    maps = (
        ("scaling", "a single number"),
        ("rotation", "a rotation"),
        ("linear", "a learned linear map"),
        ("turned", "a number after a random rotation (null)"),
    )
    for column, title in maps:
        figures += _matrix(_grid(carried, column, size).clamp(-1, 1), f"Layer predicted from another by {title}")
    body = Markup('<div class="two">{}</div>').format(figures)
    means = [
        Estimate(title, fmean(row[column] for row in carried), None, "control" if column == "turned" else "value")
        for column, title in maps
    ]
    ceilings = {row["source"]: row["ceiling"] for row in likeness if row.get("ceiling") is not None}
    body += estimates("Share of another layer's variance predicted, mean over pairs of layers", means)
    halves = [
        Estimate("mean CKA of two layers", fmean(row["cka"] for row in likeness if row["source"] != row["target"])),
        Estimate("shuffled prompts (null)", fmean(row["shuffled"] for row in likeness), None, "control"),
        Estimate("halves of one layer (ceiling)", fmean(ceilings.values()), None, "control"),
    ]
    body += estimates("CKA beside its null and its ceiling", halves)
    lead = (
        "After each block, at the last token. If all layers are one space, a number is enough; a rotation keeps "
        "the shape and changes the directions; a linear map has to be learned. Shares below -1 are drawn as -1."
    )
    return Section("Likeness of layers", body, lead, "likeness", "Likeness")


def _grid(rows: Sequence[Record], column: str, size: int) -> Float[Tensor, "n n"]:
    """The mean of a column for each pair of layers; 1 on the diagonal if layers were not compared with themselves."""
    means = torch.eye(size, dtype=torch.float64)
    for source in range(size):
        for target in range(size):
            values = [row[column] for row in rows if (row["source"], row["target"]) == (source, target)]
            if values:
                means[source, target] = fmean(values)
    return means


def _matrix(values: Float[Tensor, "n n"], title: str) -> Markup:
    """A table of numbers for few layers, a heat map for many."""
    names, caption = [str(k) for k in range(len(values))], f"{title}; from the row's layer to the column's."
    if len(values) <= _READABLE:
        return grid([[Cell(float(x)) for x in row] for row in values], names, names, caption=caption, largest=1.0)
    return heat_map(values, title=title, captions=(caption,), row_names=names, column_names=names)


def _flat(rows: Sequence[Record]) -> Section | None:
    measures = pick(rows, kind="flat", network="model")
    if not measures:
        return None
    clouds = (
        ("measured", "activations", "family"),
        ("gaussian", "Gaussian, same covariance", "null"),
        ("grouped", "Gaussian within each set", "c3"),
    )
    panels = []
    columns = {"ratio": "Detour along the neighbour graph", "defect": "Triangle defect", "dimension": "Local dimension"}
    for letter, (column, title) in zip("abc", columns.items()):
        series = [
            _series(_means(pick(measures, cloud=cloud), column), label, style, key=cloud)
            for cloud, label, style in clouds
        ]
        panels.append(curve(Panel(title, "", DEPTH, letter=letter, group="flat"), series))
    copies = 1 + max(row["copy"] for row in measures)
    caption = f"After each block, at the last token. Gaussian curves are means over {copies} clouds."
    legend = [(cloud, label, style) for cloud, label, style in clouds]
    lead = "A flat cloud of the same spread is the null: a neighbour graph has detours in any cloud."
    return Section("Flat or curved", curves(panels, caption, legend=legend), lead, "flat", "Flatness")


def _means(rows: Sequence[Record], column: str) -> list[Record]:
    depths = sorted({row["depth"] for row in rows})
    return [{"depth": depth, "value": fmean(row[column] for row in rows if row["depth"] == depth)} for depth in depths]


def _fits(rows: Sequence[Record]) -> Section:
    columns = {
        "network": "network",
        "group": "prompts",
        "stream": "stream",
        "statistic": "curve",
        "form": "law",
        "slope": "slope",
        "slope_low": "low",
        "slope_high": "high",
        "r_squared": "R²",
        "aicc": "AICc",
    }
    fits = [{**row, "statistic": LINES.get(row["statistic"], row["statistic"])} for row in pick(rows, kind="fit")]
    if not fits:
        return Section("Growth laws", note("No growth law was fitted yet."))
    lead = "Slope per layer of the exponential, exponent of the power law, with 95 % bootstrap intervals over prompts."
    return table_section("Growth laws", fits, columns, lead=lead, anchor="fits", name="fits")
