"""Curves as inline SVG (matplotlib): colours follow the page's theme, numbers appear on hover."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from mi_ortho.pages.text import json_script, number

# Matplotlib draws in these stand-ins; the page replaces each by a CSS variable, so one drawing serves light and dark.
COLOURS = {
    f"#0{i:x}0{j:x}0{i:x}": f"var(--{name})"
    for i, j, name in [
        (1, 1, "ink"),
        (1, 2, "muted"),
        (1, 3, "rule"),
        (1, 4, "paper"),
        *((2, k, f"m{k}") for k in range(8)),
        *((3, k, f"c{k}") for k in range(8)),
    ]
}
NAMED = {variable[6:-1]: code for code, variable in COLOURS.items()}
_LIGHT = {
    "ink": "#1a1d21",
    "muted": "#616973",
    "rule": "#dfe3e8",
    "paper": "#ffffff",
    "m0": "#0072b2",
    "m1": "#d55e00",
    "m2": "#009e73",
    "m3": "#b98500",
    "m4": "#b0598f",
    "m5": "#56b4e9",
    "m6": "#7d5a3c",
    "m7": "#9aa1a9",
    "c0": "#1a1d21",
    "c1": "#b0598f",
    "c2": "#8a929b",
    "c3": "#b98500",
    "c4": "#009e73",
    "c5": "#7d5a3c",
    "c6": "#3a8fc4",
    "c7": "#9aa1a9",
}
_STYLES: Mapping[str, Mapping[str, object]] = {
    "family": {"color": NAMED["ink"], "linewidth": 1.3, "zorder": 5},
    "null": {"color": NAMED["ink"], "linewidth": 1.1, "linestyle": (0, (5, 2)), "zorder": 4},
    "second": {"color": NAMED["ink"], "linewidth": 1.0, "linestyle": (0, (1, 1.5)), "zorder": 4},
}
_MAX_DOTS = 400  # dots drawn a control; of more, every n-th
_MAX_LINE = 500  # points a line joins; more show as dots alone
_POWERS, _FEW = 2.5, 0.7  # powers of ten an axis spans: above, only they are named; below, no 1, 2, 5
_FONT: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "mi-ortho", "font.size": 9.0, "axes.linewidth": 0.7}


@dataclass(frozen=True)
class Series:
    """One line of a curve: y over x (None or NaN where not measured).

    `style` is "family", "null", "second" or a colour "c0" to "c7"; `marks` gives each point a colour "m0" to "m7";
    `dots` draws points without a line, for measurements that do not follow from each other. `column` names (what,
    field) of the page's table when the same numbers stand there, so that the page holds them once.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: str = "family"
    key: str = ""
    marks: Sequence[str] | None = None
    dots: bool = False
    column: tuple[str, str] | None = None


@dataclass(frozen=True)
class Panel:
    """What a curve shows besides its series: title, unit, reference lines (label → y), the family's end, the scale.

    `marker` is an x that a vertical line points out.

    Panels of one `group` share their hover line; `whole` says that values are counts; `log` and `logx` choose
    logarithmic axes. Where every x is a whole number, so are its ticks.
    """

    title: str
    ylabel: str = ""
    xlabel: str = "vector index k"
    lines: Mapping[str, float] = field(default_factory=dict)
    end: float | None = None
    marker: float | None = None
    log: bool = False
    logx: bool = False
    whole: bool = False
    group: str = ""
    letter: str = ""
    size: tuple[float, float] = (3.55, 2.25)


def curve(panel: Panel, series: Sequence[Series]) -> Markup:
    """A figure with one SVG: series by index, reference lines, a hover line with every number, also by keyboard."""
    svg, place = _plot(panel, series)
    return _figure(panel, series, place, themed(svg))


def standalone(panel: Panel, series: Sequence[Series]) -> str:
    """The same drawing as a file of its own, in fixed colours on white, with the names of its series."""
    svg, _ = _plot(panel, series, with_names=True)
    return fixed(themed(svg))


Box = tuple[float, float, float, float]
Place = tuple[Box, tuple[float, float], bool]  # where the axes lie in the figure, the range of x, whether that is log


