"""Sections of the null models' report: dose, completions, sums and signs."""

from collections.abc import Sequence

from markupsafe import Markup

from mi_ortho.pages.data_table import table
from mi_ortho.pages.page import Section
from mi_ortho.pages.plots import Panel, Series, curve
from mi_ortho.pages.sections import curves, note
from mi_ortho.runs.rows import numbers, pick
from mi_ortho.stats import average
from mi_ortho.studies.family.finished import MATCH_NAMES
from mi_ortho.studies.nulls.page_parts import EFFECTS, GROUPS, Rows, line, matches_of, named
from mi_ortho.studies.nulls.verdicts import inverse

DOSES = {
    "match": "effect",
    "group": "vectors",
    "n": "number",
    "exponent": "mean dose exponent",
    "full": "mean effect at scale 1",
    "reach": "reach the threshold by scale 1",
    "smallest": "mean smallest working scale",
}


def dose_section(rows: Rows) -> Section | None:
    if not (matches := matches_of(rows, "dose")):
        return None
    panels, table_rows = [], []
    for letter, match in zip("ab", matches):
        lines = []
        for group, label, style in GROUPS:
            lines += line(label, pick(rows, kind="dose", match=match, group=group), "scale", "mean", style)
            dosed = pick(rows, kind="dosed", match=match, group=group)
            if dosed:
                table_rows.append(
                    {
                        "match": MATCH_NAMES[match],
                        "group": label,
                        "n": len(dosed),
                        "exponent": average(numbers(dosed, "exponent")),
                        "full": average(numbers(dosed, "full")),
                        "smallest": average(numbers(dosed, "smallest_scale")),
                        "reach": sum(row["smallest_scale"] is not None for row in dosed),
                    }
                )
        panels.append(curve(Panel(MATCH_NAMES[match], EFFECTS[match], "scale of each vector", letter=letter), lines))
    legend = [(label, label, style) for group, label, style in GROUPS if pick(rows, kind="dose", group=group)]
    figure = curves(
        panels,
        "Mean effect of a group at every scale of its own vectors; random vectors have the family's norms.",
        legend=legend,
    )
    lead = (
        "A linear effect is in proportion to strength (exponent 1); a quadratic one has exponent 2, a threshold more."
    )
    return Section("Dose response", figure + table(table_rows, DOSES, name="dose"), lead, "dose", "Dose")


def completions_section(rows: Rows) -> Section | None:
    completions = pick(rows, kind="completion")
    if not completions:
        return None
    first = {}
    for row in completions:
        if row["keeps"]:
            first.setdefault(row["group"], row["scale"])
    starts = "; ".join(f"{group}: from scale {scale:g}" for group, scale in first.items())
    columns = {"group": "vector", "scale": "scale", "mode": "behaviour", "keeps": "as the base", "text": "completion"}
    lead = f"The first training prompt. The base's behaviour first appears: {starts or 'nowhere'}."
    body = table(completions, columns, name="completions", chips=("mode",))
    return Section("What the model writes, scale by scale", body, lead, "completions", "Completions")


COMPOSED = (
    "How much the mean of n vectors, each first scaled to where it alone just works, must be scaled up. Flat is linear."
)


COMPOSITIONS = {
    "match": "effect",
    "group": "vectors",
    "working": "reach the threshold by scale 4",
    "inverse": "1/p",
    "interval": "95 % interval",
}


SIGNS = {
    "match": "effect",
    "own": "vectors that work",
    "negated": "of these, negated",
    "all_own": "of all vectors, work",
    "all_negated": "of all, negated",
    "all_p": "p (all vectors)",
    "same": "√n-means of 4, own signs (of 64)",
    "random": "random signs (of 64)",
    "random_p": "p",
}


def _composition_panels(rows: Rows, matches: Sequence[str]) -> list[Markup]:
    """Scales at which means work, by how many vectors they are of, one panel a match."""
    panels = []
    for letter, match in zip("ab", matches):
        lines = [
            s
            for group, label, style in GROUPS
            for s in line(label, pick(rows, kind="composed", match=match, group=group), "n", "scale", style)
        ]
        sizes = sorted({float(row["n"]) for row in pick(rows, kind="composed", match=match)})
        if not sizes:  # too few vectors reach the threshold: nothing to draw on logarithmic axes
            continue
        lines += [
            Series("√n (quadratic)", sizes, [n**0.5 for n in sizes], "c6", key="√n"),
            Series("n (sum)", sizes, sizes, "c7", key="n"),
        ]
        axes = ("critical scale s*(n) of the mean", "vectors averaged, n")
        panels.append(curve(Panel(MATCH_NAMES[match], *axes, log=True, logx=True, letter=letter), lines))
    return panels


def composition_section(rows: Rows) -> Section | None:
    if not (matches := matches_of(rows, "composition")):
        return None
    panels = _composition_panels(rows, matches)
    legend = [(label, label, style) for group, label, style in GROUPS if pick(rows, kind="composed", group=group)]
    legend += [("√n", "√n (quadratic)", "c6"), ("n", "n (sum)", "c7")]
    few = "Too few vectors reach the threshold to measure how their means compose."
    figure = curves(panels, COMPOSED, legend=legend) if panels else note(few)
    labels = {group: label for group, label, _ in GROUPS}
    totals = [
        {
            **row,
            "group": labels[row["group"]],
            "working": f"{row['working']} of {row['of']}",
            "inverse": None if row["exponent"] is None else 1 / row["exponent"],
            "interval": None if row["low"] is None else "{:.2f} to {:.2f}".format(*(inverse(row).interval or ())),
        }
        for row in named(pick(rows, kind="composition"))
    ]
    body = (
        figure
        + table(totals, COMPOSITIONS, name="composition")
        + note(
            "Signs: an even response (quadratic, quartic) works as well under −θ and under random signs; a linear or "
            "one-sided thresholded one does not. p-values are exact binomial (paired)."
        )
        + table(named(pick(rows, kind="signs")), SIGNS, name="signs")
    )
    lead = "1/p = 1: linear. 1/2: one quadratic form, in any basis. Smaller: separate features, each with a threshold."
    return Section("Sums and signs", body, lead, "composition", "Sums")
