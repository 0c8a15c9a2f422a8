"""A run of a command, from its settings to its report."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mi_ortho.runs.directory import Run, start
from mi_ortho.studies.shared.progress import Say


def perform(
    name: str,
    out: Path,
    settings: Mapping[str, object],
    facts: Mapping[str, object],
    *,
    fresh: bool,
    at: Path | None,
    say: Say,
    solve: Callable[[Run], None],
    report: str,
) -> Run:
    """Start or continue the run of these settings, solve it, and draw its report.

    Args:
        name: of the command.
        out: the folder that run directories are made in.
        settings: which run it is; one that is finished is not computed again.
        facts: what the run records about the model, see `Subject.facts`.
        fresh: compute again what is finished.
        at: the run directory itself, instead of one under `out`.
        say: where progress is told.
        solve: writes every row and, with the last one, the summary.
        report: the function that draws the report, as "module:function"; imported only to draw one.

    Raises:
        RunError: see `mi_ortho.runs.directory.start`.
    """
    run = start(out, name, settings, fresh=fresh, at=at, facts=facts)
    if run.finished:
        return reopen(run, report, say)
    with run:
        say(f"run {run.path}")
        solve(run)
    return with_report(run, report)


def reopen(run: Run, report: str, say: Say) -> Run:
    """A run that is finished already, with its report."""
    say(f"already finished: {run.path} (--fresh computes it again)")
    return with_report(run, report)


def with_report(run: Run, report: str) -> Run:
    """The run; its report is drawn if it is finished and has none."""
    if run.finished and not (run.path / "report.html").is_file():
        function_of(report)(run.path)
    return run


def function_of(place: str) -> Any:
    """The function that a text names as "module:function"."""
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)
