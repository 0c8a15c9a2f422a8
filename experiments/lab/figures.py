"""Drawings of an experiment: the same value is a figure of the report and an SVG file of the result page."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from mi_ortho.pages import Estimate, Panel, Series, curve, curves, estimates, estimates_svg, figure, standalone
from mi_ortho.stats import mean


@dataclass(frozen=True)
class Ranking:
    """Values with intervals by category, controls as rings, a threshold."""

    title: str
    caption: str
    rows: tuple[Estimate, ...]
    threshold: float | None = None
    unit: str = ""

    def html(self) -> Markup:
        """As a part of the report."""
        markup = estimates(self.title, self.rows, threshold=self.threshold, unit=self.unit)
        return figure(markup, self.caption)

    def svg(self) -> str:
        """As a file."""
        return estimates_svg(self.rows, threshold=self.threshold, unit=self.unit)


@dataclass(frozen=True)
class Lines:
    """Curves over one axis."""

    caption: str
    panel: Panel
    series: tuple[Series, ...]

    @property
    def title(self) -> str:
        """The panel's title."""
        return self.panel.title

    def html(self) -> Markup:
        """As a part of the report, with a legend that hides lines."""
        legend = [
            (one.key or one.style, one.label, f"{one.style} dots" if one.dots else one.style) for one in self.series
        ]
        return curves([curve(self.panel, self.series)], self.caption, legend=legend)

    def svg(self) -> str:
        """As a file."""
        return standalone(self.panel, self.series)


Figure = Ranking | Lines


def bars(
    title: str,
    caption: str,
    groups: Sequence[tuple[str, Sequence[float], str]],
    threshold: float | None = None,
    unit: str = "",
) -> Ranking:
    """Means with intervals of (label, values, "value" or "control"); groups without values are left out."""
    rows = (Estimate(label, fmean(values), mean(values).interval, style) for label, values, style in groups if values)
    return Ranking(title, caption, tuple(rows), threshold, unit)
