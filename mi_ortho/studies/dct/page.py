"""The report of a `dct` run: norm, spectra, methods beside random directions, factors, tokens, copies."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from markupsafe import Markup

from mi_ortho.nulls.chance import CONTROLS
from mi_ortho.pages.data_table import table
from mi_ortho.pages.estimates import Estimate, estimates
from mi_ortho.pages.page import Section
from mi_ortho.pages.plots import Panel, Series, curve
from mi_ortho.pages.sections import (
    Card,
    completions,
    curves,
    glossary,
    left_out_section,
    note,
    table_section,
    write_report,
)
from mi_ortho.runs.directory import open_run
from mi_ortho.runs.rows import Record, pick
from mi_ortho.stats import mean
from mi_ortho.studies.dct.page_copies import agreement_section, copies_section, together_section
from mi_ortho.studies.dct.verdicts import RANDOM, by_factor, methods_of

Rows = Sequence[Record]
SHOWN = 2  # factors of each method among the cards


def dct_report(run_dir: Path) -> Path:
    """Write report.html of a `dct` run, finished or not; parts that are not recorded yet are left out."""
    rows = open_run(run_dir).records()
    parts: tuple[Callable[[Rows], Section | None], ...] = (
        _methods,
        _side_by_side,
        _factors,
        _scale,
        _spectra,
        _lens,
        copies_section,
        together_section,
        agreement_section,
        _cost,
        left_out_section,
    )
    sections = [section for part in parts if (section := part(rows)) is not None]
    return write_report(Path(run_dir), "Deep causal transcoding", [*sections, glossary(TERMS)])


def _methods(rows: Rows) -> Section | None:
    names = [*methods_of(rows), RANDOM]
    if not pick(rows, kind="factor"):
        return None
    bars = Markup("")
    for column, title in (
        ("changed", "Completions turned into another known behaviour, share"),
        ("effect", "How far a factor moves the target, |z(Rv) − z(0)|"),
        ("kl", "KL(unsteered ‖ steered) along the unsteered completions, nats"),
    ):
        marks = []
        for name in names:
            values = by_factor(rows, name, column)
            if values:
                control = name == RANDOM or name.startswith("published")
                marks.append(_estimate(_label(name), values, "control" if control else "value"))
        bars += estimates(title, marks)
    lead = (
        "Means over factors, both signs, with 95 % intervals over factors (each the mean over seeds). Rings: random "
        "orthonormal directions of the same norm, and published variants where they were asked for."
    )
    columns = {
        "method": "Method",
        "seed": "Seed",
        "effect": "Mean effect",
        "missed": "Share missed",
        "off_diagonal": "Largest |cos| of inputs",
        "gain": "Objective, first → last",
        "seconds": "Seconds",
    }
    fits = [{**row, "gain": _gain(row["trace"])} for row in pick(rows, kind="fit")]
    below = note(
        "Share missed: of |z(θ) − z(0)|² on random θ of the norm, what the fitted sum of factors leaves "
        "unexplained; 1 is no better than no factors. Exponential and quadratic factors fit derivatives at 0, "
        "so theirs may exceed 1 far from 0."
    )
    body = Markup('<div class="two">{}</div>').format(bars) + table(fits, columns, name="fits") + below
    return Section("Methods beside random directions", body, lead, "methods", "Methods")


def _label(name: str) -> str:
    return CONTROLS[RANDOM].label if name == RANDOM else name


def _gain(trace: Sequence[float]) -> str:
    return f"{trace[0]:.4g} → {trace[-1]:.4g}" if trace else "–"


def _side_by_side(rows: Rows) -> Section | None:
    plain = pick(rows, kind="unsteered")
    factors = pick(rows, kind="factor")
    if not plain or not factors:
        return None
    cards = [Card("Unsteered", plain[0]["text"], plain[0]["mode"])]
    for name in (*methods_of(rows), RANDOM):
        best = sorted(pick(factors, method=name, seed=factors[0]["seed"]), key=lambda row: row["rank"])
        for row in best[: SHOWN if name != RANDOM else 1]:
            score = "" if row["score"] is None else f", score {row['score']:.3g}"
            cards.append(
                Card(
                    f"{_label(name)}, factor {row['index']}{'+' if row['sign'] > 0 else '−'}",
                    row["text"],
                    row["mode"],
                    f"rank {row['rank'] + 1}{score}",
                )
            )
    lead = (
        "One prompt under the factors that rank highest, the first seed. Ranked by score, the logits of the "
        "behaviour's first tokens minus those of the unsteered ones, where a behaviour was named, else by α². The best "
        "of many are shown: the shares above count all."
    )
    return Section(
        "Unsteered and steered", completions(cards, prompt=plain[0]["prompt_text"]), lead, "steered", "Steered"
    )


def _factors(rows: Rows) -> Section | None:
    factors = [
        {**row, "rank": row["rank"] + 1, "sign": "+" if row["sign"] > 0 else "−"} for row in pick(rows, kind="factor")
    ]
    if not factors:
        return None
    columns = {
        "method": "Method",
        "seed": "Seed",
        "index": "Factor",
        "sign": "Sign",
        "rank": "Rank",
        "alpha": "α",
        "weight_share": "Share of α²",
        "effect": "Effect",
        "score": "Score",
        "kl": "KL",
        "changed": "Changed",
        "wanted": "Ranked behaviour",
        "mode": "Behaviour",
        "text": "Completion",
    }
    columns = {key: title for key, title in columns.items() if any(row.get(key) is not None for row in factors)}
    lead = (
        "Every factor with both signs. Changed: share of prompts, the first searched on and all held-out ones, whose "
        "completion shows another known behaviour than unsteered. Rank 1 is best. Click a heading to sort."
    )
    return table_section("Factors", factors, columns, lead=lead, anchor="factors", name="factors", chips=("mode",))


def _scale(rows: Rows) -> Section | None:
    points, radius = pick(rows, kind="nonlinearity"), pick(rows, kind="radius")
    if not points or not radius:
        return None
    norms = [row["norm"] for row in points]
    series = [
        Series("root mean square", norms, [row["mean"] for row in points], "family", "mean"),
        Series("smallest of 16", norms, [row["low"] for row in points], "null", "low"),
        Series("largest of 16", norms, [row["high"] for row in points], "second", "high"),
    ]
    chosen = "given" if radius[0]["given"] else "calibrated"
    lines = {"0.5, as published": 0.5}
    panel = Panel(
        "Where the response stops being linear",
        "|z(Rv) − z(0) − RJv| / |RJv|",
        "norm R",
        lines=lines,
        log=True,
        logx=True,
    )
    caption = f"Random unit directions v, J the Jacobian at 0. The norm of all vectors here, {radius[0]['radius']:.4g},"
    caption += f" was {chosen}."
    return Section("Norm", curves([curve(panel, series)], caption), "", "norm")


SPECTRA = {
    "map": "Map",
    "target": "Read after block",
    "top": "Largest σ",
    "null_top": "Gaussian's",
    "dimension": "Effective dimension",
    "null_dimension": "Gaussian's",
    "frobenius": "Frobenius norm",
}


OVERLAPS = {
    "first": "Map",
    "second": "and",
    "share": "Overlap",
    "chance": "By chance",
    "p_value": "p",
    "smallest_angle": "Smallest angle, rad",
}


def _spectra(rows: Rows) -> Section | None:
    values = pick(rows, kind="singular")
    if not values:
        return None
    panels = []
    for letter, name in zip("abc", dict.fromkeys(row["map"] for row in values)):
        spectrum = pick(values, map=name)
        places = [row["index"] + 1 for row in spectrum]
        series = [
            Series("measured", places, [row["value"] for row in spectrum], "family", "measured"),
            Series("Gaussian matrix", places, [row["null"] for row in spectrum], "null", "null"),
        ]
        panels.append(
            curve(Panel(f"Singular values, {name}", "σ", "index", log=True, logx=True, letter=letter), series)
        )
    body = curves(
        panels,
        "Singular values of the Jacobian at 0, and of a Gaussian matrix of the same size and Frobenius norm.",
        legend=[("measured", "measured", "family"), ("null", "Gaussian matrix", "null")],
    )
    body += table(pick(rows, kind="spectrum"), SPECTRA, name="spectra")
    body += table(pick(rows, kind="overlap"), OVERLAPS, name="overlaps")
    lead = (
        "Does the slice single out directions? Its first block alone and all blocks to the end say how local that is: "
        "overlap is the mean squared cosine of the principal angles between the leading right singular spaces."
    )
    return Section("Spectrum of the Jacobian", body, lead, "spectrum", "Spectrum")


def _lens(rows: Rows) -> Section | None:
    directions = pick(rows, kind="lens")
    if not directions:
        return None
    peaks = []
    for name in (*methods_of(rows), RANDOM):
        values = [row["peak"] for row in pick(directions, method=name)]
        if values:
            peaks.append(_estimate(_label(name), values, "control" if name == RANDOM else "value"))
    first = directions[0]["seed"]
    table_rows = [
        {**row, "raised": " · ".join(map(repr, row["raised"])), "lowered": " · ".join(map(repr, row["lowered"]))}
        for row in directions
        if row["seed"] == first
    ]
    columns = {"method": "Method", "index": "Factor", "peak": "Peak", "raised": "Raises", "lowered": "Lowers"}
    body = estimates("Largest logit in standard deviations over the vocabulary", peaks)
    lead = (
        "Output directions read by the unembedding. The sign of u follows v. Far below the last block this need not "
        "mean anything; compare with outputs of random directions."
    )
    return Section("Tokens of the outputs", body + table(table_rows, columns, name="tokens"), lead, "lens", "Tokens")


def _cost(rows: Rows) -> Section | None:
    stages = pick(rows, kind="cost")
    if not stages:
        return None
    columns = {"stage": "Stage", "seconds": "Seconds", "megabytes": "Peak memory so far, MB"}
    total = sum(row["seconds"] for row in stages)
    lead = f"{total:.0f} s in all, loading left out; mean {fmean(row['seconds'] for row in stages):.1f} s a stage."
    return table_section("What it cost", stages, columns, lead=lead, anchor="cost", short="Cost", name="cost")


TERMS = (
    ("z(θ)", "the target activations, averaged over the positions read and over prompts, with θ added at the source"),
    (
        "factor",
        "a unit input direction v, a unit output direction u and a weight α; z(θ) − z(0) is modelled as the sum "
        "of α σ(⟨v, θ⟩ / R) u",
    ),
    ("linear", "σ(x) = x: singular vectors of the Jacobian at 0; projected: of random combinations of its rows"),
    ("quadratic", "σ(x) = x²: a decomposition of the true second derivative at 0"),
    ("exponential", "σ(x) = eˣ − 1: all derivatives at once, by orthogonalised gradient iteration at norm R"),
    ("published …", "what the published code computes where that differs from its text"),
    (CONTROLS[RANDOM].label, "orthonormal, drawn anew for each seed, same norm: the control of everything here"),
    ("score", "logits of the behaviour's first tokens minus those of the unsteered ones, change against unsteered"),
    ("effective rank", "exp of the entropy of the normalised singular values of the unit vectors"),
)


def _estimate(label: str, values: Sequence[float], style: str) -> Estimate:
    """A mean with its interval."""
    estimate = mean(values)
    return Estimate(label, estimate.value, estimate.interval, style)
