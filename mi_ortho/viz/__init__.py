"""Pictures and reports: attention and token values by CircuitsVis, curves, matrices, self-contained offline pages."""

from mi_ortho.viz.embed import Visual, attention, compare, token_values
from mi_ortho.viz.matrices import heat_map
from mi_ortho.viz.pages import Section, page, write_page
from mi_ortho.viz.plots import Panel, Series, curve
from mi_ortho.viz.report import family_report

__all__ = [
    "Panel",
    "Section",
    "Series",
    "Visual",
    "attention",
    "compare",
    "curve",
    "family_report",
    "heat_map",
    "page",
    "token_values",
    "write_page",
]
