"""Do effects of the vectors compose like a quadratic form of their own, neither like one direction nor like features?

Source: Turner's and nostalgebraist's comments on means and sums of the vectors; decisive experiment D3. Means of n
    equal vectors work at the scale n^(1 - 1/p): 1/p is 1 for one direction, 0 for separate features, 1/2 for a
    quadratic form. But 1/2 is what every round level set gives, so it is also measured where the behaviour is not:
    around a random base, and with half of the vectors taken from another behaviour's family or from outside both.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import (
    Base,
    Bench,
    Place,
    Ranking,
    Reading,
    bases_of,
    each_base,
    needs,
    pick,
    random_order,
    read_bases,
)
from mi_ortho.interventions import span
from mi_ortho.multiplicity import smallest_scale
from mi_ortho.pages import Estimate
from mi_ortho.stats import Measured, subsampled

HALF = 0.5  # of the base's effect
SIZES = (2, 4)  # of means
TRIED, LEAST = 12, 8  # vectors, and fewest that tell anything
SUBSETS, MIXTURES = 40, 16  # means of each size
Effect = Callable[[Tensor], Tensor]
Subsets = Mapping[int, Tensor]


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=12, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base how its family composes by itself, with others, and negated."""
    every = bases_of(bench, config)
    each_base(config, bench, lambda base: measure(base, other_of(base, every)), every)


def other_of(base: Base, every: Sequence[Base]) -> Base | None:
    """A base of another behaviour: the one of the same number, if there is one."""
    others = [one for one in every if one.behaviour != base.behaviour]
    return min(others, key=lambda one: abs(one.index - base.index), default=None)


@torch.no_grad()
def measure(base: Base, other: Base | None) -> None:
    """Record one base."""
    family = base.family("kl")
    few, random = family.spread(TRIED), base.random(family.spread(TRIED).norm(dim=-1), 51)
    kept, flipped, chance = (float(base.effect(each).mean()) for each in (few, -few, random))
    base.bench.record(kind="signs", **base.units, kept=kept, negated=flipped, random=chance)
    vectors = alone(base.effect, family.spread(2 * TRIED))[:TRIED]
    if len(vectors) >= LEAST:
        subsets = subsets_of(len(vectors), base.generator(52))
        nulls = {"one direction": line(vectors), "features": features(vectors)}
        for group, effect in {"family": base.effect, **nulls}.items():
            record(base, group, inverse(effect, vectors, subsets, base.generator(53)))
        mixtures(base, vectors, other)
    random_base = base.displaced(1, 13)[0]
    for group, around, grown in (
        ("activations", base.vector, base.family()),
        ("random base", random_base, base.around(random_base, "displaced")),
    ):
        effect = towards(base, around)
        vectors = alone(effect, grown.spread(2 * TRIED))[:TRIED]
        if len(vectors) >= LEAST:
            subsets = subsets_of(len(vectors), base.generator(52))
            record(base, group, inverse(effect, vectors, subsets, base.generator(53)))


def record(base: Base, group: str, measured: Measured) -> None:
    """One row: 1/p of a set of vectors, with the interval that other vectors would have given."""
    low, high = measured.interval or (None, None)
    numbers = {"inverse": measured.value, "low": low, "high": high, "n": measured.n}
    base.bench.record(kind="composition", **base.units, group=group, **numbers)


def alone(effect: Effect, vectors: Tensor, high: float = 2.0) -> Tensor:
    """The vectors that reach half of the effect at some scale up to a highest one, each where it just does."""
    if not len(vectors):
        return vectors
    scales = smallest_scale(effect, vectors, HALF, low=1 / 16, high=high, grid=9, refine=6)
    able = scales.isfinite()
    return vectors[able.to(vectors.device)] * scales[able].to(vectors)[:, None]


def needed(effect: Effect, means: Tensor, n: int) -> Tensor:
    """The scales at which means of n vectors reach half of the effect; twice a sum's where none does."""
    scales = smallest_scale(effect, means, HALF, low=0.5, high=2.0 * n, grid=2 + n.bit_length(), refine=6)
    return scales.clamp_max(2.0 * n)


def subsets_of(count: int, generator: torch.Generator) -> Subsets:
    """Random subsets of each size, without repetition."""
    every = {n: torch.combinations(torch.arange(count), n) for n in SIZES}
    return {n: each[random_order(len(each), generator)[:SUBSETS].cpu()] for n, each in every.items()}


