"""Curves as inline SVG (matplotlib) whose colours follow the page's theme, and heat maps on a canvas, both with numbers on hover."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from mi_ortho.viz.text import json_script, number

# Matplotlib draws in these stand-ins; the page replaces each by a CSS variable, so one drawing serves light and dark.
COLOURS = {
    f"#0{i:x}0{j:x}0{i:x}": f"var(--{name})"
    for i, j, name in [
        (1, 1, "ink"),
        (1, 2, "muted"),
        (1, 3, "rule"),
        *((2, k, f"m{k}") for k in range(8)),
        *((3, k, f"c{k}") for k in range(8)),
    ]
}
_NAMED = {variable[6:-1]: code for code, variable in COLOURS.items()}
_STYLES: Mapping[str, Mapping[str, object]] = {
    "family": {"color": _NAMED["ink"], "linewidth": 1.3, "zorder": 5},
    "null": {"color": _NAMED["ink"], "linewidth": 1.1, "linestyle": (0, (5, 2)), "zorder": 4},
    "second": {"color": _NAMED["ink"], "linewidth": 1.0, "linestyle": (0, (1, 1.5)), "zorder": 4},
}
_MAX_POINTS = 300  # points drawn a series; more become a line, or every n-th point
_FONT = {"svg.fonttype": "none", "svg.hashsalt": "mi-ortho", "font.size": 9.0, "axes.linewidth": 0.7}


@dataclass(frozen=True)
class Series:
    """One line of a curve: y over x (None or NaN where not measured).

    `style` is "family", "null", "second" or a colour "c0" to "c7"; `marks` gives each point a colour class "m0" to "m7";
    `dots` draws points without a line, for measurements that do not follow from each other.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: str = "family"
    key: str = ""
    marks: Sequence[str] | None = None
    dots: bool = False


@dataclass(frozen=True)
class Panel:
    """What a curve shows besides its series: title, unit, reference lines (label → y), where the family ends, and the scale (`whole`: counts)."""

    title: str
    ylabel: str = ""
    xlabel: str = "vector index k"
    lines: Mapping[str, float] = field(default_factory=dict)
    end: float | None = None
    log: bool = False
    whole: bool = False
    group: str = ""
    letter: str = ""
    size: tuple[float, float] = (3.55, 2.25)


def curve(panel: Panel, series: Sequence[Series]) -> Markup:
    """A figure with one SVG: series by index, reference lines, a hover line with every number, reachable by keyboard."""
    import matplotlib

    matplotlib.use("svg", force=False)
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_FONT):
        figure = Figure(figsize=panel.size)
        axes = figure.add_axes((0.135, 0.17, 0.84, 0.77))
        for one in series:
            _draw(axes, one)
        _decorate(axes, panel)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _figure(panel, series, axes, themed(buffer.getvalue()))


def heat_map(
    values: Float[Tensor, "row column"],
    *,
    title: str,
    scale: str = "linear",
    limits: tuple[float, float] = (-1.0, 1.0),
    ticks: Mapping[int, str] | None = None,
    limit: int = 512,
) -> Markup:
    """A square picture of a matrix on a canvas with the number on hover.

    `scale` "linear" is diverging around zero between `limits`; "log" shows log10|value| between 10**limits. Matrices over
    `limit` rows or columns show, for each block of entries, the one of largest absolute value.
    """
    block = max(1, math.ceil(max(values.shape) / limit))
    shown = _strongest(values.detach().double().cpu(), block)
    data = {
        "rows": shown.shape[0],
        "columns": shown.shape[1],
        "block": block,
        "scale": scale,
        "limits": list(limits),
        "ticks": [[position, label] for position, label in (ticks or {}).items()],
        "values": pack(shown),
    }
    template = Markup(
        '<div class="heat" tabindex="0" role="img" aria-label="{}"><canvas></canvas><div class="scale"></div>{}</div>'
    )
    return template.format(title, json_script(data))


def pack(values: Float[Tensor, "row column"]) -> str:
    """Signed values of magnitude 1e-12 to 1e3 as base64 of 16-bit integers: sign, and log10 in steps of 1/2000."""
    size = values.abs().nan_to_num(0.0).clamp(1e-12, 1e3).log10() + 12.0
    steps = (size * 2000 + 1).round() * torch.where(values < 0, -1, 1) * (values.abs() > 1e-12)
    return base64.b64encode(steps.to(torch.int16).numpy().astype("<i2").tobytes()).decode()


