"""As many orthogonal vectors have the effect at the base's own norm, or with a penalty on the norm, as below the cap.

Source: the post's guess that an L2 penalty would give vectors of equal norms without losing them; hypothesis H3.
Prediction: at the base's norm at least 0.5 times as many vectors reach half of the base's effect on behaviour as below
    the standard norm cap; with a penalty of weight 0.1 at least 0.5 times as many, at most 1.25 base norms long.
Control: random vectors of the same norms: the share that reaches half of the effect.
Refuted if: the interval of either ratio of counts lies below 0.5, or that of the penalised norms above 1.25.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Case, Ranking, Setup, at_least, at_most, bars, cases, column, needs, pick
from mi_ortho import Verdict, random_vectors
from mi_ortho.elicitation import Penalised
from mi_ortho.nulls import with_norms

RATIO = 0.5
LENGTH = 1.25
WEIGHT = 0.1
HALF = 0.5  # of the base's effect
KINDS = ("cap", "fixed", "penalised")


@dataclass(frozen=True)
class Config(Setup):
    """Where to search."""


SMOKE = Config(cases=1, n=4, max_steps=10)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case and way of limiting the norm."""
    for case in cases(bench, config):
        for kind in KINDS:
            if not bench.has(case=case.index, norms=kind):
                numbers = examine(case.behaviour, limited(case, kind), case.norm, config.n, case.generator(8))
                bench.record(case=case.index, norms=kind, **numbers)
        bench.track("case", case.index + 1, config.cases)


def limited(case: Case, kind: str) -> Tensor:
    """The family below the cap, at the base's norm, or with a penalty and without a cap."""
    if kind == "cap":
        return case.family("kl").vectors
    if kind == "fixed":
        return case.family("kl", max_norm=case.norm, min_norm=case.norm).vectors
    goal = Penalised(case.yard.behaviour, WEIGHT, case.norm)
    return case.grow(f"kl penalised {WEIGHT}", goal, case.base, case.setup.n, max_norm=float("inf")).vectors


@torch.no_grad()
def examine(
    effect: Callable[[Tensor], Tensor], vectors: Tensor, norm: float, searched: int, generator: torch.Generator
) -> dict[str, Any]:
    """How many reach half of the effect, how long they are, and the same share of random vectors."""
    if not len(vectors):
        return {"found": 0, "searched": searched, "length": None, "random": None}
    directions = random_vectors(len(vectors), vectors.shape[1], 1.0, generator).to(vectors)
    random = with_norms(directions, vectors.norm(dim=-1))
    return {
        "found": int((effect(vectors) >= HALF).sum()),
        "searched": searched,
        "length": float(vectors.norm(dim=-1).median()) / norm,
        "random": float((effect(random) >= HALF).double().mean()),
    }


def ratios(rows: Sequence[Mapping[str, Any]], kind: str) -> list[float]:
    """Counts over those below the cap, one value a case where there are any."""
    below = {row["case"]: row["found"] for row in pick(rows, norms="cap")}
    return [row["found"] / below[row["case"]] for row in pick(rows, norms=kind) if below.get(row["case"])]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Counts at the base's norm and with a penalty, and the penalised lengths."""
    what = f"vectors with at least {HALF} of the effect over those below the cap; the control is random vectors' share"
    penalised = pick(rows, norms="penalised")
    return [
        at_least(
            "As many vectors have the effect at the base's norm",
            f"at least {RATIO} times as many",
            what,
            ratios(rows, "fixed"),
            RATIO,
            column(pick(rows, norms="fixed"), "random"),
        ),
        at_least(
            "As many vectors have the effect with a penalty on the norm",
            f"at least {RATIO} times as many",
            what,
            ratios(rows, "penalised"),
            RATIO,
            column(penalised, "random"),
        ),
        at_most(
            "With a penalty the vectors are about as long as the base",
            f"at most {LENGTH} base norms",
            "median norm over the base's; the control is that below the cap",
            column(penalised, "length"),
            LENGTH,
            column(pick(rows, norms="cap"), "length"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Counts and lengths for each way of limiting the norm."""
    labels = (("cap", "below the cap"), ("fixed", "at the base's norm"), ("penalised", "with a penalty"))
    counts = [(label, column(pick(rows, norms=kind), "found"), "value") for kind, label in labels]
    lengths = [(label, column(pick(rows, norms=kind), "length"), "value") for kind, label in labels]
    return [
        bars("Vectors with half of the effect", "Counts of the vectors searched for; means over bases.", counts),
        bars("Median norm over the base's", "Means over bases.", lengths, LENGTH),
    ]