def inverse(effect: Effect, vectors: Tensor, subsets: Subsets, generator: torch.Generator) -> Measured:
    """1/p of vectors that each just work, and its interval from parts of them with the subsets that lie inside."""
    scales = {n: needed(effect, vectors[each].mean(1), n).log() for n, each in subsets.items()}

    def statistic(kept: Tensor) -> float:
        inside = {n: scales[n][torch.isin(each, kept).all(-1)] for n, each in subsets.items()}
        logs = {n: float(each.quantile(0.5)) for n, each in inside.items() if len(each)}
        slope = sum(math.log(n) * log for n, log in logs.items()) / sum(math.log(n) ** 2 for n in logs)
        return 1 - slope

    return subsampled(statistic, len(vectors), generator=generator, kept=2 * len(vectors) // 3)


def line(vectors: Tensor) -> Effect:
    """The linear effect of which each of these orthogonal vectors has half."""
    direction = HALF * (vectors / vectors.square().sum(-1, keepdim=True)).sum(0)
    return lambda theta: theta @ direction


def features(vectors: Tensor) -> Effect:
    """The largest of separate features, one for each of these orthogonal vectors."""
    return lambda theta: HALF * (theta @ (vectors / vectors.square().sum(-1, keepdim=True)).mT).amax(-1)


def towards(base: Base, around: Tensor) -> Effect:
    """The displacement of the target along that by a vector, as a share of it."""
    return lambda theta: base.along(theta, around[None])


def mixtures(base: Base, vectors: Tensor, other: Base | None) -> None:
    """Record log2 of the scale of means of two of these vectors and two others over that of means of four of these.

    It is 1/p where the others do nothing, and 0 where they do as much. All are as long as those they take the place of.
    """
    foreign = other.family("kl").working()[: len(vectors)] if other else vectors[:0]
    outside = span(torch.cat([vectors, foreign])).reject(base.random(vectors.norm(dim=-1), 55))
    generator, count = base.generator(54), len(vectors)
    first, order = (
        torch.stack([random_order(count, generator)[:4] for _ in range(MIXTURES)]).to(vectors.device) for _ in range(2)
    )
    reference = needed(base.effect, vectors[first].mean(1), 4).log2().quantile(0.5)
    for name, added in {"own": vectors, "outside": outside, "other": foreign}.items():
        if len(added):
            unit = torch.nn.functional.normalize(added[order[:, 2:] % len(added)], dim=-1)
            added = unit * vectors[order[:, 2:]].norm(dim=-1, keepdim=True)
            means = torch.cat([vectors[order[:, :2]], added], dim=1).mean(1)
            ratio = float(needed(base.effect, means, 4).log2().quantile(0.5) - reference)
            moved = float(base.displacement(added.flatten(0, 1)).mean() / base.displacement(vectors).mean())
            base.bench.record(kind="mixture", **base.units, added=name, log_ratio=ratio, moved=moved)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """1/p against both simple stories and a random base's, mixtures against the family's own, signs against chance."""
    for units, gates, own in read_bases(rows):
        inverses = {row["group"]: row["inverse"] for row in pick(own, kind="composition")}
        ratios = {row["added"]: row["log_ratio"] for row in pick(own, kind="mixture")}
        for key, value, control in (
            ("one_direction", inverses.get("family"), inverses.get("one direction")),
            ("features", inverses.get("family"), inverses.get("features")),
            ("round", inverses.get("activations"), inverses.get("random base")),
            ("outside", ratios.get("outside"), ratios.get("own")),
            ("other", ratios.get("other"), ratios.get("own")),
        ):
            yield Reading(key, value, control, units, gates)
        for row in pick(own, kind="signs"):
            if row["kept"] > 0:
                yield Reading("negated", row["negated"] / row["kept"], row["random"] / row["kept"], units, gates)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """1/p of every base's family, with intervals over its vectors."""
    part = pick(rows, kind="composition", group="family")
    estimates = tuple(
        Estimate(f"{row['behaviour']} {row['base']}", row["inverse"], (row["low"], row["high"]), "value")
        for row in part
        if row["inverse"] is not None and row["low"] is not None
    )
    caption = "Intervals over vectors, with all subsets formed anew. 1: one direction; 0: separate features."
    return [Ranking("1/p of each base's family", caption, estimates, 0.5)] if estimates else []
