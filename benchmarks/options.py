"""What the tables are asked for on the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """Sizes of the tables, and where they run.

    Args:
        steps: of the published loop; 1000 in the paper.
        vectors: made by the published loop and by ours.
        factors: of the dct table.
        iterations: of the dct table.
        repeats: of the dct and jacobian tables, in turn.
        rows: file where the planted table keeps its rows, and goes on from.
        device: cuda runs the accelerator table.
        family: vectors of the accelerator table.
    """

    steps: int = 1000
    vectors: int = 3
    factors: int = 64
    iterations: int = 5
    repeats: int = 5
    rows: Path | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    family: int = 1558
