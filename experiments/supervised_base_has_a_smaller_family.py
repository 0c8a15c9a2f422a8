"""A supervised base has fewer orthogonal repetitions than a MELBO base, and the family adds up to the supervised one.

Source: a comment on the post (few true directions; a supervised vector would show it); hypothesis H8.
Prediction: grown from the mean difference of the behaviour's prompts, at equal displacement of the target activations,
    the family has at most half as many vectors that miss at most half of the squared effect as the MELBO base's; and
    the sum of the MELBO base's family has a cosine of at least 0.3 with the mean difference.
Control: a random base at equal displacement; the mean difference with its coordinates shuffled.
Refuted if: the interval of log2 of the ratio of counts lies below 1, or that of the cosine below 0.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor

from experiments.lab import Bench, Case, Ranking, Setup, at_least, bars, cases, column, needs
from experiments.lab.directions import cosine, mean_difference
from mi_ortho import ActivationMap, Verdict, match, random_vectors
from mi_ortho.multiplicity import shuffled
from mi_ortho.stats import SIGNED_SCALE

MISSED = 0.5**0.5  # relative loss at which half of the squared effect is missed
HALF = 1.0  # as many, as a logarithm to base 2
COSINE = 0.3


@dataclass(frozen=True)
class Config(Setup):
    """Where to search, and the prompts of each kind that the mean difference is made of."""

    prompts: int = 8


SMOKE = Config(cases=1, n=4, max_steps=10)
NEEDS = (needs.family, needs.behaviours)


def run(config: Config, bench: Bench) -> None:
    """One row for each case."""
    for case in cases(bench, config):
        if bench.has(case=case.index):
            continue
        direction = mean_difference(case, config.prompts)
        random = random_vectors(1, len(case.base), 1.0, case.generator(9))[0]
        bases = {"supervised": direction, "random": random}
        row: dict[str, Any] = {"melbo": counted(case.family("activation").losses)}
        for name, base in bases.items():
            row |= grow(case, name, equalised_base(case.z, base, case.base))
        vectors = case.family("kl").vectors
        row |= {
            "cosine": cosine(vectors.sum(0), direction),
            "shuffled": cosine(vectors.sum(0), shuffled(direction, 1, case.generator(10))[0]),
        }
        bench.record(case=case.index, **row)
        bench.track("case", case.index + 1, config.cases)


def grow(case: Case, name: str, base: Tensor | None) -> dict[str, Any]:
    """How many vectors repeat another base; None where no norm of it has the displacement."""
    if base is None:
        return {name: None, f"{name}_norm": None}
    family = case.grow(f"activation of the {name} base", match(case.z, base), base, case.setup.n)
    return {name: counted(family.losses), f"{name}_norm": float(base.norm()) / case.norm}


@torch.no_grad()
def equalised_base(z: ActivationMap, direction: Tensor, base: Tensor, most: float = 8.0) -> Tensor | None:
    """The direction at the smallest norm where it moves the target as far as the base; None above `most` base norms."""
    origin = z(torch.zeros_like(base)[None])[0]
    distance = (z(base[None])[0] - origin).double().norm()
    unit = direction * (base.norm() / direction.norm())

    def short(scale: float) -> float:
        return float(distance - (z(scale * unit[None])[0] - origin).double().norm())

    # a grid only to find the first root among several; where it lies between two points is solved for
    scales = [most * k / 160 for k in range(161)]
    beyond = next((k for k, scale in enumerate(scales) if k and short(scale) <= 0), None)
    if beyond is None:
        return None
    solved: Any = brentq(short, scales[beyond - 1], scales[beyond], rtol=1e-10)  # pyright: ignore[reportArgumentType]
    return float(solved) * unit


def counted(losses: Tensor) -> int:
    """Vectors that miss at most half of the squared effect."""
    return int((losses <= MISSED).sum())


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Counts of the two bases, and what the family adds up to."""
    both = [row for row in rows if row.get("supervised") is not None]
    random = [row for row in both if row.get("random") is not None]
    return [
        at_least(
            "A supervised base has a smaller family than a MELBO base",
            "at most half as many vectors",
            "log2((MELBO count + 1) / (supervised count + 1)); the control is a random base instead",
            [log2((row["melbo"] + 1) / (row["supervised"] + 1)) for row in both],
            HALF,
            [log2((row["melbo"] + 1) / (row["random"] + 1)) for row in random],
        ),
        at_least(
            "The family adds up to the supervised direction",
            f"cosine at least {COSINE}",
            "cosine of the sum of the family with the mean difference; the control is that direction shuffled",
            column(rows, "cosine"),
            COSINE,
            column(rows, "shuffled"),
            scale=SIGNED_SCALE,
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Counts by base."""
    groups = [
        ("MELBO base", column(rows, "melbo"), "value"),
        ("supervised base", column(rows, "supervised"), "value"),
        ("random base", column(rows, "random"), "control"),
    ]
    caption = "Missing at most half of the squared effect; means over bases."
    return [bars("Vectors that repeat the base", caption, groups)]
