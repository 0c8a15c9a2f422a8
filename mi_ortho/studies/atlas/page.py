"""The report of an atlas: which pairs of layers show what, at which norms, beside random vectors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mi_ortho.pages.grid import Cell, grid
from mi_ortho.pages.page import Section
from mi_ortho.pages.plots import Panel, Series, curve
from mi_ortho.pages.sections import Card, completions, curves, glossary, note, table_section, write_report
from mi_ortho.pages.text import number
from mi_ortho.runs.directory import open_run
from mi_ortho.runs.rows import Record, pick
from mi_ortho.studies.atlas.verdicts import cells, trials

Cells = Sequence[Mapping[str, Any]]
SPECTRA = 6  # pairs of layers whose spectra are drawn
STYLES = ("family", "c6", "c1", "c3", "c4", "c5")
TERMS = [
    (
        "source, target",
        "Vectors are added after the first block; MELBO reads what they changed after the second.",
    ),
    ("score", "Different new behaviours under MELBO, less those under random vectors, at the best norm of the pair."),
    ("asked for one", "With --behaviour the score is the vectors that show it, less the random ones that do."),
    ("new", "Named by a rule, readable, and not what the model shows by itself."),
    ("other answers", "Readable answers unlike the unsteered one, less those of random vectors."),
    ("that make sinks", "Vectors that turn ordinary positions into attention sinks. They do not count in the score."),
    (
        "window",
        "From the smallest norm with a readable other answer to the first with mostly unreadable ones.",
    ),
    ("reach", "How far MELBO vectors move the target, over how far random vectors of the norm do. Ties go to it."),
    ("gain", "The largest singular value of the Jacobian at 0, in units of what the skip connection alone passes on."),
    ("gap, fall", "The largest singular value over the second, and over the last that was computed: 1 is a flat top."),
    ("linear", "Share of the squared displacement that lies along J v, the response of the linearised model."),
    ("readability", "Mean log-probability of an answer's tokens under the unsteered model, less what repeats."),
]
COLUMNS = {
    "source": "source",
    "target": "target",
    "score": "score",
    "behaviours": "new behaviours",
    "random": "under random vectors",
    "others": "other answers",
    "sinking": "that make sinks",
    "norm": "norm, of the stream",
    "radius": "norm",
    "window": "window",
    "text": "example",
}
RESPONSES = {
    "source": "source",
    "target": "target",
    "gain": "gain",
    "typical": "gain, random",
    "gap": "gap",
    "fall": "fall",
    "norm": "norm, of the stream",
    "reach": "reach",
    "linear": "linear",
    "linear_random": "linear, random",
    "readability": "readability",
}
ANSWERS = {
    "what": "what",
    "source": "source",
    "target": "target",
    "norm": "norm, of the stream",
    "mode": "behaviour",
    "readability": "readability",
    "changed": "other answer",
    "text": "completion",
}


def atlas_report(run_dir: Path) -> Path:
    """Write report.html of an atlas, finished or not."""
    run = open_run(run_dir)
    rows, behaviour = run.records(), str(run.config.get("behaviour", "auto"))
    ranked, tried = cells(rows, behaviour), trials(rows, behaviour)
    if not ranked:
        return write_report(
            run_dir, "Atlas", [Section("Layers", note("No pair of layers was tried yet."), "", "layers")]
        )
    sections = [_layers(ranked), _norms(tried, ranked), _shown(rows, ranked), _spectra(rows, ranked)]
    return write_report(
        run_dir, "Atlas", [*sections, _table(ranked), _responses(ranked), _answers(rows), glossary(TERMS)]
    )


def _layers(ranked: Cells) -> Section:
    """Scores and reach of every pair, the best one framed."""
    caption = "Score: different new behaviours under MELBO vectors less those under random ones, at the best norm."
    body = _grid(ranked, "score", caption)
    body += _grid(ranked, "reach", "Reach: displacement under MELBO over that under random vectors, at the same norm.")
    lead = "Rows: block after which vectors are added; columns: block that MELBO reads. The framed pair is the best."
    return Section("Which layers", body, lead, "layers", "Layers")


def _grid(ranked: Cells, column: str, caption: str) -> Any:
    sources, targets = (sorted({int(cell[name]) for cell in ranked}) for name in ("source", "target"))
    best, places = ranked[0], {(cell["source"], cell["target"]): cell for cell in ranked}

    def entry(source: int, target: int) -> Cell:
        cell = places.get((source, target))
        if cell is None:
            return Cell(None)
        shown = f"{', '.join(cell['behaviours']) or 'nothing new'} at {number(cell['norm'])} of the stream's norm"
        return Cell(float(cell[column]), note=shown, framed=cell is best)

    entries = [[entry(source, target) for target in targets] for source in sources]
    return grid(entries, list(map(str, sources)), list(map(str, targets)), caption=caption, corner="source")


def _norms(tried: Cells, ranked: Cells) -> Section:
    """What happens with the norm, for the best pair and over all pairs."""
    best = pick(tried, source=ranked[0]["source"], target=ranked[0]["target"])
    shares = (
        ("changed", "readable other answers", "family", "other"),
        ("changed_random", "the same, random vectors", "null", "random-other"),
        ("unreadable", "unreadable answers", "c1", "unreadable"),
        ("unreadable_random", "the same, random vectors", "c2", "random-unreadable"),
    )
    panels = []
    sets = {f"Blocks {best[0]['source']} to {best[0]['target']}": best, "All pairs": tried}
    for letter, (title, rows) in zip("ab", sets.items(), strict=True):
        norms = sorted({trial["norm"] for trial in rows})
        series = [
            Series(label, norms, [_mean(pick(rows, norm=norm), column) for norm in norms], style, key)
            for column, label, style, key in shares
        ]
        panel = Panel(title, "share of vectors", "norm over the stream's", logx=True, letter=letter, group="norms")
        panels.append(curve(panel, series))
    caption = "A pair is not tried further once most of its answers cannot be read: b has fewer pairs on the right."
    body = curves(panels, caption, legend=[(key, label, style) for _, label, style, key in shares])
    return Section("Which norms", body, "", "norms", "Norms")


def _mean(rows: Cells, column: str) -> float:
    return sum(float(row[column]) for row in rows) / len(rows)


def _shown(rows: Sequence[Record], ranked: Cells) -> Section:
    """The unsteered answer, and one of each behaviour of the best pair at its norm."""
    best, plain = ranked[0], pick(rows, kind="unsteered")[-1]
    place = {"source": best["source"], "norm": best["norm"]}
    mine = pick(rows, kind="answer", what="melbo", target=best["target"], **place)
    chance = pick(rows, kind="answer", what="random", **place)[:1]
    cards = [Card("Without steering", plain["text"], plain["mode"])]
    cards += [Card(f"MELBO {row['index']}", row["text"], row["mode"], f"‖θ‖ = {number(row['radius'])}") for row in mine]
    cards += [Card("Random vector", row["text"], row["mode"], f"‖θ‖ = {number(row['radius'])}") for row in chance]
    lead = f"Blocks {best['source']} to {best['target']}, all vectors of the best norm and one random one."
    return Section("The best pair", completions(cards, prompt=plain["prompt_text"]), lead, "best", "Best pair")


def _spectra(rows: Sequence[Record], ranked: Cells) -> Section:
    """Singular values of the first pairs, the best one in ink."""
    series = []
    legend = []
    for cell, style in zip(ranked[:SPECTRA], STYLES, strict=False):
        values = pick(rows, kind="spectrum", source=cell["source"], target=cell["target"])[-1]["values"]
        key, label = f"{cell['source']}-{cell['target']}", f"{cell['source']} to {cell['target']}"
        series.append(Series(label, range(1, len(values) + 1), values, style, key))
        legend.append((key, label, style))
    panel = Panel("Singular values", "times the skip", "index", log=True)
    caption = f"The {min(SPECTRA, len(ranked))} best pairs. A flat top leaves many directions that do nearly as much."
    body = curves([curve(panel, series)], caption, legend=legend)
    return Section("Spectra of the Jacobian", body, "", "spectra", "Spectra")


def _table(ranked: Cells) -> Section:
    entries = [{**cell, "window": window(cell)} for cell in ranked]
    for entry in entries:
        entry |= {name: ", ".join(entry[name]) or "none" for name in ("behaviours", "random")}
    lead = "Each pair at its best norm, the best pair first. Click a heading to sort."
    return table_section("Every pair", entries, COLUMNS, lead=lead, anchor="pairs", short="Pairs", name="pairs")


def _responses(ranked: Cells) -> Section:
    lead = "The Jacobian at 0, and what vectors of the best norm do. Full precision is in records.jsonl."
    names = {"lead": lead, "anchor": "responses", "short": "Responses", "name": "responses"}
    return table_section("How every pair responds", ranked, RESPONSES, **names)


def window(cell: Mapping[str, Any]) -> str:
    """The norms between which a pair can be used, as multiples of the stream's.

    >>> window({"low": 0.1, "high": None}), window({"low": None, "high": 0.4})
    ('0.1 to above the largest tried', 'none')
    """
    if cell["low"] is None:
        return "none"
    return f"{number(cell['low'])} to {'above the largest tried' if cell['high'] is None else number(cell['high'])}"


def _answers(rows: Sequence[Record]) -> Section:
    answers, names = pick(rows, kind="answer"), {"anchor": "answers", "short": "Answers", "name": "answers"}
    return table_section("Every answer", answers, ANSWERS, chips=["mode"], **names)
