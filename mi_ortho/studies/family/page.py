"""The report of a `family` run: one page with what was done, the results, and the controls beside them."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from mi_ortho.pages.matrices import heat_map
from mi_ortho.pages.page import Section, page, render, write_page
from mi_ortho.pages.sections import left_out_section, marked, note, run_section, shown, verdict_section
from mi_ortho.pages.text import number, visible
from mi_ortho.runs.rows import Record
from mi_ortho.studies.family import page_records as read
from mi_ortho.studies.family import page_rows as tables
from mi_ortho.studies.family.finished import MATCH_TITLES
from mi_ortho.studies.family.page_figures import (
    Cosines,
    at_cap,
    cap_line,
    cosines,
    largest_cosines,
    legend,
    panels,
    tiles,
)
from mi_ortho.studies.family.page_inside import visuals_section
from mi_ortho.studies.family.page_radius import radius_section
from mi_ortho.studies.family.page_strips import strips, transfer_strips
from mi_ortho.studies.family.verdicts import END


def family_report(run_dir: Path) -> Path:
    """Write `report.html` into a `family` run directory, finished or not, and return its path.

    Parts the run does not have are left out with the reason stated.
    """
    path = Path(run_dir)
    return write_page(path / "report.html", family_page(read.load_family(path)))


def family_page(run: read.FamilyRun) -> Markup:
    """The report as text."""
    matrix = cosines(run)
    sections: list[Section | None] = [
        verdict_section(run.summary.get("verdicts") or [], tiles=tiles(run, matrix), finished=bool(run.summary)),
        run_section(run.config, run.environment, run.rows),
        _side_by_side(run),
        radius_section(run.rows, run.config),
        *(_family(run, match) for match in run.matches),
        *_missing(run),
        _averages(run),
        _cosines(matrix),
        _table(run),
        visuals_section(run),
        left_out_section(run.where(kind="left_out")),
        _reading(run),
    ]
    model = visible(run.config.get("model") or "the embedded model")
    return page(
        f"Orthogonal family of steering vectors · {model}",
        [section for section in sections if section is not None],
        headline=visible(run.summary.get("headline") or _progress(run)),
        kicker=f"Orthogonal family of steering vectors · {model}",
        data=tables.table_data(run),
    )


def _side_by_side(run: read.FamilyRun) -> Section:
    kept = [(match, row) for match in run.matches for row in run.family(match) if run.keeps(row) and row.get("text")]
    chosen = [kept[len(kept) // 2]] if kept else []
    entries = [("Unsteered", run.unsteered, "")] * bool(run.unsteered) + [
        ("Base vector θ₀", run.base, _norm(run.base))
    ] * bool(run.base)
    entries += [(f"Orthogonal vector, index {row['index']} ({match})", row, _norm(row)) for match, row in chosen]
    base = shown(run.base.get("text") or "")
    cards = [(*card, marked(shown(card[1].get("text") or ""), base if k > 1 else "")) for k, card in enumerate(entries)]
    body = render(
        "side_by_side.html.jinja",
        prompts=run.where(kind="unsteered"),
        cards=cards,
        colours=run.colours,
        candidates=run.where(kind="melbo"),
        random=run.where(kind="melbo_control"),
        base=run.base,
    )
    lead = (
        "One prompt, the same weights; the only difference is the vector added to the residual stream. Underlined: "
        "words of the orthogonal vector's text that the base's does not have."
    )
    return Section("Unsteered and steered", body, lead, "steered", "Steered")


def _family(run: read.FamilyRun, match: str) -> Section:
    end, reason = run.end(match)
    last = max(row["index"] for row in run.family(match))
    problem = next((row["problem"] for row in run.where(kind="linear_null") if row.get("problem")), "")
    values: dict[str, Any] = {
        "match": match,
        "strips": strips(run, match),
        "colours": run.colours,
        "end": end,
        "marked": end is not None and end <= last,
        "reason": visible(reason or END),
        "panels": panels(run, match),
        "legend": legend(run, match),
        "size": len(run.family(match)),
        "cap": next(iter(cap_line(run).values()), None),
        "at_cap": at_cap(run, match),
        "null": match == "activation" and bool(run.null),
        "problem": visible(problem) if match == "activation" else "",
        "collapsed": sum(row.get("kept") is False for row in run.where(kind="search", match=match)),
        "transfer": transfer_strips(run, match),
        "last": last,
        "base": run.base,
        "control_step": run.control_step,
        "finished": bool(run.summary),
    }
    return Section(
        MATCH_TITLES.get(match, match),
        render("family.html.jinja", **values),
        "",
        f"family-{match}",
        f"Family ({match})",
    )


def _missing(run: read.FamilyRun) -> list[Section]:
    """For each match without vectors in this run, a section that says so."""
    absent = [match for match in MATCH_TITLES if match not in run.matches]
    reason = "This run recorded no vectors with this match, so its curves, strips and averages are left out."
    return [Section(MATCH_TITLES[match], note(reason)) for match in absent]


def _averages(run: read.FamilyRun) -> Section:
    matches = [(match, *tables.averages(run, match)) for match in run.matches if run.where(kind="mean", match=match)]
    lead = (
        "If the vectors shared one linear direction, their plain mean would work. If their effect is quadratic, the "
        "mean needs √n; if each vector triggers its own feature, it needs n (the sum)."
    )
    body = (
        render("averages.html.jinja", matches=matches, colours=run.colours)
        if matches
        else note("This run recorded no averages.")
    )
    return Section("Averages of the first n vectors", body, lead, "averages", "Averages")


def _cosines(table: Cosines | None) -> Section:
    if table is None:
        return Section("Orthogonality", note("No vectors are stored in this run directory."), "", "cosines")
    matrix, starts = table
    block = -(-len(matrix) // 400)
    pixel = f" Each pixel is the largest of {block} × {block} entries." if block > 1 else ""
    figure = heat_map(
        matrix,
        title="Cosine of every vector with every other",
        scales=(("linear", -1.0, 1.0), ("log", -9.0, 0.0)),
        captions=(
            f"Signed cosine, diverging around zero.{pixel}",
            f"log₁₀ |cos|: what remains after orthogonalisation in floating point.{pixel}",
        ),
        ticks=starts,
    )
    body = render("cosines.html.jinja", drawn=figure, largest=largest_cosines(matrix, starts), size=len(matrix))
    lead = "Cosine of every vector with every other, the base first, then each family."
    return Section("Orthogonality", body, lead, "cosines")


def _table(run: read.FamilyRun) -> Section:
    lead = (
        "Every vector, control, average and held-out completion. Click a heading to sort; divergences are in nats. "
        "Full precision and full texts are in records.jsonl."
    )
    return Section("All measurements", render("table.html.jinja", matches=run.matches), lead, "table", "Table")


def _reading(run: read.FamilyRun) -> Section:
    return Section(
        "How to read this",
        render("reading.html.jinja", hash=run.environment.get("model_hash"), started=run.environment.get("started")),
        "",
        "reading",
        "Glossary",
    )


def _progress(run: read.FamilyRun) -> str:
    return f"Unfinished run: {len(run.where(kind='vector'))} vectors so far"


def _norm(row: Record) -> str:
    return f"‖θ‖ = {number(row['norm'])}" if isinstance(row.get("norm"), int | float) else ""
