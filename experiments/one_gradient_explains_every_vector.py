"""Does one gradient explain every vector?

Source: Kaarel's comment (each vector has the same component along the gradient of what is measured); hypothesis H10.
    Effects are log-odds of the behaviour's posterior, the scale on which a first-order effect has the best chance;
    signs are those of the posterior itself. Vectors with half of the effect are compared with random ones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, read_bases

TRIED = 8  # vectors of a family, spread over those that work
NODES = 3  # of each path
STEP = 0.01  # of a vector's length


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base what gradients say of its family and of random vectors."""
    each_base(config, bench, measure)


def odds_of(base: Base) -> Callable[[Tensor], Tensor]:
    """Log-odds of the behaviour's posterior, which without steering may be far below any share that shows."""

    def odds(theta: Tensor) -> Tensor:
        p = torch.cat([base.effect.raw(part) for part in theta.split(64)])
        return p.clamp_min(1e-30).log() - (1 - p).clamp_min(1e-7).log()

    return odds


def slopes(odds: Callable[[Tensor], Tensor], at: Tensor, along: Tensor) -> Tensor:
    """Products of the mean gradient at some points with each vector, by central differences."""
    ends = [(at[None] + side * STEP * along[:, None]).flatten(0, 1) for side in (1, -1)]
    ahead, behind = (odds(each).view(len(along), len(at)) for each in ends)
    return ((ahead - behind) / (2 * STEP)).mean(1)


@torch.no_grad()
def measure(base: Base) -> None:
    """Record one base: shares of positive products, and what the gradient at 0 predicts of the vectors' effects."""
    family = base.family("kl")
    vectors = replace(family, vectors=family.working()).spread(TRIED)
    n = len(vectors)
    if n < 2:
        return
    odds, zero = odds_of(base), torch.zeros_like(vectors[:1])
    random, equal = base.random(vectors.norm(dim=-1), 21), base.random(torch.full_like(vectors[:, 0], base.norm), 22)
    products = slopes(odds, zero, torch.cat([vectors, random])).view(2, n)
    gains = odds(torch.cat([vectors, base.vector[None], equal])) - odds(zero)
    nodes = (torch.arange(NODES).to(vectors) + 0.5) / NODES
    points = nodes[:, None, None] * vectors
    others = [points[:, torch.arange(n) != k].flatten(0, 1) for k in range(n)]
    pairs = zip(others, zip(vectors, random))
    paths = torch.stack([slopes(odds, at, torch.stack(pair)) for at, pair in pairs], dim=1)
    numbers = {
        "positive": (products > 0).double().mean(1),
        "predicted": products.mean(1) / gains[:n].mean(),
        "path": (paths > 0).double().mean(1),
    }
    row = {f"{name}{end}": float(x) for name, both in numbers.items() for end, x in zip(("", "_random"), both)}
    specific = float(gains[n + 1 :].mean() / gains[n])
    base.bench.record(kind="gradient", **base.units, n=n, odds_specific=specific, **row)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Signs and sizes of the family's products with gradients against those of random vectors."""
    for units, gates, own in read_bases(rows):
        for row in pick(own, kind="gradient"):
            yield Reading("signs", row["positive"], row["positive_random"], units, gates)
            on_scale = {**gates, "specific": max(gates["specific"], row["odds_specific"])}
            yield Reading("size", row["predicted"], row["predicted_random"], units, on_scale)
            yield Reading("paths", row["path"], row["path_random"], units, gates)
