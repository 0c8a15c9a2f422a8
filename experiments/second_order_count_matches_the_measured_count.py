"""How many orthogonal vectors have an effect is what the effect's second-order spectrum allows.

Source: the Schur-Horn count from the Hessian of the effect at 0; decisive experiment D5.
Prediction: the number of orthogonal vectors below a norm cap with at least half of the base's effect agrees within a
    factor 2 with the count that gradient and Hessian at 0 allow.
Control: the same search on the second-order expansion itself; where it does not reach the count either, the search and
    not the model is at fault.
Refuted if: the interval of |log2(measured / predicted)| lies above 1: second order at 0 does not explain the number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import Bench, Ranking, at_most, column, interval_of, of
from mi_ortho import (
    ActivationMap,
    Feasible,
    Lbfgs,
    Subspace,
    Verdict,
    displace,
    effect_hessian,
    melbo,
    minimise,
    random_vectors,
    second_order_count,
)
from mi_ortho.viz import Estimate

SHARE = 0.5  # of the base's effect that a vector must have
FACTOR = 1.0  # of two, as a logarithm
Effect = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Config:
    """Where to steer, the base's norm, the caps as multiples of it, and the largest count looked for."""

    model: str | None = None
    source: int = 3
    target: int = 6
    radius: float = 5.0
    caps: tuple[float, ...] = (1.0, 1.5)
    limit: int = 40
    prompts: int = 4
    seed: int = 0


SMOKE = Config(caps=(1.0,), limit=6, prompts=2)


def run(config: Config, bench: Bench) -> None:
    """One row for each prompt and norm cap."""
    bench.require_layers(config.source, config.target)
    for index, text in enumerate(bench.texts(config.prompts)):
        z = bench.map((text,), config.source, config.target)
        for cap in config.caps:
            if not bench.has(prompt=index, cap=cap):
                stream = bench.generator(config.seed * 1009 + index)
                base = melbo(displace(z), radius=config.radius, generator=stream, max_steps=10)[0].vector
                bench.record(prompt=index, cap=cap, **examine(effect_of(z, base), base, cap, config.limit, stream))
        bench.track("prompt", index + 1, config.prompts)


def effect_of(z: ActivationMap, base: Tensor) -> Effect:
    """theta to its share of the base's effect: <z(theta) - z(0), z(base) - z(0)> / |z(base) - z(0)|^2."""
    with torch.no_grad():
        origin = z(torch.zeros_like(base)[None]).flatten(1)
        change = z(base[None]).flatten(1)[0] - origin[0]
    return lambda theta: (z(theta).flatten(1) - origin) @ change / change.square().sum()


def examine(effect: Effect, base: Tensor, cap: float, limit: int, generator: torch.Generator) -> dict[str, float]:
    """Counts below a cap of `cap` times the base's norm: predicted, found on the map, found on its expansion."""
    norm, origin = cap * float(base.norm()), torch.zeros_like(base)
    hessian = effect_hessian(effect, origin)
    start = origin[None].requires_grad_()
    (gradient,) = torch.autograd.grad(effect(start).sum(), start)
    predicted = second_order_count(torch.linalg.eigvalsh(hessian) / 2, float(gradient.norm()), norm, SHARE)

    def expansion(theta: Tensor) -> Tensor:
        return theta @ gradient[0] + (theta @ hessian * theta).sum(-1) / 2

    return {"predicted": min(predicted, limit), "measured": count(effect, len(base), norm, limit, generator),
            "expansion": count(expansion, len(base), norm, limit, generator)}  # fmt: skip


def count(effect: Effect, width: int, norm: float, limit: int, generator: torch.Generator) -> int:
    """How many orthogonal vectors with enough effect a search finds, one after the other, none stronger than needed.

    A vector that takes more than its share leaves less for the rest, so the loss ends where the effect suffices.
    """

    def lacking(theta: Tensor) -> Tensor:
        return (1.02 * SHARE - effect(theta)).clamp_min(0).square()

    avoid = Subspace(torch.zeros(0, width))
    while len(avoid) < min(limit, width):
        starts = random_vectors(4, width, norm, generator)
        results = minimise(lacking, starts, Feasible(avoid, max_norm=norm), Lbfgs(max_steps=30, scale=norm))
        best = min(results, key=lambda result: result.loss).vector
        with torch.no_grad():
            if float(effect(best[None])) < SHARE:
                break
        avoid = avoid.extend(best[None])
    return len(avoid)


def distances(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """|log2| of one count over the predicted one, both plus one so that 0 is a count too."""
    return [abs(log2((row[name] + 1) / (row["predicted"] + 1))) for row in rows]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The count against the second-order one, over prompts and caps."""
    return [at_most("The number of orthogonal vectors with half of the effect is that of the second-order spectrum",
                    "measured and predicted counts within a factor 2", "|log2((measured + 1) / (predicted + 1))|",
                    distances(rows, "measured"), FACTOR, distances(rows, "expansion"))]  # fmt: skip


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """The three counts at each cap."""
    found = []
    names = (("measured", "found on the model", "value"), ("predicted", "second-order bound", "control"),
             ("expansion", "found on the expansion", "control"))  # fmt: skip
    for cap in dict.fromkeys(row["cap"] for row in rows):
        for name, label, style in names:
            values = column(of(rows, cap=cap), name)
            found.append(Estimate(f"cap {cap:g} x base: {label}", fmean(values), interval_of(values), style))
    caption = "Orthogonal vectors with at least half of the base's effect below a norm cap; means over prompts."
    return [Ranking("Counts below a norm cap", caption, tuple(found), unit="vectors")]
