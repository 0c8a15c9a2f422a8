"""Many input directions share few effects: the outputs of factors span less than their inputs.

Source: comment on deep causal transcoding about its multiplicity analysis: multiplicity of outputs against that of
    inputs of exponential factors.
Prediction: the effective rank of the effects of exponential factors, found with the published iteration, whose inputs
    are not orthonormal, is at most 0.75 times that of the inputs.
Control: random families of the same size and mean |cosine|, and their effects: the map alone may squash any family.
Refuted if: the interval of the ratio lies above 0.75, or random families lose as much.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import DEMO, Bench, Ranking, at_least, at_most, column, interval_of, needs, random_order
from mi_ortho import ActivationMap, Verdict
from mi_ortho.dct import published_exponential_dct
from mi_ortho.multiplicity import multiplicity_of
from mi_ortho.nulls import random_cone
from mi_ortho.pages import Estimate

RATIO = 0.75


@dataclass(frozen=True)
class Config:
    """Where to steer, at which norm, factors a seed, iterations, prompts searched on."""

    model: str | None = None
    source: int = DEMO["source"]
    target: int = DEMO["target"]
    radius: float = DEMO["radius"]
    k: int = 24
    steps: int = 6
    prompts: int = 2
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)


SMOKE = Config(k=6, steps=2, prompts=1, seeds=(0, 1))
NEEDS = (needs.blocks("source", "target"), needs.prompts(lambda config: max(8, config.prompts)))


def run(config: Config, bench: Bench) -> None:
    """One row for each seed, which draws the prompts and the starts."""
    bench.require_layers(config.source, config.target)
    texts = bench.texts(max(8, config.prompts))
    for seed in config.seeds:
        if not bench.has(seed=seed):
            stream = bench.generator(seed)
            prompts = tuple(texts[i] for i in random_order(len(texts), stream).tolist()[: config.prompts])
            z = bench.map(prompts, config.source, config.target, readout=3)
            factors = published_exponential_dct(z, config.k, radius=config.radius, generator=stream, steps=config.steps)
            bench.record(seed=seed, **examine(z, factors.inputs, config.radius, stream))
        bench.track("seed", config.seeds.index(seed) + 1, len(config.seeds))


def examine(z: ActivationMap, inputs: Tensor, radius: float, generator: torch.Generator) -> dict[str, float]:
    """Effective rank and mean |cosine| of inputs and of their effects, and the same ratio for a random family."""
    first = multiplicity_of(inputs)
    random = random_cone(len(inputs), inputs.shape[1], first.mean_cosine, generator).to(inputs)
    other, effects, null = (
        multiplicity_of(one) for one in (random, change(z, radius * inputs), change(z, radius * random))
    )
    return {
        "input_rank": first.effective_rank,
        "output_rank": effects.effective_rank,
        "input_cosine": first.mean_cosine,
        "output_cosine": effects.mean_cosine,
        "ratio": effects.effective_rank / first.effective_rank,
        "random_ratio": null.effective_rank / other.effective_rank,
    }


@torch.no_grad()
def change(z: ActivationMap, vectors: Tensor) -> Tensor:
    """z(theta) - z(0), one flat row a vector."""
    return (z(vectors) - z(torch.zeros_like(vectors[:1]))).flatten(1)


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The ratio of effective ranks, and against random families."""
    ratios, random = column(rows, "ratio"), column(rows, "random_ratio")
    return [
        at_most(
            "The effects of factors span less than the factors",
            f"effective rank at most {RATIO} times",
            "effective rank of outputs over that of inputs, one value a seed",
            ratios,
            RATIO,
            random,
        ),
        at_least(
            "They lose more than random families of that spread",
            "ratio below that of random families",
            "ratio of random families minus ratio of factors, paired by seed",
            [b - a for a, b in zip(ratios, random)],
            0.0,
            random,
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """The ratios, and what they are made of."""
    names = {"ratio": ("factors", "value"), "random_ratio": ("random families", "control")}
    estimates = [
        Estimate(label, fmean(column(rows, name)), interval_of(column(rows, name)), style)
        for name, (label, style) in names.items()
    ]
    caption = "Effective rank of the effects over that of the input directions; means over seeds; dashed: threshold."
    return [Ranking("How much effects repeat", caption, tuple(estimates), RATIO, "ratio of effective ranks")]
