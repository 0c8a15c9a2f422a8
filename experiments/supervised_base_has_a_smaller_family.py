"""Has a supervised base fewer orthogonal repetitions than a MELBO base, and does the family add up to it?

Source: a comment on the post (few true directions; a supervised vector would show it); hypothesis H8.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, read_bases
from experiments.lab.directions import cosine, mean_difference
from mi_ortho import ActivationMap
from mi_ortho.multiplicity import shuffled
from mi_ortho.stats import Count

MISSED = 0.5**0.5  # relative loss at which half of the squared effect is missed


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and the prompts of each kind that the mean difference is made of."""

    prompts: int = 8


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the counts around it, a supervised and a random base, and what its family adds up to."""
    each_base(config, bench, lambda base: measure(base, mean_difference(base, config.prompts)))


def measure(base: Base, direction: Tensor | None) -> None:
    """Record one base; nothing where no prompts ask for its behaviour."""
    if direction is None:
        return
    random = base.random(torch.full((1,), base.norm).to(base.vector), 9)[0]
    record(base, "melbo", base.vector)
    for group, other in (("supervised", direction), ("random", random)):
        if (scaled := equalised_base(base.z, other, base.vector)) is not None:
            record(base, group, scaled)
    total = base.family("kl").vectors.sum(0)
    turned = [abs(cosine(total, one)) for one in shuffled(direction, 20, base.generator(10))]
    base.bench.record(
        kind="sum", **base.units, cosine=cosine(total, direction), shuffled=float(torch.tensor(turned).mean())
    )


def record(base: Base, group: str, around: Tensor) -> None:
    """One row: how many vectors repeat this one, and how strongly it shows the behaviour."""
    family = base.family() if group == "melbo" else base.around(around, f"the {group} base")
    count, effect = family.count(loss=MISSED), float(base.effect(around[None])[0])
    numbers = {"found": count.value, "censored": count.censored, "norm": float(around.norm()) / base.norm}
    base.bench.record(kind="count", **base.units, group=group, effect=effect, **numbers)


@torch.no_grad()
def equalised_base(z: ActivationMap, direction: Tensor, base: Tensor, most: float = 8.0) -> Tensor | None:
    """The direction at the smallest norm where it moves the target as far as the base; None above `most` base norms."""
    origin = z(torch.zeros_like(base)[None])[0]
    distance = (z(base[None])[0] - origin).double().norm()
    unit = direction * (base.norm() / direction.norm())

    def short(scale: float) -> float:
        return float(distance - (z(scale * unit[None])[0] - origin).double().norm())

    # a grid only to find the first root among several; where it lies between two points is solved for
    scales = [most * k / 160 for k in range(161)]
    beyond = next((k for k, scale in enumerate(scales) if k and short(scale) <= 0), None)
    if beyond is None:
        return None
    solved: Any = brentq(short, scales[beyond - 1], scales[beyond], rtol=1e-10)  # pyright: ignore[reportArgumentType]
    return float(solved) * unit


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """The supervised count against the MELBO base's and a random one's, and the sum against shuffled directions."""
    for units, gates, own in read_bases(rows):
        found = {row["group"]: row for row in pick(own, kind="count")}
        counts = {group: Count(row["found"], row["censored"]) for group, row in found.items()}
        if "supervised" in counts:
            checks = {**gates, "reachable": found["supervised"]["effect"]}
            yield Reading("smaller", counts["supervised"], counts["melbo"], units, gates)
            yield Reading("works", counts["supervised"], counts["melbo"], units, checks)
            yield Reading("random", counts["supervised"], counts.get("random"), units, gates)
        for row in pick(own, kind="sum"):
            yield Reading("sum", row["cosine"], row["shuffled"], units, gates)
