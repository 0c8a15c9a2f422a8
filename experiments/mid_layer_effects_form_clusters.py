"""Do a family's vectors do few different things in the middle of the network, many inputs with few effects?

Source: a comment on the post (most of the degeneracy would vanish if mid-layer activations had to differ); H14.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Lines, Place, Reading, column, each_base, needs, pick, read_bases, unbased
from mi_ortho import ActivationMap
from mi_ortho.multiplicity import multiplicity_of
from mi_ortho.pages import Panel, Series

TAKEN = 24  # vectors of a family, spread over it
LEAST = 4
LABELS = {
    "family": ("family", "family"),
    "random": ("random, as long", "null"),
    "displaced": ("random, moving as far", "second"),
}


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the effects of its family and of random vectors at the target, and at a few other layers."""
    middle = (config.source + config.target + 1) // 2
    layers = sorted({config.source + 1, middle, config.target, bench.layers - 1})
    each_base(config, bench, lambda base: measure(base, layers))


def measure(base: Base, layers: Sequence[int]) -> None:
    """Record one base; nothing where its family is too small."""
    vectors = base.family("kl").before_end(base.place.lost, TAKEN)
    if len(vectors) < LEAST:
        return
    sets = {"family": vectors, **base.orthogonal(vectors, 18)}
    for layer in layers:
        there = layer == base.place.target
        z = base.z if there else unbased(base.bench, replace(base.place, target=layer), base.texts).z
        for group, rows in sets.items():
            numbers = examine(z, rows)
            base.bench.record(kind="effects", **base.units, layer=layer, target=there, group=group, **numbers)


@torch.no_grad()
def examine(z: ActivationMap, vectors: Tensor) -> dict[str, float]:
    """Effective rank and clusters of the changes over the number of vectors, and their mean size."""
    start = z(torch.zeros_like(vectors[:1])).flatten(1)
    changes = torch.cat([z(part).flatten(1) - start for part in vectors.split(16)])
    found, n = multiplicity_of(changes), len(vectors)
    return {
        "rank": min(1.0, found.effective_rank / n),
        "clusters": found.clusters / n,
        "moved": float(changes.norm(dim=-1).mean()),
    }


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Rank and clusters at the target, against random vectors as long and against those that move it as far."""
    for units, gates, own in read_bases(rows):
        groups = {row["group"]: row for row in pick(own, kind="effects", target=True)}
        if groups:
            for name in ("rank", "clusters"):
                yield Reading(name, groups["family"][name], groups["random"][name], units, gates)
                far = max(groups[g]["moved"] / groups[h]["moved"] for g, h in (PAIR, PAIR[::-1]))
                checks = {**gates, "displacement": far}
                yield Reading(f"{name}_displaced", groups["family"][name], groups["displaced"][name], units, checks)


PAIR = ("family", "displaced")


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Rank and clusters along depth."""
    drawings = []
    for name, title in (("rank", "Effective rank of the changes"), ("clusters", "Clusters of the changes")):
        series = []
        for group, (label, style) in LABELS.items():
            part = pick(rows, kind="effects", group=group)
            layers = sorted({row["layer"] for row in part})
            values = [fmean(column(pick(part, layer=layer), name)) for layer in layers]
            series.append(Series(label, layers, values, style, group))
        panel = Panel(title, f"{name} over vectors", "layer")
        drawings.append(Lines("Over the number of vectors; means over bases.", panel, tuple(series)))
    return drawings if pick(rows, kind="effects") else []
