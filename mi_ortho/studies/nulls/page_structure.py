"""Sections of the null models' report: spectra and counts, multiplicity, clusters."""

from mi_ortho.multiplicity.distinct import NAMES as MULTIPLICITY_NAMES
from mi_ortho.nulls.chance import CONTROLS
from mi_ortho.pages.data_table import table
from mi_ortho.pages.page import Section
from mi_ortho.pages.plots import Panel, curve
from mi_ortho.pages.sections import curves
from mi_ortho.runs.rows import pick
from mi_ortho.studies.family.finished import MATCH_NAMES
from mi_ortho.studies.nulls.page_parts import EFFECTS, Rows, line, matches_of, named

SPECTRA = (
    ("zero", "Hessian / 2 at 0", "family"),
    ("base", "Hessian / 2 at the base", "second"),
    ("gauss_newton", "Gauss–Newton", "null"),
)


COUNTS = (
    ("measured", "found", "family"),
    ("zero", "predicted at 0", "null"),
    ("base", "predicted at the base", "second"),
    ("gradient_only", "gradient at 0 alone", "c4"),
)


SURVIVING = (
    ("family", "family", "family"),
    ("random", CONTROLS["isotropic"].label, CONTROLS["isotropic"].colour),
)


EXPANSIONS = {
    "match": "effect",
    "at": "expansion",
    "gradient_norm": "|g|",
    "constant": "constant",
    "top": "top eigenvalue",
    "trace": "trace",
    "dimension": "effective dimension",
}


BUDGETS = {
    "match": "effect",
    "working": "vectors that work",
    "budget": "budget Σ(R√τ/|θ|)²",
    "median_norm": "median norm, × base",
}


def spectrum_section(rows: Rows) -> Section | None:
    if not (matches := matches_of(rows, "count")):
        return None
    spectra, counts = [], []
    for letter, match in zip("ab", matches):
        lines = [
            s
            for at, label, style in SPECTRA
            for s in line(label, pick(rows, kind="eigenvalue", match=match, at=at), "index", "value", style)
        ]
        spectra.append(curve(Panel(f"Spectrum, {MATCH_NAMES[match]}", "eigenvalue", "index", letter=letter), lines))
        caps = pick(rows, kind="count", match=match)
        lines = [s for name, label, style in COUNTS for s in line(label, caps, "multiple", name, style)]
        title = f"N(ρ), {MATCH_NAMES[match]}"
        panel = Panel(title, "vectors that can work", "norm cap ρ, × base", letter=letter, whole=True)
        counts.append(curve(panel, lines))
    body = curves(
        counts,
        "Vectors that work at a norm cap: found in the family (a lower bound), and the most that the "
        "effect's expansion allows.",
        legend=[(label, label, style) for _, label, style in COUNTS],
    ) + curves(
        spectra,
        "Eigenvalues of the effect's second-order form on what is orthogonal to the base.",
        legend=[(label, label, style) for _, label, style in SPECTRA],
    )
    names = {at: label for at, label, _ in SPECTRA}
    table_rows = [{**row, "at": names[row["at"]]} for row in named(pick(rows, kind="spectrum"))]
    body += table(table_rows, EXPANSIONS, name="spectra") + table(
        named(pick(rows, kind="budget")), BUDGETS, name="budget"
    )
    lead = (
        "N orthogonal vectors no longer than ρ can reach an effect τ under a quadratic form exactly when its N largest "
        "eigenvalues sum to N τ / ρ² (Schur and Horn)."
    )
    return Section("Second-order spectrum and the count at each norm", body, lead, "spectrum", "Spectrum")


NUMBERS = {
    "match": "family",
    "what": "of",
    "name": "number",
    "value": "family's",
    "null": "random families' mean",
    "p_low": "p (as small)",
    "p_high": "p (as large)",
}


RATIOS = {
    "match": "family",
    "value": "effective rank, outputs / inputs",
    "null": "the same for random vectors",
    "p_low": "p (as small)",
}


def multiplicity_section(rows: Rows) -> Section | None:
    if not (matches := matches_of(rows, "multiplicity")):
        return None
    panels = []
    for letter, match in zip("ab", matches):
        lines = [
            s
            for what, style in (("inputs", "family"), ("outputs", "second"))
            for s in line(what, pick(rows, kind="cosines", match=match, what=what), "cosine", "share", style)
        ]
        panels.append(curve(Panel(f"Cosines, {MATCH_NAMES[match]}", "share of pairs", "cosine", letter=letter), lines))
    kept = []
    for letter, match in zip("ab", matches):
        survivors = pick(rows, kind="survival", match=match)
        lines = [s for name, label, style in SURVIVING for s in line(label, survivors, "threshold", name, style)]
        kept.append(
            curve(Panel(f"Survival, {MATCH_NAMES[match]}", "vectors", EFFECTS[match], letter=letter, whole=True), lines)
        )
    table_rows = [
        {**row, "name": MULTIPLICITY_NAMES.get(row["name"], row["name"])}
        for row in named(pick(rows, kind="multiplicity"))
    ]
    body = (
        curves(
            panels,
            "All pairs. Inputs are orthogonal by construction; outputs are z(θ) − z(0).",
            legend=[("inputs", "inputs", "family"), ("outputs", "outputs", "second")],
        )
        + table(named(pick(rows, kind="ratio")), RATIOS, name="ratio")
        + table(table_rows, NUMBERS, name="multiplicity")
        + curves(
            kept,
            "How many vectors reach each share of the base's effect.",
            legend=[(label, label, style) for _, label, style in SURVIVING],
        )
    )
    lead = "Random families here have the same size and the same mean |cosine|: structure beyond it shows as a small p."
    return Section("How many things is it?", body, lead, "multiplicity", "Multiplicity")


def clusters_section(rows: Rows) -> Section | None:
    clusters = named(pick(rows, kind="cluster"))
    if not clusters:
        return None
    columns = {
        "match": "family",
        "who": "stands for the cluster",
        "members": "members",
        "norm": "norm",
        "added": "effect when added",
        "best": "best member",
        "ablated": "requests that keep the behaviour without it",
    }
    lead = (
        "The vectors whose outputs are most alike, told by one vector: added to the prompt, and ablated from requests "
        "that get the base's behaviour without steering. Controls: a random direction and the base."
    )
    return Section(
        "Clusters of outputs and what stands for them",
        table(clusters, columns, name="clusters"),
        lead,
        "clusters",
        "Clusters",
    )
