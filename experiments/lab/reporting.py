"""The report of an experiment: what is claimed, what would refute it, its figures, and every row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments.lab.claims import CHANGED, Experiment
from mi_ortho import Run
from mi_ortho.pages import Section, table_section, write_report


def write_experiment_report(experiment: Experiment, run: Run) -> Path:
    """Write report.html of a run, finished or not."""
    rows = [row for row in run.records() if row.get("kind") != "cost"]
    sections = [_claim(experiment)]
    drawings = Markup("").join(one.html() for one in (experiment.figures(rows) if rows else []))
    sections += [Section("Figures", drawings, "", "figures")] if drawings else []
    sections += _tables(rows)
    return write_report(run.path, f"Experiment · {experiment.name.replace('_', ' ')}", sections)


def _claim(experiment: Experiment) -> Section:
    entry = Markup("<div><dt>{}</dt><dd>{}</dd></div>")
    parts = [("Claim", f"{experiment.claim}."), *experiment.parts.items()]
    body = Markup('<dl class="glossary">{}</dl>').format(Markup("").join(entry.format(*part) for part in parts))
    exception = ", but for what changed after a first one" if CHANGED in experiment.parts else ""
    return Section("What is claimed", body, f"Written before the run{exception}.", "claim", "Claim")


def _tables(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """One table for each kind of row."""
    kinds = dict.fromkeys(str(row.get("kind", "measured")) for row in rows)
    sections = []
    for kind in kinds:
        of_kind = [row for row in rows if str(row.get("kind", "measured")) == kind]
        keys = dict.fromkeys(key for row in of_kind for key in row if key != "kind")
        columns = {key: key.replace("_", " ") for key in keys}
        sections.append(table_section(f"Rows: {kind}", of_kind, columns, anchor=f"rows-{kind}", short=kind, name=kind))
    return sections
