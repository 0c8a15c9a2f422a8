"""Every run below a folder as one entry: command, headline, verdicts, cost, or why it cannot be read."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mi_ortho.pages.text import command_line
from mi_ortho.runs.directory import open_run
from mi_ortho.runs.files import read_json
from mi_ortho.stats import tally

FINISHED, UNFINISHED, BROKEN = "finished", "unfinished", "broken"
_MARKS = ("config.json", "lock")  # a run has the lock from its first moment, its settings soon after

_STAMPED = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Entry:
    """One run directory as an index shows it.

    Attributes:
        path: relative to the folder.
        state: "finished", "unfinished" or "broken".
        command: which command or experiment made it; empty where that was not recorded.
        model: what it ran on.
        headline: the run's; for an unfinished run its number of rows, for a broken one the reason.
        verdicts: how many have each of OUTCOMES.
        started: UTC, to the second; empty where that was not recorded.
        seconds: wall time; None where it was not recorded and cannot be inferred.
        megabytes: on disk.
        line: the command line; empty where it was not recorded.
        report: the page to open, relative to the folder; None where there is none.
        explorer: likewise, of the family explorer.
    """

    path: str
    state: str
    command: str
    model: str
    headline: str
    verdicts: tuple[int, ...]
    started: str
    seconds: float | None
    megabytes: float
    line: str
    report: str | None
    explorer: str | None


def run_entries(folder: Path) -> list[Entry]:
    """All runs below a folder, newest first; runs inside runs (an explorer, an exported model) are not listed."""
    entries = [_entry(path, Path(folder)) for path in _directories(Path(folder))]
    return sorted(entries, key=lambda entry: (entry.started, entry.path), reverse=True)


def _directories(folder: Path) -> Iterator[Path]:
    for path, inside, files in os.walk(folder):
        if any(mark in files for mark in _MARKS) and Path(path) != folder:
            inside.clear()
            yield Path(path)
        inside[:] = sorted(name for name in inside if not name.startswith("."))


def _entry(path: Path, folder: Path) -> Entry:
    problems: list[str] = []
    summary, environment = (_mapping(path / name, problems) for name in ("summary.json", "environment.json"))
    try:
        rows = len(open_run(path).records())
    except ValueError as error:
        rows, problems = 0, [str(error), *problems]
    done = (path / "summary.json").is_file()
    state = BROKEN if problems else FINISHED if done else UNFINISHED
    so_far = f"{rows} rows so far; the command that started it continues it"
    argv = environment.get("argv")
    return Entry(
        path=path.relative_to(folder).as_posix(),
        state=state,
        command=command_of(path, environment),
        model=str(environment.get("model") or ""),
        headline={BROKEN: problems[0] if problems else "", UNFINISHED: so_far}.get(
            state, str(summary.get("headline") or "no headline")
        ),
        verdicts=_tally(summary.get("verdicts")),
        started=str(environment.get("started") or "")[:19],
        seconds=_seconds(path, summary, environment),
        megabytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6,
        line=command_line([str(part) for part in argv]) if isinstance(argv, list) else "",
        report=_page(path / "report.html", folder),
        explorer=_page(path / "explore" / "report.html", folder),
    )


def command_of(path: Path, environment: Mapping[str, Any]) -> str:
    """The command or experiment that made a run; if not recorded, the name of the folder that `start` made it in."""
    recorded = environment.get("experiment") or environment.get("command")
    return str(recorded or (path.resolve().parent.name if _STAMPED.match(path.resolve().name) else ""))


def _mapping(path: Path, problems: list[str]) -> Mapping[str, Any]:
    """One JSON object of a run; empty if the file is missing or cannot be read, which then adds to `problems`."""
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except ValueError as error:
        problems.append(str(error))
        return {}
    if isinstance(content, Mapping):
        return content
    problems.append(f"got {path}, which holds no settings; expected a JSON object; delete the run or make it again")
    return {}


def _tally(verdicts: object) -> tuple[int, ...]:
    mappings = [one for one in verdicts if isinstance(one, Mapping)] if isinstance(verdicts, list) else []
    return tuple(tally(mappings).values())


def _seconds(path: Path, summary: Mapping[str, Any], environment: Mapping[str, Any]) -> float | None:
    """Wall time of a run: as recorded, else from its last start to the time of its summary file."""
    recorded = summary.get("seconds")
    if isinstance(recorded, int | float) and not isinstance(recorded, bool):
        return float(recorded)
    resumed = environment.get("resumed")
    last = resumed[-1] if isinstance(resumed, list) and resumed and isinstance(resumed[-1], Mapping) else environment
    try:
        begun = datetime.fromisoformat(str(last.get("started")))
        ended = datetime.fromtimestamp((path / "summary.json").stat().st_mtime, UTC)
        return max(0.0, (ended - begun).total_seconds())
    except (ValueError, TypeError, OSError):
        return None


def _page(path: Path, folder: Path) -> str | None:
    return path.relative_to(folder).as_posix() if path.is_file() else None