def _plot(panel: Panel, series: Sequence[Series], *, with_names: bool = False) -> tuple[str, Place]:
    limits: list[tuple[float, float]] = []

    def draw(axes: Any) -> None:
        for one in series:
            _draw(axes, one)
        _decorate(axes, panel, all(float(x).is_integer() for one in series for x in one.x))
        limits.append(axes.get_xlim())
        if with_names:
            title = f"{panel.title} ({panel.ylabel})" if panel.ylabel else panel.title
            axes.set_title(title, fontsize=9, color=NAMED["ink"], loc="left", pad=4)
            axes.legend(
                *_handles(axes, series),
                fontsize=7.5,
                frameon=False,
                labelcolor=NAMED["ink"],
                loc="center left",
                bbox_to_anchor=(1.02, 0.5),
            )

    wider = 1.5 if with_names else 1.0  # room for the names beside the curves, which they would cover
    width, height = panel.size
    box = (0.135 / wider, 0.17, 0.84 / wider, 0.7 if with_names else 0.77)
    return draw_svg((width * wider, height), box, draw), (box, limits[0], panel.logx)


def _handles(axes: Any, series: Sequence[Series]) -> tuple[list[Any], list[str]]:
    """One mark and one name for every series that has points."""
    marks = {item.get_gid(): item for item in [*axes.collections, *axes.lines] if item.get_gid()}
    keys = {f"s-{handle(one.key or one.style)}": one.label for one in series if finite(one.y)}
    return [marks[key] for key in keys if key in marks], [label for key, label in keys.items() if key in marks]


def handle(key: str) -> str:
    """What the page's script calls a series by: its key, spelled so that it may stand in a class name.

    >>> handle("random, isotropic"), handle("random_base")
    ('random-isotropic', 'random_base')
    """
    return re.sub(r"[^\w-]+", "-", key)


def draw_svg(size: tuple[float, float], box: Box, draw: Callable[[Any], None]) -> str:
    """Matplotlib's SVG of what `draw` puts into quiet axes; colours are the stand-ins of `NAMED`."""
    import matplotlib

    matplotlib.use("svg", force=False)
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_FONT):
        figure = Figure(figsize=size)
        axes = figure.add_axes(box)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(NAMED["muted"])
        axes.tick_params(which="both", colors=NAMED["muted"], width=0.6, length=3, pad=2)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def fixed(svg: str) -> str:
    """A drawing of a page as a file of its own: the light theme's colours on white, fonts named, namespaces kept."""
    body = re.sub(r"var\(--([a-z]+\d*)\)", lambda match: _LIGHT[match[1]], svg)
    head = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    if head is None:
        raise ValueError("got a drawing without a view box; expected an SVG of this module; draw it again")
    width, height = (float(part) * 1.6 for part in head.groups())
    root = f'<svg width="{width:.0f}" height="{height:.0f}" font-family="Helvetica, Arial, sans-serif" '
    frame = '<rect width="100%" height="100%" fill="#ffffff"/>\n'
    return re.sub(r">\s*", lambda match: match[0] + frame, body.replace("<svg ", root, 1), count=1) + "\n"


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
    # coordinates only: the numbers a reader sees stand between the tags
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"-?\d+\.\d{3,}", _short, tag[0]), body)
    return re.sub(r"\n\s*", "\n", _DOTS.sub(_as_path, body))


def _short(match: re.Match[str]) -> str:
    return f"{float(match[0]):.1f}".removesuffix(".0")


_DOTS = re.compile(
    r'(?:<use xlink:href="[^"]*" x="[^"]*" y="[^"]*" style="fill: (var\([^)]*\))(; fill-opacity: [\d.]+)?"/>\s*)+'
)


def _as_path(match: re.Match[str]) -> str:
    """A run of equal dots as one path of round-capped strokes of length 0, in a fifth of the bytes."""
    places = re.findall(r'x="([^"]*)" y="([^"]*)"', match[0])
    spots = "".join(f"M{x} {y}h0" for x, y in places)
    width, opacity = (2.4, "; stroke-opacity: 0.75") if match[2] else (3, "")
    width = 1.7 if len(places) > 200 else width
    style = f"fill: none; stroke: {match[1]}; stroke-width: {width}; stroke-linecap: round{opacity}"
    return f'<path d="{spots}" style="{style}"/>'


