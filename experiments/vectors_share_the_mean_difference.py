"""The orthogonal vectors share a component along one direction: the mean difference of the behaviour's own prompts.

Source: Fabien Roger's comment (a component along d plus noise), with Kaarel's bound on how large it can be; H9.
Prediction: the cosines of the family with the mean activation on prompts that show the behaviour minus that on others
    have one sign for at least 0.75 of the vectors, and their squares sum to at least twice those of a random family
    (n / d_model).
Control: the same direction with its coordinates shuffled and their signs drawn again.
Refuted if: the interval of the share lies below 0.75, or that of log2 of the ratio of sums below 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, Setup, at_least, bars, cases, column, needs, pick
from experiments.lab.directions import cosine, mean_difference
from mi_ortho import Verdict
from mi_ortho.multiplicity import shuffled, sign_coherence_test
from mi_ortho.nulls import bessel_mass, kaarel_bound
from mi_ortho.stats import UNIT_SCALE

SHARE = 0.75
TWICE = 1.0  # as a logarithm to base 2
SHUFFLES = 20


@dataclass(frozen=True)
class Config(Setup):
    """Where to search, and the prompts of each kind that the direction is made of."""

    prompts: int = 8


SMOKE = Config(cases=1, n=4, max_steps=10)
NEEDS = (needs.family, needs.behaviours)


def run(config: Config, bench: Bench) -> None:
    """One row for each case and family."""
    for case in cases(bench, config):
        direction = mean_difference(case, config.prompts)
        for name in ("kl", "activation"):
            if not bench.has(case=case.index, match=name):
                numbers = examine(case.family(name).vectors, direction, case.generator(2))
                bench.record(case=case.index, match=name, base=cosine(case.base, direction), **numbers)
        bench.track("case", case.index + 1, config.cases)


def examine(vectors: Tensor, direction: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """Signs, sum of squared cosines, and a bound on how many vectors can share one direction at the mean cosine."""
    mass, chance = bessel_mass(vectors, direction), len(vectors) / vectors.shape[1]
    cosines = torch.nn.functional.cosine_similarity(vectors, direction[None])
    shuffles = shuffled(direction, SHUFFLES, generator)
    masses = [bessel_mass(vectors, one) for one in shuffles]
    # a direction has no sign of its own: each is counted on its better side, the shuffled ones too
    sides = (vectors @ shuffles.mT > 0).double().mean(0)
    signs = torch.maximum(sides, 1 - sides)
    mean = float(cosines.mean().abs())
    positive = sign_coherence_test(vectors, direction).share
    return {
        "n": len(vectors),
        "signs": max(positive, 1 - positive),
        "positive": positive,
        "mass": log2(max(mass, 1e-12) / chance),
        "mean_cosine": mean,
        "bound": kaarel_bound(mean, 0.0) if mean > 0 else None,
        "shuffled_signs": float(signs.mean()),
        "shuffled_mass": fmean(log2(max(one, 1e-12) / chance) for one in masses),
    }


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Signs and mass of the distribution-matched families."""
    part = pick(rows, match="kl")
    return [
        at_least(
            "The vectors lie on one side of the mean difference",
            f"at least {SHARE} of them",
            "share of vectors on the direction's better side; the control is the direction shuffled",
            column(part, "signs"),
            SHARE,
            column(part, "shuffled_signs"),
            scale=UNIT_SCALE,
        ),
        at_least(
            "The family holds more of the mean difference than a random family",
            "at least twice n / d_model",
            "log2 of the sum of squared cosines over n / d_model; the control is the direction shuffled",
            column(part, "mass"),
            TWICE,
            column(part, "shuffled_mass"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Signs and mass of both families beside shuffled directions."""
    caption = "Against the mean difference of the behaviour's prompts; means over bases."
    drawings = []
    for name, title, limit in (("signs", "Vectors on one side", SHARE), ("mass", "log2 of mass over n / d", TWICE)):
        groups = []
        for match in ("kl", "activation"):
            part = pick(rows, match=match)
            groups += [
                (f"{match} match", column(part, name), "value"),
                (f"{match} match (shuffled)", column(part, f"shuffled_{name}"), "control"),
            ]
        drawings.append(bars(title, caption, groups, limit))
    return drawings
