"""One page over all runs of a folder, with a link to each report."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from mi_ortho.pages.data_table import table
from mi_ortho.pages.page import Section, page, render, write_page
from mi_ortho.pages.text import visible
from mi_ortho.runs.directory import RunError
from mi_ortho.stats import OUTCOMES
from mi_ortho.studies.overview.folder import BROKEN, FINISHED, UNFINISHED, Entry, run_entries

_COLUMNS = {
    "command": "command",
    "headline": "what came out",
    "explorer": "explorer",
    "supported": "✓",
    "not_supported": "✗",
    "undecided": "?",
    "invalid": "⊘",
    "started": "started (UTC)",
    "seconds": "cost, s",
    "megabytes": "size, MB",
    "state": "state",
    "model": "model",
    "line": "command line",
    "run": "run",
}


_KEYS = [name.replace(" ", "_") for name in OUTCOMES]


def run_index(folder: Path) -> Path:
    """Write `index.html` into a folder of runs: every run in one sortable table, with links, and return its path.

    Unfinished runs are listed with the rows they have, broken ones with what is wrong.

    Raises:
        RunError: the folder does not exist or holds no run.
    """
    entries = run_entries(Path(folder)) if Path(folder).is_dir() else []
    if not entries:
        raise RunError(
            f"got {folder}, in which there is no run; expected a folder that run directories were made in; "
            "name it, or make a run first"
        )
    return write_page(Path(folder) / "index.html", index_page(entries, str(folder)))


def index_page(entries: Sequence[Entry], name: str) -> str:
    """The page as text; links are relative to the folder."""
    counts = {state: sum(entry.state == state for entry in entries) for state in (FINISHED, UNFINISHED, BROKEN)}
    outcomes = [sum(values) for values in zip(*(entry.verdicts for entry in entries))]
    tiles = [(str(counts[FINISHED]), "finished runs")]
    tiles += [(str(counts[state]), f"{state} runs") for state in (UNFINISHED, BROKEN) if counts[state]]
    named = ("predictions supported", *OUTCOMES[1:])
    tiles += [(str(count), label) for count, label in zip(outcomes, named) if count or label != "invalid"]
    body = render("index.html.jinja", tiles=tiles, table=_table(entries), bad=_bad(entries))
    title = f"All runs · {visible(name)}"
    plural = "s" * (counts[FINISHED] != 1)
    headline = f"{counts[FINISHED]} finished run{plural}; {outcomes[0]} of {sum(outcomes)} predictions supported."
    return page(
        title,
        [Section("Runs", body, "Newest first. Click a heading to sort.", "runs")],
        headline=headline,
        kicker=title,
    )


def _table(entries: Sequence[Entry]) -> str:
    rows = [
        {
            "command": entry.command.replace("_", " ") or "–",
            "headline": entry.headline,
            **dict(zip(_KEYS, entry.verdicts if any(entry.verdicts) else [None] * len(_KEYS))),
            "started": entry.started.replace("T", " ") or None,
            "seconds": None if entry.seconds is None else round(entry.seconds),
            "megabytes": round(entry.megabytes, 1),
            "state": entry.state,
            "model": entry.model or None,
            "line": entry.line or None,
            "explorer": "explorer" if entry.explorer else None,
            "run": entry.path,
        }
        for entry in entries
    ]
    links = {
        "command": [address(entry.report) for entry in entries],
        "explorer": [address(entry.explorer) for entry in entries],
    }
    empty = {"explorer": not any(links["explorer"]), "invalid": not any(row["invalid"] for row in rows)}
    columns = {key: title for key, title in _COLUMNS.items() if not empty.get(key)}
    return table(
        rows,
        columns,
        name="runs",
        chips=["state"],
        unfiltered=["started", "line", "run"],
        links={key: links[key] for key in links if key in columns},
    )


def _bad(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    return [(visible(entry.path), visible(entry.headline)) for entry in entries if entry.state == BROKEN]


def address(path: str | None) -> str | None:
    """A relative link to a file, safe whatever its folders are called.

    >>> address("javascript:x/a b.html")
    './javascript%3Ax/a%20b.html'
    """
    return None if path is None else "./" + quote(path.encode("utf-8", "surrogateescape"))