def finite(values: Sequence[float | None]) -> list[float]:
    """The values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def _draw(axes: Any, one: Series) -> None:
    """A line, or points alone (`dots`); with `marks`, the line recedes and the points take their colours."""
    points = [(x, y, i) for i, (x, y) in enumerate(zip(one.x, one.y)) if y is not None and math.isfinite(y)]
    xs, ys, group = [point[0] for point in points], [point[1] for point in points], f"s-{handle(one.key or one.style)}"
    style = dict(_STYLES.get(one.style) or {"color": NAMED[one.style], "linewidth": 0.9, "zorder": 3})
    crowded = len(points) > _MAX_LINE and one.style not in _STYLES
    if one.dots or crowded:
        every = max(1, len(points) // _MAX_DOTS)
        axes.scatter(xs[::every], ys[::every], s=6, c=style["color"], linewidths=0, zorder=2, alpha=0.75, gid=group)
        return
    if not one.marks or len(points) <= _MAX_LINE:
        axes.plot(xs, ys, **{**style, "alpha": 0.4 if one.marks else 1.0}, gid=group)
    if one.marks:
        for mark in sorted({one.marks[i] for _, _, i in points}):
            spots = [(x, y) for x, y, i in points if one.marks[i] == mark]
            axes.scatter(*zip(*spots), s=9, c=NAMED[mark], linewidths=0, zorder=6, gid=group)


def _decorate(axes: Any, panel: Panel, steps: bool) -> None:
    """Reference lines, the family's end, the scales."""
    from matplotlib.ticker import MaxNLocator

    axes.margins(x=0.02, y=0.07)
    if panel.log:
        axes.set_yscale("log")
        log_ticks(axes.yaxis)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=panel.whole))
    if panel.logx:
        axes.set_xscale("log")
        log_ticks(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=steps))
    _references(axes, panel)
    axes.set_xlabel(panel.xlabel, color=NAMED["muted"], labelpad=2)


def log_ticks(axis: Any) -> None:
    """Plain numbers as labels where a logarithmic axis spans little, powers of ten elsewhere; never crowded."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis.axes.autoscale_view()
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low)
    axis.set_minor_formatter(NullFormatter())
    if decades > _POWERS:
        return
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if decades > _FEW else MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def wide(series: Sequence[Series]) -> bool:
    """Whether values, all positive, span so much that only a logarithmic axis shows them."""
    values = [value for one in series for value in finite(one.y)]
    return bool(values) and min(values) > 0 and max(values) > 30 * min(values)


def _references(axes: Any, panel: Panel) -> None:
    """Named horizontal lines, the marker, and what lies beyond the end of the family shaded."""
    low, high = axes.get_xlim()
    for label, height in panel.lines.items():
        axes.axhline(height, color=NAMED["muted"], linewidth=0.7, linestyle=(0, (2, 2)), zorder=1)
        at = {
            "xy": (0.01, height),
            "xytext": (0, 2),
            "xycoords": ("axes fraction", "data"),
            "textcoords": "offset points",
        }
        axes.annotate(label, **at, ha="left", va="bottom", fontsize=8, color=NAMED["muted"], zorder=9, gid="reference")
    if panel.marker is not None:
        axes.axvline(panel.marker, color=NAMED["muted"], linewidth=0.9, zorder=1)
    if panel.end is not None and panel.end - 0.5 < high:
        axes.axvline(panel.end - 0.5, color=NAMED["muted"], linewidth=0.9, zorder=1)
        axes.axvspan(panel.end - 0.5, high, color=NAMED["rule"], alpha=0.4, zorder=0, linewidth=0)
        axes.set_xlim(low, high)


def _figure(panel: Panel, series: Sequence[Series], place: Place, svg: str) -> Markup:
    """The SVG with its title and the data for hovering."""
    width, height = 72 * panel.size[0], 72 * panel.size[1]
    (left, bottom, wide, high), xlim, logx = place
    body = re.sub(r'id="(s-[\w-]+|reference)"', r'class="\1"', svg)
    body = re.sub(r"\bid=\"(?!s-|[mp][0-9a-f]{8,})[^\"]*\"", "", body)
    data = {
        "box": [left * width, (1 - bottom - high) * height, wide * width, high * height],
        "xlim": [math.log10(edge) for edge in xlim] if logx else list(xlim),
        "logx": logx,
        "group": panel.group,
        "xlabel": panel.xlabel,
        "series": [_values(one) for one in series],
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


def _values(one: Series) -> dict[str, object]:
    """A series as the page's script reads it: its numbers, or where they stand in the table."""
    entry: dict[str, object] = {"label": one.label, "key": handle(one.key or one.style)}
    if one.column is not None:
        return entry | {"from": list(one.column)}
    return entry | {"x": len(one.x) if list(one.x) == list(range(len(one.x))) else list(one.x), "y": list(one.y)}
