"""One gradient explains every vector: the effect is first order, and each vector goes along the same gradient.

Source: Kaarel's comment (each vector has the same component along the gradient of what is measured); hypothesis H10.
Prediction: at least 0.9 of the vectors have a positive product with the gradient at 0 of the behaviour's log-odds, and
    the effect that this gradient predicts for them is at least 0.5 of the one they have; with the mean gradient along
    the paths to the other vectors, at least 0.9 are positive too.
Control: gradients at random points of the base's norm; half of the products are positive where nothing is shared.
Refuted if: the interval of the share at 0 lies below 0.9, or that of the predicted effect below 0.5. Shared signs along
    the paths but not at 0 mean that the effect is of second order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, Setup, at_least, bars, cases, column, needs, pick
from mi_ortho import Verdict, random_vectors
from mi_ortho.elicitation import value_and_gradient
from mi_ortho.stats import UNIT_SCALE

POSITIVE = 0.9
PREDICTED = 0.5
NODES = 6
POINTS = 8


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
                numbers = examine(effect, case.family(name).vectors, case.norm, case.generator(3))
                bench.record(case=case.index, match=name, **numbers)
        bench.track("case", case.index + 1, config.cases)


def examine(
    effect: Callable[[Tensor], Tensor], vectors: Tensor, norm: float, generator: torch.Generator
) -> dict[str, Any]:
    """Shares of positive products with gradients at 0, along the paths to the others, and at random points."""
    origin = gradients(effect, torch.zeros_like(vectors[:1]))[0]
    steps = (torch.arange(NODES) + 0.5) / NODES
    paths = torch.stack([gradients(effect, vector * steps.to(vector)[:, None]).mean(0) for vector in vectors])
    others = (paths.sum(0) - paths) / max(1, len(paths) - 1)
    points = random_vectors(POINTS, vectors.shape[1], norm, generator).to(vectors)
    random = gradients(effect, points)
    with torch.no_grad():
        effects = effect(vectors)
    return {
        "n": len(vectors),
        "positive": float((vectors @ origin > 0).double().mean()),
        "predicted": float((vectors @ origin).mean() / effects.mean()),
        "path_positive": float(((vectors * others).sum(-1) > 0).double().mean()),
        "path_predicted": float((vectors * others).sum(-1).mean() / effects.mean()),
        "random_positive": float((vectors @ random.mT > 0).double().mean()),
        "random_predicted": float((vectors @ random.mT).mean() / effects.mean()),
        "effect": float(effects.mean()),
    }


def gradients(effect: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Gradient of the effect at every row."""
    return value_and_gradient(effect, at)[1]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The gradient at 0 and the mean gradient along the paths, for the distribution-matched families."""
    part = pick(rows, match="kl")
    signs, size = "share of vectors with a positive product", "the control is gradients at random points"
    return [
        at_least(
            "Every vector goes along the gradient at 0",
            f"at least {POSITIVE} of them",
            f"{signs}; {size}",
            column(part, "positive"),
            POSITIVE,
            column(part, "random_positive"),
            scale=UNIT_SCALE,
        ),
        at_least(
            "The gradient at 0 predicts the effect of the vectors",
            f"at least {PREDICTED} of the effect",
            f"mean predicted effect over mean effect; {size}",
            column(part, "predicted"),
            PREDICTED,
            column(part, "random_predicted"),
        ),
        at_least(
            "Every vector goes along the mean gradient on the paths to the others",
            f"at least {POSITIVE} of them",
            f"{signs}; {size}",
            column(part, "path_positive"),
            POSITIVE,
            column(part, "random_positive"),
            scale=UNIT_SCALE,
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Signs and predicted effects of both families."""
    drawings = []
    for name, title, limit in (
        ("positive", "Positive products with a gradient", POSITIVE),
        ("predicted", "Predicted effect over effect", PREDICTED),
    ):
        groups = []
        for match in ("kl", "activation"):
            part = pick(rows, match=match)
            kinds = (("at 0", "", "value"), ("along paths", "path_", "value"), ("random", "random_", "control"))
            groups += [
                (f"{match} match, {label}", column(part, prefix + name), style) for label, prefix, style in kinds
            ]
        drawings.append(bars(title, "Means over bases.", groups, limit))
    return drawings
