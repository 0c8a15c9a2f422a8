"""Does the divergence at the last prompt token rank the vectors as the divergence along the whole answer does?

Source: the post measures KL at the last prompt token only, and its author later called it misleading; hypothesis H15.
    The order is only as good as the ruler: two halves of the answer must agree on it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, rank_correlation, read_bases
from mi_ortho.model import kl_divergence

TRIED = 48  # vectors of a family, spread over all of it
ORDERS = 20  # of the control


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the rank correlations of its family's divergences."""
    each_base(config, bench, measure)


@torch.no_grad()
def measure(base: Base) -> None:
    """Record one base."""
    vectors = base.family().spread(TRIED)
    numbers = examine(by_position(base, vectors), base.effect(vectors))
    base.bench.record(kind="ranks", **base.units, n=len(vectors), **numbers)


def by_position(base: Base, vectors: Tensor) -> Tensor:
    """KL(base || vector) of every vector at every token of the base's answer, mean over prompts: n x answer."""
    goal, rows = base.yard.behaviour, []
    for part in vectors.split(8):
        logits = goal.z(part)
        real, target = goal.real.view(logits.shape[1:3]) > 0, goal.goal.view(logits.shape[1:]).expand_as(logits)
        divergences = kl_divergence(p_logits=target, q_logits=logits) * real
        rows.append((divergences.sum(1) / real.sum(0).clamp_min(1))[:, real.any(0)])
    return torch.cat(rows)


def examine(divergences: Tensor, effects: Tensor) -> dict[str, float | None]:
    """Rank correlations of the first token with the rest and with the effect, of halves of the rest, and by chance."""
    first, rest = divergences[:, 0].tolist(), divergences[:, 1:]
    halves = [rest[:, start::2].mean(1).tolist() for start in (0, 1)]
    row: dict[str, float | None] = {"halves": rank_correlation(*halves)}
    for name, other in (("rest", rest.mean(1).tolist()), ("effect", (-effects).tolist())):
        chance = [rank_correlation(first, other, order=order) for order in range(1, ORDERS + 1)]
        numbers = [each for each in chance if each is not None]
        row |= {name: rank_correlation(first, other), f"{name}_shuffled": fmean(numbers) if numbers else None}
    return row


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Both correlations against those of shuffled orders; how far halves of the answer agree is a check."""
    for units, gates, own in read_bases(rows):
        for row in pick(own, kind="ranks"):
            reliable = {**gates, **({} if row["halves"] is None else {"reliable": row["halves"]})}
            for name in ("rest", "effect"):
                yield Reading(name, row[name], row[f"{name}_shuffled"], units, reliable)
