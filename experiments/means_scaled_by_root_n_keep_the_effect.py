"""Do averages of a family's vectors keep the effect?

Source: nostalgebraist's comment and the post's answer to it: norms of averages against scaled summands; H6 and H7.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Base, Bench, Lines, Place, Reading, column, each_base, needs, pick, random_order, read_bases
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.nulls import with_norms
from mi_ortho.pages import Panel, Series

JUDGED = 8  # vectors of a mean
SIZES = (2, 3, 4, 6, 8, 12)
STYLES = {"plain": "family", "root": "c1", "sum": "c2", "alone at that length": "c3"}
SUBSETS = 12


@dataclass(frozen=True)
class Config(Place):
    """Where bases are looked for, and their families."""


SMOKE = Config(behaviours=("code",), bases=1, most=9, max_steps=10)
NEEDS = (needs.place,)


def run(config: Config, bench: Bench) -> None:
    """For each base the effects of averages of its distribution-matched family, and of random vectors'."""
    each_base(config, bench, measure)


@torch.no_grad()
def measure(base: Base) -> None:
    """Record one base: of the vectors with half of the effect, and as many random ones."""
    family = base.family("kl").working()
    random = with_norms(orthonormal_rows(base.random(family.norm(dim=-1), 4)), family.norm(dim=-1))
    for group, vectors in (("family", family), ("random", random)):
        for row in examine(base, vectors):
            base.bench.record(kind="mean", **base.units, group=group, **row)


def examine(base: Base, vectors: Tensor) -> list[dict[str, Any]]:
    """For each size the mean effects of random subsets: alone, averaged in each way, and alone at the mean's length."""
    rows, alone = [], base.effect(vectors) if len(vectors) else vectors[:0, 0]
    for n in (size for size in SIZES if size < len(vectors)):
        generator = base.generator(5)
        subsets = torch.stack([random_order(len(vectors), generator)[:n] for _ in range(SUBSETS)])
        means = vectors[subsets].mean(1)
        shortened = with_norms(vectors[subsets[:, 0]], means.norm(dim=-1))
        tried = {"plain": means, "root": n**0.5 * means, "sum": n * means, "alone at that length": shortened}
        effects = {kind: float(base.effect(each).mean()) for kind, each in tried.items()}
        rows += [
            {"n": n, "how": kind, "effect": effects[kind], "alone": float(alone[subsets].mean())} for kind in tried
        ]
    return rows


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading]:
    """Averages of eight as shares of their vectors' effects, against the control of each."""
    for units, gates, own in read_bases(rows):
        effect = {(row["group"], row["how"]): row["effect"] for row in pick(own, kind="mean", n=JUDGED)}
        alone = next((row["alone"] for row in pick(own, kind="mean", n=JUDGED, group="family")), 0.0)
        if alone > 0:
            for key, control in (("plain", ("family", "alone at that length")), ("root", None), ("sum", None)):
                other = effect.get(control or ("random", key))
                yield Reading(
                    key, effect["family", key] / alone, None if other is None else other / alone, units, gates
                )


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Effects over the number of vectors averaged."""
    series = []
    for how, style in STYLES.items():
        part = pick(rows, kind="mean", group="family", how=how)
        sizes = sorted({row["n"] for row in part})
        if sizes:
            values = [fmean(column(pick(part, n=n), "effect")) for n in sizes]
            series.append(Series(how, sizes, values, style, how))
    caption = "Posterior of the behaviour as a share of the base's rise; means over bases and subsets."
    return [Lines(caption, Panel("Means of vectors", "effect", "vectors averaged"), tuple(series))] if series else []
