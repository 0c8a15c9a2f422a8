"""Correct factors change behaviour more often than those of the published linear and quadratic code.

Source: deep causal transcoding, whose published linear method takes columns of the matrix whose rows are the singular
    directions, and whose quadratic method never takes a second derivative; it ranks exponential above both.
Prediction: over prompts not searched on, the share of completions turned into another known behaviour is at least 0.1
    higher with correct linear factors than with the published columns; exponential factors are at least as good as
    linear ones, and quadratic ones at least as good as the published quadratic ones.
Control: random orthonormal directions of the same norm.
Refuted if: the interval of the first difference lies below 0.1, or those of the others below 0.
Changed after a first run: 12 new seeds instead of 4, since the first run left intervals too wide to decide. The
    thresholds were not changed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab import DEMO, Bench, Ranking, at_least, column, interval_of, needs, random_order
from mi_ortho import ActivationMap, Verdict, random_vectors, resid_post
from mi_ortho.dct import (
    Factors,
    exponential_dct,
    linear_dct,
    projected_linear_dct,
    published_linear_dct,
    published_quadratic_dct,
    quadratic_dct,
)
from mi_ortho.interventions import orthonormal_rows
from mi_ortho.pages import Estimate
from mi_ortho.steering import Setting, complete, unsteered_completions

BETTER = 0.1
METHODS: Mapping[str, Callable[..., Factors]] = {
    "linear": linear_dct,
    "projected linear": projected_linear_dct,
    "quadratic": quadratic_dct,
    "exponential": exponential_dct,
    "published linear": published_linear_dct,
    "published quadratic": published_quadratic_dct,
}


@dataclass(frozen=True)
class Config:
    """Where to steer, at which norm, factors a method, prompts a seed, and prompts and tokens of the score."""

    model: str | None = None
    source: int = DEMO["source"]
    target: int = DEMO["target"]
    radius: float = DEMO["radius"]
    k: int = 12
    train: int = 2
    held_out: int = 4
    tokens: int = 16
    seeds: tuple[int, ...] = tuple(range(4, 16))


SMOKE = Config(k=2, train=1, held_out=1, tokens=8, seeds=(0, 1))
NEEDS = (needs.blocks("source", "target"), needs.prompts(lambda config: config.train + config.held_out))


def run(config: Config, bench: Bench) -> None:
    """One row for each seed, which draws the prompts searched on and the starts."""
    bench.require_layers(config.source, config.target)
    texts = bench.texts(config.train + config.held_out)
    for seed in config.seeds:
        if not bench.has(seed=seed):
            stream = bench.generator(seed)
            order = random_order(len(texts), stream).tolist()
            train, rest = (tuple(texts[i] for i in part) for part in (order[: config.train], order[config.train :]))
            z = bench.map(train, config.source, config.target, readout=3)
            bench.record(seed=seed, **examine(z, config.k, config.radius, stream, turned(config, bench, rest)))
        bench.track("seed", config.seeds.index(seed) + 1, len(config.seeds))


def turned(config: Config, bench: Bench, texts: tuple[str, ...]) -> Callable[[Tensor], float]:
    """Vectors to the share of completions that show a known behaviour other than the prompt's unsteered one."""
    subject = bench.subject
    setting = Setting(subject.model, resid_post(config.source), "all", subject.modes, max_new_tokens=config.tokens)
    plain = [done.mode for done in unsteered_completions(setting, texts, bench.width, subject.device)]

    def share(vectors: Tensor) -> float:
        rows = complete(setting, texts, torch.cat([vectors, -vectors]))
        return fmean(
            one.mode != mode and one.mode in subject.modes.behaviours for row in rows for one, mode in zip(row, plain)
        )

    return share


def examine(
    z: ActivationMap, k: int, radius: float, generator: torch.Generator, score: Callable[[Tensor], float]
) -> dict[str, float]:
    """The score of k factors of every method and of k random orthonormal directions, all of norm `radius`."""
    factors = {name: method(z, k, radius=radius, generator=generator).vectors for name, method in METHODS.items()}
    factors["random"] = radius * orthonormal_rows(random_vectors(k, z.d_model, 1.0, generator))
    return {name: score(vectors) for name, vectors in factors.items()}


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Three differences, paired by seed."""
    random = column(rows, "random")

    def difference(one: str, other: str) -> list[float]:
        return [row[one] - row[other] for row in rows]

    statistic = "difference of the shares of completions turned into another behaviour, one value a seed"
    return [
        at_least(
            "Correct linear factors beat the published columns",
            f"share at least {BETTER} higher",
            statistic,
            difference("linear", "published linear"),
            BETTER,
            random,
        ),
        at_least(
            "Exponential factors are at least as good as linear ones",
            "share at least as high",
            statistic,
            difference("exponential", "linear"),
            0.0,
            random,
        ),
        at_least(
            "True second derivatives are at least as good as the published quadratic method",
            "share at least as high",
            statistic,
            difference("quadratic", "published quadratic"),
            0.0,
            random,
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """The share of every method."""
    estimates = []
    for name in (*METHODS, "random"):
        values = column(rows, name)
        style = "control" if name == "random" or name.startswith("published") else "value"
        estimates.append(Estimate(name, fmean(values), interval_of(values), style))
    caption = (
        "Share of completions on held-out prompts that turn into another known behaviour; means over seeds; rings: "
    )
    caption += "published variants and random directions."
    return [Ranking("Behaviour changed by the factors of each method", caption, tuple(estimates), unit="share")]
