"""Do the orthogonal vectors share a component along the mean difference of the behaviour's own prompts?

Source: Fabien Roger's comment (a component along d plus noise), with Kaarel's bound on how large it can be; H9.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, read_bases
from experiments.lab.directions import cosine, mean_difference
from mi_ortho.multiplicity import shuffled, sign_coherence_test
from mi_ortho.nulls import bessel_mass

SHUFFLES = 20


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and the prompts of each kind that the direction is made of."""

    prompts: int = 8


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the signs and the mass of its family along the mean difference of its behaviour."""
    each_base(config, bench, lambda base: measure(base, config))


def measure(base: Base, config: Config) -> None:
    """Record one base; its family's share of the direction is left out where no prompts ask for its behaviour."""
    direction = mean_difference(base, config.prompts)
    vectors = base.family("kl").vectors
    if direction is not None and len(vectors):
        along = {"base_cosine": cosine(base.vector, direction), **examine(vectors, direction, base.generator(2))}
        base.bench.record(kind="shared", **base.units, **along)


def examine(vectors: Tensor, direction: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """Signs and sum of squared cosines along a direction, and along shuffled ones.

    A direction has no sign of its own: each is counted on its better side, the shuffled ones too.
    """
    chance, shuffles = len(vectors) / vectors.shape[1], shuffled(direction, SHUFFLES, generator)
    positive, sides = sign_coherence_test(vectors, direction).share, (vectors @ shuffles.mT > 0).double().mean(0)
    return {
        "n": len(vectors),
        "signs": max(positive, 1 - positive),
        "mass": log2(max(bessel_mass(vectors, direction), 1e-12) / chance),
        "shuffled_signs": float(torch.maximum(sides, 1 - sides).mean()),
        "shuffled_mass": fmean(log2(max(bessel_mass(vectors, one), 1e-12) / chance) for one in shuffles),
    }


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Signs and mass against those of shuffled directions."""
    for units, gates, own in read_bases(rows):
        for row in pick(own, kind="shared"):
            yield Reading("signs", row["signs"], row["shuffled_signs"], units, gates)
            yield Reading("mass", row["mass"], row["shuffled_mass"], units, gates)
