"""Shares by angle, drawn around a circle: 1 at the rim, 0 at the centre."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mi_ortho.pages.text import number, visible

_RADIUS = 88.0
_STEP = 30  # degrees between spokes


@dataclass(frozen=True)
class Lap:
    """One closed line: shares from 0 to 1 at angles in degrees, in a colour "c0" to "c7" of the page."""

    label: str
    degrees: Sequence[float]
    shares: Sequence[float]
    colour: str


def wheel(title: str, laps: Sequence[Lap]) -> Markup:
    """Lines around a circle, angle 0 at the right and growing counter-clockwise; every point names its number on hover.

    Raises:
        ValueError: a line has another number of shares than of angles.
    """
    for lap in laps:
        if len(lap.degrees) != len(lap.shares):
            raise ValueError(f"got {len(lap.shares)} shares for {len(lap.degrees)} angles; expected one each")
    described = "; ".join(
        f"{lap.label}: {number(min(lap.shares))} to {number(max(lap.shares))}" for lap in laps if lap.shares
    )
    # later lines are thinner, so that one below another of the same values still shows
    shapes = Markup("").join([*_background(), *(part for k, lap in enumerate(laps) for part in _lap(lap, 1 / (1 + k)))])
    names = Markup("").join(
        Markup('<span><i style="background: var(--{})"></i>{}</span>').format(lap.colour, lap.label) for lap in laps
    )
    return Markup(
        '<div class="wheel" role="img" aria-label="{}. {}"><h4>{}</h4><svg viewBox="-125 -112 250 224">{}</svg>'
        '<p class="wheel-names">{}</p></div>'
    ).format(visible(title), visible(described), visible(title), shapes, names)


def _background() -> list[Markup]:
    """Circles at a quarter, a half, three quarters and all; a spoke every 30 degrees, named at the rim."""
    ring = Markup('<circle r="{}" fill="none" stroke="var(--rule)" stroke-width="{}"/>')
    shapes = [ring.format(round(_RADIUS * share, 1), 1.2 if share == 1 else 0.7) for share in (0.25, 0.5, 0.75, 1.0)]
    for degrees in range(0, 360, _STEP):
        (x, y), (tx, ty) = _at(degrees, 1.0), _at(degrees, 1.15)
        shapes.append(Markup('<line x2="{}" y2="{}" stroke="var(--rule)" stroke-width="0.6"/>').format(x, y))
        shapes.append(
            Markup(
                '<text x="{}" y="{}" font-size="8.5" fill="var(--muted)" text-anchor="middle" '
                'dominant-baseline="central">{}°</text>'
            ).format(tx, ty, degrees)
        )
    return shapes


def _lap(lap: Lap, weight: float) -> list[Markup]:
    order = sorted(range(len(lap.degrees)), key=lambda k: lap.degrees[k])
    places = [_at(lap.degrees[k], lap.shares[k]) for k in order]
    path = "M" + "L".join(f"{x} {y}" for x, y in places) + "Z" if places else ""
    shapes = [
        Markup(
            '<path d="{0}" fill="var(--{1})" fill-opacity="0.07" stroke="var(--{1})" stroke-width="{2}" '
            'stroke-linejoin="round"/>'
        ).format(path, lap.colour, round(0.6 + 2 * weight, 1))
    ]
    for k, (x, y) in zip(order, places):
        hover = f"{lap.label}, {number(lap.degrees[k])}°: {number(lap.shares[k])}"
        shapes.append(
            Markup('<circle cx="{}" cy="{}" r="{}" fill="var(--{})"><title>{}</title></circle>').format(
                x, y, round(1.4 + 2.4 * weight, 1), lap.colour, visible(hover)
            )
        )
    return shapes


def _at(degrees: float, share: float) -> tuple[float, float]:
    turn = math.radians(degrees)
    return round(_RADIUS * share * math.cos(turn), 1), round(-_RADIUS * share * math.sin(turn), 1)
