"""Making the vectors exactly orthogonal changes nothing: the family does not live on rounding errors.

Source: comments on the post's orthogonality check, which saw only parts of the matrix of cosines; hypothesis H16.
Prediction: all cosines, of every pair with either sign, are at most 0.001; made orthogonal in float64 with their norms
    kept, no vector's effect changes by more than 0.01 of the base's.
Control: the same change of effects when every vector is turned by 0.1 of its length in a random direction.
Refuted if: the interval of the largest cosine lies above 0.001, or that of the largest change above 0.01.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, Setup, at_most, bars, cases, column, needs
from mi_ortho import Verdict, max_abs_cosine, random_vectors
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.nulls import with_norms

LARGEST = 0.001
CHANGE = 0.01
TURN = 0.1


@dataclass(frozen=True)
class Config(Setup):
    """Where to search."""


SMOKE = Config(cases=1, n=4, max_steps=10)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case."""
    for case in cases(bench, config):
        if not bench.has(case=case.index):
            numbers = examine(case.behaviour, case.base, case.family("kl").vectors, case.generator(16))
            bench.record(case=case.index, **numbers)
        bench.track("case", case.index + 1, config.cases)


def exact(base: Tensor, vectors: Tensor) -> Tensor:
    """Orthogonal to the base and to each other in float64, with their norms."""
    unit = orthonormal_rows(torch.cat([base[None], vectors]).double())[1:]
    return with_norms(unit, vectors.double().norm(dim=-1)).to(vectors)


@torch.no_grad()
def examine(
    effect: Callable[[Tensor], Tensor], base: Tensor, vectors: Tensor, generator: torch.Generator
) -> dict[str, Any]:
    """Largest cosines before and after, and the largest change of an effect, beside that of a turn."""
    clean = exact(base, vectors)
    turn = random_vectors(len(vectors), len(base), 1.0, generator).to(vectors)
    turned = with_norms(vectors + TURN * with_norms(turn, vectors.norm(dim=-1)), vectors.norm(dim=-1))
    before = effect(vectors)
    return {
        "n": len(vectors),
        "cosine": max_abs_cosine(torch.cat([base[None], vectors])),
        "exact_cosine": max_abs_cosine(torch.cat([base[None], clean])),
        "change": float((effect(clean) - before).abs().max()),
        "turned": float((effect(turned) - before).abs().max()),
    }


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Cosines and changes."""
    return [
        at_most(
            "All vectors are orthogonal to the base and to each other",
            f"cosines at most {LARGEST}",
            "largest |cosine| of all pairs; the control is after making them orthogonal in float64",
            column(rows, "cosine"),
            LARGEST,
            column(rows, "exact_cosine"),
        ),
        at_most(
            "Exact orthogonality changes no effect",
            f"at most {CHANGE} of the base's effect",
            f"largest change of an effect; the control is a turn by {TURN} of the length",
            column(rows, "change"),
            CHANGE,
            column(rows, "turned"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Changes of effects."""
    groups = [("made orthogonal", column(rows, "change"), "value"), ("turned", column(rows, "turned"), "control")]
    return [bars("Largest change of an effect", "As a share of the base's; means over bases.", groups, CHANGE)]
