"""What the geometry of a model's layers comes to: rows of measurements, and verdicts on claims about them."""

from mi_ortho.landscape.curves import depth_curves, gap_rows, growth_rows, update_rows
from mi_ortho.landscape.hypotheses import CLAIMS, claims
from mi_ortho.landscape.layers import flat_rows, likeness_rows, overlap_rows, overlaps
from mi_ortho.landscape.survey import STAGES, Effort, Reading, read_network, stages

__all__ = [
    "CLAIMS",
    "STAGES",
    "Effort",
    "Reading",
    "claims",
    "depth_curves",
    "flat_rows",
    "gap_rows",
    "growth_rows",
    "likeness_rows",
    "overlap_rows",
    "overlaps",
    "read_network",
    "stages",
    "update_rows",
]
