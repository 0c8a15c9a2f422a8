"""Pictures and reports: attention and token values by CircuitsVis, curves, matrices, self-contained offline pages."""

from mi_ortho.viz.data_table import table
from mi_ortho.viz.dct import dct_report
from mi_ortho.viz.embed import Visual, attention, compare, logits, token_values
from mi_ortho.viz.estimates import Estimate, estimates, estimates_svg
from mi_ortho.viz.explorer import explore_report
from mi_ortho.viz.geometry import geometry_report
from mi_ortho.viz.index import run_index
from mi_ortho.viz.matrices import heat_map
from mi_ortho.viz.melbo import melbo_report
from mi_ortho.viz.nulls import nulls_report
from mi_ortho.viz.pages import Section, page, write_page
from mi_ortho.viz.plots import Panel, Series, curve, standalone
from mi_ortho.viz.presence import presence_report
from mi_ortho.viz.refusal import refusal_report
from mi_ortho.viz.report import family_report
from mi_ortho.viz.sections import (
    Card,
    completions,
    curves,
    figure,
    glossary,
    note,
    run_section,
    table_section,
    verdict_section,
    write_report,
)
from mi_ortho.viz.two_runs import run_comparison

__all__ = [
    "Card",
    "Estimate",
    "Panel",
    "Section",
    "Series",
    "Visual",
    "attention",
    "compare",
    "completions",
    "curve",
    "curves",
    "dct_report",
    "estimates",
    "estimates_svg",
    "explore_report",
    "family_report",
    "figure",
    "geometry_report",
    "glossary",
    "heat_map",
    "logits",
    "melbo_report",
    "note",
    "nulls_report",
    "page",
    "presence_report",
    "refusal_report",
    "run_comparison",
    "run_index",
    "run_section",
    "standalone",
    "table",
    "table_section",
    "token_values",
    "verdict_section",
    "write_page",
    "write_report",
]
