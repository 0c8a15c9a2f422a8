"""Do orthogonal vectors overlap once they are added to an activation and normalised, as the next block sees them?

Source: a comment on the post (not orthogonal after adding to x and LayerNorm); hypothesis H13. The norm makes long
    vectors of any kind overlap, so the family is compared with random orthogonal vectors at the same activations.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, read_bases
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.model import ordinary_activations
from mi_ortho.nulls import with_norms

TRIED = 24  # vectors of a family, spread over all of it


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the overlap of its family and of random vectors behind the norm."""
    each_base(config, bench, measure)


def measure(base: Base) -> None:
    """Record one base; attention sinks are left out of the activations."""
    model, vectors = base.setting.model, base.family("kl").spread(TRIED)
    at = ordinary_activations(model, base.setting.prompts(base.texts), base.setting.site).float()
    centred = str(getattr(model.cfg, "normalization_type", "RMS")).startswith("LN")
    norms = vectors.norm(dim=-1)
    controls = {
        "random": [base.random(norms, stage) for stage in (31, 32)],
        "covariance": [base.covariant(norms, stage) for stage in (33, 34)],
    }
    if len(vectors) > 1:
        relative = float((norms.mean() / at.norm(dim=-1)).median())
        numbers = examine(vectors, at, centred, controls)
        base.bench.record(kind="overlap", **base.units, n=len(vectors), relative_length=relative, **numbers)


def examine(vectors: Tensor, at: Tensor, centred: bool, controls: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """The overlap of a family and of two sets of each control, made orthogonal with its norms."""
    row = {"family": overlap(vectors, at, centred)}
    for name, sets in controls.items():
        orthogonal = [with_norms(orthonormal_rows(each), vectors.norm(dim=-1)) for each in sets]
        row |= {f"{name}{k}": overlap(each, at, centred) for k, each in enumerate(orthogonal)}
    return row


def overlap(vectors: Tensor, at: Tensor, centred: bool) -> float:
    """Mean cosine between the changes of two vectors behind the norm, over pairs and positions."""
    changes = normalised(at[:, None] + vectors, centred) - normalised(at[:, None], centred)
    unit = torch.nn.functional.normalize(changes, dim=-1)
    pairs = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    return float((unit @ unit.mT)[:, pairs].mean())


def normalised(x: Tensor, centred: bool) -> Tensor:
    """Each row after the model's normalisation: length sqrt(d_model), around its mean where that is subtracted."""
    x = x - x.mean(-1, keepdim=True) if centred else x
    return x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """The family's overlap beyond that of each control, against another set of the same control."""
    for units, gates, own in read_bases(rows):
        for row in pick(own, kind="overlap"):
            for name in ("random", "covariance"):
                chance = row[f"{name}0"]
                yield Reading(name, row["family"] - chance, row[f"{name}1"] - chance, units, gates)
