"""Sections of the null models' report: the linear map and the one gradient."""

from markupsafe import Markup

from mi_ortho.pages.data_table import table
from mi_ortho.pages.page import Section
from mi_ortho.pages.plots import Panel, curve
from mi_ortho.pages.sections import curves, note
from mi_ortho.runs.rows import pick
from mi_ortho.studies.nulls.page_parts import Rows, line, named

LINEAR = (
    ("measured", "none", "measured", "family"),
    ("search on the mean Jacobian", "path", "search", "null"),
    ("optimum on the mean Jacobian", "path", "optimum", "second"),
    ("search on the Jacobian at 0", "zero", "search", "c4"),
)


def linear_section(rows: Rows) -> Section | None:
    chosen = {
        label: (pick(rows, kind="linear", expansion=expansion, how=how), style)
        for label, expansion, how, style in LINEAR
    }
    if not any(points for points, _ in chosen.values()):
        return None
    panels = []
    for letter, column, title, unit in (("a", "loss", "Relative activation loss", "Lₖ"), ("b", "norm", "Norm", "‖θₖ‖")):
        lines = [s for label, (points, style) in chosen.items() for s in line(label, points, "index", column, style)]
        panels.append(curve(Panel(title, unit, letter=letter, group="linear", log=column == "norm"), lines))
    legend = [(label, label, style) for label, (points, style) in chosen.items() if points]
    figure = curves(
        panels,
        "Vector by vector: the family as measured, and what a linear map would give. The search is "
        "the family's own, run on the map; the optimum is exact (conjugate gradients).",
        legend=legend,
    )
    columns = {
        "expansion": "Jacobian",
        "good": "vectors with loss ≤ 1/2",
        "ridge": "ridge capacity",
        "closed": "closed-form capacity",
        "norm": "largest norm",
        "ridge_norm": "shortest norm for loss 1/2",
        "efficiency": "efficiency q",
        "mismatch": "relative error of J·base",
    }
    names = {"zero": "at 0", "path": "mean along the path"}
    capacity = [{**row, "expansion": names[row["expansion"]]} for row in pick(rows, kind="capacity")]
    problems = Markup("").join(note(str(row["problem"])) for row in pick(rows, kind="linear_problem"))
    lead = (
        "On a linear map the whole family follows from the Jacobian. Counts above the ridge capacity are impossible "
        "for a linear response, whatever was searched."
    )
    body = figure + problems + table(capacity, columns, name="capacity")
    return Section("Would a linear map give this family?", body, lead, "linear", "Linear map")


GRADIENTS = {
    "match": "family",
    "expansion": "gradient",
    "working": "vectors that work",
    "bound": "linear bound",
    "positive": "positive projections",
    "sign_p": "p (signs)",
    "bessel": "Σcos² with it",
    "bessel_null": "Σcos², shuffled",
    "bessel_p": "p (Σcos²)",
    "norm": "|g|",
}


SHARED = {
    "match": "family",
    "n": "vectors",
    "implied_norm": "implied norm",
    "family_effect": "mean effect of one",
    "at_implied": "at the implied norm",
    "random_signs_at_implied": "random signs there",
    "at_base_norm": "at the base's norm",
    "random_signs_at_base_norm": "random signs there",
    "least_cosine": "least cosine",
    "kaarel": "Kaarel's bound",
    "bessel": "Σcos² with it",
    "bessel_null": "Σcos², shuffled",
}


def gradients_section(rows: Rows) -> Section | None:
    gradients = [
        {
            **row,
            "expansion": {"zero": "at 0", "path": "mean along the path"}[row["expansion"]],
            "positive": f"{row['positive']} of {row['trials']}",
        }
        for row in named(pick(rows, kind="gradient"))
    ]
    if not gradients:
        return None
    body = (
        table(gradients, GRADIENTS, name="gradients")
        + note(
            "Below: the one direction all working vectors share equally. Every orthogonal family has one (Σcos² 1 by "
            "construction). A linear effect would reach the mean effect of one vector already at the implied norm."
        )
        + table(named(pick(rows, kind="shared")), SHARED, name="shared")
    )
    lead = "If the effect were linear, every vector would have the same positive projection on one gradient."
    return Section("Does one gradient explain every vector?", body, lead, "gradient", "Gradient")
