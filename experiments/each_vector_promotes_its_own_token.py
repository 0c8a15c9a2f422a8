"""Does each vector promote a token of its own, so that a family is a list of words that answers can begin with?

Source: a comment on the post (each vector stands for one code token to be output soon); hypothesis H12.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, read_bases
from mi_ortho import ActivationMap

TAKEN, LEAST = 24, 4  # vectors of a family, spread over it
DOSE = 0.9  # at which a vector is compared with itself


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the tokens that its family raises, and those that random vectors do."""
    each_base(config, bench, lambda base: measure(base, base.yard.behaviour.z))


@torch.no_grad()
def measure(base: Base, z: ActivationMap) -> None:
    """Record one base, given its map to the logits of an answer; nothing where its family is too small."""
    vectors = base.family("kl").before_end(base.place.lost, TAKEN)
    if len(vectors) < LEAST:
        return
    for group, rows in {"family": vectors, **base.orthogonal(vectors, 19)}.items():
        lifts, shorter = changes(z, rows), changes(z, DOSE * rows)
        top = lifts.argmax(-1).unique()
        alike = torch.nn.functional.cosine_similarity(lifts, shorter, dim=-1).mean().clamp(-1, 1)
        numbers = {"different": len(top) / len(rows), "cosine": mean_cosine(lifts), "itself": float(alike)}
        base.bench.record(kind="tokens", **base.units, group=group, n=len(rows), top=top.tolist(), **numbers)


def changes(z: ActivationMap, vectors: Tensor) -> Tensor:
    """Change of the log-probabilities at the first token of the answer, mean over prompts, centred: n x vocabulary."""

    def first(theta: Tensor) -> Tensor:
        return z(theta)[:, :, 0].log_softmax(-1).mean(1)

    moved = torch.cat([first(part) for part in vectors.split(8)]) - first(torch.zeros_like(vectors[:1]))
    return moved - moved.mean(-1, keepdim=True)


def mean_cosine(rows: Tensor) -> float:
    """Of all pairs."""
    unit = torch.nn.functional.normalize(rows, dim=-1)
    return float(((unit.sum(0).square().sum() - len(rows)) / (len(rows) * (len(rows) - 1))).clamp(-1, 1))


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Shares of different tokens against both kinds of random vectors, and cosines against those of equal vectors."""
    for units, gates, own in read_bases(rows):
        groups = {row["group"]: row for row in pick(own, kind="tokens")}
        if groups:
            family = groups["family"]
            yield Reading("different", family["different"], groups["random"]["different"], units, gates)
            yield Reading("displaced", family["different"], groups["displaced"]["different"], units, gates)
            yield Reading("alike", family["cosine"], family["itself"], units, gates)
