"""Does searching for the difference between paired prompts find vectors that act on one side only?

Source: comment on deep causal transcoding that proposes a differential objective ("truth serum") and expects many
    variants to beat their average. Pairs are shipped requests, harmful in form and harmless, with the same words else.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Reading, as_far, change, needs, unbased
from mi_ortho import ActivationMap, FunctionMap, displace, melbo, random_vectors
from mi_ortho.behaviours import INCOHERENT
from mi_ortho.model import shipped_prompts
from mi_ortho.nulls import with_norms
from mi_ortho.steering import complete

Pair = tuple[ActivationMap, ActivationMap]


@dataclass(frozen=True)
class Config(Place):
    """Where to steer, at which norm, how many pairs in groups to search on and to try on, and vectors of a search."""

    pairs: int = 32
    train: int = 2
    held_out: int = 2
    variants: int = 4
    steps: int = 10


SMOKE = Config(pairs=8, variants=2, steps=3)
NEEDS = (needs.blocks("source", "target"),)


def run(config: Config, bench: Bench) -> None:
    """One row for each group of pairs; no pair is in two of them."""
    texts = [shipped_prompts(kind).instructions[: config.pairs] for kind in ("harmful", "harmless")]
    pairs, size = list(zip(*texts, strict=True)), config.train + config.held_out
    place = replace(config, readout="1")
    for index in range(len(pairs) // size):
        if not bench.has(prompt=index):
            part = pairs[index * size : (index + 1) * size]
            group = [(unbased(bench, place, (one,)), unbased(bench, place, (other,))) for one, other in part]
            maps = [(one.z, other.z) for one, other in group]
            vectors = search(maps[: config.train], config, bench.generator(config.seed * 1009 + index))
            numbers = examine(maps[: config.train], maps[config.train :], vectors)
            bench.record(prompt=index, **numbers, **answers(group[config.train :], vectors))
        bench.track("group", index + 1, len(pairs) // size)


def search(pairs: Sequence[Pair], config: Config, generator: torch.Generator) -> dict[str, Tensor]:
    """Vectors found on the difference of the sides, on the first side alone, and on differences inside each side, and
    random ones; each turned to act on the first side more.
    """
    first, second = sides(pairs)
    inside = sides([(one[k], other[k]) for k in (0, 1) for one, other in zip(pairs, pairs[1:])])
    maps = {"differential": between(first, second), "plain": first, "inside": between(*inside)}
    options = {"radius": config.radius, "n": config.variants, "max_steps": config.steps, "generator": generator}
    families = {name: torch.stack([each.vector for each in melbo(displace(z), **options)]) for name, z in maps.items()}
    families["random"] = random_vectors(config.variants, first.d_model, config.radius, generator)
    return {name: facing(first, second, vectors) for name, vectors in families.items()}


def sides(pairs: Sequence[Pair]) -> Pair:
    """The maps of all first prompts as one, and of all second prompts."""
    first, second = ([pair[k] for pair in pairs] for k in (0, 1))
    return joined(first), joined(second)


def joined(maps: Sequence[ActivationMap]) -> ActivationMap:
    """What all of them give, side by side."""
    return FunctionMap(lambda theta: torch.cat([z(theta).flatten(theta.ndim - 1) for z in maps], -1), maps[0].d_model)


def between(first: ActivationMap, second: ActivationMap) -> ActivationMap:
    """The difference of two maps."""
    return FunctionMap(lambda theta: first(theta) - second(theta), first.d_model)


def facing(first: ActivationMap, second: ActivationMap, vectors: Tensor) -> Tensor:
    """Each vector or its negative, whichever acts more on the first side: displacement leaves the sign open."""
    better = specificity(first, second, vectors) >= specificity(first, second, -vectors)
    return torch.where(better[:, None], vectors, -vectors)


def specificity(first: ActivationMap, second: ActivationMap, vectors: Tensor) -> Tensor:
    """log |z(theta) - z(0)| on the first side minus that on the second, one value a vector."""
    one, other = (change(z, vectors).norm(dim=-1) for z in (first, second))
    return (one / other).log()


def examine(train: Sequence[Pair], held_out: Sequence[Pair], vectors: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean specificity on pairs not searched on of every family, its best vector in training, its mean, and of all its
    vectors where they move the first side as far as the differential ones do.
    """
    (first, second), unseen = sides(train), sides(held_out)
    wanted = change(first, vectors["differential"]).norm(dim=-1).mean()
    row = {f"train_{name}": float(specificity(first, second, each).mean()) for name, each in vectors.items()}
    reached = {name: float(change(between(first, second), each).norm(dim=-1).mean()) for name, each in vectors.items()}
    row["strong"] = reached["differential"] / reached["random"]
    for name, each in vectors.items():
        best = each[specificity(first, second, each).argmax()][None]
        average = with_norms(each.mean(0, keepdim=True), each[:1].norm(dim=-1))
        far = as_far(first, each, wanted)
        sets = {name: each, f"{name}_best": best, f"{name}_average": average, f"{name}_far": far}
        row |= {key: float(specificity(*unseen, some).mean()) for key, some in sets.items()}
        row[f"{name}_moved"] = float(change(first, far).norm(dim=-1).mean())
    return row


def answers(pairs: Sequence[tuple[Base, Base]], vectors: Mapping[str, Tensor]) -> dict[str, float]:
    """By the differential and the plain vectors, the share of either side's answers that change to another mode."""
    row: dict[str, float] = {}
    for name in ("differential", "plain"):
        for k, side in enumerate(("first", "second")):
            texts, setting = [pair[k].texts[0] for pair in pairs], pairs[0][k].setting
            plain, *steered = complete(setting, texts, torch.cat([torch.zeros_like(vectors[name][:1]), vectors[name]]))
            turned = [
                one.mode not in (before.mode, INCOHERENT)
                for each in steered
                for before, one in zip(plain, each, strict=True)
            ]
            row[f"{name}_{side}"] = sum(turned) / len(turned)
    return row


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Gains beyond the plain search, beside those of differences inside the sides; the best variant; answers."""
    for row in rows:
        if "differential" in row:
            unit = {"prompt": row["prompt"]}
            moved = [row[f"{name}_moved"] for name in ("differential", "plain", "inside")]
            gates = {
                "strong": row["strong"],
                "displacement": max(moved) / min(moved),
                "turned": sum(
                    row[f"{name}_{side}"] for name in ("differential", "plain") for side in ("first", "second")
                )
                / 4,
            }
            for key, end in (("gain", ""), ("far", "_far")):
                gain, control = (row[f"{name}{end}"] - row[f"plain{end}"] for name in ("differential", "inside"))
                yield Reading(key, gain, control, unit, gates)
            best, control = (row[f"{name}_best"] - row[f"{name}_average"] for name in ("differential", "random"))
            yield Reading("best", best, control, unit, gates)
            one_sided, control = (row[f"{name}_first"] - row[f"{name}_second"] for name in ("differential", "plain"))
            yield Reading("answers", one_sided, control, unit, gates)
