"""Does one direction that all vectors share carry their effect?

Source: the linear reading of the family; every orthogonal family has such a direction, the question is whether it
    works; decisive experiment D4.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, read_bases
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.nulls import with_norms


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the effects of its family's shared direction."""
    each_base(config, bench, measure)


def shared(vectors: Tensor) -> Tensor:
    """The vector of least norm with which every vector has the product that it has with itself."""
    direction = (vectors / vectors.square().sum(-1, keepdim=True)).sum(0)
    return direction / direction.square().sum()


@torch.no_grad()
def measure(base: Base) -> None:
    """Record one base: at the length that is shared, and at the base's norm, over the vectors' own effect."""
    vectors = base.family("kl").working()
    if len(vectors) < 2:
        return
    random = with_norms(orthonormal_rows(base.random(vectors.norm(dim=-1), 11)), vectors.norm(dim=-1))
    common, chance = shared(vectors), shared(random)
    longer = [base.norm * each / each.norm() for each in (common, chance)]
    values = base.effect(torch.stack([common, chance, *longer])) / base.effect(vectors).mean()
    names = ("own", "random", "longer", "random_longer")
    numbers = dict(zip(names, values.tolist(), strict=True))
    base.bench.record(kind="shared", **base.units, n=len(vectors), length=float(common.norm()) / base.norm, **numbers)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """The shared direction against that of random vectors, at both lengths."""
    for units, gates, own in read_bases(rows):
        for row in pick(own, kind="shared"):
            yield Reading("shared", row["own"], row["random"], units, gates)
            yield Reading("longer", row["longer"], row["random_longer"], units, gates)
