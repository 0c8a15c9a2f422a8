"""Are there more orthogonal vectors with an effect than a linear response allows at their norm and loss?

Source: the ">800 vectors" claim and the capacity bound N <= (norm / nu)^2 of a linear map; decisive experiment D1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, read_bases
from mi_ortho import LinearMap, match
from mi_ortho.derivatives import mean_jacobian
from mi_ortho.nulls import ridge_capacity
from mi_ortho.stats import Count

LOSS = 0.5  # at which the verdicts are read
LOSSES = (0.3, 0.5, 0.7, 0.9)
AT_BASE, STANDARD = "the base's norm", "standard"


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base, cap and loss the counts on the model and on the linear map, and the bound."""
    each_base(config, bench, measure)


def measure(base: Base) -> None:
    """Record one base; the linear map is the mean Jacobian on the base's path, which has exactly its effect."""
    matrix = mean_jacobian(base.z, base.vector)
    linear = match(LinearMap(matrix, matrix.new_zeros(len(matrix))), base.vector)
    for name, cap in ((AT_BASE, 1.0), (STANDARD, base.place.norm_cap)):
        families = {
            "found": base.family(cap=cap),
            "linear": base.grow("activation on the linear map", linear, base.vector, cap=cap),
        }
        for loss in LOSSES:
            row: dict[str, Any] = {"bound": ridge_capacity(matrix, matrix @ base.vector, cap * base.norm, loss)}
            for kind, family in families.items():
                count = family.count(loss=loss)
                row |= {kind: int(count.value) + 1, f"{kind}_censored": count.censored}  # the base is one of them
            base.bench.record(kind="count", **base.units, cap=name, times=cap, loss=loss, **row)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Counts with the base against the bound, against the search on the linear map, and against the base's norm."""
    for units, gates, own in read_bases(rows):
        caps = {row["cap"]: row for row in pick(own, kind="count", loss=LOSS)}
        if len(caps) == 2:
            wide, narrow = caps[STANDARD], caps[AT_BASE]
            bound = Count(wide["bound"], False)
            yield Reading("bound", counted(wide, "found"), bound, units, gates)
            yield Reading("linear", counted(wide, "found"), counted(wide, "linear"), units, gates)
            yield Reading("sound", counted(wide, "linear"), bound, units, gates)
            yield Reading("growth", counted(wide, "found"), counted(narrow, "found"), units, gates)


def counted(row: Mapping[str, Any], kind: str) -> Count:
    """The count of a row, at least so many where its search was cut off."""
    return Count(row[kind], row[f"{kind}_censored"])
