"""The table of commands that make runs: a new command is a folder of `studies` and a line here."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

# a command and the function that draws the reports of its runs, imported only to draw one; its flags are beside it
REPORTS: Mapping[str, str] = {
    "family": "mi_ortho.studies.family.page:family_report",
    "melbo": "mi_ortho.studies.family.page_melbo:melbo_report",
    "atlas": "mi_ortho.studies.atlas.page:atlas_report",
    "nulls": "mi_ortho.studies.nulls.page:nulls_report",
    "presence": "mi_ortho.studies.presence.page:presence_report",
    "dct": "mi_ortho.studies.dct.page:dct_report",
    "refusal": "mi_ortho.studies.refusal.page:refusal_report",
    "geometry": "mi_ortho.studies.geometry.page:geometry_report",
    "explore": "mi_ortho.studies.explore.page:explore_report",
}


def register() -> None:
    """Add every command of the table to the application: import `command.py` of each folder, without torch."""
    for folder in dict.fromkeys(place.partition(":")[0].rpartition(".")[0] for place in REPORTS.values()):
        import_module(f"{folder}.command")


def report_of(command: str) -> Any:
    """The function that draws the report of a command's run directory; None for a command without one."""
    from mi_ortho.studies.shared.run import function_of  # needs torch, and the table of commands does not

    return function_of(REPORTS[command]) if command in REPORTS else None
