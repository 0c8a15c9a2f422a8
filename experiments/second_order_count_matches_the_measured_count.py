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

from experiments.lab import DEMO, Bench, Ranking, at_most, column, interval_of, needs, pick
from mi_ortho import ActivationMap, Lbfgs, Subspace, Verdict, displace, melbo
from mi_ortho.derivatives import effect_hessian, pullback
from mi_ortho.elicitation import Feasible, minimise
from mi_ortho.nulls import second_order_count
from mi_ortho.pages import Estimate
from mi_ortho.stats import POSITIVE_SCALE

SHARE = 0.5  # of the base's effect that a vector must have
FACTOR = 1.0  # of two, as a logarithm
Effect = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Config:
    """Where to steer, the base's norm, the caps as multiples of it, and the largest count looked for."""

    model: str | None = None
    source: int = DEMO["source"]
    target: int = DEMO["target"]
    radius: float = DEMO["radius"]
    caps: tuple[float, ...] = (1.0, 1.5)
    limit: int = 40
    prompts: int = 4
    seed: int = 0


SMOKE = Config(caps=(1.0,), limit=6, prompts=2)
NEEDS = (needs.blocks("source", "target"), needs.prompts(lambda config: config.prompts))


def run(config: Config, bench: Bench) -> None:
    """One row for each prompt and norm cap."""
    bench.require_layers(config.source, config.target)
    for index, text in enumerate(bench.texts(config.prompts)):
        z = bench.map((text,), config.source, config.target)
        for cap in config.caps:
            if not bench.has(prompt=index, cap=cap):
                stream = bench.generator(config.seed * 1009 + index)
                base = melbo(displace(z), radius=config.radius, generator=stream, max_steps=10)[0].vector
                bench.record(prompt=index, cap=cap, **examine(effect_of(z, base), base, cap, config.limit))
        bench.track("prompt", index + 1, config.prompts)


def effect_of(z: ActivationMap, base: Tensor) -> Effect:
    """theta to its share of the base's effect: <z(theta) - z(0), z(base) - z(0)> / |z(base) - z(0)|^2."""
    with torch.no_grad():
        origin = z(torch.zeros_like(base)[None]).flatten(1)
        change = z(base[None]).flatten(1)[0] - origin[0]
    return lambda theta: (z(theta).flatten(1) - origin) @ change / change.square().sum()


def examine(effect: Effect, base: Tensor, cap: float, limit: int) -> dict[str, float]:
    """Counts below a cap of `cap` times the base's norm: predicted, found on the map, found on its expansion."""
    norm, origin = cap * float(base.norm()), torch.zeros_like(base)
    hessian = effect_hessian(effect, origin)
    gradient = pullback(effect, origin, torch.ones(1, 1).to(base))[0]
    predicted = second_order_count(torch.linalg.eigvalsh(hessian) / 2, float(gradient.norm()), norm, SHARE)

    def expansion(theta: Tensor) -> Tensor:
        return theta @ gradient + (theta @ hessian * theta).sum(-1) / 2

    first = torch.stack([base, gradient])
    return {
        "limit": limit,
        "predicted": min(predicted, limit),
        "measured": count(effect, first, hessian, norm, limit),
        "expansion": count(expansion, first, hessian, norm, limit),
    }


def count(effect: Effect, hints: Tensor, hessian: Tensor, norm: float, limit: int) -> int:
    """How many orthogonal vectors of one norm with enough effect are found, one after the other.

    A vector with more effect than it needs leaves less for the rest. So each is a strong direction turned, at full
    norm, as far towards a weak one as the effect allows, as in the construction that reaches the Schur-Horn count;
    where no strong direction has enough effect, a search from them decides.
    """
    avoid, width = Subspace(hints.new_zeros(0, hints.shape[1])), hints.shape[1]
    while len(avoid) < min(limit, width - 2):
        strong, weak = pairs(avoid, hints, hessian)
        with torch.no_grad():
            turned = furthest(effect, strong, weak, norm)
        vector = strongest(effect, norm * strong, avoid, norm) if turned is None else turned
        if vector is None:
            break
        avoid = avoid.extend(vector[None])
    return len(avoid)


