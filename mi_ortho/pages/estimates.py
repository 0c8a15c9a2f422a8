"""Estimates with their intervals, one row a category, beside their controls and a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mi_ortho.pages.plots import NAMED, draw_svg, finite, fixed, log_ticks, themed
from mi_ortho.pages.text import clip, number, visible

_LABEL = 40  # characters of a row's label
_PLOT = 1.5  # inches
_SCALE = 1.7  # pixels a point: letters are as large in every figure, and smaller only where the screen is narrower


@dataclass(frozen=True)
class Estimate:
    """One row: a value with its interval; `style` is "value" (a dot) or "control" (a ring)."""

    label: str
    value: float | None
    interval: tuple[float, float] | None = None
    style: str = "value"


def estimates(
    title: str, rows: Sequence[Estimate], *, threshold: float | None = None, unit: str = "", log: bool = False
) -> Markup:
    """Rows of values with intervals, every number printed beside its mark; the threshold is a dashed line."""
    described = "; ".join(f"{row.label} {number(row.value)}" for row in rows)
    template = Markup('<div class="estimates" role="img" aria-label="{}. {}"><h4>{}</h4>{}</div>')
    svg = themed(_svg(rows, threshold, unit, log))
    widest = f'<svg style="max-width: {_SCALE * 72 * _width(rows):.0f}px" '
    return template.format(visible(title), visible(described), visible(title), Markup(svg.replace("<svg ", widest, 1)))


def estimates_svg(
    rows: Sequence[Estimate], *, threshold: float | None = None, unit: str = "", log: bool = False
) -> str:
    """The same drawing as a file of its own, in fixed colours on white."""
    return fixed(themed(_svg(rows, threshold, unit, log)))


def _svg(rows: Sequence[Estimate], threshold: float | None, unit: str, log: bool) -> str:
    if not rows:
        raise ValueError("got no estimates; expected at least one row; leave the figure out")
    label_width, high, below = _label_width(rows), 0.26 * len(rows), 0.4 if unit else 0.27
    size = (_width(rows), high + below + 0.06)

    def draw(axes: Any) -> None:
        for place, row in enumerate(reversed(rows)):
            _row(axes, place, row)
        if threshold is not None:
            axes.axvline(threshold, color=NAMED["muted"], linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
        axes.set_yticks(range(len(rows)), [clip(visible(row.label), _LABEL) for row in reversed(rows)], fontsize=7.5)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.margins(x=0.06)
        if log:
            axes.set_xscale("log")
            log_ticks(axes.xaxis)
        axes.set_xlabel(unit, color=NAMED["muted"], labelpad=1, fontsize=7.5)
        axes.tick_params(axis="x", labelsize=7.5)
        axes.tick_params(axis="y", length=0, labelcolor=NAMED["ink"])
        axes.spines["left"].set_visible(False)

    return draw_svg(size, (label_width / size[0], below / size[1], _PLOT / size[0], high / size[1]), draw)


def _label_width(rows: Sequence[Estimate]) -> float:
    """Inches that the longest label needs."""
    return 0.12 + 0.058 * max(len(clip(visible(row.label), _LABEL)) for row in rows)


def _width(rows: Sequence[Estimate]) -> float:
    """Inches: labels, the plot, the numbers beside it."""
    return _label_width(rows) + _PLOT + 0.45


def _row(axes: Any, place: int, row: Estimate) -> None:
    """One row: its interval, its mark, its number at the right edge."""
    from matplotlib.transforms import blended_transform_factory

    edge = NAMED["ink"] if row.style == "value" else NAMED["muted"]
    if finite([row.value]):
        if row.interval is not None:
            axes.plot(row.interval, [place, place], color=edge, linewidth=1.6)
        face = edge if row.style == "value" else NAMED["paper"]
        axes.plot([row.value], [place], "o", markersize=4.5, markerfacecolor=face, markeredgecolor=edge, zorder=4)
    beside = {"transform": blended_transform_factory(axes.transAxes, axes.transData), "va": "center", "ha": "left"}
    axes.text(1.02, place, number(row.value), **beside, fontsize=7.5, color=NAMED["ink"])
