"""Are there as many vectors at the base's own norm?

Source: the post's guess that an L2 penalty would give vectors of equal norms without losing them; hypothesis H3.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, read_bases
from mi_ortho.elicitation import Penalised
from mi_ortho.stats import Count

WEIGHT = 0.1
HALF = 0.5  # of the base's effect


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the counts and lengths of its family with three limits on the norm."""
    each_base(config, bench, measure)


def measure(base: Base) -> None:
    """Record one base: below the cap, at the base's norm, and with a penalty and without a cap."""
    penalised = Penalised(base.yard.behaviour, WEIGHT, base.norm)
    families = {
        "cap": base.family("kl"),
        "fixed": base.grow("kl", base.yard.behaviour, base.vector, cap=1.0, fixed=True),
        "penalised": base.grow(f"kl penalised {WEIGHT}", penalised, base.vector, cap=float("inf")),
    }
    for limit, family in families.items():
        count, norms = family.count(effect=HALF), family.vectors.norm(dim=-1)
        length = float(norms.median()) / base.norm if len(norms) else None
        numbers = {"count": count.value, "censored": count.censored, "length": length}
        base.bench.record(kind="limit", **base.units, limit=limit, **numbers)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Counts and lengths against those below the cap."""
    for units, gates, own in read_bases(rows):
        limits = {row["limit"]: row for row in pick(own, kind="limit")}
        counts = {limit: Count(row["count"], row["censored"]) for limit, row in limits.items()}
        if limits:
            yield Reading("fixed", counts["fixed"], counts["cap"], units, gates)
            yield Reading("penalised", counts["penalised"], counts["cap"], units, gates)
            yield Reading("length", limits["penalised"]["length"], limits["cap"]["length"], units, gates)
