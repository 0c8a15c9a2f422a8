"""The report of a `presence` run: are a family's vectors where the model really writes code?"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from markupsafe import Markup

from mi_ortho.nulls.chance import CONTROLS
from mi_ortho.pages.data_table import table
from mi_ortho.pages.estimates import Estimate, estimates
from mi_ortho.pages.matrices import heat_map
from mi_ortho.pages.page import Section
from mi_ortho.pages.plots import Panel, Series, curve
from mi_ortho.pages.sections import curves, figure, note, write_report
from mi_ortho.runs.directory import open_run
from mi_ortho.runs.rows import Record, pick
from mi_ortho.studies.presence.contrasts import CONTRASTS, NULLS, PRIMARY
from mi_ortho.studies.presence.page_text import passages_table, strongest_passages, terms, token_by_token, vectors_table
from mi_ortho.studies.presence.passages import GROUPS

STYLES = {"family": "family"} | {name: CONTROLS[name].colour for name in NULLS}
NAMES = {"family": "the family"} | {name: CONTROLS[name].label for name in NULLS}
LEGEND = [(key, NAMES[key], style) for key, style in STYLES.items()]
CONTRAST_NAMES = {name: f"{GROUPS[a]}, against {GROUPS[b]}" for name, (a, b) in CONTRASTS.items()}
SHARE_GROUPS = {
    "code_own": ("own code", "family"),
    "english_own": ("own English", "c1"),
    "code_real": ("library code", "c4"),
}

_AUC = (
    "AUC of cos(h, θ): the chance that a token of code has more of the vector than a token of the other text. "
    "One half is chance."
)
_DISTRIBUTION = (
    "Share of the vectors whose AUC is at most x, by layer. A curve to the right of the sets: vectors "
    "that point towards code. A flatter curve: they tell code apart in either direction. Compared are "
)
_MEANS = (
    "The family's mean AUC, its interval over passages drawn again; rings: mean and middle 95 % of "
    "covariance-matched sets of equal size. The dashed line is chance."
)
_SHARES = (
    "Share ⟨h,θ⟩²/(‖h‖²‖θ‖²) of every vector in the order found, those that lost the behaviour included. Left: "
    "mean over tokens. Right: the token where it is largest."
)
_EXPLAINED = (
    "Share of the variance of the activations on the model's own code that lies in the span of the vectors; "
    "rings: mean and range of sets of equal size."
)
_HEAT = (
    "AUC − 1/2 over all tokens: one column a vector (the base last), one row a layer, one block of rows a "
    "comparison. Hover for numbers."
)
_PROBES = (
    "Each probe is fitted after the directions of all before it were removed; the last one of each line was at "
    "chance. Half of the passages fit, the other half judges."
)


def presence_report(run_dir: Path) -> Path:
    """Write `report.html` into a `presence` run directory, finished or not, and return its path."""
    path = Path(run_dir)
    run = open_run(path)
    rows, source = run.records(), int(str(run.config["source"]))
    layers = sorted({int(row["layer"]) for row in pick(rows, kind="layer")})
    if source not in layers:
        waiting = Section("Measurements", note("The layer of the vectors is not measured yet; run the command again."))
        return write_report(path, "Presence in real code", [passages_table(rows), waiting])
    sections = [separation(rows, layers, source), shares(rows, source), every_layer(rows, layers)]
    sections += [*probes(rows, source), token_by_token(rows), strongest_passages(rows, source)]
    sections += [vectors_table(rows, source), passages_table(rows), terms()]
    return write_report(path, "Presence in real code", sections)


def separation(rows: Sequence[Record], layers: Sequence[int], source: int) -> Section:
    """The AUCs of the family beside those of the null sets, by layer and by kind of text."""
    others = [name for name in CONTRASTS if name != PRIMARY]
    by_layer = [_distribution(rows, layer, PRIMARY, f"Layer {layer}") for layer in layers]
    by_text = [_distribution(rows, source, name, name.replace("_", " ")) for name in others]
    named = "; ".join(f"{name.replace('_', ' ')}: {CONTRAST_NAMES[name]}" for name in others)
    body = [
        curves(by_layer, f"{_DISTRIBUTION}{CONTRAST_NAMES[PRIMARY]}.", legend=LEGEND),
        _means(rows, layers),
        curves(by_text, f"The same at layer {source} on other text. {named}.", legend=LEGEND),
    ]
    return Section("Code against other text", Markup("").join(body), _AUC, "auc", "AUC")


def _distribution(rows: Sequence[Record], layer: int, name: str, title: str) -> Markup:
    series = []
    for row in pick(rows, kind="sets", layer=layer, contrast=name):
        xs = [float(x) for x in row["auc_quantiles"]]
        ys = [k / (len(xs) - 1) for k in range(len(xs))]
        series.append(Series(NAMES[row["null"]], xs, ys, style=STYLES[row["null"]], key=row["null"]))
    return curve(Panel(title, "share of vectors", "AUC", group=name), series)


def _means(rows: Sequence[Record], layers: Sequence[int]) -> Markup:
    bars = []
    for layer in layers:
        [summary] = pick(rows, kind="contrast", layer=layer, contrast=PRIMARY)
        sets = {row["null"]: row["mean_auc"] for row in pick(rows, kind="sets", layer=layer, contrast=PRIMARY)}
        bars.append(Estimate(f"layer {layer}: the family", sets["family"][0], _pair(summary["interval"])))
        middle = torch.quantile(torch.tensor(sets["covariance"]), torch.tensor([0.025, 0.975])).tolist()
        mean = fmean(sets["covariance"])
        bars.append(Estimate(f"layer {layer}: {NAMES['covariance']}", mean, _pair(middle), "control"))
    return figure(estimates("Mean AUC", bars, threshold=0.5), _MEANS)


def shares(rows: Sequence[Record], source: int) -> Section:
    """The share of activations along each vector, and in the span of all."""
    vectors = [row for row in pick(rows, kind="presence", layer=source) if row["what"] != "base"]
    panels = [
        _share_panel(vectors, "share", "Mean share of |h|²", {}),
        _share_panel(vectors, "largest_share", "Largest share of |h|²", {"1/50": 0.02}),
    ]
    legend = [(group, label, style) for group, (label, style) in SHARE_GROUPS.items()]
    body = curves(panels, f"{_SHARES} Layer {source}.", legend=legend) + _explained(rows, source)
    return Section("How much of an activation", body, "", "share", "Share")


def _share_panel(vectors: Sequence[Record], field: str, title: str, lines: dict[str, float]) -> Markup:
    ordered = sorted(vectors, key=lambda row: row["index"])
    xs = [row["index"] for row in ordered]
    series = [
        Series(label, xs, [row.get(f"{field}_{group}") for row in ordered], style, group, dots=style != "family")
        for group, (label, style) in SHARE_GROUPS.items()
    ]
    return curve(Panel(title, lines=lines, log=True, group="share"), series)


def _explained(rows: Sequence[Record], source: int) -> Markup:
    sets = {row["null"]: row["explained"] for row in pick(rows, kind="sets", layer=source, contrast=PRIMARY)}
    bars = [Estimate("the family", sets["family"][0])]
    bars += [Estimate(NAMES[null], fmean(sets[null]), (min(sets[null]), max(sets[null])), "control") for null in NULLS]
    return figure(estimates("Variance of own code inside the span", bars), _EXPLAINED)


def every_layer(rows: Sequence[Record], layers: Sequence[int]) -> Section:
    """AUC of each vector at each layer in each comparison."""
    cells = {(row["layer"], row["index"]): row for row in pick(rows, kind="presence")}
    indices = sorted({index for _, index in cells})
    values = [[cells[layer, index][f"auc_{name}"] - 0.5 for index in indices] for name in CONTRASTS for layer in layers]
    labels = [f"{name.replace('_', ' ')}, layer {layer}" for name in CONTRASTS for layer in layers]
    names = ["base" if cells[layers[0], index]["what"] == "base" else f"vector {index}" for index in indices]
    largest = max(abs(value) for row in values for value in row)
    picture = heat_map(
        torch.tensor(values),
        title="AUC minus one half, by vector and layer",
        captions=(_HEAT,),
        scales=(("linear", -largest, largest),),
        row_names=labels,
        column_names=names,
    )
    return Section("Every vector at every layer", picture, "", "heat", "Layers")


def probes(rows: Sequence[Record], source: int) -> list[Section]:
    """Iterative nullspace projection: one line a split, with its shuffled control."""
    fits = pick(rows, kind="probes", layer=source)
    if not fits:
        return []
    series, chance = [], CONTROLS["shuffled_labels"]
    for row in fits:
        label = f"{row['fit']}, {chance.label if row['shuffled'] else 'true labels'}, split {row['seed']}"
        style = chance.colour if row["shuffled"] else "family" if row["fit"] == "discriminant" else "c1"
        key = "shuffled" if row["shuffled"] else str(row["fit"])
        series.append(Series(label, list(range(len(row["aucs"]))), row["aucs"], style, key, dots=row["shuffled"]))
    panel = Panel("Held-out AUC of each probe", "", "probe", lines={"chance": 0.5})
    legend = [
        ("discriminant", "discriminants", "family"),
        ("logistic", "logistic probes", "c1"),
        ("shuffled", chance.label, chance.colour),
    ]
    columns = {
        "fit": "probe",
        "shuffled": "labels shuffled",
        "seed": "split",
        "count": "probes above chance",
        "overlap": "overlap with the family",
        "overlap_chance": "by chance",
    }
    body = curves([curve(panel, series)], _PROBES, legend=legend) + table(fits, columns, name="probes")
    lead = f"How often can a linear probe be removed and found again? {CONTRAST_NAMES[PRIMARY]}, layer {source}."
    return [Section("How many linear probes", body, lead, "probes", "Probes")]


def _pair(values: Sequence[float]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