def pairs(avoid: Subspace, hints: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors outside `avoid`, row by row orthogonal: strong directions, and a weak one for each."""
    outside = torch.linalg.svd(avoid.basis, full_matrices=True).Vh[len(avoid) :]
    values, turned = torch.linalg.eigh(outside @ hessian @ outside.mT)
    directions = turned.mT @ outside
    strong = torch.cat([directions[-2:], -directions[-2:], avoid.reject(hints)])
    strong = torch.nn.functional.normalize(strong[strong.norm(dim=-1) > 1e-6], dim=-1)
    weak = directions[values[:-2].abs().argmin()].expand_as(strong)
    weak = weak - (weak * strong).sum(-1, keepdim=True) * strong
    return strong, torch.nn.functional.normalize(weak, dim=-1)


def furthest(effect: Effect, strong: Tensor, weak: Tensor, norm: float) -> Tensor | None:
    """The pair that can be turned furthest towards its weak direction with enough effect; None where none has it."""

    def at(angles: Tensor) -> Tensor:
        return norm * (angles.cos()[:, None] * strong + angles.sin()[:, None] * weak)

    grid = torch.linspace(0, torch.pi / 2, 25).to(strong)
    enough = torch.stack([effect(at(angle.expand(len(strong)))) >= SHARE for angle in grid])
    low = torch.stack([grid * column for column in enough.mT]).max(-1).values
    high = low + grid[1]
    for _ in range(12):
        middle = (low + high) / 2
        good = effect(at(middle)) >= SHARE
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    best = torch.where(enough.any(0), low, -1.0).argmax()
    return at(low)[best] if bool(enough.any()) else None


def strongest(effect: Effect, starts: Tensor, avoid: Subspace, norm: float) -> Tensor | None:
    """The vector of one norm with the largest effect that a search from some starts finds; None below the share."""
    sphere = Feasible(avoid, min_norm=norm, max_norm=norm)
    # aimed above the share: a search for it ends a rounding error below it
    results = minimise(
        lambda theta: (1.05 * SHARE - effect(theta)).clamp_min(0).square(), starts, sphere, Lbfgs(scale=norm)
    )
    vectors = torch.stack([result.vector for result in results])
    with torch.no_grad():
        values = effect(vectors)
    return vectors[values.argmax()] if float(values.max()) >= SHARE else None


def distances(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """|log2| of one count over the predicted one, one added to both so that 0 has a logarithm."""
    return [abs(log2((row[name] + 1) / (row["predicted"] + 1))) for row in rows]


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The count against the second-order one, over prompts and caps, where counting ended by itself."""
    whole = [row for row in rows if max(row["measured"], row["predicted"]) < row.get("limit", Config.limit)]
    failed = f"every one of {len(rows)} counts had reached the limit of the search" if rows and not whole else ""
    return [
        at_most(
            "The number of orthogonal vectors with half of the effect is that of the second-order spectrum",
            "measured and predicted counts within a factor 2",
            "|log2((measured + 1) / (predicted + 1))|",
            distances(whole, "measured"),
            FACTOR,
            distances(whole, "expansion"),
            scale=POSITIVE_SCALE,
            clusters=[row["prompt"] for row in whole],
            failed=failed,
        )
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """The three counts at each cap."""
    estimates = []
    names = (
        ("measured", "found on the model", "value"),
        ("predicted", "second-order bound", "control"),
        ("expansion", "found on the expansion", "control"),
    )
    for cap in dict.fromkeys(row["cap"] for row in rows):
        for name, label, style in names:
            values = column(pick(rows, cap=cap), name)
            estimates.append(Estimate(f"cap {cap:g} x base: {label}", fmean(values), interval_of(values), style))
    caption = "Orthogonal vectors with at least half of the base's effect below a norm cap; means over prompts."
    return [Ranking("Counts below a norm cap", caption, tuple(estimates), unit="vectors")]
