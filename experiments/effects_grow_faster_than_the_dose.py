"""Does the effect of a vector grow faster than its dose?

Source: the post's observation that vectors scaled down to the base's norm no longer write code; hypothesis H5.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Lines, Place, Reading, each_base, needs, pick, read_bases
from mi_ortho.multiplicity import dose_exponents
from mi_ortho.nulls import with_norms
from mi_ortho.pages import Panel, Series

SCALES = tuple(round(0.1 * k, 1) for k in range(1, 16))
TRIED = 16  # vectors of a family, spread over it
LONG = 1.2  # base norms


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base its family's dose response on activations, and what is left of the behaviour at its norm."""
    each_base(config, bench, measure)


@torch.no_grad()
def measure(base: Base) -> None:
    """Record one base."""
    record, units = base.bench.record, base.units
    vectors, random = base.family().spread(TRIED), base.displaced(TRIED, 17)
    for group, sets, axes in (("family", vectors, base.vector[None]), ("random", random, random)):
        values = torch.stack([base.along(scale * sets, axes) for scale in SCALES], dim=1)
        exponents = dose_exponents(values, torch.tensor(SCALES).to(sets))
        record(kind="exponent", **units, group=group, exponent=middle(exponents), doses=values.mean(0).tolist())
    family = base.family("kl").vectors
    long = family[family.norm(dim=-1) >= LONG * base.norm]
    if len(long):
        short = with_norms(long, torch.full_like(long[:, 0], base.norm))
        left = float(base.effect(short).mean() / base.effect(long).mean())
        record(kind="kept", **units, kept=left, linear=float((base.norm / long.norm(dim=-1)).mean()), long=len(long))


def middle(values: Tensor) -> float | None:
    """The median of what is not NaN; None where nothing is left."""
    numbers = values[~values.isnan()]
    return float(numbers.median()) if len(numbers) else None


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """The family's exponent against random vectors', and what is kept against a linear effect."""
    for units, gates, own in read_bases(rows):
        exponents = {row["group"]: row["exponent"] for row in pick(own, kind="exponent")}
        if exponents:
            yield Reading("exponent", exponents["family"], exponents["random"], units, gates)
        for row in pick(own, kind="kept"):
            yield Reading("kept", row["kept"], row["linear"], units, gates)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """The displacement over the dose."""
    part = {group: pick(rows, kind="exponent", group=group) for group in ("family", "random")}
    styles = {"family": ("family", "family"), "random": ("random vectors, displaced as far", "null")}
    series = [
        Series(
            styles[group][0],
            SCALES,
            [fmean(each) for each in zip(*[row["doses"] for row in own])],
            styles[group][1],
            group,
        )
        for group, own in part.items()
        if own
    ]
    caption = "Share of the final displacement; means over vectors and bases. A straight line is a linear response."
    return [Lines(caption, Panel("Dose response", "displacement", "scale"), tuple(series))] if series else []
