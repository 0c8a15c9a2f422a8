"""The one table of commands that make runs: a new command is a folder of `studies` and a line here."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

# its flags and help: importing such a module adds the command to the application, without torch
FLAGS = (
    "mi_ortho.studies.dct.command",
    "mi_ortho.studies.explore.command",
    "mi_ortho.studies.family.command",
    "mi_ortho.studies.geometry.command",
    "mi_ortho.studies.nulls.command",
    "mi_ortho.studies.presence.command",
    "mi_ortho.studies.refusal.command",
)
# what draws the report of each command, imported only when it is drawn
REPORTS: Mapping[str, str] = {
    "family": "mi_ortho.studies.family.page:family_report",
    "melbo": "mi_ortho.studies.family.page_melbo:melbo_report",
    "nulls": "mi_ortho.studies.nulls.page:nulls_report",
    "presence": "mi_ortho.studies.presence.page:presence_report",
    "dct": "mi_ortho.studies.dct.page:dct_report",
    "refusal": "mi_ortho.studies.refusal.page:refusal_report",
    "geometry": "mi_ortho.studies.geometry.page:geometry_report",
    "explore": "mi_ortho.studies.explore.page:explore_report",
}


def register() -> None:
    """Add every command of the table to the application."""
    for name in FLAGS:
        import_module(name)


def report_of(command: str) -> Any:
    """The function that draws the report of a command's run directory; None for a command without one."""
    module, _, function = REPORTS.get(command, "").partition(":")
    return getattr(import_module(module), function) if module else None
