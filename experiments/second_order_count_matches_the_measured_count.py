"""Is the number of orthogonal vectors with an effect the one that the effect's second-order spectrum allows?

Source: the Schur-Horn count from gradient and Hessian of the effect at 0; decisive experiment D5. The effect is the
    displacement of the target along the base's: a posterior has no slope at 0, where it is nearly 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, read_bases
from mi_ortho import ActivationMap, FunctionMap
from mi_ortho.derivatives import effect_hessian, pullback
from mi_ortho.elicitation import Match
from mi_ortho.nulls import second_order_count
from mi_ortho.stats import Count

SHARE = 0.5  # of the base's effect that each vector is to have, exactly: more would leave less for the others
MISSED = 0.05  # of it, from which a vector counts no longer
STEP = 16  # vectors between two looks at whether the family has ended
Effect = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and how their vectors are searched for."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the counts at its norm: predicted, on the map, and on its second-order expansion."""
    each_base(config, bench, measure)


def measure(base: Base) -> None:
    """Record one base. A prediction that the width or the clamp on the spectrum cuts off is not open."""
    effect, origin = effect_of(base.z, base.vector), torch.zeros_like(base.vector)
    hessian = effect_hessian(effect, origin)
    gradient = pullback(effect, origin, torch.ones(1, 1).to(base.vector))[0]
    values, slope = torch.linalg.eigvalsh(hessian) / 2, float(gradient.norm())
    allowed = second_order_count(values, slope, base.norm, SHARE)
    unclamped = int((values >= -1e-6 * values.abs().max()).sum())

    def expansion(theta: Tensor) -> Tensor:
        return theta @ gradient + (theta @ hessian * theta).sum(-1) / 2

    row: dict[str, Any] = {
        "predicted": allowed,
        "open": int(allowed < min(unclamped, len(origin) - 2)),
        "first_order": second_order_count(torch.zeros_like(values), slope, base.norm, SHARE),
    }
    for name, one in (("measured", effect), ("expansion", expansion)):
        count = counted(base, f"half of the displacement, {name}", one)
        row |= {name: int(count.value), f"{name}_censored": count.censored}
    base.bench.record(kind="count", **base.units, **row)


def effect_of(z: ActivationMap, base: Tensor) -> Effect:
    """theta to its share of the base's effect: <z(theta) - z(0), z(base) - z(0)> / |z(base) - z(0)|^2."""
    with torch.no_grad():
        start = z(torch.zeros_like(base)[None]).flatten(1)
        change = z(base[None]).flatten(1)[0] - start[0]
    return lambda theta: (z(theta).flatten(1) - start) @ change / change.square().sum()


def counted(base: Base, name: str, effect: Effect) -> Count:
    """How many orthogonal vectors of the base's norm have the share of its effect, the base among them."""
    width, lost = len(base.vector), base.place.lost
    goal = Match(FunctionMap(lambda theta: effect(theta)[..., None], width), base.vector.new_tensor([SHARE]), SHARE)
    bare = replace(base, behaviour="")  # nobody asks for the posterior under each of these vectors
    limit = base.place.most or width - 2
    most, ended, missed = 0, False, torch.zeros(0)
    while not ended and most < limit:
        most = min(most + STEP, limit)
        family = bare.grow(f"{name}, {base.behaviour}", goal, base.vector, cap=1.0, fixed=True, most=most)
        missed = family.losses > MISSED
        ended = family.ended or (len(missed) >= lost and bool(missed[-lost:].all()))
    return Count(int((~missed).sum()) + 1, not ended)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """The count against the predicted one, and how far off it is beside the count that the gradient alone allows."""
    for units, gates, part in read_bases(rows):
        for row in pick(part, kind="count"):
            checks = {**gates, "open": row["open"], "sensitive": row["expansion"] / max(row["predicted"], 1)}
            measured = Count(row["measured"], row["measured_censored"])
            predicted = Count(row["predicted"], not row["open"])
            yield Reading("most", measured, predicted, units, checks)
            yield Reading("least", measured, predicted, units, checks)
            off, first = (
                None if measured.censored or predicted.censored else abs(log2((row["measured"] + 1) / (row[name] + 1)))
                for name in ("predicted", "first_order")
            )
            yield Reading("factor", off, first, units, checks)
