"""Does a family of orthogonal vectors belong to what its base does?

Source: the controls the post does not have; hypotheses H1 and H2, decisive experiment D6.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from experiments.lab import Base, Bench, Family, Place, Reading, each_base, needs, pick, read_bases, unbased
from experiments.lab.kept import with_model
from mi_ortho import displace, melbo
from mi_ortho.model import load_shuffled, load_untrained
from mi_ortho.stats import Count
from mi_ortho.studies.shared import DTYPES

MISSED = 0.5**0.5  # relative loss at which half of the squared effect is missed
NETWORKS = {"untrained": load_untrained, "shuffled": load_shuffled}


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """One row for each base and each thing its family is compared with."""
    networks: dict[str, Bench] = {}
    each_base(config, bench, lambda base: measure(base, networks))


def measure(base: Base, networks: dict[str, Bench]) -> None:
    """Record one base: the counts of its family and of every control's."""
    norm = torch.full((1,), base.norm).to(base.vector)
    record(base, "behaviour", base, base.family())
    for group, other in (
        ("random", base.random(norm, 13)),
        ("displaced", base.displaced(1, 13)),
        ("covariance", base.covariant(norm, 14)),
    ):
        record(base, group, replace(base, vector=other[0]), base.around(other[0], group))
    for group, make in NETWORKS.items():
        if group not in networks:
            subject = base.bench.subject
            options = {"device": subject.device, "dtype": DTYPES[subject.dtype]}
            model = make(subject.name, seed=base.place.seed, **options)
            networks[group] = with_model(base.bench, model, f"{group} {base.place.seed}")
        home = foreign(base, networks[group])
        record(base, group, home, home.around(home.vector, f"{group} base"))


def record(base: Base, group: str, around: Base, family: Family) -> None:
    """One row: how many vectors are as good as `MISSED`, and how far the base of that family moves the target."""
    count, moved = family.count(loss=MISSED), float(around.displacement(around.vector[None])[0])
    label = {**base.units, "group": group}
    base.bench.record(kind="count", **label, found=count.value, censored=count.censored, moved=moved)


def foreign(base: Base, bench: Bench) -> Base:
    """The first MELBO base of another network on the same prompts, at the same share of its stream's norm."""
    home = unbased(bench, base.place, base.texts)
    radius = base.norm * home.stream / base.stream
    vector = melbo(displace(home.z), radius=radius, n=1, generator=base.generator(15), max_steps=10)[0].vector
    return replace(home, vector=vector, index=base.index)


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """The behaviour's count against each control's; the base is one of each, so that no ratio is one of zeros."""
    for units, gates, own in read_bases(rows):
        counts = {row["group"]: Count(row["found"] + 1, row["censored"]) for row in pick(own, kind="count")}
        for group in [name for name in counts if name != "behaviour"]:
            yield Reading(group, counts["behaviour"], counts[group], units, gates)
