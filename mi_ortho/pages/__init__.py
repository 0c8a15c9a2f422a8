"""Pictures and reports: attention and token values by CircuitsVis, curves, matrices, self-contained offline pages."""

from mi_ortho.pages.data_table import table
from mi_ortho.pages.embed import Visual, attention, compare, logits, token_values
from mi_ortho.pages.estimates import Estimate, estimates, estimates_svg
from mi_ortho.pages.forest import ForestCell, forest_svg
from mi_ortho.pages.matrices import heat_map
from mi_ortho.pages.page import Section, page, write_page
from mi_ortho.pages.plots import Panel, Series, curve, standalone
from mi_ortho.pages.sections import (
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
from mi_ortho.pages.text import number

__all__ = [
    "number",
    "Card",
    "Estimate",
    "ForestCell",
    "forest_svg",
    "Panel",
    "Section",
    "Series",
    "Visual",
    "attention",
    "compare",
    "completions",
    "curve",
    "curves",
    "estimates",
    "estimates_svg",
    "figure",
    "glossary",
    "heat_map",
    "logits",
    "note",
    "page",
    "run_section",
    "standalone",
    "table",
    "table_section",
    "token_values",
    "verdict_section",
    "write_page",
    "write_report",
]
