"""Sections of the `dct` report on multiplicity: cosines and ranks, the best factors as one, agreement of fits."""

from collections.abc import Sequence

import torch

from mi_ortho.multiplicity.distinct import NAMES as MULTIPLICITY_NAMES
from mi_ortho.nulls.chance import CONTROLS
from mi_ortho.pages.data_table import table
from mi_ortho.pages.estimates import Estimate, estimates
from mi_ortho.pages.matrices import heat_map
from mi_ortho.pages.page import Section
from mi_ortho.pages.plots import Panel, Series, curve
from mi_ortho.pages.sections import curves, figure, table_section
from mi_ortho.runs.rows import Record, pick
from mi_ortho.studies.dct.copies import BY_CHANCE
from mi_ortho.studies.dct.verdicts import RANDOM

STYLES = {"inputs": "family", "outputs": "c1", BY_CHANCE: CONTROLS[RANDOM].colour}


def copies_section(rows: Sequence[Record]) -> Section | None:
    """Cosines of all pairs of inputs and of outputs, and every measure of multiplicity against its null families."""
    numbers = pick(rows, kind="multiplicity")
    if not numbers:
        return None
    panels, ranks = [], []
    names = list(dict.fromkeys(row["method"] for row in numbers))
    for letter, name in zip("abcdefghi", names):
        series = []
        for what, style in STYLES.items():
            cosines = pick(rows, kind="cosines", method=name, what=what)
            series.append(
                Series(what, [row["cosine"] for row in cosines], [row["share"] for row in cosines], style, what)
            )
        panels.append(curve(Panel(f"Cosines, {name}", "share of pairs", "cosine", letter=letter), series))
        for row in pick(numbers, method=name, name="effective_rank"):
            if row["what"] == "inputs":
                ranks.append(Estimate(f"{name}: inputs", row["value"]))
            if row["against"] == BY_CHANCE:
                ranks.append(Estimate(f"{name}: outputs", row["value"]))
                ranks.append(Estimate(f"{name}: {BY_CHANCE}", row["null"], None, "control"))
    body = curves(panels, "All pairs of one fit, the first seed.", legend=[(w, w, s) for w, s in STYLES.items()])
    body += estimates("Effective rank", ranks)
    columns = {
        "method": "Method",
        "what": "Of",
        "against": "Null",
        "name": "Number",
        "value": "Measured",
        "null": "Null's mean",
        "p_low": "p (as small)",
        "p_high": "p (as large)",
    }
    body += table([{**row, "name": MULTIPLICITY_NAMES[row["name"]]} for row in numbers], columns, name="multiplicity")
    lead = (
        "Orthogonal inputs may still do the same thing. Outputs are compared with random families of the same mean "
        "|cosine|, and with what random orthonormal directions of the same norm do to the target: a lower effective "
        "rank than theirs means that factors repeat each other more than any directions would."
    )
    return Section("How many things are the factors?", body, lead, "copies", "Copies")


def together_section(rows: Sequence[Record]) -> Section | None:
    """The best quarter of the factors: alone, averaged, at the members' norm, and their top direction."""
    averages = pick(rows, kind="copies")
    if not averages:
        return None
    columns = {
        "method": "Method",
        "who": "Vector",
        "members": "Factors",
        "norm": "Norm",
        "effect": "Effect",
        "changed": "Changed",
        "best": "Best one",
        "wanted": "Ranked behaviour",
        "ablated": "Behaviour left when ablated",
    }
    columns = {key: title for key, title in columns.items() if any(row.get(key) is not None for row in averages)}
    lead = (
        "The highest-ranked quarter of the factors, each at its better sign. If their mean, brought to the same norm, "
        "does more than the typical one, they are noisy copies of one direction; if less, they are different things. "
        "Ablated: of prompts that get the ranked behaviour by themselves, the share that still does with the direction "
        "projected out at the source."
    )
    return table_section(
        "The best factors as one", averages, columns, lead=lead, anchor="together", short="Averages", name="averages"
    )


def agreement_section(rows: Sequence[Record]) -> Section | None:
    """Overlaps of the spans of methods, and of each method's fits from different seeds."""
    pairs = pick(rows, kind="agreement")
    if not pairs:
        return None
    names = list(dict.fromkeys(row["first"] for row in pairs)) + [pairs[0]["second"]]
    names = list(dict.fromkeys([*names, *(row["second"] for row in pairs)]))
    values = torch.eye(len(names), dtype=torch.float64)
    for row in pairs:
        if row["first"] != row["second"]:
            i, j = names.index(row["first"]), names.index(row["second"])
            values[i, j] = values[j, i] = row["share"]
    caption = f"Mean squared cosine between the spans of two fits, first seed; {pairs[0]['chance']:.3g} by chance."
    body = figure(heat_map(values, title="Overlap of methods", row_names=names, column_names=names), caption)
    again = [row for row in pairs if row["first"] == row["second"]]
    columns = {
        "first": "Method",
        "seed": "Seed",
        "other_seed": "Other seed",
        "share": "Overlap",
        "chance": "By chance",
        "p_value": "p",
    }
    if again:
        body += table(again, columns, name="seeds")
    return Section("Agreement of methods and seeds", body, "", "agreement", "Agreement")
