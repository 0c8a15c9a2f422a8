"""Does a family live on rounding errors?

Source: comments on the post's orthogonality check, which saw only parts of the matrix of cosines; hypothesis H16.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, read_bases
from mi_ortho import max_abs_cosine
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.nulls import with_norms

SMALL, TURN = 0.01, 0.1  # of a vector's length


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base cosines and changes of effects."""
    each_base(config, bench, measure)


def exact(base: Tensor, vectors: Tensor) -> Tensor:
    """Orthogonal to the base and to each other in float64, with their norms."""
    unit = orthonormal_rows(torch.cat([base[None], vectors]).double())[1:]
    return with_norms(unit, vectors.double().norm(dim=-1)).to(vectors)


@torch.no_grad()
def measure(base: Base) -> None:
    """Record one base."""
    vectors = base.family("kl").vectors
    norms = vectors.norm(dim=-1)
    random = base.random(norms, 16)
    nudged, turned = (with_norms(vectors + share * random, norms) for share in (SMALL, TURN))
    before = base.effect(vectors)
    base.bench.record(
        kind="exact",
        **base.units,
        n=len(vectors),
        cosine=max_abs_cosine(torch.cat([base.vector[None], vectors])),
        nudged_cosine=max_abs_cosine(torch.cat([base.vector[None], nudged])),
        change=float((base.effect(exact(base.vector, vectors)) - before).abs().max()),
        turned=float((base.effect(turned) - before).abs().max()),
    )


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Cosines and changes, against vectors that are turned a little."""
    for units, gates, own in read_bases(rows):
        for row in pick(own, kind="exact"):
            yield Reading("cosine", row["cosine"], row["nudged_cosine"], units, gates)
            yield Reading("change", row["change"], row["turned"], units, gates)
