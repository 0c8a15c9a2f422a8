"""Effects of the vectors compose like a quadratic form, neither like one direction nor like separate features.

Source: Turner's and nostalgebraist's comments on means and sums of the vectors; composition exponent p; experiment D3.
Prediction: with s*(n) = n^(1 - 1/p) the scale at which a mean of n vectors works, 1/p is at most 0.667 (not the 1 of a
    linear effect) and at least 0.333 (not the 0 of separate features with thresholds); of the vectors that work, at
    least 0.5 also work negated.
Control: random orthogonal sets inside the family's span, which compose in the same way on a quadratic form.
Refuted if: the interval of 1/p lies above 0.667 or below 0.333, or that of the negated share below 0.5.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, Setup, at_least, at_most, bars, cases, column, needs, pick
from mi_ortho import Verdict
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.multiplicity import composition_exponent, smallest_scale
from mi_ortho.nulls import random_in_span, with_norms
from mi_ortho.stats import UNIT_SCALE

HIGHEST = 0.667  # of 1/p: 1 is linear
LOWEST = 0.333  # 0 is separate features
NEGATED = 0.5
THRESHOLD = 0.5  # of the base's effect
SIZES = (2, 4, 8)


@dataclass(frozen=True)
class Config(Setup):
    """Where to search."""


SMOKE = Config(cases=1, n=8, max_steps=10)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case, family and group."""
    for case in cases(bench, config):
        for name, effect in (("kl", case.behaviour), ("activation", case.activation)):
            for part in bench.stage({"group": "family"}, case=case.index, match=name):
                family = case.family(name).vectors
                mixed = orthonormal_rows(random_in_span(family, len(family), case.generator(6)))
                mixed = with_norms(mixed, family.norm(dim=-1))
                with torch.no_grad():
                    mixed = torch.where((effect(mixed) >= effect(-mixed))[:, None], mixed, -mixed)
                for group, vectors in (("mixed", mixed), ("family", family)):
                    numbers = examine(effect, vectors, case.generator(7))
                    part.record(case=case.index, match=name, group=group, **numbers)
        bench.track("case", case.index + 1, config.cases)


@torch.no_grad()
def examine(effect: Callable[[Tensor], Tensor], vectors: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """1/p with its interval, and how many of the vectors that work do so negated; None where too few work."""
    reach = torch.isfinite(smallest_scale(effect, vectors, THRESHOLD, low=1 / 256, high=4.0, grid=24, refine=0))
    able = vectors[reach]
    sizes = tuple(n for n in SIZES if n < len(able))  # subsets of all of them say nothing of other vectors
    positive = effect(vectors) >= THRESHOLD
    negated = effect(-vectors) >= THRESHOLD
    row: dict[str, Any] = {
        "working": int(positive.sum()),
        "of": len(vectors),
        "inverse": None,
        "low": None,
        "high": None,
        "negated": float((positive & negated).sum() / positive.sum()) if positive.any() else None,
    }
    if len(sizes) < 2:
        return row
    composition = composition_exponent(effect, able, THRESHOLD, generator=generator, sizes=sizes, grid=13, refine=6)
    low, high = composition.inverse.interval or (None, None)
    return row | {"inverse": composition.inverse.value, "low": low, "high": high}


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """1/p from both sides, and signs, of the distribution-matched families."""
    family, mixed = pick(rows, match="kl", group="family"), pick(rows, match="kl", group="mixed")
    what = "1/p: 1 for a linear effect, 0.5 for a quadratic form, 0 for separate features; the control is mixed vectors"
    return [
        at_most(
            "The effect is not that of one direction",
            f"1/p at most {HIGHEST}",
            what,
            column(family, "inverse"),
            HIGHEST,
            column(mixed, "inverse"),
        ),
        at_least(
            "The effect is not that of separate features",
            f"1/p at least {LOWEST}",
            what,
            column(family, "inverse"),
            LOWEST,
            column(mixed, "inverse"),
        ),
        at_least(
            "Negated vectors work too",
            f"at least {NEGATED} of those that work",
            "share of the working vectors that work negated; the control is mixed vectors",
            column(family, "negated"),
            NEGATED,
            column(mixed, "negated"),
            scale=UNIT_SCALE,
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """1/p and negated shares of families and mixtures."""
    drawings = []
    for name, title in (("inverse", "1/p (1 linear, 0.5 quadratic, 0 features)"), ("negated", "Work negated too")):
        kinds = [
            (match, *kind) for match in ("kl", "activation") for kind in (("family", "value"), ("mixed", "control"))
        ]
        groups = [
            (f"{match} match, {group}", column(pick(rows, match=match, group=group), name), style)
            for match, group, style in kinds
        ]
        drawings.append(bars(title, "Means over bases.", groups))
    return drawings
