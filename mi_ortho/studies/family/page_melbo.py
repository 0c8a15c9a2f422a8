"""The report of a `melbo` run: every vector, what it makes the model write, beside random vectors of its norm."""

from collections import Counter
from pathlib import Path

import torch
from markupsafe import Markup

from mi_ortho.pages.matrices import heat_map
from mi_ortho.pages.page import Section
from mi_ortho.pages.sections import Card, completions, note, table_section, write_report
from mi_ortho.pages.text import number
from mi_ortho.runs.directory import open_run
from mi_ortho.runs.rows import Record
from mi_ortho.studies.family.page_radius import radius_section

_COLUMNS = {
    "what": "what",
    "index": "index",
    "mode": "behaviour",
    "norm": "norm",
    "objective": "objective",
    "sinks": "new sinks",
    "log_odds": "log-odds",
    "text": "completion",
}
_KINDS = {"unsteered": "without steering", "melbo": "MELBO", "melbo_control": "random of the same norm"}


def melbo_report(run_dir: Path) -> Path:
    """Write `report.html` into a `melbo` run directory, finished or not, and return its path."""
    run = open_run(run_dir)
    records = run.records()
    rows: list[Record] = [row for row in records if row.get("kind") in _KINDS]
    search = radius_section(records, run.config)
    sections = [_side_by_side(rows), *([search] if search else []), _behaviours(rows), _table(rows)]
    sections.append(_cosines(Path(run_dir)))
    return write_report(Path(run_dir), "MELBO vectors", sections)


def _side_by_side(rows: list[Record]) -> Section:
    """The unsteered completion and the first of each other behaviour."""
    plain = [row for row in rows if row["kind"] == "unsteered"][:1]
    first = {str(row.get("mode")): row for row in reversed(rows) if row["kind"] == "melbo"}
    chosen = [row for mode, row in sorted(first.items()) if not plain or mode != plain[0].get("mode")]
    cards = [Card("Without steering", str(row.get("text") or ""), row.get("mode")) for row in plain]
    cards += [
        Card(f"Vector {row.get('index')}", str(row.get("text") or ""), row.get("mode"), f"‖θ‖ = {number(row['norm'])}")
        for row in chosen
    ]
    body = completions(cards, prompt=str(plain[0].get("prompt_text") or "") if plain else "")
    lead = "One prompt; the first vector of each behaviour that the model does not show by itself."
    return Section("Unsteered and steered", body, lead, "steered", "Steered")


def _behaviours(rows: list[Record]) -> Section:
    """How often each behaviour appears, under the vectors and under random ones."""
    counts = {kind: Counter(str(row.get("mode")) for row in rows if row["kind"] == kind) for kind in _KINDS}
    modes = dict.fromkeys(mode for counter in counts.values() for mode, _ in counter.most_common())
    table = [{"mode": mode, **{kind: counter[mode] for kind, counter in counts.items()}} for mode in modes]
    lead = "Random vectors of the same norm are the control: what they change too is no finding."
    columns = {"mode": "behaviour", **_KINDS}
    return table_section("Behaviours", table, columns, lead=lead, anchor="modes", name="behaviours", chips=["mode"])


def _table(rows: list[Record]) -> Section:
    named = [{**row, "what": _KINDS[str(row["kind"])]} for row in rows]
    return table_section("Every vector", named, _COLUMNS, anchor="vectors", short="Table", name="melbo", chips=["mode"])


def _cosines(path: Path) -> Section:
    vectors = open_run(path).load_rows("vectors").get("melbo")
    if vectors is None or len(vectors) < 2:
        return Section("Orthogonality", note("Vectors are stored when the run ends."), "", "cosines")
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    matrix = (unit @ unit.T + (unit @ unit.T).T) / 2  # exactly symmetric, so that half of it is sent
    off = (matrix - matrix.diag().diag()).abs().max().item()
    figure = heat_map(
        matrix,
        title="Cosine of every vector with every other",
        scales=(("linear", -1.0, 1.0), ("log", -9.0, 0.0)),
        captions=("Signed cosine.", "log₁₀ |cos|."),
    )
    caption = Markup('{}<p class="caption">The largest |cosine| between two vectors is {}.</p>')
    body = caption.format(figure, number(off))
    return Section("Orthogonality", body, "", "cosines")
