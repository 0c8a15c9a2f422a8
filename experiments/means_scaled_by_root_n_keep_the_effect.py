"""Plain means of the vectors lose the effect, means scaled by the root of their number keep it.

Source: nostalgebraist's comment and the post's answer to it: norms of averages against scaled summands; H6 and H7.
Prediction: means of 8 vectors have at most 0.5 of the vectors' own effect, and scaled by the root of 8 at least 0.75
    of it; scaled to the sum, at least 0.75 too.
Control: orthogonal random vectors of the same norms, scaled in the same ways. A linear effect keeps all of it in the
    plain mean.
Refuted if: the interval of the plain means lies above 0.5, or that of the means scaled by the root below 0.75.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Lines, Setup, at_least, at_most, cases, column, needs, pick, random_order
from mi_ortho import Verdict, random_vectors
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.nulls import with_norms
from mi_ortho.pages import Panel, Series

LOST = 0.5
KEPT = 0.75
JUDGED = 8  # vectors of a mean
SIZES = (2, 3, 4, 6, 8, 12)
KINDS = ("plain", "root", "normalised", "sum")
SUBSETS = 12


@dataclass(frozen=True)
class Config(Setup):
    """Where to search."""


SMOKE = Config(cases=1, n=8, max_steps=10)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case, family, size and kind of mean."""
    for case in cases(bench, config):
        for name, effect in (("kl", case.behaviour), ("activation", case.activation)):
            for part in bench.stage({"last": True}, case=case.index, match=name):
                family = case.family(name).vectors
                directions = orthonormal_rows(random_vectors(len(family), len(case.base), 1.0, case.generator(4)))
                random = with_norms(directions, family.norm(dim=-1))
                sets = {
                    "random": examine(effect, random, case.generator(5)),
                    "family": examine(effect, family, case.generator(5)),
                }
                for group, numbers in sets.items():
                    for k, row in enumerate(numbers):
                        last = group == "family" and k == len(numbers) - 1
                        part.record(case=case.index, match=name, group=group, last=last, **row)
        bench.track("case", case.index + 1, config.cases)


def examine(effect: Callable[[Tensor], Tensor], vectors: Tensor, generator: torch.Generator) -> list[dict[str, Any]]:
    """Mean effect of each kind of mean of random subsets, and of the vectors of the subsets alone."""
    rows = []
    with torch.no_grad():
        alone = effect(vectors)
        for n in (size for size in SIZES if size <= len(vectors)):
            subsets = torch.stack([random_order(len(vectors), generator)[:n] for _ in range(SUBSETS)])
            means = vectors[subsets].mean(1)
            same = vectors[subsets].norm(dim=-1).mean(1, keepdim=True) / means.norm(dim=-1, keepdim=True)
            factors = {"plain": 1.0, "root": n**0.5, "sum": float(n), "normalised": same}
            for kind in KINDS:
                value = float(effect(factors[kind] * means).mean())
                rows.append({"n": n, "kind_of_mean": kind, "effect": value, "alone": float(alone[subsets].mean())})
    return rows


def shares(rows: Sequence[Mapping[str, Any]], kind: str, group: str = "family", n: int = JUDGED) -> list[float]:
    """Effect of the means as a share of what the family's vectors do alone, one value a case."""
    part = pick(rows, match="kl", group=group, n=n, kind_of_mean=kind)
    alone = {row["case"]: row["alone"] for row in pick(rows, match="kl", group="family", n=n, kind_of_mean=kind)}
    return [row["effect"] / alone[row["case"]] for row in part if alone.get(row["case"], 0.0) > 0]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Plain means, means scaled by the root, sums."""
    what = f"effect of means of {JUDGED} over the effect of their vectors; the control is random orthogonal vectors"
    return [
        at_most(
            "Plain means of the vectors lose the effect",
            f"at most {LOST} of it",
            what,
            shares(rows, "plain"),
            LOST,
            shares(rows, "plain", "random"),
        ),
        at_least(
            "Means scaled by the root of their number keep the effect",
            f"at least {KEPT} of it",
            what,
            shares(rows, "root"),
            KEPT,
            shares(rows, "root", "random"),
        ),
        at_least(
            "Sums of the vectors keep the effect",
            f"at least {KEPT} of it",
            what,
            shares(rows, "sum"),
            KEPT,
            shares(rows, "sum", "random"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """Effects over the number of vectors averaged, one drawing a family."""
    drawings = []
    for match in ("kl", "activation"):
        series = []
        for kind, style in zip(KINDS, ("family", "c1", "c2", "c3"), strict=True):
            part = pick(rows, match=match, group="family", kind_of_mean=kind)
            sizes = sorted({row["n"] for row in part})
            series.append(Series(kind, sizes, [fmean(column(pick(part, n=n), "effect")) for n in sizes], style, kind))
        part = pick(rows, match=match, group="random", kind_of_mean="root")
        sizes = sorted({row["n"] for row in part})
        values = [fmean(column(pick(part, n=n), "effect")) for n in sizes]
        series.append(Series("random vectors, root", sizes, values, "null", "random"))
        caption = "Effect as a share of the base's; means over bases and subsets."
        panel = Panel(f"Means of vectors, {match} match", "effect", "vectors averaged")
        drawings.append(Lines(caption, panel, tuple(series)))
    return drawings
