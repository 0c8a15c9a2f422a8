"""Do the orthogonal vectors work on prompts they were never searched on?

Source: the post's observation that its vectors generalise; hypothesis H21, and H2, which says that they do not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.lab import Base, Bench, Place, Reading, column, each_base, needs, pick, read_bases

THIRD = 3


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, how many other prompts to try on, and vectors of each family to try."""

    prompts: int = 50
    tried: int = 12


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10, prompts=4, tried=4)
NEEDS = (needs.place, needs.more_prompts)


def run(config: Config, bench: Bench) -> None:
    """One row for each base and vector: the family's, spread over it, the last that work, random ones, and the base."""
    each_base(config, bench, lambda base: measure(base, config))


def measure(base: Base, config: Config) -> None:
    """Record one base."""
    family, texts = base.family("kl"), other_texts(base, config.prompts)
    spread, working = family.spread(config.tried), family.working()
    late = working[-max(1, len(working) // THIRD) :][: config.tried]
    sets = {"base": base.vector[None], "family": spread, "random": base.random(spread.norm(dim=-1), 1), "late": late}
    sets["late random"] = base.random(late.norm(dim=-1), 2)
    for group, vectors in sets.items():
        for share in base.shows(vectors, texts) if len(vectors) else ():
            base.bench.record(kind="transfer", **base.units, group=group, prompts=len(texts), share=share)


def other_texts(base: Base, count: int) -> tuple[str, ...]:
    """Prompts of the same kind that the family was not searched on, held-out ones first."""
    texts = base.bench.subject.texts
    same = [*texts.held_out, *texts.train, *texts.natural.get("harmful", ()), *texts.natural.get("refuse", ())]
    return tuple(text for text in dict.fromkeys(same) if text not in base.texts)[:count]


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """The family over its base, and the last working vectors, each against random ones."""
    for units, gates, own in read_bases(rows):
        shares = {
            name: column(pick(own, kind="transfer", group=name), "share")
            for name in ("base", "family", "random", "late", "late random")
        }
        means = {name: fmean(values) for name, values in shares.items() if values}
        if means.get("base") and "family" in means:
            yield Reading("transfer", means["family"] / means["base"], means["random"] / means["base"], units, gates)
        if "late" in means:
            yield Reading("late", means["late"], means["late random"], units, gates)
