"""Is the orthogonal family the one that a linear response would have?

Source: the linear null of MELBO-ortho (conjugate gradients on the measured Jacobian); decisive experiment D2. The
    published optimum has no norm cap; what the family is compared with is the same search below the same cap.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Family, Lines, Place, Reading, each_base, needs, pick, read_bases
from mi_ortho import LinearMap, jacobian, linear_null, match
from mi_ortho.nulls import CONTROLS, linear_family
from mi_ortho.pages import Panel, Series

FIRST = 12  # vectors that are compared
SMALL = 0.1  # of the base's norm: nearly linear
STYLES = {"model": "family", "small": "c1", "linear": "null", "random": CONTROLS["random"].colour}


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the losses of its family and of those on linear maps."""
    each_base(config, bench, measure)


def measure(base: Base) -> None:
    """Record one base: losses do not depend on its norm where the map is linear, so one search serves both norms."""
    n, short = min(FIRST, base.place.most or FIRST), SMALL * base.vector
    matrix = square(jacobian(base.z, torch.zeros_like(base.vector)))
    noise = base.random(torch.full((len(matrix),), float(matrix.norm()) / len(matrix) ** 0.5).to(matrix), 22)
    exact, solved = (
        linear_null(matrix, base.vector, n).losses,
        linear_family(matrix, base.vector, n, seed=base.place.seed),
    )
    families = {
        "model": base.family(most=n),
        "small": base.around(short, f"{SMALL:g} of the base", most=n),
        "linear": on_a_line(base, matrix, "the Jacobian at 0", n),
        "random": on_a_line(base, noise, "a random linear map", n),
    }
    for group, family in families.items():
        base.bench.record(kind="losses", **base.units, group=group, losses=padded(family.losses, n))
    ends = zip(padded(exact, n), padded(torch.tensor([one.loss for one in solved]), n), strict=True)
    base.bench.record(kind="solved", **base.units, distance=fmean(abs(a - b) for a, b in ends))


def square(matrix: Tensor) -> Tensor:
    """A matrix with no more rows than columns that gives every vector the same norm, and every pair the same angle."""
    return torch.linalg.qr(matrix).R if len(matrix) > matrix.shape[1] else matrix


def on_a_line(base: Base, matrix: Tensor, name: str, n: int) -> Family:
    """The first vectors of the same search on a linear map."""
    bare = replace(base, behaviour="")  # nobody asks for the posterior under each of these vectors
    goal = match(LinearMap(matrix, matrix.new_zeros(len(matrix))), base.vector)
    return bare.grow(f"activation on {name}, {base.behaviour}", goal, base.vector, most=n)


def padded(losses: Tensor, n: int) -> list[float]:
    """The first n losses, 1 (no effect) for each that the family has not."""
    return [*losses[:n].tolist(), *[1.0] * (n - len(losses))]


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """The distance from the linear map's losses, beside that from a linear map of another spectrum."""
    for units, gates, part in read_bases(rows):
        losses = {row["group"]: row["losses"] for row in pick(part, kind="losses")}
        for row in pick(part, kind="solved"):
            checks = {**gates, "solved": row["distance"]}
            for key in ("model", "small"):
                here, there = (
                    fmean(abs(a - b) for a, b in zip(losses[key], losses[other], strict=True))
                    for other in ("linear", "random")
                )
                yield Reading(key, here, there, units, checks)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Losses by index."""
    labels = ("search on the model", "at a tenth of the norm", "on the Jacobian at 0", "on a random linear map")
    series = []
    for (group, style), label in zip(STYLES.items(), labels, strict=True):
        if columns := list(zip(*[row["losses"] for row in pick(rows, kind="losses", group=group)])):
            series.append(Series(label, list(range(len(columns))), [fmean(each) for each in columns], style, group))
    caption = "Relative activation loss of vector k, mean over bases; 0 is a perfect copy of the base's effect."
    panel = Panel("Losses of the family", "loss", lines={"no effect": 1.0})
    return [Lines(caption, panel, tuple(series))] if series else []
