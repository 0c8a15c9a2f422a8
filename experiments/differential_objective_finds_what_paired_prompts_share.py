"""Searching for the difference between paired prompts finds vectors that act on one side only.

Source: comment on deep causal transcoding that proposes a differential objective ("truth serum") and expects many
    variants to beat their average.
Prediction: on pairs not searched on, vectors found with the difference of the two sides' effects act on the first side
    at least 0.1 more than on the second (log ratio of displacements) compared with those found on the first side alone;
    and the variant that is best on the training pairs beats the normalised average of all on the others.
Control: random vectors of the same norm.
Refuted if: the interval of the gain lies below 0.1, or that of best minus average lies below 0.
Changed after a first run: 12 new seeds instead of 5, since the first run left intervals too wide to decide. The
    thresholds were not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import DEMO, Bench, Ranking, at_least, column, interval_of, needs, random_order
from mi_ortho import ActivationMap, FunctionMap, Verdict, displace, melbo, random_vectors
from mi_ortho.nulls import with_norms
from mi_ortho.pages import Estimate

GAIN = 0.1
NAMES = {
    "differential": "found on the difference",
    "plain": "found on the first side",
    "random": "random",
    "best": "best of the differential ones",
    "average": "average of the differential ones",
}


@dataclass(frozen=True)
class Config:
    """Where to steer, at which norm, which two lists of prompts make the pairs, and how many of them."""

    model: str | None = None
    source: int = DEMO["source"]
    target: int = DEMO["target"]
    radius: float = DEMO["radius"]
    first: str = "harmful"
    second: str = "benign"
    train: int = 3
    held_out: int = 5
    variants: int = 8
    seeds: tuple[int, ...] = tuple(range(5, 17))


SMOKE = Config(train=2, held_out=2, variants=3, seeds=(0, 1))
NEEDS = (
    needs.blocks("source", "target"),
    needs.prompts(lambda config: config.train + config.held_out, "first", "second"),
)


def run(config: Config, bench: Bench) -> None:
    """One row for each seed: it draws the pairs, their split, and the starts."""
    bench.require_layers(config.source, config.target)
    count = config.train + config.held_out
    sides = [bench.texts(count, name) for name in (config.first, config.second)]
    for seed in config.seeds:
        if not bench.has(seed=seed):
            stream = bench.generator(seed)
            orders = [random_order(count, stream).tolist() for _ in sides]
            maps = [
                [
                    bench.map(tuple(texts[i] for i in order[part]), config.source, config.target, readout=1)
                    for texts, order in zip(sides, orders)
                ]
                for part in (slice(config.train), slice(config.train, None))
            ]
            (first, second), (third, fourth) = maps
            bench.record(seed=seed, **examine(first, second, third, fourth, config.radius, config.variants, stream))
        bench.track("seed", config.seeds.index(seed) + 1, len(config.seeds))


def examine(
    first: ActivationMap,
    second: ActivationMap,
    first_held_out: ActivationMap,
    second_held_out: ActivationMap,
    radius: float,
    variants: int,
    generator: torch.Generator,
) -> dict[str, float]:
    """Mean log ratio of displacements on held-out pairs: differential, plain and random vectors, best and average."""
    width = first.d_model
    both = FunctionMap(lambda theta: first(theta) - second(theta), width)
    families = {
        name: torch.stack(
            [one.vector for one in melbo(displace(z), radius=radius, n=variants, generator=generator, max_steps=10)]
        )
        for name, z in (("differential", both), ("plain", first))
    }
    families["random"] = random_vectors(variants, width, radius, generator)
    turned = {name: facing(first, second, vectors) for name, vectors in families.items()}
    differential = turned["differential"]
    best = differential[specificity(first, second, differential).argmax()][None]
    average = with_norms(differential.mean(0, keepdim=True), torch.full((1,), radius))
    return {
        name: float(specificity(first_held_out, second_held_out, vectors).mean())
        for name, vectors in {**turned, "best": best, "average": average}.items()
    }


def facing(first: ActivationMap, second: ActivationMap, vectors: Tensor) -> Tensor:
    """Each vector or its negative, whichever acts more on the first side: displacement leaves the sign open."""
    better = specificity(first, second, vectors) >= specificity(first, second, -vectors)
    return torch.where(better[:, None], vectors, -vectors)


@torch.no_grad()
def specificity(first: ActivationMap, second: ActivationMap, vectors: Tensor) -> Tensor:
    """log |z(theta) - z(0)| on the first side minus that on the second, one value a vector."""
    origin = torch.zeros_like(vectors[:1])
    one, two = ((z(vectors) - z(origin)).flatten(1).norm(dim=-1) for z in (first, second))
    return (one / two).log()


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The gain of the differential objective, and its best variant against their average."""
    random = column(rows, "random")
    return [
        at_least(
            "Vectors found on the difference act more on one side, also on unseen pairs",
            f"log ratio of displacements at least {GAIN} above that of vectors found on the first side",
            "differential minus plain, held-out pairs, one value a seed",
            [row["differential"] - row["plain"] for row in rows],
            GAIN,
            random,
        ),
        at_least(
            "The best variant beats the average of all",
            "log ratio on unseen pairs at least that of the average",
            "best on the training pairs minus normalised average, held-out pairs, one value a seed",
            [row["best"] - row["average"] for row in rows],
            0.0,
            random,
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """The log ratio of every kind of vector."""
    columns = {name: column(rows, name) for name in NAMES}
    styles = {"random": "control", "plain": "control"}
    estimates = [
        Estimate(NAMES[name], fmean(values), interval_of(values), styles.get(name, "value"))
        for name, values in columns.items()
    ]
    caption = "Log ratio of displacements on held-out pairs, first side over second; 0 acts alike; means over seeds."
    return [Ranking("Acting on one side of paired prompts", caption, tuple(estimates), 0.0, "log ratio")]
