"""The direction that all vectors share carries the effect: at the length they share it, it works alone.

Source: the linear reading of the family; every orthogonal family has such a direction, the question is whether it
    works; decisive experiment D4.
Prediction: sum_k theta_k / |theta_k|^2, scaled to the component that every vector has along it, has at least 0.5 of the
    mean effect of the vectors.
Control: the same direction of random orthogonal vectors of the same norms at the same length; the family's direction at
    the base's norm is recorded beside it.
Refuted if: the interval of the share lies below 0.5: what the vectors have in common is not what works.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, Setup, at_least, bars, cases, column, needs, pick
from mi_ortho import Verdict, random_vectors
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.nulls import with_norms

SHARE = 0.5


@dataclass(frozen=True)
class Config(Setup):
    """Where to search."""


SMOKE = Config(cases=1, n=4, max_steps=10)
NEEDS = (needs.family,)


def run(config: Config, bench: Bench) -> None:
    """One row for each case and family."""
    for case in cases(bench, config):
        for name, effect in (("kl", case.behaviour), ("activation", case.activation)):
            if not bench.has(case=case.index, match=name):
                numbers = examine(effect, case.family(name).vectors, case.norm, case.generator(11))
                bench.record(case=case.index, match=name, **numbers)
        bench.track("case", case.index + 1, config.cases)


def shared(vectors: Tensor) -> Tensor:
    """The vector of least norm with which every vector has the product that it has with itself."""
    direction = (vectors / vectors.square().sum(-1, keepdim=True)).sum(0)
    return direction / direction.square().sum()


@torch.no_grad()
def examine(
    effect: Callable[[Tensor], Tensor], vectors: Tensor, norm: float, generator: torch.Generator
) -> dict[str, Any]:
    """Effects of the shared direction at its own length and at the base's norm, over the vectors' own."""
    directions = orthonormal_rows(random_vectors(len(vectors), vectors.shape[1], 1.0, generator).to(vectors))
    random = shared(with_norms(directions, vectors.norm(dim=-1)))
    common = shared(vectors)
    full = common * norm / common.norm()
    values = effect(torch.stack([common, random, full, random * norm / random.norm()])) / effect(vectors).mean()
    names = ("own", "random", "full", "random_full")
    return {"n": len(vectors), "length": float(common.norm()) / norm, **dict(zip(names, values.tolist(), strict=True))}


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The verdict on the distribution-matched families."""
    part = pick(rows, match="kl")
    return [
        at_least(
            "The shared direction carries the effect",
            f"at least {SHARE} of the vectors' mean effect",
            "effect of the shared direction at the length it is shared by; the control is random vectors' own",
            column(part, "own"),
            SHARE,
            column(part, "random"),
        )
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """At both lengths, of families and random sets."""
    labels = (
        ("own", "shared direction", "value"),
        ("random", "random vectors'", "control"),
        ("full", "at the base's norm", "value"),
        ("random_full", "random vectors', that norm", "control"),
    )
    return [
        bars(
            f"Effect of the shared direction, {match} match",
            "As a share of the vectors' mean effect.",
            [(label, column(pick(rows, match=match), name), style) for name, label, style in labels],
            SHARE,
        )
        for match in ("kl", "activation")
    ]
