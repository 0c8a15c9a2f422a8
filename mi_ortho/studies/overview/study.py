"""The commands on finished runs: `report`, `compare`, `show`, `export`."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mi_ortho.pages.page import written_to
from mi_ortho.runs.directory import RunError, open_run, summary_of
from mi_ortho.runs.files import read_mapping
from mi_ortho.runs.rows import pick
from mi_ortho.stats import outcome
from mi_ortho.steering.export import export_gguf, export_lm_eval, position_note
from mi_ortho.steering.files import load_vectors, save_vectors
from mi_ortho.studies.family.finished import MATCHES
from mi_ortho.studies.overview.commands import report_of
from mi_ortho.studies.shared.progress import printable


def report(path: Path, to: Path | None = None) -> Path:
    """Render the report of a run directory again, into it or to the file `to`, and return the file.

    environment.json names the command that made the run; the table of commands has the function that draws it.
    """
    open_run(path)
    name = str(read_mapping(path / "environment.json").get("command", "family"))
    draw = report_of(name)
    if draw is None or not (path / "records.jsonl").is_file():
        raise RunError(
            f"got {path}, a run of `{name}` without a report or without records.jsonl; expected a run of a "
            "command that draws one; use `mi-ortho show`"
        )
    if to is None and not os.access(path, os.W_OK):
        raise RunError(
            f"got {path}, where nothing can be written; expected a folder for the page; name a file with --to"
        )
    with written_to(to):
        return draw(path)


def index(folder: Path) -> Path:
    """Write index.html over all runs below a folder and return its path."""
    from mi_ortho.studies.overview.index import run_index

    return run_index(folder)


def compare(first: Path, second: Path, to: Path | None) -> Path:
    """Write a page that sets two runs of one command side by side and return its path."""
    from mi_ortho.studies.overview.two_runs import run_comparison

    return run_comparison(first, second, to)


def export(path: Path, group: str, index: int, to: Path, *, strength: float, blocks: str) -> str | None:
    """Write one vector of a run or file for another program, by the ending of `to`; return a warning or None."""
    source = path / "vectors.safetensors" if path.is_dir() else path
    vectors = load_vectors(source, group)
    if to.suffix == ".gguf":
        export_gguf(vectors, index, to, strength=strength)
    elif to.suffix == ".pt":
        export_lm_eval(vectors, index, to, strength=strength, blocks=blocks)
    elif to.suffix == ".safetensors":
        one = vectors.subset([index])
        save_vectors(replace(one, vectors=strength * one.vectors), to)
        where = vectors.meta.get("where", "all")
        return None if where == "all" else f'the vector belongs to the positions "{where}" only, as the file says'
    else:
        raise ValueError(
            f"got {to}; expected a name ending in .safetensors, .gguf (llama.cpp) or .pt (lm-eval steered); rename it"
        )
    return position_note(vectors)


def show(path: Path, limit: int) -> list[str]:
    """A run in plain lines: headline, verdicts, and the first vectors of each family."""
    run = open_run(path)
    rows = run.records()
    lines = [f"run {path}: {'finished' if run.finished else 'unfinished (the command that started it continues it)'}"]
    if run.finished:
        summary = summary_of(run)
        lines.append(summary.get("headline", "no headline"))
        for verdict in summary.get("verdicts") or []:
            lines.append(
                f"  {outcome(verdict):13} {verdict['claim']}: {_number(verdict.get('value'))} (threshold "
                f"{_number(verdict.get('threshold'))}, control {_number(verdict.get('control'))})"
            )
    for match in MATCHES:
        family_rows = pick(rows, kind="vector", match=match)
        if family_rows:
            lines.append(f"{match} match, {min(limit, len(family_rows))} of {len(family_rows)} vectors:")
            lines.append("  index    norm    loss  KL(base||v)  mode      completion")
            lines += [_line(row) for row in family_rows[:limit]]
    return [printable(line) for line in lines]


def _line(row: Mapping[str, object]) -> str:
    cells = [_number(row.get(key)) for key in ("norm", "loss", "kl_base_vector")]
    text = " ".join(str(row.get("text")).split())[:60]
    return f"  {row['index']:>5} {cells[0]:>7} {cells[1]:>7} {cells[2]:>12}  {row.get('mode', '-')!s:9} {text}"


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else "-"
