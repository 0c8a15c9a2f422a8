"""A forest plot: every reading in units of its threshold, one row a prediction, one column a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mi_ortho.pages.plots import NAMED, draw_svg, finite, fixed, themed
from mi_ortho.pages.text import clip, visible

_ENDS = (-1.0, 3.0)  # of a column, in thresholds; what lies beyond is drawn at the end
_COLUMN, _ROW = 1.5, 0.17  # inches
_LABEL = 78  # characters
_MARKS = {  # of an outcome: shape, colour, whether it is filled
    "supported": ("o", NAMED["m2"], True),
    "not supported": ("X", NAMED["m1"], True),
    "undecided": ("o", NAMED["muted"], False),
    "invalid": ("s", NAMED["m3"], False),
}


@dataclass(frozen=True)
class ForestCell:
    """One reading over its threshold, with its interval, the side on which it was predicted, and the outcome."""

    value: float
    interval: tuple[float, float] | None
    side: Literal["at least", "at most", "within"]
    outcome: str


def forest_svg(rows: Sequence[tuple[str, Mapping[str, ForestCell]]], columns: Sequence[str]) -> str:
    """Labelled rows with a cell for each column that was measured, as a file of its own.

    Shaded is where the prediction holds: beyond the threshold, below it, or within it on both sides of 0.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("got no rows; expected at least one reading; leave the figure out")
    label = 0.1 + 0.052 * max(len(clip(visible(name), _LABEL)) for name, _ in rows)
    high, below, above = _ROW * len(rows), 0.3, 0.22
    width = label + _COLUMN * len(columns) + 0.1
    size = (width, high + below + above)

    def draw(axes: Any) -> None:
        span = _ENDS[1] - _ENDS[0] + 0.4
        for k, column in enumerate(columns):
            start = k * span - _ENDS[0]
            axes.axvline(start + 1.0, color=NAMED["muted"], linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
            axes.axvline(start, color=NAMED["rule"], linewidth=0.7, zorder=1)
            axes.text(start + 1.0, len(rows) - 0.2, visible(column), fontsize=7.5, ha="center", color=NAMED["ink"])
            for place, (_, cells) in enumerate(reversed(rows)):
                if column in cells:
                    _cell(axes, start, place, cells[column])
        axes.set_xlim(-0.1, len(columns) * span - 0.3)  # room for the marks at the ends
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_yticks(range(len(rows)), [clip(visible(name), _LABEL) for name, _ in reversed(rows)], fontsize=6.5)
        ticks = [-1, 0, 1, 2, 3]
        places = [k * span - _ENDS[0] + tick for k in range(len(columns)) for tick in ticks]
        axes.set_xticks(places, [f"{tick:g}" for _ in columns for tick in ticks], fontsize=6.5)
        axes.set_xlabel("measured ÷ threshold", color=NAMED["muted"], labelpad=1, fontsize=7.5)
        axes.tick_params(axis="y", length=0, labelcolor=NAMED["ink"])
        axes.spines["left"].set_visible(False)

    box = (label / width, below / size[1], _COLUMN * len(columns) / width, high / size[1])
    return fixed(themed(draw_svg(size, box, draw)))


def _cell(axes: Any, start: float, place: int, cell: ForestCell) -> None:
    """One reading: where it was predicted to lie, its interval, and its mark."""
    low, high = {"at least": (1.0, _ENDS[1]), "at most": (_ENDS[0], 1.0), "within": (-1.0, 1.0)}[cell.side]
    axes.barh(place, high - low, left=start + low, height=0.8, color=NAMED["rule"], alpha=0.5, zorder=0)
    if not finite([cell.value]):
        return
    shape, colour, filled = _MARKS.get(cell.outcome, _MARKS["undecided"])
    if cell.interval is not None and finite(cell.interval):
        ends = [start + _inside(one) for one in cell.interval]
        axes.plot(ends, [place, place], color=colour, linewidth=1.3, zorder=3)
    face = colour if filled else NAMED["paper"]
    inside = start + _inside(cell.value)
    axes.plot([inside], [place], shape, markersize=4.2, markerfacecolor=face, markeredgecolor=colour, zorder=4)


def _inside(value: float) -> float:
    return min(max(value, _ENDS[0]), _ENDS[1])