def themed(svg: str) -> str:
    """Matplotlib's SVG as part of a page: no prolog, no style block, the page's fonts and colours, short numbers."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<(metadata|defs)>\s*<(?:rdf|style).*?</\1>", "", body, flags=re.S)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.S)
    body = re.sub(r'(width|height)="[\d.]+pt"\s*', "", body, count=2)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"font-family: [^;\"]*; ", "", body)
    for code, variable in COLOURS.items():
        body = body.replace(code, variable)
    body = re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), body)
    return re.sub(r"\n\s*", "\n", body)


def finite(values: Sequence[float | None]) -> list[float]:
    """The values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def _draw(axes: Any, one: Series) -> None:
    """A line, or points alone (`dots`); with `marks`, the line recedes and the points take their colours."""
    points = [(x, y, i) for i, (x, y) in enumerate(zip(one.x, one.y)) if y is not None and math.isfinite(y)]
    xs, ys, group = [point[0] for point in points], [point[1] for point in points], f"s-{one.key or one.style}"
    style = dict(_STYLES.get(one.style) or {"color": _NAMED[one.style], "linewidth": 0.9, "zorder": 3})
    if one.dots:
        every = max(1, len(points) // _MAX_POINTS)
        axes.scatter(xs[::every], ys[::every], s=6, c=style["color"], linewidths=0, zorder=2, alpha=0.75, gid=group)
        return
    axes.plot(xs, ys, **{**style, "alpha": 0.4 if one.marks else 1.0}, gid=group)
    if one.marks and len(points) <= _MAX_POINTS:
        for mark in sorted({one.marks[i] for _, _, i in points}):
            chosen = [(x, y) for x, y, i in points if one.marks[i] == mark]
            axes.scatter(*zip(*chosen), s=9, c=_NAMED[mark], linewidths=0, zorder=6, gid=group)


def _decorate(axes: Any, panel: Panel) -> None:
    """Reference lines, the family's end, quiet axes."""
    from matplotlib.ticker import MaxNLocator

    axes.margins(x=0.02, y=0.07)
    if panel.log:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=panel.whole))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    _references(axes, panel)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_NAMED["muted"])
    axes.tick_params(which="both", colors=_NAMED["muted"], width=0.6, length=3, pad=2)
    axes.set_xlabel(panel.xlabel, color=_NAMED["muted"], labelpad=2)


def _references(axes: Any, panel: Panel) -> None:
    """Named horizontal lines, and what lies beyond the end of the family shaded."""
    low, high = axes.get_xlim()
    for label, height in panel.lines.items():
        axes.axhline(height, color=_NAMED["muted"], linewidth=0.7, linestyle=(0, (2, 2)), zorder=1)
        at = {
            "xy": (0.01, height),
            "xytext": (0, 2),
            "xycoords": ("axes fraction", "data"),
            "textcoords": "offset points",
        }
        axes.annotate(label, **at, ha="left", va="bottom", fontsize=8, color=_NAMED["muted"], zorder=9, gid="reference")
    if panel.end is not None:
        axes.axvline(panel.end - 0.5, color=_NAMED["muted"], linewidth=0.9, zorder=1)
        axes.axvspan(panel.end - 0.5, max(high, panel.end), color=_NAMED["rule"], alpha=0.4, zorder=0, linewidth=0)
        axes.set_xlim(low, high)


def _figure(panel: Panel, series: Sequence[Series], axes: Any, svg: str) -> Markup:
    """The SVG with its title and the data for hovering."""
    width, height = 72 * panel.size[0], 72 * panel.size[1]
    left, bottom, wide, high = axes.get_position().bounds
    body = re.sub(r'id="(s-[\w-]+|reference)"', r'class="\1"', svg)
    body = re.sub(r"\bid=\"(?!s-|[mp][0-9a-f]{8,})[^\"]*\"", "", body)
    data = {
        "box": [left * width, (1 - bottom - high) * height, wide * width, high * height],
        "xlim": list(axes.get_xlim()),
        "group": panel.group,
        "xlabel": panel.xlabel,
        "series": [
            {"label": one.label, "key": one.key or one.style, "x": list(one.x), "y": list(one.y)} for one in series
        ],
    }
    described = "; ".join(
        f"{one.label}: {number(min(finite(one.y)))} to {number(max(finite(one.y)))}" for one in series if finite(one.y)
    )
    template = Markup(
        '<div class="panel" tabindex="0" role="img" aria-label="{}. {}"><h4><b>{}</b> {} <span>{}</span></h4>{}{}</div>'
    )
    return template.format(
        panel.title, described, panel.letter, panel.title, panel.ylabel, Markup(body), json_script(data)
    )


def _strongest(values: Float[Tensor, "row column"], block: int) -> Float[Tensor, "r c"]:
    """Of each block of entries the one of largest absolute value, sign kept."""
    if block == 1:
        return values
    pooled = torch.nn.functional.max_pool2d
    high = pooled(values[None], block, ceil_mode=True)[0]
    low = -pooled(-values[None], block, ceil_mode=True)[0]
    return torch.where(high.abs() >= low.abs(), high, low)
