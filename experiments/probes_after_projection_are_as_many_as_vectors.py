"""Are there as many orthogonal linear probes for code as there are orthogonal vectors that write it?

Source: Fabien Roger's comparison with INLP (a probe is fitted, projected out, and the next still works); H19. How many
    probes there are depends on how much text they are fitted on, so the counts are those of its parts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Place, Reading, each_base, needs, pick, read_bases
from experiments.lab.coding import Written, written
from mi_ortho import span
from mi_ortho.interventions import subspace_overlap
from mi_ortho.probes import NullspaceProbes, nullspace_probes, shuffled_labels
from mi_ortho.stats import Count

MOST = 128  # probes of one part
SHUFFLES = 5  # of its labels: where the first probe passes by chance, many others do


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, prompts of each kind, and parts of the topics, each with probes of its own."""

    own: int = 96
    parts: int = 8


SMOKE = Config(behaviours=("code",), bases=1, most=4, max_steps=10, own=24, parts=2)
NEEDS = (needs.place, needs.writing)


@dataclass(frozen=True, eq=False)
class Probed:
    """The probes for code in one part of the text, and how many shuffled labels give on average."""

    probes: NullspaceProbes
    shuffled: float


def run(config: Config, bench: Bench) -> None:
    """For each base and part of the text how many probes and vectors there are, and how much of a span they share."""
    text = written(bench, config.own, config.seed, config.source)
    parts = probed(text, config.parts, config.seed)
    each_base(config, bench, lambda base: measure(base, parts))


def probed(text: Written, parts: int, seed: int) -> list[Probed]:
    """The probes of each part of the topics; parts have no topic in common."""
    topics = text.topics.unique()
    found = []
    for k in range(parts):
        here = text.part(torch.isin(text.topics, topics[k::parts]))
        generator = torch.Generator().manual_seed(seed * 1009 + k)
        labels = [here.code, *(shuffled_labels(here.code, here.passages, generator) for _ in range(SHUFFLES))]
        true, *false = (nullspace_probes(here.rows, one, here.passages, generator, most=MOST) for one in labels)
        found.append(Probed(true, fmean(len(one.found) for one in false)))
    return found


@torch.no_grad()
def measure(base: Base, parts: Sequence[Probed]) -> None:
    """Record one base: its count, and for each part of the text that of its probes and the overlap of their spans."""
    family = base.family("kl")
    count, vectors = family.count(effect=0.5), family.before_end(base.place.lost)
    for k, part in enumerate(parts):
        some = len(part.probes.found)
        cut = not part.probes.exhausted and some < vectors.shape[1] - 1  # at the limit, and not at the end of the space
        probes = {"probes": some, "cut": cut, "shuffled": part.shuffled}
        numbers = {"vectors": count.value, "censored": count.censored, "first": part.probes.aucs[0]}
        base.bench.record(
            kind="probes", **base.units, part=k, **probes, **numbers, overlap=overlap(vectors, part.probes)
        )


def overlap(vectors: Tensor, probes: NullspaceProbes) -> float | None:
    """log2 of the mean squared cosine of the principal angles of both spans over that of random ones."""
    if not len(vectors) or not len(probes.found):
        return None
    inside = span(vectors.double().cpu())
    shared = max(1e-9, subspace_overlap(inside, probes.found))
    return log2(shared * vectors.shape[1] / max(len(inside), len(probes.found)))


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """For each part of the text its probes against the vectors of a base of code, and overlaps of all bases."""
    gates = {units["base"]: each for units, each, _ in read_bases(rows) if units["behaviour"] == "code"}
    every = pick(rows, kind="probes")
    for k in sorted({row["part"] for row in every}):
        here = pick(every, part=k)
        code = pick(here, behaviour="code")
        if code:
            row, unit = code[k % len(code)], {"prompt": k}  # bases in turn: no part is counted twice
            quiet = row["shuffled"] / max(1, row["probes"])
            checks = {**gates[row["base"]], "sensitive": row["first"], "quiet": quiet}
            counts = Count(row["probes"], row["cut"]), Count(row["vectors"], row["censored"])
            yield Reading("as_many", *counts, unit, checks)
            other = [row for row in here if row["behaviour"] != "code"]
            yield Reading("overlap", average(code), average(other), unit, checks)


def average(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean overlap over bases."""
    values = [row["overlap"] for row in rows if row["overlap"] is not None]
    return fmean(values) if values else None
